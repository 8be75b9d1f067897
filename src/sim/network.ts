/**
 * A simulated network as a value: what is sent goes in with the current instant, what arrives comes out when its time has
 * come, and every delay, loss, copy and split is drawn from one seeded source. It waits for nothing and calls nobody.
 *
 * Datagrams may be lost, copied, overtaken and cut off. Streams are what TCP makes of the same links: chunks in order and
 * whole, split anywhere; loss and partitions become delay, then a reset. A closed port answers (ICMP, refusal) while its
 * host lives and is silent once the host is gone. A name is answered as it is known when the answer leaves.
 *
 * A host listens on one address for datagrams and for streams alike, so any node can reach any other over either.
 */
import { copyOf } from "../core/bytes.ts";
import { canonicalIp, type Endpoint, endpointKey, formatHost } from "../core/endpoint.ts";
import { TransportError } from "../core/errors.ts";
import { below, type Random } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";
import type { Flow, Input, Output, ResolvedName } from "../node/io.ts";
import { Agenda } from "./agenda.ts";
import type { Trace } from "./trace.ts";

/** What the links do. Chances are 0 to 1, times are milliseconds. */
export interface LinkOptions {
  delayMinMs: Duration;
  delayMaxMs: Duration;
  /** Of a datagram; on a stream it costs a retransmission's time instead. */
  loss: number;
  duplication: number;
  /** Chance that a datagram waits up to `reorderingMs` longer, so that later ones overtake it. */
  reordering: number;
  reorderingMs: Duration;
  /** Chance that a stream hands a chunk over in two parts. */
  split: number;
  dnsDelayMinMs: Duration;
  dnsDelayMaxMs: Duration;
}

/** A quiet local network. */
export const CLEAN_LINK: LinkOptions = {
  delayMinMs: 1,
  delayMaxMs: 5,
  loss: 0,
  duplication: 0,
  reordering: 0,
  reorderingMs: 200,
  split: 0.2,
  dnsDelayMinMs: 1,
  dnsDelayMaxMs: 50,
};

/**
 * `process`: its ports refuse and its streams are reset, as after kill -9. `host`: nothing answers any more. `exit`: its
 * ports refuse, and its streams end after what was queued, as after a shutdown in good order.
 */
export type Death = "process" | "host" | "exit";

/** What DNS knows of a name. */
export interface NameRecords {
  addresses: readonly string[];
  /** One for each address of each SRV target. */
  services: readonly { ip: string; port: number }[];
  ttlMs: Duration;
  /** Why the question has no answer, e.g. SERVFAIL: nothing is known then, and what was known may hold. */
  failure?: string;
}

/** An input for the host of that name. */
export interface Arrival {
  host: string;
  input: Input;
}

type Transmit = Extract<Output, { type: "transmit" }>;

/** RFC 768 and 791: what IPv4 leaves of 65,535 octets. */
const DATAGRAM_BYTES_MAX = 65_507;
const CONNECT_TIMEOUT_MS = 10_000;
/** What a driver waits for DNS at most. */
const DNS_TIMEOUT_MS = 5_000;
const NAME_TTL_MS = 60_000;
/** A stream whose octets get nowhere for so long is reset; real stacks take longer, and no test wants to wait. */
const STREAM_GIVE_UP_MS = 40_000;
const RETRANSMIT_FIRST_MS = 200;
const RETRANSMIT_MAX_MS = 8_000;

/** One life of a host: what was meant for an earlier life never reaches the next. */
interface Host {
  readonly name: string;
  readonly ip: string;
  readonly port: number;
  state: "up" | "closed" | "silent";
  readonly streams: Map<Flow, StreamEnd>;
  readonly dialled: Map<string, StreamEnd>;
  nextFlow: Flow;
}

interface StreamEnd {
  readonly host: Host;
  readonly flow: Flow;
  /** Where octets of this stream come from, as its own host sees it. */
  readonly remote: Endpoint;
  peer: StreamEnd | undefined;
  state: "connecting" | "open" | "finishing" | "over";
  /** `undefined` in the queue is the end of the stream. */
  readonly outgoing: (Uint8Array | undefined)[];
  moving: boolean;
  stuckSince: Instant | undefined;
  retransmitMs: Duration;
}

type Happening =
  | { type: "datagram"; from: Host; to: Endpoint; bytes: Uint8Array; copy: boolean }
  | { type: "input"; host: Host; input: Input }
  | { type: "connect"; end: StreamEnd; since: Instant }
  | { type: "move"; end: StreamEnd }
  | { type: "reset"; end: StreamEnd; from: Host };

export class Network {
  private readonly random: Random;
  private readonly trace: Trace;
  private link: LinkOptions;
  private readonly agenda = new Agenda<Happening>();
  /** The last life at each address, up or not. */
  private readonly places = new Map<string, Host>();
  private readonly cuts = new Set<string>();
  private readonly names = new Map<string, NameRecords>();
  private dnsIsDead = false;
  private nextPort = 32_768;

  constructor(random: Random, trace: Trace, link: Partial<LinkOptions> = {}) {
    this.random = random;
    this.trace = trace;
    this.link = { ...CLEAN_LINK, ...link };
  }

  /** Changes the links from now on; what is under way keeps its fate. */
  setLink(link: Partial<LinkOptions>): void {
    this.link = { ...this.link, ...link };
  }

  /** Opens the sockets of a host at an address that nobody holds. */
  attach(name: string, ip: string, port: number): void {
    const key = place(ip, port);
    if (this.places.get(key)?.state === "up") throw new Error(`address in use: ${key}`);
    this.places.set(key, { name, ip, port, state: "up", streams: new Map(), dialled: new Map(), nextFlow: 1 });
  }

  /** Ends a host's life at once: what it had queued is lost, its streams end as its death has it. */
  detach(ip: string, port: number, death: Death, now: Instant): void {
    const host = this.host(ip, port);
    host.state = death === "host" ? "silent" : "closed";
    for (const end of [...host.streams.values()]) {
      if (death === "exit") {
        this.finish(end, now);
        continue;
      }
      end.state = "over";
      if (death === "process" && end.peer !== undefined) this.resetLater(end.peer, host, now);
    }
    host.streams.clear();
  }

  /** Stops everything from the host named `from` to the host named `to`; the other way stays open. */
  cut(from: string, to: string): void {
    this.cuts.add(`${from}>${to}`);
  }

  heal(): void {
    this.cuts.clear();
  }

  /** What a name resolves to from now on; no addresses and no services make it fail. */
  setName(name: string, addresses: readonly string[], more: Partial<NameRecords> = {}): void {
    this.names.set(name.toLowerCase(), { addresses, services: [], ttlMs: NAME_TTL_MS, ...more });
  }

  /** From now on no question to DNS is answered, or all are again. */
  setDnsDead(isDead: boolean): void {
    this.dnsIsDead = isDead;
  }

  /** Resets every stream, as a middlebox that restarts would. */
  resetStreams(now: Instant): void {
    for (const host of this.places.values()) {
      for (const end of host.streams.values()) this.resetLater(end, host, now);
    }
  }

  transmit(ip: string, port: number, output: Transmit, now: Instant): void {
    const host = this.host(ip, port);
    // The core builds answers in reused memory (node/io.ts): what is under way needs octets of its own.
    const bytes = copyOf(output.octets, output.start, output.end);
    if (output.to.transport === "udp") this.sendDatagram(host, output.to, bytes, now);
    else this.sendStream(host, output, bytes, now);
  }

  /**
   * Sends a datagram with a source address that is not the sender's, as anybody can where nobody filters.
   *
   * @param name  who does it, for the ladder and for cuts
   */
  forge(name: string, from: Endpoint, to: Endpoint, bytes: Uint8Array, now: Instant): void {
    const { ip, port } = from;
    // Nothing comes back to it: what answers such a datagram goes to the address in it.
    const liar: Host = { name, ip, port, state: "silent", streams: new Map(), dialled: new Map(), nextFlow: 1 };
    this.sendDatagram(liar, to, bytes.slice(), now);
  }

  close(ip: string, port: number, flow: Flow, now: Instant): void {
    const end = this.host(ip, port).streams.get(flow);
    if (end !== undefined) this.finish(end, now);
  }

  resolve(ip: string, port: number, name: string, services: boolean, now: Instant): void {
    const delay = this.dnsIsDead ? DNS_TIMEOUT_MS : this.between(this.link.dnsDelayMinMs, this.link.dnsDelayMaxMs);
    const input: Input = { type: "resolved", host: name, addresses: [], complete: false, ttlMs: 0 };
    if (services) input.services = [];
    this.agenda.add(now + delay, { type: "input", host: this.host(ip, port), input });
  }

  nextAt(): Instant | undefined {
    return this.agenda.nextAt();
  }

  /** The next input that is due at or before `now`, `undefined` when there is none left. */
  take(now: Instant): Arrival | undefined {
    for (let next = this.agenda.take(now); next !== undefined; next = this.agenda.take(now)) {
      const arrival = this.happen(next, now);
      if (arrival !== undefined) return arrival;
    }
    return undefined;
  }

  private happen(happening: Happening, now: Instant): Arrival | undefined {
    switch (happening.type) {
      case "datagram":
        return this.arriveDatagram(happening, now);
      case "input":
        return this.arriveInput(happening.host, happening.input);
      case "connect":
        return this.connect(happening.end, happening.since, now);
      case "move":
        return this.move(happening.end, now);
      case "reset":
        return this.isCut(happening.from, happening.end.host) ? undefined : this.end(happening.end, "ECONNRESET");
    }
  }

  private arriveInput(host: Host, input: Input): Arrival | undefined {
    if (host.state !== "up") return undefined;
    if (input.type !== "resolved") return { host: host.name, input };
    return { host: host.name, input: this.lookUp(input) };
  }

  private lookUp({ host, services }: ResolvedName): ResolvedName {
    const literal = canonicalIp(host);
    const known = this.dnsIsDead ? undefined : this.names.get(host.toLowerCase());
    const addresses = literal === undefined ? [...(known?.addresses ?? [])] : [literal];
    const asked = services === undefined ? {} : { services: [...(known?.services ?? [])] };
    if (known?.failure !== undefined) {
      const nothing: ResolvedName = { type: "resolved", host, addresses: [], complete: false, ttlMs: 0 };
      if (services !== undefined) nothing.services = [];
      return { ...nothing, cause: new Error(known.failure) };
    }
    const complete = literal !== undefined || !this.dnsIsDead;
    const ttlMs = known?.ttlMs ?? NAME_TTL_MS;
    const answer: ResolvedName = { type: "resolved", host, addresses, ...asked, complete, ttlMs };
    if (addresses.length + (asked.services?.length ?? 0) > 0) return answer;
    return { ...answer, ttlMs: 0, cause: new Error(complete ? "ENOTFOUND" : "ETIMEOUT") };
  }

  // Datagrams.

  private sendDatagram(from: Host, to: Endpoint, bytes: Uint8Array, now: Instant): void {
    const link = this.link;
    const target = this.places.get(place(to.ip, to.port))?.name ?? endpointKey(to);
    if (bytes.length > DATAGRAM_BYTES_MAX) {
      this.trace.message(now, from.name, target, "full", bytes);
      this.unsent(from, to, "EMSGSIZE", now);
      return;
    }
    if (this.chance(link.loss)) this.trace.message(now, from.name, target, "lost", bytes);
    else this.agenda.add(now + this.datagramDelay(), { type: "datagram", from, to, bytes, copy: false });
    if (this.chance(link.duplication)) {
      // A copy has octets of its own: the first arrival belongs to its receiver.
      const copy = bytes.slice();
      this.agenda.add(now + this.datagramDelay(), { type: "datagram", from, to, bytes: copy, copy: true });
    }
  }

  private datagramDelay(): Duration {
    const link = this.link;
    const late = this.chance(link.reordering) ? below(this.random, link.reorderingMs + 1) : 0;
    return this.delay() + late;
  }

  private arriveDatagram(datagram: Extract<Happening, { type: "datagram" }>, now: Instant): Arrival | undefined {
    const { from, to, bytes, copy } = datagram;
    const target = this.places.get(place(to.ip, to.port));
    const name = target?.name ?? endpointKey(to);
    if (target !== undefined && this.isCut(from, target)) {
      this.trace.message(now, from.name, name, "cut", bytes);
      return undefined;
    }
    if (target?.state === "silent") {
      this.trace.message(now, from.name, name, "silent", bytes);
      return undefined;
    }
    if (target === undefined || target.state === "closed") {
      this.trace.message(now, from.name, name, "closed", bytes);
      if (target === undefined || !this.isCut(target, from)) this.unsent(from, to, "ECONNREFUSED", now + this.delay());
      return undefined;
    }
    this.trace.message(now, from.name, name, copy ? "copy" : "arrived", bytes);
    const source: Endpoint = { transport: "udp", ip: from.ip, port: from.port };
    return { host: target.name, input: { type: "received", from: source, flow: 0, bytes } };
  }

  // Streams.

  private sendStream(host: Host, output: Transmit, bytes: Uint8Array, now: Instant): void {
    const end = this.liveStream(host, output) ?? this.dial(host, output.to, now);
    end.outgoing.push(bytes);
    if (output.close === true) this.finish(end, now);
    else this.startMoving(end, now);
  }

  private liveStream(host: Host, output: Transmit): StreamEnd | undefined {
    const byFlow = output.flow === undefined ? undefined : host.streams.get(output.flow);
    if (byFlow !== undefined && takesOctets(byFlow)) return byFlow;
    const dialled = host.dialled.get(endpointKey(output.to));
    return dialled !== undefined && takesOctets(dialled) ? dialled : undefined;
  }

  private dial(host: Host, to: Endpoint, now: Instant): StreamEnd {
    const end = newEnd(host, to, "connecting");
    host.dialled.set(endpointKey(to), end);
    this.agenda.add(now + this.delay(), { type: "connect", end, since: now });
    return end;
  }

  private connect(end: StreamEnd, since: Instant, now: Instant): Arrival | undefined {
    const { host, remote } = end;
    if (end.state === "over") return undefined;
    const target = this.places.get(place(remote.ip, remote.port));
    if (target === undefined || (target.state === "closed" && !this.isCut(host, target) && !this.isCut(target, host))) {
      return this.refuse(end, "ECONNREFUSED", now);
    }
    if (target.state !== "up" || this.isCut(host, target) || this.isCut(target, host) || this.chance(this.link.loss)) {
      if (now - since >= CONNECT_TIMEOUT_MS) return this.refuse(end, "ETIMEDOUT", now);
      this.agenda.add(now + 1_000, { type: "connect", end, since });
      return undefined;
    }
    // Ephemeral ports go round: no run is long enough to meet one again on a live stream.
    this.nextPort = this.nextPort >= 65_535 ? 32_768 : this.nextPort + 1;
    const accepted = newEnd(target, { transport: remote.transport, ip: host.ip, port: this.nextPort }, "open");
    accepted.peer = end;
    end.peer = accepted;
    if (end.state === "connecting") end.state = "open";
    this.startMoving(end, now);
    return undefined;
  }

  /** All that waited for the connection comes back unsent, one input for each message. */
  private refuse(end: StreamEnd, reason: string, now: Instant): undefined {
    end.state = "over";
    end.host.streams.delete(end.flow);
    for (const bytes of end.outgoing) {
      if (bytes === undefined) continue;
      this.trace.message(now, end.host.name, endpointKey(end.remote), reason === "ETIMEDOUT" ? "cut" : "closed", bytes);
      this.unsent(end.host, end.remote, reason, now);
    }
    end.outgoing.length = 0;
    return undefined;
  }

  private startMoving(end: StreamEnd, now: Instant): void {
    if (end.moving || end.peer === undefined || end.outgoing.length === 0) return;
    end.moving = true;
    this.agenda.add(now + this.delay(), { type: "move", end });
  }

  /** Moves the first chunk of a stream to the other end, or tries again later. */
  private move(end: StreamEnd, now: Instant): Arrival | undefined {
    end.moving = false;
    const peer = end.peer;
    if (end.state === "over" || end.outgoing.length === 0 || peer === undefined) return undefined;
    // A host that came back at the address of a silent one knows nothing of its streams and resets them.
    const gone = peer.host.state === "silent" && this.host(peer.host.ip, peer.host.port) === peer.host;
    if (gone || this.isCut(end.host, peer.host) || this.isCut(peer.host, end.host)) return this.stick(end, now);
    if (peer.state === "over") {
      const bytes = end.outgoing[0];
      if (bytes !== undefined) this.trace.message(now, end.host.name, peer.host.name, "reset", bytes);
      return this.end(end, "ECONNRESET");
    }
    if (this.chance(this.link.loss)) return this.stick(end, now);
    end.stuckSince = undefined;
    end.retransmitMs = RETRANSMIT_FIRST_MS;
    return this.handOver(end, peer, now);
  }

  private stick(end: StreamEnd, now: Instant): Arrival | undefined {
    end.stuckSince ??= now;
    if (now - end.stuckSince >= STREAM_GIVE_UP_MS) return this.end(end, "ETIMEDOUT");
    end.moving = true;
    this.agenda.add(now + end.retransmitMs, { type: "move", end });
    end.retransmitMs = Math.min(end.retransmitMs * 2, RETRANSMIT_MAX_MS);
    return undefined;
  }

  private handOver(end: StreamEnd, peer: StreamEnd, now: Instant): Arrival | undefined {
    const chunk = end.outgoing.shift();
    if (chunk === undefined) {
      end.state = "over";
      return this.end(peer, undefined);
    }
    let part = chunk;
    if (chunk.length > 1 && this.chance(this.link.split)) {
      const at = 1 + below(this.random, chunk.length - 1);
      part = chunk.slice(0, at);
      end.outgoing.unshift(chunk.slice(at));
    }
    this.startMoving(end, now);
    if (peer.state !== "open") return undefined;
    this.trace.message(now, end.host.name, peer.host.name, "arrived", part);
    const input: Input = { type: "received", from: peer.remote, flow: peer.flow, bytes: part };
    return { host: peer.host.name, input };
  }

  /** Ends our half after what is queued; the local node hears that at once, as it would from its own socket. */
  private finish(end: StreamEnd, now: Instant): void {
    if (end.state === "over" || end.state === "finishing") return;
    end.state = "finishing";
    end.outgoing.push(undefined);
    end.host.streams.delete(end.flow);
    this.agenda.add(now, { type: "input", host: end.host, input: { type: "closed", flow: end.flow } });
    this.startMoving(end, now);
  }

  private end(end: StreamEnd, reason: string | undefined): Arrival | undefined {
    const heard = end.state === "open" && end.host.state === "up";
    end.state = "over";
    end.host.streams.delete(end.flow);
    if (!heard) return undefined;
    const input: Input = { type: "closed", flow: end.flow };
    if (reason !== undefined) input.cause = new Error(reason);
    return { host: end.host.name, input };
  }

  private resetLater(end: StreamEnd, from: Host, now: Instant): void {
    this.agenda.add(now + this.delay(), { type: "reset", end, from });
  }

  private unsent(host: Host, to: Endpoint, reason: string, at: Instant): void {
    const cause = new TransportError("transport-send", "send to", endpointKey(to), new Error(reason));
    this.agenda.add(at, { type: "input", host, input: { type: "unsent", to, cause } });
  }

  private host(ip: string, port: number): Host {
    const host = this.places.get(place(ip, port));
    if (host === undefined) throw new Error(`no host at ${place(ip, port)}`);
    return host;
  }

  private isCut(from: Host, to: Host): boolean {
    return this.cuts.size > 0 && this.cuts.has(`${from.name}>${to.name}`);
  }

  private chance(probability: number): boolean {
    return probability > 0 && this.random.u32() < probability * 0x1_0000_0000;
  }

  private delay(): Duration {
    return this.between(this.link.delayMinMs, this.link.delayMaxMs);
  }

  private between(min: Duration, max: Duration): Duration {
    return min + below(this.random, max - min + 1);
  }
}

function place(ip: string, port: number): string {
  return `${formatHost(ip)}:${port}`;
}

function newEnd(host: Host, remote: Endpoint, state: "connecting" | "open"): StreamEnd {
  const end: StreamEnd = {
    host,
    flow: host.nextFlow++,
    remote,
    peer: undefined,
    state,
    outgoing: [],
    moving: false,
    stuckSince: undefined,
    retransmitMs: RETRANSMIT_FIRST_MS,
  };
  host.streams.set(end.flow, end);
  return end;
}

function takesOctets(end: StreamEnd): boolean {
  return end.state === "connecting" || end.state === "open";
}
