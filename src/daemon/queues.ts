/**
 * The daemon's queues: the definitions of its configuration, the store behind them, and the leases of those who follow over
 * the control socket. The store is opened when something needs it: a node without queues has no thread and no file for them.
 */
import { existsSync } from "node:fs";
import type { DmqConfig } from "../config/schema.ts";
import { ConfigError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import {
  parseDefinition,
  parseOctets,
  type QueueDefaults,
  type QueueDefinition,
  readAddMode,
} from "../queue/definition.ts";
import { QueueError } from "../queue/error.ts";
import { holderName } from "../queue/holder.ts";
import type { Added, AnswerOf, Answers, Item, Operation } from "../queue/operation.ts";
import { type QueueStore, storePath } from "../queue/store.ts";
import { startStore } from "../queue/thread.ts";
import { addWhenRoom, leaseWhenReady } from "../queue/wait.ts";
import type { FollowListener, QueueLease, QueueRow, QueueSurface } from "../rpc/surface.ts";
import { readTables, writeTables } from "./tables.ts";

type Options = Pick<DmqConfig, "queues" | "queueSize" | "queueAddmode" | "storeMax" | "storeRepair">;

/** Leases of those who follow are renewed so often within their time. */
const RENEWALS = 3;

/**
 * Reads what the configuration says about queues.
 *
 * @throws ConfigError for a text that is no definition, or a name that is defined twice
 */
export function readQueues(config: Options): QueueDefinition[] {
  const definitions = config.queues.map((text) => parseDefinition(text, defaultsOf(config)));
  const names = new Set<string>();
  for (const { name } of definitions) {
    if (names.has(name)) throw new ConfigError("config-contradiction", `queue ${name}`, "it twice", "it once");
    names.add(name);
  }
  return definitions;
}

function defaultsOf({ queueSize, queueAddmode }: Options): QueueDefaults {
  const addmode = readAddMode(queueAddmode);
  return { size: queueSize, ...(addmode !== undefined && { addmode }) };
}

/**
 * Opens the store if there is one, or the configuration has queues.
 *
 * @throws ConfigError, QueueError `storage` where the store cannot be used
 */
export async function openQueues(config: Options, stateDir: string, log: Logger): Promise<Queues> {
  const definitions = readQueues(config);
  const queues = new Queues(config, stateDir, log);
  if (definitions.length === 0 && !existsSync(storePath(stateDir))) return queues;
  try {
    for (const definition of definitions) await queues.perform({ type: "define", definition });
    if (definitions.length === 0) await queues.open();
    await readTables(await queues.open(), log);
  } catch (error) {
    // Two nodes of one machine share the directory as long as only one of them has queues.
    const isOther = error instanceof QueueError && error.code === "storage" && error.isHeld;
    if (isOther && definitions.length === 0) {
      log.warn(`no queues here: ${error.message}`);
      return queues;
    }
    await queues.close();
    throw error;
  }
  return queues;
}

export class Queues implements QueueSurface {
  private readonly config: Options;
  private readonly stateDir: string;
  private readonly log: Logger;
  private opening: Promise<QueueStore> | undefined;
  private closed = false;
  /** Who follows, by the id of a lease of theirs. */
  private readonly followers = new Map<string, Follower>();
  private followed = 0;

  constructor(config: Options, stateDir: string, log: Logger) {
    this.config = config;
    this.stateDir = stateDir;
    this.log = log;
  }

  /** It was opened, or is just being. */
  get isOpen(): boolean {
    return this.opening !== undefined;
  }

  /** Once; after a failure the next one tries again. */
  open(): Promise<QueueStore> {
    if (this.closed) return Promise.reject(new QueueError("storage", "the store is closed"));
    this.opening ??= this.start().catch((error) => {
      this.opening = undefined;
      throw error;
    });
    return this.opening;
  }

  private async start(): Promise<QueueStore> {
    const store = await startStore({
      directory: this.stateDir,
      bytesMax: parseOctets(this.config.storeMax) as number,
      repair: this.config.storeRepair,
    });
    for (const text of store.warnings) this.log.warn(text);
    return store;
  }

  async perform<O extends Operation>(operation: O): Promise<AnswerOf<O>> {
    const store = await this.open();
    const answer = await store.perform(operation);
    if (operation.type === "ack") this.settled(operation.ids);
    else if (operation.type === "fail") this.settled(operation.failures.map(({ id }) => id));
    return answer;
  }

  async define(definition: string): Promise<Answers["define"]> {
    return this.perform({ type: "define", definition: parseDefinition(definition, defaultsOf(this.config)) });
  }

  async add(operation: Operation & { type: "add" }, timeoutMs: number): Promise<Added[]> {
    return addWhenRoom(await this.open(), operation, timeoutMs);
  }

  async lease({ waitMs, ...request }: QueueLease & { waitMs: number }): Promise<Item[]> {
    // For as long as the lease says, whatever becomes of the connection.
    const operation = { type: "lease" as const, ...request, holder: holderName("rpc", true) };
    return leaseWhenReady(await this.open(), operation, waitMs);
  }

  follow(request: QueueLease & { once?: boolean }, listener: FollowListener): () => void {
    const holder = holderName(`follow-${++this.followed}`, true);
    const { once = false, ...lease } = request;
    const follower = new Follower({ ...lease, type: "lease", holder }, once, this.followers, listener);
    this.open()
      .then((store) => follower.run(store))
      .catch((error) => listener.error(error));
    return () => follower.end();
  }

  async sizes(): Promise<QueueRow[]> {
    const store = await this.opening?.catch(() => undefined);
    const reports = (await store?.perform({ type: "report" })) ?? [];
    return reports.map(({ name, ready, delayed, leased, dead, bytes }) => ({
      name,
      ready,
      delayed,
      leased,
      dead,
      bytes,
    }));
  }

  /** Who follows may have the next ones. */
  private settled(ids: readonly string[]): void {
    for (const id of ids) this.followers.get(id)?.settle(id);
  }

  /** What a stop has to do, other than a start that failed: queues with `dbmode=3` go to their tables. */
  async stop(): Promise<void> {
    const store = await this.opening?.catch(() => undefined);
    if (store !== undefined) await writeTables(store, this.log);
    await this.close();
  }

  async close(): Promise<void> {
    this.closed = true;
    const store = await this.opening?.catch(() => undefined);
    await store?.close();
  }
}

/** Leases for one connection, as long as it is there. */
class Follower {
  private readonly operation: Operation & { type: "lease" };
  private readonly once: boolean;
  private readonly all: Map<string, Follower>;
  private readonly listener: FollowListener;
  private readonly held = new Set<string>();
  private readonly ending = new AbortController();
  private store: QueueStore | undefined;
  private room = Promise.withResolvers<void>();

  constructor(
    operation: Operation & { type: "lease" },
    once: boolean,
    all: Map<string, Follower>,
    listener: FollowListener,
  ) {
    this.operation = operation;
    this.once = once;
    this.all = all;
    this.listener = listener;
  }

  async run(store: QueueStore): Promise<void> {
    this.store = store;
    const renewal = setInterval(() => void this.renew(store), this.operation.leaseMs / RENEWALS);
    try {
      while (!this.ending.signal.aborted) {
        await this.step(store);
        if (this.once && this.held.size > 0) await this.taken();
      }
    } finally {
      clearInterval(renewal);
      await this.release(store);
    }
  }

  /** Nothing more is leased, also when these are settled. */
  private async taken(): Promise<void> {
    this.listener.taken();
    while (!this.ending.signal.aborted) {
      this.room = Promise.withResolvers();
      await this.room.promise;
    }
  }

  private async step(store: QueueStore): Promise<void> {
    const count = this.operation.count - this.held.size;
    if (count <= 0) {
      this.room = Promise.withResolvers();
      await this.room.promise;
      return;
    }
    const items = await this.lease(store, { ...this.operation, count });
    for (const item of items) {
      this.held.add(item.id);
      this.all.set(item.id, this);
      // What was leased for somebody who is gone is released with the rest.
      if (!this.ending.signal.aborted) this.listener.item(item);
    }
  }

  /** Says so before it waits: who wants only what is ready ends then. */
  private async lease(store: QueueStore, operation: Operation & { type: "lease" }): Promise<Item[]> {
    const ready = await store.perform(operation);
    if (ready.length > 0 || this.ending.signal.aborted) return ready;
    this.listener.empty();
    return leaseWhenReady(store, operation, Number.POSITIVE_INFINITY, this.ending.signal);
  }

  settle(id: string): void {
    this.all.delete(id);
    this.held.delete(id);
    this.room.resolve();
  }

  /** One by one: a lease that ran out must not take the others with it. */
  private async renew(store: QueueStore): Promise<void> {
    const { leaseMs } = this.operation;
    const renewals = [...this.held].map((id) =>
      store.perform({ type: "extend", ids: [id], leaseMs }).catch(() => this.settle(id)),
    );
    await Promise.all(renewals);
  }

  end(): void {
    this.ending.abort();
    this.room.resolve();
    // A lease that is under way is released by `run`, when it is through.
    if (this.store !== undefined) void this.release(this.store);
  }

  private async release(store: QueueStore): Promise<void> {
    for (const id of this.held) this.all.delete(id);
    this.held.clear();
    // A store that is closed or broken frees them at its next start.
    await store.perform({ type: "release", holders: [this.operation.holder] }).catch(() => {});
  }
}
