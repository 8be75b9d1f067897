/**
 * Visit: what somebody does on the bus who does not belong to it. It reads the node list of a node with an empty
 * notification, which is answered and adds nobody (dmq.md section 5), and sends messages to the nodes on it. It says no
 * line of its own, answers nothing, and nobody learns of it.
 *
 * A value machine like `DmqNode`, with the same codec, transactions and queues: one call, then `poll()` to `undefined`, then
 * a timer for `nextTimeout()`. Nothing that a remote sends throws.
 */
import { EMPTY, type Span } from "../core/bytes.ts";
import { type Endpoint, endpointKey } from "../core/endpoint.ts";
import { ProtocolError, UsageError } from "../core/errors.ts";
import type { Random } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";
import { addressKey, addressUri, type PeerAddress } from "../membership/peer.ts";
import type { Flow, Outcome, OutcomeReport } from "../node/io.ts";
import { KdmqTemplate } from "../node/kdmq.ts";
import { type Addressed, addressOf, checkMessage, outcomeOf, type SendOptions, tooLarge } from "../node/message.ts";
import {
  type EndedRequest,
  isNotification,
  type OutgoingRequest,
  type RequestEnd,
  Requests,
} from "../node/requests.ts";
import { Framer } from "../sip/framer.ts";
import type { SipMessage, SipResponse } from "../sip/message.ts";
import { checkResponse, cseqOf, type Malformed, parseMessage } from "../sip/parse.ts";
import { topVia, viaCount } from "../sip/via.ts";
import { branchKey } from "../transaction/key.ts";
import { type Contact, type Place, Reading, type ReadingStep, type Reply, type VisitedNode } from "./reading.ts";

export interface VisitOptions {
  /** Whom to ask for the node list, in this order. */
  contacts: readonly Contact[];
  /** Channel of the membership. */
  notificationChannel: string;
  userAgent: string;
}

export type VisitInput =
  | { type: "received"; from: Endpoint; flow: Flow; bytes: Uint8Array }
  | { type: "closed"; flow: Flow }
  | { type: "unsent"; to: Endpoint; cause: Error }
  /** An ICMP error came, and nobody knows for which datagram. */
  | { type: "icmp"; cause: Error }
  /** The answer to a `place`; without places `why` says why. */
  | { type: "placed"; address: PeerAddress; places: readonly Place[]; why: string };

export type VisitOutput =
  | ({ type: "transmit"; to: Endpoint } & Span)
  | { type: "close"; flow: Flow }
  /** Find out where a node is, and from which address of ours it is reached. */
  | { type: "place"; address: PeerAddress }
  /** The end of a `read`. */
  | { type: "read"; result: Extract<ReadingStep, { type: "found" | "nobody" }> }
  | { type: "outcome"; report: OutcomeReport };

/** A message whose node is not placed yet. */
interface Waiting {
  readonly id: number;
  readonly kind: "message" | "echo";
  readonly node: VisitedNode;
  readonly peerUri: string;
  readonly message: Message;
  readonly startedAt: Instant;
  readonly deadline: Instant;
}

interface Message {
  readonly channel: string;
  readonly body: Uint8Array;
  readonly options: SendOptions;
}

/** As a node has them (node/options.ts). */
const LIMITS = { window: 256, queueMessages: 10_000, queueBytes: 64 * 1024 * 1024 };
/** RFC 3261 Timer F, 64·T1. */
const REQUEST_MS: Duration = 32_000;
const NAME_LATE = "its name was not resolved in time";
const KDMQ = { method: "KDMQ", vias: 1 };

export class Visit {
  private readonly options: VisitOptions;
  private readonly random: Random;
  private readonly requests = new Requests(LIMITS);
  private readonly outputs: VisitOutput[] = [];
  private readonly framers = new Map<Flow, Framer>();
  private reading: Reading | undefined;
  /** Messages under way; where there are some, an ICMP error may be one of theirs. */
  private messages = 0;
  private readonly places = new Map<string, Place>();
  private waiting: Waiting[] = [];
  private nodes: readonly VisitedNode[] = [];

  constructor(options: VisitOptions, random: Random) {
    this.options = options;
    this.random = random;
  }

  /** The nodes of the last list that was read, in its order, without ourselves. */
  list(): readonly VisitedNode[] {
    const own = new Set([...this.places.values()].map(({ from }) => addressKey(from)));
    return this.nodes.filter(({ key }) => !own.has(key));
  }

  /** Reads the node list; one `read` follows. While one is under way, nothing more is done. */
  read(timeoutMs: Duration, now: Instant): void {
    if (this.reading !== undefined) return;
    this.reading = new Reading(this.options.contacts, now + timeoutMs);
    this.perform(this.reading.start(now), now);
    this.settle(now);
  }

  /**
   * Sends to one node of the list, whatever its status.
   *
   * @returns the number under which the `outcome` comes, exactly one
   * @throws UsageError for a node that is not on the list (`no-such-node`), a channel, header or size that cannot be sent
   */
  send(channel: string, node: string, body: Uint8Array, options: SendOptions, now: Instant): number {
    checkMessage(channel, options);
    const target = this.known(node);
    const reason = tooLarge(target.address.transport, body.length);
    if (reason !== undefined) throw new UsageError(reason);
    const id = this.submit("message", { channel, body, options }, target, now);
    this.settle(now);
    return id;
  }

  /** Sends to every active node of the list but those in `except`. @throws UsageError as `send` */
  broadcast(
    channel: string,
    body: Uint8Array,
    options: SendOptions & { except?: readonly string[] },
    now: Instant,
  ): Addressed[] {
    checkMessage(channel, options);
    const except = new Set((options.except ?? []).map((uri) => this.find(uri)));
    const targets = this.list().filter((node) => node.status === "active" && !except.has(node));
    const addressed = targets.map((node) => ({
      request: this.submit("message", { channel, body, options }, node, now),
      peer: addressUri(node.address),
    }));
    this.settle(now);
    return addressed;
  }

  /**
   * Measures the way to nodes and back with an empty notification, which adds nobody.
   *
   * @param nodes  URIs on the list, of whatever status; without them, all of it
   * @throws UsageError for a malformed address (`usage`) or one that is not on the list (`no-such-node`)
   */
  ping(nodes: readonly string[] | undefined, options: { timeoutMs?: Duration }, now: Instant): Addressed[] {
    const message = { channel: this.options.notificationChannel, body: EMPTY, options };
    const targets = nodes?.map((uri) => this.known(uri)) ?? this.list();
    const addressed = targets.map((node) => ({
      request: this.submit("echo", message, node, now),
      peer: addressUri(node.address),
    }));
    this.settle(now);
    return addressed;
  }

  /** Gives a request up; its outcome is `cancelled` if it had none. */
  cancel(request: number, now: Instant): boolean {
    const waiting = this.waiting.find(({ id }) => id === request);
    this.waiting = this.waiting.filter(({ id }) => id !== request);
    if (waiting !== undefined) this.report(waiting, { type: "cancelled" }, 0, now);
    const cancelled = this.requests.cancel(request, now);
    this.settle(now);
    return cancelled || waiting !== undefined;
  }

  handle(input: VisitInput, now: Instant): void {
    switch (input.type) {
      case "received":
        this.onReceived(input.bytes, input.from, input.flow, now);
        break;
      case "closed":
        this.framers.delete(input.flow);
        break;
      case "unsent":
        this.requests.unsent(input.to, input.cause, now);
        break;
      case "icmp":
        this.onIcmp(input.cause, now);
        break;
      case "placed":
        this.onPlaced(input.address, input.places, input.why, now);
        break;
    }
    this.settle(now);
  }

  handleTimeout(now: Instant): void {
    this.requests.handleTimeout(now);
    const { reading } = this;
    if (reading?.placingUntil !== undefined && reading.placingUntil <= now)
      this.perform(reading.placed([], NAME_LATE, now), now);
    const late = this.waiting.filter(({ deadline }) => deadline <= now);
    this.waiting = this.waiting.filter(({ deadline }) => deadline > now);
    for (const one of late) this.report(one, unplaced(NAME_LATE), 0, now);
    this.settle(now);
  }

  poll(): VisitOutput | undefined {
    return this.outputs.shift();
  }

  nextTimeout(): Instant | undefined {
    const instants = this.waiting.map(({ deadline }) => deadline);
    for (const next of [this.requests.nextTimeout(), this.reading?.placingUntil])
      if (next !== undefined) instants.push(next);
    return instants.length === 0 ? undefined : Math.min(...instants);
  }

  private known(uri: string): VisitedNode {
    const node = this.find(uri);
    if (node === undefined) throw new UsageError(`node ${uri} is not known`, "no-such-node");
    return node;
  }

  /** A node by its URI as on the list, or by that which the list was asked for at. */
  private find(uri: string): VisitedNode | undefined {
    const address = addressOf(uri);
    const key = addressKey(address);
    const known = this.list();
    const exact = known.find((node) => node.key === key);
    if (exact !== undefined) return exact;
    const isContact = this.options.contacts.some((contact) => addressKey(contact.address) === key);
    return isContact ? known.find((node) => node.asked?.contact === key) : undefined;
  }

  // --- reading -----------------------------------------------------------------------------------------------------

  private perform(step: ReadingStep, now: Instant): void {
    switch (step.type) {
      case "place":
        this.outputs.push(step);
        break;
      case "ask":
        this.ask(step.address, step.place, step.deadline, now);
        break;
      case "found":
        this.reading = undefined;
        this.nodes = step.nodes;
        this.outputs.push({ type: "read", result: step });
        break;
      case "nobody":
        this.reading = undefined;
        this.outputs.push({ type: "read", result: step });
        break;
    }
  }

  private ask(address: PeerAddress, place: Place, deadline: Instant, now: Instant): void {
    this.places.set(addressKey(address), place);
    const message = { channel: this.options.notificationChannel, body: EMPTY, options: {} };
    this.launch(this.requests.nextId(), "probe", address, place, message, now, deadline, now);
  }

  private onReply(request: OutgoingRequest, reply: Reply, now: Instant): void {
    if (this.reading !== undefined && request.kind === "probe") this.perform(this.reading.replied(reply, now), now);
  }

  /** It is believed where only the question for the list is under way: then it is about that. */
  private onIcmp(cause: Error, now: Instant): void {
    const to = this.reading?.askedAt;
    if (to?.transport === "udp" && this.messages === 0) this.requests.unsent(to, cause, now);
  }

  private onPlaced(address: PeerAddress, places: readonly Place[], why: string, now: Instant): void {
    const { reading } = this;
    if (reading?.isPlacing(address)) this.perform(reading.placed(places, why, now), now);
    const [place] = places;
    const key = addressKey(address);
    const ready = this.waiting.filter(({ node }) => node.key === key);
    this.waiting = this.waiting.filter(({ node }) => node.key !== key);
    if (place !== undefined) this.places.set(key, place);
    for (const one of ready) {
      if (place === undefined) this.report(one, unplaced(why), 0, now);
      else this.launch(one.id, one.kind, address, place, one.message, one.startedAt, one.deadline, now);
    }
  }

  // --- messages ----------------------------------------------------------------------------------------------------

  private submit(kind: Waiting["kind"], message: Message, node: VisitedNode, now: Instant): number {
    const id = this.requests.nextId();
    const deadline = now + (message.options.timeoutMs ?? REQUEST_MS);
    this.messages++;
    const place = this.places.get(node.key);
    if (place !== undefined) {
      this.launch(id, kind, node.address, place, message, now, deadline, now);
      return id;
    }
    if (!this.waiting.some((one) => one.node.key === node.key))
      this.outputs.push({ type: "place", address: node.address });
    this.waiting.push({ id, kind, node, peerUri: addressUri(node.address), message, startedAt: now, deadline });
    return id;
  }

  private launch(
    id: number,
    kind: Waiting["kind"] | "probe",
    address: PeerAddress,
    { to, from: local }: Place,
    { channel, body, options }: Message,
    startedAt: Instant,
    deadline: Instant,
    now: Instant,
  ): void {
    const { maxForwards = 1, contentType = "text/plain", accept, messageId } = options;
    const { userAgent } = this.options;
    const parts = { channel, local, maxForwards, contentType, userAgent, accept, messageId, bodyBytes: body.length };
    const peerUri = addressUri(address);
    const template = new KdmqTemplate(parts);
    const facts = { id, peerKey: addressKey(address), peerUri, startedAt };
    const reason = tooLarge(to.transport, template.sizeFor(peerUri, to.transport));
    if (reason !== undefined) {
      this.report(facts, { type: "unreachable", reason }, 0, now);
      return;
    }
    const built = template.write(peerUri, to.transport, body, this.random, this.requests.store);
    const way = { to, toKey: endpointKey(to), once: false };
    this.requests.submit({ ...facts, ...way, ...built, ...KDMQ, kind, deadline }, now);
  }

  private report(
    { id, peerUri, startedAt }: Pick<OutgoingRequest, "id" | "peerUri" | "startedAt">,
    outcome: Outcome,
    attempts: number,
    now: Instant,
  ): void {
    this.messages--;
    const report = { request: id, peer: peerUri, outcome, elapsedMs: now - startedAt, attempts };
    this.outputs.push({ type: "outcome", report });
  }

  // --- what comes in -----------------------------------------------------------------------------------------------

  private onReceived(bytes: Uint8Array, from: Endpoint, flow: Flow, now: Instant): void {
    if (from.transport === "udp") {
      this.onMessage(parseMessage(bytes, "datagram"), from, now);
      return;
    }
    const framer = this.framers.get(flow) ?? new Framer();
    this.framers.set(flow, framer);
    framer.push(bytes);
    for (let item = framer.next(); item !== undefined; item = framer.next())
      if (item.type !== "keepalive") this.onMessage(item, from, now);
    if (framer.dead()) this.outputs.push({ type: "close", flow });
  }

  /** Requests are let be: nobody is to take a visitor for a node. */
  private onMessage(message: SipMessage | Malformed, from: Endpoint, now: Instant): void {
    if (message.type !== "response" || checkResponse(message) !== undefined) return;
    const via = topVia(message);
    const cseq = cseqOf(message);
    if (via === undefined || via instanceof ProtocolError || via.branch === undefined || cseq === undefined) return;
    const key = branchKey(via.branch);
    const found = this.requests.receive(key, cseq.method, message.status, viaCount(message), from, now);
    if (found !== undefined && found !== "absorbed") this.onFinal(found, message, now);
  }

  private onFinal(request: OutgoingRequest, response: SipResponse, now: Instant): void {
    if (!isNotification(request)) {
      this.report(request, outcomeOf(response), request.attempts, now);
      return;
    }
    const { status, reason, body, headers } = response;
    const userAgent = headers.get("Server") ?? headers.get("User-Agent");
    this.onReply(request, { type: "answer", status, reason, body, userAgent, rttMs: now - request.startedAt }, now);
  }

  // --- after every call --------------------------------------------------------------------------------------------

  private settle(now: Instant): void {
    for (let over = this.requests.pollEnded(); over !== undefined; over = this.requests.pollEnded())
      this.onEnded(over, now);
    for (let next = this.requests.pollTransmit(); next !== undefined; next = this.requests.pollTransmit())
      this.outputs.push({ type: "transmit", to: next.to, octets: next.octets, start: next.start, end: next.end });
  }

  private onEnded({ request, end, attempts }: EndedRequest, now: Instant): void {
    if (isNotification(request)) this.onReply(request, { type: "failure", why: whyOf(request, end) }, now);
    else this.report(request, end, attempts, now);
  }
}

function unplaced(reason: string): Outcome {
  return { type: "unreachable", reason };
}

function whyOf({ deadline, startedAt }: OutgoingRequest, end: RequestEnd): string {
  if (end.type === "unreachable") return end.reason;
  return end.type === "timeout" ? `no answer in ${Math.round(deadline - startedAt)} ms` : end.type;
}
