/** What `dmq amqp consume` subscribes to: by options, or in the JSON of Kamailio's `kazoo_subscribe`. */
import type { EventFields } from "../../amqp/dispatch.ts";
import { parseHeader } from "../../amqp/headers.ts";
import type { HeaderValue } from "../../amqp/message.ts";
import { parseSubscription } from "../../amqp/subscribe.ts";
import type { ExchangeDefinition, QueueDefinition, Subscription } from "../../amqp/subscription.ts";
import type { AckMode } from "../../amqp/supply.ts";
import { UsageError } from "../../core/errors.ts";
import { type Arguments, type OptionSpec, quoted } from "../command.ts";
import type { CliContext } from "../context.ts";

export const SUBSCRIPTION_OPTIONS: OptionSpec[] = [
  { flag: "exchange", value: "NAME", help: "exchange to bind to; without --type it has to be there" },
  { flag: "type", value: "TYPE", help: "declare the exchange, durable: topic, direct, fanout, headers" },
  {
    flag: "routing",
    value: "KEY",
    repeatable: true,
    help: "routing key to bind with (# with --type topic, else the empty one)",
  },
  {
    flag: "queue",
    value: "NAME",
    help: "queue to consume, declared durable; without it an exclusive one that ends with this command",
  },
  {
    flag: "queue-type",
    value: "TYPE",
    choices: ["classic", "quorum"],
    help: "declare the queue with this x-queue-type",
  },
  {
    flag: "arg",
    value: "K=V",
    repeatable: true,
    help: "argument of the queue, typed as headers are: x-max-length:int=1000",
  },
  { flag: "passive", help: "declare nothing: exchange and queue have to be there" },
  {
    flag: "subscribe",
    value: "JSON|@FILE",
    repeatable: true,
    help: "instead of these: what kazoo_subscribe takes, with kazoo's defaults",
  },
];

const OWN_FLAGS = ["exchange", "type", "routing", "queue", "queue-type", "arg", "passive"] as const;

/** A subscription, and what is done with its messages. */
export interface Wanted {
  subscription: Subscription;
  ack: AckMode;
  fields: EventFields;
  /** Messages with the same value of this member, else with the same routing key, one after the other. */
  order: { readonly member: string | undefined } | undefined;
}

export interface Chosen {
  ack: AckMode | undefined;
  prefetch: number;
  fields: EventFields;
}

/** @throws UsageError */
export async function readSubscriptions(context: CliContext, args: Arguments, chosen: Chosen): Promise<Wanted[]> {
  const texts = args.all("subscribe");
  const own = OWN_FLAGS.find((flag) => args.has(flag));
  if (texts.length === 0) return [byOptions(args, chosen)];
  if (own !== undefined) throw new UsageError(`--subscribe and --${own} exclude each other: the JSON says all of it`);
  return Promise.all(texts.map(async (text) => byJson(await textOf(context, text), chosen)));
}

async function textOf(context: CliContext, text: string): Promise<string> {
  if (!text.startsWith("@")) return text;
  return new TextDecoder().decode(await context.readFile(text.slice(1)));
}

function byJson(text: string, { ack, prefetch, fields }: Chosen): Wanted {
  const { subscription, eventKey, eventSubkey, order, ...kazoo } = parseSubscription(text, prefetch);
  const key = fields.key ?? eventKey;
  const subkey = fields.subkey ?? eventSubkey;
  const mode = ack ?? kazoo.ack;
  return {
    subscription: { ...subscription, noAck: mode === "none" },
    ...{ ack: mode, order },
    fields: { ...(key !== undefined && { key }), ...(subkey !== undefined && { subkey }) },
  };
}

function byOptions(args: Arguments, { ack = "after", prefetch, fields }: Chosen): Wanted {
  const exchange = exchangeOf(args);
  const queue = queueOf(args);
  if (exchange === undefined && queue.name === "")
    throw new UsageError("nothing to consume: give --queue NAME, --exchange NAME or --subscribe JSON");
  const routing = args.all("routing");
  if (exchange === undefined && routing.length > 0) throw new UsageError("--routing goes with --exchange NAME");
  return {
    subscription: {
      ...(exchange !== undefined && { exchange }),
      ...{ exchangeBindings: [], queue, prefetch, federate: false, noAck: ack === "none" },
      routing: exchange === undefined || routing.length > 0 ? routing : [args.value("type") === "topic" ? "#" : ""],
    },
    ...{ ack, fields, order: undefined },
  };
}

function exchangeOf(args: Arguments): ExchangeDefinition | undefined {
  const name = args.value("exchange");
  const type = args.value("type");
  if (name === undefined) {
    if (type !== undefined) throw new UsageError("--type goes with --exchange NAME");
    return undefined;
  }
  if (name === "") throw new UsageError("--exchange: nothing can be bound to the default exchange; give --queue NAME");
  const passive = type === undefined || args.has("passive");
  return { name, type: type ?? "topic", durable: true, autoDelete: false, internal: false, passive };
}

function queueOf(args: Arguments): QueueDefinition {
  const name = args.value("queue") ?? "";
  const needless = ["queue-type", "passive"].find((flag) => args.has(flag));
  if (name === "" && needless !== undefined) throw new UsageError(`--${needless} goes with --queue NAME`);
  const isNamed = name !== "";
  const found = argumentsOf(args);
  return {
    ...{ name, durable: isNamed, exclusive: !isNamed, autoDelete: !isNamed, passive: args.has("passive") },
    ...(Object.keys(found).length > 0 && { arguments: found }),
  };
}

const QUEUE_TYPES: readonly string[] = ["classic", "quorum"];

function argumentsOf(args: Arguments): Record<string, HeaderValue> {
  const found = new Map(args.all("arg").map(parseHeader));
  const type = args.value("queue-type");
  if (type !== undefined && !QUEUE_TYPES.includes(type))
    throw new UsageError(`--queue-type ${quoted(type)}: expected ${QUEUE_TYPES.join(" or ")}`);
  if (type !== undefined) found.set("x-queue-type", type);
  if (args.has("passive") && found.size > 0) throw new UsageError("--passive declares nothing: it takes no --arg");
  return Object.fromEntries(found);
}
