/**
 * Goal (queue.md B12.10): a backlog changes neither how long the daemon takes to start nor how much memory it has. Method: the same
 * executable on a state directory with a queue of ten items and on one with a backlog; then items go in and out of the backlog.
 * 100,000 items; `DMQ_BACKLOG=1000000` plays the long form.
 */
import { afterAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseDefinition } from "../../src/queue/definition.ts";
import { inProcess } from "../../src/queue/open.ts";
import { RpcClient } from "../../src/rpc/client.ts";
import { Daemons, EXECUTABLE } from "../helpers/daemon.ts";

const ITEMS = Number(process.env.DMQ_BACKLOG ?? 100_000);
const FEW = 10;
const PIECE = 1_000;
const VALUE = Buffer.alloc(200, "v");
const STARTS = 5;
const START_TRIES = 10_000;

/** Where the machine has other things to do, the short start says how slow it is. */
const START_MS = 200;
const GROWTH_BYTES = 24 * 1024 ** 2;
const TEST_MS = 60_000 + ITEMS / 10;

const all = new Daemons();
afterAll(() => all.endAll());

async function fill(directory: string, count: number): Promise<void> {
  const store = inProcess({ directory });
  await store.perform({ type: "define", definition: parseDefinition("name=q;bytes=1g") });
  for (let i = 0; i < count; i += PIECE) {
    const items = Array.from({ length: Math.min(PIECE, count - i) }, (_, n) => ({ key: `key ${i + n}`, value: VALUE }));
    await store.perform({ type: "add", queue: "q", items });
  }
  await store.close();
}

interface Node {
  /** Until the control socket has answered. */
  startMs: number;
  client: RpcClient;
  rss(): number;
  end(): Promise<number>;
}

async function start(directory: string): Promise<Node> {
  const socket = join(all.dir, "b.sock");
  const client = new RpcClient(socket);
  const begun = performance.now();
  const args = ["--server-address", "sip:127.0.0.1:0", "--socket", socket, "--state-dir", directory, "--no-snapshot"];
  const child = Bun.spawn([EXECUTABLE, "serve", ...args, "--log-level", "error"], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  await answers(client);
  const startMs = performance.now() - begun;
  return {
    startMs,
    client,
    rss: () => residentBytes(child.pid),
    end: async () => {
      child.kill("SIGTERM");
      return child.exited;
    },
  };
}

async function answers(client: RpcClient): Promise<void> {
  for (let tries = 0; tries < START_TRIES; tries++) {
    const up = await client.call("queue.sizes", ["q"]).then(
      () => true,
      () => false,
    );
    if (up) return;
    await Bun.sleep(2);
  }
  throw new Error("the daemon does not answer");
}

function residentBytes(pid: number): number {
  const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(found?.[1]) * 1_024;
}

/** @returns the shortest of some starts and the smallest memory behind them: what others do on the machine is not ours */
async function best(directory: string): Promise<{ ms: number; rss: number }> {
  const found = { ms: Number.POSITIVE_INFINITY, rss: Number.POSITIVE_INFINITY };
  for (let i = 0; i < STARTS; i++) {
    const node = await start(directory);
    found.ms = Math.min(found.ms, node.startMs);
    found.rss = Math.min(found.rss, node.rss());
    expect(await node.end()).toBe(0);
  }
  return found;
}

test(
  `B12.10: a backlog of ${ITEMS} items: the start is as fast, and the memory as small, as with ${FEW}`,
  async () => {
    const [few, many] = [join(all.dir, "few"), join(all.dir, "many")];
    await fill(few, FEW);
    await fill(many, ITEMS);
    const [small, large] = [await best(few), await best(many)];
    const node = await start(many);
    const before = node.rss();
    let peak = before;
    for (let turn = 0; turn < 40; turn++) {
      const lease = { queue: "q", count: 100, lease_ms: 60_000 };
      const items = await node.client.call<{ id: string; key: string; value: string }[]>("queue.lease", lease);
      await node.client.call("queue.ack", { ids: items.map(({ id }) => id) });
      await node.client.call("queue.add", { queue: "q", items: items.map(({ key, value }) => ({ key, value })) });
      await node.client.call("queue.list");
      peak = Math.max(peak, node.rss());
    }
    const { ready } = await node.client.call<{ ready: number }>("queue.sizes", ["q"]);
    expect(await node.end()).toBe(0);
    const mib = (bytes: number): string => (bytes / 1024 ** 2).toFixed(1);
    console.log(
      `backlog: ${ITEMS} items: start ${large.ms.toFixed(0)} ms, ${mib(large.rss)} MiB, at work ${mib(peak)} MiB; ` +
        `${FEW} items: start ${small.ms.toFixed(0)} ms, ${mib(small.rss)} MiB`,
    );
    expect(ready).toBe(ITEMS);
    expect(large.ms).toBeLessThan(Math.max(START_MS, 3 * small.ms));
    expect(large.rss).toBeLessThan(small.rss + GROWTH_BYTES);
    expect(peak).toBeLessThan(before + 2 * GROWTH_BYTES);
  },
  TEST_MS,
);
