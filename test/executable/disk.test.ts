/**
 * A disk that is full, and one that is read-only (queue.md B12.9): what was answered stays, taking goes on and makes room, and nothing
 * is said to be stored that is not. On a small file system of the test's own.
 */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { Daemons, dmq, EXECUTABLE } from "../helpers/daemon.ts";
import { diskProblem, SmallDisk } from "../helpers/disk.ts";
import { describeWhere } from "../helpers/needs.ts";
import type { Finished } from "../helpers/process.ts";
import { until } from "../helpers/wait.ts";

const TEST_MS = 60_000;
const VALUE = Buffer.alloc(1_000_000, "v");
/** Of 40 MiB: the log and the reserve of a daemon leave room for some. */
const SOME = 8;
const MANY = 60;

let all: Daemons | undefined;
const daemons = (): Daemons => {
  all ??= new Daemons();
  return all;
};
/** A test that fails midway leaves its daemon and its disk behind. */
const begun: (() => Promise<unknown>)[] = [];
afterAll(async () => {
  for (const end of begun.reverse()) await end();
  await all?.endAll();
});

interface Place {
  disk: SmallDisk;
  env: Record<string, string>;
  q(words: readonly string[], stdin?: Uint8Array): Promise<Finished>;
}

async function place(name: string): Promise<Place> {
  const { dir } = daemons();
  const disk = await SmallDisk.make(join(dir, name), "40m");
  begun.push(() => disk.end());
  const env = { DMQ_STATE_DIR: join(disk.folder, "state"), DMQ_SOCKET: join(dir, `${name}.sock`) };
  return { disk, env, q: (words, stdin) => disk.dmq(["queue", ...words], env, stdin) };
}

/** A node whose state is on that disk. */
async function serve({ disk, env }: Place): Promise<() => Promise<number>> {
  const args = ["serve", "--server-address", "sip:127.0.0.66:0", "--no-snapshot", "--log-level", "error"];
  const child = Bun.spawn([...disk.prefix, EXECUTABLE, ...args], {
    env: { PATH: process.env.PATH ?? "", ...env },
    stdio: ["ignore", "ignore", "inherit"],
  });
  begun.push(async () => {
    child.kill("SIGKILL");
    await child.exited;
  });
  await until(async () => (await dmq(["status"], { env })).code === 0, 10_000, "the daemon answers");
  return async () => {
    child.kill("SIGTERM");
    return child.exited;
  };
}

describeWhere(diskProblem(), "B12.9: a disk", () => {
  for (const way of ["file", "daemon"] as const)
    test(
      `that is full, by the ${way}: the add ends with 9 and stores nothing, what is stored can be taken, and then there is room again`,
      async () => {
        const here = await place(`full-${way}`);
        const { q } = here;
        const end = way === "daemon" ? await serve(here) : undefined;
        expect((await q(["define", "q"])).code).toBe(0);
        let stored = 0;
        let last: Finished | undefined;
        while (stored < MANY) {
          last = await q(["add", "q", `k${stored}`, "-"], VALUE);
          if (last.code !== 0) break;
          stored++;
        }
        expect(stored).toBeGreaterThan(SOME);
        expect(last).toMatchObject({
          code: 9,
          stdout: "",
          stderr: expect.stringMatching(/^dmq: [^\n]*disk is full[^\n]*\n$/),
        });
        expect((await q(["size", "q"])).stdout).toBe(`${stored}\n`);
        expect((await q(["check"])).code).toBe(0);
        const one = await q(["fetch", "q", "--raw"]);
        expect([one.code, one.stdout.length]).toEqual([0, VALUE.length]);
        const rest = await q(["fetch", "q", "--all", "--format", "{key} {size}"]);
        const expected = Array.from({ length: stored - 1 }, (_, n) => `k${n + 1} ${VALUE.length}\n`).join("");
        expect([rest.code, rest.stdout, rest.stderr]).toEqual([0, expected, ""]);
        expect((await q(["add", "q", "again", "-"], VALUE)).code).toBe(0);
        expect((await q(["check"])).code).toBe(0);
        if (end !== undefined) expect(await end()).toBe(0);
        await here.disk.end();
      },
      TEST_MS,
    );

  test(
    "that others have filled: the add ends with 9, and goes on when there is room",
    async () => {
      const here = await place("others");
      const { q, disk } = here;
      const end = await serve(here);
      await q(["define", "q"]);
      await q(["add", "q", "k", "v"]);
      disk.sh(`dd if=/dev/zero of=${disk.folder}/fill bs=64k count=10000 2>/dev/null || true`);
      // The log has its space already: small items find room in it for a while.
      let full: Finished = { code: 0, stdout: "", stderr: "" };
      for (let i = 0; i < MANY && full.code === 0; i++) full = await q(["add", "q", "large", "-"], VALUE);
      expect([full.code, full.stderr]).toEqual([9, expect.stringContaining("disk is full")]);
      expect((await q(["fetch", "q"])).stdout).toBe("k\tv\n");
      disk.sh(`rm ${disk.folder}/fill`);
      expect((await q(["add", "q", "after", "-"], VALUE)).code).toBe(0);
      expect((await q(["check"])).code).toBe(0);
      expect(await end()).toBe(0);
      await disk.end();
    },
    TEST_MS,
  );

  test(
    "that is read-only: every command and the daemon end with 9 and say what to check; afterwards all is as it was",
    async () => {
      const { q, disk, env } = await place("readonly");
      await q(["define", "q"]);
      await q(["add", "q", "k", "v"]);
      disk.sh(`mount -o remount,ro ${disk.folder}`);
      const serving = ["serve", "--server-address", "sip:127.0.0.66:0", "--no-snapshot"];
      const found = [await q(["add", "q", "l", "w"]), await q(["fetch", "q"]), await disk.dmq(serving, env)];
      for (const done of found)
        expect(done).toMatchObject({
          code: 9,
          stdout: "",
          stderr: expect.stringMatching(/dmq: [^\n]*queues\.(db|lock)[^\n]*check /),
        });
      disk.sh(`mount -o remount,rw ${disk.folder}`);
      expect((await q(["fetch", "q", "--all"])).stdout).toBe("k\tv\n");
      await disk.end();
    },
    TEST_MS,
  );
});
