import type { DeliveryResult } from "../rpc/surface.ts";
import { type CommandSpec, FORM_OPTIONS } from "./command.ts";
import { VIA_OPTIONS, withCaller } from "./connect.ts";
import { exitOfBroadcast } from "./exit.ts";
import {
  BODY_NOTE,
  BROADCAST_OPTIONS,
  checkLines,
  checkUri,
  deliver,
  LINES_NOTE,
  LINES_OPTION,
  MESSAGE_EXITS,
  MESSAGE_OPTIONS,
  readMessage,
  readOptions,
  readRequirement,
  SPOOL_EXIT,
  SPOOL_NOTE,
  SPOOL_OPTION,
  sayNobody,
  silent,
  writeDeliveries,
} from "./message.ts";

export const bcast: CommandSpec = {
  name: "bcast",
  summary: "send a message to every active node but this one, and say how each answered",
  examples: [
    ["dmq bcast channel1 'hello'", "a line NODE CODE REASON MS for each node, exits 0 if all said 2xx"],
    ["dmq bcast --require 50% channel1 'hello'", "exits 0 if half of them did"],
    ["dmq bcast --except sip:192.0.2.2:5060 channel1 'hello'", "to all others"],
    ["dmq bcast --timeout 2s --retry 3 --require any alerts 'disk full' || page-me", "for a crontab"],
    ["dmq bcast --spool=1h alerts 'disk full'", "those that are down have it when they are back within the hour"],
    ["tail -f events.log | dmq bcast -l channel1", "each line is a message"],
    ["dmq bcast --via sip:192.0.2.1:5060 channel1 'hello'", "without a daemon: to the nodes that this one lists"],
  ],
  positionals: [
    { name: "CHANNEL", required: true, help: "name of the channel" },
    { name: "BODY", required: false, help: "text, or - for standard input" },
  ],
  options: [...BROADCAST_OPTIONS, LINES_OPTION, ...MESSAGE_OPTIONS, SPOOL_OPTION, ...VIA_OPTIONS, ...FORM_OPTIONS],
  notes: [BODY_NOTE, ...LINES_NOTE, ...SPOOL_NOTE],
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
  async run(context, args) {
    const [channel, body] = args.positionals as [string, string | undefined];
    const requirement = readRequirement(args.value("require") ?? "all");
    const except = args.all("except").map((node) => checkUri("--except", node));
    const needsConsumer = args.has("require-consumer");
    const exitOf = (results: readonly DeliveryResult[]): number => exitOfBroadcast(results, requirement, needsConsumer);
    if (args.has("lines")) {
      checkLines(body);
      const params = { ...readOptions(args, channel), except };
      const { sendLines } = await import("./batch.ts");
      return sendLines(context, args, { method: "dmq.bcast", params, needsConsumer, exitOf });
    }
    const params = { ...(await readMessage(context, args, channel, body)), except };
    const results = await withCaller(context, args, (caller) => deliver<DeliveryResult[]>(caller, "dmq.bcast", params));
    if (results === undefined) return silent(context);
    const exit = exitOf(results);
    writeDeliveries(context, args, results, results, exit);
    if (results.length === 0) sayNobody(context, except.length);
    return exit;
  },
};
