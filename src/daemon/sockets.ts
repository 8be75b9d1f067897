/**
 * The sockets of a node: which are opened for its address and options, and over which of them octets for an endpoint go.
 * It moves octets and decides nothing else; what they mean is the core's.
 */
import { canonicalIp, defaultPort, type Endpoint, formatHost, isIpv6, type Transport } from "../core/endpoint.ts";
import { ConfigError, ProtocolError, TransportError } from "../core/errors.ts";
import type { PeerAddress } from "../membership/peer.ts";
import { parseUri } from "../sip/uri.ts";
import { openStreams, type StreamTransport } from "../transport/stream.ts";
import type { Listener, TransportSink } from "../transport/transport.ts";
import { openUdp, type UdpTransport } from "../transport/udp.ts";

export interface SocketOptions {
  /** Where to listen instead of the node's own address, `proto:ip:port` each. */
  serverSockets?: readonly string[];
}

/** The open sockets. */
export class Sockets {
  private readonly udp: UdpTransport[] = [];
  private readonly streams: StreamTransport[] = [];

  /** @internal Use `openSockets`. */
  async open(address: PeerAddress, options: SocketOptions, sink: TransportSink): Promise<void> {
    const wanted = (options.serverSockets ?? []).map(parseSocket);
    if (wanted.length === 0) await this.openBoth(address, sink);
    for (const { transport, ip, port } of wanted) {
      if (transport === "udp") this.udp.push(await openUdp({ ip, port }, sink));
      else this.streams.push(await openStreams({ ip, port }, sink));
    }
    // Without a listener of its own a node still reaches peers over TCP; they answer on the same connection.
    if (this.streams.length === 0) this.streams.push(await openStreams(undefined, sink));
  }

  /**
   * UDP and TCP at one address: peers of both kinds are reached from the port that our Via names, which is where a Kamailio
   * answers to (it asks for no rport).
   */
  private async openBoth({ transport, host: ip, port }: PeerAddress, sink: TransportSink): Promise<void> {
    if (transport === "udp") {
      const first = await openUdp({ ip, port }, sink);
      this.udp.push(first);
      const second = await openStreams({ ip, port: first.listener.port }, sink).catch(() => undefined);
      if (second !== undefined) this.streams.push(second);
    } else {
      const first = await openStreams({ ip, port }, sink);
      this.streams.push(first);
      const second = await openUdp({ ip, port: first.listener.port }, sink).catch(() => undefined);
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
  send(to: Endpoint, flow: number | undefined, bytes: Uint8Array, close?: boolean): TransportError | undefined {
    const all: readonly (UdpTransport | StreamTransport)[] = to.transport === "udp" ? this.udp : this.streams;
    const transports = all.filter(({ listener }) => listener.transport === to.transport);
    const transport = transports.find(({ listener }) => isIpv6(listener.ip) === isIpv6(to.ip)) ?? transports[0];
    if (transport === undefined)
      return new TransportError("transport-send", "send to", `${to.transport}:${formatHost(to.ip)}:${to.port}`);
    if (to.transport === "udp") (transport as UdpTransport).send(to, bytes);
    else (transport as StreamTransport).send(to, flow, bytes, close);
    return undefined;
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

/**
 * @throws ConfigError     a server socket is no `proto:ip:port`
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
  const expected = "sip:IP:port[;transport=tcp] with an IP literal that other nodes reach";
  if (uri instanceof ProtocolError)
    throw new ConfigError("config-invalid-value", "server_address", text, expected, uri);
  const transport = uri.params.get("transport")?.toLowerCase() ?? "udp";
  const host = canonicalIp(uri.host);
  if ((transport !== "udp" && transport !== "tcp") || host === undefined || host === "0.0.0.0" || host === "::")
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
  if (
    (transport !== "udp" && transport !== "tcp") ||
    ip === undefined ||
    !Number.isInteger(port) ||
    port < 0 ||
    port > 65_535
  )
    throw new ConfigError("config-invalid-value", "server_socket", text, "udp:ip:port or tcp:ip:port");
  return { transport, ip, port };
}
