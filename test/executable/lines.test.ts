/**
 * `bcast -l` of the compiled executable to two real nodes: nothing lost, results in order, memory that does not grow, and what
 * is said when it is cut off. The short form sends 5,000 lines; the long one belongs to a change of `-l` or of sending:
 *
 *   DMQ_TEST_LINES=100000 bun test ./test/executable/lines.test.ts
 */
// needs programs: bash cat env false head sleep tr true wc
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, EXECUTABLE } from "../helpers/daemon.ts";
import { until } from "../helpers/wait.ts";

const LINES = Number(process.env.DMQ_TEST_LINES ?? 5_000);
const SETUP_MS = 30_000;

/** Far more than was ever measured: 18 s for 100,000 lines, alone on two cores. */
const TEST_MS = 30_000 + LINES * 2;

/** What the process may take beyond what it had when a tenth was done; a line that was kept would cost more. */
const GROWTH_KIB_MAX = 32 * 1024;

type Child = Bun.Subprocess<"pipe", "pipe", "pipe">;

const daemons = new Daemons();
let sender: Daemon;
let receivers: Daemon[];
const children: Bun.Subprocess[] = [];

beforeAll(async () => {
  const options = ["--log-level", "error"];
  sender = await daemons.serve("s", await freeAddress(1), options);
  const meet = ["--notification-address", sender.uri];
  receivers = [
    await daemons.serve("r1", await freeAddress(2), [...options, ...meet]),
    await daemons.serve("r2", await freeAddress(3), [...options, ...meet]),
  ];
  const areKnown = async (): Promise<boolean> =>
    (await sender.list()).filter((row) => row.local === 0 && row.status === "active").length === 2;
  await until(areKnown, 10_000, "the sender knows both");
}, SETUP_MS);

afterAll(async () => {
  for (const child of children) child.kill("SIGKILL");
  await Promise.all(children.map((child) => child.exited));
  await daemons.endAll();
}, SETUP_MS);

async function freeAddress(host: number): Promise<string> {
  const socket = await Bun.udpSocket({ hostname: `127.0.0.${host}`, port: 0 });
  const port = socket.port;
  socket.close();
  return `sip:127.0.0.${host}:${port}`;
}

/** `dmq listen` into a file at each receiver: the bodies in the order in which they came. */
async function hear(channel: string): Promise<(() => string[])[]> {
  return Promise.all(
    receivers.map(async (receiver, index) => {
      const path = join(daemons.dir, `${channel}-${index}`);
      const words = [EXECUTABLE, "listen", "--socket", receiver.socket, channel];
      children.push(Bun.spawn(words, { stdin: "ignore", stdout: Bun.file(path), stderr: "ignore" }));
      const isThere = async (): Promise<boolean> =>
        (await receiver.status()).channels.some((one) => one.name === channel && one.consumers > 0);
      await until(isThere, 5_000, `a consumer of ${channel}`);
      return () => rowsOf(readFileSync(path, "utf8")).map((row) => row[4] as string);
    }),
  );
}

function rowsOf(text: string): string[][] {
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  return whole === ""
    ? []
    : whole
        .trimEnd()
        .split("\n")
        .map((line) => line.split("\t"));
}

function start(words: string[], socket = sender.socket): Child {
  const [command, ...rest] = words as [string, ...string[]];
  const child = Bun.spawn([EXECUTABLE, command, "--socket", socket, ...rest], {
    ...{ stdin: "pipe", stdout: "pipe", stderr: "pipe", env: { PATH: process.env.PATH ?? "" } },
  }) as Child;
  children.push(child);
  return child;
}

/** Reads to the end and tells how many octets came so far. */
async function read(
  stream: ReadableStream<Uint8Array>,
  onText: (text: string) => void = () => undefined,
): Promise<string> {
  const decoder = new TextDecoder();
  const parts: string[] = [];
  for await (const chunk of stream) {
    const text = decoder.decode(chunk, { stream: true });
    parts.push(text);
    onText(text);
  }
  return parts.join("");
}

function rssKib(child: Child): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1]);
}

function numbers(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, index) => String(from + index));
}

/** The number of each result line; each line has one result of each receiver. */
function inPairs(count: number): string[] {
  return numbers(1, count).flatMap((number) => [number, number]);
}

describe("bcast -l", () => {
  test(
    `${LINES} lines: none lost, results in order, memory flat`,
    async () => {
      const heard = await hear("many");
      const child = start(["bcast", "-l", "many"]);
      const started = performance.now();
      const rss: number[] = [];
      let rows = 0;
      const output = read(child.stdout, (text) => {
        for (let at = text.indexOf("\n"); at !== -1; at = text.indexOf("\n", at + 1)) rows++;
        // At each tenth but the last, when it may be gone.
        if (rss.length < 9 && rows >= ((rss.length + 1) * 2 * LINES) / 10) rss.push(rssKib(child));
      });
      child.stdin.write(
        numbers(1, LINES)
          .map((line) => `${line}\n`)
          .join(""),
      );
      await child.stdin.end();
      const [stdout, stderr, code] = await Promise.all([output, read(child.stderr), child.exited]);
      const seconds = (performance.now() - started) / 1_000;
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(rowsOf(stdout).map((row) => row[0] as string)).toEqual(inPairs(LINES));
      expect(new Set(rowsOf(stdout).map((row) => row[2]))).toEqual(new Set(["200"]));
      for (const messages of heard) {
        await until(() => messages().length >= LINES, 10_000, "all messages are written");
        // A datagram that was lost and sent again is late: the bus promises no order, but each of them once.
        expect(messages().sort((a, b) => Number(a) - Number(b))).toEqual(numbers(1, LINES));
      }
      expect(rss).toHaveLength(9);
      expect(Math.max(...rss) - (rss[0] as number)).toBeLessThan(GROWTH_KIB_MAX);
      const [first, last] = [rss[0], rss[8]].map((kib) => Math.round((kib as number) / 1_024));
      console.log(
        `${LINES} lines to two nodes in ${seconds.toFixed(1)} s; RSS ${first} MiB at 10 %, ${last} MiB at 90 %`,
      );
    },
    TEST_MS,
  );

  test(
    "SIGINT half-way: what was delivered is reported, and it is what arrived",
    async () => {
      const heard = await hear("cut");
      const child = start(["bcast", "-l", "cut"]);
      let rows = 0;
      const output = read(child.stdout, (text) => {
        rows += text.split("\n").length - 1;
        if (rows >= LINES) child.kill("SIGINT");
      });
      const written = (async () => {
        // More than it will take: what it does not read stays in the pipe.
        for (let from = 1; from <= 4 * LINES && child.exitCode === null; from += 500) {
          child.stdin.write(
            numbers(from, from + 499)
              .map((line) => `${line}\n`)
              .join(""),
          );
          await child.stdin.flush();
        }
      })().catch(() => undefined);
      const [stdout, stderr, code] = await Promise.all([output, read(child.stderr), child.exited]);
      await Promise.race([written, Bun.sleep(1_000)]);
      expect(code).toBe(130);
      const shape = /^dmq: interrupted: (\d+) lines sent, (\d+) delivered(?:, (\d+) unknown)?, rest not sent\n$/;
      expect(stderr).toMatch(shape);
      const numbersSaid = (shape.exec(stderr) as RegExpExecArray).slice(1).map((text) => Number(text ?? 0));
      const [sent, delivered, unknown] = numbersSaid as [number, number, number];
      expect(delivered + unknown).toBe(sent);
      expect(sent).toBeGreaterThanOrEqual(LINES / 2);
      expect(sent).toBeLessThan(4 * LINES);
      const results = rowsOf(stdout);
      const done = new Set(results.filter((row) => row[2] === "200").map((row) => row[0] as string));
      expect(done.size).toBe(delivered);
      expect(results.filter((row) => row[3] === "unknown")).toHaveLength(unknown);
      for (const messages of heard) {
        await until(() => messages().length >= delivered, 5_000, "what was delivered is written");
        const arrived = new Set(messages());
        expect([...done].filter((line) => !arrived.has(line))).toEqual([]);
        expect(arrived.size).toBeLessThanOrEqual(sent);
      }
    },
    TEST_MS,
  );

  test("each line goes out when it comes: tail -f", async () => {
    const heard = await hear("tail");
    const child = start(["bcast", "-l", "tail"]);
    for (const line of ["one", "two"]) {
      child.stdin.write(`${line}\n`);
      await child.stdin.flush();
      await until(() => heard.every((messages) => messages().includes(line)), 3_000, `${line} arrives`);
    }
    await child.stdin.end();
    expect(await child.exited).toBe(0);
  });

  test("a reader of stdout that leaves changes nothing: all lines arrive, exit 0, no noise", async () => {
    const heard = await hear("pipe");
    const script = `seq 1 500 | ${EXECUTABLE} bcast -l --socket ${sender.socket} pipe | head -1; echo "\${PIPESTATUS[1]}"`;
    const child = Bun.spawn(["bash", "-c", script], { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const [stdout, stderr] = await Promise.all([read(child.stdout), read(child.stderr)]);
    expect({ stderr, last: stdout.trim().split("\n").at(-1) }).toEqual({ stderr: "", last: "0" });
    for (const messages of heard) await until(() => messages().length === 500, 5_000, "all arrive");
  });

  test(
    "a daemon that is killed in the middle: lines under way are unknown, exit 4",
    async () => {
      const victim = await daemons.serve("v", await freeAddress(4), ["--notification-address", sender.uri]);
      const isReady = async (): Promise<boolean> =>
        (await victim.list()).some((row) => row.status === "active" && row.local === 0);
      await until(isReady, 10_000, "the victim knows somebody");
      const child = start(["bcast", "-l", "--require", "any", "none"], victim.socket);
      let printed = "";
      const output = read(child.stdout, (text) => {
        printed += text;
      });
      child.stdin.write("first\n");
      await child.stdin.flush();
      await until(() => printed.includes("\n"), 2_000, "the first line has its results");
      await victim.end("SIGKILL");
      child.stdin.write("second\n");
      await child.stdin.flush();
      const [stdout, stderr, code] = await Promise.all([output, read(child.stderr), child.exited]);
      expect(code).toBe(4);
      expect(stdout).toContain("2\t-\t-\tunknown\t-\n");
      expect(stderr).toContain(victim.socket);
      expect(stderr).toMatch(/2 lines sent, 0 delivered, 1 failed, 1 unknown, rest not sent\n$/);
    },
    SETUP_MS,
  );
});
