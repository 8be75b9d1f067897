import { describe, expect, test } from "bun:test";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import { type HeaderScan, scanHeaders } from "../../src/sip/headers.ts";
import { LIMITS } from "../../src/sip/parse.ts";

function scan(text: string): HeaderScan {
  return scanHeaders(encodeUtf8(text), 0, LIMITS);
}

const SAMPLE = scan(
  "v: a\r\nX-One:1\r\nVIA : b\r\nx-one:  2 \t\r\nSubject:\r\nl:0\r\ns: folded\r\n  over \r\n\ttwo\r\nTo:\r\n sip:x\r\n\r\nbody",
).headers;

describe("headers", () => {
  test("are found in any case, by compact or long name, in their order", () => {
    expect(SAMPLE.get("Via")).toBe("a");
    expect(SAMPLE.get("v")).toBe("a");
    expect(SAMPLE.getAll("via")).toEqual(["a", "b"]);
    expect(SAMPLE.getAll("X-ONE")).toEqual(["1", "2"]);
    expect(SAMPLE.count("x-one")).toBe(2);
    expect(SAMPLE.get("Content-Length")).toBe("0");
  });

  test("tell an empty value from a missing header", () => {
    expect(SAMPLE.get("Subject")).toBe("");
    expect(SAMPLE.has("subject")).toBe(true);
    expect(SAMPLE.get("From")).toBeUndefined();
    expect(SAMPLE.getAll("X-Two")).toEqual([]);
    expect(SAMPLE.has("X-Two")).toBe(false);
    expect(SAMPLE.count("X-Two")).toBe(0);
  });

  test("unfold continued lines to one space", () => {
    expect(SAMPLE.getAll("s")[1]).toBe("folded over two");
    expect(SAMPLE.get("To")).toBe("sip:x");
  });

  test("are listed with long names for known ones, others as written", () => {
    expect(SAMPLE.entries()).toEqual([
      ["Via", "a"],
      ["X-One", "1"],
      ["Via", "b"],
      ["x-one", "2"],
      ["Subject", ""],
      ["Content-Length", "0"],
      ["Subject", "folded over two"],
      ["To", "sip:x"],
    ]);
  });

  test("know every compact name of RFC 3261", () => {
    const compact = { c: "Content-Type", e: "Content-Encoding", f: "From", i: "Call-ID", k: "Supported" };
    const more = { l: "Content-Length", m: "Contact", s: "Subject", t: "To", v: "Via" };
    for (const [short, long] of Object.entries({ ...compact, ...more })) {
      expect(scan(`${short}: x\r\n\r\n`).headers.entries()).toEqual([[long, "x"]]);
      expect(scan(`${short.toUpperCase()}: x\r\n\r\n`).headers.get(long)).toBe("x");
    }
  });

  test("do not take a name that only hashes like a known one for it", () => {
    // 31 · "e" + "q" is 31 · "g" + "3".
    const { headers } = scan("CSg3: 1\r\nCSeq: 2\r\n\r\n");
    expect(headers.getAll("CSeq")).toEqual(["2"]);
    expect(headers.getAll("csg3")).toEqual(["1"]);
  });

  test("have one number per known name: every long name is found again", () => {
    const names = "Via From To Call-ID CSeq Content-Length Content-Type Max-Forwards User-Agent Server Contact Subject";
    const more = "Content-Encoding Supported Accept Allow Date Expires Proxy-Require Record-Route Require Retry-After";
    for (const name of `${names} ${more} Route Unsupported Warning`.split(" ")) {
      expect(scan(`${name.toUpperCase()}: x\r\n\r\n`).headers.entries()).toEqual([[name, "x"]]);
    }
  });

  test("keep UTF-8, and do not fail on what is none", () => {
    const bytes = new Uint8Array([...encodeUtf8("X: ж"), 0xff, ...encodeUtf8("\r\n\r\n")]);
    expect(scanHeaders(bytes, 0, LIMITS).headers.get("X")).toBe("ж\ufffd");
  });
});

test.each([
  ["a: 1\r\n", "no empty line"],
  ["a: 1\r\n\r", "no empty line"],
  ["a: 1\n\n", "alone"],
  ["a: 1\r\nb: 2\nc: 3\r\n\r\n", "alone"],
  ["a: 1\rb: 2\r\n\r\n", "alone"],
  ["a: \u0000\r\n\r\n", "NUL"],
])("headers: %p has no reliable end", (text, why) => {
  const { error, framed, bodyStart } = scan(text);
  expect(error?.message).toContain(why);
  expect([framed, bodyStart, error?.statusHint]).toEqual([false, -1, 400]);
});

test.each([" a: 1", "a 1", "a", ":1", "a b: 1", "ä: 1", "(a): 1"])(
  "headers: %p is no header line, the next one is read",
  (line) => {
    const { error, framed, headers } = scan(`${line}\r\nb: 2\r\n\r\n`);
    expect(error?.message).toContain("without a name");
    expect(framed).toBe(true);
    expect(headers.entries()).toEqual([["b", "2"]]);
  },
);

test.each([
  ["64 lines of one name", "X-A: 1\r\n".repeat(64), undefined],
  ["65 lines of one name", "X-A: 1\r\n".repeat(65), 513],
  ["65 lines of one known name in two spellings", `Via: 1\r\n${"v: 1\r\n".repeat(64)}`, 513],
  ["512 lines", Array.from({ length: 512 }, (_, i) => `X-${i}: 1\r\n`).join(""), undefined],
  ["513 lines", Array.from({ length: 513 }, (_, i) => `X-${i}: 1\r\n`).join(""), 513],
  ["65,536 octets", `X: ${"a".repeat(65_536 - 7)}\r\n`, undefined],
  ["65,537 octets", `X: ${"a".repeat(65_537 - 7)}\r\n`, 513],
])("headers: %s", (_, text, status) => {
  expect(scan(`${text}\r\n`).error?.statusHint).toBe(status as number);
});
