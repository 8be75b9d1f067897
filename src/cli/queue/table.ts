/** `dmq queue import` and `export`: tables of Kamailio's mqueue in an SQLite file. */
import { UsageError } from "../../core/errors.ts";
import type { NewItem } from "../../queue/operation.ts";
import { KAMAILIO_KEY_CHARS, KAMAILIO_VALUE_CHARS, KamailioTable } from "../../queue/table.ts";
import { copyOut, giveOut, takeIn, type Written } from "../../queue/transfer.ts";
import type { Arguments, CommandSpec, OptionSpec } from "../command.ts";
import { EXIT } from "../exit.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS, type Queues } from "./queues.ts";
import { QUEUE_EXITS, queueName } from "./words.ts";

const ROOM_MS = 30_000;
const LEASE_MS = 60_000;

const TABLE_OPTIONS: OptionSpec[] = [
  { flag: "sqlite", value: "FILE", help: "the SQLite file; required" },
  { flag: "table", value: "TABLE", help: "name of the table (that of the queue)" },
];

const EXITS = [
  ...QUEUE_EXITS.filter(([code]) => code !== EXIT.notFound && code !== EXIT.state),
  [EXIT.notFound, "no such queue, or no such table in the file"],
  [EXIT.state, "the store or the file cannot be used"],
] as const;

export const importTable: CommandSpec = {
  name: "queue import",
  summary: "take in the rows of a table that Kamailio's mqueue wrote (dbmode 1 and 3), and print how many",
  examples: [
    ["dmq queue import alert --sqlite /var/lib/kamailio/mqueue.sqlite", "rows are deleted once they are stored here"],
    ["dmq queue import alert --sqlite mqueue.sqlite --table kamalert --keep", "and stay there"],
  ],
  positionals: [{ name: "QUEUE", required: true, help: "name of our queue" }],
  options: [
    ...TABLE_OPTIONS,
    { flag: "keep", help: "leave the rows in the table: a second import has them again" },
    ...QUEUES_OPTIONS,
  ],
  notes: [
    "A piece of 500 rows is stored, then deleted. Killed in between, this command has such a piece again the next time; none is lost.",
  ],
  exits: [
    ...EXITS,
    [EXIT.ok, "all rows are stored here; there may be none"],
    [EXIT.refused, "the queue is full, or a row too large: it and those behind it are still in the table"],
  ],
  seeAlso: ["dmq queue export", "dmq queue pull"],
  async run(context, args) {
    const { queue, file, table } = readTable(args);
    return withQueues(context, args, async (queues) => {
      await queues.perform({ type: "sizes", queue });
      const rows = new KamailioTable(file, table, false);
      try {
        const add = (items: readonly NewItem[]): Promise<unknown> => queues.add({ type: "add", queue, items }, ROOM_MS);
        const count = await takeIn(rows, add, args.has("keep"));
        context.stdout(`${count}\n`);
        return EXIT.ok;
      } finally {
        rows.close();
      }
    });
  },
};

export const exportTable: CommandSpec = {
  name: "queue export",
  summary: "append the items of a queue to a table that Kamailio's mqueue reads (dbmode 1 and 2), and print how many",
  examples: [
    ["dmq queue export alert --sqlite mqueue.sqlite", "a copy of what is ready"],
    ["dmq queue export alert --sqlite mqueue.sqlite --take", "and taken off here"],
  ],
  positionals: [{ name: "QUEUE", required: true, help: "name of our queue" }],
  options: [
    ...TABLE_OPTIONS,
    { flag: "take", help: "take the items off, once they are in the table" },
    ...QUEUES_OPTIONS,
  ],
  notes: [
    "Kamailio has no content types, headers or delays: those are left here. It stumbles over an empty key or value when it saves, and cuts",
    `what does not fit its columns (${KAMAILIO_KEY_CHARS} and ${KAMAILIO_VALUE_CHARS} characters): stderr says how many of those there were.`,
  ],
  exits: [
    ...EXITS.filter(([code]) => code !== EXIT.notFound),
    [EXIT.ok, "all that was ready is in the table; there may be none"],
    [EXIT.notFound, "no such queue, or the table lacks a column of Kamailio's"],
  ],
  seeAlso: ["dmq queue import", "dmq queue move"],
  async run(context, args) {
    const { queue, file, table } = readTable(args);
    return withQueues(context, args, async (queues) => {
      await queues.perform({ type: "sizes", queue });
      const rows = new KamailioTable(file, table, true);
      try {
        const { count, odd } = await (args.has("take") ? takeOff(queues, queue, rows) : copy(queues, queue, rows));
        context.stdout(`${count}\n`);
        if (odd > 0) context.stderr(`dmq: warning: ${odd} of them are empty or too long for Kamailio\n`);
        return EXIT.ok;
      } finally {
        rows.close();
      }
    });
  },
};

async function takeOff(queues: Queues, queue: string, table: KamailioTable): Promise<Written> {
  const supply = queues.supply({ queue, leaseMs: LEASE_MS });
  const { signal } = new AbortController();
  try {
    return await giveOut(table, {
      next: (max) => supply.next({ max, waitMs: 0, signal }),
      ack: (items) => supply.ack(items),
    });
  } finally {
    await supply.end();
  }
}

function copy(queues: Queues, queue: string, table: KamailioTable): Promise<Written> {
  return copyOut(table, (after, count) => queues.perform({ type: "peek", queue, count, after }));
}

function readTable(args: Arguments): { queue: string; file: string; table: string } {
  const queue = queueName(args.positionals[0] as string);
  const file = args.value("sqlite");
  if (file === undefined) throw new UsageError("--sqlite FILE is missing");
  return { queue, file, table: args.value("table") ?? queue };
}
