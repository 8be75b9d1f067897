/**
 * A job as cron runs it, at its worst: no environment at all, no home, and a file system of which nothing can be written but the sockets on
 * it. The file system is made read-only in a mount namespace of the job alone; the machine's own is not touched.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, EXECUTABLE } from "../helpers/daemon.ts";
import { describeWhere, missingPrograms, type Refused } from "../helpers/needs.ts";
import { freeAddress, heard } from "../helpers/neighbourhood.ts";
import { type Finished, finished } from "../helpers/process.ts";
import { until } from "../helpers/wait.ts";

const TEST_MS = 40_000;

/**
 * Nothing that is mounted inside gets out (`rprivate`, before anything else); then every mount that can be is read-only, and the job
 * proves that it is before it begins.
 */
const READ_ONLY = [
  "set -e",
  "mount --make-rprivate /",
  "mount --rbind / /",
  "cd /",
  // The mounts below / keep a mind of their own, /tmp among them where it is one.
  'while read -r _ _ _ _ place _; do mount -o remount,bind,ro "$place" 2>/dev/null || :; done </proc/self/mountinfo',
  'if touch "$1" 2>/dev/null; then echo "it can be written" >&2; exit 99; fi',
  "shift",
  'exec env -i "$@"',
].join("\n");

const daemons = new Daemons();
let sender: Daemon;
let receiver: Daemon;

/** Asked for by trying, in a namespace that is gone with it. */
function problem(): string | Refused | undefined {
  const missing = missingPrograms("unshare", "mount", "env");
  if (missing !== undefined) return missing;
  if (process.getuid?.() !== 0) return { refused: "a mount namespace needs root" };
  const probe = Bun.spawnSync(["unshare", "-m", "sh", "-c", "mount --make-rprivate / && mount --rbind / /"]);
  return probe.success ? undefined : { refused: `no mount namespace can be made: ${probe.stderr.toString().trim()}` };
}

async function job(args: readonly string[], stdin = ""): Promise<Finished> {
  const canary = join(daemons.dir, "canary");
  const words = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", canary, EXECUTABLE, "-s", sender.socket, ...args];
  const child = Bun.spawn(words, {
    ...{ stdin: new TextEncoder().encode(stdin), stdout: "pipe", stderr: "pipe", cwd: "/", timeout: 20_000 },
  });
  const ended = await finished(child);
  expect(existsSync(canary)).toBe(false);
  return ended;
}

describeWhere(problem(), "a job of cron on a read-only file system", () => {
  beforeAll(async () => {
    const options = ["--log-level", "error"];
    sender = await daemons.serve("s", await freeAddress(), options);
    const meet = ["--notification-address", sender.uri, "--on", "cat=cat"];
    receiver = await daemons.serve("r", await freeAddress(), [...options, ...meet]);
    const known = await sender.run(["wait", `node=${receiver.uri}`, "--timeout", "10s"]);
    expect(known.code).toBe(0);
  }, TEST_MS);

  afterAll(() => daemons.endAll(), TEST_MS);

  const line = (code: string): RegExp => new RegExp(`^${RegExp.escape(receiver.uri)}\t${code}\t\\d+\n$`);

  test(
    "send, bcast and req: delivered, and nothing on stderr",
    async () => {
      for (const args of [
        ["send", "cat", receiver.uri, "x"],
        ["bcast", "cat", "x"],
      ]) {
        const ended = await job(args);
        expect({ ...ended, args }).toMatchObject({ args, code: 0, stderr: "" });
        expect(ended.stdout).toMatch(line("200\tOK"));
      }
      expect(await job(["req", "cat", receiver.uri, "-"], "back")).toEqual({ code: 0, stdout: "back", stderr: "" });
    },
    TEST_MS,
  );

  test(
    "list, and a message a line",
    async () => {
      const listed = await job(["list"]);
      expect(listed).toMatchObject({ code: 0, stderr: "" });
      expect(listed.stdout).toContain(`${receiver.uri}\tactive\t0\t`);
      const lines = await job(["bcast", "-l", "cat"], "one\ntwo\n");
      expect(lines).toMatchObject({ code: 0, stderr: "" });
      expect(lines.stdout.split("\n").map((row) => row.split("\t").slice(0, 3).join(" "))).toEqual([
        ...[`1 ${receiver.uri} 200`, `2 ${receiver.uri} 200`, ""],
      ]);
    },
    TEST_MS,
  );

  test(
    "what fails, fails as ever: no node, no daemon",
    async () => {
      expect(await job(["send", "cat", "sip:127.0.0.1:9", "x"])).toMatchObject({
        code: 3,
        stderr: "dmq: Node Not Found\n",
      });
      expect(await job(["list", "--via", "sip:127.0.0.1:9"])).toMatchObject({ code: 2 });
    },
    TEST_MS,
  );

  test(
    "the machine's own file system is as it was",
    async () => {
      await Bun.write(join(daemons.dir, "after"), "");
      const listening = receiver.listen("after");
      await heard(receiver, "after");
      expect((await job(["bcast", "after", "x"])).code).toBe(0);
      const listener = await listening;
      await until(() => listener.messages.length === 1, 5_000, "the message");
      await listener.end();
    },
    TEST_MS,
  );
});
