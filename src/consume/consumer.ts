/**
 * A consumer: takes items of a queue, has them handled, so many at a time, and settles them by what came of it. What handles them
 * is a command (command.ts), or whatever a link does with an item.
 *
 * It ends when no item came in time, when `count` are handled, when a handler cannot do its work at all, or when it is told to stop:
 * then nothing more is taken, what runs has `graceMs` to end, and what has not ended by then is given back.
 */
import type { Duration } from "../core/time.ts";
import type { Item } from "../queue/operation.ts";
import { InOrder } from "./order.ts";
import type { Fate, Supply } from "./supply.ts";

/** What a handler did with its items; all of them have the same fate. `why` completes "the command …". */
export type Verdict =
  | { type: "done" }
  | { type: "failed"; why: string; fate: Fate }
  /** It was ended by `stop`. */
  | { type: "stopped" }
  /** It cannot handle any item: the consumer ends. */
  | { type: "unable"; why: string };

/** Does not throw; ends soon after `stop` is aborted. */
export type Handler = (items: readonly Item[], stop: AbortSignal) => Promise<Verdict>;

export interface ConsumerOptions {
  supply: Supply;
  handle: Handler;
  /** Handlers that run at a time. */
  jobs: number;
  /** Items for one run of the handler, at most. */
  batch: number;
  /** Items at most; `Infinity` has no bound. */
  count: number;
  /** How long to wait for an item; 0: only what is ready, `Infinity`: until it is stopped. */
  waitMs: Duration;
  /** Items for which it gives the same text are handled one after the other. */
  orderBy?: (item: Item) => string;
  /** Nothing more is taken. */
  stop: AbortSignal;
  graceMs: Duration;
  /** Told of each item that was not handled. */
  onFailure(item: Item, why: string, became: Became): void;
}

/** What a failed item became; `back`: given back as it was. */
export type Became = "retried" | "dead" | "lost" | "back";

export interface Consumed {
  done: number;
  failed: number;
  /** Why no item can be handled. */
  unable: string | undefined;
}

const GIVEN_BACK: Fate = { fate: "now", counts: false };

/** @throws what the supply throws; the supply is ended by who made it */
export function consume(options: ConsumerOptions): Promise<Consumed> {
  return new Consumer(options).consumed();
}

class Consumer {
  private readonly options: ConsumerOptions;
  private readonly supply: Supply;
  private readonly taking = new AbortController();
  private readonly ending = new AbortController();
  private readonly result: Consumed = { done: 0, failed: 0, unable: undefined };
  private readonly deadline: number;
  private left: number;

  constructor(options: ConsumerOptions) {
    this.options = options;
    const { supply, orderBy, count, waitMs } = options;
    this.supply = orderBy === undefined ? supply : new InOrder(supply, orderBy);
    this.left = count;
    this.deadline = performance.now() + waitMs;
  }

  async consumed(): Promise<Consumed> {
    const { stop, jobs, count } = this.options;
    const onStop = (): void => this.stop();
    stop.addEventListener("abort", onStop);
    if (stop.aborted) this.stop();
    try {
      const workers = Array.from({ length: Math.min(jobs, count) }, () => this.work());
      // One that fails takes the others with it: what they hold is given back by the supply's end.
      await Promise.all(workers.map((worker) => worker.catch((error) => this.fail(error))));
    } finally {
      stop.removeEventListener("abort", onStop);
      clearTimeout(this.grace);
    }
    return this.result;
  }

  private grace: ReturnType<typeof setTimeout> | undefined;

  private stop(): void {
    this.taking.abort();
    this.grace = setTimeout(() => this.ending.abort(), this.options.graceMs);
  }

  private fail(error: unknown): never {
    this.taking.abort();
    this.ending.abort();
    throw error;
  }

  private async work(): Promise<void> {
    const { signal } = this.taking;
    while (!signal.aborted && this.left > 0) {
      const max = Math.min(this.options.batch, this.left);
      // Taken from the count before there are any, or several workers would take the last one.
      this.left -= max;
      const waitMs = Math.max(0, this.deadline - performance.now());
      const items = await this.supply.next({ max, waitMs, signal });
      this.left += max - items.length;
      if (items.length === 0) return;
      await this.settle(items, await this.options.handle(items, this.ending.signal));
    }
  }

  private async settle(items: readonly Item[], verdict: Verdict): Promise<void> {
    switch (verdict.type) {
      case "done":
        this.result.done += items.length;
        await this.supply.ack(items);
        return;
      case "failed": {
        this.result.failed += items.length;
        const ends = await this.supply.fail(items, verdict.fate);
        for (const [index, item] of items.entries())
          this.options.onFailure(item, verdict.why, ends[index] as "retried" | "dead" | "lost");
        return;
      }
      case "stopped":
        await this.supply.fail(items, GIVEN_BACK);
        return;
      case "unable":
        this.result.failed += items.length;
        this.result.unable ??= verdict.why;
        this.taking.abort();
        await this.supply.fail(items, GIVEN_BACK);
        for (const item of items) this.options.onFailure(item, verdict.why, "back");
    }
  }
}
