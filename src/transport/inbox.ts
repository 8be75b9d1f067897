/**
 * Linux' own way to read many datagrams: `recvmmsg` of the C library on a UDP socket that Bun has opened and waits for. Bun reads
 * eight at a time, and makes for each an object, a text of its address and a call (docs/decisions/0015-doorbell.md).
 *
 * Bun has no word for "readable": when something comes, it reads. So its descriptor is given another file, a socket that is connected
 * to itself, the bell, with one octet in it: what Bun reads when something comes for the real socket is that octet, and its callback is
 * the wake-up. Then the bell is wound up again. The kernel knows what is waited for by file and not by number (epoll(7)), so the
 * waiting stays with the real socket, which has a descriptor of its own now. Before Bun sends or closes it gets its file back.
 */
import { assert } from "../core/assert.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { canonicalSource } from "./transport.ts";

/** What is used of the C library here. */
export interface ReadLibrary {
  recvmmsg(fd: number, messages: number, count: number, flags: number, timeout: number): number;
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: number, length: number): number;
  connect(fd: number, address: number, length: number): number;
  getsockname(fd: number, address: number, length: number): number;
  setsockopt(fd: number, level: number, option: number, value: number, length: number): number;
  send(fd: number, octets: number, length: number, flags: number): number;
  fcntl(fd: number, command: number, argument: number): number;
  dup3(from: number, to: number, flags: number): number;
  close(fd: number): number;
  /** Where the octets are for the kernel. */
  address(octets: ArrayBuffer): number;
}

/** Takes the datagrams; the octets are its own. */
export type Deliver = (from: Endpoint, bytes: Uint8Array) => void;

/** Datagrams that one call reads, and calls that one wake-up makes: other sockets and timers want their turn. */
const BATCH = 32;
const CALLS_MAX = 8;

/** The largest datagram fits; pages that none has reached cost nothing. */
const SLOT = 65_536;
/** From one slot to the next: slots a power of two apart would all have the same few places in the caches of the processor. */
const STRIDE = SLOT + 11 * 64;

// struct mmsghdr, iovec and sockaddr_in6 (rounded up) on 64-bit Linux, in octets.
const HEADER = 64;
const IOVEC = 16;
const ADDRESS = 32;
const ADDRESS_LENGTH = 28;
/** Words of struct mmsghdr: the address' length, what became of the message, and how many octets it has. */
const NAME_LENGTH_WORD = 2;
const LENGTH_WORD = 14;

const AF_INET = 2;
/** SOCK_DGRAM, SOCK_NONBLOCK and SOCK_CLOEXEC. */
const BELL_TYPE = 0x8_0802;
const O_CLOEXEC = 0x8_0000;
const F_DUPFD_CLOEXEC = 1_030;
const MSG_DONTWAIT = 0x40;
const IPPROTO_IP = 0;
const IP_RECVERR = 11;
const IPPROTO_IPV6 = 41;
const IPV6_RECVERR = 25;

export class Inbox {
  readonly #library: ReadLibrary;
  /** The number that Bun knows. */
  readonly #bunFd: number;
  /** The real socket; -1 while Bun has it under its own number. */
  #fd = -1;
  readonly #table = new Uint32Array((BATCH * (HEADER + IOVEC + ADDRESS)) / 4);
  readonly #arena = new Uint8Array(BATCH * STRIDE);
  readonly #tableAt: number;
  readonly #senders = new Senders();
  readonly #isIpv6: boolean;

  constructor(library: ReadLibrary, bunFd: number, isIpv6: boolean) {
    this.#library = library;
    this.#bunFd = bunFd;
    this.#isIpv6 = isIpv6;
    this.#tableAt = library.address(this.#table.buffer);
    const arenaAt = library.address(this.#arena.buffer as ArrayBuffer);
    for (let i = 0; i < BATCH; i++) this.#prepare(i, arenaAt + i * STRIDE);
  }

  #prepare(i: number, slotAt: number): void {
    const header = (i * HEADER) / 4;
    const iovec = (BATCH * HEADER + i * IOVEC) / 4;
    this.#pointer(header, this.#tableAt + BATCH * (HEADER + IOVEC) + i * ADDRESS);
    this.#table[header + NAME_LENGTH_WORD] = ADDRESS_LENGTH;
    this.#pointer(header + 4, this.#tableAt + BATCH * HEADER + i * IOVEC);
    this.#table[header + 6] = 1;
    this.#pointer(iovec, slotAt);
    this.#table[iovec + 2] = SLOT;
  }

  #pointer(word: number, address: number): void {
    this.#table[word] = address >>> 0;
    this.#table[word + 1] = Math.floor(address / 2 ** 32);
  }

  /** Where the real socket is now. */
  get fd(): number {
    return this.#fd === -1 ? this.#bunFd : this.#fd;
  }

  /** True while Bun's callback is the bell and no datagram. */
  get isBorrowed(): boolean {
    return this.#fd !== -1;
  }

  /** Puts the bell under Bun's number. Never from within a callback of Bun's. @returns false where that cannot be had */
  borrow(): boolean {
    assert(this.#fd === -1, "the socket is borrowed once");
    const bell = this.#makeBell();
    if (bell === -1) return false;
    const { fcntl, dup3, close } = this.#library;
    const fd = fcntl(this.#bunFd, F_DUPFD_CLOEXEC, 3);
    const isPlaced = fd !== -1 && dup3(bell, this.#bunFd, O_CLOEXEC) !== -1;
    close(bell);
    if (!isPlaced) {
      if (fd !== -1) close(fd);
      return false;
    }
    this.#fd = fd;
    this.#ignoreErrors();
    return this.wind();
  }

  /** A socket that is connected to itself; -1 where there is none to be had. */
  #makeBell(): number {
    const { socket, bind, getsockname, connect, close } = this.#library;
    const bell = socket(AF_INET, BELL_TYPE, 0);
    if (bell === -1) return -1;
    const address = new Uint32Array([AF_INET, 0x0100_007f, 0, 0, 16]);
    const at = this.#library.address(address.buffer);
    const isMade = bind(bell, at, 16) === 0 && getsockname(bell, at, at + 16) === 0 && connect(bell, at, 16) === 0;
    if (isMade) return bell;
    close(bell);
    return -1;
  }

  /**
   * Bun has asked for the ICMP errors of all peers. They are no datagrams, name nobody that Bun would tell, and as long as one is not
   * taken off the socket it is reported again and again.
   */
  #ignoreErrors(): void {
    const off = this.#library.address(new Uint32Array([0]).buffer);
    this.#library.setsockopt(this.#fd, IPPROTO_IP, IP_RECVERR, off, 4);
    if (this.#isIpv6) this.#library.setsockopt(this.#fd, IPPROTO_IPV6, IPV6_RECVERR, off, 4);
  }

  /** Puts the octet into the bell that the next wake-up takes out. @returns false where it cannot: then Bun has its socket again */
  wind(): boolean {
    if (this.#library.send(this.#bunFd, this.#tableAt, 1, MSG_DONTWAIT) === 1) return true;
    this.giveBack();
    return false;
  }

  /** Bun has its socket again, and reads itself. */
  giveBack(): void {
    if (this.#fd === -1) return;
    this.#library.dup3(this.#fd, this.#bunFd, O_CLOEXEC);
    this.#library.close(this.#fd);
    this.#fd = -1;
  }

  /** Reads what there is, as far as one wake-up may. @returns false where there was nothing */
  read(deliver: Deliver): boolean {
    let isFirst = true;
    for (let call = 0; call < CALLS_MAX && this.#fd !== -1; call++) {
      const count = this.#library.recvmmsg(this.#fd, this.#tableAt, BATCH, MSG_DONTWAIT, 0);
      for (let i = 0; i < count; i++) this.#deliver(i, deliver);
      if (count < BATCH) return count > 0 || !isFirst;
      isFirst = false;
    }
    return true;
  }

  #deliver(i: number, deliver: Deliver): void {
    const header = (i * HEADER) / 4;
    this.#table[header + NAME_LENGTH_WORD] = ADDRESS_LENGTH;
    const length = this.#table[header + LENGTH_WORD] as number;
    const start = i * STRIDE;
    const from = this.#senders.endpoint(this.#table, (BATCH * (HEADER + IOVEC) + i * ADDRESS) / 4);
    deliver(from, this.#arena.slice(start, start + length));
  }
}

/** A power of two: a full registry (1,000 peers) has room. */
const SLOTS = 4_096;
const WORDS = 5;

/** Endpoints of those who send, by their socket address, each in one of two slots: no text is made for who is known. */
class Senders {
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
    const slot = (mixed >>> 20) & (SLOTS - 1);
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
  if (isIpv4) return { transport: "udp", ip: [4, 5, 6, 7].map((i) => view.getUint8(i)).join("."), port };
  const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(8 + 2 * i).toString(16));
  return { transport: "udp", ip: canonicalSource(groups.join(":")), port };
}
