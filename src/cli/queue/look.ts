/** `dmq queue size`, `list` and `stats`: how many items there are, and what became of the others. */
import { formatDefinition } from "../../queue/definition.ts";
import { COUNTED, type QueueReport } from "../../queue/operation.ts";
import { type CommandSpec, FORM_OPTIONS } from "../command.ts";
import { EXIT } from "../exit.ts";
import { type Cell, formOf, writeJson, writeResult } from "../output.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS } from "./queues.ts";
import { QUEUE_EXITS, queueName } from "./words.ts";

const SIZES = ["ready", "delayed", "leased", "dead", "bytes"] as const;

export const size: CommandSpec = {
  name: "queue size",
  summary: "print how many items a queue has that nobody has taken",
  examples: [
    ["dmq queue size alert", "a number, 0 for an empty queue; what is leased does not count, as in Kamailio's mq_size"],
    ["dmq queue size alert --test-empty && dmq queue fetch alert --all", "exit 1 if it is 0"],
    ["dmq queue size alert --json", "ready, delayed, leased, dead, bytes, oldest_ms"],
  ],
  positionals: [{ name: "QUEUE", required: true, help: "name of the queue" }],
  options: [
    { flag: "test-empty", help: "exit 1 if it is 0" },
    { flag: "json", help: "JSON, with the items in each state" },
    ...QUEUES_OPTIONS,
  ],
  exits: [...QUEUE_EXITS, [EXIT.ok, "printed"], [EXIT.no, "with --test-empty: it is 0"]],
  seeAlso: ["dmq queue stats", "dmq queue list"],
  async run(context, args) {
    const queue = queueName(args.positionals[0] as string);
    const { oldestMs, ...sizes } = await withQueues(context, args, (queues) =>
      queues.perform({ type: "sizes", queue }),
    );
    const items = sizes.ready + sizes.delayed;
    if (args.has("json")) writeJson(context, { name: queue, size: items, ...sizes, oldest_ms: oldestMs });
    else context.stdout(`${items}\n`);
    return args.has("test-empty") && items === 0 ? EXIT.no : EXIT.ok;
  },
};

export const list: CommandSpec = {
  name: "queue list",
  summary: "all queues: items in each state, octets, age of the oldest",
  examples: [
    ["dmq queue list", "last defined first, as Kamailio's mqueue.get_sizes"],
    ["dmq queue list --json | jq -r '.[] | select(.dead > 0) | .name'", "which have dead letters"],
  ],
  positionals: [],
  options: [...FORM_OPTIONS, ...QUEUES_OPTIONS],
  notes: ["line: NAME READY DELAYED LEASED DEAD BYTES OLDEST; OLDEST is the age of the oldest ready item in seconds."],
  exits: [...QUEUE_EXITS.filter(([code]) => code !== EXIT.notFound), [EXIT.ok, "printed; there may be none"]],
  seeAlso: ["dmq queue stats", "dmq queue size"],
  async run(context, args) {
    const reports = await withQueues(context, args, (queues) => queues.perform({ type: "report" }));
    const rows = reports.map((one): Cell[] => [one.name, ...SIZES.map((name) => one[name]), age(one)]);
    writeResult(context, formOf(context, args), reports.map(reportRow), rows, [
      "NAME",
      ...SIZES.map((name) => name.toUpperCase()),
      "OLDEST",
    ]);
    return EXIT.ok;
  },
};

export const stats: CommandSpec = {
  name: "queue stats",
  summary: "one queue: its definition, items in each state, and what became of the others since it was defined",
  examples: [["dmq queue stats alert", "a line each: NAME VALUE"]],
  positionals: [{ name: "QUEUE", required: true, help: "name of the queue" }],
  options: [...FORM_OPTIONS, ...QUEUES_OPTIONS],
  notes: [
    "added: stored. ignored: addmode says the queued item wins. dropped: made room. rejected: found none. delivered: given out, each time.",
    "retried: given back. acked: done. died: became a dead letter. expired: its ttl was over.",
  ],
  exits: [...QUEUE_EXITS, [EXIT.ok, "printed"]],
  seeAlso: ["dmq queue list", "dmq queue dead"],
  async run(context, args) {
    const queue = queueName(args.positionals[0] as string);
    const [report] = await withQueues(context, args, (queues) => queues.perform({ type: "report", queue }));
    const one = report as QueueReport;
    const rows: Cell[][] = [
      ["definition", formatDefinition(one.definition)],
      ...SIZES.map((name): Cell[] => [name, one[name]]),
      ["oldest", age(one)],
      ...COUNTED.map((name): Cell[] => [name, one.counted[name]]),
    ];
    writeResult(context, formOf(context, args), reportRow(one), rows);
    return EXIT.ok;
  },
};

/** Seconds. */
function age({ oldestMs }: QueueReport): Cell {
  return oldestMs === null ? null : Math.round(oldestMs / 1_000);
}

function reportRow({ oldestMs, definition, ...report }: QueueReport): object {
  return { ...report, oldest_ms: oldestMs, definition: formatDefinition(definition) };
}
