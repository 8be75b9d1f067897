import { describe, expect, test } from "bun:test";
import { JobQueue } from "../../src/exec/jobs.ts";

class Bench {
  readonly started: string[] = [];
  readonly queue: JobQueue;
  private readonly ends = new Map<string, () => void>();

  constructor(atATime: number, waitingMax = 100) {
    this.queue = new JobQueue({ atATime, waitingMax });
  }

  push(key: string, name: string): string | undefined {
    return this.queue.push(key, () => {
      this.started.push(name);
      return new Promise((resolve) => this.ends.set(name, resolve));
    });
  }

  async end(name: string): Promise<void> {
    this.ends.get(name)?.();
    for (let turn = 0; turn < 5; turn++) await Promise.resolve();
  }
}

describe("jobs", () => {
  test("so many run at a time, and the next when one ends", async () => {
    const bench = new Bench(2);
    for (const key of ["a", "b", "c"]) bench.push(key, key);
    expect(bench.started).toEqual(["a", "b"]);
    await bench.end("b");
    expect(bench.started).toEqual(["a", "b", "c"]);
  });

  test("those of one key run one after the other, in order, and keep nobody else waiting", async () => {
    const bench = new Bench(3);
    for (const [key, name] of [
      ["a", "a1"],
      ["a", "a2"],
      ["a", "a3"],
      ["b", "b1"],
    ] as const)
      bench.push(key, name);
    expect(bench.started).toEqual(["a1", "b1"]);
    await bench.end("a1");
    await bench.end("a2");
    expect(bench.started).toEqual(["a1", "b1", "a2", "a3"]);
  });

  test("beyond the bound the oldest that waits is dropped, and its key said", async () => {
    const bench = new Bench(1, 2);
    expect(bench.push("a", "a1")).toBeUndefined();
    expect([bench.push("b", "b1"), bench.push("c", "c1"), bench.push("d", "d1")]).toEqual([undefined, undefined, "b"]);
    await bench.end("a1");
    await bench.end("c1");
    expect(bench.started).toEqual(["a1", "c1", "d1"]);
  });

  test("clear forgets what waits and nothing else", async () => {
    const bench = new Bench(1);
    bench.push("a", "a1");
    bench.push("b", "b1");
    bench.queue.clear();
    await bench.end("a1");
    bench.push("c", "c1");
    expect(bench.started).toEqual(["a1", "c1"]);
  });
});
