/** Runs the command line in process, with captured output, against a daemon that answers what the test says. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CliContext, SignalName } from "../../src/cli/context.ts";
import { main } from "../../src/cli/main.ts";

export interface Ran {
  code: number;
  out: string;
  err: string;
}

export interface World {
  tty?: boolean;
  env?: Record<string, string>;
  stdin?: Uint8Array;
  /** Standard input as it comes, for commands that read it so. */
  stdinStream?: () => AsyncIterable<Uint8Array>;
  files?: Record<string, Uint8Array>;
  /** Gets what raises a signal in the command. */
  onStart?: (raise: (signal: SignalName) => void) => void;
  /** Aborted: the reader of stdout is gone. */
  outputClosed?: AbortSignal;
}

/** @returns exit code and output of one command line */
export async function runCli(argv: readonly string[], world: World = {}): Promise<Ran> {
  const ran: Ran = { code: -1, out: "", err: "" };
  const tty = world.tty === true;
  const context: CliContext = {
    stdout: (data) => {
      ran.out += typeof data === "string" ? data : new TextDecoder().decode(data);
    },
    stderr: (text) => {
      ran.err += text;
    },
    stdoutDrained: async () => undefined,
    stdin: async () => world.stdin ?? new Uint8Array(0),
    stdinStream: world.stdinStream ?? (() => chunksOf(world.stdin ?? new Uint8Array(0))),
    readFile: async (path) => fileOf(world, path),
    fileStream: async function* (path) {
      yield* chunksOf(fileOf(world, path));
    },
    env: world.env ?? {},
    isTty: { stdin: tty, stdout: tty, stderr: tty },
    outputClosed: world.outputClosed ?? new AbortController().signal,
    onSignal: (listener) => {
      world.onStart?.(listener);
      return () => undefined;
    },
    onHangup: () => () => undefined,
    exitNow: (code) => {
      throw new Error(`exit ${code}`);
    },
    uid: process.getuid?.(),
    temporaryDirectory: tmpdir(),
  };
  ran.code = await main(argv, context);
  return ran;
}

function fileOf(world: World, path: string): Uint8Array {
  const content = world.files?.[path];
  if (content === undefined) throw Object.assign(new Error(`no ${path}`), { code: "ENOENT" });
  return content;
}

/** In pieces of three octets, so that nothing relies on where a chunk ends. */
async function* chunksOf(octets: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < octets.length; at += 3) yield octets.slice(at, at + 3);
}

export interface Call {
  method: string;
  params: unknown;
}

type WireCall = Call & { id: number };

/** What a fake daemon says to a call: a result, or a fault of JSON-RPC. */
export type Reply = { result: unknown } | { error: { code: number; message: string; data?: unknown } };

/** A control socket whose answers are the test's. */
export class FakeDaemon {
  readonly socket: string;
  readonly calls: Call[] = [];
  /** How many calls each batch had. */
  readonly batches: number[] = [];
  /** Paths of streams that were asked for. */
  readonly streams: string[] = [];
  reply: (call: Call) => Reply | Promise<Reply> = () => ({ result: "ok" });
  /** Lines of the next stream; with `open` it stays open behind them. */
  lines: unknown[] = [];
  open = false;
  readonly #folder: string;
  readonly #server: Bun.Server<undefined>;

  constructor() {
    this.#folder = mkdtempSync(join(tmpdir(), "dc-"));
    this.socket = join(this.#folder, "d.sock");
    this.#server = Bun.serve({ unix: this.socket, fetch: (request) => this.#fetch(request) });
  }

  async #fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    if (request.method === "GET") {
      this.streams.push(url.pathname + url.search);
      return this.#stream();
    }
    const body = (await request.json()) as WireCall | WireCall[];
    if (Array.isArray(body)) this.batches.push(body.length);
    return Response.json(
      await (Array.isArray(body) ? Promise.all(body.map((one) => this.#answer(one))) : this.#answer(body)),
    );
  }

  async #answer({ method, params, id }: WireCall): Promise<object> {
    const call = { method, params };
    this.calls.push(call);
    return { jsonrpc: "2.0", id, ...(await this.reply(call)) };
  }

  #stream(): Response {
    const text = this.lines.map((line) => `${JSON.stringify(line)}\n`).join("");
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        // An empty line is what a stream opens with: it lets the reader's fetch resolve.
        controller.enqueue(new TextEncoder().encode(`\n${text}`));
        if (!this.open) controller.close();
      },
    });
    return new Response(body, { headers: { "Content-Type": "application/x-ndjson" } });
  }

  async end(): Promise<void> {
    await this.#server.stop(true);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
