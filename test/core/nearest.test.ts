import { describe, expect, test } from "bun:test";
import { nearest } from "../../src/core/nearest.ts";

const WORDS = ["timeout", "except", "require", "content-type", "json"];

describe("nearest", () => {
  const cases: [word: string, found: string | undefined][] = [
    ["tiemout", "timeout"],
    ["TIMEOUT", "timeout"],
    ["jsn", "json"],
    ["cont", "content-type"],
    ["requires", "require"],
    ["zzz", undefined],
    ["", undefined],
    ["x".repeat(1_000), undefined],
  ];
  for (const [word, found] of cases) {
    test(`${JSON.stringify(word.slice(0, 20))} means ${found}`, () => expect(nearest(word, WORDS)).toBe(found));
  }

  test("the first of two equally near words wins", () => expect(nearest("b", ["a", "c"])).toBe("a"));
});
