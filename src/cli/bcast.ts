import type { DeliveryResult } from "../rpc/surface.ts";
import { type CommandSpec, FORM_OPTIONS } from "./command.ts";
import { exitOfBroadcast } from "./exit.ts";
import {
  BODY_NOTE,
  checkUri,
  deliver,
  MESSAGE_OPTIONS,
  readMessage,
  readRequirement,
  sayNobody,
  silent,
  writeDeliveries,
} from "./message.ts";
import { connectDaemon } from "./socket.ts";

export const bcast: CommandSpec = {
  name: "bcast",
  summary: "send a message to every active node but this one, and say how each answered",
  examples: [
    ["dmq bcast channel1 'hello'", "a line NODE CODE REASON MS for each node, exits 0 if all said 2xx"],
    ["dmq bcast --require 50% channel1 'hello'", "exits 0 if half of them did"],
    ["dmq bcast --except sip:192.0.2.2:5060 channel1 'hello'", "to all others"],
  ],
  positionals: [
    { name: "CHANNEL", required: true, help: "name of the channel" },
    { name: "BODY", required: false, help: "text, or - for standard input" },
  ],
  options: [
    { flag: "require", value: "all|any|N|N%", help: "how many must say 2xx (all)" },
    { flag: "except", value: "NODE", repeatable: true, help: "leave this node out; may be repeated" },
    ...MESSAGE_OPTIONS,
    ...FORM_OPTIONS,
  ],
  notes: [
    BODY_NOTE,
    "exit: 0 enough said 2xx, 7 some but not enough, 3 no active node to address, 2 usage; where nobody said 2xx, the",
    "code of `dmq send` if all failed the same way, else 1.",
  ],
  async run(context, args) {
    const [channel, body] = args.positionals as [string, string | undefined];
    const requirement = readRequirement(args.value("require") ?? "all");
    const except = args.all("except").map((node) => checkUri("--except", node));
    const params = { ...(await readMessage(context, args, channel, body)), except };
    const results = await deliver<DeliveryResult[]>(connectDaemon(context, args), "dmq.bcast", params);
    if (results === undefined) return silent(context);
    writeDeliveries(context, args, results, results);
    if (results.length === 0) sayNobody(context, except.length);
    return exitOfBroadcast(results, requirement);
  },
};
