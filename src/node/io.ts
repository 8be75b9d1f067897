/**
 * The contract of the core: what goes in, what comes out. One call, then `poll()` to `undefined`, then one timer for
 * `nextTimeout()`. An early or a repeated timeout is harmless, and nothing that a remote does throws out of a call.
 *
 * Octets of a datagram that comes in are the driver's again when it has polled to `undefined`, and may stand beside others: what
 * the core keeps of them it copies. Those of a stream belong to the core from then on (events hold views of them). Octets that go
 * out in a `transmit` stay as they are while the driver works off one wake-up; what it holds longer it copies, because the memory
 * of answers is used again.
 */
import type { Span } from "../core/bytes.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { Duration } from "../core/time.ts";
import type { PeerSource } from "../membership/peer.ts";
import type { Status } from "../membership/status.ts";
import type { SipRequest } from "../sip/message.ts";
import type { Share } from "./shares.ts";

export type { Status };

/**
 * A flow is one association that octets came from or go to. Streams: one connection, numbered from 1 by the driver and
 * never used again. Datagrams: always 0, the shared socket.
 */
export type Flow = number;

export type Input =
  /** `start` and `end` say where they stand in `bytes`; without them it is all of it. */
  | { type: "received"; from: Endpoint; flow: Flow; bytes: Uint8Array; start?: number; end?: number }
  /** A stream ended, whoever ended it. */
  | { type: "closed"; flow: Flow; cause?: Error }
  /** Octets for `to` did not go out, or came back as an ICMP error: refused, unreachable, too large, full. */
  | { type: "unsent"; to: Endpoint; cause: Error }
  /** The answer to a `resolve`. */
  | ResolvedName;

/** What DNS says of a host. Addresses are canonical IP literals, A before AAAA; a literal in, the same literal out. */
export interface ResolvedName {
  type: "resolved";
  host: string;
  /** Of the host itself, without duplicates. */
  addresses: string[];
  /** Exactly where they were asked for: one for each address of each target of the host's SRV records, with the SRV port. */
  services?: { ip: string; port: number }[];
  /** False where a question had no answer: what is missing here may hold all the same. */
  complete: boolean;
  /** How long this may be used: the smallest TTL in it, or how long a "nothing" holds. */
  ttlMs: Duration;
  /** Why there is nothing, or not all. */
  cause?: Error;
}

/** An output is the core's again when the next one is polled. */
export type Output =
  /**
   * Send octets. Streams: on connection `flow` if it is given and alive, else on a live connection to `to`, else on a
   * new one (RFC 3261 §18.1.1, §18.2.2). `close` ends the stream after these octets.
   */
  | ({ type: "transmit"; to: Endpoint; flow?: Flow; close?: boolean } & Span)
  /** End a connection without sending anything. */
  | { type: "close"; flow: Flow }
  /** `services`: also the SRV records of exactly this name, and the addresses of their targets. */
  | { type: "resolve"; host: string; services: boolean }
  | { type: "event"; event: NodeEvent };

/** How one request to one peer ended; design.md section 4. */
export type Outcome =
  /** A 2xx. `consumer` is false for 202: the channel is known there, but nobody took the message. */
  | { type: "delivered"; code: number; reason: string; consumer: boolean; contentType?: string; body?: Uint8Array }
  /** A 3xx to 6xx. */
  | { type: "rejected"; code: number; reason: string; retryAfterSeconds?: number }
  /** No final response within the transaction's life: it may or may not have happened there. */
  | { type: "timeout" }
  /**
   * ICMP, connect, TLS or DNS said no: it did not happen there, unless an earlier connection had taken it and broke
   * before the answer, which only the other side knows.
   */
  | { type: "unreachable"; reason: string }
  /** The peer's window and queue are full: it was never sent. */
  | { type: "overloaded" }
  /** The local node stopped, or the caller gave up, before there was an answer. */
  | { type: "cancelled" };

export interface OutcomeReport {
  /** The number that `send` or `broadcast` gave back. */
  request: number;
  /** URI of the peer as on its line, without status. */
  peer: string;
  outcome: Outcome;
  /** From the call to the outcome. */
  elapsedMs: number;
  /** Transmissions, 0 if it never left. */
  attempts: number;
}

/**
 * A KDMQ request on a channel other than the notification channel. It waits for `DmqNode.answer(id, …)`. Whoever keeps one for long
 * should keep its body instead, which is a copy mostly: the message may hold 4 KiB that it shares with its neighbours.
 */
export interface ChannelMessage {
  /** Handle for the answer. */
  id: number;
  channel: string;
  /** From URI, as written. */
  from: string;
  /** Address of the peer that the From URI names, if it is in the registry: its URI as on its line. */
  peer: string | undefined;
  source: Endpoint;
  callId: string;
  contentType: string | undefined;
  maxForwards: number | undefined;
  /** True if the request has an Accept header: only then may a 200 carry a body (a Kamailio reads it as a node list). */
  acceptsBody: boolean;
  /** Header `X-DMQ-Id`: the sender's name for the message, the same when it sends it again. */
  messageId: string | undefined;
  body: Uint8Array;
  request: SipRequest;
}

/** A request that a route has to decide on: it waits for `DmqNode.answer`, `take` or `serve` with its `id`. */
export interface IncomingRequest {
  /** Handle for the answer. */
  id: number;
  method: string;
  /** Request-URI, as written. */
  uri: string;
  source: Endpoint;
  /** The source IP address is that of a peer, of whatever status (Kamailio's `dmq_is_from_node`). */
  fromNode: boolean;
  body: Uint8Array;
  request: SipRequest;
}

/** A request that was admitted and has no answer yet. */
export interface Pending {
  readonly request: SipRequest;
  readonly source: Endpoint;
  readonly flow: Flow;
  /** Number of its server transaction, and the handle for its answer. */
  readonly transaction: number;
  /** What it counts in while it waits for a handler or a route. */
  share?: Share | undefined;
}

/** What answers a request. On KDMQ a body is dropped unless the request accepts one. */
export interface Answer {
  status: number;
  reason?: string;
  /** Added to the answer; not those that every answer has (Via, From, To, Call-ID, CSeq, Content-Type …). */
  headers?: readonly (readonly [name: string, value: string])[];
  contentType?: string;
  body?: Uint8Array;
  retryAfterSeconds?: number;
}

export interface PeerInfo {
  /** `sip:host:port[;transport=…]` as on its line. */
  uri: string;
  host: string;
  port: number;
  transport: "udp" | "tcp" | "tls";
  /** IP literal that messages go to, `""` while a name does not resolve. */
  resolvedIp: string;
  status: Status;
  /** It has answered us (or announced itself and answered) since we know it. */
  verified: boolean;
  failCount: number;
  source: PeerSource;
  /** Milliseconds of the last answered request of ours. */
  rttMs: number | undefined;
  /** Last instant at which octets of it proved that it lives. */
  lastSeen: number | undefined;
  userAgent: string | undefined;
  /** Requests to it that wait for a final response, and messages queued behind them. */
  inFlight: number;
  queued: number;
}

/** `queued`: by one of `num_workers` workers. `inline`: at once, before the next datagram is looked at. */
export type HandlerMode = "queued" | "inline";

export type WarningCode =
  | "bad-line"
  | "told-disabled"
  | "self-talk"
  | "list-truncated"
  | "large-message"
  | "registry-full"
  | "body-dropped"
  | "malformed"
  | "unresolvable"
  | "too-many-addresses"
  | "overload"
  | "leave-unannounced"
  | "handler-failed"
  | "tls-refused"
  | "slow-stream"
  | "not-allowed"
  | "false-leave";

export type NodeEvent =
  /** `reason` of these four: what happened, in words for a log. */
  | { type: "peer-up"; peer: PeerInfo; reason: string }
  | { type: "peer-down"; peer: PeerInfo; reason: string }
  | { type: "peer-disabled"; peer: PeerInfo; reason: string }
  | { type: "peer-removed"; peer: PeerInfo; reason: string }
  /** First contact with the bus: `nodes` are whom to synchronise with. Again after everybody was lost. */
  | { type: "joined"; nodes: string[] }
  /** `mode` is there where the route that took the request decided how its handler is run. */
  | { type: "message"; message: ChannelMessage; mode?: HandlerMode }
  /** Only where a route is set. */
  | { type: "request"; request: IncomingRequest }
  | { type: "outcome"; report: OutcomeReport }
  | { type: "warning"; code: WarningCode; text: string; peer?: string }
  /** `leave()` is through: nothing in flight any more, the driver may close the sockets. */
  | { type: "left" };

/** How full a node's bounded tables are (ARCHITECTURE.md, limits). */
export interface NodeUsage {
  /** In the registry. */
  peers: number;
  /** Names under way that have not answered yet: probes, and nodes that announced themselves. */
  unverified: number;
  /** Requests of ours without an outcome, notifications included. */
  requests: number;
  /** Messages and routed requests that wait for an answer. */
  messages: number;
}

/** Counters of a node since its start. All of them only grow. */
export interface NodeCounters {
  received: number;
  malformed: number;
  retransmissionsReceived: number;
  notificationsReceived: number;
  messagesReceived: number;
  requestsSent: number;
  retransmissionsSent: number;
  responsesReceived: number;
  /** Responses that match no transaction of ours, or came from elsewhere than the request went. */
  strayResponses: number;
  /** Copies of requests from outside the bus that were sent to nodes. */
  replicasSent: number;
  /** Requests that were not replicated because they came from a node, or had passed this one. */
  loopsPrevented: number;
  relays: number;
  /** Joins, pings, probes, relays and leaves. */
  notificationsSent: number;
  badLines: number;
  guardsHit: number;
  /** Requests from addresses that are not in `allow`, and how many of them were answered 403. */
  refusedRequests: number;
  refusalsSent: number;
  /** Connections from such addresses, which were closed with nothing read. */
  refusedConnections: number;
  /** Names that others mentioned and whose address is not in `allow`: never asked. */
  refusedNames: number;
  /** Names that were not asked because their source had mentioned enough, or had sent too little to pay for the question. */
  heldNames: number;
  /** Leaves in the name of a peer that, asked, was still there. */
  falseLeaves: number;
  /** Notifications of our own that came back to us. */
  loops: number;
}
