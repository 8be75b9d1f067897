/** Who has which item, and until when. */
import { QueueError } from "./error.ts";
import { given, type Ledger, type QueueState } from "./ledger.ts";
import type { Item, Operation } from "./operation.ts";
import { ITEM_COLUMNS, type ItemRow, itemOf } from "./row.ts";
import { OCTETS } from "./schema.ts";

/** Rows that are looked at for one whose key nobody holds up. */
const ORDERED_ROWS = 1_000;
/** Of all values of one lease, beyond the first: they are in memory, and on a stream of the control socket, at the same time. */
const LEASE_BYTES_MAX = 128 * 1024;

export interface LeasedRow {
  seq: number;
  queue: number;
  tries: number;
  due: number;
  octets: number;
}

// A variable alone, with ORDER BY or LIMIT, makes SQLite look at its value when it plans, and plan anew each time another one is bound:
// 28 µs instead of 3 (Bun 1.4.5). Behind a plus it is no variable alone.
export function lease(
  ledger: Ledger,
  queue: QueueState,
  { count, leaseMs, holder, orderByKey, key }: Operation & { type: "lease" },
): Item[] {
  const filter = key === undefined ? "" : "AND key = +?4";
  const ready = "queue = +?1 AND holder IS NULL AND due <= +?2 AND (expires IS NULL OR expires > +?2)";
  const pick =
    orderByKey === true
      ? `SELECT ${ITEM_COLUMNS} FROM items AS one WHERE seq IN (SELECT seq FROM items WHERE ${ready} ${filter}
           ORDER BY due, seq LIMIT ${ORDERED_ROWS})
         AND NOT EXISTS (SELECT 1 FROM items AS other
           WHERE other.queue = +?1 AND other.key = one.key AND other.seq < one.seq) ORDER BY due, seq LIMIT +?3`
      : `SELECT ${ITEM_COLUMNS} FROM items WHERE ${ready} ${filter} ORDER BY due, seq LIMIT +?3`;
  // One after the other is twice as fast as one UPDATE over the choice that gives the rows back (measured, Bun 1.4.5).
  const found = ledger.statement(pick).all(queue.rowId, ledger.present, count, ...given(key)) as ItemRow[];
  let octets = 0;
  const rows = found.filter((row, index) => {
    octets += row.outside ?? row.value.length;
    return index === 0 || octets <= LEASE_BYTES_MAX;
  });
  const mark = ledger.statement("UPDATE items SET holder = ?, until = ?, tries = ?, leases = ? WHERE seq = ?");
  const until = ledger.present + leaseMs;
  for (const row of rows) {
    row.holder = holder;
    row.tries++;
    row.leases++;
    mark.run(holder, until, row.tries, row.leases, row.seq);
  }
  if (rows.length > 0) ledger.tendAt = Math.min(ledger.tendAt, until);
  ledger.change(queue, rows.length);
  ledger.count(queue, "delivered", rows.length);
  return rows.map((row) => itemOf(ledger, row));
}

export function extend(ledger: Ledger, ids: readonly string[], leaseMs: number): number {
  for (const id of ids) {
    const { row } = leased(ledger, id);
    ledger.statement("UPDATE items SET until = ? WHERE seq = ?").run(ledger.present + leaseMs, row.seq);
    ledger.tendAt = Math.min(ledger.tendAt, ledger.present + leaseMs);
  }
  return ids.length;
}

export function holders(ledger: Ledger): string[] {
  const rows = ledger.statement("SELECT DISTINCT holder FROM items WHERE holder IS NOT NULL").all();
  return (rows as { holder: string }[]).map(({ holder }) => holder);
}

/** @throws QueueError `no-such-item` for an id whose lease is over */
export function leased(ledger: Ledger, id: string): { row: LeasedRow; queue: QueueState } {
  const row = leasedRow(ledger, id);
  if (row !== null) return { row, queue: ledger.byRow.get(row.queue) as QueueState };
  throw new QueueError(
    "no-such-item",
    `no item is leased as ${JSON.stringify(id)}: it was settled, or its lease ran out`,
  );
}

export function leasedRow(ledger: Ledger, id: string): LeasedRow | null {
  const prefix = ledger.options.prefix ?? "";
  const match = id.startsWith(prefix) ? /^(\d{1,15})-(\d{1,9})$/.exec(id.slice(prefix.length)) : null;
  if (match === null) return null;
  const sql = `SELECT seq, queue, tries, due, ${OCTETS} AS octets FROM items WHERE seq = ? AND leases = ? AND holder IS NOT NULL`;
  return ledger.statement(sql).get(Number(match[1]), Number(match[2])) as LeasedRow | null;
}
