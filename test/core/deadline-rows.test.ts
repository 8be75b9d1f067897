import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DeadlineRows } from "../../src/core/deadline-rows.ts";

const ROWS = 64;

function rowsOf(count: number): DeadlineRows {
  const deadlines = new DeadlineRows();
  deadlines.grow(count);
  return deadlines;
}

function drain(deadlines: DeadlineRows, now: number): number[] {
  const rows: number[] = [];
  for (let row = deadlines.take(now); row !== undefined; row = deadlines.take(now)) rows.push(row);
  return rows;
}

describe("deadlines of rows", () => {
  test("gives rows back earliest first, and only those that are due", () => {
    const deadlines = rowsOf(4);
    deadlines.set(3, 30);
    deadlines.set(1, 10);
    deadlines.set(2, 20);
    expect(deadlines.next()).toBe(10);
    expect(drain(deadlines, 9)).toEqual([]);
    expect(drain(deadlines, 20)).toEqual([1, 2]);
    expect([deadlines.next(), deadlines.size()]).toEqual([30, 1]);
  });

  test("ties go in the order of setting, also across intervals, and setting again moves a row behind its equals", () => {
    const deadlines = rowsOf(8);
    deadlines.set(0, 32_000);
    deadlines.set(1, 500);
    for (const row of [5, 3, 4]) deadlines.set(row, 32_000);
    deadlines.set(3, 32_000);
    expect(drain(deadlines, 32_000)).toEqual([1, 0, 5, 4, 3]);
  });

  test("forgets what was deleted, and does not mind deleting what it never had", () => {
    const deadlines = rowsOf(4);
    deadlines.set(0, 10);
    deadlines.set(1, 20);
    for (const row of [0, 0, 3]) deadlines.delete(row);
    expect([deadlines.next(), deadlines.size()]).toEqual([20, 1]);
    expect(drain(deadlines, 100)).toEqual([1]);
    expect([deadlines.next(), deadlines.take(100), deadlines.size()]).toEqual([undefined, undefined, 0]);
  });

  test("keeps what it has when it grows", () => {
    const deadlines = rowsOf(2);
    deadlines.set(1, 10);
    deadlines.grow(8);
    deadlines.set(7, 5);
    expect(drain(deadlines, 10)).toEqual([7, 1]);
  });

  test("takes no deadline that is not a number, and no row that is not there", () => {
    expect(() => rowsOf(1).set(0, Number.NaN)).toThrow("a deadline is a number");
    expect(() => rowsOf(1).set(1, 0)).toThrow("its row is there");
  });

  // Goal: whatever the order, also of more intervals than there are lists. Method: against a sorted array.
  test("every deadline comes once, at its time, whatever was set and forgotten", () => {
    const step = fc.tuple(fc.constantFrom("set", "delete", "take"), fc.nat(ROWS - 1), fc.nat(50));
    const property = fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
      const deadlines = rowsOf(ROWS);
      const known = new Map<number, number>();
      for (const [what, row, number] of steps) {
        if (what === "delete") {
          deadlines.delete(row);
          known.delete(row);
        } else if (what === "set") {
          deadlines.set(row, number);
          known.set(row, number);
        } else {
          const due = drain(deadlines, number);
          expect(due.map((one) => known.get(one) as number)).toEqual(
            [...known.values()].filter((at) => at <= number).sort((a, b) => a - b),
          );
          for (const one of due) known.delete(one);
        }
        expect(deadlines.size()).toBe(known.size);
        expect(deadlines.next()).toBe(known.size === 0 ? undefined : Math.min(...known.values()));
      }
    });
    fc.assert(property, { numRuns: 200 });
  });
});
