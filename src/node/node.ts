/**
 * DmqNode: a node of the bus as a value machine. It joins the codec, the transactions and the membership; the driver (or
 * the simulator) gives it octets, DNS answers and the time, and takes away what it wants done.
 *
 * One call, then `poll()` to `undefined`, then a timer for `nextTimeout()`. Nothing that a remote sends throws.
 */
import { copyOf, encodeUtf8, spanOf, viewOf } from "../core/bytes.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { ProtocolError, UsageError } from "../core/errors.ts";
import { type Random, token } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";
import { addressUri, isUnspecified, type Peer, type PeerAddress, parseAddress } from "../membership/peer.ts";
import type { Status } from "../membership/status.ts";
import type { SipMessage, SipRequest, SipResponse } from "../sip/message.ts";
import { parseNameAddr } from "../sip/name-addr.ts";
import { checkRequest, checkResponse, cseqOf, type Malformed, parseMessage } from "../sip/parse.ts";
import { parseUri } from "../sip/uri.ts";
import { topVia, viaCount } from "../sip/via.ts";
import { branchKey, branchKeyAt } from "../transaction/key.ts";
import type { Admission } from "./admission.ts";
import { Flows, type Lost } from "./flows.ts";
import type {
  Answer,
  ChannelMessage,
  Flow,
  HandlerMode,
  IncomingRequest,
  Input,
  NodeCounters,
  NodeUsage,
  Outcome,
  Output,
  PeerInfo,
  Pending,
} from "./io.ts";
import { type KdmqRequest, KdmqTemplate, MESSAGE_ID_HEADER, messageIdIn } from "./kdmq.ts";
import { Members } from "./members.ts";
import { type Addressed, addressOf, checkMessage, outcomeOf, type SendOptions, tooLarge } from "./message.ts";
import { type NodeChanges, type NodeOptions, type ResolvedOptions, resolveOptions } from "./options.ts";
import { type PeerLookup, Texts } from "./ordinary-message.ts";
import { Outbox } from "./outbox.ts";
import { peerInfo } from "./peer-info.ts";
import { hasPassed, type Original, originalOf, readOriginal, replicaFor } from "./replica.ts";
import { type EndedRequest, isNotification, type OutgoingRequest, OWN, Requests } from "./requests.ts";
import { Serving } from "./serving.ts";
import { Warnings } from "./warnings.ts";

export type { Addressed, SendOptions } from "./message.ts";
export type { NodeChanges, NodeOptions } from "./options.ts";

export interface ReplicateOptions {
  /** Send even if the request came from a node: who has asked `isFromNode` need not ask twice. */
  skipLoopTest?: boolean;
  /** Instead of `requestTimeoutMs`. */
  timeoutMs?: Duration;
}

const KDMQ = { method: "KDMQ", vias: 1 };
/** A Kamailio with default buffers loses what is larger (dmq.md section 4). */
const LARGE_BYTES = { udp: 32_767, tcp: 16_384, tls: 16_384 } as const;
const LARGE_BYTES_LEAST = Math.min(...Object.values(LARGE_BYTES));
/** What a leave waits for at most: answers to it, and handlers. */
const LEAVE_MS = 1_500;

/** Which requests a route sees: none, those that are not KDMQ, or KDMQ too. */
export type Routing = "none" | "others" | "all";

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
    replicasSent: 0,
    loopsPrevented: 0,
    relays: 0,
    notificationsSent: 0,
    badLines: 0,
    guardsHit: 0,
    refusedRequests: 0,
    refusalsSent: 0,
    refusedConnections: 0,
    refusedNames: 0,
    heldNames: 0,
    falseLeaves: 0,
    loops: 0,
  };
  private readonly options: ResolvedOptions;
  private readonly random: Random;
  private readonly outbox = new Outbox();
  private readonly warnings = new Warnings(this.outbox);
  private readonly requests: Requests;
  private readonly members: Members;
  private readonly serving: Serving;
  private readonly admission: Admission;
  private readonly flows = new Flows();
  private routing: Routing = "none";
  /** Of the last message that was sent. */
  private template: KdmqTemplate | undefined;
  private readonly texts = new Texts();
  private readonly peers: PeerLookup = (from, source) => this.peerOf(from, source);
  /** By which we know copies of ours; there is none before the first. */
  private replicaTag: string | undefined;
  private leaveDeadline: Instant | undefined;
  private gone = false;

  /** @throws ConfigError where our own address is no IP literal */
  constructor(options: NodeOptions, random: Random) {
    this.options = resolveOptions(options);
    this.random = random;
    this.requests = new Requests(this.options);
    const { outbox, warnings, counters, requests } = this;
    this.serving = new Serving({ options: this.options, outbox, random, warnings, counters });
    this.members = new Members({ options: this.options, requests, outbox, random, warnings, counters });
    this.admission = this.members.admission;
  }

  /** Joins: sends to the notification addresses, or asks for their addresses first. The sockets must be open already. */
  start(now: Instant): void {
    this.members.start(now);
    this.settle(now);
  }

  /**
   * Changes options of the running node; what is under way ends as it began.
   *
   * @throws ConfigError for a value that `resolveOptions` refuses; nothing is changed then
   */
  configure(changes: NodeChanges, now: Instant): void {
    const before = this.options.pingIntervalMs;
    // One object that every part holds.
    Object.assign(this.options, resolveOptions({ ...this.options, ...changes }));
    if (changes.allow !== undefined || changes.allowRequests !== undefined) this.admission.reload();
    if (this.options.pingIntervalMs !== before) this.members.useInterval(this.options.pingIntervalMs, now);
  }

  // --- input -------------------------------------------------------------------------------------------------------

  handle(input: Input, now: Instant): void {
    switch (input.type) {
      case "received": {
        const { from, bytes, start = 0, end = bytes.length } = input;
        if (from.transport === "udp") this.onDatagram(bytes, start, end, from, now);
        else this.onChunk(viewOf({ octets: bytes, start, end }), from, input.flow, now);
        break;
      }
      case "closed":
        this.flows.forget(input.flow);
        break;
      case "unsent":
        this.requests.unsent(input.to, input.cause, now);
        break;
      case "resolved":
        this.members.resolved(input, now);
        break;
    }
    this.settle(now);
  }

  handleTimeout(now: Instant): void {
    this.requests.handleTimeout(now);
    this.serving.handleTimeout(now);
    this.members.handleTimeout(now);
    for (let lost = this.flows.takeLate(now); lost !== undefined; lost = this.flows.takeLate(now))
      this.dropFlow(lost, now);
    this.settle(now);
  }

  poll(): Output | undefined {
    const output = this.outbox.poll();
    // From here on the memory of a datagram is the driver's again.
    if (output === undefined) this.serving.forgetScan();
    return output;
  }

  nextTimeout(): Instant | undefined {
    let next = this.gone ? undefined : this.leaveDeadline;
    const { requests, serving, members, flows } = this;
    for (const at of [requests.nextTimeout(), serving.nextTimeout(), members.nextTimeout(), flows.nextTimeout()])
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
    const template = this.templateFor(channel, body, options);
    const id = this.submit(template, body, this.known(node), options, now, true);
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
  ): Addressed[] {
    const template = this.templateFor(channel, body, options);
    const except = options.except === undefined ? undefined : new Set(options.except.map((uri) => this.find(uri)));
    const addressed: Addressed[] = [];
    for (const peer of this.members.registry.all()) {
      if (peer.status !== "active" || except?.has(peer) === true) continue;
      addressed.push({ request: this.submit(template, body, peer, options, now, false), peer: peer.uri });
    }
    this.settle(now);
    return addressed;
  }

  /**
   * Measures the way to peers and back with what a ping is on the bus: our node list on the notification channel. What
   * comes of it changes neither status nor fail count.
   *
   * @param nodes  URIs of peers, of whatever status; without them, all peers
   * @returns      one number for each, in the order given, else newest first
   * @throws UsageError for a malformed address (`usage`) or one that is not known (`no-such-node`); then none is pinged
   */
  ping(nodes: readonly string[] | undefined, options: { timeoutMs?: Duration }, now: Instant): Addressed[] {
    const peers = nodes?.map((uri) => this.known(uri)) ?? [...this.members.registry.all()].reverse();
    const addressed = peers.map((peer) => ({ request: this.echo(peer, options.timeoutMs, now), peer: peer.uri }));
    this.settle(now);
    return addressed;
  }

  private known(uri: string): Peer {
    const peer = this.find(uri);
    if (peer === undefined) throw new UsageError(`node ${uri} is not known`, "no-such-node");
    return peer;
  }

  private echo(peer: Peer, timeoutMs: Duration | undefined, now: Instant): number {
    const obstacle = this.obstacleTo(peer);
    if (obstacle === undefined && peer.endpoint !== undefined)
      return this.members.echo(peer, peer.endpoint, timeoutMs, now);
    return this.refuse(this.requests.nextId(), peer, obstacle);
  }

  /** Gives a request up; its outcome is `cancelled` if it had none. */
  cancel(request: number, now: Instant): boolean {
    const cancelled = this.requests.cancel(request, now);
    this.settle(now);
    return cancelled;
  }

  /**
   * Passes a request from outside the bus on to every active peer (Kamailio's `dmq_t_replicate`, dmq.md section 10). Nothing
   * of it is changed but the Via that is added; the answers end here.
   *
   * @param request  as it came in, or octets that an operator gave
   * @returns        one number for each peer that was addressed; nothing if there is none, or if the request came from a
   *                 node, or has passed this one, and `skipLoopTest` is not set
   * @throws UsageError for octets that are no request, and for INVITE, ACK, CANCEL and KDMQ
   */
  replicate(request: IncomingRequest | Uint8Array, options: ReplicateOptions, now: Instant): Addressed[] {
    const original =
      request instanceof Uint8Array ? readOriginal(request) : originalOf(request.request, request.source);
    if (!(request instanceof Uint8Array) && this.isLoop(request) && options.skipLoopTest !== true) {
      this.counters.loopsPrevented++;
      return [];
    }
    const addressed: Addressed[] = [];
    for (const peer of this.members.registry.all()) {
      if (peer.status !== "active") continue;
      const id = this.submitReplica(original, peer, addressed.length, options, now);
      addressed.push({ request: id, peer: peer.uri });
    }
    this.settle(now);
    return addressed;
  }

  private isLoop({ source, request }: IncomingRequest): boolean {
    return this.isFromNode(source.ip) || (this.replicaTag !== undefined && hasPassed(request, this.replicaTag));
  }

  private submitReplica(
    original: Original,
    peer: Peer,
    index: number,
    options: ReplicateOptions,
    now: Instant,
  ): number {
    const id = this.requests.nextId();
    const obstacle = this.obstacleTo(peer);
    if (obstacle !== undefined || peer.endpoint === undefined) return this.refuse(id, peer, obstacle);
    const { transport } = peer.endpoint;
    this.replicaTag ??= token(this.random, 2);
    const { address } = this.options;
    const { branch, bytes } = replicaFor(original, address, transport, index, this.replicaTag, this.random);
    const reason = tooLarge(transport, bytes.length);
    if (reason !== undefined) return this.refuse(id, peer, { type: "unreachable", reason });
    this.warnLarge(peer, bytes.length, now);
    this.counters.replicasSent++;
    const built = { ...branchKey(branch), ...spanOf(bytes), place: OWN };
    this.launch(id, "replica", peer, peer.endpoint, built, original, false, options.timeoutMs, now);
    return id;
  }

  /** One message after the other differs in its body alone, mostly: then the last template does. */
  private templateFor(channel: string, body: Uint8Array, options: SendOptions): KdmqTemplate {
    const { maxForwards = 1, contentType = "text/plain", accept, messageId, path, headers } = options;
    const parts = { maxForwards, contentType, accept, messageId, path, headers, bodyBytes: body.length };
    if (this.template?.isFor(channel, parts) === true) return this.template;
    checkMessage(channel, options);
    const { address: local, userAgent } = this.options;
    this.template = new KdmqTemplate({ channel, local, userAgent, ...parts });
    return this.template;
  }

  private submit(
    template: KdmqTemplate,
    body: Uint8Array,
    peer: Peer,
    options: SendOptions,
    now: Instant,
    refuseLarge: boolean,
  ): number {
    const id = this.requests.nextId();
    const obstacle = this.obstacleTo(peer);
    if (obstacle !== undefined || peer.endpoint === undefined) return this.refuse(id, peer, obstacle);
    const { transport } = peer.endpoint;
    const size = template.sizeFor(peer.uri, transport);
    const reason = tooLarge(transport, size);
    if (reason !== undefined && refuseLarge) throw new UsageError(reason);
    if (reason !== undefined) return this.refuse(id, peer, { type: "unreachable", reason });
    this.warnLarge(peer, size, now);
    const built = template.write(peer.uri, transport, body, this.random, this.requests.store);
    const once = this.options.slSend && transport === "udp";
    this.launch(id, "message", peer, peer.endpoint, built, KDMQ, once, options.timeoutMs, now);
    return id;
  }

  private launch(
    id: number,
    kind: "message" | "replica",
    peer: Peer,
    to: Endpoint,
    { high, low, octets, start, end, place }: KdmqRequest,
    { method, vias }: Pick<OutgoingRequest, "method" | "vias">,
    once: boolean,
    timeoutMs: Duration | undefined,
    now: Instant,
  ): void {
    const { key: peerKey, uri: peerUri, endpointKey: toKey } = peer;
    const deadline = now + (timeoutMs ?? this.options.requestTimeoutMs);
    this.requests.submit(
      {
        id,
        kind,
        peer,
        peerKey,
        peerUri,
        to,
        toKey,
        startedAt: now,
        deadline,
        high,
        low,
        octets,
        start,
        end,
        place,
        method,
        vias,
        once,
      },
      now,
    );
  }

  /** Why nothing can be sent to this peer now. */
  private obstacleTo(peer: Peer): Outcome | undefined {
    if (this.leaveDeadline !== undefined) return { type: "cancelled" };
    if (peer.endpoint !== undefined) return undefined;
    return { type: "unreachable", reason: `${peer.address.host} does not resolve` };
  }

  private refuse(id: number, peer: Peer, outcome: Outcome = { type: "cancelled" }): number {
    const report = { request: id, peer: peer.uri, outcome, elapsedMs: 0, attempts: 0 };
    this.outbox.event({ type: "outcome", report });
    return id;
  }

  private warnLarge(peer: Peer, size: number, now: Instant): void {
    if (size <= LARGE_BYTES_LEAST) return;
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

  usage(): NodeUsage {
    return {
      peers: this.members.registry.size,
      unverified: this.members.unverified,
      requests: this.requests.size,
      messages: this.serving.waiting,
    };
  }

  /** True if any peer, of whatever status, has this IP address (Kamailio's `dmq_is_from_node`, dmq.md section 10). */
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
   * Answers a channel message or a routed request; a second answer, or one that comes too late for any copy (37 s), is ignored.
   *
   * @throws UsageError for a status that is not final, or 408, which RFC 4320 forbids, and for text that breaks its line
   */
  answer(id: number, answer: Answer, now: Instant): void {
    this.serving.answer(id, answer, now);
    this.settle(now);
  }

  /**
   * Decides who sees requests first: `others` gives those that are not KDMQ to the route, `all` gives it KDMQ as well. ACK,
   * CANCEL, malformed requests and retransmissions never get there.
   */
  route(routing: Routing): void {
    this.routing = routing;
  }

  /**
   * The route gives a KDMQ request to its channel (Kamailio's `dmq_handle_message` and `dmq_process_message`).
   *
   * @returns false if the request has been answered, or given away, before
   * @throws UsageError if it is no KDMQ request
   */
  take(id: number, mode: HandlerMode, now: Instant): boolean {
    const pending = this.serving.take(id);
    if (pending === undefined) return false;
    if (pending.request.method !== "KDMQ") {
      this.serving.hold(pending, pending.request.method);
      throw new UsageError(`a ${pending.request.method} request has no channel: expected KDMQ`);
    }
    this.onKdmq(pending, now, mode);
    this.settle(now);
    return true;
  }

  /** The route does not want the request: what happens to it without a route happens now. */
  serve(id: number, now: Instant): void {
    const pending = this.serving.take(id);
    if (pending !== undefined) this.serveRequest(pending, now);
    this.settle(now);
  }

  // --- octets that come in -----------------------------------------------------------------------------------------

  /** A connection came in. @returns false where nothing that it may send would be taken: it is to be closed unread */
  accepts(from: Endpoint, now: Instant): boolean {
    if (this.admission.asks(from)) return true;
    this.counters.refusedConnections++;
    this.admission.refuse(from, "a connection", now);
    return false;
  }

  private onDatagram(bytes: Uint8Array, start: number, end: number, from: Endpoint, now: Instant): void {
    this.counters.received++;
    if (this.admission.speaks(from)) {
      if (this.takeOrdinary(bytes, start, end, from, 0, now) > 0) return;
      if (this.takeDelivery(bytes, start, end, from, now)) return;
    } else if (isResponse(bytes, start, end)) {
      // Our own request had led there; its branch tells.
      if (this.takeDelivery(bytes, start, end, from, now)) return;
    } else if (!this.admission.asks(from)) {
      this.onStranger(copyOf(bytes, start, end), from, now);
      return;
    }
    this.onMessage(parseMessage(copyOf(bytes, start, end), "datagram"), from, 0, now);
  }

  /** A datagram of somebody who may send nothing is read only where an answer may go out. */
  private onStranger(bytes: Uint8Array, from: Endpoint, now: Instant): void {
    this.counters.refusedRequests++;
    if (!this.admission.refuse(from, "a request", now)) return;
    const message = parseMessage(bytes, "datagram");
    if (message.type === "request" && checkRequest(message) === undefined)
      this.refuseRequest(message, from, 0, bytes.length);
  }

  /** Answers 403, if that is no larger than what came in: over UDP the source may be somebody else. */
  private refuseRequest(request: SipRequest, source: Endpoint, flow: Flow, size: number): void {
    if (request.method === "ACK") return;
    if (this.serving.refuse(request, source, flow, size)) this.counters.refusalsSent++;
  }

  /**
   * The short way of an ordinary channel message: read, told from a retransmission and given to its channel without making
   * anything of it that nobody asks for.
   *
   * @param start  where it begins
   * @param end    where the datagram ends, or what there is of a stream
   * @returns      the offset after it; 0 where it is something else, and nothing has happened
   */
  private takeOrdinary(
    bytes: Uint8Array,
    start: number,
    end: number,
    source: Endpoint,
    flow: Flow,
    now: Instant,
  ): number {
    if (this.routing === "all") return 0;
    const scan = this.serving.readOrdinary(bytes, start, end, flow !== 0);
    if (scan === undefined) return 0;
    const channel = this.texts.of(bytes, scan.channelStart, scan.channelEnd);
    if (channel === this.options.notificationChannel) return 0;
    const { bodyEnd } = scan;
    const message = this.serving.admitOrdinary(channel, source, flow, this.peers, now);
    if (message === undefined) return bodyEnd;
    this.counters.messagesReceived++;
    if (!this.isOverloaded(message, channel, now)) this.outbox.event({ type: "message", message });
    return bodyEnd;
  }

  /** Takes ordinary messages off the front of a chunk. @returns what is left, which is for the framer */
  private takeOrdinaries(chunk: Uint8Array, from: Endpoint, flow: Flow, now: Instant): Uint8Array {
    let start = 0;
    while (start < chunk.length) {
      const end = this.takeOrdinary(chunk, start, chunk.length, from, flow, now);
      if (end === 0) break;
      this.counters.received++;
      start = end;
    }
    return start === 0 ? chunk : chunk.subarray(start);
  }

  private onChunk(bytes: Uint8Array, from: Endpoint, flow: Flow, now: Instant): void {
    const framer = this.flows.framer(flow, from);
    if (framer.dead()) return;
    const isPlain = framer.buffered() === 0 && this.admission.speaks(from);
    const rest = isPlain ? this.takeOrdinaries(bytes, from, flow, now) : bytes;
    let progressed = rest.length < bytes.length;
    framer.push(rest);
    for (let item = framer.next(); item !== undefined; item = framer.next()) {
      if (item.type === "keepalive") {
        if (item.pong) this.outbox.push({ type: "transmit", to: from, flow, ...PONG });
        continue;
      }
      this.counters.received++;
      progressed = true;
      this.onMessage(item, from, flow, now);
    }
    if (framer.dead()) this.outbox.push({ type: "close", flow });
    const lost = this.flows.settle(flow, progressed, now);
    if (lost !== undefined) this.dropFlow(lost, now);
  }

  private dropFlow({ flow, source, why }: Lost, now: Instant): void {
    this.counters.guardsHit++;
    this.warnings.warn("slow-stream", `connection from ${source.ip}:${source.port} closed: ${why}`, now);
    this.outbox.push({ type: "close", flow });
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
    if (!this.admission.asks(source)) return;
    this.warnings.warn("malformed", `${source.ip}:${source.port}: ${error.message} (${error.section})`, now);
    if (request === undefined || request.method === "ACK") return;
    if (topVia(request) instanceof ProtocolError) {
      this.serving.refuseUnread(request, source, flow, error.statusHint);
      return;
    }
    const pending = this.serving.admit(request, source, flow, now);
    if (pending !== undefined) this.serving.respond(pending, { status: error.statusHint }, now);
  }

  private onRequest(request: SipRequest, source: Endpoint, flow: Flow, now: Instant): void {
    if (request.method === "ACK") return;
    const error = checkRequest(request);
    if (error !== undefined) {
      this.onMalformed(error, request, source, flow, now);
      return;
    }
    if (request.method === "KDMQ" ? !this.admission.speaks(source) : !this.admission.asks(source)) {
      this.counters.refusedRequests++;
      const mayAnswer = this.admission.refuse(source, `a ${request.method} request`, now);
      if (mayAnswer) this.refuseRequest(request, source, flow, request.bytes.length);
      return;
    }
    const pending = this.serving.admit(request, source, flow, now);
    if (pending === undefined) return;
    if (this.isRouted(request)) this.onRouted(pending, now);
    else this.serveRequest(pending, now);
  }

  private isRouted({ method }: SipRequest): boolean {
    if (this.routing === "none" || method === "CANCEL") return false;
    return this.routing === "all" || method !== "KDMQ";
  }

  private onRouted(pending: Pending, now: Instant): void {
    const { request, source, transaction } = pending;
    if (this.isOverloaded(pending, request.method, now)) return;
    const { method, uri, body } = request;
    const fromNode = this.isFromNode(source.ip);
    this.outbox.event({
      type: "request",
      request: { id: transaction, method, uri, source, fromNode, body, request },
    });
  }

  /** What happens to a request that no route takes. */
  private serveRequest(pending: Pending, now: Instant): void {
    const { method } = pending.request;
    const allow = ["KDMQ", "OPTIONS", ...this.options.methods].join(", ");
    if (method === "KDMQ") this.onKdmq(pending, now);
    else if (method === "OPTIONS") {
      if (!this.isTooDemanding(pending, now))
        this.serving.respond(pending, { status: 200, headers: [["Allow", allow]] }, now);
    } else if (method === "CANCEL") this.serving.respond(pending, { status: 481 }, now);
    else this.serving.respond(pending, { status: 405, headers: [["Allow", allow]] }, now);
  }

  /** RFC 3261 §8.2.2.3: no extension of SIP is understood here, so a request that needs one is answered 420. */
  private isTooDemanding(pending: Pending, now: Instant): boolean {
    const required = pending.request.headers.get("Require");
    if (required === undefined) return false;
    this.serving.respond(pending, { status: 420, headers: [["Unsupported", required]] }, now);
    return true;
  }

  private onKdmq(pending: Pending, now: Instant, mode?: HandlerMode): void {
    const { request } = pending;
    if (this.isTooDemanding(pending, now)) return;
    const uri = parseUri(request.uri);
    const channel = uri instanceof ProtocolError ? undefined : uri.user;
    if (channel === undefined) this.serving.respond(pending, NOT_FOUND, now);
    else if (channel === this.options.notificationChannel) this.onNotification(pending, now);
    else this.onChannelMessage(pending, channel, now, mode);
  }

  private onNotification(pending: Pending, now: Instant): void {
    const { request, source } = pending;
    this.counters.notificationsReceived++;
    if (this.isOwn(request)) {
      this.counters.loops++;
      const where = `${source.ip}:${source.port}`;
      this.warnings.warn("self-talk", `a notification of ours came back from ${where}: an address leads here`, now);
      this.serving.respond(pending, { status: 482 }, now);
      return;
    }
    const from = fromAddress(request, source);
    this.members.earn(source.ip, request.bytes.length);
    const announced = this.members.receive(
      {
        from,
        wildcard: isFromWildcard(request),
        source,
        maxForwards: Number(request.headers.get("Max-Forwards") ?? "0"),
        userAgent: request.headers.get("User-Agent"),
        body: request.body,
      },
      now,
    );
    const sender = from === undefined ? undefined : this.members.registry.find(from);
    const userAgent = sender?.userAgent ?? request.headers.get("User-Agent");
    const headersSize = request.bytes.length - request.body.length + ANSWER_ADDS_BYTES;
    const body = this.members.answerTo(source, headersSize, announced, now, userAgent);
    this.serving.respond(pending, { status: 200, contentType: "text/plain", body }, now);
    this.members.pump(now);
  }

  /** Nobody else knows the branch of a request of ours that is under way. */
  private isOwn(request: SipRequest): boolean {
    const via = topVia(request);
    if (via === undefined || via instanceof ProtocolError || via.branch === undefined) return false;
    const waiting = this.requests.waiting(branchKey(via.branch));
    return waiting !== undefined && waiting.kind !== "message" && waiting.kind !== "replica";
  }

  private onChannelMessage(pending: Pending, channel: string, now: Instant, mode?: HandlerMode): void {
    this.counters.messagesReceived++;
    if (this.isOverloaded(pending, channel, now)) return;
    const message = this.messageOf(pending, channel);
    this.outbox.event({ type: "message", message, ...(mode !== undefined && { mode }) });
  }

  /** Keeps a request for its handler or route, or answers 503 where there is no room for it. */
  private isOverloaded(pending: Pending, what: string, now: Instant): boolean {
    if (this.leaveDeadline === undefined && this.serving.hold(pending, what)) return false;
    const { waiting } = this.serving;
    const why =
      this.leaveDeadline === undefined
        ? `${this.serving.waitingFor(what)} of these wait for a handler, ${waiting} of all`
        : "leaving";
    this.warnings.warn("overload", `request refused (${what}): ${why}`, now);
    this.serving.respond(pending, { status: 503, retryAfterSeconds: 2 }, now);
    return true;
  }

  private messageOf(pending: Pending, channel: string): ChannelMessage {
    const { request, source, transaction } = pending;
    const { headers } = request;
    const from = fromUri(request) ?? "";
    const maxForwards = headers.get("Max-Forwards");
    return {
      id: transaction,
      channel,
      from,
      peer: this.peerOf(from, source),
      source,
      callId: headers.get("Call-ID") ?? "",
      contentType: headers.get("Content-Type"),
      maxForwards: maxForwards === undefined ? undefined : Number(maxForwards),
      acceptsBody: headers.has("Accept"),
      messageId: messageIdIn(headers.get(MESSAGE_ID_HEADER)),
      body: request.body,
      request,
    };
  }

  /**
   * The short way of a 2xx to a message of ours.
   *
   * @returns false where it is something else, and nothing has happened
   */
  private takeDelivery(bytes: Uint8Array, start: number, end: number, from: Endpoint, now: Instant): boolean {
    const scan = this.serving.readOrdinaryResponse(bytes, start, end);
    if (scan === undefined || scan.status < 200 || scan.status > 299) return false;
    const branch = branchKeyAt(bytes, scan.branch, scan.branchEnd);
    if (this.requests.waiting(branch)?.kind !== "message") return false;
    const { status, contentType, contentTypeEnd, bodyStart, bodyEnd } = scan;
    const found = this.requests.receive(branch, "KDMQ", status, 1, from, now);
    this.counters.responsesReceived++;
    if (found === undefined) this.counters.strayResponses++;
    if (found === undefined || found === "absorbed") return true;
    const reason = this.texts.of(bytes, scan.reason, scan.reasonEnd);
    const outcome: Outcome = { type: "delivered", code: status, reason, consumer: status !== 202 };
    if (contentType !== -1) outcome.contentType = this.texts.of(bytes, contentType, contentTypeEnd);
    if (bodyEnd > bodyStart) outcome.body = copyOf(bytes, bodyStart, bodyEnd);
    this.report(found, outcome, found.attempts, now);
    return true;
  }

  // --- responses ---------------------------------------------------------------------------------------------------

  private onResponse(response: SipResponse, from: Endpoint, now: Instant): void {
    this.counters.responsesReceived++;
    const via = topVia(response);
    const cseq = cseqOf(response);
    const sane = via !== undefined && !(via instanceof ProtocolError) && via.branch !== undefined && cseq !== undefined;
    if (!sane || checkResponse(response) !== undefined) {
      this.counters.strayResponses++;
      return;
    }
    const { status } = response;
    const vias = viaCount(response);
    const found = this.requests.receive(branchKey(via.branch as string), cseq.method, status, vias, from, now);
    if (found === undefined) this.counters.strayResponses++;
    else if (found !== "absorbed") this.onFinal(found, response, from, now);
  }

  private onFinal(request: OutgoingRequest, response: SipResponse, from: Endpoint, now: Instant): void {
    if (!isNotification(request)) this.report(request, outcomeOf(response), request.attempts, now);
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
      this.outbox.push({ type: "transmit", to: next.to, octets: next.octets, start: next.start, end: next.end });
    this.members.settle(now);
    this.counters.requestsSent = this.requests.sent;
    this.counters.retransmissionsSent = this.requests.retransmissions;
    this.finishLeave(now);
  }

  private onEnded({ request, end, attempts }: EndedRequest, now: Instant): void {
    if (isNotification(request)) {
      this.members.ended(request, end, now);
      return;
    }
    this.report(request, end, attempts, now);
    if (request.kind === "echo") return;
    if (end.type === "timeout" || end.type === "unreachable") this.members.suspect(request.peerKey, now);
  }

  private finishLeave(now: Instant): void {
    if (this.leaveDeadline === undefined || this.gone) return;
    if (now < this.leaveDeadline && (this.requests.size > 0 || this.serving.waiting > 0)) return;
    this.gone = true;
    this.requests.cancelAll(now);
    this.outbox.event({ type: "left" });
  }

  /** URI of the peer that a From URI names; one that calls itself 0.0.0.0 is where the request came from. */
  private peerOf(from: string, source: Endpoint): string | undefined {
    const { registry } = this.members;
    // Nodes write what they have on their line, with a user before it; reading it costs more than looking.
    const named = registry.named(withoutUser(from));
    if (named !== undefined) return named.uri;
    const address = parseAddress(from, source.ip);
    return address instanceof ProtocolError ? undefined : registry.find(address)?.uri;
  }

  private find(uri: string): Peer | undefined {
    const { registry } = this.members;
    return registry.named(uri) ?? registry.find(addressOf(uri));
  }
}

/** `sip:user@192.0.2.1:5060` as a line of a list has it. */
function withoutUser(uri: string): string {
  const at = uri.indexOf("@");
  return at !== -1 && uri.startsWith("sip:") ? `sip:${uri.slice(at + 1)}` : uri;
}

/** What an answer may have beyond the headers of its request: To tag, received, rport, Server, Content-Type. */
const ANSWER_ADDS_BYTES = 120;
const PONG = spanOf(encodeUtf8("\r\n"));
const RESPONSE_START = encodeUtf8("SIP/2.0 ");

/** A response begins with the version (RFC 3261 §7.2), which no method can. */
function isResponse(bytes: Uint8Array, start: number, end: number): boolean {
  if (end - start < RESPONSE_START.length) return false;
  for (let i = 0; i < RESPONSE_START.length; i++) if (bytes[start + i] !== RESPONSE_START[i]) return false;
  return true;
}
const NOT_FOUND: Answer = { status: 404, reason: "Not Found Peer ID" };

function fromUri(request: SipRequest): string | undefined {
  const value = request.headers.get("From");
  const from = value === undefined ? undefined : parseNameAddr(value);
  return from === undefined || from instanceof ProtocolError ? undefined : from.uri;
}

/** The node that From names; one that calls itself 0.0.0.0 is where the request came from. */
function fromAddress(request: SipRequest, source: Endpoint): PeerAddress | undefined {
  const uri = fromUri(request);
  const address = uri === undefined ? undefined : parseAddress(uri, source.ip);
  return address instanceof ProtocolError ? undefined : address;
}

function isFromWildcard(request: SipRequest): boolean {
  const uri = parseUri(fromUri(request) ?? "");
  return !(uri instanceof ProtocolError) && isUnspecified(uri.host);
}
