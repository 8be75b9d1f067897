/**
 * Connections: TCP, or TLS where there is material for it. The two differ in how a socket comes up (`#secure`, `dial`, and
 * the handshake in between) and in who may be believed; what is up is treated alike.
 *
 * Each connection, in or out, is one flow with a number that is never used again. Octets for an endpoint go over a live
 * connection to it before a new one is opened (RFC 3261 §18.1.1, §18.2.2; RFC 5923 for the reuse of inbound ones). Framing
 * is not here: chunks go up as they come. Everything that waits has a limit, and a connection that reaches one is closed.
 *
 * TLS: no octet of ours goes out before the other side is verified, and one that came in without a verified certificate is
 * never used for requests of ours (RFC 5923 §4.1). A refusal has a reason, whichever side refused (tls.ts).
 */
import { assert } from "../core/assert.ts";
import type { Endpoint, Transport } from "../core/endpoint.ts";
import { canonicalIp, endpointKey, isIpv6 } from "../core/endpoint.ts";
import { type ErrorCode, TransportError } from "../core/errors.ts";
import { type Backlog, Connection, type State } from "./connection.ts";
import { Places } from "./places.ts";
import {
  clearAlert,
  clientRefusal,
  clientTls,
  explainHandshake,
  serverRefusal,
  serverTls,
  type TlsMaterial,
} from "./tls.ts";
import {
  type BindAddress,
  bindError,
  canonicalSource,
  errorCode,
  explain,
  type Listener,
  Reports,
  type TransportSink,
} from "./transport.ts";

/** Milliseconds and octets; deadlines are looked at a few times within the shortest of them, not to the millisecond. */
export interface StreamOptions {
  /** A connection that is not up by then has failed. */
  readonly connectTimeoutMs: number;
  /** TLS: a handshake that is not through by then has failed; counts from where the connection is up. */
  readonly handshakeTimeoutMs: number;
  /** TLS: inbound handshakes under way; beyond it the oldest gives way, so that those who stall keep nobody out. */
  readonly maxHandshakes: number;
  /** Inbound connections beyond this number are closed at once (places.ts says whose), outbound ones beyond it not opened. */
  readonly maxConnections: number;
  /** Inbound connections of one address, or of one IPv6 network (/64); further ones are closed at once. */
  readonly maxConnectionsOfOne: number;
  /** A connection over which nothing moved for so long is closed. */
  readonly idleMs: number;
  /** Octets that may wait for a peer to read them; beyond it the peer counts as gone and the connection is closed. */
  readonly maxQueuedBytes: number;
  /** The same of all connections together; beyond it the one with most of it is closed. */
  readonly maxQueuedBytesOfAll: number;
  /** An inbound connection that has not sent one octet by then is closed: it only holds a place. */
  readonly headerTimeoutMs: number;
  /** How long an answer may still go out on an inbound connection whose peer has asked and sends no more. */
  readonly halfOpenMs: number;
  /** How long a connection that we ended waits for the peer to end it too, so that it can read our last octets. */
  readonly lingerMs: number;
  /** Connections go out from this address; default that of the listener, else the kernel's choice. */
  readonly localIp?: string;
  /** Gives each connection its number. Transports of one node share it, because the core knows a flow by its number alone. */
  readonly nextFlow?: () => number;
}

/** With so many octets waiting for the end of the wake-up they go out early. */
const BATCH_BYTES = 64 * 1024;

const DEFAULTS: StreamOptions = {
  connectTimeoutMs: 5_000,
  handshakeTimeoutMs: 5_000,
  maxHandshakes: 256,
  maxConnections: 1_000,
  maxConnectionsOfOne: 128,
  idleMs: 120_000,
  maxQueuedBytes: 8 * 1024 * 1024,
  maxQueuedBytesOfAll: 64 * 1024 * 1024,
  headerTimeoutMs: 30_000,
  halfOpenMs: 5_000,
  lingerMs: 2_000,
};

/**
 * A server that does not like our certificate says so after the handshake is through for us (TLS 1.3), and Bun's own only
 * hangs up. An outbound connection that ends so early, with nothing ever heard, was refused.
 */
const REFUSAL_MS = 2_000;

type Handlers = Bun.SocketHandler<Connection | undefined>;

/**
 * Opens a listener, if one is wanted, and what connects from it.
 *
 * @param listen  `::` takes IPv4 as well, `0.0.0.0` only that; `undefined` for a transport that only connects
 * @param tls     makes it TLS; a listener needs a certificate in it
 * @throws        TransportError `transport-bind`: in use, not permitted, not an address of this machine
 */
export async function openStreams(
  listen: BindAddress | undefined,
  sink: TransportSink,
  options: Partial<StreamOptions> = {},
  tls?: TlsMaterial,
): Promise<StreamTransport> {
  return new StreamTransport(listen, sink, options, tls);
}

export class StreamTransport {
  readonly listener: Listener;
  readonly #sink: TransportSink;
  readonly #options: StreamOptions;
  readonly #reports: Reports;
  readonly #server: Bun.TCPSocketListener<Connection | undefined> | undefined;
  readonly #byFlow = new Map<number, Connection>();
  /** The connection that octets for an endpoint (and name) go over: live, and the peer still sends on it. */
  readonly #byEndpoint = new Map<string, Connection>();
  /** Inbound handshakes under way, oldest first. */
  readonly #shaking = new Set<Connection>();
  #tls: TlsMaterial | undefined;
  readonly #places: Places<Connection>;
  readonly #backlog: Backlog = { bytes: 0 };
  #inbound = 0;
  #lastFlow = 0;
  #sweeper: ReturnType<typeof setInterval> | undefined;
  #stopped = false;
  /** Connections with octets for the end of this wake-up. */
  readonly #unsettled = new Set<Connection>();
  #settling = false;
  readonly #onImmediate = (): void => {
    this.#settling = false;
    this.#settleAll();
  };

  constructor(
    listen: BindAddress | undefined,
    sink: TransportSink,
    options: Partial<StreamOptions> = {},
    tls?: TlsMaterial,
  ) {
    this.#sink = sink;
    this.#tls = tls;
    this.#options = { ...DEFAULTS, ...options };
    this.#places = new Places(this.#options.maxConnections, this.#options.maxConnectionsOfOne);
    this.#reports = new Reports(sink);
    const transport = tls === undefined ? "tcp" : "tls";
    this.#server = listen === undefined ? undefined : this.#listen(listen, transport);
    this.listener = { transport, ip: listen?.ip ?? "", port: this.#server?.port ?? 0 };
  }

  /**
   * Sends octets: on connection `flow` if it is given and alive, else on a live connection to `to`, else on a new one.
   * The octets are copied if they cannot go out at once.
   *
   * @param close  end the connection when these octets are out
   */
  send(to: Endpoint, flow: number | undefined, bytes: Uint8Array, close = false): void {
    assert(to.transport === this.listener.transport, "a stream's octets go to an endpoint of its transport");
    if (this.#stopped) return;
    const connection = this.#find(to, flow) ?? this.#connect(to);
    if (connection === undefined) return;
    this.#write(connection, bytes);
    if (close) this.#end(connection);
  }

  /** Ends a connection; what waits on it still goes out. `closed` follows. Nothing happens if there is no such flow. */
  close(flow: number): void {
    const connection = this.#byFlow.get(flow);
    if (connection !== undefined) this.#end(connection);
  }

  /** TLS: handshakes from now on use this material; what is under way or up stays as it is. */
  renew(tls: TlsMaterial): void {
    assert(this.#tls !== undefined, "only a TLS transport has material to renew");
    this.#tls = tls;
  }

  /** Closes the listener and all connections. Nothing is reported any more. */
  shutdown(): void {
    if (this.#stopped) return;
    this.#settleAll();
    this.#stopped = true;
    this.#reports.stop();
    clearInterval(this.#sweeper);
    this.#server?.stop();
    const waiting: Connection[] = [];
    for (const connection of [...this.#byFlow.values()]) {
      this.#forget(connection);
      if (endWaits(connection)) {
        connection.socket?.shutdown();
        waiting.push(connection);
      } else connection.socket?.end();
    }
    const cut = (): void => {
      for (const { socket } of waiting) socket?.terminate();
    };
    if (waiting.length > 0) setTimeout(cut, this.#options.lingerMs).unref();
  }

  /** True if the connection of this number is here. */
  has(flow: number): boolean {
    return this.#byFlow.has(flow);
  }

  /** How many connections there are, in either direction and in any state. */
  connections(): number {
    return this.#byFlow.size;
  }

  /**
   * Opens a socket; its events go to the handlers. Bun 1.4.5 honours `localAddress` although its types do not know it:
   * a peer then sees the IP of our line as the source, and not one of the kernel's choice.
   */
  protected dial(
    to: Endpoint,
    localAddress: string | undefined,
    connection: Connection,
    handlers: Handlers,
  ): Promise<unknown> {
    const { material } = connection;
    return Bun.connect<Connection | undefined>({
      ...{ hostname: to.ip, port: to.port, data: connection, socket: handlers },
      ...(localAddress !== undefined && { localAddress }),
      ...(material !== undefined && { tls: clientTls(material, to) }),
    });
  }

  #listen(listen: BindAddress, transport: Transport): Bun.TCPSocketListener<Connection | undefined> {
    assert(canonicalIp(listen.ip) === listen.ip, "a transport binds to a canonical IP literal");
    try {
      return Bun.listen<Connection | undefined>({
        hostname: listen.ip,
        port: listen.port,
        data: undefined,
        // A peer may end its side after its request and still wait for the answer (RFC 9293 §3.6).
        allowHalfOpen: true,
        socket: {
          ...(transport === "tls" ? this.#rawHandlers() : this.#handlers()),
          open: (raw) => this.#accepted(raw),
        },
      });
    } catch (cause) {
      throw bindError(transport, listen, cause);
    }
  }

  #handlers(): Handlers {
    return {
      open: (socket) => this.#connected(socket),
      handshake: (socket, success, cause) => this.#shaken(socket, success, cause),
      data: (socket, bytes) => this.#received(socket, bytes),
      drain: (socket) => this.#drained(socket),
      end: (socket) => this.#ended(socket),
      close: (socket, cause) => this.#finish(socket.data, cause),
      error: (socket, error) => this.#broken(socket, error),
    };
  }

  /** What is below TLS on an accepted socket: looked at for the one thing that the upper side does not tell. */
  #rawHandlers(): Handlers {
    return {
      data: (socket, bytes) => this.#peek(socket.data, bytes),
      close: (socket, cause) => this.#finish(socket.data, cause),
      error: (socket, error) => this.#broken(socket, error),
    };
  }

  /**
   * OpenSSL's client sends the alert about our certificate in clear text where TLS 1.3 wants it encrypted, and what Bun makes
   * of it is an error about the length of a record.
   */
  #peek(connection: Connection | undefined, bytes: Uint8Array): void {
    if (connection?.state !== "handshaking") return;
    connection.touched = true;
    connection.alert ??= clearAlert(bytes);
  }

  /** Besides the end of a TLS session only what a handler threw comes here: a bug of ours, which must end the process. */
  #broken(socket: Bun.Socket<Connection | undefined>, error: Error): void {
    const connection = socket.data;
    if (connection?.material === undefined || errorCode(error) !== "EPROTO") throw error;
    connection.broken = new Error(explainHandshake(error), { cause: error });
  }

  #accepted(socket: Bun.Socket<Connection | undefined>): void {
    // Whom the other side reset before we accepted it has no address any more, whatever Bun's types say (getpeername(2)).
    const address: string | undefined = socket.remoteAddress;
    if (address === undefined || this.#stopped) {
      socket.terminate();
      return;
    }
    const ip = canonicalSource(address);
    const remote: Endpoint = { transport: this.listener.transport, ip, port: socket.remotePort };
    // Decided by the address alone, before a handshake or a place in a table costs anything.
    if (this.#sink.accepts?.(remote) === false) {
      socket.terminate();
      return;
    }
    const room = this.#places.roomFor(ip);
    if (room === false) {
      socket.terminate();
      return;
    }
    if (room !== true) this.#giveWay(room);
    const connection = this.#add(remote, true);
    socket.data = connection;
    if (connection.material === undefined) this.#opened(connection, socket);
    else this.#secure(connection, socket, connection.material);
  }

  #giveWay(connection: Connection): void {
    const cause = new Error(`${this.#options.maxConnections} are open, most of them from there, and others want one`);
    this.#fail(connection, this.#error("transport-connect", "keep the connection from", connection.remote, cause));
  }

  /**
   * Each accepted socket gets TLS with the material of that moment. A listener of Bun's that does TLS itself keeps what it was
   * opened with, and replacing it would refuse connects for a moment (docs/decisions/0004-tls-on-accepted-sockets.md).
   */
  #secure(connection: Connection, raw: Bun.Socket<Connection | undefined>, material: TlsMaterial): void {
    raw.setNoDelay(true);
    this.#enter(connection, "handshaking");
    this.#shaking.add(connection);
    const [oldest] = this.#shaking;
    if (this.#shaking.size > this.#options.maxHandshakes && oldest !== undefined)
      this.#refuse(oldest, `${this.#options.maxHandshakes} younger handshakes wait`);
    try {
      const [, socket] = raw.upgradeTLS({ data: connection, tls: serverTls(material), socket: this.#handlers() });
      connection.socket = socket;
    } catch (cause) {
      // What the files hold was proved when they were read; memory or descriptors may be short all the same.
      this.#refuse(connection, explain(cause).message);
      raw.terminate();
    }
  }

  #connected(socket: Bun.Socket<Connection | undefined>): void {
    const connection = socket.data;
    // It came up after its deadline, or after the shutdown.
    if (connection === undefined || connection.state === "closed") {
      socket.terminate();
      return;
    }
    if (connection.material === undefined) this.#opened(connection, socket);
    // An accepted socket has its state, and comes here once more for the TLS on top of it.
    else if (!connection.inbound) {
      connection.socket = socket;
      this.#enter(connection, "handshaking");
    }
  }

  /** A handshake is through, or never will be: the one place where the other side of a TLS connection is judged. */
  #shaken(socket: Bun.Socket<Connection | undefined>, success: boolean, cause: Error | null): void {
    const connection = socket.data;
    if (connection?.state !== "handshaking" || connection.material === undefined) return;
    const { inbound, remote, alert } = connection;
    const { verify, requireClientCert } = connection.material;
    const certificate = socket.getPeerCertificate() ?? undefined;
    const verdict = inbound
      ? clientRefusal(cause, requireClientCert, certificate, alert)
      : serverRefusal(cause, remote, verify, certificate);
    // A certificate that Bun does not like is no success either, so that alone says nothing; without a cause it does.
    const why = verdict ?? (success || cause !== null ? undefined : "the handshake failed without a reason");
    if (why === undefined) this.#opened(connection, socket);
    else this.#refuse(connection, why);
  }

  #refuse(connection: Connection, why: string): void {
    this.#fail(connection, this.#refusal(connection, new Error(why)));
  }

  #refusal({ inbound, remote }: Connection, cause: Error): TransportError {
    return this.#error("tls-refused", inbound ? "tls handshake from" : "tls handshake with", remote, cause);
  }

  #opened(connection: Connection, socket: Bun.Socket<Connection | undefined>): void {
    connection.socket = socket;
    // A message is one write, and it must not wait for the acknowledgement of the one before.
    socket.setNoDelay(true);
    this.#shaking.delete(connection);
    this.#enter(connection, "open");
    connection.openedAt = connection.activeAt;
    connection.drain();
    this.#endIfDone(connection);
  }

  #received(socket: Bun.Socket<Connection | undefined>, bytes: Uint8Array): void {
    const connection = socket.data;
    if (connection === undefined || connection.state !== "open" || connection.ends) return;
    connection.heard = true;
    connection.owes = true;
    connection.activeAt = performance.now();
    // Bun makes a new buffer for each chunk (0002-bun-udp.md): the sink may keep it.
    this.#sink.received(connection.remote, connection.flow, bytes, 0, bytes.length, bytes.length);
  }

  #drained(socket: Bun.Socket<Connection | undefined>): void {
    const connection = socket.data;
    if (connection === undefined || connection.state === "closed") return;
    if (connection.drain()) connection.activeAt = performance.now();
    this.#endIfDone(connection);
  }

  /** The peer sends no more. */
  #ended(socket: Bun.Socket<Connection | undefined>): void {
    const connection = socket.data;
    if (connection === undefined) return;
    connection.settle();
    // A peer that has its answers is simply gone; one that asked and ended may be waiting, as `nc -N` does.
    const waits = connection.owes || connection.queuedBytes > 0;
    if (connection.inbound && connection.state === "open" && waits) {
      this.#enter(connection, "half-open");
      // New requests need a connection that can carry their answers.
      this.#unmap(connection);
      this.#endIfDone(connection);
      return;
    }
    this.#finish(connection, undefined);
    socket.end();
  }

  #find(to: Endpoint, flow: number | undefined): Connection | undefined {
    const byFlow = flow === undefined ? undefined : this.#byFlow.get(flow);
    if (byFlow !== undefined && takesOctets(byFlow)) return byFlow;
    return this.#byEndpoint.get(connectionKey(to));
  }

  /** @returns `undefined`, and an `unsent` to come, if there are too many */
  #connect(to: Endpoint): Connection | undefined {
    if (this.#byFlow.size - this.#inbound >= this.#options.maxConnections) {
      const cause = new Error(`${this.#options.maxConnections} outbound connections are open already`);
      this.#reports.unsent(to, this.#error("transport-connect", "connect to", to, cause));
      return undefined;
    }
    const connection = this.#add(to, false);
    this.dial(to, this.#localAddress(to), connection, this.#handlers()).catch((cause: unknown) => {
      this.#fail(connection, this.#error("transport-connect", "connect to", to, explain(cause)));
    });
    return connection;
  }

  #localAddress(to: Endpoint): string | undefined {
    const ip = this.#options.localIp ?? this.listener.ip;
    const isConcrete = ip !== "" && ip !== "0.0.0.0" && ip !== "::";
    return isConcrete && isIpv6(ip) === isIpv6(to.ip) ? ip : undefined;
  }

  #add(remote: Endpoint, inbound: boolean): Connection {
    const flow = this.#options.nextFlow?.() ?? ++this.#lastFlow;
    const connection = new Connection(flow, remote, inbound, performance.now(), this.#backlog);
    connection.material = this.#tls;
    this.#byFlow.set(connection.flow, connection);
    if (inbound) {
      this.#inbound++;
      this.#places.take(connection);
    }
    const key = connectionKey(remote);
    const mayCarryOurs = !inbound || this.#tls === undefined;
    if (mayCarryOurs && !this.#byEndpoint.has(key)) this.#byEndpoint.set(key, connection);
    this.#sweeper ??= setInterval(() => this.#sweep(), this.#sweepMs());
    return connection;
  }

  #write(connection: Connection, bytes: Uint8Array): void {
    const isUp = connection.state !== "connecting" && connection.state !== "handshaking";
    connection.owes = false;
    if (isUp && connection.queuedBytes === connection.borrowedBytes) {
      connection.borrow(bytes);
      if (connection.borrowedBytes >= BATCH_BYTES) this.#settle(connection);
      else this.#settleSoon(connection);
    } else {
      // What waits longer than this wake-up is copied. (`slice` would not do: of a Buffer it is no copy.)
      connection.enqueue(new Uint8Array(bytes));
    }
    if (connection.queuedBytes > this.#options.maxQueuedBytes) this.#cutOff(connection);
    else if (this.#backlog.bytes > this.#options.maxQueuedBytesOfAll) this.#cutOff(this.#slowest(connection));
  }

  #cutOff(connection: Connection): void {
    const cause = new Error(`${connection.queuedBytes} octets wait and the peer reads none`);
    this.#fail(connection, this.#error("transport-send", "send to", connection.remote, cause));
  }

  /** Of all connections the one that most waits on; what goes out with this wake-up waits nowhere. */
  #slowest(first: Connection): Connection {
    let slowest = first;
    for (const one of this.#byFlow.values())
      if (one.queuedBytes - one.borrowedBytes > slowest.queuedBytes - slowest.borrowedBytes) slowest = one;
    return slowest;
  }

  /** What one wake-up brings to a connection goes out in one piece at its end. */
  #settleSoon(connection: Connection): void {
    this.#unsettled.add(connection);
    if (this.#settling) return;
    this.#settling = true;
    setImmediate(this.#onImmediate);
  }

  #settle(connection: Connection): void {
    if (connection.settle()) connection.activeAt = performance.now();
    this.#endIfDone(connection);
  }

  #settleAll(): void {
    const connections = [...this.#unsettled];
    this.#unsettled.clear();
    for (const connection of connections) if (connection.state !== "closed") this.#settle(connection);
  }

  #end(connection: Connection): void {
    connection.ends = true;
    this.#unmap(connection);
    this.#endIfDone(connection);
  }

  /**
   * A plain close while octets of the peer are unread makes the kernel send RST, which destroys our last answer on its
   * way (RFC 9112 §9.6 tells the story for HTTP): so first only our side is shut, and the rest follows the peer's FIN.
   */
  #endIfDone(connection: Connection): void {
    if (!connection.ends || connection.queuedBytes > 0) return;
    if (connection.state === "open") {
      this.#enter(connection, "lingering");
      connection.socket?.shutdown();
    } else if (connection.state === "half-open") {
      this.#finish(connection, undefined);
      connection.socket?.end();
    }
  }

  #enter(connection: Connection, state: State): void {
    connection.state = state;
    connection.activeAt = performance.now();
  }

  #sweepMs(): number {
    const { connectTimeoutMs, handshakeTimeoutMs, idleMs, headerTimeoutMs, halfOpenMs, lingerMs } = this.#options;
    const limits = [connectTimeoutMs, handshakeTimeoutMs, idleMs, headerTimeoutMs, halfOpenMs, lingerMs];
    return Math.max(10, Math.min(...limits) / 4);
  }

  /** One timer for all connections; it runs only while there are any. */
  #sweep(): void {
    const now = performance.now();
    for (const connection of this.#byFlow.values()) {
      const overdue = this.#overdue(connection, now - connection.activeAt);
      if (overdue !== undefined) this.#fail(connection, overdue);
    }
  }

  /** @returns why the connection must go, or `undefined` if it may stay */
  #overdue(connection: Connection, quietMs: number): TransportError | undefined {
    const { connectTimeoutMs, handshakeTimeoutMs, idleMs, headerTimeoutMs, halfOpenMs, lingerMs } = this.#options;
    const { remote, state } = connection;
    if (state === "handshaking") {
      const cause = new Error(`not through after ${handshakeTimeoutMs} ms`);
      return quietMs < handshakeTimeoutMs ? undefined : this.#refusal(connection, cause);
    }
    if (state === "connecting") {
      const cause = new Error(`ETIMEDOUT, not connected after ${connectTimeoutMs} ms`);
      return quietMs < connectTimeoutMs ? undefined : this.#error("transport-connect", "connect to", remote, cause);
    }
    const unheard = connection.inbound && !connection.heard;
    let limitMs = unheard ? Math.min(headerTimeoutMs, idleMs) : idleMs;
    if (state === "half-open") limitMs = halfOpenMs;
    if (state === "lingering") limitMs = lingerMs;
    if (quietMs < limitMs) return undefined;
    const cause = new Error(`nothing moved for ${limitMs} ms (${state})`);
    return this.#error("transport-send", "keep connection to", remote, cause);
  }

  /** Ends a connection for a reason of ours. */
  #fail(connection: Connection, cause: TransportError): void {
    this.#finish(connection, cause);
    // The answer to a peer that reads nothing is RST: a FIN would wait behind what it does not read. And a TLS 1.3 server that
    // is refused so does not get to see our certificate.
    if (connection.queuedBytes > 0 || endWaits(connection)) connection.socket?.terminate();
    else connection.socket?.end();
  }

  /** Takes a connection that is over, or about to be, off the books, and reports it once. */
  #finish(connection: Connection | undefined, ending: Error | undefined): void {
    if (connection === undefined || connection.state === "closed") return;
    const { flow, remote, queuedBytes, state, inbound } = connection;
    const refusal = this.#refusedBy(connection, ending);
    const cause = refusal ?? ending ?? connection.broken;
    this.#forget(connection);
    // Who connects and leaves without an octet is a load balancer that looks whether we live.
    if (refusal !== undefined && (!inbound || connection.touched)) this.#reports.refused(remote, refusal);
    if (queuedBytes > 0 || (refusal !== undefined && !inbound)) {
      const why = cause ?? new Error("the connection ended before they were read");
      const told = why instanceof TransportError;
      this.#reports.unsent(remote, told ? why : this.#error("transport-send", "send to", remote, why));
    }
    // Where one side had said that it ends and all octets are out, a deadline of ours is a good end as well.
    const wasEnding = (state === "half-open" || state === "lingering") && queuedBytes === 0;
    this.#reports.closed(flow, wasEnding ? undefined : cause);
  }

  /** @returns the refusal, where the end of a connection is one; octets that were written on it were then not taken */
  #refusedBy(connection: Connection, cause: Error | undefined): TransportError | undefined {
    if (cause instanceof TransportError) return cause.code === "tls-refused" ? cause : undefined;
    const { inbound, material, state, heard, broken, openedAt } = connection;
    if (state === "handshaking") return this.#refusal(connection, new Error("the other side ended it unfinished"));
    if (material === undefined || inbound || heard || openedAt === undefined || connection.ends) return undefined;
    if (broken !== undefined) return this.#refusal(connection, broken);
    if (performance.now() - openedAt > REFUSAL_MS) return undefined;
    const had = material.cert === undefined ? "we have no certificate (tls_cert)" : "it may not accept our certificate";
    return this.#refusal(connection, new Error(`the other side hung up right after it, without a word: ${had}`));
  }

  #forget(connection: Connection): void {
    this.#unmap(connection);
    this.#shaking.delete(connection);
    connection.state = "closed";
    this.#byFlow.delete(connection.flow);
    connection.abandon();
    if (connection.inbound) {
      this.#inbound--;
      this.#places.leave(connection);
    }
    if (this.#byFlow.size > 0) return;
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }

  #unmap(connection: Connection): void {
    const key = connectionKey(connection.remote);
    if (this.#byEndpoint.get(key) === connection) this.#byEndpoint.delete(key);
  }

  #error(code: ErrorCode, operation: string, remote: Endpoint, cause: Error): TransportError {
    return new TransportError(code, operation, endpointKey(remote), cause);
  }
}

/** RFC 5922 §7: a connection was verified for one name, and is good for no other. */
function connectionKey(to: Endpoint): string {
  if (to.name !== undefined) return `${endpointKey(to)} ${to.name.toLowerCase()}`;
  return to.domain === undefined ? endpointKey(to) : `${endpointKey(to)} or ${to.domain.toLowerCase()}`;
}

/** Bun 1.4.5 ends a TLS session that was up only when the other side ends it too, and lets nobody cut it after `end`. */
function endWaits({ material, openedAt }: Connection): boolean {
  return material !== undefined && openedAt !== undefined;
}

function takesOctets(connection: Connection): boolean {
  return !connection.ends && connection.state !== "lingering" && connection.state !== "closed";
}
