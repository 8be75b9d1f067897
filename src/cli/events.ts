import { UsageError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import type { EventRecord } from "../rpc/surface.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS } from "./command.ts";
import type { CliContext } from "./context.ts";
import { type Cell, formOf, printable, writeJson } from "./output.ts";
import { connectDaemon } from "./socket.ts";
import { LIMIT_EXITS, LIMIT_OPTIONS, readLimits, readStream } from "./stream.ts";

const TYPES: readonly EventRecord["type"][] = [
  "joined",
  "peer-up",
  "peer-down",
  "peer-disabled",
  "peer-removed",
  "warning",
  "consumers",
];

export const events: CommandSpec = {
  name: "events",
  summary: "print what happens to the node, as it happens",
  examples: [
    ["dmq events", "until interrupted"],
    ["dmq events --type peer-down --type peer-disabled", "only what is lost"],
    ["dmq events --json | jq -c 'select(.type == \"warning\")'", "a JSON object a line"],
    ["dmq events --type peer-up -n 1 -W 30s", "the next node that comes, within half a minute"],
  ],
  positionals: [],
  options: [
    { flag: "type", value: "TYPE", repeatable: true, help: `one of ${TYPES.join(", ")}; may be repeated` },
    ...LIMIT_OPTIONS,
    ...FORM_OPTIONS,
  ],
  notes: [
    "line: TIME TYPE WHAT DETAIL. WHAT is a node, of a warning its code, of consumers a channel; DETAIL is its status, the",
    "text of the warning, the number of listeners, or whom to synchronise with.",
  ],
  exits: LIMIT_EXITS,
  seeAlso: ["dmq wait", "dmq list --watch", "dmq logs -f", "dmq serve --on peer-down=CMD"],
  async run(context, args) {
    const limits = readLimits(args);
    const types = readTypes(args);
    const write = writerFor(context, args);
    const isWanted = (line: unknown): boolean => types.size === 0 || types.has((line as EventRecord).type);
    const onLine = (line: unknown): void => write(line as EventRecord);
    return readStream(context, connectDaemon(context, args), "/events", limits, onLine, isWanted);
  },
};

function readTypes(args: Arguments): ReadonlySet<string> {
  const types = args.all("type");
  for (const type of types) {
    if (TYPES.some((known) => known === type)) continue;
    const near = nearest(type, TYPES);
    const hint = near === undefined ? `expected one of ${TYPES.join(", ")}` : `did you mean ${near}?`;
    throw new UsageError(`--type ${JSON.stringify(type)}: ${hint}`);
  }
  return new Set(types);
}

function writerFor(context: CliContext, args: Arguments): (event: EventRecord) => void {
  const form = formOf(context, args);
  if (form === "json") return (event) => writeJson(context, event);
  const separator = form === "plain" ? "\t" : "  ";
  return (event) => context.stdout(`${columnsOf(event).join(separator)}\n`);
}

function columnsOf(event: EventRecord): string[] {
  const { time, type, node, channel, code, status, text, consumers, nodes } = event;
  const what = channel ?? (type === "warning" ? code : node);
  const detail: Cell | undefined = text ?? status ?? consumers ?? nodes?.join(" ");
  return [time, type, what, detail].map((cell) => (cell === undefined || cell === "" ? "-" : printable(String(cell))));
}
