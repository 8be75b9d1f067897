/**
 * The memory into which `recvmmsg` writes many datagrams at once, and what is found in it.
 *
 * What one sender handed down in one piece (mmsg.ts), or a network card has put together, comes as one piece, with the size of the
 * datagrams in it, where the socket was asked for that (UDP_GRO, udp(7)): nearly all that a datagram costs the kernel is gone once for
 * all of them.
 */
import type { Endpoint } from "../core/endpoint.ts";
import { Correspondent } from "./datagram.ts";
import { canonicalSource } from "./transport.ts";

/** What is used of the C library here. */
export interface BatchLibrary {
  recvmmsg(fd: number, messages: number, count: number, flags: number, timeout: number): number;
  /** Where the octets are for the kernel. */
  address(octets: ArrayBuffer): number;
}

/**
 * Takes datagrams of `size` octets, one behind the other in `octets[start, end)`, the last of which may have fewer. What is kept of
 * them is copied: the memory is used again.
 */
export type Deliver = (from: Endpoint, octets: Uint8Array, start: number, end: number, size: number) => void;

/** Pieces that one call reads. */
export const BATCH_PIECES = 32;

/** The largest datagram fits; pages that none has reached cost nothing. */
const SLOT = 65_536;
/** From one slot to the next: slots a power of two apart would all have the same few places in the caches of the processor. */
const STRIDE = SLOT + 11 * 64;

// struct mmsghdr, iovec, sockaddr_in6 (rounded up) and a control message with one number of 32 bits on 64-bit Linux, in octets.
const HEADER = 64;
const IOVEC = 16;
const ADDRESS = 32;
const ADDRESS_LENGTH = 28;
const CONTROL = 24;
/** Words of struct mmsghdr: the address' length, the control messages' length, and how many octets came. */
const NAME_LENGTH_WORD = 2;
const CONTROL_LENGTH_WORD = 10;
const LENGTH_WORD = 14;
/** The number's word in a control message. */
const CUT_WORD = 4;

const AF_INET = 2;
const MSG_DONTWAIT = 0x40;
const SOL_UDP = 17;
export const UDP_GRO = 104;

export class Batch {
  readonly #library: BatchLibrary;
  readonly #senders: Senders;
  readonly #table = new Uint32Array((BATCH_PIECES * (HEADER + IOVEC + ADDRESS + CONTROL)) / 4);
  readonly #arena = new Uint8Array(BATCH_PIECES * STRIDE);
  readonly #tableAt: number;

  /** @param senders  may be shared with others */
  constructor(library: BatchLibrary, senders: Senders) {
    this.#library = library;
    this.#senders = senders;
    this.#tableAt = library.address(this.#table.buffer);
    const arenaAt = library.address(this.#arena.buffer as ArrayBuffer);
    for (let i = 0; i < BATCH_PIECES; i++) this.#prepare(i, arenaAt + i * STRIDE);
  }

  #prepare(i: number, slotAt: number): void {
    const header = (i * HEADER) / 4;
    const iovec = (BATCH_PIECES * HEADER + i * IOVEC) / 4;
    this.#pointer(header, this.#tableAt + addressOf(i));
    this.#pointer(header + 4, this.#tableAt + BATCH_PIECES * HEADER + i * IOVEC);
    this.#table[header + 6] = 1;
    this.#pointer(header + 8, this.#tableAt + controlOf(i));
    this.#makeReady(header);
    this.#pointer(iovec, slotAt);
    this.#table[iovec + 2] = SLOT;
  }

  /** Says how much room there is where the kernel writes how much it used. */
  #makeReady(header: number): void {
    this.#table[header + NAME_LENGTH_WORD] = ADDRESS_LENGTH;
    this.#table[header + CONTROL_LENGTH_WORD] = CONTROL;
  }

  #pointer(word: number, address: number): void {
    this.#table[word] = address >>> 0;
    this.#table[word + 1] = Math.floor(address / 2 ** 32);
  }

  /** Reads up to `BATCH_PIECES`, waiting for none. @returns how many, -1 where there are none */
  read(fd: number): number {
    return this.#library.recvmmsg(fd, this.#tableAt, BATCH_PIECES, MSG_DONTWAIT, 0);
  }

  /** @param pieces  what `read` returned; to be called once for each @returns how many datagrams were in them */
  deliver(pieces: number, deliver: Deliver): number {
    let datagrams = 0;
    for (let i = 0; i < pieces; i++) datagrams += this.#deliver(i, deliver);
    return datagrams;
  }

  #deliver(i: number, deliver: Deliver): number {
    const header = (i * HEADER) / 4;
    const start = i * STRIDE;
    const end = start + (this.#table[header + LENGTH_WORD] as number);
    const cut = this.#cut(i, header);
    this.#makeReady(header);
    const from = this.#senders.endpoint(this.#table, addressOf(i) / 4);
    deliver(from, this.#arena, start, end, cut === 0 ? end - start : cut);
    return cut === 0 ? 1 : Math.ceil((end - start) / cut);
  }

  /** Octets of each datagram of a piece but the last, which may have less; 0 for a datagram by itself. */
  #cut(i: number, header: number): number {
    if (this.#table[header + CONTROL_LENGTH_WORD] === 0) return 0;
    const control = controlOf(i) / 4;
    // Bun has asked for others (IP_PKTINFO), which come behind this one.
    const isCut = this.#table[control + 2] === SOL_UDP && this.#table[control + 3] === UDP_GRO;
    return isCut ? (this.#table[control + CUT_WORD] as number) : 0;
  }
}

function addressOf(i: number): number {
  return BATCH_PIECES * (HEADER + IOVEC) + i * ADDRESS;
}

function controlOf(i: number): number {
  return BATCH_PIECES * (HEADER + IOVEC + ADDRESS) + i * CONTROL;
}

/** A power of two. Of a full registry (1,000 peers) some seven find no place; of 4,096 slots it would be nearly a tenth. */
const SLOTS = 16_384;
const WORDS = 5;

/** Endpoints of those who send, by their socket address, each in one of two slots: no text is made for who is known. */
export class Senders {
  readonly #endpoints = new Array<Endpoint | undefined>(SLOTS).fill(undefined);
  /** Port and family, then the IP address, of each slot. */
  readonly #words = new Uint32Array(SLOTS * WORDS);

  /** @param at  word of struct sockaddr_in or sockaddr_in6 in the table */
  endpoint(table: Uint32Array, at: number): Endpoint {
    const head = table[at] as number;
    const isIpv4 = (head & 0xffff) === AF_INET;
    const a = table[at + (isIpv4 ? 1 : 2)] as number;
    const b = isIpv4 ? 0 : (table[at + 3] as number);
    const c = isIpv4 ? 0 : (table[at + 4] as number);
    const d = isIpv4 ? 0 : (table[at + 5] as number);
    const mixed = Math.imul(head ^ a ^ Math.imul(b, 31) ^ Math.imul(c, 131) ^ d, 0x9e37_79b1);
    const slot = mixed >>> 18;
    if (this.#holds(slot, head, a, b, c, d)) return this.#endpoints[slot] as Endpoint;
    if (this.#holds(slot ^ 1, head, a, b, c, d)) return this.#endpoints[slot ^ 1] as Endpoint;
    const endpoint = endpointIn(table, at, isIpv4);
    const free = this.#endpoints[slot] !== undefined && this.#endpoints[slot ^ 1] === undefined ? slot ^ 1 : slot;
    this.#endpoints[free] = endpoint;
    this.#words.set([head, a, b, c, d], free * WORDS);
    return endpoint;
  }

  #holds(slot: number, head: number, a: number, b: number, c: number, d: number): boolean {
    const words = this.#words;
    const at = slot * WORDS;
    return (
      words[at] === head && words[at + 1] === a && words[at + 2] === b && words[at + 3] === c && words[at + 4] === d
    );
  }
}

function endpointIn(table: Uint32Array, at: number, isIpv4: boolean): Endpoint {
  const view = new DataView(table.buffer, at * 4, ADDRESS);
  const port = view.getUint16(2);
  if (isIpv4) return new Correspondent([4, 5, 6, 7].map((i) => view.getUint8(i)).join("."), port);
  const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(8 + 2 * i).toString(16));
  return new Correspondent(canonicalSource(groups.join(":")), port);
}
