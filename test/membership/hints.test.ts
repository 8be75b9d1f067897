import { expect, test } from "bun:test";
import { CLAIMS_MAX, Hints, PROBES_MAX, WAITING_MAX } from "../../src/membership/hints.ts";
import type { PeerAddress } from "../../src/membership/peer.ts";

const at = (port: number): PeerAddress => ({ transport: "udp", host: "127.0.0.9", port });

test("hints: only so many names are probed at a time", () => {
  const hints = new Hints(60_000);
  for (let port = 1; port <= PROBES_MAX + 1; port++) hints.add(at(port), "mentioned", 0);
  const taken = Array.from({ length: PROBES_MAX }, () => hints.take());
  expect(taken.every((hint) => hint !== undefined)).toBe(true);
  expect(hints.take()).toBeUndefined();
  hints.settle(taken[0]?.key ?? "");
  expect(hints.take()?.address.port).toBe(PROBES_MAX + 1);
});

test("hints: names from requests leave room for names from answers, and come after them", () => {
  const hints = new Hints(60_000);
  for (let port = 1; port <= 20; port++) hints.add(at(port), "mentioned", 0, { payer: "127.0.0.2" });
  for (let port = 101; port <= 120; port++) hints.add(at(port), "mentioned", 0);
  const taken = Array.from({ length: 4 }, () => hints.take()?.address.port);
  expect(taken).toEqual([101, 102, 103, 104]);
  const other = new Hints(60_000);
  for (let port = 1; port <= 20; port++) other.add(at(port), "mentioned", 0, { payer: "127.0.0.2" });
  expect(Array.from({ length: 20 }, () => other.take()).filter((hint) => hint !== undefined).length).toBe(CLAIMS_MAX);
  other.add(at(101), "mentioned", 0);
  expect(other.take()?.address.port).toBe(101);
});

test("hints: a name that an answer has, too, needs nobody to pay for it", () => {
  const hints = new Hints(60_000);
  hints.add(at(1), "announced", 0, { payer: "127.0.0.2", forwards: 1 });
  hints.add(at(1), "mentioned", 0);
  expect(hints.take()).toMatchObject({ payer: undefined, forwards: 1 });
  expect(hints.size).toBe(1);
});

test("hints: who announces itself again is asked again, whatever it did before", () => {
  const hints = new Hints(60_000);
  hints.add(at(1), "announced", 0, { payer: "127.0.0.2" });
  hints.fail(hints.take()?.key ?? "", 1_000);
  hints.add(at(1), "announced", 1_001, { payer: "127.0.0.2" });
  expect(hints.take()?.address.port).toBe(1);
});

test("hints: a name that did not answer is left alone for a while", () => {
  const hints = new Hints(60_000);
  hints.add(at(1), "mentioned", 0);
  hints.fail(hints.take()?.key ?? "", 1_000);
  hints.add(at(1), "mentioned", 60_999);
  expect(hints.take()).toBeUndefined();
  hints.add(at(1), "mentioned", 61_000);
  expect(hints.take()?.address.port).toBe(1);
});

test("hints: the queue is bounded, and a name is in it once", () => {
  const hints = new Hints(60_000);
  const taken = Array.from({ length: WAITING_MAX + 10 }, (_, i) => hints.add(at(i + 1), "mentioned", 0));
  expect(taken.filter((isIn) => isIn).length).toBe(WAITING_MAX);
  expect(hints.add(at(1), "mentioned", 0)).toBe(true);
  expect(hints.size).toBe(WAITING_MAX);
});
