/** The row of an item: read, marked, taken away, and the large value that is beside it. */
import { EMPTY } from "../core/bytes.ts";
import type { Ledger, QueueState } from "./ledger.ts";
import type { Item } from "./operation.ts";
import { INLINE_BYTES } from "./schema.ts";

export interface ItemRow {
  seq: number;
  queue: number;
  key: string;
  value: Uint8Array;
  outside: number | null;
  type: string;
  headers: string | null;
  path: string | null;
  origin: string | null;
  channel: string | null;
  added: number;
  due: number;
  tries: number;
  leases: number;
  holder: string | null;
}

/** What makes an item: all of its row but what is known of its end. */
export const ITEM_COLUMNS =
  "seq, queue, key, value, outside, type, headers, path, origin, channel, added, due, tries, leases, holder";

/** Rows that one look gives. */
export const PEEK_MAX = 10_000;

export function removeRow(ledger: Ledger, queue: QueueState, seq: number, octets: number): void {
  ledger.statement("DELETE FROM items WHERE seq = ?").run(seq);
  if (octets > INLINE_BYTES) ledger.statement("DELETE FROM bodies WHERE seq = ?").run(seq);
  ledger.grow(queue, -1, -octets);
  ledger.touched.add(queue.name);
}

export function removeBodies(ledger: Ledger, which: string, rowId: number): void {
  const sql = `DELETE FROM bodies WHERE seq IN (SELECT seq FROM items WHERE outside IS NOT NULL AND ${which})`;
  ledger.statement(sql).run(rowId);
}

export function keepOutside(ledger: Ledger, seq: number, value: Uint8Array): void {
  if (value.length > INLINE_BYTES)
    ledger.statement("INSERT OR REPLACE INTO bodies (seq, value) VALUES (?, ?)").run(seq, value);
}

export function itemOf(ledger: Ledger, row: ItemRow): Item {
  return {
    seq: row.seq,
    id: `${ledger.options.prefix ?? ""}${row.seq}-${row.holder === null ? 0 : row.leases}`,
    queue: (ledger.byRow.get(row.queue) as QueueState).name,
    key: row.key,
    value: row.outside === null ? row.value : bodyOf(ledger, row.seq),
    contentType: row.type,
    headers: row.headers === null ? {} : (JSON.parse(row.headers) as Record<string, string>),
    path: row.path === null ? [] : (JSON.parse(row.path) as string[]),
    from: row.origin,
    channel: row.channel,
    addedAt: row.added,
    dueAt: row.due - ledger.ahead,
    tries: row.tries,
  };
}

/** What `check` finds missing is empty to others: an item without its value can still be settled. */
function bodyOf(ledger: Ledger, seq: number): Uint8Array {
  const row = ledger.statement("SELECT value FROM bodies WHERE seq = ?").get(seq) as { value: Uint8Array } | null;
  return row?.value ?? EMPTY;
}

export function inline(value: Uint8Array): Uint8Array {
  return value.length > INLINE_BYTES ? EMPTY : value;
}

export function outside(value: Uint8Array): number | null {
  return value.length > INLINE_BYTES ? value.length : null;
}
