import { expect, test } from "bun:test";
import fc from "fast-check";
import { encodeKey } from "../../src/amqp/encode.ts";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import { anyText } from "../helpers/texts.ts";

const cases: [what: string, text: string | Uint8Array, word: string][] = [
  ["what stays", "azAZ09-~_", "azAZ09-~_"],
  ["a space", "a b", "a+b"],
  ["a plus", "a+b", "a%2Bb"],
  ["a dot", "a.b", "a%2Eb"],
  ["a percent sign", "100%", "100%25"],
  ["# alone", "#", "#"],
  ["* alone", "*", "*"],
  ["# beside others", "##", "%23%23"],
  ["* beside others", "*a", "%2Aa"],
  ["a URI", "sip:a@b;x=/", "sip%3Aa%40b%3Bx%3D%2F"],
  ["nothing", "", ""],
  ["octets above 127", "é€", "%C3%A9%E2%82%AC"],
  ["octets that are no UTF-8", Uint8Array.of(0, 0xff, 0x0a), "%00%FF%0A"],
];
for (const [what, text, word] of cases)
  test(`${what} becomes ${JSON.stringify(word)}`, () => expect(encodeKey(text)).toBe(word));

test("any octets make one word that reads back as they were", () => {
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array(), anyText().map(encodeUtf8)), (octets) => {
      const word = encodeKey(octets);
      expect(word).toMatch(/^(#|\*|([A-Za-z0-9\-~_+]|%[0-9A-F]{2})*)$/);
      expect(decoded(word)).toEqual([...octets]);
    }),
  );
});

function decoded(word: string): number[] {
  const parts = word.match(/%[0-9A-F]{2}|./g) ?? [];
  return parts.map((part) =>
    part === "+" ? 0x20 : part.length === 3 ? Number.parseInt(part.slice(1), 16) : part.charCodeAt(0),
  );
}
