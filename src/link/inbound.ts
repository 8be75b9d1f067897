/**
 * From a channel into a queue: the answer is 200 only when the item is stored (queue.md B8).
 *
 * A message that comes again is stored once: what it is known by, the sender's `X-DMQ-Id` or else the transaction, is committed
 * together with the item.
 */
import type { Duration } from "../core/time.ts";
import type { Answer, ChannelMessage } from "../node/io.ts";
import { KEY_BYTES_MAX } from "../queue/definition.ts";
import { QueueError } from "../queue/error.ts";
import type { NewItem } from "../queue/operation.ts";
import { addWhenRoom } from "../queue/wait.ts";
import { Counters } from "./counters.ts";
import { keptHeaders, MessageFacts, nodeOf } from "./fields.ts";
import type { LinkQueues, Sparing } from "./host.ts";
import { type Intake, later, NOT_TAKEN, TAKEN } from "./intake.ts";
import type { InboundLink } from "./kinds.ts";
import { linkId, loopIn } from "./path.ts";

/** A queue that is full and says `full=wait` may take so long to have room. */
const ROOM_MS: Duration = 1_200;

/** Twice the time in which a transaction repeats itself (RFC 3261 §17.1.2.2, 64·T1 is 32 s). */
const TRANSACTION_MS: Duration = 64_000;
/** Who names a message may repeat it as a new transaction: a `dmq` with an outbox does. */
const MESSAGE_ID_MS: Duration = 3_600_000;

export interface InboundHost {
  queues: LinkQueues;
  warnings: Sparing;
  /** Our own URI. */
  uri(): string;
}

export class Inbound implements Intake {
  readonly counters: Counters = new Counters();
  private readonly link: InboundLink;
  private readonly host: InboundHost;

  constructor(link: InboundLink, host: InboundHost) {
    this.link = link;
    this.host = host;
  }

  async take(message: ChannelMessage, path: readonly string[]): Promise<Answer> {
    const { link, host, counters } = this;
    const id = linkId(host.uri(), link.name);
    const loop = loopIn(path, id);
    if (loop !== undefined) return heldBack(link.name, counters, host.warnings, message, loop);
    return keep(host, link.name, counters, () => link.queue, itemOf(link, message, [...path, id]));
  }
}

/** Takes note of a message that would go round, and says so. */
export function heldBack(
  name: string,
  counters: Counters,
  warnings: Sparing,
  { from }: Pick<ChannelMessage, "from">,
  loop: string,
): Answer {
  counters.heldBack++;
  warnings.warn(`loop ${name}`, `link ${name}: a message of ${from} goes no further: ${loop}`);
  return NOT_TAKEN;
}

/**
 * Stores what a message became, and answers by what came of it.
 *
 * @param queue  asked when it is stored: it may have become another one while the store was opened
 */
export async function keep(
  { queues, warnings }: Pick<InboundHost, "queues" | "warnings">,
  name: string,
  counters: Counters,
  queue: () => string,
  item: NewItem,
): Promise<Answer> {
  try {
    const store = await queues.open();
    await addWhenRoom(store, { type: "add", queue: queue(), items: [item] }, ROOM_MS);
    counters.out++;
    return TAKEN;
  } catch (error) {
    counters.failed++;
    if (!(error instanceof QueueError)) throw error;
    warnings.warn(`${error.code} ${name}`, `link ${name}: not stored: ${error.message}`);
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

function itemOf(link: InboundLink, message: ChannelMessage, path: readonly string[]): NewItem {
  const { body, channel, contentType } = message;
  const headers = keptHeaders(message);
  return {
    key: cutKey(link.key.fill(new MessageFacts(message))),
    value: body,
    path,
    from: nodeOf(message),
    channel,
    ...(contentType !== undefined && { contentType }),
    ...(Object.keys(headers).length > 0 && { headers }),
    ...identityOf(message),
  };
}

/** By what a message is known that comes again. */
export function identityOf({ from, messageId, request }: ChannelMessage): Pick<NewItem, "dedupe" | "dedupeMs"> {
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
export function cutKey(key: string): string {
  const { read } = ENCODER.encodeInto(key, new Uint8Array(KEY_BYTES_MAX));
  return key.slice(0, read);
}
