import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { below, type Random, seededRandom, token } from "../../src/core/random.ts";

function sequence(random: Random, length: number): number[] {
  return Array.from({ length }, () => random.u32());
}

function constant(value: number): Random {
  return { u32: () => value };
}

describe("seeded random", () => {
  test("the same seed gives the same sequence, and two generators do not disturb each other", () => {
    const a = seededRandom(7);
    const b = seededRandom(7);
    const first = sequence(a, 50);
    expect(sequence(b, 50)).toEqual(first);
    expect(sequence(a, 50)).not.toEqual(first);
  });

  test("a sequence never changes from release to release: a failing seed stays a failing seed", () => {
    expect(sequence(seededRandom(1), 4)).toEqual([2212199553, 1506684997, 389392296, 138374344]);
  });

  test("neighbouring seeds give unlike sequences", () => {
    const starts = new Set(Array.from({ length: 1_000 }, (_, seed) => sequence(seededRandom(seed), 2).join()));
    expect(starts.size).toBe(1_000);
  });

  test("every number is an integer in 0 … 2³²−1, and each of the 32 bits is set about half of the time", () => {
    const numbers = sequence(seededRandom(3), 20_000);
    expect(numbers.every((value) => Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff)).toBe(true);
    for (let bit = 0; bit < 32; bit++) {
      const set = numbers.filter((value) => (value >>> bit) & 1).length;
      expect(Math.abs(set - 10_000)).toBeLessThan(500);
    }
  });
});

describe("token", () => {
  test("is eight lower-case hexadecimal digits for each word, zeros included", () => {
    expect(token(constant(0), 2)).toBe("0000000000000000");
    expect(token(constant(0xffff_ffff), 1)).toBe("ffffffff");
    expect(token(constant(0xabc), 2)).toBe("00000abc00000abc");
    expect(token(constant(1), 0)).toBe("");
  });

  test("two words do not repeat", () => {
    const random = seededRandom(4);
    expect(new Set(Array.from({ length: 10_000 }, () => token(random, 2))).size).toBe(10_000);
  });
});

describe("below", () => {
  test("is an integer in 0 … bound−1, for the least and the greatest draw too", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffff_ffff }), fc.integer({ min: 1, max: 0xffff_ffff }), (draw, bound) => {
        const value = below(constant(draw), bound);
        expect(Number.isInteger(value) && value >= 0 && value < bound).toBe(true);
      }),
      { seed: 2 },
    );
    expect(below(constant(0), 10)).toBe(0);
    expect(below(constant(0xffff_ffff), 10)).toBe(9);
    expect(below(constant(0xffff_ffff), 1)).toBe(0);
  });

  test("hits every value of a small bound about equally often", () => {
    const random = seededRandom(5);
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 10_000; i++) counts[below(random, 10)]!++;
    for (const count of counts) expect(Math.abs(count - 1_000)).toBeLessThan(150);
  });
});
