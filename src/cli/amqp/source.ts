/**
 * Where `dmq amqp consume` has its messages from: the daemon's connections, by a stream of the control socket, or its own. Both are a
 * `DeliverySink`'s to take, and what is said of a message goes back the same way.
 */
import type { DeliverySink, DeliveryTag, PublishChoice } from "../../amqp/client.ts";
import type { ConnectionRow } from "../../amqp/desk.ts";
import { AmqpError, type AmqpErrorCode } from "../../amqp/error.ts";
import { bodyRow, type DeliveryRow, deliveryOf, propertiesRow } from "../../amqp/json.ts";
import type { Publication } from "../../amqp/message.ts";
import type { Subscription } from "../../amqp/subscription.ts";
import { RpcError } from "../../core/errors.ts";
import { RpcClient } from "../../rpc/client.ts";
import { Absence, isGone, type Patience } from "../absence.ts";
import { EXIT } from "../exit.ts";
import type { Brokers } from "./caller.ts";
import type { OwnBrokers } from "./own.ts";

/** Of a broker that was connected to, or is no longer. */
export type Connected = Pick<ConnectionRow, "state" | "broker" | "zone" | "why">;

export interface Source {
  /** Connects, if it has to. @throws RpcError with what each broker said */
  ready(): Promise<void>;
  /** Consumes until the source is closed. @throws AmqpError or RpcError of what a broker refuses the first time */
  subscribe(subscription: Subscription, sink: DeliverySink): Promise<void>;
  /** @throws AmqpError */
  publish(message: Publication, choice: PublishChoice): Promise<unknown>;
  /** Nothing comes any more. */
  onBroken(listener: (error: unknown) => void): void;
  onConnection(listener: (event: Connected) => void): void;
  /** Says what is still to be said of messages; what is not settled goes back. */
  close(): Promise<void>;
}

/** @param patience  where the daemon's end is not that of the source */
export function sourceOf(brokers: Brokers, patience: Omit<Patience, "socketPath"> | undefined): Source {
  const { socketPath } = brokers;
  if (socketPath === undefined) return new OwnSource(brokers as OwnBrokers);
  return new DaemonSource(brokers, socketPath, patience && new Absence({ ...patience, socketPath }));
}

class OwnSource implements Source {
  private readonly brokers: OwnBrokers;
  private readonly closing: (() => Promise<void>)[] = [];
  private readonly offs: (() => void)[] = [];

  constructor(brokers: OwnBrokers) {
    this.brokers = brokers;
  }

  async ready(): Promise<void> {
    await this.brokers.call("amqp.status", {});
  }

  async subscribe(subscription: Subscription, sink: DeliverySink): Promise<void> {
    const subscribed = this.brokers.client.subscribe(subscription, sink);
    this.closing.push(() => subscribed.close());
    await subscribed.ready;
  }

  publish(message: Publication, choice: PublishChoice): Promise<unknown> {
    return this.brokers.client.publish(message, choice);
  }

  /** It connects for ever. */
  onBroken(): void {}

  onConnection(listener: (event: Connected) => void): void {
    const { client } = this.brokers;
    const off = client.on("connection", ({ state, broker: { text, zone }, why }) =>
      listener({ state, broker: text, zone, ...(why !== undefined && { why }) }),
    );
    this.offs.push(off);
  }

  async close(): Promise<void> {
    for (const off of this.offs) off();
    await Promise.all(this.closing.map((close) => close()));
  }
}

// --- the daemon's ------------------------------------------------------------------------------------------------------

type StreamLine =
  | DeliveryRow
  | { type: "ready" }
  | ({ type: "connection" } & ConnectionRow)
  | { type: "lost"; ids: readonly string[] }
  | { type: "error"; error: { code: number; message: string; data?: unknown } };

/** A line that is about the stream; a message may have a `type`, too. */
function isMessage(line: StreamLine): line is DeliveryRow {
  return "routing_key" in line;
}

class DaemonSource implements Source {
  private readonly brokers: Brokers;
  private readonly client: RpcClient;
  private readonly ending = new AbortController();
  private readonly settler: Settler;
  private readonly absence: Absence | undefined;
  private broken: (error: unknown) => void = () => undefined;
  private connected: (event: Connected) => void = () => undefined;
  /** Each stream tells of the connections; one of them is enough. */
  private teller: string | undefined;

  constructor(brokers: Brokers, socketPath: string, absence: Absence | undefined) {
    this.brokers = brokers;
    this.absence = absence;
    this.client = new RpcClient(socketPath);
    this.settler = new Settler(brokers);
  }

  async ready(): Promise<void> {}

  onBroken(listener: (error: unknown) => void): void {
    this.broken = listener;
  }

  onConnection(listener: (event: Connected) => void): void {
    this.connected = listener;
  }

  async subscribe(subscription: Subscription, sink: DeliverySink): Promise<void> {
    const path = `/amqp/subscribe?${new URLSearchParams({ subscription: JSON.stringify(subscription) })}`;
    const ready = Promise.withResolvers<void>();
    this.follow(path, sink, ready).catch((error: unknown) => {
      ready.reject(error);
      this.broken(error);
    });
    await ready.promise;
  }

  /** From one daemon to the next. @throws RpcError */
  private async follow(path: string, sink: DeliverySink, ready: PromiseWithResolvers<void>): Promise<void> {
    const { signal } = this.ending;
    let wasReady = false;
    ready.promise.then(
      () => {
        wasReady = true;
      },
      () => undefined,
    );
    while (!signal.aborted) {
      const tags = new Map<string, Tag>();
      try {
        await this.read(path, sink, tags, ready);
      } catch (error) {
        sink.lost(lostOf([...tags.keys()], tags));
        if (this.absence === undefined || !wasReady || !isGone(error)) throw error;
        await this.absence.over(error);
      }
    }
  }

  private async read(
    path: string,
    sink: DeliverySink,
    tags: Map<string, Tag>,
    ready: PromiseWithResolvers<void>,
  ): Promise<void> {
    for await (const line of this.client.stream(path, this.ending.signal) as AsyncGenerator<StreamLine>) {
      if (isMessage(line)) sink.delivered(deliveryOf(line), this.tagOf(line, tags));
      else if (line.type === "ready") ready.resolve();
      else if (line.type === "connection") this.tell(path, line);
      else if (line.type === "lost") sink.lost(lostOf(line.ids, tags));
      else {
        const { code: fault, message, data } = line.error;
        ready.reject(this.error("rpc-fault", path, message, { fault, data }));
      }
    }
    if (!this.ending.signal.aborted) throw this.error("rpc-unreachable", path, "the daemon ended");
  }

  private tell(path: string, event: Connected): void {
    this.teller ??= path;
    if (this.teller === path) this.connected(event);
  }

  private tagOf({ id }: DeliveryRow, tags: Map<string, Tag>): DeliveryTag {
    if (id === undefined) return FORGOTTEN;
    const tag = new Tag((how) => {
      tags.delete(id);
      this.settler.settle(id, how);
    });
    tags.set(id, tag);
    return tag;
  }

  private error(
    code: "rpc-fault" | "rpc-unreachable",
    method: string,
    message: string,
    more: { fault?: number; data?: unknown } = {},
  ): RpcError {
    return new RpcError(code, message, { method, socketPath: this.client.socketPath, ...more });
  }

  async publish(message: Publication, { timeoutMs, broker }: PublishChoice): Promise<unknown> {
    const { headers, type, ...properties } = propertiesRow(message);
    const { exchange, routingKey, body, mandatory } = message;
    const params = {
      ...{ exchange, routing_key: routingKey, ...properties, ...bodyRow(body) },
      ...(headers !== undefined && { amqp_headers: headers }),
      ...(type !== undefined && { message_type: type }),
      ...(mandatory !== undefined && { mandatory }),
      ...(timeoutMs !== undefined && { timeout_ms: timeoutMs }),
      ...(broker !== undefined && { broker }),
    };
    return await this.brokers.call("amqp.publish", params).catch((error: unknown) => {
      throw amqpErrorOf(error);
    });
  }

  async close(): Promise<void> {
    await this.settler.done();
    this.ending.abort();
  }
}

/** Of a message that the broker has forgotten. */
const FORGOTTEN: DeliveryTag = { ack: () => true, reject: () => true };

type Settling = "ack" | "requeue" | "reject";

class Tag implements DeliveryTag {
  private isSaid = false;
  private readonly say: (how: Settling) => void;

  constructor(say: (how: Settling) => void) {
    this.say = say;
  }

  ack(): boolean {
    return this.said("ack");
  }

  reject(requeue: boolean): boolean {
    return this.said(requeue ? "requeue" : "reject");
  }

  /** Nothing is to be said of it any more. */
  lose(): void {
    this.isSaid = true;
  }

  private said(how: Settling): boolean {
    if (this.isSaid) return false;
    this.isSaid = true;
    this.say(how);
    return true;
  }
}

function lostOf(ids: readonly string[], tags: Map<string, Tag>): Tag[] {
  return ids.flatMap((id) => {
    const tag = tags.get(id);
    tags.delete(id);
    tag?.lose();
    return tag ?? [];
  });
}

/** Ids in a call, at most. */
const SETTLED_MAX = 1_000;

/** Says what became of messages: in order, one call at a time, and many in one while it is under way. */
class Settler {
  private readonly brokers: Brokers;
  private readonly waiting: { id: string; how: Settling }[] = [];
  private working: Promise<void> | undefined;

  constructor(brokers: Brokers) {
    this.brokers = brokers;
  }

  settle(id: string, how: Settling): void {
    this.waiting.push({ id, how });
    this.working ??= this.work();
  }

  private async work(): Promise<void> {
    // What is settled in the same turn goes together.
    await Promise.resolve();
    while (this.waiting.length > 0) {
      const how = (this.waiting[0] as { how: Settling }).how;
      const other = this.waiting.findIndex((one) => one.how !== how);
      const count = Math.min(SETTLED_MAX, other === -1 ? this.waiting.length : other);
      const ids = this.waiting.splice(0, count).map(({ id }) => id);
      // A daemon that is gone has ended the stream, too, and the broker has all of them again.
      await this.brokers.call("amqp.settle", { ids, how }).catch(() => undefined);
    }
    this.working = undefined;
  }

  async done(): Promise<void> {
    while (this.working !== undefined) await this.working;
  }
}

const CODES: ReadonlyMap<unknown, AmqpErrorCode> = new Map<unknown, AmqpErrorCode>([
  [EXIT.usage, "amqp-invalid"],
  [EXIT.notFound, "amqp-no-such"],
  [EXIT.refused, "amqp-refused"],
  [EXIT.timeout, "amqp-timeout"],
]);

function amqpErrorOf(error: unknown): AmqpError {
  const { message, data } = error as RpcError;
  const exit = (data as { exit?: unknown } | undefined)?.exit;
  return new AmqpError(CODES.get(exit) ?? "amqp-unreachable", message, { cause: error });
}
