/** What time does: leases that run out, items that expire, memories that are too old. */
import type { LeasedRow } from "./lease.ts";
import type { Ledger, QueueState } from "./ledger.ts";
import { bury } from "./room.ts";
import { removeRow } from "./row.ts";
import { OCTETS } from "./schema.ts";
import { giveBack } from "./settle.ts";

/** Rows that one group clears away. */
const HOUSEKEEPING_ROWS = 1_000;

/** What time has done since the last group: leases that ran out, items that expired, memories that are too old. */
export function housekeep(ledger: Ledger): void {
  if (ledger.present < ledger.tendAt) return;
  const lost = ledger
    .statement(
      `SELECT seq, queue, tries, due, ${OCTETS} AS octets FROM items WHERE holder IS NOT NULL AND until <= +? LIMIT +?`,
    )
    .all(ledger.storeTime(), HOUSEKEEPING_ROWS) as LeasedRow[];
  for (const row of lost) giveBack(ledger, row);
  const expired = ledger
    .statement(`SELECT seq, queue, ${OCTETS} AS octets FROM items WHERE expires <= +? AND holder IS NULL LIMIT +?`)
    .all(ledger.storeTime(), HOUSEKEEPING_ROWS) as { seq: number; queue: number; octets: number }[];
  for (const row of expired) expire(ledger, row);
  ledger.statement("DELETE FROM seen WHERE until <= ?").run(ledger.storeTime());
  const sql = `SELECT min(coalesce((SELECT min(until) FROM items WHERE holder IS NOT NULL), ?1),
    coalesce((SELECT min(expires) FROM items WHERE expires IS NOT NULL), ?1),
    coalesce((SELECT min(until) FROM seen), ?1)) AS n`;
  ledger.tendAt = Math.max(ledger.present + 1, ledger.number(sql, [Number.MAX_SAFE_INTEGER]));
  if (lost.length === HOUSEKEEPING_ROWS || expired.length === HOUSEKEEPING_ROWS) ledger.tendAt = ledger.present;
}

function expire(ledger: Ledger, { seq, queue: rowId, octets }: { seq: number; queue: number; octets: number }): void {
  const queue = ledger.byRow.get(rowId) as QueueState;
  ledger.count(queue, "expired");
  if (queue.definition.expired === "dead") bury(ledger, queue, seq, octets, { reason: "expired" });
  else removeRow(ledger, queue, seq, octets);
}

/** Is something due that no operation may come for: a lease that ran out, an item that expired? */
export function isDue(ledger: Ledger): boolean {
  const now = ledger.storeTime();
  const sql = `SELECT EXISTS (SELECT 1 FROM items WHERE holder IS NOT NULL AND until <= +?1)
    OR EXISTS (SELECT 1 FROM items WHERE expires <= +?1 AND holder IS NULL) AS n`;
  return ledger.number(sql, [now]) === 1;
}
