/**
 * Queues with `dbmode` 2 and 3 (queue.md B1): at the start the daemon takes in what is in their tables, and at its stop moves there what
 * is ready. Other than Kamailio it deletes nothing that is not stored on the other side, and what is not ready stays in the store.
 */
import type { Logger } from "../core/logger.ts";
import { QueueError } from "../queue/error.ts";
import { holderName } from "../queue/holder.ts";
import type { Item, QueueReport } from "../queue/operation.ts";
import type { QueueStore } from "../queue/store.ts";

type Store = Pick<QueueStore, "perform">;

/** A stop lasts no longer: what is not written by then is written at the next one. */
const WRITE_MS_MAX = 10_000;
const LEASE_MS = 60_000;

/**
 * Takes in the rows of all queues with `dbmode=2`. A file or table that is not there yet, and a queue that is full, are warnings:
 * nothing is lost, and another start tries again.
 *
 * @throws QueueError `storage` for a file that cannot be used
 */
export async function readTables(store: Store, log: Logger): Promise<void> {
  for (const { name, definition } of await queuesOf(store, 2)) {
    try {
      const count = await readTable(store, name, definition.db as string);
      log.info(`queue ${name}: ${count} items came from its table`, { db: definition.db });
    } catch (error) {
      if (!(error instanceof QueueError) || error.code === "storage") throw error;
      log.warn(`queue ${name}: what is in its table stays there: ${error.message}`);
    }
  }
}

async function readTable(store: Store, queue: string, file: string): Promise<number> {
  // Only with such a queue does the main thread need SQLite.
  const { KamailioTable } = await import("../queue/table.ts");
  const { takeIn } = await import("../queue/transfer.ts");
  const { existsSync } = await import("node:fs");
  if (!existsSync(file)) throw new QueueError("no-such-queue", `there is no file ${file}`);
  const table = new KamailioTable(file, queue, false);
  try {
    return await takeIn(table, (items) => store.perform({ type: "add", queue, items }), false);
  } finally {
    table.close();
  }
}

/** Moves what is ready in queues with `dbmode=3` to their tables. What goes wrong is told, and the items stay in the store. */
export async function writeTables(store: Store, log: Logger): Promise<void> {
  const deadline = performance.now() + WRITE_MS_MAX;
  for (const { name, definition } of await queuesOf(store, 3)) {
    try {
      const { count, odd } = await writeTable(store, name, definition.db as string, deadline);
      log.info(`queue ${name}: ${count} items went to its table`, { db: definition.db });
      if (odd > 0) log.warn(`queue ${name}: ${odd} items in its table are empty or too long for Kamailio`);
      const { ready } = await store.perform({ type: "sizes", queue: name });
      if (ready > 0) log.warn(`queue ${name}: ${ready} items stay in the store until the next stop: there was no time`);
    } catch (error) {
      log.error(`queue ${name}: its items stay in the store: ${(error as Error).message}`);
    }
  }
}

async function writeTable(
  store: Store,
  queue: string,
  file: string,
  deadline: number,
): Promise<{ count: number; odd: number }> {
  const { KamailioTable } = await import("../queue/table.ts");
  const { giveOut } = await import("../queue/transfer.ts");
  const lease = { type: "lease" as const, queue, leaseMs: LEASE_MS, holder: holderName("table", true) };
  let held: readonly { id: string }[] = [];
  const next = async (count: number): Promise<Item[]> => {
    const items = await store.perform({ ...lease, count });
    held = items;
    return items;
  };
  const ack = async (items: readonly Item[]): Promise<void> => {
    await store.perform({ type: "ack", ids: items.map(({ id }) => id) });
    held = [];
  };
  const table = new KamailioTable(file, queue, true);
  try {
    return await giveOut(table, { next, ack }, () => performance.now() > deadline);
  } finally {
    table.close();
    // Nobody has tried to handle them.
    const failures = held.map(({ id }) => ({ id, fate: "now" as const, counts: false }));
    await store.perform({ type: "fail", failures });
  }
}

async function queuesOf(store: Store, dbmode: 2 | 3): Promise<QueueReport[]> {
  return (await store.perform({ type: "report" })).filter(({ definition }) => definition.dbmode === dbmode);
}
