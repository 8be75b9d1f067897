/**
 * DmqNode: a node of the bus as a value machine. It joins the codec, the transactions and the membership; the driver (or
 * the simulator) gives it octets, DNS answers and the time, and takes away what it wants done.
 *
 * One call, then `poll()` to `undefined`, then a timer for `nextTimeout()`. Nothing that a remote sends throws.
 */
import { DeadlineQueue } from "../core/deadline-queue.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { ProtocolError, UsageError } from "../core/errors.ts";
import { type Random, token } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";
import { addressUri, type Peer, type PeerAddress, parseAddress } from "../membership/peer.ts";
import type { Status } from "../membership/status.ts";
import { Framer } from "../sip/framer.ts";
import type { SipMessage, SipRequest, SipResponse } from "../sip/message.ts";
import { parseNameAddr } from "../sip/name-addr.ts";
import { checkRequest, checkResponse, cseqOf, type Malformed, parseMessage } from "../sip/parse.ts";
import { isHeaderSafe, ResponseWriter, reasonPhrase } from "../sip/serialize.ts";
import { parseUri } from "../sip/uri.ts";
import { responseDestination, topVia, viaCount } from "../sip/via.ts";
import { hasMagicCookie, serverKey } from "../transaction/key.ts";
import { isAnswerStatus } from "../transaction/server.ts";
import { ServerTransactions } from "../transaction/table.ts";
import type { Answer, ChannelMessage, Flow, Input, NodeCounters, Outcome, Output, PeerInfo } from "./io.ts";
import { buildKdmq, checkChannel, checkHeaderText } from "./kdmq.ts";
import { Members } from "./members.ts";
import { type NodeOptions, type ResolvedOptions, resolveOptions } from "./options.ts";
import { Outbox } from "./outbox.ts";
import { peerInfo } from "./peer-info.ts";
import { type EndedRequest, type OutgoingRequest, Requests } from "./requests.ts";
import { Warnings } from "./warnings.ts";

export type { NodeOptions } from "./options.ts";

export interface SendOptions {
  /** Default `text/plain`. */
  contentType?: string;
  /** Default 1; it means something on the notification channel only. */
  maxForwards?: number;
  /** Instead of `requestTimeoutMs`. */
  timeoutMs?: Duration;
  /** Asks for a body in the answer; without it a 200 has none. */
  accept?: string;
}

/** Server transactions that are remembered; beyond, the oldest completed one is forgotten. */
const SERVER_TRANSACTIONS_MAX = 65_536;
/** UDP payload over IPv4: 65,535 − 20 − 8. */
const DATAGRAM_BYTES_MAX = 65_507;
/** Leaves room for the headers that an answer copies from an ordinary request. */
const ANSWER_BODY_BYTES_MAX = 60_000;
/** A Kamailio with default buffers loses what is larger (dmq.md section 4). */
const LARGE_BYTES = { udp: 32_767, tcp: 16_384, tls: 16_384 } as const;
/** A request over UDP is repeated for 64·T1: what has no answer by then needs none. */
const PENDING_MS = 32_000;
/** What a leave waits for at most: answers to it, and handlers. */
const LEAVE_MS = 1_500;
const ALLOW = "KDMQ, OPTIONS";

interface Pending {
  request: SipRequest;
  source: Endpoint;
  flow: Flow;
  transaction: number;
}

export class DmqNode {
  readonly counters: NodeCounters = {
    received: 0,
    malformed: 0,
    retransmissionsReceived: 0,
    notificationsReceived: 0,
    messagesReceived: 0,
    requestsSent: 0,
    retransmissionsSent: 0,
    responsesReceived: 0,
    strayResponses: 0,
    relays: 0,
    notificationsSent: 0,
    badLines: 0,
    guardsHit: 0,
  };
  private readonly options: ResolvedOptions;
  private readonly random: Random;
  private readonly outbox = new Outbox();
  private readonly warnings = new Warnings(this.outbox);
  private readonly requests: Requests;
  private readonly members: Members;
  private readonly servers = new ServerTransactions(SERVER_TRANSACTIONS_MAX);
  private readonly writer = new ResponseWriter();
  private readonly framers = new Map<Flow, Framer>();
  private readonly pending = new Map<number, Pending>();
  private readonly pendingUntil = new DeadlineQueue<number>();
  private readonly toTag: string;
  private leaveDeadline: Instant | undefined;
  private gone = false;

  /** @throws ConfigError where our own address is no IP literal */
  constructor(options: NodeOptions, random: Random) {
    this.options = resolveOptions(options);
    this.random = random;
    this.requests = new Requests(this.options);
    this.toTag = token(random, 2);
    this.members = new Members({
      options: this.options,
      requests: this.requests,
      outbox: this.outbox,
      random,
      warnings: this.warnings,
      counters: this.counters,
    });
  }

  /** Joins: sends to the notification addresses, or asks for their addresses first. The sockets must be open already. */
  start(now: Instant): void {
    this.members.start(now);
    this.settle(now);
  }

  // --- input -------------------------------------------------------------------------------------------------------

  handle(input: Input, now: Instant): void {
    switch (input.type) {
      case "received":
        if (input.from.transport === "udp") this.onDatagram(input.bytes, input.from, now);
        else this.onChunk(input.bytes, input.from, input.flow, now);
        break;
      case "closed":
        this.framers.delete(input.flow);
        break;
      case "unsent":
        this.requests.unsent(input.to, input.cause, now);
        break;
      case "resolved":
        this.members.resolved(input.host, input.addresses, input.cause?.message ?? "no address", now);
        break;
    }
    this.settle(now);
  }

  handleTimeout(now: Instant): void {
    this.requests.handleTimeout(now);
    this.servers.handleTimeout(now);
    this.members.handleTimeout(now);
    for (let id = this.pendingUntil.take(now); id !== undefined; id = this.pendingUntil.take(now))
      this.pending.delete(id);
    this.settle(now);
  }

  poll(): Output | undefined {
    return this.outbox.poll();
  }

  nextTimeout(): Instant | undefined {
    let next = this.gone ? undefined : this.leaveDeadline;
    for (const at of [
      this.requests.nextTimeout(),
      this.servers.nextTimeout(),
      this.members.nextTimeout(),
      this.pendingUntil.next(),
    ])
      if (at !== undefined && (next === undefined || at < next)) next = at;
    return next;
  }

  // --- sending -----------------------------------------------------------------------------------------------------

  /**
   * Sends a message to one peer, whatever its status (Kamailio's `dmq_send_message`).
   *
   * @returns the number under which the `outcome` event comes, exactly one
   * @throws UsageError for a node that is not known (`no-such-node`), a channel, content type or size that cannot be sent
   */
  send(channel: string, node: string, body: Uint8Array, options: SendOptions, now: Instant): number {
    checkMessage(channel, options);
    const peer = this.find(node);
    if (peer === undefined) throw new UsageError(`node ${node} is not known`, "no-such-node");
    const id = this.submit(channel, peer, body, options, now, true);
    this.settle(now);
    return id;
  }

  /**
   * Sends a message to every active peer but those in `except` (Kamailio's `dmq_bcast_message`).
   *
   * @returns one number for each peer that was addressed; nothing if there is none
   * @throws UsageError as `send`; a peer that the message does not fit for is `unreachable` in its outcome
   */
  broadcast(
    channel: string,
    body: Uint8Array,
    options: SendOptions & { except?: readonly string[] },
    now: Instant,
  ): { request: number; peer: string }[] {
    checkMessage(channel, options);
    const except = new Set((options.except ?? []).map((uri) => this.find(uri)));
    const addressed: { request: number; peer: string }[] = [];
    for (const peer of this.members.registry.all()) {
      if (peer.status !== "active" || except.has(peer)) continue;
      addressed.push({ request: this.submit(channel, peer, body, options, now, false), peer: peer.uri });
    }
    this.settle(now);
    return addressed;
  }

  /** Gives a request up; its outcome is `cancelled` if it had none. */
  cancel(request: number, now: Instant): boolean {
    const cancelled = this.requests.cancel(request, now);
    this.settle(now);
    return cancelled;
  }

  private submit(
    channel: string,
    peer: Peer,
    body: Uint8Array,
    options: SendOptions,
    now: Instant,
    refuseLarge: boolean,
  ): number {
    const id = this.requests.nextId();
    const report = (outcome: Outcome): number => {
      this.outbox.event({
        type: "outcome",
        report: { request: id, peer: peer.uri, outcome, elapsedMs: 0, attempts: 0 },
      });
      return id;
    };
    if (this.leaveDeadline !== undefined) return report({ type: "cancelled" });
    if (peer.endpoint === undefined)
      return report({ type: "unreachable", reason: `${peer.address.host} does not resolve` });
    const built = buildKdmq(
      {
        channel,
        local: this.options.address,
        target: peer.address,
        transport: peer.endpoint.transport,
        maxForwards: options.maxForwards ?? 1,
        contentType: options.contentType ?? "text/plain",
        userAgent: this.options.userAgent,
        accept: options.accept,
        body,
      },
      this.random,
    );
    const size = built.bytes.length;
    if (peer.endpoint.transport === "udp" && size > DATAGRAM_BYTES_MAX) {
      const reason = `message of ${size} octets with headers does not fit a datagram (${DATAGRAM_BYTES_MAX}): address the node with ;transport=tcp, or send less`;
      if (refuseLarge) throw new UsageError(reason);
      return report({ type: "unreachable", reason });
    }
    this.warnLarge(peer, size, now);
    const request = {
      id,
      kind: "message" as const,
      peerKey: peer.key,
      peerUri: peer.uri,
      to: peer.endpoint,
      startedAt: now,
      ...built,
    };
    this.requests.submit(request, options.timeoutMs ?? this.options.requestTimeoutMs, now);
    return id;
  }

  private warnLarge(peer: Peer, size: number, now: Instant): void {
    const limit = LARGE_BYTES[peer.address.transport];
    if (size <= limit || peer.userAgent?.startsWith("dmq") === true) return;
    this.counters.guardsHit++;
    this.warnings.warn(
      "large-message",
      `message of ${size} octets to ${peer.uri}: a Kamailio with default buffers drops what is above ${limit}`,
      now,
      peer.uri,
    );
  }

  // --- membership --------------------------------------------------------------------------------------------------

  /** Our own URI as on our line. */
  uri(): string {
    return addressUri(this.options.address);
  }

  /** The peers, newest first, as Kamailio lists them. */
  nodes(): PeerInfo[] {
    return [...this.members.registry.all()].map((peer) => peerInfo(peer, this.requests)).reverse();
  }

  /** True if any peer, of whatever status, has this IP address (Kamailio's `dmq_is_from_node`). */
  isFromNode(ip: string): boolean {
    return this.members.registry.hasIp(ip);
  }

  /** @throws UsageError for a malformed address, or one that is known already */
  add(uri: string, status: Status | undefined, now: Instant): void {
    const address = addressOf(uri);
    if (this.members.isLocal(address) || this.members.registry.find(address) !== undefined)
      throw new UsageError(`node ${addressUri(address)} is already known`);
    this.members.add(address, status ?? "active", now);
    this.settle(now);
  }

  /** @returns false where no such peer is known. @throws UsageError for a malformed address */
  remove(uri: string, now: Instant): boolean {
    const peer = this.members.registry.find(addressOf(uri));
    if (peer !== undefined) this.members.remove(peer);
    this.settle(now);
    return peer !== undefined;
  }

  /** @throws UsageError for a malformed address (`usage`) or one that is not known (`no-such-node`) */
  setStatus(uri: string, status: Status, now: Instant): "changed" | "already" {
    const peer = this.members.registry.find(addressOf(uri));
    if (peer === undefined) throw new UsageError(`node ${uri} is not known`, "no-such-node");
    if (peer.status === status) return "already";
    this.members.setStatus(peer, status, now);
    this.settle(now);
    return "changed";
  }

  /** Adds notification addresses for this run and greets them. @throws UsageError for a malformed one */
  join(uris: readonly string[], now: Instant): void {
    for (const uri of uris) addressOf(uri);
    this.members.join(uris, now);
    this.settle(now);
  }

  /**
   * Stops: nothing new is taken, what waits for an answer is `cancelled`, and with `announce` every peer is told. The
   * event `left` comes when the peers have answered and the handlers are through, after 1.5 s at the latest.
   */
  leave(options: { announce: boolean }, now: Instant): void {
    if (this.leaveDeadline !== undefined) return;
    this.leaveDeadline = now + LEAVE_MS;
    this.requests.cancelAll(now);
    if (options.announce) this.members.leave(now);
    this.settle(now);
  }

  // --- answering ---------------------------------------------------------------------------------------------------

  /**
   * Answers a channel message; a second answer, or one after 32 s, is ignored.
   *
   * @throws UsageError for a status that is not final, or 408, which RFC 4320 forbids
   */
  answer(id: number, answer: Answer, now: Instant): void {
    if (answer.status < 200 || !isAnswerStatus(answer.status))
      throw new UsageError(`a message cannot be answered with ${answer.status}: expected 200 to 699, and not 408`);
    if (!isHeaderSafe(answer.reason ?? "") || !isHeaderSafe(answer.contentType ?? ""))
      throw new UsageError("the reason or content type of an answer holds control characters");
    const pending = this.pending.get(id);
    if (pending === undefined) return;
    this.pending.delete(id);
    this.pendingUntil.delete(id);
    const { body, ...bare } = answer;
    const wanted = body !== undefined && pending.request.headers.has("Accept");
    if (body !== undefined && body.length > 0 && !wanted) {
      this.counters.guardsHit++;
      this.warnings.warn("body-dropped", "the answer's body was left out: the request has no Accept header", now);
    }
    const isTooLarge = wanted && pending.source.transport === "udp" && body.length > ANSWER_BODY_BYTES_MAX;
    if (isTooLarge) this.respond(pending, { status: 500, reason: "Answer Too Large For A Datagram" }, now);
    else this.respond(pending, wanted ? answer : bare, now);
    this.settle(now);
  }

  private respond(to: Pending, answer: Answer & { headers?: [string, string][] }, now: Instant): void {
    const via = topVia(to.request);
    if (via === undefined || via instanceof ProtocolError) return;
    const headers = answer.headers ?? [];
    headers.push(["Server", this.options.userAgent]);
    if (answer.retryAfterSeconds !== undefined) headers.push(["Retry-After", String(answer.retryAfterSeconds)]);
    // The buffer is used again only while nobody waits for what stands in it.
    const writer = this.outbox.isEmpty() ? this.writer : new ResponseWriter();
    const octets = writer.write(to.request, to.source, {
      status: answer.status,
      reason: answer.reason ?? reasonPhrase(answer.status),
      toTag: this.toTag,
      headers,
      ...(answer.body === undefined || answer.body.length === 0
        ? {}
        : { body: answer.body, contentType: answer.contentType ?? "text/plain" }),
    });
    const destination = responseDestination(via, to.source);
    const kept = this.servers.respond(to.transaction, answer.status, octets, destination, to.flow, now);
    if (kept) this.outbox.push({ type: "transmit", to: destination, flow: to.flow, bytes: octets });
  }

  // --- octets that come in -----------------------------------------------------------------------------------------

  private onDatagram(bytes: Uint8Array, from: Endpoint, now: Instant): void {
    this.counters.received++;
    this.onMessage(parseMessage(bytes, "datagram"), from, 0, now);
  }

  private onChunk(bytes: Uint8Array, from: Endpoint, flow: Flow, now: Instant): void {
    const framer = this.framer(flow);
    if (framer.dead()) return;
    framer.push(bytes);
    for (let item = framer.next(); item !== undefined; item = framer.next()) {
      if (item.type === "keepalive") {
        if (item.pong) this.outbox.push({ type: "transmit", to: from, flow, bytes: PONG });
        continue;
      }
      this.counters.received++;
      this.onMessage(item, from, flow, now);
    }
    if (framer.dead()) this.outbox.push({ type: "close", flow });
  }

  private framer(flow: Flow): Framer {
    let framer = this.framers.get(flow);
    if (framer === undefined) {
      framer = new Framer();
      this.framers.set(flow, framer);
    }
    return framer;
  }

  private onMessage(message: SipMessage | Malformed, from: Endpoint, flow: Flow, now: Instant): void {
    switch (message.type) {
      case "request":
        this.onRequest(message, from, flow, now);
        break;
      case "response":
        this.onResponse(message, from, now);
        break;
      case "malformed":
        this.onMalformed(message.error, message.request, from, flow, now);
        break;
    }
  }

  private onMalformed(
    error: ProtocolError,
    request: SipRequest | undefined,
    source: Endpoint,
    flow: Flow,
    now: Instant,
  ): void {
    this.counters.malformed++;
    this.warnings.warn("malformed", `${source.ip}:${source.port}: ${error.message} (${error.section})`, now);
    if (request === undefined || request.method === "ACK") return;
    const pending = this.admit(request, source, flow, now);
    if (pending !== undefined) this.respond(pending, { status: error.statusHint }, now);
  }

  private onRequest(request: SipRequest, source: Endpoint, flow: Flow, now: Instant): void {
    if (request.method === "ACK") return;
    const error = checkRequest(request);
    if (error !== undefined) {
      this.onMalformed(error, request, source, flow, now);
      return;
    }
    const pending = this.admit(request, source, flow, now);
    if (pending === undefined) return;
    if (request.method === "KDMQ") this.onKdmq(pending, now);
    else if (request.method === "OPTIONS") this.respond(pending, { status: 200, headers: [["Allow", ALLOW]] }, now);
    else if (request.method === "CANCEL") this.respond(pending, { status: 481 }, now);
    else this.respond(pending, { status: 405, headers: [["Allow", ALLOW]] }, now);
  }

  /** The server transaction of a request; `undefined` for a retransmission, which is answered as before. */
  private admit(request: SipRequest, source: Endpoint, flow: Flow, now: Instant): Pending | undefined {
    const via = topVia(request);
    if (via === undefined || via instanceof ProtocolError) return undefined;
    const seen = this.servers.receive(transactionKey(request, via), source, flow, now);
    if (seen.verdict === "new") return { request, source, flow, transaction: seen.id };
    this.counters.retransmissionsReceived++;
    if (seen.answer !== undefined) this.outbox.push({ type: "transmit", ...seen.answer });
    return undefined;
  }

  private onKdmq(pending: Pending, now: Instant): void {
    const { request } = pending;
    const required = request.headers.get("Require");
    if (required !== undefined) {
      // RFC 3261 §8.2.2.3: no extension of SIP is understood here.
      this.respond(pending, { status: 420, headers: [["Unsupported", required]] }, now);
      return;
    }
    const uri = parseUri(request.uri);
    const channel = uri instanceof ProtocolError ? undefined : uri.user;
    if (channel === undefined) this.respond(pending, NOT_FOUND, now);
    else if (channel === this.options.notificationChannel) this.onNotification(pending, now);
    else this.onChannelMessage(pending, channel, now);
  }

  private onNotification(pending: Pending, now: Instant): void {
    const { request, source } = pending;
    this.counters.notificationsReceived++;
    const from = fromAddress(request);
    this.members.receive(
      {
        from,
        source,
        maxForwards: Number(request.headers.get("Max-Forwards") ?? "0"),
        userAgent: request.headers.get("User-Agent"),
        body: request.body,
      },
      now,
    );
    const sender = from === undefined ? undefined : this.members.registry.find(from);
    // The sender's own line is part of the answer: a Kamailio looks for itself in it.
    const body = this.members.listFor(undefined, source.ip, now, sender?.userAgent);
    this.respond(pending, { status: 200, contentType: "text/plain", body }, now);
  }

  private onChannelMessage(pending: Pending, channel: string, now: Instant): void {
    this.counters.messagesReceived++;
    if (this.leaveDeadline !== undefined || this.pending.size >= this.options.pendingMessages) {
      this.warnings.warn(
        "overload",
        `message on ${channel} refused: leaving, or ${this.pending.size} wait for a handler`,
        now,
      );
      this.respond(pending, { status: 503, retryAfterSeconds: 2 }, now);
      return;
    }
    this.pending.set(pending.transaction, pending);
    this.pendingUntil.set(pending.transaction, now + PENDING_MS);
    this.outbox.event({ type: "message", message: this.messageOf(pending, channel) });
  }

  private messageOf(pending: Pending, channel: string): ChannelMessage {
    const { request, source, transaction } = pending;
    const { headers } = request;
    const address = fromAddress(request);
    const maxForwards = headers.get("Max-Forwards");
    return {
      id: transaction,
      channel,
      from: fromUri(request) ?? "",
      peer: address === undefined ? undefined : this.members.registry.find(address)?.uri,
      source,
      callId: headers.get("Call-ID") ?? "",
      contentType: headers.get("Content-Type"),
      maxForwards: maxForwards === undefined ? undefined : Number(maxForwards),
      acceptsBody: headers.has("Accept"),
      body: request.body,
      request,
    };
  }

  // --- responses ---------------------------------------------------------------------------------------------------

  private onResponse(response: SipResponse, from: Endpoint, now: Instant): void {
    this.counters.responsesReceived++;
    const via = topVia(response);
    const cseq = cseqOf(response);
    const sane = via !== undefined && !(via instanceof ProtocolError) && via.branch !== undefined && cseq !== undefined;
    // One Via: a second one means that somebody forwarded it, and we never asked anyone to (RFC 3261 §8.1.3.3).
    if (!sane || viaCount(response) !== 1 || checkResponse(response) !== undefined) {
      this.counters.strayResponses++;
      return;
    }
    const { status } = response;
    const found = this.requests.receive({ branch: via.branch as string, method: cseq.method, status, from }, now);
    if (found === undefined) this.counters.strayResponses++;
    else if (found !== "absorbed") this.onFinal(found.request, found.attempts, response, from, now);
  }

  private onFinal(
    request: OutgoingRequest,
    attempts: number,
    response: SipResponse,
    from: Endpoint,
    now: Instant,
  ): void {
    if (request.kind === "message") this.report(request, outcomeOf(response), attempts, now);
    else {
      const { status, body, headers } = response;
      this.members.answered(
        request,
        { status, body, userAgent: headers.get("Server") ?? headers.get("User-Agent"), from },
        now,
      );
    }
  }

  private report(request: OutgoingRequest, outcome: Outcome, attempts: number, now: Instant): void {
    const elapsedMs = now - request.startedAt;
    this.outbox.event({
      type: "outcome",
      report: { request: request.id, peer: request.peerUri, outcome, elapsedMs, attempts },
    });
  }

  // --- after every call --------------------------------------------------------------------------------------------

  /** Lets what a call has started run to its end: ends of requests, then what has to go out. */
  private settle(now: Instant): void {
    for (let over = this.requests.pollEnded(); over !== undefined; over = this.requests.pollEnded())
      this.onEnded(over, now);
    for (let next = this.requests.pollTransmit(); next !== undefined; next = this.requests.pollTransmit())
      this.outbox.push({ type: "transmit", to: next.to, bytes: next.bytes });
    this.counters.requestsSent = this.requests.sent;
    this.counters.retransmissionsSent = this.requests.retransmissions;
    this.finishLeave(now);
  }

  private onEnded({ request, end, attempts }: EndedRequest, now: Instant): void {
    if (request.kind !== "message") {
      this.members.ended(request, end, now);
      return;
    }
    this.report(request, end, attempts, now);
    if (end.type === "timeout" || end.type === "unreachable") this.members.suspect(request.peerKey, now);
  }

  private finishLeave(now: Instant): void {
    if (this.leaveDeadline === undefined || this.gone) return;
    if (now < this.leaveDeadline && (this.requests.size > 0 || this.pending.size > 0)) return;
    this.gone = true;
    this.requests.cancelAll(now);
    this.outbox.event({ type: "left" });
  }

  private find(uri: string): Peer | undefined {
    return this.members.registry.find(addressOf(uri));
  }
}

const PONG = new Uint8Array([0x0d, 0x0a]);
const NOT_FOUND: Answer = { status: 404, reason: "Not Found Peer ID" };

function checkMessage(channel: string, options: SendOptions): void {
  checkChannel(channel);
  if (options.contentType !== undefined) checkHeaderText("content type", options.contentType);
  if (options.accept !== undefined) checkHeaderText("accept", options.accept);
  const hops = options.maxForwards;
  if (hops !== undefined && !(Number.isInteger(hops) && hops >= 0 && hops <= 255))
    throw new UsageError(`max-forwards ${hops} is not a whole number from 0 to 255`);
}

function addressOf(uri: string): PeerAddress {
  const address = parseAddress(uri);
  if (address instanceof ProtocolError)
    throw new UsageError(
      `${JSON.stringify(uri)} is no node's address: ${address.message}; expected sip:host:port[;transport=tcp]`,
    );
  return address;
}

function fromUri(request: SipRequest): string | undefined {
  const value = request.headers.get("From");
  const from = value === undefined ? undefined : parseNameAddr(value);
  return from === undefined || from instanceof ProtocolError ? undefined : from.uri;
}

function fromAddress(request: SipRequest): PeerAddress | undefined {
  const uri = fromUri(request);
  const address = uri === undefined ? undefined : parseAddress(uri);
  return address instanceof ProtocolError ? undefined : address;
}

function transactionKey(
  request: SipRequest,
  via: { branch: string | undefined; host: string; port: number | undefined },
): string {
  const { headers, method, uri } = request;
  const { branch, host, port } = via;
  if (hasMagicCookie(branch)) return serverKey({ branch, host, port, method });
  return serverKey({
    branch,
    host,
    port,
    method,
    requestUri: uri,
    toTag: headers.get("To"),
    fromTag: headers.get("From"),
    callId: headers.get("Call-ID"),
    cseq: headers.get("CSeq"),
    topVia: headers.get("Via"),
  });
}

function outcomeOf(response: SipResponse): Outcome {
  const { status: code, reason, headers, body } = response;
  if (code < 300) {
    const contentType = headers.get("Content-Type");
    return {
      type: "delivered",
      code,
      reason,
      consumer: code !== 202,
      ...(contentType === undefined ? {} : { contentType }),
      ...(body.length === 0 ? {} : { body }),
    };
  }
  const retryAfter = Number.parseInt(headers.get("Retry-After") ?? "", 10);
  return { type: "rejected", code, reason, ...(Number.isNaN(retryAfter) ? {} : { retryAfterSeconds: retryAfter }) };
}
