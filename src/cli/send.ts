import type { DeliveryResult } from "../rpc/surface.ts";
import type { CommandSpec } from "./command.ts";
import { FORM_OPTIONS } from "./command.ts";
import { VIA_OPTIONS, withCaller } from "./connect.ts";
import { exitOfDelivery } from "./exit.ts";
import {
  BODY_NOTE,
  checkLines,
  checkUri,
  deliver,
  LINES_NOTE,
  LINES_OPTION,
  MESSAGE_EXITS,
  MESSAGE_OPTIONS,
  readMessage,
  readOptions,
  SPOOL_EXIT,
  SPOOL_NOTE,
  SPOOL_OPTION,
  silent,
  writeDeliveries,
} from "./message.ts";

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
  options: [LINES_OPTION, ...MESSAGE_OPTIONS, SPOOL_OPTION, ...VIA_OPTIONS, ...FORM_OPTIONS],
  notes: [BODY_NOTE, ...LINES_NOTE, ...SPOOL_NOTE],
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
  async run(context, args) {
    const [channel, uri, body] = args.positionals as [string, string, string | undefined];
    const node = checkUri("NODE", uri);
    const needsConsumer = args.has("require-consumer");
    if (args.has("lines")) {
      checkLines(body);
      const params = { ...readOptions(args, channel), node };
      const exitOf = ([result]: readonly DeliveryResult[]): number =>
        exitOfDelivery(result as DeliveryResult, needsConsumer);
      const { sendLines } = await import("./batch.ts");
      return sendLines(context, args, { method: "dmq.send", params, needsConsumer, exitOf });
    }
    const params = { ...(await readMessage(context, args, channel, body)), node };
    const result = await withCaller(context, args, (caller) => deliver<DeliveryResult>(caller, "dmq.send", params));
    if (result === undefined) return silent(context);
    const exit = exitOfDelivery(result, needsConsumer);
    writeDeliveries(context, args, [result], result, exit);
    return exit;
  },
};
