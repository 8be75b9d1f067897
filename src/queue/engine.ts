/**
 * The store itself: one SQLite connection, synchronous, operations in groups. A group is one transaction and one flush (group
 * commit, queue.md B10); whoever calls `run` decides what is in a group and on which thread it runs.
 *
 * Several processes may have the same file open: every write begins with `BEGIN IMMEDIATE`, and what is kept in memory
 * between two groups (ledger.ts) is read again when somebody else has written. What each operation does is in files of their own: add,
 * lease, settle, dead, move, define, report, and tend for what time does.
 */
import { add } from "./add.ts";
import { isFullError, storageError } from "./database.ts";
import { dead, dropDead, retryDead } from "./dead.ts";
import { define, drop } from "./define.ts";
import { QueueError } from "./error.ts";
import { extend, holders, lease, leasedRow } from "./lease.ts";
import { Ledger, type LedgerOptions } from "./ledger.ts";
import { clear, move } from "./move.ts";
import type { Answers, Operation, OperationType, Outcome } from "./operation.ts";
import { check, nextDue, peek, report, sizes } from "./report.ts";
import { INDEX_KEYS } from "./schema.ts";
import { ack, fail, release } from "./settle.ts";
import type { Space } from "./space.ts";
import { housekeep, isDue } from "./tend.ts";

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
  readonly space: Space;
  private readonly ledger: Ledger;
  private isFull = true;
  /** Or there was no space for it. */
  private hasKeyIndex = false;

  /** @throws QueueError `storage` if the file cannot be opened, is damaged or of a later version */
  constructor(options: LedgerOptions) {
    this.ledger = new Ledger(options);
    this.space = this.ledger.space;
    try {
      this.run([{ type: "report" }]).forEach(throwStorage);
    } catch (cause) {
      this.close();
      throw cause;
    }
  }

  close(): void {
    this.ledger.close();
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
      const error = storageError(this.ledger.options.path, cause);
      return operations.map(() => ({ ok: false, code: error.code, message: error.message }));
    }
  }

  takeTouched(): string[] {
    const touched = [...this.ledger.touched];
    this.ledger.touched.clear();
    return touched;
  }

  /** Notes who has the store, for the message that another daemon gives. */
  own(owner: string): void {
    this.ledger.db.run("UPDATE clock SET owner = ?", [owner]);
  }

  /** Looks through the file, but not through all of its indexes. @returns what is wrong, `undefined` for nothing */
  damage(): string | undefined {
    const found = this.ledger.db.query("PRAGMA quick_check(1)").get() as { quick_check: string } | null;
    return found === null || found.quick_check === "ok" ? undefined : found.quick_check;
  }

  /** Is something due that no operation may come for: a lease that ran out, an item that expired? */
  isDue(): boolean {
    return isDue(this.ledger);
  }

  /** Is there a queue of this name? As of the last group. */
  has(queue: string): boolean {
    return this.ledger.byName.has(queue);
  }

  /** Are all of these leases good? As of now, and nobody else writes: for stores in memory. */
  holds(ids: readonly string[]): boolean {
    return ids.every((id) => leasedRow(this.ledger, id) !== null);
  }

  /** Does a foreign commit await to be looked at? About a microsecond. */
  isStale(): boolean {
    return this.ledger.isStale;
  }

  private group(operations: readonly Operation[]): Outcome[] {
    const writes = operations.some(({ type }) => WRITES.has(type));
    if (writes) this.setSync(operations);
    // What is kept for the takers at a full disk is not for that.
    const mayIndex = !this.hasKeyIndex && !this.space.isRelieved;
    if (mayIndex && operations.some((operation) => this.asksForKey(operation))) this.indexKeys();
    if (this.space.isRelieved && writes && operations.every(({ type }) => !RELIEVES.has(type))) this.space.stopRelief();
    this.ledger.statement(writes ? "BEGIN IMMEDIATE" : "BEGIN").run();
    try {
      this.ledger.refresh();
      this.ledger.tick(writes);
      if (writes) housekeep(this.ledger);
      const outcomes = operations.map((operation) => this.guarded(operation));
      if (writes) this.ledger.writeStates();
      this.ledger.statement("COMMIT").run();
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
        return (this.ledger.byName.get(operation.queue)?.definition.addmode ?? "all") !== "all";
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
      this.ledger.db.run(INDEX_KEYS);
    } catch (cause) {
      if (!isFullError(cause)) throw cause;
    }
    this.hasKeyIndex = true;
  }

  private abandon(): void {
    if (this.ledger.db.inTransaction) this.ledger.db.run("ROLLBACK");
    this.ledger.forget();
  }

  /** All or nothing: what is made of several parts is undone as a whole. */
  private guarded(operation: Operation): Outcome {
    if (!this.isDivisible(operation)) return this.attempt(operation);
    this.ledger.writeStates();
    this.ledger.statement("SAVEPOINT operation").run();
    const outcome = this.attempt(operation);
    if (!outcome.ok) {
      this.ledger.statement("ROLLBACK TO operation").run();
      this.ledger.readStates();
      if (outcome.code === "queue-full") this.countRejected(operation);
    }
    this.ledger.statement("RELEASE operation").run();
    return outcome;
  }

  private countRejected(operation: Operation): void {
    const queue = operation.type === "add" ? this.ledger.byName.get(operation.queue) : undefined;
    if (queue !== undefined) this.ledger.count(queue, "rejected");
  }

  private isDivisible(operation: Operation): boolean {
    switch (operation.type) {
      case "add": {
        if (operation.items.length > 1) return true;
        // Several may have to go, and then what is leased may still be in the way.
        const queue = this.ledger.byName.get(operation.queue);
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
    const { ledger } = this;
    switch (operation.type) {
      case "define":
        return define(ledger, operation.definition);
      case "drop":
        return drop(ledger, ledger.queue(operation.queue), operation.force);
      case "add":
        return add(ledger, ledger.queue(operation.queue), operation.items);
      case "lease":
        return lease(ledger, ledger.queue(operation.queue), operation);
      case "ack":
        return ack(ledger, operation.ids);
      case "fail":
        return operation.failures.map((failure) => fail(ledger, failure));
      case "extend":
        return extend(ledger, operation.ids, operation.leaseMs);
      case "release":
        return release(ledger, operation.holders);
      case "holders":
        return holders(ledger);
      case "peek":
        return peek(ledger, ledger.queue(operation.queue), operation);
      case "sizes":
        return sizes(ledger, ledger.queue(operation.queue));
      case "report":
        return report(ledger, operation.queue);
      case "next-due":
        return nextDue(ledger, ledger.queue(operation.queue));
      case "move":
        return move(ledger, ledger.queue(operation.from), ledger.queue(operation.to), operation);
      case "clear":
        return clear(ledger, ledger.queue(operation.queue));
      case "dead":
        return dead(ledger, operation);
      case "retry-dead":
        return retryDead(ledger, operation.queue, operation.seqs);
      case "drop-dead":
        return dropDead(ledger, operation.queue, operation.seqs);
      case "check":
        return check(ledger);
    }
  }

  /** The flush is the connection's matter, so a group with one careful queue in it is careful. */
  private setSync(operations: readonly Operation[]): void {
    const isFull = operations.some((operation) => this.wantsFull(operation));
    if (isFull === this.isFull) return;
    this.ledger.db.run(`PRAGMA synchronous = ${isFull ? "FULL" : "NORMAL"}`);
    this.isFull = isFull;
  }

  private wantsFull(operation: Operation): boolean {
    if (operation.type !== "add") return WRITES.has(operation.type) && !NEED_NO_FLUSH.has(operation.type);
    return this.ledger.byName.get(operation.queue)?.definition.sync !== "normal";
  }
}

function throwStorage(outcome: Outcome): void {
  if (!outcome.ok) throw new QueueError("storage", outcome.message);
}
