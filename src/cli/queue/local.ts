/**
 * The store's file in this process, where no daemon runs. Its commits are as good as the daemon's: a daemon that starts meanwhile
 * finds them, and what it commits is seen here within `LOOK_MS`.
 */
import { existsSync } from "node:fs";
import { loadConfig } from "../../config/load.ts";
import type { DmqConfig } from "../../config/schema.ts";
import { StoreSupply, type Supply, type SupplyRequest } from "../../consume/supply.ts";
import { RpcError } from "../../core/errors.ts";
import { formatDefinition, parseDefinition, parseOctets, readAddMode } from "../../queue/definition.ts";
import { QueueError } from "../../queue/error.ts";
import { holderName, isGone } from "../../queue/holder.ts";
import { inProcess } from "../../queue/open.ts";
import type { Added, AnswerOf, Answers, Item, Operation } from "../../queue/operation.ts";
import { type QueueStore, storePath } from "../../queue/store.ts";
import { addWhenRoom, leaseWhenReady } from "../../queue/wait.ts";
import { stateDirectory } from "../../rpc/paths.ts";
import type { CliContext } from "../context.ts";
import type { Lease, Queues } from "./queues.ts";

/** Where a service of the machine has its state. */
const SYSTEM_STATE = "/var/lib/dmq";

export interface Place {
  /** The state directory of `--state-dir`. */
  directory: string | undefined;
  /** The configuration of `--config`. */
  file: string | undefined;
  /** A store that is not there is made. */
  makes: boolean;
}

/** @throws ConfigError, QueueError `storage` */
export async function openLocal(context: CliContext, { directory: named, file, makes }: Place): Promise<Queues> {
  const { config } = loadConfig({
    flags: new Map(named === undefined ? [] : [["state_dir", [named]]]),
    env: context.env,
    ...(file !== undefined && { file }),
  });
  const directory = config.stateDir ?? usualDirectory(context);
  if (!makes && !existsSync(storePath(directory))) return new NoQueues(directory);
  const store = inProcess({ directory, bytesMax: parseOctets(config.storeMax) as number, repair: config.storeRepair });
  for (const warning of store.warnings) context.stderr(`dmq: warning: ${warning}\n`);
  const queues = new LocalQueues(store, config);
  try {
    await queues.freeDead();
  } catch (error) {
    await queues.close();
    throw error;
  }
  return queues;
}

/** A cron job of root's has another home than the service. */
function usualDirectory({ env }: CliContext): string {
  const usual = stateDirectory(env);
  return !existsSync(storePath(usual)) && existsSync(storePath(SYSTEM_STATE)) ? SYSTEM_STATE : usual;
}

let supplies = 0;

class LocalQueues implements Queues {
  readonly socketPath = undefined;
  private readonly store: QueueStore;
  private readonly config: DmqConfig;

  constructor(store: QueueStore, config: DmqConfig) {
    this.store = store;
    this.config = config;
  }

  /** What processes had leased that are gone is ready again. */
  async freeDead(): Promise<void> {
    const holders = (await this.store.perform({ type: "holders" })).filter((holder) => isGone(holder));
    if (holders.length > 0) await this.store.perform({ type: "release", holders });
  }

  perform<O extends Operation>(operation: O): Promise<AnswerOf<O>> {
    return this.store.perform(operation);
  }

  async define(text: string): Promise<Answers["define"]> {
    const addmode = readAddMode(this.config.queueAddmode);
    const defaults = { size: this.config.queueSize, ...(addmode !== undefined && { addmode }) };
    const definition = parseDefinition(text, defaults);
    if (definition.store === "memory")
      throw new RpcError("rpc-unreachable", `${formatDefinition(definition)} needs a daemon, and none runs`, {
        method: "queue.define",
        socketPath: "",
      });
    return this.store.perform({ type: "define", definition });
  }

  add(operation: Operation & { type: "add" }, timeoutMs: number): Promise<Added[]> {
    return addWhenRoom(this.store, operation, timeoutMs);
  }

  lease({ waitMs, ...request }: Lease, signal: AbortSignal): Promise<Item[]> {
    // No process's: the time alone ends it.
    const holder = `lease/${crypto.randomUUID()}`;
    return leaseWhenReady(this.store, { type: "lease", ...request, holder }, waitMs, signal);
  }

  supply(request: SupplyRequest): Supply {
    return new StoreSupply(this.store, { ...request, holder: holderName(`cli-${++supplies}`) });
  }

  close(): Promise<void> {
    return this.store.close();
  }
}

/** No daemon, and no store: only `dmq queue define` makes one. */
class NoQueues implements Queues {
  readonly socketPath = undefined;
  private readonly directory: string;

  constructor(directory: string) {
    this.directory = directory;
  }

  private none(): QueueError {
    const path = storePath(this.directory);
    return new QueueError("no-such-queue", `there are no queues: no daemon runs, and ${path} is not there; ${ADVICE}`);
  }

  async perform<O extends Operation>(operation: O): Promise<AnswerOf<O>> {
    if (operation.type === "report" && operation.queue === undefined) return [] as unknown as AnswerOf<O>;
    throw this.none();
  }

  async define(): Promise<never> {
    throw this.none();
  }

  async add(): Promise<never> {
    throw this.none();
  }

  async lease(): Promise<never> {
    throw this.none();
  }

  supply(): Supply {
    throw this.none();
  }

  async close(): Promise<void> {}
}

const ADVICE = "make one with: dmq queue define NAME";
