/**
 * A subscription on the connections there are: on each a channel of its own, set up again after whatever ended it.
 *
 * Deliveries that were not settled when a channel ends are lost to us: the broker has them again, and their tags do nothing any more.
 */
import type { Logger } from "../core/logger.ts";
import type { Instant } from "../core/time.ts";
import { blamesUs, type Channel, type Connection, type ConsumeMessage, codeOf, type Ended } from "./connection.ts";
import { AmqpError } from "./error.ts";
import { deliveryOf } from "./frame.ts";
import type { Delivery } from "./message.ts";
import type { QueueDefinition, Subscription } from "./subscription.ts";
import { bindingsOf, declarationsOf, performStep, refusal } from "./topology.ts";

/** What is said of one delivery, once. */
export interface DeliveryTag {
  /** @returns false where it was settled before or the channel is gone: the broker delivers it again then */
  ack(): boolean;
  /** Without `requeue` it goes to the queue's dead-letter exchange, if it has one. @returns as `ack` */
  reject(requeue: boolean): boolean;
}

export interface DeliverySink {
  /** With `noAck` the tag is of no effect. */
  delivered(delivery: Delivery, tag: DeliveryTag): void;
  /** All of a channel that were not settled: the broker has them again. */
  lost(tags: readonly DeliveryTag[]): void;
}

export interface ConsumerStatus {
  /** The broker's number. */
  readonly broker: number;
  readonly state: "consuming" | "setting-up" | "refused";
  /** As the broker calls it. */
  readonly queue: string | undefined;
  readonly unsettled: number;
  readonly lastError: string | undefined;
}

export interface Subscribed {
  /** Consuming for the first time; rejects if a broker refuses the first time, and it is tried again nevertheless. */
  readonly ready: Promise<void>;
  status(): readonly ConsumerStatus[];
  /** Deliveries that are not settled go back to the queue. */
  close(): Promise<void>;
}

const PRECONDITION_FAILED = 406;
const INTERNAL_ERROR = 541;
/** Pauses before the next try: after a conflict of definitions, and after anything else, which doubles. */
const CONFLICT_MS = 60_000;
const PAUSE_MS = 200;
const PAUSE_MS_MAX = 5_000;
/** Half an hour: how long a queue lives that should have gone with its last consumer. */
const EXPIRES_MS = 1_800_000;
/** How long the broker may take to end a consumer. */
const CLOSE_MS = 1_000;

class Tag implements DeliveryTag {
  private readonly consumer: Consumer;
  private readonly message: ConsumeMessage;

  constructor(consumer: Consumer, message: ConsumeMessage) {
    this.consumer = consumer;
    this.message = message;
  }

  ack(): boolean {
    return this.consumer.settle(this, (channel) => channel.ack(this.message));
  }

  reject(requeue: boolean): boolean {
    return this.consumer.settle(this, (channel) => channel.reject(this.message, requeue));
  }
}

/** One channel's worth of a subscription. */
class Consumer {
  readonly connection: Connection;
  private readonly owner: Consumers;
  private channel: Channel | undefined;
  private queue: string | undefined;
  private unsettled = new Set<DeliveryTag>();
  private failure: Ended | undefined;
  private lastError: AmqpError | undefined;
  private pause = PAUSE_MS;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private isSettingUp = false;
  private isOver = false;

  constructor(owner: Consumers, connection: Connection) {
    this.owner = owner;
    this.connection = connection;
  }

  status(): ConsumerStatus {
    return {
      broker: this.connection.broker.number,
      state: this.channel !== undefined ? "consuming" : this.lastError === undefined ? "setting-up" : "refused",
      queue: this.queue,
      unsettled: this.unsettled.size,
      lastError: this.lastError?.message,
    };
  }

  /** Consumes, or comes back to it later. */
  async setUp(): Promise<void> {
    if (this.isOver || this.isSettingUp) return;
    this.isSettingUp = true;
    try {
      await this.consume();
      this.lastError = undefined;
      this.owner.isReady();
    } catch (error) {
      this.lastError = error as AmqpError;
      if (!this.isOver) this.comeBack(this.lastError);
    } finally {
      this.isSettingUp = false;
    }
  }

  settle(tag: DeliveryTag, say: (channel: Channel) => void): boolean {
    if (!this.unsettled.delete(tag) || this.channel === undefined) return false;
    try {
      say(this.channel);
      return true;
    } catch {
      // The channel is closing: the broker keeps what it was not told.
      return false;
    }
  }

  /** The connection, or the subscription, is over. */
  end(): void {
    this.isOver = true;
    clearTimeout(this.timer);
    this.lose();
  }

  async close(): Promise<void> {
    const { channel } = this;
    this.end();
    if (channel === undefined) return;
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, CLOSE_MS);
    await Promise.race([channel.close().catch(() => undefined), limit.promise]);
    clearTimeout(timer);
  }

  private async consume(): Promise<void> {
    const { subscription } = this.owner;
    const connection = await this.connection.forConsumers();
    connection.onEnd((ended) => {
      if (this.isSettingUp && blamesUs(ended)) this.owner.isBlamed(ended);
    });
    const channel = await connection.channel();
    this.failure = undefined;
    channel.on("error", (error) => {
      this.failure = { text: error.message, replyCode: codeOf(error) };
    });
    channel.on("close", () => this.onChannelEnd(channel));
    const queue = await declare(channel, this.owner.definition());
    if (subscription.prefetch > 0) await channel.prefetch(subscription.prefetch);
    // Deliveries may come before the answer to this is worked off.
    this.queue = queue;
    this.channel = channel;
    try {
      await channel.consume(queue, (message) => this.onMessage(channel, message), {
        noAck: subscription.noAck,
        exclusive: subscription.exclusiveConsumer ?? false,
        ...(subscription.consumerArguments === undefined ? {} : { arguments: subscription.consumerArguments }),
      });
    } catch (error) {
      this.channel = undefined;
      throw refusal(error, `consume ${queue}`);
    }
    this.pause = PAUSE_MS;
  }

  private onMessage(channel: Channel, message: ConsumeMessage | null): void {
    if (message === null) {
      this.onCancelled(channel);
      return;
    }
    if (channel !== this.channel) return;
    const { noAck } = this.owner.subscription;
    const tag = noAck ? NO_TAG : new Tag(this, message);
    if (!noAck) this.unsettled.add(tag);
    this.owner.sink.delivered(deliveryOf(message, this.queue ?? "", this.connection.broker), tag);
  }

  /** The queue was deleted, or its node is gone. */
  private onCancelled(channel: Channel): void {
    if (channel !== this.channel) return;
    this.failure = { text: "the broker cancelled the consumer: its queue was deleted, or moved", replyCode: undefined };
    channel.close().catch(() => undefined);
    this.onChannelEnd(channel);
  }

  private onChannelEnd(channel: Channel): void {
    if (channel !== this.channel) return;
    this.lose();
    if (this.failure === undefined || this.isOver || !this.connection.isOpen) return;
    const { text, replyCode } = this.failure;
    this.failure = undefined;
    this.lastError = refusal(Object.assign(new Error(text), { code: replyCode ?? 0 }), `consume ${this.queue}`);
    this.owner.log?.warn("consumer ended by the broker", { queue: this.queue, reason: text });
    this.again(PAUSE_MS);
  }

  private lose(): void {
    this.channel = undefined;
    if (this.unsettled.size === 0) return;
    const lost = [...this.unsettled];
    this.unsettled = new Set();
    this.owner.sink.lost(lost);
  }

  private comeBack(error: AmqpError): void {
    if (error.code === "amqp-unreachable" || error.code === "amqp-timeout" || !this.connection.isOpen) {
      // With the connection goes this consumer; the next one begins anew.
      if (this.connection.isOpen) this.again(this.nextPause());
      return;
    }
    this.owner.isRefused(error);
    this.again(error.replyCode === PRECONDITION_FAILED ? CONFLICT_MS : this.nextPause());
  }

  private nextPause(): number {
    const { pause } = this;
    this.pause = Math.min(pause * 2, PAUSE_MS_MAX);
    return pause;
  }

  /** Sets it up after so long. */
  again(ms: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.setUp(), ms);
  }
}

const NO_TAG: DeliveryTag = { ack: () => false, reject: () => false };

/** @returns the queue's name */
async function declare(channel: Channel, subscription: Subscription): Promise<string> {
  let queue = subscription.queue.name;
  for (const step of declarationsOf(subscription)) queue = (await performStep(channel, step)).queue ?? queue;
  for (const step of bindingsOf(subscription, queue)) await performStep(channel, step);
  return queue;
}

export class Consumers implements Subscribed {
  readonly subscription: Subscription;
  readonly sink: DeliverySink;
  readonly log: Logger | undefined;
  readonly ready: Promise<void>;
  private readonly consumers = new Map<Connection, Consumer>();
  private readonly started = Promise.withResolvers<void>();
  private readonly forget: (self: Consumers) => void;
  private isDurable = false;
  /** To be set up alone. */
  isSuspect = false;
  private refusedUntil: Instant = Number.NEGATIVE_INFINITY;
  private lastRefusal: string | undefined;

  constructor(
    subscription: Subscription,
    sink: DeliverySink,
    log: Logger | undefined,
    forget: (self: Consumers) => void,
  ) {
    this.subscription = subscription;
    this.sink = sink;
    this.log = log;
    this.forget = forget;
    this.ready = this.started.promise;
    this.ready.catch(() => undefined);
  }

  status(): ConsumerStatus[] {
    return [...this.consumers.values()].map((consumer) => consumer.status());
  }

  /** @returns when it consumes there, or is refused */
  async attach(connection: Connection): Promise<void> {
    const consumer = new Consumer(this, connection);
    this.consumers.set(connection, consumer);
    connection.onEnd(() => {
      consumer.end();
      this.consumers.delete(connection);
    });
    const rest = this.refusedUntil - performance.now();
    if (rest > 0) consumer.again(rest);
    else await consumer.setUp();
  }

  async detach(connection: Connection): Promise<void> {
    const consumer = this.consumers.get(connection);
    this.consumers.delete(connection);
    await consumer?.close();
  }

  async close(): Promise<void> {
    this.forget(this);
    this.started.reject(new AmqpError("amqp-unreachable", "the subscription was closed"));
    await Promise.all([...this.consumers.values()].map((consumer) => consumer.close()));
    this.consumers.clear();
  }

  isReady(): void {
    this.lastRefusal = undefined;
    this.started.resolve();
  }

  isRefused(error: AmqpError): void {
    if (this.lastRefusal !== error.message) this.log?.warn("subscription refused", { reason: error.message });
    this.lastRefusal = error.message;
    this.started.reject(error);
  }

  /**
   * The broker ended the connection while this was set up: a queue or an exchange that it cannot bear. Others may have been set up
   * beside it, so next time it is set up alone; if that ends the connection again, it is not tried for a minute.
   */
  isBlamed({ text, replyCode }: Ended): void {
    if (replyCode === INTERNAL_ERROR && this.makeDurable()) return;
    if (this.isSuspect) {
      this.refusedUntil = performance.now() + CONFLICT_MS;
      this.isRefused(new AmqpError("amqp-refused", `consume ${this.subscription.queue.name}: ${text}`, { replyCode }));
    }
    this.isSuspect = !this.isSuspect;
  }

  /** What is declared: as it was asked for, or with a queue that newer brokers allow. */
  definition(): Subscription {
    return this.isDurable ? { ...this.subscription, queue: durable(this.subscription.queue) } : this.subscription;
  }

  /** RabbitMQ refuses from 4.3 on what kazoo uses, queues that are neither durable nor exclusive; there is another way. */
  private makeDurable(): boolean {
    const { durable: isDurable, exclusive, passive } = this.subscription.queue;
    if (this.isDurable || isDurable || exclusive || passive) return false;
    this.isDurable = true;
    const note =
      "the broker refuses a queue that is neither durable nor exclusive: declared durable, gone after 30 minutes unused";
    this.log?.info(note, { queue: this.subscription.queue.name });
    return true;
  }
}

function durable(queue: QueueDefinition): QueueDefinition {
  return { ...queue, durable: true, autoDelete: false, arguments: { ...queue.arguments, "x-expires": EXPIRES_MS } };
}
