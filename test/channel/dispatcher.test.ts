import { describe, expect, test } from "bun:test";
import type { HandlerResult } from "../../src/channel/channel.ts";
import { Dispatcher, type DispatcherOptions } from "../../src/channel/dispatcher.ts";
import { EMPTY } from "../../src/core/bytes.ts";
import type { Answer, ChannelMessage } from "../../src/node/io.ts";

class Bench {
  now = 0;
  readonly answers: [id: number, status: number, reason: string | undefined][] = [];
  readonly failures: string[] = [];
  readonly dispatcher: Dispatcher;

  constructor(options: DispatcherOptions = {}) {
    this.dispatcher = new Dispatcher(
      {
        answer: (id: number, answer: Answer) => this.answers.push([id, answer.status, answer.reason]),
        now: () => this.now,
        failed: (channel) => this.failures.push(channel),
        changed: () => {},
      },
      options,
    );
  }

  send(id: number, channel = "lab", from = "sip:lab@127.0.0.2:5060"): void {
    // The dispatcher reads these fields only; the request behind a message is the core's business.
    const message = { id, channel, from, body: EMPTY } as ChannelMessage;
    this.dispatcher.receive(message);
  }

  advance(ms: number): void {
    this.now += ms;
    this.dispatcher.handleTimeout(this.now);
  }
}

/** A handler whose runs end when the test says so. */
function held(): {
  started: number[];
  end: (id: number, result?: HandlerResult) => Promise<void>;
  handler: (m: ChannelMessage) => Promise<HandlerResult>;
} {
  const started: number[] = [];
  const ends = new Map<number, (result: HandlerResult) => void>();
  return {
    started,
    handler: (message) => {
      started.push(message.id);
      return new Promise((resolve) => ends.set(message.id, resolve));
    },
    end: async (id, result) => {
      ends.get(id)?.(result);
      await Promise.resolve();
      await Promise.resolve();
    },
  };
}

describe("dispatcher", () => {
  test("dispatcher: an unknown channel is 404, a declared one 202", () => {
    const bench = new Bench();
    bench.dispatcher.declare("lab");
    bench.send(1, "other");
    bench.send(2);
    expect(bench.answers).toEqual([
      [1, 404, "Not Found Peer ID"],
      [2, 202, "Accepted DMQ"],
    ]);
  });

  const results: [name: string, result: HandlerResult, status: number][] = [
    ["nothing", undefined, 200],
    ["a number", 486, 486],
    ["an answer", { status: 299, reason: "Fine" }, 299],
    ["408, which RFC 4320 forbids", 408, 500],
    ["a provisional status", 180, 500],
    ["no status at all", 12.5, 500],
    ["a reason with a line end", { status: 400, reason: "one\r\nTwo: header" }, 500],
    ["a content type with a NUL", { status: 200, contentType: "text/\0" }, 500],
  ];
  for (const [name, result, status] of results)
    test(`dispatcher: a handler that returns ${name} is ${status}`, () => {
      const bench = new Bench();
      bench.dispatcher.register("lab", () => result);
      bench.send(1);
      expect(bench.answers.map(([, code]) => code)).toEqual([status]);
    });

  test("dispatcher: a handler that throws is 500, and said", () => {
    const bench = new Bench();
    bench.dispatcher.register("lab", () => {
      throw new Error("no");
    });
    bench.send(1);
    expect(bench.answers[0]?.[1]).toBe(500);
    expect(bench.failures).toEqual(["lab"]);
  });

  test("dispatcher: a late handler is answered for with 503, once, and keeps its worker", async () => {
    const bench = new Bench({ numWorkers: 1 });
    const work = held();
    bench.dispatcher.register("lab", work.handler);
    bench.send(1);
    bench.send(2, "lab", "sip:lab@127.0.0.3:5060");
    bench.advance(1_499);
    expect(bench.answers).toEqual([]);
    bench.advance(1);
    expect(bench.answers.map(([id, code]) => [id, code])).toEqual([
      [1, 503],
      [2, 503],
    ]);
    await work.end(1);
    expect(work.started).toEqual([1]);
    expect(bench.answers.length).toBe(2);
    expect(bench.dispatcher.running()).toBe(0);
  });

  test("dispatcher: messages of one sender keep their order with many workers", async () => {
    const bench = new Bench({ numWorkers: 4 });
    const work = held();
    bench.dispatcher.register("lab", work.handler);
    for (const id of [1, 2, 3]) bench.send(id);
    bench.send(4, "lab", "sip:lab@127.0.0.3:5060");
    expect(work.started).toEqual([1, 4]);
    await work.end(1);
    expect(work.started).toEqual([1, 4, 2]);
    await work.end(2);
    expect(work.started).toEqual([1, 4, 2, 3]);
  });

  test("dispatcher: no more handlers run than there are workers", async () => {
    const bench = new Bench({ numWorkers: 2 });
    const work = held();
    bench.dispatcher.register("lab", work.handler);
    for (const id of [1, 2, 3]) bench.send(id, "lab", `sip:lab@127.0.0.${id}:5060`);
    expect(work.started).toEqual([1, 2]);
    await work.end(2);
    expect(work.started).toEqual([1, 2, 3]);
  });

  for (const workerSleepMs of [0, 10])
    test(`dispatcher: handlers that never end keep the workers of their channel alone (worker_usleep ${workerSleepMs} ms)`, async () => {
      const bench = new Bench({ numWorkers: 2, workerSleepMs });
      const hung = held();
      const seen: number[] = [];
      for (const channel of ["slow1", "slow2"]) bench.dispatcher.register(channel, hung.handler);
      bench.dispatcher.register("lab", async ({ id }) => {
        seen.push(id);
      });
      for (let id = 1; id <= 20; id++) bench.send(id, id % 2 === 0 ? "slow1" : "slow2", `sip:lab@127.0.0.${id}:5060`);
      bench.advance(10);
      expect(hung.started.length).toBe(4);
      for (let id = 101; id <= 104; id++) {
        bench.send(id, "lab", `sip:lab@127.0.0.${id}:5060`);
        bench.advance(10);
        await Promise.resolve();
      }
      expect(seen).toEqual([101, 102, 103, 104]);
      bench.advance(1_500);
      await Promise.resolve();
      expect(
        bench.answers
          .filter(([, status]) => status === 503)
          .map(([id]) => id)
          .sort((a, b) => a - b),
      ).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
      bench.send(105, "lab");
      bench.advance(10);
      expect([seen.at(-1), bench.dispatcher.waiting(), bench.dispatcher.running() >= 4]).toEqual([105, 0, true]);
    });

  test("dispatcher: inline handlers wait for no worker", () => {
    const bench = new Bench({ numWorkers: 1 });
    const work = held();
    bench.dispatcher.register("slow", work.handler);
    bench.dispatcher.register("lab", () => 200, "inline");
    bench.send(1, "slow");
    bench.send(2);
    expect(bench.answers.map(([id]) => id)).toEqual([2]);
  });

  test("dispatcher: with worker_usleep the workers look at intervals", () => {
    const bench = new Bench({ workerSleepMs: 100 });
    const seen: number[] = [];
    bench.dispatcher.register("lab", ({ id }) => {
      seen.push(id);
    });
    bench.send(1);
    expect(seen).toEqual([]);
    expect(bench.dispatcher.nextTimeout()).toBe(100);
    bench.advance(100);
    expect(seen).toEqual([1]);
  });

  test("dispatcher: with worker_usleep an idle worker looks at multiples of the interval, whenever a message comes", async () => {
    const bench = new Bench({ workerSleepMs: 100, numWorkers: 2 });
    const starts: [id: number, at: number][] = [];
    bench.dispatcher.register("lab", ({ id }) => {
      starts.push([id, bench.now]);
    });
    const arrivals: [id: number, at: number][] = [
      ...([
        [1, 5],
        [2, 99],
        [3, 100],
        [4, 237],
        [5, 460],
      ] as [number, number][]),
    ];
    for (let ms = 0; ms <= 600; ms++) {
      bench.advance(ms - bench.now);
      for (const [id, at] of arrivals) if (at === ms) bench.send(id, "lab", `sip:lab@127.0.0.${id}:5060`);
    }
    expect(starts).toEqual([
      ...([
        [1, 100],
        [2, 100],
        [3, 200],
        [4, 300],
        [5, 500],
      ] as [number, number][]),
    ]);
    expect(bench.dispatcher.nextTimeout()).toBeUndefined();
  });

  test("dispatcher: with worker_usleep a worker that ends a run looks at once, the others sleep on", async () => {
    const bench = new Bench({ workerSleepMs: 100, numWorkers: 2 });
    const work = held();
    bench.dispatcher.register("lab", work.handler);
    for (const id of [1, 2]) bench.send(id, "lab", `sip:lab@127.0.0.${id}:5060`);
    bench.advance(100);
    expect(work.started).toEqual([1, 2]);
    await work.end(2);
    for (const id of [3, 4, 5]) bench.send(id, "lab", `sip:lab@127.0.0.${id}:5060`);
    bench.now = 130;
    await work.end(1);
    expect(work.started).toEqual([1, 2, 3]);
    expect(bench.dispatcher.nextTimeout()).toBe(200);
    bench.advance(70);
    expect(work.started).toEqual([1, 2, 3, 4]);
    await work.end(3);
    expect(work.started).toEqual([1, 2, 3, 4, 5]);
  });

  test("dispatcher: the signal of a handler aborts when its sender was answered, and not before", async () => {
    const bench = new Bench({ numWorkers: 1 });
    const signals: AbortSignal[] = [];
    const answersAtAbort: number[] = [];
    const ends: (() => void)[] = [];
    bench.dispatcher.register("lab", (_, { signal }) => {
      signals.push(signal);
      signal.addEventListener("abort", () => answersAtAbort.push(bench.answers.length));
      return new Promise((resolve) => ends.push(resolve));
    });
    bench.send(1);
    bench.advance(1_499);
    expect(signals[0]?.aborted).toBe(false);
    bench.advance(1);
    expect(signals[0]?.aborted).toBe(true);
    expect(signals[0]?.reason).toEqual(new Error("handler_timeout is over"));
    expect(answersAtAbort).toEqual([1]);
    // The worker is free when the handler is through, not when its time is over.
    bench.send(2);
    expect([signals.length, bench.dispatcher.running()]).toEqual([1, 1]);
    ends[0]?.();
    await Promise.resolve();
    await Promise.resolve();
    expect([signals.length, signals[1]?.aborted]).toEqual([2, false]);
  });

  test("dispatcher: a handler that ends in time never sees its signal abort", async () => {
    const bench = new Bench();
    const signals: AbortSignal[] = [];
    bench.dispatcher.register("lab", (_, { signal }) => {
      signals.push(signal);
      return 200;
    });
    bench.send(1);
    bench.advance(10_000);
    bench.dispatcher.abandon();
    expect(signals.map(({ aborted }) => aborted)).toEqual([false]);
  });

  test("dispatcher: an abort that makes the handler fail adds no second answer", async () => {
    const bench = new Bench();
    bench.dispatcher.register(
      "lab",
      (_, { signal }) =>
        new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error))),
      "inline",
    );
    bench.send(1);
    bench.advance(1_500);
    await Promise.resolve();
    await Promise.resolve();
    expect(bench.answers.map(([id, status]) => [id, status])).toEqual([[1, 503]]);
    expect(bench.failures).toEqual(["lab"]);
  });

  test("dispatcher: abandon aborts what is running, whether it was late or not", () => {
    const bench = new Bench({ numWorkers: 2 });
    const signals: AbortSignal[] = [];
    bench.dispatcher.register("lab", (_, { signal }) => {
      signals.push(signal);
      return new Promise(() => undefined);
    });
    bench.send(1);
    bench.advance(1_500);
    bench.send(2, "lab", "sip:lab@127.0.0.3:5060");
    bench.dispatcher.abandon();
    expect(signals.map(({ aborted }) => aborted)).toEqual([true, true]);
    expect(signals[1]?.reason).toEqual(new Error("the node has left"));
  });

  test("dispatcher: a channel has one handler, and loses it again", () => {
    const bench = new Bench();
    const end = bench.dispatcher.register("lab", () => 200);
    expect(() => bench.dispatcher.register("lab", () => 200)).toThrow("has a handler already");
    end();
    bench.send(1);
    expect(bench.answers[0]?.[1]).toBe(404);
  });

  test("dispatcher: what was answered for while it waited is not kept", async () => {
    const bench = new Bench({ numWorkers: 1 });
    const work = held();
    bench.dispatcher.register("lab", work.handler);
    for (let id = 1; id <= 1_000; id++) bench.send(id, "lab", `sip:lab@127.0.0.${id % 4}:5060`);
    expect(bench.dispatcher.waiting()).toBe(999);
    bench.advance(1_500);
    expect(bench.answers.length).toBe(1_000);
    expect(bench.dispatcher.waiting()).toBe(0);
    await work.end(1);
    expect(work.started).toEqual([1]);
  });

  test("dispatcher: a long backlog of quick handlers is worked off without depth", async () => {
    const bench = new Bench({ numWorkers: 1 });
    const work = held();
    bench.dispatcher.register("slow", work.handler);
    bench.dispatcher.register("lab", () => 200);
    bench.send(1, "slow");
    for (let id = 2; id <= 50_000; id++) bench.send(id);
    await work.end(1);
    expect(bench.answers.length).toBe(50_000);
    expect(bench.dispatcher.running()).toBe(0);
  });
});
