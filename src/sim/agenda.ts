/**
 * What happens when: items with an instant, taken in order of time and, at one instant, in the order in which they were
 * added. That second half is what makes a run a function of its seed: a heap alone would not keep it.
 */
import type { Instant } from "../core/time.ts";

interface Entry<T> {
  readonly at: Instant;
  readonly order: number;
  readonly item: T;
}

export class Agenda<T> {
  private readonly heap: Entry<T>[] = [];
  private order = 0;

  get size(): number {
    return this.heap.length;
  }

  /** When the first item is due, `undefined` if there is none. */
  nextAt(): Instant | undefined {
    return this.heap[0]?.at;
  }

  add(at: Instant, item: T): void {
    const heap = this.heap;
    const entry: Entry<T> = { at, order: this.order++, item };
    let index = heap.length;
    heap.push(entry);
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!before(entry, heap[parent] as Entry<T>)) break;
      heap[index] = heap[parent] as Entry<T>;
      index = parent;
    }
    heap[index] = entry;
  }

  /** Takes the first item that is due at or before `now`, `undefined` if none is. */
  take(now: Instant): T | undefined {
    const heap = this.heap;
    const first = heap[0];
    if (first === undefined || first.at > now) return undefined;
    const last = heap.pop() as Entry<T>;
    if (heap.length > 0) this.sink(last);
    return first.item;
  }

  private sink(entry: Entry<T>): void {
    const heap = this.heap;
    let index = 0;
    for (;;) {
      let child = index * 2 + 1;
      if (child >= heap.length) break;
      const right = heap[child + 1];
      if (right !== undefined && before(right, heap[child] as Entry<T>)) child++;
      if (!before(heap[child] as Entry<T>, entry)) break;
      heap[index] = heap[child] as Entry<T>;
      index = child;
    }
    heap[index] = entry;
  }
}

function before<T>(a: Entry<T>, b: Entry<T>): boolean {
  return a.at !== b.at ? a.at < b.at : a.order < b.order;
}
