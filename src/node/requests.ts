/**
 * Requests of ours on their way: a window and a bounded queue for each peer, one client transaction for each request in
 * flight, exactly one end for each.
 *
 * Notifications and echoes do not wait in the queue: they are few, and a peer with a full queue is just the one to be pinged.
 */
import { assert } from "../core/assert.ts";
import { copyOf, type Span } from "../core/bytes.ts";
import { DeadlineQueue } from "../core/deadline-queue.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { OctetStore } from "../core/octet-store.ts";
import type { Instant } from "../core/time.ts";
import { type ClientRequest, ClientTransactions, type Waiting } from "../transaction/clients.ts";
import type { Fingerprint } from "../transaction/key.ts";

/** `echo`: an operator's ping, of which nothing follows for the membership. */
export type RequestKind = "message" | "replica" | "echo" | "ping" | "join" | "probe" | "relay" | "leave";

/** What `submit` is given; `high` and `low` are the key of its branch. */
export interface NewRequest extends Omit<ClientRequest, "waiting"> {
  readonly kind: RequestKind;
  /** Key of the peer or hint. */
  readonly peerKey: string;
  /** The peer, where it is known as one object: its window is found without a look at its key. */
  readonly peer?: object | undefined;
  readonly peerUri: string;
  /** Place of the octets in `Requests.store`, `OWN` where they do not stand there. */
  readonly place: number;
  /** Via values in it: a response with another number went a way that we did not send it. */
  readonly vias: number;
  readonly startedAt: Instant;
  readonly deadline: Instant;
}

/** The octets of a request belong to nobody else. */
export const OWN = -1;

/** One object a request, all of one shape: they are what the engine reads most often. */
export class OutgoingRequest implements NewRequest {
  readonly id: number;
  readonly kind: RequestKind;
  readonly peerKey: string;
  readonly peerUri: string;
  readonly to: Endpoint;
  readonly toKey: string;
  readonly high: number;
  readonly low: number;
  readonly method: string;
  readonly vias: number;
  readonly once: boolean;
  readonly startedAt: Instant;
  readonly deadline: Instant;
  octets: Uint8Array;
  start: number;
  end: number;
  place: number;
  /** Transmissions, once a response ended it. */
  attempts = 0;
  sent = false;
  over = false;
  /** Where it takes turns, if it does. */
  lane: Lane | undefined = undefined;
  waiting: Waiting | undefined = undefined;

  constructor(request: NewRequest) {
    this.id = request.id;
    this.kind = request.kind;
    this.peerKey = request.peerKey;
    this.peerUri = request.peerUri;
    this.to = request.to;
    this.toKey = request.toKey;
    this.high = request.high;
    this.low = request.low;
    this.method = request.method;
    this.vias = request.vias;
    this.once = request.once;
    this.startedAt = request.startedAt;
    this.deadline = request.deadline;
    this.octets = request.octets;
    this.start = request.start;
    this.end = request.end;
    this.place = request.place;
  }
}

/** Why a request is over, other than by a response. */
export type RequestEnd =
  | { type: "timeout" }
  | { type: "unreachable"; reason: string }
  | { type: "overloaded" }
  | { type: "cancelled" };

export interface EndedRequest {
  request: OutgoingRequest;
  end: RequestEnd;
  attempts: number;
}

export interface RequestLimits {
  /** Requests in flight to one peer. */
  window: number;
  /** Messages that wait behind a full window, and their octets. */
  queueMessages: number;
  queueBytes: number;
}

/** The window and the queue of one peer, and the requests that wait for the endpoint that it was at last. */
interface Lane {
  inFlight: number;
  queuedBytes: number;
  toKey: string;
  waiting: Waiting | undefined;
  readonly queue: OutgoingRequest[];
}

/** Lanes that are kept while they are empty: as many as there can be peers. */
const LANES_MAX = 1_024;

export class Requests {
  retransmissions = 0;
  sent = 0;
  /** Where requests are written that may soon be answered; what waits longer is copied. */
  readonly store = new OctetStore();
  private readonly transactions = new ClientTransactions<OutgoingRequest>();
  private readonly lanes = new Map<string, Lane>();
  /** The same by the peers themselves: the keys of a thousand are never in the cache. */
  private readonly lanesOf = new Map<object, Lane>();
  private lanesMax = LANES_MAX;
  /** Unanswered notifications of each peer. */
  private readonly pinging = new Map<string, number>();
  /** Those that wait behind a full window. */
  private readonly queued = new Map<number, OutgoingRequest>();
  private readonly queuedUntil = new DeadlineQueue<number>();
  private readonly ended: EndedRequest[] = [];
  private readonly limits: RequestLimits;
  private lastId = 0;
  private open = 0;

  constructor(limits: RequestLimits) {
    this.limits = limits;
  }

  /** The number of the next request; `submit` takes it, so that a caller knows it even where nothing could be sent. */
  nextId(): number {
    return ++this.lastId;
  }

  submit(entry: NewRequest, now: Instant): void {
    const request = new OutgoingRequest(entry);
    this.open++;
    if (!takesTurns(request)) {
      this.launch(request, now);
      return;
    }
    const lane = (entry.peer && this.lanesOf.get(entry.peer)) ?? this.lane(request.peerKey, entry.peer);
    request.lane = lane;
    if (lane.inFlight < this.limits.window) {
      lane.inFlight++;
      this.launch(request, now);
    } else if (
      lane.queue.length < this.limits.queueMessages &&
      lane.queuedBytes + sizeOf(request) <= this.limits.queueBytes
    ) {
      this.keep(request);
      lane.queue.push(request);
      lane.queuedBytes += sizeOf(request);
      this.queued.set(request.id, request);
      this.queuedUntil.set(request.id, request.deadline);
    } else {
      this.open--;
      this.release(request);
      this.ended.push({ request, end: { type: "overloaded" }, attempts: 0 });
    }
  }

  /** The request that waits for a response with this branch (`branchKey`). */
  waiting(branch: Readonly<Fingerprint>): OutgoingRequest | undefined {
    return this.transactions.find(branch);
  }

  /** A response came in. Returns the request when it is over by it. */
  receive(
    branch: Readonly<Fingerprint>,
    method: string,
    status: number,
    vias: number,
    from: Endpoint,
    now: Instant,
  ): OutgoingRequest | "absorbed" | undefined {
    const waiting = this.transactions.find(branch);
    // RFC 3261 §8.1.3.3: what we sent with so many Vias comes back with so many.
    if (waiting !== undefined && waiting.vias !== vias) return undefined;
    const match = this.transactions.receive(branch, method, status, from, now);
    if (match === undefined) return undefined;
    if (match.verdict !== "final" || waiting === undefined) return "absorbed";
    waiting.attempts = this.transactions.attempts(match.id);
    this.finish(waiting, now);
    return waiting;
  }

  /**
   * The network refused octets to this endpoint: everything in flight to it ends, and what is queued has its turn. A
   * request of which an earlier transmission went out may have arrived: that is a timeout, not a certain no.
   */
  unsent(to: Endpoint, cause: Error, now: Instant): void {
    const refused = this.transactions.unsent(to, cause, now).map((id) => this.transactions.request(id));
    for (const request of refused) {
      assert(request !== undefined, "what has ended just now can still be asked for");
      const certain = this.transactions.attempts(request.id) <= 1;
      this.end(request, certain ? { type: "unreachable", reason: cause.message } : { type: "timeout" }, now);
    }
  }

  cancel(id: number, now: Instant): boolean {
    const request = this.queued.get(id) ?? this.transactions.request(id);
    if (request === undefined || request.over) return false;
    this.transactions.cancel(id);
    this.end(request, { type: "cancelled" }, now);
    return true;
  }

  /** Ends everything to one peer, or, without a key, everything there is. */
  cancelAll(now: Instant, peerKey?: string): void {
    const all = [...this.transactions.open(), ...this.queued.values()].sort((a, b) => a.id - b.id);
    for (const request of all) if (peerKey === undefined || request.peerKey === peerKey) this.cancel(request.id, now);
  }

  /** True if a notification to this peer is still unanswered. */
  isPinging(peerKey: string): boolean {
    return this.pinging.has(peerKey);
  }

  handleTimeout(now: Instant): void {
    // First those that wait: what ends in flight would launch them at the very end of their time.
    for (let id = this.queuedUntil.take(now); id !== undefined; id = this.queuedUntil.take(now))
      this.end(this.queued.get(id), { type: "timeout" }, now);
    this.transactions.handleTimeout(now);
    for (let over = this.transactions.pollEnded(); over !== undefined; over = this.transactions.pollEnded())
      this.end(this.transactions.request(over.id), { type: "timeout" }, now);
  }

  /** The next transmission, in an object that is used again. */
  pollTransmit(): ({ readonly to: Endpoint } & Span) | undefined {
    const next = this.transactions.pollTransmit();
    if (next === undefined) return undefined;
    if (next.retransmission) {
      this.retransmissions++;
      // One that is not answered soon may wait for long: it must not keep a whole piece of memory from being used again.
      const request = this.transactions.request(next.id);
      if (request !== undefined) {
        this.keep(request);
        next.octets = request.octets;
        next.start = request.start;
        next.end = request.end;
      }
    } else this.sent++;
    return next;
  }

  pollEnded(): EndedRequest | undefined {
    return this.ended.length === 0 ? undefined : this.ended.shift();
  }

  nextTimeout(): Instant | undefined {
    const a = this.transactions.nextTimeout();
    const b = this.queuedUntil.next();
    return a === undefined ? b : b === undefined ? a : Math.min(a, b);
  }

  load(peerKey: string): { inFlight: number; queued: number } {
    const lane = this.lanes.get(peerKey);
    return { inFlight: lane?.inFlight ?? 0, queued: lane?.queue.length ?? 0 };
  }

  /** Requests without an end yet. */
  get size(): number {
    return this.open;
  }

  private lane(peerKey: string, peer: object | undefined): Lane {
    let lane = this.lanes.get(peerKey);
    if (lane === undefined) {
      this.forgetLanes();
      lane = { inFlight: 0, queuedBytes: 0, toKey: "", waiting: undefined, queue: [] };
      this.lanes.set(peerKey, lane);
    }
    // A peer that was removed and came back is another object with the same window.
    if (this.lanesOf.size >= this.lanesMax) this.lanesOf.clear();
    if (peer !== undefined) this.lanesOf.set(peer, lane);
    return lane;
  }

  private waitingIn(lane: Lane, toKey: string): Waiting {
    if (lane.waiting?.isKnown === true && lane.toKey === toKey) return lane.waiting;
    lane.toKey = toKey;
    lane.waiting = this.transactions.waitingFor(toKey);
    return lane.waiting;
  }

  /** Peers come and go: a lane that nothing is in is made again when it is needed. */
  private forgetLanes(): void {
    if (this.lanes.size < this.lanesMax) return;
    this.lanesOf.clear();
    for (const [key, { inFlight, queue }] of this.lanes) if (inFlight + queue.length === 0) this.lanes.delete(key);
    // Where all of them are needed, the next look is a long way off.
    this.lanesMax = Math.max(LANES_MAX, this.lanes.size * 2);
  }

  private launch(request: OutgoingRequest, now: Instant): void {
    request.sent = true;
    if (request.lane !== undefined) request.waiting = this.waitingIn(request.lane, request.toKey);
    if (isNotification(request)) this.pinging.set(request.peerKey, (this.pinging.get(request.peerKey) ?? 0) + 1);
    this.transactions.start(request, now);
  }

  private end(request: OutgoingRequest | undefined, end: RequestEnd, now: Instant): void {
    if (request === undefined || request.over) return;
    const attempts = this.transactions.attempts(request.id);
    this.finish(request, now);
    this.ended.push({ request, end, attempts: request.sent ? Math.max(1, attempts) : 0 });
  }

  private finish(request: OutgoingRequest, now: Instant): void {
    request.over = true;
    this.open--;
    this.release(request);
    if (request.lane !== undefined) this.leaveLane(request, request.lane, now);
    else if (isNotification(request)) this.settlePing(request.peerKey);
  }

  /** Its octets stand for themselves from now on. */
  private keep(request: OutgoingRequest): void {
    if (request.place === OWN) return;
    request.octets = copyOf(request.octets, request.start, request.end);
    request.end -= request.start;
    request.start = 0;
    this.release(request);
  }

  private release(request: OutgoingRequest): void {
    if (request.place !== OWN) this.store.release(request.place);
    request.place = OWN;
  }

  private settlePing(peerKey: string): void {
    const open = (this.pinging.get(peerKey) ?? 1) - 1;
    if (open === 0) this.pinging.delete(peerKey);
    else this.pinging.set(peerKey, open);
  }

  private leaveLane(request: OutgoingRequest, lane: Lane, now: Instant): void {
    if (!request.sent) {
      this.unqueue(request, lane);
      lane.queue.splice(lane.queue.indexOf(request), 1);
      return;
    }
    lane.inFlight--;
    // Where no octets wait, nothing does.
    while (lane.queuedBytes > 0 && lane.inFlight < this.limits.window) {
      const next = lane.queue.shift() as OutgoingRequest;
      this.unqueue(next, lane);
      lane.inFlight++;
      this.launch(next, now);
    }
  }

  private unqueue(request: OutgoingRequest, lane: Lane): void {
    this.queued.delete(request.id);
    this.queuedUntil.delete(request.id);
    lane.queuedBytes -= sizeOf(request);
  }
}

function sizeOf({ start, end }: Span): number {
  return end - start;
}

/** What has its turn in the window and the queue of its peer. */
function takesTurns({ kind }: { readonly kind: RequestKind }): boolean {
  return kind === "message" || kind === "replica";
}

/** What belongs to the membership: its end says something about the peer. */
export function isNotification(request: { readonly kind: RequestKind }): boolean {
  return !takesTurns(request) && request.kind !== "echo";
}
