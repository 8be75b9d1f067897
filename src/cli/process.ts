/**
 * The real world behind a CliContext: the only file of the command line that touches the process. Start-up is measured
 * (bench/cli.ts), and `process.stdin`, `process.stdout` and `process.stderr` cost three times what the runtime does, so
 * nothing here reaches for them, and nothing loads a module of Node's before it is needed.
 */
import { concatBytes } from "../core/bytes.ts";
import { UsageError } from "../core/errors.ts";
import { type CliContext, INPUT_BYTES_MAX, type SignalName } from "./context.ts";
import { EXIT } from "./exit.ts";
import { main } from "./main.ts";

const SIGNALS: readonly SignalName[] = ["SIGINT", "SIGTERM"];

/** File descriptors as every process gets them. */
const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;

/**
 * Runs a command line and ends the process with its exit code, after the last octet of output is written. Streams that
 * are still open when the exit code is known (an aborted `listen`) do not hold the process.
 */
export async function runProcess(argv: readonly string[]): Promise<void> {
  const stdout = new Output(() => Bun.stdout.writer());
  const stderr = new Output(() => Bun.stderr.writer(), FULL_DISK);
  const code = await main(argv, processContext(stdout, stderr)).catch((error) => crash(error, stderr));
  process.exitCode = code;
  await stdout.flushed();
  const { failure } = stdout;
  if (failure !== undefined) stderr.write(`dmq: standard output cannot be written (${failure}): some of it is lost\n`);
  await stderr.flushed();
  process.exit(failure !== undefined && code === EXIT.ok ? EXIT.no : code);
}

/** Of the system: no space left, no quota left. A log goes on when there is room again; data that has a gap does not. */
const FULL_DISK: readonly string[] = ["ENOSPC", "EDQUOT"];

/** The reader went away, or there was none from the beginning (`>&-`). */
const NOBODY_READS: readonly string[] = ["EPIPE", "ECONNRESET", "EBADF"];

/** A broken invariant: the trace is for us, and the exit code must not look like an answer. */
function crash(error: unknown, stderr: Output): number {
  stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  return EXIT.no;
}

/**
 * Where output goes, opened with the first of it. What its reader does not take at once waits in memory and is written in order. A
 * reader that goes away (`dmq list | head -1`) has the right to: the exit code stays that of what was done.
 */
class Output {
  readonly #open: () => Bun.FileSink;
  readonly #passing: readonly string[];
  readonly #closed = new AbortController();
  #sink: Bun.FileSink | undefined;
  /** What the last write left to be done. */
  #rest: Promise<unknown> | undefined;
  #failure: string | undefined;

  /** @param passing  codes of failures after which it is opened anew for what comes later */
  constructor(open: () => Bun.FileSink, passing: readonly string[] = []) {
    this.#open = open;
    this.#passing = passing;
  }

  /** Why something was lost that a reader waits for, as the code of the system. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Aborted once nothing can be written any more. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  write(data: string | Uint8Array): void {
    if (this.closed.aborted || data.length === 0) return;
    try {
      this.#sink ??= this.#open();
      this.#watch(this.#sink.write(data));
      this.#watch(this.#sink.flush());
    } catch (cause) {
      this.#failed(cause);
    }
  }

  /** Never fails. */
  async flushed(): Promise<void> {
    await this.#rest?.catch(() => undefined);
  }

  #watch(written: unknown): void {
    if (!(written instanceof Promise)) return;
    this.#rest = written;
    written.catch((cause: unknown) => this.#failed(cause));
  }

  #failed(cause: unknown): void {
    const code = (cause as { code?: string }).code ?? String(cause);
    if (this.#passing.includes(code)) {
      this.#sink = undefined;
      return;
    }
    if (!NOBODY_READS.includes(code)) this.#failure ??= code;
    this.#closed.abort();
  }
}

/** @throws UsageError beyond `INPUT_BYTES_MAX`: `-f /dev/zero` must not take the machine's memory */
async function gather(what: string, stream: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of stream) {
    parts.push(part);
    size += part.length;
    if (size > INPUT_BYTES_MAX) throw new UsageError(`${what} is larger than the ${INPUT_BYTES_MAX} bytes that fit`);
  }
  return concatBytes(parts);
}

function processContext(stdout: Output, stderr: Output): CliContext {
  const stdinStream = (): AsyncIterable<Uint8Array> => Bun.stdin.stream();
  const fileStream = (path: string): AsyncIterable<Uint8Array> =>
    process.getBuiltinModule("node:fs").createReadStream(path);
  return {
    stdout: (data) => stdout.write(data),
    stdoutDrained: () => stdout.flushed(),
    stderr: (text) => stderr.write(text),
    stdin: () => gather("standard input", stdinStream()),
    stdinStream,
    readFile: (path) => gather(path, fileStream(path)),
    fileStream,
    env: process.env,
    isTty: {
      get stdin() {
        return isTty(STDIN);
      },
      get stdout() {
        return isTty(STDOUT);
      },
      get stderr() {
        return isTty(STDERR);
      },
    },
    outputClosed: stdout.closed,
    onSignal: watchSignals,
    onHangup: (listener) => {
      process.on("SIGHUP", listener);
      return () => process.off("SIGHUP", listener);
    },
    exitNow: (code) => process.exit(code),
    uid: process.getuid?.(),
    get temporaryDirectory() {
      return process.getBuiltinModule("node:os").tmpdir();
    },
  };
}

/** Linux's number for `/dev/null` and its neighbours, which are character devices as terminals are. */
const MEMORY_DEVICES = 1;

/** What a script gives is a pipe, a file or `/dev/null` most of the time: for those the module that knows need not be loaded. */
function isTty(descriptor: number): boolean {
  try {
    const stats = process.getBuiltinModule("node:fs").fstatSync(descriptor);
    if (!stats.isCharacterDevice() || ((stats.rdev >> 8) & 0xfff) === MEMORY_DEVICES) return false;
  } catch {
    return false;
  }
  return process.getBuiltinModule("node:tty").isatty(descriptor);
}

function watchSignals(listener: (signal: SignalName) => void): () => void {
  for (const signal of SIGNALS) process.on(signal, listener);
  return () => {
    for (const signal of SIGNALS) process.off(signal, listener);
  };
}
