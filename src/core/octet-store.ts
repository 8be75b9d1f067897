/**
 * Memory for octets that are kept about equally long: written one after the other into large pieces, a piece is used again when
 * nobody keeps anything in it. There is no object for what is kept, only a number, so that the collector has nothing to do
 * however much it is.
 */
import { assert } from "./assert.ts";

const PIECE_BYTES = 256 * 1024;
/** A place is the number of its piece times this, plus the offset in it. */
const PLACES = 2 ** 24;

interface Piece {
  readonly octets: Uint8Array;
  kept: number;
}

export class OctetStore {
  private readonly pieces: Piece[] = [];
  /** Numbers of pieces that nobody keeps anything in. */
  private readonly empty: number[] = [];
  private current = -1;
  private used = 0;

  /** Memory that `reserve` has made room in. */
  get octets(): Uint8Array {
    return (this.pieces[this.current] as Piece).octets;
  }

  /** Makes room. @returns the offset in `octets` that may be written from, until the next call */
  reserve(bytes: number): number {
    assert(bytes <= PLACES, "what is stored fits a piece");
    const piece = this.pieces[this.current];
    if (piece === undefined || this.used + bytes > piece.octets.length) this.open(bytes);
    return this.used;
  }

  /** Keeps what was written up to `end`. @returns its place, for `view` and `release` */
  commit(end: number): number {
    const place = this.current * PLACES + this.used;
    this.used = end;
    (this.pieces[this.current] as Piece).kept++;
    return place;
  }

  /** @returns the octets themselves; they stay as they are until `release`, and a while after it */
  view(place: number, length: number): Uint8Array {
    const offset = place % PLACES;
    return (this.pieces[Math.floor(place / PLACES)] as Piece).octets.subarray(offset, offset + length);
  }

  release(place: number): void {
    const index = Math.floor(place / PLACES);
    const piece = this.pieces[index] as Piece;
    assert(piece.kept > 0, "what is released was kept");
    if (--piece.kept === 0 && index !== this.current) this.retire(index);
  }

  private open(bytes: number): void {
    const last = this.current;
    const piece = this.pieces[last];
    this.current = bytes > PIECE_BYTES ? this.add(bytes) : (this.empty.shift() ?? this.add(PIECE_BYTES));
    this.used = 0;
    if (piece !== undefined && piece.kept === 0) this.retire(last);
  }

  private add(bytes: number): number {
    return this.pieces.push({ octets: new Uint8Array(bytes), kept: 0 }) - 1;
  }

  /** A piece of its own for something large is given back: its number stays, with nothing behind it. */
  private retire(index: number): void {
    const piece = this.pieces[index] as Piece;
    if (piece.octets.length > PIECE_BYTES) this.pieces[index] = { octets: new Uint8Array(0), kept: 0 };
    else this.empty.push(index);
  }
}
