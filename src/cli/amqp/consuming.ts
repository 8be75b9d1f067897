/**
 * A run of `dmq amqp consume`: connects, runs `mod-init`, subscribes, and has messages printed or handled until it is told to end; what is
 * not settled then is given back.
 */
import type { DeliverySink } from "../../amqp/client.ts";
import { connectionNames, type EventFields } from "../../amqp/dispatch.ts";
import type { Delivery } from "../../amqp/message.ts";
import { type AmqpItem, AmqpSupply } from "../../amqp/supply.ts";
import { commandHandler } from "../../consume/command.ts";
import { type Became, type Consumed, type ConsumerOptions, consume, type Handler } from "../../consume/consumer.ts";
import { concatBytes, encodeUtf8 } from "../../core/bytes.ts";
import { bounded } from "../../exec/command.ts";
import { JobQueue } from "../../exec/jobs.ts";
import type { Item } from "../../queue/operation.ts";
import { type Arguments, quoted, sayable } from "../command.ts";
import type { CliContext } from "../context.ts";
import type { Ending } from "../ending.ts";
import { EXIT } from "../exit.ts";
import type { Brokers } from "./caller.ts";
import { messageHandler } from "./handle.ts";
import type { Choice, Handlers } from "./handlers.ts";
import { Letters, lettersName } from "./letters.ts";
import { oneOf, PRINTED_MAX, type Request } from "./request.ts";
import { type Connected, type Source, sourceOf } from "./source.ts";
import type { Wanted } from "./subscriptions.ts";

/** What running handlers have when the consumer is told to stop. */
const GRACE_MS = 10_000;

/** Where kazoo falls back to the handler of everything else, a connection is no message. */
const CONNECTION = "consumer-event-connection";

/** Connections that open and close faster than their handlers end. */
const EVENTS_MAX = 16;

export class Consuming {
  private readonly context: CliContext;
  private readonly args: Arguments;
  private readonly request: Request;
  private readonly socketPath: string | undefined;
  private readonly source: Source;
  private readonly ending: Ending;
  private readonly supply: AmqpSupply;
  private readonly letters: Letters;
  /** By the message, the fields of its subscription. */
  private readonly fields = new WeakMap<Delivery, EventFields>();
  private readonly events = new JobQueue({ atATime: 1, waitingMax: EVENTS_MAX });
  private broken: { error: unknown } | undefined;

  constructor(context: CliContext, args: Arguments, request: Request, brokers: Brokers, ending: Ending) {
    this.context = context;
    this.args = args;
    this.request = request;
    this.ending = ending;
    this.socketPath = brokers.socketPath;
    const { reconnectMs } = request;
    const say = (text: string): void => this.say(text);
    this.source = sourceOf(brokers, reconnectMs === 0 ? undefined : { ms: reconnectMs, stop: ending.signal, say });
    this.letters = new Letters(context, args);
    const { prefetch, maxTries } = request;
    const deadLetters = this.deadLetters();
    this.supply = new AmqpSupply({
      ...{ ack: "after", prefetch, maxTries, onTrouble: (text) => this.say(text) },
      ...(deadLetters === "store" && { bury: (item, fate) => this.letters.bury(item, this.lettersOf(item), fate) }),
    });
  }

  async run(): Promise<number> {
    const { source, supply, ending } = this;
    source.onBroken((error) => {
      this.broken ??= { error };
      ending.now();
    });
    source.onConnection((event) => this.connection(event));
    try {
      const isReady = await this.begin();
      const consumed = isReady ? await consume(this.options()) : undefined;
      if (this.broken !== undefined) throw this.broken.error;
      return ending.exitOr(consumed === undefined ? EXIT.command : this.exitOf(consumed));
    } finally {
      await supply.end();
      await source.close();
    }
  }

  /** @returns false where `mod-init` failed: nothing is consumed then */
  private async begin(): Promise<boolean> {
    const { handlers, wanted, forMs } = this.request;
    const { source, ending } = this;
    const stopped = new Promise<void>((resolve) => ending.signal.addEventListener("abort", () => resolve()));
    await Promise.race([source.ready(), stopped]);
    if (ending.signal.aborted) return true;
    const init = handlers?.init();
    if (init?.type === "command" && !(await this.runEvent(init, {}))) return false;
    if (forMs !== undefined) ending.after(forMs);
    const subscribed = Promise.all(wanted.map((one) => source.subscribe(one.subscription, this.sinkOf(one))));
    await Promise.race([subscribed, stopped]);
    // What a signal interrupted may still fail, and nobody asks.
    subscribed.catch(() => undefined);
    return true;
  }

  private sinkOf({ ack, fields }: Wanted): DeliverySink {
    const sink = this.supply.sink(ack);
    return {
      delivered: (delivery, tag) => {
        this.fields.set(delivery, fields);
        sink.delivered(delivery, tag);
      },
      lost: (tags) => sink.lost(tags),
    };
  }

  private options(): ConsumerOptions {
    const { handlers, jobs, count, orderBy } = this.request;
    return {
      ...{ supply: this.supply, jobs, count, waitMs: Number.POSITIVE_INFINITY },
      ...{ stop: this.ending.signal, graceMs: GRACE_MS },
      handle: handlers === undefined ? this.printer() : this.handler(handlers),
      batch: handlers === undefined ? PRINTED_MAX : 1,
      ...(orderBy !== undefined && { orderBy }),
      onFailure: (item, why, became) =>
        this.say(`message ${quoted(item.key)} of ${item.queue}: its handler ${why}; ${this.fateOf(item, became)}`),
    };
  }

  private printer(): Handler {
    const { context, request } = this;
    return async (items) => {
      context.stdout(concatBytes(items.map((item) => request.form((item as AmqpItem).delivery))));
      await context.stdoutDrained();
      // Nobody read them: they are given back.
      return context.outputClosed.aborted ? { type: "stopped" } : { type: "done" };
    };
  }

  private handler(handlers: Handlers): Handler {
    const { context, request, source, supply } = this;
    const { reply, timeoutMs, unmatched, decode, kazoo } = request;
    return messageHandler({
      ...{ supply, handlers, timeoutMs, unmatched, decode, kazoo },
      fieldsOf: (delivery) => this.fields.get(delivery) ?? {},
      reply: reply && { ...reply, publish: (message, choice) => source.publish(message, choice) },
      variables: this.variables(),
      onStdout: (chunk) => context.stdout(chunk),
      onStderrLine: (line) => context.stderr(`${line}\n`),
      onNote: ({ routingKey, queue }, text) => this.say(`message ${quoted(routingKey)} of ${queue}: ${text}`),
    });
  }

  private variables(): Record<string, string> {
    return this.socketPath === undefined ? {} : { DMQ_SOCKET: this.socketPath };
  }

  // --- what becomes of messages ------------------------------------------------------------------------------------------

  /** Whether a queue has a dead-letter exchange by a policy nobody can ask: then the operator says so. */
  private deadLetters(): "exchange" | "store" {
    const said = oneOf(this.args, "dead-letter", ["exchange", "store"] as const);
    const hasOne = ({ subscription }: Wanted): boolean =>
      subscription.queue.arguments?.["x-dead-letter-exchange"] !== undefined;
    return said ?? (this.request.wanted.every(hasOne) ? "exchange" : "store");
  }

  /** A queue that the broker named is known by its exchange. */
  private lettersOf({ delivery }: AmqpItem): string {
    const isNamed = this.request.wanted.some(({ subscription }) => subscription.queue.name === delivery.queue);
    return lettersName(isNamed ? delivery.queue : delivery.exchange || "amqp");
  }

  private fateOf(item: Item, became: Became): string {
    switch (became) {
      case "retried":
        return "it is tried again";
      case "lost":
        return "the broker has it again, or has forgotten it";
      case "back":
        return "it is given back, and nothing more is taken";
      case "dead": {
        const queue = this.lettersOf(item as AmqpItem);
        return this.deadLetters() === "store"
          ? `it is a dead letter now: dmq queue dead ${queue} list`
          : "it is rejected, for the dead-letter exchange of its queue";
      }
    }
  }

  private exitOf({ done, failed, unable }: Consumed): number {
    const { isEndless } = this.request;
    if (unable !== undefined || (failed > 0 && !isEndless)) return EXIT.command;
    return done > 0 || isEndless || this.context.outputClosed.aborted ? EXIT.ok : EXIT.no;
  }

  private say(text: string): void {
    this.context.stderr(`dmq: ${sayable(text)}\n`);
  }

  // --- events ------------------------------------------------------------------------------------------------------------

  private connection({ state, broker, zone, why }: Connected): void {
    if (state === "closed") this.say(`${broker}: the connection is closed${why === undefined ? "" : `: ${why}`}`);
    const choice = this.request.handlers?.find(connectionNames(state).filter((name) => name.startsWith(CONNECTION)));
    if (choice?.type !== "command" || this.ending.signal.aborted) return;
    const body = { "Event-Category": "connection", "Event-Name": state, host: broker, zone };
    this.events.push("connection", async () => void (await this.runEvent(choice, body)));
  }

  /** @returns whether it ended with 0 */
  private async runEvent(choice: Choice & { type: "command" }, body: object): Promise<boolean> {
    const { context, ending, request } = this;
    const handle = commandHandler({
      ...{ argv: choice.argv, timeoutMs: request.timeoutMs, batch: false },
      variables: { ...bounded({ DMQ_HANDLER: choice.name }), ...this.variables() },
      onStdout: (chunk) => context.stdout(chunk),
      onStderrLine: (line) => context.stderr(`${line}\n`),
    });
    const verdict = await handle([eventItem(body)], ending.signal);
    if (verdict.type === "failed" || verdict.type === "unable") this.say(`the handler ${choice.name} ${verdict.why}`);
    return verdict.type === "done";
  }
}

/** What is no message, and is handled as one. */
function eventItem(body: object): Item {
  const now = Date.now();
  return {
    ...{ seq: 0, id: "0-0", queue: "", key: "", headers: {}, path: [], from: null, channel: null },
    ...{ value: encodeUtf8(JSON.stringify(body)), contentType: "application/json", addedAt: now, dueAt: now, tries: 1 },
  };
}
