/**
 * Goal: what was answered is there after a kill -9, once. Method: 32 writers add over the control socket of a daemon that is
 * killed at random moments; who got no answer repeats with the same id when the next daemon is there.
 * `npm run test:kill` plays 100 rounds.
 */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { inProcess } from "../../src/queue/open.ts";
import { RpcClient } from "../../src/rpc/client.ts";
import { Folder } from "./rig.ts";

const ROUNDS = Number(process.env.DMQ_KILL_ROUNDS ?? 4);
const WRITERS = 32;
const ROUND_MS = 10_000;
const PAGE = 10_000;

const folder = new Folder();
const socket = join(folder.path, "dmq.sock");
const client = new RpcClient(socket);

afterAll(() => folder.remove());

function start(): Bun.Subprocess {
  const args = [
    "--server-address",
    "sip:127.0.0.1:0",
    "--socket",
    socket,
    "--state-dir",
    folder.path,
    "--log-level",
    "error",
  ];
  const dmq = join(import.meta.dir, "..", "..", "bin", "dmq.ts");
  return Bun.spawn([process.execPath, dmq, "serve", ...args, "--queue", "jobs"], {
    stdio: ["ignore", "ignore", "inherit"],
  });
}

async function answers(): Promise<void> {
  for (;;) {
    const up = await client.call("queue.sizes", ["jobs"]).then(
      () => true,
      () => false,
    );
    if (up) return;
    await Bun.sleep(5);
  }
}

test(
  `B12.2: kill -9, ${ROUNDS} rounds under ${WRITERS} writers: nothing answered is missing, nothing is there twice`,
  async () => {
    const answered = new Set<string>();
    let tried = 0;
    let ended = false;
    let up = Promise.withResolvers<void>();
    const writer = async (name: number): Promise<void> => {
      for (let i = 0; !ended; i++) {
        const id = `${name}-${i}`;
        tried++;
        while (!answered.has(id)) {
          await up.promise;
          const params = { queue: "jobs", key: id, value: `value of ${id}`, dedupe: id };
          const done = await client.call("queue.add", params).then(
            () => true,
            () => false,
          );
          if (done) answered.add(id);
          else await Bun.sleep(1);
        }
      }
    };
    let daemon = start();
    const writers = Array.from({ length: WRITERS }, (_, name) => writer(name));
    for (let round = 0; round < ROUNDS; round++) {
      await answers();
      up.resolve();
      await Bun.sleep(20 + Math.random() * 400);
      up = Promise.withResolvers();
      daemon.kill("SIGKILL");
      await daemon.exited;
      daemon = start();
    }
    await answers();
    ended = true;
    up.resolve();
    await Promise.all(writers);
    daemon.kill("SIGKILL");
    await daemon.exited;

    const store = inProcess({ directory: folder.path });
    const found = new Map<string, number>();
    for (let after = 0; ; ) {
      const page = await store.perform({ type: "peek", queue: "jobs", count: PAGE, after });
      for (const { key } of page) found.set(key, (found.get(key) ?? 0) + 1);
      if (page.length === 0) break;
      after = Math.max(...page.map(({ seq }) => seq));
    }
    expect(await store.perform({ type: "check" })).toMatchObject({ ok: true, problems: [] });
    await store.close();
    console.log(`kill -9: ${ROUNDS} rounds, ${tried} items tried, ${answered.size} answered, ${found.size} stored`);
    expect([...answered].filter((id) => !found.has(id))).toEqual([]);
    expect([...found].filter(([, times]) => times > 1)).toEqual([]);
    expect(found.size).toBe(tried);
    expect(tried).toBeGreaterThan(ROUNDS * WRITERS);
  },
  ROUNDS * ROUND_MS + 20_000,
);
