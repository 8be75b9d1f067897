/** Where a part says what it does; what becomes of it is decided above (src/cli/log.ts, or the library's caller). */
export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  error(text: string, fields?: LogFields): void;
  warn(text: string, fields?: LogFields): void;
  info(text: string, fields?: LogFields): void;
  debug(text: string, fields?: LogFields): void;
  trace(text: string, fields?: LogFields): void;
}
