/**
 * What all operations of a store stand on: the connection and its prepared statements, the queues with their counters, the time. What is
 * kept in memory between two groups is read again when SQLite says that somebody else has written.
 */
import type { Database, SQLQueryBindings, Statement } from "bun:sqlite";
import { type FileOptions, openDatabase, pagesMax, storageError } from "./database.ts";
import { DEAD_SUFFIX, type QueueDefinition } from "./definition.ts";
import { QueueError } from "./error.ts";
import { COUNTED, type Counted } from "./operation.ts";
import { migrate } from "./schema.ts";
import { Space } from "./space.ts";

export interface LedgerOptions extends FileOptions {
  /** Wall clock in milliseconds. */
  now(): number;
  /** Spreads retries: 0 to 1. */
  random(): number;
  /** Before each id, so that those of two stores differ. */
  prefix?: string;
}

/** How old the time in the file may be. */
const CLOCK_MS = 1_000;

export interface QueueState {
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

export class Ledger {
  readonly options: LedgerOptions;
  readonly db: Database;
  readonly space: Space;
  readonly byName = new Map<string, QueueState>();
  readonly byRow = new Map<number, QueueState>();
  /** Queues in which items became ready, or room was made, since they were taken. */
  readonly touched = new Set<string>();
  /** Wall time of this group. */
  wall = 0;
  /**
   * Time of the store in this group: the wall's, and `ahead`. It never falls, and it goes on at the wall's pace after the clock
   * was set back: order, leases and delays stay as they were meant. All processes have it from the file.
   */
  present = 0;
  ahead = 0;
  /** Before that time there is nothing to clear away, unless somebody else has written. */
  tendAt = 0;
  /** Highest `seq` given so far. */
  newest = 0;
  private readonly statements = new Map<string, Statement>();
  private presentWritten = 0;
  private dataVersion = -1;

  /** @throws QueueError `storage` if the file cannot be opened, is damaged or of a later version */
  constructor(options: LedgerOptions) {
    this.options = options;
    this.db = openDatabase(options);
    this.space = new Space(this.db, options.path, pagesMax(options));
    try {
      migrate(this.db);
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

  /** Does a foreign commit await to be looked at? About a microsecond. */
  get isStale(): boolean {
    return this.readDataVersion() !== this.dataVersion;
  }

  /** Reads definitions and counters if somebody else has written since. Within a transaction nobody can. */
  refresh(): void {
    const version = this.readDataVersion();
    if (version === this.dataVersion) return;
    this.readStates();
    const { last, ahead } = this.statement("SELECT last, ahead FROM clock").get() as { last: number; ahead: number };
    this.ahead = ahead;
    this.present = Math.max(this.present, last);
    this.dataVersion = version;
  }

  /** What the memory says of the counters did not happen. */
  forget(): void {
    this.dataVersion = -1;
  }

  /** @param writes  whether the time may be written */
  tick(writes: boolean): void {
    this.wall = Math.floor(this.options.now());
    const behind = this.present - (this.wall + this.ahead);
    if (behind > 0) this.ahead += behind;
    this.present = this.wall + this.ahead;
    if (!writes || (behind <= 0 && this.present - this.presentWritten < CLOCK_MS)) return;
    this.statement("UPDATE clock SET last = ?, ahead = ?").run(this.present, this.ahead);
    this.presentWritten = this.present;
  }

  /** Of now, between groups. */
  storeTime(): number {
    return Math.max(this.present, Math.floor(this.options.now()) + this.ahead);
  }

  /** @throws QueueError `no-such-queue` */
  queue(name: string): QueueState {
    const found = this.byName.get(name);
    if (found !== undefined) return found;
    const near = [...this.byName.keys()].filter((one) => !one.endsWith(DEAD_SUFFIX)).slice(0, 8);
    const hint = near.length === 0 ? "there is none yet: dmq queue define NAME" : `there are ${near.join(", ")}`;
    throw new QueueError("no-such-queue", `no queue ${name}; ${hint}`);
  }

  /** A queue that is in the file from now on. */
  enter(rowId: number, definition: QueueDefinition): QueueState {
    const { name } = definition;
    const zero = { items: 0, bytes: 0, leased: 0, newest: 0, counted: nothingCounted() };
    return this.keep({ rowId, name, definition, ...zero, dirty: false });
  }

  leave({ name, rowId }: QueueState): void {
    this.byName.delete(name);
    this.byRow.delete(rowId);
  }

  grow(queue: QueueState, items: number, octets: number): void {
    queue.items += items;
    queue.bytes += octets;
    queue.dirty = true;
  }

  change(queue: QueueState, leased: number): void {
    queue.leased += leased;
    queue.dirty = true;
  }

  count(queue: QueueState, what: keyof Counted, by = 1): void {
    queue.counted[what] += by;
    queue.dirty = true;
  }

  writeStates(): void {
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

  readStates(): void {
    this.tendAt = 0;
    this.byName.clear();
    this.byRow.clear();
    this.newest = this.number("SELECT newest AS n FROM clock");
    for (const row of this.statement("SELECT * FROM queues").all() as QueueRow[]) {
      const { id: rowId, name, items, bytes, leased, newest } = row;
      const counted = { ...nothingCounted(), ...(JSON.parse(row.counted) as Partial<Counted>) };
      const definition = JSON.parse(row.definition) as QueueDefinition;
      this.newest = Math.max(this.newest, newest);
      this.keep({ rowId, name, definition, items, bytes, leased, counted, newest, dirty: false });
    }
  }

  /** @param sql  one that has a column `n` */
  number(sql: string, bindings: SQLQueryBindings[] = []): number {
    return (this.statement(sql).get(...bindings) as { n: number }).n;
  }

  statement(sql: string): Statement {
    let found = this.statements.get(sql);
    if (found === undefined) {
      found = this.db.prepare(sql);
      this.statements.set(sql, found);
    }
    return found;
  }

  private keep(queue: QueueState): QueueState {
    this.byName.set(queue.name, queue);
    this.byRow.set(queue.rowId, queue);
    return queue;
  }

  private readDataVersion(): number {
    return (this.statement("PRAGMA data_version").get() as { data_version: number }).data_version;
  }
}

function nothingCounted(): Counted {
  return Object.fromEntries(COUNTED.map((name) => [name, 0])) as Counted;
}

/** SQLite wants as many values as the statement names. */
export function given<T>(value: T | undefined): T[] {
  return value === undefined ? [] : [value];
}
