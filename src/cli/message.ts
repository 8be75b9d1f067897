/**
 * What `send`, `bcast` and `req` share: the options of a message, its body, the guard for channels that are not ours, and how a
 * result is printed. No octet of a body is changed on its way: what is no UTF-8 travels as base64.
 */
import { EMPTY, encodeUtf8, strictUtf8 } from "../core/bytes.ts";
import { UsageError } from "../core/errors.ts";
import { parseDuration } from "../core/time.ts";
import { type DeliveryResult, MODULE_CHANNELS } from "../rpc/surface.ts";
import { type Arguments, type OptionSpec, quoted } from "./command.ts";
import type { Caller } from "./connect.ts";
import type { CliContext } from "./context.ts";
import { EXIT, isUnconsumed, parseRequirement, type Requirement } from "./exit.ts";
import { type Cell, formOf, printable, writeResult } from "./output.ts";

export const MESSAGE_OPTIONS: OptionSpec[] = [
  { flag: "file", short: "f", value: "FILE", help: "take the body from a file" },
  { flag: "content-type", short: "T", value: "TYPE", help: "media type of the body (text/plain)" },
  { flag: "timeout", value: "DURATION", help: "give up after that long: 500ms, 2s, 1m; a number is seconds" },
  { flag: "retry", value: "N", help: "send it again up to N times where that is right, within --timeout (0)" },
  {
    flag: "message-id",
    value: "ID",
    help: "header X-DMQ-Id, the same in all tries: by it a receiver knows a repetition",
  },
  { flag: "require-consumer", help: "202 is not enough: somebody there must have taken the message" },
  { flag: "max-forwards", value: "N", help: "Max-Forwards of the request, 0 to 255" },
  { flag: "force", help: "also on channels that Kamailio's modules own" },
];

export const BROADCAST_OPTIONS: OptionSpec[] = [
  { flag: "require", value: "all|any|N|N%", help: "how many must say 2xx (all)" },
  { flag: "except", value: "NODE", repeatable: true, help: "leave this node out; may be repeated" },
];

export const LINES_OPTION: OptionSpec = {
  flag: "lines",
  short: "l",
  help: "each line of standard input, or of -f FILE, is a message; a result line begins with its number",
};

export const SPOOL_OPTION: OptionSpec = {
  flag: "spool",
  value: "TTL",
  optionalValue: () => false,
  help: "store it first, and go on until it is delivered, for 24h or --spool=TTL; exit 75 while it is not",
};

export const SPOOL_NOTE = [
  "With --spool the message is in the queue outbox of the daemon before it is sent: what does not get through goes out when the node is",
  "there again, in the order of the calls, always with the same X-DMQ-Id. dmq queue list shows it; dmq queue dead outbox what was refused.",
  "Who repeats it after 75 gives --message-id ID: stored once, and 0 when it was delivered.",
];

export const SPOOL_EXIT: readonly [code: number, meaning: string] = [75, "with --spool: stored, and not delivered yet"];

const SPOOL_MS_MAX = 10 * 365 * 24 * 3_600_000;

export const BODY_NOTE =
  "BODY - is standard input, octet by octet; a BODY that begins with - goes behind --; without one the message is empty.";

export const LINES_NOTE = [
  "With -l, LF or CRLF ends a line and an empty line is an empty message. Lines go out as they come; results are printed in",
  "their order, and a line that fails stops nothing: exit 7 if some failed. --message-id ID becomes ID-1, ID-2 ...",
];

export const MESSAGE_EXITS: readonly (readonly [code: number, meaning: string])[] = [
  [2, "usage, or a message that is too large"],
  [4, "unreachable: the daemon, or the node"],
  [5, "refused (3xx to 6xx), or the queue for the node is full"],
  [6, "timeout, 408 or cancelled: it may or may not have happened"],
];

const TIMEOUT_MS_MAX = 3_600_000;
const MAX_FORWARDS_MAX = 255;
const RETRY_MAX = 10;

/** Time on top of `--timeout` in which the daemon must have said how it ended. */
const GRACE_MS = 5_000;

export const SILENT_TEXT = "the daemon did not say in time how it ended";

export interface MessageParams {
  channel: string;
  body?: string;
  body_base64?: string;
  content_type: string;
  max_forwards?: number;
  timeout_ms?: number;
  force?: boolean;
  message_id?: string;
  retry?: number;
  spool?: boolean;
  spool_ttl_ms?: number;
}

/**
 * @param body  the words that may be the body: one at most
 * @throws      UsageError for malformed options, two bodies, a file that cannot be read, a channel that is not ours
 */
export async function readMessage(
  context: CliContext,
  args: Arguments,
  channel: string,
  body: string | undefined,
): Promise<MessageParams> {
  const { channel: name, ...options } = readOptions(args, channel);
  return { channel: name, ...encodeBody(await readBody(context, body, args.value("file"))), ...options };
}

/**
 * All of a message but its body.
 *
 * @throws UsageError for malformed options, a channel that is not ours
 */
export function readOptions(args: Arguments, channel: string): MessageParams {
  checkChannel(channel, args.has("force"));
  const timeout = readTimeout(args.value("timeout"));
  const maxForwards = readInteger(args, "max-forwards", 0, MAX_FORWARDS_MAX);
  const retry = readInteger(args, "retry", 0, RETRY_MAX);
  const messageId = readMessageId(args.value("message-id"));
  return {
    channel,
    content_type: readMediaType(args, "content-type") ?? "text/plain",
    ...(maxForwards !== undefined && { max_forwards: maxForwards }),
    ...(timeout !== undefined && { timeout_ms: timeout }),
    ...(args.has("force") && { force: true }),
    ...(messageId !== undefined && { message_id: messageId }),
    ...(retry !== undefined && { retry }),
    ...readSpool(args),
  };
}

/** @throws UsageError for a time that is none, and where nothing could be stored */
function readSpool(args: Arguments): Pick<MessageParams, "spool" | "spool_ttl_ms"> {
  const text = args.value("spool");
  if (text === undefined) return {};
  if (args.has("via")) throw new UsageError("--spool and --via exclude each other: the outbox is a daemon's");
  if (args.has("retry"))
    throw new UsageError("--spool and --retry exclude each other: what is stored is sent until it is through");
  if (text === "") return { spool: true };
  const ms = parseDuration(text);
  if (ms !== undefined && ms >= 1 && ms <= SPOOL_MS_MAX) return { spool: true, spool_ttl_ms: Math.ceil(ms) };
  throw new UsageError(`--spool=${text}: expected a duration such as 10m or 24h`);
}

/** @throws UsageError for a body beside `-l` */
export function checkLines(body: string | undefined): void {
  if (body === undefined || body === "-") return;
  throw new UsageError("with -l the messages come from standard input or -f FILE, not from an argument");
}

/** How long a daemon that lives may take to say how messages ended; `undefined` is as long as it likes. */
export function patienceMs(params: { timeout_ms?: number }): number | undefined {
  return params.timeout_ms === undefined ? undefined : params.timeout_ms + GRACE_MS;
}

/**
 * Calls the daemon and guards `--timeout` against a daemon that does not answer; without it, waits as the daemon does.
 *
 * @returns `undefined` if the daemon did not say in time how it ended
 */
export async function deliver<T>(
  caller: Pick<Caller, "call">,
  method: string,
  params: { timeout_ms?: number },
): Promise<T | undefined> {
  const patience = patienceMs(params);
  if (patience === undefined) return caller.call<T>(method, params);
  const signal = AbortSignal.timeout(patience);
  try {
    return await caller.call<T>(method, params, { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
    return undefined;
  }
}

/** The end of a command whose daemon did not answer: it may or may not have happened. */
export function silent(context: CliContext): number {
  context.stderr(`dmq: ${SILENT_TEXT}\n`);
  return EXIT.timeout;
}

/** @throws UsageError where `--require` is none of its forms */
export function readRequirement(text: string): Requirement {
  const requirement = parseRequirement(text);
  if (requirement !== undefined) return requirement;
  throw new UsageError(`--require ${quoted(text)}: expected all, any, a number from 1, or 1% to 100%`);
}

/** @param excepted  nodes that `--except` left out */
export function sayNobody(context: CliContext, excepted: number): void {
  const but = excepted > 0 ? " besides those left out" : "";
  context.stderr(`dmq: there is no active node to address${but}; dmq list shows the nodes\n`);
}

/** @throws UsageError for what cannot be a channel's name */
export function checkChannelName(channel: string): string {
  // Request-URI user part (RFC 3261 section 25.1); what is not in it would have to be folded or escaped.
  if (!/^[A-Za-z0-9\-_.!~*'()&=+$,;?/%]{1,255}$/.test(channel)) {
    throw new UsageError(`channel ${quoted(channel)} is none: letters, digits and -_.!~*'()&=+$,;?/ are allowed`);
  }
  return channel;
}

function checkChannel(channel: string, force: boolean): void {
  checkChannelName(channel);
  if (MODULE_CHANNELS.has(channel) && !force) {
    throw new UsageError(
      `channel ${channel} belongs to a module of Kamailio, and a message that it does not expect can crash it; --force sends it all the same`,
    );
  }
}

/** @throws UsageError for text that is no SIP URI; the daemon has the full grammar */
export function checkUri(what: string, uri: string): string {
  const isPlain = /^[\x21-\x7e]{1,255}$/.test(uri);
  if (isPlain && /^sips?:[^:]/i.test(uri)) return uri;
  const near = isPlain && /^[A-Za-z0-9[]/.test(uri) && !/^sips?:/i.test(uri) ? `; did you mean sip:${uri}?` : "";
  throw new UsageError(`${what} ${quoted(uri)} is no SIP URI such as sip:192.0.2.1:5060${near}`);
}

/** @throws UsageError for what is no media type, or no range of them such as text/* */
export function readMediaType(args: Arguments, flag: string): string | undefined {
  const text = args.value(flag);
  if (text === undefined) return undefined;
  if (/^[\x21-\x7e]+\/[\x20-\x7e]*[\x21-\x7e]$/.test(text) && text.length <= 255) return text;
  throw new UsageError(`--${flag} ${quoted(text)} is no media type such as text/plain`);
}

export function readTimeout(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = parseDuration(text);
  if (ms === undefined || ms < 1 || ms > TIMEOUT_MS_MAX) {
    throw new UsageError(`--timeout ${quoted(text)}: expected a duration from 1ms to 1h, such as 500ms or 2s`);
  }
  return Math.ceil(ms);
}

export function readInteger(args: Arguments, flag: string, low: number, high: number): number | undefined {
  const text = args.value(flag);
  if (text === undefined) return undefined;
  const isInteger = /^\d{1,9}$/.test(text) && Number(text) >= low && Number(text) <= high;
  if (isInteger) return Number(text);
  throw new UsageError(`--${flag} ${quoted(text)}: expected an integer from ${low} to ${high}`);
}

/** It becomes a header, with the number of a line behind it for `-l`. */
function readMessageId(text: string | undefined): string | undefined {
  if (text === undefined || /^[\x21-\x7e]{1,100}$/.test(text)) return text;
  throw new UsageError(`--message-id ${quoted(text)}: expected 1 to 100 visible ASCII characters`);
}

async function readBody(context: CliContext, word: string | undefined, file: string | undefined): Promise<Uint8Array> {
  if (word !== undefined && file !== undefined)
    throw new UsageError("two bodies: an argument and -f exclude each other");
  if (word === "-" || file === "-") return context.stdin();
  if (file !== undefined) return readFile(context, file);
  return word === undefined ? EMPTY : wordOctets(word);
}

/** @throws UsageError for a word that may not have been typed so: Bun puts U+FFFD where an argument is no UTF-8 */
function wordOctets(word: string): Uint8Array {
  if (!word.includes("\ufffd")) return encodeUtf8(word);
  throw new UsageError("BODY has octets that are no UTF-8, or U+FFFD: such a body goes by standard input or -f FILE");
}

/** @throws UsageError if the file cannot be read */
export async function readFile(context: CliContext, file: string): Promise<Uint8Array> {
  try {
    return await context.readFile(file);
  } catch (cause) {
    if (cause instanceof UsageError) throw cause;
    throw new UsageError(`cannot read ${file} (${(cause as { code?: string }).code ?? String(cause)})`);
  }
}

export function encodeBody(bytes: Uint8Array): { body: string } | { body_base64: string } {
  const body = strictUtf8(bytes);
  return body === undefined ? { body_base64: Buffer.from(bytes).toString("base64") } : { body };
}

/**
 * Prints `NODE CODE REASON MS` for each; where there is no SIP response, CODE is `-` and REASON the outcome, and what is
 * known of the cause goes to stderr, because its words may change.
 */
export function writeDeliveries(
  context: CliContext,
  args: Arguments,
  results: DeliveryResult[],
  json: unknown,
  exit: number,
): void {
  writeResult(
    context,
    formOf(context, args),
    json,
    results.map(deliveryCells),
    results.length > 0 ? DELIVERY_HEADER : [],
  );
  sayCauses(context, args, results, exit);
}

export const DELIVERY_HEADER: string[] = ["NODE", "CODE", "REASON", "MS"];

/** On stderr, for those results that have a cause. Where enough nodes said yes, a cron job must not send mail for the others. */
export function sayCauses(
  context: CliContext,
  args: Arguments,
  results: readonly DeliveryResult[],
  exit: number,
): void {
  if (exit === EXIT.ok && !context.isTty.stderr) return;
  for (const result of results) {
    const cause = causeOf(result, args.has("require-consumer"));
    if (cause !== undefined) context.stderr(`dmq: ${cause}\n`);
  }
}

/** @returns what the columns of a result do not say: why there is no response, or why a 202 was not enough */
export function causeOf(result: DeliveryResult, needsConsumer: boolean): string | undefined {
  const node = printable(result.node);
  if (needsConsumer && isUnconsumed(result)) return `${node}: nobody takes the messages of this channel there`;
  return result.code === null && result.reason !== "" ? `${node}: ${printable(result.reason)}` : undefined;
}

export function deliveryCells(result: DeliveryResult): Cell[] {
  const how: Cell[] = result.code === null ? ["-", result.outcome] : [result.code, result.reason];
  return [result.node, ...how, Math.round(result.ms)];
}
