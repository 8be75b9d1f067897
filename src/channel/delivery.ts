/**
 * One message for one node, or for all, until it is known how it ended: sent again where that was asked for and is right,
 * and given up where enough nodes have answered. It knows no node; it is given what sends once.
 */
import { UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import type { OutcomeReport } from "../node/io.ts";
import type { SendOptions } from "../node/node.ts";
import { Retry, type RetryClock, type SendAgain, type Tried } from "./retry.ts";

/** What sends once; a `RunningNode` is one. */
export interface Sender {
  send(
    channel: string,
    node: string,
    body: Uint8Array,
    options: SendOptions & { signal?: AbortSignal },
  ): Promise<OutcomeReport>;
  broadcast(
    channel: string,
    body: Uint8Array,
    options: SendOptions & {
      except?: readonly string[];
      signal?: AbortSignal;
      onResponse?: (report: OutcomeReport) => void;
    },
  ): Promise<OutcomeReport[]>;
}

export interface Message extends SendOptions {
  channel: string;
  body: Uint8Array;
  /** Of the whole call, repeats and pauses included. */
  timeoutMs?: Duration;
  /** Repeats at most, each with the same `messageId`; one is made up if there is none. */
  retry?: number;
}

export interface DeliveryOptions {
  /** Gives up what is not over, pauses before a repeat included: `cancelled`. Only where there is something to follow. */
  signal?: AbortSignal;
  /** Stands for the system's in tests. */
  clock?: RetryClock;
}

export interface Delivery extends Tried {
  messageId: string | undefined;
  /** It was given up because enough other nodes had answered. */
  isNotWaitedFor: boolean;
}

/**
 * Sends to one node.
 *
 * @throws what `sender.send` throws the first time
 */
export async function deliver(
  sender: Sender,
  message: Message & { node: string },
  { signal, clock }: DeliveryOptions = {},
): Promise<Delivery> {
  const { channel, node, body, retry = 0, timeoutMs } = message;
  if (retry === 0) return single(await sender.send(channel, node, body, message), message.messageId);
  const named = withId(message);
  const tries = new Retry({ retry, timeoutMs }, clock);
  const first = await sender.send(channel, node, body, within(named, tries.timeoutMs()));
  const tried = await tries.finish(first, sendAgain(sender, named, node), signal);
  return { ...tried, messageId: named.messageId, isNotWaitedFor: false };
}

/**
 * Sends to every active node; one that has to be tried again holds up nobody else.
 *
 * @param message.replies  so many answers are enough: what is not over by then is `cancelled`. An answer is a 2xx of a
 *                         consumer, and where `accept` asks for a body, one with a body
 * @returns one delivery for each node that was addressed, in the order of `sender.broadcast`
 */
export async function deliverToAll(
  sender: Sender,
  message: Message & { except?: readonly string[]; replies?: number },
  { signal, clock }: DeliveryOptions = {},
): Promise<Delivery[]> {
  const { channel, body, retry = 0, replies, timeoutMs } = message;
  if (retry === 0 && replies === undefined)
    return (await sender.broadcast(channel, body, message)).map((report) => single(report, message.messageId));
  const named = retry === 0 ? message : withId(message);
  const tries = new Retry({ retry, timeoutMs }, clock);
  const over = new AbortController();
  const giveUp = (): void => over.abort();
  signal?.addEventListener("abort", giveUp, { once: true });
  const endings = new Map<string, Promise<Delivery>>();
  let wanted = replies ?? Number.POSITIVE_INFINITY;
  const follow = async (first: OutcomeReport): Promise<Delivery> => {
    const again = sendAgain(sender, named, first.peer, over.signal);
    const tried = await tries.finish(first, again, over.signal);
    if (isAnswer(tried.report, message.accept !== undefined) && --wanted === 0) over.abort();
    const isNotWaitedFor = tried.report.outcome.type === "cancelled" && wanted <= 0;
    return { ...tried, messageId: named.messageId, isNotWaitedFor };
  };
  const reports = await sender.broadcast(channel, body, {
    ...within(named, tries.timeoutMs()),
    signal: over.signal,
    onResponse: (report) => void endings.set(report.peer, follow(report)),
  });
  const deliveries = await Promise.all(reports.map(({ peer }) => endings.get(peer) as Promise<Delivery>));
  signal?.removeEventListener("abort", giveUp);
  return deliveries;
}

function single(report: OutcomeReport, messageId: string | undefined): Delivery {
  return { report, tries: 1, messageId, isNotWaitedFor: false };
}

function withId<T extends Message>(message: T): T & { messageId: string } {
  return { ...message, messageId: message.messageId ?? crypto.randomUUID() };
}

function within<T extends Message>(message: T, timeoutMs: Duration | undefined): T {
  return timeoutMs === undefined ? message : { ...message, timeoutMs };
}

function sendAgain(sender: Sender, message: Message, node: string, signal?: AbortSignal): SendAgain {
  return async (timeoutMs) => {
    try {
      const options = { ...within(message, timeoutMs), ...(signal !== undefined && { signal }) };
      return await sender.send(message.channel, node, message.body, options);
    } catch (cause) {
      // The node has been removed since, or the message was too large for it all along.
      if (cause instanceof UsageError) return undefined;
      throw cause;
    }
  };
}

function isAnswer({ outcome }: OutcomeReport, wantsBody: boolean): boolean {
  return outcome.type === "delivered" && outcome.consumer && (!wantsBody || outcome.body !== undefined);
}
