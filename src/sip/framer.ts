/**
 * Cuts a stream into messages (RFC 3261 §18.3, RFC 5626 §4.4.1). Content-Length says where a message ends, but memory is
 * taken for octets that have come, never for octets that were promised. Once it is unclear where a message ends the stream
 * is lost and the framer is dead: guessing is how one message becomes two.
 */
import { assert } from "../core/assert.ts";
import { EMPTY } from "../core/bytes.ts";
import { ProtocolError } from "../core/errors.ts";
import type { SipMessage } from "./message.ts";
import { bodyFault, completeMessage, LIMITS, type Malformed, malformedOf, parseHead } from "./parse.ts";

/** Line ends between messages. `pong` asks for a CRLF back (a double CRLF is a ping); a single one is a peer's pong. */
export interface Keepalive {
  readonly type: "keepalive";
  readonly pong: boolean;
}

const CR = 0x0d;
const LF = 0x0a;

/** The message has begun, but its end is not known or not there yet. */
const MORE = 0;

/** Offset after the first empty line that starts at or after `from`, −1 if there is none before `end`. */
function emptyLineEnd(bytes: Uint8Array, from: number, end: number): number {
  for (let at = from + 3; at < end; at++) {
    if (bytes[at] === LF && bytes[at - 1] === CR && bytes[at - 2] === LF && bytes[at - 3] === CR) return at + 1;
  }
  return -1;
}

/**
 * One stream's framer: push each chunk, then call next() until it answers `undefined`. Messages are views: of the chunk if
 * they lie wholly inside one, else of a buffer that is only ever appended to.
 */
export class Framer {
  private readonly bodyLimit: number;
  private buffer: Uint8Array = EMPTY;
  private start = 0;
  private end = 0;
  /** The buffer is ours to append to; a chunk is not. */
  private owned = false;
  /** Octets after start that hold no empty line: byte-by-byte arrival must not search them again. */
  private searched = 0;
  /** Length of the message at start once its headers are there. */
  private length = MORE;
  private gone = false;

  /** @param bodyLimit  longest body in octets, 413 beyond it */
  constructor(bodyLimit: number = LIMITS.bodyBytes) {
    this.bodyLimit = bodyLimit;
  }

  /** Takes a chunk over. After the stream is lost it is dropped. */
  push(chunk: Uint8Array): void {
    if (this.gone || chunk.length === 0) return;
    if (this.start === this.end) this.replace(chunk, 0, chunk.length, false);
    else this.append(chunk);
  }

  /**
   * @returns the next message, fault or keepalive; `undefined` when more octets are needed. After a fault that loses the
   *          stream dead() is true, and the owner closes it once the fault is answered
   */
  next(): SipMessage | Malformed | Keepalive | undefined {
    if (this.gone || this.start === this.end) return undefined;
    if (this.length === MORE) return this.begin();
    return this.end - this.start < this.length ? undefined : this.take();
  }

  /** Octets that wait for the rest of their message. */
  buffered(): number {
    return this.end - this.start;
  }

  /** True while a message has begun whose header block is not complete: what a slow sender is timed by. */
  headerPending(): boolean {
    return this.start !== this.end && this.length === MORE && this.buffer[this.start] !== CR;
  }

  /** True while the headers of a message are there and its body is not. */
  bodyPending(): boolean {
    return this.length !== MORE;
  }

  /** Gives the stream up: nothing more will come out, and nothing is kept. */
  abandon(): void {
    this.gone = true;
    this.length = MORE;
    this.replace(EMPTY, 0, 0, false);
  }

  /** The end of a message was lost; nothing more will come out. */
  dead(): boolean {
    return this.gone;
  }

  private replace(buffer: Uint8Array, start: number, end: number, owned: boolean): void {
    this.buffer = buffer;
    this.start = start;
    this.end = end;
    this.owned = owned;
  }

  /** Room doubles with what has come, so that arrival byte by byte stays linear. */
  private append(chunk: Uint8Array): void {
    if (!this.owned || this.buffer.length - this.end < chunk.length) {
      const live = this.buffer.subarray(this.start, this.end);
      const grown = new Uint8Array(2 * (live.length + chunk.length));
      grown.set(live);
      this.replace(grown, 0, live.length, true);
    }
    this.buffer.set(chunk, this.end);
    this.end += chunk.length;
  }

  private begin(): SipMessage | Malformed | Keepalive | undefined {
    if (this.buffer[this.start] === CR) return this.keepalive();
    const available = this.end - this.start;
    const headEnd = emptyLineEnd(this.buffer, this.start + this.searched, this.end);
    if (headEnd === -1 && available < LIMITS.headerBytes) {
      this.searched = Math.max(0, available - 3);
      return undefined;
    }
    return this.readHead(available);
  }

  private readHead(available: number): SipMessage | Malformed | undefined {
    const bytes = this.buffer.subarray(this.start, this.end);
    const head = parseHead(bytes);
    if (!head.framed || head.contentLength === undefined || head.contentLength > this.bodyLimit) {
      const error = head.error ?? bodyFault(head, Number.MAX_SAFE_INTEGER, "stream", this.bodyLimit);
      assert(error !== undefined, "a message without an end has a fault");
      return this.die(malformedOf(head, error, bytes));
    }
    this.length = head.bodyStart + head.contentLength;
    if (available < this.length) return undefined;
    // The head's offsets start where the message starts, so it serves the exact cut as well.
    const message = completeMessage(head, bytes.subarray(0, this.length), "stream", this.bodyLimit);
    this.advance(this.length);
    return message;
  }

  /** A message whose head was seen in an earlier call: the buffer may have moved since, so it is read again. */
  private take(): SipMessage | Malformed {
    const bytes = this.buffer.subarray(this.start, this.start + this.length);
    this.advance(this.length);
    return completeMessage(parseHead(bytes), bytes, "stream", this.bodyLimit);
  }

  /** RFC 5626 §4.4.1: CRLFCRLF is a ping. One CRLF waits for what follows it, because it may be half of one. */
  private keepalive(): Malformed | Keepalive | undefined {
    const available = this.end - this.start;
    const octet = (offset: number): number | undefined =>
      offset < available ? this.buffer[this.start + offset] : undefined;
    if (available === 1) return undefined;
    if (octet(1) !== LF) return this.die({ type: "malformed", error: lost(), request: undefined });
    const second = octet(2) ?? CR;
    const double = second === CR && (octet(3) ?? LF) === LF;
    if (double && available < 4) return undefined;
    this.advance(double ? 4 : 2);
    return { type: "keepalive", pong: double };
  }

  private advance(length: number): void {
    this.start += length;
    this.length = MORE;
    this.searched = 0;
    if (this.start === this.end) this.replace(EMPTY, 0, 0, false);
  }

  private die(fault: Malformed): Malformed {
    this.abandon();
    return fault;
  }
}

function lost(): ProtocolError {
  return new ProtocolError("CR without LF between messages", { section: "RFC 3261 §7.5" });
}
