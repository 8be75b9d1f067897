/** Exchanges, queues and bindings: declared, looked for and deleted, one step after the other on a channel of their own. */
import { blamesUs, type Channel, type Connection, codeOf, textOf } from "./connection.ts";
import { AmqpError } from "./error.ts";
import { checkShort } from "./message.ts";
import type { Arguments, ExchangeDefinition, QueueDefinition, Subscription } from "./subscription.ts";

/** Kinds of what a binding leads to, and of what is deleted. */
export type Kind = "exchange" | "queue";

export type TopologyStep =
  | ({ readonly do: "declare-exchange" } & Partial<ExchangeDefinition> & { readonly name: string })
  | ({ readonly do: "declare-queue" } & Partial<QueueDefinition>)
  | ({ readonly do: "bind" } & Binding)
  | ({ readonly do: "unbind" } & Binding)
  | {
      readonly do: "delete";
      readonly kind: Kind;
      readonly name: string;
      readonly ifUnused?: boolean;
      readonly ifEmpty?: boolean;
    }
  | { readonly do: "purge"; readonly name: string };

export interface Binding {
  readonly source: string;
  readonly kind: Kind;
  readonly destination: string;
  readonly key: string;
  readonly arguments?: Arguments;
}

/** What the broker answered to a step. */
export interface TopologyReply {
  /** Of a declared queue: its name, which the broker may have made up. */
  readonly queue?: string;
  /** In the queue, purged, or deleted with it. */
  readonly messages?: number;
  readonly consumers?: number;
}

/** The steps of a subscription, in the order that brokers need; the queue's name may come from the broker, so bindings come after. */
export function declarationsOf(subscription: Subscription): TopologyStep[] {
  const { exchange, exchangeBindings, queue } = subscription;
  const steps: TopologyStep[] = [];
  if (exchange !== undefined && exchange.name !== "") steps.push({ do: "declare-exchange", ...exchange });
  for (const { source, routing, ...rest } of exchangeBindings) {
    steps.push({ do: "declare-exchange", name: source, internal: false, ...rest });
    const destination = exchange?.name ?? "";
    for (const key of keysOf(routing)) steps.push({ do: "bind", source, kind: "exchange", destination, key });
  }
  steps.push({ do: "declare-queue", ...queue });
  return steps;
}

/** @param queue  the name that the broker answered */
export function bindingsOf(subscription: Subscription, queue: string): TopologyStep[] {
  const { exchange, routing, bindingArguments } = subscription;
  if (exchange === undefined || exchange.name === "") return [];
  const more = bindingArguments === undefined ? {} : { arguments: bindingArguments };
  const { name: source } = exchange;
  return keysOf(routing).map((key) => ({ do: "bind", source, kind: "queue", destination: queue, key, ...more }));
}

function keysOf(routing: readonly string[]): readonly string[] {
  return routing.length === 0 ? [""] : routing;
}

/**
 * @throws AmqpError  with what the broker gave as the reason; the channel is closed then
 */
export async function performStep(channel: Channel, step: TopologyStep): Promise<TopologyReply> {
  checkNames(step);
  try {
    return await perform(channel, step);
  } catch (error) {
    throw refusal(error, nameOf(step));
  }
}

/** Opens a channel for the steps and closes it again. @throws AmqpError of the first step that is refused */
export async function performSteps(connection: Connection, steps: readonly TopologyStep[]): Promise<TopologyReply[]> {
  const channel = await connection.channel();
  const replies: TopologyReply[] = [];
  try {
    for (const step of steps) replies.push(await performStep(channel, step));
    return replies;
  } catch (error) {
    throw blamed(connection, error);
  } finally {
    await channel.close().catch(() => undefined);
  }
}

/** What a broker cannot bear at all ends the connection, and the call only knows that no answer will come. */
export function blamed(connection: Connection, error: unknown): unknown {
  const { reason } = connection;
  if (!(error instanceof AmqpError) || error.replyCode !== undefined || !blamesUs(reason)) return error;
  const text = `${error.message}: ${reason?.text}`;
  return new AmqpError("amqp-refused", text, { replyCode: reason?.replyCode, cause: error });
}

async function perform(channel: Channel, step: TopologyStep): Promise<TopologyReply> {
  switch (step.do) {
    case "declare-exchange":
      return declareExchange(channel, step);
    case "declare-queue":
      return declareQueue(channel, step);
    case "bind":
    case "unbind":
      return bind(channel, step);
    case "delete":
      return remove(channel, step);
    case "purge":
      return { messages: (await channel.purgeQueue(step.name)).messageCount };
  }
}

async function declareExchange(
  channel: Channel,
  step: TopologyStep & { do: "declare-exchange" },
): Promise<TopologyReply> {
  if (step.passive === true) {
    await channel.checkExchange(step.name);
    return {};
  }
  await channel.assertExchange(step.name, step.type ?? "topic", {
    durable: step.durable ?? true,
    autoDelete: step.autoDelete ?? false,
    internal: step.internal ?? false,
    ...(step.arguments === undefined ? {} : { arguments: step.arguments }),
  });
  return {};
}

async function declareQueue(channel: Channel, step: TopologyStep & { do: "declare-queue" }): Promise<TopologyReply> {
  const name = step.name ?? "";
  const { queue, messageCount, consumerCount } =
    step.passive === true
      ? await channel.checkQueue(name)
      : await channel.assertQueue(name, {
          durable: step.durable ?? name !== "",
          autoDelete: step.autoDelete ?? false,
          exclusive: step.exclusive ?? name === "",
          ...(step.arguments === undefined ? {} : { arguments: step.arguments }),
        });
  return { queue, messages: messageCount, consumers: consumerCount };
}

async function bind(channel: Channel, step: TopologyStep & { do: "bind" | "unbind" }): Promise<TopologyReply> {
  const { destination, source, key } = step;
  const more = step.arguments ?? {};
  if (step.kind === "queue") {
    if (step.do === "bind") await channel.bindQueue(destination, source, key, more);
    else await channel.unbindQueue(destination, source, key, more);
  } else if (step.do === "bind") await channel.bindExchange(destination, source, key, more);
  else await channel.unbindExchange(destination, source, key, more);
  return {};
}

async function remove(channel: Channel, step: TopologyStep & { do: "delete" }): Promise<TopologyReply> {
  const ifUnused = step.ifUnused ?? false;
  if (step.kind === "exchange") {
    await channel.deleteExchange(step.name, { ifUnused });
    return {};
  }
  const { messageCount } = await channel.deleteQueue(step.name, { ifUnused, ifEmpty: step.ifEmpty ?? false });
  return { messages: messageCount };
}

function checkNames(step: TopologyStep): void {
  if (step.do === "bind" || step.do === "unbind") {
    checkShort("the source of a binding", step.source);
    checkShort("the destination of a binding", step.destination);
    checkShort("the key of a binding", step.key);
  } else checkShort("the name", step.name);
}

function nameOf(step: TopologyStep): string {
  if (step.do === "bind" || step.do === "unbind")
    return `${step.do} ${step.source} to ${step.kind} ${step.destination}`;
  return `${step.do} ${step.name ?? ""}`;
}

const NOT_FOUND = 404;

/** What an operation on a channel failed with, as an error of ours. */
export function refusal(error: unknown, what: string): AmqpError {
  if (error instanceof AmqpError) return error;
  const replyCode = codeOf(error);
  const text = `${what}: ${textOf(error)}`;
  if (replyCode === NOT_FOUND) return new AmqpError("amqp-no-such", text, { replyCode });
  // 0: the broker ended it, and gave no number.
  if (replyCode !== undefined) return new AmqpError("amqp-refused", text, { replyCode: replyCode || undefined });
  return new AmqpError("amqp-timeout", `${text}; the connection is gone`, { cause: error });
}
