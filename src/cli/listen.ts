import { UsageError } from "../core/errors.ts";
import { parseDuration } from "../core/time.ts";
import type { MessageEvent } from "../rpc/surface.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import { type Cell, formOf, printableBytes, writeJson } from "./output.ts";
import { connectDaemon } from "./socket.ts";

const COUNT_MAX = 999_999_999;

/** The longest delay of a timer: 2³¹−1 ms, about 24 days. */
const WAIT_MS_MAX = 2 ** 31 - 1;

export const listen: CommandSpec = {
  name: "listen",
  summary: "print the messages of channels as they come; while it runs, the daemon answers them 200",
  examples: [
    ["dmq listen channel1", "until interrupted"],
    ["dmq listen -n 1 -W 10s channel1", "one message, within ten seconds"],
    ["dmq listen --json channel1 channel2 | jq -r .body", "a JSON object a line"],
  ],
  positionals: [{ name: "CHANNEL", required: true, repeatable: true, help: "name of a channel" }],
  options: [
    { flag: "count", short: "n", value: "COUNT", help: "end after that many messages" },
    { flag: "wait", short: "W", value: "DURATION", help: "end after that long: 500ms, 10s, 1m" },
    ...FORM_OPTIONS,
  ],
  notes: [
    "line: TIME CHANNEL FROM CONTENT_TYPE BODY; control characters and what is not UTF-8 are escaped as \\n or \\xHH.",
    "exit: 0 COUNT came, or DURATION is over without a COUNT; 6 DURATION is over before COUNT came; 130 interrupted.",
  ],
  async run(context, args) {
    const count = readCount(args.value("count"));
    const wait = readWait(args.value("wait"));
    const path = `/listen?${args.positionals.map((name) => `channel=${encodeURIComponent(name)}`).join("&")}`;
    const write = writerFor(context, args);
    const over = new AbortController();
    const timer = wait === undefined ? undefined : setTimeout(() => over.abort(), wait);
    let left = count;
    try {
      const signal = AbortSignal.any([over.signal, context.outputClosed]);
      for await (const message of connectDaemon(context, args).stream(path, signal)) {
        write(message as MessageEvent);
        if (--left === 0) return EXIT.ok;
      }
    } finally {
      clearTimeout(timer);
    }
    return endOf(context, over.signal.aborted, count !== Number.POSITIVE_INFINITY);
  },
};

/** Why a stream ended that was not read to its COUNT: the reader left, the time is over, or the daemon closed it. */
function endOf(context: CliContext, isOver: boolean, counted: boolean): number {
  if (context.outputClosed.aborted) return EXIT.ok;
  if (isOver) return counted ? EXIT.timeout : EXIT.ok;
  context.stderr("dmq: the daemon ended\n");
  return counted ? EXIT.unreachable : EXIT.ok;
}

function readCount(text: string | undefined): number {
  if (text === undefined) return Number.POSITIVE_INFINITY;
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new UsageError(`--count ${JSON.stringify(text)}: expected an integer from 1 to ${COUNT_MAX}`);
}

function readWait(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = parseDuration(text);
  if (ms !== undefined && ms >= 1 && ms <= WAIT_MS_MAX) return ms;
  throw new UsageError(`--wait ${JSON.stringify(text)}: expected a duration from 1ms to 24 days, such as 500ms or 10s`);
}

function writerFor(context: CliContext, args: Arguments): (message: MessageEvent) => void {
  const form = formOf(context, args);
  if (form === "json") return (message) => writeJson(context, message);
  const separator = form === "plain" ? "\t" : "  ";
  return (message) => context.stdout(`${columnsOf(message).join(separator)}\n`);
}

function columnsOf(message: MessageEvent): Cell[] {
  const body =
    message.body === null ? Buffer.from(message.body_base64 ?? "", "base64") : new TextEncoder().encode(message.body);
  const words = [message.time, message.channel, message.node ?? message.from, message.content_type ?? "-"];
  return [...words.map((word) => printableBytes(new TextEncoder().encode(word))), printableBytes(body)];
}
