/**
 * The live transactions of a node: finds the one that a message belongs to, asks the machines of client.ts and server.ts
 * what happens, keeps what has to be repeated, and knows the next deadline.
 *
 * It sees plain values, never a SIP message, and sends nothing: transmissions and ends wait in queues until they are polled.
 * Nothing here is a timer or a closure, and every call costs O(1), O(log n) where a client deadline moves.
 */
import { assert } from "../core/assert.ts";
import { EMPTY } from "../core/bytes.ts";
import { DeadlineQueue, DeadlineRing } from "../core/deadline-queue.ts";
import { type Endpoint, endpointKey, isReliable, sameEndpoint } from "../core/endpoint.ts";
import type { Instant } from "../core/time.ts";
import { type ClientState, clientStep } from "./client.ts";
import { type TimerSettings, timerE, timerF, timerK, timerSettings } from "./timers.ts";

/** A request of ours, ready to be sent. */
export interface ClientRequest {
  /** The caller's number for it, not in use. */
  id: number;
  /** Of our top Via, not in use. */
  branch: string;
  method: string;
  to: Endpoint;
  /** `endpointKey` of it: who sends many makes it once. */
  toKey: string;
  /** Kept until the final response and sent again as they are: they belong to the table from now on. */
  bytes: Uint8Array;
  /** Sent once, on every transport: no Timer E. */
  once: boolean;
  /** Instead of 64·T1 from now. What has no time left is not sent: it ends with the next timeout. */
  deadline?: Instant;
}

/** What matching needs to know of a response (RFC 3261 §17.1.3). */
export interface ClientResponse {
  /** Of its top Via. */
  branch: string;
  /** Of its CSeq. */
  method: string;
  status: number;
  from: Endpoint;
}

/** `absorbed`: the transaction has had its final response, this one is to be dropped without a trace. */
export type ClientVerdict = "final" | "provisional" | "absorbed";

interface ClientTransaction {
  readonly id: number;
  readonly branch: string;
  readonly method: string;
  readonly to: Endpoint;
  readonly toKey: string;
  readonly once: boolean;
  readonly startedAt: Instant;
  /** When Timer F fires. */
  readonly endsAt: Instant;
  bytes: Uint8Array;
  state: ClientState;
  /** Transmissions that were polled. */
  sent: number;
  /** It stands in the transmit queue. */
  queued: boolean;
}

/** Answered requests over UDP that are remembered for T4 (Timer K): with 100,000 requests a second T4 is a long time. */
const COMPLETED_MAX = 4_096;

/** Our requests that wait for an answer, and for T4 longer those that had one over UDP. */
export class ClientTransactions {
  private readonly settings: TimerSettings;
  private readonly byId = new Map<number, ClientTransaction>();
  private readonly byBranch = new Map<string, ClientTransaction>();
  /** Those in "trying" and "proceeding" by where they went: an error of one endpoint must not cost a walk over all. */
  private readonly byEndpoint = new Map<string, Set<ClientTransaction>>();
  /** Timers E and F, the earlier of the two. */
  private readonly deadlines = new DeadlineQueue<ClientTransaction>();
  /** Timer K, which is T4 for all. */
  private readonly completed = new DeadlineRing<ClientTransaction>();
  /** Facts of those that ended since the last input, for `attempts` and `startedAt`. */
  private readonly ended = new Map<number, ClientTransaction>();
  private readonly transmits = new Drain<ClientTransaction>();
  private readonly timeouts = new Drain<ClientTransaction>();

  /** @throws UsageError if the timers are out of bounds */
  constructor(timers: Partial<TimerSettings> = {}) {
    this.settings = timerSettings(timers);
  }

  /** Begins a transaction in "trying" and queues its first transmission (RFC 3261 §17.1.2.2). */
  start(request: ClientRequest, now: Instant): void {
    const { id, branch, method, to, bytes } = request;
    assert(!this.byId.has(id), "a transaction's number is used once");
    assert(!this.byBranch.has(branch), "a branch is used once");
    const lifeMs = request.deadline === undefined ? timerF(this.settings) : request.deadline - now;
    assert(!Number.isNaN(lifeMs), "the life of a transaction is a number");
    const transaction: ClientTransaction = {
      id,
      branch,
      method,
      to,
      toKey: request.toKey,
      once: request.once,
      startedAt: now,
      endsAt: now + lifeMs,
      bytes,
      state: "trying",
      sent: 0,
      queued: false,
    };
    this.byId.set(id, transaction);
    this.byBranch.set(branch, transaction);
    this.index(transaction);
    if (lifeMs > 0) this.transmit(transaction, now);
    else this.deadlines.set(transaction, transaction.endsAt);
  }

  /**
   * Finds the transaction of a response and advances it. It is matched by branch and CSeq method (RFC 3261 §17.1.3), and it
   * must come from where the request went: over UDP the same address and port, over streams the same address.
   *
   * @returns the transaction and what the response is to it, `undefined` for a stray response. After "final" only
   *          `attempts` and `startedAt` know the number, until the next input.
   */
  receive(response: ClientResponse, now: Instant): { id: number; verdict: ClientVerdict } | undefined {
    this.forgetEnded();
    const transaction = this.byBranch.get(response.branch);
    if (transaction === undefined || transaction.method !== response.method) return undefined;
    if (!isFromPeer(response.from, transaction.to)) return undefined;
    const input = response.status < 200 ? "provisional" : "final";
    const step = clientStep(transaction.state, input, transaction.to.transport);
    transaction.state = step.state;
    if (step.action === "absorb") return { id: transaction.id, verdict: "absorbed" };
    if (input === "final") this.finish(transaction, now);
    return { id: transaction.id, verdict: input };
  }

  /**
   * Octets for an endpoint did not go out, or came back (RFC 3261 §17.1.4): every request that waits for it ends.
   *
   * @returns their numbers, in the order of their start; the transaction user is told by this alone
   */
  unsent(to: Endpoint, _cause: Error, _now: Instant): number[] {
    this.forgetEnded();
    const waiting = this.byEndpoint.get(endpointKey(to));
    if (waiting === undefined) return [];
    const ids: number[] = [];
    for (const transaction of [...waiting]) {
      transaction.state = clientStep(transaction.state, "transport-error", to.transport).state;
      this.forget(transaction);
      ids.push(transaction.id);
    }
    return ids;
  }

  /**
   * Gives a request up: nothing more is sent, and a response to it will be stray.
   *
   * @returns false if it had ended already, or had its final response
   */
  cancel(id: number): boolean {
    const transaction = this.byId.get(id);
    if (transaction === undefined || transaction.state === "completed") return false;
    transaction.state = "terminated";
    this.forget(transaction);
    return true;
  }

  /**
   * Fires the timers that are due; then `pollTransmit` and `pollEnded` have something to say. A timer that is overdue by
   * several intervals sends once: a burst after a pause would help nobody.
   */
  handleTimeout(now: Instant): void {
    this.forgetEnded();
    for (let due = this.deadlines.take(now); due !== undefined; due = this.deadlines.take(now)) this.expire(due, now);
    for (let due = this.completed.take(now); due !== undefined; due = this.completed.take(now)) {
      due.state = clientStep(due.state, "timer-k", due.to.transport).state;
      this.drop(due);
    }
  }

  /** The next transmission, in the order in which they fell due; `undefined` when all are out. */
  pollTransmit(): { id: number; to: Endpoint; bytes: Uint8Array; retransmission: boolean } | undefined {
    for (let next = this.transmits.take(); next !== undefined; next = this.transmits.take()) {
      next.queued = false;
      if (next.state !== "trying" && next.state !== "proceeding") continue;
      next.sent++;
      return { id: next.id, to: next.to, bytes: next.bytes, retransmission: next.sent > 1 };
    }
    return undefined;
  }

  /** The next transaction that Timer F ended; `undefined` when all were told. */
  pollEnded(): { id: number; why: "timeout" } | undefined {
    const transaction = this.timeouts.take();
    if (transaction === undefined) return undefined;
    this.ended.set(transaction.id, transaction);
    return { id: transaction.id, why: "timeout" };
  }

  nextTimeout(): Instant | undefined {
    const active = this.deadlines.next();
    const completed = this.completed.next();
    if (active === undefined || completed === undefined) return active ?? completed;
    return Math.min(active, completed);
  }

  /** Transmissions that were polled; 0 for a number that is not known, or that ended before the last input. */
  attempts(id: number): number {
    return this.known(id)?.sent ?? 0;
  }

  /** The number of the transaction with this branch, also of one that has had its final response. */
  find(branch: string): number | undefined {
    return this.byBranch.get(branch)?.id;
  }

  /** When the transaction was started; `undefined` for a number that is not known, or that ended before the last input. */
  startedAt(id: number): Instant | undefined {
    return this.known(id)?.startedAt;
  }

  /** Transactions that are not terminated. */
  size(): number {
    return this.byId.size;
  }

  private known(id: number): ClientTransaction | undefined {
    return this.byId.get(id) ?? this.ended.get(id);
  }

  private expire(transaction: ClientTransaction, now: Instant): void {
    const input = now >= transaction.endsAt ? "timer-f" : "timer-e";
    const step = clientStep(transaction.state, input, transaction.to.transport);
    transaction.state = step.state;
    if (step.action === "resend") this.transmit(transaction, now);
    if (step.action !== "give-up") return;
    this.forget(transaction);
    this.timeouts.push(transaction);
  }

  /** Queues a transmission and sets the deadline after it: Timer E, or F where that comes first. */
  private transmit(transaction: ClientTransaction, now: Instant): void {
    const { to, state, sent, endsAt } = transaction;
    assert(state === "trying" || state === "proceeding", "only a request without a final response is sent");
    const interval = transaction.once ? undefined : timerE(this.settings, to.transport, sent + 1, state);
    this.deadlines.set(transaction, interval === undefined ? endsAt : Math.min(now + interval, endsAt));
    if (transaction.queued) return;
    transaction.queued = true;
    this.transmits.push(transaction);
  }

  /** After the final response: over UDP the transaction stays for T4 without its octets, else it is gone. */
  private finish(transaction: ClientTransaction, now: Instant): void {
    if (transaction.state === "terminated") {
      this.forget(transaction);
      return;
    }
    this.deadlines.delete(transaction);
    this.unindex(transaction);
    transaction.bytes = EMPTY;
    this.completed.push(transaction, now + timerK(this.settings, transaction.to.transport));
    // A copy of the answer that comes later is a stray one, which is dropped all the same.
    const oldest = this.completed.size() > COMPLETED_MAX ? this.completed.shift() : undefined;
    if (oldest === undefined) return;
    oldest.state = clientStep(oldest.state, "timer-k", oldest.to.transport).state;
    this.drop(oldest);
  }

  private forgetEnded(): void {
    if (this.ended.size > 0) this.ended.clear();
  }

  /** It ended just now: its facts can still be asked for until the next input. */
  private forget(transaction: ClientTransaction): void {
    this.drop(transaction);
    this.ended.set(transaction.id, transaction);
  }

  private drop(transaction: ClientTransaction): void {
    assert(transaction.state === "terminated", "only a terminated transaction is forgotten");
    this.deadlines.delete(transaction);
    this.unindex(transaction);
    this.byId.delete(transaction.id);
    this.byBranch.delete(transaction.branch);
    transaction.bytes = EMPTY;
  }

  private index(transaction: ClientTransaction): void {
    const waiting = this.byEndpoint.get(transaction.toKey);
    if (waiting === undefined) this.byEndpoint.set(transaction.toKey, new Set([transaction]));
    else waiting.add(transaction);
  }

  private unindex(transaction: ClientTransaction): void {
    const waiting = this.byEndpoint.get(transaction.toKey);
    if (waiting?.delete(transaction) && waiting.size === 0) this.byEndpoint.delete(transaction.toKey);
  }
}

/** A stream is one peer whatever its port: it may answer over a connection that it opened (RFC 3261 §18.2.2). */
function isFromPeer(from: Endpoint, to: Endpoint): boolean {
  if (isReliable(to.transport)) return from.transport === to.transport && from.ip === to.ip;
  return sameEndpoint(from, to);
}

/** First in, first out, emptied between two inputs: once it is, its array is used again. */
class Drain<T> {
  private items: T[] = [];
  private head = 0;

  push(item: T): void {
    this.items.push(item);
  }

  take(): T | undefined {
    if (this.head < this.items.length) return this.items[this.head++];
    if (this.head > 0) {
      this.items.length = 0;
      this.head = 0;
    }
    return undefined;
  }
}
