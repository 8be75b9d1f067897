/**
 * Space on the disk. Adding stops where there is none; taking and settling go on, on what was kept for them, because they are what makes
 * room again.
 */
import { constants, type Database } from "bun:sqlite";
import { rmSync, statSync, writeFileSync } from "node:fs";
import { LOG_BYTES } from "./database.ts";

const RESERVE_BYTES = LOG_BYTES + 1024 ** 2;
/** Beyond the bound of the store, for those who free space. */
const RELIEF_PAGES = 1_024;
const SHRINK_PAGES_MIN = 4_096;
const SHRINK_PAGES = 512;
/** Enough for a reserve, and for what is moved meanwhile. */
const RELIEF_STEPS = 16;
/** What is worth it, each time that something does not fit. */
const SPACE_PAGES_MIN = 256;

export class Space {
  private readonly db: Database;
  private readonly path: string;
  private readonly pagesMax: number;
  private relieved = false;
  private hasReserve = false;

  /** @param pagesMax  that the file may have */
  constructor(db: Database, path: string, pagesMax: number) {
    this.db = db;
    this.path = path;
    this.pagesMax = pagesMax;
  }

  /** The disk was full, and what was kept is in use. */
  get isRelieved(): boolean {
    return this.relieved;
  }

  /**
   * Taking and settling must go on where adding does not: they are what frees space, and need a few pages to do so.
   *
   * @returns false where nothing more can be done
   */
  relieve(): boolean {
    if (this.relieved) return false;
    this.relieved = true;
    try {
      if (this.hasReserve) rmSync(this.reservePath, { force: true });
      this.emptyLog();
      this.db.run(`PRAGMA max_page_count = ${this.pagesMax + RELIEF_PAGES}`);
    } catch {
      return false;
    }
    return true;
  }

  /** What is in the log goes to its place, and leaves its space to what comes. */
  emptyLog(): void {
    this.db.run("PRAGMA wal_checkpoint(TRUNCATE)");
  }

  /** @throws the error of the disk, as long as there is no space for a new reserve: what is free until then is for the takers */
  stopRelief(): void {
    if (this.hasReserve) {
      this.giveSpaceBack(() => this.isReserved);
      this.reserve();
    }
    this.relieved = false;
    this.db.run(`PRAGMA max_page_count = ${this.pagesMax}`);
  }

  /** Room within the file is none for the log beside it. @returns false where there was none, or nothing could be done */
  makeSpace(): boolean {
    if (this.relieved || this.freePages < SPACE_PAGES_MIN || !this.relieve()) return false;
    try {
      this.giveSpaceBack(() => false);
      this.stopRelief();
      return true;
    } catch {
      return false;
    }
  }

  /** What the takers have freed within the file may be what the reserve needs outside of it. In steps that the log has room for. */
  private giveSpaceBack(isEnough: () => boolean): void {
    for (let step = 0; step < RELIEF_STEPS && !isEnough() && this.freePages > 0; step++) {
      this.db.run(`PRAGMA incremental_vacuum(${SHRINK_PAGES})`);
      this.emptyLog();
    }
  }

  get freePages(): number {
    return (this.db.query("PRAGMA freelist_count").get() as { freelist_count: number }).freelist_count;
  }

  private get isReserved(): boolean {
    return (statSync(this.reservePath, { throwIfNoEntry: false })?.size ?? 0) >= RESERVE_BYTES;
  }

  private get reservePath(): string {
    return `${this.path}-reserve`;
  }

  /**
   * Space on the disk that is given up when the rest is full: what is in the log must have room in its place before the log can
   * begin again.
   */
  private reserve(): void {
    try {
      if (!this.isReserved) writeFileSync(this.reservePath, new Uint8Array(RESERVE_BYTES), { mode: 0o600 });
    } catch (cause) {
      rmSync(this.reservePath, { force: true });
      throw Object.assign(new Error("the disk is full", { cause }), { code: "SQLITE_FULL" });
    }
  }

  /** Keeps a reserve. Where there is no space for one, the disk is full: adding waits until there is. */
  keepReserve(): void {
    this.hasReserve = true;
    try {
      this.reserve();
    } catch {
      this.relieve();
    }
  }

  /**
   * Makes the log as large as it becomes anyway, once: a flush that changes the length of a file flushes the file system's own
   * journal, too. The log is kept when the store is closed.
   */
  preallocate(): void {
    try {
      this.db.fileControl(constants.SQLITE_FCNTL_PERSIST_WAL, 1);
      if (statSync(`${this.path}-wal`).size >= LOG_BYTES) return;
      this.db.run("BEGIN IMMEDIATE");
      this.db.run("CREATE TABLE filler (octets BLOB)");
      this.db.run("INSERT INTO filler VALUES (zeroblob(?))", [LOG_BYTES]);
      this.db.run("COMMIT");
      this.db.run("DROP TABLE filler");
      this.db.run("PRAGMA wal_checkpoint(RESTART)");
      this.db.run("PRAGMA incremental_vacuum");
    } catch {
      // It is for speed alone; what is wrong with the disk shows where something is to be stored.
      if (this.db.inTransaction) this.db.run("ROLLBACK");
    }
  }

  /** Gives a part of the unused pages back to the file system, if there are many. */
  shrink(): void {
    // At a full disk each page counts.
    if (this.freePages > (this.relieved ? 0 : SHRINK_PAGES_MIN))
      this.db.run(`PRAGMA incremental_vacuum(${SHRINK_PAGES})`);
  }
}
