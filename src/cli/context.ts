/**
 * What a command may touch of the world. Tests pass their own, so that every command runs in process; process.ts makes
 * the real one.
 */
export type SignalName = "SIGINT" | "SIGTERM";

export interface CliContext {
  /** Data. Nothing happens once the reader is gone (see `outputClosed`). */
  stdout(data: string | Uint8Array): void;
  /** Everything that is not data. */
  stderr(text: string): void;
  /** Resolves once the reader of stdout has taken what was written, or is gone: who writes without end waits for it. */
  stdoutDrained(): Promise<void>;
  /** All of standard input. @throws UsageError where it is larger than anything a command takes (`INPUT_BYTES_MAX`) */
  stdin(): Promise<Uint8Array>;
  /** Standard input as it comes; nothing is read ahead of who takes it. */
  stdinStream(): AsyncIterable<Uint8Array>;
  /** @throws UsageError as `stdin` */
  readFile(path: string): Promise<Uint8Array>;
  /** A file as it is read; that there is none shows with the first chunk. */
  fileStream(path: string): AsyncIterable<Uint8Array>;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly isTty: { readonly stdin: boolean; readonly stdout: boolean; readonly stderr: boolean };
  /** Aborted when the reader of stdout went away: a stream may end, quietly. */
  readonly outputClosed: AbortSignal;
  /** @returns the function that ends it */
  onSignal(listener: (signal: SignalName) => void): () => void;
  /** SIGHUP, which ends every command but `dmq serve`. @returns the function that ends it */
  onHangup(listener: () => void): () => void;
  /** Ends the process at once: the second signal of `dmq serve`. */
  exitNow(code: number): void;
  /** Numeric user id, `undefined` where the system has none. */
  readonly uid: number | undefined;
  readonly temporaryDirectory: string;
}

/** What a command reads as one piece; a daemon takes no more in a call. */
export const INPUT_BYTES_MAX: number = 32 * 1024 * 1024;

/** Colour only on a terminal that can and may have it. */
export function wantsColour(context: CliContext): boolean {
  return context.isTty.stderr && !context.env.NO_COLOR && context.env.TERM !== "dumb";
}
