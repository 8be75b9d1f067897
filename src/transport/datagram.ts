/** The seam between the transport of datagrams and what hands them to the kernel. */
import { viewOf } from "../core/bytes.ts";
import type { Endpoint } from "../core/endpoint.ts";

/** Memory, start and end of the octets in it, and receiver of each datagram, flat: a queue of objects would be the collector's. */
export type Packets = (Uint8Array | number | Endpoint)[];

/** What a kernel does for this transport: Bun's way (`BunSocket`), Linux' way (`mmsg.ts`), and a stand-in's of the tests. */
export interface DatagramSocket {
  readonly port: number;
  /** True if the kernel took it, false if its buffer is full; throws for all else. */
  send(bytes: Uint8Array, port: number, ip: string): boolean;
  /**
   * Sends from index `from` on, as many as it likes up to `BATCH_DATAGRAMS`. It may change the order, though never of those to
   * one receiver: what the kernel took stands first at the end.
   *
   * @returns  how many the kernel took before it refused one; throws, or returns 0, if it was the first
   */
  sendMany(packets: Packets, from: number): number;
  close(): void;
}

/** More than this in one system call brings nothing (the kernel stops at 1,024), and bounds what a short count copies. */
export const BATCH_DATAGRAMS = 512;

/** Array elements of one datagram in `Packets`, and where in them they are. */
export const FIELDS = 4;
export const START = 1;
export const END = 2;
export const TO = 3;

/** Octets of the datagram at this index. */
export function sizeAt(packets: Packets, at: number): number {
  return (packets[at + END] as number) - (packets[at + START] as number);
}

/** A view of them. */
export function octetsAt(packets: Packets, at: number): Uint8Array {
  return viewOf({
    octets: packets[at] as Uint8Array,
    start: packets[at + START] as number,
    end: packets[at + END] as number,
  });
}

/** What is used of a `Bun.udp.Socket`. */
export type BunDatagrams = Pick<Bun.udp.Socket<"buffer">, "port" | "send" | "sendMany" | "close">;

/** Bun's own way, which all systems have. */
export class BunSocket implements DatagramSocket {
  readonly port: number;
  readonly #socket: BunDatagrams;

  constructor(socket: BunDatagrams) {
    this.port = socket.port;
    this.#socket = socket;
  }

  send(bytes: Uint8Array, port: number, ip: string): boolean {
    return this.#socket.send(bytes, port, ip);
  }

  sendMany(packets: Packets, from: number): number {
    const end = Math.min(packets.length, from + BATCH_DATAGRAMS * FIELDS);
    const flat: (Uint8Array | number | string)[] = [];
    for (let at = from; at < end; at += FIELDS) {
      const { ip, port } = packets[at + TO] as Endpoint;
      flat.push(octetsAt(packets, at), port, ip);
    }
    return this.#socket.sendMany(flat);
  }

  close(): void {
    this.#socket.close();
  }
}

/**
 * An endpoint that datagrams came from. What a transport needs to send there stays with it: found in a table, that of a thousand peers
 * is never in the cache.
 */
export class Correspondent implements Endpoint {
  readonly transport = "udp";
  readonly ip: string;
  readonly port: number;
  /** Out of sight: two endpoints are equal by their addresses alone. */
  #receiver: unknown;

  constructor(ip: string, port: number) {
    this.ip = ip;
    this.port = port;
  }

  get receiver(): unknown {
    return this.#receiver;
  }

  set receiver(receiver: unknown) {
    this.#receiver = receiver;
  }
}

/** A power of two. Of a full registry (1,000 peers) some seven find no place; of 4,096 slots it would be nearly a tenth. */
const SLOTS = 16_384;

/**
 * What is known of addresses, the latest of some thousands: found without making a key. An address has two slots, and the next one
 * of both takes the first.
 */
export class KnownAddresses<T extends { readonly ip: string; readonly port: number }> {
  readonly #slots = new Array<T | undefined>(SLOTS).fill(undefined);

  find(ip: string, port: number): T | undefined {
    const slot = slotOf(ip, port);
    const first = this.#slots[slot];
    if (first !== undefined && first.port === port && first.ip === ip) return first;
    const second = this.#slots[slot ^ 1];
    return second !== undefined && second.port === port && second.ip === ip ? second : undefined;
  }

  /** Keeps what `find` did not find. */
  keep(known: T): void {
    const slot = slotOf(known.ip, known.port);
    const isFree = this.#slots[slot] === undefined || this.#slots[slot ^ 1] !== undefined;
    this.#slots[isFree ? slot : slot ^ 1] = known;
  }
}

/** Neighbours differ in the end of their address: that and the port are enough. */
function slotOf(ip: string, port: number): number {
  const { length } = ip;
  let hash = port;
  for (let i = Math.max(0, length - 6); i < length; i++) hash = Math.imul(hash, 31) + ip.charCodeAt(i);
  // The upper bits of the product depend on all of them.
  return (Math.imul(hash, 0x9e37_79b1) >>> 16) & (SLOTS - 1);
}
