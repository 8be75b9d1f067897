/** What is in the queues, by number and by sight. */
import { PAGE_BYTES } from "./database.ts";
import { DEAD_SUFFIX } from "./definition.ts";
import { given, type Ledger, type QueueState } from "./ledger.ts";
import type { Answers, Item, Operation, QueueReport, Sizes } from "./operation.ts";
import { ITEM_COLUMNS, type ItemRow, itemOf, PEEK_MAX } from "./row.ts";
import { OCTETS } from "./schema.ts";

export function peek(ledger: Ledger, queue: QueueState, { count, key, after }: Operation & { type: "peek" }): Item[] {
  const filter = key === undefined ? "" : "AND key = +?4";
  // Who goes on behind one of them goes by number, or what was put off would be left out.
  const order = after === undefined ? "due, seq" : "seq";
  const sql = `SELECT ${ITEM_COLUMNS} FROM items WHERE queue = +?1 AND holder IS NULL AND seq > +?2 ${filter} ORDER BY ${order} LIMIT +?3`;
  const rows = ledger
    .statement(sql)
    .all(queue.rowId, after ?? 0, Math.min(count, PEEK_MAX), ...given(key)) as ItemRow[];
  return rows.map((row) => itemOf(ledger, row));
}

export function sizes(ledger: Ledger, queue: QueueState): Sizes {
  const delayed = ledger.number("SELECT count(*) AS n FROM items WHERE queue = +? AND holder IS NULL AND due > +?", [
    queue.rowId,
    ledger.storeTime(),
  ]);
  const oldest = ledger
    .statement("SELECT added FROM items WHERE queue = +? AND holder IS NULL AND due <= +? ORDER BY due, seq LIMIT 1")
    .get(queue.rowId, ledger.storeTime()) as { added: number } | null;
  return {
    ready: queue.items - queue.leased - delayed,
    delayed,
    leased: queue.leased,
    dead: ledger.byName.get(queue.name + DEAD_SUFFIX)?.items ?? 0,
    bytes: queue.bytes,
    oldestMs: oldest === null ? null : Math.max(0, Math.floor(ledger.options.now()) - oldest.added),
  };
}

/** Last defined first, as Kamailio's `mqueue.get_sizes`. */
export function report(ledger: Ledger, name: string | undefined): QueueReport[] {
  const chosen =
    name === undefined
      ? [...ledger.byName.values()]
          .filter((queue) => !queue.name.endsWith(DEAD_SUFFIX))
          .sort((a, b) => b.rowId - a.rowId)
      : [ledger.queue(name)];
  return chosen.map((queue) => ({
    name: queue.name,
    definition: queue.definition,
    counted: { ...queue.counted },
    ...sizes(ledger, queue),
  }));
}

export function nextDue(ledger: Ledger, queue: QueueState): number | null {
  const due = ledger
    .statement("SELECT due FROM items WHERE queue = +? AND holder IS NULL AND due > +? ORDER BY due LIMIT 1")
    .get(queue.rowId, ledger.storeTime()) as { due: number } | null;
  const lease =
    queue.leased === 0
      ? null
      : (ledger.statement("SELECT min(until) AS due FROM items WHERE holder IS NOT NULL").get() as {
          due: number | null;
        });
  const times = [due?.due, lease?.due].filter((time): time is number => typeof time === "number");
  return times.length === 0 ? null : Math.min(...times) - ledger.ahead;
}

export function check(ledger: Ledger): Answers["check"] {
  const problems = (ledger.db.query("PRAGMA integrity_check(20)").all() as { integrity_check: string }[])
    .map((row) => row.integrity_check)
    .filter((text) => text !== "ok");
  for (const queue of ledger.byName.values()) problems.push(...miscounted(ledger, queue));
  const strays = ledger.number(`SELECT
    (SELECT count(*) FROM bodies WHERE seq NOT IN (SELECT seq FROM items WHERE outside IS NOT NULL)) +
    (SELECT count(*) FROM items WHERE outside IS NOT NULL AND seq NOT IN (SELECT seq FROM bodies)) AS n`);
  if (strays > 0) problems.push(`${strays} large values have no item, or items no value`);
  const pages = ledger.number("SELECT page_count AS n FROM pragma_page_count()");
  return {
    ok: problems.length === 0,
    problems,
    items: ledger.number("SELECT count(*) AS n FROM items"),
    fileBytes: pages * PAGE_BYTES,
    freeBytes: ledger.space.freePages * PAGE_BYTES,
  };
}

function miscounted(ledger: Ledger, queue: QueueState): string[] {
  const found = ledger
    .statement(
      `SELECT count(*) AS items, coalesce(sum(${OCTETS}), 0) AS bytes,
       coalesce(sum(holder IS NOT NULL), 0) AS leased FROM items WHERE queue = +?`,
    )
    .get(queue.rowId) as { items: number; bytes: number; leased: number };
  return (["items", "bytes", "leased"] as const)
    .filter((name) => found[name] !== queue[name])
    .map((name) => `queue ${queue.name} counts ${queue[name]} ${name}, there are ${found[name]}`);
}
