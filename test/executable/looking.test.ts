/**
 * The commands that answer, ping, wait and look, of the compiled executable with two real nodes. Goal: what a script sees,
 * also when a listener, a peer or the daemon goes away in the middle.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { type Daemon, Daemons, dmq, EXECUTABLE, jsonRows, type ListRow } from "../helpers/daemon.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { finished } from "../helpers/process.ts";
import { until } from "../helpers/wait.ts";

const PROBLEM = missingPrograms("sh", "cat", "sleep", "head", "tr");
const SETUP_MS = 30_000;
const TEST_MS = 20_000;

const daemons = new Daemons();
afterAll(() => daemons.endAll(), SETUP_MS);

type Started = ReturnType<Daemons["start"]>;

/** A port that was free a moment ago: the executable wants a server address that others can be told. */
async function freeAddress(ip: string): Promise<string> {
  const socket = await Bun.udpSocket({ hostname: ip, port: 0 });
  const port = socket.port;
  socket.close();
  return `sip:${ip}:${port}`;
}

function start(daemon: Daemon, command: string, ...args: string[]): Started {
  return daemons.start([command, "--socket", daemon.socket, ...args]);
}

function ended(running: Started): Promise<number> {
  return running.child.exited;
}

/** Starts an answering listener, and waits until it is one. */
async function answering(daemon: Daemon, channel: string, ...args: string[]): Promise<Started> {
  const running = start(daemon, "listen", ...args, channel);
  const { code, stderr } = await daemon.run(["wait", `channel=${channel}`, "--timeout", "8s"]);
  if (code !== 0) throw new Error(`${stderr}; dmq listen wrote: ${running.stderr}`);
  return running;
}

interface Pinged {
  round: number;
  node: string;
  outcome: string;
  code: number | null;
  ms: number;
}

describeWhere(PROBLEM, "two nodes, and commands that look and answer", () => {
  let here: Daemon;
  let there: Daemon;

  beforeAll(async () => {
    const options = ["--ping-interval", "30", "--handler-timeout", "5s", "--request-timeout", "10s"];
    here = await daemons.serve("here", await freeAddress("127.0.0.1"), options);
    there = await daemons.serve("there", await freeAddress("127.0.0.2"), [
      ...options,
      ...["--notification-address", here.uri, "--on", "taken=cat"],
    ]);
    const conditions = ["ready", "members=2", `node=${there.uri}`];
    const met = await here.run(["wait", ...conditions, "--timeout", "10s"]);
    expect(met).toEqual({ code: 0, stdout: "", stderr: "" });
    expect((await there.run(["wait", "members=2", "channel=taken", "--timeout", "10s"])).code).toBe(0);
  }, SETUP_MS);

  test(
    "listen --exec: the sender gets the body that the command printed",
    async () => {
      const listener = await answering(there, "upper", "--exec", "tr a-z A-Z", "-n", "1");
      const done = await here.run(["req", "--json", "upper", there.uri, "-"], new TextEncoder().encode("hélloü\n"));
      const [row] = jsonRows<{ code: number; body: string; content_type: string }>(done.stdout);
      expect([done.code, row?.code, row?.content_type, row?.body]).toEqual([0, 200, "text/plain", "HéLLOü\n"]);
      expect([await ended(listener), listener.stdout, listener.stderr]).toEqual([0, "", ""]);
    },
    TEST_MS,
  );

  const ends: [script: string, code: number, reason: string, exit: number][] = [
    ["exit 75", 503, "Handler Busy", 8],
    ["exit 4", 500, "Handler Exited With 4", 8],
    ["exit 0", 200, "OK", 0],
  ];
  for (const [script, code, reason, exit] of ends) {
    test(
      `listen --exec: ${script} is ${code} for the sender and ${exit} for who listens`,
      async () => {
        const listener = await answering(there, "ends", "--exec", `sh -c '${script}'`, "-n", "1");
        const { stdout } = await here.run(["send", "ends", there.uri, "x"]);
        expect(stdout).toStartWith(`${there.uri}\t${code}\t${reason}\t`);
        expect(await ended(listener)).toBe(exit);
      },
      TEST_MS,
    );
  }

  test(
    "listen: one answers a channel; a second one, and one for a channel of --on, are refused",
    async () => {
      const listener = await answering(there, "single", "--reply", "one");
      const second = await there.run(["listen", "--exec", "cat", "single"]);
      expect([second.code, second.stderr]).toEqual([
        1,
        "dmq: channel single is answered by another listener already: a channel has one answer\n",
      ]);
      const taken = await there.run(["listen", "--reply", "x", "taken"]);
      expect([taken.code, taken.stderr]).toEqual([
        1,
        "dmq: channel taken is answered by a command of --on already: a channel has one answer\n",
      ]);
      expect(await listener.end("SIGINT")).toBe(130);
    },
    TEST_MS,
  );

  test(
    "listen: a listener that is killed leaves 503 at once, and no command behind",
    async () => {
      const listener = await answering(there, "killed", "--exec", "sleep 30");
      const asking = start(here, "send", "killed", there.uri, "x");
      const command = await until(() => childOf(listener.child.pid), 5_000, "the command runs");
      const startedAt = performance.now();
      await listener.end("SIGINT");
      expect(await ended(asking)).toBe(5);
      expect(asking.stdout).toStartWith(`${there.uri}\t503\tListener Gone\t`);
      expect(performance.now() - startedAt).toBeLessThan(2_500);
      await until(() => !existsSync(`/proc/${command}`), 5_000, "the command is gone");
    },
    TEST_MS,
  );

  test(
    "ping: round trips, and nothing follows of silence",
    async () => {
      const { code, stdout, stderr } = await here.run(["ping", "--json", "-c", "2", "-i", "100ms"]);
      const rows = jsonRows<Pinged>(stdout);
      expect([code, stderr, rows.map(({ round, node, code }) => [round, node, code])]).toEqual([
        0,
        "",
        [
          [1, there.uri, 200],
          [2, there.uri, 200],
        ],
      ]);
      const before = await here.list();
      const { pid } = await there.status();
      process.kill(pid, "SIGSTOP");
      try {
        const frozen = await here.run(["ping", "--timeout", "700ms", there.uri]);
        expect([frozen.code, frozen.stdout]).toEqual([6, expect.stringMatching(/\t-\ttimeout\t7\d\d\.\d\n$/)]);
      } finally {
        process.kill(pid, "SIGCONT");
      }
      const facts = ({ uri, status, fail_count }: ListRow): unknown => [uri, status, fail_count];
      expect((await here.list()).map(facts)).toEqual(before.map(facts));
      expect((await here.run(["ping", "sip:127.0.0.99:5060"])).code).toBe(3);
      expect((await dmq(["ping", "--via", here.uri, "--from-address", "sip:127.0.0.1"])).code).toBe(0);
    },
    TEST_MS,
  );

  test(
    "list --watch, events, wait and logs see a status that somebody sets",
    async () => {
      const watching = start(here, "list", "--watch", "--json");
      const events = start(here, "events");
      const logs = start(here, "logs", "-f", "--plain");
      const waiting = start(here, "wait", `node=${there.uri}:disabled`);
      const statuses = (): string[] =>
        watching.stdout
          .split("\n")
          .slice(0, -1)
          .map((line) => (JSON.parse(line) as ListRow[])[0]?.status as string);
      await until(() => statuses().length === 1 && logs.stdout.includes("is up"), 5_000, "all are there");
      const isFollowing = async (): Promise<boolean> => {
        await here.run(["listen", "-W", "10ms", "probe"]);
        return events.stdout.includes("\tconsumers\tprobe\t");
      };
      await until(isFollowing, 5_000, "the events are followed");
      await here.run(["set", there.uri, "disabled"]);
      expect([await ended(waiting), waiting.stdout, waiting.stderr]).toEqual([0, "", ""]);
      await until(() => statuses().length === 2, 5_000, "the list came again");
      await here.run(["set", there.uri, "active"]);
      await until(() => statuses().length === 3, 5_000, "and again");
      expect(statuses()).toEqual(["active", "disabled", "active"]);
      await until(() => events.stdout.includes("\tpeer-up\t"), 5_000, "the last event");
      expect(await events.end("SIGINT")).toBe(130);
      const lines = events.stdout
        .trim()
        .split("\n")
        .map((line) => line.split("\t").slice(1));
      const told = lines.filter(([type]) => type !== "consumers");
      expect(told).toEqual([
        ["peer-disabled", there.uri, "disabled"],
        ["peer-up", there.uri, "active"],
      ]);
      await until(() => logs.stdout.includes(`peer ${there.uri} is disabled`), 5_000, "the log says it");
      expect(await watching.end("SIGINT")).toBe(130);
      expect(await logs.end("SIGTERM")).toBe(143);
      const latest = await here.run(["logs", "--level", "warn", "-n", "1"]);
      expect(latest.stdout).toMatch(/ warn {2}peer sip:127\.0\.0\.2:\d+ is disabled: by hand fail_count=0\n$/);
    },
    TEST_MS,
  );

  test(
    "a reader that goes away ends a stream quietly",
    async () => {
      const line = `"${EXECUTABLE}" list --watch --plain -s "${here.socket}" | head -1; "${EXECUTABLE}" logs -s "${here.socket}" | head -1`;
      const child = Bun.spawn(["sh", "-c", line], { stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 15_000 });
      const flipping = (async () => {
        // The first ends with the next thing that it would print.
        while (child.exitCode === null)
          for (const status of ["not_active", "active"]) await here.run(["set", there.uri, status]);
      })();
      const { stdout, stderr, code } = await finished(child);
      await flipping;
      expect([code, stderr, stdout.split("\n").length]).toEqual([0, "", 3]);
    },
    TEST_MS,
  );

  test(
    "wait, listen and events when there is no daemon yet, and when it dies",
    async () => {
      const uri = await freeAddress("127.0.0.3");
      const socket = `${daemons.dir}/late.sock`;
      expect((await dmq(["wait", "ready", "--timeout", "300ms", "--socket", socket])).code).toBe(4);
      const early = daemons.start(["wait", "ready", "channel=late", "--timeout", "15s", "--socket", socket]);
      const late = await daemons.serve("late", uri, []);
      const listener = start(late, "listen", "--exec", "cat", "late");
      expect(await ended(early)).toBe(0);
      const events = start(late, "events", "-n", "1", "--type", "peer-up");
      const waiting = start(late, "wait", "members=5");
      const streams = async (): Promise<boolean> => (await late.run(["wait", "channel=late"])).code === 0;
      await until(streams, 5_000, "it answers");
      process.kill((await late.status()).pid, "SIGKILL");
      expect(await ended(listener)).toBe(4);
      expect(await ended(events)).toBe(4);
      expect(listener.stderr).toContain("dmq: no daemon on");
      // It may come back.
      expect(waiting.hasExited).toBe(false);
      expect(await waiting.end("SIGINT")).toBe(130);
    },
    TEST_MS,
  );
});

/** @returns the number of a process's first child, `undefined` where it has none */
function childOf(pid: number): number | undefined {
  const found = Bun.spawnSync(["sh", "-c", `cat /proc/${pid}/task/*/children`])
    .stdout.toString()
    .trim();
  return found === "" ? undefined : Number(found.split(" ")[0]);
}
