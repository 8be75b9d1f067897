/**
 * By what a request is recognised when it comes again (RFC 3261 §17.2.3), and by what the request that a response is for: the
 * branch of its top Via, which is ours, 64 random bits (§17.1.3).
 */
import { encodeUtf8 } from "../core/bytes.ts";

/** A branch that begins so, and does not end there, is unique over space and time (RFC 3261 §8.1.1.7). */
export const MAGIC_COOKIE = "z9hG4bK";

/** Facts of a request; those after `method` are read only when the branch lacks the cookie, and may be left out else. */
export interface ServerKeyParts {
  /** Of the top Via, as written. */
  branch: string | undefined;
  /** The sent-by of the top Via. */
  host: string;
  port: number | undefined;
  method: string;
  requestUri?: string | undefined;
  toTag?: string | undefined;
  fromTag?: string | undefined;
  callId?: string | undefined;
  /** The whole value, with the method. */
  cseq?: string | undefined;
  /** The whole first value, as written. */
  topVia?: string | undefined;
}

/**
 * Whether a branch identifies its transaction by itself. The bare cookie does not (RFC 4475 §3.2.1), nor does one in other
 * letter case: such a request is compared as RFC 2543 had it, which is safe for both.
 */
export function hasMagicCookie(branch: string | undefined): branch is string {
  return branch !== undefined && branch.length > MAGIC_COOKIE.length && branch.startsWith(MAGIC_COOKIE);
}

/**
 * The text that is equal exactly for transmissions of one non-INVITE request (RFC 3261 §17.2.3): branch, sent-by and method,
 * or, where the branch has no cookie, Request-URI, To tag, From tag, Call-ID, CSeq and top Via.
 *
 * Sent-by is part of it because some may well share a branch by accident or malice. ACK and CANCEL have rules of their own
 * for INVITE; there is none here, so every method is matched by itself.
 */
export function serverKey(parts: ServerKeyParts): string {
  if (!hasMagicCookie(parts.branch)) return legacyKey(parts);
  // Method, host and port hold no space; the branch may hold anything and therefore comes last.
  return `${parts.method} ${parts.host.toLowerCase()}:${parts.port ?? ""} ${parts.branch}`;
}

/** It begins with a space, as no method does. Each part carries its length: remote text must not move the borders. */
function legacyKey(parts: ServerKeyParts): string {
  let key = ` ${parts.method}`;
  const { requestUri, toTag, fromTag, callId, cseq, topVia } = parts;
  for (const part of [requestUri, toTag, fromTag, callId, cseq, topVia]) {
    key += part === undefined ? " -" : ` ${part.length}:${part}`;
  }
  return key;
}

/**
 * 64 bits of a key. Equal keys have equal fingerprints; that two keys share one by chance is less likely than an error of the
 * machine's memory, and on purpose it takes the seed, which is drawn at each start.
 */
export interface Fingerprint {
  high: number;
  low: number;
}

/** Makes fingerprints of keys, octet by octet, with one seed. The result is used again: whoever keeps it copies it. */
export class Fingerprinter {
  private readonly seedHigh: number;
  private readonly seedLow: number;
  private readonly result: Fingerprint = { high: 0, low: 0 };
  /** Of what was added so far. */
  private high = 0;
  private low = 0;

  constructor(seedHigh: number, seedLow: number) {
    this.seedHigh = seedHigh;
    this.seedLow = seedLow;
  }

  /** Of a text of `serverKey`, or a branch. */
  ofText(text: string): Fingerprint {
    this.begin();
    this.addText(text);
    return this.end();
  }

  /** Of octets: the same as `ofText` of the same in Latin-1. */
  ofOctets(b: Uint8Array, start: number, end: number): Fingerprint {
    this.begin();
    this.addOctets(b, start, end);
    return this.end();
  }

  /**
   * Of a request whose parts stand in its octets: the same as `ofText(serverKey(…))` of the same request.
   *
   * @param host    of an IPv4 sent-by with its port, as `host:port` or `host`
   * @param branch  with the magic cookie
   */
  ofParts(
    method: string,
    b: Uint8Array,
    host: number,
    hostEnd: number,
    hasPort: boolean,
    branch: number,
    branchEnd: number,
  ): Fingerprint {
    this.begin();
    this.addText(method);
    this.addText(" ");
    this.addOctets(b, host, hostEnd);
    this.addText(hasPort ? " " : ": ");
    this.addOctets(b, branch, branchEnd);
    return this.end();
  }

  private begin(): void {
    this.high = this.seedHigh;
    this.low = this.seedLow;
  }

  private addText(text: string): void {
    let { high, low } = this;
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      low = mixLow(low, code & 0xff);
      high = mixHigh(high, code & 0xff);
      // Characters above Latin-1 are two octets here; remote text has them only where nothing of it is in order.
      if (code <= 0xff) continue;
      low = mixLow(low, code >> 8);
      high = mixHigh(high, code >> 8);
    }
    this.high = high;
    this.low = low;
  }

  private addOctets(b: Uint8Array, start: number, end: number): void {
    let { high, low } = this;
    for (let i = start; i < end; i++) {
      const octet = b[i] as number;
      low = mixLow(low, octet);
      high = mixHigh(high, octet);
    }
    this.high = high;
    this.low = low;
  }

  /** Spreads the last octets over all bits. */
  private end(): Fingerprint {
    const { result } = this;
    let low = this.low ^ (this.low >>> 16);
    low = Math.imul(low, 0x7feb352d);
    low ^= low >>> 15;
    result.low = low >>> 0;
    result.high = this.high >>> 0;
    return result;
  }
}

/** Two multiplicative hashes with different primes (FNV's and one of MurmurHash3's). */
function mixLow(low: number, octet: number): number {
  return Math.imul(low ^ octet, 0x01000193);
}

function mixHigh(high: number, octet: number): number {
  return Math.imul(high ^ octet, 0x85ebca6b) ^ (high >>> 15);
}

/** No seed: the branches are random numbers of ours, and nobody else chooses what is looked up among them. */
const BRANCHES = new Fingerprinter(0x9e3779b9, 0x85ebca6b);

/** Digits of a branch of ours behind the cookie: two numbers of 32 bits. */
const WORD_DIGITS = 8;
const BRANCH_LENGTH = MAGIC_COOKIE.length + 2 * WORD_DIGITS;

/** The value of each octet that is such a digit, `NO_DIGIT` of all others. */
const NO_DIGIT = 0x10;
const DIGITS = new Uint8Array(256).fill(NO_DIGIT);
for (let value = 0; value < 16; value++) DIGITS[value.toString(16).charCodeAt(0)] = value;

const branchResult: Fingerprint = { high: 0, low: 0 };

/**
 * By what a request of ours is found for its response: the two numbers that its branch is made of, or a fingerprint where it is made
 * otherwise. The result is used again: whoever keeps it copies it.
 */
export function branchKey(branch: string): Fingerprint {
  const isLikeOurs = branch.length === BRANCH_LENGTH && hasMagicCookie(branch);
  return isLikeOurs ? branchKeyAt(encodeUtf8(branch), 0, BRANCH_LENGTH) : BRANCHES.ofText(branch);
}

/** As `branchKey`, of a branch with the magic cookie where it stands. */
export function branchKeyAt(b: Uint8Array, start: number, end: number): Fingerprint {
  if (end - start !== BRANCH_LENGTH) return BRANCHES.ofOctets(b, start, end);
  let high = 0;
  let low = 0;
  let all = 0;
  for (let at = start + MAGIC_COOKIE.length; at < end - WORD_DIGITS; at++) {
    const first = DIGITS[b[at] as number] as number;
    const second = DIGITS[b[at + WORD_DIGITS] as number] as number;
    high = (high << 4) | first;
    low = (low << 4) | second;
    all |= first | second;
  }
  if (all >= NO_DIGIT) return BRANCHES.ofOctets(b, start, end);
  branchResult.high = high >>> 0;
  branchResult.low = low >>> 0;
  return branchResult;
}
