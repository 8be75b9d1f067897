/**
 * The brokers of one zone: one connection at a time (`failover`), or one to each (`all`), a publisher for them, and the questions that
 * are asked over them.
 */
import type { Instant } from "../core/time.ts";
import { Asker, type ReplyAddress } from "./asker.ts";
import type { Connection, Ended } from "./connection.ts";
import { AmqpError } from "./error.ts";
import { Line, type LineOptions, type LineState } from "./line.ts";
import { Publisher } from "./publisher.ts";
import type { BrokerUrl } from "./url.ts";
import type { WindowLimits } from "./window.ts";

/** `failover`: one broker at a time; `all`: every broker, publishing to the first that is connected. */
export type Mode = "failover" | "all";

export interface ZoneOptions {
  readonly mode: Mode;
  readonly connect: LineOptions;
  readonly window: WindowLimits;
  readonly confirmTimeoutMs: number;
  /** Publishing on the connection begins when this is over. */
  readonly opened: (zone: Zone, connection: Connection) => Promise<void>;
  readonly closed: (connection: Connection, ended: Ended) => void;
  /** The connection is given up for a better one. */
  readonly leaving: (connection: Connection) => Promise<void>;
}

export interface BrokerStatus {
  readonly number: number;
  readonly zone: string;
  /** Without the password. */
  readonly broker: string;
  readonly state: LineState;
  readonly address: string | undefined;
  /** Why it takes no publications, if it does not. */
  readonly blocked: string | undefined;
  readonly lastError: string | undefined;
}

/** Who waits for a connection. */
interface Waiter {
  /** Ends where nobody listens at any broker, too. */
  readonly isHasty: boolean;
  readonly look: () => void;
  readonly refuse: (error: AmqpError) => void;
}

/** How long what is unconfirmed may take before a connection is given up for a better one. */
const DRAIN_MS = 1_000;
/** How long subscriptions may take before publishing begins beside them. */
const SET_UP_MS = 3_000;

export class Zone {
  readonly name: string;
  readonly mode: Mode;
  readonly publisher: Publisher;
  private readonly options: ZoneOptions;
  private readonly lines: readonly Line[];
  private readonly askers = new Map<Connection, Map<string, Asker>>();
  private readonly waiters = new Set<Waiter>();
  private closed = false;

  constructor(name: string, brokers: readonly BrokerUrl[], options: ZoneOptions) {
    this.name = name;
    this.mode = options.mode;
    this.options = options;
    this.publisher = new Publisher({
      window: options.window,
      confirmTimeoutMs: options.confirmTimeoutMs,
      leavesBlocked: options.mode === "all",
      whyNot: () => this.whyNot(),
    });
    const lists = options.mode === "failover" ? [brokers] : brokers.map((broker) => [broker]);
    this.lines = lists.map((list) => this.makeLine(list));
  }

  start(): void {
    for (const line of this.lines) void line.run();
  }

  connections(): Connection[] {
    return this.lines.flatMap(({ connection }) => (connection === undefined ? [] : [connection]));
  }

  /** Where to publish now, if anywhere. */
  current(pin: number | undefined): Connection | undefined {
    const connection = this.publisher.current(pin);
    return connection?.blocked === undefined ? connection : undefined;
  }

  asker(connection: Connection, address: ReplyAddress): Asker {
    let askers = this.askers.get(connection);
    if (askers === undefined) {
      askers = new Map();
      this.askers.set(connection, askers);
      connection.onEnd(() => this.askers.delete(connection));
    }
    const name = typeof address === "string" ? address : `key ${address.key}`;
    let asker = askers.get(name);
    if (asker === undefined) {
      asker = new Asker(connection, address);
      askers.set(name, asker);
    }
    return asker;
  }

  /**
   * Waits for a connection to publish on.
   *
   * @param how.evenBlocked  one that takes no publications will do
   * @param how.isHasty      gives up where nobody listens at any of the brokers
   * @throws AmqpError  why there is none
   */
  usable(
    pin: number | undefined,
    deadline: Instant,
    signal: AbortSignal | undefined,
    { evenBlocked = false, isHasty = false }: { evenBlocked?: boolean; isHasty?: boolean } = {},
  ): Promise<Connection> {
    const find = (): Connection | undefined => (evenBlocked ? this.publisher.current(pin) : this.current(pin));
    const found = find();
    if (found !== undefined) return Promise.resolve(found);
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        this.waiters.delete(waiter);
      };
      const look = (): void => {
        const connection = find();
        if (connection === undefined) return;
        leave();
        resolve(connection);
      };
      const refuse = (error: AmqpError): void => {
        leave();
        reject(error);
      };
      const waiter = { look, refuse, isHasty };
      const onAbort = (): void => refuse(new AmqpError("amqp-unreachable", "cancelled before a broker was there"));
      const timer = setTimeout(() => refuse(this.whyNot()), Math.max(deadline - performance.now(), 0));
      this.waiters.add(waiter);
      if (signal?.aborted === true) onAbort();
      else signal?.addEventListener("abort", onAbort, { once: true });
      if (this.closed) refuse(new AmqpError("amqp-unreachable", "the client was closed"));
      else if (this.isRefused(isHasty)) refuse(this.whyNot());
    });
  }

  status(): BrokerStatus[] {
    return this.lines.flatMap((line) =>
      line.brokers.map((broker) => {
        const connection = line.connection?.broker === broker ? line.connection : undefined;
        return {
          number: broker.number,
          zone: this.name,
          broker: broker.text,
          state: line.stateOf(broker),
          address: connection?.address,
          blocked: connection?.blocked,
          lastError: line.problems.get(broker)?.message,
        };
      }),
    );
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const { refuse } of [...this.waiters]) refuse(new AmqpError("amqp-unreachable", "the client was closed"));
    const closing = this.lines.map((line) => line.close());
    this.publisher.close();
    await Promise.all(closing);
  }

  private makeLine(brokers: readonly BrokerUrl[]): Line {
    return new Line(brokers, this.options.connect, {
      opened: (connection) => void this.onOpened(connection),
      closed: (connection, ended) => this.options.closed(connection, ended),
      replaced: (from) => this.onReplaced(from),
      refused: () => this.onRefused(),
    });
  }

  private async onOpened(connection: Connection): Promise<void> {
    connection.onBlocked(() => this.look());
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, SET_UP_MS);
    await Promise.race([this.options.opened(this, connection), limit.promise]);
    clearTimeout(timer);
    if (!connection.isOpen || this.closed) return;
    await this.publisher.attach(connection);
    this.look();
  }

  private async onReplaced(from: Connection): Promise<void> {
    await Promise.all([this.publisher.drain(from, DRAIN_MS), this.options.leaving(from)]);
  }

  private onRefused(): void {
    for (const { refuse, isHasty } of [...this.waiters]) if (this.isRefused(isHasty)) refuse(this.whyNot());
  }

  private look(): void {
    for (const { look } of [...this.waiters]) look();
  }

  private isRefused(isHasty: boolean): boolean {
    return this.lines.every((line) => line.connection === undefined && (line.allRefused || (isHasty && line.isClosed)));
  }

  private whyNot(): AmqpError {
    const connected = this.connections()[0];
    if (connected !== undefined) {
      const { blocked, broker } = connected;
      if (blocked === undefined) return new AmqpError("amqp-unreachable", `${broker.text} is not set up yet`);
      return new AmqpError("amqp-timeout", `not sent in time: ${broker.text} takes nothing (${blocked})`);
    }
    const refusals = this.lines.flatMap((line) => [...line.problems.values()]);
    if (refusals.length === 0) return new AmqpError("amqp-unreachable", "no broker answered in time");
    const text = refusals.map(({ message }) => message).join("; ");
    const { code, replyCode } = refusals.find(({ isFatal }) => isFatal) ?? (refusals[0] as AmqpError);
    const isOne = refusals.every((one) => one.code === code);
    return new AmqpError(isOne || code === "amqp-login" ? code : "amqp-unreachable", text, { replyCode });
  }
}
