/**
 * Invariant: no body makes a name of a handler that is more than a file name, or a change of a body that loses anything of it: what was
 * put in is the only difference. What looks into JSON finds what the engine's parser finds. Any text is a subscription, or a UsageError
 * on one line.
 */
import fc from "fast-check";
import { contentTypeOf } from "../../src/amqp/content.ts";
import { eventNames, NAME_CHARS_MAX } from "../../src/amqp/dispatch.ts";
import { incoming, memberOf, outgoing } from "../../src/amqp/kazoo.ts";
import { parseSubscription } from "../../src/amqp/subscribe.ts";
import { UsageError } from "../../src/core/errors.ts";
import { JsonValue, jsonCount, jsonKeys } from "../../src/core/json-path.ts";
import { anyText } from "../helpers/texts.ts";
import { must, type Pool, type Target } from "./target.ts";

const IDENTITY = { appName: "dmq", appVersion: "1", node: "dmq@h" };
const MESSAGE = { messageId: "m", key: "k" };
const RECEIPT = { zone: "z", broker: 1, receivedS: 7 };
const OWN = ["App-Name", "App-Version", "Node", "Msg-ID", "Server-ID", "AMQP-Broker-Zone", "AMQP-Received"];

interface Input {
  body: Uint8Array;
  path: string;
}

function run({ body, path }: Input): string[] {
  const names = eventNames(body, path === "" ? {} : { key: path, subkey: `.${path}` });
  for (const name of names)
    must(
      /^consumer-event(-[a-z0-9.-]+)?$/.test(name) && name.length <= NAME_CHARS_MAX,
      `a name: ${JSON.stringify(name)}`,
    );
  const type = contentTypeOf(body);
  const text = new TextDecoder().decode(body);
  return [type, `${names.length} names`, ...changed(body, type), found(text, path), subscribed(text)];
}

/** All that was there is there, as it was written. */
function changed(body: Uint8Array, type: string): string[] {
  const sent = outgoing(body, IDENTITY, MESSAGE);
  const handled = incoming(body, RECEIPT);
  must((sent === undefined) === (handled === body), "one of the two takes it for an object, the other does not");
  if (sent === undefined) return ["no object"];
  must(type === "application/json", `an object that is ${type}`);
  for (const changed of [sent, handled]) {
    must(contentTypeOf(changed) === type, "a change that is no JSON");
    must(same(body, changed), "a change that loses something");
  }
  must(memberOf(sent, "Msg-ID") !== undefined || memberOf(body, "Msg-ID") === undefined, "Msg-ID is gone");
  return [sent === body ? "nothing missing" : "put in"];
}

function same(before: Uint8Array, after: Uint8Array): boolean {
  const [was, is] = [before, after].map((octets) =>
    [...(JsonValue.read(new TextDecoder().decode(octets)) as JsonValue).members()]
      .filter(([name]) => !OWN.includes(name))
      .map(([name, value]) => `${JSON.stringify(name)}:${value.source}`)
      .join(),
  );
  return was === is;
}

function found(text: string, path: string): string {
  const value = JsonValue.read(text);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    must(value === undefined && jsonCount(text, path) === undefined, "no JSON, and it was read");
    return "no JSON";
  }
  must(value !== undefined, "JSON that was not read");
  must(Bun.deepEquals(JSON.parse(value.source), parsed), "another value than the parser's");
  const keys = jsonKeys(text, "");
  const isObject = typeof parsed === "object" && parsed !== null && !Array.isArray(parsed);
  must(isObject === (keys !== undefined), "keys of what is no object");
  if (isObject)
    must(
      Bun.deepEquals([...(keys ?? [])].sort(), Object.keys(parsed as object).sort()),
      "other keys than the parser's",
    );
  must(jsonCount(text, "") === (Array.isArray(parsed) ? parsed.length : 0), "another length than the parser's");
  return `${value.kind}, ${value.at(path)?.kind ?? "nothing"} inside`;
}

const REFUSALS = ["unknown name", "got", "expected", "JSON"];

function subscribed(text: string): string {
  try {
    return `subscription ${parseSubscription(text).ack}`;
  } catch (cause) {
    if (!(cause instanceof UsageError)) throw cause;
    must(/^[^\r\n]{1,2000}$/.test(cause.message), `an error of ${cause.message.length} characters`);
    // Not the text: names of the input are in it, and outcomes are counted by their text.
    return `no subscription: ${REFUSALS.find((words) => cause.message.includes(words)) ?? "otherwise"}`;
  }
}

const WORDS = [
  ...OWN,
  ...[
    "Event-Category",
    "Event-Name",
    "exchange",
    "type",
    "queue",
    "routing",
    "durable",
    "queue-def",
    "exchange-bindings",
  ],
  ...["no_ack", "../x", "", "a.b", "__proto__"],
];
const word = fc.oneof(fc.constantFrom(...WORDS), anyText(12));
const leaf = fc.oneof(
  word,
  fc.constantFrom<unknown>(0, 1, true, null, "topic", ["a"], 1e21),
  fc.jsonValue({ maxDepth: 2 }),
);
const object = fc.dictionary(word, fc.oneof(leaf, fc.dictionary(word, leaf, { maxKeys: 4 })), { maxKeys: 8 });
const written = fc
  .tuple(object, fc.constantFrom(undefined, 1, "\t"))
  .map(([value, indent]) => new TextEncoder().encode(JSON.stringify(value, null, indent)));

/** Octets of one with a piece taken out, doubled or put in. */
function mutated(pool: Pool): fc.Arbitrary<Uint8Array> {
  return fc
    .tuple(fc.nat(), fc.nat(), fc.nat({ max: 8 }), fc.uint8Array({ maxLength: 8 }))
    .map(([index, at, cut, put]) => {
      const octets = pool.at(index);
      const place = octets.length === 0 ? 0 : at % octets.length;
      return Uint8Array.from([...octets.subarray(0, place), ...put, ...octets.subarray(place + cut)]);
    });
}

const path = fc
  .array(fc.oneof(word, fc.constantFrom("a[0]", "[1]", "x%y")), { maxLength: 3 })
  .map((parts) => parts.join("."));

export const amqp: Target<Input> = {
  name: "amqp",
  inputs: (pool) => fc.record({ body: fc.oneof(written, mutated(pool), fc.uint8Array()), path }),
  run,
  seedOf: ({ body }) => body,
};

export const AMQP_BODIES: readonly Uint8Array[] = [
  '{"Event-Category":"presence","Event-Name":"update","Msg-ID":"1","Server-ID":"kz@h-1","n":18446744073709551615}',
  '{"exchange":"e","type":"topic","queue":"q","routing":["a","b"],"no_ack":0,"queue-def":{"durable":1}}',
  '{"AMQP-Received" : 1 , "AMQP-Received":2, "a":[[],{}, "\\u0000\\""] }',
].map((text) => new TextEncoder().encode(text));
