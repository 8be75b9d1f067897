/** What tests with real brokers say again and again. */
import type { AmqpClient } from "../../src/amqp/client.ts";
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
