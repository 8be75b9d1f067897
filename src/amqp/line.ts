/**
 * Keeps one connection to the brokers of a list, for ever: one broker at a time, by the order of src/amqp/order.ts, each name looked up
 * again at every attempt.
 */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import type { Logger } from "../core/logger.ts";
import type { Random } from "../core/random.ts";
import { type Connection, type ConnectOptions, type Ended, openConnection, Refusal, textOf } from "./connection.ts";
import { Order } from "./order.ts";
import type { BrokerUrl } from "./url.ts";

export interface LineHooks {
  opened(connection: Connection): void;
  closed(connection: Connection, ended: Ended): void;
  /** A better-placed broker answered: `from` is ended after this. */
  replaced(from: Connection): Promise<void>;
  /** A whole round found nothing but refusals that stay, or closed ports. */
  refused(): void;
}

export interface LineOptions extends ConnectOptions {
  /** How often better-placed brokers are tried; never without it. */
  readonly preferMs?: number;
  readonly random: Random;
  readonly log: Logger | undefined;
}

export type LineState = "connecting" | "waiting" | "refused" | "standby" | "connected";

export class Line {
  readonly brokers: readonly BrokerUrl[];
  connection: Connection | undefined;
  private readonly options: LineOptions;
  private readonly hooks: LineHooks;
  private readonly order: Order;
  private readonly refusals = new Map<BrokerUrl, Refusal>();
  private trying: BrokerUrl | undefined;
  private preferTimer: ReturnType<typeof setTimeout> | undefined;
  private wake: (() => void) | undefined;
  private closed = false;

  constructor(brokers: readonly BrokerUrl[], options: LineOptions, hooks: LineHooks) {
    this.brokers = brokers;
    this.options = options;
    this.hooks = hooks;
    this.order = new Order(brokers.length, options.random);
  }

  /** Why each broker is not connected, as far as it is known. */
  get problems(): ReadonlyMap<BrokerUrl, Refusal> {
    return this.refusals;
  }

  get allRefused(): boolean {
    return this.order.allRefused(performance.now());
  }

  /** Each broker has refused us for good, or nobody listens at any of its addresses: the last round found nothing else. */
  get isClosed(): boolean {
    return this.brokers.every((broker) => {
      const refusal = this.refusals.get(broker);
      return refusal?.isFatal === true || refusal?.isClosed === true;
    });
  }

  stateOf(broker: BrokerUrl): LineState {
    if (this.connection?.broker === broker) return "connected";
    if (this.connection !== undefined) return "standby";
    if (this.trying === broker) return "connecting";
    return this.refusals.get(broker)?.isFatal === true ? "refused" : "waiting";
  }

  async run(): Promise<void> {
    while (!this.closed) {
      const attempt = this.order.next(performance.now());
      if (attempt.type === "try") await this.attempt(attempt.index);
      else {
        if (this.allRefused || this.isClosed) this.hooks.refused();
        await this.pause(attempt.ms);
      }
    }
  }

  /** Ends the connection in good order, within a second. */
  async close(): Promise<void> {
    this.closed = true;
    clearTimeout(this.preferTimer);
    this.wake?.();
    await this.connection?.close();
  }

  private async attempt(index: number): Promise<void> {
    const broker = this.brokers[index] as BrokerUrl;
    this.trying = broker;
    const connection = await this.open(broker);
    this.trying = undefined;
    if (connection instanceof Refusal) {
      this.order.failed(index, connection.isFatal, performance.now());
      return;
    }
    await this.use(connection, index);
  }

  /** Until the connection ends, or is replaced by a better one. */
  private async use(connection: Connection, index: number): Promise<void> {
    if (this.closed) {
      await connection.close();
      return;
    }
    this.order.succeeded(index, performance.now());
    this.connection = connection;
    this.options.log?.info("broker connected", { broker: connection.broker.text, address: connection.address });
    this.hooks.opened(connection);
    const better = Promise.withResolvers<[Connection, number]>();
    if (index > 0) this.lookForBetter(index, better.resolve);
    const ended = Promise.withResolvers<undefined>();
    connection.onEnd(() => ended.resolve(undefined));
    const found = await Promise.race([ended.promise, better.promise]);
    clearTimeout(this.preferTimer);
    if (found === undefined) this.onEnd(connection);
    else await this.replace(connection, ...found);
  }

  private onEnd(connection: Connection): void {
    this.connection = undefined;
    this.order.lost(performance.now());
    connection.onEnd((ended) => {
      if (!this.closed) this.options.log?.warn("broker lost", { broker: connection.broker.text, reason: ended.text });
      this.hooks.closed(connection, ended);
    });
  }

  private async replace(old: Connection, connection: Connection, index: number): Promise<void> {
    this.options.log?.info("back to a better-placed broker", { broker: connection.broker.text });
    this.order.lost(performance.now());
    old.onEnd((ended) => this.hooks.closed(old, ended));
    const using = this.use(connection, index);
    await this.hooks.replaced(old);
    await old.close();
    await using;
  }

  private lookForBetter(index: number, found: (better: [Connection, number]) => void): void {
    const { preferMs } = this.options;
    if (preferMs === undefined) return;
    const current = this.connection;
    this.preferTimer = setTimeout(async () => {
      for (let place = 0; place < index; place++) {
        const connection = await this.open(this.brokers[place] as BrokerUrl);
        if (connection instanceof Refusal) continue;
        if (this.closed || this.connection !== current) await connection.close();
        else found([connection, place]);
        return;
      }
      if (!this.closed && this.connection === current) this.lookForBetter(index, found);
    }, preferMs);
  }

  /** Each address of the name, until one answers. */
  private async open(broker: BrokerUrl): Promise<Connection | Refusal> {
    let refusal: Refusal | undefined;
    try {
      for (const address of await addressesOf(broker, this.options.connectTimeoutMs)) {
        try {
          const connection = await openConnection(broker, address, this.options);
          this.refusals.delete(broker);
          return connection;
        } catch (error) {
          refusal = graver(refusal, error as Refusal);
        }
        if (this.closed) break;
      }
    } catch (error) {
      refusal = new Refusal("amqp-unreachable", `${broker.text}: ${textOf(error)}`, { isFatal: false });
    }
    return this.note(
      broker,
      refusal ?? new Refusal("amqp-unreachable", `${broker.text}: no address`, { isFatal: false }),
    );
  }

  /** Logged when it is another than the last. */
  private note(broker: BrokerUrl, refusal: Refusal): Refusal {
    const isKnown = this.refusals.get(broker)?.message === refusal.message;
    this.refusals.set(broker, refusal);
    if (!isKnown && !this.closed)
      this.options.log?.warn("broker not reached", { broker: broker.text, reason: refusal.message });
    return refusal;
  }

  private async pause(ms: number): Promise<void> {
    if (this.closed) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.wake = resolve;
    await promise;
    clearTimeout(timer);
    this.wake = undefined;
  }
}

/** Of two addresses: one where somebody is counts more than one where nobody listens, else the last. */
function graver(one: Refusal | undefined, other: Refusal): Refusal {
  return one !== undefined && !one.isClosed && other.isClosed ? one : other;
}

/** @throws Error  where the name is not known, or the answer takes too long */
async function addressesOf({ host }: BrokerUrl, limitMs: number): Promise<string[]> {
  if (isIP(host) !== 0) return [host];
  const limit = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => limit.reject(new Error(`no answer from the name service within ${limitMs} ms`)),
    limitMs,
  );
  try {
    const found = await Promise.race([lookup(host, { all: true }), limit.promise]);
    return [...new Set(found.map(({ address }) => address))];
  } finally {
    clearTimeout(timer);
  }
}
