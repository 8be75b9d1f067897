/**
 * What a stream transport knows of one connection: where it leads, in what state it is, and the octets that wait for the
 * kernel. It reports nothing and decides nothing.
 */
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
