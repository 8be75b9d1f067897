import { type Consumed, consume } from "../../consume/consumer.ts";
import type { Supply } from "../../consume/supply.ts";
import { concatBytes, encodeUtf8 } from "../../core/bytes.ts";
import { UsageError } from "../../core/errors.ts";
import { parseDuration } from "../../core/time.ts";
import type { Item } from "../../queue/operation.ts";
import { RECONNECT_MS } from "../absence.ts";
import { type Arguments, type CommandSpec, quoted, sayable } from "../command.ts";
import type { CliContext } from "../context.ts";
import { Ending } from "../ending.ts";
import { EXIT } from "../exit.ts";
import { readInteger } from "../message.ts";
import { readCount } from "../stream.ts";
import { type Form, ITEM_OPTIONS, readForm } from "./form.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS, type Queues } from "./queues.ts";
import { QUEUE_EXITS, queueName, readSpan } from "./words.ts";

/** Leases of items that are being printed or handled; they are renewed until that ends. */
const LEASE_MS = 60_000;

/** Items that are printed in one piece, before they are settled. */
const PRINTED_MAX = 32;

/** Each has a stream of the daemon's while it is at work. */
const JOBS_MAX = 64;
const BATCH_MAX = 1_000;

/** What running handlers have when the consumer is told to stop. */
const GRACE_MS = 10_000;
const TIMEOUT_MS = 60_000;

export const fetchItems: CommandSpec = {
  name: "queue fetch",
  summary: "take the oldest items: printed, then taken off; or handled by a command, and taken off when it ends with 0",
  examples: [
    ["dmq queue fetch alert", "KEY<TAB>VALUE; exit 1 if there is none"],
    ['while eval "$(dmq queue fetch alert --sh || echo break)"; do echo "$DMQ_KEY"; done', "one by one, in a shell"],
    ["dmq queue fetch alert --wait 10s --json", "the next one, within ten seconds"],
    ["dmq queue fetch alert --follow --exec 'logger \"src [$DMQ_KEY] - $(cat)\"'", "a command for each item, for ever"],
    ["dmq queue fetch jobs --all --exec ./work.sh --jobs 4", "in cron: all there is, four at a time"],
    ["dmq queue fetch jobs --lease 5m", "ID<TAB>KEY<TAB>VALUE; dmq queue ack ID settles it, or it comes back"],
  ],
  positionals: [
    { name: "QUEUE", required: true, help: "name of the queue" },
    { name: "ARG", required: false, repeatable: true, help: "of the command of --exec; those with a dash behind --" },
  ],
  options: [
    {
      flag: "wait",
      value: "DURATION",
      optionalValue: (word) => parseDuration(word) !== undefined,
      help: "wait for an item, for ever without a DURATION",
    },
    { flag: "count", short: "n", value: "COUNT", help: "that many items at most (1)" },
    { flag: "all", help: "until there is no ready item" },
    { flag: "follow", help: "for ever, as items come" },
    {
      flag: "reconnect",
      value: "DURATION",
      help: "with --follow: wait so long for a daemon that went away, 0 not at all (10m)",
    },
    { flag: "lease", value: "DURATION", help: "only lease them: who does not settle one in time loses it to the next" },
    { flag: "no-ack", help: "take off first, print after: at most once, as Kamailio's mq_fetch" },
    ...ITEM_OPTIONS,
    { flag: "exec", value: "CMD", help: "run CMD for each item: by sh -c, or as it is if there are ARGs" },
    { flag: "timeout", value: "DURATION", help: "with --exec: what CMD may take (60s)" },
    { flag: "jobs", value: "N", help: "with --exec: that many at a time (1)" },
    {
      flag: "order-by",
      value: "key|json:PATH",
      help: "with --exec: items of one key, or with the same text at PATH of a JSON value, one after the other",
    },
    { flag: "batch", value: "N", help: "with --exec: up to N items for one CMD, as JSON lines" },
    ...QUEUES_OPTIONS,
  ],
  notes: [
    "A line is KEY<TAB>VALUE with \\t \\n \\r \\\\ for what would break it, and \\xHH for control characters and what is no UTF-8.",
    "An item is taken off when it was written; if its reader is gone, or this command is killed before, it is there again. With --follow",
    "it waits for a daemon that went away, which stderr says, and goes on; what was not settled comes again.",
    "CMD has the value on standard input and DMQ_QUEUE, DMQ_ID, DMQ_KEY, DMQ_TRIES, DMQ_ADDED, DMQ_CONTENT_TYPE, DMQ_FROM, DMQ_CHANNEL,",
    "DMQ_HEADER_*. It ends with 0: done; 65, 66 or 100: dead letter; 75: tried again, which does not count for an hour; 126, 127: the",
    "consumer ends; anything else, a signal or --timeout: tried again, a dead letter after max-tries. At SIGTERM running ones have 10 s.",
  ],
  exits: [
    ...QUEUE_EXITS,
    [EXIT.ok, "there was at least one, and all were printed or handled"],
    [EXIT.no, "there was none, also after --wait DURATION"],
    [EXIT.command, "CMD failed for an item, or cannot be run at all; with --follow only the latter"],
    [EXIT.interrupted, "interrupted: what was not settled is given back"],
    [EXIT.terminated, "terminated, likewise"],
  ],
  seeAlso: ["dmq queue add", "dmq queue ack", "dmq queue dead"],
  ownSignals: true,
  run: runFetch,
};

interface Request {
  queue: string;
  count: number;
  waitMs: number;
  /** For a daemon that is gone. */
  reconnectMs: number;
  leaseMs: number | undefined;
  form: Form;
  /** Program and arguments. */
  argv: readonly string[] | undefined;
  timeoutMs: number;
  jobs: number;
  batch: number;
  orderBy: string | undefined;
}

const EXEC_ONLY = ["timeout", "jobs", "order-by", "batch"] as const;

function readRequest(args: Arguments): Request {
  const [name, ...words] = args.positionals as [string, ...string[]];
  exclude(args, "all", "follow", "count");
  exclude(args, "wait", "follow", "all");
  exclude(args, "exec", "lease", "no-ack", "json", "sh", "raw", "format");
  exclude(args, "lease", "no-ack", "all", "follow");
  const command = args.value("exec");
  const alone = [...EXEC_ONLY.filter((flag) => args.has(flag)).map((flag) => `--${flag}`), ...words.map(quoted)][0];
  if (args.has("reconnect") && !args.has("follow")) throw new UsageError("--reconnect goes with --follow");
  if (command === undefined && alone !== undefined) throw new UsageError(`${alone} goes with --exec CMD`);
  return {
    queue: queueName(name),
    count: args.has("all") || args.has("follow") ? Number.POSITIVE_INFINITY : readCount(args, "count", 1),
    waitMs: readWait(args),
    reconnectMs: readSpan(args, "reconnect", 0) ?? RECONNECT_MS,
    leaseMs: readSpan(args, "lease", 1),
    form: readForm(args),
    argv: command === undefined ? undefined : words.length > 0 ? [command, ...words] : ["sh", "-c", command],
    timeoutMs: readSpan(args, "timeout", 1, 2 ** 31 - 1) ?? TIMEOUT_MS,
    jobs: readInteger(args, "jobs", 1, JOBS_MAX) ?? 1,
    batch: readInteger(args, "batch", 1, BATCH_MAX) ?? 1,
    orderBy: readOrder(args),
  };
}

/** @throws UsageError where the first is given with one of the others, or two of those that follow a `count` */
function exclude(args: Arguments, first: string, ...others: readonly string[]): void {
  const other = args.has(first) ? others.find((flag) => args.has(flag)) : undefined;
  if (other !== undefined) throw new UsageError(`--${first} and --${other} exclude each other`);
}

function readWait(args: Arguments): number {
  if (args.has("follow")) return Number.POSITIVE_INFINITY;
  const text = args.value("wait");
  if (text === undefined) return 0;
  return text === "" ? Number.POSITIVE_INFINITY : (readSpan(args, "wait", 0) as number);
}

function readOrder(args: Arguments): string | undefined {
  const text = args.value("order-by");
  if (text === undefined || text === "key" || /^json:[^.]+(\.[^.]+)*$/.test(text)) return text;
  throw new UsageError(`--order-by ${quoted(text)}: expected key, or json:PATH such as json:call.id`);
}

async function runFetch(context: CliContext, args: Arguments): Promise<number> {
  const request = readRequest(args);
  if (args.has("follow") && args.has("count")) throw new UsageError("--follow and --count exclude each other");
  const stop = new Ending(context);
  try {
    return await withQueues(context, args, (queues) => {
      if (request.leaseMs !== undefined) return leaseOnly(context, queues, request, request.leaseMs, stop);
      return work(context, args, queues, request, stop);
    });
  } finally {
    stop.end();
  }
}

/** They stay leased when this command ends. */
async function leaseOnly(
  context: CliContext,
  queues: Queues,
  { queue, count, waitMs, form }: Request,
  leaseMs: number,
  stop: Ending,
): Promise<number> {
  const deadline = performance.now() + waitMs;
  let taken = 0;
  while (taken < count && !stop.signal.aborted) {
    const left = Math.max(0, deadline - performance.now());
    const lease = { queue, count: Math.min(PRINTED_MAX, count - taken), leaseMs, waitMs: left };
    const items = await queues.lease(lease, stop.signal);
    if (items.length === 0) break;
    await print(context, items, form, true);
    taken += items.length;
  }
  return stop.exitOr(taken > 0 || context.outputClosed.aborted ? EXIT.ok : EXIT.no);
}

async function work(
  context: CliContext,
  args: Arguments,
  queues: Queues,
  request: Request,
  stop: Ending,
): Promise<number> {
  const { queue, argv, orderBy } = request;
  const supplied = { queue, leaseMs: LEASE_MS, ...(orderBy === "key" && { orderByKey: true }) };
  const supply = await patient(context, args, queues, queues.supply(supplied), request, stop);
  try {
    if (argv === undefined) return await printAll(context, supply, request, args.has("no-ack"), stop);
    return await handleAll(context, args, queues, supply, { ...request, argv }, stop);
  } finally {
    await supply.end();
  }
}

/** A follower outlives its daemon. */
async function patient(
  context: CliContext,
  args: Arguments,
  { socketPath }: Queues,
  supply: Supply,
  { reconnectMs }: Request,
  stop: Ending,
): Promise<Supply> {
  if (!args.has("follow") || socketPath === undefined || reconnectMs === 0) return supply;
  const { PatientSupply } = await import("./patient.ts");
  const say = (text: string): void => context.stderr(`dmq: warning: ${sayable(text)}\n`);
  return new PatientSupply(supply, { socketPath, ms: reconnectMs, stop: stop.signal, say });
}

async function printAll(
  context: CliContext,
  supply: Supply,
  { count, waitMs, form }: Request,
  isTakenFirst: boolean,
  stop: Ending,
): Promise<number> {
  const deadline = performance.now() + waitMs;
  const { signal } = stop;
  let taken = 0;
  while (taken < count && !signal.aborted) {
    const left = Math.max(0, deadline - performance.now());
    const items = await supply.next({ max: Math.min(PRINTED_MAX, count - taken), waitMs: left, signal });
    if (items.length === 0) break;
    if (isTakenFirst) await supply.ack(items);
    await print(context, items, form, false);
    // Nobody read them: they are given back.
    if (context.outputClosed.aborted) break;
    if (!isTakenFirst) await supply.ack(items);
    taken += items.length;
  }
  return stop.exitOr(taken > 0 || context.outputClosed.aborted ? EXIT.ok : EXIT.no);
}

async function print(context: CliContext, items: readonly Item[], form: Form, leased: boolean): Promise<void> {
  const parts = items.map((item) => form(item, leased));
  context.stdout(concatBytes(parts.map((part) => (typeof part === "string" ? encodeUtf8(part) : part))));
  await context.stdoutDrained();
}

// --- commands -----------------------------------------------------------------------------------------------------------

async function handleAll(
  context: CliContext,
  args: Arguments,
  queues: Queues,
  supply: Supply,
  request: Request & { argv: readonly string[] },
  stop: Ending,
): Promise<number> {
  const { commandHandler } = await import("../../consume/command.ts");
  const { jsonPath } = await import("../../consume/order.ts");
  const { argv, batch, count, jobs, orderBy, timeoutMs, waitMs } = request;
  const handle = commandHandler({
    argv,
    timeoutMs,
    batch: args.has("batch"),
    variables: queues.socketPath === undefined ? {} : { DMQ_SOCKET: queues.socketPath },
    onStdout: (chunk) => context.stdout(chunk),
    onStderrLine: (line) => context.stderr(`${line}\n`),
  });
  const consumed = await consume({
    ...{ supply, handle, jobs, batch, count, waitMs, stop: stop.signal, graceMs: GRACE_MS },
    ...(orderBy?.startsWith("json:") && { orderBy: jsonPath(orderBy.slice("json:".length)) }),
    onFailure: (item, why, became) =>
      context.stderr(`dmq: item ${item.seq} of ${item.queue}: the command ${why}; ${FATES[became](item)}\n`),
  });
  return stop.exitOr(exitOf(consumed, args.has("follow")));
}

const FATES: Record<"retried" | "dead" | "lost" | "back", (item: Item) => string> = {
  retried: () => "it is tried again",
  dead: ({ queue, seq }) => `it is a dead letter now: dmq queue dead ${queue} show ${seq}`,
  lost: () => "its lease had run out, so somebody else has it",
  back: () => "it is given back, and nothing more is taken",
};

function exitOf({ done, failed, unable }: Consumed, isEndless: boolean): number {
  if (unable !== undefined || (failed > 0 && !isEndless)) return EXIT.command;
  return done > 0 || isEndless ? EXIT.ok : EXIT.no;
}
