/** How the commands of AMQP read what they share. */
import { UsageError } from "../../core/errors.ts";
import { parseDuration } from "../../core/time.ts";
import { type Arguments, quoted } from "../command.ts";

/** @returns milliseconds, `undefined` where the option is not given */
export function readSpan(args: Arguments, flag: string, minMs: number, maxMs: number): number | undefined {
  const text = args.value(flag);
  if (text === undefined) return undefined;
  const ms = parseDuration(text);
  if (ms !== undefined && ms >= minMs && ms <= maxMs) return Math.ceil(ms);
  throw new UsageError(
    `--${flag} ${quoted(text)}: expected a duration of ${minMs} to ${maxMs} ms, such as 500ms or 10s`,
  );
}
