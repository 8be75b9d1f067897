/**
 * Requests that came in: tells a new one from a retransmission, keeps what it was answered for as long as copies of it may
 * come, and what it waits for until then (RFC 3261 §17.2.2, §17.2.3).
 *
 * Transactions are rows of typed arrays and not objects, because there is one for every message of a busy node. A row is found
 * by the fingerprint of its key; the waiting and the answered ones are two lists through the rows, oldest first, so that
 * nothing has a timer and every call costs the same however many there are. Their number and the octets of their answers are
 * bounded: whoever floods us shortens the memory, he does not grow it.
 *
 * A failed transmission of an answer ends no transaction here, although Figure 8 has such an arrow: an error on the shared UDP
 * socket may belong to another peer, and the handler would run a second time for the next retransmission.
 */
import { assert } from "../core/assert.ts";
import { EMPTY } from "../core/bytes.ts";
import { type Endpoint, isReliable, type Transport } from "../core/endpoint.ts";
import { UsageError } from "../core/errors.ts";
import type { OctetStore } from "../core/octet-store.ts";
import { grown, NO_ROW } from "../core/rows.ts";
import type { Instant } from "../core/time.ts";
import type { Fingerprint } from "./key.ts";
import { isAnswerStatus, isEarlyTrying, type ServerState, serverStep } from "./server.ts";
import { type TimerSettings, timerJ, timerSettings } from "./timers.ts";

/** What goes out again when a request comes again: `flow` as the answer had it. */
export interface StoredAnswer {
  readonly to: Endpoint;
  readonly flow: number;
  /** Empty where `form` is not 0. */
  readonly bytes: Uint8Array;
  /** The caller's number for an answer that is written anew from the copy of its request; 0 where its octets were kept. */
  readonly form: number;
}

/** Octets of answers that are kept for retransmissions, unless the constructor is told otherwise. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;
const ROWS_MIN = 64;
/** The tables that were outgrown wait half a minute for the collector: by doubling they would be as much as the last ones. */
const GROWTH = 16;

/** A list through the rows: `first` is the oldest. */
interface RowList {
  first: number;
  last: number;
}

/** Rows hold numbers and no objects: what an old array points to is looked at by every run of the collector. */
const STATES: readonly (ServerState | undefined)[] = [undefined, "trying", "proceeding", "completed", "terminated"];
const TRYING = STATES.indexOf("trying");
const PROCEEDING = STATES.indexOf("proceeding");
const TRANSPORTS: readonly Transport[] = ["udp", "tcp", "tls"];

/** Endpoints by numbers, each once, for as long as somebody keeps its number. */
class Endpoints {
  private readonly numbers = new Map<Endpoint, number>();
  private readonly endpoints: (Endpoint | undefined)[] = [];
  private readonly kept: number[] = [];
  private readonly unused: number[] = [];

  keep(endpoint: Endpoint): number {
    let number = this.numbers.get(endpoint);
    if (number === undefined) {
      number = this.unused.pop() ?? this.endpoints.length;
      this.endpoints[number] = endpoint;
      this.kept[number] = 0;
      this.numbers.set(endpoint, number);
    }
    this.kept[number]!++;
    return number;
  }

  get(number: number): Endpoint {
    return this.endpoints[number] as Endpoint;
  }

  release(number: number): void {
    if (--this.kept[number]! > 0) return;
    this.numbers.delete(this.endpoints[number] as Endpoint);
    this.endpoints[number] = undefined;
    this.unused.push(number);
  }
}

/**
 * What is noted of rows. Nearly every note is taken before the next one is made, by a handler that ends at once: that one has
 * a place of its own, because a Map makes new memory every few times that something is put in and taken out.
 */
class Notes<T> {
  private row = NO_ROW;
  private note: T | undefined;
  private readonly others = new Map<number, T>();

  get size(): number {
    return this.others.size + (this.row === NO_ROW ? 0 : 1);
  }

  set(row: number, note: T): void {
    if (this.row !== NO_ROW && this.row !== row) this.others.set(this.row, this.note as T);
    this.row = row;
    this.note = note;
  }

  get(row: number): T | undefined {
    return row === this.row ? this.note : this.others.get(row);
  }

  delete(row: number): void {
    if (row === this.row) {
      this.row = NO_ROW;
      this.note = undefined;
    } else if (this.others.size > 0) this.others.delete(row);
  }
}

/** @typeParam T  what the transaction user notes of a request that waits for its answer */
export class ServerTransactions<T> {
  /** Of the retransmission that `receive` found last: what it was answered, if it was. */
  repeated: StoredAnswer | undefined;
  /** Called with a note that nobody took before its transaction was forgotten. */
  onLost: ((note: T) => void) | undefined;
  private readonly limit: number;
  private readonly answerBytesMax: number;
  private readonly settings: TimerSettings;
  private readonly waiting: RowList = { first: NO_ROW, last: NO_ROW };
  private readonly completed: RowList = { first: NO_ROW, last: NO_ROW };
  private rows = 0;
  private count = 0;
  private answerBytes = 0;
  /** Rows that are not in use, chained by `newer`. */
  private free = NO_ROW;
  // One element a row.
  private high = new Uint32Array(0);
  private low = new Uint32Array(0);
  private startedAt = new Float64Array(0);
  private dueAt = new Float64Array(0);
  private older = new Int32Array(0);
  private newer = new Int32Array(0);
  /** The next row of the same bucket. */
  private chain = new Int32Array(0);
  /** How often the row was used: part of the number, so that an old number finds nothing. */
  private uses = new Uint32Array(0);
  /** Index in `STATES`; 0 where the row is not in use. */
  private states = new Uint8Array(0);
  /** Index in `TRANSPORTS`. */
  private transports = new Uint8Array(0);
  private readonly notes = new Notes<T>();
  /** Where the answer stands in the store, its length (0 where there is none), where it went and over which flow. */
  private place = new Float64Array(0);
  private lengths = new Uint32Array(0);
  /** The caller's number for how the answer looks; 0 where its octets are kept, or there is none. */
  private forms = new Uint8Array(0);
  private flows = new Float64Array(0);
  private destinations = new Uint32Array(0);
  private readonly endpoints = new Endpoints();
  private readonly store: OctetStore;
  private buckets = new Int32Array(0);

  /**
   * @param limit           transactions at most; for a new one above it the oldest completed one goes, else the oldest
   * @param store           where the callers' answers stand
   * @param answerBytesMax  octets of final answers at most; above it the oldest completed transactions go
   * @throws UsageError     if the timers are out of bounds or the limit is below 1
   */
  constructor(
    limit: number,
    store: OctetStore,
    timers: Partial<TimerSettings> = {},
    answerBytesMax: number = ANSWER_BYTES_MAX,
  ) {
    if (!(limit >= 1)) throw new UsageError(`limit of server transactions must be 1 or more, got ${limit}`);
    this.limit = limit;
    this.store = store;
    this.answerBytesMax = answerBytesMax;
    this.settings = timerSettings(timers);
  }

  /**
   * Tells a new request from a retransmission (RFC 3261 §17.2.2, §17.2.3).
   *
   * @param key        of the request
   * @param transport  that it came over; it decides about Timer J
   * @returns          the number of a new transaction; 0 for a retransmission, whose answer is in `repeated`
   */
  receive(key: Fingerprint, transport: Transport, now: Instant): number {
    const known = this.find(key);
    if (known !== NO_ROW) {
      this.repeated = this.answerAgain(known);
      return 0;
    }
    if (this.count >= this.limit) this.evict();
    const row = this.take();
    this.high[row] = key.high;
    this.low[row] = key.low;
    this.startedAt[row] = now;
    this.dueAt[row] = now + timerJ(this.settings, "udp") + this.settings.t4Ms;
    this.states[row] = TRYING;
    this.transports[row] = TRANSPORTS.indexOf(transport);
    this.chain[row] = this.buckets[this.bucketOf(key.low)] as number;
    this.buckets[this.bucketOf(key.low)] = row;
    this.append(this.waiting, row);
    return this.numberOf(row);
  }

  /** Notes what belongs to a request that waits. */
  note(id: number, note: T): void {
    const row = this.waitingRow(id);
    if (row !== NO_ROW) this.notes.set(row, note);
  }

  /** Notes that were made and not taken. */
  get noted(): number {
    return this.notes.size;
  }

  /** What was noted, `undefined` if the request was answered, forgotten, or had no note. It is given once. */
  takeNote(id: number): T | undefined {
    const row = this.waitingRow(id);
    if (row === NO_ROW) return undefined;
    const note = this.notes.get(row);
    this.notes.delete(row);
    return note;
  }

  /**
   * Records the transaction user's answer, which the caller then sends. Over UDP it is kept for Timer J; over streams a final
   * answer ends the transaction at once.
   *
   * @param place      of the answer in the store, which is released here when it is not needed any more
   * @param length     octets of it, more than 0
   * @param form       1 to 255 for an answer that the caller can write anew from a copy of its request: then this is all that
   *                   is kept of it, and `place` and `length` mean nothing
   * @returns          true if the answer is to be sent; false if the number is unknown (evicted, answered on a stream),
   *                   already has a final answer, or a 100 would be too early for UDP (RFC 4320 §4.1)
   * @throws UsageError for a status that RFC 4320 forbids: 408, and any provisional one but 100
   */
  respond(
    id: number,
    status: number,
    place: number,
    length: number,
    to: Endpoint,
    flow: number,
    now: Instant,
    form = 0,
  ): boolean {
    if (!isAnswerStatus(status)) throw new UsageError(`a non-INVITE request is never answered ${status} (RFC 4320)`);
    const row = this.waitingRow(id);
    if (row === NO_ROW || this.isTooEarly(row, status, now)) {
      if (form === 0) this.store.release(place);
      return false;
    }
    const input = status === 100 ? "provisional" : "final";
    const step = serverStep(this.stateOf(row), input, this.transportOf(row));
    this.states[row] = STATES.indexOf(step.state);
    this.drop(row);
    if (step.state !== "terminated") this.keep(row, place, form === 0 ? length : 0, form, to, flow);
    else if (form === 0) this.store.release(place);
    if (status !== 100) this.finish(row, now);
    return true;
  }

  /** Forgets the transactions whose Timer J is due, and those that nobody answered for as long. */
  handleTimeout(now: Instant): void {
    for (const list of [this.completed, this.waiting])
      while (list.first !== NO_ROW && (this.dueAt[list.first] as number) <= now) this.forget(list, list.first);
  }

  nextTimeout(): Instant | undefined {
    const completed = this.completed.first === NO_ROW ? undefined : this.dueAt[this.completed.first];
    const waiting = this.waiting.first === NO_ROW ? undefined : this.dueAt[this.waiting.first];
    if (completed === undefined || waiting === undefined) return completed ?? waiting;
    return Math.min(completed, waiting);
  }

  /** Transactions that are not terminated. */
  size(): number {
    return this.count;
  }

  // --- answers -----------------------------------------------------------------------------------------------------

  private answerAgain(row: number): StoredAnswer | undefined {
    const step = serverStep(this.stateOf(row), "request", this.transportOf(row));
    if (step.action !== "resend" || !this.isKept(row)) return undefined;
    const form = this.forms[row] as number;
    const bytes = form === 0 ? this.store.view(this.place[row] as number, this.lengths[row] as number) : EMPTY;
    return { to: this.endpoints.get(this.destinations[row] as number), flow: this.flows[row] as number, bytes, form };
  }

  private isTooEarly(row: number, status: number, now: Instant): boolean {
    const waited = now - (this.startedAt[row] as number);
    return status === 100 && isEarlyTrying(this.settings, this.transportOf(row), waited);
  }

  private stateOf(row: number): ServerState {
    return STATES[this.states[row] as number] as ServerState;
  }

  private transportOf(row: number): Transport {
    return TRANSPORTS[this.transports[row] as number] as Transport;
  }

  /** Something is known of its answer. */
  private isKept(row: number): boolean {
    return this.lengths[row] !== 0 || this.forms[row] !== 0;
  }

  private keep(row: number, place: number, length: number, form: number, to: Endpoint, flow: number): void {
    this.place[row] = place;
    this.lengths[row] = length;
    this.forms[row] = form;
    this.destinations[row] = this.endpoints.keep(to);
    this.flows[row] = flow;
    this.answerBytes += length;
  }

  private drop(row: number): void {
    if (!this.isKept(row)) return;
    this.answerBytes -= this.lengths[row] as number;
    if (this.forms[row] === 0) this.store.release(this.place[row] as number);
    this.lengths[row] = 0;
    this.forms[row] = 0;
    this.endpoints.release(this.destinations[row] as number);
  }

  /**
   * Over UDP the transaction stays for 64·T1 and T4, else it is gone. RFC 3261 has Timer J alone; but the last copy leaves
   * the client 31.5 s after the first (Timer E) and may be under way for T4, and it must not run a handler again.
   */
  private finish(row: number, now: Instant): void {
    this.loseNote(row);
    if (isReliable(this.transportOf(row))) {
      this.forget(this.waiting, row);
      return;
    }
    this.unlink(this.waiting, row);
    this.dueAt[row] = now + timerJ(this.settings, "udp") + this.settings.t4Ms;
    this.append(this.completed, row);
    while (this.answerBytes > this.answerBytesMax && this.completed.first !== NO_ROW)
      this.forget(this.completed, this.completed.first);
  }

  private loseNote(row: number): void {
    const note = this.notes.get(row);
    if (note === undefined) return;
    this.notes.delete(row);
    this.onLost?.(note);
  }

  private evict(): void {
    const list = this.completed.first === NO_ROW ? this.waiting : this.completed;
    assert(list.first !== NO_ROW, "a full table holds a transaction");
    this.forget(list, list.first);
  }

  private forget(list: RowList, row: number): void {
    this.unlink(list, row);
    this.unchain(row);
    this.drop(row);
    this.loseNote(row);
    this.states[row] = 0;
    this.newer[row] = this.free;
    this.free = row;
    this.count--;
  }

  // --- rows --------------------------------------------------------------------------------------------------------

  /** Row and use: exact up to 2^53, as a row is used 2^32 times at most. */
  private numberOf(row: number): number {
    return (this.uses[row] as number) * this.limit + row + 1;
  }

  private waitingRow(id: number): number {
    const row = (id - 1) % this.limit;
    const isWaiting = row < this.rows && (this.states[row] === TRYING || this.states[row] === PROCEEDING);
    return isWaiting && this.numberOf(row) === id ? row : NO_ROW;
  }

  private take(): number {
    if (this.free === NO_ROW) this.grow();
    const row = this.free;
    this.free = this.newer[row] as number;
    this.uses[row]!++;
    this.count++;
    return row;
  }

  private bucketOf(low: number): number {
    return low & (this.buckets.length - 1);
  }

  private find(key: Fingerprint): number {
    if (this.rows === 0) return NO_ROW;
    let row = this.buckets[this.bucketOf(key.low)] as number;
    while (row !== NO_ROW && (this.low[row] !== key.low || this.high[row] !== key.high))
      row = this.chain[row] as number;
    return row;
  }

  private unchain(row: number): void {
    const bucket = this.bucketOf(this.low[row] as number);
    if (this.buckets[bucket] === row) {
      this.buckets[bucket] = this.chain[row] as number;
      return;
    }
    let before = this.buckets[bucket] as number;
    while (this.chain[before] !== row) before = this.chain[before] as number;
    this.chain[before] = this.chain[row] as number;
  }

  private append(list: RowList, row: number): void {
    this.older[row] = list.last;
    this.newer[row] = NO_ROW;
    if (list.last === NO_ROW) list.first = row;
    else this.newer[list.last] = row;
    list.last = row;
  }

  private unlink(list: RowList, row: number): void {
    const older = this.older[row] as number;
    const newer = this.newer[row] as number;
    if (older === NO_ROW) list.first = newer;
    else this.newer[older] = newer;
    if (newer === NO_ROW) list.last = older;
    else this.older[newer] = older;
  }

  /** `GROWTH` times the rows, up to the limit; buckets are as many as the next power of two. */
  private grow(): void {
    const before = this.rows;
    this.rows = Math.min(this.limit, Math.max(ROWS_MIN, before * GROWTH));
    this.high = grown(this.high, new Uint32Array(this.rows));
    this.low = grown(this.low, new Uint32Array(this.rows));
    this.startedAt = grown(this.startedAt, new Float64Array(this.rows));
    this.dueAt = grown(this.dueAt, new Float64Array(this.rows));
    this.older = grown(this.older, new Int32Array(this.rows));
    this.newer = grown(this.newer, new Int32Array(this.rows));
    this.chain = grown(this.chain, new Int32Array(this.rows));
    this.uses = grown(this.uses, new Uint32Array(this.rows));
    this.states = grown(this.states, new Uint8Array(this.rows));
    this.transports = grown(this.transports, new Uint8Array(this.rows));
    this.destinations = grown(this.destinations, new Uint32Array(this.rows));
    this.place = grown(this.place, new Float64Array(this.rows));
    this.lengths = grown(this.lengths, new Uint32Array(this.rows));
    this.forms = grown(this.forms, new Uint8Array(this.rows));
    this.flows = grown(this.flows, new Float64Array(this.rows));
    for (let row = this.rows - 1; row >= before; row--) {
      this.newer[row] = this.free;
      this.free = row;
    }
    this.rehash(before);
  }

  private rehash(used: number): void {
    this.buckets = new Int32Array(2 ** Math.ceil(Math.log2(this.rows))).fill(NO_ROW);
    for (let row = 0; row < used; row++) {
      if (this.states[row] === 0) continue;
      const bucket = this.bucketOf(this.low[row] as number);
      this.chain[row] = this.buckets[bucket] as number;
      this.buckets[bucket] = row;
    }
  }
}
