/**
 * The kinds of links that there are, by their two ends, and what each may be told. A queue, or a broker, stands between any two others,
 * because it is what keeps a message until the next one has it.
 */
import type { Endpoint } from "./endpoint.ts";
import type { Options } from "./options.ts";
import { Template, type TemplateOf } from "./template.ts";

export interface Named {
  /** Of one node's links each has its own. */
  name: string;
  from: Endpoint;
  to: Endpoint;
  /** The operator knows that it is part of a circle. */
  circle: boolean;
}

/** From a channel into a queue. */
export interface InboundLink extends Named {
  type: "inbound";
  channel: string;
  queue: string;
  key: Template;
}

/** How what is sent to nodes is sent. */
export interface Sending {
  /** To this node only; without it to all active ones. */
  node: Template | undefined;
  /** Whose yes an item needs. */
  require: "any" | "all" | "none";
  /** One after the other for each node. */
  ordered: boolean;
  maxTries: number;
  /** Octets; `undefined`: what the transport carries. */
  maxBody: number | undefined;
}

/** From a queue to a channel. */
export interface OutboundLink extends Named, Sending {
  type: "outbound";
  queue: string;
  channel: string;
  /** Also what came from this channel. */
  echo: boolean;
}

/** From a queue to a command. */
export interface ExecLink extends Named {
  type: "exec";
  queue: string;
  argv: readonly string[];
  jobs: number;
  maxTries: number;
  timeoutMs: number;
  orderByKey: boolean;
}

export type ExchangeType = (typeof EXCHANGE_TYPES)[number];

export interface Exchange {
  name: string;
  type: ExchangeType;
  durable: boolean;
}

/** What is published to, and as what. */
export interface Target {
  exchange: Exchange;
  /** False where it is there already, made by somebody else. */
  declare: boolean;
  /** Routing key. */
  key: Template;
  /** What no queue takes is an error. */
  mandatory: boolean;
  priority: number | undefined;
  /** Names of the headers that go along besides ours, and as `X-DMQ-H-NAME` on the bus. */
  headers: readonly string[];
}

/** What is consumed. */
export interface Source {
  /** The queue is bound to it; `undefined` where the queue alone is named. */
  exchange: Exchange | undefined;
  /** Binding key. */
  routing: string;
  /** `undefined`: one of the link's own, the same for all nodes of the bus that have the link. */
  queue: string | undefined;
  durable: boolean;
  /** False where exchange and queue are there already. */
  declare: boolean;
  /** One consumer of all has the messages, one after the other. */
  ordered: boolean;
  jobs: number;
  /** Messages that the broker leaves with us before we have acknowledged one. */
  prefetch: number;
  maxTries: number;
  /** What cannot be passed on is a dead letter here; else it is rejected, for the dead-letter exchange of its queue. */
  deadHere: boolean;
}

/** From a channel to an exchange. */
export interface PublishLink extends Named {
  type: "publish";
  channel: string;
  target: Target;
  /** What the node's 200 stands for. */
  until: "stored" | "confirmed" | "received";
  /** Of several nodes with this lock one publishes. */
  lock: string | undefined;
  /** How much of the channel the others keep; `undefined`: as long as it may take until the lock is free. */
  standbyMs: number | undefined;
}

/** From a queue to an exchange. */
export interface ForwardLink extends Named {
  type: "forward";
  queue: string;
  target: Target;
  ordered: boolean;
  jobs: number;
  maxTries: number;
}

/** From an exchange, or a queue of the broker, to a channel. */
export interface DeliverLink extends Named, Sending {
  type: "deliver";
  source: Source;
  channel: Template;
  /** Into the channels of Kamailio's modules, too. */
  internal: boolean;
  headers: readonly string[];
}

/** From an exchange, or a queue of the broker, into a queue. */
export interface CollectLink extends Named {
  type: "collect";
  source: Source;
  queue: string;
  key: Template;
  headers: readonly string[];
}

/** Links that have a broker at one end. */
export type BrokerLink = PublishLink | ForwardLink | DeliverLink | CollectLink;

export type LinkDefinition = InboundLink | OutboundLink | ExecLink | BrokerLink;

export function isBrokerLink(link: LinkDefinition): link is BrokerLink {
  return link.from.type === "exchange" || link.from.type === "amqp-queue" || link.to.type === "exchange";
}

const EXCHANGE_TYPES = ["topic", "direct", "fanout", "headers"] as const;

const DEFAULT_KEY = "{from.host}:{from.port}";
const MAX_TRIES = 5;
const TRIES_MAX = 1_000_000;
const JOBS_MAX = 256;
/** Items of a broker that are under way to nodes, or into the store, at a time. */
const JOBS = 16;
const PREFETCH_MAX = 65_535;
const TIMEOUT_MS = 60_000;
const PRIORITY_MAX = 255;
const LOCK_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$/;
const HEADER_PATTERN = /^[A-Za-z0-9-]{1,48}$/;

/** @returns `undefined` where no link leads from one to the other */
export function build(named: Named, own: Options): LinkDefinition | undefined {
  const { from, to } = named;
  switch (`${from.type} -> ${to.type}`) {
    case "channel -> queue":
      return { type: "inbound", ...named, channel: from.name, queue: to.name, key: keyOf(own, DEFAULT_KEY, "message") };
    case "queue -> channel":
      return {
        ...{ type: "outbound", ...named, queue: from.name, channel: to.name, ...sending(own, "item", true) },
        echo: own.flag("echo", false),
      };
    case "queue -> exec":
      return buildExec(named, own);
    case "channel -> exchange":
      return buildPublish(named, own);
    case "queue -> exchange":
      return buildForward(named, own);
    case "exchange -> channel":
    case "amqp-queue -> channel":
      return buildDeliver(named, own);
    case "exchange -> queue":
    case "amqp-queue -> queue":
      return {
        ...{ type: "collect", ...named, source: source(named, own), queue: to.name },
        key: keyOf(own, "{routing_key}", "delivery"),
        headers: headers(own),
      };
    default:
      return undefined;
  }
}

export const KINDS =
  "channel -> queue, queue -> channel, queue -> exec; with a broker: channel -> exchange, queue -> exchange, exchange -> channel, exchange -> queue, and amqp-queue in place of that exchange: a queue stands between two others";

function keyOf(own: Options, usual: string, of: TemplateOf): Template {
  return own.template("key", of) ?? new Template(usual, "link key", of);
}

function maxTries(own: Options): number {
  return own.integer("max-tries", 1, TRIES_MAX, MAX_TRIES);
}

function headers(own: Options): string[] {
  return own.list("headers", HEADER_PATTERN, "names of letters, digits and -, with commas between");
}

function sending(own: Options, of: TemplateOf, isOrdered: boolean): Sending {
  return {
    node: own.template("node", of),
    require: own.choice("require", ["any", "all", "none"], "any"),
    ordered: own.flag("ordered", isOrdered),
    maxTries: maxTries(own),
    maxBody: own.octets("max-body"),
  };
}

function buildExec({ from, to, ...named }: Named, own: Options): ExecLink {
  return {
    ...{ type: "exec", ...named, from, to, queue: from.name, argv: (to as Endpoint & { type: "exec" }).argv },
    jobs: own.integer("jobs", 1, JOBS_MAX, 1),
    maxTries: maxTries(own),
    timeoutMs: own.duration("timeout", TIMEOUT_MS),
    orderByKey: own.choice("order-by", ["key", "none"], "none") === "key",
  };
}

// --- with a broker at one end ----------------------------------------------------------------------------------------

function exchange(name: string, own: Options): Exchange {
  return { name, type: own.choice("type", EXCHANGE_TYPES, "topic"), durable: own.flag("durable", true) };
}

function target({ to }: Named, own: Options, usual: string, of: TemplateOf): Target {
  const { name, key = usual } = to as Endpoint & { type: "exchange" };
  return {
    exchange: exchange(name, own),
    // The default exchange is always there, and may not be declared; so are those that begin with amq.
    declare: own.flag("declare", !isBrokers(name)) && !isBrokers(name),
    key: new Template(key, "link exchange", of),
    mandatory: own.flag("mandatory", true),
    priority: own.integer("priority", 0, PRIORITY_MAX, undefined),
    headers: headers(own),
  };
}

function isBrokers(exchange: string): boolean {
  return exchange === "" || exchange.startsWith("amq.");
}

function buildPublish(named: Named, own: Options): PublishLink {
  return {
    ...{ type: "publish", ...named, channel: named.from.name, target: target(named, own, "{channel}", "message") },
    until: own.choice("until", ["stored", "confirmed", "received"], "stored"),
    lock: own.word("lock", LOCK_PATTERN, "a letter or digit, then at most 39 of letters, digits, . _ -"),
    standbyMs: own.duration("standby", undefined),
  };
}

function buildForward(named: Named, own: Options): ForwardLink {
  const ordered = own.flag("ordered", true);
  return {
    ...{ type: "forward", ...named, queue: named.from.name, target: target(named, own, "{key}", "item"), ordered },
    jobs: ordered ? 1 : own.integer("jobs", 1, JOBS_MAX, JOBS),
    maxTries: maxTries(own),
  };
}

function source({ from }: Named, own: Options): Source {
  const ordered = own.flag("ordered", false);
  const jobs = ordered ? 1 : own.integer("jobs", 1, JOBS_MAX, JOBS);
  const common = {
    ...{ ordered, jobs, maxTries: maxTries(own) },
    // Strictly one after the other, also where one is tried again: so the broker gives the next one then only.
    prefetch: ordered ? 1 : own.integer("prefetch", 1, PREFETCH_MAX, 2 * jobs),
    declare: own.flag("declare", true),
    deadHere: own.choice("dead", ["here", "broker"], "here") === "here",
  };
  if (from.type !== "exchange")
    return { ...common, exchange: undefined, routing: "", queue: from.name, durable: own.flag("durable", true) };
  const { name, key } = from as Endpoint & { type: "exchange" };
  const bound = exchange(name, own);
  const routing = key ?? (bound.type === "topic" ? "#" : "");
  return { ...common, exchange: bound, routing, queue: own.text("queue"), durable: bound.durable };
}

function buildDeliver(named: Named, own: Options): DeliverLink {
  const { ordered, ...how } = sending(own, "delivery", false);
  return {
    ...{ type: "deliver", ...named, ...how, ordered, source: source(named, own) },
    channel: channel(named, own),
    internal: own.flag("internal", false),
    headers: headers(own),
  };
}

/** `channel:*`: the last word of the routing key, or what `channel=` says. */
function channel({ to }: Named, own: Options): Template {
  if (to.name !== ANY_CHANNEL) return new Template(to.name, "link channel", "delivery");
  const usual = new Template("{routing_key.last}", "link channel", "delivery");
  return own.template("channel", "delivery") ?? usual;
}

/** The channel is another one for each message. */
const ANY_CHANNEL = "*";
