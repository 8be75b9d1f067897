/** Messages to one node and to all: what is sent again with what, and who is not waited for. */
import { describe, expect, test } from "bun:test";
import { deliver, deliverToAll, type Message, type Sender } from "../../src/channel/delivery.ts";
import { UsageError } from "../../src/core/errors.ts";
import type { Outcome, OutcomeReport } from "../../src/node/io.ts";
import { VirtualClock } from "./virtual-clock.ts";

const OK: Outcome = { type: "delivered", code: 200, reason: "OK", consumer: true };
const ACCEPTED: Outcome = { type: "delivered", code: 202, reason: "Accepted DMQ", consumer: false };
const WITH_BODY: Outcome = { ...OK, body: new Uint8Array([1]) };
const BUSY: Outcome = { type: "rejected", code: 503, reason: "Busy" };
const SILENT = "silent";

type Script = Outcome | typeof SILENT;
type Options = Parameters<Sender["broadcast"]>[2];

/** Plays for each node one outcome after the other; a silent one goes on until its signal aborts. */
class FakeSender implements Sender {
  readonly sent: { node: string; options: Options }[] = [];
  private readonly scripts: Map<string, Script[]>;

  constructor(scripts: Record<string, Script[]>) {
    this.scripts = new Map(Object.entries(scripts));
  }

  send(_channel: string, node: string, _body: Uint8Array, options: Options): Promise<OutcomeReport> {
    const next = this.scripts.get(node)?.shift();
    if (next === undefined) throw new UsageError(`node ${node} is not known`, "no-such-node");
    this.sent.push({ node, options });
    const { promise, resolve } = Promise.withResolvers<OutcomeReport>();
    const end = (outcome: Outcome): void => resolve({ request: 1, peer: node, outcome, elapsedMs: 1, attempts: 1 });
    if (next !== SILENT) end(next);
    else options.signal?.addEventListener("abort", () => end({ type: "cancelled" }));
    return promise;
  }

  broadcast(channel: string, body: Uint8Array, options: Options): Promise<OutcomeReport[]> {
    const one = async (node: string): Promise<OutcomeReport> => {
      const report = await this.send(channel, node, body, options);
      options.onResponse?.(report);
      return report;
    };
    return Promise.all([...this.scripts.keys()].map(one));
  }
}

const MESSAGE: Message = { channel: "c", body: new Uint8Array(1) };

function ids(sender: FakeSender): (string | undefined)[] {
  return sender.sent.map(({ options }) => options.messageId);
}

describe("to one node", () => {
  test("deliver: without repeats nothing is made up", async () => {
    const sender = new FakeSender({ a: [BUSY, OK] });
    expect(await deliver(sender, { ...MESSAGE, node: "a" })).toMatchObject({ tries: 1, messageId: undefined });
    expect(ids(sender)).toEqual([undefined]);
  });

  test("deliver: every repeat has the id that the caller gave", async () => {
    const sender = new FakeSender({ a: [BUSY, BUSY, OK] });
    const message = { ...MESSAGE, node: "a", retry: 4, messageId: "backup-1" };
    expect(await deliver(sender, message, { clock: new VirtualClock() })).toMatchObject({
      tries: 3,
      messageId: "backup-1",
      report: { outcome: OK, attempts: 3 },
    });
    expect(ids(sender)).toEqual(["backup-1", "backup-1", "backup-1"]);
  });

  test("deliver: an id is made up where there is none, another one for each message", async () => {
    const made = new Set<string | undefined>();
    for (let i = 0; i < 2; i++) {
      const sender = new FakeSender({ a: [BUSY, OK] });
      const { messageId } = await deliver(sender, { ...MESSAGE, node: "a", retry: 1 }, { clock: new VirtualClock() });
      expect(ids(sender)).toEqual([messageId, messageId]);
      made.add(messageId);
    }
    expect([...made].map((id) => /^[\w-]{36}$/.test(id ?? ""))).toEqual([true, true]);
  });

  test("deliver: an unknown node is the caller's mistake the first time, and the end of it later", async () => {
    const unknown = deliver(new FakeSender({}), { ...MESSAGE, node: "a", retry: 1 });
    expect(await unknown.catch((cause: unknown) => cause)).toBeInstanceOf(UsageError);
    const sender = new FakeSender({ a: [BUSY] });
    const delivery = await deliver(sender, { ...MESSAGE, node: "a", retry: 1 }, { clock: new VirtualClock() });
    expect([delivery.tries, delivery.report.outcome]).toEqual([1, BUSY]);
  });
});

describe("to all", () => {
  test("deliver: only who was not reached is tried again, under the same id, and the order stays", async () => {
    const sender = new FakeSender({ a: [BUSY, OK], b: [OK], c: [BUSY, BUSY, ACCEPTED] });
    const deliveries = await deliverToAll(sender, { ...MESSAGE, retry: 3 }, { clock: new VirtualClock() });
    expect(deliveries.map(({ report, tries }) => [report.peer, tries])).toEqual([
      ["a", 2],
      ["b", 1],
      ["c", 3],
    ]);
    expect(sender.sent.length).toBe(6);
    expect(new Set(ids(sender)).size).toBe(1);
  });

  test("deliver: enough answers end it for the others, and they say so", async () => {
    const sender = new FakeSender({ a: [SILENT], b: [OK], c: [ACCEPTED], d: [OK] });
    const deliveries = await deliverToAll(sender, { ...MESSAGE, replies: 2 });
    expect(deliveries.map(({ report, isNotWaitedFor }) => [report.outcome.type, isNotWaitedFor])).toEqual([
      ["cancelled", true],
      ["delivered", false],
      ["delivered", false],
      ["delivered", false],
    ]);
  });

  test("deliver: where a body is asked for, an answer has one", async () => {
    const sender = new FakeSender({ a: [OK], b: [SILENT], c: [WITH_BODY] });
    const deliveries = await deliverToAll(sender, { ...MESSAGE, accept: "*/*", replies: 1 });
    expect(deliveries.map(({ report }) => report.outcome.type)).toEqual(["delivered", "cancelled", "delivered"]);
  });

  test("deliver: who waits to be tried again is not waited for either", async () => {
    const sender = new FakeSender({ a: [{ ...BUSY, retryAfterSeconds: 30 } as Outcome, OK], b: [OK] });
    const deliveries = await deliverToAll(sender, { ...MESSAGE, retry: 1, replies: 1 });
    expect(deliveries.map(({ report, isNotWaitedFor }) => [report.outcome.type, isNotWaitedFor])).toEqual([
      ["cancelled", true],
      ["delivered", false],
    ]);
    expect(sender.sent.length).toBe(2);
  });

  test("deliver: the end of the node ends it, and nobody is said to have answered", async () => {
    const ending = new AbortController();
    const sender = new FakeSender({ a: [SILENT], b: [OK] });
    const all = deliverToAll(sender, { ...MESSAGE, replies: 2 }, { signal: ending.signal });
    ending.abort();
    expect((await all).map(({ report, isNotWaitedFor }) => [report.outcome.type, isNotWaitedFor])).toEqual([
      ["cancelled", false],
      ["delivered", false],
    ]);
  });

  test("deliver: nobody there is nothing sent", async () => {
    expect(await deliverToAll(new FakeSender({}), { ...MESSAGE, retry: 2, replies: 1 })).toEqual([]);
  });
});
