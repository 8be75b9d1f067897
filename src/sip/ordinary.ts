/**
 * Ordinary requests (scan.ts) as the rest of the house sees them: a request whose parts are made when somebody asks, and an
 * answer that is copied together from the request's octets (RFC 3261 §8.2.6.2) without making any of them.
 */
import { assert } from "../core/assert.ts";
import { copyBytes } from "../core/bytes.ts";
import type { OctetStore } from "../core/octet-store.ts";
import { type Headers, scanHeaders } from "./headers.ts";
import type { SipRequest } from "./message.ts";
import { LIMITS, parseMessage } from "./parse.ts";
import type { MessageScan } from "./scan.ts";

const LF = 0x0a;

/** A KDMQ request that `MessageScan` has taken. */
export class OrdinaryRequest implements SipRequest {
  readonly type = "request";
  readonly bytes: Uint8Array;
  private parsed: SipRequest | undefined;
  private lines: Headers | undefined;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  get method(): string {
    return "KDMQ";
  }

  get uri(): string {
    return this.parse().uri;
  }

  get headers(): Headers {
    // Handlers ask for headers and for little else: the scan has read the start line, and found nothing wrong.
    this.lines ??= scanHeaders(this.bytes, this.bytes.indexOf(LF) + 1, LIMITS).headers;
    return this.lines;
  }

  get body(): Uint8Array {
    return this.parse().body;
  }

  private parse(): SipRequest {
    if (this.parsed !== undefined) return this.parsed;
    const message = parseMessage(this.bytes, "datagram");
    assert(message.type === "request", "what the scan takes is a request to the parser");
    this.parsed = message;
    return message;
  }
}

/**
 * Writes an answer to an ordinary request: Via, To, From, CSeq and Call-ID are the request's octets (RFC 3261 §8.2.6.2).
 *
 * @param scan   of the request
 * @param b      the octets that the scan read
 * @param head   status line with its CRLF
 * @param tag    `;tag=…`, written where To has none
 * @param tail   the other headers, the empty line and the body
 * @param store  room is made there; the caller commits
 * @returns      the offset after the answer in `store.octets`; it begins where `store.reserve` says
 */
export function writeAnswer(
  scan: MessageScan,
  b: Uint8Array,
  head: Uint8Array,
  tag: Uint8Array,
  tail: Uint8Array,
  store: OctetStore,
): number {
  const start = store.reserve(head.length + linesLength(scan) + tag.length + tail.length);
  const out = store.octets;
  let at = put(head, 0, head.length, out, start);
  // Neighbours go over in one piece: a Kamailio writes the five lines one after the other.
  let from = scan.viaLine;
  let end = scan.viaEnd + 2;
  if (scan.toLine !== end) {
    at = put(b, from, end, out, at);
    from = scan.toLine;
  }
  end = scan.toEnd;
  if (!scan.toHasTag) {
    at = put(b, from, end, out, at);
    at = put(tag, 0, tag.length, out, at);
    from = end;
  }
  end += 2;
  if (scan.fromLine !== end) {
    at = put(b, from, end, out, at);
    from = scan.fromLine;
  }
  end = scan.fromEnd + 2;
  if (scan.cseqLine !== end) {
    at = put(b, from, end, out, at);
    from = scan.cseqLine;
  }
  end = scan.cseqEnd + 2;
  if (scan.callIdLine !== end) {
    at = put(b, from, end, out, at);
    from = scan.callIdLine;
  }
  at = put(b, from, scan.callIdEnd + 2, out, at);
  return put(tail, 0, tail.length, out, at);
}

/** Octets of the five lines with their CRLFs. */
function linesLength(scan: MessageScan): number {
  const { viaLine, viaEnd, toLine, toEnd, fromLine, fromEnd, cseqLine, cseqEnd, callIdLine, callIdEnd } = scan;
  const ends = viaEnd + toEnd + fromEnd + cseqEnd + callIdEnd;
  return ends - viaLine - toLine - fromLine - cseqLine - callIdLine + 5 * 2;
}

function put(b: Uint8Array, from: number, end: number, out: Uint8Array, at: number): number {
  copyBytes(b, from, end, out, at);
  return at + end - from;
}
