/** What waits for handlers: full is full for one channel, and the others do not feel it. */
import { expect, test } from "bun:test";
import { ALL_BYTES_MAX, FULL_SHARES, SHARE_BYTES_MAX, Shares } from "../../src/node/shares.ts";
import { Harness, kdmq, udp } from "./harness.ts";

function statuses(harness: Harness): string[] {
  return harness.take().map(({ text }) => text.slice(8, 11));
}

test("overload: a channel whose handler is slow is answered 503 with Retry-After, another one is not", () => {
  const harness = new Harness({ pendingMessages: 3 });
  const send = (channel: string): void => harness.receive(kdmq({ channel }), udp("127.0.0.2"));
  for (let i = 0; i < 5; i++) send("slow");
  const refused = harness.take();
  expect(refused.map(({ text }) => text.slice(8, 11))).toEqual(["503", "503"]);
  expect(refused[0]?.text).toContain("\r\nRetry-After: 2\r\n");
  send("quick");
  const waiting = harness.ofType("message");
  expect([statuses(harness), waiting.map(({ message }) => message.channel)]).toEqual([
    [],
    ["slow", "slow", "slow", "quick"],
  ]);
  harness.do((node, now) => node.answer(waiting[0]!.message.id, { status: 200 }, now));
  send("slow");
  expect([statuses(harness), harness.ofType("message").length]).toEqual([["200"], 5]);
  expect(harness.ofType("warning").map(({ code }) => code)).toEqual(["overload"]);
});

test("overload: all channels together have an end, too", () => {
  const harness = new Harness({ pendingMessages: 2 });
  for (let i = 0; i < 2 * FULL_SHARES + 3; i++) harness.receive(kdmq({ channel: `c${i >> 1}` }), udp("127.0.0.2"));
  expect(statuses(harness)).toEqual(["503", "503", "503"]);
});

test("overload: what nobody ever answers leaves its place when no copy can come any more", () => {
  const harness = new Harness({ pendingMessages: 1 });
  harness.receive(kdmq({ channel: "slow" }), udp("127.0.0.2"));
  harness.runUntil(40_000);
  harness.receive(kdmq({ channel: "slow" }), udp("127.0.0.2"));
  expect([statuses(harness), harness.ofType("message").length]).toEqual([[], 2]);
});

test("shares: octets count for one channel and for all, and come back", () => {
  const shares = new Shares();
  const whole = shares.enter("a", SHARE_BYTES_MAX, 10);
  expect(whole).toBeDefined();
  expect(shares.enter("a", 1, 10)).toBeUndefined();
  const others = ["b", "c", "d"].map((name) => shares.enter(name, SHARE_BYTES_MAX, 10));
  expect([others.includes(undefined), 4 * SHARE_BYTES_MAX]).toEqual([false, ALL_BYTES_MAX]);
  expect(shares.enter("e", 1, 10)).toBeUndefined();
  shares.leave(whole!, SHARE_BYTES_MAX);
  expect([shares.enter("e", 1, 10)?.name, shares.waitingFor("a")]).toEqual(["e", 0]);
});

test("shares: names that remotes make up are not kept", () => {
  const shares = new Shares();
  for (let i = 0; i < 10_000; i++) shares.leave(shares.enter(`made-up ${i}`, 1, 10)!, 1);
  const held = [1, 2].map(() => shares.enter("lab", 1, 2));
  expect([held[0] === held[1], shares.enter("lab", 1, 2), shares.waitingFor("lab")]).toEqual([true, undefined, 2]);
});
