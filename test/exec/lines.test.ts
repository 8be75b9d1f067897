import { describe, expect, test } from "bun:test";
import { LineSplitter } from "../../src/exec/lines.ts";

function split(chunks: Uint8Array[]): string[] {
  const lines: string[] = [];
  const splitter = new LineSplitter((line) => lines.push(line));
  for (const chunk of chunks) splitter.push(chunk);
  splitter.end();
  return lines;
}

describe("lines", () => {
  const octets = new TextEncoder().encode("one\r\n\nzwei ü\nthree");

  test("are the same wherever the chunks end", () => {
    for (let at = 0; at <= octets.length; at++) {
      expect(split([octets.slice(0, at), octets.slice(at)])).toEqual(["one", "zwei ü", "three"]);
    }
    expect(split([...octets].map((octet) => Uint8Array.of(octet)))).toEqual(["one", "zwei ü", "three"]);
  });

  test("what is no UTF-8 becomes a mark, not an error", () => {
    expect(split([Uint8Array.of(0x61, 0xff, 0x0a)])).toEqual(["a\ufffd"]);
  });

  test("a line without an end is cut, and the next one is whole", () => {
    const chunk = new TextEncoder().encode("x".repeat(700));
    const lines = split([...Array.from({ length: 5_000 }, () => chunk), new TextEncoder().encode("\nnext\n")]);
    expect(lines).toEqual(["x".repeat(1_000), "next"]);
  });
});
