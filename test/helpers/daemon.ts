/**
 * The compiled executable as an operator sees it: processes with arguments, octets on stdin, stdout, stderr, exit codes.
 * Nothing here imports the product. Whatever a test starts is ended by `endAll`, by process, never by name.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Finished, finished } from "./process.ts";
import { until } from "./wait.ts";

export const EXECUTABLE: string = join(import.meta.dir, "..", "..", "dist", "dmq");

/** Longer than any command of a test may take, shorter than the patience of the runner. */
const COMMAND_MS_MAX = 45_000;

/** Variables of the machine must not decide a test, so a command sees only these. */
function environment(extra: Record<string, string>): Record<string, string> {
  return { PATH: process.env.PATH ?? "", HOME: tmpdir(), NO_COLOR: "1", ...extra };
}

/** Runs the executable to its end. `timeoutMs` ends it with SIGKILL, which shows as a code of 137. */
export async function dmq(
  args: readonly string[],
  options: { stdin?: Uint8Array; env?: Record<string, string>; timeoutMs?: number } = {},
): Promise<Finished> {
  const child = Bun.spawn([EXECUTABLE, ...args], {
    stdin: options.stdin ?? "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: environment(options.env ?? {}),
    timeout: options.timeoutMs ?? COMMAND_MS_MAX,
    killSignal: "SIGKILL",
  });
  return finished(child);
}

/** A row of `dmq list --json`, as far as tests look at it. */
export interface ListRow {
  host: string;
  port: string;
  proto: string;
  resolved_ip: string;
  status: string;
  local: number;
  fail_count: number;
  uri: string;
  rtt_ms: number | null;
  user_agent: string | null;
  source: string;
}

/** `dmq send --json`, and one of the results of `dmq bcast --json`. */
export interface DeliveryRow {
  node: string;
  outcome: string;
  code: number | null;
  reason: string;
  ms: number;
  consumer: boolean;
}

/** A line of `dmq listen --json`. */
export interface MessageRow {
  channel: string;
  from: string;
  node: string | null;
  source: string;
  call_id: string;
  content_type: string | null;
  size: number;
  body: string | null;
  body_base64?: string;
}

export interface StatusRow {
  uri: string;
  pid: number;
  channels: { name: string; consumers: number }[];
  peers: Record<string, number>;
  counters: Record<string, number>;
  links: { name: string; in: number; out: number; failed: number; held_back: number; state?: string }[];
}

/** JSON output in either of its two forms: one array, or a value a line. */
export function jsonRows<T>(stdout: string): T[] {
  if (stdout.trim() === "") return [];
  if (stdout.trimStart().startsWith("[")) return JSON.parse(stdout) as T[];
  return stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as T);
}

export function bodyOf(message: MessageRow): Uint8Array {
  return message.body_base64 === undefined
    ? new TextEncoder().encode(message.body ?? "")
    : Uint8Array.from(Buffer.from(message.body_base64, "base64"));
}

type Child = Bun.Subprocess<"ignore", "pipe", "pipe">;

/** A process that goes on: its output as far as it came. */
class Running {
  readonly child: Child;
  stdout = "";
  stderr = "";
  readonly #drained: Promise<unknown>;

  constructor(args: readonly string[], env: Record<string, string>) {
    this.child = Bun.spawn([EXECUTABLE, ...args], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: environment(env),
    });
    this.#drained = Promise.all([
      this.#drain(this.child.stdout, (text) => {
        this.stdout += text;
      }),
      this.#drain(this.child.stderr, (text) => {
        this.stderr += text;
      }),
    ]);
  }

  async #drain(stream: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) take(decoder.decode(chunk, { stream: true }));
  }

  get hasExited(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  /** @returns the exit code, 128 + number for a signal that nobody caught */
  async end(signal: "SIGINT" | "SIGTERM" | "SIGKILL"): Promise<number> {
    if (!this.hasExited) this.child.kill(signal);
    const code = await this.child.exited;
    await this.#drained;
    return code;
  }
}

/** `dmq listen --json` beside a daemon. */
export class Listener {
  readonly #running: Running;

  constructor(running: Running) {
    this.#running = running;
  }

  get messages(): MessageRow[] {
    const complete = this.#running.stdout.slice(0, this.#running.stdout.lastIndexOf("\n") + 1);
    return jsonRows<MessageRow>(complete);
  }

  async end(): Promise<number> {
    return this.#running.end("SIGINT");
  }
}

/** One `dmq serve` with a control socket of its own. */
export class Daemon {
  readonly socket: string;
  readonly uri: string;
  readonly #running: Running;
  readonly #owner: Daemons;

  constructor(socket: string, uri: string, running: Running, owner: Daemons) {
    this.socket = socket;
    this.uri = uri;
    this.#running = running;
    this.#owner = owner;
  }

  get log(): string {
    return this.#running.stderr;
  }

  get exited(): Promise<number> {
    return this.#running.child.exited;
  }

  run(args: readonly string[], stdin?: Uint8Array): Promise<Finished> {
    const [command, ...rest] = args as [string, ...string[]];
    return dmq([command, "--socket", this.socket, ...rest], stdin === undefined ? {} : { stdin });
  }

  async #json<T>(args: readonly string[], stdin?: Uint8Array): Promise<T[]> {
    const done = await this.run(args, stdin);
    if (done.stdout.trim() === "") throw new Error(`dmq ${args.join(" ")}: exit ${done.code}, ${done.stderr.trim()}`);
    return jsonRows<T>(done.stdout);
  }

  list(): Promise<ListRow[]> {
    return this.#json<ListRow>(["list", "--json"]);
  }

  async status(): Promise<StatusRow> {
    return (await this.#json<StatusRow>(["status", "--json"]))[0] as StatusRow;
  }

  /** Sends the body by stdin, so that every octet can be in it. */
  async send(channel: string, node: string, body: Uint8Array, options: readonly string[] = []): Promise<DeliveryRow> {
    const rows = await this.#json<DeliveryRow>(["send", "--json", ...options, channel, node, "-"], body);
    return rows[0] as DeliveryRow;
  }

  bcast(channel: string, body: Uint8Array, options: readonly string[] = []): Promise<DeliveryRow[]> {
    return this.#json<DeliveryRow>(["bcast", "--json", ...options, channel, "-"], body);
  }

  /** @returns once the daemon counts this consumer */
  async listen(channel: string): Promise<Listener> {
    const running = this.#owner.start(["listen", "--socket", this.socket, "--json", channel]);
    const attached = async (): Promise<boolean> => {
      if (running.hasExited) throw new Error(`dmq listen ended: ${running.stderr}`);
      return (await this.status()).channels.some((one) => one.name === channel && one.consumers > 0);
    };
    await until(attached, 5_000, `a consumer of ${channel} at ${this.uri}`);
    return new Listener(running);
  }

  end(signal: "SIGINT" | "SIGTERM" | "SIGKILL"): Promise<number> {
    return this.#running.end(signal);
  }
}

/** All processes of one test file, in a directory of their own with a short name (unix sockets). */
export class Daemons {
  readonly dir: string;
  readonly #running: Running[] = [];

  constructor() {
    if (!existsSync(EXECUTABLE)) throw new Error("dist/dmq is missing: npm run build");
    this.dir = mkdtempSync(join(tmpdir(), "dq-"));
  }

  start(args: readonly string[], env: Record<string, string> = {}): Running {
    const running = new Running(args, env);
    this.#running.push(running);
    return running;
  }

  /**
   * Starts a node and waits until its control socket answers.
   *
   * @param name     names the socket
   * @param uri      its server address
   * @param options  further options of `dmq serve`
   * @param env      further variables
   * @throws         Error with what it wrote to stderr, if it ends or says nothing
   */
  async serve(
    name: string,
    uri: string,
    options: readonly string[] = [],
    env: Record<string, string> = {},
  ): Promise<Daemon> {
    const socket = join(this.dir, `${name}.sock`);
    const args = ["serve", "--server-address", uri, "--socket", socket, "--no-snapshot", ...options];
    const running = this.start(args, env);
    const daemon = new Daemon(socket, uri, running, this);
    const answers = async (): Promise<boolean> => {
      if (running.hasExited) return true;
      return existsSync(socket) && (await daemon.run(["status", "--json"])).code === 0;
    };
    await until(answers, 10_000, `dmq serve at ${uri} answers; it wrote: ${running.stderr}`);
    if (running.hasExited)
      throw new Error(`dmq serve at ${uri} ended with ${running.child.exitCode}: ${running.stderr}`);
    return daemon;
  }

  /** Ends what still runs and removes the directory. */
  async endAll(): Promise<void> {
    await Promise.all(this.#running.map((running) => running.end("SIGKILL")));
    rmSync(this.dir, { recursive: true, force: true });
  }
}
