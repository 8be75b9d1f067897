import { concatBytes, encodeUtf8 } from "../../core/bytes.ts";
import { UsageError } from "../../core/errors.ts";
import type { CommandSpec } from "../command.ts";
import { EXIT } from "../exit.ts";
import { readCount } from "../stream.ts";
import { ITEM_OPTIONS, readForm } from "./form.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS } from "./queues.ts";
import { QUEUE_EXITS, queueName } from "./words.ts";

const SHOWN_MAX = 10_000;

export const peek: CommandSpec = {
  name: "queue peek",
  summary: "show the oldest items without taking them",
  examples: [
    ["dmq queue peek alert", "the one that fetch would give"],
    ["dmq queue peek alert -n 100 --json", "the first hundred, delayed ones among them"],
    ["dmq queue peek alert --key 192.0.2.1:5060", "of this key"],
  ],
  positionals: [{ name: "QUEUE", required: true, help: "name of the queue" }],
  options: [
    { flag: "count", short: "n", value: "COUNT", help: `that many items at most (1; ${SHOWN_MAX} at most)` },
    { flag: "key", value: "KEY", help: "only items of this key" },
    ...ITEM_OPTIONS,
    ...QUEUES_OPTIONS,
  ],
  exits: [...QUEUE_EXITS, [EXIT.ok, "there was one"], [EXIT.no, "there was none"]],
  seeAlso: ["dmq queue fetch", "dmq queue size"],
  async run(context, args) {
    const queue = queueName(args.positionals[0] as string);
    const count = readCount(args, "count", 1);
    if (count > SHOWN_MAX) throw new UsageError(`--count ${count}: at most ${SHOWN_MAX} are shown`);
    const form = readForm(args);
    const key = args.value("key");
    const items = await withQueues(context, args, (queues) =>
      queues.perform({ type: "peek", queue, count, ...(key !== undefined && { key }) }),
    );
    const parts = items.map((item) => form(item, false));
    context.stdout(concatBytes(parts.map((part) => (typeof part === "string" ? encodeUtf8(part) : part))));
    return items.length > 0 ? EXIT.ok : EXIT.no;
  },
};
