/**
 * What is to be published in one zone: kept until a broker has confirmed it, and sent again on the next connection, oldest first.
 *
 * A channel that a broker closes because of one message takes the others on it along. Which one it was is found by sending each of them
 * alone: the one that is under way when the channel closes again is refused, the others go on.
 */
import type { Instant } from "../core/time.ts";
import {
  blamesUs,
  type ConfirmChannel,
  type Connection,
  codeOf,
  type Ended,
  type Message,
  type PublishOptions,
  textOf,
} from "./connection.ts";
import { AmqpError } from "./error.ts";
import { bufferOf, markRepeat, optionsOf } from "./frame.ts";
import { Lane } from "./lane.ts";
import { checkPublication, type Publication } from "./message.ts";
import { refusal } from "./topology.ts";
import type { BrokerUrl } from "./url.ts";
import { Window, type WindowLimits } from "./window.ts";

export interface Published {
  readonly broker: BrokerUrl;
  /** How often it was sent again. */
  readonly repeats: number;
}

export interface PublisherOptions {
  readonly window: WindowLimits;
  /** A confirm that takes longer ends the connection. */
  readonly confirmTimeoutMs: number;
  /** Whether another broker may be taken while one is blocked. */
  readonly leavesBlocked: boolean;
  /** Why nothing is connected, for errors. */
  readonly whyNot: () => AmqpError;
}

export interface PublisherCounters {
  confirmed: number;
  repeated: number;
  returned: number;
  refused: number;
}

/** What waits for room in a window; who gives more does not wait for promises. */
export const WAITING_MAX = 100_000;
export const WAITING_BYTES_MAX = 64 * 1024 ** 2;
/** Repeats after a negative confirm, and the first pause before one, which doubles. */
const NACKS_MAX = 5;
const NACK_PAUSE_MS = 200;
/** In mode `all`: how long publishing waits for a blocked broker. */
const BLOCKED_MS = 5_000;
/** Octets of a message besides its body, about. */
const OVERHEAD_BYTES = 200;
/** Any broker. */
const ANY = 0;
const NEVER = -1;
/** Settled ones that are left in lanes, at most: they hold their bodies. */
const STALE_MAX = 64;

interface Outgoing {
  readonly message: Publication;
  options: PublishOptions;
  readonly body: Buffer;
  readonly bytes: number;
  /** The number of the only broker for it, or `ANY`. */
  readonly pin: number;
  readonly resolve: (published: Published) => void;
  readonly reject: (error: AmqpError) => void;
  /** Ends the listening to the caller's signal. */
  unlisten: (() => void) | undefined;
  readonly deadline: Instant;
  sentAt: Instant;
  repeats: number;
  nacks: number;
  returned: Ended | undefined;
  isSettled: boolean;
  /** In a lane. */
  isWaiting: boolean;
  /** A channel was closed while it was under way. */
  isSuspect: boolean;
}

class Sender {
  readonly connection: Connection;
  readonly window: Window<Outgoing>;
  channel: ConfirmChannel | undefined;
  /** The one that goes alone. */
  suspect: Outgoing | undefined;
  /** Takes nothing new: another connection replaces it. */
  isDraining = false;
  blockedAt: Instant | undefined;
  unblockedAt: Instant = Number.NEGATIVE_INFINITY;
  failure: Ended | undefined;
  readonly emptied: (() => void)[] = [];

  constructor(connection: Connection, limits: WindowLimits) {
    this.connection = connection;
    this.window = new Window(limits);
  }

  mayTake(outgoing: Outgoing): boolean {
    if (this.channel === undefined || this.blockedAt !== undefined || this.suspect !== undefined) return false;
    return outgoing.isSuspect ? this.window.size === 0 : this.window.hasRoom(outgoing.bytes);
  }
}

export class Publisher {
  readonly counters: PublisherCounters = { confirmed: 0, repeated: 0, returned: 0, refused: 0 };
  private readonly options: PublisherOptions;
  private readonly lanes = new Map<number, Lane<Outgoing>>([[ANY, new Lane()]]);
  private readonly delayed = new Map<Outgoing, ReturnType<typeof setTimeout>>();
  private senders: Sender[] = [];
  private waitingCount = 0;
  private waitingBytes = 0;
  private stale = 0;
  private nextDeadline: Instant = Number.POSITIVE_INFINITY;
  private deadlineTimer: ReturnType<typeof setTimeout> | undefined;
  private watch: ReturnType<typeof setInterval> | undefined;
  private closed = false;

  constructor(options: PublisherOptions) {
    this.options = options;
  }

  status(): {
    unconfirmed: number;
    unconfirmedBytes: number;
    waiting: number;
    waitingBytes: number;
  } & PublisherCounters {
    const sum = (value: (sender: Sender) => number): number => this.senders.reduce((all, one) => all + value(one), 0);
    return {
      unconfirmed: sum(({ window }) => window.size),
      unconfirmedBytes: sum(({ window }) => window.bytes),
      waiting: this.waitingCount,
      waitingBytes: this.waitingBytes,
      ...this.counters,
    };
  }

  /** Where the next message would go, if it can go now. */
  current(pin: number = ANY): Connection | undefined {
    return this.pick(pin)?.connection;
  }

  /** @param deadline  of `performance.now()`; `Infinity` is never */
  publish(message: Publication, pin: number | undefined, deadline: Instant, signal?: AbortSignal): Promise<Published> {
    checkPublication(message);
    if (this.closed) throw new AmqpError("amqp-unreachable", "the client was closed");
    const bytes = message.body.length + OVERHEAD_BYTES;
    if (this.waitingCount >= WAITING_MAX || (this.waitingCount > 0 && this.waitingBytes + bytes > WAITING_BYTES_MAX)) {
      const waiting = `${this.waitingCount} messages with ${this.waitingBytes} octets`;
      throw new AmqpError("amqp-refused", `${waiting} wait for the broker already: give fewer at a time`);
    }
    return new Promise((resolve, reject) => {
      const outgoing: Outgoing = {
        message,
        options: optionsOf(message, message.messageId ?? crypto.randomUUID()),
        body: bufferOf(message.body),
        bytes,
        pin: pin ?? ANY,
        resolve,
        reject,
        unlisten: undefined,
        deadline,
        sentAt: NEVER,
        repeats: 0,
        nacks: 0,
        returned: undefined,
        isSettled: false,
        isWaiting: false,
        isSuspect: false,
      };
      this.take(outgoing, signal);
    });
  }

  /** A connection is there; what waits goes on it as soon as it has a channel. */
  async attach(connection: Connection): Promise<void> {
    const sender = new Sender(connection, this.options.window);
    if (connection.blocked !== undefined) sender.blockedAt = performance.now();
    connection.onBlocked(() => this.onBlocked(sender));
    // In the order of the list; of one broker the newest first.
    this.senders = [sender, ...this.senders].sort((one, other) => numberOf(one) - numberOf(other));
    this.watch ??= setInterval(() => this.lookAtConfirms(), Math.min(1_000, this.options.confirmTimeoutMs / 4));
    connection.onEnd((ended) => this.detach(sender, ended));
    await this.openChannel(sender);
  }

  /** Until nothing is unconfirmed on this connection, and takes nothing new for it. */
  async drain(connection: Connection, ms: number): Promise<void> {
    const sender = this.senders.find((one) => one.connection === connection);
    if (sender === undefined) return;
    sender.isDraining = true;
    if (sender.window.size === 0) return;
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, ms);
    sender.emptied.push(limit.resolve);
    await limit.promise;
    clearTimeout(timer);
  }

  close(): void {
    this.closed = true;
    clearInterval(this.watch);
    clearTimeout(this.deadlineTimer);
    const error = new AmqpError("amqp-timeout", "the client was closed before the broker's confirm");
    for (const outgoing of this.everything()) this.fail(outgoing, error);
    for (const timer of this.delayed.values()) clearTimeout(timer);
    this.delayed.clear();
  }

  private take(outgoing: Outgoing, signal: AbortSignal | undefined): void {
    if (signal !== undefined) this.listen(outgoing, signal);
    if (outgoing.isSettled) return;
    if (outgoing.deadline < this.nextDeadline) this.setDeadline(outgoing.deadline);
    const lane = this.lane(outgoing.pin);
    if (lane.size === 0) {
      const sender = this.pick(outgoing.pin);
      if (sender?.mayTake(outgoing) === true && this.send(sender, outgoing)) return;
      if (outgoing.isSettled) return;
    }
    this.enter(outgoing);
    lane.push(outgoing);
  }

  private listen(outgoing: Outgoing, signal: AbortSignal): void {
    const stop = (): void => {
      this.giveUp(outgoing, "before it was cancelled");
      if (this.stale > STALE_MAX) this.clean();
    };
    if (signal.aborted) stop();
    else {
      signal.addEventListener("abort", stop, { once: true });
      outgoing.unlisten = () => signal.removeEventListener("abort", stop);
    }
  }

  private lane(pin: number): Lane<Outgoing> {
    let lane = this.lanes.get(pin);
    if (lane === undefined) {
      lane = new Lane();
      this.lanes.set(pin, lane);
    }
    return lane;
  }

  private enter(outgoing: Outgoing): void {
    outgoing.isWaiting = true;
    this.waitingCount++;
    this.waitingBytes += outgoing.bytes;
  }

  private leave(outgoing: Outgoing): void {
    outgoing.isWaiting = false;
    this.waitingCount--;
    this.waitingBytes -= outgoing.bytes;
  }

  private pick(pin: number): Sender | undefined {
    const now = this.options.leavesBlocked ? performance.now() : 0;
    let blocked: Sender | undefined;
    for (const sender of this.senders) {
      if (sender.channel === undefined || sender.isDraining) continue;
      if (pin !== ANY && sender.connection.broker.number !== pin) continue;
      if (!this.options.leavesBlocked || sender.blockedAt === undefined) return sender;
      if (now - sender.blockedAt < BLOCKED_MS) return sender;
      blocked ??= sender;
    }
    return blocked;
  }

  private pump(): void {
    for (const [pin, lane] of this.lanes) {
      for (let outgoing = lane.first(); outgoing !== undefined; outgoing = lane.first()) {
        if (outgoing.isSettled) {
          lane.shift();
          this.stale--;
          continue;
        }
        const sender = this.pick(pin);
        if (sender?.mayTake(outgoing) !== true) break;
        lane.shift();
        this.leave(outgoing);
        if (this.send(sender, outgoing) || outgoing.isSettled) continue;
        this.putBack([outgoing]);
        break;
      }
    }
  }

  /** @returns false where the channel is gone, and where the library cannot write it: then it is settled */
  private send(sender: Sender, outgoing: Outgoing): boolean {
    const { message, body, options } = outgoing;
    try {
      (sender.channel as ConfirmChannel).publish(message.exchange, message.routingKey, body, options);
    } catch (error) {
      if (!(error instanceof Error) || error.name !== "IllegalOperationError") {
        this.fail(outgoing, new AmqpError("amqp-invalid", textOf(error), { cause: error }));
      } else sender.channel = undefined;
      return false;
    }
    outgoing.sentAt = performance.now();
    outgoing.returned = undefined;
    sender.window.add(outgoing);
    if (outgoing.isSuspect) sender.suspect = outgoing;
    if (message.confirm === false) this.succeed(outgoing, sender.connection.broker);
    return true;
  }

  private async openChannel(sender: Sender): Promise<void> {
    let channel: ConfirmChannel;
    try {
      channel = await sender.connection.confirmChannel();
    } catch (error) {
      sender.connection.destroy(`no channel to publish on: ${textOf(error)}`);
      return;
    }
    channel.on("ack", ({ deliveryTag, multiple }) => this.onConfirm(sender, deliveryTag, multiple, true));
    channel.on("nack", ({ deliveryTag, multiple }) => this.onConfirm(sender, deliveryTag, multiple, false));
    channel.on("return", (returned) => onReturn(sender, returned));
    channel.on("error", (error) => {
      sender.failure = { text: error.message, replyCode: codeOf(error) };
    });
    channel.on("close", () => this.onChannelEnd(sender));
    sender.channel = channel;
    this.pump();
  }

  private onConfirm(sender: Sender, tag: number, multiple: boolean, isAck: boolean): void {
    sender.window.settle(tag, multiple, (outgoing) => {
      if (sender.suspect === outgoing) sender.suspect = undefined;
      outgoing.isSuspect = false;
      if (outgoing.isSettled) return;
      if (!isAck) this.onNack(outgoing);
      else if (outgoing.returned !== undefined) this.onReturned(outgoing, outgoing.returned);
      else this.succeed(outgoing, sender.connection.broker);
    });
    if (sender.window.size === 0) for (const tell of sender.emptied.splice(0)) tell();
    if (this.waitingCount > 0) this.pump();
  }

  private onReturned(outgoing: Outgoing, { text, replyCode }: Ended): void {
    this.counters.returned++;
    const { exchange, routingKey } = outgoing.message;
    const where = `exchange "${exchange}" with routing key "${routingKey}"`;
    this.fail(
      outgoing,
      new AmqpError("amqp-refused", `no queue takes it at ${where}: ${replyCode} ${text}`, { replyCode }),
    );
  }

  private onNack(outgoing: Outgoing): void {
    if (++outgoing.nacks > NACKS_MAX) {
      const text = `the broker refused it ${outgoing.nacks} times (negative confirm): its queue is full, or fails`;
      this.fail(outgoing, new AmqpError("amqp-refused", text));
      return;
    }
    this.repeat(outgoing);
    const pause = NACK_PAUSE_MS * 2 ** (outgoing.nacks - 1);
    const timer = setTimeout(() => {
      this.delayed.delete(outgoing);
      this.putBack([outgoing]);
      this.pump();
    }, pause);
    this.delayed.set(outgoing, timer);
  }

  private repeat(outgoing: Outgoing): void {
    if (outgoing.repeats++ === 0) outgoing.options = markRepeat(outgoing.options);
    this.counters.repeated++;
  }

  /** The broker ended the channel, because of something on it, or the whole connection is gone. */
  private onChannelEnd(sender: Sender): void {
    sender.channel = undefined;
    const { failure } = sender;
    if (failure === undefined) return;
    sender.failure = undefined;
    this.recover(sender, failure);
    if (sender.connection.isOpen) void this.openChannel(sender);
  }

  private detach(sender: Sender, ended: Ended): void {
    this.senders = this.senders.filter((one) => one !== sender);
    for (const tell of sender.emptied.splice(0)) tell();
    this.recover(sender, blamesUs(ended) ? ended : undefined);
    if (this.senders.length === 0) {
      clearInterval(this.watch);
      this.watch = undefined;
    }
    this.pump();
  }

  /** @param failure  what the broker found wrong with one of them */
  private recover(sender: Sender, failure: Ended | undefined): void {
    const under = sender.window.takeAll().filter(({ isSettled }) => !isSettled);
    const alone = under.length === 1 && under[0]?.isSuspect === true ? under[0] : undefined;
    sender.suspect = undefined;
    if (failure !== undefined && alone !== undefined) {
      this.fail(alone, refusal(Object.assign(new Error(failure.text), { code: failure.replyCode }), "publish"));
      return;
    }
    for (const outgoing of under) {
      outgoing.isSuspect = failure !== undefined;
      this.repeat(outgoing);
    }
    this.putBack(under);
  }

  private putBack(outgoings: readonly Outgoing[]): void {
    for (const [pin, group] of Map.groupBy(outgoings, ({ pin }) => pin)) {
      this.lane(pin).putBack(group);
      for (const outgoing of group) this.enter(outgoing);
    }
  }

  private onBlocked(sender: Sender): void {
    const now = performance.now();
    if (sender.connection.blocked !== undefined) {
      sender.blockedAt ??= now;
      if (this.options.leavesBlocked) setTimeout(() => this.pump(), BLOCKED_MS + 1).unref();
      return;
    }
    sender.blockedAt = undefined;
    sender.unblockedAt = now;
    this.pump();
  }

  private lookAtConfirms(): void {
    const limit = this.options.confirmTimeoutMs;
    const now = performance.now();
    for (const { window, connection, blockedAt, unblockedAt } of this.senders) {
      const oldest = window.oldest();
      if (oldest === undefined || blockedAt !== undefined) continue;
      if (now - Math.max(oldest.sentAt, unblockedAt) > limit) connection.destroy(`no confirm within ${limit} ms`);
    }
  }

  private setDeadline(at: Instant): void {
    clearTimeout(this.deadlineTimer);
    this.nextDeadline = at;
    if (at === Number.POSITIVE_INFINITY) return;
    this.deadlineTimer = setTimeout(() => this.lookAtDeadlines(), Math.max(at - performance.now(), 1));
  }

  private lookAtDeadlines(): void {
    const now = performance.now();
    let next = Number.POSITIVE_INFINITY;
    for (const outgoing of this.everything()) {
      if (outgoing.isSettled) continue;
      if (outgoing.deadline <= now) this.giveUp(outgoing, "in time");
      else next = Math.min(next, outgoing.deadline);
    }
    if (this.stale > 0) this.clean();
    this.setDeadline(next);
  }

  private clean(): void {
    for (const lane of this.lanes.values()) lane.keep(({ isSettled }) => !isSettled);
    this.stale = 0;
  }

  /** Settled ones too. */
  private *everything(): Generator<Outgoing> {
    for (const lane of this.lanes.values()) yield* lane;
    for (const { window } of this.senders) yield* window;
    yield* this.delayed.keys();
  }

  private giveUp(outgoing: Outgoing, what: string): void {
    if (outgoing.isSettled) return;
    const wasSent = outgoing.sentAt !== NEVER;
    const sender = this.pick(outgoing.pin);
    if (!wasSent && sender === undefined && what === "in time") this.fail(outgoing, this.options.whyNot());
    else if (wasSent)
      this.fail(outgoing, new AmqpError("amqp-timeout", `no confirm ${what}: it may have been delivered`));
    else {
      const blocked = sender?.connection.blocked;
      const why = blocked === undefined ? "others were before it" : `the broker takes nothing (${blocked})`;
      this.fail(outgoing, new AmqpError("amqp-timeout", `not sent ${what}: ${why}`));
    }
  }

  private succeed(outgoing: Outgoing, broker: BrokerUrl): void {
    this.counters.confirmed++;
    this.settle(outgoing);
    outgoing.resolve({ broker, repeats: outgoing.repeats });
  }

  private fail(outgoing: Outgoing, error: AmqpError): void {
    if (outgoing.isSettled) return;
    if (error.code === "amqp-refused" || error.code === "amqp-no-such") this.counters.refused++;
    this.settle(outgoing);
    outgoing.reject(error);
  }

  private settle(outgoing: Outgoing): void {
    outgoing.isSettled = true;
    outgoing.unlisten?.();
    if (!outgoing.isWaiting) return;
    this.leave(outgoing);
    this.stale++;
  }
}

function numberOf(sender: Sender): number {
  return sender.connection.broker.number;
}

/** A return comes before the confirm of the same message, and has its identification. */
function onReturn({ window }: Sender, { fields, properties }: Message): void {
  const { replyCode, replyText } = fields as unknown as { replyCode: number; replyText: string };
  for (const outgoing of window) {
    if (outgoing.options.messageId !== properties.messageId || outgoing.returned !== undefined) continue;
    outgoing.returned = { text: replyText, replyCode };
    return;
  }
}
