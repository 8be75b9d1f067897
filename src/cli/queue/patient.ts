/**
 * A supply that outlives its daemon (`dmq queue fetch --follow`): while none answers it waits, and what was leased is the next daemon's to
 * give out again.
 */
import type { Fate, Supply, Take } from "../../consume/supply.ts";
import { RpcError } from "../../core/errors.ts";
import type { Item } from "../../queue/operation.ts";
import { probeSocket } from "../../rpc/socket-file.ts";

/** Between two looks; it doubles. */
const LOOK_MS = 100;
const LOOK_MS_MAX = 2_000;

/** Who fails again so soon has not been back: the time goes on, and nothing is said a second time. */
const SETTLED_MS = 1_000;

export interface Patience {
  socketPath: string;
  /** How long a daemon may be gone. */
  ms: number;
  /** Ends the wait. */
  stop: AbortSignal;
  say(text: string): void;
}

export class PatientSupply implements Supply {
  private readonly supply: Supply;
  private readonly patience: Patience;
  /** All jobs wait for the same. */
  private waiting: Promise<void> | undefined;
  private goneAt = 0;
  private backAt = Number.NEGATIVE_INFINITY;
  private lookMs = LOOK_MS;

  constructor(supply: Supply, patience: Patience) {
    this.supply = supply;
    this.patience = patience;
  }

  /** @throws RpcError `rpc-unreachable` where no daemon came back in time */
  async next(take: Take): Promise<Item[]> {
    for (;;) {
      try {
        return await this.supply.next(take);
      } catch (error) {
        if (!isGone(error)) throw error;
        this.waiting ??= this.wait(error).finally(() => {
          this.waiting = undefined;
        });
        await this.waiting;
        if (take.signal.aborted) return [];
      }
    }
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

  /** What the daemon that is gone had leased to us comes again. */
  async ack(items: readonly Item[]): Promise<number> {
    return this.supply.ack(items).catch((error: unknown) => {
      if (!isGone(error)) throw error;
      return 0;
    });
  }

  async fail(items: readonly Pick<Item, "id">[], fate: Fate): Promise<("retried" | "dead" | "lost")[]> {
    return this.supply.fail(items as readonly Item[], fate).catch((error: unknown) => {
      if (!isGone(error)) throw error;
      return items.map(() => "retried" as const);
    });
  }

  end(): Promise<void> {
    return this.supply.end();
  }
}

function isGone(error: unknown): error is RpcError {
  return error instanceof RpcError && error.code === "rpc-unreachable";
}

function slept(ms: number, stop: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  stop.addEventListener("abort", () => resolve(), { once: true });
  return promise.finally(() => clearTimeout(timer));
}
