/**
 * Invariant: any definition of a queue gives one or a ConfigError on one line; what was accepted reads back as the same from its text
 * form, and so does the queue for its dead items.
 */
import fc from "fast-check";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import { ConfigError } from "../../src/core/errors.ts";
import { ATTRIBUTE_NAMES, deadDefinition, formatDefinition, parseDefinition } from "../../src/queue/definition.ts";
import { must, type Target } from "./target.ts";

function run(text: string): string[] {
  try {
    const definition = parseDefinition(text);
    for (const one of [definition, deadDefinition(definition)]) {
      const written = formatDefinition(one);
      const again = parseDefinition(written);
      must(Bun.deepEquals(again, one), `${written} reads ${JSON.stringify(again)}, it was ${JSON.stringify(one)}`);
    }
    return ["accepted", `${definition.store} ${definition.addmode}`];
  } catch (cause) {
    if (!(cause instanceof ConfigError)) throw cause;
    must(!/[\r\n]/.test(cause.message), `an error of several lines: ${JSON.stringify(cause.message)}`);
    return [`${cause.code} ${cause.option.slice(0, 24).replace(/[^a-z_ ]/gi, "")}`.slice(0, 48)];
  }
}

const value = fc.oneof(
  fc.constantFrom(
    "lab",
    "a.b-c_d",
    "0",
    "1",
    "2",
    "3",
    "100",
    "64k",
    "1g",
    "1s",
    "5m",
    "-1",
    "1e3",
    "",
    " ",
    "ж",
    "\n",
  ),
  fc.constantFrom(
    "all",
    "oldest",
    "newest",
    "in-place",
    "drop-oldest",
    "reject",
    "wait",
    "drop-newest",
    "memory",
    "disk",
  ),
  fc.nat().map(String),
  fc.string({ maxLength: 8 }),
);
const attribute = fc
  .tuple(
    fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...ATTRIBUTE_NAMES) }, { weight: 1, arbitrary: fc.string() }),
    value,
  )
  .map(([name, text]) => `${name}=${text}`);
const named = fc
  .tuple(fc.constantFrom("name=lab", "name=a.dead", "name=", ""), fc.array(attribute, { maxLength: 5 }))
  .map(([name, rest]) => [name, ...rest].join(";"));

export const definition: Target<string> = {
  name: "definition",
  inputs: () =>
    fc.oneof({ weight: 8, arbitrary: named }, { weight: 1, arbitrary: value }, { weight: 1, arbitrary: fc.string() }),
  run,
  seedOf: (text) => encodeUtf8(text),
};
