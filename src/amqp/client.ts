/**
 * A client of one or several brokers: keeps connections for ever, publishes with confirms, asks, and consumes.
 *
 * What was given to `publish` is kept until a broker has confirmed it, and sent again on the next connection; subscriptions are set up
 * again. Zones are independent of each other.
 */
import type { Logger } from "../core/logger.ts";
import type { Instant } from "../core/time.ts";
import { LostError, type ReplyAddress } from "./asker.ts";
import type { AmqpTls, Connection, Ended } from "./connection.ts";
import { type ConsumerStatus, Consumers, type DeliverySink, type Subscribed } from "./consumer.ts";
import { AmqpError } from "./error.ts";
import { type Fetched, fetchOne } from "./fetch.ts";
import { checkPublication, type Delivery, type Publication } from "./message.ts";
import type { Published, PublisherCounters } from "./publisher.ts";
import type { Subscription } from "./subscription.ts";
import { performSteps, type TopologyReply, type TopologyStep } from "./topology.ts";
import type { BrokerUrl } from "./url.ts";
import { WINDOW } from "./window.ts";
import { type BrokerStatus, type Mode, Zone } from "./zone.ts";

export type { ConsumerStatus, DeliverySink, DeliveryTag, Subscribed } from "./consumer.ts";
export type { Fetched } from "./fetch.ts";
export type { Published } from "./publisher.ts";
export type { BrokerStatus, Mode } from "./zone.ts";

export interface AmqpOptions {
  readonly brokers: readonly BrokerUrl[];
  /** Of zones that `modes` does not name; default `failover`. */
  readonly mode?: Mode;
  readonly modes?: Readonly<Record<string, Mode>>;
  /** Where to publish and to consume; default: the zone of the first broker. */
  readonly primaryZone?: string;
  /** In `failover`: back to a better-placed broker when it answers again. */
  readonly prefer?: "first";
  /** How often better-placed brokers are tried then; default 30,000. */
  readonly preferMs?: number;
  readonly tls?: AmqpTls;
  /** Default 3,000, for each address. */
  readonly connectTimeoutMs?: number;
  /** The node's name, in the broker's list of connections. */
  readonly name?: string;
  readonly log?: Logger;
  /** Unconfirmed at most, on one connection; default 500 messages and 8 MiB. */
  readonly window?: { readonly messages?: number; readonly bytes?: number };
  /** A confirm that takes longer ends the connection; default 30,000. */
  readonly confirmTimeoutMs?: number;
}

export interface PublishChoice {
  /** Default: for ever, or until `signal`. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Only this broker; in a zone with mode `failover` whichever is connected. */
  readonly broker?: number;
  /** Default: the primary zone. */
  readonly zone?: string;
}

/** How a Kazoo application finds us: members of the JSON body instead of properties. */
export interface KazooAddress {
  /** Our queue, and its key on the exchange `targeted`; `Server-ID` in the body says so. */
  readonly key: string;
  /** `Msg-ID` in the body. */
  readonly messageId: string;
}

export interface QueryChoice {
  readonly timeoutMs: number;
  /** Collect up to so many until the timeout; default 1. */
  readonly many?: number;
  /** Direct reply-to, or an exclusive queue; default `direct`. */
  readonly reply?: "direct" | "queue";
  readonly kazoo?: KazooAddress;
  /** May be sent again if the connection breaks. */
  readonly idempotent?: boolean;
  readonly signal?: AbortSignal;
  readonly zone?: string;
  readonly broker?: number;
}

export interface OperationChoice {
  /** How long to wait for a broker; default 10,000. */
  readonly timeoutMs?: number;
  /** Default: the primary zone. */
  readonly zone?: string;
  /** As with `publish`: only this broker, in a zone with mode `all`. */
  readonly broker?: number;
}

export interface AmqpStatus {
  readonly brokers: readonly BrokerStatus[];
  /** Of all zones. */
  readonly publisher: {
    readonly unconfirmed: number;
    readonly unconfirmedBytes: number;
    readonly waiting: number;
    readonly waitingBytes: number;
  } & Readonly<PublisherCounters>;
  readonly subscriptions: readonly (readonly ConsumerStatus[])[];
}

export interface ConnectionEvent {
  readonly state: "open" | "closed";
  readonly broker: BrokerUrl;
  readonly why?: string;
}

const CONNECT_TIMEOUT_MS = 3_000;
const PREFER_MS = 30_000;
const CONFIRM_TIMEOUT_MS = 30_000;
/** How long `topology` and `get` wait for a broker where nothing is said. */
const OPERATION_MS = 10_000;

export class AmqpClient {
  readonly options: AmqpOptions;
  private readonly zones = new Map<string, Zone>();
  private readonly primary: Zone;
  private readonly subscriptions = new Set<Consumers>();
  private readonly listeners = new Set<(event: ConnectionEvent) => void>();
  private closed = false;

  constructor(options: AmqpOptions) {
    this.options = options;
    for (const [name, brokers] of Map.groupBy(options.brokers, ({ zone }) => zone)) {
      this.zones.set(name, this.makeZone(name, brokers));
    }
    this.primary = this.zone(options.primaryZone ?? options.brokers[0]?.zone ?? "");
  }

  /** Begins to connect, for ever. */
  start(): void {
    for (const zone of this.zones.values()) zone.start();
  }

  /**
   * Waits for a connection to publish on.
   *
   * @param isHasty     does not wait for a broker where nobody listens at any of them
   * @throws AmqpError  `amqp-unreachable`, `amqp-login` or `amqp-no-such` (virtual host), with what each broker said: after the time, or
   *                    as soon as all of them refused for good
   */
  async ready(timeoutMs: number, isHasty = false): Promise<void> {
    await this.primary.usable(undefined, performance.now() + timeoutMs, undefined, { isHasty });
  }

  /**
   * Resolves when a broker has confirmed the message. While there is none, and while it takes none, the message is kept.
   *
   * @throws AmqpError  `amqp-refused` unroutable, denied, too large, negative confirm; `amqp-no-such` no such exchange, zone or broker
   *                    number; `amqp-timeout` no confirm in time: it may have been delivered; `amqp-unreachable` it was never sent;
   *                    `amqp-invalid`
   */
  publish(message: Publication, choice: PublishChoice = {}): Promise<Published> {
    try {
      const { zone, pin } = this.route(choice);
      const deadline = choice.timeoutMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + choice.timeoutMs;
      return zone.publisher.publish(message, pin, deadline, choice.signal);
    } catch (error) {
      // Not `async`: that would cost each message a promise more.
      return Promise.reject(error);
    }
  }

  /**
   * Publishes and waits for answers with the same correlation id. Not sent again when the connection breaks, unless it is idempotent.
   *
   * @returns one answer, or with `many` as many as came in time
   * @throws AmqpError  as `publish`; `amqp-refused` at once where nobody listens; `amqp-timeout` without an answer in time
   */
  async query(message: Publication, choice: QueryChoice): Promise<Delivery[]> {
    checkPublication(message);
    const { zone, pin } = this.route(choice);
    const address: ReplyAddress = choice.kazoo === undefined ? (choice.reply ?? "direct") : { key: choice.kazoo.key };
    const deadline = performance.now() + choice.timeoutMs;
    const { many = 1, signal } = choice;
    for (;;) {
      const connection = zone.current(pin) ?? (await zone.usable(pin, deadline, signal));
      const timeoutMs = Math.max(deadline - performance.now(), 1);
      const question = { message, timeoutMs, many, messageId: choice.kazoo?.messageId, signal };
      try {
        return await zone.asker(connection, address).ask(question);
      } catch (error) {
        const again = choice.idempotent === true && error instanceof LostError && performance.now() < deadline;
        if (!again) throw error;
      }
    }
  }

  /** Consumes on the connections there are, now and after every reconnect; with `federate` in all zones. */
  subscribe(subscription: Subscription, sink: DeliverySink): Subscribed {
    const consumers = new Consumers(subscription, sink, this.options.log, (self) => this.subscriptions.delete(self));
    this.subscriptions.add(consumers);
    for (const zone of this.zonesOf(consumers)) {
      for (const connection of zone.connections()) void consumers.attach(connection);
    }
    return consumers;
  }

  /** @throws AmqpError  `amqp-no-such` where there is no such queue */
  async get(queue: string, choice: OperationChoice = {}): Promise<Fetched | undefined> {
    return fetchOne(await this.connection(choice), queue);
  }

  /** One step after the other. @throws AmqpError  of the first one that is refused; those before it are done */
  async topology(steps: readonly TopologyStep[], choice: OperationChoice = {}): Promise<TopologyReply[]> {
    return performSteps(await this.connection(choice), steps);
  }

  status(): AmqpStatus {
    const zones = [...this.zones.values()];
    const publishers = zones.map(({ publisher }) => publisher.status());
    const sum = (value: (one: AmqpStatus["publisher"]) => number): number =>
      publishers.reduce((total, one) => total + value(one), 0);
    return {
      brokers: zones.flatMap((zone) => zone.status()).sort((one, other) => one.number - other.number),
      publisher: {
        unconfirmed: sum((one) => one.unconfirmed),
        unconfirmedBytes: sum((one) => one.unconfirmedBytes),
        waiting: sum((one) => one.waiting),
        waitingBytes: sum((one) => one.waitingBytes),
        confirmed: sum((one) => one.confirmed),
        repeated: sum((one) => one.repeated),
        returned: sum((one) => one.returned),
        refused: sum((one) => one.refused),
      },
      subscriptions: [...this.subscriptions].map((one) => one.status()),
    };
  }

  /** @returns ends the listening */
  on(_event: "connection", listener: (event: ConnectionEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Within a second; what is not confirmed then is rejected with `amqp-timeout`. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await Promise.all([...this.zones.values()].map((zone) => zone.close()));
  }

  private makeZone(name: string, brokers: readonly BrokerUrl[]): Zone {
    const { options } = this;
    return new Zone(name, brokers, {
      mode: options.modes?.[name] ?? options.mode ?? "failover",
      connect: {
        connectTimeoutMs: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
        connectionName: options.name === undefined ? "dmq" : `dmq ${options.name}`,
        ...(options.tls === undefined ? {} : { tls: options.tls }),
        ...(options.prefer === "first" ? { preferMs: options.preferMs ?? PREFER_MS } : {}),
        random: { u32: () => crypto.getRandomValues(new Uint32Array(1))[0] as number },
        log: options.log,
      },
      window: { ...WINDOW, ...options.window },
      confirmTimeoutMs: options.confirmTimeoutMs ?? CONFIRM_TIMEOUT_MS,
      opened: (zone, connection) => this.onOpened(zone, connection),
      closed: (connection, ended) => this.onClosed(connection, ended),
      leaving: async (connection) => {
        await Promise.all([...this.subscriptions].map((consumers) => consumers.detach(connection)));
      },
    });
  }

  /** Consumers first, so that nothing is published before those who wait for it are there. */
  private async onOpened(zone: Zone, connection: Connection): Promise<void> {
    this.tell({ state: "open", broker: connection.broker });
    const concerned = [...this.subscriptions].filter((consumers) => this.zonesOf(consumers).includes(zone));
    const suspects = concerned.filter(({ isSuspect }) => isSuspect);
    await Promise.all(concerned.filter(({ isSuspect }) => !isSuspect).map((consumers) => consumers.attach(connection)));
    for (const consumers of suspects) await consumers.attach(connection);
  }

  private onClosed({ broker }: Connection, { text }: Ended): void {
    this.tell({ state: "closed", broker, why: text });
  }

  private tell(event: ConnectionEvent): void {
    for (const listener of this.listeners) listener(event);
  }

  private zonesOf({ subscription }: Consumers): Zone[] {
    return subscription.federate ? [...this.zones.values()] : [this.primary];
  }

  private zone(name: string): Zone {
    const zone = this.zones.get(name);
    if (zone !== undefined) return zone;
    throw new AmqpError("amqp-no-such", `no broker has zone "${name}": there are ${[...this.zones.keys()].join(", ")}`);
  }

  private route({ zone, broker: number }: { zone?: string; broker?: number }): { zone: Zone; pin: number | undefined } {
    if (number === undefined) return { zone: zone === undefined ? this.primary : this.zone(zone), pin: undefined };
    const broker = this.options.brokers.find((one) => one.number === number);
    if (broker === undefined) {
      const count = this.options.brokers.length;
      throw new AmqpError("amqp-no-such", `no broker has number ${number}: there are 1 to ${count}`);
    }
    const found = this.zone(broker.zone);
    // Brokers that stand in for each other are one cluster: each leads to every queue.
    return { zone: found, pin: found.mode === "all" ? number : undefined };
  }

  private connection(choice: OperationChoice): Promise<Connection> {
    const deadline: Instant = performance.now() + (choice.timeoutMs ?? OPERATION_MS);
    const { zone, pin } = this.route(choice);
    return zone.usable(pin, deadline, undefined, { evenBlocked: true });
  }
}
