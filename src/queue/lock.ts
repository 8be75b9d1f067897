/**
 * One daemon a store. The lock is SQLite's on a file beside the store, which the kernel gives back when the process is gone,
 * however it went: there is no stale one, also where a container comes up again with the same pids. Who has it stands in
 * the store itself, for the message alone.
 */
import { Database } from "bun:sqlite";
import { QueueError } from "./error.ts";

export interface StoreLock {
  release(): void;
}

/**
 * @param owner  says who has it, if that is known
 * @throws       QueueError `storage` with `isHeld` where another daemon has it
 */
export function takeLock(path: string, owner: () => string | undefined): StoreLock {
  let db: Database | undefined;
  try {
    db = new Database(path, { create: true, readwrite: true });
    // Nothing is ever written: the transaction is the lock.
    db.run("BEGIN EXCLUSIVE");
    const held = db;
    return { release: () => held.close() };
  } catch (cause) {
    db?.close();
    const { code = "", message: text = "" } = cause as { code?: string; message?: string };
    if (!code.startsWith("SQLITE_BUSY"))
      throw new QueueError(
        "storage",
        `the lock ${path} cannot be taken: ${text} (${code}); check owner, mode and space of its directory`,
        cause,
      );
    const who = owner();
    const error = new QueueError(
      "storage",
      `another daemon has the store${who === undefined ? "" : `, ${who}`}: stop it, or give this one another --state-dir`,
      cause,
    );
    error.isHeld = true;
    throw error;
  }
}
