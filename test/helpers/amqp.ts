/** What tests with real brokers say again and again. */
import type { AmqpClient, Subscribed } from "../../src/amqp/client.ts";
import type { Delivery } from "../../src/amqp/message.ts";
import type { Subscription } from "../../src/amqp/subscription.ts";
import { until } from "./wait.ts";

const WAIT_MS = 30_000;

/** A durable queue by its name, nothing bound. */
export function subscription(queue: string, more: Partial<Subscription> = {}): Subscription {
  const definition = { name: queue, durable: true, autoDelete: false, exclusive: false, passive: false };
  const rest = { exchangeBindings: [], routing: [], noAck: false, prefetch: 50, federate: false };
  return { queue: definition, ...rest, ...more };
}

/** Takes everything out of a queue. @returns the bodies, as text */
export async function drain(client: AmqpClient, queue: string): Promise<Set<string>> {
  const found = new Set<string>();
  const subscribed = client.subscribe(subscription(queue, { noAck: true, prefetch: 0 }), {
    delivered: ({ body }) => void found.add(Buffer.from(body).toString()),
    lost: () => undefined,
  });
  await subscribed.ready;
  await until(
    async () => {
      const before = found.size;
      const [reply] = await client.topology([{ do: "declare-queue", name: queue, passive: true }]);
      return reply?.messages === 0 && found.size === before;
    },
    WAIT_MS,
    `${queue} is empty`,
  );
  await subscribed.close();
  return found;
}

/** Subscribes and acknowledges each delivery. @returns the subscription, and `take` of each delivery, as they come */
export function collect<T>(
  client: AmqpClient,
  wanted: Subscription,
  take: (delivery: Delivery) => T,
): { got: T[]; subscribed: Subscribed } {
  const got: T[] = [];
  const subscribed = client.subscribe(wanted, {
    delivered: (delivery, tag) => {
      got.push(take(delivery));
      tag.ack();
    },
    lost: () => undefined,
  });
  return { got, subscribed };
}

/** Subscribes a queue to all that is published to a topic exchange from now on. @returns what comes, as it comes */
export async function watch(client: AmqpClient, exchange: string, queue: string): Promise<Delivery[]> {
  const definition = {
    name: exchange,
    type: "topic",
    durable: true,
    autoDelete: false,
    internal: false,
    passive: false,
  };
  const wanted = subscription(queue, { exchange: definition, routing: ["#"], prefetch: 100 });
  const { got, subscribed } = collect(client, wanted, (delivery) => delivery);
  await client.ready(WAIT_MS);
  await subscribed.ready;
  return got;
}
