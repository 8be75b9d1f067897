/**
 * Items a second into a queue and out of it again (lease and ack), each writer waiting for its answer, which comes after the flush to
 * disk: our store on its thread, as the daemon uses it, and redis-server with `appendfsync always`, LPUSH and then LMOVE to a list
 * of what is under way and LREM. Both on the same disk, in turns; whoever stores, thread or process, on the server's core, and whoever
 * asks on the other: where the kernel moves them about, a turn of one writer takes 0.32 to 0.45 ms of ours, by luck.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseDefinition } from "../src/queue/definition.ts";
import { startStore } from "../src/queue/thread.ts";
import { column, figure, ratio, takeTurns } from "./lib/figures.ts";
import { pin, pinned, pinThreads } from "./lib/machine.ts";
import { parseOptions } from "./lib/options.ts";
import { cell, type Report, runBench } from "./lib/report.ts";

const WRITERS = [1, 8, 64];
const VALUE = Buffer.alloc(200, "v");
const BYTES_MAX = 2 * 1024 ** 3;
const LEASE_MS = 60_000;
/** Of a turn; contenders take turns piece by piece. */
const PIECES = 5;
/** Of each contender before the first turn. */
const WARM_WRITERS = 8;
const WARM_ITEMS_EACH = 1_000;

interface Queue {
  readonly name: string;
  add(writer: number): Promise<void>;
  /** @returns false where there was nothing to take */
  take(writer: number): Promise<boolean>;
  close(): Promise<void>;
}

interface Turn {
  readonly rate: number;
  readonly p50: number;
  readonly p99: number;
}

/** What Bun calls the thread of a `Worker`. */
const THREAD = "Worker";

async function ours(directory: string, report: Report): Promise<Queue> {
  const store = await startStore({ directory, bytesMax: BYTES_MAX, repair: false });
  if (!pinThreads("server", THREAD)) report.note(`our store is where the kernel has it: no thread is called ${THREAD}`);
  await store.perform({ type: "define", definition: parseDefinition("name=bench;bytes=1g") });
  return {
    name: "dmq",
    add: async (writer) => {
      await store.perform({ type: "add", queue: "bench", items: [{ key: `k${writer}`, value: VALUE }] });
    },
    take: async (writer) => {
      const lease = { type: "lease" as const, queue: "bench", count: 1, leaseMs: LEASE_MS, holder: `w${writer}` };
      const [item] = await store.perform(lease);
      if (item === undefined) return false;
      await store.perform({ type: "ack", ids: [item.id] });
      return true;
    },
    close: () => store.close(),
  };
}

async function redis(directory: string): Promise<Queue> {
  const socket = join(directory, "redis.sock");
  const settings = ["--port", "0", "--unixsocket", socket, "--dir", directory, "--save", "", "--appendonly", "yes"];
  const command = ["redis-server", ...settings, "--appendfsync", "always", "--daemonize", "no"];
  const server = Bun.spawn(pinned("server", command), { stdio: ["ignore", "ignore", "inherit"] });
  const clients = Array.from({ length: Math.max(...WRITERS) }, () => new Bun.RedisClient(`redis+unix://${socket}`));
  for (const client of clients) {
    for (let tries = 0; !client.connected; tries++) {
      await client.connect().catch(() => Bun.sleep(20));
      if (tries > 200) throw new Error("redis-server does not answer");
    }
  }
  const value = VALUE.toString();
  let number = 0;
  return {
    name: "redis",
    add: async (writer) => {
      await (clients[writer] as Bun.RedisClient).send("LPUSH", ["bench", `${++number}:${value}`]);
    },
    take: async (writer) => {
      const client = clients[writer] as Bun.RedisClient;
      const item = (await client.send("LMOVE", ["bench", "taken", "RIGHT", "LEFT"])) as string | null;
      if (item === null) return false;
      await client.send("LREM", ["taken", "1", item]);
      return true;
    },
    close: async () => {
      for (const client of clients) client.close();
      server.kill();
      await server.exited;
    },
  };
}

/** @param call  does one item; false ends the turn */
async function turn(writers: number, seconds: number, call: (writer: number) => Promise<boolean>): Promise<Turn> {
  const times: number[] = [];
  const start = performance.now();
  let end = start + seconds * 1_000;
  const lane = async (writer: number): Promise<void> => {
    while (performance.now() < end) {
      const begun = performance.now();
      if (!(await call(writer))) end = begun;
      else times.push(performance.now() - begun);
    }
  };
  await Promise.all(Array.from({ length: writers }, (_, writer) => lane(writer)));
  const passed = (performance.now() - start) / 1_000;
  times.sort((a, b) => a - b);
  const at = (share: number): number => times[Math.floor(share * times.length)] ?? 0;
  return { rate: times.length / passed, p50: at(0.5), p99: at(0.99) };
}

/** Compiled, and with files that have their size: ours no longer grows then, and redis' does for ever. */
async function warm(queue: Queue): Promise<void> {
  const writer = async (number: number): Promise<void> => {
    for (let i = 0; i < WARM_ITEMS_EACH; i++) {
      await queue.add(number);
      await queue.take(number);
    }
  };
  await Promise.all(Array.from({ length: WARM_WRITERS }, (_, number) => writer(number)));
}

const options = parseOptions(process.argv.slice(2));

await runBench("queue", options, async (report) => {
  const directory = mkdtempSync(join(tmpdir(), "dmq-bench-queue-"));
  pin("other", process.pid);
  const queues = [await ours(directory, report)];
  if (Bun.which("redis-server") === null) report.note("redis is left out: redis-server is not installed");
  else queues.push(await redis(directory));
  // The disk is others', too, and its pace changes within a second.
  const [turns, seconds] = [options.turns * PIECES, options.seconds / PIECES];
  try {
    for (const queue of queues) await warm(queue);
    for (const writers of WRITERS) {
      const adding = await takeTurns(queues, turns, (queue) =>
        turn(writers, seconds, async (writer) => {
          await queue.add(writer);
          return true;
        }),
      );
      const taking = await takeTurns(queues, turns, (queue) => turn(writers, seconds, (writer) => queue.take(writer)));
      for (const [what, results] of [
        ["enqueue", adding],
        ["lease + ack", taking],
      ] as const) {
        const rows = [...results].map(([{ name }, all]) => ({
          name,
          cells: {
            "items/s": cell(figure(column(all, ({ rate }) => rate))),
            "p50 ms": cell(figure(column(all, ({ p50 }) => p50)), 2),
            "p99 ms": cell(figure(column(all, ({ p99 }) => p99)), 2),
          },
        }));
        report.table(`${what}, ${writers} writers`, rows);
        const [mine, theirs] = [...results.values()].map((all) => column(all, ({ rate }) => rate));
        const name = `${what}, ${writers} writers: over redis`;
        if (mine !== undefined && theirs !== undefined)
          report.goal({ name, measured: ratio(mine, theirs).median, unit: "×", atLeast: 1 });
      }
    }
  } finally {
    for (const queue of queues) await queue.close();
    rmSync(directory, { recursive: true, force: true });
  }
});
