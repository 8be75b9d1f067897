/**
 * The FIFO for kamctl on real FIFOs: what it answers into which file, and what writers and readers that misbehave cannot
 * do to it. The last part gives the cutter of requests any octets.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { ConfigError, TransportError } from "../../src/core/errors.ts";
import { type FifoLimits, type FifoServer, kamailioJson, serveFifo } from "../../src/rpc/fifo.ts";
import { isReplyName, writeReply } from "../../src/rpc/reply-fifo.ts";
import { FIFO_REQUEST_BYTES_MAX, RequestCutter } from "../../src/rpc/request-cutter.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";
import { delivered, FakeSurface, PEER_URI, rowOf } from "./fake-surface.ts";

const PROBLEM = missingPrograms("mkfifo");

const CAPTURES = join(import.meta.dir, "../fixtures/captures/rpc");
const FUZZ = { seed: Number(process.env.FUZZ_SEED ?? 7), numRuns: Number(process.env.FUZZ_RUNS ?? 1_000) };

let directory: string;
let path: string;
let replyDir: string;
let surface: FakeSurface;
let servers: FifoServer[];
let files: number[];
let complaints: string[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "dmq-fifo-"));
  path = join(directory, "rpc.fifo");
  replyDir = mkdtempSync(join(directory, "reply-"));
  surface = new FakeSurface();
  servers = [];
  files = [];
  complaints = [];
});

afterEach(async () => {
  await Promise.all(servers.map((server) => server.close()));
  for (const file of files) closeSync(file);
  rmSync(directory, { recursive: true, force: true });
});

async function serve(limits: Partial<FifoLimits> = {}): Promise<FifoServer> {
  const log = { warn: (text: string) => void complaints.push(text) };
  const server = await serveFifo({ path, replyDir, surface, log, limits: { complaintMs: 0, ...limits } });
  servers.push(server);
  return server;
}

function makeFifo(place: string, mode = "600"): void {
  expect(Bun.spawnSync(["mkfifo", "-m", mode, place]).exitCode).toBe(0);
}

/** A reply FIFO that is read without waiting. */
class Reply {
  readonly name: string;
  readonly #file: number;
  text = "";

  constructor(name: string) {
    this.name = name;
    makeFifo(join(replyDir, name), "622");
    this.#file = openSync(join(replyDir, name), constants.O_RDONLY | constants.O_NONBLOCK);
    files.push(this.#file);
  }

  /** Takes what is there. */
  take(): string {
    const buffer = Buffer.alloc(65_536);
    try {
      for (let size = readSync(this.#file, buffer); size > 0; size = readSync(this.#file, buffer)) {
        this.text += buffer.toString("utf8", 0, size);
      }
    } catch (error) {
      if ((error as { code?: string }).code !== "EAGAIN") throw error;
    }
    return this.text;
  }

  /** @returns the whole answer */
  async json(): Promise<unknown> {
    return until(
      () => {
        try {
          return JSON.parse(this.take()) as unknown;
        } catch {
          return undefined;
        }
      },
      5_000,
      `an answer in ${this.name}; there is ${this.text.slice(0, 100)}`,
    );
  }
}

/** What a writer does: opens, writes, closes. */
function write(text: string | Uint8Array): void {
  const file = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  try {
    const octets = Buffer.from(text);
    for (let at = 0; at < octets.length; at += writeSync(file, octets.subarray(at)));
  } finally {
    closeSync(file);
  }
}

function request(method: string, params: unknown, name: string, id: unknown = 1): string {
  return `${JSON.stringify({ jsonrpc: "2.0", method, params, reply_name: name, id })}\n`;
}

let names = 0;

async function ask(method: string, params?: unknown, id?: unknown): Promise<unknown> {
  const reply = new Reply(`kamailio_receiver_${++names}`);
  write(request(method, params, reply.name, id));
  return reply.json();
}

function capturedBody(name: string): string {
  return readFileSync(join(CAPTURES, name), "utf8").split("\n\n")[1] as string;
}

describeWhere(PROBLEM, "answers", () => {
  test("a list of nodes is written as a newer Kamailio writes it, octet for octet", async () => {
    surface.rows.splice(0, 9, rowOf("sip:127.0.0.1:5080", "active"), rowOf("sip:127.0.0.11:5070", "active", 1));
    await serve();
    const reply = new Reply("list");
    write(request("dmq.list_nodes", undefined, "list"));
    await reply.json();
    expect(reply.text).toBe(capturedBody("jsonrpc-http-list-nodes-newer.txt"));
  });

  const same: [name: string, method: string, params: unknown[]][] = [
    ["remove-ok", "dmq.remove", ["sip:127.0.0.2:5061;transport=tls"]],
    ["remove-malformed", "dmq.remove", ["nonsense"]],
    ["no-such-method", "nosuch.method", []],
  ];
  test.each(same)("%s is written as Kamailio writes it, octet for octet", async (name, method, params) => {
    await serve();
    const reply = new Reply("same");
    write(request(method, params, "same"));
    await reply.json();
    expect(reply.text).toBe(capturedBody(`jsonrpc-http-${name}.txt`));
    expect(reply.text).toBe(capturedBody(`jsonrpc-http-${name}-newer.txt`));
  });

  const cases: [method: string, params: unknown, outcome: object][] = [
    ["dmq.remove", [5], { error: { code: 500, message: "Failure" } }],
    ["dmq.remove", [null], { error: { code: 500, message: "Invalid Parameters" } }],
    ["dmq.remove", [true], { error: { code: 500, message: "Invalid Parameters" } }],
    ["dmq.remove", "text", { error: { code: 500, message: "Invalid Parameters" } }],
    ["dmq.remove", undefined, { error: { code: 500, message: "Invalid Parameters" } }],
    ["dmq.remove", { first: PEER_URI, second: 1 }, { result: "Ok. DMQ node removed." }],
    ["dmq.change_status", [PEER_URI, "active"], { result: "Ok. DMQ node status is already active." }],
    ["core.version", ["surplus"], { result: "dmq 0.1.0" }],
    ["dmq.send", ["ch"], { error: { code: 400, message: "Invalid params: node is missing" } }],
    ["dmq.send", { channel: "ch", node: PEER_URI, force: 1, timeout_ms: "9" }, { result: delivered(PEER_URI) }],
    ["dmq.replicate", [], { result: [] }],
  ];
  test.each(cases)("%s %j is %j", async (method, params, outcome) => {
    await serve();
    expect(await ask(method, params)).toEqual({ jsonrpc: "2.0", ...outcome, id: 1 });
  });

  test("the id comes back with its type, and is missing where there was none", async () => {
    await serve();
    for (const id of [4711, "text", 1.5, null]) {
      expect(await ask("core.version", [], id)).toEqual({ jsonrpc: "2.0", result: "dmq 0.1.0", id });
    }
    const reply = new Reply("no-id");
    write('{"jsonrpc":"2.0","method":"core.version","reply_name":"no-id"}');
    expect(await reply.json()).toEqual({ jsonrpc: "2.0", result: "dmq 0.1.0" });
  });

  test("core.uptime has the times of ctime", async () => {
    await serve();
    const { result } = (await ask("core.uptime")) as { result: Record<string, unknown> };
    expect(Object.keys(result)).toEqual(["now", "up_since", "uptime"]);
    expect(result.now).toMatch(/^[A-Z][a-z]{2} [A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d \d{4}$/);
    expect(Number.isInteger(result.uptime)).toBe(true);
  });

  test("a request that is no JSON-RPC 2.0 call is told so", async () => {
    await serve();
    const reply = new Reply("what");
    write('{"method":"core.version","reply_name":"what","id":7}');
    const error = { code: 400, message: 'Invalid Request: jsonrpc is not "2.0"' };
    expect(await reply.json()).toEqual({ jsonrpc: "2.0", error, id: 7 });
    const other = new Reply("who");
    write('{"jsonrpc":"2.0","method":5,"reply_name":"who","id":{}}');
    const missing = { code: 400, message: "Invalid Request: method is no string" };
    expect(await other.json()).toEqual({ jsonrpc: "2.0", error: missing });
  });

  test("without a reply_name the call is made and nothing is written", async () => {
    await serve();
    write('{"jsonrpc":"2.0","method":"dmq.join","params":["sip:127.0.0.9:5060"],"id":1}\n');
    await until(() => surface.calls.length === 1, 5_000, "the call is made");
    expect(readdirSync(replyDir)).toEqual([]);
  });

  test("one member is a line, with a tab behind its name, and no text is taken for a name", () => {
    const tricky = { a: ['x": y', '"b": c', '\n\t"d": e\u2028"f": g'], 'h": i': { j: [] }, k: {} };
    const text = kamailioJson(tricky);
    expect(JSON.parse(text)).toEqual(tricky);
    expect(text).toContain('\n\t"a":\t[\n\t\t"x\\": y",\n');
    expect(text).toContain('\n\t"h\\": i":\t{\n\t\t"j":\t[]\n\t},\n\t"k":\t{}\n}');
  });
});

describeWhere(PROBLEM, "requests", () => {
  test("the lines that kamctl monitor writes are one request", async () => {
    await serve();
    const reply = new Reply("monitor");
    write('{\n  "jsonrpc": "2.0",\n  "method": "core.version",\n  "reply_name": "monitor",\n  "id": 9\n}\n');
    expect(await reply.json()).toEqual({ jsonrpc: "2.0", result: "dmq 0.1.0", id: 9 });
  });

  test("several in one write, with and without line ends, are all answered", async () => {
    await serve();
    const replies = ["a", "b", "c"].map((name) => new Reply(name));
    const [a, b, c] = replies.map(({ name }, id) => request("core.version", [], name, id).trim());
    write(`${a}${b} \n\n  ${c}`);
    for (const [id, reply] of replies.entries()) expect(await reply.json()).toMatchObject({ id });
  });

  test("one that comes octet by octet, by several openings of the FIFO, is answered", async () => {
    await serve();
    const reply = new Reply("drip");
    for (const octet of Buffer.from(request("core.version", ["ü"], "drip"))) {
      write(Uint8Array.of(octet));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await reply.json()).toMatchObject({ result: "dmq 0.1.0" });
  });

  const garbage: [name: string, text: string | Uint8Array][] = [
    ["a line of text", "hello\n"],
    ["octets", Uint8Array.from({ length: 256 }, (_, i) => i)],
    ["an array", '[{"jsonrpc":"2.0"}]\n'],
    ["braces that are no JSON", "{{{}}}\n{,}\n{]\n"],
    ["a text that breaks off", '{"jsonrpc": "2.0", "meth\n'],
    ["an object that breaks off", '{"jsonrpc": "2.0", "params": [\n'],
    ["an object that breaks off without a line end, and the line end later", '{"a": {"b": 1\n\n'],
    ["no UTF-8", Uint8Array.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d, 0x0a])],
    ["nesting", `${'{"a":'.repeat(8_000)}\n`],
    ["NUL octets", new Uint8Array(5_000)],
  ];
  test.each(garbage)("%s takes no later request with it", async (_, text) => {
    await serve();
    write(text);
    write("\n");
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
    expect(complaints.length).toBeGreaterThan(0);
  });

  test("too large a request is skipped, the next one answered", async () => {
    await serve();
    const reply = new Reply("large");
    const large = Buffer.from(request("dmq.bcast", ["ch", "x".repeat(FIFO_REQUEST_BYTES_MAX)], "large"));
    // More than the pipe holds: a writer waits until the daemon has read, as a shell does.
    const child = Bun.spawn(["sh", "-c", 'cat > "$0"', path], { stdin: large });
    expect(await child.exited).toBe(0);
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
    expect(surface.calls).toEqual([]);
    expect(reply.take()).toBe("");
  });

  test("the largest that is allowed is answered", async () => {
    await serve();
    const empty = request("dmq.bcast", ["ch", ""], "largest").trim().length;
    const reply = new Reply("largest");
    const body = "x".repeat(FIFO_REQUEST_BYTES_MAX - empty);
    const child = Bun.spawn(["sh", "-c", 'cat > "$0"', path], {
      stdin: Buffer.from(request("dmq.bcast", ["ch", body], "largest")),
    });
    await child.exited;
    expect(await reply.json()).toMatchObject({ result: [{ outcome: "delivered" }] });
  });

  test("a request that broke off is dropped after a while", async () => {
    await serve({ partialMs: 50 });
    write('{"jsonrpc": "2.0", "method": "core.ver');
    await until(() => complaints.includes("dropped a request that broke off"), 5_000, "it is dropped");
    // On the same line: nothing but the time tells that this is another one.
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
  });

  test("sixty writers at a time get an answer each, their own", async () => {
    await serve({ callsMax: 4 });
    const replies = Array.from({ length: 60 }, (_, i) => new Reply(`many_${i}`));
    const writers = replies.map(({ name }, id) =>
      Bun.spawn(["sh", "-c", 'printf "%s" "$1" > "$0"', path, request("core.version", [], name, id)]),
    );
    await Promise.all(writers.map((writer) => writer.exited));
    for (const [id, reply] of replies.entries()) {
      expect(await reply.json()).toEqual({ jsonrpc: "2.0", result: "dmq 0.1.0", id });
    }
  });

  test("a call that takes long holds up no other", async () => {
    const release = Promise.withResolvers<void>();
    surface.onSend = async (sent) => {
      await release.promise;
      return delivered(sent.node);
    };
    await serve();
    const slow = new Reply("slow");
    write(request("dmq.send", ["ch", PEER_URI], "slow"));
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
    expect(slow.take()).toBe("");
    release.resolve();
    expect(await slow.json()).toMatchObject({ result: { outcome: "delivered" } });
  });
});

describeWhere(PROBLEM, "replies", () => {
  const bad = [
    "",
    ".",
    "..",
    ".hidden",
    "-rf",
    "a/b",
    "/etc/passwd",
    "../x",
    "a..b",
    "a b",
    "a\nb",
    "a\0b",
    "ä",
    "x".repeat(129),
  ];
  test.each(bad)("the name %j is refused, and the call not made", async (name) => {
    expect(isReplyName(name)).toBe(false);
    await serve();
    write(request("dmq.stop", [], name));
    await until(() => complaints.length > 0, 5_000, "a complaint");
    expect(complaints[0]).toContain("refused a request with the reply_name");
    expect(surface.calls).toEqual([]);
  });

  test("a name that is no text is refused", async () => {
    await serve();
    write('{"jsonrpc":"2.0","method":"dmq.stop","reply_name":5,"id":1}\n');
    await until(() => complaints.length > 0, 5_000, "a complaint");
    expect([complaints[0], surface.calls]).toEqual([
      "refused a request with the reply_name 5, expected a plain file name",
      [],
    ]);
  });

  test.each(["kamailio_receiver_4711", "a", "A-1_b.c", "x".repeat(128)])("the name %s is fine", (name) => {
    expect(isReplyName(name)).toBe(true);
  });

  /** Asks with an answer that cannot be delivered. @returns the complaint */
  async function complaintOf(name: string): Promise<string> {
    write(request("core.version", [], name));
    return until(() => complaints[0], 5_000, "a complaint");
  }

  test("a regular file is not written to", async () => {
    await serve();
    const place = join(replyDir, "file");
    writeFileSync(place, "mine");
    expect(await complaintOf("file")).toContain("it is not a FIFO");
    expect(readFileSync(place, "utf8")).toBe("mine");
  });

  test("a symbolic link is not followed, not even to a FIFO", async () => {
    await serve();
    const target = new Reply("target");
    symlinkSync(join(replyDir, "target"), join(replyDir, "link"));
    expect(await complaintOf("link")).toContain("it is not a FIFO");
    expect(target.take()).toBe("");
  });

  test("a directory and what is not there are no places for an answer, and nothing is made", async () => {
    await serve();
    expect(await complaintOf("nothing")).toContain("ENOENT");
    expect(readdirSync(replyDir)).toEqual([]);
  });

  const asRoot = process.getuid?.() === 0;
  test.skipIf(!asRoot)(`the FIFO of another user is not written to${asRoot ? "" : " (needs root)"}`, async () => {
    await serve();
    const reply = new Reply("foreign");
    expect(Bun.spawnSync(["chown", "12345", join(replyDir, "foreign")]).exitCode).toBe(0);
    expect(await complaintOf("foreign")).toContain("it belongs to user 12345");
    expect(reply.take()).toBe("");
  });

  test("a FIFO that nobody reads blocks nobody, and is given up", async () => {
    await serve({ openMs: 200 });
    makeFifo(join(replyDir, "unread"));
    write(request("core.version", [], "unread"));
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
    await until(() => complaints.some((one) => one.includes("nobody reads it after 200 ms")), 5_000, "it is given up");
  });

  test("a reader that comes a little later gets its answer", async () => {
    await serve();
    makeFifo(join(replyDir, "late"), "622");
    write(request("core.version", [], "late"));
    const reader = Bun.spawn(["sh", "-c", 'sleep 0.3; cat "$0"', join(replyDir, "late")], { stdout: "pipe" });
    expect(await new Response(reader.stdout).json()).toMatchObject({ result: "dmq 0.1.0" });
  });

  test("an answer larger than a pipe arrives whole at a slow reader", async () => {
    surface.rows.splice(
      0,
      9,
      ...Array.from({ length: 1_000 }, (_, i) => rowOf(`sip:10.0.${i >> 8}.${i & 255}:5060`, "active")),
    );
    await serve();
    makeFifo(join(replyDir, "large"));
    const reader = Bun.spawn(["sh", "-c", '(sleep 0.3; cat) < "$0"', join(replyDir, "large")], { stdout: "pipe" });
    write(request("dmq.list_nodes", [], "large"));
    const { result } = (await new Response(reader.stdout).json()) as { result: unknown[] };
    expect(result.length).toBe(1_000);
  });

  test("a reader that stops reading is given up, and one that goes away, too", async () => {
    surface.rows.splice(
      0,
      9,
      ...Array.from({ length: 1_000 }, (_, i) => rowOf(`sip:10.0.${i >> 8}.${i & 255}:5060`, "active")),
    );
    await serve({ stallMs: 100 });
    const stuck = new Reply("stuck");
    write(request("dmq.list_nodes", [], "stuck"));
    await until(() => complaints.some((one) => one.includes("nobody took anything for 100 ms")), 5_000, "given up");
    expect(stuck.take().length).toBeLessThan(150_000);
    makeFifo(join(replyDir, "gone"));
    const reader = Bun.spawn(["sh", "-c", 'head -c 10 < "$0"', join(replyDir, "gone")], { stdout: "ignore" });
    write(request("dmq.list_nodes", [], "gone"));
    await until(() => complaints.some((one) => one.includes("EPIPE")), 5_000, "the reader has gone");
    await reader.exited;
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
  });

  test("complaints are counted, not repeated", async () => {
    await serve({ complaintMs: 100 });
    for (let i = 0; i < 50; i++) write("nonsense\n");
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
    await until(
      () => {
        write("nonsense\n");
        return complaints.length >= 2;
      },
      5_000,
      "a second complaint",
    );
    expect(complaints[0]).toBe("skipped what is no request");
    expect(complaints[1]).toMatch(/^skipped what is no request \(and \d+ more complaints since the last one\)$/);
  });

  test("an error of writing says where and why", async () => {
    await expect(writeReply(replyDir, "nothing", new Uint8Array(1))).rejects.toMatchObject({
      code: "transport-connect",
      endpoint: join(replyDir, "nothing"),
    });
  });
});

describeWhere(PROBLEM, "the file", () => {
  test("is for its owner only, and goes with the server", async () => {
    const server = await serve();
    expect(lstatSync(path).isFIFO()).toBe(true);
    expect(lstatSync(path).mode & 0o777).toBe(0o600);
    await server.close();
    expect(readdirSync(directory).filter((name) => !name.startsWith("reply-"))).toEqual([]);
  });

  test("the one that a dead daemon left is taken over, with the right mode", async () => {
    makeFifo(path, "666");
    await serve();
    expect(lstatSync(path).mode & 0o777).toBe(0o600);
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
  });

  test("one that is read is left alone", async () => {
    await serve();
    await expect(serveFifo({ path, surface })).rejects.toThrow(/another daemon answers/);
    await expect(serveFifo({ path, surface })).rejects.toBeInstanceOf(TransportError);
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
  });

  test("of two that start at once one serves, the other says why not", async () => {
    const started = await Promise.allSettled([serve(), serve()]);
    expect(started.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    expect(await ask("core.version")).toMatchObject({ result: "dmq 0.1.0" });
  });

  test("another file is left alone, and so is a link", async () => {
    writeFileSync(path, "mine");
    await expect(serveFifo({ path, surface })).rejects.toThrow(/it exists and is not a FIFO/);
    expect(readFileSync(path, "utf8")).toBe("mine");
    const link = join(directory, "link");
    makeFifo(join(directory, "target"));
    symlinkSync(join(directory, "target"), link);
    await expect(serveFifo({ path: link, surface })).rejects.toThrow(/it exists and is not a FIFO/);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
  });

  const asRoot = process.getuid?.() === 0;
  test.skipIf(!asRoot)(`that of another user is left alone${asRoot ? "" : " (needs root)"}`, async () => {
    makeFifo(path);
    expect(Bun.spawnSync(["chown", "12345", path]).exitCode).toBe(0);
    await expect(serveFifo({ path, surface })).rejects.toThrow(/it belongs to another user/);
    expect(lstatSync(path).uid).toBe(12345);
  });

  test("a missing directory is made, a missing tree is not", async () => {
    path = join(directory, "new", "rpc.fifo");
    await serve();
    expect(lstatSync(join(directory, "new")).mode & 0o777).toBe(0o700);
    await expect(serveFifo({ path: join(directory, "no", "such", "f"), surface })).rejects.toThrow(/no such directory/);
    await expect(serveFifo({ path: "a\0b", surface })).rejects.toBeInstanceOf(ConfigError);
  });

  test("a call that runs when the server closes is answered", async () => {
    const release = Promise.withResolvers<void>();
    surface.onStop = () => release.promise;
    const server = await serve();
    const reply = new Reply("stop");
    write(request("dmq.stop", [], "stop"));
    await until(() => surface.calls.length === 1, 5_000, "the call has begun");
    const closing = server.close();
    expect(existsSync(path)).toBe(false);
    release.resolve();
    await closing;
    expect(JSON.parse(reply.take())).toMatchObject({ result: "Ok. DMQ node stopped." });
  });

  test("a call that does not end keeps nobody from closing", async () => {
    surface.onStop = () => new Promise(() => undefined);
    const server = await serve({ closeGraceMs: 50 });
    write('{"jsonrpc":"2.0","method":"dmq.stop"}');
    await until(() => surface.calls.length === 1, 5_000, "the call has begun");
    const start = performance.now();
    await server.close();
    expect(performance.now() - start).toBeLessThan(1_000);
  });

  test("what is put in its place meanwhile is not removed", async () => {
    const server = await serve();
    rmSync(path);
    writeFileSync(path, "mine");
    chmodSync(path, 0o600);
    await server.close();
    expect(readFileSync(path, "utf8")).toBe("mine");
  });
});

describe("the cutter", () => {
  function cut(octets: Uint8Array, size: number): { requests: string[]; skipped: number; isPartial: boolean } {
    const cutter = new RequestCutter(200);
    const requests: string[] = [];
    let skipped = 0;
    for (let at = 0; at < octets.length; at += size) {
      const part = cutter.push(octets.subarray(at, at + size));
      skipped += part.skipped;
      for (const request of part.requests) {
        expect(request.length).toBeLessThanOrEqual(200);
        requests.push(Buffer.from(request).toString("latin1"));
      }
    }
    return { requests, skipped, isPartial: cutter.isPartial };
  }

  const pieces = fc.constantFrom(
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    "\n",
    " ",
    ":",
    ",",
    "a",
    '{"a":1}',
    '\n{"b":"\\"}"}',
    "x".repeat(99),
  );

  test("gives the same for any octets in any pieces, and nothing larger than allowed", () => {
    let whole = 0;
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 60 }), fc.integer({ min: 1, max: 30 }), (parts, size) => {
        const octets = Buffer.from(parts.join(""));
        const once = cut(octets, octets.length || 1);
        whole += once.requests.length;
        expect(cut(octets, size)).toEqual(once);
      }),
      FUZZ,
    );
    expect(whole).toBeGreaterThan(100);
  });

  test("finds a request in the first column behind anything", () => {
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 60 }), (parts) => {
        const { requests } = cut(Buffer.from(`${parts.join("")}\n{"jsonrpc":"2.0"}`), 7);
        expect(requests.at(-1)).toBe('{"jsonrpc":"2.0"}');
      }),
      FUZZ,
    );
  });
});
