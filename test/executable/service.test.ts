/** `dmq serve` as a service: what a supervisor is told, how it ends, what it takes in while it runs. */
// needs programs: bash cat env false head sleep tr true wc
import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, dmq, EXECUTABLE } from "../helpers/daemon.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { Supervisor } from "../helpers/supervisor.ts";
import { until } from "../helpers/wait.ts";

const TEST_MS = 30_000;
const ROOT = join(import.meta.dir, "..", "..");
const daemons = new Daemons();

afterAll(() => daemons.endAll());

async function freeAddress(): Promise<string> {
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0 });
  const port = socket.port;
  socket.close();
  return `sip:127.0.0.1:${port}`;
}

describeWhere(missingPrograms("python3"), "a supervisor", () => {
  test.each(["path", "abstract"])(
    "is told of start, state, reload, life and end, at a socket with %s name",
    async (kind) => {
      const name = kind === "path" ? Supervisor.pathIn(daemons.dir) : `@dmq-test-${process.pid}`;
      const supervisor = await Supervisor.open(name);
      try {
        const uri = await freeAddress();
        const env = { NOTIFY_SOCKET: name, WATCHDOG_USEC: "400000" };
        const node = await daemons.serve(`n-${kind}`, uri, ["--ping-interval", "1"], env);
        await until(() => supervisor.texts.length === 1, 5_000, "READY arrives");
        expect(supervisor.texts).toEqual([`READY=1\nSTATUS=${uri}: 0 active peers`]);

        const other = await daemons.serve(`o-${kind}`, await freeAddress(), ["--notification-address", uri]);
        await until(() => supervisor.texts.includes(`STATUS=${uri}: 1 active peers`), 5_000, "the status changes");
        await other.end("SIGINT");
        await until(
          () => supervisor.texts.at(-1)?.startsWith("STATUS=") && supervisor.texts.length >= 3,
          5_000,
          "again",
        );
        expect(supervisor.texts.at(-1)).toMatch(/0 active peers(, 1 disabled)?$/);

        const { length } = supervisor.texts;
        process.kill((await node.status()).pid, "SIGHUP");
        await until(() => supervisor.texts.length >= length + 2, 5_000, "the reload is through");
        const [began, ended] = supervisor.texts.slice(length) as [string, string];
        expect(ended).toStartWith("READY=1\nSTATUS=");
        const [, usec] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)$/.exec(began) as unknown as [string, string];
        const seen = supervisor.received.find(({ text }) => text === began)?.at as number;
        expect(Math.abs(seen - Number(usec))).toBeLessThan(2_000_000);

        await until(() => supervisor.beats.length > 3, 5_000, "the watchdog is told");
        const { pid } = await node.status();
        process.kill(pid, "SIGSTOP");
        // What was on its way when it stopped.
        await Bun.sleep(100);
        const before = supervisor.beats.length;
        await Bun.sleep(600);
        expect(supervisor.beats.length).toBe(before);
        process.kill(pid, "SIGCONT");
        await until(() => supervisor.beats.length > before, 5_000, "the watchdog is told again");

        expect(await node.end("SIGTERM")).toBe(0);
        expect(supervisor.texts.at(-1)).toBe("STOPPING=1\nSTATUS=leaving");
      } finally {
        await supervisor.end();
      }
    },
    TEST_MS,
  );
});

test(
  "a supervisor that is not there is a warning, and the node serves",
  async () => {
    const env = { NOTIFY_SOCKET: join(daemons.dir, "nobody") };
    const node = await daemons.serve("alone", await freeAddress(), [], env);
    await until(() => node.log.includes("NOTIFY_SOCKET is not told: ENOENT"), 5_000, "the warning");
    expect(await node.end("SIGTERM")).toBe(0);
  },
  TEST_MS,
);

test(
  "stderr that is the journal gets lines with levels and without a time",
  async () => {
    const log = join(daemons.dir, "journal");
    writeFileSync(log, "");
    const { dev, ino } = statSync(log);
    const uri = await freeAddress();
    const serve = ["serve", "--server-address", uri, "--socket", join(daemons.dir, "j.sock"), "--no-snapshot"];
    const options = { env: { PATH: process.env.PATH ?? "", JOURNAL_STREAM: `${dev}:${ino}` }, stderr: Bun.file(log) };
    const child = Bun.spawn([EXECUTABLE, ...serve], options);
    try {
      const text = await until(
        async () => {
          const found = await Bun.file(log).text();
          return found.includes("\n") && found;
        },
        10_000,
        "a line of the log",
      );
      expect(text).toStartWith(`<6>node ${uri} is up socket=`);
    } finally {
      child.kill("SIGTERM");
      await child.exited;
    }
  },
  TEST_MS,
);

/** A node whose options are in a file. */
async function serveFile(name: string, file: string, content: string): Promise<Daemon> {
  writeFileSync(file, content);
  return daemons.serve(name, await freeAddress(), ["--config", file]);
}

test(
  "a reload takes in what can change, names what cannot, and a broken file changes nothing",
  async () => {
    const file = join(daemons.dir, "r.toml");
    const node = await serveFile("r", file, 'ping_interval = 60\nchannel = ["one"]\n');
    const seed = await freeAddress();
    const changed = `ping_interval = 30\nlog_level = "debug"\nnum_workers = 7\nchannel = ["one", "two"]\nnotification_address = ["${seed}"]\n`;
    writeFileSync(file, changed);
    const done = await node.run(["reload", "--json"]);
    expect(JSON.parse(done.stdout)).toEqual({
      changed: ["notification_address", "ping_interval", "channel", "log_level"],
      needs_restart: ["num_workers"],
    });
    expect([done.code, done.stderr]).toEqual([0, "dmq: not changed, needs a restart: num_workers\n"]);
    expect((await node.status()).channels.map(({ name }) => name)).toContain("two");
    expect((await node.list()).map((row) => row.uri)).toContain(seed);

    writeFileSync(file, `${changed}channel = ["three"]\nping_intervall = 3\n`);
    const broken = await node.run(["reload"]);
    expect(broken.code).toBe(9);
    writeFileSync(file, `ping_interval = 0\n`);
    const wrong = await node.run(["reload"]);
    expect([wrong.code, wrong.stdout]).toEqual([9, ""]);
    expect(wrong.stderr).toContain("ping_interval");
    expect((await node.status()).channels.map(({ name }) => name)).not.toContain("three");
    expect(node.log).toContain("reload: nothing is changed");

    writeFileSync(file, changed);
    expect(JSON.parse((await node.run(["reload", "--json"])).stdout)).toEqual({
      changed: [],
      needs_restart: ["num_workers"],
    });
    expect(await node.end("SIGTERM")).toBe(0);
  },
  TEST_MS,
);

test(
  "a reload changes the command of a channel",
  async () => {
    const file = join(daemons.dir, "h.toml");
    const node = await serveFile("h", file, "on = [\"job=sh -c 'exit 75'\"]\n");
    const sender = await daemons.serve("hs", await freeAddress(), ["--notification-address", node.uri]);
    await until(
      async () => (await sender.list()).some((row) => row.uri === node.uri && row.status === "active"),
      5_000,
      "they meet",
    );
    const send = (): Promise<{ code: number | null }> => sender.send("job", node.uri, new Uint8Array(1));
    expect((await send()).code).toBe(503);
    writeFileSync(file, 'on = ["job=true"]\n');
    expect((await node.run(["reload"])).code).toBe(0);
    expect((await send()).code).toBe(200);
    writeFileSync(file, 'on = ["job=no-such-program-here"]\n');
    expect((await node.run(["reload"])).code).toBe(9);
    expect((await send()).code).toBe(200);
  },
  TEST_MS,
);

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(
    `${signal} ends a node within two seconds, beside a frozen peer and a command that runs on`,
    async () => {
      const node = await daemons.serve(`e${signal}`, await freeAddress(), [
        ...["--on", "slow=sh -c 'trap : TERM; sleep 20; sleep 20'", "--handler-timeout", "30s"],
      ]);
      const peer = await daemons.serve(`p${signal}`, await freeAddress(), [
        "--notification-address",
        node.uri,
        "--request-timeout",
        "2s",
      ]);
      await until(
        async () => (await node.list()).some((row) => row.uri === peer.uri && row.status === "active"),
        5_000,
        "they meet",
      );
      await until(
        async () => (await peer.list()).some((row) => row.uri === node.uri && row.status === "active"),
        5_000,
        "both ways",
      );
      const sending = dmq(["send", "--socket", peer.socket, "slow", node.uri, "x"]);
      await until(async () => (await node.status()).counters.messagesReceived === 1, 5_000, "the command runs");
      const { pid } = await peer.status();
      process.kill(pid, "SIGSTOP");
      try {
        const startedAt = performance.now();
        expect(await node.end(signal)).toBe(0);
        expect(performance.now() - startedAt).toBeLessThan(2_000);
      } finally {
        process.kill(pid, "SIGCONT");
      }
      await sending;
    },
    TEST_MS,
  );
}

/** The highest exposure that `systemd-analyze security` may find, of 10: below it is called OK, and so it stays. */
const EXPOSURE_MAX = 2;

describeWhere(missingPrograms("systemd-analyze"), "the unit file", () => {
  /** It looks for the programs that the unit names, so they are ours, in a copy. */
  function unitCopy(): string {
    const path = join(daemons.dir, "dmq.service");
    const unit = readFileSync(join(ROOT, "docs", "dmq.service"), "utf8");
    writeFileSync(path, unit.replaceAll("/usr/local/bin/dmq", EXECUTABLE));
    return path;
  }

  function analyze(...args: string[]): { code: number; output: string } {
    const done = Bun.spawnSync(["systemd-analyze", "--no-pager", ...args], { stdout: "pipe", stderr: "pipe" });
    return { code: done.exitCode, output: done.stdout.toString() + done.stderr.toString() };
  }

  test("has nothing that systemd-analyze verify complains of", () => {
    expect(analyze("verify", "--man=no", unitCopy())).toEqual({ code: 0, output: "" });
  });

  test("is shut off well enough for systemd-analyze security", () => {
    const { code, output } = analyze("security", "--offline=true", unitCopy());
    const exposure = /Overall exposure level for dmq.service: ([0-9.]+)/.exec(output)?.[1];
    console.log(`systemd-analyze security: exposure ${exposure}`);
    expect(code).toBe(0);
    expect(Number(exposure)).toBeLessThan(EXPOSURE_MAX);
  });
});

describeWhere(missingPrograms("man"), "man pages", () => {
  test("a build has one of dmq and one of each command, where man finds it", async () => {
    const { commands } = JSON.parse((await dmq(["help", "--json"])).stdout) as { commands: { name: string }[] };
    for (const page of ["dmq", ...commands.map(({ name }) => `dmq-${name}`)]) {
      const env = { PATH: process.env.PATH ?? "", MANPATH: join(ROOT, "dist", "man") };
      const found = Bun.spawnSync(["man", "-w", page], { env, stdout: "pipe", stderr: "pipe" });
      expect([found.exitCode, found.stdout.toString().trim()]).toEqual([
        0,
        join(ROOT, "dist", "man", "man1", `${page}.1`),
      ]);
    }
  });
});

describe("a job of cron", () => {
  test(
    "needs no environment, no home and no folder",
    async () => {
      const node = await daemons.serve("cron", await freeAddress());
      const run = (...args: string[]): { code: number; stdout: string; stderr: string } => {
        const options = { cwd: "/", env: {}, stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const;
        const done = Bun.spawnSync([EXECUTABLE, "-s", node.socket, ...args], options);
        return { code: done.exitCode, stdout: done.stdout.toString(), stderr: done.stderr.toString() };
      };
      expect(run("add", "sip:127.0.0.1:9")).toEqual({ code: 0, stdout: "", stderr: "" });
      expect(run("list").stdout).toContain("sip:127.0.0.1:9\t");
      expect(run("remove", "sip:127.0.0.1:9")).toEqual({ code: 0, stdout: "", stderr: "" });
      expect(run("bcast", "news", "hello").code).toBe(3);
    },
    TEST_MS,
  );
});

describeWhere(missingPrograms("strace"), "a read-only file system", () => {
  test(
    "is enough: a command opens no file to write, and makes, moves and removes none",
    async () => {
      const node = await daemons.serve("ro", await freeAddress());
      const trace = join(daemons.dir, "trace");
      const calls =
        "openat,open,creat,mkdir,mkdirat,unlink,unlinkat,rename,renameat,renameat2,memfd_create,symlink,link,linkat";
      const command = [EXECUTABLE, "-s", node.socket, "bcast", "news", "hello"];
      const options = { cwd: "/", env: {}, stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const;
      const strace = Bun.which("strace") as string;
      const done = Bun.spawnSync([strace, "-f", "-e", `trace=${calls}`, "-o", trace, ...command], options);
      expect(done.exitCode).toBe(3);
      const lines = readFileSync(trace, "utf8").split("\n");
      expect(lines.some((line) => line.includes("O_RDONLY"))).toBe(true);
      const writing = lines.filter((line) =>
        /O_WRONLY|O_RDWR|O_CREAT|\b(creat|mkdir|unlink|rename|symlink|link|memfd)\w*\(/.test(line),
      );
      expect(writing.filter((line) => !line.includes("/dev/"))).toEqual([]);
    },
    TEST_MS,
  );
});

test(
  "a second node on the same control socket is refused, and the first keeps it",
  async () => {
    const node = await daemons.serve("one", await freeAddress());
    const uri = await freeAddress();
    const second = await dmq(["serve", "--server-address", uri, "--socket", node.socket, "--no-snapshot"]);
    expect([second.code, second.stdout]).toEqual([4, ""]);
    expect(second.stderr).toContain(`another daemon answers on ${node.socket}`);
    expect((await node.status()).uri).toBe(node.uri);
    expect(await node.end("SIGTERM")).toBe(0);
  },
  TEST_MS,
);
