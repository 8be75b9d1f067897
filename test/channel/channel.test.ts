/** What a handler's result means; goal: whatever a handler in JavaScript returns, its sender has an answer and nothing throws. */
import { describe, expect, test } from "bun:test";
import { answerOf, type HandlerResult } from "../../src/channel/channel.ts";
import { EMPTY } from "../../src/core/bytes.ts";

const NO_ANSWERS: readonly [what: string, result: unknown][] = [
  ["a text", "ok"],
  ["true", true],
  ["an empty object", {}],
  ["no number", Number.NaN],
  ["a provisional status", 180],
  ["408", 408],
  ["a status with a fraction", { status: 200.5 }],
  ["a status as text", { status: "200" }],
  ["a reason with a line end", { status: 200, reason: "a\r\nX: b" }],
  ["a reason that is no text", { status: 200, reason: 5 }],
  ["a content type that is no text", { status: 200, contentType: {} }],
  ["a body as text", { status: 200, body: "text" }],
  ["no body", { status: 200, body: null }],
  ["headers that are no list", { status: 200, headers: 5 }],
  ["headers as an object", { status: 200, headers: { X: "y" } }],
  ["a header that is no pair", { status: 200, headers: [5] }],
  ["a header without a value", { status: 200, headers: [["X"]] }],
  ["a header of ours", { status: 200, headers: [["v", "SIP/2.0/UDP a"]] }],
  ["a value with a line end", { status: 200, headers: [["X", "a\nb"]] }],
  ["headers for which a datagram is too small", { status: 200, headers: [["X", "y".repeat(70_000)]] }],
  ["a Retry-After that is more than a number", { status: 503, retryAfterSeconds: "5\r\nX: y" }],
];

describe("answer of a handler", () => {
  for (const [what, result] of NO_ANSWERS)
    test(`answer: ${what} is none, so it is 500`, () => {
      expect(answerOf(result as HandlerResult)).toEqual({ status: 500, reason: "Handler Gave No Valid Answer" });
    });

  test("answer: nothing is 200, a number a status, and an object goes as it is", () => {
    expect([undefined, 202].map(answerOf)).toEqual([{ status: 200 }, { status: 202 }]);
    const answer = { status: 503, reason: "Busy", headers: [["X", "y"] as const], body: EMPTY, retryAfterSeconds: 2 };
    expect(answerOf(answer)).toEqual(answer);
  });
});
