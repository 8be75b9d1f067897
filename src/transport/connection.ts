/**
 * What a stream transport knows of one connection: where it leads, in what state it is, and the octets that wait for the
 * kernel. It reports nothing and decides nothing.
 */
import { concatBytes } from "../core/bytes.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { TlsMaterial } from "./tls.ts";

/**
 * - `connecting`: octets wait in the queue
 * - `handshaking`: the same, for TLS: nothing goes out before the other side is known to be who it should be
 * - `open`: octets go out, or wait where the peer reads slowly
 * - `half-open`: the peer sends no more; answers still go out
 * - `lingering`: our FIN is out, the peer's is awaited; nothing goes out, what comes in is dropped
 * - `closed`: reported, or about to be
 */
export type State = "connecting" | "handshaking" | "open" | "half-open" | "lingering" | "closed";

/** Octets that wait on all connections together. */
export interface Backlog {
  bytes: number;
}

/** So many octets are written at once, if there are as many. */
const WRITE_BYTES = 64 * 1024;

/** One connection, in either direction. stream.ts decides; this keeps the state and the queue. */
export class Connection {
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
  /** TLS: what the handshake was begun with; a reload does not change it. */
  material: TlsMaterial | undefined;
  /** TLS: octets came in, of whatever kind; who connects and leaves without any was no client. */
  touched = false;
  /** TLS: the alert that came in clear text during the handshake. */
  alert: number | undefined;
  /** TLS: why the session broke; the close event follows. */
  broken: Error | undefined;
  /** When octets could first be sent; `undefined` before. */
  openedAt: number | undefined;
  /** When octets last moved in either direction, or the state last changed; deadlines count from here. */
  activeAt: number;
  queuedBytes = 0;
  /** Of those, octets whose memory is not ours: they go out at the end of the wake-up, or are copied then. */
  borrowedBytes = 0;
  #queue: Uint8Array[] = [];
  #head = 0;
  readonly #backlog: Backlog;

  constructor(flow: number, remote: Endpoint, inbound: boolean, now: number, backlog: Backlog = { bytes: 0 }) {
    this.#backlog = backlog;
    this.flow = flow;
    this.remote = remote;
    this.inbound = inbound;
    this.activeAt = now;
  }

  /** Adds octets that nobody else will write to. */
  enqueue(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#queue.push(bytes);
    this.#count(bytes.length);
  }

  /** Drops what waits: nobody will read it. `queuedBytes` still says how much it was. */
  abandon(): void {
    this.#backlog.bytes -= this.queuedBytes;
    this.#queue = [];
    this.#head = 0;
  }

  #count(bytes: number): void {
    this.queuedBytes += bytes;
    this.#backlog.bytes += bytes;
  }

  /** Adds octets that stay as they are until `settle`. Nothing may wait before them. */
  borrow(bytes: Uint8Array): void {
    this.enqueue(bytes);
    this.borrowedBytes += bytes.length;
  }

  /** Writes what is borrowed, and copies what the kernel did not take. */
  settle(): boolean {
    if (this.borrowedBytes === 0) return false;
    const moved = this.drain();
    for (let i = this.#head; i < this.#queue.length; i++) this.#queue[i] = new Uint8Array(this.#queue[i] as Uint8Array);
    this.borrowedBytes = 0;
    return moved;
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
      const bytes = this.#join();
      const written = this.write(bytes);
      this.#count(-written);
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

  /** The octets at the head in one piece: a system call, or a TLS record, for each small answer would cost more than it. */
  #join(): Uint8Array {
    let end = this.#head;
    let length = 0;
    while (end < this.#queue.length && (end === this.#head || length < WRITE_BYTES)) {
      length += (this.#queue[end] as Uint8Array).length;
      end++;
    }
    if (end > this.#head + 1) {
      const joined = concatBytes(this.#queue.slice(this.#head, end));
      this.#head = end - 1;
      this.#queue[this.#head] = joined;
    }
    return this.#queue[this.#head] as Uint8Array;
  }
}
