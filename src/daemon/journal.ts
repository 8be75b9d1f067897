/**
 * The daemon's recent log lines, kept in memory for `dmq logs`, and handed to those who follow them. What goes to stderr
 * goes on as ever. Nothing is kept that the log does not say: no body of a message, no key.
 */
import type { LogFields, Logger } from "../core/logger.ts";
import { LOG_LEVELS, type LogLevel, type LogQuery, type LogRecord } from "../rpc/surface.ts";

/** Lines that are kept; beyond it the oldest goes. */
export const LINES_MAX = 1_000;

/** A longer text, or value of a field, is cut: with all lines as long as this the memory stays below 4 MiB. */
const CHARACTERS_MAX = 1_000;

/** Fields of a line beyond it are left out. */
const FIELDS_MAX = 16;

export interface JournalOptions {
  /** Lines of this level and above are kept, and those of `info` always; who follows may ask for more. */
  level: LogLevel;
  /** Wall-clock time in milliseconds. */
  now?: () => number;
}

export class Journal {
  private readonly lines: LogRecord[] = [];
  private readonly followers = new Set<{ rank: number; onRecord: (record: LogRecord) => void }>();
  private kept: number;
  private readonly now: () => number;

  constructor({ level, now = Date.now }: JournalOptions) {
    this.kept = keptOf(level);
    this.now = now;
  }

  /** `log_level` is another one from now on. */
  setLevel(level: LogLevel): void {
    this.kept = keptOf(level);
  }

  /** A logger that tells `log` and keeps the line. */
  beside(log: Logger): Logger {
    const at =
      (level: LogLevel) =>
      (text: string, fields?: LogFields): void => {
        log[level](text, fields);
        this.take(level, text, fields ?? {});
      };
    return { error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug"), trace: at("trace") };
  }

  /** The latest lines of a level and above it, oldest first. */
  read({ level, count }: LogQuery): LogRecord[] {
    const rank = level === undefined ? Number.POSITIVE_INFINITY : rankOf(level);
    const found = this.lines.filter((line) => rankOf(line.level) <= rank);
    return count === undefined ? found : found.slice(Math.max(0, found.length - count));
  }

  /**
   * @param onRecord  gets each line from now on, of `level` and above it; without a level, those that are kept
   * @returns         the function that ends it
   */
  follow(level: LogLevel | undefined, onRecord: (record: LogRecord) => void): () => void {
    const follower = { rank: level === undefined ? this.kept : rankOf(level), onRecord };
    this.followers.add(follower);
    return () => this.followers.delete(follower);
  }

  private take(level: LogLevel, text: string, fields: LogFields): void {
    const rank = rankOf(level);
    const isKept = rank <= this.kept;
    const wanting = [...this.followers].filter((follower) => rank <= follower.rank);
    if (!isKept && wanting.length === 0) return;
    const record = { time: new Date(this.now()).toISOString(), level, text: cut(text), fields: cutFields(fields) };
    if (isKept && this.lines.push(record) > LINES_MAX) this.lines.shift();
    for (const { onRecord } of wanting) onRecord(record);
  }
}

/** 0 is the gravest. */
function keptOf(level: LogLevel): number {
  return Math.max(rankOf(level), rankOf("info"));
}

function rankOf(level: LogLevel): number {
  return LOG_LEVELS.indexOf(level);
}

function cut(text: string): string {
  return text.length <= CHARACTERS_MAX ? text : `${text.slice(0, CHARACTERS_MAX)}…`;
}

function cutFields(fields: LogFields): Record<string, string | number | boolean | null> {
  const entries = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries.slice(0, FIELDS_MAX).map(([name, value]) => [name, plain(value)]));
}

function plain(value: unknown): string | number | boolean | null {
  if (value === null || typeof value === "number" || typeof value === "boolean") return value;
  return cut(typeof value === "string" ? value : (JSON.stringify(value) ?? String(value)));
}
