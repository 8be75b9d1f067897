import type { CommandSpec } from "./command.ts";
import { DELIVERY_NOTES, DELIVERY_OPTIONS, sendOut } from "./delivery.ts";
import { exitOfBroadcast } from "./exit.ts";
import { BROADCAST_OPTIONS, checkUri, MESSAGE_EXITS, readRequirement, SPOOL_EXIT } from "./message.ts";

export const bcast: CommandSpec = {
  name: "bcast",
  summary: "send a message to every active node but this one, and say how each answered",
  examples: [
    ["dmq bcast channel1 'hello'", "a line NODE CODE REASON MS for each node, exits 0 if all said 2xx"],
    ["dmq bcast --require 50% channel1 'hello'", "exits 0 if half of them did"],
    ["dmq bcast --except sip:192.0.2.2:5060 channel1 'hello'", "to all others"],
    ["dmq bcast --timeout 2s --retry 3 --require any alerts 'disk full' || page-me", "for a crontab"],
    [
      "dmq bcast --spool=1h alerts 'disk full'",
      "those that are down, or forgotten within a day, have it when they are back within the hour",
    ],
    ["tail -f events.log | dmq bcast -l channel1", "each line is a message"],
    ["dmq bcast --via sip:192.0.2.1:5060 channel1 'hello'", "without a daemon: to the nodes that this one lists"],
  ],
  positionals: [
    { name: "CHANNEL", required: true, help: "name of the channel" },
    { name: "BODY", required: false, help: "text, or - for standard input" },
  ],
  options: [...BROADCAST_OPTIONS, ...DELIVERY_OPTIONS],
  notes: DELIVERY_NOTES,
  exits: [
    [0, "enough nodes said 2xx"],
    [1, "none did, and not all for the same reason; else the code of that reason"],
    ...MESSAGE_EXITS.slice(0, 1),
    [3, "no active node to address, no such channel there (404), or 202 with --require-consumer"],
    ...MESSAGE_EXITS.slice(1),
    [7, "some did, not enough for --require; with -l: some lines were delivered, and some were not"],
    SPOOL_EXIT,
  ],
  seeAlso: ["dmq send", "dmq req", "dmq list"],
  ownSignals: (args) => args.has("lines"),
  run: async (context, args) => {
    const [channel, body] = args.positionals as [string, string | undefined];
    const requirement = readRequirement(args.value("require") ?? "all");
    const to = { except: args.all("except").map((node) => checkUri("--except", node)) };
    return sendOut(context, args, {
      ...{ method: "dmq.bcast", channel, body, to },
      exitOf: (results, needsConsumer) => exitOfBroadcast(results, requirement, needsConsumer),
    });
  },
};
