/**
 * Whether a message has the head of the last one. One sender writes one head over and over: what differs is the branch, the tags, the
 * Call-ID and the length of the body. Where all other octets are the same, and those are of the kinds that they were, everything stands
 * where it stood, and comparing is a third of reading (scan.ts).
 *
 * Four octets at a time, through a mask that leaves out what may differ. Bun runs on little-endian machines alone.
 */

/** Octets of which a place may be made that differs. */
export const TOKEN_PLACE = 1;
export const DIGIT_PLACE = 2;

/** A longer head is rare, and not looked at. */
const HEAD_BYTES_MAX = 1_024;
const PLACES_MAX = 8;
/**
 * Only in large memory: a view of a small array makes JavaScriptCore move it and give it an ArrayBuffer, which costs more than it brings.
 */
const MEMORY_BYTES_MIN = 4_096;
/** Messages after which another head is learned, where those that were learned came once. */
const PAUSE_MAX = 64;

export class Likeness {
  private readonly words = new Uint32Array(HEAD_BYTES_MAX / 4);
  private readonly masks = new Uint32Array(HEAD_BYTES_MAX / 4);
  private readonly maskOctets = new Uint8Array(this.masks.buffer);
  /** Start, end and kind of each place that may differ. */
  private readonly places = new Int32Array(3 * PLACES_MAX);
  private placed = 0;
  /** 0 where nothing was learned. */
  private length = 0;
  private count = 0;
  private hits = 0;
  private pause = 0;
  private waits = 0;
  private memory: Uint8Array | undefined;
  private view: DataView = new DataView(this.masks.buffer);

  private readonly classes: Uint8Array;
  private readonly token: number;

  /** @param classes  of every octet; `token` is the bit of those that a token has */
  constructor(classes: Uint8Array, token: number) {
    this.classes = classes;
    this.token = token;
  }

  /** What was learned means nothing any more. */
  forget(): void {
    this.length = 0;
  }

  /** True if the octets from `from` on begin with the head that was learned, but for what may differ. */
  holds(b: Uint8Array, from: number, to: number): boolean {
    const { length, count, words, masks } = this;
    if (length === 0 || b.length < MEMORY_BYTES_MIN) return false;
    if (from + length > to || from + 4 * count > b.length) return false;
    const view = this.viewOf(b);
    for (let i = 0, at = from; i < count; i++, at += 4)
      if (((view.getUint32(at, true) ^ (words[i] as number)) & (masks[i] as number)) !== 0) return false;
    if (!this.areOfKind(b, from)) return false;
    this.hits++;
    return true;
  }

  private areOfKind(b: Uint8Array, from: number): boolean {
    const { places, classes, token } = this;
    for (let i = 0; i < 3 * this.placed; i += 3) {
      const end = from + (places[i + 1] as number);
      const isToken = places[i + 2] === TOKEN_PLACE;
      for (let at = from + (places[i] as number); at < end; at++) {
        const octet = b[at] as number;
        if (isToken ? ((classes[octet] as number) & token) === 0 : octet < 0x30 || octet > 0x39) return false;
      }
    }
    return true;
  }

  /**
   * Learns the head in `b[from, end)`: from here on `place` says what may differ.
   *
   * @returns false where it is not worth it
   */
  learn(b: Uint8Array, from: number, end: number): boolean {
    this.length = 0;
    if (b.length < MEMORY_BYTES_MIN || end - from > HEAD_BYTES_MAX || this.pauses()) return false;
    const count = Math.ceil((end - from) / 4);
    if (from + 4 * count > b.length) return false;
    this.masks.fill(0xffff_ffff, 0, count);
    this.maskOctets.fill(0, end - from, 4 * count);
    const view = this.viewOf(b);
    for (let i = 0; i < count; i++) this.words[i] = view.getUint32(from + 4 * i, true);
    this.placed = 0;
    this.hits = 0;
    this.count = count;
    this.length = end - from;
    return true;
  }

  /** Where heads come once each, learning them would be in vain. To be called for each that could be learned. */
  private pauses(): boolean {
    if (this.waits > 0) {
      this.waits--;
      return true;
    }
    this.pause = this.hits > 0 ? 0 : Math.min(PAUSE_MAX, 2 * this.pause + 1);
    this.waits = this.pause;
    return false;
  }

  /** The octets in `[start, end)` of the head may be others of this kind. */
  place(start: number, end: number, kind: number): void {
    this.places[3 * this.placed] = start;
    this.places[3 * this.placed + 1] = end;
    this.places[3 * this.placed + 2] = kind;
    this.placed++;
    for (let at = start; at < end; at++) this.maskOctets[at] = 0;
  }

  private viewOf(b: Uint8Array): DataView {
    if (b !== this.memory) {
      this.memory = b;
      this.view = new DataView(b.buffer, b.byteOffset, b.byteLength);
    }
    return this.view;
  }
}
