/**
 * The JSON of Kamailio's `kazoo_subscribe` (amqp.md A2), with kazoo's names and kazoo's defaults: the exchange not durable, the queue
 * deleted with its last consumer, no acknowledgements. `prefetch`, and `arguments` in the definitions, are ours. A name that nobody knows
 * is refused, where kazoo passes over it: a subscription that lacks what was meant is noticed too late.
 */
import { UsageError } from "../core/errors.ts";
import { type JsonKind, JsonValue } from "../core/json-path.ts";
import { nearest } from "../core/nearest.ts";
import { headerOf } from "./headers.ts";
import { type HeaderValue, SHORT_STRING_MAX } from "./message.ts";
import type { Arguments, ExchangeBinding, ExchangeDefinition, QueueDefinition, Subscription } from "./subscription.ts";

/** A subscription, and what becomes of its messages here. */
export interface KazooSubscription {
  readonly subscription: Subscription;
  /**
   * `none` with `no_ack`; else `after` the handler, which is what `wait_for_consumer_ack` (its default) was meant to say, or on
   * `receipt` where that is 0.
   */
  readonly ack: "none" | "receipt" | "after";
  readonly eventKey: string | undefined;
  readonly eventSubkey: string | undefined;
  /** `consistent-worker`: messages with the same value of this member, else with the same routing key, one after the other. */
  readonly order: { readonly member: string | undefined } | undefined;
}

const BINDINGS_MAX = 256;
const ROUTING_MAX = 1_024;
const PREFETCH_MAX = 65_535;

const DEFINITION = ["passive", "durable", "auto_delete"] as const;
const QUEUE_NAMES = [...DEFINITION, "exclusive", "arguments"] as const;
const EXCHANGE_NAMES = ["type", ...DEFINITION, "internal", "arguments"] as const;
const BINDING_NAMES = [...EXCHANGE_NAMES, "routing"] as const;
const NAMES = [
  ...["exchange", "type", "queue", "routing", ...DEFINITION, "exclusive", "internal"],
  ...["no_ack", "wait_for_consumer_ack", "event_key", "event_subkey", "federate"],
  ...["consistent-worker", "consistent-worker-key", "exchange-bindings", "exchange-def", "queue-def", "prefetch"],
] as const;

/**
 * @param text      what `kazoo_subscribe` takes
 * @param prefetch  where the text says nothing of it
 * @throws UsageError  names the member that is wrong
 */
export function parseSubscription(text: string, prefetch = 0): KazooSubscription {
  const whole = JsonValue.read(text);
  if (whole?.kind !== "object")
    throw new UsageError(
      `subscription ${shown(text)}: expected a JSON object, such as {"exchange":"e","type":"topic","queue":"q"}`,
    );
  const json = new Reader(whole, "", NAMES);
  const queue = json.object("queue-def", QUEUE_NAMES) ?? json;
  const order = json.flag("consistent-worker", false);
  const member = json.text("consistent-worker-key");
  const noAck = json.flag("no_ack", true);
  const waits = json.flag("wait_for_consumer_ack", true);
  const exchange = readExchange(json);
  const exchangeBindings = readBindings(json);
  if (exchange === undefined && exchangeBindings.length > 0) throw json.unfit("exchange", "the name of an exchange");
  return {
    subscription: {
      ...(exchange !== undefined && { exchange }),
      exchangeBindings,
      queue: readQueue(json.text("queue") ?? "", queue),
      routing: readRouting(json),
      noAck,
      prefetch: json.number("prefetch", PREFETCH_MAX) ?? prefetch,
      federate: json.flag("federate", false),
    },
    ack: noAck ? "none" : waits ? "after" : "receipt",
    // Kazoo has an empty one for none.
    eventKey: json.text("event_key") || undefined,
    eventSubkey: json.text("event_subkey") || undefined,
    order: order ? { member } : undefined,
  };
}

function readExchange(json: Reader): ExchangeDefinition | undefined {
  const own = json.object("exchange-def", EXCHANGE_NAMES);
  const name = json.text("exchange") ?? "";
  if (name !== "") return exchangeOf(name, own ?? json, own?.text("type") ?? json.text("type"));
  for (const needless of ["exchange-def", "routing", "type"])
    if (json.has(needless)) throw json.unfit("exchange", `the name of an exchange, for ${needless}`);
  return undefined;
}

function exchangeOf(name: string, json: Reader, type: string | undefined): ExchangeDefinition {
  if (type === undefined || type === "")
    throw json.unfit("type", "direct, topic, fanout, headers or another type of exchange");
  const args = json.arguments();
  return {
    ...{ name, type },
    durable: json.flag("durable", false),
    autoDelete: json.flag("auto_delete", false),
    internal: json.flag("internal", false),
    passive: json.flag("passive", false),
    ...(args !== undefined && { arguments: args }),
  };
}

function readQueue(name: string, json: Reader): QueueDefinition {
  const args = json.arguments();
  return {
    name,
    durable: json.flag("durable", false),
    autoDelete: json.flag("auto_delete", true),
    exclusive: json.flag("exclusive", false),
    passive: json.flag("passive", false),
    ...(args !== undefined && { arguments: args }),
  };
}

/** Each member is a source exchange; kazoo passes over one without a routing key, and so do we. */
function readBindings(json: Reader): ExchangeBinding[] {
  const sources = json.get("exchange-bindings", "object");
  const members = sources === undefined ? [] : [...sources.members()];
  if (members.length > BINDINGS_MAX) throw json.unfit("exchange-bindings", `at most ${BINDINGS_MAX} of them`);
  return members.flatMap(([source, value]) => {
    if (value.kind !== "object" || source === "")
      throw json.unfit("exchange-bindings", '{"SOURCE":{"type":…,"routing":…}}');
    const own = new Reader(value, `exchange-bindings.${source}.`, BINDING_NAMES);
    if (!own.has("routing")) return [];
    const { type, durable, autoDelete, passive } = exchangeOf(source, own, own.text("type"));
    return [{ source, type, routing: readRouting(own), durable, autoDelete, passive }];
  });
}

/** Text, or an array of it; the empty key where there is none. */
function readRouting(json: Reader): string[] {
  const value = json.get("routing", "string", "array");
  if (value === undefined) return [""];
  const elements = value.kind === "array" ? [...value.elements()] : [value];
  const isRight = elements.every(
    ({ kind, value: key }) => kind === "string" && Buffer.byteLength(key) <= SHORT_STRING_MAX,
  );
  if (!isRight || elements.length > ROUTING_MAX)
    throw json.unfit(
      "routing",
      `text of at most ${SHORT_STRING_MAX} octets, or an array of at most ${ROUTING_MAX} such texts`,
    );
  return elements.length === 0 ? [""] : elements.map(({ value: key }) => key);
}

/** A JSON object whose names are known. */
class Reader {
  private readonly members: ReadonlyMap<string, JsonValue>;
  private readonly path: string;

  constructor(object: JsonValue, path: string, names: readonly string[]) {
    this.path = path;
    this.members = new Map(object.members());
    for (const name of this.members.keys()) {
      if (names.includes(name)) continue;
      const near = nearest(name, names);
      const hint = near === undefined ? `it may have ${names.join(", ")}` : `did you mean ${near}?`;
      throw new UsageError(`subscription: unknown name ${shown(path + name)}; ${hint}`);
    }
  }

  has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  /** @returns `undefined` where there is none, or `null` */
  get(name: string, ...kinds: readonly JsonKind[]): JsonValue | undefined {
    const value = this.members.get(name);
    if (value === undefined || value.kind === "null") return undefined;
    if (kinds.length > 0 && !kinds.includes(value.kind)) throw this.unfit(name, kinds.join(" or "));
    return value;
  }

  object(name: string, names: readonly string[]): Reader | undefined {
    const value = this.get(name, "object");
    return value === undefined ? undefined : new Reader(value, `${this.path}${name}.`, names);
  }

  text(name: string): string | undefined {
    const text = this.get(name, "string")?.value;
    if (text === undefined || Buffer.byteLength(text) <= SHORT_STRING_MAX) return text;
    throw this.unfit(name, `text of at most ${SHORT_STRING_MAX} octets`);
  }

  /** Kazoo reads integers; true, false and their text are taken for them. */
  flag(name: string, otherwise: boolean): boolean {
    const value = this.get(name)?.value;
    if (value === undefined) return otherwise;
    if (["1", "true"].includes(value)) return true;
    if (["0", "false"].includes(value)) return false;
    throw this.unfit(name, "0 or 1");
  }

  number(name: string, max: number): number | undefined {
    const value = this.get(name, "number");
    if (value === undefined) return undefined;
    const number = Number(value.source);
    if (Number.isInteger(number) && number >= 0 && number <= max) return number;
    throw this.unfit(name, `a whole number of at most ${max}`);
  }

  /** Of a queue or an exchange. */
  arguments(): Arguments | undefined {
    const value = this.get("arguments", "object");
    if (value === undefined) return undefined;
    const table: HeaderValue | undefined = headerOf(value);
    if (table === undefined) throw this.unfit("arguments", "what an argument of the broker can hold");
    return table as Arguments;
  }

  unfit(name: string, expected: string): UsageError {
    const value = this.members.get(name);
    const got = value === undefined ? "nothing" : shown(value.source);
    return new UsageError(`subscription: ${shown(this.path + name)} is ${got}, expected ${expected}`);
  }
}

const SHOWN_CHARS_MAX = 80;

/** One line, and not a long one. */
function shown(text: string): string {
  return JSON.stringify(text.length > SHOWN_CHARS_MAX ? `${text.slice(0, SHOWN_CHARS_MAX)}…` : text);
}
