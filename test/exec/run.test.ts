/**
 * Real processes. Goal: whatever a command does, its run ends in time with a value, and nothing of it is left: no process
 * of its group, no zombie, no descriptor.
 */
import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type RunOptions, type RunResult, run, STDERR_BYTES_MAX, STDOUT_BYTES_MAX } from "../../src/exec/run.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const PROBLEM = missingPrograms("sh", "cat", "sleep", "true", "false", "env", "yes", "head", "wc", "setsid", "touch");

const FOLDER = mkdtempSync(join(tmpdir(), "dmq-run-"));
afterAll(() => rmSync(FOLDER, { recursive: true }));

const NEVER = new AbortController().signal;
const EMPTY = new Uint8Array(0);

function start(argv: string[], options: Partial<RunOptions> = {}): Promise<RunResult> {
  return run({ argv, stdin: EMPTY, variables: {}, signal: NEVER, onStderrLine: () => undefined, ...options });
}

function sh(script: string, options: Partial<RunOptions> = {}): Promise<RunResult> {
  return start(["sh", "-c", script], options);
}

function textOf({ stdout }: RunResult): string {
  return new TextDecoder().decode(stdout);
}

/** True while a process, and be it a zombie, has this number. */
function isThere(pid: number): boolean {
  return existsSync(`/proc/${pid}`);
}

/** A process that was killed but whose new parent has not waited for it yet does nothing any more. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** Numbers that a script has written into `file`, one a line. */
async function pidsIn(file: string, count: number): Promise<number[]> {
  const read = (): number[] | undefined => {
    const pids = existsSync(file) ? readFileSync(file, "utf8").trim().split("\n").map(Number) : [];
    return pids.length === count ? pids : undefined;
  };
  return until(read, 5_000, `${count} processes in ${file}`);
}

function descriptors(): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      return [];
    }
  });
}

function children(): number[] {
  return readFileSync(`/proc/self/task/${process.pid}/children`, "utf8")
    .trim()
    .split(/\s+/)
    .filter(Boolean)
    .map(Number);
}

describeWhere(PROBLEM, "run: what goes in and out", () => {
  test("stdin and stdout pass every octet as it is", async () => {
    const body = Uint8Array.from({ length: 60_000 }, (_, i) => (i * 7) & 255);
    const { end, stdout, durationMs } = await start(["cat"], { stdin: body });
    expect(end).toEqual({ type: "exited", code: 0 });
    expect(Bun.deepEquals(stdout, body)).toBe(true);
    expect(durationMs).toBeGreaterThan(0);
  });

  test("a mebibyte is taken whole, an empty body is an end of file", async () => {
    expect(textOf(await start(["wc", "-c"], { stdin: new Uint8Array(1_048_576) })).trim()).toBe("1048576");
    expect(textOf(await start(["wc", "-c"])).trim()).toBe("0");
  });

  test("a command that reads nothing of a large body is judged by its exit code", async () => {
    const stdin = new Uint8Array(1_000_000);
    expect((await sh("exit 0", { stdin })).end).toEqual({ type: "exited", code: 0 });
    expect((await sh("exec <&-; echo x; exit 7", { stdin })).end).toEqual({ type: "exited", code: 7 });
  });

  test("the environment is the five inherited variables and those given, without one that holds a NUL", async () => {
    process.env.DMQ_TEST_LEAK = "secret";
    const { stdout } = await start(["env"], { variables: { DMQ_A: "grüße\n2", DMQ_B: "a\0b", DMQ_C: "" } });
    delete process.env.DMQ_TEST_LEAK;
    const text = new TextDecoder().decode(stdout);
    expect(text).toContain("DMQ_A=grüße\n2\n");
    expect(text).toContain("DMQ_C=\n");
    expect(text).not.toContain("DMQ_B");
    const names = [...text.matchAll(/^(\w+)=/gm)].map(([, name]) => name as string);
    const known = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "DMQ_A", "DMQ_C"];
    expect(names.filter((name) => !known.includes(name))).toEqual([]);
    expect(names).toContain("PATH");
  });

  test("stderr comes line by line while the command runs", async () => {
    const lines: string[] = [];
    await sh("echo one >&2; echo two >&2; printf three >&2", { onStderrLine: (line) => lines.push(line) });
    expect(lines).toEqual(["one", "two", "three"]);
  });
});

describeWhere(PROBLEM, "run: how it ends", () => {
  const ends: [what: string, script: string, end: RunResult["end"]][] = [
    ["0", "exit 0", { type: "exited", code: 0 }],
    ["75", "exit 75", { type: "exited", code: 75 }],
    ["255", "exit 255", { type: "exited", code: 255 }],
    ["a signal", "kill -9 $$", { type: "signalled", name: "SIGKILL" }],
    ["a signal of its own group", "kill -TERM 0", { type: "signalled", name: "SIGTERM" }],
  ];
  for (const [what, script, end] of ends) test(what, async () => expect((await sh(script)).end).toEqual(end));

  const impossible: [what: string, program: string, code: string][] = [
    ["a program that is not there", join(FOLDER, "nothing"), "ENOENT"],
    ["a file that may not be executed", import.meta.path, "EACCES"],
  ];
  for (const [what, program, code] of impossible) {
    test(`${what} is not started`, async () =>
      expect((await start([program])).end).toEqual({ type: "not-started", code }));
  }

  test("stdout beyond its limit, the limit itself not", async () => {
    const exact = await sh(`head -c ${STDOUT_BYTES_MAX} /dev/zero`);
    expect([exact.end.type, exact.stdout.length]).toEqual(["exited", STDOUT_BYTES_MAX]);
    const more = await sh(`head -c ${STDOUT_BYTES_MAX + 1} /dev/zero`);
    expect([more.end, more.stdout.length]).toEqual([{ type: "flooded", stream: "stdout" }, 0]);
  });

  test("floods without an end, of both kinds, are ended at once and take little memory", async () => {
    const before = process.memoryUsage().rss;
    let lines = 0;
    expect((await start(["yes"])).end).toEqual({ type: "flooded", stream: "stdout" });
    expect((await sh("yes >&2", { onStderrLine: () => lines++ })).end).toEqual({ type: "flooded", stream: "stderr" });
    expect((await sh("yes & yes >&2")).end.type).toBe("flooded");
    expect(lines).toBeLessThanOrEqual(STDERR_BYTES_MAX / 2);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
  });

  test("an abort before the start starts nothing", async () => {
    const file = join(FOLDER, "never");
    expect((await sh(`touch ${file}`, { signal: AbortSignal.abort() })).end).toEqual({ type: "aborted" });
    expect(existsSync(file)).toBe(false);
  });
});

describeWhere(PROBLEM, "run: an abort", () => {
  /** Starts a script that writes its processes' numbers into a file, and aborts when `count` are there. */
  async function abortWhen(
    name: string,
    script: string,
    count: number,
  ): Promise<{ pids: number[]; done: RunResult; ms: number }> {
    const file = join(FOLDER, name);
    const controller = new AbortController();
    const running = sh(script.replaceAll("FILE", file), { signal: controller.signal });
    const pids = await pidsIn(file, count);
    const at = performance.now();
    controller.abort();
    return { pids, done: await running, ms: performance.now() - at };
  }

  test("ends the command and what it started, by SIGTERM", async () => {
    const script = "sleep 100 & echo $! >>FILE; sleep 100 & echo $! >>FILE; echo $$ >>FILE; wait";
    const { pids, done, ms } = await abortWhen("group", script, 3);
    expect(done.end).toEqual({ type: "aborted" });
    expect(ms).toBeLessThan(1_000);
    expect(isThere(pids[2] as number)).toBe(false);
    for (const pid of pids) await until(() => !isAlive(pid), 1_000, `${pid} is gone`);
  });

  test("gives a command that catches SIGTERM time to clean up", async () => {
    const script = "trap 'echo tidied >>FILE.done; exit 0' TERM; sleep 100 & echo $$ >>FILE; wait";
    const { done } = await abortWhen("polite", script, 1);
    expect(done.end).toEqual({ type: "aborted" });
    expect(readFileSync(join(FOLDER, "polite.done"), "utf8")).toBe("tidied\n");
  });

  test("kills one that ignores SIGTERM, with its children, after the grace", async () => {
    const script =
      "trap '' TERM; (trap '' TERM; sleep 100) & echo $! >>FILE; echo $$ >>FILE; while :; do sleep 100; done";
    const { pids, done, ms } = await abortWhen("stubborn", script, 2);
    expect(done.end).toEqual({ type: "aborted" });
    expect(ms).toBeGreaterThanOrEqual(245);
    expect(ms).toBeLessThan(1_000);
    for (const pid of pids) await until(() => !isAlive(pid), 1_000, `${pid} is gone`);
  });

  test("kills one that has stopped itself", async () => {
    const { done } = await abortWhen("stopped", "echo $$ >>FILE; kill -STOP $$", 1);
    expect(done.end).toEqual({ type: "aborted" });
  });
});

describeWhere(PROBLEM, "run: what is left behind", () => {
  test("children that stay in the group do not outlive the command", async () => {
    const file = join(FOLDER, "left");
    const { end, stdout } = await sh(`sleep 100 & echo $! >>${file}; echo done`);
    expect([end, new TextDecoder().decode(stdout)]).toEqual([{ type: "exited", code: 0 }, "done\n"]);
    const [pid] = await pidsIn(file, 1);
    await until(() => !isAlive(pid as number), 1_000, "the child is gone");
  });

  test("a process outside the group that holds the pipes keeps nobody waiting, and lives", async () => {
    const file = join(FOLDER, "daemon");
    const script = `exec 3<&0; setsid sh -c 'echo $$ >>${file}; exec sleep 60' <&3 & while [ ! -s ${file} ]; do sleep 0.01; done; echo up`;
    const done = await sh(script, { stdin: new Uint8Array(1_000_000) });
    const [pid] = await pidsIn(file, 1);
    expect([done.end, textOf(done)]).toEqual([{ type: "exited", code: 0 }, "up\n"]);
    expect(done.durationMs).toBeLessThan(3_000);
    expect(isAlive(pid as number)).toBe(true);
    process.kill(pid as number, "SIGKILL");
  });

  test("a command that multiplies is gone with its children when it ends", async () => {
    const file = join(FOLDER, "many");
    const script = `for i in 1 2 3 4 5 6 7 8; do (sleep 100 & echo $! >>${file}; sleep 100) & done; while [ "$(wc -l <${file})" -lt 8 ]; do sleep 0.01; done`;
    expect((await sh(`: >${file}; ${script}`)).end).toEqual({ type: "exited", code: 0 });
    for (const pid of await pidsIn(file, 8)) await until(() => !isAlive(pid), 1_000, `${pid} is gone`);
  });

  test("200 runs of every kind leave no descriptor and no zombie", async () => {
    const scripts = ["cat", "exit 3", "kill -9 $$", "exec <&-; echo x; echo y >&2", "head -c 100000 /dev/zero"];
    const stdin = new Uint8Array(100_000);
    await sh("cat >/dev/null", { stdin });
    const before = descriptors().length;
    for (let i = 0; i < 200; i++) await sh(scripts[i % scripts.length] as string, { stdin });
    // The runtime closes its ends of the last pipes when it comes to it.
    await until(() => descriptors().length <= before + 2, 2_000, "the descriptors are closed");
    expect(descriptors().filter((one) => one.includes("memfd"))).toEqual([]);
    await until(() => children().length === 0, 1_000, "no child is left");
  }, 30_000);
});
