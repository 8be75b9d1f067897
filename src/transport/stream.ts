/**
 * Connections: TCP now, TLS by the same class later (the two places that open sockets, `#listen` and `dial`, are where
 * its options will go; nothing else knows which of the two it is).
 *
 * Each connection, in or out, is one flow with a number that is never used again. Octets for an endpoint go over a live
 * connection to it before a new one is opened (RFC 3261 §18.1.1, §18.2.2; RFC 5923 for the reuse of inbound ones). Framing
 * is not here: chunks go up as they come. Everything that waits has a limit, and a connection that reaches one is closed.
 */
import { assert } from "../core/assert.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { canonicalIp, endpointKey, isIpv6 } from "../core/endpoint.ts";
import { type ErrorCode, TransportError } from "../core/errors.ts";
import {
  type BindAddress,
  bindError,
  canonicalSource,
  explain,
  type Listener,
  Reports,
  type TransportSink,
} from "./transport.ts";

/** Milliseconds and octets; deadlines are looked at a few times within the shortest of them, not to the millisecond. */
export interface StreamOptions {
  /** A connection that is not up by then has failed. */
  readonly connectTimeoutMs: number;
  /** Inbound connections beyond this number are closed at once, outbound ones beyond it are not opened. */
  readonly maxConnections: number;
  /** A connection over which nothing moved for so long is closed. */
  readonly idleMs: number;
  /** Octets that may wait for a peer to read them; beyond it the peer counts as gone and the connection is closed. */
  readonly maxQueuedBytes: number;
  /** An inbound connection that has not sent one octet by then is closed: it only holds a place. */
  readonly headerTimeoutMs: number;
  /** How long an answer may still go out on an inbound connection whose peer has asked and sends no more. */
  readonly halfOpenMs: number;
  /** How long a connection that we ended waits for the peer to end it too, so that it can read our last octets. */
  readonly lingerMs: number;
}

const DEFAULTS: StreamOptions = {
  connectTimeoutMs: 5_000,
  maxConnections: 1_000,
  idleMs: 120_000,
  maxQueuedBytes: 8 * 1024 * 1024,
  headerTimeoutMs: 30_000,
  halfOpenMs: 5_000,
  lingerMs: 2_000,
};

/**
 * - `connecting`: octets wait in the queue
 * - `open`: octets go out, or wait where the peer reads slowly
 * - `half-open`: the peer sends no more; answers still go out
 * - `lingering`: our FIN is out, the peer's is awaited; nothing goes out, what comes in is dropped
 * - `closed`: reported, or about to be
 */
type State = "connecting" | "open" | "half-open" | "lingering" | "closed";

class Connection {
  readonly flow: number;
  readonly remote: Endpoint;
  readonly inbound: boolean;
  socket: Bun.Socket<Connection | undefined> | undefined;
  state: State = "connecting";
  /** We end it as soon as nothing waits any more; what comes in is dropped. */
  ends = false;
  /** Octets came in after the last that went out: there may be an answer to come. */
  owes = false;
  /** It has sent us at least one octet. */
  heard = false;
  /** When octets last moved in either direction, or the state last changed; deadlines count from here. */
  activeAt: number;
  queuedBytes = 0;
  #queue: Uint8Array[] = [];
  #head = 0;

  constructor(flow: number, remote: Endpoint, inbound: boolean, now: number) {
    this.flow = flow;
    this.remote = remote;
    this.inbound = inbound;
    this.activeAt = now;
  }

  /** Adds octets that nobody else will write to. */
  enqueue(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#queue.push(bytes);
    this.queuedBytes += bytes.length;
  }

  /** @returns how many of `bytes` the kernel took */
  write(bytes: Uint8Array): number {
    // −1 is a socket that is gone; its close event is on the way and reports what waits.
    return Math.max(0, this.socket?.write(bytes) ?? 0);
  }

  /** Writes what waits. @returns true if any of it went out */
  drain(): boolean {
    const before = this.queuedBytes;
    while (this.#head < this.#queue.length) {
      const bytes = this.#queue[this.#head] as Uint8Array;
      const written = this.write(bytes);
      this.queuedBytes -= written;
      if (written < bytes.length) {
        this.#queue[this.#head] = bytes.subarray(written);
        break;
      }
      this.#head++;
    }
    if (this.#head === this.#queue.length) {
      this.#queue = [];
      this.#head = 0;
    }
    return this.queuedBytes < before;
  }
}

/**
 * Opens a listener, if one is wanted, and what connects from it.
 *
 * @param listen  `::` takes IPv4 as well, `0.0.0.0` only that; `undefined` for a transport that only connects
 * @throws        TransportError `transport-bind`: in use, not permitted, not an address of this machine
 */
export async function openStreams(
  listen: BindAddress | undefined,
  sink: TransportSink,
  options: Partial<StreamOptions> = {},
): Promise<StreamTransport> {
  return new StreamTransport(listen, sink, options);
}

export class StreamTransport {
  readonly listener: Listener;
  readonly #sink: TransportSink;
  readonly #options: StreamOptions;
  readonly #reports: Reports;
  readonly #server: Bun.TCPSocketListener<Connection | undefined> | undefined;
  readonly #byFlow = new Map<number, Connection>();
  /** The connection that octets for an endpoint go over: live, and the peer still sends on it. */
  readonly #byEndpoint = new Map<string, Connection>();
  #inbound = 0;
  #lastFlow = 0;
  #sweeper: ReturnType<typeof setInterval> | undefined;
  #stopped = false;

  constructor(listen: BindAddress | undefined, sink: TransportSink, options: Partial<StreamOptions> = {}) {
    this.#sink = sink;
    this.#options = { ...DEFAULTS, ...options };
    this.#reports = new Reports(sink);
    this.#server = listen === undefined ? undefined : this.#listen(listen);
    this.listener = { transport: "tcp", ip: listen?.ip ?? "", port: this.#server?.port ?? 0 };
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

  /** Closes the listener and all connections. Nothing is reported any more. */
  shutdown(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#reports.stop();
    clearInterval(this.#sweeper);
    this.#server?.stop();
    for (const connection of [...this.#byFlow.values()]) {
      this.#forget(connection);
      connection.socket?.end();
    }
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
    handlers: Bun.SocketHandler<Connection | undefined>,
  ): Promise<unknown> {
    const options = { hostname: to.ip, port: to.port, data: connection, socket: handlers };
    const bound = localAddress === undefined ? options : { ...options, localAddress };
    return Bun.connect<Connection | undefined>(bound);
  }

  #listen(listen: BindAddress): Bun.TCPSocketListener<Connection | undefined> {
    assert(canonicalIp(listen.ip) === listen.ip, "a transport binds to a canonical IP literal");
    try {
      return Bun.listen<Connection | undefined>({
        hostname: listen.ip,
        port: listen.port,
        data: undefined,
        // A peer may end its side after its request and still wait for the answer (RFC 9293 §3.6).
        allowHalfOpen: true,
        socket: { ...this.#handlers(), open: (socket) => this.#accepted(socket) },
      });
    } catch (cause) {
      throw bindError("tcp", listen, cause);
    }
  }

  #handlers(): Bun.SocketHandler<Connection | undefined> {
    return {
      open: (socket) => this.#connected(socket),
      data: (socket, bytes) => this.#received(socket, bytes),
      drain: (socket) => this.#drained(socket),
      end: (socket) => this.#ended(socket),
      close: (socket, cause) => this.#finish(socket.data, cause),
      // Only what a handler threw comes here: a bug of ours, which must end the process rather than vanish.
      error: (_socket, error) => {
        throw error;
      },
    };
  }

  #accepted(socket: Bun.Socket<Connection | undefined>): void {
    if (this.#stopped || this.#inbound >= this.#options.maxConnections) {
      socket.terminate();
      return;
    }
    const ip = canonicalSource(socket.remoteAddress);
    const remote: Endpoint = { transport: this.listener.transport, ip, port: socket.remotePort };
    const connection = this.#add(remote, true);
    socket.data = connection;
    this.#opened(connection, socket);
  }

  #connected(socket: Bun.Socket<Connection | undefined>): void {
    const connection = socket.data;
    // It came up after its deadline, or after the shutdown.
    if (connection === undefined || connection.state === "closed") {
      socket.terminate();
      return;
    }
    this.#opened(connection, socket);
  }

  #opened(connection: Connection, socket: Bun.Socket<Connection | undefined>): void {
    connection.socket = socket;
    // A message is one write, and it must not wait for the acknowledgement of the one before.
    socket.setNoDelay(true);
    this.#enter(connection, "open");
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
    this.#sink.received(connection.remote, connection.flow, bytes);
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
    return this.#byEndpoint.get(endpointKey(to));
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
    const ip = this.listener.ip;
    const isConcrete = ip !== "" && ip !== "0.0.0.0" && ip !== "::";
    return isConcrete && isIpv6(ip) === isIpv6(to.ip) ? ip : undefined;
  }

  #add(remote: Endpoint, inbound: boolean): Connection {
    const connection = new Connection(++this.#lastFlow, remote, inbound, performance.now());
    this.#byFlow.set(connection.flow, connection);
    if (inbound) this.#inbound++;
    const key = endpointKey(remote);
    if (!this.#byEndpoint.has(key)) this.#byEndpoint.set(key, connection);
    this.#sweeper ??= setInterval(() => this.#sweep(), this.#sweepMs());
    return connection;
  }

  #write(connection: Connection, bytes: Uint8Array): void {
    const mayWrite = connection.state !== "connecting" && connection.queuedBytes === 0;
    const written = mayWrite ? connection.write(bytes) : 0;
    if (written > 0) connection.activeAt = performance.now();
    connection.owes = false;
    if (written === bytes.length) return;
    // The core builds its messages in memory that it uses again. (`slice` would not do: of a Buffer it is no copy.)
    connection.enqueue(new Uint8Array(bytes.subarray(written)));
    if (connection.queuedBytes <= this.#options.maxQueuedBytes) return;
    const cause = new Error(`${connection.queuedBytes} octets wait and the peer reads none`);
    this.#fail(connection, this.#error("transport-send", "send to", connection.remote, cause));
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
    const { connectTimeoutMs, idleMs, headerTimeoutMs, halfOpenMs, lingerMs } = this.#options;
    return Math.max(10, Math.min(connectTimeoutMs, idleMs, headerTimeoutMs, halfOpenMs, lingerMs) / 4);
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
    const { connectTimeoutMs, idleMs, headerTimeoutMs, halfOpenMs, lingerMs } = this.#options;
    const { remote, state } = connection;
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
    // The answer to a peer that reads nothing is RST: a FIN would wait behind what it does not read.
    if (connection.queuedBytes > 0) connection.socket?.terminate();
    else connection.socket?.end();
  }

  /** Takes a connection that is over, or about to be, off the books, and reports it once. */
  #finish(connection: Connection | undefined, cause: Error | undefined): void {
    if (connection === undefined || connection.state === "closed") return;
    const { flow, remote, queuedBytes, state } = connection;
    this.#forget(connection);
    if (queuedBytes > 0) {
      const why = cause ?? new Error("the connection ended before they were read");
      const told = why instanceof TransportError;
      this.#reports.unsent(remote, told ? why : this.#error("transport-send", "send to", remote, why));
    }
    // Where one side had said that it ends and all octets are out, a deadline of ours is a good end as well.
    const wasEnding = (state === "half-open" || state === "lingering") && queuedBytes === 0;
    this.#reports.closed(flow, wasEnding ? undefined : cause);
  }

  #forget(connection: Connection): void {
    this.#unmap(connection);
    connection.state = "closed";
    this.#byFlow.delete(connection.flow);
    if (connection.inbound) this.#inbound--;
    if (this.#byFlow.size > 0) return;
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }

  #unmap(connection: Connection): void {
    const key = endpointKey(connection.remote);
    if (this.#byEndpoint.get(key) === connection) this.#byEndpoint.delete(key);
  }

  #error(code: ErrorCode, operation: string, remote: Endpoint, cause: Error): TransportError {
    return new TransportError(code, operation, endpointKey(remote), cause);
  }
}

function takesOctets(connection: Connection): boolean {
  return !connection.ends && connection.state !== "lingering" && connection.state !== "closed";
}
