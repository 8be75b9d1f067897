/** `dmq queue ack`, `nack` and `extend`: what becomes of items that `dmq queue fetch --lease` gave out. */
import { DmqError, UsageError } from "../../core/errors.ts";
import type { Arguments, CommandSpec, PositionalSpec } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT, exitOfError } from "../exit.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS, type Queues } from "./queues.ts";
import { leaseId, QUEUE_EXITS, readSpan } from "./words.ts";

const IDS: PositionalSpec = {
  name: "ID",
  required: true,
  repeatable: true,
  help: "of a leased item, as fetch --lease printed it; good for one lease",
};

const EXITS = [
  ...QUEUE_EXITS.filter(([code]) => code !== EXIT.notFound),
  [EXIT.ok, "done for all"],
  [EXIT.notFound, "one of them is not leased under this ID any more; the others are done"],
] as const;

const SEE_ALSO = ["dmq queue fetch --lease", "dmq queue dead"];

export const ack: CommandSpec = {
  name: "queue ack",
  summary: "settle leased items: they are done, and taken off",
  examples: [["dmq queue ack 17-1", "the ID that dmq queue fetch --lease printed"]],
  positionals: [IDS],
  options: [...QUEUES_OPTIONS],
  exits: EXITS,
  seeAlso: SEE_ALSO,
  run: (context, args) => each(context, args, (queues, id) => queues.perform({ type: "ack", ids: [id] })),
};

export const nack: CommandSpec = {
  name: "queue nack",
  summary: "give leased items back as failed: tried again after the queue's delay, dead after max-tries",
  examples: [
    ["dmq queue nack 17-1", "ready again after the queue's retry delay"],
    ["dmq queue nack 17-1 --delay 10m", "in ten minutes; 0 is at once, in its old place"],
    ["dmq queue nack 17-1 --dead", "another try would not help"],
  ],
  positionals: [IDS],
  options: [
    { flag: "delay", value: "DURATION", help: "ready again after that long, instead of the queue's delay" },
    { flag: "dead", help: "make it a dead letter at once" },
    ...QUEUES_OPTIONS,
  ],
  exits: EXITS,
  seeAlso: SEE_ALSO,
  async run(context, args) {
    const delayMs = readSpan(args, "delay", 0);
    if (delayMs !== undefined && args.has("dead")) throw new UsageError("--delay and --dead exclude each other");
    const fate = args.has("dead") ? "dead" : delayMs === 0 ? "now" : "retry";
    const failure = { fate, reason: "nack", ...(delayMs !== undefined && { delayMs }) } as const;
    return each(context, args, (queues, id) => queues.perform({ type: "fail", failures: [{ id, ...failure }] }));
  },
};

export const extend: CommandSpec = {
  name: "queue extend",
  summary: "renew the lease of items, from now on",
  examples: [["dmq queue extend 17-1 --lease 5m", "five minutes more"]],
  positionals: [IDS],
  options: [{ flag: "lease", value: "DURATION", help: "how long from now; required" }, ...QUEUES_OPTIONS],
  exits: EXITS,
  seeAlso: SEE_ALSO,
  async run(context, args) {
    const leaseMs = readSpan(args, "lease", 1);
    if (leaseMs === undefined) throw new UsageError("--lease DURATION is missing: dmq queue extend ID --lease 5m");
    return each(context, args, (queues, id) => queues.perform({ type: "extend", ids: [id], leaseMs }));
  },
};

/** One whose lease is over does not keep the others. */
async function each(
  context: CliContext,
  args: Arguments,
  settle: (queues: Queues, id: string) => Promise<unknown>,
): Promise<number> {
  const ids = args.positionals.map(leaseId);
  return withQueues(context, args, async (queues) => {
    let exit: number = EXIT.ok;
    for (const id of ids) {
      try {
        await settle(queues, id);
      } catch (error) {
        if (!(error instanceof DmqError) || exitOfError(error) !== EXIT.notFound) throw error;
        context.stderr(`dmq: ${error.message}\n`);
        exit = EXIT.notFound;
      }
    }
    return exit;
  });
}
