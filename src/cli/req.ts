import { UsageError } from "../core/errors.ts";
import type { DeliveryResult } from "../rpc/surface.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS, quoted } from "./command.ts";
import { VIA_OPTIONS, withCaller } from "./connect.ts";
import type { CliContext } from "./context.ts";
import { exitOfBroadcast, exitOfDelivery, type Requirement } from "./exit.ts";
import {
  BODY_NOTE,
  BROADCAST_OPTIONS,
  checkUri,
  DELIVERY_HEADER,
  deliver,
  deliveryCells,
  encodeBody,
  MESSAGE_EXITS,
  MESSAGE_OPTIONS,
  readInteger,
  readMediaType,
  readMessage,
  readRequirement,
  sayCauses,
  sayNobody,
  silent,
} from "./message.ts";
import { type Cell, formOf, printable, writeJson, writeRows } from "./output.ts";

const REPLIES_MAX = 1_000_000;

const LF = 0x0a;

export const req: CommandSpec = {
  name: "req",
  summary: "ask one node, or all of them, and print what they answer",
  examples: [
    ["dmq req uptime sip:192.0.2.2:5060", "prints the body of the answer, octet by octet"],
    ["dmq req --all uptime", "a line NODE CODE REASON MS BODY for each node"],
    ["dmq req --all --replies 1 --timeout 2s who-has 'item 7'", "the first answer is enough"],
    ["dmq req --accept application/json state sip:192.0.2.2:5060 | jq .", "says what answer is wanted"],
  ],
  positionals: [
    { name: "CHANNEL", required: true, help: "name of the channel" },
    { name: "NODE", required: false, help: "SIP URI of the node, as `dmq list` shows it; not with --all" },
    { name: "BODY", required: false, help: "text, or - for standard input" },
  ],
  options: [
    { flag: "all", help: "ask every active node but this one" },
    { flag: "replies", value: "N", help: "with --all: N answers are enough, the others are not waited for" },
    { flag: "accept", value: "TYPE", help: "media type that the answer may have (*/*)" },
    ...BROADCAST_OPTIONS,
    ...MESSAGE_OPTIONS,
    ...VIA_OPTIONS,
    ...FORM_OPTIONS,
  ],
  notes: [
    BODY_NOTE,
    "The answer of one node is printed as it is; nothing is printed if it has no body. With --all the bodies are escaped as",
    "\\n or \\xHH; with --json each result has its body, or body_base64 where it is no UTF-8.",
  ],
  exits: [
    [0, "the node said 2xx, with a body or without; with --all: enough nodes did, or N with --replies"],
    [1, "none did, and not all for the same reason; else the code of that reason"],
    ...MESSAGE_EXITS.slice(0, 1),
    [3, "no such node, no active node, no such channel there (404), or 202 with --require-consumer"],
    ...MESSAGE_EXITS.slice(1),
    [7, "with --all: some did, not enough"],
  ],
  seeAlso: ["dmq listen", "dmq send", "dmq bcast"],
  run: (context, args) => (args.has("all") ? askAll(context, args) : askOne(context, args)),
};

async function askOne(context: CliContext, args: Arguments): Promise<number> {
  const [channel, uri, body] = args.positionals as [string, string | undefined, string | undefined];
  if (uri === undefined) throw new UsageError("missing argument NODE; --all asks every active node");
  for (const flag of ["replies", "require", "except"]) {
    if (args.has(flag)) throw new UsageError(`--${flag} goes with --all`);
  }
  const node = checkUri("NODE", uri);
  const params = { ...(await readMessage(context, args, channel, body)), accept: acceptOf(args), node };
  const result = await withCaller(context, args, (caller) => deliver<DeliveryResult>(caller, "dmq.send", params));
  if (result === undefined) return silent(context);
  const exit = exitOfDelivery(result, args.has("require-consumer"));
  if (args.has("json")) writeJson(context, withBody(result));
  else if (result.outcome === "delivered") writeAnswer(context, bodyOf(result));
  else if (result.code !== null)
    context.stderr(`dmq: ${printable(`${result.node}: ${result.code} ${result.reason}`)}\n`);
  sayCauses(context, args, [result], exit);
  return exit;
}

async function askAll(context: CliContext, args: Arguments): Promise<number> {
  const [channel, body, extra] = args.positionals as [string, string | undefined, string | undefined];
  if (extra !== undefined) throw new UsageError(`unexpected argument ${quoted(extra)}: --all takes no NODE`);
  const except = args.all("except").map((node) => checkUri("--except", node));
  const replies = readInteger(args, "replies", 1, REPLIES_MAX);
  const requirement = requirementOf(args, replies);
  const message = await readMessage(context, args, channel, body);
  const params = { ...message, accept: acceptOf(args), except, ...(replies !== undefined && { replies }) };
  const results = await withCaller(context, args, (caller) => deliver<DeliveryResult[]>(caller, "dmq.bcast", params));
  if (results === undefined) return silent(context);
  const form = formOf(context, args);
  if (form === "json") writeJson(context, results.map(withBody));
  else writeRows(context, form, results.length > 0 ? [...DELIVERY_HEADER, "BODY"] : [], results.map(answerCells));
  const exit = exitOfBroadcast(results, requirement, args.has("require-consumer"));
  const told = replies === undefined ? results : results.filter(({ outcome }) => outcome !== "cancelled");
  sayCauses(context, args, told, exit);
  if (results.length === 0) sayNobody(context, except.length);
  return exit;
}

function acceptOf(args: Arguments): string {
  return readMediaType(args, "accept") ?? "*/*";
}

/** With `--replies N` the others are given up, so that N is what was asked for. */
function requirementOf(args: Arguments, replies: number | undefined): Requirement {
  const text = args.value("require");
  if (text === undefined && replies !== undefined) return { type: "count", count: replies };
  return readRequirement(text ?? "all");
}

function bodyOf(result: DeliveryResult): Uint8Array {
  return Buffer.from(result.body_base64 ?? "", "base64");
}

/** A shell's prompt would stand behind an answer without a line end; in a pipe nothing is added. */
function writeAnswer(context: CliContext, body: Uint8Array): void {
  if (body.length === 0) return;
  context.stdout(body);
  if (context.isTty.stdout && body.at(-1) !== LF) context.stdout("\n");
}

function answerCells(result: DeliveryResult): Cell[] {
  return [...deliveryCells(result), bodyOf(result)];
}

/** As `MessageEvent` has it: `body` is null where there is none, or where it is no UTF-8 and `body_base64` has it. */
function withBody(result: DeliveryResult): object {
  const { body_base64, ...rest } = result;
  if (body_base64 === undefined) return { ...rest, body: null };
  const body = encodeBody(Buffer.from(body_base64, "base64"));
  return "body" in body ? { ...rest, ...body } : { ...rest, body: null, ...body };
}
