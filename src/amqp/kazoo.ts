/**
 * What Kazoo's applications expect inside of JSON bodies (amqp.md A2, B8). A body is never parsed and printed again: members are put in,
 * and values exchanged, in its text, so that everything else stays octet for octet, a number of 64 bits too. A body that is no JSON
 * object is left alone.
 */
import { encodeUtf8, strictUtf8 } from "../core/bytes.ts";
import { JsonValue } from "../core/json-path.ts";

/** Who a body is from. */
export interface KazooIdentity {
  /** `dmq`. */
  readonly appName: string;
  readonly appVersion: string;
  /** `dmq@HOST`. */
  readonly node: string;
}

/** Of one message. */
export interface KazooMessage {
  /** By it an answer is known. */
  readonly messageId: string;
  /** Routing key on the exchange `targeted` to which an answer goes. */
  readonly key: string;
}

/** Where a body came in. */
export interface KazooReceipt {
  readonly zone: string;
  /** Number of the broker in the list, from 1. */
  readonly broker: number;
  /** Seconds since 1970. */
  readonly receivedS: number;
}

export const MSG_ID = "Msg-ID";
export const SERVER_ID = "Server-ID";
export const TARGETED_EXCHANGE = "targeted";

type Members = readonly (readonly [name: string, value: string | number])[];

/**
 * @returns the body with `App-Name`, `App-Version`, `Node`, `Msg-ID` and `Server-ID` as far as they are missing; the body itself where none
 *          is; `undefined` where it is no JSON object
 */
export function outgoing(body: Uint8Array, identity: KazooIdentity, message: KazooMessage): Uint8Array | undefined {
  const object = objectOf(body);
  if (object === undefined) return undefined;
  const members: Members = [
    ["App-Name", identity.appName],
    ["App-Version", identity.appVersion],
    ["Node", identity.node],
    [MSG_ID, message.messageId],
    [SERVER_ID, message.key],
  ];
  const missing = members.filter(([name]) => object.member(name) === undefined);
  return missing.length === 0 ? body : encodeUtf8(written(object, [], missing));
}

/**
 * @returns the body with `AMQP-Broker-Zone` and `AMQP-Received` as they are here, whatever the sender wrote there, and a `Server-ID` that
 *          leads back through the same broker; the body itself where it is no JSON object
 */
export function incoming(body: Uint8Array, { zone, broker, receivedS }: KazooReceipt): Uint8Array {
  const object = objectOf(body);
  if (object === undefined) return body;
  const own: Members = [
    ["AMQP-Broker-Zone", zone],
    ["AMQP-Received", receivedS],
  ];
  const serverId = scalarOf(object.member(SERVER_ID));
  const exchanged: Members = serverId ? [...own, [SERVER_ID, consumerKey(broker, serverId)]] : own;
  const missing = own.filter(([name]) => object.member(name) === undefined);
  return encodeUtf8(written(object, exchanged, missing));
}

/** @returns text of a member such as `Msg-ID`; `undefined` where there is none, or it is an object, an array or `null` */
export function memberOf(body: Uint8Array, name: string): string | undefined {
  return scalarOf(objectOf(body)?.member(name));
}

/** A routing key of the form `consumer://BROKER/KEY` goes to that broker of the list, with KEY. */
export function consumerKey(broker: number, key: string): string {
  return `${SCHEME}${broker}/${key}`;
}

const SCHEME = "consumer://";

/** @returns `undefined` for any other routing key; KEY may be one of these again */
export function parseConsumerKey(routingKey: string): { broker: number; key: string } | undefined {
  const match = /^consumer:\/\/(\d{1,9})\/(.*)$/s.exec(routingKey);
  return match === null ? undefined : { broker: Number(match[1]), key: match[2] as string };
}

/** @returns `undefined` where it is no JSON object */
export function objectOf(body: Uint8Array): JsonValue | undefined {
  const text = strictUtf8(body);
  const value = text === undefined ? undefined : JsonValue.read(text);
  return value?.kind === "object" ? value : undefined;
}

/** What can be text: a string's, a number as it is written, `true` and `false`. */
export function scalarOf(value: JsonValue | undefined): string | undefined {
  return value === undefined || ["object", "array", "null"].includes(value.kind) ? undefined : value.value;
}

/** @param exchanged  values for members that are there, each time that they are */
function written(object: JsonValue, exchanged: Members, missing: Members): string {
  const values = new Map(exchanged);
  const { text } = object;
  let out = "";
  let at = 0;
  let lastEnd: number | undefined;
  for (const [name, { start, end }] of object.members()) {
    const value = values.get(name);
    if (value !== undefined) {
      out += text.slice(at, start) + JSON.stringify(value);
      at = end;
    }
    lastEnd = end;
  }
  const put = missing.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join(",");
  const place = lastEnd ?? object.start + 1;
  const comma = put !== "" && lastEnd !== undefined ? "," : "";
  return out + text.slice(at, place) + comma + put + text.slice(place);
}
