/** `dmq queue import` and `export`: tables of Kamailio's mqueue in an SQLite file. */
import { UsageError } from "../../core/errors.ts";
import type { Item } from "../../queue/operation.ts";
import { KAMAILIO_KEY_CHARS, KAMAILIO_VALUE_CHARS, KamailioTable } from "../../queue/table.ts";
import type { Arguments, CommandSpec, OptionSpec } from "../command.ts";
import { EXIT } from "../exit.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS, type Queues } from "./queues.ts";
import { QUEUE_EXITS, queueName } from "./words.ts";

/** Rows that go over in one piece. */
const BATCH = 500;
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
        const count = await takeIn(queues, queue, rows, args.has("keep"));
        context.stdout(`${count}\n`);
        return EXIT.ok;
      } finally {
        rows.close();
      }
    });
  },
};

async function takeIn(queues: Queues, queue: string, table: KamailioTable, keep: boolean): Promise<number> {
  let count = 0;
  for (let after = Number.MIN_SAFE_INTEGER; ; ) {
    const rows = table.read(after, BATCH);
    if (rows.length === 0) return count;
    await queues.add({ type: "add", queue, items: rows.map(({ key, value }) => ({ key, value })) }, ROOM_MS);
    const ids = rows.map(({ id }) => id);
    if (!keep) table.remove(ids);
    after = ids.at(-1) as number;
    count += ids.length;
  }
}

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
        const { count, odd } = await (args.has("take") ? giveOut(queues, queue, rows) : copyOut(queues, queue, rows));
        context.stdout(`${count}\n`);
        if (odd > 0) context.stderr(`dmq: warning: ${odd} of them are empty or too long for Kamailio\n`);
        return EXIT.ok;
      } finally {
        rows.close();
      }
    });
  },
};

interface Written {
  count: number;
  odd: number;
}

async function giveOut(queues: Queues, queue: string, table: KamailioTable): Promise<Written> {
  const supply = queues.supply({ queue, leaseMs: LEASE_MS });
  const written: Written = { count: 0, odd: 0 };
  try {
    for (;;) {
      const items = await supply.next({ max: BATCH, waitMs: 0, signal: new AbortController().signal });
      if (items.length === 0) return written;
      write(table, items, written);
      await supply.ack(items);
    }
  } finally {
    await supply.end();
  }
}

/** In the order of their numbers: what was given back is among the others again. */
async function copyOut(queues: Queues, queue: string, table: KamailioTable): Promise<Written> {
  const written: Written = { count: 0, odd: 0 };
  for (let after = 0; ; ) {
    const items = await queues.perform({ type: "peek", queue, count: BATCH, after });
    if (items.length === 0) return written;
    const sorted = items.toSorted((a, b) => a.seq - b.seq);
    write(table, sorted, written);
    after = (sorted.at(-1) as Item).seq;
  }
}

function write(table: KamailioTable, items: readonly Item[], written: Written): void {
  table.write(items);
  written.count += items.length;
  written.odd += items.filter(isOdd).length;
}

function isOdd({ key, value }: Item): boolean {
  const isEmpty = key === "" || value.length === 0;
  return isEmpty || key.length > KAMAILIO_KEY_CHARS || value.length > KAMAILIO_VALUE_CHARS || value.includes(0);
}

function readTable(args: Arguments): { queue: string; file: string; table: string } {
  const queue = queueName(args.positionals[0] as string);
  const file = args.value("sqlite");
  if (file === undefined) throw new UsageError("--sqlite FILE is missing");
  return { queue, file, table: args.value("table") ?? queue };
}
