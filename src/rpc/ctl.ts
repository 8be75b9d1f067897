/**
 * The socket for `kamcmd -s unixs:PATH`: Kamailio's binary RPC on a unix stream socket (dmq.md section 14). Who may connect is
 * decided by the mode of the file, 0600, alone.
 *
 * The requests of a connection run one after the other, in their order. While one runs, or its reply waits for the reader,
 * nothing more is read, so a connection holds little whatever its client does; what a client does too slowly ends it.
 */
import {
  BinrpcError,
  type BinrpcStruct,
  type BinrpcValue,
  type Packet,
  PacketReader,
  readRequest,
  writePacket,
  writeValues,
} from "./binrpc.ts";
import { type KamailioAnswer, type KamailioCall, kamailioCalls } from "./kamailio-shape.ts";
import { claimSocket, type SocketClaim } from "./socket-file.ts";
import type { ControlSurface } from "./surface.ts";

export interface CtlLimits {
  /** Connections at a time; the next one is closed at once. */
  connectionsMax: number;
  /** A connection that asks nothing for so long is closed. */
  idleMs: number;
  /** A request has to be there by then, counted from its first octet, and each part of a reply read. */
  stallMs: number;
  /** What runs when the server closes may go on for so long. */
  closeGraceMs: number;
}

const CTL_LIMITS: CtlLimits = { connectionsMax: 64, idleMs: 120_000, stallMs: 10_000, closeGraceMs: 1_000 };

export interface CtlOptions {
  path: string;
  surface: ControlSurface;
  /** Numeric group that may connect, too. */
  group?: number | undefined;
  limits?: Partial<CtlLimits>;
}

/** A carrier of calls that serves until it is closed. */
export interface CtlServer {
  readonly path: string;
  /** Lets running calls finish for a second, then ends all connections and removes the file if it is still ours. */
  close(): Promise<void>;
}

/**
 * @returns once the socket answers
 * @throws  ConfigError if the path cannot be a socket's; TransportError `transport-bind` if another daemon answers there,
 *          something else than a socket is there, or the permission is missing; nothing is left behind then
 */
export async function serveCtl(options: CtlOptions): Promise<CtlServer> {
  const server = new Server(kamailioCalls(options.surface), { ...CTL_LIMITS, ...options.limits });
  const claim = await claimSocket({
    path: options.path,
    group: options.group,
    listen: (path) => server.listen(path),
    abandon: () => server.abandon(),
  });
  return { path: options.path, close: () => server.close(claim) };
}

type Socket = Bun.Socket<Connection | undefined>;

class Server {
  readonly #call: KamailioCall;
  readonly #limits: CtlLimits;
  readonly #open = new Map<Connection, Promise<void>>();
  #listener: Bun.UnixSocketListener<Connection | undefined> | undefined;
  #closing = false;

  constructor(call: KamailioCall, limits: CtlLimits) {
    this.#call = call;
    this.#limits = limits;
  }

  listen(path: string): void {
    this.#listener = Bun.listen<Connection | undefined>({
      unix: path,
      data: undefined,
      // A client may end its side after its request and still read the answer.
      allowHalfOpen: true,
      socket: {
        open: (socket) => this.#accept(socket),
        data: (socket, bytes) => socket.data?.received(bytes),
        drain: (socket) => socket.data?.drained(),
        end: (socket) => socket.data?.ended(),
        close: (socket) => socket.data?.closed(),
        // Only what a handler threw comes here: a mistake of ours, which must not vanish.
        error: (_socket, error) => {
          throw error;
        },
      },
    });
  }

  abandon(): void {
    this.#listener?.stop(true);
  }

  async close(claim: SocketClaim): Promise<void> {
    this.#closing = true;
    claim.release();
    this.#listener?.stop();
    const grace = Promise.withResolvers<void>();
    const timer = setTimeout(grace.resolve, this.#limits.closeGraceMs);
    for (const connection of this.#open.keys()) connection.stop();
    await Promise.race([Promise.all(this.#open.values()), grace.promise]);
    clearTimeout(timer);
    this.#listener?.stop(true);
  }

  #accept(socket: Socket): void {
    if (this.#closing || this.#open.size >= this.#limits.connectionsMax) {
      socket.terminate();
      return;
    }
    const connection = new Connection(socket, this.#call, this.#limits);
    socket.data = connection;
    const running = connection.run().finally(() => this.#open.delete(connection));
    this.#open.set(connection, running);
  }
}

class Connection {
  readonly #socket: Socket;
  readonly #call: KamailioCall;
  readonly #limits: CtlLimits;
  readonly #reader = new PacketReader();
  /** Resolved by whatever happens to the socket; made when something waits for that. */
  #wake: PromiseWithResolvers<void> | undefined;
  #deadline: ReturnType<typeof setTimeout> | undefined;
  #isPaused = false;
  #isBusy = false;
  /** The client sends no more; what it has asked is still answered. */
  #isEnded = false;
  /** The server closes: what has not begun is not begun any more. */
  #stops = false;
  #isGone = false;

  constructor(socket: Socket, call: KamailioCall, limits: CtlLimits) {
    this.#socket = socket;
    this.#call = call;
    this.#limits = limits;
  }

  received(bytes: Uint8Array): void {
    this.#reader.push(bytes);
    if (this.#isBusy && !this.#isPaused) {
      this.#isPaused = true;
      this.#socket.pause();
    }
    this.#wake?.resolve();
  }

  drained(): void {
    this.#wake?.resolve();
  }

  ended(): void {
    this.#isEnded = true;
    this.#wake?.resolve();
  }

  closed(): void {
    this.#isGone = true;
    this.#wake?.resolve();
  }

  stop(): void {
    this.#stops = true;
    this.#wake?.resolve();
  }

  /** Serves until one of the two sides has had enough. */
  async run(): Promise<void> {
    try {
      for (let packet = await this.#next(); packet !== undefined; packet = await this.#next()) {
        await this.#write(await this.#reply(packet));
        // A chunk can hold thousands of requests: the node gets its turn between any two.
        if (this.#reader.pendingBytes > 0) await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      if (!(error instanceof BinrpcError)) throw error;
      if (error.cookie !== undefined) await this.#write(faultPacket(error.cookie, 400, error.message));
    } finally {
      clearTimeout(this.#deadline);
      this.#socket.end();
      this.#socket.terminate();
    }
  }

  /** @returns `undefined` when there is nothing more to serve. @throws BinrpcError */
  async #next(): Promise<Packet | undefined> {
    this.#isBusy = false;
    let begun = false;
    this.#expect(this.#limits.idleMs);
    while (!this.#isGone && !this.#stops) {
      const packet = this.#reader.next();
      if (packet !== undefined) {
        clearTimeout(this.#deadline);
        this.#isBusy = true;
        return packet;
      }
      if (this.#isEnded) break;
      // Once, and not at every octet: whoever sends one now and then would never have to finish.
      if (!begun && this.#reader.pendingBytes > 0) this.#expect(this.#limits.stallMs);
      begun = this.#reader.pendingBytes > 0;
      this.#resume();
      await this.#happening();
    }
    return undefined;
  }

  async #reply(packet: Packet): Promise<Uint8Array> {
    try {
      if (packet.kind !== "request") throw new BinrpcError(`a ${packet.kind} came, expected a request`);
      const request = readRequest(packet.body);
      return replyPacket(packet.cookie, request.method, await this.#call(request.method, request.params));
    } catch (error) {
      if (!(error instanceof BinrpcError)) throw error;
      return faultPacket(packet.cookie, 400, error.message);
    }
  }

  async #write(bytes: Uint8Array): Promise<void> {
    let rest = bytes;
    while (!this.#isGone) {
      // −1 is a socket that is gone; its close event is on the way.
      rest = rest.subarray(Math.max(0, this.#socket.write(rest)));
      if (rest.length === 0) return;
      this.#expect(this.#limits.stallMs);
      await this.#happening();
    }
  }

  #resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.#socket.resume();
  }

  #happening(): Promise<void> {
    this.#wake = Promise.withResolvers<void>();
    return this.#wake.promise;
  }

  /** Whoever lets the deadline pass is cut off. */
  #expect(ms: number): void {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#socket.terminate(), ms);
  }
}

function replyPacket(cookie: Uint8Array, method: string, answer: KamailioAnswer): Uint8Array {
  if ("result" in answer) return writePacket("reply", cookie, writeValues(topLevel(answer.result)));
  const { code, text, isUnknownMethod } = answer.fault;
  return faultPacket(cookie, code, isUnknownMethod ? `command ${method} not found` : text);
}

function faultPacket(cookie: Uint8Array, code: number, text: string): Uint8Array {
  return writePacket("fault", cookie, writeValues([code, text]));
}

/** Kamailio writes the values of a list one after the other, without an array around them. */
function topLevel(result: unknown): BinrpcValue[] {
  return Array.isArray(result) ? result.map(recordOf) : [recordOf(result)];
}

const NULL_TEXT = "<null string>";

/** JSON to records: `null` is what Kamailio writes for a text that is not there, a truth value is 0 or 1. */
function recordOf(json: unknown): BinrpcValue {
  switch (typeof json) {
    case "number":
    case "string":
      return json;
    case "boolean":
      return json ? 1 : 0;
    case "object":
      return json === null ? NULL_TEXT : structOf(json);
    default:
      return NULL_TEXT;
  }
}

function structOf(json: object): BinrpcStruct {
  const entries: [string | undefined, unknown][] = Array.isArray(json)
    ? json.map((value) => [undefined, value])
    : Object.entries(json);
  return { members: entries.map(([name, value]) => ({ name, value: recordOf(value) })) };
}
