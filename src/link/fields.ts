/**
 * What becomes of the parts of a message between the bus, a queue and a broker (the table of amqp.md B9): SIP's headers on one side,
 * AMQP's properties on the other, and an item's headers between the two. Bodies are octets throughout. Pure.
 */
import type { Delivery, Headers, HeaderValue, Publication } from "../amqp/message.ts";
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

/** Made when a template asks: few have all of them, and each is read from the message's octets. */
export class MessageFacts implements TemplateFacts {
  private readonly message: ChannelMessage;

  constructor(message: ChannelMessage) {
    this.message = message;
  }

  get channel(): string {
    return this.message.channel;
  }

  get from(): string {
    return nodeOf(this.message);
  }

  get contentType(): string {
    return this.message.contentType ?? "";
  }

  get body(): Uint8Array {
    return this.message.body;
  }

  get source(): ChannelMessage["source"] {
    return this.message.source;
  }

  get callId(): string {
    return this.message.callId;
  }

  header(name: string): string {
    return this.message.request.headers.get(name) ?? "";
  }
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
  const { channel, contentType, body } = message;
  const lines = message.request.headers;
  const get = (name: string): string | undefined => lines.get(name);
  const draft = draftOf(target, new MessageFacts(message), body, contentType, get);
  draft.messageId = messageIdOf(message);
  draft.timestamp = secondsOf(get("Date"), nowMs);
  const headers = foreignHeaders(target.headers, (name) => get(FOREIGN + name));
  headers[FROM] = nodeOf(message);
  headers[NODE] = node;
  headers[CHANNEL] = channel;
  headers[PATH] = path;
  draft.headers = headers;
  return draft;
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
  const { channel, contentType, value, from, headers: kept, addedAt } = item;
  const get = (name: string): string | undefined => headerOf(kept, name);
  const draft = draftOf(target, itemFacts(item), value, contentType, get);
  draft.messageId = short(itemMessageId(node, item));
  draft.timestamp = Math.floor(addedAt / 1_000);
  const headers = foreignHeaders(target.headers, (name) => get(FOREIGN + name) ?? get(name));
  if (from !== null) headers[FROM] = from;
  if (channel !== null) headers[CHANNEL] = channel;
  headers[NODE] = node;
  headers[PATH] = path;
  draft.headers = headers;
  return draft;
}

type Draft = { -readonly [Name in keyof Publication]: Publication[Name] };

/**
 * Where it goes and as what, with what the headers say that it has beside its body. Filled in place: copying one object into the next
 * takes longer than all that is in them.
 */
function draftOf(
  { exchange, key, mandatory, priority }: Target,
  facts: TemplateFacts,
  body: Uint8Array,
  contentType: string | undefined,
  get: (name: string) => string | undefined,
): Draft {
  const draft: Draft = {
    exchange: exchange.name,
    routingKey: key.fill(facts),
    body,
    mandatory,
    persistent: true,
    appId: APP_ID,
    contentType: shortOf(contentType) ?? UNKNOWN_TYPE,
  };
  if (priority !== undefined) draft.priority = priority;
  const [encoding, correlationId, replyTo] = [
    shortOf(get(ENCODING)),
    shortOf(get(CORRELATION_ID)),
    shortOf(get(REPLY_TO)),
  ];
  if (encoding !== undefined) draft.contentEncoding = encoding;
  if (correlationId !== undefined) draft.correlationId = correlationId;
  if (replyTo !== undefined) draft.replyTo = replyTo;
  return draft;
}

/** What a property cannot hold is left out. */
function shortOf(value: string | undefined): string | undefined {
  return value !== undefined && isShort(value) ? value : undefined;
}

function foreignHeaders(
  names: readonly string[],
  get: (name: string) => string | undefined,
): Record<string, HeaderValue> {
  const headers: Record<string, HeaderValue> = {};
  for (const name of names) {
    const value = get(name);
    if (value !== undefined) headers[name] = value;
  }
  return headers;
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
  // A code unit is three octets at most.
  return value !== "" && (value.length * 3 <= SHORT_BYTES_MAX || Buffer.byteLength(value) <= SHORT_BYTES_MAX);
}

/** A text of whatever length as a property. */
function short(text: string): string {
  return isShort(text) ? text : digest(text);
}

function digest(text: string): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex");
}
