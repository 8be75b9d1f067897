/**
 * A table from numbers to rows, in typed arrays: what is put in and taken out a hundred thousand times a second leaves nothing
 * to the collector, where a Map makes new memory every few times.
 */
import { assert } from "./assert.ts";

const BITS_MIN = 6;
const SLOTS_MIN = 2 ** BITS_MIN;
/** 2^32 over the golden ratio (Knuth's multiplicative hashing). */
const GOLDEN = 0x9e3779b1;
/** No number has this value: ours begin with 1. */
const EMPTY = 0;

export class NumberTable {
  /** A power of two of slots, at most half of them taken. */
  private keys = new Float64Array(SLOTS_MIN);
  private rows = new Int32Array(SLOTS_MIN);
  private bits = BITS_MIN;
  private count = 0;

  /** @param key  1 to 2^53, not in the table */
  add(key: number, row: number): void {
    assert(key >= 1 && this.find(key) === -1, "a number is used once");
    if (this.count * 2 >= this.keys.length) this.grow();
    this.place(key, row);
    this.count++;
  }

  /** @returns the row, −1 where the number is not in the table */
  get(key: number): number {
    const slot = this.find(key);
    return slot === -1 ? -1 : (this.rows[slot] as number);
  }

  /** Takes the number out if it is in. */
  delete(key: number): void {
    const { keys, rows } = this;
    let hole = this.find(key);
    if (hole === -1) return;
    this.count--;
    const mask = keys.length - 1;
    // What stands behind the hole and belongs before or into it moves up, so that no search ends too early.
    for (let slot = (hole + 1) & mask; keys[slot] !== EMPTY; slot = (slot + 1) & mask) {
      const home = this.home(keys[slot] as number);
      if (((slot - home) & mask) < ((slot - hole) & mask)) continue;
      keys[hole] = keys[slot] as number;
      rows[hole] = rows[slot] as number;
      hole = slot;
    }
    keys[hole] = EMPTY;
  }

  get size(): number {
    return this.count;
  }

  /** Numbers that are given one after the other are spread evenly: in one long run a deletion would have to look at all. */
  private home(key: number): number {
    return Math.imul(key, GOLDEN) >>> (32 - this.bits);
  }

  private find(key: number): number {
    const { keys } = this;
    const mask = keys.length - 1;
    for (let slot = this.home(key); keys[slot] !== EMPTY; slot = (slot + 1) & mask) if (keys[slot] === key) return slot;
    return -1;
  }

  private place(key: number, row: number): void {
    const mask = this.keys.length - 1;
    let slot = this.home(key);
    while (this.keys[slot] !== EMPTY) slot = (slot + 1) & mask;
    this.keys[slot] = key;
    this.rows[slot] = row;
  }

  private grow(): void {
    const { keys, rows } = this;
    this.bits++;
    this.keys = new Float64Array(keys.length * 2);
    this.rows = new Int32Array(keys.length * 2);
    for (let slot = 0; slot < keys.length; slot++)
      if (keys[slot] !== EMPTY) this.place(keys[slot] as number, rows[slot] as number);
  }
}
