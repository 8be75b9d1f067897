import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DeadlineQueue, DeadlineRing } from "../../src/core/deadline-queue.ts";

function drain<K>(queue: { take(now: number): K | undefined }, now: number): K[] {
  const keys: K[] = [];
  for (let key = queue.take(now); key !== undefined; key = queue.take(now)) keys.push(key);
  return keys;
}

describe("deadline queue", () => {
  test("gives keys back earliest first, and only those that are due", () => {
    const queue = new DeadlineQueue<string>();
    queue.set("late", 30);
    queue.set("early", 10);
    queue.set("middle", 20);
    expect(queue.next()).toBe(10);
    expect(drain(queue, 9)).toEqual([]);
    expect(drain(queue, 20)).toEqual(["early", "middle"]);
    expect(queue.next()).toBe(30);
    expect(queue.size()).toBe(1);
  });

  test("ties go in the order of setting, and setting again moves a key behind its equals", () => {
    const queue = new DeadlineQueue<string>();
    for (const key of ["a", "b", "c", "d"]) queue.set(key, 5);
    queue.set("b", 5);
    expect(drain(queue, 5)).toEqual(["a", "c", "d", "b"]);
  });

  test("a deadline set again replaces the old one, in both directions", () => {
    const queue = new DeadlineQueue<string>();
    queue.set("a", 10);
    queue.set("b", 20);
    queue.set("a", 30);
    expect(queue.size()).toBe(2);
    expect(queue.next()).toBe(20);
    queue.set("a", 1);
    expect(drain(queue, 1)).toEqual(["a"]);
  });

  test("forgets what was deleted, and does not mind deleting what it never had", () => {
    const queue = new DeadlineQueue<string>();
    queue.set("a", 10);
    queue.set("b", 20);
    expect([queue.has("a"), queue.has("b"), queue.has("never")]).toEqual([true, true, false]);
    expect(queue.delete("a")).toBe(true);
    expect(queue.delete("a")).toBe(false);
    expect(queue.delete("never")).toBe(false);
    expect(queue.has("a")).toBe(false);
    expect(queue.next()).toBe(20);
    expect(drain(queue, 100)).toEqual(["b"]);
    expect(queue.next()).toBeUndefined();
    expect(queue.take(100)).toBeUndefined();
  });

  test("takes no deadline that is not a number", () => {
    expect(() => new DeadlineQueue<string>().set("a", Number.NaN)).toThrow("a deadline is a number");
  });

  // Goal: heap and sorted list never disagree. Method: random calls on both, few keys and few instants for many ties.
  test("behaves as a sorted list under any sequence of calls", () => {
    const call = fc.record({
      what: fc.constantFrom("set", "set", "set", "delete", "take"),
      key: fc.integer({ min: 0, max: 30 }),
      at: fc.integer({ min: 0, max: 12 }),
    });
    fc.assert(
      fc.property(fc.array(call, { maxLength: 120 }), (calls) => {
        const queue = new DeadlineQueue<number>();
        let model: { key: number; at: number; order: number }[] = [];
        calls.forEach(({ what, key, at }, order) => {
          model.sort((a, b) => a.at - b.at || a.order - b.order);
          const first = model[0];
          if (what === "take") {
            const due = first !== undefined && first.at <= at ? first.key : undefined;
            expect(queue.take(at)).toBe(due as number);
            if (due === undefined) return;
            model = model.slice(1);
          } else {
            model = model.filter((entry) => entry.key !== key);
            if (what === "set") model.push({ key, at, order });
            if (what === "set") queue.set(key, at);
            else queue.delete(key);
          }
          expect(queue.size()).toBe(model.length);
          expect(queue.next()).toBe(
            model.length === 0 ? (undefined as never) : Math.min(...model.map((entry) => entry.at)),
          );
        });
      }),
      { seed: 2, numRuns: 200 },
    );
  });
});

describe("deadline ring", () => {
  test("gives keys back in the order of pushing, and only those that are due", () => {
    const ring = new DeadlineRing<string>();
    ring.push("a", 1);
    ring.push("b", 2);
    ring.push("c", 2);
    ring.push("d", 3);
    expect(ring.next()).toBe(1);
    expect(drain(ring, 2)).toEqual(["a", "b", "c"]);
    expect(ring.next()).toBe(3);
    expect(ring.shift()).toBe("d");
    expect(ring.shift()).toBeUndefined();
    expect(ring.next()).toBeUndefined();
  });

  test("keeps its order when it wraps around and when it grows", () => {
    const ring = new DeadlineRing<number>();
    const seen: number[] = [];
    for (let i = 0; i < 1_000; i++) {
      ring.push(i, i);
      if (i % 3 === 0) seen.push(ring.shift() as number);
    }
    expect(ring.size()).toBe(1_000 - seen.length);
    expect([...seen, ...drain(ring, 1_000)]).toEqual(Array.from({ length: 1_000 }, (_, i) => i));
  });

  test("refuses a deadline before the last one", () => {
    const ring = new DeadlineRing<string>();
    ring.push("a", 5);
    expect(() => ring.push("b", 4)).toThrow("deadlines of a ring never fall");
  });
});
