/** The real world behind a CliContext: the only file of the command line that touches the process. */
import { createReadStream } from "node:fs";
import { tmpdir } from "node:os";
import { concatBytes } from "../core/bytes.ts";
import { UsageError } from "../core/errors.ts";
import { type CliContext, INPUT_BYTES_MAX, type SignalName } from "./context.ts";
import { EXIT } from "./exit.ts";
import { main } from "./main.ts";

const SIGNALS: readonly SignalName[] = ["SIGINT", "SIGTERM"];

/**
 * Runs a command line and ends the process with its exit code, after the last octet of output is written. Streams that
 * are still open when the exit code is known (an aborted `listen`) do not hold the process.
 */
export async function runProcess(argv: readonly string[]): Promise<void> {
  const output = watchOutput();
  const code = await main(argv, processContext(output.closed)).catch(crash);
  process.exitCode = code;
  await Promise.all([flushed(process.stdout), flushed(process.stderr)]);
  process.exit(code);
}

/** A broken invariant: the trace is for us, and the exit code must not look like an answer. */
function crash(error: unknown): number {
  process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  return EXIT.no;
}

/** `dmq list | head -1`: the reader goes away, which is its right; the exit code stays that of what was done. */
function watchOutput(): { closed: AbortSignal } {
  const closed = new AbortController();
  process.stdout.on("error", () => closed.abort());
  process.stderr.on("error", () => undefined);
  return { closed: closed.signal };
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    stream.once("error", () => resolve());
    stream.write("", () => resolve());
  });
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

function processContext(outputClosed: AbortSignal): CliContext {
  let drained = Promise.resolve();
  const stdinStream = (): AsyncIterable<Uint8Array> => Bun.stdin.stream();
  return {
    stdout: (data) => {
      if (outputClosed.aborted || process.stdout.write(data)) return;
      drained = untilDrained(outputClosed);
    },
    stdoutDrained: () => drained,
    stderr: (text) => void process.stderr.write(text),
    stdin: () => gather("standard input", stdinStream()),
    stdinStream,
    readFile: (path) => gather(path, createReadStream(path)),
    fileStream: (path) => createReadStream(path),
    env: process.env,
    isTty: {
      stdin: process.stdin.isTTY === true,
      stdout: process.stdout.isTTY === true,
      stderr: process.stderr.isTTY === true,
    },
    outputClosed,
    onSignal: watchSignals,
    onHangup: (listener) => {
      process.on("SIGHUP", listener);
      return () => process.off("SIGHUP", listener);
    },
    exitNow: (code) => process.exit(code),
    uid: process.getuid?.(),
    temporaryDirectory: tmpdir(),
  };
}

/** Bun's `writableLength` is 0 whatever waits, and says nothing; what `write` returns does. */
function untilDrained(closed: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    process.stdout.once("drain", resolve);
    closed.addEventListener("abort", () => resolve(), { once: true });
  });
}

function watchSignals(listener: (signal: SignalName) => void): () => void {
  for (const signal of SIGNALS) process.on(signal, listener);
  return () => {
    for (const signal of SIGNALS) process.off(signal, listener);
  };
}
