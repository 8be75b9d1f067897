/** Deliveries as items, under a virtual clock and with a subscriber of the test's: what is said to the broker, and when. */
import { beforeEach, describe, expect, test } from "bun:test";
import type { Delivery } from "../../src/amqp/message.ts";
import { AmqpSupply, type Clock, HELD_MS_MAX, type SupplyOptions } from "../../src/amqp/supply.ts";
import { InOrder } from "../../src/consume/order.ts";
import type { Fate, Supply } from "../../src/consume/supply.ts";
import type { Item } from "../../src/queue/operation.ts";

const BROKER = {
  ...{ zone: "local", number: 1, host: "127.0.0.1", port: 5672, user: "guest", password: "guest", vhost: "/" },
  ...{ tls: false, external: false, heartbeatS: 10, text: "amqp://guest@127.0.0.1/" },
} as Delivery["broker"];

class VirtualClock implements Clock {
  private at = 0;
  private jobs: { at: number; job: () => void }[] = [];
  /** Jobs that were done: a supply that spins would have very many. */
  done = 0;

  now(): number {
    return this.at;
  }

  after(ms: number, job: () => void): () => void {
    const entry = { at: this.at + ms, job };
    this.jobs.push(entry);
    return () => {
      this.jobs = this.jobs.filter((one) => one !== entry);
    };
  }

  advance(ms: number): void {
    const end = this.at + ms;
    for (;;) {
      const [next] = this.jobs.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.jobs.splice(this.jobs.indexOf(next), 1);
      this.at = Math.max(this.at, next.at);
      if (++this.done > 10_000) throw new Error("it spins");
      next.job();
    }
    this.at = end;
  }
}

/** One message at the broker; says what it was told of it. */
class Tag {
  isLost = false;
  readonly said: string[];
  readonly name: string;
  onRequeue: () => void = () => undefined;

  constructor(said: string[], name: string) {
    this.said = said;
    this.name = name;
  }

  ack(): boolean {
    return this.say("ack");
  }

  reject(requeue: boolean): boolean {
    const isSaid = this.say(requeue ? "requeue" : "reject");
    if (isSaid && requeue) this.onRequeue();
    return isSaid;
  }

  private say(what: string): boolean {
    if (!this.isLost) this.said.push(`${what} ${this.name}`);
    return !this.isLost;
  }
}

let clock: VirtualClock;
let said: string[];
let troubles: string[];
beforeEach(() => {
  clock = new VirtualClock();
  said = [];
  troubles = [];
});

function supply(options: Partial<SupplyOptions> = {}): AmqpSupply {
  return new AmqpSupply({
    ...{ ack: "after", prefetch: 2, maxTries: 5, clock, onTrouble: (text) => void troubles.push(text) },
    ...options,
  });
}

function deliver(to: AmqpSupply, body: string, more: Partial<Delivery> = {}): Tag {
  const tag = new Tag(said, body);
  const bytes = new TextEncoder().encode(body);
  to.delivered(
    { exchange: "e", routingKey: "k", queue: "q", redelivered: false, body: bytes, broker: BROKER, ...more },
    tag,
  );
  return tag;
}

const NEVER = new AbortController().signal;

function next(from: Supply, max = 1): Promise<Item[]> {
  return from.next({ max, waitMs: 0, signal: NEVER });
}

async function one(from: Supply): Promise<Item> {
  const [item] = await next(from);
  if (item === undefined) throw new Error("there is none");
  return item;
}

async function names(from: Supply, max = 99): Promise<string[]> {
  return (await next(from, max)).map(({ value }) => new TextDecoder().decode(value));
}

const RETRY: Fate = { fate: "retry", reason: "exit 1" };
const LATER: Fate = { fate: "retry", counts: false, reason: "exit 75" };

describe("an item", () => {
  test("has the key, the octets and the headers of its delivery, in the order of the broker", async () => {
    const s = supply();
    deliver(s, "a", { headers: { n: 5, t: "x", list: [1, 2] }, contentType: "text/plain" });
    deliver(s, "b");
    const [a, b] = await next(s, 9);
    expect(a).toMatchObject({ key: "k", queue: "q", from: "e", tries: 1, contentType: "text/plain" });
    expect(a?.headers).toEqual({ n: "5", t: "x", list: "[1,2]" });
    expect(b).toMatchObject({ seq: (a?.seq as number) + 1, contentType: "application/octet-stream" });
    expect(said).toEqual([]);
    expect(await s.ack([a, b] as Item[])).toBe(2);
    expect(said).toEqual(["ack a", "ack b"]);
  });

  test("is waited for, and the wait ends with its time or its signal", async () => {
    const s = supply();
    const waited = s.next({ max: 1, waitMs: 1_000, signal: NEVER });
    const stop = new AbortController();
    const stopped = s.next({ max: 1, waitMs: Number.POSITIVE_INFINITY, signal: stop.signal });
    stop.abort();
    expect(await stopped).toEqual([]);
    clock.advance(1_000);
    expect(await waited).toEqual([]);
    const found = s.next({ max: 1, waitMs: Number.POSITIVE_INFINITY, signal: NEVER });
    deliver(s, "a");
    expect(await found).toHaveLength(1);
  });
});

describe("what failed", () => {
  test("is held here: after 1 s, 2 s, 4 s and 8 s again, and rejected at the fifth failure", async () => {
    const s = supply();
    deliver(s, "a");
    for (const [index, seconds] of [1, 2, 4, 8].entries()) {
      const item = await one(s);
      expect(item.tries).toBe(index + 1);
      expect(await s.fail([item], RETRY)).toEqual(["retried"]);
      clock.advance(seconds * 1_000 - 1);
      expect(await next(s)).toEqual([]);
      clock.advance(1);
    }
    expect(said).toEqual([]);
    expect(await s.fail([await one(s)], RETRY)).toEqual(["dead"]);
    expect(said).toEqual(["reject a"]);
    expect(clock.done).toBeLessThan(20);
  });

  test("waits 5 minutes at most", async () => {
    const s = supply({ maxTries: 99 });
    const again = (): void => {
      deliver(s, "a", { messageId: "1", redelivered: true }).onRequeue = again;
    };
    deliver(s, "a", { messageId: "1" }).onRequeue = again;
    for (let failures = 0; failures < 12; failures++) {
      const item = await one(s);
      expect(item.tries).toBe(failures + 1);
      await s.fail([item], RETRY);
      clock.advance(300_000);
    }
    // An hour in all: it was requeued meanwhile, which counts for nothing.
    expect(said).toEqual(["requeue a", "requeue a"]);
  });

  test("temporarily does not count", async () => {
    const s = supply({ maxTries: 2 });
    deliver(s, "a");
    for (let failures = 0; failures < 6; failures++) {
      const item = await one(s);
      expect(item.tries).toBe(1);
      await s.fail([item], LATER);
      clock.advance(60_000);
    }
    expect(said).toEqual([]);
  });

  test("for good is rejected without requeue, or kept by us and then acknowledged", async () => {
    const dead: Fate = { fate: "dead", reason: "exit 65" };
    const s = supply();
    deliver(s, "a");
    expect(await s.fail([await one(s)], dead)).toEqual(["dead"]);
    const kept: string[] = [];
    const keeping = supply({
      bury: async ({ value }, { reason }) =>
        void kept.push(`${new TextDecoder().decode(value)} ${reason} ${said.length}`),
    });
    deliver(keeping, "b");
    expect(await keeping.fail([await one(keeping)], dead)).toEqual(["dead"]);
    expect(kept).toEqual(["b exit 65 1"]);
    expect(said).toEqual(["reject a", "ack b"]);
  });

  test("and cannot be kept is held on, and said", async () => {
    const s = supply({ bury: () => Promise.reject(new Error("disk full")) });
    deliver(s, "a");
    expect(await s.fail([await one(s)], { fate: "dead", reason: "exit 65" })).toEqual(["retried"]);
    expect([said, troubles.length]).toEqual([[], 1]);
    clock.advance(300_000);
    expect(await names(s)).toEqual(["a"]);
  });

  test("and was given back is there at once, in its place", async () => {
    const s = supply();
    for (const body of ["a", "b", "c"]) deliver(s, body);
    const [a, b] = await next(s, 2);
    await s.fail([b as Item], { fate: "now", counts: false });
    await s.fail([a as Item], { fate: "now", counts: false });
    expect(await names(s)).toEqual(["a", "b", "c"]);
  });
});

describe("tries", () => {
  const rows: [what: string, delivery: Partial<Delivery>, tries: number][] = [
    ["of a new message", {}, 1],
    ["of a redelivered one", { redelivered: true }, 2],
    ["by x-delivery-count", { redelivered: true, deliveryCount: 3 }, 4],
  ];
  for (const [what, delivery, tries] of rows)
    test(what, async () => {
      const s = supply();
      deliver(s, "a", delivery);
      expect((await one(s)).tries).toBe(tries);
    });

  for (const messageId of ["m-1", undefined])
    test(`and the delay outlive a lost channel, ${messageId === undefined ? "by what it is" : "by message-id"}`, async () => {
      const s = supply({ maxTries: 3 });
      const more = messageId === undefined ? {} : { messageId };
      const tag = deliver(s, "a", more);
      await s.fail([await one(s)], RETRY);
      tag.isLost = true;
      s.lost([tag]);
      deliver(s, "other", { redelivered: true });
      deliver(s, "a", { redelivered: true, ...more });
      expect(await names(s)).toEqual(["other"]);
      clock.advance(1_000);
      const item = await one(s);
      expect(item.tries).toBe(2);
      await s.fail([item], RETRY);
      clock.advance(2_000);
      expect(await s.fail([await one(s)], RETRY)).toEqual(["dead"]);
      expect(said).toEqual(["reject a"]);
    });

  test("are forgotten with the message: another one of the same octets begins anew", async () => {
    const s = supply();
    const tag = deliver(s, "a");
    await s.fail([await one(s)], RETRY);
    tag.isLost = true;
    s.lost([tag]);
    deliver(s, "a", { redelivered: true });
    clock.advance(1_000);
    await s.ack([await one(s)]);
    deliver(s, "a");
    expect((await one(s)).tries).toBe(1);
  });
});

describe("a lost channel", () => {
  test("voids what waits and what is handled: nothing is said of it, and the repeat is handled", async () => {
    const s = supply();
    const tags = ["a", "b"].map((body) => deliver(s, body));
    const running = await one(s);
    for (const tag of tags) tag.isLost = true;
    s.lost(tags);
    expect(await s.ack([running])).toBe(0);
    expect(await s.fail([running], RETRY)).toEqual(["lost"]);
    for (const body of ["a", "b"]) deliver(s, body, { redelivered: true });
    expect(await names(s)).toEqual(["a", "b"]);
    expect(said).toEqual([]);
  });

  test("an acknowledgement that it took with it does not count", async () => {
    const s = supply();
    const tag = deliver(s, "a");
    const item = await one(s);
    tag.isLost = true;
    expect(await s.ack([item])).toBe(0);
  });
});

describe("the broker's half hour", () => {
  test("what waits for 25 minutes is requeued, with all that came behind it and waits, in order", async () => {
    const s = supply();
    const bodies = ["a", "b", "c"];
    for (const body of bodies) deliver(s, body).onRequeue = () => void deliver(s, `${body}2`, { redelivered: true });
    const running = await one(s);
    clock.advance(HELD_MS_MAX - 1);
    expect(said).toEqual([]);
    clock.advance(1);
    expect(said).toEqual(["requeue b", "requeue c"]);
    expect(await names(s)).toEqual(["b2", "c2"]);
    // What runs has its own end; but what is still out after 27 minutes is given up before the broker does it.
    clock.advance(2 * 60_000);
    expect(said).toEqual(["requeue b", "requeue c", "requeue a"]);
    expect(await s.ack([running])).toBe(0);
  });

  test("a requeue of ours counts for nothing", async () => {
    const s = supply();
    deliver(s, "a").onRequeue = () => void deliver(s, "a", { redelivered: true, deliveryCount: 1 });
    clock.advance(HELD_MS_MAX);
    expect((await one(s)).tries).toBe(1);
  });

  test("a handler may take 25 minutes, minus what its item waited", async () => {
    const s = supply();
    deliver(s, "a");
    clock.advance(30_000);
    const item = await one(s);
    expect(s.timeOf(item, 60_000)).toBe(60_000);
    expect(s.timeOf(item, 3_600_000)).toBe(HELD_MS_MAX - 30_000);
  });

  test("an item that waited for long is asked for again where its handler would lack the time", async () => {
    const s = supply();
    deliver(s, "a").onRequeue = () => void deliver(s, "a", { redelivered: true });
    clock.advance(20 * 60_000);
    const old = await one(s);
    expect(s.timeOf(old, 10 * 60_000)).toBeUndefined();
    expect(said).toEqual(["requeue a"]);
    expect(s.timeOf(await one(s), 10 * 60_000)).toBe(10 * 60_000);
  });
});

describe("acknowledged", () => {
  test("on receipt: as soon as it is here, but no more ahead than the broker would let wait", async () => {
    const s = supply({ ack: "receipt" });
    for (const body of ["a", "b", "c"]) deliver(s, body);
    expect(said).toEqual(["ack a", "ack b"]);
    const item = await one(s);
    expect(said).toEqual(["ack a", "ack b", "ack c"]);
    expect(await s.fail([item], RETRY)).toEqual(["lost"]);
    expect(await s.ack([await one(s)])).toBe(1);
    expect(said).toHaveLength(3);
  });

  test("on receipt: what is ours already survives the channel", async () => {
    const s = supply({ ack: "receipt" });
    const tags = ["a", "b", "c"].map((body) => deliver(s, body));
    s.lost(tags);
    expect(await names(s)).toEqual(["a", "b"]);
  });

  test("by the broker itself: nothing is said, and a flood is dropped and told of once", async () => {
    const s = supply({ ack: "none" });
    const body = new Uint8Array(100 * 1024 * 1024);
    for (let count = 0; count < 5; count++) deliver(s, "a", { body });
    expect(await next(s, 9)).toHaveLength(2);
    expect(troubles).toHaveLength(1);
    deliver(s, "b");
    expect(await names(s)).toEqual(["b"]);
    expect(said).toEqual([]);
  });
});

describe("the end", () => {
  test("says nothing: what is not settled goes back with its channel, and what comes later, too", async () => {
    const s = supply();
    for (const body of ["a", "b", "c"]) deliver(s, body);
    const [a, b] = await next(s, 2);
    await s.fail([a as Item], RETRY);
    await s.end();
    deliver(s, "d");
    clock.advance(3_600_000);
    expect(await next(s)).toEqual([]);
    expect(await s.ack([b as Item])).toBe(0);
    expect(said).toEqual([]);
  });
});

describe("in order of their keys", () => {
  test("what comes behind a failed one of its key waits for it, and for all that was set aside with it", async () => {
    const s = supply({ prefetch: 9 });
    const ordered = new InOrder(s, ({ key }) => key);
    for (const body of ["a1", "a2", "b1"]) deliver(s, body, { routingKey: body[0] as string });
    const done: string[] = [];
    await ordered.fail([await one(ordered)], RETRY);
    deliver(s, "a3", { routingKey: "a" });
    for (let step = 0; step < 12; step++) {
      for (const item of await next(ordered)) {
        done.push(new TextDecoder().decode(item.value));
        await ordered.ack([item]);
      }
      clock.advance(250);
      if (step === 4) deliver(s, "a4", { routingKey: "a" });
    }
    expect(done.filter((name) => name.startsWith("a"))).toEqual(["a1", "a2", "a3", "a4"]);
    expect(done[0]).toBe("b1");
  });

  test("a failed one that its channel took with it holds up nobody", async () => {
    const s = supply({ prefetch: 9 });
    const ordered = new InOrder(s, ({ key }) => key);
    const tag = deliver(s, "a1", { messageId: "1" });
    await ordered.fail([await one(ordered)], RETRY);
    tag.isLost = true;
    s.lost([tag]);
    deliver(s, "a2");
    expect(await names(ordered)).toEqual(["a2"]);
  });
});
