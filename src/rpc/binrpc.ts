/**
 * Octets ⇄ values of Kamailio's binary RPC, which is what `kamcmd` speaks (dmq.md section 14). Two steps each way: a packet
 * is kind, cookie and body; a body is a row of values. `PacketReader` cuts a stream into packets, so that a body that makes
 * no sense can be answered with a fault, while a stream that makes none has to end.
 *
 * Pure. Whatever comes in gives a value or a `BinrpcError`, and no more than one packet is kept.
 */
import { concatBytes, encodeUtf8 } from "../core/bytes.ts";

/**
 * What a record holds. Both kinds of number have 32 bits, and one with a fraction travels as thousandths; a number that
 * does not fit is written as text.
 */
export type BinrpcValue = number | string | Uint8Array | BinrpcValue[] | BinrpcStruct;

/**
 * Names may be missing, and may come twice. Kamailio writes a list inside a struct as a struct without names; kamcmd prints
 * that, and fails with "bad record" on an array there.
 */
export interface BinrpcStruct {
  readonly members: readonly { name: string | undefined; value: BinrpcValue }[];
}

export type PacketKind = "request" | "reply" | "fault";

export interface Packet {
  kind: PacketKind;
  /** One to four octets, which a reply repeats. */
  cookie: Uint8Array;
  body: Uint8Array;
}

export interface BinrpcRequest {
  method: string;
  params: BinrpcValue[];
}

/** The octets are no packet or no values, or there are more of them than allowed. */
export class BinrpcError extends Error {
  /** That of a packet whose body is too large to be read: it can be told so before the stream ends. */
  readonly cookie: Uint8Array | undefined;

  constructor(message: string, cookie?: Uint8Array) {
    super(message);
    this.name = "BinrpcError";
    this.cookie = cookie;
  }
}

/** Octets in the body of a packet that is read. */
export const BODY_BYTES_MAX: number = 64 * 1024;

/** Structs and arrays inside one another. */
export const NESTING_MAX = 16;

/** Values in a packet that is read, those inside structs and arrays included. */
export const VALUES_MAX = 4_096;

/** Magic number 1010 in the high bits, version 1 in the low ones. */
const MAGIC = 0xa1;

const KIND_OF: ReadonlyMap<number, PacketKind> = new Map([
  [0, "request"],
  [1, "reply"],
  [3, "fault"],
]);

const FLAGS_OF: Record<PacketKind, number> = { request: 0, reply: 1, fault: 3 };

const TYPE = { int: 0, string: 1, double: 2, struct: 3, array: 4, name: 5, bytes: 6 } as const;

/** The bit of a head octet that says: what would be the size is the number of octets that the size has. */
const LONG = 0x80;

const STRUCT_END = LONG | TYPE.struct;
const ARRAY_END = LONG | TYPE.array;

const SHORT_SIZE_MAX = 7;
const NUMBER_BYTES_MAX = 4;
const THOUSAND = 1_000;
const INT_MIN = -(2 ** 31);
const INT_MAX = 2 ** 31 - 1;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Cuts a stream into packets, however it was split on its way. */
export class PacketReader {
  readonly #bodyBytesMax: number;
  #buffer = new Uint8Array(256);
  #start = 0;
  #end = 0;

  constructor(bodyBytesMax: number = BODY_BYTES_MAX) {
    this.#bodyBytesMax = bodyBytesMax;
  }

  /** Octets that are no whole packet yet. */
  get pendingBytes(): number {
    return this.#end - this.#start;
  }

  /** Adds a chunk; it is copied. */
  push(chunk: Uint8Array): void {
    this.#makeRoom(chunk.length);
    this.#buffer.set(chunk, this.#end);
    this.#end += chunk.length;
  }

  /**
   * @returns the next packet, `undefined` if it is not complete; it owns its octets
   * @throws  BinrpcError where no packet begins, or too large a one: nothing after it can be understood
   */
  next(): Packet | undefined {
    const bytes = this.#buffer.subarray(this.#start, this.#end);
    const [magic, second] = bytes;
    if (magic !== undefined && magic !== MAGIC) {
      throw new BinrpcError(`packet begins with octet ${magic}, expected ${MAGIC}: binary RPC, version 1`);
    }
    if (second === undefined) return undefined;
    const kind = KIND_OF.get(second >> 4);
    if (kind === undefined) throw new BinrpcError(`packet has flags ${second >> 4}, expected 0, 1 or 3`);
    const cookieAt = 3 + ((second >> 2) & 3);
    const bodyAt = cookieAt + 1 + (second & 3);
    if (bytes.length < bodyAt) return undefined;
    const cookie = bytes.slice(cookieAt, bodyAt);
    const size = readUnsigned(bytes.subarray(2, cookieAt));
    if (size > this.#bodyBytesMax) {
      throw new BinrpcError(`packet of ${size} octets, expected at most ${this.#bodyBytesMax}`, cookie);
    }
    if (bytes.length < bodyAt + size) return undefined;
    this.#start += bodyAt + size;
    return { kind, cookie, body: bytes.slice(bodyAt, bodyAt + size) };
  }

  #makeRoom(size: number): void {
    if (this.#end + size <= this.#buffer.length) return;
    const pending = this.#buffer.subarray(this.#start, this.#end);
    // Doubled, so that a packet that comes octet by octet is not copied for each of them.
    const needed = pending.length + size;
    const room = needed <= this.#buffer.length ? this.#buffer : new Uint8Array(needed * 2);
    room.set(pending);
    this.#buffer = room;
    this.#start = 0;
    this.#end = pending.length;
  }
}

/**
 * @returns the method and the parameters in the body of a request
 * @throws  BinrpcError
 */
export function readRequest(body: Uint8Array): BinrpcRequest {
  const [method, ...params] = readValues(body);
  if (typeof method !== "string") throw new BinrpcError("request begins with no text, expected the name of a method");
  return { method, params };
}

/** @throws BinrpcError */
export function readValues(body: Uint8Array, valuesMax: number = VALUES_MAX): BinrpcValue[] {
  return new ValueReader(body, valuesMax).row();
}

/** @param cookie  that of the request, one to four octets */
export function writePacket(kind: PacketKind, cookie: Uint8Array, body: Uint8Array): Uint8Array {
  const size = unsigned(body.length);
  const length = size.length === 0 ? Uint8Array.of(0) : size;
  const lengths = ((length.length - 1) << 2) | (cookie.length - 1);
  return concatBytes([Uint8Array.of(MAGIC, (FLAGS_OF[kind] << 4) | lengths), length, cookie, body]);
}

/** The body of a request, a reply or a fault (code and text). */
export function writeValues(values: readonly BinrpcValue[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const value of values) writeValue(parts, value);
  return concatBytes(parts);
}

/** Reads the records of one body. */
class ValueReader {
  readonly #bytes: Uint8Array;
  readonly #valuesMax: number;
  #offset = 0;
  #count = 0;

  constructor(bytes: Uint8Array, valuesMax: number) {
    this.#bytes = bytes;
    this.#valuesMax = valuesMax;
  }

  row(): BinrpcValue[] {
    const values: BinrpcValue[] = [];
    while (this.#offset < this.#bytes.length) values.push(this.#value(0));
    return values;
  }

  #value(depth: number): BinrpcValue {
    if (++this.#count > this.#valuesMax) throw this.#error(`more than ${this.#valuesMax} values`);
    const head = this.#octet();
    if (head === TYPE.struct) return this.#struct(depth + 1);
    if (head === TYPE.array) return this.#array(depth + 1);
    const bytes = this.#content(head);
    switch (head & 15) {
      case TYPE.int:
        return this.#int(bytes);
      case TYPE.double:
        return this.#int(bytes) / THOUSAND;
      case TYPE.string:
        return this.#text(bytes);
      case TYPE.bytes:
        return bytes.slice();
      default:
        throw this.#error(`unexpected octet ${head}`);
    }
  }

  #struct(depth: number): BinrpcStruct {
    this.#descend(depth);
    const members: { name: string | undefined; value: BinrpcValue }[] = [];
    while (this.#peek() !== STRUCT_END) members.push({ name: this.#name(), value: this.#value(depth) });
    this.#offset++;
    return { members };
  }

  #name(): string | undefined {
    return (this.#peek() & 15) === TYPE.name ? this.#text(this.#content(this.#octet())) : undefined;
  }

  #array(depth: number): BinrpcValue[] {
    this.#descend(depth);
    const values: BinrpcValue[] = [];
    while (this.#peek() !== ARRAY_END) values.push(this.#value(depth));
    this.#offset++;
    return values;
  }

  #descend(depth: number): void {
    if (depth > NESTING_MAX) throw this.#error(`values nested deeper than ${NESTING_MAX}`);
  }

  #content(head: number): Uint8Array {
    const short = (head >> 4) & 7;
    if ((head & LONG) === 0) return this.#take(short);
    if (short === 0 || short > NUMBER_BYTES_MAX) throw this.#error(`unexpected octet ${head}`);
    return this.#take(readUnsigned(this.#take(short)));
  }

  #int(bytes: Uint8Array): number {
    if (bytes.length > NUMBER_BYTES_MAX) throw this.#error(`number of ${bytes.length} octets, expected at most 4`);
    return readUnsigned(bytes) | 0;
  }

  #text(bytes: Uint8Array): string {
    if (bytes.at(-1) !== 0) throw this.#error("text without the NUL at its end");
    try {
      return UTF8.decode(bytes.subarray(0, -1));
    } catch {
      throw this.#error("text that is no UTF-8");
    }
  }

  #take(size: number): Uint8Array {
    const from = this.#offset;
    if (size > this.#bytes.length - from) throw this.#error("a value that ends after its packet");
    this.#offset += size;
    return this.#bytes.subarray(from, this.#offset);
  }

  #peek(): number {
    const octet = this.#bytes[this.#offset];
    if (octet === undefined) throw this.#error("a struct or an array without an end");
    return octet;
  }

  #octet(): number {
    const octet = this.#peek();
    this.#offset++;
    return octet;
  }

  #error(what: string): BinrpcError {
    return new BinrpcError(`${what}, before octet ${this.#offset} of the packet's body`);
  }
}

function writeValue(parts: Uint8Array[], value: BinrpcValue): void {
  if (typeof value === "number") writeNumber(parts, value);
  else if (typeof value === "string") writeRecord(parts, TYPE.string, terminated(value));
  else if (value instanceof Uint8Array) writeRecord(parts, TYPE.bytes, value);
  else if (Array.isArray(value)) writeArray(parts, value);
  else writeStruct(parts, value);
}

function writeNumber(parts: Uint8Array[], value: number): void {
  const whole = Number.isInteger(value);
  const scaled = whole ? value : Math.round(value * THOUSAND);
  const fits = scaled >= INT_MIN && scaled <= INT_MAX;
  if (fits) writeRecord(parts, whole ? TYPE.int : TYPE.double, unsigned(scaled >>> 0));
  else writeRecord(parts, TYPE.string, terminated(String(value)));
}

function writeArray(parts: Uint8Array[], values: readonly BinrpcValue[]): void {
  parts.push(Uint8Array.of(TYPE.array));
  for (const value of values) writeValue(parts, value);
  parts.push(Uint8Array.of(ARRAY_END));
}

function writeStruct(parts: Uint8Array[], { members }: BinrpcStruct): void {
  parts.push(Uint8Array.of(TYPE.struct));
  for (const { name, value } of members) {
    if (name !== undefined) writeRecord(parts, TYPE.name, terminated(name));
    writeValue(parts, value);
  }
  parts.push(Uint8Array.of(STRUCT_END));
}

function writeRecord(parts: Uint8Array[], type: number, content: Uint8Array): void {
  if (content.length <= SHORT_SIZE_MAX) {
    parts.push(Uint8Array.of((content.length << 4) | type), content);
    return;
  }
  const size = unsigned(content.length);
  parts.push(Uint8Array.of(LONG | (size.length << 4) | type), size, content);
}

function terminated(text: string): Uint8Array {
  return encodeUtf8(`${text}\0`);
}

/** Big endian, as few octets as hold it: none for 0. */
function unsigned(value: number): Uint8Array {
  const octets: number[] = [];
  for (let rest = value; rest > 0; rest = Math.floor(rest / 256)) octets.unshift(rest % 256);
  return Uint8Array.from(octets);
}

function readUnsigned(bytes: Uint8Array): number {
  return bytes.reduce((value, octet) => value * 256 + octet, 0);
}
