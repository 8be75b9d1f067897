import { describe, expect, test } from "bun:test";
import { LINGER_MS, Linger } from "../../src/queue/linger.ts";

/** Calls, each so long after the answer to the one before, and an answer after a flush. @returns after which answers it looked out */
function lookOuts(gaps: readonly number[]): boolean[] {
  const linger = new Linger();
  let now = 1_000;
  let until: number | undefined;
  return gaps.map((gap) => {
    now += gap;
    if (until !== undefined && now > until) linger.missed();
    linger.asked(now);
    now += 0.25;
    until = linger.answered(now);
    if (until !== undefined) expect(until - now).toBeCloseTo(LINGER_MS, 6);
    return until !== undefined;
  });
}

const always = (gap: number, times: number): number[] => Array.from({ length: times }, () => gap);

describe("looking out for the next call", () => {
  test("for who asks again at once, from his second call on", () => {
    expect(lookOuts([5, ...always(0.1, 4)])).toEqual([false, true, true, true, true]);
  });

  test("never for calls that are far apart", () => {
    expect(lookOuts(always(1, 200))).not.toContain(true);
  });

  test("in vain once: one answer without, and then it is forgotten", () => {
    const seen = lookOuts([5, ...always(0.1, 3), 2, ...always(0.1, 4), 2, ...always(0.1, 4)]);
    expect(seen.map(Number).join("")).toBe(["0111", "01111", "01111"].join(""));
  });

  test("who always asks just too late costs it less and less: one answer of 65 at last", () => {
    const seen = lookOuts(always(0.2, 1_000));
    const places = seen.flatMap((one, i) => (one ? [i] : []));
    const pauses = places.slice(1).map((place, i) => place - (places[i] as number) - 1);
    expect(pauses.slice(0, 9)).toEqual([1, 2, 4, 8, 16, 32, 64, 64, 64]);
  });
});
