/** Order of attempts: next at once after a loss, a doubling pause after a round, half a minute for who refuses, no storm of attempts. */
import { expect, test } from "bun:test";
import { type Attempt, Order, PAUSE_MS, PAUSE_MS_MAX, REFUSED_MS, STABLE_MS } from "../../src/amqp/order.ts";
import { seededRandom } from "../../src/core/random.ts";

const SEED = 7;

function index(attempt: Attempt): number {
  if (attempt.type !== "try") throw new Error(`expected an attempt, got a wait of ${attempt.ms} ms`);
  return attempt.index;
}

function pause(attempt: Attempt): number {
  if (attempt.type !== "wait") throw new Error(`expected a wait, got attempt ${attempt.index}`);
  return attempt.ms;
}

/** A round in which nobody answers; @returns whom it asked, and how long the pause after it is */
function round(order: Order, now: number): { asked: number[]; ms: number } {
  const asked: number[] = [];
  for (;;) {
    const attempt = order.next(now);
    if (attempt.type === "wait") return { asked, ms: attempt.ms };
    asked.push(attempt.index);
    order.failed(attempt.index, false, now);
  }
}

test("order: the list is tried as it stands, without a pause in a round", () => {
  expect(round(new Order(3, seededRandom(SEED)), 0).asked).toEqual([0, 1, 2]);
});

test("order: pauses double from 0.2 s to 5 s, a fifth more or less", () => {
  const order = new Order(2, seededRandom(SEED));
  let now = 0;
  for (const wanted of [1, 2, 4, 8, 16, 25, 25].map((factor) => factor * PAUSE_MS)) {
    const { asked, ms } = round(order, now);
    expect(asked).toEqual([0, 1]);
    expect(ms).toBeGreaterThanOrEqual(wanted * 0.8 - 1e-9);
    expect(ms).toBeLessThanOrEqual(wanted * 1.2 + 1e-9);
    expect(pause(order.next(now + ms / 2))).toBeCloseTo(ms / 2);
    now += ms;
  }
  expect(PAUSE_MS_MAX).toBe(25 * PAUSE_MS);
});

test("order: after a loss the next is tried at once, the lost one last", () => {
  const order = new Order(3, seededRandom(SEED));
  expect(index(order.next(0))).toBe(0);
  order.failed(0, false, 0);
  expect(index(order.next(0))).toBe(1);
  order.succeeded(1, 0);
  order.lost(STABLE_MS);
  expect(round(order, STABLE_MS).asked).toEqual([2, 0, 1]);
});

test("order: a success makes the next pause short again", () => {
  const order = new Order(1, seededRandom(SEED));
  let now = 0;
  for (let turn = 0; turn < 6; turn++) now += round(order, now).ms;
  expect(index(order.next(now))).toBe(0);
  order.succeeded(0, now);
  order.lost(now + STABLE_MS);
  expect(round(order, now + STABLE_MS).ms).toBeLessThanOrEqual(PAUSE_MS * 1.2);
});

test("order: who refuses for good is left out for half a minute", () => {
  const order = new Order(2, seededRandom(SEED));
  expect(index(order.next(0))).toBe(0);
  order.failed(0, true, 0);
  expect(index(order.next(0))).toBe(1);
  order.failed(1, false, 0);
  expect(order.allRefused(0)).toBe(false);
  const first = pause(order.next(0));
  expect(round(order, first).asked).toEqual([1]);
  expect(round(order, REFUSED_MS).asked).toEqual([0, 1]);
});

test("order: where all refuse for good the pause is half a minute", () => {
  const order = new Order(2, seededRandom(SEED));
  for (const wanted of [0, 1]) {
    expect(index(order.next(0))).toBe(wanted);
    order.failed(wanted, true, 0);
  }
  expect(order.allRefused(0)).toBe(true);
  expect(pause(order.next(0))).toBe(REFUSED_MS);
  expect(round(order, REFUSED_MS).asked).toEqual([0, 1]);
});

test("order: a broker that ends every connection at once is asked no oftener than one that does not answer", () => {
  const order = new Order(2, seededRandom(SEED));
  let attempts = 0;
  let now = 0;
  while (now < 60_000) {
    const attempt = order.next(now);
    if (attempt.type === "wait") {
      now += attempt.ms;
      continue;
    }
    attempts++;
    order.succeeded(attempt.index, now);
    now += 1;
    order.lost(now);
  }
  // Twelve pauses of 5 s, and the shorter ones before.
  expect(attempts).toBeLessThan(2 * 22);
  expect(attempts).toBeGreaterThan(2 * 8);
});
