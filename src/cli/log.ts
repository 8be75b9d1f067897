/**
 * The log: the only file that imports consola. Everything goes to stderr, nothing is swallowed (consola writes info to
 * stdout and drops repeats unless told otherwise), and what a remote sent cannot move a cursor.
 */
import { createConsola, LogLevels, type LogObject } from "consola/core";
import type { LogFields, Logger } from "../core/logger.ts";
import { printable } from "./output.ts";

export interface LogOptions {
  level: "error" | "warn" | "info" | "debug" | "trace";
  /** One JSON object a line: `time`, `level`, `text` and the fields. */
  json: boolean;
  colour: boolean;
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

export function createLogger(options: LogOptions): Logger {
  const format = options.json ? jsonLine : textLine;
  const consola = createConsola({
    level: LogLevels[options.level],
    // With a throttle, the sixth equal line within a second would be lost.
    throttle: 0,
    reporters: [{ log: (entry) => options.write(format(entry, options)) }],
  });
  const at =
    (level: LogOptions["level"]) =>
    (text: string, fields?: LogFields): void =>
      consola[level].raw(text, fields ?? {});
  return { error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug"), trace: at("trace") };
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
  const time = new Date(options.now()).toISOString();
  const level = entry.type.padEnd(5);
  const painted = options.colour ? `\u001b[${COLOURS.get(entry.type) ?? "0"}m${level}\u001b[0m` : level;
  const pairs = Object.entries(fields).map(([name, value]) => ` ${name}=${fieldText(value)}`);
  return `${time} ${painted} ${printable(text)}${pairs.join("")}\n`;
}

/** Quotes where a reader could not tell where the value ends. */
function fieldText(value: unknown): string {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? String(value));
  return /^[^\s"=\\]+$/.test(text) ? printable(text) : JSON.stringify(text);
}
