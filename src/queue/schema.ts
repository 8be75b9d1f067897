/**
 * The tables of a store, and how an older file becomes a newer one. `user_version` is the version; a file of a later one is
 * refused, because writing to what one does not understand loses what others stored.
 */
import type { Database } from "bun:sqlite";
import { QueueError } from "./error.ts";

export const SCHEMA_VERSION = 3;

/** Octets of a value that is in the row of its item. SQLite writes a row anew, all of it, for each mark on it. */
export const INLINE_BYTES = 2_048;

/** Of an item's value, wherever it is. */
export const OCTETS = "coalesce(outside, length(value))";

/**
 * `seq` is never used again, which makes it the order and the id. `due` of an item that need not wait is the
 * moment it was added: delayed ones fall into their place among the others. The partial indexes hold only what can be fetched.
 * `due`, `expires` and `until` are in the time of the store, which is `clock.ahead` ahead of the wall (engine.ts).
 */
const TABLES = `
CREATE TABLE queues (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  definition TEXT NOT NULL,
  items INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0,
  leased INTEGER NOT NULL DEFAULT 0,
  counted TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE TABLE items (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  queue INTEGER NOT NULL,
  key TEXT NOT NULL,
  value BLOB NOT NULL,
  type TEXT NOT NULL,
  headers TEXT,
  path TEXT,
  origin TEXT,
  channel TEXT,
  added INTEGER NOT NULL,
  due INTEGER NOT NULL,
  expires INTEGER,
  tries INTEGER NOT NULL DEFAULT 0,
  leases INTEGER NOT NULL DEFAULT 0,
  holder TEXT,
  until INTEGER,
  reason TEXT,
  exit INTEGER,
  stderr TEXT,
  died INTEGER
) STRICT;
CREATE INDEX items_ready ON items (queue, due, seq) WHERE holder IS NULL;
CREATE INDEX items_key ON items (queue, key, seq);
CREATE INDEX items_leased ON items (until) WHERE holder IS NOT NULL;
CREATE INDEX items_expiring ON items (expires) WHERE expires IS NOT NULL;
CREATE TABLE seen (
  queue INTEGER NOT NULL,
  dedupe TEXT NOT NULL,
  seq INTEGER NOT NULL,
  until INTEGER NOT NULL,
  PRIMARY KEY (queue, dedupe)
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_until ON seen (until);
CREATE TABLE clock (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  last INTEGER NOT NULL,
  ahead INTEGER NOT NULL,
  owner TEXT
) STRICT;
INSERT INTO clock VALUES (0, 0, 0, NULL);
`;

/** `outside`: the octets of the value, where it is not in the row; its length is asked for often, the value once. */
const LARGE_VALUES = `
CREATE TABLE bodies (seq INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT;
ALTER TABLE items ADD COLUMN outside INTEGER;
`;

/**
 * Fewer pages a commit. `newest`, in rows that are written anyway, is the highest `seq` given so far, where AUTOINCREMENT has a page of its
 * own. In the index of keys each key has its own place, mostly on a page of its own: it is made when somebody first asks for a key.
 */
const FEWER_PAGES = `
ALTER TABLE queues ADD COLUMN newest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE clock ADD COLUMN newest INTEGER NOT NULL DEFAULT 0;
UPDATE clock SET newest = coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'items'), 0);
CREATE TABLE items_next (
  seq INTEGER PRIMARY KEY,
  queue INTEGER NOT NULL,
  key TEXT NOT NULL,
  value BLOB NOT NULL,
  outside INTEGER,
  type TEXT NOT NULL,
  headers TEXT,
  path TEXT,
  origin TEXT,
  channel TEXT,
  added INTEGER NOT NULL,
  due INTEGER NOT NULL,
  expires INTEGER,
  tries INTEGER NOT NULL DEFAULT 0,
  leases INTEGER NOT NULL DEFAULT 0,
  holder TEXT,
  until INTEGER,
  reason TEXT,
  exit INTEGER,
  stderr TEXT,
  died INTEGER
) STRICT;
INSERT INTO items_next SELECT seq, queue, key, value, outside, type, headers, path, origin, channel, added, due, expires, tries,
  leases, holder, until, reason, exit, stderr, died FROM items ORDER BY seq;
DROP TABLE items;
ALTER TABLE items_next RENAME TO items;
CREATE INDEX items_ready ON items (queue, due, seq) WHERE holder IS NULL;
CREATE INDEX items_leased ON items (until) WHERE holder IS NOT NULL;
CREATE INDEX items_expiring ON items (expires) WHERE expires IS NOT NULL;
`;

/** Not at once: it doubles what adding costs (measured, 64 writers with a key each). */
export const INDEX_KEYS = "CREATE INDEX IF NOT EXISTS items_key ON items (queue, key, seq)";

/** By the version that they make a file of. */
export const STEPS: readonly string[] = [TABLES, LARGE_VALUES, FEWER_PAGES];

/** Brings a file to the present version. @throws QueueError `storage` for one of a later version */
export function migrate(db: Database): void {
  const version = versionOf(db);
  if (version === SCHEMA_VERSION) return;
  if (version > SCHEMA_VERSION) {
    throw new QueueError(
      "storage",
      `the store is of version ${version}, this dmq knows ${SCHEMA_VERSION}: use the newer dmq that made it`,
    );
  }
  db.run("BEGIN IMMEDIATE");
  try {
    // Another process may have been first.
    for (const step of STEPS.slice(versionOf(db))) db.run(step);
    db.run(`PRAGMA user_version = ${SCHEMA_VERSION}`);
    db.run("COMMIT");
  } catch (cause) {
    db.run("ROLLBACK");
    throw cause;
  }
}

function versionOf(db: Database): number {
  return (db.query("PRAGMA user_version").get() as { user_version: number }).user_version;
}
