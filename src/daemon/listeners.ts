/**
 * Who listens to channels over the control socket. The first listener of a channel makes it consumed, the last one leaves
 * it as it was. Plain listeners are told of messages, which are 200 at once; one of them may be the answering one, whose
 * answer is awaited as that of any handler: the dispatcher says 503 when `handler_timeout` is over.
 */

import type { HandlerContext } from "../channel/channel.ts";
import { strictUtf8 } from "../core/bytes.ts";
import { formatHost } from "../core/endpoint.ts";
import { UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import type { Answer, ChannelMessage } from "../node/io.ts";
import { answerFault } from "../node/serving.ts";
import { type AnswerRequest, type MessageEvent, RpcFault } from "../rpc/surface.ts";
import { monotonicNow, type RunningNode, wallTime } from "./driver.ts";

/** What a sender is asked to wait with a 503. */
const RETRY_AFTER_SECONDS = 2;

const GONE: Answer = { status: 503, reason: "Listener Gone", retryAfterSeconds: RETRY_AFTER_SECONDS };
/** The dispatcher has answered by then: nobody sees this one. */
const LATE: Answer = { status: 503 };

type OnMessage = (message: MessageEvent) => void;

interface Consumed {
  readonly plain: Set<OnMessage>;
  answering: OnMessage | undefined;
  readonly unregister: () => void;
}

/** A message that an answering listener was given. */
interface Open {
  readonly owner: OnMessage;
  readonly acceptsBody: boolean;
  readonly resolve: (answer: Answer) => void;
}

export interface ListenersOptions {
  node: RunningNode;
  handlerTimeoutMs: Duration;
  /** A channel has gained or lost a listener. */
  changed(channel: string, consumers: number): void;
}

export class Listeners {
  private readonly consumed = new Map<string, Consumed>();
  private readonly open = new Map<string, Open>();
  private readonly options: ListenersOptions;
  /** In front of each reply_id: one that an earlier daemon gave out must not answer a message of this one. */
  private readonly era = crypto.randomUUID().slice(0, 8);
  private asked = 0;
  private timeoutMs: Duration;

  constructor(options: ListenersOptions) {
    this.options = options;
    this.timeoutMs = options.handlerTimeoutMs;
  }

  /** What an answering listener has from now on. */
  setTimeout(timeoutMs: Duration): void {
    this.timeoutMs = timeoutMs;
  }

  /** How many listen to a channel; `undefined` where nobody does. */
  count(channel: string): number | undefined {
    const consumed = this.consumed.get(channel);
    return consumed === undefined ? undefined : countOf(consumed);
  }

  /**
   * @param answering  its answers are those of the channels; each message for it has a `reply_id`
   * @returns          the function that ends it; what still waits for its answer is 503 then
   * @throws RpcFault  409 where one of the channels is answered already; then it listens to none
   */
  add(channels: readonly string[], onMessage: OnMessage, answering: boolean): () => void {
    const ends: (() => void)[] = [];
    const end = (): void => {
      for (const one of ends.splice(0)) one();
      this.abandon(onMessage);
    };
    try {
      for (const channel of new Set(channels)) ends.push(this.consume(channel, onMessage, answering));
    } catch (cause) {
      end();
      throw cause;
    }
    return end;
  }

  /** @throws RpcFault 404 for a message that nobody waits for (any more), −32602 for what cannot be an answer */
  answer({ replyId, code, reason, contentType, body }: AnswerRequest): void {
    const open = this.open.get(replyId);
    if (open === undefined) {
      const text = "too late: no message waits for this answer; it was answered, or handler_timeout is over";
      throw new RpcFault(404, text, { exit: 3 });
    }
    const answer: Answer = {
      status: code,
      ...(reason !== undefined && { reason }),
      ...(code === 503 && { retryAfterSeconds: RETRY_AFTER_SECONDS }),
      // Without an Accept the node would drop the body all the same, and warn.
      ...(open.acceptsBody && body.length > 0 && { body, contentType }),
    };
    const fault = answerFault(answer);
    if (fault !== undefined) throw new UsageError(fault);
    this.open.delete(replyId);
    open.resolve(answer);
  }

  private consume(channel: string, onMessage: OnMessage, answering: boolean): () => void {
    const consumed = this.consumed.get(channel) ?? this.register(channel);
    if (answering) this.setAnswering(channel, consumed, onMessage);
    else consumed.plain.add(onMessage);
    this.options.changed(channel, countOf(consumed));
    return () => {
      if (answering) consumed.answering = undefined;
      else consumed.plain.delete(onMessage);
      const count = countOf(consumed);
      if (count === 0) {
        consumed.unregister();
        this.consumed.delete(channel);
      }
      this.options.changed(channel, count);
    };
  }

  private setAnswering(channel: string, consumed: Consumed, onMessage: OnMessage): void {
    if (consumed.answering !== undefined) throw answered(channel, "by another listener");
    consumed.answering = onMessage;
  }

  private register(channel: string): Consumed {
    const consumed: Consumed = {
      plain: new Set(),
      answering: undefined,
      unregister: this.handle(channel, (message, context) => this.deliver(consumed, message, context)),
    };
    this.consumed.set(channel, consumed);
    return consumed;
  }

  private handle(
    channel: string,
    deliver: (message: ChannelMessage, context: HandlerContext) => Promise<Answer> | undefined,
  ): () => void {
    try {
      return this.options.node.channel(channel, deliver, { mode: "inline" });
    } catch (cause) {
      if (cause instanceof UsageError) throw answered(channel, "by a command of --on");
      throw cause;
    }
  }

  private deliver(
    { plain, answering }: Consumed,
    message: ChannelMessage,
    context: HandlerContext,
  ): Promise<Answer> | undefined {
    const event = messageEvent(message);
    for (const listener of [...plain]) listener(event);
    return answering === undefined ? undefined : this.ask(answering, message, event, context.signal);
  }

  private ask(
    owner: OnMessage,
    { acceptsBody }: ChannelMessage,
    event: MessageEvent,
    late: AbortSignal,
  ): Promise<Answer> {
    const { promise, resolve } = Promise.withResolvers<Answer>();
    const replyId = `${this.era}-${++this.asked}`;
    this.open.set(replyId, { owner, acceptsBody, resolve });
    late.addEventListener("abort", () => {
      this.open.delete(replyId);
      resolve(LATE);
    });
    // May end the listener, where it reads too slowly; then this one is abandoned with the rest.
    owner({ ...event, reply_id: replyId, answer_within_ms: this.timeoutMs });
    return promise;
  }

  /** Answers what a listener that is gone has left open. */
  private abandon(owner: OnMessage): void {
    for (const [replyId, open] of [...this.open]) {
      if (open.owner !== owner) continue;
      this.open.delete(replyId);
      open.resolve(GONE);
    }
  }
}

function countOf({ plain, answering }: Consumed): number {
  return plain.size + (answering === undefined ? 0 : 1);
}

function answered(channel: string, how: string): RpcFault {
  return new RpcFault(409, `channel ${channel} is answered ${how} already: a channel has one answer`, { exit: 1 });
}

function messageEvent(message: ChannelMessage): MessageEvent {
  const { ip, port, transport } = message.source;
  const text = strictUtf8(message.body);
  return {
    channel: message.channel,
    from: message.from,
    node: message.peer ?? null,
    source: `${transport}:${formatHost(ip)}:${port}`,
    call_id: message.callId,
    message_id: message.messageId ?? null,
    content_type: message.contentType ?? null,
    max_forwards: message.maxForwards ?? null,
    accepts_body: message.acceptsBody,
    size: message.body.length,
    body: text ?? null,
    ...(text === undefined ? { body_base64: Buffer.from(message.body).toString("base64") } : {}),
    time: wallTime(monotonicNow()),
  };
}
