/** Bulk work in short pieces: the loop reads between them, and several pieces of work take turns. */
import { describe, expect, test } from "bun:test";
import { answer } from "../../src/rpc/jsonrpc.ts";
import { Turns } from "../../src/rpc/turns.ts";
import { FakeSurface } from "./fake-surface.ts";

function spin(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

/** @returns how often the loop came round until `work` was over */
async function loopTurns(work: Promise<unknown>): Promise<number> {
  let isOver = false;
  work.then(() => {
    isOver = true;
  });
  let count = 0;
  while (!isOver) {
    await new Promise((resolve) => setImmediate(resolve));
    count++;
  }
  return count;
}

describe("turns", () => {
  test("turns: within a slice nothing waits, after it the loop comes first", async () => {
    const turns = new Turns();
    await turns.next();
    expect(turns.next()).toBeUndefined();
    spin(1.5);
    const turn = turns.next();
    expect(turn).toBeInstanceOf(Promise);
    let hasTurned = false;
    setImmediate(() => {
      hasTurned = true;
    });
    await turn;
    expect(hasTurned).toBe(true);
  });

  test("turns: who comes later waits behind those who wait, each for a turn of the loop of its own", async () => {
    const turns = new Turns();
    const order: string[] = [];
    const work = async (name: string): Promise<void> => {
      for (let i = 0; i < 3; i++) {
        await turns.next();
        order.push(name);
        spin(1.5);
      }
    };
    expect(await loopTurns(Promise.all([work("a"), work("b")]))).toBeGreaterThanOrEqual(6);
    expect(order).toEqual(["a", "b", "a", "b", "a", "b"]);
  });
});

describe("batches", () => {
  /** A surface whose broadcasts take time at their start, as sending does. */
  class SlowSurface extends FakeSurface {
    override broadcast(...args: Parameters<FakeSurface["broadcast"]>): ReturnType<FakeSurface["broadcast"]> {
      spin(0.5);
      return super.broadcast(...args);
    }
  }

  function batch(from: number, count: number): string {
    const ids = Array.from({ length: count }, (_, i) => from + i);
    return JSON.stringify(
      ids.map((id) => ({ jsonrpc: "2.0", id, method: "dmq.bcast", params: { channel: "c", body: `${id}` } })),
    );
  }

  function bodies(surface: FakeSurface): number[] {
    return surface.calls.map((call) => Number(new TextDecoder().decode((call as { body: Uint8Array }).body)));
  }

  test("batch: the loop comes round while it begins its calls, in their order", async () => {
    const surface = new SlowSurface();
    const answered = answer(surface, batch(0, 100));
    expect(await loopTurns(answered)).toBeGreaterThan(20);
    const expected = Array.from({ length: 100 }, (_, i) => i);
    expect(bodies(surface)).toEqual(expected);
    expect(JSON.parse((await answered) as string).map(({ id }: { id: number }) => id)).toEqual(expected);
  });

  test("batch: two at a time are both served, and each in its order", async () => {
    const surface = new SlowSurface();
    await Promise.all([answer(surface, batch(0, 40)), answer(surface, batch(1_000, 40))]);
    const order = bodies(surface);
    const [first, second] = [order.filter((id) => id < 1_000), order.filter((id) => id >= 1_000)];
    expect(first).toEqual(Array.from({ length: 40 }, (_, i) => i));
    expect(second).toEqual(Array.from({ length: 40 }, (_, i) => 1_000 + i));
    expect(order.indexOf(1_000)).toBeLessThan(order.indexOf(39));
  });
});
