/** What the end of a handler means for its item, and how a consumer stops: the rows of the specification's table, each by a real command. */
// needs programs: bash cat env false head sleep tr true wc
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { commandHandler, verdictOf } from "../../src/consume/command.ts";
import { type Became, type Consumed, type ConsumerOptions, consume, type Handler } from "../../src/consume/consumer.ts";
import { jsonPath } from "../../src/consume/order.ts";
import { StoreSupply } from "../../src/consume/supply.ts";
import { parseDefinition } from "../../src/queue/definition.ts";
import { inProcess } from "../../src/queue/open.ts";
import type { Item } from "../../src/queue/operation.ts";
import type { QueueStore } from "../../src/queue/store.ts";
import { until } from "../helpers/wait.ts";

let dir: string;
let store: QueueStore;
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "co-"));
  store = inProcess({ directory: dir, bytesMax: 64 * 1024 * 1024, repair: false });
  await store.perform({ type: "define", definition: parseDefinition("name=q;retry=0;max-tries=3") });
});
afterEach(async () => {
  await store.close();
  rmSync(dir, { recursive: true, force: true });
});

async function add(...pairs: [key: string, value: string][]): Promise<void> {
  const items = pairs.map(([key, value]) => ({ key, value: new TextEncoder().encode(value) }));
  await store.perform({ type: "add", queue: "q", items });
}

interface Run extends Consumed {
  failures: [seq: number, why: string, became: Became][];
}

async function run(handle: Handler, options: Partial<ConsumerOptions> = {}, orderByKey = false): Promise<Run> {
  const supply = new StoreSupply(store, { queue: "q", leaseMs: 60_000, holder: "test/1", orderByKey });
  const failures: Run["failures"] = [];
  const stop = new AbortController().signal;
  try {
    const onFailure = (item: Item, why: string, became: Became): void => void failures.push([item.seq, why, became]);
    const usual = { supply, handle, jobs: 1, batch: 1, count: 1, waitMs: 0, stop, graceMs: 100, onFailure };
    return { ...(await consume({ ...usual, ...options })), failures };
  } finally {
    await supply.end();
  }
}

function command(text: string, timeoutMs = 20_000): Handler {
  const ignored = { onStdout: () => undefined, onStderrLine: () => undefined };
  return commandHandler({ argv: ["sh", "-c", text], timeoutMs, batch: false, variables: {}, ...ignored });
}

/** What nobody has reaped yet is dead all the same. */
function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}

async function tries(): Promise<number | undefined> {
  const [item] = await store.perform({ type: "peek", queue: "q", count: 1 });
  return item?.tries;
}

describe("B12.5: the end of a command", () => {
  const rows: [text: string, why: string, became: Became, tries: number | undefined][] = [
    ["exit 75", "exited with 75", "retried", 0],
    ["exit 65", "exited with 65", "dead", undefined],
    ["exit 66", "exited with 66", "dead", undefined],
    ["exit 100", "exited with 100", "dead", undefined],
    ["exit 126", "exited with 126", "back", 0],
    ["exit 127", "exited with 127", "back", 0],
    ["exit 1", "exited with 1", "retried", 1],
    ["kill -SEGV $$", "died of SIGSEGV", "retried", 1],
  ];
  test.each(rows)("%s", async (text, why, became, left) => {
    await add(["k", "v"]);
    const { failures, unable } = await run(command(text));
    expect(failures).toEqual([[1, why, became]]);
    expect(unable).toBe(became === "back" ? why : undefined);
    expect(await tries()).toBe(left);
  });

  test("0 is done, and takes the item off", async () => {
    await add(["k", "v"]);
    expect(await run(command("test $(cat) = v"))).toEqual({ done: 1, failed: 0, unable: undefined, failures: [] });
    expect(await tries()).toBeUndefined();
  });

  test("too late: SIGTERM to the whole group, and tried again", async () => {
    await add(["k", "v"]);
    const { failures } = await run(command(`sleep 60 & echo $! >${dir}/pid; wait`, 200));
    expect(failures).toEqual([[1, "took longer than 200 ms", "retried"]]);
    const pid = Number(await Bun.file(join(dir, "pid")).text());
    expect(isAlive(pid)).toBe(false);
  });

  test("75 counts once the item is older than an hour", () => {
    const facts = { stderr: "", timeoutMs: 1 };
    const end = { type: "exited", code: 75 } as const;
    const counts = (ageMs: number): unknown => {
      const verdict = verdictOf(end, { ...facts, ageMs });
      return verdict.type === "failed" && verdict.fate.counts;
    };
    expect([counts(3_599_999), counts(3_600_001)]).toEqual([false, true]);
  });

  test("max-tries makes a dead letter, with exit code and the last 4 KiB of stderr", async () => {
    await add(["k", "v"]);
    const { failures } = await run(command("head -c 9000 /dev/zero | tr '\\0' x | fold >&2; echo end >&2; exit 9"), {
      count: 9,
    });
    expect(failures.map(([, , became]) => became)).toEqual(["retried", "retried", "dead"]);
    const [dead] = await store.perform({ type: "dead", queue: "q", count: 1 });
    expect([dead?.reason, dead?.exitCode, dead?.tries]).toEqual(["exit 9", 9, 3]);
    expect(dead?.stderr.length).toBe(4_096);
    expect(dead?.stderr).toEndWith("xend\n");
  });
});

describe("a consumer", () => {
  test("runs as many at a time as it has jobs, and no more", async () => {
    await add(...Array.from({ length: 9 }, (_, n): [string, string] => [`k${n}`, ""]));
    let running = 0;
    let most = 0;
    const { done } = await run(
      async () => {
        most = Math.max(most, ++running);
        await Bun.sleep(5);
        running--;
        return { type: "done" };
      },
      { jobs: 3, count: Number.POSITIVE_INFINITY },
    );
    expect([done, most]).toEqual([9, 3]);
  });

  test("told to stop: takes nothing more, waits for what runs, then ends it and gives it back uncounted", async () => {
    await add(["quick", ""], ["slow", ""], ["never", ""]);
    const stop = new AbortController();
    const begun: string[] = [];
    const running = run(
      async ([item], ended) => {
        begun.push((item as Item).key);
        if ((item as Item).key === "quick") {
          await until(() => stop.signal.aborted, 5_000, "stopped");
          return { type: "done" };
        }
        await new Promise((resolve) => ended.addEventListener("abort", resolve));
        return { type: "stopped" };
      },
      { jobs: 2, count: Number.POSITIVE_INFINITY, waitMs: Number.POSITIVE_INFINITY, stop: stop.signal, graceMs: 300 },
    );
    await until(() => begun.length === 2, 5_000, "two are at work");
    stop.abort();
    expect((await running).done).toBe(1);
    expect(begun).toEqual(["quick", "slow"]);
    const left = await store.perform({ type: "peek", queue: "q", count: 9 });
    expect(left.map(({ key, tries: count }) => [key, count])).toEqual([
      ["slow", 0],
      ["never", 0],
    ]);
  });

  for (const by of ["key", "json"] as const)
    test(`order by ${by}: a failing item holds up its own key only, and keeps its place`, async () => {
      const value = (key: string, n: number): string => JSON.stringify({ call: { id: key }, n });
      for (const n of [1, 2, 3]) await add(["a", value("a", n)], ["b", value("b", n)]);
      const seen: string[] = [];
      let failures = 2;
      const handle: Handler = async ([item]) => {
        const { key } = item as Item;
        const { n } = JSON.parse(new TextDecoder().decode((item as Item).value)) as { n: number };
        await Bun.sleep(2);
        if (key === "a" && n === 1 && failures-- > 0)
          return { type: "failed", why: "", fate: { fate: "retry", delayMs: 100 } };
        seen.push(`${key}${n}`);
        return { type: "done" };
      };
      const waiting = { jobs: 4, count: 8, waitMs: 20_000 };
      await run(handle, { ...waiting, ...(by === "json" && { orderBy: jsonPath("call.id") }) }, by === "key");
      expect(seen.filter((one) => one.startsWith("a"))).toEqual(["a1", "a2", "a3"]);
      expect(seen.filter((one) => one.startsWith("b"))).toEqual(["b1", "b2", "b3"]);
      expect(seen.indexOf("b3")).toBeLessThan(seen.indexOf("a1"));
    }, 30_000);

  test("a lease is renewed for as long as its command runs", async () => {
    await add(["k", ""]);
    const supply = new StoreSupply(store, { queue: "q", leaseMs: 90, holder: "test/2" });
    const { done } = await run(
      async () => {
        await Bun.sleep(400);
        expect((await store.perform({ type: "sizes", queue: "q" })).leased).toBe(1);
        return { type: "done" };
      },
      { supply },
    );
    await supply.end();
    expect([done, await tries()]).toEqual([1, undefined]);
  });
});
