/**
 * Deadlines of the rows of a table, in typed arrays: for very many that are a few constants added to the present (Timers E and
 * F), set and forgotten in O(1), with nothing for the collector to look at.
 */
import { assert } from "./assert.ts";
import { DeadlineQueue } from "./deadline-queue.ts";
import { grown, NO_ROW } from "./rows.ts";
import type { Instant } from "./time.ts";

/** Timer E has four intervals by default, and requests and pings have one life each. */
const LISTS = 8;
/** In `listOf`: the row has no deadline, or it is in the queue. */
const NOWHERE = 255;
const QUEUED = 254;

/**
 * At most one deadline for each row. A deadline is put behind another that is not after it; there are a few such lists, so
 * those of one interval stay together. Only what fits none of them goes into a queue: among equal deadlines it comes last.
 */
export class DeadlineRows {
  private readonly first = new Int32Array(LISTS).fill(NO_ROW);
  private readonly last = new Int32Array(LISTS).fill(NO_ROW);
  private readonly others = new DeadlineQueue<number>();
  private orders = 0;
  private count = 0;
  // One element a row.
  private times = new Float64Array(0);
  private order = new Float64Array(0);
  private older = new Int32Array(0);
  private newer = new Int32Array(0);
  private listOf = new Uint8Array(0);

  /** Makes room for so many rows; there are never fewer again. */
  grow(rows: number): void {
    const before = this.listOf;
    this.times = grown(this.times, new Float64Array(rows));
    this.order = grown(this.order, new Float64Array(rows));
    this.older = grown(this.older, new Int32Array(rows));
    this.newer = grown(this.newer, new Int32Array(rows));
    this.listOf = grown(before, new Uint8Array(rows).fill(NOWHERE, before.length));
  }

  /** Sets the deadline of a row, replacing the one it had; among equal deadlines it is now the last. */
  set(row: number, at: Instant): void {
    assert(row < this.listOf.length && !Number.isNaN(at), "a deadline is a number, and its row is there");
    this.delete(row);
    this.count++;
    const list = this.listFor(at);
    if (list === NO_ROW) {
      this.listOf[row] = QUEUED;
      this.others.set(row, at);
      return;
    }
    const last = this.last[list] as number;
    this.times[row] = at;
    this.order[row] = this.orders++;
    this.listOf[row] = list;
    this.older[row] = last;
    this.newer[row] = NO_ROW;
    if (last === NO_ROW) this.first[list] = row;
    else this.newer[last] = row;
    this.last[list] = row;
  }

  /** Forgets the deadline of a row, if it has one. */
  delete(row: number): void {
    const list = this.listOf[row] as number;
    if (list === NOWHERE) return;
    this.listOf[row] = NOWHERE;
    this.count--;
    if (list === QUEUED) {
      this.others.delete(row);
      return;
    }
    const older = this.older[row] as number;
    const newer = this.newer[row] as number;
    if (older === NO_ROW) this.first[list] = newer;
    else this.newer[older] = newer;
    if (newer === NO_ROW) this.last[list] = older;
    else this.older[newer] = older;
  }

  /** The earliest deadline, `undefined` if there is none. */
  next(): Instant | undefined {
    if (this.count === 0) return undefined;
    const row = this.earliest();
    const other = this.others.next();
    if (row === NO_ROW) return other;
    const at = this.times[row] as number;
    return other === undefined ? at : Math.min(at, other);
  }

  /** Takes away the earliest deadline if that is at or before `now`. @returns its row, `undefined` if nothing is due */
  take(now: Instant): number | undefined {
    if (this.count === 0) return undefined;
    const row = this.earliest();
    const at = row === NO_ROW ? Number.POSITIVE_INFINITY : (this.times[row] as number);
    const other = this.others.next();
    if (other !== undefined && other < at) {
      const taken = this.others.take(now);
      if (taken !== undefined) this.delete(taken);
      return taken;
    }
    if (at > now) return undefined;
    this.delete(row);
    return row;
  }

  size(): number {
    return this.count;
  }

  /** The list whose last deadline is the latest of those that are not after `at`, else an empty one, else none. */
  private listFor(at: Instant): number {
    let best = NO_ROW;
    let latest = Number.NEGATIVE_INFINITY;
    let empty = NO_ROW;
    for (let list = 0; list < LISTS; list++) {
      const last = this.last[list] as number;
      if (last === NO_ROW) {
        if (empty === NO_ROW) empty = list;
        continue;
      }
      const time = this.times[last] as number;
      if (time > at || time < latest) continue;
      best = list;
      latest = time;
    }
    return best === NO_ROW ? empty : best;
  }

  /** @returns the row of the lists with the earliest deadline */
  private earliest(): number {
    let earliest = NO_ROW;
    for (let list = 0; list < LISTS; list++) {
      const row = this.first[list] as number;
      if (row !== NO_ROW && (earliest === NO_ROW || this.isBefore(row, earliest))) earliest = row;
    }
    return earliest;
  }

  private isBefore(a: number, b: number): boolean {
    const difference = (this.times[a] as number) - (this.times[b] as number);
    return difference < 0 || (difference === 0 && (this.order[a] as number) < (this.order[b] as number));
  }
}
