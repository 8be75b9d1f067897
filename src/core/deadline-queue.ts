/**
 * Many absolute deadlines, one next: the reason why the whole core needs a single timer of its driver.
 *
 * Two shapes. `DeadlineQueue` takes deadlines in any order (a binary heap, O(log n)). `DeadlineRing` takes them only in
 * rising order, as constants added to the present always are (Timers J and K), and then everything is O(1). Both answer
 * the same calls in the same order whatever the keys are: ties go in the order of setting, so a run can be replayed. A third,
 * for rows of a table, is in deadline-rows.ts.
 */
import { assert } from "./assert.ts";
import type { Instant } from "./time.ts";

interface Entry<K> {
  readonly key: K;
  at: Instant;
  /** Rises with each `set`: the tie-break. */
  order: number;
  /** Place in the heap. */
  index: number;
}

/** At most one deadline for each key. */
export class DeadlineQueue<K> {
  private readonly heap: Entry<K>[] = [];
  private readonly entries = new Map<K, Entry<K>>();
  private orders = 0;

  /** Sets the deadline of `key`, replacing the one it had; among equal deadlines it is now the last. */
  set(key: K, at: Instant): void {
    assert(!Number.isNaN(at), "a deadline is a number");
    const order = this.orders++;
    const known = this.entries.get(key);
    if (known !== undefined) {
      known.at = at;
      known.order = order;
      this.settle(known);
      return;
    }
    const entry: Entry<K> = { key, at, order, index: this.heap.length };
    this.entries.set(key, entry);
    this.heap.push(entry);
    this.rise(entry);
  }

  /** Forgets the deadline of `key`. @returns false if it had none */
  delete(key: K): boolean {
    const entry = this.entries.get(key);
    if (entry !== undefined) this.remove(entry);
    return entry !== undefined;
  }

  has(key: K): boolean {
    return this.entries.has(key);
  }

  /** The earliest deadline, `undefined` if there is none. */
  next(): Instant | undefined {
    return this.heap[0]?.at;
  }

  /** Removes and returns the key with the earliest deadline if that is at or before `now`, else `undefined`. */
  take(now: Instant): K | undefined {
    const first = this.heap[0];
    if (first === undefined || first.at > now) return undefined;
    this.remove(first);
    return first.key;
  }

  size(): number {
    return this.heap.length;
  }

  private remove(entry: Entry<K>): void {
    this.entries.delete(entry.key);
    const last = this.heap.pop() as Entry<K>;
    if (last === entry) return;
    this.place(last, entry.index);
    this.settle(last);
  }

  private settle(entry: Entry<K>): void {
    this.rise(entry);
    this.sink(entry);
  }

  private rise(entry: Entry<K>): void {
    while (entry.index > 0) {
      const hole = entry.index;
      const parent = this.heap[(hole - 1) >> 1] as Entry<K>;
      if (!isBefore(entry, parent)) return;
      this.place(entry, parent.index);
      this.place(parent, hole);
    }
  }

  private sink(entry: Entry<K>): void {
    for (;;) {
      const hole = entry.index;
      const left = this.heap[2 * hole + 1];
      if (left === undefined) return;
      const right = this.heap[2 * hole + 2];
      const child = right !== undefined && isBefore(right, left) ? right : left;
      if (!isBefore(child, entry)) return;
      this.place(entry, child.index);
      this.place(child, hole);
    }
  }

  private place(entry: Entry<K>, index: number): void {
    entry.index = index;
    this.heap[index] = entry;
  }
}

function isBefore<K>(a: Entry<K>, b: Entry<K>): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

const RING_SLOTS_MIN = 16;

/** Deadlines that never fall: first in, first out. It keeps the memory of its fullest moment. */
export class DeadlineRing<K> {
  private keys: (K | undefined)[] = new Array<K | undefined>(RING_SLOTS_MIN).fill(undefined);
  private times = new Float64Array(RING_SLOTS_MIN);
  private head = 0;
  private count = 0;
  private latest: Instant = Number.NEGATIVE_INFINITY;

  /** Appends a deadline; `at` is never before the one appended last. */
  push(key: K, at: Instant): void {
    assert(at >= this.latest, "deadlines of a ring never fall");
    this.latest = at;
    if (this.count === this.keys.length) this.grow();
    const slot = (this.head + this.count) & (this.keys.length - 1);
    this.keys[slot] = key;
    this.times[slot] = at;
    this.count++;
  }

  /** The earliest deadline, `undefined` if there is none. */
  next(): Instant | undefined {
    return this.count === 0 ? undefined : this.times[this.head];
  }

  /** Removes and returns the first key if its deadline is at or before `now`, else `undefined`. */
  take(now: Instant): K | undefined {
    return this.count === 0 || (this.times[this.head] as number) > now ? undefined : this.shift();
  }

  /** Removes and returns the first key whatever its deadline, `undefined` if there is none. */
  shift(): K | undefined {
    if (this.count === 0) return undefined;
    const key = this.keys[this.head];
    this.keys[this.head] = undefined;
    this.head = (this.head + 1) & (this.keys.length - 1);
    this.count--;
    return key;
  }

  size(): number {
    return this.count;
  }

  /** Twice the slots: their number stays a power of two, which makes the mask of a place. */
  private grow(): void {
    const slots = this.keys.length;
    const keys = new Array<K | undefined>(slots * 2).fill(undefined);
    const times = new Float64Array(slots * 2);
    for (let i = 0; i < this.count; i++) {
      const slot = (this.head + i) & (slots - 1);
      keys[i] = this.keys[slot];
      times[i] = this.times[slot] as number;
    }
    this.keys = keys;
    this.times = times;
    this.head = 0;
  }
}
