/** How a store is opened: its directory, who may open it, what is set aside, whose leases are nobody's any more. */
import { Database } from "bun:sqlite";
import { existsSync, mkdirSync, renameSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Engine } from "./engine.ts";
import { QueueError } from "./error.ts";
import { isGone } from "./holder.ts";
import { type StoreLock, takeLock } from "./lock.ts";
import { type AnswerOf, answerOf, type Operation, type Outcome, type QueueReport } from "./operation.ts";
import { LOOK_MS, type QueueStore, storePath, Touches } from "./store.ts";

export interface OpenOptions {
  /** The state directory that the store is in; made if it is missing. */
  directory: string;
  /** Octets that the file may grow to. */
  bytesMax?: number;
  /** Sets a damaged file aside and begins an empty one. */
  repair?: boolean;
  /** Opened by the daemon, of which there is one a store. */
  daemon?: boolean;
}

export interface OpenedStore {
  engine: Engine;
  /** What is worth telling the operator, a sentence each. */
  warnings: string[];
  close(): void;
}

/** Types of statfs(2) of file systems that other machines write to, too: there the log's shared memory is not shared. */
const NETWORK: ReadonlyMap<number, string> = new Map([
  [0x6969, "NFS"],
  [0xff534d42, "CIFS"],
  [0xfe534d42, "SMB"],
  [0x517b, "SMB"],
  [0x5346414f, "AFS"],
  [0x00c36400, "Ceph"],
  [0x01021997, "9p"],
  [0x0bd00bd0, "Lustre"],
  [0x47504653, "GPFS"],
  [0x19830326, "BeeGFS"],
  [0x01161970, "GFS2"],
  [0x7461636f, "OCFS2"],
]);

/** @throws QueueError `storage` where it cannot be used; `isHeld` where another daemon has it */
export function openStore(options: OpenOptions): OpenedStore {
  const { directory, daemon = false } = options;
  const path = storePath(directory);
  prepare(directory, path);
  const lock = daemon ? takeLock(join(directory, "queues.lock"), () => ownerOf(path)) : undefined;
  try {
    const { engine, warnings } = openEngine(path, options);
    engine.space.keepReserve();
    if (daemon) engine.space.preallocate();
    if (daemon) engine.own(`process ${process.pid} since ${new Date().toISOString()}`);
    freeLeases(engine, daemon);
    return { engine, warnings, close: () => closeBoth(engine, lock) };
  } catch (error) {
    lock?.release();
    throw error;
  }
}

function closeBoth(engine: Engine, lock: StoreLock | undefined): void {
  engine.close();
  lock?.release();
}

/** Nobody else may read what is queued, whatever the umask is; SQLite gives its further files the mode of the first. */
function prepare(directory: string, path: string): void {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const network = NETWORK.get(statfsSync(directory).type);
    if (network !== undefined)
      throw new QueueError(
        "storage",
        `the state directory ${directory} is on a network file system (${network}), where a store is not safe: give a local --state-dir`,
      );
    if (!existsSync(path)) writeFileSync(path, "", { mode: 0o600, flag: "a" });
  } catch (cause) {
    if (cause instanceof QueueError) throw cause;
    const why = (cause as { code?: string }).code ?? String(cause);
    const advice = "check owner, mode and space of the directory, or give another --state-dir";
    throw new QueueError("storage", `the store ${path} cannot be made: ${why}; ${advice}`, cause);
  }
}

function openEngine(path: string, { bytesMax, repair = false }: OpenOptions): { engine: Engine; warnings: string[] } {
  const make = (): Engine =>
    new Engine({
      path,
      now: Date.now,
      random: Math.random,
      ...(bytesMax !== undefined && { bytesMax }),
    });
  if (!repair) return { engine: make(), warnings: [] };
  try {
    const engine = make();
    const damage = engine.damage();
    if (damage === undefined) return { engine, warnings: [] };
    engine.close();
    return { warnings: [setAside(path, damage)], engine: make() };
  } catch (error) {
    if (!isDamage(error)) throw error;
    return { warnings: [setAside(path, (error as Error).message)], engine: make() };
  }
}

function isDamage(error: unknown): boolean {
  const { code = "" } = ((error as QueueError).cause ?? {}) as { code?: string };
  return code.startsWith("SQLITE_CORRUPT") || code.startsWith("SQLITE_NOTADB");
}

/** @returns what is said about it */
function setAside(path: string, why: string): string {
  const aside = `${path}.damaged-${new Date().toISOString().replaceAll(/[-:]|\.\d+/g, "")}`;
  for (const end of ["", "-wal", "-shm"]) if (existsSync(path + end)) renameSync(path + end, aside + end);
  writeFileSync(path, "", { mode: 0o600, flag: "a" });
  return `the store was damaged (${why}): it is ${aside} now, and an empty one has begun`;
}

function ownerOf(path: string): string | undefined {
  try {
    const db = new Database(path, { readonly: true });
    try {
      return (db.query("SELECT owner FROM clock").get() as { owner: string | null } | null)?.owner ?? undefined;
    } finally {
      db.close();
    }
  } catch {
    return undefined;
  }
}

/** What processes had leased that are gone. */
function freeLeases(engine: Engine, daemon: boolean): void {
  const [outcome] = engine.run([{ type: "holders" }]);
  if (outcome?.ok !== true) return;
  const holders = (outcome.answer as string[]).filter((holder) => isGone(holder, daemon));
  if (holders.length > 0) engine.run([{ type: "release", holders }]);
}

/**
 * Opens the store in this process, for a command where no daemon runs. Commits of others are looked for while somebody waits.
 * Queues in memory are refused: they exist in a daemon.
 *
 * @throws QueueError `storage` if it cannot be opened
 */
export function inProcess(options: OpenOptions): QueueStore {
  const { engine, warnings, close } = openStore(options);
  const touches = new Touches();
  let looking: Timer | undefined;
  const look = (): void => {
    if (!engine.isStale()) return;
    const [outcome] = engine.run([{ type: "report" }]);
    if (outcome?.ok === true) touches.tell((outcome.answer as QueueReport[]).map(({ name }) => name));
  };
  return {
    warnings,
    async perform<O extends Operation>(operation: O): Promise<AnswerOf<O>> {
      if (operation.type === "define" && operation.definition.store === "memory")
        throw new QueueError(
          "item-refused",
          `queue ${operation.definition.name}: store=memory needs a daemon: dmq serve`,
        );
      const [outcome] = engine.run([operation]);
      touches.tell(engine.takeTouched());
      return answerOf(operation, outcome as Outcome);
    },
    onTouched(listener) {
      looking ??= setInterval(look, LOOK_MS);
      const end = touches.on(listener);
      return () => {
        end();
        if (touches.count > 0) return;
        clearInterval(looking);
        looking = undefined;
      };
    },
    async close() {
      clearInterval(looking);
      close();
    },
  };
}
