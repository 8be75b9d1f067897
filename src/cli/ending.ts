/** When a command that works until somebody ends it is to end: by a signal, when the reader of stdout left, or when its time is over. */
import type { CliContext, SignalName } from "./context.ts";
import { EXIT } from "./exit.ts";

export class Ending {
  readonly signal: AbortSignal;
  private readonly aborter = new AbortController();
  private readonly context: CliContext;
  private readonly off: () => void;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private exit: number | undefined;

  constructor(context: CliContext) {
    this.context = context;
    this.signal = AbortSignal.any([this.aborter.signal, context.outputClosed]);
    this.off = context.onSignal((signal) => this.raised(signal));
  }

  private raised(signal: SignalName): void {
    const exit = signal === "SIGINT" ? EXIT.interrupted : EXIT.terminated;
    // Somebody is in a hurry: what this process had is free again when it is gone.
    if (this.exit !== undefined) this.context.exitNow(exit);
    this.exit = exit;
    this.aborter.abort();
  }

  /** Not by a signal: the exit code is that of what was done. */
  now(): void {
    this.aborter.abort();
  }

  after(ms: number): void {
    this.timer = setTimeout(() => this.now(), ms);
  }

  /** @returns the exit code: that of the signal, if there was one */
  exitOr(code: number): number {
    return this.exit ?? code;
  }

  end(): void {
    clearTimeout(this.timer);
    this.off();
  }
}
