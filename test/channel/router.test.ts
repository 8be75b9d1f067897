/** The route decides, the node serves what it leaves; each request is answered once, and in time. */
import { describe, expect, test } from "bun:test";
import { type Route, Router } from "../../src/channel/router.ts";
import { EMPTY } from "../../src/core/bytes.ts";
import { UsageError } from "../../src/core/errors.ts";
import type { HandlerMode, IncomingRequest } from "../../src/node/io.ts";
import type { SipRequest } from "../../src/sip/message.ts";

function request(id: number, method = "REGISTER"): IncomingRequest {
  const source = { transport: "udp", ip: "127.0.0.1", port: 5099 } as const;
  // The router reads the number and the method only.
  return { id, method, uri: "sip:a@127.0.0.1", source, fromNode: false, body: EMPTY, request: {} as SipRequest };
}

class Bench {
  now = 0;
  readonly answers: [id: number, status: number, reason: string | undefined][] = [];
  readonly served: number[] = [];
  readonly taken: [id: number, mode: HandlerMode][] = [];
  readonly failures: unknown[] = [];
  readonly router: Router;

  constructor(route?: Route) {
    this.router = new Router(
      {
        answer: (id, answer) => this.answers.push([id, answer.status, answer.reason]),
        serve: (id) => this.served.push(id),
        take: (id, mode) => this.taken.push([id, mode]),
        now: () => this.now,
        failed: (cause) => this.failures.push(cause),
        changed: () => {},
      },
      1_500,
    );
    if (route !== undefined) this.router.set(route);
  }
}

describe("router", () => {
  test("router: without a route, and where it returns nothing, the node serves the request", () => {
    const bare = new Bench();
    bare.router.receive(request(1));
    const silent = new Bench(() => undefined);
    silent.router.receive(request(2));
    expect([bare.served, silent.served]).toEqual([[1], [2]]);
    expect([...bare.answers, ...silent.answers]).toEqual([]);
  });

  test("router: a status or an answer is sent, also when it comes later", async () => {
    const bench = new Bench(({ id }) => (id === 1 ? 202 : Promise.resolve({ status: 603, reason: "No" })));
    bench.router.receive(request(1));
    bench.router.receive(request(2));
    await Promise.resolve();
    expect(bench.answers).toEqual([
      [1, 202, undefined],
      [2, 603, "No"],
    ]);
    expect(bench.served).toEqual([]);
  });

  test("router: a throw is 500, told, and harms nothing else", async () => {
    const bench = new Bench(({ id }) => {
      if (id === 1) throw new Error("first");
      return Promise.reject(new Error("second"));
    });
    bench.router.receive(request(1));
    bench.router.receive(request(2));
    await Promise.resolve();
    await Promise.resolve();
    expect(bench.answers.map(([id, status]) => [id, status])).toEqual([
      [1, 500],
      [2, 500],
    ]);
    expect(bench.failures).toEqual([new Error("first"), new Error("second")]);
  });

  test("router: a late route's request is answered 503, and its word does not count any more", async () => {
    const late = Promise.withResolvers<number>();
    const bench = new Bench(() => late.promise);
    bench.router.receive(request(1));
    expect(bench.router.nextTimeout()).toBe(1_500);
    bench.router.handleTimeout(1_499);
    expect(bench.answers).toEqual([]);
    bench.router.handleTimeout(1_500);
    late.resolve(200);
    await late.promise;
    await Promise.resolve();
    expect(bench.answers).toEqual([[1, 503, "Route Too Late"]]);
    expect(bench.router.nextTimeout()).toBeUndefined();
  });

  test("router: a request that was given to its channel is answered there alone, however late the route ends", () => {
    const bench = new Bench((one) => {
      bench.router.take(one, one.id === 1 ? "queued" : "inline", false);
      return one.id === 1 ? 486 : new Promise(() => {});
    });
    bench.router.receive(request(1, "KDMQ"));
    bench.router.receive(request(2, "KDMQ"));
    bench.router.handleTimeout(10_000);
    expect(bench.taken).toEqual([
      [1, "queued"],
      [2, "inline"],
    ]);
    expect([bench.answers, bench.served]).toEqual([[], []]);
  });

  test("router: without continue the request is ended, with it the route may go on", () => {
    const bench = new Bench((one) => {
      bench.router.take(one, "queued", one.id === 1);
      expect(() => bench.router.take(one, "queued", true)).toThrow(UsageError);
      if (one.id === 1) bench.router.checkOpen(one);
      else expect(() => bench.router.checkOpen(one)).toThrow("without continue");
    });
    bench.router.receive(request(1, "KDMQ"));
    bench.router.receive(request(2, "KDMQ"));
    expect(bench.failures).toEqual([]);
    expect(bench.taken.length).toBe(2);
  });

  test("router: there is one route at a time", () => {
    const bench = new Bench();
    const unset = bench.router.set(() => 200);
    expect(() => bench.router.set(() => 200)).toThrow("the node has a route already");
    unset();
    bench.router.receive(request(1));
    expect(bench.served).toEqual([1]);
    bench.router.set(() => 486);
    unset();
    bench.router.receive(request(2));
    expect(bench.answers).toEqual([[2, 486, undefined]]);
  });
});
