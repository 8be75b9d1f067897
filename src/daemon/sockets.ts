/**
 * The sockets of a node: which are opened for its address and options, and over which of them octets for an endpoint go.
 * It moves octets and decides nothing else; what they mean is the core's.
 */
import { type Span, viewOf } from "../core/bytes.ts";
import { canonicalIp, defaultPort, type Endpoint, endpointKey, isIpv6, type Transport } from "../core/endpoint.ts";
import { ConfigError, ProtocolError, TransportError } from "../core/errors.ts";
import { addressUri, type PeerAddress } from "../membership/peer.ts";
import { parseUri } from "../sip/uri.ts";
import { connectionsMax } from "../transport/descriptors.ts";
import { openStreams, StreamTransport } from "../transport/stream.ts";
import { PLAIN_MATERIAL, type TlsMaterial, type TlsOptions } from "../transport/tls.ts";
import type { BindAddress, Listener, TransportSink } from "../transport/transport.ts";
import { openUdp, type UdpTransport } from "../transport/udp.ts";

export interface SocketOptions {
  /** Where to listen instead of the node's own address, `proto:ip:port` each. */
  serverSockets?: readonly string[];
  /** Certificate files, for TLS as server and as client; `RunningNode.reloadTls` reads them again. */
  tls?: TlsOptions;
  /**
   * Datagrams of one size to one peer go to Linux in one piece, which it cuts (default). On the wire they are what they were, but a
   * capture on this machine shows the piece.
   */
  udpSegmentation?: boolean;
}

/** The open sockets. */
export class Sockets {
  private readonly udp: UdpTransport[] = [];
  private readonly streams: StreamTransport[] = [];
  private options: SocketOptions = {};
  private sink: TransportSink | undefined;
  private material: TlsMaterial = PLAIN_MATERIAL;
  private lastFlow = 0;
  private readonly shared = { nextFlow: () => ++this.lastFlow, maxConnections: connectionsMax() };

  /** @internal Use `openSockets`. */
  async open(address: PeerAddress, options: SocketOptions, sink: TransportSink): Promise<void> {
    this.options = options;
    this.sink = sink;
    const wanted = (options.serverSockets ?? []).map(parseSocket);
    this.material = await readMaterial(options.tls);
    const tlsOnes = [...(wanted.length === 0 ? [address] : wanted)].filter(({ transport }) => transport === "tls");
    if (tlsOnes.length > 0 && this.material.cert === undefined) throw certificateMissing(options, address);
    if (wanted.length === 0) await this.openOwn(address, sink);
    for (const { transport, ip, port } of wanted) {
      if (transport === "udp") this.udp.push(await this.openUdp({ ip, port }, sink));
      else this.streams.push(await this.openStream(transport, { ip, port }, sink));
    }
    // Without a listener of its own a node still reaches peers over TCP; they answer on the same connection.
    if (!this.streams.some(({ listener }) => listener.transport === "tcp"))
      this.streams.push(await openStreams(undefined, sink, this.shared));
  }

  private openUdp(at: BindAddress, sink: TransportSink): Promise<UdpTransport> {
    return openUdp(at, sink, { segmentation: this.options.udpSegmentation !== false });
  }

  private openStream(transport: Transport, at: BindAddress, sink: TransportSink): Promise<StreamTransport> {
    return openStreams(at, sink, this.shared, transport === "tls" ? this.material : undefined);
  }

  /**
   * UDP and TCP at one address: peers of both kinds are reached from the port that our Via names, which is where a Kamailio
   * answers to (it asks for no rport). TLS stands alone: who asks for it wants no open door beside it.
   */
  private async openOwn({ transport, host: ip, port }: PeerAddress, sink: TransportSink): Promise<void> {
    if (transport === "tls") {
      this.streams.push(await this.openStream(transport, { ip, port }, sink));
    } else if (transport === "udp") {
      const first = await this.openUdp({ ip, port }, sink);
      this.udp.push(first);
      const second = await openStreams({ ip, port: first.listener.port }, sink, this.shared).catch(() => undefined);
      if (second !== undefined) this.streams.push(second);
    } else {
      const first = await openStreams({ ip, port }, sink, this.shared);
      this.streams.push(first);
      const second = await this.openUdp({ ip, port: first.listener.port }, sink).catch(() => undefined);
      if (second !== undefined) this.udp.push(second);
    }
  }

  /** The port of our own line: that of the socket where port 0 was asked for. */
  portFor(address: PeerAddress): number {
    if (address.port !== 0) return address.port;
    const bound = this.listeners();
    return (bound.find(({ transport }) => transport === address.transport) ?? bound[0])?.port ?? 0;
  }

  /** Where the node listens. */
  listeners(): Listener[] {
    return [...this.udp, ...this.streams].map(({ listener }) => listener).filter(({ port }) => port !== 0);
  }

  /**
   * Hands octets to the kernel, or queues them. What fails later is told to the sink.
   *
   * @returns the reason why nothing here can send to that endpoint at all; the caller has to tell the core
   */
  send(to: Endpoint, flow: number | undefined, span: Span, close?: boolean): TransportError | undefined {
    if (to.transport === "udp") {
      const udp = this.udpFor(to);
      udp?.send(to, span.octets, span.start, span.end);
      return udp === undefined ? noSocket(to) : undefined;
    }
    const stream = this.streamFor(to, flow);
    stream?.send(to, flow, viewOf(span), close);
    return stream === undefined ? noSocket(to) : undefined;
  }

  private udpFor(to: Endpoint): UdpTransport | undefined {
    // Nearly every node has one.
    return this.udp.length === 1 ? this.udp[0] : bestFor(to, this.udp);
  }

  private streamFor(to: Endpoint, flow: number | undefined): StreamTransport | undefined {
    const known = flow === undefined ? undefined : this.streams.find((stream) => stream.has(flow));
    if (known !== undefined) return known;
    const ofTransport = this.streams.filter(({ listener }) => listener.transport === to.transport);
    return bestFor(to, ofTransport.length === 0 && to.transport === "tls" ? this.openTlsClient() : ofTransport);
  }

  /** A node that has no TLS listener reaches TLS peers all the same; most never need to. */
  private openTlsClient(): StreamTransport[] {
    if (this.sink === undefined) return [];
    const client = new StreamTransport(undefined, this.sink, this.shared, this.material);
    this.streams.push(client);
    return [client];
  }

  /**
   * Reads the TLS files again, and uses them for the handshakes from now on.
   *
   * @param tls  other files and rules than those that were used last
   * @returns    false where there are none, and were none
   * @throws ConfigError (a rejection) a file is missing or wrong; everything stays as it was
   */
  async reloadTls(tls: TlsOptions | undefined = this.options.tls): Promise<boolean> {
    if (!hasFiles(this.options.tls) && !hasFiles(tls)) return false;
    this.material = await readMaterial(tls);
    this.options = { ...this.options, ...(tls !== undefined && { tls }) };
    for (const stream of this.streams) if (stream.listener.transport === "tls") stream.renew(this.material);
    return true;
  }

  closeFlow(flow: number): void {
    for (const transport of this.streams) transport.close(flow);
  }

  /** Sends what waits, then closes everything. */
  shutdown(): void {
    for (const transport of this.udp) {
      transport.flush();
      transport.close();
    }
    for (const transport of this.streams) transport.shutdown();
  }
}

function hasFiles(tls: TlsOptions | undefined): boolean {
  return tls !== undefined && (tls.cert ?? tls.key ?? tls.ca) !== undefined;
}

/** What reads certificates is loaded where there are any. */
export async function readMaterial(tls: TlsOptions | undefined): Promise<TlsMaterial> {
  if (tls === undefined) return PLAIN_MATERIAL;
  if (!hasFiles(tls) && tls.requireClientCert !== true) return { ...PLAIN_MATERIAL, verify: tls.verify ?? "peer" };
  const { readTls } = await import("../transport/certificates.ts");
  return readTls(tls);
}

function certificateMissing({ serverSockets = [] }: SocketOptions, address: PeerAddress): ConfigError {
  const what = serverSockets.length === 0 ? `server_address ${addressUri(address)}` : `server_socket ${serverSockets}`;
  const expected = "tls_cert and tls_key with the certificate of this node and its private key";
  return new ConfigError("config-contradiction", what, "no tls_cert", expected);
}

function noSocket(to: Endpoint): TransportError {
  const cause = new Error(`this node has no ${to.transport} socket (server_socket)`);
  return new TransportError("transport-send", "send to", endpointKey(to), cause);
}

/** The one that speaks the address family, else any. */
function bestFor<T extends { readonly listener: Listener }>(to: Endpoint, transports: readonly T[]): T | undefined {
  return transports.find(({ listener }) => isIpv6(listener.ip) === isIpv6(to.ip)) ?? transports[0];
}

/**
 * @throws ConfigError     a server socket is no `proto:ip:port`, or a TLS file is missing or wrong
 * @throws TransportError  an address cannot be bound (`transport-bind`); what was open is closed again
 */
export async function openSockets(address: PeerAddress, options: SocketOptions, sink: TransportSink): Promise<Sockets> {
  const sockets = new Sockets();
  try {
    await sockets.open(address, options, sink);
    return sockets;
  } catch (cause) {
    sockets.shutdown();
    throw cause;
  }
}

/**
 * Reads `server_address`.
 *
 * @returns the address of our line; port 0 where any free one is asked for
 * @throws ConfigError where it is no SIP URI with an IP literal that others can reach
 */
export function ownAddress(text: string): PeerAddress {
  // Port 0 asks for any free port, which is no port of a SIP URI (RFC 3261 §19.1).
  const isAnyPort = /:0(;|$)/.test(text);
  const uri = parseUri(isAnyPort ? text.replace(/:0(;|$)/, "$1") : text);
  const expected = "sip:IP:port[;transport=tcp|tls] or sips:IP:port with an IP literal that other nodes reach";
  if (uri instanceof ProtocolError)
    throw new ConfigError("config-invalid-value", "server_address", text, expected, uri);
  const isSips = uri.scheme === "sips";
  const transport = uri.params.get("transport")?.toLowerCase() ?? (isSips ? "tls" : "udp");
  const host = canonicalIp(uri.host);
  const isWildcard = host === "0.0.0.0" || host === "::";
  if (!isTransport(transport) || (isSips && transport !== "tls") || host === undefined || isWildcard)
    throw new ConfigError("config-invalid-value", "server_address", text, expected);
  return { transport, host, port: isAnyPort ? 0 : (uri.port ?? defaultPort(transport)) };
}

/** @throws ConfigError */
function parseSocket(text: string): { transport: Transport; ip: string; port: number } {
  const first = text.indexOf(":");
  const last = text.lastIndexOf(":");
  const transport = text.slice(0, first);
  const ip = canonicalIp(text.slice(first + 1, last));
  const port = Number(text.slice(last + 1));
  if (!isTransport(transport) || ip === undefined || !Number.isInteger(port) || port < 0 || port > 65_535)
    throw new ConfigError("config-invalid-value", "server_socket", text, "udp:ip:port, tcp:ip:port or tls:ip:port");
  return { transport, ip, port };
}

function isTransport(text: string): text is Transport {
  return text === "udp" || text === "tcp" || text === "tls";
}
