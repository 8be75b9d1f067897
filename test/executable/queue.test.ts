/**
 * `dmq queue` as a shell has it: pipes whose readers die, processes that are killed, two of them on one file, a daemon that starts
 * meanwhile; and the examples of docs/QUEUES.md, word for word.
 */
// needs programs: bash cat env false head sleep tr true wc
import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Daemons, dmq, EXECUTABLE } from "../helpers/daemon.ts";
import { type Finished, finished } from "../helpers/process.ts";
import { until } from "../helpers/wait.ts";

const TEST_MS = 60_000;
const URI = "sip:127.0.0.61:5961";

let all: Daemons;
let dir: string;
let env: Record<string, string>;
beforeAll(async () => {
  all = new Daemons();
  dir = all.dir;
  env = place("s");
  expect((await dmq(["queue", "define", "q", "--retry", "0"], { env })).code).toBe(0);
});
afterAll(() => all?.endAll());

/** A store of its own, and a socket that nobody listens to. */
function place(name: string): Record<string, string> {
  return { DMQ_STATE_DIR: join(dir, name), DMQ_SOCKET: join(dir, `${name}.sock`) };
}

function q(words: string[], own = env): Promise<Finished> {
  return dmq(["queue", ...words], { env: own });
}

function sh(script: string, own = env): Promise<{ code: number; out: string; err: string }> {
  return run(["sh", "-c", script], own);
}

async function run(argv: string[], own: Record<string, string>): Promise<{ code: number; out: string; err: string }> {
  const path = `${join(dir, "bin")}:${process.env.PATH}`;
  const child = Bun.spawn(argv, {
    env: { ...own, PATH: path, HOME: dir },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 40_000,
  });
  const { code, stdout: out, stderr: err } = await finished(child);
  return { code, out, err };
}

async function sizes(own = env, queue = "q"): Promise<Record<string, number>> {
  return JSON.parse((await q(["size", queue, "--json"], own)).stdout) as Record<string, number>;
}

for (const way of ["file", "daemon"] as const)
  describe(`by the ${way}`, () => {
    let own: Record<string, string>;
    beforeAll(async () => {
      own = env;
      if (way === "file") return;
      const daemon = await all.serve("own", URI, ["--state-dir", join(dir, "d"), "--queue", "name=q;retry=0"]);
      own = { DMQ_SOCKET: daemon.socket, DMQ_STATE_DIR: join(dir, "unused") };
    });

    test(
      "B12.4: fetch into a pipe whose reader is dead: the item is there again",
      async () => {
        await q(["add", "q", "k", "v"], own);
        // The reader has closed its end before the first octet.
        const { err } = await sh(`{ sleep 0.3; ${EXECUTABLE} queue fetch q; echo "code $?" >&2; } | true`, own);
        expect(err).toMatch(/^code \d+\n$/);
        const { ready, leased } = await sizes(own);
        expect([ready, leased]).toEqual([1, 0]);
        expect((await q(["fetch", "q"], own)).stdout).toBe("k\tv\n");
      },
      TEST_MS,
    );

    test(
      "B12.5: a consumer that is killed with its handler: the item is there again, with its tries raised",
      async () => {
        await q(["add", "q", "k", "v"], own);
        const mark = join(dir, `mark-${way}`);
        const argv = [EXECUTABLE, "queue", "fetch", "q", "--follow", "--exec", `touch ${mark}; sleep 30`];
        const child = Bun.spawn(argv, {
          env: { ...own, PATH: process.env.PATH ?? "" },
          stdout: "ignore",
          stderr: "ignore",
        });
        await until(() => Bun.file(mark).exists(), 10_000, "the handler runs");
        expect((await sizes(own)).leased).toBe(1);
        child.kill("SIGKILL");
        await child.exited;
        const isBack = async (): Promise<boolean> => (await sizes(own)).ready === 1;
        await until(isBack, 5_000, "the item is ready again");
        expect(JSON.parse((await q(["fetch", "q", "--json"], own)).stdout).tries).toBe(2);
      },
      TEST_MS,
    );

    test(
      "B12.5: SIGTERM while a handler runs: it may end, and nothing more is taken",
      async () => {
        await q(["add", "q", "a", ""], own);
        await q(["add", "q", "b", ""], own);
        const mark = join(dir, `term-${way}`);
        const argv = [
          EXECUTABLE,
          "queue",
          "fetch",
          "q",
          "--follow",
          "--exec",
          `touch ${mark}; sleep 0.5; echo "done $DMQ_KEY"`,
        ];
        const child = Bun.spawn(argv, {
          env: { ...own, PATH: process.env.PATH ?? "" },
          stdout: "pipe",
          stderr: "ignore",
        });
        await until(() => Bun.file(mark).exists(), 10_000, "the handler runs");
        child.kill("SIGTERM");
        expect([await child.exited, await new Response(child.stdout).text()]).toEqual([143, "done a\n"]);
        expect((await q(["fetch", "q", "--all"], own)).stdout).toBe("b\t\n");
      },
      TEST_MS,
    );
  });

test("four writers and two consumers on one file: each item comes once", async () => {
  const own = place("many");
  await q(["define", "q"], own);
  const writer = (name: string): string =>
    `i=0; while [ $i -lt 8 ]; do ${EXECUTABLE} queue add q ${name}$i "" || exit 1; i=$((i+1)); done`;
  const writers = ["a", "b", "c", "d"].map((name) => sh(writer(name), own));
  const consumer = async (): Promise<string[]> => {
    const taken: string[] = [];
    for (let misses = 0; misses < 40; ) {
      const { code, out } = await sh(`${EXECUTABLE} queue fetch q --all`, own);
      if (code === 0) taken.push(...out.split("\n").filter((line) => line !== ""));
      else misses++;
      if (taken.length >= 32) break;
      if ((await Promise.race([Promise.all(writers), undefined])) !== undefined && code === 1) break;
    }
    return taken;
  };
  const [one, two] = await Promise.all([consumer(), consumer()]);
  expect((await Promise.all(writers)).map(({ code, err }) => [code, err])).toEqual(Array(4).fill([0, ""]));
  const rest = (await q(["fetch", "q", "--all"], own)).stdout.split("\n").filter((line) => line !== "");
  const lines = [...one, ...two, ...rest];
  expect([lines.length, new Set(lines).size]).toEqual([32, 32]);
}, 120_000);

test(
  "B12.3: a daemon that starts meanwhile has what was added on the file, and a follower of the file sees what comes through it",
  async () => {
    const own = place("later");
    await q(["define", "q"], own);
    await q(["add", "q", "before", ""], own);
    const follower = all.start(["queue", "fetch", "q", "--follow"], own);
    await until(() => follower.stdout === "before\t\n", 10_000, "the follower has the first item");
    const daemon = await all.serve("later", "sip:127.0.0.62:5962", ["--state-dir", own.DMQ_STATE_DIR as string]);
    expect((await daemon.run(["queue", "list"])).stdout).toStartWith("q\t0\t");
    await daemon.run(["queue", "add", "q", "through", "it"]);
    await until(() => follower.stdout === "before\t\nthrough\tit\n", 10_000, "the follower has the second one");
    expect(await follower.end("SIGTERM")).toBe(143);
  },
  TEST_MS,
);

describe("a follower whose daemon goes away", () => {
  const uri = "sip:127.0.0.65:5965";
  const options = (): string[] => ["--state-dir", join(dir, "back"), "--queue", "name=q;retry=0"];

  for (const [what, extra] of [
    ["in print", []],
    ["with a command", ["--exec", 'printf "%s\\t%s\\n" "$DMQ_KEY" "$(cat)"', "--jobs", "3"]],
  ] as const)
    for (const signal of ["SIGTERM", "SIGKILL"] as const)
      test(
        `${what}, ${signal}: it says so, waits, and goes on with the next one`,
        async () => {
          const first = await all.serve("back", uri, options());
          const args = ["queue", "fetch", "q", "--follow", ...extra, "--socket", first.socket];
          const follower = all.start(args);
          await first.run(["queue", "add", "q", "a", "1"]);
          await until(() => follower.stdout === "a\t1\n", 10_000, "it has the first item");
          await first.end(signal);
          await until(() => follower.stderr.includes("waiting for it"), 10_000, "it says that the daemon is gone");
          const second = await all.serve("back", uri, options());
          await second.run(["queue", "add", "q", "b", "2"]);
          await until(() => follower.stdout.endsWith("b\t2\n"), 10_000, "it has the second item");
          expect(follower.stderr).toMatch(
            /^dmq: warning: [^\n]+; waiting for it\ndmq: warning: a daemon is there again on [^\n]+\n$/,
          );
          // The settling of the first one may have met the daemon's end.
          expect(follower.stdout).toMatch(/^(a\t1\n){1,2}b\t2\n$/);
          expect(await follower.end("SIGINT")).toBe(130);
          await second.end("SIGTERM");
        },
        TEST_MS,
      );

  test(
    "--reconnect 0 ends it with 4, as does the end of its patience; a signal ends the wait",
    async () => {
      const daemon = await all.serve("back", uri, options());
      const follow = (...words: string[]) =>
        all.start(["queue", "fetch", "q", "--follow", "--socket", daemon.socket, ...words]);
      const followers = [follow("--reconnect", "0"), follow("--reconnect", "300ms"), follow()] as const;
      // Who has had one follows.
      const haveAll = async (): Promise<boolean> => {
        await daemon.run(["queue", "add", "q", "k", "v"]);
        return followers.every(({ stdout }) => stdout !== "");
      };
      await until(haveAll, 10_000, "all follow");
      await daemon.end("SIGKILL");
      expect([await followers[0].child.exited, await followers[1].child.exited]).toEqual([4, 4]);
      expect(followers[0].stderr).not.toContain("waiting");
      expect(followers[1].stderr).toContain("waiting");
      await until(() => followers[2].stderr.includes("waiting"), 10_000, "the third one waits");
      expect(await followers[2].end("SIGTERM")).toBe(143);
    },
    TEST_MS,
  );
});

describe("a table of Kamailio's (B1: dbmode 2 and 3)", () => {
  const rows = (path: string, table: string): unknown[] => {
    const db = new Database(path, { readonly: true });
    const found = db.query(`SELECT key, val FROM ${table} ORDER BY id`).values();
    db.close();
    return found;
  };
  const made = (name: string, sql: string): string => {
    const path = join(dir, name);
    const db = new Database(path, { create: true });
    db.run(sql);
    db.close();
    return path;
  };
  const TABLE = "(id INTEGER PRIMARY KEY, key TEXT, val TEXT)";

  test(
    "dbmode=2: its rows are items at the start, in order, and gone from the table; what does not fit stays in it",
    async () => {
      const path = made(
        "in.db",
        `CREATE TABLE q ${TABLE}; INSERT INTO q (key, val) VALUES ('a', '1'), ('b', ''), ('', '3');
         CREATE TABLE small ${TABLE}; INSERT INTO small (key, val) VALUES ('a', '1'), ('b', '2')`,
      );
      const small = `name=small;dbmode=2;db=${path};size=1;full=reject`;
      const options = ["--state-dir", join(dir, "db2"), "--queue", `name=q;dbmode=2;db=${path}`, "--queue", small];
      const daemon = await all.serve("db2", "sip:127.0.0.63:5963", options);
      expect((await daemon.run(["queue", "peek", "q", "-n", "9"])).stdout).toBe("a\t1\nb\t\n\t3\n");
      expect(rows(path, "q")).toEqual([]);
      expect((await daemon.run(["queue", "size", "small"])).stdout).toBe("0\n");
      expect(rows(path, "small")).toHaveLength(2);
      expect(daemon.log).toMatch(/queue small: what is in its table stays there: .*is full/);
      expect(await daemon.end("SIGTERM")).toBe(0);
      expect(rows(path, "q")).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "dbmode=2: a file that is not there yet is a warning, one that is no database ends the start with 9",
    async () => {
      const serve = (file: string): Promise<Finished> =>
        dmq(
          [
            "serve",
            "--server-address",
            "sip:127.0.0.63:5963",
            "--no-snapshot",
            "--queue",
            `name=q;dbmode=2;db=${file}`,
          ],
          {
            env: place("db2b"),
            timeoutMs: 3_000,
          },
        );
      const file = join(dir, "words.db");
      writeFileSync(file, "no database, but long enough to be looked at as if it were one ".repeat(40));
      const broken = await serve(file);
      expect([broken.code, broken.stderr]).toEqual([9, expect.stringMatching(/words\.db cannot be used/)]);
      const options = ["--state-dir", join(dir, "db2c"), "--queue", `name=q;dbmode=2;db=${join(dir, "later.db")}`];
      const daemon = await all.serve("db2c", "sip:127.0.0.63:5963", options);
      expect(daemon.log).toContain("later.db");
      expect(await daemon.end("SIGTERM")).toBe(0);
    },
    TEST_MS,
  );

  test(
    "dbmode=3: at the stop what is ready goes to the table, behind what is in it; what is not ready, and all after a kill, stays here",
    async () => {
      const path = made("out.db", `CREATE TABLE q ${TABLE}; INSERT INTO q (key, val) VALUES ('old', '0')`);
      const options = ["--state-dir", join(dir, "db3"), "--queue", `name=q;dbmode=3;db=${path}`];
      const killed = await all.serve("db3", "sip:127.0.0.64:5964", options);
      await killed.run(["queue", "add", "q", "a", "1"]);
      await killed.end("SIGKILL");
      const daemon = await all.serve("db3", "sip:127.0.0.64:5964", options);
      await daemon.run(["queue", "add", "q", "b", "2"]);
      await daemon.run(["queue", "add", "q", "later", "3", "--delay", "1h"]);
      expect(await daemon.end("SIGTERM")).toBe(0);
      expect(rows(path, "q")).toEqual([
        ["old", "0"],
        ["a", "1"],
        ["b", "2"],
      ]);
      const { ready, delayed, leased } = await sizes({
        DMQ_STATE_DIR: join(dir, "db3"),
        DMQ_SOCKET: join(dir, "no.sock"),
      });
      expect([ready, delayed, leased]).toEqual([0, 1, 0]);
    },
    TEST_MS,
  );
});

test(
  "docs/QUEUES.md: alerts that one process adds, a follower writes to a log",
  async () => {
    const page = readFileSync(join(import.meta.dir, "..", "..", "docs", "QUEUES.md"), "utf8");
    const blocks = [...page.matchAll(/```sh\n([\s\S]*?)```/g)].map((found) => found[1] as string);
    const [adding, following, handling, draining] = blocks as [string, string, string, string];
    const own = place("doc");
    const log = join(dir, "log");
    mkdirSync(join(dir, "bin"), { recursive: true });
    // The page's commands by their own names: ours, and a logger that writes to a file.
    writeFileSync(join(dir, "bin", "dmq"), `#!/bin/sh\nexec ${EXECUTABLE} "$@"\n`);
    writeFileSync(join(dir, "bin", "logger"), `#!/bin/sh\necho "$@" >>${log}\n`);
    for (const name of ["dmq", "logger"]) chmodSync(join(dir, "bin", name), 0o755);
    const facts = { ...own, SRC: "192.0.2.1", PORT: "5060" };
    const expected = "-p local0.alert src [192.0.2.1:5060] - pike flood detected\n";
    const written = (): string => {
      try {
        return readFileSync(log, "utf8");
      } catch {
        return "";
      }
    };
    expect(await sh(adding, facts)).toEqual({ code: 0, out: "", err: "" });
    for (const block of [following, handling]) {
      writeFileSync(log, "");
      const script = block.replace(/^dmq /m, "exec timeout -s TERM 4 dmq ").replace("exec timeout", "timeout");
      const running = sh(script, own);
      await until(() => written() === expected, 10_000, "the alert is in the log");
      expect(await sh(adding, facts)).toEqual({ code: 0, out: "", err: "" });
      await until(() => written() === expected + expected, 10_000, "the second one, too");
      await running;
      expect((await sizes(own, "alert")).size).toBe(0);
      await sh(adding, facts);
    }
    writeFileSync(log, "");
    expect(await sh(draining, own)).toEqual({ code: 0, out: "", err: "" });
    expect(written()).toBe(expected);
  },
  TEST_MS,
);
