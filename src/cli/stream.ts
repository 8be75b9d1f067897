/** What the commands share that print a stream of the daemon's: `-n COUNT`, `-W DURATION`, and what its end means. */
import { UsageError } from "../core/errors.ts";
import { parseDuration } from "../core/time.ts";
import type { RpcClient } from "../rpc/client.ts";
import type { MessageEvent } from "../rpc/surface.ts";
import { type Arguments, type OptionSpec, sayable } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";

const COUNT_MAX = 999_999_999;

/** The longest delay of a timer: 2³¹−1 ms, about 24 days. */
const WAIT_MS_MAX = 2 ** 31 - 1;

export const LIMIT_OPTIONS: OptionSpec[] = [
  { flag: "count", short: "n", value: "COUNT", help: "end after that many" },
  { flag: "wait", short: "W", value: "DURATION", help: "end after that long: 500ms, 10s, 1m" },
];

export const LIMIT_EXITS: readonly (readonly [code: number, meaning: string])[] = [
  [EXIT.ok, "COUNT came, or DURATION is over without a COUNT"],
  [EXIT.unreachable, "no daemon, or it ended before COUNT came"],
  [EXIT.timeout, "DURATION is over before COUNT came"],
  [EXIT.interrupted, "interrupted"],
];

export interface Limits {
  /** Infinite without the option. */
  count: number;
  waitMs: number | undefined;
}

/** @throws UsageError for what is no count or no duration */
export function readLimits(args: Arguments): Limits {
  return { count: readCount(args, "count", Number.POSITIVE_INFINITY), waitMs: readDuration(args, "wait") };
}

export function readCount(args: Arguments, flag: string, otherwise: number): number {
  const text = args.value(flag);
  if (text === undefined) return otherwise;
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new UsageError(`--${flag} ${JSON.stringify(text)}: expected an integer from 1 to ${COUNT_MAX}`);
}

/** @returns milliseconds; `undefined` where the option is not given */
export function readDuration(args: Arguments, flag: string, minMs = 1): number | undefined {
  const text = args.value(flag);
  if (text === undefined) return undefined;
  const ms = parseDuration(text);
  if (ms !== undefined && ms >= minMs && ms <= WAIT_MS_MAX) return ms;
  const expected = `expected a duration from ${minMs}ms to 24 days, such as 500ms or 10s`;
  throw new UsageError(`--${flag} ${JSON.stringify(text)}: ${expected}`);
}

/**
 * Hands over each line of a stream until COUNT came, DURATION is over, the reader of stdout left or the daemon closed it.
 *
 * @param wanted  false for a line that does not count and is not handed over
 * @returns       the exit code
 * @throws        RpcError where the daemon is gone or says no
 */
export async function readStream(
  context: CliContext,
  client: RpcClient,
  path: string,
  limits: Limits,
  onLine: (line: unknown) => void,
  wanted: (line: unknown) => boolean = () => true,
): Promise<number> {
  const over = new AbortController();
  const timer = limits.waitMs === undefined ? undefined : setTimeout(() => over.abort(), limits.waitMs);
  let left = limits.count;
  let isOpen = false;
  const onOpen = (): void => {
    isOpen = true;
  };
  try {
    const signal = AbortSignal.any([over.signal, context.outputClosed]);
    for await (const line of client.stream(path, signal, onOpen)) {
      if (!wanted(line)) continue;
      onLine(line);
      if (--left === 0) return EXIT.ok;
    }
  } finally {
    clearTimeout(timer);
  }
  if (over.signal.aborted && !isOpen) return unheard(context, client);
  return endOf(context, over.signal.aborted, limits.count !== Number.POSITIVE_INFINITY);
}

/** DURATION was over before the daemon had answered at all: nothing can be said of what came. */
export function unheard(context: CliContext, { socketPath }: RpcClient): number {
  context.stderr(`dmq: ${sayable(`no answer of a daemon on ${socketPath} before DURATION was over`)}\n`);
  return EXIT.unreachable;
}

/** Why a stream ended that was not read to its COUNT: the reader left, the time is over, or the daemon closed it. */
export function endOf(context: CliContext, isOver: boolean, counted: boolean): number {
  if (context.outputClosed.aborted) return EXIT.ok;
  if (isOver) return counted ? EXIT.timeout : EXIT.ok;
  context.stderr("dmq: the daemon ended\n");
  return counted ? EXIT.unreachable : EXIT.ok;
}

/** The body of a message as it came. */
export function octetsOf({ body, body_base64 }: MessageEvent): Uint8Array {
  return body === null ? Buffer.from(body_base64 ?? "", "base64") : new TextEncoder().encode(body);
}
