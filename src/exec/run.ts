/**
 * One run of a command: octets to its stdin, its stdout collected, its stderr handed on line by line, its end as a value.
 * It never throws and leaves nothing behind: no zombie, no descriptor, no process of its group.
 *
 * The command runs in our working directory. It leads a session and a process group of its own (setsid). When `signal` aborts the group gets SIGTERM, and
 * SIGKILL `graceMs` later; one that floods gets SIGKILL at once; and whatever the group still holds when the
 * command itself has ended gets SIGKILL too, so a run cannot multiply. A process that is to outlive it calls setsid.
 *
 * Of Bun 1.4.5: octets given as `stdin` would lie in a memfd whose descriptor stays open until a garbage collection
 * (545 at worst in 1,500 runs), so they are written to a pipe. What the command prints is read without back pressure,
 * whether we look or not (`yes` for half a second: 200 MB), so we always look, and end what prints too much. The three
 * are socket pairs: a command cannot open /dev/stdin or /dev/stderr anew, `>&2` works.
 */
import type { Duration, Instant } from "../core/time.ts";
import { LineSplitter } from "./lines.ts";
import { DEFAULT_PATH } from "./program.ts";

/** Between SIGTERM and SIGKILL, where nobody asks for more. */
const KILL_GRACE_MS: Duration = 250;

/** After the command's end: time for octets that are on their way, where something outside its group holds the pipes. */
const DRAIN_MS: Duration = 100;

/** Beyond it the run is `flooded`. */
export const STDOUT_BYTES_MAX: number = 64 * 1024;

/** Beyond it the run is `flooded`: what a command says to the operator is lines, not data. */
export const STDERR_BYTES_MAX: number = 1024 * 1024;

/** What a command inherits of our environment, where it is set there. */
const INHERITED = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"] as const;

export interface RunOptions {
  /** Program and arguments; the program as `findProgram` gave it, or a name that is looked for in PATH. */
  argv: readonly string[];
  stdin: Uint8Array;
  /** Added to PATH, HOME, LANG, TZ and TMPDIR; the command sees nothing else. A value with a NUL is left out. */
  variables: Readonly<Record<string, string>>;
  /** Ends the run. */
  signal: AbortSignal;
  /** One line without its end, control characters as they came; at most 1,000 characters. */
  onStderrLine(line: string): void;
  /** Takes stdout as it comes. Nothing is collected then, and the command may print as much as it likes, on stderr too. */
  onStdout?(chunk: Uint8Array): void;
  /** Between SIGTERM and SIGKILL when `signal` aborts. */
  graceMs?: Duration;
}

export type RunEnd =
  | { type: "exited"; code: number }
  /** It died of a signal that was not ours. */
  | { type: "signalled"; name: string }
  /** `signal` aborted, and it was ended, or ended by itself after that. */
  | { type: "aborted" }
  | { type: "flooded"; stream: "stdout" | "stderr" }
  /** `code` is that of the system: ENOENT, EACCES, EAGAIN, EMFILE, E2BIG … */
  | { type: "not-started"; code: string };

export interface RunResult {
  end: RunEnd;
  /** Empty unless the command ended by itself. */
  stdout: Uint8Array;
  durationMs: Duration;
}

type Child = Bun.Subprocess<"pipe", "pipe", "pipe">;

/** Runs a command to its end; resolves when the process is gone, and never rejects. */
export async function run(options: RunOptions): Promise<RunResult> {
  const startedAt = performance.now();
  if (options.signal.aborted) return result({ type: "aborted" }, startedAt);
  let child: Child;
  try {
    child = spawn(options);
  } catch (cause) {
    return result({ type: "not-started", code: (cause as { code?: string }).code ?? String(cause) }, startedAt);
  }
  groups.add(child.pid);
  try {
    return await new Run(child, options, startedAt).ended();
  } finally {
    groups.delete(child.pid);
  }
}

function result(end: RunEnd, startedAt: Instant, stdout: Uint8Array = new Uint8Array(0)): RunResult {
  return { end, stdout, durationMs: performance.now() - startedAt };
}

function spawn({ argv, variables }: RunOptions): Child {
  return Bun.spawn([...argv], {
    env: environment(variables),
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
    detached: true,
  });
}

function environment(variables: Readonly<Record<string, string>>): Record<string, string> {
  const inherited = INHERITED.flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  const given = Object.entries(variables).filter(([, value]) => !value.includes("\0"));
  return Object.fromEntries([["PATH", DEFAULT_PATH], ...inherited, ...given]);
}

class Run {
  private readonly child: Child;
  private readonly options: RunOptions;
  private readonly startedAt: Instant;
  private readonly stdout: Uint8Array[] = [];
  private flooded: "stdout" | "stderr" | undefined;
  private aborted = false;
  private grace: ReturnType<typeof setTimeout> | undefined;

  constructor(child: Child, options: RunOptions, startedAt: Instant) {
    this.child = child;
    this.options = options;
    this.startedAt = startedAt;
  }

  async ended(): Promise<RunResult> {
    const { child, options } = this;
    const onAbort = (): void => this.abort();
    options.signal.addEventListener("abort", onAbort);
    feed(child, options.stdin);
    const lines = new LineSplitter(options.onStderrLine);
    const { onStdout = (chunk: Uint8Array) => void this.stdout.push(chunk) } = options;
    const isPassed = options.onStdout !== undefined;
    const limit = (bytes: number): number => (isPassed ? Number.POSITIVE_INFINITY : bytes);
    const stdout = new Collector(child.stdout, limit(STDOUT_BYTES_MAX), onStdout);
    const stderr = new Collector(child.stderr, limit(STDERR_BYTES_MAX), (chunk) => lines.push(chunk));
    const outputs = Promise.all([
      stdout.whole.then((whole) => whole || this.flood("stdout")),
      stderr.whole.then((whole) => whole || this.flood("stderr")),
    ]);
    await child.exited;
    clearTimeout(this.grace);
    options.signal.removeEventListener("abort", onAbort);
    // Nobody else has this number while the group has a process, and a number is not given out again that soon.
    killGroup(child.pid, "SIGKILL");
    await within(outputs, DRAIN_MS);
    await Promise.all([stdout.cancel(), stderr.cancel()]);
    lines.end();
    const end = this.end();
    return result(end, this.startedAt, end.type === "exited" ? joined(this.stdout) : undefined);
  }

  private end(): RunEnd {
    const { exitCode, signalCode } = this.child;
    if (this.flooded !== undefined) return { type: "flooded", stream: this.flooded };
    if (this.aborted) return { type: "aborted" };
    if (signalCode !== null) return { type: "signalled", name: String(signalCode) };
    return { type: "exited", code: exitCode ?? 0 };
  }

  private abort(): void {
    this.aborted = true;
    killGroup(this.child.pid, "SIGTERM");
    this.grace = setTimeout(() => killGroup(this.child.pid, "SIGKILL"), this.options.graceMs ?? KILL_GRACE_MS);
  }

  private flood(stream: "stdout" | "stderr"): void {
    this.flooded ??= stream;
    // Once the command itself has ended, its group was killed there, and the number may be somebody else's.
    if (this.child.exitCode === null && this.child.signalCode === null) killGroup(this.child.pid, "SIGKILL");
  }
}

/** A command that ends without reading all of it breaks the pipe, which is its right. */
function feed({ stdin }: Child, octets: Uint8Array): void {
  const ignore = (): void => undefined;
  try {
    if (octets.length > 0) Promise.resolve(stdin.write(octets)).catch(ignore);
    Promise.resolve(stdin.end()).catch(ignore);
  } catch {
    // As above: the pipe can be broken before the first octet.
  }
}

/** What is used of a ReadableStreamDefaultReader, whose declarations of Bun and of Node exclude each other. */
interface Reader {
  read(): Promise<{ done: false; value: Uint8Array } | { done: true; value?: unknown }>;
  cancel(): Promise<void>;
}

/** Reads a stream to its end or to its limit. */
class Collector {
  /** False where the limit came before the end. */
  readonly whole: Promise<boolean>;
  private readonly reader: Reader;

  constructor(stream: Child["stdout"], bytesMax: number, onChunk: (chunk: Uint8Array) => void) {
    this.reader = stream.getReader();
    this.whole = this.read(bytesMax, onChunk);
  }

  private async read(bytesMax: number, onChunk: (chunk: Uint8Array) => void): Promise<boolean> {
    for (let bytes = 0; ; ) {
      const chunk = await this.reader.read();
      if (chunk.done) return true;
      bytes += chunk.value.length;
      if (bytes > bytesMax) {
        await this.cancel();
        return false;
      }
      onChunk(chunk.value);
    }
  }

  /** Closes our end of the pipe; harmless after the end of the stream. */
  async cancel(): Promise<void> {
    await this.reader.cancel();
  }
}

async function within(outputs: Promise<unknown>, ms: Duration): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([outputs, late]);
  clearTimeout(timer);
}

function joined(chunks: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

/** Groups that are alive. If our process ends in a hurry, on a second signal say, they end with it. */
const groups: Set<number> = groupsUntilExit();

function groupsUntilExit(): Set<number> {
  const alive = new Set<number>();
  process.on("exit", () => {
    for (const pid of alive) killGroup(pid, "SIGKILL");
  });
  return alive;
}

function killGroup(pid: number, signal: "SIGTERM" | "SIGKILL"): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // ESRCH: nobody is left. EPERM: only processes that have changed their user are.
  }
}
