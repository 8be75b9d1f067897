/**
 * A message as it goes to a broker and comes from one, and the limits that are looked at before anything is sent: a broker, or the
 * library, would close the channel with everything that is under way on it.
 */
import { AmqpError } from "./error.ts";
import type { BrokerUrl } from "./url.ts";

/**
 * What a header may hold. Integers within ±2⁵³ go as the smallest AMQP integer that holds them, other numbers as doubles. A value of
 * another AMQP type comes and goes as `{ "!": type, value }`, for example `{ "!": "timestamp", value: 1700000000 }`.
 */
export type HeaderValue =
  | string
  | number
  | boolean
  | null
  | Uint8Array
  | readonly HeaderValue[]
  | { readonly [name: string]: HeaderValue };

export type Headers = Readonly<Record<string, HeaderValue>>;

export interface Properties {
  readonly contentType?: string;
  readonly contentEncoding?: string;
  readonly headers?: Headers;
  /** Delivery mode 2. Outgoing messages are persistent where nothing is said. */
  readonly persistent?: boolean;
  readonly priority?: number;
  readonly correlationId?: string;
  readonly replyTo?: string;
  readonly expirationMs?: number;
  readonly messageId?: string;
  /** Seconds since 1970. */
  readonly timestamp?: number;
  readonly type?: string;
  readonly userId?: string;
  readonly appId?: string;
}

export interface Publication extends Properties {
  /** Empty: the default exchange, whose routing keys are names of queues. */
  readonly exchange: string;
  readonly routingKey: string;
  /** Left as it is until the promise of `publish` is settled: it may be sent again. */
  readonly body: Uint8Array;
  /** Default true: a message that reaches no queue is an error. */
  readonly mandatory?: boolean;
  /** Default true; false ends the wait when the message was written to the connection. */
  readonly confirm?: boolean;
}

export interface Delivery extends Properties {
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: Uint8Array;
  /** The queue it comes from. */
  readonly queue: string;
  readonly redelivered: boolean;
  /** `x-delivery-count` of quorum queues. */
  readonly deliveryCount?: number;
  readonly broker: BrokerUrl;
}

/** Octets of names and of properties that are short strings (AMQP 0-9-1, 4.2.5.3). */
export const SHORT_STRING_MAX = 255;
/** Octets of all headers of a message: the library writes them into a block of this size. */
export const HEADERS_BYTES_MAX = 65_536 - 1_024;
/** RabbitMQ 4 refuses more. */
export const BODY_BYTES_MAX = 16 * 1024 ** 2;

/**
 * @throws AmqpError  `amqp-invalid` for what no broker can be told, `amqp-refused` for a body that is too large
 */
export function checkPublication(message: Publication): void {
  checkShort("exchange", message.exchange);
  checkShort("routing key", message.routingKey);
  checkShort("content type", message.contentType);
  checkShort("content encoding", message.contentEncoding);
  checkShort("correlation id", message.correlationId);
  checkShort("reply-to", message.replyTo);
  checkShort("message id", message.messageId);
  checkShort("type", message.type);
  checkShort("user id", message.userId);
  checkShort("app id", message.appId);
  checkNumber("priority", message.priority, 255);
  checkNumber("expiration", message.expirationMs, 0xffff_ffff);
  checkNumber("timestamp", message.timestamp, Number.MAX_SAFE_INTEGER);
  if (message.headers !== undefined) checkHeaders(message.headers);
  if (message.body.length > BODY_BYTES_MAX) {
    const size = `${message.body.length} octets`;
    throw new AmqpError(
      "amqp-refused",
      `a body of ${size} is larger than ${BODY_BYTES_MAX}: send less, or a reference to it`,
    );
  }
}

/** @throws AmqpError `amqp-invalid` for what is longer than a short string (names of exchanges and queues, keys) */
export function checkShort(name: string, value: string | undefined): void {
  if (value === undefined || octetsAtMost(value) <= SHORT_STRING_MAX) return;
  const size = Buffer.byteLength(value);
  if (size > SHORT_STRING_MAX) {
    throw new AmqpError("amqp-invalid", `${name} has ${size} octets, expected at most ${SHORT_STRING_MAX}`);
  }
}

/** A code unit is three octets at most. */
function octetsAtMost(text: string): number {
  return text.length * 3;
}

function checkNumber(name: string, value: number | undefined, max: number): void {
  if (value === undefined || (Number.isInteger(value) && value >= 0 && value <= max)) return;
  throw new AmqpError("amqp-invalid", `${name} is ${value}, expected an integer from 0 to ${max}`);
}

function checkHeaders(headers: Headers): void {
  for (const name of Object.keys(headers)) checkShort("the name of a header", name);
  // Most are so few that nobody need count.
  if (sizeOf(headers, 0, octetsAtMost) <= HEADERS_BYTES_MAX) return;
  const size = sizeOf(headers, 0, Buffer.byteLength);
  if (size <= HEADERS_BYTES_MAX) return;
  throw new AmqpError("amqp-invalid", `the headers have ${size} octets, expected at most ${HEADERS_BYTES_MAX}`);
}

const DEPTH_MAX = 32;

/** Octets in a table, never less than they will be. */
function sizeOf(value: HeaderValue, depth: number, octetsOf: (text: string) => number): number {
  if (depth > DEPTH_MAX) throw new AmqpError("amqp-invalid", `headers are nested deeper than ${DEPTH_MAX}`);
  if (typeof value === "string") return 5 + octetsOf(value);
  if (value === null || typeof value !== "object") return 9;
  if (value instanceof Uint8Array) return 5 + value.length;
  if (Array.isArray(value)) return 5 + value.reduce<number>((sum, one) => sum + sizeOf(one, depth + 1, octetsOf), 0);
  let size = 5;
  const table = value as { readonly [name: string]: HeaderValue };
  for (const name of Object.keys(table))
    size += 1 + octetsOf(name) + sizeOf(table[name] as HeaderValue, depth + 1, octetsOf);
  return size;
}
