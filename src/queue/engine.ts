/**
 * The store itself: one SQLite connection, synchronous, operations in groups. A group is one transaction and one flush (group
 * commit, queue.md B10); whoever calls `run` decides what is in a group and on which thread it runs.
 *
 * Several processes may have the same file open: every write begins with `BEGIN IMMEDIATE`, and what is kept in memory
 * between two groups (definitions, counters) is read again when SQLite says that somebody else has written.
 */
import type { Database, SQLQueryBindings, Statement } from "bun:sqlite";
import { EMPTY } from "../core/bytes.ts";
import { type FileOptions, isFullError, openDatabase, PAGE_BYTES, pagesMax, storageError } from "./database.ts";
import { DEAD_SUFFIX, deadDefinition, KEY_BYTES_MAX, type QueueDefinition, RETRY_MS_MAX } from "./definition.ts";
import { QueueError } from "./error.ts";
import {
  type Added,
  type Answers,
  COUNTED,
  type Counted,
  type DeadItem,
  type Failure,
  type Item,
  type NewItem,
  type Operation,
  type OperationType,
  type Outcome,
  type QueueReport,
  type Sizes,
} from "./operation.ts";
import { INDEX_KEYS, INLINE_BYTES, migrate, OCTETS } from "./schema.ts";
import { Space } from "./space.ts";

export interface EngineOptions extends FileOptions {
  /** Wall clock in milliseconds. */
  now(): number;
  /** Spreads retries: 0 to 1. */
  random(): number;
  /** Before each id, so that those of two stores differ. */
  prefix?: string;
}

const DEDUPE_MS = 3_600_000;
/** Rows that one group clears away of what time has done. */
const HOUSEKEEPING_ROWS = 1_000;
/** Rows that are looked at for one whose key nobody holds up. */
const ORDERED_ROWS = 1_000;
export const STDERR_CHARS_MAX = 4_096;
/** Of all values of one lease, beyond the first: they are in memory, and on a stream of the control socket, at the same time. */
const LEASE_BYTES_MAX = 128 * 1024;
const JITTER = 0.2;
const PEEK_MAX = 10_000;
/** How old the time in the file may be. */
const CLOCK_MS = 1_000;

interface QueueState {
  readonly rowId: number;
  readonly name: string;
  definition: QueueDefinition;
  items: number;
  bytes: number;
  leased: number;
  counted: Counted;
  /** Highest `seq` given to one of its items. */
  newest: number;
  dirty: boolean;
}

interface ItemRow {
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
  expires: number | null;
  tries: number;
  leases: number;
  holder: string | null;
  reason: string | null;
  exit: number | null;
  stderr: string | null;
  died: number | null;
}

/** What makes room, at a full disk. */
const RELIEVES: ReadonlySet<OperationType> = new Set<OperationType>([
  ...(["lease", "ack", "release", "extend", "drop", "clear", "drop-dead"] as const),
]);

/** Losing these with a power cut loses no item: what was leased is ready again, which a crash does anyway. */
const NEED_NO_FLUSH: ReadonlySet<OperationType> = new Set<OperationType>(["lease", "extend", "release"]);

const WRITES: ReadonlySet<OperationType> = new Set<OperationType>([
  ...(["define", "drop", "add", "lease", "ack", "fail", "extend", "release"] as const),
  ...(["move", "clear", "retry-dead", "drop-dead"] as const),
]);

export class Engine {
  /** Queues in which items became ready, or room was made, since they were taken. */
  private readonly touched = new Set<string>();
  private readonly db: Database;
  private readonly options: EngineOptions;
  readonly space: Space;
  private readonly statements = new Map<string, Statement>();
  private readonly byName = new Map<string, QueueState>();
  private readonly byRow = new Map<number, QueueState>();
  private dataVersion = -1;
  private isFull = true;
  /** Wall time of this group. */
  private wall = 0;
  /**
   * Time of the store in this group: the wall's, and `ahead`. It never falls, and it goes on at the wall's pace after the clock
   * was set back: order, leases and delays stay as they were meant. All processes have it from the file.
   */
  private present = 0;
  private ahead = 0;
  private presentWritten = 0;
  /** Before that time there is nothing to clear away, unless somebody else has written. */
  private tendAt = 0;
  /** Highest `seq` given so far. */
  private newest = 0;
  /** Or there was no space for it. */
  private hasKeyIndex = false;

  /** @throws QueueError `storage` if the file cannot be opened, is damaged or of a later version */
  constructor(options: EngineOptions) {
    this.options = options;
    this.db = openDatabase(options);
    this.space = new Space(this.db, options.path, pagesMax(options));
    try {
      migrate(this.db);
      this.run([{ type: "report" }]).forEach(throwStorage);
    } catch (cause) {
      this.db.close();
      throw storageError(options.path, cause);
    }
  }

  close(): void {
    // With one of them open, SQLite keeps the file, and its log, until they are collected.
    for (const statement of this.statements.values()) statement.finalize();
    this.db.close();
  }

  /**
   * Runs a group. Everything that it answers with `ok` is committed when this returns.
   *
   * @returns an outcome for each operation, in order. Where the file itself refuses (full, damaged), each operation is tried alone,
   *          so that one that is too large does not take the others with it
   */
  run(operations: readonly Operation[], isRetry = false): Outcome[] {
    try {
      return this.group(operations);
    } catch (cause) {
      // Who waited for a lock in vain would wait as long for each one.
      const isBusy = (cause as { code?: string }).code?.startsWith("SQLITE_BUSY") === true;
      if (operations.length > 1 && !isBusy) return operations.flatMap((operation) => this.run([operation]));
      if (isFullError(cause) && operations.every(({ type }) => RELIEVES.has(type)) && this.space.relieve())
        return this.run(operations);
      if (isFullError(cause) && !isRetry && this.space.makeSpace()) return this.run(operations, true);
      const error = storageError(this.options.path, cause);
      return operations.map(() => ({ ok: false, code: error.code, message: error.message }));
    }
  }

  takeTouched(): string[] {
    const touched = [...this.touched];
    this.touched.clear();
    return touched;
  }

  /** Notes who has the store, for the message that another daemon gives. */
  own(owner: string): void {
    this.db.run("UPDATE clock SET owner = ?", [owner]);
  }

  /** Looks through the file, but not through all of its indexes. @returns what is wrong, `undefined` for nothing */
  damage(): string | undefined {
    const found = this.db.query("PRAGMA quick_check(1)").get() as { quick_check: string } | null;
    return found === null || found.quick_check === "ok" ? undefined : found.quick_check;
  }

  /** Is something due that no operation may come for: a lease that ran out, an item that expired? */
  isDue(): boolean {
    const now = this.storeTime();
    const sql = `SELECT EXISTS (SELECT 1 FROM items WHERE holder IS NOT NULL AND until <= +?1)
      OR EXISTS (SELECT 1 FROM items WHERE expires <= +?1 AND holder IS NULL) AS n`;
    return this.number(sql, [now]) === 1;
  }

  /** Is there a queue of this name? As of the last group. */
  has(queue: string): boolean {
    return this.byName.has(queue);
  }

  /** Are all of these leases good? As of now, and nobody else writes: for stores in memory. */
  holds(ids: readonly string[]): boolean {
    return ids.every((id) => this.leasedRow(id) !== null);
  }

  /** Does a foreign commit await to be looked at? About a microsecond. */
  isStale(): boolean {
    return this.readDataVersion() !== this.dataVersion;
  }

  private group(operations: readonly Operation[]): Outcome[] {
    const writes = operations.some(({ type }) => WRITES.has(type));
    if (writes) this.setSync(operations);
    if (!this.hasKeyIndex && operations.some((operation) => this.asksForKey(operation))) this.indexKeys();
    if (this.space.isRelieved && writes && operations.every(({ type }) => !RELIEVES.has(type))) this.space.stopRelief();
    this.statement(writes ? "BEGIN IMMEDIATE" : "BEGIN").run();
    try {
      this.refresh();
      this.tick(writes);
      if (writes) this.housekeep();
      const outcomes = operations.map((operation) => this.guarded(operation));
      if (writes) this.writeStates();
      this.statement("COMMIT").run();
      if (writes && this.space.isRelieved) this.space.emptyLog();
      return outcomes;
    } catch (cause) {
      this.abandon();
      throw cause;
    }
  }

  private asksForKey(operation: Operation): boolean {
    switch (operation.type) {
      case "add":
        return (this.byName.get(operation.queue)?.definition.addmode ?? "all") !== "all";
      case "lease":
        return operation.key !== undefined || operation.orderByKey === true;
      case "move":
        return operation.key !== undefined;
      default:
        return false;
    }
  }

  /** In a transaction of its own: what asks for keys goes on without it, only slower, where there is no space. */
  private indexKeys(): void {
    try {
      this.db.run(INDEX_KEYS);
    } catch (cause) {
      if (!isFullError(cause)) throw cause;
    }
    this.hasKeyIndex = true;
  }

  private tick(writes: boolean): void {
    this.wall = Math.floor(this.options.now());
    const behind = this.present - (this.wall + this.ahead);
    if (behind > 0) this.ahead += behind;
    this.present = this.wall + this.ahead;
    if (!writes || (behind <= 0 && this.present - this.presentWritten < CLOCK_MS)) return;
    this.statement("UPDATE clock SET last = ?, ahead = ?").run(this.present, this.ahead);
    this.presentWritten = this.present;
  }

  /** Of now, between groups. */
  private storeTime(): number {
    return Math.max(this.present, Math.floor(this.options.now()) + this.ahead);
  }

  private abandon(): void {
    if (this.db.inTransaction) this.db.run("ROLLBACK");
    // What the memory says of the counters did not happen.
    this.dataVersion = -1;
  }

  /** All or nothing: what is made of several parts is undone as a whole. */
  private guarded(operation: Operation): Outcome {
    if (!this.isDivisible(operation)) return this.attempt(operation);
    this.writeStates();
    this.statement("SAVEPOINT operation").run();
    const outcome = this.attempt(operation);
    if (!outcome.ok) {
      this.statement("ROLLBACK TO operation").run();
      this.readStates();
      if (outcome.code === "queue-full") this.countRejected(operation);
    }
    this.statement("RELEASE operation").run();
    return outcome;
  }

  private countRejected(operation: Operation): void {
    const queue = operation.type === "add" ? this.byName.get(operation.queue) : undefined;
    if (queue !== undefined) this.count(queue, "rejected");
  }

  private isDivisible(operation: Operation): boolean {
    switch (operation.type) {
      case "add": {
        if (operation.items.length > 1) return true;
        // Several may have to go, and then what is leased may still be in the way.
        const queue = this.byName.get(operation.queue);
        return queue !== undefined && queue.leased > 0 && queue.definition.full === "drop-oldest";
      }
      case "ack":
      case "extend":
        return operation.ids.length > 1;
      case "fail":
        return operation.failures.length > 1;
      default:
        return operation.type === "move" || operation.type === "retry-dead" || operation.type === "drop-dead";
    }
  }

  private attempt(operation: Operation): Outcome {
    try {
      return { ok: true, answer: this.perform(operation) };
    } catch (error) {
      if (!(error instanceof QueueError) || error.code === "storage") throw error;
      return { ok: false, code: error.code, message: error.message };
    }
  }

  private perform(operation: Operation): Answers[OperationType] {
    switch (operation.type) {
      case "define":
        return this.define(operation.definition);
      case "drop":
        return this.drop(this.queue(operation.queue), operation.force);
      case "add":
        return this.add(this.queue(operation.queue), operation.items);
      case "lease":
        return this.lease(this.queue(operation.queue), operation);
      case "ack":
        return this.ack(operation.ids);
      case "fail":
        return operation.failures.map((failure) => this.fail(failure));
      case "extend":
        return this.extend(operation.ids, operation.leaseMs);
      case "release":
        return this.release(operation.holders);
      case "holders":
        return this.holders();
      case "peek":
        return this.peek(this.queue(operation.queue), operation);
      case "sizes":
        return this.sizes(this.queue(operation.queue));
      case "report":
        return this.report(operation.queue);
      case "next-due":
        return this.nextDue(this.queue(operation.queue));
      case "move":
        return this.move(this.queue(operation.from), this.queue(operation.to), operation);
      case "clear":
        return this.clear(this.queue(operation.queue));
      case "dead":
        return this.dead(operation);
      case "retry-dead":
        return this.retryDead(operation.queue, operation.seqs);
      case "drop-dead":
        return this.dropDead(operation.queue, operation.seqs);
      case "check":
        return this.check();
    }
  }

  // --- queues ------------------------------------------------------------------------------------------------------

  private define(definition: QueueDefinition): Answers["define"] {
    const known = this.byName.get(definition.name);
    if (known === undefined) {
      this.make(definition);
      return "made";
    }
    const text = JSON.stringify(definition);
    if (JSON.stringify(known.definition) === text) return "same";
    known.definition = definition;
    this.statement("UPDATE queues SET definition = ? WHERE id = ?").run(text, known.rowId);
    this.touched.add(definition.name);
    return "changed";
  }

  private make(definition: QueueDefinition): QueueState {
    const made = this.statement("INSERT INTO queues (name, definition) VALUES (?, ?)").run(
      definition.name,
      JSON.stringify(definition),
    );
    const rowId = Number(made.lastInsertRowid);
    const counted = Object.fromEntries(COUNTED.map((name) => [name, 0])) as Counted;
    const zero = { items: 0, bytes: 0, leased: 0, newest: 0 };
    const state = { rowId, name: definition.name, definition, ...zero, counted, dirty: false };
    this.byName.set(state.name, state);
    this.byRow.set(rowId, state);
    return state;
  }

  private drop(queue: QueueState, force: boolean): number {
    const dead = this.byName.get(queue.name + DEAD_SUFFIX);
    const held = queue.items + (dead?.items ?? 0);
    if (held > 0 && !force)
      throw new QueueError("queue-busy", `queue ${queue.name} holds ${held} items; --force drops them`);
    // The rows that say it otherwise go.
    this.statement("UPDATE clock SET newest = ?").run(this.newest);
    for (const each of dead === undefined ? [queue] : [queue, dead]) {
      this.removeBodies("queue = ?", each.rowId);
      for (const table of ["items", "seen"]) this.statement(`DELETE FROM ${table} WHERE queue = ?`).run(each.rowId);
      this.statement("DELETE FROM queues WHERE id = ?").run(each.rowId);
      this.byName.delete(each.name);
      this.byRow.delete(each.rowId);
    }
    return held;
  }

  /** @throws QueueError `no-such-queue` */
  private queue(name: string): QueueState {
    const found = this.byName.get(name);
    if (found !== undefined) return found;
    const near = [...this.byName.keys()].filter((one) => !one.endsWith(DEAD_SUFFIX)).slice(0, 8);
    const hint = near.length === 0 ? "there is none yet: dmq queue define NAME" : `there are ${near.join(", ")}`;
    throw new QueueError("no-such-queue", `no queue ${name}; ${hint}`);
  }

  private deadOf(queue: QueueState): QueueState {
    return this.byName.get(queue.name + DEAD_SUFFIX) ?? this.make(deadDefinition(queue.definition));
  }

  // --- adding ------------------------------------------------------------------------------------------------------

  private add(queue: QueueState, items: readonly NewItem[]): Added[] {
    for (const item of items) checkItem(queue, item);
    return items.map((item) => this.addOne(queue, item));
  }

  private addOne(queue: QueueState, item: NewItem): Added {
    const seen = item.dedupe === undefined ? undefined : this.seen(queue, item.dedupe);
    if (seen !== undefined) return { seq: seen, stored: "repeated" };
    const { addmode } = queue.definition;
    const rival = addmode === "all" ? undefined : this.rival(queue, item.key);
    if (rival !== undefined && addmode === "oldest") {
      this.count(queue, "ignored");
      return this.remember(queue, item, { seq: rival.seq, stored: "ignored" });
    }
    this.makeRoom(queue, item.value.length - (rival?.octets ?? 0), rival === undefined ? 1 : 0, rival?.seq);
    if (rival !== undefined && addmode === "in-place") {
      this.replace(queue, rival, item);
      return this.remember(queue, item, { seq: rival.seq, stored: "replaced" });
    }
    if (rival !== undefined) this.removeRow(queue, rival.seq, rival.octets);
    const seq = this.insert(queue, item);
    return this.remember(queue, item, { seq, stored: rival === undefined ? "stored" : "replaced" });
  }

  private seen(queue: QueueState, dedupe: string): number | undefined {
    const row = this.statement("SELECT seq FROM seen WHERE queue = +? AND dedupe = +? AND until > +?").get(
      queue.rowId,
      dedupe,
      this.present,
    );
    return (row as { seq: number } | null)?.seq;
  }

  private remember(queue: QueueState, { dedupe, dedupeMs }: NewItem, added: Added): Added {
    if (dedupe === undefined) return added;
    const until = this.present + (dedupeMs ?? DEDUPE_MS);
    this.statement("INSERT OR REPLACE INTO seen (queue, dedupe, seq, until) VALUES (?, ?, ?, ?)").run(
      queue.rowId,
      dedupe,
      added.seq,
      until,
    );
    this.tendAt = Math.min(this.tendAt, until);
    return added;
  }

  /** The item with this key that is still queued; one that is leased does not count, as in Kamailio a fetched one does not. */
  private rival(queue: QueueState, key: string): { seq: number; octets: number } | undefined {
    const sql = `SELECT seq, ${OCTETS} AS octets FROM items WHERE queue = +? AND key = +? AND holder IS NULL ORDER BY seq LIMIT 1`;
    return (this.statement(sql).get(queue.rowId, key) as { seq: number; octets: number } | null) ?? undefined;
  }

  /** @throws QueueError `queue-full` where the policy says so, or everything that could go is leased */
  private makeRoom(queue: QueueState, octets: number, items: number, spare: number | undefined): void {
    const { size, bytes, full, overflow } = queue.definition;
    const fits = (): boolean => (size === 0 || queue.items + items <= size) && queue.bytes + octets <= bytes;
    while (!fits()) {
      const oldest = full === "drop-oldest" ? this.oldest(queue, spare) : undefined;
      if (oldest === undefined) {
        this.count(queue, "rejected");
        throw new QueueError("queue-full", fullText(queue));
      }
      this.count(queue, "dropped");
      if (overflow === "dead") this.bury(queue, oldest.seq, oldest.octets, { reason: "overflow" });
      else this.removeRow(queue, oldest.seq, oldest.octets);
    }
  }

  /** Makes it, if need be. A dead letter that does not fit beside those that somebody reads is dropped. */
  private hasRoom(dead: QueueState, octets: number): boolean {
    try {
      this.makeRoom(dead, octets, 1, undefined);
      return true;
    } catch (error) {
      if (error instanceof QueueError) return false;
      throw error;
    }
  }

  private oldest(queue: QueueState, spare: number | undefined): { seq: number; octets: number } | undefined {
    const sql = `SELECT seq, ${OCTETS} AS octets FROM items
      WHERE queue = +? AND holder IS NULL AND seq <> +? ORDER BY due, seq LIMIT 1`;
    return (this.statement(sql).get(queue.rowId, spare ?? 0) as { seq: number; octets: number } | null) ?? undefined;
  }

  private insert(queue: QueueState, item: NewItem): number {
    const ttlMs = item.ttlMs ?? queue.definition.ttlMs;
    const due = this.present + (item.delayMs ?? 0);
    const seq = ++this.newest;
    queue.newest = seq;
    this.statement(
      `INSERT INTO items (seq, queue, key, value, type, headers, path, origin, channel, added, due, expires, outside)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ).run(
      seq,
      queue.rowId,
      item.key,
      inline(item.value),
      item.contentType ?? "text/plain",
      item.headers === undefined ? null : JSON.stringify(item.headers),
      item.path === undefined || item.path.length === 0 ? null : JSON.stringify(item.path),
      item.from ?? null,
      item.channel ?? null,
      this.wall,
      due,
      ttlMs === 0 ? null : due + ttlMs,
      outside(item.value),
    );
    this.keepOutside(seq, item.value);
    if (ttlMs !== 0) this.tendAt = Math.min(this.tendAt, due + ttlMs);
    this.grow(queue, 1, item.value.length);
    this.count(queue, "added");
    this.touched.add(queue.name);
    return seq;
  }

  private keepOutside(seq: number, value: Uint8Array): void {
    if (value.length > INLINE_BYTES)
      this.statement("INSERT OR REPLACE INTO bodies (seq, value) VALUES (?, ?)").run(seq, value);
  }

  /** The newest value in the place of the old one. */
  private replace(queue: QueueState, rival: { seq: number; octets: number }, item: NewItem): void {
    this.statement(
      `UPDATE items SET value = ?, outside = ?, type = ?, headers = ?, path = ?, origin = ?, channel = ?, tries = 0
       WHERE seq = ?`,
    ).run(
      inline(item.value),
      outside(item.value),
      item.contentType ?? "text/plain",
      item.headers === undefined ? null : JSON.stringify(item.headers),
      item.path === undefined || item.path.length === 0 ? null : JSON.stringify(item.path),
      item.from ?? null,
      item.channel ?? null,
      rival.seq,
    );
    if (rival.octets > INLINE_BYTES) this.statement("DELETE FROM bodies WHERE seq = ?").run(rival.seq);
    this.keepOutside(rival.seq, item.value);
    this.grow(queue, 0, item.value.length - rival.octets);
    this.count(queue, "added");
  }

  // --- taking ------------------------------------------------------------------------------------------------------

  // A variable alone, with ORDER BY or LIMIT, makes SQLite look at its value when it plans, and plan anew each time another one is bound:
  // 28 µs instead of 3 (Bun 1.4.5). Behind a plus it is no variable alone.
  private lease(queue: QueueState, { count, leaseMs, holder, orderByKey, key }: Operation & { type: "lease" }): Item[] {
    const filter = key === undefined ? "" : "AND key = +?4";
    const ready = "queue = +?1 AND holder IS NULL AND due <= +?2 AND (expires IS NULL OR expires > +?2)";
    const pick =
      orderByKey === true
        ? `SELECT * FROM items AS one WHERE seq IN (SELECT seq FROM items WHERE ${ready} ${filter}
             ORDER BY due, seq LIMIT ${ORDERED_ROWS})
           AND NOT EXISTS (SELECT 1 FROM items AS other
             WHERE other.queue = +?1 AND other.key = one.key AND other.seq < one.seq) ORDER BY due, seq LIMIT +?3`
        : `SELECT * FROM items WHERE ${ready} ${filter} ORDER BY due, seq LIMIT +?3`;
    // One after the other is twice as fast as one UPDATE over the choice that gives the rows back (measured, Bun 1.4.5).
    const found = this.statement(pick).all(queue.rowId, this.present, count, ...given(key)) as ItemRow[];
    let octets = 0;
    const rows = found.filter((row, index) => {
      octets += row.outside ?? row.value.length;
      return index === 0 || octets <= LEASE_BYTES_MAX;
    });
    const mark = this.statement("UPDATE items SET holder = ?, until = ?, tries = ?, leases = ? WHERE seq = ?");
    const until = this.present + leaseMs;
    for (const row of rows) {
      row.holder = holder;
      row.tries++;
      row.leases++;
      mark.run(holder, until, row.tries, row.leases, row.seq);
    }
    if (rows.length > 0) this.tendAt = Math.min(this.tendAt, until);
    this.change(queue, rows.length);
    this.count(queue, "delivered", rows.length);
    return rows.map((row) => this.itemOf(row));
  }

  private ack(ids: readonly string[]): number {
    for (const id of ids) {
      const { row, queue } = this.leased(id);
      this.removeRow(queue, row.seq, row.octets);
      this.change(queue, -1);
      this.count(queue, "acked");
    }
    return ids.length;
  }

  private fail(failure: Failure): "retried" | "dead" {
    const { row, queue } = this.leased(failure.id);
    const { maxTries } = queue.definition;
    const counts = failure.counts !== false;
    const tries = counts ? row.tries : row.tries - 1;
    this.change(queue, -1);
    if (failure.fate === "dead" || (counts && tries >= maxTries)) {
      this.bury(queue, row.seq, row.octets, failure);
      return "dead";
    }
    const delay = failure.fate === "now" ? 0 : (failure.delayMs ?? this.retryDelay(queue, row.tries));
    this.statement("UPDATE items SET holder = NULL, until = NULL, tries = ?, due = ? WHERE seq = ?").run(
      tries,
      // At once means back in its old place.
      delay === 0 ? row.due : this.present + delay,
      row.seq,
    );
    this.count(queue, "retried");
    this.touched.add(queue.name);
    return "retried";
  }

  private retryDelay(queue: QueueState, tries: number): number {
    const { retryMs } = queue.definition;
    if (retryMs === 0) return 0;
    const delay = Math.min(RETRY_MS_MAX, retryMs * 2 ** Math.min(30, Math.max(0, tries - 1)));
    return Math.round(delay * (1 - JITTER + 2 * JITTER * this.options.random()));
  }

  private extend(ids: readonly string[], leaseMs: number): number {
    for (const id of ids) {
      const { row } = this.leased(id);
      this.statement("UPDATE items SET until = ? WHERE seq = ?").run(this.present + leaseMs, row.seq);
      this.tendAt = Math.min(this.tendAt, this.present + leaseMs);
    }
    return ids.length;
  }

  private release(holders: readonly string[]): number {
    let released = 0;
    for (const holder of holders) {
      const sql = `SELECT seq, queue, tries, due, ${OCTETS} AS octets FROM items WHERE holder = ?`;
      for (const row of this.statement(sql).all(holder) as LeasedRow[]) {
        this.giveBack(row);
        released++;
      }
    }
    return released;
  }

  private holders(): string[] {
    const rows = this.statement("SELECT DISTINCT holder FROM items WHERE holder IS NOT NULL").all();
    return (rows as { holder: string }[]).map(({ holder }) => holder);
  }

  /** A lease that nobody settled: ready again, or a dead letter when it was the last try. */
  private giveBack(row: LeasedRow): void {
    const queue = this.byRow.get(row.queue) as QueueState;
    this.change(queue, -1);
    this.touched.add(queue.name);
    if (row.tries >= queue.definition.maxTries) {
      this.bury(queue, row.seq, row.octets, { reason: "lease-lost" });
      return;
    }
    this.statement("UPDATE items SET holder = NULL, until = NULL WHERE seq = ?").run(row.seq);
    this.count(queue, "retried");
  }

  /** @throws QueueError `no-such-item` for an id whose lease is over */
  private leased(id: string): { row: LeasedRow; queue: QueueState } {
    const row = this.leasedRow(id);
    if (row !== null) return { row, queue: this.byRow.get(row.queue) as QueueState };
    throw new QueueError(
      "no-such-item",
      `no item is leased as ${JSON.stringify(id)}: it was settled, or its lease ran out`,
    );
  }

  private leasedRow(id: string): LeasedRow | null {
    const prefix = this.options.prefix ?? "";
    const match = id.startsWith(prefix) ? /^(\d{1,15})-(\d{1,9})$/.exec(id.slice(prefix.length)) : null;
    if (match === null) return null;
    const sql = `SELECT seq, queue, tries, due, ${OCTETS} AS octets FROM items WHERE seq = ? AND leases = ? AND holder IS NOT NULL`;
    return this.statement(sql).get(Number(match[1]), Number(match[2])) as LeasedRow | null;
  }

  // --- dead letters ------------------------------------------------------------------------------------------------

  private bury(queue: QueueState, seq: number, octets: number, why: Omit<Partial<Failure>, "id">): void {
    // A dead letter that nobody could read either has nowhere to go.
    if (queue.name.endsWith(DEAD_SUFFIX)) {
      this.removeRow(queue, seq, octets);
      return;
    }
    const dead = this.deadOf(queue);
    if (!this.hasRoom(dead, octets)) {
      this.count(queue, "died");
      this.removeRow(queue, seq, octets);
      return;
    }
    this.statement(
      `UPDATE items SET queue = ?, holder = NULL, until = NULL, expires = NULL, due = ?, died = ?, reason = ?, exit = ?,
         stderr = ? WHERE seq = ?`,
    ).run(
      dead.rowId,
      this.present,
      this.wall,
      why.reason ?? "failed",
      why.exitCode ?? null,
      (why.stderr ?? "").slice(-STDERR_CHARS_MAX),
      seq,
    );
    this.grow(queue, -1, -octets);
    this.grow(dead, 1, octets);
    this.count(queue, "died");
    this.touched.add(queue.name);
  }

  private dead({ queue, count, after, seq }: Operation & { type: "dead" }): DeadItem[] {
    const dead = this.byName.get(this.queue(queue).name + DEAD_SUFFIX);
    if (dead === undefined) return [];
    const only = seq === undefined ? "" : "AND seq = ?4";
    const sql = `SELECT * FROM items WHERE queue = +?1 AND seq > +?2 ${only} ORDER BY seq LIMIT +?3`;
    const rows = this.statement(sql).all(dead.rowId, after ?? 0, Math.min(count, PEEK_MAX), ...given(seq)) as ItemRow[];
    return rows.map((row) => ({
      ...this.itemOf(row),
      reason: row.reason ?? "",
      exitCode: row.exit,
      stderr: row.stderr ?? "",
      diedAt: row.died ?? 0,
    }));
  }

  private retryDead(name: string, seqs: readonly number[] | "all"): number {
    const queue = this.queue(name);
    const chosen = this.chosenDead(queue, seqs);
    const dead = this.byName.get(queue.name + DEAD_SUFFIX) as QueueState;
    for (const { seq, octets } of chosen) {
      this.makeRoom(queue, octets, 1, undefined);
      this.statement(
        `UPDATE items SET queue = ?, tries = 0, due = ?, died = NULL, reason = NULL, exit = NULL, stderr = NULL
         WHERE seq = ?`,
      ).run(queue.rowId, this.present, seq);
      this.grow(dead, -1, -octets);
      this.grow(queue, 1, octets);
    }
    if (chosen.length > 0) this.touched.add(queue.name);
    return chosen.length;
  }

  private dropDead(name: string, seqs: readonly number[] | "all"): number {
    const queue = this.queue(name);
    const chosen = this.chosenDead(queue, seqs);
    const dead = this.byName.get(queue.name + DEAD_SUFFIX) as QueueState;
    for (const { seq, octets } of chosen) this.removeRow(dead, seq, octets);
    return chosen.length;
  }

  /** @throws QueueError `no-such-item` for a number that is no dead letter of this queue */
  private chosenDead(queue: QueueState, seqs: readonly number[] | "all"): { seq: number; octets: number }[] {
    const dead = this.byName.get(queue.name + DEAD_SUFFIX)?.rowId ?? 0;
    const sql = `SELECT seq, ${OCTETS} AS octets FROM items WHERE queue = +?`;
    if (seqs === "all") return this.statement(`${sql} ORDER BY seq`).all(dead) as { seq: number; octets: number }[];
    return seqs.map((seq) => {
      const row = this.statement(`${sql} AND seq = ?`).get(dead, seq) as { seq: number; octets: number } | null;
      if (row === null) throw new QueueError("no-such-item", `no dead letter ${seq} in queue ${queue.name}`);
      return row;
    });
  }

  // --- looking -----------------------------------------------------------------------------------------------------

  private peek(queue: QueueState, { count, key, after }: Operation & { type: "peek" }): Item[] {
    const filter = key === undefined ? "" : "AND key = +?4";
    // Who goes on behind one of them goes by number, or what was put off would be left out.
    const order = after === undefined ? "due, seq" : "seq";
    const sql = `SELECT * FROM items WHERE queue = +?1 AND holder IS NULL AND seq > +?2 ${filter} ORDER BY ${order} LIMIT +?3`;
    const rows = this.statement(sql).all(
      queue.rowId,
      after ?? 0,
      Math.min(count, PEEK_MAX),
      ...given(key),
    ) as ItemRow[];
    return rows.map((row) => this.itemOf(row));
  }

  private sizes(queue: QueueState): Sizes {
    const delayed = this.number("SELECT count(*) AS n FROM items WHERE queue = +? AND holder IS NULL AND due > +?", [
      queue.rowId,
      this.storeTime(),
    ]);
    const oldest = this.statement(
      "SELECT added FROM items WHERE queue = +? AND holder IS NULL AND due <= +? ORDER BY due, seq LIMIT 1",
    ).get(queue.rowId, this.storeTime()) as { added: number } | null;
    return {
      ready: queue.items - queue.leased - delayed,
      delayed,
      leased: queue.leased,
      dead: this.byName.get(queue.name + DEAD_SUFFIX)?.items ?? 0,
      bytes: queue.bytes,
      oldestMs: oldest === null ? null : Math.max(0, Math.floor(this.options.now()) - oldest.added),
    };
  }

  /** Last defined first, as Kamailio's `mqueue.get_sizes`. */
  private report(name: string | undefined): QueueReport[] {
    const chosen =
      name === undefined
        ? [...this.byName.values()]
            .filter((queue) => !queue.name.endsWith(DEAD_SUFFIX))
            .sort((a, b) => b.rowId - a.rowId)
        : [this.queue(name)];
    return chosen.map((queue) => ({
      name: queue.name,
      definition: queue.definition,
      counted: { ...queue.counted },
      ...this.sizes(queue),
    }));
  }

  private nextDue(queue: QueueState): number | null {
    const due = this.statement(
      "SELECT due FROM items WHERE queue = +? AND holder IS NULL AND due > +? ORDER BY due LIMIT 1",
    ).get(queue.rowId, this.storeTime()) as { due: number } | null;
    const lease =
      queue.leased === 0
        ? null
        : (this.statement("SELECT min(until) AS due FROM items WHERE holder IS NOT NULL").get() as {
            due: number | null;
          });
    const times = [due?.due, lease?.due].filter((time): time is number => typeof time === "number");
    return times.length === 0 ? null : Math.min(...times) - this.ahead;
  }

  private check(): Answers["check"] {
    const problems = (this.db.query("PRAGMA integrity_check(20)").all() as { integrity_check: string }[])
      .map((row) => row.integrity_check)
      .filter((text) => text !== "ok");
    for (const queue of this.byName.values()) problems.push(...this.miscounted(queue));
    const strays = this.number(`SELECT
      (SELECT count(*) FROM bodies WHERE seq NOT IN (SELECT seq FROM items WHERE outside IS NOT NULL)) +
      (SELECT count(*) FROM items WHERE outside IS NOT NULL AND seq NOT IN (SELECT seq FROM bodies)) AS n`);
    if (strays > 0) problems.push(`${strays} large values have no item, or items no value`);
    const pages = this.number("SELECT page_count AS n FROM pragma_page_count()");
    return {
      ok: problems.length === 0,
      problems,
      items: this.number("SELECT count(*) AS n FROM items"),
      fileBytes: pages * PAGE_BYTES,
      freeBytes: this.space.freePages * PAGE_BYTES,
    };
  }

  private miscounted(queue: QueueState): string[] {
    const found = this.statement(
      `SELECT count(*) AS items, coalesce(sum(${OCTETS}), 0) AS bytes,
         coalesce(sum(holder IS NOT NULL), 0) AS leased FROM items WHERE queue = +?`,
    ).get(queue.rowId) as { items: number; bytes: number; leased: number };
    return (["items", "bytes", "leased"] as const)
      .filter((name) => found[name] !== queue[name])
      .map((name) => `queue ${queue.name} counts ${queue[name]} ${name}, there are ${found[name]}`);
  }

  // --- moving ------------------------------------------------------------------------------------------------------

  private move(from: QueueState, to: QueueState, { count, key }: Operation & { type: "move" }): number {
    const filter = key === undefined ? "" : "AND key = +?4";
    const sql = `SELECT seq, ${OCTETS} AS octets FROM items
      WHERE queue = +?1 AND holder IS NULL AND due <= +?2 ${filter} ORDER BY due, seq LIMIT +?3`;
    const rows = this.statement(sql).all(from.rowId, this.present, count, ...given(key)) as {
      seq: number;
      octets: number;
    }[];
    if (from === to) return 0;
    for (const { seq, octets } of rows) {
      this.makeRoom(to, octets, 1, undefined);
      this.statement("UPDATE items SET queue = ?, tries = 0, due = ? WHERE seq = ?").run(to.rowId, this.present, seq);
      this.grow(from, -1, -octets);
      this.grow(to, 1, octets);
    }
    if (rows.length > 0) this.touched.add(from.name).add(to.name);
    return rows.length;
  }

  /** Leased items stay: somebody is at work on them. */
  private clear(queue: QueueState): number {
    const gone = this.statement(
      `SELECT count(*) AS n, coalesce(sum(${OCTETS}), 0) AS octets FROM items WHERE queue = +? AND holder IS NULL`,
    ).get(queue.rowId) as { n: number; octets: number };
    this.removeBodies("queue = ? AND holder IS NULL", queue.rowId);
    this.statement("DELETE FROM items WHERE queue = ? AND holder IS NULL").run(queue.rowId);
    this.grow(queue, -gone.n, -gone.octets);
    this.touched.add(queue.name);
    return gone.n;
  }

  // --- time --------------------------------------------------------------------------------------------------------

  /** What time has done since the last group: leases that ran out, items that expired, memories that are too old. */
  private housekeep(): void {
    if (this.present < this.tendAt) return;
    const lost = this.statement(
      `SELECT seq, queue, tries, due, ${OCTETS} AS octets FROM items WHERE holder IS NOT NULL AND until <= +? LIMIT +?`,
    ).all(this.storeTime(), HOUSEKEEPING_ROWS) as LeasedRow[];
    for (const row of lost) this.giveBack(row);
    const expired = this.statement(
      `SELECT seq, queue, ${OCTETS} AS octets FROM items WHERE expires <= +? AND holder IS NULL LIMIT +?`,
    ).all(this.storeTime(), HOUSEKEEPING_ROWS) as { seq: number; queue: number; octets: number }[];
    for (const row of expired) this.expire(row);
    this.statement("DELETE FROM seen WHERE until <= ?").run(this.storeTime());
    const sql = `SELECT min(coalesce((SELECT min(until) FROM items WHERE holder IS NOT NULL), ?1),
      coalesce((SELECT min(expires) FROM items WHERE expires IS NOT NULL), ?1),
      coalesce((SELECT min(until) FROM seen), ?1)) AS n`;
    this.tendAt = Math.max(this.present + 1, this.number(sql, [Number.MAX_SAFE_INTEGER]));
    if (lost.length === HOUSEKEEPING_ROWS || expired.length === HOUSEKEEPING_ROWS) this.tendAt = this.present;
  }

  private expire({ seq, queue: rowId, octets }: { seq: number; queue: number; octets: number }): void {
    const queue = this.byRow.get(rowId) as QueueState;
    this.count(queue, "expired");
    if (queue.definition.expired === "dead") this.bury(queue, seq, octets, { reason: "expired" });
    else this.removeRow(queue, seq, octets);
  }

  // --- rows and counters -------------------------------------------------------------------------------------------

  private removeRow(queue: QueueState, seq: number, octets: number): void {
    this.statement("DELETE FROM items WHERE seq = ?").run(seq);
    if (octets > INLINE_BYTES) this.statement("DELETE FROM bodies WHERE seq = ?").run(seq);
    this.grow(queue, -1, -octets);
    this.touched.add(queue.name);
  }

  private removeBodies(which: string, rowId: number): void {
    this.statement(
      `DELETE FROM bodies WHERE seq IN (SELECT seq FROM items WHERE outside IS NOT NULL AND ${which})`,
    ).run(rowId);
  }

  private grow(queue: QueueState, items: number, octets: number): void {
    queue.items += items;
    queue.bytes += octets;
    queue.dirty = true;
  }

  private change(queue: QueueState, leased: number): void {
    queue.leased += leased;
    queue.dirty = true;
  }

  private count(queue: QueueState, what: keyof Counted, by = 1): void {
    queue.counted[what] += by;
    queue.dirty = true;
  }

  private writeStates(): void {
    for (const queue of this.byName.values()) {
      if (!queue.dirty) continue;
      this.statement("UPDATE queues SET items = ?, bytes = ?, leased = ?, newest = ?, counted = ? WHERE id = ?").run(
        queue.items,
        queue.bytes,
        queue.leased,
        queue.newest,
        JSON.stringify(queue.counted),
        queue.rowId,
      );
      queue.dirty = false;
    }
  }

  /** Reads definitions and counters if somebody else has written since. Within a transaction nobody can. */
  private refresh(): void {
    const version = this.readDataVersion();
    if (version === this.dataVersion) return;
    this.readStates();
    this.hasKeyIndex ||= this.number("SELECT count(*) AS n FROM sqlite_schema WHERE name = 'items_key'") === 1;
    const { last, ahead } = this.statement("SELECT last, ahead FROM clock").get() as { last: number; ahead: number };
    this.ahead = ahead;
    this.present = Math.max(this.present, last);
    this.dataVersion = version;
  }

  private readStates(): void {
    this.tendAt = 0;
    this.byName.clear();
    this.byRow.clear();
    this.newest = this.number("SELECT newest AS n FROM clock");
    for (const row of this.statement("SELECT * FROM queues").all() as QueueRow[]) {
      const { id: rowId, name, items, bytes, leased, newest } = row;
      const zero = Object.fromEntries(COUNTED.map((one) => [one, 0])) as Counted;
      const counted = { ...zero, ...(JSON.parse(row.counted) as Partial<Counted>) };
      const definition = JSON.parse(row.definition) as QueueDefinition;
      const state: QueueState = { rowId, name, definition, items, bytes, leased, counted, newest, dirty: false };
      this.newest = Math.max(this.newest, newest);
      this.byName.set(name, state);
      this.byRow.set(rowId, state);
    }
  }

  private readDataVersion(): number {
    return (this.statement("PRAGMA data_version").get() as { data_version: number }).data_version;
  }

  /** The flush is the connection's matter, so a group with one careful queue in it is careful. */
  private setSync(operations: readonly Operation[]): void {
    const isFull = operations.some((operation) => this.wantsFull(operation));
    if (isFull === this.isFull) return;
    this.db.run(`PRAGMA synchronous = ${isFull ? "FULL" : "NORMAL"}`);
    this.isFull = isFull;
  }

  private wantsFull(operation: Operation): boolean {
    if (operation.type !== "add") return WRITES.has(operation.type) && !NEED_NO_FLUSH.has(operation.type);
    return this.byName.get(operation.queue)?.definition.sync !== "normal";
  }

  private itemOf(row: ItemRow): Item {
    return {
      seq: row.seq,
      id: `${this.options.prefix ?? ""}${row.seq}-${row.holder === null ? 0 : row.leases}`,
      queue: (this.byRow.get(row.queue) as QueueState).name,
      key: row.key,
      value: row.outside === null ? row.value : this.bodyOf(row.seq),
      contentType: row.type,
      headers: row.headers === null ? {} : (JSON.parse(row.headers) as Record<string, string>),
      path: row.path === null ? [] : (JSON.parse(row.path) as string[]),
      from: row.origin,
      channel: row.channel,
      addedAt: row.added,
      dueAt: row.due - this.ahead,
      tries: row.tries,
    };
  }

  /** What `check` finds missing is empty to others: an item without its value can still be settled. */
  private bodyOf(seq: number): Uint8Array {
    const row = this.statement("SELECT value FROM bodies WHERE seq = ?").get(seq) as { value: Uint8Array } | null;
    return row?.value ?? EMPTY;
  }

  private number(sql: string, bindings: SQLQueryBindings[] = []): number {
    return (this.statement(sql).get(...bindings) as { n: number }).n;
  }

  private statement(sql: string): Statement {
    let found = this.statements.get(sql);
    if (found === undefined) {
      found = this.db.prepare(sql);
      this.statements.set(sql, found);
    }
    return found;
  }
}

function throwStorage(outcome: Outcome): void {
  if (!outcome.ok) throw new QueueError("storage", outcome.message);
}

function inline(value: Uint8Array): Uint8Array {
  return value.length > INLINE_BYTES ? EMPTY : value;
}

function outside(value: Uint8Array): number | null {
  return value.length > INLINE_BYTES ? value.length : null;
}

/** SQLite wants as many values as the statement names. */
function given<T>(value: T | undefined): T[] {
  return value === undefined ? [] : [value];
}

interface LeasedRow {
  seq: number;
  queue: number;
  tries: number;
  due: number;
  octets: number;
}

interface QueueRow {
  id: number;
  name: string;
  definition: string;
  items: number;
  bytes: number;
  leased: number;
  newest: number;
  counted: string;
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

function fullText({ name, items, bytes, definition }: QueueState): string {
  const limit =
    definition.size > 0 && items >= definition.size ? `${definition.size} items` : `${definition.bytes} octets`;
  return `queue ${name} is full: ${items} items of ${bytes} octets, bound is ${limit} (full=${definition.full})`;
}
