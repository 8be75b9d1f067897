/**
 * The table that Kamailio's mqueue reads and writes with `db_url` on SQLite: named as its queue, with columns `id`, `key` and `val`
 * (queue.md part A).
 */
import { Database } from "bun:sqlite";
import { QueueError } from "./error.ts";

/** Another process may have the file. */
const BUSY_MS = 5_000;

/** What the module's own database scripts make of the columns. */
export const KAMAILIO_KEY_CHARS = 64;
export const KAMAILIO_VALUE_CHARS = 4_096;

export interface TableRow {
  id: number;
  key: string;
  value: Uint8Array;
}

export class KamailioTable {
  private readonly db: Database;
  private readonly path: string;
  private readonly name: string;

  /**
   * @param name  of the table, as of Kamailio's queue
   * @param make  file and table are made where they are not there
   * @throws      QueueError `storage` where the file cannot be used, `no-such-queue` where it has no such table
   */
  constructor(path: string, name: string, make: boolean) {
    this.path = path;
    this.name = `"${name.replaceAll('"', '""')}"`;
    this.db = this.guarded(() => new Database(path, { readwrite: true, create: make, strict: true }));
    this.guarded(() => {
      this.db.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
      if (make)
        this.db.run(
          `CREATE TABLE IF NOT EXISTS ${this.name} (id INTEGER PRIMARY KEY NOT NULL, key VARCHAR(${KAMAILIO_KEY_CHARS}) DEFAULT '' NOT NULL, val VARCHAR(${KAMAILIO_VALUE_CHARS}) DEFAULT '' NOT NULL)`,
        );
    });
    const columns = this.guarded(() => this.db.query(`PRAGMA table_info(${this.name})`).all() as { name: string }[]);
    const missing = ["id", "key", "val"].filter((column) => !columns.some((one) => one.name === column));
    if (missing.length === 0) return;
    this.close();
    const what = columns.length === 0 ? `no table ${name}` : `a table ${name} without ${missing.join(", ")}`;
    throw new QueueError(
      "no-such-queue",
      `${path} has ${what}: Kamailio's has the name of its queue, and id, key, val`,
    );
  }

  /** The oldest rows behind `after`. */
  read(after: number, count: number): TableRow[] {
    const sql = `SELECT id, CAST(key AS TEXT) AS key, CAST(val AS BLOB) AS value FROM ${this.name} WHERE id > ? ORDER BY id LIMIT ?`;
    return this.guarded(() =>
      (this.db.query(sql).all(after, count) as { id: number; key: string | null; value: Uint8Array | null }[]).map(
        ({ id, key, value }) => ({ id, key: key ?? "", value: value ?? new Uint8Array(0) }),
      ),
    );
  }

  remove(ids: readonly number[]): void {
    this.guarded(() => {
      const statement = this.db.prepare(`DELETE FROM ${this.name} WHERE id = ?`);
      this.db.transaction(() => {
        for (const id of ids) statement.run(id);
      })();
    });
  }

  /** Appends, all or none. Values as text, which is what Kamailio reads. */
  write(rows: readonly Omit<TableRow, "id">[]): void {
    this.guarded(() => {
      const statement = this.db.prepare(`INSERT INTO ${this.name} (key, val) VALUES (?, CAST(? AS TEXT))`);
      this.db.transaction(() => {
        for (const { key, value } of rows) statement.run(key, value);
      })();
    });
  }

  close(): void {
    this.db.close();
  }

  private guarded<T>(work: () => T): T {
    try {
      return work();
    } catch (cause) {
      const text = cause instanceof Error ? cause.message : String(cause);
      throw new QueueError("storage", `${this.path} cannot be used: ${text}`, cause);
    }
  }
}
