/**
 * Questions and their answers over one connection. The reply address is consumed first, on the channel that publishes (direct reply-to
 * wants it so); an answer belongs to a question by its correlation id, and for Kazoo applications by `Msg-ID` in the body.
 */
import {
  type Channel,
  type Connection,
  type ConsumeMessage,
  codeOf,
  type Ended,
  type Message,
  type PublishOptions,
} from "./connection.ts";
import { AmqpError } from "./error.ts";
import { bufferOf, deliveryOf, optionsOf } from "./frame.ts";
import { MSG_ID, memberOf } from "./kazoo.ts";
import type { Delivery, Publication } from "./message.ts";
import { performStep, performSteps, refusal } from "./topology.ts";

/** Where answers go: `direct`, an exclusive queue, or the key of an exclusive queue at the exchange `targeted`. */
export type ReplyAddress = "direct" | "queue" | { readonly key: string };

const DIRECT = "amq.rabbitmq.reply-to";
const TARGETED = "targeted";

export interface Question {
  readonly message: Publication;
  readonly timeoutMs: number;
  /** Answers at most. */
  readonly many: number;
  /** `Msg-ID` in the body, for Kazoo applications. */
  readonly messageId: string | undefined;
  readonly signal: AbortSignal | undefined;
}

/** The connection broke while waiting: whether the question was worked on is not known. */
export class LostError extends AmqpError {}

interface Pending {
  readonly question: Question;
  readonly answers: Delivery[];
  readonly settle: (error?: AmqpError) => void;
}

export class Asker {
  private readonly connection: Connection;
  private readonly address: ReplyAddress;
  private channel: Channel | undefined;
  private replyTo = DIRECT;
  private opening: Promise<Channel> | undefined;
  private failure: Ended | undefined;
  private readonly pending = new Map<string, Pending>();
  /** Exchanges that were there: publishing to one that is not would end the channel, with all that wait on it. */
  private readonly known = new Set<string>([""]);

  constructor(connection: Connection, address: ReplyAddress) {
    this.connection = connection;
    this.address = address;
    connection.onEnd(({ text }) =>
      this.fail(() => new LostError("amqp-timeout", maybe(`the connection broke: ${text}`))),
    );
  }

  /**
   * @returns the answers, one at least
   * @throws AmqpError  `amqp-timeout` without one; LostError; `amqp-refused` where nobody listens; `amqp-no-such`
   */
  async ask(question: Question): Promise<Delivery[]> {
    const { exchange } = question.message;
    if (!this.known.has(exchange)) {
      await performSteps(this.connection, [{ do: "declare-exchange", name: exchange, passive: true }]);
      this.known.add(exchange);
    }
    const channel = this.channel ?? (await this.open());
    return new Promise((resolve, reject) => this.send(channel, question, resolve, reject));
  }

  private send(
    channel: Channel,
    question: Question,
    resolve: (answers: Delivery[]) => void,
    reject: (error: AmqpError) => void,
  ): void {
    const { message, timeoutMs, signal } = question;
    const id = question.messageId ?? crypto.randomUUID();
    const answers: Delivery[] = [];
    const settle = (error?: AmqpError): void => {
      if (!this.pending.delete(id)) return;
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      if (answers.length > 0) resolve(answers);
      else reject(error ?? new AmqpError("amqp-timeout", maybe(`no answer within ${Math.ceil(timeoutMs)} ms`)));
    };
    const onAbort = (): void => settle(new AmqpError("amqp-timeout", maybe("the question was cancelled")));
    const timer = setTimeout(settle, timeoutMs);
    this.pending.set(id, { question, answers, settle });
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      channel.publish(message.exchange, message.routingKey, bufferOf(message.body), this.optionsFor(question, id));
    } catch (error) {
      settle(new AmqpError("amqp-invalid", (error as Error).message, { cause: error }));
    }
  }

  private optionsFor({ message, timeoutMs }: Question, id: string): PublishOptions {
    const options = optionsOf(message, message.messageId ?? id);
    options.correlationId = id;
    options.replyTo = this.replyTo;
    options.expiration = String(Math.max(1, Math.ceil(timeoutMs)));
    options.persistent = message.persistent ?? false;
    return options;
  }

  private open(): Promise<Channel> {
    this.opening ??= this.openNow().finally(() => {
      this.opening = undefined;
    });
    return this.opening;
  }

  private async openNow(): Promise<Channel> {
    const channel = await this.connection.channel();
    this.failure = undefined;
    channel.on("error", (error) => {
      this.failure = { text: error.message, replyCode: codeOf(error) };
    });
    channel.on("close", () => this.onChannelEnd(channel));
    channel.on("return", (message) => this.onReturn(message));
    const queue = await this.declare(channel);
    try {
      await channel.consume(queue, (message) => this.onAnswer(channel, message, queue), { noAck: true });
    } catch (error) {
      throw refusal(error, "wait for answers");
    }
    this.replyTo = queue;
    this.channel = channel;
    return channel;
  }

  private async declare(channel: Channel): Promise<string> {
    if (this.address === "direct") return DIRECT;
    const name = this.address === "queue" ? "" : this.address.key;
    if (name !== "") await this.declareTargeted();
    const exclusive = { durable: false, exclusive: true, autoDelete: true };
    const { queue = "" } = await performStep(channel, { do: "declare-queue", name, ...exclusive });
    if (name !== "") {
      await performStep(channel, { do: "bind", source: TARGETED, kind: "queue", destination: name, key: name });
    }
    return queue;
  }

  /** It is there with whatever attributes the others gave it, or it is declared as they do. */
  private async declareTargeted(): Promise<void> {
    try {
      await performSteps(this.connection, [{ do: "declare-exchange", name: TARGETED, passive: true }]);
    } catch (error) {
      if ((error as AmqpError).code !== "amqp-no-such") throw error;
      await performSteps(this.connection, [{ do: "declare-exchange", name: TARGETED, type: "direct", durable: false }]);
    }
  }

  private onAnswer(channel: Channel, message: ConsumeMessage | null, queue: string): void {
    if (message === null) {
      this.failure = { text: "the broker cancelled the reply queue", replyCode: undefined };
      channel.close().catch(() => undefined);
      this.onChannelEnd(channel);
      return;
    }
    const asked = this.questionOf(message);
    // Late, or of somebody else: not for us.
    if (asked === undefined) return;
    asked.answers.push(deliveryOf(message, queue, this.connection.broker));
    if (asked.answers.length >= asked.question.many) asked.settle();
  }

  private questionOf({ properties, content }: Message): Pending | undefined {
    const asked = this.pending.get(properties.correlationId as string);
    if (asked !== undefined || typeof this.address !== "object") return asked;
    const id = memberOf(content, MSG_ID);
    return id === undefined ? undefined : this.pending.get(id);
  }

  private onReturn({ fields, properties }: Message): void {
    const { replyCode, replyText } = fields as unknown as { replyCode: number; replyText: string };
    const where = `exchange "${fields.exchange}" with routing key "${fields.routingKey}"`;
    const error = new AmqpError("amqp-refused", `nobody listens at ${where}: ${replyCode} ${replyText}`, { replyCode });
    this.pending.get(properties.correlationId as string)?.settle(error);
  }

  private onChannelEnd(channel: Channel): void {
    const failure = this.failure;
    if (channel !== this.channel && failure === undefined) return;
    this.channel = undefined;
    if (failure === undefined || this.pending.size === 0) return;
    this.known.clear();
    this.known.add("");
    const { text, replyCode } = failure;
    // With one question under way it is clear whose fault it was.
    if (this.pending.size === 1)
      this.fail(() => refusal(Object.assign(new Error(text), { code: replyCode ?? 0 }), "query"));
    else this.fail(() => new LostError("amqp-timeout", maybe(`the channel was closed: ${text}`)));
  }

  private fail(make: () => AmqpError): void {
    this.channel = undefined;
    for (const { settle } of [...this.pending.values()]) settle(make());
  }
}

function maybe(text: string): string {
  return `${text}; the request may have been carried out`;
}
