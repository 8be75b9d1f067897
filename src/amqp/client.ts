/**
 * A client of one or several brokers: keeps connections for ever, publishes with confirms, asks, and consumes.
 *
 * What was given to `publish` is kept until a broker has confirmed it, and sent again on the next connection; subscriptions are set up
 * again. Zones are independent of each other.
 */
import type { Logger } from "../core/logger.ts";
import type { AmqpTls } from "./connection.ts";
import type { Delivery, Publication } from "./message.ts";
import type { Subscription } from "./subscription.ts";
import type { TopologyReply, TopologyStep } from "./topology.ts";
import type { BrokerUrl } from "./url.ts";

/** `failover`: one broker at a time; `all`: every broker, publishing to the first that is connected. */
export type Mode = "failover" | "all";

export interface AmqpOptions {
  readonly brokers: readonly BrokerUrl[];
  /** Of zones that `modes` does not name; default `failover`. */
  readonly mode?: Mode;
  readonly modes?: Readonly<Record<string, Mode>>;
  /** Where to publish and to consume; default: the zone of the first broker. */
  readonly primaryZone?: string;
  /** In `failover`: back to a better-placed broker when it answers again. */
  readonly prefer?: "first";
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

export interface Published {
  readonly broker: BrokerUrl;
  /** How often it was sent again. */
  readonly repeats: number;
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

/** What is said of one delivery, once. */
export interface DeliveryTag {
  /** @returns false where the channel is gone: the broker will deliver it again */
  ack(): boolean;
  /** Without `requeue` it goes to the queue's dead-letter exchange, if it has one. */
  reject(requeue: boolean): boolean;
}

export interface DeliverySink {
  /** With `noAck` the tag is of no effect. */
  delivered(delivery: Delivery, tag: DeliveryTag): void;
  /** All of a channel that were not settled: the broker has them again. */
  lost(tags: readonly DeliveryTag[]): void;
}

export interface ConsumerStatus {
  readonly broker: number;
  readonly state: "consuming" | "setting-up" | "refused";
  readonly queue: string | undefined;
  readonly unsettled: number;
  readonly lastError: string | undefined;
}

export interface Subscribed {
  /** Consuming for the first time; rejects if a broker refuses the first time, and it is tried again nevertheless. */
  readonly ready: Promise<void>;
  status(): readonly ConsumerStatus[];
  close(): Promise<void>;
}

/** A message that was fetched, and not settled yet. */
export interface Fetched {
  readonly delivery: Delivery;
  ack(): Promise<void>;
  requeue(): Promise<void>;
}

export interface BrokerStatus {
  readonly number: number;
  readonly zone: string;
  /** Without the password. */
  readonly broker: string;
  readonly state: "connected" | "connecting" | "waiting" | "refused" | "standby";
  readonly address: string | undefined;
  readonly blocked: string | undefined;
  readonly lastError: string | undefined;
}

export interface AmqpStatus {
  readonly brokers: readonly BrokerStatus[];
  readonly publisher: {
    readonly unconfirmed: number;
    readonly unconfirmedBytes: number;
    readonly waiting: number;
    readonly waitingBytes: number;
    readonly confirmed: number;
    readonly repeated: number;
    readonly returned: number;
    readonly refused: number;
  };
  readonly subscriptions: readonly (readonly ConsumerStatus[])[];
}

export interface ConnectionEvent {
  readonly state: "open" | "closed";
  readonly broker: BrokerUrl;
  readonly why?: string;
}

export class AmqpClient {
  readonly options: AmqpOptions;

  constructor(options: AmqpOptions) {
    this.options = options;
  }

  /** Begins to connect, for ever. */
  start(): void {
    throw new Error("not done yet");
  }

  /**
   * Waits for a connection to publish on.
   *
   * @throws AmqpError  `amqp-unreachable`, `amqp-login` or `amqp-no-such` (virtual host), with what each broker said
   */
  ready(_timeoutMs: number): Promise<void> {
    throw new Error("not done yet");
  }

  /**
   * Resolves when a broker has confirmed the message.
   *
   * @throws AmqpError  `amqp-refused` unroutable, denied, too large, nack; `amqp-no-such`; `amqp-timeout` may have been delivered;
   *                    `amqp-unreachable` was never sent; `amqp-invalid`
   */
  publish(_message: Publication, _choice: PublishChoice = {}): Promise<Published> {
    throw new Error("not done yet");
  }

  /** @throws AmqpError  as `publish`; `amqp-timeout` without an answer in time */
  query(_message: Publication, _choice: QueryChoice): Promise<Delivery[]> {
    throw new Error("not done yet");
  }

  subscribe(_subscription: Subscription, _sink: DeliverySink): Subscribed {
    throw new Error("not done yet");
  }

  /** @throws AmqpError  `amqp-no-such` where there is no such queue */
  get(_queue: string, _choice: { timeoutMs: number; zone?: string }): Promise<Fetched | undefined> {
    throw new Error("not done yet");
  }

  /** @throws AmqpError  of the first step that is refused */
  topology(_steps: readonly TopologyStep[], _choice?: { timeoutMs?: number; zone?: string }): Promise<TopologyReply[]> {
    throw new Error("not done yet");
  }

  status(): AmqpStatus {
    throw new Error("not done yet");
  }

  /** @returns ends the listening */
  on(_event: "connection", _listener: (event: ConnectionEvent) => void): () => void {
    throw new Error("not done yet");
  }

  /** Within a second; what is not confirmed then is rejected with `amqp-timeout`. */
  close(): Promise<void> {
    throw new Error("not done yet");
  }
}
