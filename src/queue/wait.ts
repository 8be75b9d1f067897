/** What waits at the store's edge: for an item, for room. Nobody looks again and again: a touch or the next due time wakes. */
import { QueueError } from "./error.ts";
import type { Added, Item, Operation } from "./operation.ts";
import type { QueueStore } from "./store.ts";

/** A timer takes no more (Bun: 2^31 − 1 ms), and a clock that is set moves due times. */
const SLEEP_MS_MAX = 60_000;

type Store = Pick<QueueStore, "perform" | "onTouched">;

/**
 * Leases what is ready, or waits for the first item.
 *
 * @param waitMs  how long at most; `Infinity` for ever
 * @param signal  ends the wait: no item then
 */
export async function leaseWhenReady(
  store: Store,
  operation: Operation & { type: "lease" },
  waitMs: number,
  signal?: AbortSignal,
): Promise<Item[]> {
  const deadline = performance.now() + waitMs;
  const bell = new Bell(store, operation.queue, signal);
  try {
    while (signal?.aborted !== true) {
      bell.reset();
      const items = await store.perform(operation);
      const left = deadline - performance.now();
      if (items.length > 0 || left <= 0) return items;
      const due = await store.perform({ type: "next-due", queue: operation.queue });
      await bell.rung(Math.min(left, due === null ? SLEEP_MS_MAX : Math.max(1, due - Date.now())));
    }
    return [];
  } finally {
    bell.close();
  }
}

/**
 * Adds; in a queue that is full and says `full=wait`, once there is room.
 *
 * @throws QueueError `queue-timeout` where there was none in time, and then nothing is stored
 */
export async function addWhenRoom(
  store: Store,
  operation: Operation & { type: "add" },
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<Added[]> {
  try {
    return await store.perform(operation);
  } catch (error) {
    if (!isFull(error)) throw error;
    const [report] = await store.perform({ type: "report", queue: operation.queue });
    if (report?.definition.full !== "wait") throw error;
  }
  const deadline = performance.now() + timeoutMs;
  const bell = new Bell(store, operation.queue, signal);
  try {
    for (;;) {
      bell.reset();
      try {
        return await store.perform(operation);
      } catch (error) {
        const left = deadline - performance.now();
        if (!isFull(error)) throw error;
        if (left <= 0 || signal?.aborted === true)
          throw new QueueError("queue-timeout", `${error.message}: no room in ${timeoutMs} ms, nothing is stored`);
        await bell.rung(Math.min(left, SLEEP_MS_MAX));
      }
    }
  } finally {
    bell.close();
  }
}

function isFull(error: unknown): error is QueueError {
  return error instanceof QueueError && error.code === "queue-full";
}

/** Rings when the queue is touched. What happens between `reset` and `rung` is not missed. */
class Bell {
  private readonly end: () => void;
  private readonly signal: AbortSignal | undefined;
  private ring: () => void = () => {};
  private readonly abort = (): void => this.ring();
  private next = Promise.resolve();

  constructor(store: Store, queue: string, signal: AbortSignal | undefined) {
    this.signal = signal;
    this.end = store.onTouched((queues) => {
      if (queues.includes(queue)) this.ring();
    });
    signal?.addEventListener("abort", this.abort);
  }

  reset(): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.next = promise;
    this.ring = resolve;
  }

  async rung(ms: number): Promise<void> {
    const timer = setTimeout(() => this.ring(), Math.min(ms, SLEEP_MS_MAX));
    if (this.signal?.aborted === true) this.ring();
    await this.next;
    clearTimeout(timer);
  }

  close(): void {
    this.end();
    this.signal?.removeEventListener("abort", this.abort);
  }
}
