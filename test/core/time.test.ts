import { describe, expect, test } from "bun:test";
import { parseDuration } from "../../src/core/time.ts";

describe("duration", () => {
  test.each<[string, number]>([
    ["500ms", 500],
    ["2s", 2_000],
    ["1.5s", 1_500],
    ["1m", 60_000],
    ["1h", 3_600_000],
    ["60", 60_000],
    ["0", 0],
    ["0.25", 250],
    ["007s", 7_000],
  ])("%s is %d ms", (text, milliseconds) => {
    expect(parseDuration(text)).toBe(milliseconds);
  });

  test.each([
    "",
    "s",
    "ms",
    "-1s",
    "+1s",
    "1 s",
    " 1s",
    "1s ",
    "1d",
    "1S",
    ".5s",
    "1.s",
    "1,5s",
    "1e3",
    "0x10",
    "Infinity",
  ])("%p is none", (text) => {
    expect(parseDuration(text)).toBeUndefined();
  });

  test("no text is too long to be refused at once", () => {
    expect(parseDuration("1".repeat(1_000_000))).toBeUndefined();
    expect(parseDuration(`1.${"1".repeat(1_000_000)}s`)).toBeUndefined();
  });
});
