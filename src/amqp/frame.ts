/** Our messages in the library's words, and the library's in ours. */
import type { Message, PublishOptions } from "./connection.ts";
import type { Delivery, Headers, HeaderValue, Publication } from "./message.ts";
import type { BrokerUrl } from "./url.ts";

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** Says that a message may be here for the second time. */
export const REPEAT_HEADER = "x-dmq-repeat";

/** @param messageId  always there, so that a return can be told from another, and a repeat is known as one */
export function optionsOf(message: Publication, messageId: string): PublishOptions {
  const options: PublishOptions = {
    persistent: message.persistent ?? true,
    mandatory: message.mandatory ?? true,
    messageId,
  };
  if (message.headers !== undefined) options.headers = tableOf(message.headers);
  if (message.contentType !== undefined) options.contentType = message.contentType;
  if (message.contentEncoding !== undefined) options.contentEncoding = message.contentEncoding;
  if (message.priority !== undefined) options.priority = message.priority;
  if (message.correlationId !== undefined) options.correlationId = message.correlationId;
  if (message.replyTo !== undefined) options.replyTo = message.replyTo;
  if (message.expirationMs !== undefined) options.expiration = String(message.expirationMs);
  if (message.timestamp !== undefined) options.timestamp = message.timestamp;
  if (message.type !== undefined) options.type = message.type;
  if (message.userId !== undefined) options.userId = message.userId;
  if (message.appId !== undefined) options.appId = message.appId;
  return options;
}

export function markRepeat(options: PublishOptions): PublishOptions {
  return { ...options, headers: { ...(options.headers as Record<string, unknown> | undefined), [REPEAT_HEADER]: 1 } };
}

/** The library takes octets in a header for a table unless they are a Buffer. */
function tableOf(headers: Headers): Record<string, unknown> {
  // Without a prototype, so that `__proto__` is a name like others.
  const table: Record<string, unknown> = Object.create(null);
  for (const name of Object.keys(headers)) table[name] = amqpValue(headers[name] as HeaderValue);
  return table;
}

function amqpValue(value: HeaderValue): unknown {
  if (value instanceof Uint8Array) return bufferOf(value);
  if (Array.isArray(value)) return value.map(amqpValue);
  return typeof value === "object" && value !== null ? tableOf(value as Headers) : value;
}

/** The same octets, not a copy. */
export function bufferOf(body: Uint8Array): Buffer {
  return Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength);
}

const PERSISTENT = 2;

/** @param queue  it was consumed from */
export function deliveryOf(message: Message, queue: string, broker: BrokerUrl): Delivery {
  const { fields, properties } = message;
  const delivery: Mutable<Delivery> = {
    exchange: fields.exchange,
    routingKey: fields.routingKey,
    body: message.content,
    queue,
    redelivered: fields.redelivered,
    broker,
    persistent: properties.deliveryMode === PERSISTENT,
  };
  const { headers } = properties;
  if (headers !== undefined && !isEmpty(headers)) delivery.headers = headers as Headers;
  const deliveries = headers?.["x-delivery-count"];
  if (typeof deliveries === "number") delivery.deliveryCount = deliveries;
  if (properties.contentType !== undefined) delivery.contentType = properties.contentType;
  if (properties.contentEncoding !== undefined) delivery.contentEncoding = properties.contentEncoding;
  if (properties.priority !== undefined) delivery.priority = properties.priority;
  if (properties.correlationId !== undefined) delivery.correlationId = properties.correlationId;
  if (properties.replyTo !== undefined) delivery.replyTo = properties.replyTo;
  if (isNumber(properties.expiration)) delivery.expirationMs = Number(properties.expiration);
  if (properties.messageId !== undefined) delivery.messageId = properties.messageId;
  if (typeof properties.timestamp === "number") delivery.timestamp = properties.timestamp;
  if (properties.type !== undefined) delivery.type = properties.type;
  if (properties.userId !== undefined) delivery.userId = properties.userId;
  if (properties.appId !== undefined) delivery.appId = properties.appId;
  return delivery;
}

function isEmpty(headers: object): boolean {
  for (const _ in headers) return false;
  return true;
}

/** Expirations travel as text, which another client may have written. */
function isNumber(text: unknown): boolean {
  return typeof text === "string" && text !== "" && Number.isFinite(Number(text));
}
