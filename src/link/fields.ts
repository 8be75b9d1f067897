/**
 * What becomes of the parts of a message between the bus, a queue and a broker (the table of amqp.md B9): SIP's headers on one side,
 * AMQP's properties on the other, and an item's headers between the two. Bodies are octets throughout. Pure.
 */
import type { Delivery, Headers, HeaderValue, Properties, Publication } from "../amqp/message.ts";
import type { ChannelMessage } from "../node/io.ts";
import { type ExtraHeaders, MESSAGE_ID_HEADER } from "../node/kdmq.ts";
import type { Item } from "../queue/operation.ts";
import type { Target } from "./kinds.ts";
import { linkId, readPath } from "./path.ts";
import type { TemplateFacts } from "./template.ts";

/** As SIP headers, and as headers of items. */
const CORRELATION_ID = "X-DMQ-Correlation-Id";
const REPLY_TO = "X-DMQ-Reply-To";
const ENCODING = "Content-Encoding";
/** Before the name of a header of somebody else's. */
const FOREIGN = "X-DMQ-H-";

/** AMQP's headers of ours. */
const FROM = "x-dmq-from";
const NODE = "x-dmq-node";
const CHANNEL = "x-dmq-channel";
const PATH = "x-dmq-path";

const APP_ID = "dmq";
const UNKNOWN_TYPE = "application/octet-stream";

/** Octets of a property, and of a routing key (AMQP 0-9-1, 4.2.5.3). */
const SHORT_BYTES_MAX = 255;
/** Characters of a header's value in SIP. */
const VALUE_CHARS_MAX = 1_024;

// --- from the bus ----------------------------------------------------------------------------------------------------

/** URI of the node that sent it. */
export function nodeOf({ peer, from }: ChannelMessage): string {
  return peer ?? from.replace(/^(sips?:)[^@]*@/i, "$1");
}

export function messageFacts(message: ChannelMessage): TemplateFacts {
  const { channel, contentType = "", body, source, callId } = message;
  const header = (name: string): string => message.request.headers.get(name) ?? "";
  return { channel, from: nodeOf(message), contentType, body, header, source, callId };
}

/** Headers of an item that keeps what a message said of itself. */
export function keptHeaders({ messageId, request }: ChannelMessage): Record<string, string> {
  const kept: Record<string, string> = {};
  if (messageId !== undefined) kept[MESSAGE_ID_HEADER] = messageId;
  for (const name of [CORRELATION_ID, REPLY_TO, ENCODING]) {
    const value = request.headers.get(name);
    if (value !== undefined && isSafe(value)) kept[name] = value;
  }
  return kept;
}

/**
 * @param node  our own URI
 * @param path  this link included
 * @param nowMs  milliseconds since 1970
 */
export function publicationOfMessage(
  message: ChannelMessage,
  target: Target,
  { node, path, nowMs }: { node: string; path: readonly string[]; nowMs: number },
): Publication {
  const { channel, contentType, body, request } = message;
  const get = (name: string): string | undefined => request.headers.get(name);
  return {
    ...addressed(target, messageFacts(message)),
    ...{ body, ...typed(contentType, get(ENCODING)), ...answered(get) },
    messageId: messageIdOf(message),
    timestamp: secondsOf(get("Date"), nowMs),
    headers: {
      ...foreignHeaders(target.headers, (name) => get(FOREIGN + name)),
      ...{ [FROM]: nodeOf(message), [NODE]: node, [CHANNEL]: channel, [PATH]: path },
    },
  };
}

/** The same for a retransmission: the sender's own id, or what SIP knows the request by. */
function messageIdOf({ messageId, callId, request }: ChannelMessage): string {
  if (messageId !== undefined) return messageId;
  const tag = /;\s*tag=([^;>\s]+)/i.exec(request.headers.get("From") ?? "")?.[1] ?? "";
  return short(`${callId};${request.headers.get("CSeq") ?? ""};${tag}`);
}

function secondsOf(date: string | undefined, nowMs: number): number {
  const ms = date === undefined ? Number.NaN : Date.parse(date);
  return Math.floor((Number.isNaN(ms) || ms < 0 ? nowMs : ms) / 1_000);
}

// --- from a queue ----------------------------------------------------------------------------------------------------

export function itemFacts({ channel, from, contentType, value, headers, key }: Item): TemplateFacts {
  const header = (name: string): string => headerOf(headers, name) ?? "";
  return { channel: channel ?? "", from: from ?? "", contentType, body: value, header, key };
}

function headerOf(headers: Readonly<Record<string, string>>, name: string): string | undefined {
  return headers[name] ?? Object.entries(headers).find(([one]) => one.toLowerCase() === name.toLowerCase())?.[1];
}

/** The same in every try, and no other item's: not even that of a store which was begun anew. */
export function itemMessageId(node: string, { queue, seq, addedAt, headers }: Item): string {
  return headers[MESSAGE_ID_HEADER] ?? `${linkId(node, queue)}/${seq}.${addedAt.toString(36)}`;
}

/** What an item keeps of the message that it was, as headers of the bus. */
export function itemExtras({ headers }: Item): ExtraHeaders | undefined {
  const extras = Object.entries(headers).filter(([name, value]) => isExtra(name) && isSafe(value));
  return extras.length === 0 ? undefined : extras;
}

function isExtra(name: string): boolean {
  return name === CORRELATION_ID || name === REPLY_TO || name === ENCODING || /^X-DMQ-H-[A-Za-z0-9-]{1,48}$/.test(name);
}

/** @param path  this link included */
export function publicationOfItem(
  item: Item,
  target: Target,
  { node, path }: { node: string; path: readonly string[] },
): Publication {
  const { channel, contentType, value: body, from, headers, addedAt } = item;
  const get = (name: string): string | undefined => headerOf(headers, name);
  return {
    ...addressed(target, itemFacts(item)),
    ...{ body, ...typed(contentType, get(ENCODING)), ...answered(get) },
    messageId: short(itemMessageId(node, item)),
    timestamp: Math.floor(addedAt / 1_000),
    headers: {
      ...foreignHeaders(target.headers, (name) => get(FOREIGN + name) ?? get(name)),
      ...(from !== null && { [FROM]: from }),
      ...(channel !== null && { [CHANNEL]: channel }),
      ...{ [NODE]: node, [PATH]: path },
    },
  };
}

function addressed(
  { exchange, key, mandatory, priority }: Target,
  facts: TemplateFacts,
): Pick<Publication, "exchange" | "routingKey" | "mandatory" | "persistent" | "appId" | "priority"> {
  return {
    ...{ exchange: exchange.name, routingKey: key.fill(facts), mandatory, persistent: true, appId: APP_ID },
    ...(priority !== undefined && { priority }),
  };
}

function typed(contentType: string | undefined, encoding: string | undefined): Properties {
  return {
    contentType: contentType !== undefined && isShort(contentType) ? contentType : UNKNOWN_TYPE,
    ...(encoding !== undefined && isShort(encoding) && { contentEncoding: encoding }),
  };
}

function answered(get: (name: string) => string | undefined): Properties {
  const [correlationId, replyTo] = [get(CORRELATION_ID), get(REPLY_TO)];
  return {
    ...(correlationId !== undefined && isShort(correlationId) && { correlationId }),
    ...(replyTo !== undefined && isShort(replyTo) && { replyTo }),
  };
}

function foreignHeaders(names: readonly string[], get: (name: string) => string | undefined): Headers {
  const found = names.map((name) => [name, get(name)] as const);
  return Object.fromEntries(found.filter((one): one is readonly [string, string] => one[1] !== undefined));
}

// --- from a broker ---------------------------------------------------------------------------------------------------

export function deliveryFacts({ exchange, routingKey, contentType, body, headers = {} }: Delivery): TemplateFacts {
  const header = (name: string): string => textOf(namedValue(headers, name)) ?? "";
  const [channel, from] = [header(CHANNEL), header(FROM)];
  return { channel, from, contentType: contentType ?? UNKNOWN_TYPE, body, header, exchange, routingKey };
}

/** Where a message has been: an array, as links of ours write it; anything else goes no further. */
export function deliveryPath({ headers = {} }: Delivery): readonly string[] {
  const value = headers[PATH];
  if (value === undefined) return [];
  const ids = Array.isArray(value) ? (value as readonly HeaderValue[]) : [value];
  // A comma within an id would make two of it, and an empty list is not what a link writes.
  const text = ids.every((id) => typeof id === "string" && !id.includes(",")) ? ids.join(", ") : "";
  return readPath(text);
}

export function deliveryType({ contentType }: Delivery): string {
  return contentType !== undefined && isSafe(contentType) ? contentType : UNKNOWN_TYPE;
}

/** @returns what a receiver knows it by, if the message says; a text that no SIP header can hold stands as its digest */
export function deliveryMessageId({ messageId }: Delivery): string | undefined {
  if (messageId === undefined || messageId === "") return undefined;
  return /^[\x21-\x7e]{1,255}$/.test(messageId) ? messageId : digest(messageId);
}

/** URI of the node that it came to the broker from, if a link of ours says so. */
export function deliveryFrom({ headers = {}, exchange }: Delivery): string {
  const from = textOf(headers[FROM]);
  return from !== undefined && isSafe(from) ? from : exchange;
}

/**
 * Headers of the bus: what has a place in SIP, and of the others those that are asked for. A value with a line's end, or one that is no
 * simple one, is left out: it does not get into a header of ours.
 *
 * @param names  of headers of the broker that go along as `X-DMQ-H-NAME`
 */
export function deliveryExtras(delivery: Delivery, names: readonly string[]): [name: string, value: string][] {
  const { correlationId, replyTo, contentEncoding, headers = {} } = delivery;
  const all: [string, string | undefined][] = [
    [CORRELATION_ID, correlationId],
    [REPLY_TO, replyTo],
    [ENCODING, contentEncoding],
    ...names.map((name): [string, string | undefined] => [FOREIGN + name, textOf(namedValue(headers, name))]),
  ];
  return all.filter((one): one is [string, string] => one[1] !== undefined && isSafe(one[1]));
}

/** Its exact name, or one that differs in upper and lower case: SIP knows no difference. */
function namedValue(headers: Headers, name: string): HeaderValue | undefined {
  if (Object.hasOwn(headers, name)) return headers[name];
  return Object.entries(headers).find(([one]) => one.toLowerCase() === name.toLowerCase())?.[1];
}

/** Of a simple type. */
function textOf(value: HeaderValue | undefined): string | undefined {
  if (typeof value === "string") return value;
  return typeof value === "number" || typeof value === "boolean" ? String(value) : undefined;
}

/** What may stand in a SIP header as it is. */
function isSafe(value: string): boolean {
  return value !== "" && value.length <= VALUE_CHARS_MAX && !/[\x00-\x1f\x7f]/.test(value);
}

function isShort(value: string): boolean {
  return value !== "" && Buffer.byteLength(value) <= SHORT_BYTES_MAX;
}

/** A text of whatever length as a property. */
function short(text: string): string {
  return isShort(text) ? text : digest(text);
}

function digest(text: string): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex");
}
