/** `--spool`: what is asked of the daemon, and which exit code comes of what it says. */
import { describe, expect, test } from "bun:test";
import { bcast } from "../../src/cli/bcast.ts";
import { parseWords } from "../../src/cli/command.ts";
import { exitOfBroadcast, exitOfDelivery, parseRequirement } from "../../src/cli/exit.ts";
import { readOptions } from "../../src/cli/message.ts";
import type { DeliveryResult } from "../../src/rpc/surface.ts";

function result(outcome: DeliveryResult["outcome"], code: number | null = null): DeliveryResult {
  return { node: "sip:n", outcome, code, reason: "", ms: 0, consumer: true, attempts: 0, tries: 0, message_id: "m" };
}

describe("--spool", () => {
  const SPOOLED = result("spooled");
  const OK = result("delivered", 200);
  const NO = result("rejected", 403);

  test("one node: 75 while it is not delivered", () => {
    expect(exitOfDelivery(SPOOLED)).toBe(75);
    expect(exitOfDelivery(OK)).toBe(0);
  });

  const cases: [results: DeliveryResult[], require: string, exit: number][] = [
    [[OK, SPOOLED], "all", 75],
    [[SPOOLED, SPOOLED], "any", 75],
    [[OK, SPOOLED], "any", 0],
    [[OK, NO, SPOOLED], "2", 75],
    [[OK, NO, SPOOLED], "all", 7],
    [[NO, NO], "all", 5],
  ];
  for (const [results, require, exit] of cases)
    test(`${results.map(({ outcome }) => outcome).join(", ")} with --require ${require} is ${exit}`, () =>
      expect(exitOfBroadcast(results, parseRequirement(require) as never)).toBe(exit));

  function options(...words: string[]): Record<string, unknown> {
    const parsed = parseWords(bcast, ["c", "x", ...words]);
    if (parsed.type !== "run") throw new Error("help");
    return { ...readOptions(parsed.args, "c") };
  }

  test("with and without a time; the word behind it is none", () => {
    expect(options("--spool")).toMatchObject({ spool: true });
    expect(options("--spool=10m")).toMatchObject({ spool: true, spool_ttl_ms: 600_000 });
    expect(options()).not.toHaveProperty("spool");
  });

  test("what does not go with it is refused", () => {
    expect(() => options("--spool=soon")).toThrow("expected a duration");
    expect(() => options("--spool", "--retry", "2")).toThrow("exclude each other");
    expect(() => options("--spool", "--via", "sip:192.0.2.1:5060")).toThrow("exclude each other");
  });
});
