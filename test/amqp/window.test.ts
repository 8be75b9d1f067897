/** The window and the lane: counts, order, and what a broker may confirm in which way. */
import { expect, test } from "bun:test";
import { Lane } from "../../src/amqp/lane.ts";
import { Window } from "../../src/amqp/window.ts";
import { below, seededRandom } from "../../src/core/random.ts";

interface Item {
  readonly name: number;
  readonly bytes: number;
}

const LIMITS = { messages: 4, bytes: 1_000 };

test("window: no more than so many messages and octets, and a larger one alone", () => {
  const window = new Window<Item>(LIMITS);
  expect(window.hasRoom(5_000)).toBe(true);
  window.add({ name: 1, bytes: 900 });
  expect([window.hasRoom(100), window.hasRoom(101)]).toEqual([true, false]);
  for (const name of [2, 3, 4]) window.add({ name, bytes: 10 });
  expect(window.hasRoom(1)).toBe(false);
  window.settle(1, false, () => undefined);
  expect([window.size, window.bytes, window.hasRoom(1)]).toEqual([3, 30, true]);
});

test("window: one confirm for several, and for one among others", () => {
  const window = new Window<Item>({ messages: 100, bytes: 1_000 });
  for (let name = 1; name <= 6; name++) window.add({ name, bytes: 1 });
  const settled: number[] = [];
  const note = ({ name }: Item): void => void settled.push(name);
  window.settle(2, false, note);
  window.settle(4, true, note);
  window.settle(4, true, note);
  window.settle(3, false, note);
  expect(settled).toEqual([2, 1, 3, 4]);
  expect(window.oldest()?.name).toBe(5);
  expect(window.takeAll().map(({ name }) => name)).toEqual([5, 6]);
  expect([window.size, window.bytes, window.oldest()]).toEqual([0, 0, undefined]);
});

test("window: a tag that was never published is a broken broker", () => {
  const window = new Window<Item>(LIMITS);
  window.add({ name: 1, bytes: 1 });
  expect(() => window.settle(2, false, () => undefined)).toThrow();
});

test("window: against a plain list, over 100,000 messages in any order of confirms", () => {
  const random = seededRandom(11);
  const window = new Window<Item>({ messages: 64, bytes: 64_000 });
  const plain = new Map<number, Item>();
  let tag = 0;
  for (let step = 0; step < 100_000; step++) {
    const bytes = below(random, 2_000);
    if (window.hasRoom(bytes)) {
      const item = { name: ++tag, bytes };
      window.add(item);
      plain.set(tag, item);
      continue;
    }
    const tags = [...plain.keys()];
    const chosen = tags[below(random, tags.length)] as number;
    const multiple = below(random, 3) === 0;
    const wanted = multiple ? tags.filter((one) => one <= chosen) : [chosen];
    const got: number[] = [];
    window.settle(chosen, multiple, ({ name }) => got.push(name));
    expect(got).toEqual(wanted);
    for (const one of wanted) plain.delete(one);
  }
  expect(window.bytes).toBe([...plain.values()].reduce((sum, { bytes }) => sum + bytes, 0));
  expect([...window].map(({ name }) => name)).toEqual([...plain.keys()]);
});

test("lane: first in, first out, and back to the front in order", () => {
  const random = seededRandom(3);
  const lane = new Lane<number>();
  const plain: number[] = [];
  for (let step = 0; step < 50_000; step++) {
    const what = below(random, 5);
    if (what < 2 || (what === 4 && step % 97 !== 0)) {
      lane.push(step);
      plain.push(step);
    } else if (what < 4) expect(lane.shift()).toBe(plain.shift());
    else {
      lane.putBack([step, step + 1]);
      plain.unshift(step, step + 1);
    }
    expect(lane.first()).toBe(plain[0]);
  }
  expect([...lane]).toEqual(plain);
  lane.keep((value) => value % 2 === 0);
  expect([...lane]).toEqual(plain.filter((value) => value % 2 === 0));
  expect(lane.size).toBe([...lane].length);
});
