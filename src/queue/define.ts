/** Queues come and go. */
import { DEAD_SUFFIX, type QueueDefinition } from "./definition.ts";
import { QueueError } from "./error.ts";
import type { Ledger, QueueState } from "./ledger.ts";
import type { Answers } from "./operation.ts";
import { removeBodies } from "./row.ts";

export function define(ledger: Ledger, definition: QueueDefinition): Answers["define"] {
  const known = ledger.byName.get(definition.name);
  if (known === undefined) {
    make(ledger, definition);
    return "made";
  }
  const text = JSON.stringify(definition);
  if (JSON.stringify(known.definition) === text) return "same";
  known.definition = definition;
  ledger.statement("UPDATE queues SET definition = ? WHERE id = ?").run(text, known.rowId);
  ledger.touched.add(definition.name);
  return "changed";
}

export function drop(ledger: Ledger, queue: QueueState, force: boolean): number {
  const dead = ledger.byName.get(queue.name + DEAD_SUFFIX);
  const held = queue.items + (dead?.items ?? 0);
  if (held > 0 && !force)
    throw new QueueError("queue-busy", `queue ${queue.name} holds ${held} items; --force drops them`);
  // The rows that say it otherwise go.
  ledger.statement("UPDATE clock SET newest = ?").run(ledger.newest);
  for (const each of dead === undefined ? [queue] : [queue, dead]) {
    removeBodies(ledger, "queue = ?", each.rowId);
    for (const table of ["items", "seen"]) ledger.statement(`DELETE FROM ${table} WHERE queue = ?`).run(each.rowId);
    ledger.statement("DELETE FROM queues WHERE id = ?").run(each.rowId);
    ledger.leave(each);
  }
  return held;
}

export function make(ledger: Ledger, definition: QueueDefinition): QueueState {
  const sql = "INSERT INTO queues (name, definition) VALUES (?, ?)";
  const made = ledger.statement(sql).run(definition.name, JSON.stringify(definition));
  return ledger.enter(Number(made.lastInsertRowid), definition);
}
