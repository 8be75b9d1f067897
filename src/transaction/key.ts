/**
 * By what a request is recognised when it comes again (RFC 3261 §17.2.3). Responses need no key of their own: the branch of
 * the top Via is ours, 64 random bits, and the table looks it up as it is (§17.1.3).
 */

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

  constructor(seedHigh: number, seedLow: number) {
    this.seedHigh = seedHigh;
    this.seedLow = seedLow;
  }

  /** Of a text of `serverKey`. */
  ofText(text: string): Fingerprint {
    this.begin();
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      // Characters above Latin-1 are two octets here; remote text has them only where nothing of it is in order.
      this.add(code & 0xff);
      if (code > 0xff) this.add(code >> 8);
    }
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
    for (let i = 0; i < method.length; i++) this.add(method.charCodeAt(i));
    this.add(0x20);
    for (let i = host; i < hostEnd; i++) this.add(b[i] as number);
    if (!hasPort) this.add(0x3a);
    this.add(0x20);
    for (let i = branch; i < branchEnd; i++) this.add(b[i] as number);
    return this.end();
  }

  private begin(): void {
    this.result.high = this.seedHigh;
    this.result.low = this.seedLow;
  }

  /** Two multiplicative hashes with different primes (FNV's and one of MurmurHash3's). */
  private add(octet: number): void {
    const { result } = this;
    result.low = Math.imul(result.low ^ octet, 0x01000193);
    result.high = Math.imul(result.high ^ octet, 0x85ebca6b) ^ (result.high >>> 15);
  }

  /** Spreads the last octets over all bits. */
  private end(): Fingerprint {
    const { result } = this;
    let low = result.low ^ (result.low >>> 16);
    low = Math.imul(low, 0x7feb352d);
    low ^= low >>> 15;
    result.low = low >>> 0;
    result.high >>>= 0;
    return result;
  }
}
