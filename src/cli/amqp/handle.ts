/**
 * What a command does with a message (amqp.md B5): it has the body on standard input and facts in `DMQ_*` variables; its end decides as
 * with queues; with `--reply` what it prints is the answer, and the message is acknowledged when a broker has confirmed that.
 */
import { promisify } from "node:util";
import { gunzip, inflate } from "node:zlib";
import { contentTypeOf } from "../../amqp/content.ts";
import type { EventFields } from "../../amqp/dispatch.ts";
import { AmqpError } from "../../amqp/error.ts";
import {
  incoming,
  type KazooIdentity,
  MSG_ID,
  memberOf,
  outgoing,
  SERVER_ID,
  TARGETED_EXCHANGE,
} from "../../amqp/kazoo.ts";
import type { Delivery, Publication } from "../../amqp/message.ts";
import type { AmqpItem, AmqpSupply } from "../../amqp/supply.ts";
import { commandHandler } from "../../consume/command.ts";
import type { Handler, Verdict } from "../../consume/consumer.ts";
import { concatBytes } from "../../core/bytes.ts";
import type { Duration } from "../../core/time.ts";
import { bounded, type Variables } from "../../exec/command.ts";
import type { Item } from "../../queue/operation.ts";
import type { Handlers } from "./handlers.ts";

/** What a body may become when it is unpacked: a few octets can be gigabytes. */
const DECODED_BYTES_MAX = 64 * 1024 * 1024;

/** An answer that is longer is none: a broker would not take it. */
export const REPLY_BYTES_MAX: number = 16 * 1024 * 1024;

/** How long a broker has to confirm an answer. */
const REPLY_MS: Duration = 10_000;

export type Unmatched = "ack" | "dead" | "stop";

export interface Replying {
  /** Without it, what the answer looks like. */
  contentType: string | undefined;
  publish(message: Publication, choice: { timeoutMs: Duration; broker: number }): Promise<unknown>;
}

export interface HandleOptions {
  supply: AmqpSupply;
  handlers: Handlers;
  timeoutMs: Duration;
  unmatched: Unmatched;
  decode: boolean;
  /** Who we are for Kazoo's applications; without it no body is touched. */
  kazoo: KazooIdentity | undefined;
  /** Of the subscription that a message came by. */
  fieldsOf(delivery: Delivery): EventFields;
  reply: Replying | undefined;
  /** Besides those of a message. */
  variables: Variables;
  onStdout(chunk: Uint8Array): void;
  onStderrLine(line: string): void;
  /** What the operator should know of a message that is done nevertheless. */
  onNote(delivery: Delivery, text: string): void;
}

/** Handles one message at a time; as many run side by side as the consumer asks for. */
export function messageHandler(options: HandleOptions): Handler {
  return async ([item], stop) => {
    const { delivery } = item as AmqpItem;
    const body = options.decode ? await decoded(delivery) : delivery.body;
    if (body === undefined)
      return dead("could not be run: the body is not packed as its content encoding says", "decode");
    const choice = options.handlers.choose(body, options.fieldsOf(delivery));
    if (choice.type === "none") return unmatched(options.unmatched, choice.why);
    const timeoutMs = options.supply.timeOf(item as Item, options.timeoutMs);
    // It waited too long to be handled before the broker asks for it back, and comes again.
    if (timeoutMs === undefined) return { type: "stopped" };
    const value = options.kazoo === undefined ? body : receivedBy(delivery, body);
    const printed = new Printed(options.reply === undefined ? Number.POSITIVE_INFINITY : REPLY_BYTES_MAX);
    const verdict = await commandHandler({
      argv: choice.argv,
      ...{ timeoutMs: Math.max(1, timeoutMs), batch: false },
      variables: { ...bounded(messageVariables(item as AmqpItem, choice.name)), ...options.variables },
      onStdout: (chunk) => (options.reply === undefined ? options.onStdout(chunk) : printed.push(chunk)),
      onStderrLine: options.onStderrLine,
    })([{ ...(item as Item), value }], stop);
    if (verdict.type !== "done" || options.reply === undefined) return verdict;
    return answer(options, options.reply, delivery, printed);
  };
}

function dead(why: string, reason: string): Verdict {
  return { type: "failed", why, fate: { fate: "dead", reason } };
}

function unmatched(mode: Unmatched, why: string): Verdict {
  if (mode === "stop") return { type: "unable", why };
  return mode === "ack" ? { type: "done" } : dead(why, "unmatched");
}

function receivedBy({ broker }: Delivery, body: Uint8Array): Uint8Array {
  return incoming(body, { zone: broker.zone, broker: broker.number, receivedS: Math.floor(Date.now() / 1_000) });
}

/** @param handler  name of the handler that was found for it */
function messageVariables({ delivery, tries }: AmqpItem, handler: string): Variables {
  const { exchange, routingKey, queue, messageId, correlationId, replyTo, contentType, contentEncoding } = delivery;
  return {
    DMQ_EXCHANGE: exchange,
    DMQ_ROUTING_KEY: routingKey,
    DMQ_QUEUE: queue,
    DMQ_MESSAGE_ID: messageId ?? "",
    DMQ_CORRELATION_ID: correlationId ?? "",
    DMQ_REPLY_TO: replyTo ?? "",
    DMQ_CONTENT_TYPE: contentType ?? "",
    DMQ_CONTENT_ENCODING: contentEncoding ?? "",
    DMQ_REDELIVERED: delivery.redelivered ? "1" : "",
    DMQ_TRIES: String(tries),
    DMQ_BROKER: delivery.broker.text,
    DMQ_ZONE: delivery.broker.zone,
    DMQ_HANDLER: handler,
  };
}

/** @returns the body as it was before it was packed; `undefined` where it is not what its encoding says */
async function decoded({ body, contentEncoding }: Delivery): Promise<Uint8Array | undefined> {
  const unpack = UNPACK.get(contentEncoding?.trim().toLowerCase() ?? "");
  if (unpack === undefined) return body;
  try {
    return await unpack(body, { maxOutputLength: DECODED_BYTES_MAX });
  } catch {
    return undefined;
  }
}

const UNPACK: ReadonlyMap<string, (body: Uint8Array, limits: { maxOutputLength: number }) => Promise<Uint8Array>> =
  new Map([
    ["gzip", promisify(gunzip)],
    ["x-gzip", promisify(gunzip)],
    ["deflate", promisify(inflate)],
  ]);

// --- answers ------------------------------------------------------------------------------------------------------------

class Printed {
  isTooMuch = false;
  private readonly max: number;
  private readonly chunks: Uint8Array[] = [];
  private bytes = 0;

  constructor(max: number) {
    this.max = max;
  }

  push(chunk: Uint8Array): void {
    this.bytes += chunk.length;
    this.isTooMuch ||= this.bytes > this.max;
    if (!this.isTooMuch) this.chunks.push(chunk);
  }

  whole(): Uint8Array {
    return concatBytes(this.chunks);
  }
}

async function answer(
  options: HandleOptions,
  { contentType, publish }: Replying,
  delivery: Delivery,
  printed: Printed,
): Promise<Verdict> {
  if (printed.isTooMuch) return dead(`printed more than ${REPLY_BYTES_MAX} octets for an answer`, "answer");
  const body = answerOf(options, delivery, printed.whole());
  const address = addressOf(options, delivery);
  if (address === undefined) {
    options.onNote(delivery, "it asks for no answer, so that there is none");
    return { type: "done" };
  }
  const type = contentType ?? contentTypeOf(body);
  try {
    await publish({ body, contentType: type, ...address }, { timeoutMs: REPLY_MS, broker: delivery.broker.number });
    return { type: "done" };
  } catch (error) {
    return unanswered(options, delivery, error);
  }
}

type Address = Pick<Publication, "exchange" | "routingKey" | "correlationId">;

/** @returns `undefined` where nobody waits for an answer */
function addressOf({ kazoo }: HandleOptions, { body, replyTo, correlationId }: Delivery): Address | undefined {
  const serverId = kazoo === undefined ? undefined : memberOf(body, SERVER_ID);
  if (serverId)
    return { exchange: TARGETED_EXCHANGE, routingKey: serverId, correlationId: messageIdOf({ body, correlationId }) };
  if (!replyTo) return undefined;
  return { exchange: "", routingKey: replyTo, ...(correlationId !== undefined && { correlationId }) };
}

/** By it an application of Kazoo's knows the answer to its question. */
function messageIdOf({ body, correlationId }: { body: Uint8Array; correlationId: string | undefined }): string {
  return memberOf(body, MSG_ID) ?? correlationId ?? "";
}

/** With Kazoo's members, as far as they are missing; what is no JSON object has none. */
function answerOf({ kazoo }: HandleOptions, { body, correlationId }: Delivery, printed: Uint8Array): Uint8Array {
  if (kazoo === undefined) return printed;
  // Nobody is to answer an answer: there is no address of ours to put in.
  return outgoing(printed, kazoo, { messageId: messageIdOf({ body, correlationId }), key: "" }) ?? printed;
}

const NOT_TAKEN: readonly string[] = ["amqp-refused", "amqp-no-such", "amqp-invalid"];

/** Where nobody waits any more, another try would not find anybody either. */
function unanswered({ onNote }: HandleOptions, delivery: Delivery, error: unknown): Verdict {
  const { message } = error as Error;
  if (error instanceof AmqpError && NOT_TAKEN.includes(error.code)) {
    onNote(delivery, `its answer was not taken: ${message}`);
    return { type: "done" };
  }
  return { type: "failed", why: `is done, but not its answer: ${message}`, fate: { fate: "retry", reason: "answer" } };
}
