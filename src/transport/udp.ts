/**
 * Datagrams over one shared `Bun.udpSocket`.
 *
 * Datagrams of one wake-up are collected and handed to the kernel with one `sendMany` in `setImmediate`, which is half as
 * fast again as sending each (docs/decisions/0002-bun-udp.md). Bun sets IP_RECVERR, so the ICMP error of any dead
 * peer fails the *next* send on the socket, whoever that one is for: a failed send is tried again, up to three times,
 * before it counts as its own failure. Whose error it was cannot be known: Bun names the errno and no address.
 */
import { assert } from "../core/assert.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { canonicalIp, endpointKey, isIpv6, sameEndpoint } from "../core/endpoint.ts";
import { TransportError } from "../core/errors.ts";
import type { Deliver } from "./batch.ts";
import {
  BATCH_DATAGRAMS,
  BunSocket,
  Correspondent,
  type DatagramSocket,
  END,
  FIELDS,
  KnownAddresses,
  octetsAt,
  type Packets,
  START,
  sizeAt,
  TO,
} from "./datagram.ts";
import type { NativeSocket } from "./native.ts";
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

export interface UdpOptions {
  /** Octets that may wait while the kernel takes none; beyond it datagrams are reported unsent. Default 8 MiB. */
  readonly maxQueuedBytes?: number;
  /** Told of each ICMP error that the socket reports, from within its own callback; whose it is nobody knows. */
  readonly onIcmp?: (cause: Error) => void;
  /** False reads and sends through Bun alone, as where the system's own way is not available (native.ts). Default true. */
  readonly native?: boolean;
  /** False keeps datagrams apart on their way to the wire and from it, so that a capture on this machine shows each (mmsg.ts). Default true. */
  readonly segmentation?: boolean;
}

/** The kernel takes nothing and the queue is full: a fault of ours that says nothing about the receiver. */
export class QueueFull extends Error {}

const MAX_QUEUED_BYTES = 8 * 1024 * 1024;

/** With so many octets waiting the batch goes out early. */
const BATCH_BYTES = 256 * 1024;

/**
 * So many to one receiver in a row go out before the wake-up is over: more in one piece saves nothing any more
 * (docs/decisions/0012-mmsg.md), and the receiver can begin.
 */
const RUN_DATAGRAMS = 32;

/** How often a failed send is tried again: each attempt takes one foreign ICMP error off the socket. */
const RETRIES = 3;

/**
 * Binds a UDP socket.
 *
 * @param address  `::` takes IPv4 as well, `0.0.0.0` only that
 * @throws         TransportError `transport-bind`: in use, not permitted, not an address of this machine
 */
export async function openUdp(
  address: BindAddress,
  sink: TransportSink,
  options: UdpOptions = {},
): Promise<UdpTransport> {
  assert(canonicalIp(address.ip) === address.ip, "a transport binds to a canonical IP literal");
  // Native code is loaded where a socket opens, and before it does: what comes in between would be lost.
  const library =
    options.native === false ? undefined : await import("./native.ts").then(({ loadNative }) => loadNative());
  let transport: UdpTransport | undefined;
  let native: NativeSocket | undefined;
  const senders = new Senders();
  const handlers: Bun.udp.SocketHandler<"buffer"> = {
    data(_socket, bytes, port, ip) {
      if (native?.isReading === true) native.read();
      else deliver(senders.endpoint(ip, port), bytes, 0, bytes.length, bytes.length);
    },
    drain() {
      transport?.flush();
      native?.readAgain();
    },
    // Bun 1.4.5 calls this with the error alone, its types say (socket, error): the last argument is right for both.
    error(...args: unknown[]) {
      transport?.failed(args.at(-1));
    },
  };
  const deliver: Deliver = (from, octets, start, end, size) => sink.received(from, 0, octets, start, end, size);
  const socket = await bind(address, handlers);
  native = library?.open(socket, {
    isIpv6: isIpv6(address.ip),
    mayCut: options.segmentation !== false,
    // Who reads himself is told of no ICMP errors.
    mayRead: options.onIcmp === undefined,
    deliver,
  });
  transport = new UdpTransport(native ?? new BunSocket(socket), address.ip, sink, options);
  return transport;
}

async function bind(
  address: BindAddress,
  handlers: Bun.udp.SocketHandler<"buffer">,
): Promise<Bun.udp.Socket<"buffer">> {
  const { ip: hostname, port } = address;
  try {
    return await Bun.udpSocket({ hostname, port, binaryType: "buffer", socket: handlers });
  } catch (cause) {
    throw bindError("udp", address, cause);
  }
}

export class UdpTransport {
  readonly listener: Listener;
  readonly #socket: DatagramSocket;
  readonly #reports: Reports;
  readonly #maxQueuedBytes: number;
  readonly #onIcmp: UdpOptions["onIcmp"];
  readonly #queue: Packets = [];
  #queuedBytes = 0;
  /** Elements at the head of the queue whose octets are ours. */
  #owned = 0;
  /** Datagrams at the end of the queue that go to one receiver. */
  #run = 0;
  #blocked = false;
  #closed = false;
  #scheduled = false;
  #icmpErrors = 0;
  readonly #onImmediate = (): void => {
    this.#scheduled = false;
    this.flush();
  };

  constructor(socket: DatagramSocket, ip: string, sink: TransportSink, options: UdpOptions = {}) {
    this.listener = { transport: "udp", ip, port: socket.port };
    this.#socket = socket;
    this.#reports = new Reports(sink);
    this.#maxQueuedBytes = options.maxQueuedBytes ?? MAX_QUEUED_BYTES;
    this.#onIcmp = options.onIcmp;
  }

  /**
   * Takes a datagram, `octets[start, end)`, into the batch of this wake-up. The octets are the caller's until the batch is out
   * (node/io.ts); where the kernel takes no more, what waits is copied.
   */
  send(to: Endpoint, octets: Uint8Array, start = 0, end: number = octets.length): void {
    assert(to.transport === "udp", "a datagram goes to a udp endpoint");
    if (this.#closed) return;
    if (this.#queuedBytes + end - start > this.#maxQueuedBytes) {
      this.#unsent(to, new QueueFull(`${this.#queuedBytes} octets wait already and the kernel takes no more`));
      return;
    }
    const last = this.#queue.length - FIELDS;
    const isSame = last >= 0 && sameEndpoint(this.#queue[last + TO] as Endpoint, to);
    this.#run = isSame ? this.#run + 1 : 1;
    this.#queue.push(octets, start, end, to);
    this.#queuedBytes += end - start;
    // The kernel takes none at the moment, and nobody knows when it will.
    if (this.#blocked) this.#own(this.#owned, this.#queue.length);
    if (!this.#blocked && this.#isFull()) this.flush();
    else this.#schedule();
  }

  /** Hands to the kernel what waits. Does nothing if nothing waits; stops early if the kernel's buffer is full. */
  flush(): void {
    if (this.#closed || this.#queue.length === 0) return;
    this.#blocked = false;
    const end = this.#queue.length;
    let start = 0;
    while (start < end && !this.#blocked) {
      start += FIELDS * this.#sendBatch(start);
      // A short count hides why: send the one at the head alone, which answers yes, full, or with the error.
      if (start < end && this.#sendHead(start)) start += FIELDS;
    }
    this.#drop(start);
  }

  /** How many errors of dead peers the socket reported since it was opened. */
  icmpErrors(): number {
    return this.#icmpErrors;
  }

  /** Sends what waits and closes. Nothing is reported any more. */
  close(): void {
    if (this.#closed) return;
    this.flush();
    this.#closed = true;
    this.#reports.stop();
    this.#socket.close();
  }

  /**
   * Bun's error handler. Without one the process ends at the first ICMP error. An exception of our own code behind
   * `received` ends up here too, and that one must end the process.
   */
  failed(error: unknown): void {
    const isNetwork = typeof error === "object" && error !== null && "syscall" in error;
    if (!isNetwork) throw error;
    this.#icmpErrors++;
    this.#onIcmp?.(explain(error));
  }

  #isFull(): boolean {
    if (this.#run >= RUN_DATAGRAMS || this.#queuedBytes >= BATCH_BYTES) return true;
    return this.#queue.length >= BATCH_DATAGRAMS * FIELDS;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    // A microtask would be too early: it runs after each datagram that comes in, and batches one.
    setImmediate(this.#onImmediate);
  }

  /** @returns how many datagrams from `start` on the kernel took */
  #sendBatch(start: number): number {
    try {
      return this.#socket.sendMany(this.#queue, start);
    } catch {
      // Nothing went out, and the error may be another peer's: the head tells.
      return 0;
    }
  }

  /** @returns true if the datagram at `start` is done with, sent or reported; false if the kernel's buffer is full */
  #sendHead(start: number): boolean {
    const bytes = octetsAt(this.#queue, start);
    const to = this.#queue[start + TO] as Endpoint;
    let cause: unknown;
    for (let attempt = 0; attempt <= RETRIES; attempt++) {
      try {
        this.#blocked = !this.#socket.send(bytes, to.port, to.ip);
        return !this.#blocked;
      } catch (error) {
        cause = error;
      }
    }
    this.#unsent(to, sendFailure(bytes.length, cause));
    return true;
  }

  #drop(fields: number): void {
    const { length } = this.#queue;
    if (fields >= length) {
      this.#queue.length = 0;
      this.#queuedBytes = 0;
      this.#owned = 0;
      return;
    }
    for (let i = 0; i < fields; i += FIELDS) this.#queuedBytes -= sizeAt(this.#queue, i);
    // Bun's drain event, or the next send, tries again; an immediate would spin until the kernel has room.
    this.#queue.splice(0, fields);
    // A batch may have mixed ours with others; behind it everything is where it was.
    const left = length - fields;
    const mixed = Math.min(left, BATCH_DATAGRAMS * FIELDS);
    const owned = Math.max(mixed, this.#owned - fields);
    this.#own(0, mixed);
    this.#own(owned, left);
  }

  /** What the kernel does not take now outlives the caller's memory. */
  #own(from: number, to: number): void {
    for (let i = from; i < to; i += FIELDS) {
      const octets = new Uint8Array(octetsAt(this.#queue, i));
      this.#queue[i] = octets;
      this.#queue[i + START] = 0;
      this.#queue[i + END] = octets.length;
    }
    this.#owned = this.#queue.length;
  }

  #unsent(to: Endpoint, cause: Error): void {
    this.#reports.unsent(to, new TransportError("transport-send", "send to", endpointKey(to), cause));
  }
}

function sendFailure(length: number, cause: unknown): Error {
  if (errorCode(cause) !== "EMSGSIZE") return explain(cause);
  return new Error(`EMSGSIZE, ${length} octets are more than one datagram may carry; use tcp for this peer`, { cause });
}

/** Endpoints of those who send, each made once: an endpoint that an answer is kept for is then not one object for each answer. */
class Senders {
  readonly #known = new KnownAddresses<{ ip: string; port: number; endpoint: Endpoint }>();

  /** @param ip  as the kernel has it */
  endpoint(ip: string, port: number): Endpoint {
    const known = this.#known.find(ip, port);
    if (known !== undefined) return known.endpoint;
    const endpoint = new Correspondent(canonicalSource(ip), port);
    this.#known.keep({ ip, port, endpoint });
    return endpoint;
  }
}
