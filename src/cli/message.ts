/**
 * What `send` and `bcast` share: the options of a message, its body, the guard for channels that are not ours, and how a
 * result is printed. No octet of a body is changed on its way: what is no UTF-8 travels as base64.
 */
import { UsageError } from "../core/errors.ts";
import { parseDuration } from "../core/time.ts";
import type { RpcClient } from "../rpc/client.ts";
import { type DeliveryResult, MODULE_CHANNELS } from "../rpc/surface.ts";
import type { Arguments, OptionSpec } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT, parseRequirement, type Requirement } from "./exit.ts";
import { type Cell, formOf, printable, writeResult } from "./output.ts";

export const MESSAGE_OPTIONS: OptionSpec[] = [
  { flag: "file", short: "f", value: "FILE", help: "take the body from a file" },
  { flag: "content-type", short: "T", value: "TYPE", help: "media type of the body (text/plain)" },
  { flag: "timeout", value: "DURATION", help: "give up after that long: 500ms, 2s, 1m; a number is seconds" },
  { flag: "max-forwards", value: "N", help: "Max-Forwards of the request, 0 to 255" },
  { flag: "force", help: "also on channels that Kamailio's modules own" },
];

export const BODY_NOTE =
  "BODY - is standard input, octet by octet; without a BODY and without -f the message is empty.";

const TIMEOUT_MS_MAX = 3_600_000;
const MAX_FORWARDS_MAX = 255;

/** Time on top of `--timeout` in which the daemon must have said how it ended. */
const GRACE_MS = 5_000;

export interface MessageParams {
  channel: string;
  body?: string;
  body_base64?: string;
  content_type: string;
  max_forwards?: number;
  timeout_ms?: number;
  force?: boolean;
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
  checkChannel(channel, args.has("force"));
  const timeout = readTimeout(args.value("timeout"));
  const maxForwards = readMaxForwards(args.value("max-forwards"));
  const contentType = readContentType(args.value("content-type") ?? "text/plain");
  return {
    channel,
    ...encodeBody(await readBody(context, body, args.value("file"))),
    content_type: contentType,
    ...(maxForwards !== undefined && { max_forwards: maxForwards }),
    ...(timeout !== undefined && { timeout_ms: timeout }),
    ...(args.has("force") && { force: true }),
  };
}

/**
 * Calls the daemon and guards `--timeout` against a daemon that does not answer; without it, waits as the daemon does.
 *
 * @returns `undefined` if the daemon did not say in time how it ended
 */
export async function deliver<T>(
  client: RpcClient,
  method: string,
  params: { timeout_ms?: number },
): Promise<T | undefined> {
  if (params.timeout_ms === undefined) return client.call<T>(method, params);
  const signal = AbortSignal.timeout(params.timeout_ms + GRACE_MS);
  try {
    return await client.call<T>(method, params, { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
    return undefined;
  }
}

/** The end of a command whose daemon did not answer: it may or may not have happened. */
export function silent(context: CliContext): number {
  context.stderr("dmq: the daemon did not say in time how it ended\n");
  return EXIT.timeout;
}

/** @throws UsageError where `--require` is none of its forms */
export function readRequirement(text: string): Requirement {
  const requirement = parseRequirement(text);
  if (requirement !== undefined) return requirement;
  throw new UsageError(`--require ${JSON.stringify(text)}: expected all, any, a number from 1, or 1% to 100%`);
}

/** @param excepted  nodes that `--except` left out */
export function sayNobody(context: CliContext, excepted: number): void {
  const but = excepted > 0 ? " besides those left out" : "";
  context.stderr(`dmq: there is no active node to address${but}; dmq list shows the nodes\n`);
}

function checkChannel(channel: string, force: boolean): void {
  // Request-URI user part (RFC 3261 section 25.1); what is not in it would have to be folded or escaped.
  if (!/^[A-Za-z0-9\-_.!~*'()&=+$,;?/%]{1,255}$/.test(channel)) {
    throw new UsageError(
      `channel ${JSON.stringify(channel)} is none: letters, digits and -_.!~*'()&=+$,;?/ are allowed`,
    );
  }
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
  throw new UsageError(`${what} ${JSON.stringify(uri)} is no SIP URI such as sip:192.0.2.1:5060${near}`);
}

function readContentType(text: string): string {
  if (/^[\x21-\x7e]+\/[\x20-\x7e]*[\x21-\x7e]$/.test(text) && text.length <= 255) return text;
  throw new UsageError(`--content-type ${JSON.stringify(text)} is no media type such as text/plain`);
}

export function readTimeout(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = parseDuration(text);
  if (ms === undefined || ms < 1 || ms > TIMEOUT_MS_MAX) {
    throw new UsageError(`--timeout ${JSON.stringify(text)}: expected a duration from 1ms to 1h, such as 500ms or 2s`);
  }
  return Math.ceil(ms);
}

function readMaxForwards(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,3}$/.test(text) && Number(text) <= MAX_FORWARDS_MAX) return Number(text);
  throw new UsageError(`--max-forwards ${JSON.stringify(text)}: expected an integer from 0 to ${MAX_FORWARDS_MAX}`);
}

async function readBody(context: CliContext, word: string | undefined, file: string | undefined): Promise<Uint8Array> {
  if (word !== undefined && file !== undefined)
    throw new UsageError("two bodies: an argument and -f exclude each other");
  if (word === "-" || file === "-") return context.stdin();
  return file === undefined ? new TextEncoder().encode(word ?? "") : readFile(context, file);
}

/** @throws UsageError if the file cannot be read */
export async function readFile(context: CliContext, file: string): Promise<Uint8Array> {
  try {
    return await context.readFile(file);
  } catch (cause) {
    throw new UsageError(`cannot read ${file} (${(cause as { code?: string }).code ?? String(cause)})`);
  }
}

function encodeBody(bytes: Uint8Array): { body: string } | { body_base64: string } {
  try {
    // With the byte order mark kept, decoding and encoding again gives the same octets.
    return { body: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes) };
  } catch {
    return { body_base64: Buffer.from(bytes).toString("base64") };
  }
}

/**
 * Prints `NODE CODE REASON MS` for each; where there is no SIP response, CODE is `-` and REASON the outcome, and what is
 * known of the cause goes to stderr, because its words may change.
 */
export function writeDeliveries(context: CliContext, args: Arguments, results: DeliveryResult[], json: unknown): void {
  writeResult(context, formOf(context, args), json, results.map(deliveryRow));
  for (const { node, code, reason } of results) {
    if (code === null && reason !== "") context.stderr(`dmq: ${printable(node)}: ${printable(reason)}\n`);
  }
}

function deliveryRow(result: DeliveryResult): Cell[] {
  const how: Cell[] = result.code === null ? ["-", result.outcome] : [result.code, result.reason];
  return [result.node, ...how, Math.round(result.ms)];
}
