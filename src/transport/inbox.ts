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
import { copyOf } from "../core/bytes.ts";
import { BATCH_PIECES, Batch, type BatchLibrary, type Deliver, Senders, UDP_GRO } from "./batch.ts";

/** What is used of the C library here. */
export interface ReadLibrary extends BatchLibrary {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: number, length: number): number;
  connect(fd: number, address: number, length: number): number;
  getsockname(fd: number, address: number, length: number): number;
  setsockopt(fd: number, level: number, option: number, value: number, length: number): number;
  send(fd: number, octets: number, length: number, flags: number): number;
  fcntl(fd: number, command: number, argument: number): number;
  dup3(from: number, to: number, flags: number): number;
  close(fd: number): number;
}

/** Datagrams after which a wake-up reads no more: other sockets and timers want their turn. */
const WAKE_UP_DATAGRAMS = 256;

/** Calls that read what has come in pieces when the socket goes back: as many as a receive buffer of 4 MiB can fill. */
const LAST_CALLS = 128;

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
const SOL_UDP = 17;

export interface InboxOptions {
  /** The socket is one of IPv6. */
  readonly isIpv6: boolean;
  /** Datagrams may come in pieces. */
  readonly mayJoin: boolean;
  readonly deliver: Deliver;
}

export class Inbox {
  readonly #library: ReadLibrary;
  /** The number that Bun knows. */
  readonly #bunFd: number;
  /** The real socket; -1 while Bun has it under its own number. */
  #fd = -1;
  readonly #senders = new Senders();
  readonly #batch: Batch;
  readonly #options: InboxOptions;
  /** The octet that rings. */
  readonly #clapper = new Uint8Array(1);
  readonly #clapperAt: number;
  /** What was read when the socket went back to Bun. */
  #left: Parameters<Deliver>[] = [];

  constructor(library: ReadLibrary, bunFd: number, options: InboxOptions) {
    this.#library = library;
    this.#bunFd = bunFd;
    this.#options = options;
    this.#batch = new Batch(library, this.#senders);
    this.#clapperAt = library.address(this.#clapper.buffer);
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
    if (this.#options.mayJoin) this.#join(1);
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
    if (this.#options.isIpv6) this.#library.setsockopt(this.#fd, IPPROTO_IPV6, IPV6_RECVERR, off, 4);
  }

  /** Puts the octet into the bell that the next wake-up takes out. @returns false where it cannot: then Bun has its socket again */
  wind(): boolean {
    if (this.#library.send(this.#bunFd, this.#clapperAt, 1, MSG_DONTWAIT) === 1) return true;
    this.giveBack();
    return false;
  }

  /** 1 has datagrams come in pieces, 0 one by one. A kernel that does not know it (before 5.0) says no, and nothing changes. */
  #join(value: 0 | 1): void {
    const at = this.#library.address(new Uint32Array([value]).buffer);
    this.#library.setsockopt(this.#fd, SOL_UDP, UDP_GRO, at, 4);
  }

  /** Bun has its socket again, and reads itself. What has come until now waits for `deliverLeft`. */
  giveBack(): void {
    if (this.#fd === -1) return;
    if (this.#options.mayJoin) this.#keepPieces();
    this.#library.dup3(this.#fd, this.#bunFd, O_CLOEXEC);
    this.#library.close(this.#fd);
    this.#fd = -1;
  }

  /** Bun would take a piece for one datagram. */
  #keepPieces(): void {
    // Not into the memory that somebody who reads may be in the middle of.
    const batch = new Batch(this.#library, this.#senders);
    const keep: Deliver = (from, octets, start, end, size) =>
      void this.#left.push([from, copyOf(octets, start, end), 0, end - start, size]);
    let pieces = BATCH_PIECES;
    for (let call = 0; call < LAST_CALLS && pieces === BATCH_PIECES; call++) {
      pieces = batch.read(this.#fd);
      batch.deliver(pieces, keep);
    }
    this.#join(0);
  }

  /** To be called soon after `giveBack`, where datagrams may be dealt with. */
  deliverLeft(): void {
    const left = this.#left;
    if (left.length === 0) return;
    this.#left = [];
    for (const run of left) this.#options.deliver(...run);
  }

  /** Reads what there is, as far as one wake-up may. @returns false where there was nothing */
  read(): boolean {
    let pieces = BATCH_PIECES;
    let datagrams = 0;
    while (pieces === BATCH_PIECES && datagrams < WAKE_UP_DATAGRAMS && this.#fd !== -1) {
      pieces = this.#batch.read(this.#fd);
      datagrams += this.#batch.deliver(pieces, this.#options.deliver);
    }
    return datagrams > 0;
  }
}
