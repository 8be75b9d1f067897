/**
 * Linux' own way to send many datagrams: `sendmmsg` of the C library on the descriptor of Bun's socket, through `bun:ffi`. Bun's
 * `sendMany` ends in the same call, but reads an address from its text for each datagram and cannot ask the kernel to cut.
 *
 * What goes to one receiver is put together, and a run of datagrams of one size becomes one piece that the kernel cuts again
 * (UDP_SEGMENT, udp(7)): on the wire they are what they were, and the way through the kernel, nearly all that a datagram costs,
 * is gone once for all of them. Where a path refuses that (no checksums in hardware, an MTU below the size), its datagrams go one by
 * one, and after a while it is tried again.
 *
 * The kernel sees no memory but one table and one arena, which live as long as the socket: octets are copied into the arena.
 * See docs/decisions/0012-mmsg.md.
 */
import { assert } from "../core/assert.ts";
import { copyBytes } from "../core/bytes.ts";
import { type Endpoint, ipGroups } from "../core/endpoint.ts";
import {
  BATCH_DATAGRAMS,
  type BunDatagrams,
  BunSocket,
  Correspondent,
  END,
  FIELDS,
  KnownAddresses,
  type Packets,
  START,
  sizeAt,
  TO,
} from "./datagram.ts";

/** Room for the octets of one call; what does not fit waits for the next. */
const ARENA_BYTES = 256 * 1024;

/** What may wait unread in the kernel; it counts several times the octets of a small datagram. */
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;

/** UDP_MAX_SEGMENTS of Linux before 6.9, and what fits an IPv4 datagram of which the kernel makes them. */
const MAX_CUTS = 64;
const MAX_CUT_BYTES = 65_507;

/** A receiver whose path refuses pieces is tried again after twice as many batches each time, up to so many. */
const MAX_PAUSE = 65_536;

// The structures of <sys/socket.h> on 64-bit Linux, in octets: struct mmsghdr, iovec, sockaddr_in6 (rounded up), and a control
// message with one 16-bit number.
const HEADER = 64;
const IOVEC = 16;
const ADDRESS = 32;
const CONTROL = 24;
const CONTROL_LENGTH = 18;

const AF_INET = 2;
const AF_INET6 = 10;
const SOL_UDP = 17;
const UDP_SEGMENT = 103;
const SOL_SOCKET = 1;
const SO_RCVBUF = 8;
const SO_RCVBUFFORCE = 33;
/** MSG_DONTWAIT and MSG_NOSIGNAL. */
const FLAGS = 0x4040;

/** What is used of the C library here, so that a test can stand in for a kernel. */
export interface SendLibrary {
  sendmmsg(fd: number, messages: number, count: number, flags: number): number;
  getsockopt(fd: number, level: number, option: number, value: number, length: number): number;
  setsockopt(fd: number, level: number, option: number, value: number, length: number): number;
  /** Where the octets are for the kernel. */
  address(octets: ArrayBuffer): number;
}

/** Where datagrams go, and what of the batch that is being put together goes there. */
interface Receiver {
  readonly ip: string;
  readonly port: number;
  /** Whose it is. */
  readonly socket: MmsgSocket;
  /** Its socket address, as words of the table: port and family, an IPv4 address, and what IPv6 has behind that. */
  readonly head: number;
  readonly body: number;
  readonly rest: readonly number[];
  /** The batch that the rest is about. */
  batch: number;
  first: number;
  last: number;
  /** Batches until pieces are tried again, and how many it was the last time. */
  pause: number;
  refused: number;
}

/** A UDP socket of Bun's that sends many datagrams in one call. */
export class MmsgSocket extends BunSocket {
  readonly #library: SendLibrary;
  readonly #at: { readonly fd: number };
  readonly #isIpv6: boolean;
  readonly #table = new Uint32Array((BATCH_DATAGRAMS * (HEADER + IOVEC + ADDRESS + CONTROL)) / 4);
  readonly #arena = new Uint8Array(ARENA_BYTES);
  readonly #tableAt: number;
  readonly #arenaAt: number;
  readonly #cuts: boolean;
  readonly #receivers = new KnownAddresses<Receiver>();
  /** Number of the batch that is being put together. */
  #batch = 0;
  #groups: Receiver[] = [];
  /** The next datagram of the batch to the same receiver, or -1. */
  readonly #next = new Int32Array(BATCH_DATAGRAMS);
  /** Datagrams in the order in which they stand in the table, and for each message in it whose it is and how many it has. */
  readonly #order = new Int32Array(BATCH_DATAGRAMS);
  readonly #counts = new Int32Array(BATCH_DATAGRAMS);
  readonly #owners = new Array<Receiver | undefined>(BATCH_DATAGRAMS).fill(undefined);
  #messages = 0;
  #placed = 0;
  #used = 0;

  /**
   * @param at       where the socket is now
   * @param isIpv6   the socket is one of IPv6, and sends to IPv4 by mapped addresses
   * @param mayCut   runs of one size may go down in one piece
   */
  constructor(socket: BunDatagrams, library: SendLibrary, at: { readonly fd: number }, isIpv6: boolean, mayCut = true) {
    super(socket);
    this.#library = library;
    this.#at = at;
    this.#isIpv6 = isIpv6;
    this.#tableAt = library.address(this.#table.buffer);
    this.#arenaAt = library.address(this.#arena.buffer);
    for (let i = 0; i < BATCH_DATAGRAMS; i++) this.#prepare(i);
    this.#cuts = mayCut && this.#knowsCuts();
  }

  /** Fills in what is the same for whatever the i-th message will be. */
  #prepare(i: number): void {
    const header = (i * HEADER) / 4;
    this.#pointer(header, this.#tableAt + addressOf(i));
    this.#table[header + 2] = this.#isIpv6 ? 28 : 16;
    this.#pointer(header + 4, this.#tableAt + iovecOf(i));
    this.#table[header + 6] = 1;
    this.#pointer(header + 8, this.#tableAt + controlOf(i));
    const control = controlOf(i) / 4;
    this.#table[control] = CONTROL_LENGTH;
    this.#table[control + 2] = SOL_UDP;
    this.#table[control + 3] = UDP_SEGMENT;
  }

  /** A kernel that does not know the option would send the whole piece as one datagram. */
  #knowsCuts(): boolean {
    return this.#option(SOL_UDP, UDP_SEGMENT) !== undefined;
  }

  #option(level: number, name: number): number | undefined {
    const value = new Uint32Array([0, 4]);
    const at = this.#library.address(value.buffer);
    return this.#library.getsockopt(this.#at.fd, level, name, at, at + 4) === 0 ? value[0] : undefined;
  }

  /** False where a sandbox forbids the call. */
  works(): boolean {
    return this.#library.sendmmsg(this.#at.fd, this.#tableAt, 0, FLAGS) === 0;
  }

  /**
   * Lets more datagrams wait for us: the 212,992 octets that a socket has by default hold 166 answers, and two peers answer more than
   * that while we write the next messages. What the kernel dropped would come again half a second later. Linux gives as much as
   * `net.core.rmem_max` allows, at least twice the default; all of it to who may set up networks (CAP_NET_ADMIN). Where the default is
   * more, it stays.
   */
  widen(): void {
    if ((this.#option(SOL_SOCKET, SO_RCVBUF) ?? 0) >= 2 * RECEIVE_BUFFER_BYTES) return;
    const value = new Uint32Array([RECEIVE_BUFFER_BYTES]);
    for (const option of [SO_RCVBUFFORCE, SO_RCVBUF])
      if (this.#library.setsockopt(this.#at.fd, SOL_SOCKET, option, this.#library.address(value.buffer), 4) === 0)
        return;
  }

  override sendMany(packets: Packets, from: number): number {
    this.#group(packets, from);
    this.#fill(packets, from);
    if (this.#messages === 0) return 0;
    const sent = this.#library.sendmmsg(this.#at.fd, this.#tableAt, this.#messages, FLAGS);
    let taken = 0;
    for (let i = 0; i < sent; i++) taken += this.#counts[i] as number;
    if (sent === this.#messages) this.#allow();
    else this.#refuse(Math.max(0, sent));
    this.#reorder(packets, from, taken);
    return taken;
  }

  // --- putting a batch together --------------------------------------------------------------------------------------

  #group(packets: Packets, from: number): void {
    const batch = ++this.#batch;
    this.#groups.length = 0;
    const end = Math.min(BATCH_DATAGRAMS, (packets.length - from) / FIELDS);
    for (let i = 0, at = from; i < end; i++, at += FIELDS) {
      const receiver = this.#receiver(packets[at + TO] as Endpoint);
      // Bun's way knows what to do with an address that we do not understand, or says why not.
      if (receiver === undefined) return;
      this.#next[i] = -1;
      if (receiver.batch === batch) {
        this.#next[receiver.last] = i;
      } else {
        receiver.batch = batch;
        receiver.first = i;
        this.#groups.push(receiver);
      }
      receiver.last = i;
    }
  }

  #receiver(to: Endpoint): Receiver | undefined {
    if (!(to instanceof Correspondent)) return this.#receiverAt(to);
    const known = to.receiver as Receiver | undefined;
    // Another socket of ours may have sent there.
    if (known?.socket === this) return known;
    const receiver = this.#receiverAt(to);
    to.receiver = receiver;
    return receiver;
  }

  #receiverAt({ ip, port }: Endpoint): Receiver | undefined {
    const known = this.#receivers.find(ip, port);
    if (known !== undefined) return known;
    const address = socketAddress(ip, port, this.#isIpv6);
    if (address === undefined) return undefined;
    const [head = 0, body = 0, ...rest] = address;
    const receiver = { ip, port, socket: this, head, body, rest, batch: 0, first: 0, last: 0, pause: 0, refused: 0 };
    this.#receivers.keep(receiver);
    return receiver;
  }

  #fill(packets: Packets, from: number): void {
    this.#messages = 0;
    this.#placed = 0;
    this.#used = 0;
    for (const receiver of this.#groups) {
      const mayCut = this.#cuts && receiver.pause === 0;
      if (receiver.pause > 0) receiver.pause--;
      for (let i = receiver.first; i !== -1; ) {
        const next = this.#message(receiver, packets, from, i, mayCut);
        if (next === i) return;
        i = next;
      }
    }
  }

  /**
   * Makes one message of the datagrams from the i-th on: of all that have its size and one shorter one, or of it alone.
   *
   * @returns the first that is not in it any more, or -1; `i` if the arena is full
   */
  #message(receiver: Receiver, packets: Packets, from: number, i: number, mayCut: boolean): number {
    const first = this.#used;
    const size = sizeAt(packets, from + i * FIELDS);
    const most = mayCut && size > 0 ? MAX_CUTS : 1;
    let count = 0;
    let last = size;
    let at = i;
    while (at !== -1 && count < most && last === size) {
      const packet = from + at * FIELDS;
      last = sizeAt(packets, packet);
      if (count > 0 && (last > size || last === 0 || this.#used - first + last > MAX_CUT_BYTES)) break;
      if (this.#used + last > ARENA_BYTES) break;
      const start = packets[packet + START] as number;
      copyBytes(packets[packet] as Uint8Array, start, packets[packet + END] as number, this.#arena, this.#used);
      this.#used += last;
      this.#order[this.#placed++] = at;
      count++;
      at = this.#next[at] as number;
    }
    if (count > 0) this.#write(receiver, first, this.#used - first, count > 1 ? size : 0, count);
    return at;
  }

  #write(receiver: Receiver, start: number, length: number, cut: number, count: number): void {
    const i = this.#messages++;
    this.#owners[i] = receiver;
    this.#counts[i] = count;
    const address = addressOf(i) / 4;
    this.#table[address] = receiver.head;
    this.#table[address + 1] = receiver.body;
    if (this.#isIpv6) this.#table.set(receiver.rest, address + 2);
    const iovec = iovecOf(i) / 4;
    this.#pointer(iovec, this.#arenaAt + start);
    this.#table[iovec + 2] = length;
    this.#table[(i * HEADER) / 4 + 10] = cut > 0 ? CONTROL : 0;
    this.#table[controlOf(i) / 4 + 4] = cut;
  }

  #pointer(word: number, address: number): void {
    this.#table[word] = address >>> 0;
    this.#table[word + 1] = Math.floor(address / 2 ** 32);
  }

  // --- after the call --------------------------------------------------------------------------------------------------

  #allow(): void {
    for (let i = 0; i < this.#messages; i++)
      if ((this.#counts[i] as number) > 1) (this.#owners[i] as Receiver).refused = 0;
  }

  /**
   * Why the kernel stopped at this message is not known: a full buffer, an error of its own or the ICMP error of another one
   * (udp.ts finds out), or a path where nothing is cut. Doing without for a batch tells the last from the others.
   */
  #refuse(message: number): void {
    if ((this.#counts[message] as number) === 1) return;
    const receiver = this.#owners[message] as Receiver;
    receiver.refused = Math.min(MAX_PAUSE, 2 * receiver.refused + 1);
    receiver.pause = receiver.refused;
  }

  /** Puts what was taken first, and behind it the rest as it was. */
  #reorder(packets: Packets, from: number, taken: number): void {
    const count = Math.min(BATCH_DATAGRAMS, (packets.length - from) / FIELDS);
    if (taken === 0 || taken === count) return;
    const before = packets.slice(from, from + count * FIELDS);
    const isTaken = new Uint8Array(count);
    for (let i = 0; i < taken; i++) isTaken[this.#order[i] as number] = 1;
    let front = from;
    let back = from + taken * FIELDS;
    for (let i = 0; i < count; i++) {
      const to = isTaken[i] === 1 ? front : back;
      for (let field = 0; field < FIELDS; field++) packets[to + field] = before[i * FIELDS + field] as Packets[number];
      if (isTaken[i] === 1) front += FIELDS;
      else back += FIELDS;
    }
    assert(front === from + taken * FIELDS, "what was taken stands in front");
  }
}

function iovecOf(i: number): number {
  return BATCH_DATAGRAMS * HEADER + i * IOVEC;
}

function addressOf(i: number): number {
  return BATCH_DATAGRAMS * (HEADER + IOVEC) + i * ADDRESS;
}

function controlOf(i: number): number {
  return BATCH_DATAGRAMS * (HEADER + IOVEC + ADDRESS) + i * CONTROL;
}

/** @returns struct sockaddr_in or sockaddr_in6 in words; `undefined` for an address with a scope */
function socketAddress(ip: string, port: number, isIpv6: boolean): Uint32Array | undefined {
  const groups = ipGroups(ip);
  if (groups === undefined) return undefined;
  const isIpv4 = !ip.includes(":");
  const octets = new Uint8Array(ADDRESS);
  const view = new DataView(octets.buffer);
  view.setUint16(2, port);
  if (isIpv6 || !isIpv4) {
    // On a socket of IPv4 the kernel refuses the family, and the one datagram is reported.
    view.setUint16(0, AF_INET6, true);
    for (const [i, group] of groups.entries()) view.setUint16(8 + 2 * i, group);
  } else {
    view.setUint16(0, AF_INET, true);
    view.setUint16(4, groups[6] as number);
    view.setUint16(6, groups[7] as number);
  }
  return new Uint32Array(octets.buffer);
}
