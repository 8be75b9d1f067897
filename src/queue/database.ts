/** The connection to the file of a store: how SQLite is set, and what it says in words of ours. */
import { Database } from "bun:sqlite";
import { QueueError } from "./error.ts";

/** Without it a second process makes `BEGIN` throw at once (measured, queue.md B10). */
const BUSY_MS = 5_000;
const STORE_BYTES_MAX = 2 * 1024 ** 3;
export const PAGE_BYTES = 4_096;
const WAL_PAGES = 2_000;
/** As large as the log becomes before it begins again. */
export const LOG_BYTES = WAL_PAGES * PAGE_BYTES;
const WAL_BYTES_KEPT = 64 * 1024 ** 2;
/** SQLite's number for it. */
const INCREMENTAL = 2;

export interface FileOptions {
  /** Path of the file; `:memory:` for queues that go with the process. */
  path: string;
  /** Octets that the file may grow to, default 2 GiB. */
  bytesMax?: number;
}

/** Pages that the file may have. */
export function pagesMax({ bytesMax = STORE_BYTES_MAX }: FileOptions): number {
  return Math.ceil(bytesMax / PAGE_BYTES);
}

/** @throws QueueError `storage` */
export function openDatabase(options: FileOptions): Database {
  const { path } = options;
  let db: Database | undefined;
  try {
    db = new Database(path, { create: true, readwrite: true, strict: true });
    // Before anything that may find the file locked.
    db.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
    db.run(`PRAGMA page_size = ${PAGE_BYTES}`);
    const { auto_vacuum: vacuum } = db.query("PRAGMA auto_vacuum").get() as { auto_vacuum: number };
    // It writes, also where it changes nothing: no command could look into a store at a full disk.
    if (vacuum !== INCREMENTAL) db.run(`PRAGMA auto_vacuum = ${INCREMENTAL}`);
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = FULL");
    db.run(`PRAGMA wal_autocheckpoint = ${WAL_PAGES}`);
    db.run(`PRAGMA journal_size_limit = ${WAL_BYTES_KEPT}`);
    db.run(`PRAGMA max_page_count = ${pagesMax(options)}`);
    return db;
  } catch (cause) {
    db?.close();
    throw storageError(path, cause);
  }
}

export function isFullError(cause: unknown): boolean {
  return (cause as { code?: string }).code?.startsWith("SQLITE_FULL") === true;
}

/** What SQLite says, with what an operator can do about it. */
export function storageError(path: string, cause: unknown): QueueError {
  if (cause instanceof QueueError) return cause;
  const code = (cause as { code?: string }).code ?? "";
  const text = cause instanceof Error ? cause.message : String(cause);
  const advice = ADVICE.find(([word]) => code.startsWith(word))?.[1] ?? "see docs/QUEUES.md, storage";
  return new QueueError(
    "storage",
    `the store ${path} cannot be used: ${text}${code === "" ? "" : ` (${code})`}; ${advice}`,
    cause,
  );
}

const ADVICE: readonly [code: string, advice: string][] = [
  ["SQLITE_FULL", "the disk is full, or the bound of the store is reached: fetch or drop items, raise --store-max"],
  ["SQLITE_BUSY", "another process holds it: see who has it open (fuser)"],
  ["SQLITE_CORRUPT", "it is damaged: dmq queue check, and --store-repair sets it aside and begins a new one"],
  ["SQLITE_NOTADB", "it is no store: give another --state-dir, or --store-repair to set it aside"],
  ["SQLITE_READONLY", "it may not be written: check owner and mode of the file and its directory"],
  ["SQLITE_CANTOPEN", "check that the directory exists and may be written"],
  ["SQLITE_IOERR", "the disk reports an error: look into the system's log"],
];
