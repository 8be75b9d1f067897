/**
 * Ordinary requests (scan.ts) as the rest of the house sees them: a request whose parts are made when somebody asks, and an
 * answer that is copied together from the request's octets (RFC 3261 §8.2.6.2) without making any of them.
 */
import { assert } from "../core/assert.ts";
import { copyBytes } from "../core/bytes.ts";
import type { Headers } from "./headers.ts";
import type { SipRequest } from "./message.ts";
import { parseMessage } from "./parse.ts";
import type { RequestScan } from "./scan.ts";

/** A KDMQ request that `RequestScan` has taken. */
export class OrdinaryRequest implements SipRequest {
  readonly type = "request";
  readonly bytes: Uint8Array;
  private parsed: SipRequest | undefined;

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
    return this.parse().headers;
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

/** Octets of one piece of memory; what was handed out stays as it is, and keeps its piece alive. */
const CHUNK_BYTES = 64 * 1024;

/** Writes answers to ordinary requests side by side into memory that nobody writes to again. */
export class AnswerWriter {
  private chunk = new Uint8Array(0);
  private used = 0;

  /**
   * Writes one answer: Via, To, From, CSeq and Call-ID are the request's octets.
   *
   * @param scan  of the request
   * @param b     the request
   * @param head  status line with its CRLF
   * @param tag   `;tag=…`, written where To has none
   * @param tail  the other headers, the empty line and the body
   * @returns     octets that stay as they are
   */
  write(scan: RequestScan, b: Uint8Array, head: Uint8Array, tag: Uint8Array, tail: Uint8Array): Uint8Array {
    // Each of the five lines is part of the request, so all of them together are not longer than it.
    const start = this.reserve(head.length + b.length + tag.length + tail.length);
    let at = this.put(head, 0, head.length, start);
    // Neighbours go over in one piece: a Kamailio writes the five lines one after the other.
    let from = scan.viaLine;
    let end = scan.viaEnd + 2;
    if (scan.toLine !== end) {
      at = this.put(b, from, end, at);
      from = scan.toLine;
    }
    end = scan.toEnd;
    if (!scan.toHasTag) {
      at = this.put(b, from, end, at);
      at = this.put(tag, 0, tag.length, at);
      from = end;
    }
    end += 2;
    if (scan.fromLine !== end) {
      at = this.put(b, from, end, at);
      from = scan.fromLine;
    }
    end = scan.fromEnd + 2;
    if (scan.cseqLine !== end) {
      at = this.put(b, from, end, at);
      from = scan.cseqLine;
    }
    end = scan.cseqEnd + 2;
    if (scan.callIdLine !== end) {
      at = this.put(b, from, end, at);
      from = scan.callIdLine;
    }
    at = this.put(b, from, scan.callIdEnd + 2, at);
    at = this.put(tail, 0, tail.length, at);
    return this.take(start, at);
  }

  /** Copies octets to memory that stays as it is. */
  keep(octets: Uint8Array): Uint8Array {
    const start = this.reserve(octets.length);
    return this.take(start, this.put(octets, 0, octets.length, start));
  }

  private reserve(bytes: number): number {
    if (this.used + bytes > this.chunk.length) {
      this.chunk = new Uint8Array(Math.max(CHUNK_BYTES, bytes));
      this.used = 0;
    }
    return this.used;
  }

  private put(b: Uint8Array, from: number, end: number, at: number): number {
    copyBytes(b, from, end, this.chunk, at);
    return at + end - from;
  }

  private take(start: number, end: number): Uint8Array {
    this.used = end;
    return this.chunk.subarray(start, end);
  }
}
