/**
 * Messages as JSON: what goes over the control socket, what `--json` prints and what the spool keeps of a message's properties.
 * Bodies and header values that are octets stay octet by octet what they were.
 */
import { strictUtf8 } from "../core/bytes.ts";
import type { Delivery, Headers, HeaderValue, Properties } from "./message.ts";
import { type BrokerUrl, parseBrokers } from "./url.ts";

/** A header of octets is `{ "!": "binary", "value_base64": "…" }`. */
const BINARY = "binary";

export type JsonValue =
  | string
  | number
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [name: string]: JsonValue };

export type JsonHeaders = Readonly<Record<string, JsonValue>>;

/** Properties in the names of the wire; what is not set is not there. */
export interface PropertiesRow {
  content_type?: string;
  content_encoding?: string;
  headers?: JsonHeaders;
  persistent?: boolean;
  priority?: number;
  correlation_id?: string;
  reply_to?: string;
  expiration_ms?: number;
  message_id?: string;
  /** Seconds since 1970. */
  timestamp?: number;
  type?: string;
  user_id?: string;
  app_id?: string;
}

/** A message that was delivered. */
export interface DeliveryRow extends PropertiesRow {
  /** What `amqp.settle` takes, where it is to be settled. */
  id?: string;
  exchange: string;
  routing_key: string;
  queue: string;
  redelivered: boolean;
  delivery_count?: number;
  /** URL without its password. */
  broker: string;
  /** Number of the broker in the list, from 1. */
  broker_number: number;
  zone: string;
  /** The body as text, where it is UTF-8. */
  body?: string;
  body_base64?: string;
}

const NAMES: readonly (readonly [keyof Omit<Properties, "headers">, keyof Omit<PropertiesRow, "headers">])[] = [
  ["contentType", "content_type"],
  ["contentEncoding", "content_encoding"],
  ["persistent", "persistent"],
  ["priority", "priority"],
  ["correlationId", "correlation_id"],
  ["replyTo", "reply_to"],
  ["expirationMs", "expiration_ms"],
  ["messageId", "message_id"],
  ["timestamp", "timestamp"],
  ["type", "type"],
  ["userId", "user_id"],
  ["appId", "app_id"],
];

export function propertiesRow(properties: Properties): PropertiesRow {
  const row: Record<string, unknown> = {};
  for (const [name, short] of NAMES) if (properties[name] !== undefined) row[short] = properties[name];
  if (properties.headers !== undefined) row.headers = headersJson(properties.headers);
  return row;
}

/** The members of `row` that are properties; others are left alone. */
export function propertiesOf(row: PropertiesRow): Properties {
  const properties: Record<string, unknown> = {};
  for (const [name, short] of NAMES) if (row[short] !== undefined) properties[name] = row[short];
  if (row.headers !== undefined) properties.headers = headersOf(row.headers);
  return properties;
}

export function headersJson(headers: Headers): JsonHeaders {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, jsonOf(value)]));
}

function jsonOf(value: HeaderValue): JsonValue {
  if (value instanceof Uint8Array) return { "!": BINARY, value_base64: Buffer.from(value).toString("base64") };
  if (Array.isArray(value)) return value.map(jsonOf);
  if (typeof value === "object" && value !== null) return headersJson(value as Headers);
  return value as JsonValue;
}

export function headersOf(json: JsonHeaders): Headers {
  return Object.fromEntries(Object.entries(json).map(([name, value]) => [name, headerOf(value)]));
}

function headerOf(json: JsonValue): HeaderValue {
  if (Array.isArray(json)) return json.map(headerOf);
  if (typeof json !== "object" || json === null) return json as HeaderValue;
  const { "!": kind, value_base64: coded } = json as Record<string, JsonValue>;
  if (kind === BINARY && typeof coded === "string") return new Uint8Array(Buffer.from(coded, "base64"));
  return headersOf(json as JsonHeaders);
}

export function deliveryRow(delivery: Delivery, id?: string): DeliveryRow {
  const { exchange, routingKey, queue, redelivered, deliveryCount, broker, body } = delivery;
  return {
    ...(id !== undefined && { id }),
    ...{ exchange, routing_key: routingKey, queue, redelivered },
    ...(deliveryCount !== undefined && { delivery_count: deliveryCount }),
    ...propertiesRow(delivery),
    ...{ broker: broker.text, broker_number: broker.number, zone: broker.zone },
    ...bodyRow(body),
  };
}

/** The same message again, from a broker without a password. */
export function deliveryOf(row: DeliveryRow): Delivery {
  const { exchange, routing_key: routingKey, queue, redelivered, delivery_count: deliveryCount } = row;
  return {
    ...{ exchange, routingKey, queue, redelivered },
    ...(deliveryCount !== undefined && { deliveryCount }),
    ...propertiesOf(row),
    broker: { ...(parseBrokers([row.broker])[0] as BrokerUrl), number: row.broker_number, zone: row.zone },
    body: bodyOf(row),
  };
}

export function bodyRow(body: Uint8Array): { body: string } | { body_base64: string } {
  const text = strictUtf8(body);
  return text === undefined ? { body_base64: Buffer.from(body).toString("base64") } : { body: text };
}

export function bodyOf({ body, body_base64: coded }: Pick<DeliveryRow, "body" | "body_base64">): Uint8Array {
  if (body !== undefined) return new TextEncoder().encode(body);
  return new Uint8Array(Buffer.from(coded ?? "", "base64"));
}
