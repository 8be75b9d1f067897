/**
 * A broker within the test, with as much of AMQP as links use: topic exchanges, queues, mandatory, acknowledgements, prefetch, exclusive
 * queues, one active consumer, and connections that can be cut. What a real one does is for test/amqp to show.
 */
import type { DeliverySink, DeliveryTag, Published, Subscribed } from "../../src/amqp/client.ts";
import { AmqpError } from "../../src/amqp/error.ts";
import type { Delivery, Publication } from "../../src/amqp/message.ts";
import type { Subscription } from "../../src/amqp/subscription.ts";
import type { TopologyReply, TopologyStep } from "../../src/amqp/topology.ts";
import { type BrokerUrl, parseBrokers } from "../../src/amqp/url.ts";
import type { Client } from "../../src/link/broker.ts";

const BROKER = parseBrokers(["amqp://127.0.0.1"])[0] as BrokerUrl;

interface Waiting {
  message: Publication;
  redelivered: boolean;
}

interface Queue {
  name: string;
  owner: FakeClient | undefined;
  waiting: Waiting[];
  consumers: Consumer[];
  isSingle: boolean;
}

interface Consumer {
  client: FakeClient;
  queue: Queue;
  sink: DeliverySink;
  prefetch: number;
  pending: Map<DeliveryTag, Waiting>;
}

export class FakeBroker {
  readonly exchanges = new Set<string>([""]);
  readonly queues = new Map<string, Queue>();
  readonly bindings: { exchange: string; key: string; queue: string }[] = [];
  /** All that was confirmed. */
  readonly published: Publication[] = [];
  /** What was rejected without requeue. */
  readonly rejected: Publication[] = [];

  client(): FakeClient {
    return new FakeClient(this);
  }

  /** A queue that is there before anybody asks for it. */
  queue(name: string, more: Partial<Queue> = {}): Queue {
    const queue = { name, owner: undefined, waiting: [], consumers: [], isSingle: false, ...more };
    this.queues.set(name, queue);
    return queue;
  }

  /** @throws AmqpError as a broker answers */
  route(message: Publication): void {
    if (!this.exchanges.has(message.exchange))
      throw new AmqpError("amqp-no-such", `no exchange ${message.exchange}`, { replyCode: 404 });
    const names = new Set(
      this.bindings
        .filter(({ exchange, key }) => exchange === message.exchange && matches(key, message.routingKey))
        .map(({ queue }) => queue),
    );
    if (message.exchange === "" && this.queues.has(message.routingKey)) names.add(message.routingKey);
    if (names.size === 0 && message.mandatory !== false)
      throw new AmqpError("amqp-refused", "unroutable", { replyCode: 312 });
    this.published.push(message);
    for (const name of names) this.put(name, message);
  }

  /** From somebody else. */
  put(name: string, message: Publication): void {
    const queue = this.queues.get(name) as Queue;
    queue.waiting.push({ message, redelivered: false });
    this.deliver(queue);
  }

  deliver(queue: Queue): void {
    const consumers = queue.isSingle ? queue.consumers.slice(0, 1) : queue.consumers;
    for (const consumer of consumers) {
      while (queue.waiting.length > 0 && consumer.pending.size < consumer.prefetch) {
        const one = queue.waiting.shift() as Waiting;
        const tag = this.tagOf(consumer, one);
        consumer.pending.set(tag, one);
        consumer.sink.delivered(deliveryOf(queue.name, one), tag);
      }
    }
  }

  private tagOf(consumer: Consumer, one: Waiting): DeliveryTag {
    const settle = (then: () => void): boolean => {
      const isOurs = [...consumer.pending].some(([tag, pending]) => pending === one && consumer.pending.delete(tag));
      if (isOurs) {
        then();
        queueMicrotask(() => this.deliver(consumer.queue));
      }
      return isOurs;
    };
    return {
      ack: () => settle(() => {}),
      reject: (requeue) =>
        settle(() => {
          if (requeue) consumer.queue.waiting.unshift({ ...one, redelivered: true });
          else this.rejected.push(one.message);
        }),
    };
  }

  /** As when a connection ends. */
  drop(client: FakeClient): void {
    for (const queue of [...this.queues.values()]) {
      if (queue.owner === client) this.queues.delete(queue.name);
      for (const consumer of queue.consumers.filter((one) => one.client === client)) this.leave(consumer);
    }
  }

  leave(consumer: Consumer): void {
    const { queue, pending, sink } = consumer;
    queue.consumers = queue.consumers.filter((one) => one !== consumer);
    const tags = [...pending.keys()];
    queue.waiting.unshift(...[...pending.values()].map((one) => ({ ...one, redelivered: true })));
    pending.clear();
    sink.lost(tags);
    this.deliver(queue);
  }
}

function deliveryOf(queue: string, { message, redelivered }: Waiting): Delivery {
  const { mandatory, confirm, ...rest } = message;
  return { ...rest, queue, redelivered, broker: BROKER };
}

/** Topic patterns with a `#` at the end, or none. */
function matches(pattern: string, key: string): boolean {
  const words = pattern.split(".");
  if (words.at(-1) !== "#") return pattern === key;
  const fixed = words.slice(0, -1);
  return fixed.every((word, index) => word === key.split(".")[index]);
}

type Listener = Parameters<Client["on"]>[1];

export class FakeClient implements Client {
  private readonly broker: FakeBroker;
  private readonly listeners = new Set<Listener>();
  private readonly subscriptions = new Map<Subscription, DeliverySink>();
  private up = Promise.withResolvers<void>();
  private isUp = true;
  /** Times that an exchange was declared. */
  declared = 0;

  constructor(broker: FakeBroker) {
    this.broker = broker;
    this.up.resolve();
  }

  /** The connection is gone, and no new one is to be had. */
  cut(): void {
    this.isUp = false;
    this.up = Promise.withResolvers();
    this.broker.drop(this);
    for (const listener of this.listeners) listener({ state: "closed", broker: BROKER, why: "cut" });
  }

  mend(): void {
    this.isUp = true;
    this.up.resolve();
    for (const [subscription, sink] of this.subscriptions) this.consume(subscription, sink);
    for (const listener of this.listeners) listener({ state: "open", broker: BROKER });
  }

  async publish(
    message: Publication,
    { timeoutMs, signal }: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<Published> {
    await this.waitUp(timeoutMs, signal);
    // What it says of a closed channel comes later than the call.
    await Bun.sleep(0);
    this.broker.route(message);
    return { broker: BROKER, repeats: 0 };
  }

  private async waitUp(timeoutMs: number | undefined, signal: AbortSignal | undefined): Promise<void> {
    const late = Promise.withResolvers<never>();
    const fail = (): void => late.reject(new AmqpError("amqp-unreachable", "no broker was there in time"));
    const timer = timeoutMs === undefined ? undefined : setTimeout(fail, timeoutMs);
    signal?.addEventListener("abort", fail);
    try {
      await Promise.race([this.up.promise, late.promise]);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", fail);
    }
  }

  subscribe(subscription: Subscription, sink: DeliverySink): Subscribed {
    this.subscriptions.set(subscription, sink);
    const ready = Promise.resolve();
    if (this.isUp) this.consume(subscription, sink);
    const close = async (): Promise<void> => {
      this.subscriptions.delete(subscription);
      for (const { consumers } of this.broker.queues.values())
        for (const consumer of consumers.filter((one) => one.sink === sink)) this.broker.leave(consumer);
    };
    return { ready, status: () => [], close };
  }

  private consume({ exchange, queue: definition, routing, prefetch }: Subscription, sink: DeliverySink): void {
    const isSingle = definition.arguments?.["x-single-active-consumer"] === true;
    const queue = this.broker.queues.get(definition.name) ?? this.broker.queue(definition.name, { isSingle });
    if (exchange !== undefined) {
      this.broker.exchanges.add(exchange.name);
      for (const key of routing) this.broker.bindings.push({ exchange: exchange.name, key, queue: queue.name });
    }
    queue.consumers.push({ client: this, queue, sink, prefetch, pending: new Map() });
    queueMicrotask(() => this.broker.deliver(queue));
  }

  async topology(steps: readonly TopologyStep[]): Promise<TopologyReply[]> {
    if (!this.isUp) throw new AmqpError("amqp-unreachable", "no broker is there");
    return steps.map((step) => {
      if (step.do === "declare-exchange") {
        this.declared++;
        this.broker.exchanges.add(step.name);
      }
      if (step.do !== "declare-queue") return {};
      const name = step.name ?? "";
      const owner = this.broker.queues.get(name)?.owner;
      if (owner !== undefined && owner !== this) throw new AmqpError("amqp-refused", "locked", { replyCode: 405 });
      if (owner === undefined) this.broker.queue(name, step.exclusive === true ? { owner: this } : {});
      return { queue: name };
    });
  }

  on(_event: "connection", listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}
