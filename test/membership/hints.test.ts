import { expect, test } from "bun:test";
import { Hints, PROBES_MAX, UNVERIFIED_MAX, WAITING_MAX } from "../../src/membership/hints.ts";
import type { PeerAddress } from "../../src/membership/peer.ts";

const at = (port: number): PeerAddress => ({ transport: "udp", host: "127.0.0.9", port });

test("hints: only so many names are probed at a time", () => {
  const hints = new Hints(60_000);
  for (let port = 1; port <= PROBES_MAX + 1; port++) hints.add(at(port), "mentioned", 0);
  const taken = Array.from({ length: PROBES_MAX }, () => hints.take(0));
  expect(taken.every((hint) => hint !== undefined)).toBe(true);
  expect(hints.take(0)).toBeUndefined();
  hints.settle(taken[0]?.key ?? "");
  expect(hints.take(0)?.address.port).toBe(PROBES_MAX + 1);
});

test("hints: other unproven nodes take part of the room", () => {
  const hints = new Hints(60_000);
  hints.add(at(1), "mentioned", 0);
  expect(hints.take(UNVERIFIED_MAX)).toBeUndefined();
  expect(hints.take(PROBES_MAX - 1)).toBeDefined();
});

test("hints: a name that did not answer is left alone for a while", () => {
  const hints = new Hints(60_000);
  hints.add(at(1), "mentioned", 0);
  hints.fail(hints.take(0)?.key ?? "", 1_000);
  hints.add(at(1), "mentioned", 60_999);
  expect(hints.take(0)).toBeUndefined();
  hints.add(at(1), "mentioned", 61_000);
  expect(hints.take(0)?.address.port).toBe(1);
});

test("hints: the queue is bounded, and a name is in it once", () => {
  const hints = new Hints(60_000);
  for (let port = 1; port <= WAITING_MAX + 10; port++) hints.add(at(port), "mentioned", 0);
  hints.add(at(1), "mentioned", 0);
  expect(hints.dropped).toBe(10);
});
