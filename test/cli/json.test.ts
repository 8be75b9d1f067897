/** `dmq json` and `dmq amqp encode`: what a shell reads. */
import { describe, expect, test } from "bun:test";
import { type Ran, runCli } from "../helpers/cli.ts";

function json(words: string[], stdin: string | Uint8Array): Promise<Ran> {
  return runCli(["json", ...words], { stdin: typeof stdin === "string" ? new TextEncoder().encode(stdin) : stdin });
}

describe("dmq json", () => {
  const cases: [words: string[], text: string, code: number, out: string][] = [
    [["get", "a"], '{"a":"x\\ty"}', 0, "x\ty\n"],
    [["get", "a", "--json"], '{"a":"x\\ty"}', 0, '"x\\ty"\n'],
    [["get", "a"], '{"a": 18446744073709551615}', 0, "18446744073709551615\n"],
    [["get"], ' {"a": 1.0}\n', 0, '{"a": 1.0}\n'],
    [["get", "a"], '{"a":null}', 1, ""],
    [["get", "a", "--json"], '{"a":null}', 0, "null\n"],
    [["get", "a", "--json"], "{}", 1, ""],
    [["get", "a!b", "--escape", "!"], '{"a.b":1}', 0, "1\n"],
    [["keys"], '{"b":1,"a\\n":2}', 0, "b\na\\n\n"],
    [["keys", "--json"], '{"b":1,"a\\n":2}', 0, '["b","a\\n"]\n'],
    [["keys", "b"], '{"b":1}', 1, ""],
    [["count", "a"], '{"a":[1,[2,3]]}', 0, "2\n"],
    [["count", "none"], "{}", 0, "0\n"],
  ];
  for (const [words, text, code, out] of cases)
    test(`${words.join(" ")} of ${text.trim()}`, async () =>
      expect(await json(words, text)).toEqual({ code, out, err: "" }));

  const wrong: [what: string, words: string[], input: string | Uint8Array, says: RegExp][] = [
    ["no JSON", ["get", "a"], "{a:1}", /no JSON: it begins with "\{a:1\}"/],
    ["nothing", ["get", "a"], " \n", /is empty/],
    ["no UTF-8", ["get", "a"], Uint8Array.of(0x22, 0xff, 0x22), /no UTF-8/],
    ["an escape of two characters", ["get", "a", "--escape", "ab"], "{}", /--escape "ab": expected one character/],
    ["no such action", ["kyes"], "{}", /did you mean keys\?/],
  ];
  for (const [what, words, input, says] of wrong)
    test(`${what}: exit 2`, async () => {
      const ran = await json(words, input);
      expect([ran.code, ran.out]).toEqual([2, ""]);
      expect(ran.err).toMatch(says);
    });
});

describe("dmq amqp encode", () => {
  test("a word; standard input octet by octet; nothing that does not fit a routing key", async () => {
    expect(await runCli(["amqp", "encode", "a.b c"])).toEqual({ code: 0, out: "a%2Eb+c\n", err: "" });
    const stdin = Uint8Array.of(0xff, 0x0a);
    expect(await runCli(["amqp", "encode"], { stdin })).toEqual({ code: 0, out: "%FF%0A\n", err: "" });
    const long = await runCli(["amqp", "encode", "x".repeat(256)]);
    expect([long.code, long.out]).toEqual([2, ""]);
    expect((await runCli(["amqp", "encode", "a\ufffd"])).err).toContain("no UTF-8");
  });

  test("the group shows what it has", async () => {
    const ran = await runCli(["amqp"]);
    expect([ran.code, ran.out]).toEqual([2, ""]);
    expect(ran.err).toContain("encode");
  });
});
