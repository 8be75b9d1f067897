/** When a message is sent again, after which pause, and with how much time. */
import { describe, expect, test } from "bun:test";
import { pauseBefore, Retry, type RetryPlan, type Tried } from "../../src/channel/retry.ts";
import type { Outcome, OutcomeReport } from "../../src/node/io.ts";
import { VirtualClock } from "./virtual-clock.ts";

const DELIVERED: Outcome = { type: "delivered", code: 200, reason: "OK", consumer: true };
const TIMEOUT: Outcome = { type: "timeout" };
const UNREACHABLE: Outcome = { type: "unreachable", reason: "refused" };

function rejected(code: number, retryAfterSeconds?: number): Outcome {
  return { type: "rejected", code, reason: "No", ...(retryAfterSeconds !== undefined && { retryAfterSeconds }) };
}

describe("what is sent again", () => {
  const cases: [name: string, outcome: Outcome, pause: number | undefined][] = [
    ["a timeout, at once", TIMEOUT, 0],
    ["unreachable", UNREACHABLE, 250],
    ["overloaded", { type: "overloaded" }, 250],
    ["408", rejected(408), 250],
    ["480", rejected(480), 250],
    ["503", rejected(503), 250],
    ["503, but not before it asks for it", rejected(503, 2), 2_000],
    ["503 that wants no patience, after the pause", rejected(503, 0), 250],
    ["503 that wants half a minute", rejected(503, 30), 30_000],
    ["no 503 that wants more", rejected(503, 31), undefined],
    ["500 that says when", rejected(500, 1), 1_000],
    ["404 that says when", rejected(404, 1), 1_000],
    ["no 500", rejected(500), undefined],
    ["no 404", rejected(404), undefined],
    ["no 403", rejected(403), undefined],
    ["no 302", rejected(302, 1), undefined],
    ["no 603, whatever it says", rejected(603, 1), undefined],
    ["nothing that was delivered", DELIVERED, undefined],
    ["nothing without a consumer either", { ...DELIVERED, code: 202, consumer: false } as Outcome, undefined],
    ["nothing that was given up", { type: "cancelled" }, undefined],
  ];
  test.each(cases)("retry: %s", (_name, outcome, pause) => expect(pauseBefore(outcome, 1)).toBe(pause as number));

  test("retry: pauses double, up to five seconds", () =>
    expect([1, 2, 3, 4, 5, 6, 7, 10].map((tries) => pauseBefore(UNREACHABLE, tries))).toEqual([
      250, 500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000,
    ]));
});

interface Played {
  tried: Tried;
  /** What each repeat may take. */
  given: (number | undefined)[];
  clock: VirtualClock;
}

/** Each outcome comes after so many milliseconds; a timeout after all that its try was given. */
async function play(plan: RetryPlan, outcomes: Outcome[], tookMs = 10, signal?: AbortSignal): Promise<Played> {
  const clock = new VirtualClock();
  const retry = new Retry(plan, clock);
  const given: (number | undefined)[] = [];
  const next = (timeoutMs: number | undefined): OutcomeReport | undefined => {
    const outcome = outcomes.shift();
    if (outcome === undefined) return undefined;
    const elapsedMs = outcome.type === "timeout" ? (timeoutMs ?? 32_000) : tookMs;
    clock.at += elapsedMs;
    return { request: 1, peer: "sip:127.0.0.2:5060", outcome, elapsedMs, attempts: 2 };
  };
  const first = next(retry.timeoutMs()) as OutcomeReport;
  const again = async (timeoutMs: number | undefined): Promise<OutcomeReport | undefined> => {
    given.push(timeoutMs);
    return next(timeoutMs);
  };
  return { tried: await retry.finish(first, again, signal), given, clock };
}

describe("a call with repeats", () => {
  test("retry: ends with the first delivery, and sums up what it took", async () => {
    const { tried, clock } = await play({ retry: 5 }, [UNREACHABLE, rejected(503, 2), DELIVERED, DELIVERED]);
    expect(clock.waits).toEqual([250, 2_000]);
    expect(tried).toEqual({
      report: { request: 1, peer: "sip:127.0.0.2:5060", outcome: DELIVERED, elapsedMs: 2_280, attempts: 6 },
      tries: 3,
    });
  });

  test("retry: none is asked for, none is made", async () => {
    const { tried, given } = await play({ retry: 0 }, [UNREACHABLE, DELIVERED]);
    expect([tried.tries, tried.report.outcome, given]).toEqual([1, UNREACHABLE, []]);
  });

  test("retry: the last outcome stands when all repeats are used up", async () => {
    const { tried } = await play({ retry: 2 }, [UNREACHABLE, UNREACHABLE, rejected(503), DELIVERED]);
    expect([tried.tries, tried.report.outcome]).toEqual([3, rejected(503)]);
    expect(tried.last).toBeUndefined();
  });

  test("retry: the last outcome stands when the node has been removed", async () => {
    const { tried, given } = await play({ retry: 5 }, [UNREACHABLE]);
    expect([tried.tries, tried.report.outcome, given.length]).toEqual([1, UNREACHABLE, 1]);
  });

  test("retry: a no after a timeout is no certain no", async () => {
    const { tried } = await play({ retry: 1 }, [TIMEOUT, rejected(404)]);
    expect([tried.report.outcome, tried.last]).toEqual([TIMEOUT, rejected(404)]);
  });

  test("retry: a yes after a timeout is a yes", async () => {
    const { tried } = await play({ retry: 1 }, [TIMEOUT, DELIVERED]);
    expect([tried.report.outcome, tried.last, tried.tries]).toEqual([DELIVERED, undefined, 2]);
  });

  test("retry: an abort in a pause is the end of it", async () => {
    const aborted = AbortSignal.abort();
    const { tried, given } = await play({ retry: 3 }, [UNREACHABLE, DELIVERED], 10, aborted);
    expect([tried.tries, tried.report.outcome, given]).toEqual([1, { type: "cancelled" }, []]);
  });

  test("retry: the system's clock ends a pause when its signal aborts", async () => {
    const aborter = new AbortController();
    const report = { request: 1, peer: "sip:127.0.0.2:5060", outcome: rejected(503, 30), elapsedMs: 1, attempts: 1 };
    const ending = new Retry({ retry: 1 }).finish(report, async () => undefined, aborter.signal);
    aborter.abort();
    expect((await ending).report.outcome).toEqual({ type: "cancelled" });
  });
});

describe("the time of a call", () => {
  test("time: the tries share it, so that a silent node does not take all of it at once", async () => {
    const { tried, given, clock } = await play({ retry: 2, timeoutMs: 9_000 }, [TIMEOUT, TIMEOUT, TIMEOUT]);
    expect(given).toEqual([3_000, 3_000]);
    expect([tried.tries, tried.report.outcome, clock.at]).toEqual([3, TIMEOUT, 9_000]);
  });

  test("time: what a quick try leaves is for those after it", async () => {
    const { given } = await play({ retry: 2, timeoutMs: 9_000 }, [UNREACHABLE, UNREACHABLE, DELIVERED]);
    expect(given).toEqual([(9_000 - 260) / 2, 9_000 - 770]);
  });

  test("time: no try is cut below two seconds, since a handler may take one and a half", async () => {
    const { tried, given } = await play({ retry: 10, timeoutMs: 5_000 }, [TIMEOUT, TIMEOUT, TIMEOUT, DELIVERED]);
    expect(given).toEqual([2_000, 1_000]);
    expect(tried.tries).toBe(3);
  });

  test("time: with two seconds and less there is one try, if it is silent", async () => {
    const { tried, clock } = await play({ retry: 3, timeoutMs: 1_000 }, [TIMEOUT, DELIVERED]);
    expect([tried.tries, clock.at]).toEqual([1, 1_000]);
  });

  test("time: a pause that would go beyond it is not begun", async () => {
    const { tried, clock } = await play({ retry: 3, timeoutMs: 1_500 }, [rejected(503, 2), DELIVERED]);
    expect([tried.tries, clock.waits, clock.at]).toEqual([1, [], 10]);
  });

  test("time: nothing is begun when next to nothing is left", async () => {
    const { tried, given } = await play({ retry: 3, timeoutMs: 2_050 }, [TIMEOUT, DELIVERED]);
    expect([tried.tries, given]).toEqual([1, []]);
  });

  test("time: without a limit each try has the node's own", async () => {
    const { given } = await play({ retry: 1 }, [TIMEOUT, DELIVERED]);
    expect(given).toEqual([undefined]);
  });
});
