import type { MessageEvent } from "../rpc/surface.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import { checkChannelName } from "./message.ts";
import { type Cell, formOf, printableBytes, writeJson } from "./output.ts";
import { connectDaemon } from "./socket.ts";
import { LIMIT_EXITS, LIMIT_OPTIONS, octetsOf, readLimits, readStream } from "./stream.ts";

/** What makes a listener an answering one. */
const ANSWERS = ["exec", "reply", "reply-file"] as const;

export const listen: CommandSpec = {
  name: "listen",
  summary: "print the messages of channels as they come, or answer them; without an answer of ours the daemon says 200",
  examples: [
    ["dmq listen channel1", "until interrupted"],
    ["dmq listen -n 1 -W 10s channel1", "one message, within ten seconds"],
    ["dmq listen --json channel1 channel2 | jq -r .body", "a JSON object a line"],
    ["dmq listen --exec ./page.sh alerts", "a command answers: its exit code is the status, its stdout the body"],
    ['dmq listen --reply "$(uptime)" uptime', "the same answer for all, to those who ask for a body"],
  ],
  positionals: [{ name: "CHANNEL", required: true, repeatable: true, help: "name of a channel" }],
  options: [
    ...LIMIT_OPTIONS,
    { flag: "exec", value: "CMD", help: "answer by a command: exit 0 is 200, 75 is 503, anything else 500" },
    { flag: "reply", value: "BODY", help: "answer 200 with this body; - is standard input" },
    { flag: "reply-file", value: "FILE", help: "answer 200 with what stands in a file" },
    { flag: "status", value: "CODE", help: "with --reply: this status instead of 200" },
    { flag: "content-type", short: "T", value: "TYPE", help: "media type of the answer's body (text/plain)" },
    ...FORM_OPTIONS,
  ],
  notes: [
    "line: TIME CHANNEL FROM CONTENT_TYPE BODY; control characters and what is not UTF-8 are escaped as \\n or \\xHH.",
    "With --exec the messages are printed only with --plain or --json. CMD runs once for each message, one after the other:",
    "body on standard input, facts in DMQ_* variables, its stderr on ours. A body goes out only to who asks for one (Accept).",
  ],
  exits: [...LIMIT_EXITS, [EXIT.no, "the channel is answered already"], [EXIT.command, "a command of --exec failed"]],
  seeAlso: ["dmq req", "dmq serve --on", "dmq wait channel=NAME"],
  async run(context, args) {
    const limits = readLimits(args);
    const write = writerFor(context, args);
    const client = connectDaemon(context, args);
    const path = `/listen?${args.positionals.map((name) => `channel=${encodeURIComponent(checkChannelName(name))}`).join("&")}`;
    const isAnswering = [...ANSWERS, "status", "content-type"].some((flag) => args.has(flag));
    if (!isAnswering) return readStream(context, client, path, limits, (line) => write(line as MessageEvent));
    const { answer, readReplies } = await import("./answer.ts");
    const reply = await readReplies(context, args, client);
    const isPrinted = !args.has("exec") || args.has("plain") || args.has("json");
    return answer({ context, client, path, limits, reply, write: isPrinted ? write : () => undefined });
  },
};

function writerFor(context: CliContext, args: Arguments): (message: MessageEvent) => void {
  const form = formOf(context, args);
  if (form === "json") return (message) => writeJson(context, message);
  const separator = form === "plain" ? "\t" : "  ";
  return (message) => context.stdout(`${columnsOf(message).join(separator)}\n`);
}

function columnsOf(message: MessageEvent): Cell[] {
  const words = [message.time, message.channel, message.node ?? message.from, message.content_type ?? "-"];
  return [...words.map((word) => printableBytes(new TextEncoder().encode(word))), printableBytes(octetsOf(message))];
}
