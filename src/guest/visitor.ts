/**
 * The loop around a visit: sockets, names, one timer. Each socket is bound to the very address that the kernel would send
 * from, so that Via and From tell the truth, and to a port of its choice; `close` leaves nothing open.
 */
import { copyOf, viewOf } from "../core/bytes.ts";
import { canonicalIp, type Endpoint, endpointKey, isIpv6 } from "../core/endpoint.ts";
import { UsageError } from "../core/errors.ts";
import type { Random } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";
import { endpointOf, type PeerAddress } from "../membership/peer.ts";
import type { OutcomeReport } from "../node/io.ts";
import type { Addressed, SendOptions } from "../node/message.ts";
import { Gate } from "../transport/gate.ts";
import { Resolver } from "../transport/resolver.ts";
import { StreamTransport } from "../transport/stream.ts";
import { PLAIN_MATERIAL, type TlsMaterial, type TlsOptions } from "../transport/tls.ts";
import { type BindAddress, explain, type TransportSink } from "../transport/transport.ts";
import { openUdp, QueueFull, type UdpTransport } from "../transport/udp.ts";
import { ANSWER_MS_MAX, type Place, type ReadingStep, type VisitedNode } from "./reading.ts";
import { Visit, type VisitInput, type VisitOptions, type VisitOutput } from "./visit.ts";

export interface VisitorOptions extends VisitOptions {
  /** Bind to this address; port 0 takes a free one. Over streams the port is the kernel's choice in any case. */
  fromAddress?: BindAddress | undefined;
  tls: TlsOptions;
}

/** What a caller may hear of, and do to, messages that are under way. */
export interface Following {
  /** Called for each of them when it is over. */
  onResponse?: (report: OutcomeReport) => void;
  /** Gives those up that are not over: their outcome is `cancelled`. */
  signal?: AbortSignal;
}

/** Why nobody gave a node list. */
export type Nobody = Extract<ReadingStep, { type: "nobody" }>;

/** Addresses of one name that are tried. */
const PLACES_MAX = 8;

/** Sockets that ask the kernel for our address at one time, and nodes that may wait for their turn. */
const PROBES_MAX = 16;
const PROBES_WAITING_MAX = 10_000;

/** Nobody answers there (RFC 863): what Via and From name over streams, where the answer comes on the same connection. */
const NO_PORT = 9;

const SYSTEM_RANDOM: Random = { u32: () => crypto.getRandomValues(new Uint32Array(1))[0] as number };

export class Visitor {
  private readonly core: Visit;
  private readonly options: VisitorOptions;
  private readonly resolver = new Resolver({ timeoutMs: ANSWER_MS_MAX });
  /** By the address that they are bound to. */
  private readonly sockets = new Map<string, Promise<UdpTransport>>();
  private readonly sources = new Map<string, Promise<string>>();
  private readonly probes = new Gate(PROBES_MAX, PROBES_WAITING_MAX);
  private readonly ending = new AbortController();
  /** Sockets by where they send to. */
  private readonly routes = new Map<string, UdpTransport>();
  private readonly streams = new Map<Endpoint["transport"], StreamTransport>();
  private material: Promise<TlsMaterial> | undefined;
  private lastFlow = 0;
  private readonly outcomes = new Map<number, (report: OutcomeReport) => void>();
  private reading: PromiseWithResolvers<Nobody | undefined> | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private closed = false;

  constructor(options: VisitorOptions) {
    this.options = options;
    this.core = new Visit(options, SYSTEM_RANDOM);
  }

  /**
   * Reads the TLS files if a contact needs them; else they are read when a node does.
   *
   * @throws ConfigError for files that are missing or wrong
   */
  async prepare(): Promise<void> {
    if (this.options.contacts.some(({ address }) => address.transport === "tls")) await this.readTls();
  }

  /** The nodes of the list that was read last. */
  nodes(): readonly VisitedNode[] {
    return this.core.list();
  }

  /**
   * Reads the node list; calls at the same time share one reading.
   *
   * @returns nothing when `nodes` has it, else why nobody gave one
   */
  read(timeoutMs: Duration): Promise<Nobody | undefined> {
    if (this.reading !== undefined) return this.reading.promise;
    this.reading = Promise.withResolvers();
    const { promise } = this.reading;
    this.run((now) => this.core.read(timeoutMs, now));
    return promise;
  }

  /** @throws UsageError  node not on the list (`no-such-node`), or a message that cannot be sent (`usage`) */
  async send(
    channel: string,
    node: string,
    body: Uint8Array,
    options: SendOptions & Following,
  ): Promise<OutcomeReport> {
    const send = (now: Instant): Addressed[] => [
      { request: this.core.send(channel, node, body, options, now), peer: node },
    ];
    const reports = this.gather(send, options);
    return (await reports)[0] as OutcomeReport;
  }

  /** @returns one report for each active node, in the order of the list; empty if there is nobody */
  async broadcast(
    channel: string,
    body: Uint8Array,
    options: SendOptions & Following & { except?: readonly string[] },
  ): Promise<OutcomeReport[]> {
    return this.gather((now) => this.core.broadcast(channel, body, options, now), options);
  }

  /** @throws UsageError for a node that is not on the list (`no-such-node`) */
  async ping(nodes: readonly string[] | undefined, options: { timeoutMs?: Duration }): Promise<OutcomeReport[]> {
    return this.gather((now) => this.core.ping(nodes, options, now), {});
  }

  /** What is under way is `cancelled`. Called again, it does nothing. */
  async close(): Promise<void> {
    if (this.closed) return;
    for (const id of [...this.outcomes.keys()]) this.run((now) => this.core.cancel(id, now));
    this.closed = true;
    this.reading?.resolve({ type: "nobody", failures: [{ contact: "all of them", why: "given up" }], refused: false });
    clearTimeout(this.timer);
    this.ending.abort(new Error("given up"));
    this.resolver.close();
    for (const stream of this.streams.values()) stream.shutdown();
    for (const opening of this.sockets.values()) (await opening.catch(() => undefined))?.close();
  }

  private gather(send: (now: Instant) => Addressed[], { onResponse, signal }: Following): Promise<OutcomeReport[]> {
    const addressed = send(performance.now());
    const over = Promise.all(addressed.map(({ request }) => this.endOf(request, onResponse)));
    this.drain();
    const giveUp = (): void => {
      for (const { request } of addressed) this.run((now) => this.core.cancel(request, now));
    };
    if (signal?.aborted) giveUp();
    signal?.addEventListener("abort", giveUp, { once: true });
    return over.finally(() => signal?.removeEventListener("abort", giveUp));
  }

  private endOf(request: number, onResponse: Following["onResponse"]): Promise<OutcomeReport> {
    const { promise, resolve } = Promise.withResolvers<OutcomeReport>();
    this.outcomes.set(request, (report) => {
      onResponse?.(report);
      resolve(report);
    });
    return promise;
  }

  // --- the loop ----------------------------------------------------------------------------------------------------

  private readonly sink: TransportSink = {
    received: (from, flow, octets, start, end, size) => {
      let at = start;
      do {
        this.handle({ type: "received", from, flow, bytes: copyOf(octets, at, Math.min(at + size, end)) });
        at += size;
      } while (at < end);
    },
    closed: (flow) => this.handle({ type: "closed", flow }),
    unsent: (to, cause) => {
      // Our own queue was full: nothing is known of the node, and retransmission repairs it.
      if (!(cause instanceof QueueFull)) this.handle({ type: "unsent", to, cause });
    },
    refused: () => undefined,
  };

  private handle(input: VisitInput): void {
    this.run((now) => this.core.handle(input, now));
  }

  private run(call: (now: Instant) => void): void {
    if (this.closed) return;
    call(performance.now());
    this.drain();
  }

  private drain(): void {
    for (let output = this.core.poll(); output !== undefined; output = this.core.poll()) this.perform(output);
    clearTimeout(this.timer);
    const next = this.core.nextTimeout();
    if (next === undefined || this.closed) return;
    const waitMs = Math.max(0, Math.ceil(next - performance.now()));
    this.timer = setTimeout(() => this.run((now) => this.core.handleTimeout(now)), waitMs);
  }

  private perform(output: VisitOutput): void {
    switch (output.type) {
      case "transmit":
        if (output.to.transport === "udp") this.routes.get(endpointKey(output.to))?.send(output.to, viewOf(output));
        else this.streams.get(output.to.transport)?.send(output.to, undefined, viewOf(output));
        break;
      case "close":
        for (const stream of this.streams.values()) stream.close(output.flow);
        break;
      case "place":
        this.place(output.address).then((found) => this.handle({ type: "placed", address: output.address, ...found }));
        break;
      case "read": {
        const { result } = output;
        this.reading?.resolve(result.type === "found" ? undefined : result);
        this.reading = undefined;
        break;
      }
      case "outcome":
        this.outcomes.get(output.report.request)?.(output.report);
        this.outcomes.delete(output.report.request);
        break;
    }
  }

  // --- places ------------------------------------------------------------------------------------------------------

  /** Never rejects: a node that cannot be placed is one that cannot be reached. */
  private async place(address: PeerAddress): Promise<{ places: Place[]; why: string }> {
    const { addresses, cause } = await this.resolver.resolve(address.host);
    const places: Place[] = [];
    let why = cause?.message ?? `${address.host} has no address`;
    for (const ip of addresses.slice(0, PLACES_MAX)) {
      try {
        places.push(await this.placeAt(endpointOf(address, ip)));
      } catch (problem) {
        why = problem instanceof Error ? problem.message : String(problem);
      }
    }
    return { places, why };
  }

  private async placeAt(to: Endpoint): Promise<Place> {
    const { transport } = to;
    const host = await this.sourceFor(to.ip);
    if (transport !== "udp") {
      await this.openStream(transport);
      return { to, from: { transport, host, port: NO_PORT } };
    }
    const socket = await this.socketAt(host);
    this.routes.set(endpointKey(to), socket);
    return { to, from: { transport, host, port: socket.listener.port } };
  }

  /** The address that the kernel sends from on its way there: that of a socket which was connected and says nothing. */
  private sourceFor(ip: string): Promise<string> {
    const fixed = this.options.fromAddress?.ip;
    if (fixed !== undefined && isIpv6(fixed) !== isIpv6(ip))
      throw new UsageError(`${ip} cannot be reached from ${fixed}: one is IPv4, the other IPv6`);
    if (fixed !== undefined) return Promise.resolve(fixed);
    const known = this.sources.get(ip) ?? this.probes.run(() => kernelSource(ip), this.ending.signal);
    this.sources.set(ip, known);
    return known;
  }

  private socketAt(ip: string): Promise<UdpTransport> {
    let opening = this.sockets.get(ip);
    if (opening === undefined) {
      const onIcmp = (cause: Error): void => this.handle({ type: "icmp", cause });
      opening = openUdp({ ip, port: this.options.fromAddress?.port ?? 0 }, this.sink, { onIcmp });
      this.sockets.set(ip, opening);
    }
    return opening;
  }

  private async openStream(transport: "tcp" | "tls"): Promise<void> {
    const material = transport === "tls" ? await this.readTls() : undefined;
    if (this.streams.has(transport)) return;
    const localIp = this.options.fromAddress?.ip;
    const options = { nextFlow: () => ++this.lastFlow, ...(localIp !== undefined && { localIp }) };
    this.streams.set(transport, new StreamTransport(undefined, this.sink, options, material));
  }

  private readTls(): Promise<TlsMaterial> {
    this.material ??= materialOf(this.options.tls);
    return this.material;
  }
}

async function kernelSource(ip: string): Promise<string> {
  try {
    const hostname = isIpv6(ip) ? "::" : "0.0.0.0";
    const probe = await Bun.udpSocket({ hostname, connect: { hostname: ip, port: NO_PORT } });
    const { address } = probe.address;
    probe.close();
    return canonicalIp(address) ?? address;
  } catch (cause) {
    throw explain(cause);
  }
}

async function materialOf(tls: TlsOptions): Promise<TlsMaterial> {
  if ((tls.cert ?? tls.key ?? tls.ca) === undefined) return { ...PLAIN_MATERIAL, verify: tls.verify ?? "peer" };
  const { readTls } = await import("../transport/certificates.ts");
  return readTls(tls);
}
