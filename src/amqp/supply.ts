/**
 * Deliveries of a broker as items for `consume()` (src/consume/consumer.ts), so that handlers, order and verdicts are those of queues.
 *
 * A plain requeue comes back at once and spins. So what failed is held here, unacknowledged, until it is its time again; the broker's
 * prefetch bounds how much that is. A broker closes the channel of whoever keeps a message for 30 minutes, with everything else that is
 * pending on it, so what gets old here is requeued before that: it comes back with a new half hour, and what it went through is remembered.
 *
 * When the channel is lost its deliveries are not ours any more: what waits is forgotten, what is handled runs to its end and nothing can be
 * said of it. The broker delivers them again.
 */
import type { Fate, Supply, Take } from "../consume/supply.ts";
import type { Duration, Instant } from "../core/time.ts";
import type { Item } from "../queue/operation.ts";
import type { DeliverySink, DeliveryTag } from "./client.ts";
import type { Delivery, HeaderValue } from "./message.ts";

/** An item that is a delivery; `seq` counts deliveries here and stays the same while one is held. */
export interface AmqpItem extends Item {
  delivery: Delivery;
}

/** When the broker may forget a message: after it was handled, as soon as it is here, or (no-ack) when it has sent it. */
export type AckMode = "after" | "receipt" | "none";

export interface SupplyOptions {
  /** Of the supply itself as a sink; `sink` has others. */
  ack: AckMode;
  /** What each consumer of the broker's may have pending; with `receipt`, what may wait here acknowledged. */
  prefetch: number;
  /** Deliveries that count, then it is dead. */
  maxTries: number;
  /**
   * Keeps what could not be handled; it is acknowledged then. Without it, it is rejected without requeue: the dead-letter exchange of its
   * queue gets it, if there is one.
   *
   * @throws where it could not: then it is held on
   */
  bury?: (item: AmqpItem, fate: Fate) => Promise<void>;
  /** What the operator should know, in words, seldom. */
  onTrouble(text: string): void;
  clock?: Clock;
}

/** Time and timers; a test has its own. */
export interface Clock {
  now(): Instant;
  /** @returns the function that calls it off */
  after(ms: Duration, job: () => void): () => void;
}

const REAL_CLOCK: Clock = {
  now: () => performance.now(),
  after: (ms, job) => {
    const timer = setTimeout(job, ms);
    return () => clearTimeout(timer);
  },
};

export const MAX_TRIES = 5;

const RETRY_MS_MIN: Duration = 1_000;
const RETRY_MS_MAX: Duration = 300_000;

/** The broker's limit is 30 minutes, which it looks at once a minute. Handlers end by then, and what waits is requeued. */
export const HELD_MS_MAX: Duration = 25 * 60_000;

/** What was given out and is neither handled nor back by then waits for its turn in an order, or for a reader of standard output. */
const OUT_MS_MAX: Duration = 27 * 60_000;

/** An item that waited longer than this for a handler may be requeued, to give the handler more time. */
const WAITED_MS_MIN: Duration = 60_000;

/** What was said of messages that may come again; the oldest make room. */
const REMEMBERED_MAX = 10_000;

/** Without acknowledgements nothing holds the broker back: beyond these what comes is dropped. */
const UNASKED_MAX = 100_000;
const UNASKED_BYTES_MAX = 256 * 1024 * 1024;

/** What a message went through here, also when it comes again over another channel. */
interface Past {
  /** Failures that count. */
  failures: number;
  /** All of them: the delay grows with each. */
  attempts: number;
  /** Milliseconds since 1970, when it was first here. */
  firstAt: number;
  dueAt: Instant;
}

interface Held extends Past {
  item: AmqpItem;
  tag: DeliveryTag;
  deliveredAt: Instant;
  ack: AckMode;
  /** The broker has forgotten it: nothing can be said of it any more. */
  isForgotten: boolean;
  state: "ready" | "waiting" | "out";
}

export class AmqpSupply implements Supply, DeliverySink {
  private readonly options: SupplyOptions;
  private readonly clock: Clock;
  /** All that are not settled, by number: in the order in which they came. */
  private readonly held = new Map<number, Held>();
  private readonly byTag = new Map<DeliveryTag, Held>();
  /** In order of their numbers. */
  private readonly ready: Held[] = [];
  private readonly past = new Map<string, Past>();
  private readonly gone: ((items: readonly Item[]) => void)[] = [];
  private seq = 0;
  private unaskedBytes = 0;
  private dropped = 0;
  private wake = Promise.withResolvers<void>();
  private alarm: { at: Instant; off: () => void } | undefined;
  private isEnded = false;

  constructor(options: SupplyOptions) {
    this.options = options;
    this.clock = options.clock ?? REAL_CLOCK;
  }

  // --- from the broker ---------------------------------------------------------------------------------------------------

  delivered(delivery: Delivery, tag: DeliveryTag): void {
    this.accept(delivery, tag, this.options.ack);
  }

  /** For a subscription whose messages the broker may forget at another time than those of the others. */
  sink(ack: AckMode): DeliverySink {
    return { delivered: (delivery, tag) => this.accept(delivery, tag, ack), lost: (tags) => this.lost(tags) };
  }

  private accept(delivery: Delivery, tag: DeliveryTag, ack: AckMode): void {
    if (this.isEnded) return;
    if (ack === "none" && this.isFlooded(delivery)) return;
    const past = this.pastOf(delivery);
    const item = itemOf(delivery, { seq: ++this.seq, addedAt: past.firstAt, tries: past.failures + 1 });
    const now = this.clock.now();
    const isForgotten = ack === "none";
    const held: Held = { ...past, item, tag, deliveredAt: now, ack, isForgotten, state: "waiting" };
    this.held.set(item.seq, held);
    if (!isForgotten) this.byTag.set(tag, held);
    if (past.dueAt <= now) this.makeReady(held);
    if (ack === "receipt") this.acknowledgeEarly();
    this.arm(alarmOf(held));
  }

  /** Nothing can be said of them any more; the broker will deliver them again. */
  lost(tags: readonly DeliveryTag[]): void {
    const lost = tags.map((tag) => this.byTag.get(tag)).filter((held) => held !== undefined);
    for (const held of lost) {
      this.remember(held);
      this.remove(held);
    }
    this.tell(lost);
  }

  private isFlooded({ body }: Delivery): boolean {
    const isFull = this.ready.length >= UNASKED_MAX || this.unaskedBytes + body.length > UNASKED_BYTES_MAX;
    if (!isFull || this.ready.length === 0) {
      this.unaskedBytes += body.length;
      return false;
    }
    if (this.dropped++ === 0)
      this.options.onTrouble(
        `more comes unacknowledged than is handled: what is beyond ${this.ready.length} is dropped`,
      );
    return true;
  }

  private pastOf(delivery: Delivery): Past {
    const identity = identityOf(delivery);
    const known = identity === undefined ? undefined : this.past.get(identity);
    if (known !== undefined) return known;
    const failures = delivery.deliveryCount ?? (delivery.redelivered ? 1 : 0);
    return { failures, attempts: failures, firstAt: Date.now(), dueAt: 0 };
  }

  private remember({ item, failures, attempts, firstAt, dueAt }: Held): void {
    const identity = identityOf({ ...item.delivery, redelivered: true }) as string;
    this.past.delete(identity);
    this.past.set(identity, { failures, attempts, firstAt, dueAt });
    if (this.past.size <= REMEMBERED_MAX) return;
    const [oldest] = this.past.keys();
    this.past.delete(oldest as string);
  }

  /** As soon as they are here; but no more of them than the broker would have let wait. */
  private acknowledgeEarly(): void {
    const waiting = this.ready.filter(({ ack }) => ack === "receipt");
    for (const held of waiting.slice(0, this.options.prefetch)) if (!held.isForgotten) this.acknowledgeNow(held);
  }

  private acknowledgeNow(held: Held): void {
    held.tag.ack();
    held.isForgotten = true;
    this.byTag.delete(held.tag);
  }

  // --- to the consumer ---------------------------------------------------------------------------------------------------

  async next({ max, waitMs, signal }: Take): Promise<AmqpItem[]> {
    const deadline = this.clock.now() + waitMs;
    for (;;) {
      if (signal.aborted || this.isEnded) return [];
      const taken = this.ready.splice(0, max);
      if (taken.length > 0) return taken.map((held) => this.give(held));
      const left = deadline - this.clock.now();
      if (left <= 0) return [];
      await this.woken(left, signal);
    }
  }

  private give(held: Held): AmqpItem {
    held.state = "out";
    if (held.ack === "none") this.unaskedBytes -= held.item.value.length;
    if (held.ack === "receipt") {
      if (!held.isForgotten) this.acknowledgeNow(held);
      this.acknowledgeEarly();
    }
    return held.item;
  }

  private async woken(ms: Duration, signal: AbortSignal): Promise<void> {
    const { promise } = this.wake;
    const ring = (): void => this.ring();
    const off = Number.isFinite(ms) ? this.clock.after(ms, ring) : undefined;
    signal.addEventListener("abort", ring);
    await promise;
    signal.removeEventListener("abort", ring);
    off?.();
  }

  /**
   * How long a handler may take with an item, so that its end can be said to the broker. An item that waited here for so long that it is
   * less than `wantedMs` is asked for again, and has all of it then.
   *
   * @returns milliseconds; `undefined` for an item that was given back for that reason, or is not ours any more
   */
  timeOf(item: Item, wantedMs: Duration): Duration | undefined {
    const held = this.held.get(item.seq);
    if (held === undefined) return undefined;
    if (held.isForgotten) return wantedMs;
    const waitedMs = this.clock.now() - held.deliveredAt;
    const leftMs = HELD_MS_MAX - waitedMs;
    if (leftMs >= wantedMs || waitedMs < WAITED_MS_MIN) return Math.min(wantedMs, leftMs);
    this.renewFrom(held);
    return undefined;
  }

  async ack(items: readonly Item[]): Promise<number> {
    let count = 0;
    for (const { seq } of items) {
      const held = this.held.get(seq);
      if (held === undefined) continue;
      this.settle(held);
      if (held.isForgotten || held.tag.ack()) count++;
    }
    return count;
  }

  async fail(items: readonly Item[], fate: Fate): Promise<("retried" | "dead" | "lost")[]> {
    return Promise.all(items.map((item) => this.failOne(item, fate)));
  }

  private async failOne({ seq }: Item, fate: Fate): Promise<"retried" | "dead" | "lost"> {
    const held = this.held.get(seq);
    if (held === undefined) return "lost";
    if (fate.fate === "now") {
      held.dueAt = 0;
      this.makeReady(held);
      return "retried";
    }
    // It is as the operator chose: acknowledged before, so that nobody has it when it fails.
    if (held.isForgotten) {
      this.settle(held);
      return "lost";
    }
    const counts = fate.counts !== false;
    if (fate.fate === "dead" || (counts && held.item.tries >= this.options.maxTries)) return this.die(held, fate);
    this.hold(held, counts, fate.delayMs);
    return "retried";
  }

  private async die(held: Held, fate: Fate): Promise<"retried" | "dead" | "lost"> {
    const { bury, onTrouble } = this.options;
    try {
      await bury?.(held.item, fate);
    } catch (error) {
      onTrouble(`a message of ${held.item.queue} cannot be kept as a dead letter: ${(error as Error).message}`);
      this.hold(held, false, RETRY_MS_MAX);
      return "retried";
    }
    const isOurs = this.held.has(held.item.seq);
    this.settle(held);
    if (!isOurs) return "lost";
    const isSaid = bury === undefined ? held.tag.reject(false) : held.tag.ack();
    return isSaid ? "dead" : "lost";
  }

  private hold(held: Held, counts: boolean, delayMs: Duration | undefined): void {
    if (!this.held.has(held.item.seq)) return;
    held.dueAt = this.clock.now() + (delayMs ?? Math.min(RETRY_MS_MIN * 2 ** held.attempts, RETRY_MS_MAX));
    if (delayMs === undefined) held.attempts++;
    if (counts) held.failures++;
    held.item = { ...held.item, tries: held.failures + 1 };
    held.state = "waiting";
    this.arm(alarmOf(held));
  }

  onGone(listener: (items: readonly Item[]) => void): void {
    this.gone.push(listener);
  }

  /**
   * Nothing more is given out or said. What is not settled goes back with its channel, whose end is its owner's to bring about: what was
   * requeued before that would be delivered here once more, and counted.
   */
  async end(): Promise<void> {
    this.isEnded = true;
    this.alarm?.off();
    for (const held of [...this.held.values()]) this.remove(held);
    this.ring();
  }

  // --- what waits --------------------------------------------------------------------------------------------------------

  private makeReady(held: Held): void {
    held.state = "ready";
    const behind = this.ready.findLastIndex((one) => one.item.seq < held.item.seq);
    this.ready.splice(behind + 1, 0, held);
    this.ring();
  }

  private ring(): void {
    this.wake.resolve();
    this.wake = Promise.withResolvers();
  }

  private settle(held: Held): void {
    const identity = identityOf({ ...held.item.delivery, redelivered: true });
    if (held.attempts > 0 || held.item.delivery.redelivered) this.past.delete(identity as string);
    this.remove(held);
  }

  private remove(held: Held): void {
    this.held.delete(held.item.seq);
    this.byTag.delete(held.tag);
    if (held.state === "ready") this.ready.splice(this.ready.indexOf(held), 1);
  }

  private tell(lost: readonly Held[]): void {
    if (lost.length === 0) return;
    const items = lost.map(({ item }) => item);
    for (const listener of this.gone) listener(items);
  }

  /** Asks the broker for it again, and for all that came behind it and is not being handled: or they would come before it. */
  private renewFrom(first: Held): void {
    const renewed = [...this.held.values()].filter(
      (held) => held === first || (held.item.seq > first.item.seq && held.state !== "out" && !held.isForgotten),
    );
    for (const held of renewed) {
      this.remember(held);
      this.remove(held);
    }
    // In their order: each may come back before the next is requeued.
    for (const { tag } of renewed) tag.reject(true);
    this.tell(renewed);
  }

  /** One timer for all: for what is due, and for what gets too old. That it may ring for nothing saves looking at all of them. */
  private arm(at: Instant): void {
    if (at >= (this.alarm?.at ?? Number.POSITIVE_INFINITY) || this.isEnded) return;
    this.alarm?.off();
    const off = this.clock.after(Math.max(0, at - this.clock.now()), () => {
      this.alarm = undefined;
      this.look();
      for (const held of this.held.values()) this.arm(alarmOf(held));
    });
    this.alarm = { at, off };
  }

  private look(): void {
    const now = this.clock.now();
    for (const held of [...this.held.values()]) {
      if (!this.held.has(held.item.seq)) continue;
      if (oldAt(held) <= now) this.renewFrom(held);
      else if (held.state === "waiting" && held.dueAt <= now) this.makeReady(held);
    }
  }
}

/** When it has been here for too long. */
function oldAt({ isForgotten, deliveredAt, state }: Held): Instant {
  if (isForgotten) return Number.POSITIVE_INFINITY;
  return deliveredAt + (state === "out" ? OUT_MS_MAX : HELD_MS_MAX);
}

function alarmOf(held: Held): Instant {
  return held.state === "waiting" ? Math.min(held.dueAt, oldAt(held)) : oldAt(held);
}

/** By what a message is known when it comes again; `undefined` where it is new and has no id, and need not be looked for. */
function identityOf({ messageId, redelivered, exchange, routingKey, body }: Delivery): string | undefined {
  if (messageId !== undefined && messageId !== "") return `id ${messageId}`;
  return redelivered ? `of ${Bun.hash(body)} ${exchange} ${routingKey}` : undefined;
}

/** The text of a header, as handlers and lists show it. */
export function headerText(value: HeaderValue): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function itemOf(delivery: Delivery, { seq, addedAt, tries }: Pick<Item, "seq" | "addedAt" | "tries">): AmqpItem {
  const { routingKey, body, queue, exchange, contentType, headers = {} } = delivery;
  return {
    ...{ seq, addedAt, tries, queue, delivery },
    id: `${seq}-0`,
    key: routingKey,
    value: body,
    contentType: contentType ?? "application/octet-stream",
    headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, headerText(value)])),
    path: [],
    from: exchange,
    channel: null,
    dueAt: addedAt,
  };
}
