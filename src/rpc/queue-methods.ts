/**
 * The RPC methods of the queues: an operation of the store each, in snake_case, with values as `value` where they are UTF-8
 * and as `value_base64` where they are not. `mqueue.*` are Kamailio's, with its fields and codes (queue.md part A).
 */
import { EMPTY, encodeUtf8, strictUtf8 } from "../core/bytes.ts";
import { DmqError } from "../core/errors.ts";
import type { DeadItem, Failure, Item, NewItem, QueueReport } from "../queue/operation.ts";
import { define, type Method } from "./method.ts";
import { invalidParams, type Params, readParams, type Signature } from "./params.ts";
import { type ControlSurface, type QueueSurface, RpcFault } from "./surface.ts";

const LEASE_MS = 60_000;
/** Dead letters and items in one answer, unless a count is given. */
const SHOWN = 100;
/** How long an add waits for room in a queue with `full=wait`. */
const ROOM_MS = 30_000;

const ITEM_PARAMS = [
  ...(["key", "value", "value_base64", "content_type", "headers", "path", "from", "channel"] as const),
  ...(["dedupe", "dedupe_ms", "delay_ms", "ttl_ms"] as const),
] as const;

const ITEM: Signature = { required: [], optional: ITEM_PARAMS, kamailio: false };

/** An item as it goes over the wire. */
export interface ItemRow {
  id: string;
  seq: number;
  queue: string;
  key: string;
  value?: string;
  value_base64?: string;
  content_type: string;
  headers: Readonly<Record<string, string>>;
  path: readonly string[];
  from: string | null;
  channel: string | null;
  /** ISO 8601, as `due`. */
  added: string;
  due: string;
  tries: number;
  /** These four of dead letters only. */
  reason?: string;
  exit_code?: number | null;
  stderr?: string;
  died?: string;
}

/** @returns the item in the fields of docs/RPC.md */
export function itemRow(item: Item | DeadItem): ItemRow {
  const { id, seq, queue, key, contentType, headers, path, from, channel, addedAt, dueAt, tries } = item;
  return {
    ...{ id, seq, queue, key },
    ...valueFields(item.value),
    ...{ content_type: contentType, headers, path, from, channel },
    ...{ added: new Date(addedAt).toISOString(), due: new Date(dueAt).toISOString(), tries },
    ...("reason" in item && {
      ...{ reason: item.reason, exit_code: item.exitCode, stderr: item.stderr },
      died: new Date(item.diedAt).toISOString(),
    }),
  };
}

function valueFields(value: Uint8Array): { value: string } | { value_base64: string } {
  const text = strictUtf8(value);
  return text === undefined ? { value_base64: Buffer.from(value).toString("base64") } : { value: text };
}

export const QUEUE_METHODS: readonly (readonly [string, Method])[] = [
  [
    "queue.define",
    define({
      required: ["definition"],
      help: "Makes a queue, or changes one: NAME, or name=NAME;size=100;addmode=2.",
      run: (surface, { definition }) => queuesOf(surface).define(definition),
    }),
  ],
  [
    "queue.drop",
    define({
      required: ["queue"],
      optional: ["force"],
      help: "Drops a queue; one that holds items only by force. Says how many went with it.",
      run: (surface, { queue, force = false }) => queuesOf(surface).perform({ type: "drop", queue, force }),
    }),
  ],
  [
    "queue.add",
    define({
      required: ["queue"],
      optional: [...ITEM_PARAMS, "items", "timeout_ms"],
      help: "Adds an item, or several at once, all or none; answers when they are stored.",
      run: add,
    }),
  ],
  [
    "queue.lease",
    define({
      required: ["queue"],
      optional: ["count", "lease_ms", "wait_ms", "key", "order_by_key"],
      help: "Takes ready items for a time; queue.ack settles them.",
      run: async (surface, { wait_ms: waitMs = 0, ...params }) =>
        (await queuesOf(surface).lease({ ...leaseOf(params), waitMs })).map(itemRow),
    }),
  ],
  [
    "queue.ack",
    define({
      required: ["ids"],
      help: "Settles leased items: they are done.",
      run: (surface, { ids }) => queuesOf(surface).perform({ type: "ack", ids }),
    }),
  ],
  [
    "queue.nack",
    define({
      required: ["ids"],
      optional: ["fate", "delay_ms", "counts", "reason", "exit_code", "stderr"],
      help: "Gives leased items back as failed: again later, now, or as dead letters.",
      run: (surface, params) => queuesOf(surface).perform({ type: "fail", failures: failuresOf(params) }),
    }),
  ],
  [
    "queue.extend",
    define({
      required: ["ids", "lease_ms"],
      help: "Renews leases from now on.",
      run: (surface, { ids, lease_ms: leaseMs }) => queuesOf(surface).perform({ type: "extend", ids, leaseMs }),
    }),
  ],
  [
    "queue.release",
    define({
      required: ["holders"],
      help: "Gives back all that these holders have leased.",
      run: (surface, { holders }) => queuesOf(surface).perform({ type: "release", holders }),
    }),
  ],
  [
    "queue.peek",
    define({
      required: ["queue"],
      optional: ["count", "key", "after"],
      help: "Shows items without taking them.",
      run: async (surface, { queue, count = SHOWN, key, after }) =>
        (await queuesOf(surface).perform({ type: "peek", queue, count, ...present({ key, after }) })).map(itemRow),
    }),
  ],
  [
    "queue.sizes",
    define({
      required: ["queue"],
      help: "Items of a queue by state, octets, age of the oldest.",
      run: async (surface, { queue }) => {
        const { oldestMs, ...sizes } = await queuesOf(surface).perform({ type: "sizes", queue });
        return { ...sizes, oldest_ms: oldestMs };
      },
    }),
  ],
  [
    "queue.list",
    define({
      help: "All queues with their sizes and counters, last defined first.",
      run: async (surface) => (await queuesOf(surface).perform({ type: "report" })).map(reportRow),
    }),
  ],
  [
    "queue.stats",
    define({
      required: ["queue"],
      help: "One queue: sizes, counters, definition.",
      run: async (surface, { queue }) =>
        reportRow((await queuesOf(surface).perform({ type: "report", queue }))[0] as QueueReport),
    }),
  ],
  [
    "queue.next_due",
    define({
      required: ["queue"],
      help: "When the next item is ready by time alone, in milliseconds since 1970, or null.",
      run: (surface, { queue }) => queuesOf(surface).perform({ type: "next-due", queue }),
    }),
  ],
  [
    "queue.move",
    define({
      required: ["from", "to"],
      optional: ["count", "key"],
      help: "Moves ready items to another queue, in one transaction.",
      run: (surface, { from, to, count = Number.MAX_SAFE_INTEGER, key }) =>
        queuesOf(surface).perform({ type: "move", from, to, count, ...present({ key }) }),
    }),
  ],
  [
    "queue.clear",
    define({
      required: ["queue"],
      help: "Drops all items that nobody has leased.",
      run: (surface, { queue }) => queuesOf(surface).perform({ type: "clear", queue }),
    }),
  ],
  [
    "queue.dead",
    define({
      required: ["queue"],
      optional: ["count", "after", "seq"],
      help: "Dead letters of a queue, and why they are.",
      run: async (surface, { queue, count = SHOWN, after, seq }) =>
        (await queuesOf(surface).perform({ type: "dead", queue, count, ...present({ after, seq }) })).map(itemRow),
    }),
  ],
  [
    "queue.retry_dead",
    define({
      required: ["queue"],
      optional: ["seqs"],
      help: "Puts dead letters back into their queue, all of them unless some are named.",
      run: (surface, { queue, seqs = "all" }) => queuesOf(surface).perform({ type: "retry-dead", queue, seqs }),
    }),
  ],
  [
    "queue.drop_dead",
    define({
      required: ["queue"],
      optional: ["seqs"],
      help: "Drops dead letters, all of them unless some are named.",
      run: (surface, { queue, seqs = "all" }) => queuesOf(surface).perform({ type: "drop-dead", queue, seqs }),
    }),
  ],
  [
    "queue.check",
    define({
      help: "Looks through the whole store for damage and wrong counts.",
      run: async (surface) => {
        const { fileBytes, freeBytes, ...found } = await queuesOf(surface).perform({ type: "check" });
        return { ...found, file_bytes: fileBytes, free_bytes: freeBytes };
      },
    }),
  ],
  [
    "mqueue.get_size",
    define({
      optional: ["queue"],
      kamailio: true,
      help: "Kamailio's: name and number of items of a queue.",
      run: async (surface, { queue }) => {
        if (queue === undefined) throw new RpcFault(400, "no queue name", { exit: 2 });
        const [report] = await kamailioFaults(404, queuesOf(surface).perform({ type: "report", queue }));
        return sizeRow(report as QueueReport);
      },
    }),
  ],
  [
    "mqueue.get_sizes",
    define({
      kamailio: true,
      help: "Kamailio's: name and number of items of all queues, last defined first.",
      run: async (surface) => (await queuesOf(surface).perform({ type: "report" })).map(sizeRow),
    }),
  ],
  [
    "mqueue.fetch",
    define({
      optional: ["queue"],
      kamailio: true,
      help: "Kamailio's: takes the oldest item off, without a way back.",
      run: async (surface, { queue }) => {
        if (queue === undefined) throw new RpcFault(500, "no queue name", { exit: 2 });
        return kamailioFaults(500, fetch(queuesOf(surface), queue));
      },
    }),
  ],
];

/** Off the queue before the answer is on its way: at most once, as Kamailio's. */
async function fetch(queues: QueueSurface, queue: string): Promise<{ key: string; val: string }> {
  const [item] = await queues.lease({ queue, count: 1, leaseMs: LEASE_MS, waitMs: 0 });
  if (item === undefined) throw new RpcFault(404, `queue ${queue} is empty`, { exit: 1 });
  await queues.perform({ type: "ack", ids: [item.id] });
  return { key: item.key, val: strictUtf8(item.value) ?? Buffer.from(item.value).toString("latin1") };
}

/** Kamailio has another code for an unknown queue in each of its methods. */
async function kamailioFaults<T>(unknown: number, result: Promise<T>): Promise<T> {
  try {
    return await result;
  } catch (error) {
    if (error instanceof DmqError && error.code === "no-such-queue")
      throw new RpcFault(unknown, "no such queue", { exit: 3 });
    throw error;
  }
}

function sizeRow({ name, ready, delayed }: QueueReport): { name: string; size: number } {
  // What somebody has leased is fetched, in Kamailio's words.
  return { name, size: ready + delayed };
}

/** @throws RpcFault where this surface has no queues */
export function queuesOf({ queues }: ControlSurface): QueueSurface {
  if (queues !== undefined) return queues;
  throw new RpcFault(404, "there are no queues here", { exit: 3 });
}

async function add(
  surface: ControlSurface,
  { queue, items, timeout_ms: timeoutMs = ROOM_MS, ...params }: Pick<Params, "queue"> & Partial<Params>,
): Promise<unknown> {
  const single = Object.keys(params);
  if (items !== undefined && single.length > 0)
    throw invalidParams(`items and ${single.join(", ")} exclude each other: say it in each item`);
  const added = items === undefined ? [newItem(params)] : items.map((one) => newItem(readParams(ITEM, one)));
  return queuesOf(surface).add({ type: "add", queue, items: added }, timeoutMs);
}

function newItem(params: Partial<Pick<Params, (typeof ITEM_PARAMS)[number]>>): NewItem {
  const { key = "", content_type: contentType, headers, path, from, channel, dedupe } = params;
  const { dedupe_ms: dedupeMs, delay_ms: delayMs, ttl_ms: ttlMs } = params;
  return {
    key,
    value: octetsOf(params),
    ...present({ contentType, headers, path, from, channel, dedupe, dedupeMs, delayMs, ttlMs }),
  };
}

function octetsOf({ value, value_base64: coded }: Partial<Params>): Uint8Array {
  if (coded === undefined) return value === undefined ? EMPTY : encodeUtf8(value);
  if (value !== undefined) throw invalidParams("value and value_base64 exclude each other");
  return Buffer.from(coded, "base64");
}

function leaseOf(params: Pick<Params, "queue"> & Partial<Params>): {
  queue: string;
  count: number;
  leaseMs: number;
  key?: string;
  orderByKey?: boolean;
} {
  const { queue, count = 1, lease_ms: leaseMs = LEASE_MS, key, order_by_key: orderByKey } = params;
  return { queue, count, leaseMs, ...present({ key, orderByKey }) };
}

function failuresOf(params: Pick<Params, "ids"> & Partial<Params>): Failure[] {
  const { ids, fate = "retry", delay_ms: delayMs, counts, reason, exit_code: exitCode, stderr } = params;
  return ids.map((id) => ({ id, fate, ...present({ delayMs, counts, reason, exitCode, stderr }) }));
}

function reportRow({ oldestMs, definition, ...report }: QueueReport): object {
  const named = Object.entries(definition).map(([name, value]) => [
    name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    value,
  ]);
  return { ...report, oldest_ms: oldestMs, definition: Object.fromEntries(named) };
}

/** The members that are there. */
function present<T extends object>(members: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as never;
}
