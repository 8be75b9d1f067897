/** One message, by polling. */
import type { Channel, Connection, GetMessage } from "./connection.ts";
import { deliveryOf } from "./frame.ts";
import type { Delivery } from "./message.ts";
import { refusal } from "./topology.ts";

/** A message that was fetched and is not settled yet; when the connection ends it is back in its queue. */
export interface Fetched {
  readonly delivery: Delivery;
  /** Messages that are left in the queue. */
  readonly left: number;
  /** @throws AmqpError  `amqp-timeout` where the connection is gone: it will come again */
  ack(): Promise<void>;
  /** Back into the queue. */
  requeue(): Promise<void>;
}

/** @returns `undefined` where the queue is empty. @throws AmqpError */
export async function fetchOne(connection: Connection, queue: string): Promise<Fetched | undefined> {
  const channel = await connection.channel();
  let message: GetMessage | false;
  try {
    message = await channel.get(queue, { noAck: false });
  } catch (error) {
    throw refusal(error, `get from ${queue}`);
  }
  if (message === false) {
    await channel.close().catch(() => undefined);
    return undefined;
  }
  const found = message;
  return {
    delivery: deliveryOf(found, queue, connection.broker),
    left: found.fields.messageCount,
    ack: () => settle(channel, queue, () => channel.ack(found)),
    requeue: () => settle(channel, queue, () => channel.reject(found, true)),
  };
}

/** The answer to the closing of the channel says that what was said before it has arrived. */
async function settle(channel: Channel, queue: string, say: () => void): Promise<void> {
  try {
    say();
    await channel.close();
  } catch (error) {
    throw refusal(error, `settle a message of ${queue}`);
  }
}
