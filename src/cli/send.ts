import type { DeliveryResult } from "../rpc/surface.ts";
import type { CommandSpec } from "./command.ts";
import { DELIVERY_NOTES, DELIVERY_OPTIONS, sendOut } from "./delivery.ts";
import { exitOfDelivery } from "./exit.ts";
import { checkUri, MESSAGE_EXITS, SPOOL_EXIT } from "./message.ts";

export const send: CommandSpec = {
  name: "send",
  summary: "send a message to one node, and say how it answered",
  examples: [
    ["dmq send channel1 sip:192.0.2.2:5060 'hello'", "prints NODE CODE REASON MS, exits 0 if the node said 2xx"],
    ["date | dmq send channel1 sip:192.0.2.2:5060 -", "the body from standard input"],
    [
      "dmq send -T application/json -f state.json channel1 sip:192.0.2.2:5060",
      "the body from a file, with its media type",
    ],
    [
      "dmq send --spool channel1 sip:192.0.2.2:5060 'hello'",
      "also if the node is down now: exits 75, and goes out later",
    ],
    ["tail -f events.log | dmq send -l channel1 sip:192.0.2.2:5060", "each line is a message"],
  ],
  positionals: [
    { name: "CHANNEL", required: true, help: "name of the channel" },
    { name: "NODE", required: true, help: "SIP URI of the node, as `dmq list` shows it" },
    { name: "BODY", required: false, help: "text, or - for standard input" },
  ],
  options: DELIVERY_OPTIONS,
  notes: DELIVERY_NOTES,
  exits: [
    [0, "the node said 2xx"],
    ...MESSAGE_EXITS.slice(0, 1),
    [3, "no such node, no such channel there (404), or 202 with --require-consumer"],
    ...MESSAGE_EXITS.slice(1),
    [7, "with -l: some lines were delivered, and some were not"],
    SPOOL_EXIT,
  ],
  seeAlso: ["dmq bcast", "dmq req", "dmq list"],
  ownSignals: (args) => args.has("lines"),
  run: async (context, args) => {
    const [channel, uri, body] = args.positionals as [string, string, string | undefined];
    const to = { node: checkUri("NODE", uri) };
    const exitOf = ([result]: readonly DeliveryResult[], needsConsumer: boolean): number =>
      exitOfDelivery(result as DeliveryResult, needsConsumer);
    return sendOut(context, args, { method: "dmq.send", channel, body, to, exitOf });
  },
};
