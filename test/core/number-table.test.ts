import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { NumberTable } from "../../src/core/number-table.ts";

describe("number table", () => {
  test("finds what was put in, and nothing else", () => {
    const table = new NumberTable();
    table.add(1, 7);
    table.add(2 ** 40, 0);
    expect([1, 2, 2 ** 40].map((key) => table.get(key))).toEqual([7, -1, 0]);
    expect(table.size).toBe(2);
    table.delete(1);
    table.delete(1);
    expect([table.get(1), table.size]).toEqual([-1, 1]);
  });

  test("a number that is in it, or is none of ours, is the caller's bug", () => {
    const table = new NumberTable();
    table.add(5, 1);
    expect(() => table.add(5, 2)).toThrow("a number is used once");
    expect(() => table.add(0, 2)).toThrow("a number is used once");
  });

  test("does what a Map does", () => {
    const steps = fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 400 })), { maxLength: 2_000 });
    const property = fc.property(steps, fc.constantFrom(0, 2 ** 32 - 200, 2 ** 45), (list, base) => {
      const [table, map] = [new NumberTable(), new Map<number, number>()];
      for (const [index, [isAdded, number]] of list.entries()) {
        const key = base + number;
        if (isAdded && !map.has(key)) {
          table.add(key, index);
          map.set(key, index);
        } else {
          table.delete(key);
          map.delete(key);
        }
        expect(table.size).toBe(map.size);
      }
      for (let number = 1; number <= 400; number++) expect(table.get(base + number)).toBe(map.get(base + number) ?? -1);
    });
    fc.assert(property, { numRuns: 60 });
  });
});
