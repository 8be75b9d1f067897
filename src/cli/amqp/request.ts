/** What the words of `dmq amqp consume` ask for. */
import { hostname } from "node:os";
import type { EventFields } from "../../amqp/dispatch.ts";
import { HandlerFolder } from "../../amqp/folder.ts";
import { deliveryRow } from "../../amqp/json.ts";
import type { KazooIdentity } from "../../amqp/kazoo.ts";
import type { Delivery } from "../../amqp/message.ts";
import { type AckMode, MAX_TRIES } from "../../amqp/supply.ts";
import { jsonPath } from "../../consume/order.ts";
import { encodeUtf8 } from "../../core/bytes.ts";
import { UsageError } from "../../core/errors.ts";
import { VERSION } from "../../core/version.ts";
import type { Item } from "../../queue/operation.ts";
import { RECONNECT_MS } from "../absence.ts";
import { type Arguments, quoted } from "../command.ts";
import type { CliContext } from "../context.ts";
import { readInteger } from "../message.ts";
import { escapedOctets, escapedText, readSpan } from "../queue/words.ts";
import { readCount, readDuration } from "../stream.ts";
import type { Unmatched } from "./handle.ts";
import { Handlers, readOn } from "./handlers.ts";
import { readSubscriptions, type Wanted } from "./subscriptions.ts";

const JOBS_MAX = 64;
const PREFETCH_MAX = 65_535;
const TRIES_MAX = 1_000_000;
const TIMEOUT_MS = 60_000;

/** Messages that are printed in one piece, before they are acknowledged. */
export const PRINTED_MAX = 64;

/** Of messages that are printed, as many are under way from the broker. */
const PRINTED_PREFETCH = 256;

export interface Request {
  wanted: readonly Wanted[];
  prefetch: number;
  handlers: Handlers | undefined;
  unmatched: Unmatched;
  timeoutMs: number;
  jobs: number;
  maxTries: number;
  count: number;
  forMs: number | undefined;
  /** Neither `count` nor `forMs` ends it. */
  isEndless: boolean;
  /** For a daemon that is gone; 0 not at all. */
  reconnectMs: number;
  orderBy: ((item: Item) => string) | undefined;
  form: (delivery: Delivery) => Uint8Array;
  reply: { contentType: string | undefined } | undefined;
  kazoo: KazooIdentity | undefined;
  decode: boolean;
}

const HANDLER_ONLY = [
  ...["timeout", "jobs", "order-by", "max-tries", "dead-letter", "reply", "reply-type", "decode", "kazoo"],
  ...["unmatched", "event-key", "event-subkey"],
] as const;

export async function readRequest(context: CliContext, args: Arguments): Promise<Request> {
  exclude(args, "exec", "handlers", "on", "unmatched", "event-key", "event-subkey");
  exclude(args, "json", "raw");
  const handlers = readHandlers(args);
  const alone = [...HANDLER_ONLY.filter((flag) => args.has(flag)).map((flag) => `--${flag}`)][0];
  if (handlers === undefined && alone !== undefined)
    throw new UsageError(`${alone} goes with --exec CMD, --handlers DIR or --on NAME=CMD`);
  for (const form of ["json", "raw"]) if (handlers !== undefined) exclude(args, form, "exec", "handlers", "on");
  if (args.has("reply-type") && !args.has("reply")) throw new UsageError("--reply-type goes with --reply");
  const count = readCount(args, "count", Number.POSITIVE_INFINITY);
  const jobs = readInteger(args, "jobs", 1, JOBS_MAX) ?? 1;
  const usual = Math.min(handlers === undefined ? PRINTED_PREFETCH : 2 * jobs, count);
  const prefetch = readInteger(args, "prefetch", 1, PREFETCH_MAX) ?? usual;
  const isEndless = count === Number.POSITIVE_INFINITY && !args.has("for");
  if (args.has("reconnect") && !isEndless) throw new UsageError("--reconnect goes without -n and --for");
  const ack = oneOf<AckMode>(args, "ack", ["after", "receipt", "none"]);
  const fields = fieldsOf(args);
  const wanted = await readSubscriptions(context, args, { ack, prefetch, fields });
  return {
    ...{ wanted, prefetch, handlers, jobs, count },
    unmatched: oneOf<Unmatched>(args, "unmatched", ["ack", "dead", "stop"]) ?? "dead",
    timeoutMs: readSpan(args, "timeout", 1, 2 ** 31 - 1) ?? TIMEOUT_MS,
    maxTries: readInteger(args, "max-tries", 1, TRIES_MAX) ?? MAX_TRIES,
    forMs: readDuration(args, "for"),
    isEndless,
    reconnectMs: isEndless ? (readSpan(args, "reconnect", 0) ?? RECONNECT_MS) : 0,
    orderBy: readOrder(args, wanted),
    form: formOf(args),
    reply: args.has("reply") ? { contentType: args.value("reply-type") } : undefined,
    kazoo: args.has("kazoo") ? identity(args) : undefined,
    decode: args.has("decode"),
  };
}

/** @throws UsageError where the first is given with one of the others */
function exclude(args: Arguments, first: string, ...others: readonly string[]): void {
  const other = args.has(first) ? others.find((flag) => args.has(flag)) : undefined;
  if (other !== undefined) throw new UsageError(`--${first} and --${other} exclude each other`);
}

export function oneOf<T extends string>(args: Arguments, flag: string, choices: readonly T[]): T | undefined {
  const text = args.value(flag);
  if (text === undefined || choices.includes(text as T)) return text as T | undefined;
  throw new UsageError(`--${flag} ${quoted(text)}: expected ${choices.join(", ")}`);
}

function readHandlers(args: Arguments): Handlers | undefined {
  const command = args.value("exec");
  const words = args.positionals;
  if (command === undefined && words[0] !== undefined) throw new UsageError(`${quoted(words[0])} goes with --exec CMD`);
  if (command === undefined && !args.has("handlers") && !args.has("on")) return undefined;
  const exec = command === undefined ? undefined : words.length > 0 ? [command, ...words] : ["sh", "-c", command];
  const folder = args.value("handlers");
  return new Handlers({
    exec,
    on: readOn(args.all("on")),
    folder: folder === undefined ? undefined : new HandlerFolder(folder),
  });
}

function fieldsOf(args: Arguments): EventFields {
  const key = args.value("event-key");
  const subkey = args.value("event-subkey");
  return { ...(key !== undefined && { key }), ...(subkey !== undefined && { subkey }) };
}

/** @returns what messages have in common that are handled one after the other */
function readOrder(args: Arguments, wanted: readonly Wanted[]): ((item: Item) => string) | undefined {
  const text = args.value("order-by");
  if (text === undefined) return consistentWorker(wanted);
  if (text === "routing-key") return ({ key }) => key;
  if (/^json:[^.]+(\.[^.]+)*$/.test(text)) return jsonPath(text.slice("json:".length));
  throw new UsageError(`--order-by ${quoted(text)}: expected routing-key, or json:PATH such as json:call.id`);
}

/** kazoo's `consistent-worker`: by the value of a member, by the routing key where that is not there. */
function consistentWorker(wanted: readonly Wanted[]): ((item: Item) => string) | undefined {
  const order = wanted.find((one) => one.order !== undefined)?.order;
  if (order === undefined) return undefined;
  const { member } = order;
  const shared = member === undefined ? () => "" : jsonPath(member);
  return (item) => shared(item) || `key ${item.key}`;
}

function formOf(args: Arguments): Request["form"] {
  if (args.has("raw")) return ({ body }) => body;
  if (args.has("json")) return (delivery) => encodeUtf8(`${JSON.stringify(deliveryRow(delivery))}\n`);
  return ({ routingKey, body }) => encodeUtf8(`${escapedText(routingKey)}\t${escapedOctets(body)}\n`);
}

function identity(args: Arguments): KazooIdentity {
  const host = args.value("node-name") ?? hostname();
  return { appName: "dmq", appVersion: VERSION, node: `dmq@${host}` };
}
