/**
 * Of several bridges between a bus and an exchange one publishes: the node that holds the exclusive queue `dmq.lock.NAME` at the broker,
 * which the broker takes away with the connection (amqp.md B9).
 *
 * The others stand by: they keep the last seconds of what they would have published, and publish it when they get the lock. A message
 * may go out twice then, and none is missing. While the broker cannot be asked nothing is thrown away.
 */
import { AmqpError } from "../amqp/error.ts";
import { SPOOL } from "../amqp/spool.ts";
import type { Logger } from "../core/logger.ts";
import type { Duration } from "../core/time.ts";
import { holderName } from "../queue/holder.ts";
import type { Client } from "./broker.ts";
import type { Store } from "./host.ts";

const RESOURCE_LOCKED = 405;

/** Between two times of asking for it. */
const AGAIN_MS: Duration = 2_000;
const ASK_MS: Duration = 5_000;

const LEASE_MS: Duration = 30_000;
/** Items that are looked at in one go, when old ones are thrown away. */
const TRIM_MAX = 500;
const MOVED_MAX = 1_000_000;

/** `unknown`: the broker could not be asked. */
export type Holding = "held" | "elsewhere" | "unknown";

export interface BridgeLockHost {
  client: Pick<Client, "topology" | "on">;
  store: Store;
  log: Logger;
  standbyMs: Duration;
  /** Number of the broker; `undefined`: whichever is connected. */
  broker: number | undefined;
}

/** The queue of a lock that has what would be published if we held it. */
export function standbyQueue(lock: string): string {
  return `amqp.standby.${lock}`;
}

export class BridgeLock {
  readonly name: string;
  private readonly host: BridgeLockHost;
  private readonly holder: string;
  private readonly end: () => void;
  private holding: Holding = "unknown";
  private standsBy = false;
  private isNew = true;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** What is done with the standby queue, one after the other. */
  private work: Promise<unknown> = Promise.resolve();
  private isAsking = false;
  private isClosed = false;

  constructor(name: string, host: BridgeLockHost) {
    this.name = name;
    this.host = host;
    this.holder = holderName(`lock ${name}`, true);
    // With its connection the lock is gone; a new one is asked on at once.
    this.end = host.client.on("connection", ({ state }) => {
      if (state === "closed") this.become("unknown");
      this.askIn(0);
    });
    this.askIn(0);
  }

  /** Somebody else publishes, or did when the broker was asked last: what comes is kept for a while. */
  get isStandingBy(): boolean {
    return this.standsBy;
  }

  /** In words. */
  get state(): string {
    if (this.holding === "held") return "publishes";
    return this.holding === "elsewhere" ? "stands by" : "asks for its lock";
  }

  private askIn(ms: Duration): void {
    if (this.isClosed) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.ask(), ms);
  }

  private async ask(): Promise<void> {
    if (this.isAsking) return this.askIn(AGAIN_MS);
    this.isAsking = true;
    const answer = await this.claim();
    this.isAsking = false;
    if (this.isClosed) return;
    this.become(answer);
    if (answer === "elsewhere") this.inTurn(() => this.trim());
    this.askIn(AGAIN_MS);
  }

  /** Declaring it again on the connection that has it is no change, so that this also finds out when it is lost. */
  private async claim(): Promise<Holding> {
    const queue = { name: `dmq.lock.${this.name}`, exclusive: true, durable: false, autoDelete: false };
    const { client, broker } = this.host;
    const choice = { timeoutMs: ASK_MS, ...(broker !== undefined && { broker }) };
    try {
      await client.topology([{ do: "declare-queue", ...queue }], choice);
      return "held";
    } catch (error) {
      return error instanceof AmqpError && error.replyCode === RESOURCE_LOCKED ? "elsewhere" : "unknown";
    }
  }

  private become(holding: Holding): void {
    const was = this.holding;
    this.holding = holding;
    if (was === holding || holding === "unknown") return;
    const { log } = this.host;
    const says = holding === "held" ? "this node publishes" : "another node publishes, this one stands by";
    log.info(`lock ${this.name}: ${says}`);
    if (holding === "held") this.inTurn(() => this.takeOver());
    else this.standsBy = true;
  }

  /** What is kept goes out before what comes from now on: the store does one thing after the other. */
  private async takeOver(): Promise<void> {
    if (!this.standsBy && !this.isNew) return;
    // Left by an earlier daemon: that may be long ago.
    if (this.isNew && !this.standsBy) await this.trim();
    this.isNew = false;
    this.standsBy = false;
    const move = { type: "move" as const, from: standbyQueue(this.name), to: SPOOL, count: MOVED_MAX };
    const moved = await this.host.store.perform(move);
    if (moved > 0) this.host.log.info(`lock ${this.name}: ${moved} messages that were kept are published`);
  }

  /** Throws away what is so old that whoever publishes has published it. */
  private async trim(): Promise<void> {
    const { store, standbyMs } = this.host;
    const queue = standbyQueue(this.name);
    const isOld = ({ addedAt }: { addedAt: number }): boolean => addedAt < Date.now() - standbyMs;
    for (;;) {
      const [first] = await store.perform({ type: "peek", queue, count: 1 });
      if (first === undefined || !isOld(first)) return;
      const lease = { type: "lease" as const, queue, count: TRIM_MAX, leaseMs: LEASE_MS, holder: this.holder };
      const items = await store.perform(lease);
      const old = items.filter(isOld).map(({ id }) => id);
      const kept = items.filter((item) => !isOld(item)).map(({ id }) => ({ id, fate: "now" as const, counts: false }));
      if (kept.length > 0) await store.perform({ type: "fail", failures: kept });
      if (old.length > 0) await store.perform({ type: "ack", ids: old });
      if (kept.length > 0 || this.isClosed) return;
    }
  }

  private inTurn(job: () => Promise<void>): void {
    this.work = this.work.then(job).catch((error: Error) => {
      this.host.log.warn(`lock ${this.name}: the store: ${error.message}`);
    });
  }

  async close(): Promise<void> {
    this.isClosed = true;
    clearTimeout(this.timer);
    this.end();
    await this.work;
  }
}
