/** `dmq json`: kazoo_json and its kin for shells, over standard input. What is printed is how it stands there, never printed anew. */

import { strictUtf8 } from "../core/bytes.ts";
import { UsageError } from "../core/errors.ts";
import { JSON_PATH_ESCAPE, JsonValue } from "../core/json-path.ts";
import { choose } from "./choice.ts";
import { type Arguments, type CommandSpec, quoted } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import { printable, writeJson } from "./output.ts";

const ACTIONS = ["get", "keys", "count"] as const;

export const json: CommandSpec = {
  name: "json",
  summary: "look into a JSON text on standard input, as Kamailio's kazoo_json",
  examples: [
    [
      "dmq json get Caller.Number <call.json",
      "the text of a string; numbers, objects and arrays as they are written there",
    ],
    ["dmq json get 'Custom%Data.items[0]' <call.json", "% is a dot inside a name, [0] the first element"],
    ["dmq json keys Custom-Channel-Vars <call.json", "names of an object's members, a line each"],
    ["dmq json count items <call.json", "length of an array, 0 for everything else"],
  ],
  positionals: [
    { name: "get|keys|count", required: true, choices: ACTIONS, help: "what to do" },
    { name: "PATH", required: false, help: "names separated by dots; without it the whole text is meant" },
  ],
  options: [
    {
      flag: "escape",
      value: "CHAR",
      help: `stands for a dot inside a name (${JSON_PATH_ESCAPE}), as kazoo's json_escape_char`,
    },
    { flag: "json", help: "of get: strings as JSON, and null; of keys: an array" },
  ],
  notes: ["A member that is null counts as none for get without --json: kazoo does not tell them apart."],
  exits: [
    [EXIT.ok, "printed"],
    [EXIT.no, "get: there is nothing, or null; keys: there is no object"],
    [EXIT.usage, "usage; standard input is no JSON"],
  ],
  seeAlso: ["dmq amqp", "dmq queue"],
  async run(context, args) {
    const [action, path = ""] = args.positionals as [string, string?];
    const chosen = choose("action", action, ACTIONS);
    const found = (await readJson(context)).at(path, readEscape(args));
    if (chosen === "get") return get(context, args, found);
    if (chosen === "keys") return keys(context, args, found);
    context.stdout(`${[...(found?.elements() ?? [])].length}\n`);
    return EXIT.ok;
  },
};

async function readJson(context: CliContext): Promise<JsonValue> {
  const text = strictUtf8(await context.stdin());
  if (text === undefined) throw new UsageError("standard input is no JSON: it has octets that are no UTF-8");
  const value = JsonValue.read(text);
  if (value !== undefined) return value;
  throw new UsageError(
    text.trim() === ""
      ? "standard input is empty, expected JSON"
      : `standard input is no JSON: it begins with ${quoted(text.slice(0, 40))}`,
  );
}

function readEscape(args: Arguments): string {
  const text = args.value("escape") ?? JSON_PATH_ESCAPE;
  if ([...text].length === 1) return text;
  throw new UsageError(`--escape ${quoted(text)}: expected one character`);
}

function get(context: CliContext, args: Arguments, found: JsonValue | undefined): number {
  const asJson = args.has("json");
  if (found === undefined || (found.kind === "null" && !asJson)) return EXIT.no;
  context.stdout(`${asJson ? found.source : found.value}\n`);
  return EXIT.ok;
}

function keys(context: CliContext, args: Arguments, found: JsonValue | undefined): number {
  if (found?.kind !== "object") return EXIT.no;
  const names = [...new Set([...found.members()].map(([name]) => name))];
  if (args.has("json")) writeJson(context, names);
  else context.stdout(names.map((name) => `${printable(name)}\n`).join(""));
  return EXIT.ok;
}
