/** `dmq queue move` and `clear`. */
import { UsageError } from "../../core/errors.ts";
import type { CommandSpec } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT } from "../exit.ts";
import { readCount } from "../stream.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS } from "./queues.ts";
import { QUEUE_EXITS, queueName } from "./words.ts";

const MOVED_MAX = 10_000;

export const move: CommandSpec = {
  name: "queue move",
  summary: "move ready items to the end of another queue, all in one transaction, and print how many",
  examples: [
    ["dmq queue move alert archive", "all that are ready"],
    ["dmq queue move alert urgent --key 192.0.2.1:5060", "of this key"],
    ["dmq queue move jobs later -n 100", "the hundred oldest"],
  ],
  positionals: [
    { name: "FROM", required: true, help: "name of a queue" },
    { name: "TO", required: true, help: "name of another queue" },
  ],
  options: [
    { flag: "count", short: "n", value: "COUNT", help: "that many items at most (all)" },
    { flag: "key", value: "KEY", help: "only items of this key" },
    ...QUEUES_OPTIONS,
  ],
  exits: [
    ...QUEUE_EXITS,
    [EXIT.ok, "moved; the number may be 0"],
    [EXIT.refused, "there is not room enough: nothing was moved"],
  ],
  seeAlso: ["dmq queue clear", "dmq queue dead"],
  async run(context, args) {
    const [from, to] = args.positionals.map(queueName) as [string, string];
    if (from === to) throw new UsageError(`FROM and TO are both ${from}`);
    const count = readCount(args, "count", Number.MAX_SAFE_INTEGER);
    if (args.has("count") && count > MOVED_MAX)
      throw new UsageError(`--count ${count}: at most ${MOVED_MAX}; without it, all`);
    const key = args.value("key");
    const moved = await withQueues(context, args, (queues) =>
      queues.perform({ type: "move", from, to, count, ...(key !== undefined && { key }) }),
    );
    return print(context, moved);
  },
};

export const clear: CommandSpec = {
  name: "queue clear",
  summary: "drop all items of a queue that nobody has taken, and print how many",
  examples: [["dmq queue clear alert", "dead letters stay: dmq queue dead alert drop --all"]],
  positionals: [{ name: "QUEUE", required: true, help: "name of the queue" }],
  options: [...QUEUES_OPTIONS],
  exits: [...QUEUE_EXITS, [EXIT.ok, "dropped; the number may be 0"]],
  seeAlso: ["dmq queue drop", "dmq queue dead"],
  async run(context, args) {
    const queue = queueName(args.positionals[0] as string);
    return print(context, await withQueues(context, args, (queues) => queues.perform({ type: "clear", queue })));
  },
};

function print(context: CliContext, count: number): number {
  context.stdout(`${count}\n`);
  return EXIT.ok;
}
