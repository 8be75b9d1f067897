/**
 * Reads the parameters of a call: by position (what Kamailio's tools send) or by name, checked against one list of names.
 * Nothing of a caller's text gets past here with a control character in it, because it may end in a SIP header; only a
 * body is free.
 */
import { EMPTY, encodeUtf8 } from "../core/bytes.ts";
import { invalidParameters, RpcFault } from "./surface.ts";

/** Every parameter of every method: its name on the wire and its type. */
export interface Params {
  uri: string;
  status: string;
  strict: boolean;
  channel: string;
  node: string;
  body: string;
  body_base64: string;
  content_type: string;
  max_forwards: number;
  timeout_ms: number;
  force: boolean;
  except: string[];
  uris: string[];
  method: string;
  request: string;
  request_base64: string;
  accept: string;
  message_id: string;
  retry: number;
  replies: number;
  nodes: string[];
  reply_id: string;
  code: number;
  reason: string;
  definition: string;
  queue: string;
  key: string;
  value: string;
  value_base64: string;
  headers: Record<string, string>;
  path: string[];
  from: string;
  to: string;
  dedupe: string;
  dedupe_ms: number;
  delay_ms: number;
  ttl_ms: number;
  items: object[];
  count: number;
  lease_ms: number;
  wait_ms: number;
  holder: string;
  holders: string[];
  order_by_key: boolean;
  ids: string[];
  fate: "retry" | "now" | "dead";
  counts: boolean;
  exit_code: number;
  stderr: string;
  after: number;
  seq: number;
  seqs: number[] | "all";
  spool: boolean;
  spool_ttl_ms: number;
  exchange: string;
  routing_key: string;
  content_encoding: string;
  /** Of any JSON values. */
  amqp_headers: object;
  persistent: boolean;
  priority: number;
  /** Number of a broker. */
  broker: number;
  correlation_id: string;
  reply_to: string;
  expiration_ms: number;
  timestamp: number;
  message_type: string;
  user_id: string;
  app_id: string;
  mandatory: boolean;
  confirm: boolean;
  declare: string;
  kazoo: boolean;
  many: number;
  reply: "direct" | "queue";
  idempotent: boolean;
  ack: "after" | "receipt";
  how: "ack" | "requeue" | "reject";
  steps: object[];
}

export type ParamName = keyof Params;

/** What a method takes; by position the required ones come first. A last parameter `uris` takes all that is left. */
export interface Signature {
  required: readonly ParamName[];
  optional: readonly ParamName[];
  /** Kamailio's own methods: a number counts as text, and every mistake is `500 Invalid Parameters`. */
  kamailio: boolean;
}

const SHOWN_CHARS_MAX = 60;
const TIMEOUT_MS_MAX = 3_600_000;
const MAX_FORWARDS_MAX = 255;
const RETRY_MAX = 10;
const REPLIES_MAX = 1_000_000;
/** What a broker takes: 32 bits. */
const EXPIRATION_MS_MAX = 0xffff_ffff;
const DURATION_MS_MAX = 10 * 365 * 24 * 3_600_000;
/** Items in one answer, or in one call. */
const ITEMS_MAX = 10_000;

/** A value that does not fit, said in the words of the parameter; `undefined` from a reader means that. */
type Reader<T> = (value: unknown) => T | undefined;

const READERS: { [Name in ParamName]: { read: Reader<Params[Name]>; expected: string } } = {
  uri: { read: word, expected: "a SIP URI" },
  status: { read: word, expected: "active, not_active or disabled" },
  strict: { read: flag, expected: "true or false" },
  channel: { read: word, expected: "the name of a channel" },
  node: { read: word, expected: "the URI of a node" },
  body: { read: wellFormed, expected: "a string" },
  body_base64: { read: base64, expected: "a string in base64" },
  content_type: { read: word, expected: "a media type" },
  max_forwards: { read: integer(0, MAX_FORWARDS_MAX), expected: `an integer from 0 to ${MAX_FORWARDS_MAX}` },
  timeout_ms: { read: integer(1, TIMEOUT_MS_MAX), expected: `an integer from 1 to ${TIMEOUT_MS_MAX}` },
  force: { read: flag, expected: "true or false" },
  except: { read: words, expected: "an array of node URIs" },
  uris: { read: someWords, expected: "an array of SIP URIs" },
  method: { read: word, expected: "the name of a method" },
  request: { read: wellFormed, expected: "a SIP request" },
  request_base64: { read: base64, expected: "a SIP request in base64" },
  accept: { read: word, expected: "a media type" },
  message_id: { read: word, expected: "a text without spaces" },
  retry: { read: integer(0, RETRY_MAX), expected: `an integer from 0 to ${RETRY_MAX}` },
  nodes: { read: someWords, expected: "an array of node URIs" },
  reply_id: { read: word, expected: "the reply_id of a message" },
  code: { read: integer(200, 699), expected: "an integer from 200 to 699" },
  reason: { read: word, expected: "a reason phrase" },
  replies: { read: integer(1, REPLIES_MAX), expected: `an integer from 1 to ${REPLIES_MAX}` },
  definition: { read: word, expected: "NAME, or name=NAME;size=N and the like" },
  queue: { read: word, expected: "the name of a queue" },
  key: { read: wellFormed, expected: "a string" },
  value: { read: wellFormed, expected: "a string" },
  value_base64: { read: base64, expected: "a string in base64" },
  headers: { read: texts, expected: "an object of texts" },
  path: { read: words, expected: "an array of link ids" },
  from: { read: word, expected: "a text" },
  to: { read: word, expected: "the name of a queue" },
  dedupe: { read: word, expected: "a text without control characters" },
  dedupe_ms: duration(1),
  delay_ms: duration(0),
  ttl_ms: duration(0),
  items: { read: objects, expected: `an array of 1 to ${ITEMS_MAX} objects` },
  count: { read: integer(1, ITEMS_MAX), expected: `an integer from 1 to ${ITEMS_MAX}` },
  lease_ms: duration(1),
  wait_ms: { read: integer(0, TIMEOUT_MS_MAX), expected: `an integer from 0 to ${TIMEOUT_MS_MAX}` },
  holder: { read: word, expected: "a text without control characters" },
  holders: { read: someWords, expected: "an array of holders" },
  order_by_key: { read: flag, expected: "true or false" },
  ids: { read: someWords, expected: "an array of ids" },
  fate: { read: choice("retry", "now", "dead"), expected: "retry, now or dead" },
  counts: { read: flag, expected: "true or false" },
  exit_code: { read: integer(0, 255), expected: "an integer from 0 to 255" },
  stderr: { read: wellFormed, expected: "a string" },
  after: { read: integer(0, Number.MAX_SAFE_INTEGER), expected: "the seq of an item" },
  seq: { read: integer(1, Number.MAX_SAFE_INTEGER), expected: "the seq of an item" },
  seqs: { read: numbersOrAll, expected: "an array of seqs, or all" },
  spool: { read: flag, expected: "true or false" },
  spool_ttl_ms: duration(1),
  exchange: { read: wellFormed, expected: "the name of an exchange, empty for the default one" },
  routing_key: { read: wellFormed, expected: "a string" },
  content_encoding: { read: word, expected: "a text without control characters" },
  amqp_headers: { read: object, expected: "an object" },
  persistent: { read: flag, expected: "true or false" },
  priority: { read: integer(0, 255), expected: "an integer from 0 to 255" },
  broker: { read: integer(1, 65_535), expected: "the number of a broker, from 1" },
  correlation_id: { read: wellFormed, expected: "a string" },
  reply_to: { read: wellFormed, expected: "a string" },
  expiration_ms: { read: integer(0, EXPIRATION_MS_MAX), expected: `an integer from 0 to ${EXPIRATION_MS_MAX}` },
  timestamp: { read: integer(0, Number.MAX_SAFE_INTEGER), expected: "seconds since 1970" },
  message_type: { read: wellFormed, expected: "a string" },
  user_id: { read: wellFormed, expected: "a string" },
  app_id: { read: wellFormed, expected: "a string" },
  mandatory: { read: flag, expected: "true or false" },
  confirm: { read: flag, expected: "true or false" },
  declare: { read: word, expected: "the type of an exchange: topic, direct, fanout, headers" },
  kazoo: { read: flag, expected: "true or false" },
  many: { read: integer(1, ITEMS_MAX), expected: `an integer from 1 to ${ITEMS_MAX}` },
  reply: { read: choice("direct", "queue"), expected: "direct or queue" },
  idempotent: { read: flag, expected: "true or false" },
  ack: { read: choice("after", "receipt"), expected: "after or receipt" },
  how: { read: choice("ack", "requeue", "reject"), expected: "ack, requeue or reject" },
  steps: { read: objects, expected: `an array of 1 to ${ITEMS_MAX} objects` },
};

/**
 * @param params  the `params` member of a JSON-RPC request: array, object or nothing
 * @returns       the checked values; absent and null ones are left out
 * @throws        RpcFault −32602, for Kamailio's methods `500 Invalid Parameters`
 */
export function readParams(signature: Signature, params: unknown): Partial<Params> {
  const names = [...signature.required, ...signature.optional];
  const given = Array.isArray(params) ? byPosition(signature, names, params) : byName(signature, names, params);
  const values: Partial<Params> = {};
  for (const name of names) {
    const value = given.get(name);
    if (value !== undefined && value !== null) readOne(signature, values, name, value);
    else if (signature.required.includes(name)) throw invalid(signature, `${name} is missing`);
  }
  return values;
}

/**
 * @returns the octets that `body` or `body_base64` stand for, none if neither is given
 * @throws  RpcFault −32602 if both are
 */
export function bodyBytes(params: Partial<Pick<Params, "body" | "body_base64">>): Uint8Array {
  if (params.body_base64 === undefined) return params.body === undefined ? EMPTY : encodeUtf8(params.body);
  if (params.body !== undefined) throw invalidParams("body and body_base64 exclude each other");
  return Buffer.from(params.body_base64, "base64");
}

/** JSON-RPC 2.0 section 5.1. */
export function invalidParams(why: string): RpcFault {
  return new RpcFault(-32602, `Invalid params: ${why}`, { exit: 2 });
}

function invalid(signature: Signature, why: string): RpcFault {
  return signature.kamailio ? invalidParameters() : invalidParams(why);
}

function readOne<Name extends ParamName>(
  signature: Signature,
  into: Partial<Params>,
  name: Name,
  value: unknown,
): void {
  const { read, expected } = READERS[name];
  const spelled = signature.kamailio && typeof value === "number" ? String(value) : value;
  const result = read(spelled);
  if (result === undefined) throw invalid(signature, `${name}: got ${shown(value)}, expected ${expected}`);
  into[name] = result;
}

function byPosition(signature: Signature, names: readonly ParamName[], params: unknown[]): Map<string, unknown> {
  if (names.at(-1) === "uris") {
    const fixed = names.length - 1;
    const rest = params.slice(fixed).flat(1);
    return new Map<string, unknown>([...zip(names.slice(0, fixed), params), ["uris", rest]]);
  }
  if (params.length > names.length) throw invalid(signature, `got ${params.length}, expected at most ${names.length}`);
  return new Map(zip(names, params));
}

function zip(names: readonly ParamName[], params: unknown[]): [ParamName, unknown][] {
  return names.map((name, index) => [name, params[index]]);
}

function byName(signature: Signature, names: readonly ParamName[], params: unknown): Map<string, unknown> {
  if (params === undefined || params === null) return new Map();
  if (typeof params !== "object") throw invalid(signature, `got ${shown(params)}, expected an array or an object`);
  const given = new Map<string, unknown>(Object.entries(params));
  for (const name of given.keys()) {
    const known = (names as readonly string[]).includes(name);
    if (!known) throw invalid(signature, `unknown parameter ${shown(name)}, known are: ${names.join(", ") || "none"}`);
  }
  return given;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > SHOWN_CHARS_MAX ? `${text.slice(0, SHOWN_CHARS_MAX)}…` : text;
}

function flag(value: unknown): boolean | undefined {
  return typeof value === "boolean" ? value : undefined;
}

function wellFormed(value: unknown): string | undefined {
  // A lone surrogate has no UTF-8: what would go out is not what was asked for.
  return typeof value === "string" && value.isWellFormed() ? value : undefined;
}

function word(value: unknown): string | undefined {
  const text = wellFormed(value);
  if (text === undefined || text === "") return undefined;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x20 || code === 0x7f) return undefined;
  }
  return text;
}

function words(value: unknown): string[] | undefined {
  const list = typeof value === "string" ? [value] : value;
  if (!Array.isArray(list)) return undefined;
  return list.every((entry) => word(entry) !== undefined) ? list : undefined;
}

function someWords(value: unknown): string[] | undefined {
  const list = words(value);
  return list === undefined || list.length === 0 ? undefined : list;
}

function texts(value: unknown): Record<string, string> | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  return Object.values(value).every((one) => wellFormed(one) !== undefined) ? (value as never) : undefined;
}

function object(value: unknown): object | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value : undefined;
}

function objects(value: unknown): object[] | undefined {
  if (!Array.isArray(value) || value.length === 0 || value.length > ITEMS_MAX) return undefined;
  return value.every((one) => typeof one === "object" && one !== null && !Array.isArray(one)) ? value : undefined;
}

function numbersOrAll(value: unknown): number[] | "all" | undefined {
  if (value === "all") return value;
  const list = Array.isArray(value) ? value : [value];
  const seq = integer(1, Number.MAX_SAFE_INTEGER);
  return list.length > 0 && list.every((one) => seq(one) !== undefined) ? list : undefined;
}

function choice<W extends string>(...allowed: readonly W[]): Reader<W> {
  return (value) => allowed.find((one) => one === value);
}

function base64(value: unknown): string | undefined {
  if (typeof value !== "string" || value.length % 4 !== 0) return undefined;
  return /^[A-Za-z0-9+/]*={0,2}$/.test(value) ? value : undefined;
}

function duration(low: number): { read: Reader<number>; expected: string } {
  return { read: integer(low, DURATION_MS_MAX), expected: `milliseconds from ${low} to ${DURATION_MS_MAX}` };
}

function integer(low: number, high: number): Reader<number> {
  return (value) =>
    Number.isInteger(value) && Number(value) >= low && Number(value) <= high ? Number(value) : undefined;
}
