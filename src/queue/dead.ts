/** Dead letters: looked at, put back, dropped. */
import { DEAD_SUFFIX } from "./definition.ts";
import { QueueError } from "./error.ts";
import { given, type Ledger, type QueueState } from "./ledger.ts";
import type { DeadItem, Operation } from "./operation.ts";
import { makeRoom } from "./room.ts";
import { ITEM_COLUMNS, type ItemRow, itemOf, PEEK_MAX, removeRow } from "./row.ts";
import { OCTETS } from "./schema.ts";

interface DeadRow extends ItemRow {
  reason: string | null;
  exit: number | null;
  stderr: string | null;
  died: number | null;
}

export function dead(ledger: Ledger, { queue, count, after, seq }: Operation & { type: "dead" }): DeadItem[] {
  const dead = ledger.byName.get(ledger.queue(queue).name + DEAD_SUFFIX);
  if (dead === undefined) return [];
  const only = seq === undefined ? "" : "AND seq = ?4";
  const sql = `SELECT ${ITEM_COLUMNS}, reason, exit, stderr, died FROM items WHERE queue = +?1 AND seq > +?2 ${only} ORDER BY seq LIMIT +?3`;
  const rows = ledger.statement(sql).all(dead.rowId, after ?? 0, Math.min(count, PEEK_MAX), ...given(seq)) as DeadRow[];
  return rows.map((row) => ({
    ...itemOf(ledger, row),
    reason: row.reason ?? "",
    exitCode: row.exit,
    stderr: row.stderr ?? "",
    diedAt: row.died ?? 0,
  }));
}

export function retryDead(ledger: Ledger, name: string, seqs: readonly number[] | "all"): number {
  const queue = ledger.queue(name);
  const chosen = chosenDead(ledger, queue, seqs);
  const dead = ledger.byName.get(queue.name + DEAD_SUFFIX) as QueueState;
  for (const { seq, octets } of chosen) {
    makeRoom(ledger, queue, octets, 1, undefined);
    ledger
      .statement(
        `UPDATE items SET queue = ?, tries = 0, due = ?, died = NULL, reason = NULL, exit = NULL, stderr = NULL
       WHERE seq = ?`,
      )
      .run(queue.rowId, ledger.present, seq);
    ledger.grow(dead, -1, -octets);
    ledger.grow(queue, 1, octets);
  }
  if (chosen.length > 0) ledger.touched.add(queue.name);
  return chosen.length;
}

export function dropDead(ledger: Ledger, name: string, seqs: readonly number[] | "all"): number {
  const queue = ledger.queue(name);
  const chosen = chosenDead(ledger, queue, seqs);
  const dead = ledger.byName.get(queue.name + DEAD_SUFFIX) as QueueState;
  for (const { seq, octets } of chosen) removeRow(ledger, dead, seq, octets);
  return chosen.length;
}

/** @throws QueueError `no-such-item` for a number that is no dead letter of this queue */
function chosenDead(
  ledger: Ledger,
  queue: QueueState,
  seqs: readonly number[] | "all",
): { seq: number; octets: number }[] {
  const dead = ledger.byName.get(queue.name + DEAD_SUFFIX)?.rowId ?? 0;
  const sql = `SELECT seq, ${OCTETS} AS octets FROM items WHERE queue = +?`;
  if (seqs === "all") return ledger.statement(`${sql} ORDER BY seq`).all(dead) as { seq: number; octets: number }[];
  return seqs.map((seq) => {
    const row = ledger.statement(`${sql} AND seq = ?`).get(dead, seq) as { seq: number; octets: number } | null;
    if (row === null) throw new QueueError("no-such-item", `no dead letter ${seq} in queue ${queue.name}`);
    return row;
  });
}
