/**
 * Octets cut into lines. LF or CRLF ends a line, every other octet stays, an empty line is a line, and what stands behind
 * the last LF is one too. At most one line's worth of octets is held, however long a line turns out to be.
 */

/** The longest body on a stream (docs/CONFIG.md); a datagram takes less, and the node says so for each line. */
export const LINE_BYTES_MAX: number = 1024 * 1024;

/** `octets` is a view of the chunk where the line stood in one; `undefined` of a line that was too long and is gone. */
export interface Line {
  /** From 1. */
  readonly number: number;
  readonly octets: Uint8Array | undefined;
}

const LF = 0x0a;
const CR = 0x0d;
const HELD_BYTES_MIN = 4 * 1024;

export class LineCutter {
  readonly #max: number;
  #count = 0;
  /** The beginning of a line whose end did not come yet. */
  #held: Uint8Array = new Uint8Array(0);
  #heldLength = 0;
  #isTooLong = false;

  constructor(max: number = LINE_BYTES_MAX) {
    this.#max = max;
  }

  /** @returns the lines that end in this chunk, made one by one as they are taken; take all before the next chunk */
  *push(chunk: Uint8Array): Generator<Line, void, undefined> {
    let start = 0;
    for (let end = chunk.indexOf(LF); end !== -1; end = chunk.indexOf(LF, start)) {
      yield this.#cut(chunk.subarray(start, end), true);
      start = end + 1;
    }
    if (start < chunk.length) this.#hold(chunk.subarray(start));
  }

  /** @returns what is left when the octets end */
  end(): Line | undefined {
    return this.#heldLength > 0 || this.#isTooLong ? this.#cut(new Uint8Array(0), false) : undefined;
  }

  #cut(tail: Uint8Array, hasEnd: boolean): Line {
    let octets = tail;
    if (this.#heldLength > 0) {
      this.#hold(tail);
      octets = this.#held.slice(0, this.#heldLength);
    }
    if (hasEnd && octets.at(-1) === CR) octets = octets.subarray(0, -1);
    const isTooLong = this.#isTooLong || octets.length > this.#max;
    this.#heldLength = 0;
    this.#isTooLong = false;
    return { number: ++this.#count, octets: isTooLong ? undefined : octets };
  }

  #hold(part: Uint8Array): void {
    const length = this.#heldLength + part.length;
    // One more than a line may have: it may be the CR of its end.
    if (this.#isTooLong || length > this.#max + 1) {
      this.#isTooLong = true;
      this.#heldLength = 0;
      return;
    }
    if (length > this.#held.length) this.#grow(length);
    this.#held.set(part, this.#heldLength);
    this.#heldLength = length;
  }

  #grow(length: number): void {
    const held = new Uint8Array(Math.max(HELD_BYTES_MIN, 2 ** Math.ceil(Math.log2(length))));
    held.set(this.#held.subarray(0, this.#heldLength));
    this.#held = held;
  }
}
