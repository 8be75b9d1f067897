/** What `dmq amqp publish` and `dmq amqp query` share: the properties of a message, its body, and a daemon that is gone. */

import { readHeaders } from "../../amqp/headers.ts";
import { type DeliveryRow, headersJson } from "../../amqp/json.ts";
import { encodeUtf8 } from "../../core/bytes.ts";
import { RpcError, UsageError } from "../../core/errors.ts";
import { type Arguments, type OptionSpec, quoted } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT } from "../exit.ts";
import { readFile, readInteger, readMediaType, readTimeout } from "../message.ts";
import type { Brokers } from "./caller.ts";

/** AMQP 0-9-1, 4.2.5.3: short strings. */
const NAME_BYTES_MAX = 255;
const PRIORITY_MAX = 255;

/** Time on top of `--timeout` in which the daemon must have said how it ended. */
const GRACE_MS = 5_000;

export const PROPERTY_OPTIONS: OptionSpec[] = [
  { flag: "file", short: "f", value: "FILE", help: "take the body from a file" },
  {
    flag: "content-type",
    short: "T",
    value: "TYPE",
    help: "media type of the body (application/json if it is JSON, else text/plain if it is UTF-8, else application/octet-stream)",
  },
  { flag: "content-encoding", value: "NAME", help: "how the body is packed, gzip say; it goes out as it is" },
  {
    flag: "header",
    value: "K=V",
    repeatable: true,
    help: "a header: text, or K:int=5, K:float=0.5, K:bool=true, K:json=[1,2]; may be repeated",
  },
  {
    flag: "headers",
    value: "K=V;K2=V2",
    repeatable: true,
    help: "several headers, all of them text, as kazoo writes them",
  },
  { flag: "message-id", value: "ID", help: "by it a receiver knows a repetition (made up)" },
  { flag: "priority", value: "N", help: "0 to 255, for queues with priorities" },
  { flag: "type", value: "NAME", help: "property type" },
  { flag: "app-id", value: "NAME", help: "property app_id" },
  {
    flag: "kazoo",
    help: "put App-Name, App-Version, Node, Msg-ID and Server-ID into the JSON body, as far as they are missing",
  },
];

export const BODY_NOTE =
  "BODY - , or none, is standard input, octet by octet; a BODY that begins with - goes behind --.";

export interface MessageParams {
  exchange: string;
  routing_key: string;
  timeout_ms: number;
}

/**
 * All of a message but its body.
 *
 * @throws UsageError for malformed options, and names that no broker takes
 */
export function readMessage(args: Arguments, timeoutMs: number): MessageParams & Record<string, unknown> {
  const [exchange, key] = args.positionals as [string, string];
  const contentType = readMediaType(args, "content-type");
  const headers = readHeaders(args.all("header"), args.all("headers"));
  const priority = readInteger(args, "priority", 0, PRIORITY_MAX);
  return {
    exchange: shortText("EXCHANGE", exchange),
    routing_key: shortText("KEY", key),
    timeout_ms: readTimeout(args.value("timeout")) ?? timeoutMs,
    ...(contentType !== undefined && { content_type: contentType }),
    ...named(args, "content-encoding", "content_encoding"),
    ...(headers !== undefined && { amqp_headers: headersJson(headers) }),
    ...named(args, "message-id", "message_id"),
    ...(priority !== undefined && { priority }),
    ...named(args, "type", "message_type"),
    ...named(args, "app-id", "app_id"),
    ...(args.has("kazoo") && { kazoo: true }),
  };
}

/** @throws UsageError for what is longer than a broker takes, or may not have been typed so */
export function shortText(what: string, text: string): string {
  if (text.includes("\ufffd")) throw new UsageError(`${what} ${quoted(text)} has octets that are no UTF-8, or U+FFFD`);
  const bytes = Buffer.byteLength(text);
  if (bytes <= NAME_BYTES_MAX) return text;
  throw new UsageError(`${what} has ${bytes} octets, expected at most ${NAME_BYTES_MAX}`);
}

/** A text of an option under its name on the wire; nothing where it is not given. */
export function named(args: Arguments, flag: string, name: string): Record<string, string> {
  const text = args.value(flag);
  if (text === undefined) return {};
  if (text === "") throw new UsageError(`--${flag}: expected a text`);
  return { [name]: shortText(`--${flag}`, text) };
}

/** @throws UsageError for two bodies, and a file that cannot be read */
export async function readBody(context: CliContext, args: Arguments): Promise<Uint8Array> {
  const [, , word] = args.positionals;
  const file = args.value("file");
  if (word !== undefined && file !== undefined)
    throw new UsageError("two bodies: an argument and -f exclude each other");
  if (file !== undefined && file !== "-") return readFile(context, file);
  if (word === undefined || word === "-") return context.stdin();
  if (!word.includes("\ufffd")) return encodeUtf8(word);
  throw new UsageError("BODY has octets that are no UTF-8, or U+FFFD: such a body goes by standard input or -f FILE");
}

/**
 * Calls and gives up soon after the time that was asked for.
 *
 * @throws RpcError with exit code 6 where nobody said how it ended: it may or may not have happened
 */
export async function ask<T>(brokers: Brokers, method: string, params: object, timeoutMs: number): Promise<T> {
  const patience = AbortSignal.timeout(timeoutMs + GRACE_MS);
  try {
    return await brokers.call<T>(method, params, { signal: patience });
  } catch (error) {
    if (patience.aborted) throw unknownEnd(method, "the daemon did not say in time how it ended");
    throw lost(error);
  }
}

/** A daemon that was there, and went away before it answered. */
export function lost(error: unknown): unknown {
  const isLost = error instanceof RpcError && error.code === "rpc-unreachable" && error.method.startsWith("amqp.");
  return isLost ? unknownEnd(error.method, `${error.message}; it may or may not have happened`) : error;
}

function unknownEnd(method: string, text: string): RpcError {
  return new RpcError("rpc-fault", text, { method, socketPath: "", data: { exit: EXIT.timeout } });
}

/** Octets of a body as they came. */
export function octetsOf({ body, body_base64: coded = "" }: Pick<DeliveryRow, "body" | "body_base64">): Uint8Array {
  return body === undefined ? new Uint8Array(Buffer.from(coded, "base64")) : encodeUtf8(body);
}
