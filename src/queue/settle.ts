/** How a lease ends: the item is done, given back, or a dead letter. */
import { RETRY_MS_MAX } from "./definition.ts";
import { type LeasedRow, leased } from "./lease.ts";
import type { Ledger, QueueState } from "./ledger.ts";
import type { Failure } from "./operation.ts";
import { bury } from "./room.ts";
import { removeRow } from "./row.ts";
import { OCTETS } from "./schema.ts";

/** How far retries are spread. */
const JITTER = 0.2;

export function ack(ledger: Ledger, ids: readonly string[]): number {
  for (const id of ids) {
    const { row, queue } = leased(ledger, id);
    removeRow(ledger, queue, row.seq, row.octets);
    ledger.change(queue, -1);
    ledger.count(queue, "acked");
  }
  return ids.length;
}

export function fail(ledger: Ledger, failure: Failure): "retried" | "dead" {
  const { row, queue } = leased(ledger, failure.id);
  const { maxTries } = queue.definition;
  const counts = failure.counts !== false;
  const tries = counts ? row.tries : row.tries - 1;
  ledger.change(queue, -1);
  if (failure.fate === "dead" || (counts && tries >= maxTries)) {
    bury(ledger, queue, row.seq, row.octets, failure);
    return "dead";
  }
  const delay = failure.fate === "now" ? 0 : (failure.delayMs ?? retryDelay(ledger, queue, row.tries));
  ledger.statement("UPDATE items SET holder = NULL, until = NULL, tries = ?, due = ? WHERE seq = ?").run(
    tries,
    // At once means back in its old place.
    delay === 0 ? row.due : ledger.present + delay,
    row.seq,
  );
  ledger.count(queue, "retried");
  ledger.touched.add(queue.name);
  return "retried";
}

function retryDelay(ledger: Ledger, queue: QueueState, tries: number): number {
  const { retryMs } = queue.definition;
  if (retryMs === 0) return 0;
  const delay = Math.min(RETRY_MS_MAX, retryMs * 2 ** Math.min(30, Math.max(0, tries - 1)));
  return Math.round(delay * (1 - JITTER + 2 * JITTER * ledger.options.random()));
}

export function release(ledger: Ledger, holders: readonly string[]): number {
  let released = 0;
  for (const holder of holders) {
    const sql = `SELECT seq, queue, tries, due, ${OCTETS} AS octets FROM items WHERE holder = ?`;
    for (const row of ledger.statement(sql).all(holder) as LeasedRow[]) {
      giveBack(ledger, row);
      released++;
    }
  }
  return released;
}

/** A lease that nobody settled: ready again, or a dead letter when it was the last try. */
export function giveBack(ledger: Ledger, row: LeasedRow): void {
  const queue = ledger.byRow.get(row.queue) as QueueState;
  ledger.change(queue, -1);
  ledger.touched.add(queue.name);
  if (row.tries >= queue.definition.maxTries) {
    bury(ledger, queue, row.seq, row.octets, { reason: "lease-lost" });
    return;
  }
  ledger.statement("UPDATE items SET holder = NULL, until = NULL WHERE seq = ?").run(row.seq);
  ledger.count(queue, "retried");
}
