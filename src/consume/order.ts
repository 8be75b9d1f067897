/**
 * Order by something that the store does not know, such as a member of a JSON value: items of one key are given out one after the
 * other, in their order, and one that failed holds up its key until it is settled. It is kept for as long as the consumer is there;
 * `--order-by key` is kept by the store, also over several consumers.
 */
import type { Item } from "../queue/operation.ts";
import type { Fate, Supply, Take } from "./supply.ts";

/** Items that are held although their key is busy; beyond that nothing more is taken. */
const WAITING_MAX = 64;

/** How long an item is set aside whose key waits for a failed one. */
const ASIDE: Fate = { fate: "retry", delayMs: 1_000, counts: false, reason: "order" };

/** @returns the text at `a.b.0` of a JSON value; the empty text where there is none, so that those keep their order, too */
export function jsonPath(path: string): (item: Item) => string {
  const names = path.split(".");
  return ({ value }) => {
    let at: unknown;
    try {
      at = JSON.parse(new TextDecoder().decode(value));
    } catch {
      return "";
    }
    for (const name of names)
      at = typeof at === "object" && at !== null ? (at as Record<string, unknown>)[name] : undefined;
    return at === undefined ? "" : typeof at === "string" ? at : JSON.stringify(at);
  };
}

export class InOrder implements Supply {
  private readonly supply: Supply;
  private readonly keyOf: (item: Item) => string;
  private waiting: Item[] = [];
  private readonly busy = new Set<string>();
  /** By key, the item that failed. */
  private readonly failed = new Map<string, number>();
  private pulling: Promise<number> | undefined;
  private wake = Promise.withResolvers<void>();

  constructor(supply: Supply, keyOf: (item: Item) => string) {
    this.supply = supply;
    this.keyOf = keyOf;
  }

  /** One at a time: the next one may have to wait for it. */
  async next(take: Take): Promise<Item[]> {
    for (;;) {
      const index = this.waiting.findIndex((item) => !this.busy.has(this.keyOf(item)));
      const [item] = index === -1 || take.signal.aborted ? [] : this.waiting.splice(index, 1);
      if (item !== undefined) {
        this.busy.add(this.keyOf(item));
        return [item];
      }
      if (take.signal.aborted) return [];
      const woken = this.wake.promise;
      if (this.waiting.length >= WAITING_MAX) await woken;
      else {
        this.pulling ??= this.pull(take);
        const found = await Promise.race([this.pulling, woken]);
        if (found === 0 && this.waiting.length === 0) return [];
        // Nothing came, and what waits is held up by what runs.
        if (found === 0) await woken;
      }
    }
  }

  private async pull({ waitMs, signal }: Take): Promise<number> {
    try {
      const items = await this.supply.next({ max: 1, waitMs, signal });
      for (const item of items) await this.accept(item);
      return items.length;
    } finally {
      this.pulling = undefined;
    }
  }

  private async accept(item: Item): Promise<void> {
    const failed = this.failed.get(this.keyOf(item));
    if (failed !== undefined && item.seq > failed) await this.supply.fail([item], ASIDE);
    else {
      this.waiting.push(item);
      this.waiting.sort((a, b) => a.seq - b.seq);
    }
  }

  async ack(items: readonly Item[]): Promise<number> {
    const acked = await this.supply.ack(items);
    for (const item of items) this.free(item);
    return acked;
  }

  async fail(items: readonly Item[], fate: Fate): Promise<("retried" | "dead" | "lost")[]> {
    const ends = await this.supply.fail(items, fate);
    for (const [index, item] of items.entries()) {
      this.free(item);
      if (ends[index] !== "retried") continue;
      const key = this.keyOf(item);
      this.failed.set(key, item.seq);
      const held = this.waiting.filter((one) => this.keyOf(one) === key);
      this.waiting = this.waiting.filter((one) => !held.includes(one));
      await this.supply.fail(held, ASIDE);
    }
    return ends;
  }

  private free(item: Item): void {
    const key = this.keyOf(item);
    this.busy.delete(key);
    if (this.failed.get(key) === item.seq) this.failed.delete(key);
    this.wake.resolve();
    this.wake = Promise.withResolvers();
  }

  end(): Promise<void> {
    return this.supply.end();
  }
}
