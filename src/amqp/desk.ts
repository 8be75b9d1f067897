/**
 * What can be asked of brokers, in the words and fields of docs/RPC.md: the daemon serves it over its control socket, and a command that
 * connects itself asks it in its own process. It adds to the client what concerns one caller: what a body is that nobody says it of,
 * exchanges that are made when they are missing, Kazoo's members, messages that a caller still has to settle.
 */
import { UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import { VERSION } from "../core/version.ts";
import type { AmqpClient, AmqpStatus, DeliveryTag, Fetched, Subscribed } from "./client.ts";
import { contentTypeOf } from "./content.ts";
import { AmqpError } from "./error.ts";
import { type DeliveryRow, deliveryRow, type PropertiesRow, propertiesOf } from "./json.ts";
import { type KazooIdentity, MSG_ID, memberOf, outgoing, parseConsumerKey } from "./kazoo.ts";
import { checkPublication, type Publication } from "./message.ts";
import type { Subscription } from "./subscription.ts";
import type { TopologyReply, TopologyStep } from "./topology.ts";

/** What publishing, declaring and fetching may take where the caller says nothing. */
export const TIMEOUT_MS: Duration = 10_000;
/** What an answer may take (kazoo's `amqp_query_timeout_sec`). */
export const QUERY_MS: Duration = 2_000;

/** Messages that were fetched and are not settled yet, of all callers. */
const HELD_MAX = 1_000;
/** Whoever waits for an answer gives up that long after the client had its time to find a broker. */
const LATE_MS: Duration = 100;
/** Who fetched one and said nothing of it is gone. */
const HELD_MS: Duration = 30_000;

export interface MessageRequest extends PropertiesRow {
  exchange: string;
  routing_key: string;
  body: Uint8Array;
  /** Default true. */
  mandatory?: boolean;
  timeout_ms?: Duration;
  /** Members of Kazoo's are put into the body. */
  kazoo?: boolean;
}

export interface PublishRequest extends MessageRequest {
  /** Default true. */
  confirm?: boolean;
  /** Stored first: the answer comes when it is. */
  spool?: boolean;
  /** Type of the exchange, which is made if it is missing. */
  declare?: string;
  /** Number of the broker that is to have it, as an answer is to go where its question came from. */
  broker?: number;
}

export interface PublishedRow {
  /** URL of the broker that confirmed it, without a password; null where it was stored. */
  broker: string | null;
  /** How often it was sent again. */
  repeats: number;
  message_id: string;
  spooled: boolean;
}

export interface QueryRequest extends MessageRequest {
  /** Answers at most; it ends at the timeout or with the last of them. */
  many?: number;
  /** Where the answer goes: RabbitMQ's direct reply-to, or a queue. */
  reply?: "direct" | "queue";
  /** May be sent again when the connection breaks. */
  idempotent?: boolean;
}

export interface GetRequest {
  queue: string;
  /** `receipt`: acknowledged at once. `after`: with `amqp.settle`, or it goes back after 30 s. */
  ack?: "after" | "receipt";
  timeout_ms?: Duration;
}

export type Settling = "ack" | "requeue" | "reject";

/** A broker that was connected to, or is no longer. */
export interface ConnectionRow {
  state: "open" | "closed";
  /** URL without its password. */
  broker: string;
  broker_number: number;
  zone: string;
  why?: string;
}

/** What somebody who subscribes is told. */
export interface SubscriptionListener {
  /** First of those that are connected. */
  connection(row: ConnectionRow): void;
  /** Consuming, for the first time. */
  ready(): void;
  delivered(row: DeliveryRow): void;
  /** These can not be settled any more: the broker delivers them again. */
  lost(ids: readonly string[]): void;
  /** A broker refused; it is tried again nevertheless. */
  error(error: unknown): void;
}

export interface AmqpReport extends AmqpStatus {
  /** What is stored and not published; null where there is no spool. */
  readonly spool: { readonly waiting: number; readonly dead: number; readonly bytes: number } | null;
}

/** Every member may throw an `AmqpError`. */
export interface AmqpSurface {
  /** @throws QueueError where it is to be stored and cannot be */
  publish(request: PublishRequest): Promise<PublishedRow>;
  /** @returns at least one answer; `amqp-timeout` where there was none */
  query(request: QueryRequest): Promise<DeliveryRow[]>;
  /** @returns `null` for an empty queue */
  get(request: GetRequest): Promise<DeliveryRow | null>;
  /** @returns of how many it could be said */
  settle(ids: readonly string[], how: Settling): Promise<number>;
  topology(steps: readonly TopologyStep[], timeoutMs?: Duration): Promise<TopologyReply[]>;
  /** @returns the function that ends it; what is not settled then goes back */
  subscribe(subscription: Subscription, listener: SubscriptionListener): () => void;
  status(): Promise<AmqpReport>;
}

/** Where messages are stored: src/link/spool.ts. */
export interface SpoolSurface {
  add(messages: readonly Publication[]): Promise<void>;
  report(): Promise<AmqpReport["spool"]>;
}

export interface DeskOptions {
  /** Absent where messages are stored only. */
  client?: AmqpClient;
  /** Stands behind `dmq@` where Kazoo applications read who we are. */
  nodeName: string;
  /** Absent where nothing can be stored. */
  spool?: SpoolSurface;
}

interface Held {
  settle(how: Settling): Promise<boolean> | boolean;
  /** Ends the wait for who fetched it. */
  timer?: ReturnType<typeof setTimeout>;
}

export class Desk implements AmqpSurface {
  private readonly connected: AmqpClient | undefined;
  private readonly spool: SpoolSurface | undefined;
  private readonly held = new Map<string, Held>();
  private readonly subscriptions = new Set<Subscribed>();
  /** By name and type, what was declared for a caller. */
  private readonly declared = new Map<string, Promise<unknown>>();
  private numbers = 0;

  private readonly identity: KazooIdentity;
  /** Where answers of Kazoo applications come: a queue, and its key at the exchange `targeted`. */
  private readonly kazooKey: string;

  constructor({ client, nodeName, spool }: DeskOptions) {
    this.connected = client;
    this.spool = spool;
    this.identity = { appName: "dmq", appVersion: VERSION, node: `dmq@${nodeName}` };
    this.kazooKey = `${this.identity.node}-${process.pid}-targeted-1`;
  }

  private get client(): AmqpClient {
    if (this.connected === undefined)
      throw new AmqpError("amqp-unreachable", "no broker: messages are only stored here");
    return this.connected;
  }

  async publish(request: PublishRequest): Promise<PublishedRow> {
    const { timeout_ms: timeoutMs = TIMEOUT_MS, declare, confirm } = request;
    const messageId = request.message_id ?? crypto.randomUUID();
    const { message: plain, broker = request.broker } = this.messageOf(request, messageId);
    const message = { ...plain, messageId, ...(confirm !== undefined && { confirm }) };
    if (request.spool === true) return this.store(message, broker, declare);
    const choice = { timeoutMs, ...(broker !== undefined && { broker }) };
    const published = await this.declaring(message.exchange, declare, timeoutMs, () =>
      this.client.publish(message, choice),
    );
    return { broker: published.broker.text, repeats: published.repeats, message_id: messageId, spooled: false };
  }

  /** With `kazoo`, its members in the body, and a routing key that names the broker. */
  private messageOf(request: MessageRequest, messageId: string): { message: Publication; broker?: number } {
    const message = publicationOf(request);
    if (request.kazoo !== true) return { message };
    const body = outgoing(message.body, this.identity, { messageId, key: this.kazooKey });
    if (body === undefined) throw new AmqpError("amqp-invalid", "the body is no JSON object, which kazoo needs");
    const named = parseConsumerKey(message.routingKey);
    if (named === undefined) return { message: { ...message, body } };
    return { message: { ...message, body, routingKey: named.key }, broker: named.broker };
  }

  private async store(
    message: Publication & { messageId: string },
    broker: number | undefined,
    declare: string | undefined,
  ): Promise<PublishedRow> {
    if (this.spool === undefined) throw new UsageError("spool: there is none here, it is the daemon's");
    if (broker !== undefined) throw new UsageError("spool and a routing key consumer://BROKER/KEY exclude each other");
    if (declare !== undefined) throw new UsageError("spool and declare exclude each other: there may be no broker now");
    checkPublication(message);
    await this.spool.add([message]);
    return { broker: null, repeats: 0, message_id: message.messageId, spooled: true };
  }

  /** Makes the exchange before the first message, and once more where it is gone: another broker may not have it. */
  private async declaring<T>(
    exchange: string,
    type: string | undefined,
    timeoutMs: Duration,
    send: () => Promise<T>,
  ): Promise<T> {
    if (type === undefined || exchange === "") return send();
    await this.declare(exchange, type, timeoutMs);
    try {
      return await send();
    } catch (error) {
      if (!(error instanceof AmqpError) || error.code !== "amqp-no-such") throw error;
      this.declared.delete(`${type} ${exchange}`);
      await this.declare(exchange, type, timeoutMs);
      return send();
    }
  }

  private async declare(name: string, type: string, timeoutMs: Duration): Promise<unknown> {
    checkType(type);
    const key = `${type} ${name}`;
    const known = this.declared.get(key);
    if (known !== undefined) return known;
    if (this.declared.size >= HELD_MAX) this.declared.clear();
    const declaring = this.client.topology([{ do: "declare-exchange", name, type }], { timeoutMs });
    this.declared.set(key, declaring);
    declaring.catch(() => this.declared.delete(key));
    return declaring;
  }

  async query(request: QueryRequest): Promise<DeliveryRow[]> {
    const { timeout_ms: timeoutMs = QUERY_MS, many, reply, idempotent, kazoo } = request;
    const fresh = request.message_id ?? crypto.randomUUID();
    const { message, broker } = this.messageOf(request, fresh);
    // What the caller wrote there stands, so an answer has that.
    const messageId = kazoo === true ? (memberOf(message.body, MSG_ID) ?? fresh) : fresh;
    const answers = await this.client.query(message, {
      timeoutMs,
      ...(kazoo === true && { kazoo: { key: this.kazooKey, messageId } }),
      ...(broker !== undefined && { broker }),
      ...(many !== undefined && { many }),
      ...(reply !== undefined && { reply }),
      ...(idempotent !== undefined && { idempotent }),
    });
    return answers.map((one) => deliveryRow(one));
  }

  // --- messages that a caller settles ----------------------------------------------------------------------------------

  async get({ queue, ack = "after", timeout_ms: timeoutMs = TIMEOUT_MS }: GetRequest): Promise<DeliveryRow | null> {
    if (this.held.size >= HELD_MAX)
      throw new AmqpError("amqp-refused", `${HELD_MAX} messages that were fetched are not settled yet`);
    const getting = this.client.get(queue, { timeoutMs });
    const fetched = await within(getting, timeoutMs, `get from ${queue}`).catch((error) => {
      // What comes after all is nobody's.
      getting.then((late) => late?.requeue()).catch(() => undefined);
      throw error;
    });
    if (fetched === undefined) return null;
    if (ack === "after") return deliveryRow(fetched.delivery, this.hold(fetched));
    await fetched.ack();
    return deliveryRow(fetched.delivery);
  }

  private hold(fetched: Fetched): string {
    const id = `get-${++this.numbers}`;
    const settle = async (how: Settling): Promise<boolean> => {
      if (how === "reject")
        throw new UsageError("a message that was fetched is acknowledged or given back, not rejected");
      await (how === "ack" ? fetched.ack() : fetched.requeue());
      return true;
    };
    const timer = setTimeout(() => {
      this.held.delete(id);
      // A connection that is gone has given it back already.
      fetched.requeue().catch(() => undefined);
    }, HELD_MS);
    timer.unref();
    this.held.set(id, { settle, timer });
    return id;
  }

  async settle(ids: readonly string[], how: Settling): Promise<number> {
    let count = 0;
    for (const id of ids) {
      const held = this.held.get(id);
      if (held === undefined) continue;
      this.held.delete(id);
      clearTimeout(held.timer);
      if (await held.settle(how)) count++;
    }
    return count;
  }

  subscribe(subscription: Subscription, listener: SubscriptionListener): () => void {
    const prefix = `sub-${++this.numbers}`;
    const mine = new Map<DeliveryTag, string>();
    const drop = (tags: readonly DeliveryTag[]): string[] =>
      tags.flatMap((tag) => {
        const id = mine.get(tag);
        mine.delete(tag);
        if (id !== undefined) this.held.delete(id);
        return id ?? [];
      });
    let count = 0;
    const subscribed = this.client.subscribe(subscription, {
      delivered: (delivery, tag) => {
        if (subscription.noAck) return listener.delivered(deliveryRow(delivery));
        const id = `${prefix}-${++count}`;
        mine.set(tag, id);
        const settle = (how: Settling): boolean => {
          mine.delete(tag);
          return how === "ack" ? tag.ack() : tag.reject(how === "requeue");
        };
        this.held.set(id, { settle });
        listener.delivered(deliveryRow(delivery, id));
      },
      lost: (tags) => {
        const ids = drop(tags);
        if (ids.length > 0) listener.lost(ids);
      },
    });
    this.subscriptions.add(subscribed);
    const off = this.connections(listener);
    subscribed.ready.then(listener.ready, listener.error);
    return () => {
      off();
      this.subscriptions.delete(subscribed);
      drop([...mine.keys()]);
      subscribed.close().catch(() => undefined);
    };
  }

  private connections(listener: SubscriptionListener): () => void {
    for (const { state, broker, number, zone } of this.client.status().brokers)
      if (state === "connected") listener.connection({ state: "open", broker, broker_number: number, zone });
    return this.client.on("connection", ({ state, broker: { text, number, zone }, why }) =>
      listener.connection({ state, broker: text, broker_number: number, zone, ...(why !== undefined && { why }) }),
    );
  }

  topology(steps: readonly TopologyStep[], timeoutMs: Duration = TIMEOUT_MS): Promise<TopologyReply[]> {
    for (const step of steps) if (step.do === "declare-exchange" && step.type !== undefined) checkType(step.type);
    return within(this.client.topology(steps, { timeoutMs }), timeoutMs, `${steps.length} steps`);
  }

  async status(): Promise<AmqpReport> {
    return { ...this.client.status(), spool: (await this.spool?.report()) ?? null };
  }

  /** What somebody fetched and did not settle goes back with the connection. */
  close(): void {
    for (const { timer } of this.held.values()) clearTimeout(timer);
    this.held.clear();
  }
}

/** A type that a broker does not know ends the whole connection (503), with everybody's messages on it; x- types are a plugin's. */
function checkType(type: string): void {
  if (/^(?:topic|direct|fanout|headers|x-[a-z0-9-]{1,60})$/.test(type)) return;
  const known = "topic, direct, fanout, headers, or one of a plugin, which begins with x-";
  throw new AmqpError("amqp-invalid", `exchange type ${JSON.stringify(type)}: expected ${known}`);
}

/** A broker that is frozen says nothing until its heartbeats are missed. */
async function within<T>(running: Promise<T>, timeoutMs: Duration, what: string): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const late = (): void => reject(new AmqpError("amqp-timeout", `${what}: no answer within ${timeoutMs} ms`));
  // The client itself is done with its part of the time by then, and knows more of the reason.
  const timer = setTimeout(late, timeoutMs + LATE_MS);
  try {
    return await Promise.race([running, promise]);
  } finally {
    clearTimeout(timer);
    running.catch(() => undefined);
  }
}

function publicationOf(request: MessageRequest): Publication {
  const { exchange, routing_key: routingKey, body, mandatory } = request;
  return {
    ...{ exchange, routingKey, body, contentType: contentTypeOf(body) },
    ...propertiesOf(request),
    ...(mandatory !== undefined && { mandatory }),
  };
}
