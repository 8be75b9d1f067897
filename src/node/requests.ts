/**
 * Requests of ours on their way: a window and a bounded queue for each peer, one client transaction for each request in
 * flight, exactly one end for each.
 *
 * Notifications and echoes do not wait in the queue: they are few, and a peer with a full queue is just the one to be pinged.
 */
import { DeadlineQueue } from "../core/deadline-queue.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { Instant } from "../core/time.ts";
import { ClientTransactions } from "../transaction/clients.ts";

/** `echo`: an operator's ping, of which nothing follows for the membership. */
export type RequestKind = "message" | "replica" | "echo" | "ping" | "join" | "probe" | "relay" | "leave";

export interface OutgoingRequest {
  readonly id: number;
  readonly kind: RequestKind;
  /** Key of the peer or hint. */
  readonly peerKey: string;
  readonly peerUri: string;
  readonly to: Endpoint;
  readonly branch: string;
  readonly bytes: Uint8Array;
  readonly method: string;
  /** Via values in it: a response with another number went a way that we did not send it. */
  readonly vias: number;
  /** Never repeated. */
  readonly once: boolean;
  readonly toKey: string;
  readonly startedAt: Instant;
  readonly deadline: Instant;
  sent: boolean;
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

interface Lane {
  inFlight: number;
  queue: OutgoingRequest[];
  queuedBytes: number;
}

export class Requests {
  retransmissions = 0;
  sent = 0;
  private readonly transactions = new ClientTransactions();
  private readonly live = new Map<number, OutgoingRequest>();
  private readonly lanes = new Map<string, Lane>();
  /** Unanswered notifications of each peer. */
  private readonly pinging = new Map<string, number>();
  private readonly queuedUntil = new DeadlineQueue<number>();
  private readonly ended: EndedRequest[] = [];
  private readonly limits: RequestLimits;
  private lastId = 0;

  constructor(limits: RequestLimits) {
    this.limits = limits;
  }

  /** The number of the next request; `submit` takes it, so that a caller knows it even where nothing could be sent. */
  nextId(): number {
    return ++this.lastId;
  }

  submit(entry: OutgoingRequest, now: Instant): void {
    if (!takesTurns(entry)) {
      this.live.set(entry.id, entry);
      this.launch(entry, now);
      return;
    }
    const lane = this.lane(entry.peerKey);
    if (lane.inFlight < this.limits.window) {
      this.live.set(entry.id, entry);
      lane.inFlight++;
      this.launch(entry, now);
    } else if (
      lane.queue.length < this.limits.queueMessages &&
      lane.queuedBytes + entry.bytes.length <= this.limits.queueBytes
    ) {
      this.live.set(entry.id, entry);
      lane.queue.push(entry);
      lane.queuedBytes += entry.bytes.length;
      this.queuedUntil.set(entry.id, entry.deadline);
    } else {
      this.ended.push({ request: entry, end: { type: "overloaded" }, attempts: 0 });
    }
  }

  /** The request that waits for a response with this branch. */
  waiting(branch: string): OutgoingRequest | undefined {
    return this.live.get(this.transactions.find(branch) ?? 0);
  }

  /** A response came in. Returns the request when it is over by it. */
  receive(
    response: { branch: string; method: string; status: number; vias: number; from: Endpoint },
    now: Instant,
  ): { request: OutgoingRequest; attempts: number } | "absorbed" | undefined {
    const waiting = this.waiting(response.branch);
    // RFC 3261 §8.1.3.3: what we sent with so many Vias comes back with so many.
    if (waiting !== undefined && waiting.vias !== response.vias) return undefined;
    const match = this.transactions.receive(response, now);
    if (match === undefined) return undefined;
    if (match.verdict !== "final") return "absorbed";
    const attempts = this.transactions.attempts(match.id);
    const request = this.finish(match.id, now);
    return request === undefined ? "absorbed" : { request, attempts };
  }

  /**
   * The network refused octets to this endpoint: everything in flight to it ends, and what is queued has its turn. A
   * request of which an earlier transmission went out may have arrived: that is a timeout, not a certain no.
   */
  unsent(to: Endpoint, cause: Error, now: Instant): void {
    for (const id of this.transactions.unsent(to, cause, now)) {
      const certain = this.transactions.attempts(id) <= 1;
      this.end(id, certain ? { type: "unreachable", reason: cause.message } : { type: "timeout" }, now);
    }
  }

  cancel(id: number, now: Instant): boolean {
    if (!this.live.has(id)) return false;
    this.transactions.cancel(id);
    this.end(id, { type: "cancelled" }, now);
    return true;
  }

  /** Ends everything to one peer, or, without a key, everything there is. */
  cancelAll(now: Instant, peerKey?: string): void {
    for (const request of [...this.live.values()])
      if (peerKey === undefined || request.peerKey === peerKey) this.cancel(request.id, now);
  }

  /** True if a notification to this peer is still unanswered. */
  isPinging(peerKey: string): boolean {
    return this.pinging.has(peerKey);
  }

  handleTimeout(now: Instant): void {
    // First those that wait: what ends in flight would launch them at the very end of their time.
    for (let id = this.queuedUntil.take(now); id !== undefined; id = this.queuedUntil.take(now))
      this.end(id, { type: "timeout" }, now);
    this.transactions.handleTimeout(now);
    for (let over = this.transactions.pollEnded(); over !== undefined; over = this.transactions.pollEnded())
      this.end(over.id, { type: "timeout" }, now);
  }

  pollTransmit(): { to: Endpoint; bytes: Uint8Array } | undefined {
    const next = this.transactions.pollTransmit();
    if (next === undefined) return undefined;
    if (next.retransmission) this.retransmissions++;
    else this.sent++;
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
    return this.live.size;
  }

  private lane(peerKey: string): Lane {
    let lane = this.lanes.get(peerKey);
    if (lane === undefined) {
      lane = { inFlight: 0, queue: [], queuedBytes: 0 };
      this.lanes.set(peerKey, lane);
    }
    return lane;
  }

  private launch(request: OutgoingRequest, now: Instant): void {
    request.sent = true;
    if (isNotification(request)) this.pinging.set(request.peerKey, (this.pinging.get(request.peerKey) ?? 0) + 1);
    this.transactions.start(request, now);
  }

  private end(id: number, end: RequestEnd, now: Instant): void {
    const attempts = this.transactions.attempts(id);
    const request = this.finish(id, now);
    if (request !== undefined) this.ended.push({ request, end, attempts: request.sent ? Math.max(1, attempts) : 0 });
  }

  private finish(id: number, now: Instant): OutgoingRequest | undefined {
    const request = this.live.get(id);
    if (request === undefined) return undefined;
    this.live.delete(id);
    if (isNotification(request)) this.settlePing(request.peerKey);
    else if (takesTurns(request)) this.leaveLane(request, now);
    return request;
  }

  private settlePing(peerKey: string): void {
    const open = (this.pinging.get(peerKey) ?? 1) - 1;
    if (open === 0) this.pinging.delete(peerKey);
    else this.pinging.set(peerKey, open);
  }

  private leaveLane(request: OutgoingRequest, now: Instant): void {
    const lane = this.lane(request.peerKey);
    if (!request.sent) {
      this.queuedUntil.delete(request.id);
      lane.queuedBytes -= request.bytes.length;
      lane.queue.splice(lane.queue.indexOf(request), 1);
      return;
    }
    lane.inFlight--;
    while (lane.inFlight < this.limits.window) {
      const next = lane.queue.shift();
      if (next === undefined) break;
      this.queuedUntil.delete(next.id);
      lane.queuedBytes -= next.bytes.length;
      lane.inFlight++;
      this.launch(next, now);
    }
    if (lane.inFlight === 0 && lane.queue.length === 0) this.lanes.delete(request.peerKey);
  }
}

/** What has its turn in the window and the queue of its peer. */
function takesTurns({ kind }: { readonly kind: RequestKind }): boolean {
  return kind === "message" || kind === "replica";
}

/** What belongs to the membership: its end says something about the peer. */
export function isNotification(request: { readonly kind: RequestKind }): boolean {
  return !takesTurns(request) && request.kind !== "echo";
}
