/** A daemon that went away, and is waited for by who goes on for ever: it may only be restarted. */
import { RpcError } from "../core/errors.ts";
import { probeSocket } from "../rpc/socket-file.ts";

/** Between two looks; it doubles. */
const LOOK_MS = 100;
const LOOK_MS_MAX = 2_000;

/** Who fails again so soon has not been back: the time goes on, and nothing is said a second time. */
const SETTLED_MS = 1_000;

/** A daemon that is restarted or upgraded is back by then. */
export const RECONNECT_MS: number = 10 * 60_000;

export interface Patience {
  socketPath: string;
  /** How long a daemon may be gone. */
  ms: number;
  /** Ends the wait. */
  stop: AbortSignal;
  say(text: string): void;
}

export class Absence {
  private readonly patience: Patience;
  /** All jobs wait for the same. */
  private waiting: Promise<void> | undefined;
  private goneAt = 0;
  private backAt = Number.NEGATIVE_INFINITY;
  private lookMs = LOOK_MS;

  constructor(patience: Patience) {
    this.patience = patience;
  }

  /**
   * Waits until a daemon answers again, or `stop`.
   *
   * @throws `error` where none came back in time
   */
  over(error: RpcError): Promise<void> {
    this.waiting ??= this.wait(error).finally(() => {
      this.waiting = undefined;
    });
    return this.waiting;
  }

  private async wait(error: RpcError): Promise<void> {
    const { ms, say, stop, socketPath } = this.patience;
    const now = performance.now();
    const isNew = now - this.backAt > SETTLED_MS;
    if (isNew) {
      this.goneAt = now;
      this.lookMs = LOOK_MS;
      say(`${error.message}; waiting for it`);
    }
    while (!stop.aborted) {
      await slept(this.lookMs, stop);
      this.lookMs = Math.min(this.lookMs * 2, LOOK_MS_MAX);
      if (performance.now() - this.goneAt > ms) throw error;
      if ((await probeSocket(socketPath)) !== "answers") continue;
      this.backAt = performance.now();
      if (isNew) say(`a daemon is there again on ${socketPath}`);
      return;
    }
  }
}

/** The daemon, not what was asked of it. */
export function isGone(error: unknown): error is RpcError {
  return error instanceof RpcError && error.code === "rpc-unreachable";
}

function slept(ms: number, stop: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  stop.addEventListener("abort", () => resolve(), { once: true });
  return promise.finally(() => clearTimeout(timer));
}
