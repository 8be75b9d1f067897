/**
 * Membership in motion: joining, announcements, pings, mentions, relays and leaves (dmq.md 7 and 8, design.md 4).
 *
 * It decides what a notification, an answer or its absence means for a peer. What a status becomes is in
 * membership/status.ts, what stands in a body in membership/notification.ts, what we say to whom in notifier.ts. It never touches
 * channel messages.
 */
import { canonicalIp, type Endpoint, sameEndpoint } from "../core/endpoint.ts";
import { ProtocolError } from "../core/errors.ts";
import type { Duration, Instant } from "../core/time.ts";
import { type Claim, type Hint, Hints } from "../membership/hints.ts";
import { type NodeLine, type NodeList, parseNodeList } from "../membership/notification.ts";
import {
  addressKey,
  addressOfUri,
  addressUri,
  endpointOf,
  isLiteral,
  type Peer,
  type PeerAddress,
  type PeerSource,
  parseAddress,
} from "../membership/peer.ts";
import { Pinger } from "../membership/pinger.ts";
import { isOperators, PeerRegistry } from "../membership/registry.ts";
import { type NextStatus, nextStatus, type Status } from "../membership/status.ts";
import { parseUri } from "../sip/uri.ts";
import { Admission } from "./admission.ts";
import { FirstContact } from "./contact.ts";
import type { ResolvedName } from "./io.ts";
import { type Name, Names } from "./names.ts";
import { Notifier, type NotifierContext, PROBES_EACH } from "./notifier.ts";
import type { Outbox } from "./outbox.ts";
import { peerInfo } from "./peer-info.ts";
import type { OutgoingRequest, RequestEnd } from "./requests.ts";
import { CONTACTS_MAX, type HostAnswer, Seeds } from "./seeds.ts";
import { Sources } from "./sources.ts";

/** Those whom only a request names. */
const CLAIM_PROBES_EACH = 2;
/** Over UDP a leave is believed when its node has kept silent for two transmissions. */
const LEAVE_ASKS = 2;
/** Peers that were removed as dead and are asked again when nobody is left. */
const LOST_MAX = 64;
/** The pinger's key for what is done once an interval, whoever is known; no peer can have it. */
const TICK = "tick";

export interface MembersContext extends NotifierContext {
  outbox: Outbox;
}

/** What a notification request said, besides its list. */
export interface NotificationFacts {
  /** From as an address, if it is one; an unspecified host in it is the source's IP address. */
  from: PeerAddress | undefined;
  /** From has an unspecified host: so has the sender's own line. */
  wildcard: boolean;
  source: Endpoint;
  maxForwards: number;
  userAgent: string | undefined;
  body: Uint8Array;
}

/** A 2xx to a notification of ours. */
interface Answer {
  body: Uint8Array;
  from: Endpoint;
}

export class Members {
  readonly registry = new PeerRegistry();
  readonly admission: Admission;
  private readonly hints: Hints;
  private readonly pinger: Pinger;
  private readonly names: Names;
  private readonly contact: FirstContact;
  private readonly lost = new Map<string, PeerAddress>();
  /** Notification addresses that `multi_notify` resolves to contacts. */
  private readonly seeds = new Seeds();
  /** All other notification addresses, by key. */
  private readonly contacts = new Map<string, PeerAddress>();
  /** Peers whose present address failed: the next answer to their name moves them on. */
  private readonly failed = new Set<string>();
  private readonly context: MembersContext;
  private readonly localKeys: ReadonlySet<string>;
  private readonly sources = new Sources();
  private readonly notifier: Notifier;
  /** Peers that are asked when the request that made us is answered, and who pays. */
  private readonly toAsk = new Map<Peer, string>();

  constructor(context: MembersContext) {
    this.context = context;
    this.localKeys = new Set([context.options.address, ...context.options.listening].map(addressKey));
    this.hints = new Hints(context.options.pingIntervalMs);
    this.pinger = new Pinger(context.options.pingIntervalMs, context.random);
    this.names = new Names(context.outbox, context.options.pingIntervalMs);
    this.contact = new FirstContact(context.options.initWithSingle);
    this.notifier = new Notifier(context, this.registry, this.sources);
    const { options, warnings, counters } = context;
    this.admission = new Admission({ options, warnings, counters, members: this.registry });
  }

  /** The ping interval has another value from now on: what was to be pinged, or asked of DNS, is planned anew. */
  useInterval(intervalMs: Duration, now: Instant): void {
    this.hints.useForget(intervalMs);
    this.names.useInterval(intervalMs);
    this.pinger.useInterval(intervalMs);
    this.pinger.schedule(TICK, now);
    for (const peer of this.registry.all()) this.pinger.schedule(peer.key, now);
  }

  // --- joining -----------------------------------------------------------------------------------------------------

  start(now: Instant): void {
    this.pinger.schedule(TICK, now);
    this.join(this.context.options.notificationAddresses, now);
    for (const uri of this.context.options.snapshot) {
      const address = parseAddress(uri);
      if (!(address instanceof ProtocolError))
        this.mention({ address, status: "active" }, "snapshot", undefined, false, now);
    }
    this.pump(now);
  }

  /** Adds notification addresses and says hello. @throws ProtocolError for the first text that is no node's address */
  join(uris: readonly string[], now: Instant): void {
    const addresses = uris.map((text) => {
      const uri = parseUri(text);
      const address = uri instanceof ProtocolError ? uri : addressOfUri(uri, text);
      if (uri instanceof ProtocolError || address instanceof ProtocolError) throw address;
      return { address, port: uri.port };
    });
    for (const { address, port } of addresses) this.joinAt(address, port, now);
  }

  private joinAt(address: PeerAddress, port: number | undefined, now: Instant): void {
    if (this.context.options.multiNotify && !isLiteral(address)) {
      this.seeds.add(address, port);
      this.names.ask({ host: address.host, services: true });
      return;
    }
    this.contacts.set(addressKey(address), address);
    const peer = this.addContact(address, now);
    if (peer !== undefined && peer.endpoint === undefined) this.names.ask({ host: address.host, services: false });
  }

  /** A peer that is never given up; it is greeted as soon as its address is known. */
  private addContact(address: PeerAddress, now: Instant): Peer | undefined {
    if (this.isLocal(address)) {
      this.context.warnings.warn("self-talk", `notification address ${addressUri(address)} is this node itself`, now);
      return undefined;
    }
    const known = this.registry.find(address);
    if (known !== undefined) {
      this.registry.source(known, "notification_address");
      if (address.domain !== undefined) this.vouch(known, address);
      if (known.status !== "active") this.notifier.ping(known, now);
      return known;
    }
    const peer = this.addPeer(address, "notification_address", "not_active", now);
    if (peer?.endpoint !== undefined) this.notifier.ping(peer, now);
    return peer;
  }

  // --- the control surface -----------------------------------------------------------------------------------------

  /** `dmq.add`: taken at the operator's word, and pinged in the same moment. */
  add(address: PeerAddress, status: Status, now: Instant): Peer | undefined {
    const peer = this.addPeer(address, "added", "not_active", now);
    if (peer === undefined) return undefined;
    this.become(peer, status, BY_HAND, now);
    if (peer.endpoint === undefined) this.names.ask({ host: address.host, services: false });
    else this.notifier.ping(peer, now);
    return peer;
  }

  remove(peer: Peer): void {
    this.drop(peer, BY_HAND);
    this.lost.delete(peer.key);
  }

  setStatus(peer: Peer, status: Status, now: Instant): void {
    this.become(peer, status, BY_HAND, now);
  }

  isLocal(address: PeerAddress): boolean {
    return this.localKeys.has(addressKey(address));
  }

  // --- notifications that come in ----------------------------------------------------------------------------------

  /** A request came in, for whatever leaves us because of it (sources.ts). */
  earn(ip: string, octets: number): void {
    this.sources.earn(ip, octets);
  }

  /**
   * Takes in a notification request. The caller answers it with `answerTo` afterwards, and then calls `pump`.
   *
   * @returns the sender's address where it announces itself and is not active
   */
  receive(facts: NotificationFacts, now: Instant): PeerAddress | undefined {
    const self = facts.wildcard ? facts.source.ip : undefined;
    const list = this.readList(facts.body, facts.source, self, now);
    let announced: PeerAddress | undefined;
    for (const line of list.lines) {
      if (this.isOwnLine(line, now)) continue;
      if (!this.speaksForItself(line.address, facts)) this.mention(line, "mentioned", facts.source.ip, true, now);
      else if (this.announce(line, facts, now)) announced = line.address;
    }
    return announced;
  }

  private readList(body: Uint8Array, source: Endpoint, self: string | undefined, now: Instant): NodeList {
    const list = parseNodeList(body, self);
    if (list.badLines > 0) {
      this.context.counters.badLines += list.badLines;
      this.context.warnings.warn(
        "bad-line",
        `${list.badLines} unreadable lines in the node list of ${source.ip}:${source.port}`,
        now,
      );
    }
    return list;
  }

  private isOwnLine(line: NodeLine, now: Instant): boolean {
    if (!this.isLocal(line.address)) return false;
    if (line.status === "disabled" && this.notifier.status === "active") {
      this.context.counters.guardsHit++;
      this.context.warnings.warn("told-disabled", "a peer's list says that this node is disabled; ignored", now);
    }
    return true;
  }

  /** From, line and source address agree: the node speaks for itself (design.md 4). */
  private speaksForItself(address: PeerAddress, facts: NotificationFacts): boolean {
    if (facts.from === undefined || addressKey(facts.from) !== addressKey(address)) return false;
    const ip = canonicalIp(address.host) ?? this.registry.find(address)?.endpoint?.ip;
    return ip === facts.source.ip;
  }

  /** @returns true if it is not active: it is asked, and others are told of it once it has answered */
  private announce(line: NodeLine, facts: NotificationFacts, now: Instant): boolean {
    const peer = this.registry.find(line.address);
    const payer = facts.source.ip;
    const forwards = Math.max(0, facts.maxForwards - 1);
    if (peer === undefined) {
      if (line.status === "active") this.hear(line.address, "announced", { payer, forwards }, now);
      return line.status === "active";
    }
    // Over UDP all of this may be forged: only the peer's answers say more than its name.
    if (facts.source.transport !== "udp") peer.lastSeen = now;
    if (!peer.verified && facts.userAgent !== undefined) peer.userAgent = facts.userAgent;
    if (line.status === "disabled") this.hearLeave(peer, facts.source, now);
    if (line.status === "disabled" || peer.status === "active") return false;
    peer.forwards = Math.max(peer.forwards, forwards);
    this.ask(peer, payer, now);
    return true;
  }

  /** A leave in a datagram may be anybody's: the peer is asked, and what it says counts, or its silence. */
  private hearLeave(peer: Peer, source: Endpoint, now: Instant): void {
    if (source.transport !== "udp" || peer.endpoint === undefined) this.takeLeave(peer, now);
    else if (peer.status !== "disabled" && peer.leaveAsked === undefined)
      peer.leaveAsked = this.notifier.question("ping", peer, peer.endpoint, source.ip, LEAVE_ASKS, now);
  }

  private takeLeave(peer: Peer, now: Instant): void {
    peer.leaveAsked = undefined;
    peer.forwards = 0;
    peer.leftAt = now;
    if (peer.status === "disabled") return;
    this.become(peer, nextStatus(peer.status, "left", 0, false, this.context.options), "it left the bus", now);
  }

  /**
   * Somebody says that there is a node. It changes nothing but what we ask.
   *
   * @param from       IP address of who says so, `undefined` where we know it ourselves
   * @param isRequest  anybody may have sent it, so it has to be paid for
   */
  private mention(
    line: NodeLine,
    source: PeerSource,
    from: string | undefined,
    isRequest: boolean,
    now: Instant,
  ): void {
    if (line.status !== "active") return;
    if (this.isLocal(line.address)) return;
    const peer = this.registry.find(line.address);
    if (peer === undefined) this.hearOf(line.address, source, from, isRequest, now);
    else if (peer.status !== "active" && peer.leftAt === undefined) this.nudge(peer, isRequest ? from : undefined, now);
  }

  private hearOf(
    address: PeerAddress,
    source: PeerSource,
    from: string | undefined,
    isRequest: boolean,
    now: Instant,
  ): void {
    // Where only members may speak, a name counts that a member gives in answer to us: a request in its name may be forged.
    const isAllowed = isLiteral(address)
      ? this.admission.isListed(address.host) || (!isRequest && this.admission.mayJoin(address.host))
      : !isRequest || this.admission.hasNetworks();
    if (!isAllowed) this.context.counters.refusedNames++;
    else this.hear(address, source, { payer: isRequest ? from : undefined }, now, from);
  }

  private hear(address: PeerAddress, source: PeerSource, claim: Claim, now: Instant, from = claim.payer): void {
    const isNews = !this.hints.has(address);
    const isFew = !isNews || from === undefined || this.sources.mayName(from, !isLiteral(address), now);
    if (!isFew || !this.hints.add(address, source, now, claim)) this.context.counters.heldNames++;
  }

  private nudge(peer: Peer, payer: string | undefined, now: Instant): void {
    if (peer.nudgedAt !== undefined && now - peer.nudgedAt < this.context.options.pingIntervalMs / 2) return;
    peer.nudgedAt = now;
    this.ask(peer, payer, now);
  }

  /** Asks a peer because of what somebody said. Its silence changes nothing: the next ping will tell. */
  private ask(peer: Peer, payer: string | undefined, now: Instant): void {
    if (payer === undefined) this.notifier.ping(peer, now);
    else this.toAsk.set(peer, payer);
  }

  private askAll(now: Instant): void {
    for (const [peer, payer] of this.toAsk)
      if (peer.endpoint !== undefined && !this.context.requests.isPinging(peer.key))
        this.notifier.question("probe", peer, peer.endpoint, payer, PROBES_EACH, now);
    this.toAsk.clear();
  }

  /** Probes as many waiting names as there is room for. */
  pump(now: Instant): void {
    if (this.toAsk.size > 0) this.askAll(now);
    for (let hint = this.take(); hint !== undefined; hint = this.take()) {
      if (this.registry.find(hint.address) !== undefined) this.hints.settle(hint.key);
      else if (isLiteral(hint.address)) this.probe(hint, hint.address.host, now);
      else this.names.ask({ host: hint.address.host, services: false });
    }
  }

  private take(): Hint | undefined {
    return this.notifier.status === "active" ? this.hints.take() : undefined;
  }

  /** Somebody was asked for the first time, and has not answered yet. */
  private isMeeting(): boolean {
    if (this.hints.size > 0) return true;
    for (const peer of this.registry.all())
      if (!peer.verified && this.context.requests.isPinging(peer.key)) return true;
    return false;
  }

  /** Names under way that have not answered yet. */
  get unverified(): number {
    return this.hints.probingNow;
  }

  // --- what we send ------------------------------------------------------------------------------------------------

  /** The node list that answers a notification (notifier.ts). */
  answerTo(
    source: Endpoint,
    headersSize: number,
    sender: PeerAddress | undefined,
    now: Instant,
    userAgent: string | undefined,
  ): Uint8Array {
    return this.notifier.answerTo(source, headersSize, sender, now, userAgent);
  }

  /** An operator's ping (notifier.ts). */
  echo(peer: Peer, to: Endpoint, timeoutMs: Duration | undefined, now: Instant): number {
    return this.notifier.echo(peer, to, timeoutMs, now);
  }

  private probe(hint: Hint, ip: string, now: Instant): void {
    const most = hint.payer === undefined || hint.source === "announced" ? PROBES_EACH : CLAIM_PROBES_EACH;
    const asked = this.notifier.question("probe", hint, endpointOf(hint.address, ip), hint.payer, most, now);
    if (asked === undefined) this.hints.settle(hint.key);
  }

  // --- answers and their absence -----------------------------------------------------------------------------------

  answered(
    request: OutgoingRequest,
    response: { status: number; body: Uint8Array; userAgent: string | undefined; from: Endpoint },
    now: Instant,
  ): void {
    // A 408 is a failure, whoever says it (dmq.md 8): something answers there, but not the node.
    if (response.status === 408) {
      this.ended(request, { type: "timeout" }, now);
      return;
    }
    const accepted = response.status >= 200 && response.status < 300;
    const peer = accepted ? this.prove(request, response, now) : this.registry.get(request.peerKey);
    if (!accepted) this.refused(request, peer, now);
    if (peer === undefined) return;
    peer.lastSeen = now;
    peer.rttMs = now - request.startedAt;
    if (response.userAgent !== undefined) peer.userAgent = response.userAgent;
    if (accepted) this.readAnswer(peer, request, response, now);
  }

  /** Someone answers there, but not as a node: it is alive, and no more is known. */
  private refused(request: OutgoingRequest, peer: Peer | undefined, now: Instant): void {
    this.hints.fail(request.peerKey, now);
    this.pump(now);
    if (peer === undefined) return;
    if (peer.leaveAsked === request.id) this.takeLeave(peer, now);
    if (peer.verified) peer.failCount = 0;
    else if (peer.source === "notification_address") this.pinger.scheduleRetry(peer.key, now);
  }

  /** The peer that an answered request went to; a hint becomes one by its answer. */
  private prove(request: OutgoingRequest, response: Answer, now: Instant): Peer | undefined {
    const hint = this.hints.probed(request.peerKey);
    const known = hint === undefined ? this.registry.get(request.peerKey) : undefined;
    const address = hint?.address ?? known?.address;
    if (address !== undefined && !this.isItself(address, known, request.to, response)) {
      this.hints.fail(request.peerKey, now);
      this.pump(now);
      return undefined;
    }
    const peer = hint === undefined ? known : this.makePeer(hint, request.to, now);
    if (peer !== undefined) this.absorbTwins(peer, request.to, response);
    return peer;
  }

  private makePeer(hint: Hint, to: Endpoint, now: Instant): Peer | undefined {
    this.hints.settle(hint.key);
    // By the address that answered, too: a node that is listed by name and by IP is one peer.
    const alias = this.registry.find(hint.address) ?? this.registry.at(to);
    const peer = alias ?? this.addPeer(hint.address, hint.source, "not_active", now, to.ip);
    if (peer === undefined) return undefined;
    peer.forwards = Math.max(peer.forwards, hint.forwards);
    if (peer !== alias) this.registry.resolve(peer, to.ip);
    return peer;
  }

  /**
   * Whoever listens on two transports is one node, the one that its list says; known as two, it would get every message twice.
   *
   * @returns false if the one that was asked is not that: then it is no peer any more
   */
  private isItself(address: PeerAddress, known: Peer | undefined, to: Endpoint, { body, from }: Answer): boolean {
    const twins = this.twinsAt(to);
    const isProven = known !== undefined && isProvenAt(known, to.ip);
    if (twins.length === 0 && isProven) return true;
    const list = parseNodeList(body, from.ip);
    if (!isElsewhere(address, to, list)) return true;
    // What an operator gave stays until the node is known by its own address.
    const named = twins.find((twin) => !isElsewhere(twin.address, to, list));
    if (named === undefined && isProven) return true;
    if (known !== undefined) this.dropTwin(known, named);
    return false;
  }

  private absorbTwins(peer: Peer, to: Endpoint, { body, from }: Answer): void {
    const twins = this.twinsAt(to).filter((twin) => twin !== peer);
    if (twins.length === 0) return;
    const list = parseNodeList(body, from.ip);
    for (const twin of twins) if (isElsewhere(twin.address, to, list)) this.dropTwin(twin, peer);
  }

  private twinsAt({ transport, ip, port }: Endpoint): Peer[] {
    const others = TRANSPORTS.filter((one) => one !== transport);
    return others.map((one) => this.registry.at({ transport: one, ip, port })).filter((peer) => peer !== undefined);
  }

  private dropTwin(peer: Peer, heir: Peer | undefined): void {
    if (heir !== undefined && peer.source === "notification_address") this.registry.source(heir, peer.source);
    this.drop(peer, "it answers as a node of another transport");
    if (heir !== undefined) this.lost.delete(peer.key);
  }

  private readAnswer(peer: Peer, request: OutgoingRequest, response: Answer, now: Instant): void {
    // Whoever calls itself 0.0.0.0 is the one that answered.
    const list = this.readList(response.body, response.from, response.from.ip, now);
    let leaving = false;
    for (const line of list.lines) {
      if (this.isOwnLine(line, now)) continue;
      if (this.registry.find(line.address) === peer) leaving = line.status === "disabled";
      else this.mention(line, "mentioned", response.from.ip, false, now);
    }
    if (!leaving && peer.leaveAsked === request.id) this.refuteLeave(peer, now);
    if (leaving) this.takeLeave(peer, now);
    else if (peer.leftAt === undefined || peer.leftAt <= request.startedAt) this.revive(peer, response.from, now);
    this.pump(now);
  }

  private refuteLeave(peer: Peer, now: Instant): void {
    peer.leaveAsked = undefined;
    this.context.counters.falseLeaves++;
    const text = `somebody said in the name of ${peer.uri} that it leaves; it is still there`;
    this.context.warnings.warn("false-leave", text, now, peer.uri);
  }

  private revive(peer: Peer, from: Endpoint, now: Instant): void {
    const { forwards } = peer;
    const isNews = peer.status !== "active";
    peer.forwards = 0;
    this.registry.verify(peer, true);
    this.registry.meet(peer, from);
    peer.provenIp = from.ip;
    peer.failCount = 0;
    peer.answeredAt = now;
    peer.leftAt = undefined;
    this.lost.delete(peer.key);
    this.failed.delete(peer.key);
    this.pinger.answered(peer.key);
    this.become(peer, nextStatus(peer.status, "answered", 0, false, this.context.options), "it answered", now);
    this.contact.answered(peer.uri, now);
    if (isNews && forwards > 0) this.notifier.relay(peer, forwards, now);
  }

  /** Says once for each first contact with the bus whom to synchronise with. */
  settle(now: Instant): void {
    if (!this.contact.isSettling()) return;
    const active = (): string[] => [...this.registry.all()].filter(isActive).map(({ uri }) => uri);
    const nodes = this.contact.check(this.isMeeting(), active, now);
    if (nodes !== undefined) this.context.outbox.event({ type: "joined", nodes });
  }

  /** A notification of ours ended without an answer. */
  ended(request: OutgoingRequest, end: RequestEnd, now: Instant): void {
    if (end.type === "cancelled") return;
    this.hints.fail(request.peerKey, now);
    const peer = this.registry.get(request.peerKey);
    // Where the name has led elsewhere since, the failure says nothing of the new place.
    const isThere = peer?.endpoint !== undefined && sameEndpoint(peer.endpoint, request.to);
    if (peer?.leaveAsked === request.id) this.takeLeave(peer, now);
    else if (peer !== undefined && isThere && request.kind !== "probe")
      this.fail(peer, request.startedAt, reasonOf(end), now);
    this.pump(now);
  }

  /** A message to a peer got no answer: it may be dead, and a ping will tell. */
  suspect(peerKey: string, now: Instant): void {
    const peer = this.registry.get(peerKey);
    if (peer !== undefined && peer.status === "active") this.notifier.ping(peer, now);
  }

  private fail(peer: Peer, since: Instant, reason: string, now: Instant): void {
    // An answer or a change of status since then makes the failure an old story (dmq.md 11.14).
    if (peer.answeredAt !== undefined && peer.answeredAt >= since) return;
    if (peer.statusSince !== undefined && peer.statusSince > since) return;
    peer.failCount++;
    const permanent = peer.source === "notification_address";
    if (!isLiteral(peer.address)) {
      this.failed.add(peer.key);
      this.names.ask({ host: peer.address.host, services: false });
    }
    if (permanent) this.pinger.scheduleRetry(peer.key, now);
    const next = nextStatus(peer.status, "failed", peer.failCount, permanent, this.context.options);
    this.become(peer, next, reason, now);
  }

  // --- status changes ----------------------------------------------------------------------------------------------

  private become(peer: Peer, next: NextStatus, reason: string, now: Instant): void {
    if (next === "removed") {
      this.drop(peer, reason);
      return;
    }
    if (peer.status === next) return;
    peer.status = next;
    peer.statusSince = now;
    if (next !== "active" && this.registry.countActive() === 0) this.contact.lost();
    const type = next === "active" ? "peer-up" : next === "not_active" ? "peer-down" : "peer-disabled";
    this.context.outbox.event({ type, peer: peerInfo(peer, this.context.requests), reason });
  }

  private addPeer(
    address: PeerAddress,
    source: PeerSource,
    status: Status,
    now: Instant,
    ip = canonicalIp(address.host),
  ): Peer | undefined {
    const obstacle = this.registry.obstacle(source, ip);
    if (obstacle !== undefined) {
      this.context.warnings.warn("registry-full", `no room for ${addressUri(address)}: ${obstacle}`, now);
      return undefined;
    }
    const peer = this.registry.add(address, source, status);
    this.hints.settle(peer.key);
    this.pinger.schedule(peer.key, now);
    return peer;
  }

  private drop(peer: Peer, reason: string): void {
    this.registry.remove(peer);
    this.pinger.forget(peer.key);
    this.failed.delete(peer.key);
    if (this.registry.countActive() === 0) this.contact.lost();
    if (peer.verified) this.lost.set(peer.key, peer.address);
    if (this.lost.size > LOST_MAX) this.lost.delete(this.lost.keys().next().value as string);
    this.context.outbox.event({ type: "peer-removed", peer: peerInfo(peer, this.context.requests), reason });
  }

  // --- names -------------------------------------------------------------------------------------------------------

  resolved(answer: ResolvedName, now: Instant): void {
    const { host, addresses, services = [], complete } = answer;
    const name = { host, services: answer.services !== undefined };
    if (!this.names.answered(name)) return;
    const isNothing = addresses.length + services.length === 0;
    if (isNothing) this.warnUnresolvable(host, answer.cause?.message ?? "it has no address", now);
    for (const peer of [...this.registry.all()]) if (peer.address.host === host) this.resolvePeer(peer, answer, now);
    if (name.services) this.updateSeeds(host, { addresses, services, complete }, now);
    for (const hint of [...this.hints.byHost(host)]) this.resolveHint(hint, addresses, now);
    if (this.isWanted(name)) this.names.schedule(name, answer.ttlMs, isNothing || !complete, now);
    else this.names.forget(name);
  }

  private warnUnresolvable(host: string, why: string, now: Instant): void {
    this.context.warnings.warn("unresolvable", `${host} does not resolve: ${why}`, now);
  }

  private isWanted({ host, services }: Name): boolean {
    if (services) return this.seeds.has(host);
    for (const peer of this.registry.all()) if (peer.address.host === host) return true;
    return false;
  }

  private resolvePeer(peer: Peer, { addresses, complete }: ResolvedName, now: Instant): void {
    const usable = addresses.filter((ip) => !this.isLocal({ ...peer.address, host: ip }));
    const current = peer.endpoint?.ip;
    const index = current === undefined ? -1 : usable.indexOf(current);
    const hasFailed = this.failed.delete(peer.key);
    // A dead DNS server disturbs nothing: the last known address stays. So it does in half an answer.
    if (usable.length === 0 || (!hasFailed && (index !== -1 || (current !== undefined && !complete)))) return;
    const next = usable[(index + 1) % usable.length] as string;
    if (next === current) return;
    if (!this.absorbAlias(peer, next, now)) return;
    this.registry.resolve(peer, next);
    this.notifier.greet(peer, now);
  }

  /**
   * The address was known as a peer of its own: it is the named peer, which takes over what is known of it.
   *
   * @returns false if the other one is a name as well: two names of one address are one peer, and the first has it
   */
  private absorbAlias(peer: Peer, ip: string, now: Instant): boolean {
    const alias = this.registry.at(endpointOf(peer.address, ip));
    if (alias === undefined || alias === peer) return true;
    if (!isLiteral(alias.address)) return false;
    if (alias.source === "notification_address") this.registry.source(peer, alias.source);
    // First the one, then the other: for a moment without an active peer the next answer would be a first contact.
    this.become(peer, alias.status, `it is ${alias.uri}`, now);
    this.drop(alias, `it is ${peer.uri}`);
    this.lost.delete(alias.key);
    this.registry.verify(peer, alias.verified);
    peer.provenIp = alias.provenIp;
    peer.forwards = alias.forwards;
    peer.failCount = alias.failCount;
    peer.lastSeen = alias.lastSeen;
    peer.userAgent = alias.userAgent;
    peer.answeredAt = alias.answeredAt;
    return true;
  }

  /** Greets the contacts that came with an answer, and lets go of those that went. */
  private updateSeeds(host: string, answer: HostAnswer, now: Instant): void {
    const { added, gone, omitted } = this.seeds.update(host, answer);
    if (omitted > 0)
      this.context.warnings.warn("too-many-addresses", `${omitted} addresses of ${host} beyond ${CONTACTS_MAX}`, now);
    for (const contact of added) {
      // Our own address is in the name too, as it should be.
      if (this.isLocal(contact) || this.registry.find(contact)?.source === "notification_address") continue;
      if (this.addContact(contact, now) === undefined) this.seeds.forget(contact);
    }
    for (const contact of gone) this.release(contact);
  }

  /** An address that a name had before and has no more may be given up like any other peer. */
  private release(contact: PeerAddress): void {
    const peer = this.registry.find(contact);
    if (peer?.source !== "notification_address" || this.contacts.has(peer.key)) return;
    this.registry.source(peer, "mentioned");
    const { transport, host, port } = peer.address;
    this.vouch(peer, { transport, host, port });
  }

  /** DNS leads to this literal, or does so no more: its TLS certificate may be for the domain, or may not. */
  private vouch(peer: Peer, contact: PeerAddress): void {
    if (peer.endpoint !== undefined && isLiteral(peer.address)) peer.endpoint = endpointOf(contact, peer.endpoint.ip);
  }

  private resolveHint(hint: Hint, addresses: readonly string[], now: Instant): void {
    const ip = addresses[0];
    if (ip === undefined || this.isLocal({ ...hint.address, host: ip })) this.hints.fail(hint.key, now);
    else if (this.registry.at(endpointOf(hint.address, ip)) !== undefined) this.hints.settle(hint.key);
    else if (!this.admission.mayJoin(ip)) {
      this.context.counters.refusedNames++;
      this.hints.fail(hint.key, now);
    } else this.probe(hint, ip, now);
  }

  // --- time --------------------------------------------------------------------------------------------------------

  handleTimeout(now: Instant): void {
    for (let key = this.pinger.take(now); key !== undefined; key = this.pinger.take(now)) {
      if (this.notifier.status === "active") this.tick(key, now);
    }
    for (let name = this.names.take(now); name !== undefined; name = this.names.take(now)) {
      if (this.notifier.status === "active" && this.isWanted(name)) this.names.ask(name);
      else this.names.forget(name);
    }
  }

  private tick(key: string, now: Instant): void {
    this.pinger.schedule(key, now);
    if (key === TICK) {
      this.joinAgain(now);
      this.searchWhenAlone(now);
      return;
    }
    const peer = this.registry.get(key);
    if (peer === undefined) return;
    if (!isLiteral(peer.address)) this.names.want({ host: peer.address.host, services: false });
    this.notifier.ping(peer, now);
  }

  /** An empty registry starts anew (dmq.md 7.3), also with contacts that an operator had removed. */
  private joinAgain(now: Instant): void {
    if (this.registry.size > 0) return;
    this.seeds.forgetAll();
    for (const contact of this.contacts.values()) if (!this.isLocal(contact)) this.joinAt(contact, contact.port, now);
  }

  /** With nobody left, those who once answered are asked again. */
  private searchWhenAlone(now: Instant): void {
    if (this.lost.size === 0 || this.registry.countActive() > 0) return;
    for (const address of this.lost.values())
      this.mention({ address, status: "active" }, "mentioned", undefined, false, now);
    this.pump(now);
  }

  nextTimeout(): Instant | undefined {
    let next = this.pinger.nextTimeout();
    for (const at of [this.contact.nextTimeout(), this.names.nextTimeout()])
      if (at !== undefined && (next === undefined || at < next)) next = at;
    return next;
  }

  // --- leaving -----------------------------------------------------------------------------------------------------

  /**
   * Says goodbye to every peer: list and our own line `disabled`, Max-Forwards 1 (dmq.md 7.4). Not where a peer shares
   * our IP address: a newer Kamailio takes our line for that peer's and would switch it off (dmq.md 6).
   */
  leave(now: Instant): void {
    const { address } = this.context.options;
    for (const peer of this.registry.all()) {
      if (peer.endpoint?.ip !== address.host) continue;
      this.context.counters.guardsHit++;
      this.context.warnings.warn(
        "leave-unannounced",
        `${peer.uri} has our IP address: leaving without a word`,
        now,
        peer.uri,
      );
      return;
    }
    this.notifier.status = "disabled";
    for (const peer of this.registry.all()) if (peer.verified) this.notifier.notify(peer, "leave", 1, now);
  }
}

/** Why a status changed that an operator, or a program of theirs, changed. */
const BY_HAND = "by hand";

function reasonOf(end: RequestEnd): string {
  return end.type === "unreachable" ? `it is unreachable: ${end.reason}` : "no answer to a ping in time";
}

const TRANSPORTS = ["udp", "tcp", "tls"] as const;

function isActive({ status }: Peer): boolean {
  return status === "active";
}

/** It has answered from there before, or an operator says that it is there. */
function isProvenAt(peer: Peer, ip: string): boolean {
  return peer.provenIp === ip || isOperators(peer.source);
}

/**
 * The answer's list has this place on another transport, and not on the one that was asked: whoever listens on both is one
 * node all the same, the one that it calls itself, and would get every message twice.
 */
function isElsewhere({ transport, host, port }: PeerAddress, { ip }: Endpoint, { lines }: NodeList): boolean {
  const here = lines.filter(({ address }) => (address.host === ip || address.host === host) && address.port === port);
  return here.length > 0 && here.every(({ address }) => address.transport !== transport);
}
