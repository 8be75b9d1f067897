import { describe, expect, test } from "bun:test";
import type { Logger } from "../../src/core/logger.ts";
import { Counters } from "../../src/link/counters.ts";
import { Sparing } from "../../src/link/host.ts";
import { type Intake, intakeHandler, TAKEN } from "../../src/link/intake.ts";
import { Turns } from "../../src/link/turns.ts";
import type { ChannelMessage } from "../../src/node/io.ts";

/** Turns of a loop that the test turns itself. */
class Loop {
  readonly turns: Turns = new Turns((next) => this.due.push(next));
  private due: (() => void)[] = [];

  /** @returns whether anything was to be done */
  async turn(): Promise<boolean> {
    const due = this.due;
    this.due = [];
    for (const next of due) next();
    // What was begun in it goes on in microtasks.
    for (let i = 0; i < 4; i++) await Promise.resolve();
    return due.length > 0;
  }
}

describe("work in turns", () => {
  test("a few pieces are done at once, without a promise", async () => {
    const { turns } = new Loop();
    expect([1, 2, 3].map((n) => turns.do(() => n))).toEqual([1, 2, 3]);
  });

  test("of a burst 32 are done in each turn, in the order of the calls", async () => {
    const loop = new Loop();
    const done: number[] = [];
    const results = Array.from({ length: 100 }, (_, n) => loop.turns.do(() => done.push(n)));
    const sizes = [done.length];
    while (await loop.turn()) sizes.push(done.length);
    expect(sizes).toEqual([32, 64, 96, 100, 100]);
    expect(done).toEqual(Array.from({ length: 100 }, (_, n) => n));
    expect(await Promise.all(results)).toEqual(done.map((n) => n + 1));
  });

  test("what comes while others wait does not overtake them", async () => {
    const loop = new Loop();
    const done: string[] = [];
    const burst = (name: string): void => {
      for (let n = 0; n < 40; n++) void loop.turns.do(() => done.push(`${name}${n}`));
    };
    burst("a");
    await loop.turn();
    burst("b");
    while (await loop.turn());
    expect(done).toEqual(["a", "b"].flatMap((name) => Array.from({ length: 40 }, (_, n) => `${name}${n}`)));
  });

  test("one that fails is its caller's, and the others go on", async () => {
    const loop = new Loop();
    const fail = (n: number): number => {
      if (n === 35) throw new Error("this one");
      return n;
    };
    const results = Array.from({ length: 40 }, (_, n) => Promise.resolve(loop.turns.do(() => fail(n))));
    const outcomes = Promise.allSettled(results);
    while (await loop.turn());
    const failed = (await outcomes).flatMap((one, n) => (one.status === "rejected" ? [[n, one.reason.message]] : []));
    expect(failed).toEqual([[35, "this one"]]);
  });

  test("by itself it goes on with the loop", async () => {
    const turns = new Turns();
    const results = await Promise.all(Array.from({ length: 100 }, (_, n) => turns.do(() => n)));
    expect(results).toEqual(Array.from({ length: 100 }, (_, n) => n));
  });
});

const LOG: Logger = { error() {}, warn() {}, info() {}, debug() {}, trace() {} };

test("a link takes a burst of its channel in parts, in order, and answers each message", async () => {
  const taken: string[] = [];
  const take: Intake["take"] = ({ callId }) => {
    taken.push(callId);
    return TAKEN;
  };
  const counters = new Counters();
  const handle = intakeHandler(new Sparing(LOG), [{ counters, take }]);
  const request = { headers: { get: () => undefined } };
  const burst = Array.from({ length: 200 }, (_, n) => ({ callId: `call${n}`, channel: "c", request }));
  const context = { signal: new AbortController().signal };
  const answers = burst.map((message) => handle(message as unknown as ChannelMessage, context));
  expect(taken).toHaveLength(32);
  expect(await Promise.all(answers)).toEqual(burst.map(() => TAKEN));
  expect(taken).toEqual(burst.map(({ callId }) => callId));
  expect(counters.in).toBe(200);
});
