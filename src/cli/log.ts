/**
 * The log: the only file that imports consola. Everything goes to stderr, nothing is swallowed (consola writes info to
 * stdout and drops repeats unless told otherwise), and what a remote sent cannot move a cursor.
 */
import { fstatSync } from "node:fs";
import { createConsola, LogLevels, type LogObject } from "consola/core";
import type { LogFields, Logger } from "../core/logger.ts";
import { printable } from "./output.ts";

export interface LogOptions {
  level: "error" | "warn" | "info" | "debug" | "trace";
  /** One JSON object a line: `time`, `level`, `text` and the fields. */
  json: boolean;
  colour: boolean;
  /** stderr is the journal of systemd: each line begins with its syslog level (sd-daemon(3)), and the journal has the time. */
  journal?: boolean;
  /** Takes whole lines. */
  write(text: string): void;
  /** Wall-clock time in milliseconds. */
  now(): number;
}

const COLOURS = new Map([
  ["error", "31"],
  ["warn", "33"],
  ["info", "32"],
  ["debug", "90"],
  ["trace", "90"],
]);

/** A logger whose level and form a reload may change. */
export interface AdjustableLogger extends Logger {
  adjust(changes: Pick<LogOptions, "level" | "json">): void;
}

/** RFC 5424 section 6.2.1. */
const SYSLOG_LEVELS = new Map([
  ["error", 3],
  ["warn", 4],
  ["info", 6],
  ["debug", 7],
  ["trace", 7],
]);

/**
 * @param stream  `JOURNAL_STREAM`: device and inode of what systemd connected a stream to (systemd.exec(5))
 * @returns       true if stderr is still that; a command that redirected it writes to somebody else
 */
export function isJournal(stream: string | undefined): boolean {
  if (stream === undefined || stream === "") return false;
  try {
    const { dev, ino } = fstatSync(2, { bigint: true });
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

export function createLogger(given: LogOptions): AdjustableLogger {
  let options = given;
  const consola = createConsola({
    level: LogLevels[options.level],
    // With a throttle, the sixth equal line within a second would be lost.
    throttle: 0,
    reporters: [{ log: (entry) => options.write(prefix(entry, options) + line(entry, options)) }],
  });
  const at =
    (level: LogOptions["level"]) =>
    (text: string, fields?: LogFields): void =>
      consola[level].raw(text, fields ?? {});
  const adjust = (changes: Pick<LogOptions, "level" | "json">): void => {
    options = { ...options, ...changes };
    consola.level = LogLevels[options.level];
  };
  return { error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug"), trace: at("trace"), adjust };
}

function prefix(entry: LogObject, options: LogOptions): string {
  return options.journal === true ? `<${SYSLOG_LEVELS.get(entry.type) ?? 6}>` : "";
}

function line(entry: LogObject, options: LogOptions): string {
  if (options.json) return jsonLine(entry, options);
  return options.journal === true ? `${messageOf(entry)}\n` : textLine(entry, options);
}

function parts(entry: LogObject): { text: string; fields: LogFields } {
  return { text: String(entry.args[0]), fields: (entry.args[1] ?? {}) as LogFields };
}

function jsonLine(entry: LogObject, options: LogOptions): string {
  const { text, fields } = parts(entry);
  const time = new Date(options.now()).toISOString();
  return `${JSON.stringify({ time, level: entry.type, text, ...fields })}\n`;
}

function textLine(entry: LogObject, options: LogOptions): string {
  const { text, fields } = parts(entry);
  return logLine({ time: new Date(options.now()).toISOString(), level: entry.type, text, fields }, options.colour);
}

/** `TIME LEVEL TEXT name=value…`, also for `dmq logs`. */
export function logLine(
  { time, level, text, fields }: { time: string; level: string; text: string; fields: LogFields },
  colour: boolean,
): string {
  const padded = level.padEnd(5);
  const painted = colour ? `\u001b[${COLOURS.get(level) ?? "0"}m${padded}\u001b[0m` : padded;
  return `${time} ${painted} ${messageText(text, fields)}\n`;
}

function messageOf(entry: LogObject): string {
  const { text, fields } = parts(entry);
  return messageText(text, fields);
}

function messageText(text: string, fields: LogFields): string {
  const pairs = Object.entries(fields).map(([name, value]) => ` ${name}=${fieldText(value)}`);
  return `${printable(text)}${pairs.join("")}`;
}

/** Quotes where a reader could not tell where the value ends. */
function fieldText(value: unknown): string {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? String(value));
  return /^[^\s"=\\]+$/.test(text) ? printable(text) : JSON.stringify(text);
}
