/** Many items at once: to another queue, or away. */
import { given, type Ledger, type QueueState } from "./ledger.ts";
import type { Operation } from "./operation.ts";
import { makeRoom } from "./room.ts";
import { removeBodies } from "./row.ts";
import { OCTETS } from "./schema.ts";

export function move(
  ledger: Ledger,
  from: QueueState,
  to: QueueState,
  { count, key }: Operation & { type: "move" },
): number {
  const filter = key === undefined ? "" : "AND key = +?4";
  const sql = `SELECT seq, ${OCTETS} AS octets FROM items
    WHERE queue = +?1 AND holder IS NULL AND due <= +?2 ${filter} ORDER BY due, seq LIMIT +?3`;
  const rows = ledger.statement(sql).all(from.rowId, ledger.present, count, ...given(key)) as {
    seq: number;
    octets: number;
  }[];
  if (from === to) return 0;
  for (const { seq, octets } of rows) {
    makeRoom(ledger, to, octets, 1, undefined);
    ledger.statement("UPDATE items SET queue = ?, tries = 0, due = ? WHERE seq = ?").run(to.rowId, ledger.present, seq);
    ledger.grow(from, -1, -octets);
    ledger.grow(to, 1, octets);
  }
  if (rows.length > 0) ledger.touched.add(from.name).add(to.name);
  return rows.length;
}

/** Leased items stay: somebody is at work on them. */
export function clear(ledger: Ledger, queue: QueueState): number {
  const gone = ledger
    .statement(
      `SELECT count(*) AS n, coalesce(sum(${OCTETS}), 0) AS octets FROM items WHERE queue = +? AND holder IS NULL`,
    )
    .get(queue.rowId) as { n: number; octets: number };
  removeBodies(ledger, "queue = ? AND holder IS NULL", queue.rowId);
  ledger.statement("DELETE FROM items WHERE queue = ? AND holder IS NULL").run(queue.rowId);
  ledger.grow(queue, -gone.n, -gone.octets);
  ledger.touched.add(queue.name);
  return gone.n;
}
