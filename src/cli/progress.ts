/**
 * The line on stderr that says how far a long command is. It is there on a terminal only, is written again at most five times
 * a second, and gone when the command ends. What it says is made of numbers by a function that knows nothing of terminals.
 */
import type { CliContext } from "./context.ts";

const INTERVAL_MS = 200;

/** Back to the first column, and away with what stood there. */
const WIPE = "\r\u001b[K";

/** @param seconds  since the beginning; the rate is that of the whole time */
export function progressText({ done, failed, seconds }: { done: number; failed: number; seconds: number }): string {
  const rate = seconds > 0 ? Math.round(done / seconds) : 0;
  return `${done} done, ${rate}/s, ${failed} failed`;
}

/** Whoever writes anything else while it runs, to stdout or stderr, calls `clear()` first. */
export class ProgressLine {
  readonly #write: (text: string) => void;
  #shown = "";
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(write: (text: string) => void) {
    this.#write = write;
  }

  /** Shows what `text` says, from the first interval on, so that what is over at once shows nothing. */
  start(text: () => string): void {
    this.#timer = setInterval(() => this.show(text()), INTERVAL_MS);
  }

  show(text: string): void {
    if (text === this.#shown) return;
    this.#write(`${WIPE}${text}`);
    this.#shown = text;
  }

  clear(): void {
    if (this.#shown !== "") this.#write(WIPE);
    this.#shown = "";
  }

  end(): void {
    clearInterval(this.#timer);
    this.clear();
  }
}

/** @returns `undefined` where stderr is no terminal that can wipe a line */
export function progressLine(context: CliContext): ProgressLine | undefined {
  if (!context.isTty.stderr || context.env.TERM === "dumb") return undefined;
  return new ProgressLine((text) => context.stderr(text));
}
