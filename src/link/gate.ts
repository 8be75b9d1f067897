/** Items for a link, one waiter at a time, and none while the link has nobody to give them to: they stay in their queue. */
import type { Supply, Take } from "../consume/supply.ts";
import type { Item } from "../queue/operation.ts";

export class GatedSupply implements Supply {
  private readonly inner: Supply;
  private readonly isOpen: () => boolean;
  private turn: Promise<unknown> = Promise.resolve();
  private opened = Promise.withResolvers<void>();

  constructor(inner: Supply, isOpen: () => boolean) {
    this.inner = inner;
    this.isOpen = isOpen;
  }

  /** It may be open now. */
  look(): void {
    if (!this.isOpen()) return;
    this.opened.resolve();
    this.opened = Promise.withResolvers();
  }

  /** Who asked first is served first: the order of the items is that of the handlers' calls. */
  next(take: Take): Promise<Item[]> {
    const items = this.turn.then(() => this.pull(take));
    this.turn = items.catch(() => undefined);
    return items;
  }

  private async pull(take: Take): Promise<Item[]> {
    const { signal } = take;
    const onAbort = (): void => this.opened.resolve();
    signal.addEventListener("abort", onAbort);
    try {
      while (!this.isOpen() && !signal.aborted) await this.opened.promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
    return signal.aborted ? [] : this.inner.next(take);
  }

  ack(items: readonly Item[]): Promise<number> {
    return this.inner.ack(items);
  }

  fail(...args: Parameters<Supply["fail"]>): ReturnType<Supply["fail"]> {
    return this.inner.fail(...args);
  }

  end(): Promise<void> {
    return this.inner.end();
  }
}
