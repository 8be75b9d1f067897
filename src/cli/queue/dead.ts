import { deadRow } from "../../consume/row.ts";
import { UsageError } from "../../core/errors.ts";
import { QueueError } from "../../queue/error.ts";
import type { DeadItem } from "../../queue/operation.ts";
import { choose } from "../choice.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS, quoted } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT } from "../exit.ts";
import { type Cell, formOf, writeJson, writeResult } from "../output.ts";
import { readCount } from "../stream.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS, type Queues } from "./queues.ts";
import { escapedOctets, escapedText, queueExits, queueName } from "./words.ts";

const ACTIONS = ["list", "show", "retry", "drop"] as const;

const SHOWN = 100;
const SHOWN_MAX = 10_000;

export const dead: CommandSpec = {
  name: "queue dead",
  summary: "what could not be handled, and why; put back, or dropped",
  examples: [
    ["dmq queue dead jobs list", "ID DIED TRIES REASON KEY VALUE"],
    ["dmq queue dead jobs show 17", "all of it, with the last 4 KiB of its command's stderr"],
    ["dmq queue dead jobs retry 17 18", "back into the queue, as if new; --all for all of them"],
    ["dmq queue dead jobs drop --all", "forget them"],
  ],
  positionals: [
    { name: "QUEUE", required: true, help: "name of the queue, without .dead" },
    { name: "list|show|retry|drop", required: true, choices: ACTIONS, help: "what to do" },
    { name: "ID", required: false, repeatable: true, help: "number of a dead letter, as list prints it" },
  ],
  options: [
    { flag: "all", help: "of retry and drop: all dead letters" },
    { flag: "count", short: "n", value: "COUNT", help: `of list: that many at most (${SHOWN}; ${SHOWN_MAX} at most)` },
    ...FORM_OPTIONS,
    ...QUEUES_OPTIONS,
  ],
  notes: [
    "retry and drop print how many. REASON is exit N, the name of a signal, timeout, nack, overflow, expired, lease-lost and the like.",
  ],
  exits: queueExits(
    [EXIT.ok, "done; with list there was one"],
    [EXIT.no, "list: there is none"],
    [EXIT.notFound, "no such queue, or dead letter: then none was put back or dropped"],
    [EXIT.refused, "retry: the queue is full, and none was put back"],
  ),
  seeAlso: ["dmq queue fetch --exec", "dmq queue nack", "dmq queue stats"],
  async run(context, args) {
    const [name, word, ...ids] = args.positionals as [string, string, ...string[]];
    const queue = queueName(name);
    const action = choose("action", word, ACTIONS);
    const seqs = ids.map(readSeq);
    checkUse(args, action, seqs);
    return withQueues(context, args, (queues) => {
      if (action === "list") return listAll(context, args, queues, queue);
      if (action === "show") return show(context, args, queues, queue, seqs[0] as number);
      return change(context, queues, queue, action, args.has("all") ? "all" : seqs);
    });
  },
};

function readSeq(word: string): number {
  if (/^[1-9]\d{0,14}$/.test(word)) return Number(word);
  throw new UsageError(`${quoted(word)} is no number of a dead letter, such as 17`);
}

function checkUse(args: Arguments, action: (typeof ACTIONS)[number], seqs: readonly number[]): void {
  const isChange = action === "retry" || action === "drop";
  if (args.has("all") && !isChange) throw new UsageError(`--all belongs to retry and drop, not to ${action}`);
  if (args.has("count") && action !== "list") throw new UsageError(`--count belongs to list, not to ${action}`);
  if (action === "list" && seqs.length > 0)
    throw new UsageError("list takes no ID; dmq queue dead QUEUE show ID has one");
  if (action === "show" && seqs.length !== 1) throw new UsageError("show takes one ID: dmq queue dead QUEUE show ID");
  if (isChange && args.has("all") === seqs.length > 0)
    throw new UsageError(`${action} takes IDs, or --all: dmq queue dead QUEUE ${action} ID`);
}

async function listAll(context: CliContext, args: Arguments, queues: Queues, queue: string): Promise<number> {
  const count = readCount(args, "count", SHOWN);
  if (count > SHOWN_MAX) throw new UsageError(`--count ${count}: at most ${SHOWN_MAX} are shown`);
  const items = await queues.perform({ type: "dead", queue, count });
  const form = formOf(context, args);
  // Key and value are escaped here, so that what is no UTF-8 is told from what only looks so.
  if (form === "plain") context.stdout(items.map((item) => `${line(item)}\n`).join(""));
  else
    writeResult(context, form, items.map(deadRow), items.map(cells), ["ID", "DIED", "TRIES", "REASON", "KEY", "VALUE"]);
  return items.length > 0 ? EXIT.ok : EXIT.no;
}

function line(item: DeadItem): string {
  const words = [item.seq, new Date(item.diedAt).toISOString(), item.tries, escapedText(item.reason)];
  return [...words, escapedText(item.key), escapedOctets(item.value)].join("\t");
}

const SHOWN_CHARS = 60;

/** On a terminal long values are cut. */
function cells({ seq, diedAt, tries, reason, key, value }: DeadItem): Cell[] {
  const isLong = value.length > SHOWN_CHARS;
  const shown = value.subarray(0, SHOWN_CHARS);
  const rest = isLong ? new TextEncoder().encode("...") : new Uint8Array(0);
  return [seq, new Date(diedAt).toISOString(), tries, reason, key, Buffer.concat([shown, rest])];
}

async function show(context: CliContext, args: Arguments, queues: Queues, queue: string, seq: number): Promise<number> {
  const [item] = await queues.perform({ type: "dead", queue, count: 1, seq });
  if (item === undefined) throw new QueueError("no-such-item", `no dead letter ${seq} in queue ${queue}`);
  if (args.has("json")) {
    writeJson(context, deadRow(item));
    return EXIT.ok;
  }
  const { value: _, value_base64: __, headers, ...row } = deadRow(item);
  const facts = Object.entries(row).map(([name, value]): string => `${name}\t${escapedText(String(value ?? "-"))}\n`);
  for (const [name, value] of Object.entries(headers)) facts.push(`header ${name}\t${escapedText(value)}\n`);
  context.stdout(`${facts.join("")}value\t${escapedOctets(item.value)}\n`);
  return EXIT.ok;
}

async function change(
  context: CliContext,
  queues: Queues,
  queue: string,
  action: "retry" | "drop",
  seqs: readonly number[] | "all",
): Promise<number> {
  const type = action === "retry" ? "retry-dead" : "drop-dead";
  context.stdout(`${await queues.perform({ type, queue, seqs })}\n`);
  return EXIT.ok;
}
