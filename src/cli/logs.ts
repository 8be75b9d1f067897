import { UsageError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { LOG_LEVELS, type LogRecord } from "../rpc/surface.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import { logLine } from "./log.ts";
import { writeJson } from "./output.ts";
import { connectDaemon } from "./socket.ts";
import { readCount } from "./stream.ts";

export const logs: CommandSpec = {
  name: "logs",
  summary: "the latest lines of the daemon's log, oldest first",
  examples: [
    ["dmq logs -n 20", "the latest twenty"],
    ["dmq logs --level warn", "warnings and errors"],
    ["dmq logs -f --level debug", "and what comes, with debug lines whatever log_level the daemon has"],
  ],
  positionals: [],
  options: [
    { flag: "follow", short: "f", help: "go on with the lines that come" },
    { flag: "count", short: "n", value: "COUNT", help: "the latest so many (all that are kept, 1000 at most)" },
    { flag: "level", value: "LEVEL", help: `this and graver: ${LOG_LEVELS.join(", ")}` },
    ...FORM_OPTIONS,
  ],
  notes: [
    "line: TIME LEVEL TEXT name=value… as on the daemon's stderr. The daemon keeps lines of its log_level, info at least; with",
    "-f it also gives debug and trace lines from then on.",
  ],
  exits: [
    [EXIT.ok, "they were printed; with -f: the daemon ended, or the reader left"],
    [EXIT.unreachable, "no daemon"],
    [EXIT.interrupted, "interrupted"],
  ],
  seeAlso: ["dmq events", "dmq status"],
  async run(context, args) {
    const path = `/logs?${queryOf(args)}`;
    const write = writerFor(context, args);
    for await (const line of connectDaemon(context, args).stream(path, context.outputClosed)) write(line as LogRecord);
    return EXIT.ok;
  },
};

function queryOf(args: Arguments): string {
  const count = readCount(args, "count", 0);
  const level = args.value("level");
  if (level !== undefined) checkLevel(level);
  return new URLSearchParams({
    ...(args.has("follow") && { follow: "1" }),
    ...(count > 0 && { count: String(count) }),
    ...(level !== undefined && { level }),
  }).toString();
}

function checkLevel(level: string): void {
  if (LOG_LEVELS.some((known) => known === level)) return;
  const near = nearest(level, LOG_LEVELS);
  const hint = near === undefined ? `expected one of ${LOG_LEVELS.join(", ")}` : `did you mean ${near}?`;
  throw new UsageError(`--level ${JSON.stringify(level)}: ${hint}`);
}

function writerFor(context: CliContext, args: Arguments): (record: LogRecord) => void {
  if (args.has("json")) return (record) => writeJson(context, record);
  const { isTty, env } = context;
  const colour = isTty.stdout && !args.has("plain") && !env.NO_COLOR && env.TERM !== "dumb";
  return (record) => context.stdout(logLine(record, colour));
}
