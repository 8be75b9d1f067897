/** Room in a queue: what goes where there is none, by the queue's policy, and where it goes. */
import { make } from "./define.ts";
import { DEAD_SUFFIX, deadDefinition } from "./definition.ts";
import { QueueError } from "./error.ts";
import type { Ledger, QueueState } from "./ledger.ts";
import type { Failure } from "./operation.ts";
import { removeRow } from "./row.ts";
import { OCTETS } from "./schema.ts";

export const STDERR_CHARS_MAX = 4_096;

/** @throws QueueError `queue-full` where the policy says so, or everything that could go is leased */
export function makeRoom(
  ledger: Ledger,
  queue: QueueState,
  octets: number,
  items: number,
  spare: number | undefined,
): void {
  const { size, bytes, full, overflow } = queue.definition;
  const fits = (): boolean => (size === 0 || queue.items + items <= size) && queue.bytes + octets <= bytes;
  while (!fits()) {
    const oldest = full === "drop-oldest" ? oldestOf(ledger, queue, spare) : undefined;
    if (oldest === undefined) {
      ledger.count(queue, "rejected");
      throw new QueueError("queue-full", fullText(queue));
    }
    ledger.count(queue, "dropped");
    if (overflow === "dead") bury(ledger, queue, oldest.seq, oldest.octets, { reason: "overflow" });
    else removeRow(ledger, queue, oldest.seq, oldest.octets);
  }
}

/** Makes it, if need be. A dead letter that does not fit beside those that somebody reads is dropped. */
function hasRoom(ledger: Ledger, dead: QueueState, octets: number): boolean {
  try {
    makeRoom(ledger, dead, octets, 1, undefined);
    return true;
  } catch (error) {
    if (error instanceof QueueError) return false;
    throw error;
  }
}

function oldestOf(
  ledger: Ledger,
  queue: QueueState,
  spare: number | undefined,
): { seq: number; octets: number } | undefined {
  const sql = `SELECT seq, ${OCTETS} AS octets FROM items
    WHERE queue = +? AND holder IS NULL AND seq <> +? ORDER BY due, seq LIMIT 1`;
  return (ledger.statement(sql).get(queue.rowId, spare ?? 0) as { seq: number; octets: number } | null) ?? undefined;
}

export function bury(
  ledger: Ledger,
  queue: QueueState,
  seq: number,
  octets: number,
  why: Omit<Partial<Failure>, "id">,
): void {
  // A dead letter that nobody could read either has nowhere to go.
  if (queue.name.endsWith(DEAD_SUFFIX)) {
    removeRow(ledger, queue, seq, octets);
    return;
  }
  const dead = deadOf(ledger, queue);
  if (!hasRoom(ledger, dead, octets)) {
    ledger.count(queue, "died");
    removeRow(ledger, queue, seq, octets);
    return;
  }
  const sql = `UPDATE items SET queue = ?, holder = NULL, until = NULL, expires = NULL, due = ?, died = ?, reason = ?, exit = ?,
    stderr = ? WHERE seq = ?`;
  ledger
    .statement(sql)
    .run(
      dead.rowId,
      ledger.present,
      ledger.wall,
      why.reason ?? "failed",
      why.exitCode ?? null,
      (why.stderr ?? "").slice(-STDERR_CHARS_MAX),
      seq,
    );
  ledger.grow(queue, -1, -octets);
  ledger.grow(dead, 1, octets);
  ledger.count(queue, "died");
  ledger.touched.add(queue.name);
}

function deadOf(ledger: Ledger, queue: QueueState): QueueState {
  return ledger.byName.get(queue.name + DEAD_SUFFIX) ?? make(ledger, deadDefinition(queue.definition));
}

function fullText({ name, items, bytes, definition }: QueueState): string {
  const limit =
    definition.size > 0 && items >= definition.size ? `${definition.size} items` : `${definition.bytes} octets`;
  return `queue ${name} is full: ${items} items of ${bytes} octets, bound is ${limit} (full=${definition.full})`;
}
