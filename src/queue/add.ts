/** What comes into a queue. */
import { KEY_BYTES_MAX } from "./definition.ts";
import { QueueError } from "./error.ts";
import type { Ledger, QueueState } from "./ledger.ts";
import type { Added, NewItem } from "./operation.ts";
import { makeRoom } from "./room.ts";
import { inline, keepOutside, outside, removeRow } from "./row.ts";
import { INLINE_BYTES, OCTETS } from "./schema.ts";

const DEDUPE_MS = 3_600_000;

export function add(ledger: Ledger, queue: QueueState, items: readonly NewItem[]): Added[] {
  for (const item of items) checkItem(queue, item);
  return items.map((item) => addOne(ledger, queue, item));
}

function addOne(ledger: Ledger, queue: QueueState, item: NewItem): Added {
  const seen = item.dedupe === undefined ? undefined : seenBefore(ledger, queue, item.dedupe);
  if (seen !== undefined) return { seq: seen, stored: "repeated" };
  const { addmode } = queue.definition;
  const rival = addmode === "all" ? undefined : rivalOf(ledger, queue, item.key);
  if (rival !== undefined && addmode === "oldest") {
    ledger.count(queue, "ignored");
    return remember(ledger, queue, item, { seq: rival.seq, stored: "ignored" });
  }
  makeRoom(ledger, queue, item.value.length - (rival?.octets ?? 0), rival === undefined ? 1 : 0, rival?.seq);
  if (rival !== undefined && addmode === "in-place") {
    replace(ledger, queue, rival, item);
    return remember(ledger, queue, item, { seq: rival.seq, stored: "replaced" });
  }
  if (rival !== undefined) removeRow(ledger, queue, rival.seq, rival.octets);
  const seq = insert(ledger, queue, item);
  return remember(ledger, queue, item, { seq, stored: rival === undefined ? "stored" : "replaced" });
}

function seenBefore(ledger: Ledger, queue: QueueState, dedupe: string): number | undefined {
  const sql = "SELECT seq FROM seen WHERE queue = +? AND dedupe = +? AND until > +?";
  const row = ledger.statement(sql).get(queue.rowId, dedupe, ledger.present);
  return (row as { seq: number } | null)?.seq;
}

function remember(ledger: Ledger, queue: QueueState, { dedupe, dedupeMs }: NewItem, added: Added): Added {
  if (dedupe === undefined) return added;
  const until = ledger.present + (dedupeMs ?? DEDUPE_MS);
  const sql = "INSERT OR REPLACE INTO seen (queue, dedupe, seq, until) VALUES (?, ?, ?, ?)";
  ledger.statement(sql).run(queue.rowId, dedupe, added.seq, until);
  ledger.tendAt = Math.min(ledger.tendAt, until);
  return added;
}

/** The item with this key that is still queued; one that is leased does not count, as in Kamailio a fetched one does not. */
function rivalOf(ledger: Ledger, queue: QueueState, key: string): { seq: number; octets: number } | undefined {
  const sql = `SELECT seq, ${OCTETS} AS octets FROM items WHERE queue = +? AND key = +? AND holder IS NULL ORDER BY seq LIMIT 1`;
  return (ledger.statement(sql).get(queue.rowId, key) as { seq: number; octets: number } | null) ?? undefined;
}

function insert(ledger: Ledger, queue: QueueState, item: NewItem): number {
  const ttlMs = item.ttlMs ?? queue.definition.ttlMs;
  const due = ledger.present + (item.delayMs ?? 0);
  const seq = ++ledger.newest;
  queue.newest = seq;
  const sql = `INSERT INTO items (seq, queue, key, value, type, headers, path, origin, channel, added, due, expires, outside)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;
  ledger
    .statement(sql)
    .run(
      seq,
      queue.rowId,
      item.key,
      inline(item.value),
      item.contentType ?? "text/plain",
      item.headers === undefined ? null : JSON.stringify(item.headers),
      item.path === undefined || item.path.length === 0 ? null : JSON.stringify(item.path),
      item.from ?? null,
      item.channel ?? null,
      ledger.wall,
      due,
      ttlMs === 0 ? null : due + ttlMs,
      outside(item.value),
    );
  keepOutside(ledger, seq, item.value);
  if (ttlMs !== 0) ledger.tendAt = Math.min(ledger.tendAt, due + ttlMs);
  ledger.grow(queue, 1, item.value.length);
  ledger.count(queue, "added");
  ledger.touched.add(queue.name);
  return seq;
}

/** The newest value in the place of the old one. */
function replace(ledger: Ledger, queue: QueueState, rival: { seq: number; octets: number }, item: NewItem): void {
  const sql = `UPDATE items SET value = ?, outside = ?, type = ?, headers = ?, path = ?, origin = ?, channel = ?, tries = 0
    WHERE seq = ?`;
  ledger
    .statement(sql)
    .run(
      inline(item.value),
      outside(item.value),
      item.contentType ?? "text/plain",
      item.headers === undefined ? null : JSON.stringify(item.headers),
      item.path === undefined || item.path.length === 0 ? null : JSON.stringify(item.path),
      item.from ?? null,
      item.channel ?? null,
      rival.seq,
    );
  if (rival.octets > INLINE_BYTES) ledger.statement("DELETE FROM bodies WHERE seq = ?").run(rival.seq);
  keepOutside(ledger, rival.seq, item.value);
  ledger.grow(queue, 0, item.value.length - rival.octets);
  ledger.count(queue, "added");
}

function checkItem(queue: QueueState, { key, value }: NewItem): void {
  const { maxValue } = queue.definition;
  if (value.length > maxValue)
    throw new QueueError(
      "item-refused",
      `the value has ${value.length} octets, queue ${queue.name} takes ${maxValue} (max-value)`,
    );
  if (Buffer.byteLength(key) > KEY_BYTES_MAX)
    throw new QueueError(
      "item-refused",
      `the key has ${Buffer.byteLength(key)} octets, at most ${KEY_BYTES_MAX} are allowed`,
    );
}
