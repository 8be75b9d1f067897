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

/** What has not come back by then was taken by another consumer of the queue: nothing waits for it any longer. */
const AWAY_MS_MAX = 10 * 60_000;

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
  /** By key, the items that failed or were set aside, and until when the later ones wait for them. */
  private readonly away = new Map<string, Map<number, number>>();
  private pulling: Promise<number> | undefined;
  private wake = Promise.withResolvers<void>();

  constructor(supply: Supply, keyOf: (item: Item) => string) {
    this.supply = supply;
    this.keyOf = keyOf;
    supply.onGone?.((items) => this.forget(items));
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
    this.isBack(item);
    if (this.waitsForAnother(item)) return this.setAside([item]);
    this.waiting.push(item);
    this.waiting.sort((a, b) => a.seq - b.seq);
  }

  private waitsForAnother(item: Item): boolean {
    const now = Date.now();
    for (const [seq, until] of this.away.get(this.keyOf(item)) ?? []) if (seq < item.seq && until > now) return true;
    return false;
  }

  private async setAside(items: readonly Item[]): Promise<void> {
    for (const item of items) this.isAway(item);
    const ends = await this.supply.fail(items, ASIDE);
    for (const [index, item] of items.entries()) if (ends[index] !== "retried") this.isBack(item);
  }

  private isAway(item: Item): void {
    const key = this.keyOf(item);
    const away = this.away.get(key) ?? new Map<number, number>();
    this.away.set(key, away.set(item.seq, Date.now() + AWAY_MS_MAX));
  }

  private isBack(item: Item): void {
    const key = this.keyOf(item);
    const away = this.away.get(key);
    away?.delete(item.seq);
    if (away?.size === 0) this.away.delete(key);
  }

  /** They come again under other numbers, if at all. */
  private forget(items: readonly Item[]): void {
    const seqs = new Set(items.map(({ seq }) => seq));
    this.waiting = this.waiting.filter(({ seq }) => !seqs.has(seq));
    for (const item of items) this.isBack(item);
    this.ring();
  }

  async ack(items: readonly Item[]): Promise<number> {
    const acked = await this.supply.ack(items);
    for (const item of items) this.free(item);
    return acked;
  }

  async fail(items: readonly Item[], fate: Fate): Promise<("retried" | "dead" | "lost")[]> {
    // Before it is said: it may be back before we hear of it.
    for (const item of items) this.isAway(item);
    const ends = await this.supply.fail(items, fate);
    for (const [index, item] of items.entries()) {
      if (ends[index] === "retried") await this.holdUp(item);
      else this.isBack(item);
      this.free(item);
    }
    return ends;
  }

  /** What waits here and came after it waits for it elsewhere: this place is bounded. */
  private async holdUp(item: Item): Promise<void> {
    const key = this.keyOf(item);
    const held = this.waiting.filter((one) => one.seq > item.seq && this.keyOf(one) === key);
    this.waiting = this.waiting.filter((one) => !held.includes(one));
    await this.setAside(held);
  }

  private free(item: Item): void {
    this.busy.delete(this.keyOf(item));
    this.ring();
  }

  private ring(): void {
    this.wake.resolve();
    this.wake = Promise.withResolvers();
  }

  end(): Promise<void> {
    return this.supply.end();
  }
}
