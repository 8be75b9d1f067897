/**
 * A command that handles items (queue.md B7): the value, or several items as JSON lines, on its standard input, facts in `DMQ_*`
 * variables, nothing of an item on its command line; and what its end means for them.
 */
import { encodeUtf8 } from "../core/bytes.ts";
import type { Duration } from "../core/time.ts";
import { bounded, type Variables } from "../exec/command.ts";
import { type RunEnd, run } from "../exec/run.ts";
import type { Item } from "../queue/operation.ts";
import type { Handler, Verdict } from "./consumer.ts";
import { itemRow } from "./row.ts";

/** Between SIGTERM and SIGKILL, when a command took too long or is to stop. */
const KILL_GRACE_MS: Duration = 5_000;

/** How long exit 75 does not count: an item may wait for what is down for a while. */
const TEMPORARY_MS: Duration = 3_600_000;

/** What is kept of stderr for a dead letter. */
const STDERR_CHARS_MAX = 4_096;

/** EX_TEMPFAIL. */
const TEMPORARY = 75;
/** EX_DATAERR, EX_NOINPUT, and qmail's 100: another try would not make the data better. */
const BAD_DATA: readonly number[] = [65, 66, 100];
/** What a shell says of a command that may not be executed, or is not there. */
const CANNOT_RUN: readonly number[] = [126, 127];

/** What the system says where it has no room now, but may have later. */
const FULL: readonly string[] = ["EAGAIN", "EMFILE", "ENFILE", "ENOMEM"];

export interface CommandOptions {
  /** Program and arguments. */
  argv: readonly string[];
  timeoutMs: Duration;
  /** Several items on one run: JSON lines on standard input. */
  batch: boolean;
  /** Besides those of the item. */
  variables: Variables;
  onStdout(chunk: Uint8Array): void;
  onStderrLine(line: string): void;
}

/** @returns what runs the command once for each item, or for several of them */
export function commandHandler(options: CommandOptions): Handler {
  return async (items, stop) => {
    const late = AbortSignal.timeout(options.timeoutMs);
    let stderr = "";
    const { end } = await run({
      argv: options.argv,
      stdin: options.batch ? jsonLines(items) : (items[0] as Item).value,
      variables: { ...bounded(variablesOf(items, options.batch)), ...options.variables },
      signal: AbortSignal.any([late, stop]),
      graceMs: KILL_GRACE_MS,
      onStdout: options.onStdout,
      onStderrLine: (line) => {
        stderr = `${stderr}${line}\n`.slice(-STDERR_CHARS_MAX);
        options.onStderrLine(line);
      },
    });
    if (end.type === "aborted" && !late.aborted) return { type: "stopped" };
    return verdictOf(end, { stderr, timeoutMs: options.timeoutMs, ageMs: ageOf(items) });
  };
}

function ageOf(items: readonly Item[]): Duration {
  return Date.now() - Math.min(...items.map(({ addedAt }) => addedAt));
}

/**
 * The table of B7.
 *
 * @param facts  `ageMs`: since the item was added
 */
export function verdictOf(end: RunEnd, facts: { stderr: string; timeoutMs: Duration; ageMs: Duration }): Verdict {
  const { stderr, timeoutMs, ageMs } = facts;
  switch (end.type) {
    case "exited": {
      if (end.code === 0) return { type: "done" };
      const how = { why: `exited with ${end.code}`, reason: `exit ${end.code}`, exitCode: end.code, stderr };
      if (CANNOT_RUN.includes(end.code)) return { type: "unable", why: how.why };
      if (BAD_DATA.includes(end.code)) return failed("dead", how);
      return failed("retry", how, end.code !== TEMPORARY || ageMs > TEMPORARY_MS);
    }
    case "signalled":
      return failed("retry", { why: `died of ${end.name}`, reason: end.name, stderr });
    case "aborted":
      return failed("retry", { why: `took longer than ${timeoutMs} ms`, reason: "timeout", stderr });
    case "flooded":
      return failed("retry", { why: `printed too much on ${end.stream}`, reason: "flooded", stderr });
    case "not-started": {
      const why = `could not be started (${end.code})`;
      // E2BIG is the item's fault: another one may be started.
      if (end.code === "E2BIG") return failed("retry", { why, reason: end.code, stderr });
      return FULL.includes(end.code)
        ? failed("retry", { why, reason: end.code, stderr }, false)
        : { type: "unable", why };
    }
  }
}

function failed(
  fate: "retry" | "dead",
  { why, reason, exitCode, stderr }: { why: string; reason: string; exitCode?: number; stderr: string },
  counts = true,
): Verdict {
  return { type: "failed", why, fate: { fate, counts, reason, stderr, ...(exitCode !== undefined && { exitCode }) } };
}

function jsonLines(items: readonly Item[]): Uint8Array {
  return encodeUtf8(items.map((item) => `${JSON.stringify(itemRow(item))}\n`).join(""));
}

function variablesOf(items: readonly Item[], batch: boolean): Variables {
  const [first] = items as [Item];
  return batch ? { DMQ_QUEUE: first.queue, DMQ_BATCH: String(items.length) } : itemVariables(first);
}

/** `DMQ_ID` is the same in every delivery of an item: by it a handler knows a repetition. */
export function itemVariables(item: Item): Variables {
  const headers = Object.entries(item.headers).map(([name, value]): [string, string] => [headerVariable(name), value]);
  return {
    DMQ_QUEUE: item.queue,
    DMQ_ID: String(item.seq),
    DMQ_KEY: item.key,
    DMQ_TRIES: String(item.tries),
    DMQ_ADDED: new Date(item.addedAt).toISOString(),
    DMQ_CONTENT_TYPE: item.contentType,
    ...(item.channel !== null && { DMQ_CHANNEL: item.channel }),
    ...(item.from !== null && { DMQ_FROM: item.from }),
    ...Object.fromEntries(headers),
  };
}

function headerVariable(name: string): string {
  return `DMQ_HEADER_${name.toUpperCase().replaceAll(/[^A-Z0-9]/g, "_")}`;
}
