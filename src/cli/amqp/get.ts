/** `dmq amqp get`: one message of a broker's queue, for those who poll. */
import { TIMEOUT_MS } from "../../amqp/desk.ts";
import type { DeliveryRow } from "../../amqp/json.ts";
import { choose } from "../choice.ts";
import type { CommandSpec } from "../command.ts";
import { EXIT } from "../exit.ts";
import { readTimeout } from "../message.ts";
import { BROKER_NOTES, BROKER_OPTIONS, brokerExits, withBrokers } from "./brokers.ts";
import { ask, octetsOf, shortText } from "./message.ts";
import { printOne } from "./query.ts";

const ACKS = ["after", "receipt"] as const;

export const get: CommandSpec = {
  name: "amqp get",
  summary: "take one message off a queue of the broker's and print its body; exit 1 if there is none",
  examples: [
    ["dmq amqp get orders >order.json", "the body, octet by octet; it is off the queue when it is written"],
    ["dmq amqp get orders --json", "with its properties"],
    ["while dmq amqp get orders; do echo; done", "all there is; dmq amqp consume is made for more than that"],
  ],
  positionals: [{ name: "QUEUE", required: true, help: "name of the queue" }],
  options: [
    { flag: "ack", value: "after|receipt", choices: ACKS, help: "acknowledge after it is written, or before (after)" },
    { flag: "timeout", value: "DURATION", help: "give up after that long (10s)" },
    { flag: "json", help: "as JSON, with its properties" },
    ...BROKER_OPTIONS,
  ],
  notes: [
    "With --ack after, a message is in its queue again if this command is ended before it has written it.",
    ...BROKER_NOTES,
  ],
  exits: brokerExits(
    [EXIT.ok, "there was one"],
    [EXIT.no, "the queue is empty"],
    [EXIT.notFound, "no such queue"],
    [EXIT.refused, "no right to, or the queue is another's alone"],
    [EXIT.timeout, "no answer in time, or it could not be acknowledged: it comes again"],
  ),
  seeAlso: ["dmq amqp consume", "dmq amqp purge"],
  async run(context, args) {
    const queue = shortText("QUEUE", args.positionals[0] as string);
    const ack = choose("--ack", args.value("ack") ?? "after", ACKS);
    const timeoutMs = readTimeout(args.value("timeout")) ?? TIMEOUT_MS;
    return withBrokers(context, args, async (brokers) => {
      const row = await ask<DeliveryRow | null>(brokers, "amqp.get", { queue, ack, timeout_ms: timeoutMs }, timeoutMs);
      if (row === null) return EXIT.no;
      const { id, ...shown } = row;
      if (args.has("json")) context.stdout(`${JSON.stringify(shown)}\n`);
      else printOne(context, octetsOf(row));
      await context.stdoutDrained();
      if (id === undefined) return EXIT.ok;
      // Nobody read it: it goes back.
      const how = context.outputClosed.aborted ? "requeue" : "ack";
      const settled = await ask<number>(brokers, "amqp.settle", { ids: [id], how }, timeoutMs);
      if (settled > 0) return EXIT.ok;
      context.stderr("dmq: it could not be acknowledged any more: it comes again\n");
      return EXIT.timeout;
    });
  },
};
