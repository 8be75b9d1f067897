/**
 * What can be asked of a store, and what it answers: plain values, so that they cross to the worker and back as they are. An
 * operation is all or nothing, and what is answered is committed.
 */
import type { DmqError } from "../core/errors.ts";
import type { QueueDefinition } from "./definition.ts";
import { QueueError, type QueueErrorCode } from "./error.ts";

/** An item on its way in. */
export interface NewItem {
  key: string;
  value: Uint8Array;
  /** Default `text/plain`. */
  contentType?: string;
  headers?: Readonly<Record<string, string>>;
  /** Ids of the links that it went through. */
  path?: readonly string[];
  /** URI of the node, or the exchange, that it came from. */
  from?: string;
  channel?: string;
  /** Given twice to one queue within `idMs` (an hour): stored once, and the second time answered as the first. */
  dedupe?: string;
  dedupeMs?: number;
  delayMs?: number;
  /** Instead of the queue's own. */
  ttlMs?: number;
}

/** `ignored`: the key was queued and wins (`addmode=oldest`). `repeated`: this `dedupe` was stored before. */
export type Stored = "stored" | "ignored" | "replaced" | "repeated";

export interface Added {
  /** Of the item that is queued now; of an ignored one, the item that won. */
  seq: number;
  stored: Stored;
}

export interface Item {
  /** Number of the item in its store, never used again. */
  seq: number;
  /** `SEQ-LEASE`: good for one lease. Without a lease, `SEQ-0`. */
  id: string;
  queue: string;
  key: string;
  value: Uint8Array;
  contentType: string;
  headers: Readonly<Record<string, string>>;
  path: readonly string[];
  from: string | null;
  channel: string | null;
  /** Milliseconds since 1970. */
  addedAt: number;
  dueAt: number;
  /** Deliveries that count, the present one included. */
  tries: number;
}

/** Why it is a dead letter; absent in other queues. */
export interface DeadItem extends Item {
  reason: string;
  exitCode: number | null;
  stderr: string;
  diedAt: number;
}

export interface Sizes {
  ready: number;
  delayed: number;
  leased: number;
  dead: number;
  /** Octets of the values of all three. */
  bytes: number;
  /** Milliseconds since the oldest ready item was added. */
  oldestMs: number | null;
}

export const COUNTED = [
  "added",
  "ignored",
  "dropped",
  "rejected",
  "delivered",
  "retried",
  "acked",
  "died",
  "expired",
] as const;

/** Since the queue was defined. */
export type Counted = Record<(typeof COUNTED)[number], number>;

export interface QueueReport extends Sizes {
  name: string;
  definition: QueueDefinition;
  counted: Counted;
}

/** What a failed delivery does with its item. */
export interface Failure {
  id: string;
  /** `retry`: after the queue's delay. `now`: at once, back in its place. `dead`: a dead letter at once. */
  fate: "retry" | "now" | "dead";
  /** Instead of the queue's delay. */
  delayMs?: number;
  /** False where it is not to count against `maxTries`. */
  counts?: boolean;
  reason?: string;
  exitCode?: number;
  stderr?: string;
}

export interface LeaseRequest {
  /** At most; fewer where their values are large. */
  count: number;
  /** How long the items are nobody else's. */
  leaseMs: number;
  /** Who has them: `release` gives back all that one has. */
  holder: string;
  /** Only items that no earlier one of the same key stands before. */
  orderByKey?: boolean;
  /** Only of this key. */
  key?: string;
}

export type Operation =
  /** Makes a queue, or changes the definition of one: what is in it stays. */
  | { type: "define"; definition: QueueDefinition }
  /** @throws `queue-busy` for one that holds items, unless forced */
  | { type: "drop"; queue: string; force: boolean }
  | { type: "add"; queue: string; items: readonly NewItem[] }
  | ({ type: "lease"; queue: string } & LeaseRequest)
  | { type: "ack"; ids: readonly string[] }
  | { type: "fail"; failures: readonly Failure[] }
  | { type: "extend"; ids: readonly string[]; leaseMs: number }
  /** Gives back what these holders have; its tries stay. */
  | { type: "release"; holders: readonly string[] }
  | { type: "holders" }
  | { type: "peek"; queue: string; count: number; key?: string; after?: number }
  | { type: "sizes"; queue: string }
  | { type: "report"; queue?: string }
  /** When the next item of a queue is ready by time alone. */
  | { type: "next-due"; queue: string }
  | { type: "move"; from: string; to: string; count: number; key?: string }
  | { type: "clear"; queue: string }
  | { type: "dead"; queue: string; count: number; after?: number; seq?: number }
  | { type: "retry-dead"; queue: string; seqs: readonly number[] | "all" }
  | { type: "drop-dead"; queue: string; seqs: readonly number[] | "all" }
  | { type: "check" };

export interface Answers {
  define: "made" | "changed" | "same";
  drop: number;
  add: Added[];
  lease: Item[];
  ack: number;
  fail: ("retried" | "dead")[];
  extend: number;
  release: number;
  holders: string[];
  peek: Item[];
  sizes: Sizes;
  report: QueueReport[];
  /** Milliseconds since 1970; null if nothing waits for a time. */
  "next-due": number | null;
  move: number;
  clear: number;
  dead: DeadItem[];
  "retry-dead": number;
  "drop-dead": number;
  check: { ok: boolean; problems: string[]; items: number; fileBytes: number; freeBytes: number };
}

export type OperationType = Operation["type"];
export type AnswerOf<O extends Operation> = Answers[O["type"]];

/** How one operation ended; errors as values, because they cross to another thread. */
export type Outcome =
  | { ok: true; answer: Answers[OperationType] }
  | { ok: false; code: QueueErrorCode; message: string };

/** @throws QueueError where the operation failed */
export function answerOf<O extends Operation>(_operation: O, outcome: Outcome): AnswerOf<O> {
  if (outcome.ok) return outcome.answer as AnswerOf<O>;
  throw new QueueError(outcome.code, outcome.message) satisfies DmqError;
}
