/** What nodes say and what it means for an item: the table of queue.md B8, path rules and the guard against repetition of B9. */
import { describe, expect, test } from "bun:test";
import { answerOf, decide, type NodeAnswer } from "../../src/link/answers.ts";
import { loopIn, readPath, writePath } from "../../src/link/path.ts";
import { Repeats } from "../../src/link/repeat.ts";
import type { Outcome } from "../../src/node/io.ts";

describe("answers: one node's", () => {
  const rejected = (code: number, retryAfterSeconds?: number): Outcome => ({
    ...{ type: "rejected", code, reason: "R" },
    ...(retryAfterSeconds !== undefined && { retryAfterSeconds }),
  });
  const cases: [name: string, outcome: Outcome, means: Partial<NodeAnswer>][] = [
    ["200", { type: "delivered", code: 200, reason: "OK", consumer: true }, { type: "delivered" }],
    ["202", { type: "delivered", code: 202, reason: "Accepted", consumer: false }, { type: "delivered" }],
    ["404", rejected(404), { type: "absent" }],
    ["503 with Retry-After", rejected(503, 7), { type: "later", afterMs: 7_000 }],
    ["503 with a Retry-After of days", rejected(503, 86_400), { type: "later", afterMs: 300_000 }],
    ["500", rejected(500), { type: "later" }],
    ["408", rejected(408), { type: "later" }],
    ["403", rejected(403), { type: "refused" }],
    ["603", rejected(603), { type: "refused" }],
    ["302", rejected(302), { type: "refused" }],
    ["silence", { type: "timeout" }, { type: "silent" }],
    ["unreachable", { type: "unreachable", reason: "refused" }, { type: "silent" }],
    ["no room", { type: "overloaded" }, { type: "later" }],
    ["the end of the daemon", { type: "cancelled" }, { type: "cancelled" }],
  ];
  for (const [name, outcome, means] of cases)
    test(`${name} is ${means.type}`, () => expect(answerOf({ outcome })).toMatchObject(means));
});

describe("answers: of all nodes", () => {
  type Kind = NodeAnswer["type"];
  const said = (...kinds: Kind[]): Map<string, NodeAnswer> =>
    new Map(kinds.map((type, index) => [`sip:${index}`, { type, text: type } as NodeAnswer]));
  const cases: [kinds: Kind[], require: "any" | "all" | "none", now: string, last: string][] = [
    [["delivered", "delivered"], "any", "done", "done"],
    [["delivered", "absent"], "any", "done", "done"],
    [["delivered", "refused"], "any", "done", "done"],
    [["delivered", "later"], "any", "retry", "done"],
    [["delivered", "silent"], "any", "retry", "done"],
    [["absent", "absent"], "any", "afresh", "dead"],
    [["refused"], "any", "afresh", "dead"],
    [["later"], "any", "retry", "dead"],
    [["delivered", "absent"], "all", "done", "done"],
    [["delivered", "refused"], "all", "afresh", "dead"],
    [["delivered", "later"], "all", "retry", "dead"],
    [["absent"], "all", "afresh", "dead"],
    [["refused", "absent"], "none", "done", "done"],
    [["later"], "none", "retry", "done"],
  ];
  for (const [kinds, require, now, last] of cases)
    test(`${kinds.join(", ")} with require=${require}: ${now}, at last ${last}`, () => {
      const decision = decide(said(...kinds), require, false);
      expect(decision.type === "retry" && decision.afresh ? "afresh" : decision.type).toBe(now as never);
      expect(decide(said(...kinds), require, true).type).toBe(last as never);
    });

  test("the longest Retry-After counts, and the reason lists who said what", () => {
    const answers = new Map<string, NodeAnswer>([
      ["sip:a", { type: "later", text: "503 Busy", afterMs: 2_000 }],
      ["sip:b", { type: "later", text: "503 Full", afterMs: 9_000 }],
    ]);
    const reason = "sip:a: 503 Busy, sip:b: 503 Full";
    expect(decide(answers, "any", false)).toEqual({ type: "retry", afresh: false, delayMs: 9_000, reason });
    expect(decide(answers, "any", true)).toEqual({ type: "dead", reason });
  });
});

describe("paths", () => {
  test("what is written is read again", () => {
    const path = ["192.0.2.1:5060/a", "192.0.2.2:5060;transport=tcp/b"];
    expect(readPath(writePath(path))).toEqual(path);
    expect(readPath(undefined)).toEqual([]);
  });

  test("a link does not take what it has had, nor what has had eight", () => {
    expect(loopIn(["n/a", "n/b"], "n/b")).toContain("n/b");
    expect(loopIn(["n/a"], "n/b")).toBeUndefined();
    expect(loopIn(new Array(7).fill("n/a"), "n/b")).toBeUndefined();
    expect(loopIn(new Array(8).fill("n/a"), "n/b")).toContain("8");
  });

  for (const header of ["a,,b", "a\tb,c d", "ü", "x".repeat(201), new Array(100).fill("n/a").join(",")])
    test(`a path that no link wrote ends here: ${header.slice(0, 20)}`, () =>
      expect(loopIn(readPath(header), "n/b")).toBeDefined());
});

describe("repeats", () => {
  const body = new TextEncoder().encode("round and round");

  test("the sixth time within ten seconds is held back, and is a warning once", () => {
    const repeats = new Repeats();
    const verdicts = Array.from({ length: 8 }, (_, index) => repeats.pass("c", body, index * 100));
    expect(verdicts).toEqual(["go", "go", "go", "go", "go", "held", "still-held", "still-held"]);
    expect(repeats.pass("c", body, 10_050)).toBe("go");
    expect(repeats.pass("c", body, 10_060)).toBe("still-held");
  });

  test("another body, another channel and a slower pace are free", () => {
    const repeats = new Repeats();
    for (let index = 0; index < 5; index++) repeats.pass("c", body, 0);
    expect(repeats.pass("d", body, 1)).toBe("go");
    expect(repeats.pass("c", new Uint8Array(3), 1)).toBe("go");
    for (let at = 20_000; at < 120_000; at += 2_000) expect(repeats.pass("e", body, at)).toBe("go");
  });

  test("after a long quiet the next pause is worth a warning again", () => {
    const repeats = new Repeats();
    for (let index = 0; index < 6; index++) repeats.pass("c", body, 0);
    for (let index = 0; index < 5; index++) expect(repeats.pass("c", body, 60_000)).toBe("go");
    expect(repeats.pass("c", body, 60_001)).toBe("held");
  });
});
