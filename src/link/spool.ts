/**
 * The spool (amqp.md B4): messages that are stored first, in the queue `amqp.spool`, and published when a broker is there. They are
 * taken by the consumer of queues, several at a time, and go out in their order; each is settled by how its own ended: confirmed, it is
 * gone; unroutable or refused, it is a dead letter at once; anything else is tried again and does not count.
 */
import { AmqpError } from "../amqp/error.ts";
import type { Publication } from "../amqp/message.ts";
import { SPOOL, SPOOL_DEFINITION, spooled, unspooled } from "../amqp/spool.ts";
import { type Consumed, consume, type Handler } from "../consume/consumer.ts";
import { type Fate, StoreSupply, type Supply, type Take } from "../consume/supply.ts";
import type { Logger } from "../core/logger.ts";
import type { Duration } from "../core/time.ts";
import { holderName } from "../queue/holder.ts";
import type { Item } from "../queue/operation.ts";
import { ensureQueue, type LinkQueues, Sparing, type Store } from "./host.ts";

/** Messages that are under way to the broker. */
const BATCH = 200;

const LEASE_MS: Duration = 60_000;

/** What is under way when the daemon stops; the rest is there at its next start. */
const GRACE_MS: Duration = 500;

/** After an end that was not asked for: the store is full, say. */
const AGAIN_MS: Duration = 5_000;

/** What a message waits for that could not be published, and not because a broker refused it. */
const RETRY_MS: Duration = 1_000;

/** What the spool needs of an `AmqpClient`. */
export interface Publisher {
  publish(message: Publication, options?: { signal?: AbortSignal }): Promise<unknown>;
}

export interface SpoolOptions {
  client: Publisher;
  queues: LinkQueues;
  log: Logger;
}

export class Spool {
  private readonly options: SpoolOptions;
  private readonly warnings: Sparing;
  private readonly stopping = new AbortController();
  private opening: Promise<Store> | undefined;
  private running: Promise<void> | undefined;

  constructor(options: SpoolOptions) {
    this.options = options;
    this.warnings = new Sparing(options.log);
  }

  /** Goes on with what an earlier daemon has stored, if there is such a queue. @throws QueueError `storage` */
  async resume(): Promise<void> {
    const store = await this.options.queues.open();
    const queues = await store.perform({ type: "report" });
    if (queues.some(({ name }) => name === SPOOL)) await this.open();
  }

  /**
   * Stores messages, all or none, in this order.
   *
   * @param options.dedupe  given twice within an hour, the first message is stored once
   * @throws QueueError     where they cannot be stored: `queue-full`, `item-refused`, `storage`
   */
  async add(messages: readonly Publication[], { dedupe }: { dedupe?: string } = {}): Promise<void> {
    const store = await this.open();
    const items = messages.map(spooled);
    const first = items[0];
    if (dedupe !== undefined && first !== undefined) items[0] = { ...first, dedupe };
    await store.perform({ type: "add", queue: SPOOL, items });
  }

  /** What is stored, without opening a store that nobody needed so far. */
  async report(): Promise<{ waiting: number; dead: number; bytes: number }> {
    const store = await this.opening?.catch(() => undefined);
    const queues = (await store?.perform({ type: "report" })) ?? [];
    const found = queues.find(({ name }) => name === SPOOL);
    if (found === undefined) return { waiting: 0, dead: 0, bytes: 0 };
    const { ready, delayed, leased, dead, bytes } = found;
    return { waiting: ready + delayed + leased, dead, bytes };
  }

  private open(): Promise<Store> {
    this.opening ??= this.begin().catch((error) => {
      this.opening = undefined;
      throw error;
    });
    return this.opening;
  }

  private async begin(): Promise<Store> {
    const { queues } = this.options;
    await ensureQueue(queues, SPOOL, SPOOL_DEFINITION);
    const store = await queues.open();
    this.running ??= this.run(store);
    return store;
  }

  private async run(store: Store): Promise<void> {
    const { signal } = this.stopping;
    for (let turn = 1; !signal.aborted; turn++) {
      try {
        await this.consumed(store, turn);
      } catch (error) {
        if (signal.aborted) return;
        this.warnings.warn("spool", `${SPOOL}: ${(error as Error).message}`);
        await pause(AGAIN_MS, signal);
      }
    }
  }

  private async consumed(store: Store, turn: number): Promise<Consumed> {
    const holder = holderName(`amqp-spool-${turn}`, true);
    const supply = new StoreSupply(store, { queue: SPOOL, leaseMs: LEASE_MS, holder });
    const each = new Each(supply, (reason) =>
      this.warnings.warn("dead", `${SPOOL}: a message is a dead letter: ${reason}`),
    );
    try {
      return await consume({
        supply: each,
        handle: publishing(this.options.client, each),
        jobs: 1,
        batch: BATCH,
        count: Number.POSITIVE_INFINITY,
        waitMs: Number.POSITIVE_INFINITY,
        stop: this.stopping.signal,
        graceMs: GRACE_MS,
        onFailure: (_item, why) => this.warnings.warn("retry", `${SPOOL}: ${why}`),
      });
    } finally {
      await each.end();
    }
  }

  /** What is under way has half a second; what is not confirmed then goes out again with the next daemon. */
  async close(): Promise<void> {
    this.stopping.abort();
    await this.running;
  }
}

function pause(ms: Duration, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => resolve(), { once: true });
  return promise.finally(() => clearTimeout(timer));
}

// --- several at a time, each with its own end --------------------------------------------------------------------------

/** How a message ended that was not confirmed. */
type Ended = { fate: Fate; why: string };

/** A supply whose items are settled one by one, whatever the one verdict on all of them says. */
export class Each implements Supply {
  private readonly supply: Supply;
  private readonly onDead: (reason: string) => void;
  private readonly confirmed = new Set<number>();
  private readonly ended = new Map<number, Ended>();

  constructor(supply: Supply, onDead: (reason: string) => void) {
    this.supply = supply;
    this.onDead = onDead;
  }

  next(take: Take): Promise<Item[]> {
    return this.supply.next(take);
  }

  note(item: Item, ended: Ended | undefined): void {
    if (ended === undefined) this.confirmed.add(item.seq);
    else this.ended.set(item.seq, ended);
  }

  async ack(items: readonly Item[]): Promise<number> {
    await this.fail(items, { fate: "now", counts: false });
    return items.length;
  }

  async fail(items: readonly Item[], fate: Fate): Promise<("retried" | "dead" | "lost")[]> {
    const done = items.filter(({ seq }) => this.confirmed.has(seq));
    if (done.length > 0) await this.supply.ack(done);
    const ends: ("retried" | "dead" | "lost")[] = [];
    for (const item of items) {
      const ended = this.ended.get(item.seq);
      const wasConfirmed = this.confirmed.delete(item.seq);
      this.ended.delete(item.seq);
      if (wasConfirmed) ends.push("retried");
      else ends.push(...(await this.supply.fail([item], ended?.fate ?? fate)));
      if (ended?.fate.fate === "dead") this.onDead(ended.why);
    }
    return ends;
  }

  end(): Promise<void> {
    return this.supply.end();
  }
}

/**
 * Publishes items of the spool, all at once and in their order.
 *
 * @param each  is told how each of them ended
 */
export function publishing(client: Publisher, each: Pick<Each, "note">): Handler {
  return async (items, stop) => {
    await Promise.all(
      items.map(async (item) => {
        const message = unspooled(item);
        if (message === undefined) return each.note(item, dead("it has no header amqp-exchange or amqp-key"));
        try {
          await client.publish(message, { signal: stop });
          each.note(item, undefined);
        } catch (error) {
          if (!stop.aborted) each.note(item, endOf(error));
        }
      }),
    );
    return stop.aborted ? { type: "stopped" } : { type: "done" };
  };
}

function dead(reason: string): Ended {
  return { fate: { fate: "dead", reason }, why: reason };
}

/** A broker's no is final, everything else is not. */
function endOf(error: unknown): Ended {
  const why = error instanceof Error ? error.message : String(error);
  const isFinal = error instanceof AmqpError && ["amqp-refused", "amqp-no-such", "amqp-invalid"].includes(error.code);
  return isFinal ? dead(why) : { fate: { fate: "retry", delayMs: RETRY_MS, counts: false, reason: why }, why };
}
