import { type CommandSpec, FORM_OPTIONS } from "../command.ts";
import { EXIT } from "../exit.ts";
import { type Cell, formOf, writeResult } from "../output.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS } from "./queues.ts";
import { QUEUE_EXITS } from "./words.ts";

export const check: CommandSpec = {
  name: "queue check",
  summary: "look through the whole store for damage and wrong counts",
  examples: [
    ["dmq queue check", "items, octets of the file, octets of it that are free"],
    ["dmq queue check --state-dir /var/lib/dmq", "a store that a daemon does not open any more"],
  ],
  positionals: [],
  options: [...FORM_OPTIONS, ...QUEUES_OPTIONS],
  notes: ["Problems go to stderr, a line each. It takes as long as reading the file does."],
  exits: [
    ...QUEUE_EXITS.filter(([code]) => code !== EXIT.notFound && code !== EXIT.state),
    [EXIT.ok, "nothing is wrong"],
    [EXIT.notFound, "there is no store"],
    [EXIT.state, "something is: dmq serve --store-repair sets a damaged store aside and begins a new one"],
  ],
  seeAlso: ["dmq queue list", "dmq serve --store-repair"],
  async run(context, args) {
    const found = await withQueues(context, args, (queues) => queues.perform({ type: "check" }));
    const { ok, problems, items, fileBytes, freeBytes } = found;
    const rows: Cell[][] = [
      ["items", items],
      ["file_bytes", fileBytes],
      ["free_bytes", freeBytes],
    ];
    const json = { ok, problems, items, file_bytes: fileBytes, free_bytes: freeBytes };
    writeResult(context, formOf(context, args), json, rows);
    for (const problem of problems) context.stderr(`dmq: ${problem}\n`);
    return ok ? EXIT.ok : EXIT.state;
  },
};
