/**
 * The header block of a message: offsets into its octets, and a small number for each well-known name, so that no string is
 * made before somebody asks (RFC 3261 §7.3). Also the one pass over the octets that finds the lines.
 */
import { decodeUtf8 } from "../core/bytes.ts";
import { ProtocolError } from "../core/errors.ts";
import { isOf, TOKEN, trimSpace } from "./grammar.ts";

/** RFC 3261 §20 and §7.3.3, and two names of DMQ's own neighbourhood. Kamailio's messages use the first ten. */
const WELL_KNOWN: readonly (readonly [name: string, compact?: string])[] = [
  ["Via", "v"],
  ["From", "f"],
  ["To", "t"],
  ["Call-ID", "i"],
  ["CSeq"],
  ["Content-Length", "l"],
  ["Content-Type", "c"],
  ["Max-Forwards"],
  ["User-Agent"],
  ["Server"],
  ["Contact", "m"],
  ["Content-Encoding", "e"],
  ["Subject", "s"],
  ["Supported", "k"],
  ["Accept"],
  ["Allow"],
  ["Date"],
  ["Expires"],
  ["Proxy-Require"],
  ["Record-Route"],
  ["Require"],
  ["Retry-After"],
  ["Route"],
  ["Unsupported"],
  ["Warning"],
];

const UNKNOWN = -1;

/** Lower-case ASCII letters only: header names are tokens. */
function lower(octet: number): number {
  return octet >= 0x41 && octet <= 0x5a ? octet + 0x20 : octet;
}

function hashText(text: string): number {
  let hash = 0;
  for (let i = 0; i < text.length; i++) hash = (Math.imul(hash, 31) + lower(text.charCodeAt(i))) | 0;
  return hash;
}

function equalsText(bytes: Uint8Array, start: number, end: number, text: string): boolean {
  if (end - start !== text.length) return false;
  for (let i = 0; i < text.length; i++) {
    if (lower(bytes[start + i]!) !== lower(text.charCodeAt(i))) return false;
  }
  return true;
}

interface Spelling {
  text: string;
  lower: string;
  id: number;
}

/** By hash of the lower-case name, long or compact; the names of the table have no collision (test/sip/headers.test.ts). */
const SPELLINGS = new Map<number, Spelling>();
WELL_KNOWN.forEach((names, id) => {
  for (const text of names)
    if (text !== undefined) SPELLINGS.set(hashText(text), { text, lower: text.toLowerCase(), id });
});

function idOfText(name: string, hash: number): number {
  const spelling = SPELLINGS.get(hash);
  if (spelling === undefined) return UNKNOWN;
  return spelling.text === name || spelling.lower === name.toLowerCase() ? spelling.id : UNKNOWN;
}

/** RFC 3261 §7.3.1: a line end followed by white space is as good as one space. */
function unfold(text: string): string {
  if (!text.includes("\r\n")) return text;
  return text.split("\r\n").map(trimSpace).join(" ");
}

/**
 * Ordered headers of one message, names case-insensitive and compact names known. Values are decoded when asked for, and
 * unfolded. A value is one header line: lists with commas are not split, because only the header's own rule knows how.
 */
export class Headers {
  /** The octets that all offsets refer to; they start with the message's first octet. */
  readonly bytes: Uint8Array;
  private readonly ids: number[] = [];
  private readonly hashes: number[] = [];
  private readonly nameStarts: number[] = [];
  private readonly nameEnds: number[] = [];
  private readonly valueStarts: number[] = [];
  private readonly valueEnds: number[] = [];

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  /** Number of header lines. */
  size(): number {
    return this.ids.length;
  }

  /** For the scanner: a line whose name and trimmed value stand at these offsets. */
  append(hash: number, nameStart: number, nameEnd: number, valueStart: number, valueEnd: number): void {
    const spelling = SPELLINGS.get(hash);
    const known = spelling !== undefined && equalsText(this.bytes, nameStart, nameEnd, spelling.text);
    this.ids.push(known ? spelling.id : UNKNOWN);
    this.hashes.push(hash);
    this.nameStarts.push(nameStart);
    this.nameEnds.push(nameEnd);
    this.valueStarts.push(valueStart);
    this.valueEnds.push(valueEnd);
  }

  /** Index of the first line of that name at or after `from`, −1 if there is none. */
  find(name: string, from = 0): number {
    const hash = hashText(name);
    const id = idOfText(name, hash);
    for (let i = from; i < this.ids.length; i++) {
      if (this.ids[i] !== id) continue;
      if (id !== UNKNOWN) return i;
      if (this.hashes[i] === hash && equalsText(this.bytes, this.nameStarts[i]!, this.nameEnds[i]!, name)) return i;
    }
    return -1;
  }

  /** Offset of the first octet of the value of line `index`, folds included. */
  valueStart(index: number): number {
    return this.valueStarts[index]!;
  }

  /** Offset after the last octet of the value of line `index`. */
  valueEnd(index: number): number {
    return this.valueEnds[index]!;
  }

  /** Unfolded value of line `index`; invalid UTF-8 becomes U+FFFD. */
  valueAt(index: number): string {
    return unfold(decodeUtf8(this.bytes, this.valueStarts[index]!, this.valueEnds[index]!));
  }

  /** Canonical long name of a well-known header, any other as written. */
  nameAt(index: number): string {
    const known = WELL_KNOWN[this.ids[index]!];
    return known?.[0] ?? decodeUtf8(this.bytes, this.nameStarts[index]!, this.nameEnds[index]!);
  }

  /** Value of the first line of that name. */
  get(name: string): string | undefined {
    const index = this.find(name);
    return index === -1 ? undefined : this.valueAt(index);
  }

  /** Values of all lines of that name, in order, one per line. */
  getAll(name: string): string[] {
    const values: string[] = [];
    for (let i = this.find(name); i !== -1; i = this.find(name, i + 1)) values.push(this.valueAt(i));
    return values;
  }

  has(name: string): boolean {
    return this.find(name) !== -1;
  }

  /** Number of lines of that name. */
  count(name: string): number {
    let count = 0;
    for (let i = this.find(name); i !== -1; i = this.find(name, i + 1)) count++;
    return count;
  }

  /** All lines in order: well-known names in their long form, others as written. */
  entries(): [name: string, value: string][] {
    return this.ids.map((_, index) => [this.nameAt(index), this.valueAt(index)]);
  }

  /** The greatest number of lines that one name has; names are told apart by hash, which can only err upwards. */
  countOfCommonest(): number {
    const counts = new Map<number, number>();
    let most = 0;
    for (let i = 0; i < this.ids.length; i++) {
      const id = this.ids[i]!;
      // Ids are small; hashes of unknown names are moved out of their way.
      const key = id === UNKNOWN ? this.hashes[i]! + 0x1_0000_0000 : id;
      const count = (counts.get(key) ?? 0) + 1;
      counts.set(key, count);
      if (count > most) most = count;
    }
    return most;
  }
}

export interface HeaderLimits {
  /** Octets of start line and headers, the empty line included. */
  readonly headerBytes: number;
  readonly headerLines: number;
  readonly headerLinesOfOneName: number;
}

/** What the pass over a header block found. With an error the headers are those that could be read nevertheless. */
export interface HeaderScan {
  headers: Headers;
  /** Offset of the body, −1 where the block has no end. */
  bodyStart: number;
  error: ProtocolError | undefined;
  /** False where the error leaves it in doubt where lines, and so the message, end. */
  framed: boolean;
}

const CR = 0x0d;
const LF = 0x0a;
const SP = 0x20;
const HTAB = 0x09;

function isSpace(octet: number | undefined): boolean {
  return octet === SP || octet === HTAB;
}

/** SP, HTAB and, inside a folded value, the line ends. */
function isLws(octet: number | undefined): boolean {
  return isSpace(octet) || octet === CR || octet === LF;
}

/**
 * Finds the end of the line at `start`, folded continuations included.
 *
 * @returns offset of the CR that ends it; −1 if the octets end before; −2 − offset of a NUL, or of a CR or LF that is no
 *          line end: those mean one thing to us and another to the next reader
 */
export function findLineEnd(bytes: Uint8Array, start: number, limit: number, folds: boolean): number {
  for (let i = start; i < limit; i++) {
    const octet = bytes[i]!;
    if (octet > CR || octet === HTAB) continue;
    if (octet === LF || octet === 0) return -2 - i;
    if (octet !== CR) continue;
    if (i + 1 >= limit) return -1;
    if (bytes[i + 1] !== LF) return -2 - i;
    if (!folds || !isSpace(bytes[i + 2])) return i;
    i++;
  }
  return -1;
}

function appendLine(headers: Headers, start: number, end: number): boolean {
  const bytes = headers.bytes;
  let hash = 0;
  let at = start;
  for (; at < end && isOf(bytes[at]!, TOKEN); at++) hash = (Math.imul(hash, 31) + lower(bytes[at]!)) | 0;
  const nameEnd = at;
  while (isSpace(bytes[at])) at++;
  if (nameEnd === start || bytes[at] !== 0x3a || at >= end) return false;
  at++;
  let last = end;
  while (at < end && isLws(bytes[at])) at++;
  while (last > at && isLws(bytes[last - 1])) last--;
  headers.append(hash, start, nameEnd, at, last);
  return true;
}

function fault(what: string, offset: number): ProtocolError {
  return new ProtocolError(what, { section: "RFC 3261 §7.3.1", offset });
}

function overLimit(what: string, offset: number): ProtocolError {
  return new ProtocolError(what, { section: "RFC 3261 §21.5.7", offset, statusHint: 513, code: "protocol-limit" });
}

function endless(bytes: Uint8Array, limits: HeaderLimits): ProtocolError {
  if (bytes.length < limits.headerBytes) return fault("no empty line after the headers", bytes.length);
  return overLimit(`header block longer than ${limits.headerBytes} octets`, limits.headerBytes);
}

function endedBy(headers: Headers, error: ProtocolError): HeaderScan {
  return { headers, bodyStart: -1, error, framed: false };
}

/**
 * Reads the header lines from `start` to the empty line in one pass (RFC 3261 §7.3.1, §7.5: lines end with CRLF, without
 * exception). A line that is none is noted and stepped over, so that a request can still be answered with 400.
 */
export function scanHeaders(bytes: Uint8Array, start: number, limits: HeaderLimits): HeaderScan {
  const headers = new Headers(bytes);
  const limit = Math.min(bytes.length, limits.headerBytes);
  let error: ProtocolError | undefined;
  let at = start;
  while (!(at + 1 < limit && bytes[at] === CR && bytes[at + 1] === LF)) {
    const end = findLineEnd(bytes, at, limit, true);
    if (end === -1) return endedBy(headers, error ?? endless(bytes, limits));
    if (end < -1) return endedBy(headers, fault("NUL, or CR or LF alone, in the headers", -2 - end));
    if (headers.size() === limits.headerLines) {
      return endedBy(headers, overLimit(`more than ${limits.headerLines} headers`, at));
    }
    if (!appendLine(headers, at, end)) error ??= fault("header line without a name", at);
    at = end + 2;
  }
  const crowded = headers.size() > limits.headerLinesOfOneName;
  if (crowded && headers.countOfCommonest() > limits.headerLinesOfOneName) {
    error ??= overLimit(`more than ${limits.headerLinesOfOneName} headers of one name`, start);
  }
  return { headers, bodyStart: at + 2, error, framed: true };
}
