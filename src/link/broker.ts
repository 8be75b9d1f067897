/** What links need of a broker's client, and how it is told what is to be there: exchanges to publish to, queues to consume. */
import type { AmqpClient, PublishChoice, Published } from "../amqp/client.ts";
import { AmqpError } from "../amqp/error.ts";
import type { Publication } from "../amqp/message.ts";
import type { ExchangeDefinition, Subscription } from "../amqp/subscription.ts";
import type { Duration } from "../core/time.ts";
import type { Exchange, Source } from "./kinds.ts";
import { exchangePlace } from "./path.ts";

export type Client = Pick<AmqpClient, "publish" | "subscribe" | "topology" | "on">;

export interface LinkBroker {
  client: Client;
  publisher: Publisher;
  /** Name of the bus that this node is on (`--bus`). */
  bus: string;
  /** Where is published to. */
  zone: string;
  /** Number of the broker that locks are taken at, where brokers know nothing of one another. */
  lockAt: number | undefined;
  /** After twice this time a broker gives up a connection that is silent; 0: never. */
  heartbeatMs: Duration;
}

const DECLARE_MS: Duration = 5_000;

/** An exchange, on the connection that there is. */
interface Declared {
  readonly asked: Promise<void>;
  isThere: boolean;
}

/** Publishes, and sees to it that the exchanges of links are there. */
export class Publisher {
  private readonly client: Pick<Client, "publish" | "topology" | "on">;
  private readonly exchanges = new Map<string, Exchange>();
  private readonly declared = new Map<string, Declared>();
  private readonly end: () => void;

  constructor(client: Pick<Client, "publish" | "topology" | "on">) {
    this.client = client;
    // The next broker need not have what the last one had.
    this.end = client.on("connection", ({ state }) => {
      if (state === "closed") this.declared.clear();
    });
  }

  /** From now on it is declared before anything is published there. */
  keep(exchange: Exchange): void {
    this.exchanges.set(exchange.name, exchange);
  }

  /** @throws AmqpError  as the client's; an exchange that cannot be declared is `amqp-refused` */
  async publish(message: Publication, choice: PublishChoice = {}): Promise<Published> {
    const exchange = this.exchanges.get(message.exchange);
    if (exchange === undefined) return this.client.publish(message, choice);
    if (this.declared.get(exchange.name)?.isThere !== true) await this.declare(exchange);
    try {
      return await this.client.publish(message, choice);
    } catch (error) {
      if (!(error instanceof AmqpError) || error.code !== "amqp-no-such") throw error;
      this.declared.delete(exchange.name);
      await this.declare(exchange);
      return this.client.publish(message, choice);
    }
  }

  /** Once for each connection. Where nobody can be asked it is left to the publishing to find out what is wrong. */
  private declare(exchange: Exchange): Promise<void> {
    const known = this.declared.get(exchange.name);
    if (known !== undefined) return known.asked;
    const declared: Declared = { asked: this.ask(exchange), isThere: false };
    this.declared.set(exchange.name, declared);
    const settle = (): void => {
      declared.isThere = true;
    };
    // Those that wait for it go first.
    declared.asked.then(
      () => setImmediate(settle),
      () => undefined,
    );
    return declared.asked;
  }

  private async ask(exchange: Exchange): Promise<void> {
    try {
      const step = { do: "declare-exchange" as const, ...definitionOf(exchange) };
      await this.client.topology([step], { timeoutMs: DECLARE_MS });
    } catch (error) {
      this.declared.delete(exchange.name);
      if (error instanceof AmqpError && error.code === "amqp-refused") throw error;
    }
  }

  close(): void {
    this.end();
  }
}

function definitionOf({ name, type, durable }: Exchange): ExchangeDefinition {
  return { name, type, durable, autoDelete: false, internal: false, passive: false };
}

/** The same on every node of the bus that has this link: each message goes to one of them. */
export function queueOf({ source, name }: { source: Source; name: string }, bus: string): string {
  return source.queue ?? `dmq.${bus}.${name}`;
}

export function subscriptionOf(link: { source: Source; name: string }, bus: string): Subscription {
  const { exchange, routing, declare, durable, ordered, prefetch } = link.source;
  const passive = !declare;
  const isBound = exchange !== undefined;
  return {
    ...(isBound && { exchange: { ...definitionOf(exchange), passive: passive || exchange.name.startsWith("amq.") } }),
    exchangeBindings: [],
    queue: {
      ...{ name: queueOf(link, bus), durable, autoDelete: false, exclusive: false, passive },
      ...(ordered && !passive && { arguments: { "x-single-active-consumer": true } }),
    },
    routing: isBound ? [routing] : [],
    noAck: false,
    prefetch,
    federate: false,
  };
}

/** @returns where a delivery comes from, as paths have it */
export function placeOf(source: Source, exchange: string, zone: string): string {
  return exchangePlace(zone, source.exchange?.name ?? exchange);
}
