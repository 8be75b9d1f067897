import { describe, expect, test } from "bun:test";
import { type Line, LineCutter } from "../../src/cli/lines.ts";

function cut(chunks: readonly Uint8Array[], max?: number): Line[] {
  const cutter = new LineCutter(max);
  const lines = chunks.flatMap((chunk) => [...cutter.push(chunk)]);
  const last = cutter.end();
  return last === undefined ? lines : [...lines, last];
}

function octets(text: string): Uint8Array {
  return Buffer.from(text, "latin1");
}

/** Lines as text; one that was too long as null. */
function texts(lines: readonly Line[]): (string | null)[] {
  return lines.map((line) => (line.octets === undefined ? null : Buffer.from(line.octets).toString("latin1")));
}

const CASES: [name: string, input: string, lines: (string | null)[]][] = [
  ["nothing is no line", "", []],
  ["LF ends a line", "a\nb\n", ["a", "b"]],
  ["CRLF ends a line", "a\r\nb\r\n", ["a", "b"]],
  ["a last line without an end counts", "a\nb", ["a", "b"]],
  ["an empty line is a line", "\n\r\n\na", ["", "", "", "a"]],
  ["one CR alone stays, and of two the last belongs to the end", "a\rb\r\r\nc\r", ["a\rb\r", "c\r"]],
  ["other octets stay", "\x00\xff\xfe\t \n\xef\xbb\xbf\n", ["\x00\xff\xfe\t ", "\xef\xbb\xbf"]],
  [
    "what is too long is a line without octets, and the next one is whole",
    "12345678\n123456789\nx\n",
    ["12345678", null, "x"],
  ],
  ["the end of a line does not count", "12345678\r\n12345678\r", ["12345678", null]],
  ["too long at the end", "a\n123456789", ["a", null]],
];

describe("LineCutter", () => {
  for (const [name, input, expected] of CASES) {
    test(`${name}, wherever the chunks end`, () => {
      const whole = octets(input);
      for (let first = 0; first <= whole.length; first++) {
        for (let second = first; second <= whole.length; second++) {
          const chunks = [whole.subarray(0, first), whole.subarray(first, second), whole.subarray(second)];
          expect(texts(cut(chunks, 8))).toEqual(expected);
        }
      }
      const single = [...whole].map((octet) => Uint8Array.of(octet));
      expect(texts(cut(single, 8))).toEqual(expected);
      expect(cut(single, 8).map((line) => line.number)).toEqual(expected.map((_, index) => index + 1));
    });
  }

  test("a line without end is not held in memory", () => {
    const cutter = new LineCutter();
    const chunk = new Uint8Array(64 * 1024).fill(0x61);
    Bun.gc(true);
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 4_096; i++) expect([...cutter.push(chunk)]).toEqual([]);
    // 256 MiB went through; the limit of a line is 1 MiB.
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
    expect(texts([...cutter.push(octets("\nb\n"))])).toEqual([null, "b"]);
  });
});
