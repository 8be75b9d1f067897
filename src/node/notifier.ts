/**
 * Notifications of ours: whom we tell which part of the node list, in how small a question, and who pays for it (dmq.md 6 and 7,
 * design.md 4). What an answer to one means is the business of members.ts.
 */
import { type Endpoint, endpointKey, isIpv6, isReliable } from "../core/endpoint.ts";
import type { Random } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";
import { BODY_BYTES_MAX, writeNodeList } from "../membership/notification.ts";
import { addressUri, type Peer, type PeerAddress } from "../membership/peer.ts";
import type { PeerRegistry } from "../membership/registry.ts";
import type { Status } from "../membership/status.ts";
import type { NodeCounters } from "./io.ts";
import { KdmqTemplate } from "./kdmq.ts";
import type { ResolvedOptions } from "./options.ts";
import type { RequestKind, Requests } from "./requests.ts";
import type { Sources } from "./sources.ts";
import type { Warnings } from "./warnings.ts";

/**
 * How long a question waits that goes out once, twice, … over UDP (RFC 3261 §17.1.2.2: 0.5 s, 1 s, 2 s apart): so long that
 * the one after does not go out any more.
 */
const PROBE_MS: readonly Duration[] = [0, 2_000, 1_400, 3_400, 7_400];
export const PROBES_EACH = 4;
/** How long a peer has that somebody said leaves: two transmissions. */
const LEAVE_ASK_MS: Duration = 1_000;
/** Kept of a source's credit for asking who announced itself, before the node list gets the rest. */
const WELCOME_BYTES = 900;

export interface NotifierContext {
  options: ResolvedOptions;
  requests: Requests;
  random: Random;
  warnings: Warnings;
  counters: NodeCounters;
}

/** What an answer is about, beside its receiver. */
interface AnswerShape {
  userAgent?: string | undefined;
  sender?: PeerAddress | undefined;
  bytesMax?: number;
}

export class Notifier {
  /** Of our own line. */
  status: Status = "active";
  private readonly context: NotifierContext;
  private readonly registry: PeerRegistry;
  private readonly sources: Sources;
  private rotation = 0;

  constructor(context: NotifierContext, registry: PeerRegistry, sources: Sources) {
    this.context = context;
    this.registry = registry;
    this.sources = sources;
  }

  /**
   * The node list for one receiver. A Kamailio is always given the same part of a large bus, because it becomes mute
   * when its own list outgrows its buffer (dmq.md 11.3); a node of our kind gets another part each time.
   */
  private listFor(receiver: Peer | undefined, receiverIp: string, now: Instant, answer: AnswerShape = {}): Uint8Array {
    const { userAgent = receiver?.userAgent, sender, bytesMax = BODY_BYTES_MAX } = answer;
    const peers: { address: PeerAddress; ip: string }[] = [];
    for (const peer of this.registry.all()) {
      if (peer.endpoint === undefined || peer === receiver) continue;
      const { ip } = peer.endpoint;
      // A name that leads elsewhere of late has to answer from there first: DNS is no proof.
      if (peer.status === "active" && peer.provenIp === ip) peers.push({ address: peer.address, ip });
    }
    const roomy = userAgent?.startsWith("dmq") === true;
    const turned = roomy ? rotated(peers, this.rotation++) : peers;
    const list = writeNodeList(
      { address: this.context.options.address, status: this.status },
      sender === undefined ? turned : [{ address: sender, ip: receiverIp }, ...turned],
      isIpv6(receiverIp),
      bytesMax,
    );
    if (list.omitted > 0 && bytesMax === BODY_BYTES_MAX)
      this.context.warnings.warn(
        "list-truncated",
        `${list.omitted} of ${peers.length} peers do not fit a node list of ${bytesMax} octets`,
        now,
      );
    return list.body;
  }

  /**
   * The node list that answers a notification. Who announced itself finds itself in it, as a Kamailio expects, also before
   * it has answered us; over UDP the list is no longer than what the source has sent pays for.
   *
   * @param headersSize  octets of the answer without its body, about
   * @param sender       who announced itself and is not active
   */
  answerTo(
    source: Endpoint,
    headersSize: number,
    sender: PeerAddress | undefined,
    now: Instant,
    userAgent: string | undefined,
  ): Uint8Array {
    const { ip, transport } = source;
    if (transport !== "udp") return this.listFor(undefined, ip, now, { userAgent, sender });
    const kept = sender === undefined ? 0 : WELCOME_BYTES;
    const bytesMax = Math.min(BODY_BYTES_MAX, Math.max(0, this.sources.credit(ip) - headersSize - kept));
    const body = this.listFor(undefined, ip, now, { userAgent, sender, bytesMax });
    this.sources.spend(ip, headersSize + body.length);
    return body;
  }

  /** Unless an earlier one is still unanswered. */
  ping(peer: Peer, now: Instant): void {
    if (!this.context.requests.isPinging(peer.key)) this.greet(peer, now);
  }

  /** Pings although an earlier ping is still unanswered. */
  greet(peer: Peer, now: Instant): void {
    if (peer.endpoint === undefined) return;
    const alone = this.registry.countActive() === 0;
    const joining = peer.source === "notification_address" && (!peer.verified || alone);
    this.notify(peer, joining ? "join" : "ping", joining ? 2 : 1, now);
  }

  notify(peer: Peer, kind: RequestKind, maxForwards: number, now: Instant): void {
    if (peer.endpoint === undefined) return;
    // Who has not answered yet gets our own line only: a small request cannot be used to multiply traffic.
    const body = peer.verified || kind === "join" ? this.listFor(peer, peer.endpoint.ip, now) : this.ownLine();
    this.submit(kind, peer.key, peer.address, peer.endpoint, maxForwards, body, now);
  }

  /**
   * A small notification, for those who have not proved anything.
   *
   * @param payer  IP address whose credit pays for it, `undefined` where it is free
   * @param most   transmissions over UDP at most; fewer where the credit is short
   * @returns      its number; `undefined` where the credit pays for none
   */
  question(
    kind: "probe" | "ping",
    { key, address }: Pick<Peer, "key" | "address">,
    to: Endpoint,
    payer: string | undefined,
    most: number,
    now: Instant,
  ): number | undefined {
    const body = this.ownLine();
    const size = this.template(1, body).sizeFor(addressUri(address), to.transport);
    const wanted = isReliable(to.transport) ? 1 : most;
    const times = payer === undefined ? wanted : this.sources.afford(payer, size, wanted);
    if (times === 0) {
      this.context.counters.heldNames++;
      return undefined;
    }
    const patienceMs =
      kind === "ping" ? LEAVE_ASK_MS : (PROBE_MS[isReliable(to.transport) ? PROBES_EACH : times] as Duration);
    const timeoutMs = Math.min(patienceMs, this.context.options.pingTimeoutMs);
    return this.submit(kind, key, address, to, 1, body, now, timeoutMs, times === 1 && !isReliable(to.transport));
  }

  /**
   * An operator's ping: octets and receiver cannot tell it from an ordinary one, but its end changes nothing here.
   *
   * @param to  the peer's endpoint
   * @returns   the number under which its `outcome` comes
   */
  echo(peer: Peer, to: Endpoint, timeoutMs: Duration | undefined, now: Instant): number {
    const body = peer.verified ? this.listFor(peer, to.ip, now) : this.ownLine();
    return this.submit("echo", peer.key, peer.address, to, 1, body, now, timeoutMs);
  }

  private ownLine(): Uint8Array {
    return writeNodeList({ address: this.context.options.address, status: this.status }, [], false).body;
  }

  private submit(
    kind: RequestKind,
    peerKey: string,
    target: PeerAddress,
    to: Endpoint,
    maxForwards: number,
    body: Uint8Array,
    now: Instant,
    timeoutMs = this.context.options.pingTimeoutMs,
    once = false,
  ): number {
    const { requests, random, counters } = this.context;
    const peerUri = addressUri(target);
    const built = this.template(maxForwards, body).write(peerUri, to.transport, body, random, requests.store);
    counters.notificationsSent++;
    const id = requests.nextId();
    const deadline = now + timeoutMs;
    const ours = { id, kind, peerKey, peerUri, to, toKey: endpointKey(to), startedAt: now, deadline };
    requests.submit({ ...ours, ...built, method: "KDMQ", vias: 1, once }, now);
    return id;
  }

  private template(maxForwards: number, body: Uint8Array): KdmqTemplate {
    const { notificationChannel: channel, address: local, userAgent } = this.context.options;
    const bodyBytes = body.length;
    return new KdmqTemplate({ channel, local, maxForwards, contentType: "text/plain", userAgent, bodyBytes });
  }

  /** Tells all other active peers of one that came (dmq.md 7.2). */
  relay(news: Peer, maxForwards: number, now: Instant): void {
    for (const peer of this.registry.all()) {
      if (peer.status !== "active" || peer === news) continue;
      this.context.counters.relays++;
      this.notify(peer, "relay", maxForwards, now);
    }
  }
}

function rotated<T>(items: readonly T[], turn: number): T[] {
  if (items.length === 0) return [];
  // Half a list further each time: two turns show all of a bus of 50.
  const start = (turn * 13) % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}
