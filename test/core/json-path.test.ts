import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { JsonValue, jsonCount, jsonGet, jsonKeys } from "../../src/core/json-path.ts";

const TEXT = `{
  "Call-ID" : "a\\"b\\\\",
  "Custom.Data": { "items": [ {"n": 12345678901234567890}, [1,2 , 3], "x" ], "": "empty" },
  "n": -1e400, "t": true, "z": null, "e": {}, "l": [ ], "a[b]": 1, "ключ": "й\\u0439",
  "twice": 1, "twice": {"b": 2}
}`;

const found: [path: string, value: string | undefined][] = [
  ["Call-ID", 'a"b\\'],
  ["Custom%Data.items[0].n", "12345678901234567890"],
  ["Custom%Data.items[0]", '{"n": 12345678901234567890}'],
  ["Custom%Data.items[1][2]", "3"],
  ["Custom%Data.items[1]", "[1,2 , 3]"],
  ["Custom%Data..items[2]", "x"],
  [".Custom%Data.items[2].", "x"],
  ["n", "-1e400"],
  ["t", "true"],
  ["z", undefined],
  ["e", "{}"],
  ["l", "[ ]"],
  ["l[0]", undefined],
  ["a[b]", "1"],
  ["ключ", "йй"],
  ["twice.b", "2"],
  ["none", undefined],
  ["n.none", undefined],
  ["t[0]", undefined],
  ["Custom.Data", undefined],
  ["Custom%Data.items[3]", undefined],
  ["Custom%Data.items[9999999999]", undefined],
  ["__proto__", undefined],
  ["constructor.name", undefined],
];

describe("get", () => {
  for (const [path, value] of found) test(`at ${path}`, () => expect(jsonGet(TEXT, path)).toBe(value as string));

  test("the empty path is the whole text, without the space around it", () => {
    expect(jsonGet(" [1, 2]\n", "")).toBe("[1, 2]");
    expect(jsonGet("[[7]]", "[0][0]")).toBe("7");
  });

  test("another character may stand for the dot, or none", () => {
    expect(jsonGet('{"a.b":1,"a%b":2}', "a!b", "!")).toBe("1");
    expect(jsonGet('{"a.b":1,"a%b":2}', "a%b", "")).toBe("2");
  });
});

describe("keys and count", () => {
  test("keys: in the order of the text, each once", () => {
    expect(jsonKeys(TEXT, "Custom%Data")).toEqual(["items", ""]);
    expect(jsonKeys(TEXT, "")?.slice(-2)).toEqual(["ключ", "twice"]);
    expect(jsonKeys(TEXT, "e")).toEqual([]);
    expect(jsonKeys(TEXT, "l")).toBeUndefined();
  });

  test("count: the length of an array, 0 for all else", () => {
    expect(["Custom%Data.items", "l", "e", "t", "none"].map((path) => jsonCount(TEXT, path))).toEqual([3, 0, 0, 0, 0]);
  });
});

const wrong = [
  "",
  " ",
  "{",
  '{"a":1',
  "{'a':1}",
  "[1,]",
  "nul",
  "01",
  '"\n"',
  "1 2",
  "\ufeff{}",
  "[".repeat(1_000_000),
];
for (const text of wrong)
  test(`no JSON: ${JSON.stringify(text.slice(0, 12))}`, () => {
    expect([jsonGet(text, ""), jsonKeys(text, ""), jsonCount(text, "")]).toEqual([undefined, undefined, undefined]);
  });

const spaced = fc.tuple(fc.json(), fc.constantFrom(undefined, 1, "\t", "\n"));

test("members and elements are those of the engine's parser, whatever the text", () => {
  fc.assert(
    fc.property(spaced, ([text, indent]) => {
      const written = JSON.stringify(JSON.parse(text), null, indent);
      same(JsonValue.read(written) as JsonValue, JSON.parse(written));
    }),
  );
});

function same(value: JsonValue, expected: unknown): void {
  expect(JSON.parse(value.source)).toEqual(expected);
  if (Array.isArray(expected)) {
    const elements = [...value.elements()];
    expect(elements.length).toBe(expected.length);
    for (const [index, element] of elements.entries()) same(element, expected[index]);
  } else if (typeof expected === "object" && expected !== null) {
    expect(Object.keys(expected).sort()).toEqual([...new Set([...value.members()].map(([name]) => name))].sort());
    for (const [name, member] of Object.entries(expected)) same(value.member(name) as JsonValue, member);
  }
}

test("a long text is walked in a time that grows with its length", () => {
  const text = `{"a":[${"[1,{}],".repeat(200_000)}0],"b":"${"\\\\".repeat(500_000)}"}`;
  const before = performance.now();
  expect(jsonCount(text, "a")).toBe(200_001);
  expect(jsonGet(text, "b")?.length).toBe(500_000);
  expect(performance.now() - before).toBeLessThan(5_000);
});
