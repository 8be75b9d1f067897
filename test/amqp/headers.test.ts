import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { parseHeader, parseHeaderList, readHeaders } from "../../src/amqp/headers.ts";
import type { HeaderValue } from "../../src/amqp/message.ts";
import { UsageError } from "../../src/core/errors.ts";
import { anyText } from "../helpers/texts.ts";

const right: [word: string, name: string, value: HeaderValue][] = [
  ["K=V", "K", "V"],
  ["K=", "K", ""],
  ["K=a=b", "K", "a=b"],
  ["K:int=5", "K", 5],
  ["K:int=-0", "K", 0],
  ["K:int=+7", "K", 7],
  ["K:int=9007199254740991", "K", 9007199254740991],
  ["K:int=9223372036854775807", "K", { "!": "long", value: "9223372036854775807" }],
  ["K:int=-9223372036854775808", "K", { "!": "long", value: "-9223372036854775808" }],
  ["K:bool=true", "K", true],
  ["K:bool=0", "K", false],
  ["K:float=1", "K", { "!": "double", value: 1 }],
  ["K:text=5", "K", "5"],
  ["a:b:text=c", "a:b", "c"],
  ["K:json=null", "K", null],
  ['K:json=[1,"a",{"b":1.5,"c":[]}]', "K", [1, "a", { b: 1.5, c: [] }]],
  ["K:json=12345678901234567", "K", { "!": "long", value: "12345678901234567" }],
  ["é=ü", "é", "ü"],
];
for (const [word, name, value] of right)
  test(word, () => expect(parseHeader(word)).toEqual([name, value] as [string, HeaderValue]));

const wrong: [word: string, says: string][] = [
  ["K", "NAME=VALUE"],
  ["=V", "a name in front of ="],
  [":int=1", "a name in front of ="],
  ["K:itn=1", "did you mean int?"],
  ["K:=1", "one of text, int, float, bool, json"],
  ["K:int=1.5", "a whole number of 64 bits"],
  ["K:int=", "a whole number of 64 bits"],
  ["K:int=9223372036854775808", "a whole number of 64 bits"],
  [`K:int=${"9".repeat(1_000_000)}`, "a whole number of 64 bits"],
  ["K:bool=yes", "true or false"],
  ["K:float=", "a number"],
  ["K:float=Infinity", "a number"],
  ["K:json={", 'JSON without a member "!"'],
  ['K:json={"!":"int8","value":1}', 'JSON without a member "!"'],
  ['K:json=[{"a":{"!":1}}]', 'JSON without a member "!"'],
  ["K:json=9223372036854775808", 'JSON without a member "!"'],
  ["K:json=1e999", 'JSON without a member "!"'],
  [`K:json=${"[".repeat(40)}${"]".repeat(40)}`, 'JSON without a member "!"'],
  [`${"k".repeat(256)}=v`, "at most 255 octets"],
  ["__proto__=v", "a name in front of ="],
];
for (const [word, says] of wrong)
  test(`${word.slice(0, 40)} is refused`, () => {
    expect(() => parseHeader(word)).toThrow(UsageError);
    expect(() => parseHeader(word)).toThrow(says);
  });

describe("lists of kazoo", () => {
  test("all is text", () =>
    expect(parseHeaderList("k=v; k2=1 ;a:int=2;;x=y=z")).toEqual([
      ["k", "v"],
      ["k2", "1 "],
      ["a:int", "2"],
      ["x", "y=z"],
    ]));
  test("nothing is nothing", () => expect(parseHeaderList(" ; ")).toEqual([]));
  test("a part without = is refused", () => expect(() => parseHeaderList("k=v;k2")).toThrow("NAME=VALUE;NAME=VALUE"));
});

test("both together, and a name once", () => {
  expect(readHeaders(["a:int=1"], ["b=2;c=3"])).toEqual({ b: "2", c: "3", a: 1 });
  expect(readHeaders([])).toBeUndefined();
  expect(() => readHeaders(["a=1"], ["a=2"])).toThrow('header "a" is given twice');
});

test("any word is a header or a UsageError on one line", () => {
  const word = fc.oneof(
    anyText(),
    fc
      .tuple(fc.string(), fc.constantFrom("int", "bool", "json", "float", "text"), fc.oneof(fc.string(), fc.json()))
      .map(([k, t, v]) => `${k}:${t}=${v}`),
  );
  fc.assert(
    fc.property(word, (text) => {
      try {
        expect(parseHeader(text)[0]).not.toBe("");
      } catch (error) {
        expect(error).toBeInstanceOf(UsageError);
        expect((error as Error).message).not.toMatch(/[\r\n]/);
      }
    }),
  );
});
