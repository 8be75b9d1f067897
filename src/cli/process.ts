/** The real world behind a CliContext: the only file of the command line that touches the process. */
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import type { CliContext, SignalName } from "./context.ts";
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

function processContext(outputClosed: AbortSignal): CliContext {
  return {
    stdout: (data) => {
      if (!outputClosed.aborted) process.stdout.write(data);
    },
    stderr: (text) => void process.stderr.write(text),
    stdin: async () => new Uint8Array(await Bun.stdin.arrayBuffer()),
    readFile: async (path) => new Uint8Array(await readFile(path)),
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

function watchSignals(listener: (signal: SignalName) => void): () => void {
  for (const signal of SIGNALS) process.on(signal, listener);
  return () => {
    for (const signal of SIGNALS) process.off(signal, listener);
  };
}
