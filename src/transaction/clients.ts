/**
 * Requests of ours: finds the one that a response belongs to, asks the machine of client.ts what happens, keeps what has to
 * be repeated, and knows the next deadline (RFC 3261 §17.1.2, §17.1.3).
 *
 * It sees plain values, never a SIP message, and sends nothing: transmissions and ends wait in queues until they are polled.
 * Transactions are rows of typed arrays and not objects, because there is one for every delivery of a busy node; the request
 * itself is let go with its final response, when only the row stays (Timer K). A row is found by the fingerprint of its
 * branch; those that wait for one endpoint are a list through the rows. Nothing has a timer, and every call costs the same
 * however many there are.
 */
import { assert } from "../core/assert.ts";
import { EMPTY, type Span } from "../core/bytes.ts";
import { DeadlineRing } from "../core/deadline-queue.ts";
import { DeadlineRows } from "../core/deadline-rows.ts";
import { type Endpoint, endpointKey, isReliable, sameEndpoint } from "../core/endpoint.ts";
import { NumberTable } from "../core/number-table.ts";
import { grown, NO_ROW } from "../core/rows.ts";
import type { Instant } from "../core/time.ts";
import { type ClientInput, type ClientState, type ClientStep, clientStep } from "./client.ts";
import type { Fingerprint } from "./key.ts";
import { type TimerSettings, timerE, timerF, timerK, timerSettings } from "./timers.ts";

/**
 * A request of ours, ready to be sent: its octets, which are read for each transmission until the final response; `high` and `low` are
 * `branchKey` of our top Via, not in use.
 */
export interface ClientRequest extends Readonly<Fingerprint>, Span {
  /** The caller's number for it, from 1, not in use. */
  readonly id: number;
  readonly method: string;
  readonly to: Endpoint;
  /** `endpointKey` of it: who sends many makes it once. */
  readonly toKey: string;
  /** Sent once, on every transport: no Timer E. */
  readonly once: boolean;
  /** `waitingFor` of `toKey`: who sends many keeps it. */
  readonly waiting?: Waiting | undefined;
  /** Instead of 64·T1 from now. What has no time left is not sent: it ends with the next timeout. */
  readonly deadline?: Instant;
}

/** `absorbed`: the transaction has had its final response, this one is to be dropped without a trace. */
export type ClientVerdict = "final" | "provisional" | "absorbed";

/** What a response is to a transaction. */
export interface ClientMatch {
  id: number;
  verdict: ClientVerdict;
}

export interface Transmission {
  id: number;
  to: Endpoint;
  octets: Uint8Array;
  start: number;
  end: number;
  retransmission: boolean;
}

/** Answered requests over UDP that are remembered for T4 (Timer K): with 100,000 requests a second T4 is a long time. */
const COMPLETED_MAX = 4_096;
/** Endpoints whose empty lists are kept: as many as there can be peers. */
const ENDPOINTS_MAX = 1_024;
const ROWS_MIN = 64;

const STATES: readonly (ClientState | undefined)[] = [undefined, "trying", "proceeding", "completed", "terminated"];
const TRYING = STATES.indexOf("trying");
const PROCEEDING = STATES.indexOf("proceeding");
const COMPLETED = STATES.indexOf("completed");
const TERMINATED = STATES.indexOf("terminated");

/** The requests that wait for one endpoint, as a list through the rows: an error of it must not cost a walk over all. */
export interface Waiting {
  first: number;
  last: number;
  /** False once it was forgotten, while it was empty: then it is of no use any more. */
  isKnown: boolean;
}

const NOBODY: Endpoint = { transport: "udp", ip: "0.0.0.0", port: 0 };

/**
 * Our requests that wait for an answer, and for T4 longer those that had one over UDP.
 *
 * @typeParam R  what the caller keeps of a request
 */
export class ClientTransactions<R extends ClientRequest = ClientRequest> {
  private readonly settings: TimerSettings;
  private readonly numbers = new NumberTable();
  private readonly waiting = new Map<string, Waiting>();
  private endpointsMax = ENDPOINTS_MAX;
  /** Timers E and F, the earlier of the two. */
  private readonly deadlines = new DeadlineRows();
  /** Timer K, which is T4 for all. */
  private readonly completed = new DeadlineRing<number>();
  /** Those that ended or were answered since the last input: their facts can still be asked for. */
  private readonly ended: number[] = [];
  private readonly transmits = new Drain();
  private readonly timeouts = new Drain();
  /** The results of `receive` and `pollTransmit`, each used again. */
  private readonly match: ClientMatch = { id: 0, verdict: "final" };
  private readonly transmission: Transmission = {
    id: 0,
    to: NOBODY,
    octets: EMPTY,
    start: 0,
    end: 0,
    retransmission: false,
  };
  private rows = 0;
  private count = 0;
  /** Rows that are not in use, chained by `chain`. */
  private free = NO_ROW;
  // One element a row.
  private high = new Uint32Array(0);
  private low = new Uint32Array(0);
  /** The next row of the same bucket. */
  private chain = new Int32Array(0);
  private older = new Int32Array(0);
  private newer = new Int32Array(0);
  private ids = new Float64Array(0);
  private startTimes = new Float64Array(0);
  /** When Timer F fires. */
  private endTimes = new Float64Array(0);
  /** Transmissions that were polled. */
  private sent = new Uint32Array(0);
  /** Index in `STATES`; 0 where the row is not in use. */
  private states = new Uint8Array(0);
  /** 1 where it stands in the transmit queue. */
  private queued = new Uint8Array(0);
  /** Until the final response, or the input after another end. */
  private readonly requests: (R | undefined)[] = [];
  /** Of the request; they are shared by many. */
  private readonly endpoints: Endpoint[] = [];
  private readonly methods: string[] = [];
  private readonly waitingIn: (Waiting | undefined)[] = [];
  private buckets = new Int32Array(0);

  /** @throws UsageError if the timers are out of bounds */
  constructor(timers: Partial<TimerSettings> = {}) {
    this.settings = timerSettings(timers);
  }

  /** Begins a transaction in "trying" and queues its first transmission (RFC 3261 §17.1.2.2). */
  start(request: R, now: Instant): void {
    const lifeMs = request.deadline === undefined ? timerF(this.settings) : request.deadline - now;
    assert(!Number.isNaN(lifeMs), "the life of a transaction is a number");
    const row = this.take();
    this.numbers.add(request.id, row);
    assert(this.rowOf(request) === NO_ROW, "a branch is used once");
    this.high[row] = request.high;
    this.low[row] = request.low;
    const bucket = this.bucketOf(request.low);
    this.chain[row] = this.buckets[bucket] as number;
    this.buckets[bucket] = row;
    this.ids[row] = request.id;
    this.startTimes[row] = now;
    this.endTimes[row] = now + lifeMs;
    this.sent[row] = 0;
    this.states[row] = TRYING;
    this.requests[row] = request;
    this.endpoints[row] = request.to;
    this.methods[row] = request.method;
    const { waiting } = request;
    this.wait(row, waiting?.isKnown === true ? waiting : this.waitingFor(request.toKey));
    if (lifeMs > 0) this.transmit(row, request, now);
    else this.deadlines.set(row, now + lifeMs);
  }

  /**
   * Finds the transaction of a response and advances it. It is matched by branch and CSeq method (RFC 3261 §17.1.3), and it
   * must come from where the request went: over UDP the same address and port, over streams the same address.
   *
   * @param branch  `branchKey` of its top Via
   * @param method  of its CSeq
   * @returns       what it is to which transaction, in an object that is used again; `undefined` for a stray response. After
   *                "final" only `attempts` and `startedAt` know the number, until the next input
   */
  receive(
    branch: Readonly<Fingerprint>,
    method: string,
    status: number,
    from: Endpoint,
    now: Instant,
  ): ClientMatch | undefined {
    this.forgetEnded();
    const row = this.rowOf(branch);
    if (row === NO_ROW || this.methods[row] !== method) return undefined;
    const to = this.endpoints[row] as Endpoint;
    if (!isFromPeer(from, to)) return undefined;
    const input = status < 200 ? "provisional" : "final";
    const { match } = this;
    match.id = this.ids[row] as number;
    match.verdict = input;
    if (this.step(row, input).action === "absorb") match.verdict = "absorbed";
    else if (input === "final") this.finish(row, to, now);
    return match;
  }

  /**
   * Octets for an endpoint did not go out, or came back (RFC 3261 §17.1.4): every request that waits for it ends.
   *
   * @returns their numbers, in the order of their start; the transaction user is told by this alone
   */
  unsent(to: Endpoint, _cause: Error, _now: Instant): number[] {
    this.forgetEnded();
    const ids: number[] = [];
    const waiting = this.waiting.get(endpointKey(to));
    for (let row = waiting?.first ?? NO_ROW; row !== NO_ROW; row = waiting?.first ?? NO_ROW) {
      this.step(row, "transport-error");
      ids.push(this.ids[row] as number);
      this.end(row);
    }
    return ids;
  }

  /**
   * Gives a request up: nothing more is sent, and a response to it will be stray.
   *
   * @returns false if it had ended already, or had its final response
   */
  cancel(id: number): boolean {
    const row = this.numbers.get(id);
    if (row === NO_ROW || !this.isWaiting(row)) return false;
    this.states[row] = TERMINATED;
    this.end(row);
    return true;
  }

  /**
   * Fires the timers that are due; then `pollTransmit` and `pollEnded` have something to say. A timer that is overdue by
   * several intervals sends once: a burst after a pause would help nobody.
   */
  handleTimeout(now: Instant): void {
    this.forgetEnded();
    for (let row = this.deadlines.take(now); row !== undefined; row = this.deadlines.take(now)) this.expire(row, now);
    for (let row = this.completed.take(now); row !== undefined; row = this.completed.take(now)) this.forget(row);
  }

  /** The next transmission, in the order in which they fell due, in an object that is used again; `undefined` when all are out. */
  pollTransmit(): Transmission | undefined {
    for (let row = this.transmits.take(this.ids); row !== NO_ROW; row = this.transmits.take(this.ids)) {
      this.queued[row] = 0;
      const request = this.requests[row];
      if (request === undefined || !this.isWaiting(row)) continue;
      const { transmission } = this;
      transmission.id = request.id;
      transmission.to = request.to;
      transmission.octets = request.octets;
      transmission.start = request.start;
      transmission.end = request.end;
      transmission.retransmission = (this.sent[row] as number) > 0;
      this.sent[row]!++;
      return transmission;
    }
    return undefined;
  }

  /** The next transaction that Timer F ended; `undefined` when all were told. */
  pollEnded(): { id: number; why: "timeout" } | undefined {
    const row = this.timeouts.take(this.ids);
    if (row === NO_ROW) return undefined;
    this.ended.push(row);
    return { id: this.ids[row] as number, why: "timeout" };
  }

  nextTimeout(): Instant | undefined {
    const active = this.deadlines.next();
    const completed = this.completed.next();
    if (active === undefined || completed === undefined) return active ?? completed;
    return Math.min(active, completed);
  }

  /** Transmissions that were polled; 0 for a number that is not known, or that ended before the last input. */
  attempts(id: number): number {
    const row = this.numbers.get(id);
    return row === NO_ROW ? 0 : (this.sent[row] as number);
  }

  /** The request with this branch that waits for its final response. */
  find(branch: Readonly<Fingerprint>): R | undefined {
    const row = this.rowOf(branch);
    return row === NO_ROW ? undefined : this.requests[row];
  }

  /** The request with this number, if it waits for its final response, or ended without one since the last input. */
  request(id: number): R | undefined {
    const row = this.numbers.get(id);
    return row === NO_ROW ? undefined : this.requests[row];
  }

  /** The list of an endpoint, for `ClientRequest.waiting`: finding it means looking at the text of its key. */
  waitingFor(toKey: string): Waiting {
    const known = this.waiting.get(toKey);
    if (known !== undefined) return known;
    this.forgetEndpoints();
    const waiting = { first: NO_ROW, last: NO_ROW, isKnown: true };
    this.waiting.set(toKey, waiting);
    return waiting;
  }

  /** Those that wait for their final response, in the order of their numbers. */
  open(): R[] {
    const open = this.requests.filter((request, row) => request !== undefined && this.isWaiting(row)) as R[];
    return open.sort((a, b) => a.id - b.id);
  }

  /** When the transaction was started; `undefined` for a number that is not known, or that ended before the last input. */
  startedAt(id: number): Instant | undefined {
    const row = this.numbers.get(id);
    return row === NO_ROW ? undefined : this.startTimes[row];
  }

  /** Transactions that are not terminated. */
  size(): number {
    return this.count;
  }

  // --- the machine -------------------------------------------------------------------------------------------------

  private step(row: number, input: ClientInput): ClientStep {
    const state = STATES[this.states[row] as number] as ClientState;
    const step = clientStep(state, input, (this.endpoints[row] as Endpoint).transport);
    if (step.state !== state) this.states[row] = STATES.indexOf(step.state);
    return step;
  }

  /** It is in "trying" or "proceeding". */
  private isWaiting(row: number): boolean {
    return this.states[row] === TRYING || this.states[row] === PROCEEDING;
  }

  private expire(row: number, now: Instant): void {
    const { action } = this.step(row, now >= (this.endTimes[row] as number) ? "timer-f" : "timer-e");
    if (action === "resend") this.transmit(row, this.requests[row] as R, now);
    if (action !== "give-up") return;
    this.detach(row);
    this.timeouts.push(row, this.ids[row] as number);
  }

  /** Queues a transmission and sets the deadline after it: Timer E, or F where that comes first. */
  private transmit(row: number, request: R, now: Instant): void {
    assert(this.isWaiting(row), "only a request without a final response is sent");
    const state = this.states[row] === TRYING ? "trying" : "proceeding";
    const sent = (this.sent[row] as number) + 1;
    const interval = request.once ? undefined : timerE(this.settings, request.to.transport, sent, state);
    const endsAt = this.endTimes[row] as number;
    this.deadlines.set(row, interval === undefined ? endsAt : Math.min(now + interval, endsAt));
    if (this.queued[row] === 1) return;
    this.queued[row] = 1;
    this.transmits.push(row, request.id);
  }

  /** After the final response: over UDP the row stays for T4, else it is gone. */
  private finish(row: number, to: Endpoint, now: Instant): void {
    if (this.states[row] !== COMPLETED) {
      this.end(row);
      return;
    }
    this.release(row);
    this.requests[row] = undefined;
    this.ended.push(row);
    this.completed.push(row, now + timerK(this.settings, to.transport));
    // A copy of the answer that comes later is a stray one, which is dropped all the same.
    const oldest = this.completed.size() > COMPLETED_MAX ? this.completed.shift() : undefined;
    if (oldest !== undefined) this.forget(oldest);
  }

  /** Timer K. */
  private forget(row: number): void {
    this.step(row, "timer-k");
    this.detach(row);
    // Answered since the last input: then the next one sees to it.
    if (this.numbers.get(this.ids[row] as number) !== row) this.discard(row);
  }

  /** It ended just now: its facts can still be asked for until the next input. */
  private end(row: number): void {
    this.detach(row);
    this.ended.push(row);
  }

  private forgetEnded(): void {
    const { ended } = this;
    for (let i = 0; i < ended.length; i++) {
      const row = ended[i] as number;
      this.numbers.delete(this.ids[row] as number);
      // One that is completed stays, by its branch alone.
      if (this.states[row] === TERMINATED) this.discard(row);
    }
    ended.length = 0;
  }

  /** No response finds it any more. */
  private detach(row: number): void {
    assert(this.states[row] === TERMINATED, "only a terminated transaction is forgotten");
    this.release(row);
    this.unchain(row);
    this.count--;
  }

  /** Nothing has to be repeated any more. */
  private release(row: number): void {
    const waiting = this.waitingIn[row];
    if (waiting === undefined) return;
    this.deadlines.delete(row);
    this.unwait(row, waiting);
  }

  // --- rows --------------------------------------------------------------------------------------------------------

  private take(): number {
    if (this.free === NO_ROW) this.grow();
    const row = this.free;
    this.free = this.chain[row] as number;
    this.count++;
    return row;
  }

  private discard(row: number): void {
    this.states[row] = 0;
    this.queued[row] = 0;
    this.ids[row] = 0;
    this.requests[row] = undefined;
    this.endpoints[row] = NOBODY;
    this.methods[row] = "";
    this.chain[row] = this.free;
    this.free = row;
  }

  private bucketOf(low: number): number {
    return low & (this.buckets.length - 1);
  }

  private rowOf({ high, low }: Readonly<Fingerprint>): number {
    if (this.rows === 0) return NO_ROW;
    let row = this.buckets[this.bucketOf(low)] as number;
    while (row !== NO_ROW && (this.low[row] !== low || this.high[row] !== high)) row = this.chain[row] as number;
    return row;
  }

  private unchain(row: number): void {
    const bucket = this.bucketOf(this.low[row] as number);
    const next = this.chain[row] as number;
    let before = this.buckets[bucket] as number;
    if (before === row) {
      this.buckets[bucket] = next;
      return;
    }
    while (this.chain[before] !== row) before = this.chain[before] as number;
    this.chain[before] = next;
  }

  private wait(row: number, waiting: Waiting): void {
    const { last } = waiting;
    this.waitingIn[row] = waiting;
    this.older[row] = last;
    this.newer[row] = NO_ROW;
    if (last === NO_ROW) waiting.first = row;
    else this.newer[last] = row;
    waiting.last = row;
  }

  private unwait(row: number, waiting: Waiting): void {
    const older = this.older[row] as number;
    const newer = this.newer[row] as number;
    if (older === NO_ROW) waiting.first = newer;
    else this.newer[older] = newer;
    if (newer === NO_ROW) waiting.last = older;
    else this.older[newer] = older;
    this.waitingIn[row] = undefined;
  }

  /** Peers come and go: the lists of those that nothing waits for are made again when they are needed. */
  private forgetEndpoints(): void {
    if (this.waiting.size < this.endpointsMax) return;
    for (const [key, waiting] of this.waiting) {
      if (waiting.first !== NO_ROW) continue;
      waiting.isKnown = false;
      this.waiting.delete(key);
    }
    // Where all of them are needed, the next look is a long way off.
    this.endpointsMax = Math.max(ENDPOINTS_MAX, this.waiting.size * 2);
  }

  /** Twice the rows; there are as many buckets. */
  private grow(): void {
    const before = this.rows;
    this.rows = Math.max(ROWS_MIN, before * 2);
    this.high = grown(this.high, new Uint32Array(this.rows));
    this.low = grown(this.low, new Uint32Array(this.rows));
    this.chain = grown(this.chain, new Int32Array(this.rows));
    this.older = grown(this.older, new Int32Array(this.rows));
    this.newer = grown(this.newer, new Int32Array(this.rows));
    this.ids = grown(this.ids, new Float64Array(this.rows));
    this.startTimes = grown(this.startTimes, new Float64Array(this.rows));
    this.endTimes = grown(this.endTimes, new Float64Array(this.rows));
    this.sent = grown(this.sent, new Uint32Array(this.rows));
    this.states = grown(this.states, new Uint8Array(this.rows));
    this.queued = grown(this.queued, new Uint8Array(this.rows));
    this.deadlines.grow(this.rows);
    for (let row = before; row < this.rows; row++) {
      this.requests.push(undefined);
      this.endpoints.push(NOBODY);
      this.methods.push("");
      this.waitingIn.push(undefined);
    }
    this.rehash(before);
    for (let row = this.rows - 1; row >= before; row--) {
      this.chain[row] = this.free;
      this.free = row;
    }
  }

  /** Puts those that a response may still find into new buckets; all rows are in use. */
  private rehash(used: number): void {
    this.buckets = new Int32Array(this.rows).fill(NO_ROW);
    for (let row = 0; row < used; row++) {
      if (this.states[row] === TERMINATED) continue;
      const bucket = this.bucketOf(this.low[row] as number);
      this.chain[row] = this.buckets[bucket] as number;
      this.buckets[bucket] = row;
    }
  }
}

/** A stream is one peer whatever its port: it may answer over a connection that it opened (RFC 3261 §18.2.2). */
function isFromPeer(from: Endpoint, to: Endpoint): boolean {
  if (isReliable(to.transport)) return from.transport === to.transport && from.ip === to.ip;
  return sameEndpoint(from, to);
}

/** Rows first in, first out, emptied between two inputs; a row that was used for another number since then is left out. */
class Drain {
  private readonly rows: number[] = [];
  private readonly ids: number[] = [];
  private head = 0;

  push(row: number, id: number): void {
    this.rows.push(row);
    this.ids.push(id);
  }

  /** @param ids  numbers of the rows as they are now */
  take(ids: Float64Array): number {
    while (this.head < this.rows.length) {
      const row = this.rows[this.head] as number;
      if (this.ids[this.head++] === ids[row]) return row;
    }
    if (this.head > 0) {
      this.rows.length = 0;
      this.ids.length = 0;
      this.head = 0;
    }
    return NO_ROW;
  }
}
