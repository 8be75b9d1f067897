/**
 * `send -l` and `bcast -l` in process, against a daemon that answers what the test says and when it says so: what goes out,
 * in which batches, what is printed in which order, and how it ends early.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { BATCH_LINES_MAX, BATCHES_MAX } from "../../src/cli/batch.ts";
import type { SignalName } from "../../src/cli/context.ts";
import { LINE_BYTES_MAX } from "../../src/cli/lines.ts";
import type { DeliveryResult } from "../../src/rpc/surface.ts";
import { type Call, FakeDaemon, type Ran, type Reply, runCli, type World } from "../helpers/cli.ts";
import { until } from "../helpers/wait.ts";

const NODE = "sip:127.0.0.2:5060";
const OTHER = "sip:127.0.0.3:5060";

let daemon: FakeDaemon;
beforeEach(() => {
  daemon = new FakeDaemon();
});
afterEach(() => daemon.end());

/** The daemon's answer to messages; whether it is there is asked first. */
function answering(reply: (params: Params) => Reply | Promise<Reply>): void {
  daemon.reply = ({ method, params }: Call) =>
    method === "core.version" ? { result: "dmq 1" } : reply(params as Params);
}

interface Params {
  body?: string;
  body_base64?: string;
  message_id?: string;
}

function messages(): Params[] {
  return daemon.calls.filter(({ method }) => method !== "core.version").map(({ params }) => params as Params);
}

function run(line: string[], world: World = {}): Promise<Ran> {
  return runCli(line, { ...world, env: { DMQ_SOCKET: daemon.socket, ...world.env } });
}

function input(text: string): World {
  return { stdin: Buffer.from(text, "latin1") };
}

function delivery(part: Partial<DeliveryResult> = {}): DeliveryResult {
  const ok = { outcome: "delivered", code: 200, reason: "OK", ms: 3.4, consumer: true, attempts: 1 } as const;
  return { node: NODE, ...ok, tries: 1, message_id: null, ...part };
}

const BUSY: Partial<DeliveryResult> = { outcome: "rejected", code: 503, reason: "Busy", consumer: false };
const GONE: Partial<DeliveryResult> = { outcome: "timeout", code: null, reason: "no answer", consumer: false };

/** Numbers as lines. */
function numbers(count: number): string {
  return Array.from({ length: count }, (_, index) => `${index + 1}\n`).join("");
}

describe("-l", () => {
  test("each line is a message with the options of all, and its results begin with its number", async () => {
    answering(({ body }) => ({ result: body === "b" ? [delivery(BUSY), delivery()] : [delivery(), delivery()] }));
    const options = ["--except", OTHER, "-T", "a/b", "--timeout", "2s", "--retry", "1", "--message-id", "job"];
    const { code, out, err } = await run(["bcast", "-l", ...options, "c"], input("a\nb\r\n\n\xff"));
    expect({ code, err }).toEqual({ code: 7, err: "dmq: 4 lines sent, 3 delivered, 1 failed\n" });
    const ok = `${NODE}\t200\tOK\t3`;
    expect(out.split("\n")).toEqual([
      ...[`1\t${ok}`, `1\t${ok}`, `2\t${NODE}\t503\tBusy\t3`, `2\t${ok}`],
      ...[`3\t${ok}`, `3\t${ok}`, `4\t${ok}`, `4\t${ok}`, ""],
    ]);
    const shared = { channel: "c", except: [OTHER], content_type: "a/b", timeout_ms: 2_000, retry: 1 };
    expect(messages()).toEqual([
      { ...shared, body: "a", message_id: "job-1" },
      { ...shared, body: "b", message_id: "job-2" },
      { ...shared, body: "", message_id: "job-3" },
      { ...shared, body_base64: "/w==", message_id: "job-4" },
    ]);
  });

  test("--json is an object a line", async () => {
    answering(({ body }) =>
      body === "b" ? { error: { code: 404, message: "Node Not Found", data: { exit: 3 } } } : { result: delivery() },
    );
    const { code, out, err } = await run(["send", "-l", "--json", "c", NODE, "-"], input("a\nb\n"));
    expect(code).toBe(7);
    expect(
      out
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toEqual([
      { line: 1, exit: 0, results: [delivery()] },
      { line: 2, exit: 3, results: [], error: "Node Not Found" },
    ]);
    expect(err).toBe("dmq: line 2: Node Not Found\ndmq: 1 line sent, 1 delivered, 1 refused\n");
  });

  const exits: [name: string, text: string, parts: Partial<DeliveryResult>[], options: string[], code: number][] = [
    ["no line at all is done", "", [], [], 0],
    ["all delivered", "a\nb\n", [{}, {}], [], 0],
    ["some", "a\nb\n", [{}, GONE], [], 7],
    ["none, all for one reason", "a\nb\n", [BUSY, BUSY], [], 5],
    ["none, for several reasons", "a\nb\n", [BUSY, GONE], [], 1],
    ["202 is delivered", "a\n", [{ code: 202, consumer: false }], [], 0],
    ["202 is not enough", "a\n", [{ code: 202, consumer: false }], ["--require-consumer"], 3],
  ];
  for (const [name, text, parts, options, code] of exits) {
    test(`exit ${code}: ${name}`, async () => {
      const left = [...parts];
      answering(() => ({ result: delivery(left.shift()) }));
      expect((await run(["send", "-l", ...options, "c", NODE], input(text))).code).toBe(code);
    });
  }

  test("--require is of each line", async () => {
    answering(() => ({ result: [delivery(), delivery(GONE)] }));
    expect((await run(["bcast", "-l", "--require", "any", "c"], input("a\nb\n"))).code).toBe(0);
    expect((await run(["bcast", "-l", "c"], input("a\nb\n"))).code).toBe(7);
  });

  test("with nobody to address each line says so, and stderr does not repeat it without end", async () => {
    answering(() => ({ result: [] }));
    const { code, out, err } = await run(["bcast", "-l", "c"], input(numbers(100)));
    expect(code).toBe(3);
    expect(out.split("\n").slice(0, 2)).toEqual(["1\t-\t-\tnobody\t-", "2\t-\t-\tnobody\t-"]);
    const told = err.trim().split("\n");
    expect(told).toHaveLength(12);
    expect(told[0]).toBe("dmq: line 1: there is no active node to address");
    expect(told.slice(-2)).toEqual([
      "dmq: further causes are not shown; --json has them",
      "dmq: 100 lines sent, 0 delivered, 100 failed",
    ]);
  });

  test("a line that is too long is reported in its place and not sent", async () => {
    answering(() => ({ result: delivery() }));
    const long = "x".repeat(LINE_BYTES_MAX + 1);
    const files = { "in.txt": Buffer.from(`a\n${long}\nb\n`) };
    const { code, out, err } = await run(["send", "-l", "-f", "in.txt", "c", NODE], { files });
    expect(code).toBe(7);
    expect(out.split("\n").map((line) => line.split("\t").slice(0, 4).join(" "))).toEqual([
      ...[`1 ${NODE} 200 OK`, "2 - - refused", `3 ${NODE} 200 OK`, ""],
    ]);
    expect(err).toContain(`line 2: the line is longer than ${LINE_BYTES_MAX} bytes`);
    expect(messages().map(({ body }) => body)).toEqual(["a", "b"]);
  });

  test("thousands: every one goes out once, results are in order, and batches are bounded", async () => {
    answering(async ({ body }) => {
      // The answers of later lines overtake.
      if (Number(body) % 300 === 0) await Bun.sleep(5);
      return { result: delivery({ node: `sip:${body}` }) };
    });
    const stdinStream = async function* (): AsyncGenerator<Uint8Array> {
      const all = Buffer.from(numbers(5_000));
      for (let at = 0; at < all.length; at += 10_000) yield all.subarray(at, at + 10_000);
    };
    const { code, out } = await run(["send", "-l", "c", NODE], { stdinStream });
    expect(code).toBe(0);
    const rows = out
      .trim()
      .split("\n")
      .map((line) => line.split("\t").slice(0, 2));
    expect(rows).toEqual(Array.from({ length: 5_000 }, (_, index) => [`${index + 1}`, `sip:${index + 1}`]));
    expect(messages()).toHaveLength(5_000);
    expect(Math.max(...daemon.batches)).toBe(BATCH_LINES_MAX);
    expect(daemon.batches.length).toBeLessThan(300);
  });

  test("what came goes out before more comes, and nothing is read beyond the window", async () => {
    const gates: PromiseWithResolvers<void>[] = [];
    answering(async () => {
      const gate = Promise.withResolvers<void>();
      gates.push(gate);
      await gate.promise;
      return { result: delivery() };
    });
    let read = 0;
    const stdinStream = async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from("first\n");
      await until(() => gates.length === 1, 2_000, "the first line is sent while the second is not there yet");
      for (let i = 0; i < 10_000; i++) {
        read++;
        yield Buffer.from("more\n");
      }
    };
    const running = run(["send", "-l", "c", NODE], { stdinStream });
    const most = 1 + (BATCHES_MAX - 1) + BATCH_LINES_MAX;
    await until(() => read >= most - 1, 2_000, "the window is full");
    await Bun.sleep(50);
    // One chunk may be in the hand of the reader.
    expect(read).toBeLessThanOrEqual(most);
    expect(messages()).toHaveLength(BATCHES_MAX);
    answering(() => ({ result: delivery() }));
    for (const gate of gates) gate.resolve();
    expect((await running).code).toBe(0);
    expect(messages()).toHaveLength(10_001);
  });

  test("with more nodes there are fewer lines in a batch, and a large line is one by itself", async () => {
    answering(() => ({ result: Array.from({ length: 8 }, () => delivery()) }));
    await run(["bcast", "-l", "c"], { stdin: Buffer.from(numbers(100)) });
    expect(Math.max(...daemon.batches)).toBe(BATCH_LINES_MAX / 8);
    answering(() => ({ result: [delivery()] }));
    daemon.batches.length = 0;
    const large = `${"x".repeat(100_000)}\n`;
    const stdinStream = async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from(`a\n${large.repeat(3)}`);
    };
    expect((await run(["bcast", "-l", "c"], { stdinStream })).code).toBe(0);
    expect(daemon.batches).toEqual([1, 1, 1, 1]);
  });

  test("a body as an argument, and no daemon, are said before anything is read", async () => {
    const stdinStream = (): AsyncIterable<Uint8Array> => {
      throw new Error("was read");
    };
    const { code, err } = await run(["bcast", "-l", "c", "hello"], { stdinStream });
    expect({ code, err }).toMatchObject({ code: 2, err: expect.stringContaining("not from an argument") });
    const none = await run(["bcast", "-l", "c"], { stdinStream, env: { DMQ_SOCKET: "/nonexistent/dmq.sock" } });
    expect(none).toMatchObject({ code: 4, out: "", err: expect.stringContaining("no daemon on /nonexistent") });
  });

  test("a file that is not there exits 2", async () => {
    answering(() => ({ result: delivery() }));
    expect(await run(["send", "-l", "-f", "none", "c", NODE])).toEqual({
      ...{ code: 2, out: "", err: "dmq: cannot read none (ENOENT): nothing was sent\n" },
    });
  });

  test("an input that breaks: what was sent is reported, exit 2", async () => {
    answering(() => ({ result: delivery() }));
    const stdinStream = async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from("a\n");
      throw Object.assign(new Error("broken"), { code: "EIO" });
    };
    const { code, out, err } = await run(["send", "-l", "c", NODE], { stdinStream });
    expect(code).toBe(2);
    expect(out).toStartWith("1\t");
    expect(err).toBe("dmq: cannot read standard input (EIO): 1 line sent, 1 delivered, rest not sent\n");
  });

  for (const [signal, word, code] of [
    ["SIGINT", "interrupted", 130],
    ["SIGTERM", "terminated", 143],
  ] as const) {
    test(`${signal}: what is known is reported, what is not is unknown, exit ${code}`, async () => {
      let raise: (signal: SignalName) => void = () => undefined;
      answering(async ({ body }) => {
        if (body === "stuck") await new Promise(() => undefined);
        return { result: delivery() };
      });
      const stdinStream = async function* (): AsyncGenerator<Uint8Array> {
        for (const line of ["a", "stuck", "b"]) {
          yield Buffer.from(`${line}\n`);
          await until(() => messages().some(({ body }) => body === line), 2_000, `${line} is sent`);
        }
        raise(signal);
        raise(signal);
        await new Promise(() => undefined);
      };
      const started = performance.now();
      const world: World = {
        stdinStream,
        onStart: (listener) => {
          raise = listener;
        },
      };
      const ran = await run(["send", "-l", "c", NODE], world);
      expect(ran).toEqual({
        code,
        out: `1\t${NODE}\t200\tOK\t3\n2\t-\t-\tunknown\t-\n3\t${NODE}\t200\tOK\t3\n`,
        err: `dmq: ${word}: 3 lines sent, 2 delivered, 1 unknown, rest not sent\n`,
      });
      expect(performance.now() - started).toBeLessThan(4_000);
    });
  }

  test("a daemon that dies: lines under way are unknown, the rest is not sent, exit 4", async () => {
    answering(async ({ body }) => {
      if (body !== "die") return { result: delivery() };
      void daemon.end();
      return new Promise(() => undefined);
    });
    const stdinStream = async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from("a\n");
      await until(() => messages().length === 1, 2_000, "the first line is sent");
      yield Buffer.from("die\n");
      await new Promise(() => undefined);
    };
    const { code, out, err } = await run(["send", "-l", "c", NODE], { stdinStream });
    expect({ code, out }).toEqual({ code: 4, out: `1\t${NODE}\t200\tOK\t3\n2\t-\t-\tunknown\t-\n` });
    expect(err).toMatch(/^dmq: .*dmq\.?.*: 2 lines sent, 1 delivered, 1 unknown, rest not sent\n$/);
    expect(err).toContain(daemon.socket);
  });

  test("progress: on a terminal only, and wiped at the end", async () => {
    answering(() => ({ result: delivery() }));
    const stdinStream = async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from("a\n");
      await Bun.sleep(500);
    };
    const quiet = await run(["send", "-l", "c", NODE], { stdinStream });
    expect(quiet.err).toBe("");
    expect((await run(["send", "-l", "c", NODE], { stdinStream, tty: true, env: { TERM: "dumb" } })).err).toBe("");
    const shown = await run(["send", "-l", "c", NODE], { stdinStream, tty: true });
    expect(shown.err).toMatch(/\r\u001b\[K1 done, \d+\/s, 0 failed/);
    expect(shown.err).toEndWith("\r\u001b[K");
    expect(shown.out).toBe(`1  ${NODE}  200  OK  3\n`);
  });
});
