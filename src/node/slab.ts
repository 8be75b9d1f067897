/**
 * Memory for the octets of messages, which programs may keep for as long as they like: written one behind the other into pieces that
 * are left to the collector. A piece for each message costs more than to read it.
 */
import { copyBytes, copyOf, EMPTY } from "../core/bytes.ts";

/**
 * Whoever keeps a message keeps the piece that it stands in, and so does every round of the collector the piece that is in use: of 16 KiB
 * it is 7 MiB between two rounds that look at everything.
 */
const PIECE_BYTES = 4 * 1_024;
/** What is larger has a piece of its own. */
const SHARED_BYTES_MAX = 1_024;

export class Slab {
  /** Where `put` has put something last. */
  octets: Uint8Array = EMPTY;
  private piece: Uint8Array = EMPTY;
  private used = 0;

  /** Copies `from[start, end)`. @returns where it stands in `octets` */
  put(from: Uint8Array, start: number, end: number): number {
    const length = end - start;
    if (length > SHARED_BYTES_MAX) {
      this.octets = copyOf(from, start, end);
      return 0;
    }
    if (this.used + length > this.piece.length) {
      this.piece = new Uint8Array(PIECE_BYTES);
      this.used = 0;
    }
    this.octets = this.piece;
    const at = this.used;
    copyBytes(from, start, end, this.piece, at);
    this.used += length;
    return at;
  }
}
