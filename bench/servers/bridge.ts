/**
 * What somebody would write who has our node as a library and the broker's library: each message of channel `bench` is published, and
 * answered 200 when the broker has confirmed it, 503 when it has not, or no queue takes it. Says `ready` when it may be sent to.
 *
 *   bridge ADDRESS URL EXCHANGE KEY
 */
import amqplib from "amqplib";
import { createNode } from "../../src/index.ts";

const [address = "sip:127.0.0.1:0", url = "", exchange = "", key = ""] = process.argv.slice(2);

const connection = await amqplib.connect(url);
const channel = await connection.createConfirmChannel();
/** Ids of messages that came back; their confirm follows. */
const returned = new Set<string>();
channel.on("return", ({ properties }) => returned.add(properties.messageId));

await createNode({ serverAddress: address }, (node) => {
  const publish = (body: Uint8Array, contentType: string, from: string): Promise<number> => {
    const { promise, resolve } = Promise.withResolvers<number>();
    const about = { contentType, timestamp: Math.floor(Date.now() / 1_000), headers: { "x-dmq-from": from } };
    const messageId = crypto.randomUUID();
    const options = { persistent: true, mandatory: true, messageId, ...about };
    const isTaken = (error: unknown): boolean => error === null && !returned.delete(messageId);
    channel.publish(exchange, key, Buffer.from(body), options, (error) => resolve(isTaken(error) ? 200 : 503));
    return promise;
  };
  node.channel("bench", ({ body, contentType, from }) => publish(body, contentType ?? "text/plain", from), {
    mode: "inline",
  });
});
console.log("ready");
