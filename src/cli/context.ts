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
  /** All of standard input. */
  stdin(): Promise<Uint8Array>;
  readFile(path: string): Promise<Uint8Array>;
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

/** Colour only on a terminal that can and may have it. */
export function wantsColour(context: CliContext): boolean {
  return context.isTty.stderr && !context.env.NO_COLOR && context.env.TERM !== "dumb";
}
