/**
 * From a channel into queues. The answer is 200 only when the item is stored, and due within 1.5 s whatever happens, because a
 * Kamailio takes a node that is silent off its list; it has no body ever (queue.md B8).
 *
 * A message that comes again is stored once: what it is known by, the sender's `X-DMQ-Id` or else the transaction, is committed
 * together with the item.
 */
import type { Handler } from "../channel/channel.ts";
import type { Duration } from "../core/time.ts";
import type { Answer, ChannelMessage } from "../node/io.ts";
import { MESSAGE_ID_HEADER, PATH_HEADER } from "../node/kdmq.ts";
import { KEY_BYTES_MAX } from "../queue/definition.ts";
import { QueueError } from "../queue/error.ts";
import type { NewItem } from "../queue/operation.ts";
import { addWhenRoom } from "../queue/wait.ts";
import type { Counters } from "./counters.ts";
import type { InboundLink } from "./definition.ts";
import type { LinkQueues, Sparing } from "./host.ts";
import { linkId, loopIn, readPath } from "./path.ts";
import type { TemplateFacts } from "./template.ts";

/** A queue that is full and says `full=wait` may take so long to have room. */
const ROOM_MS: Duration = 1_200;
/** Until the answer, room and commit included. */
const ANSWER_MS: Duration = 1_400;
/** Messages that wait for their commit. */
const PENDING_MAX = 1_024;

const RETRY_AFTER_SECONDS = 2;

/** Twice the time in which a transaction repeats itself (RFC 3261 §17.1.2.2, 64·T1 is 32 s). */
const TRANSACTION_MS: Duration = 64_000;
/** Who names a message may repeat it as a new transaction: a `dmq` with an outbox does. */
const MESSAGE_ID_MS: Duration = 3_600_000;

const STORED: Answer = { status: 200 };
/** Taken note of, and taken by nobody. */
const NOT_TAKEN: Answer = { status: 202, reason: "Accepted, Not Passed On" };

export interface InboundHost {
  queues: LinkQueues;
  warnings: Sparing;
  /** Our own URI. */
  uri(): string;
}

/** One link with its counters. */
export interface InboundState {
  readonly link: InboundLink;
  readonly counters: Counters;
}

/** @param states  the links of one channel; a message is stored in all of their queues, or answered as not stored */
export function inboundHandler(host: InboundHost, states: readonly InboundState[]): Handler {
  let pending = 0;
  return async (message) => {
    if (pending >= PENDING_MAX) {
      for (const { counters } of states) {
        counters.in++;
        counters.failed++;
      }
      host.warnings.warn("pending", `channel ${message.channel}: ${PENDING_MAX} messages wait for the store already`);
      return later("Store Busy");
    }
    pending++;
    try {
      return await inTime(store(host, states, message));
    } finally {
      pending--;
    }
  };
}

async function inTime(answer: Promise<Answer>): Promise<Answer> {
  const { promise, resolve } = Promise.withResolvers<Answer>();
  const timer = setTimeout(() => resolve(later("Store Too Slow")), ANSWER_MS);
  try {
    return await Promise.race([answer, promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function store(host: InboundHost, states: readonly InboundState[], message: ChannelMessage): Promise<Answer> {
  const { headers } = message.request;
  const path = readPath(headers.get(PATH_HEADER));
  const answers = await Promise.all(states.map((state) => storeOne(host, state, message, path)));
  // The gravest: a message that one queue has not must come again, and the others know it by then.
  return answers.reduce((a, b) => (b.status > a.status ? b : a));
}

async function storeOne(
  { queues, warnings, uri }: InboundHost,
  { link, counters }: InboundState,
  message: ChannelMessage,
  path: readonly string[],
): Promise<Answer> {
  counters.in++;
  const id = linkId(uri(), link.name);
  const loop = loopIn(path, id);
  if (loop !== undefined) {
    counters.heldBack++;
    warnings.warn(`loop ${link.name}`, `link ${link.name}: a message of ${message.from} goes no further: ${loop}`);
    return NOT_TAKEN;
  }
  try {
    const items = [itemOf(link, message, [...path, id])];
    await addWhenRoom(await queues.open(), { type: "add", queue: link.queue, items }, ROOM_MS);
    counters.out++;
    return STORED;
  } catch (error) {
    counters.failed++;
    if (!(error instanceof QueueError)) throw error;
    warnings.warn(`${error.code} ${link.name}`, `link ${link.name}: not stored: ${error.message}`);
    return answerFor(error);
  }
}

function answerFor({ code }: QueueError): Answer {
  switch (code) {
    case "item-refused":
      return { status: 413, reason: "Item Refused" };
    case "queue-full":
    case "queue-timeout":
      return later("Queue Full");
    default:
      return later("Not Stored");
  }
}

function later(reason: string): Answer {
  return { status: 503, reason, retryAfterSeconds: RETRY_AFTER_SECONDS };
}

function itemOf(link: InboundLink, message: ChannelMessage, path: readonly string[]): NewItem {
  const { body, channel, contentType, messageId } = message;
  return {
    key: cut(link.key.fill(factsOf(message))),
    value: body,
    path,
    from: nodeOf(message),
    channel,
    ...(contentType !== undefined && { contentType }),
    ...(messageId !== undefined && { headers: { [MESSAGE_ID_HEADER]: messageId } }),
    ...identityOf(message),
  };
}

/** URI of the node that sent it. */
function nodeOf({ peer, from }: ChannelMessage): string {
  return peer ?? from.replace(/^(sips?:)[^@]*@/i, "$1");
}

function factsOf(message: ChannelMessage): TemplateFacts {
  const { channel, contentType = "", body, source, callId } = message;
  const header = (name: string): string => message.request.headers.get(name) ?? "";
  return { channel, from: nodeOf(message), contentType, body, header, source, callId };
}

/** By what a message is known that comes again. */
function identityOf({ from, messageId, request }: ChannelMessage): Pick<NewItem, "dedupe" | "dedupeMs"> {
  const { headers } = request;
  // Retransmissions are equal octet by octet, so the headers need not be taken apart to compare branch and tag.
  const parts =
    messageId === undefined
      ? ["Via", "Call-ID", "CSeq", "From"].map((name) => headers.get(name) ?? "")
      : [from, messageId];
  const digest = new Bun.CryptoHasher("sha256").update(parts.join("\n")).digest("hex");
  return messageId === undefined
    ? { dedupe: `transaction ${digest}`, dedupeMs: TRANSACTION_MS }
    : { dedupe: `message ${digest}`, dedupeMs: MESSAGE_ID_MS };
}

const ENCODER = new TextEncoder();

/** A key is cut where it is too long, between two characters. */
function cut(key: string): string {
  const { read } = ENCODER.encodeInto(key, new Uint8Array(KEY_BYTES_MAX));
  return key.slice(0, read);
}
