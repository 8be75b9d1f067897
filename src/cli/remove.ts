import { ask } from "./ask.ts";
import type { CommandSpec } from "./command.ts";
import { checkUri } from "./message.ts";

export const remove: CommandSpec = {
  name: "remove",
  summary: "forget a node",
  examples: [["dmq remove sip:192.0.2.2:5060", "a node that lives comes back with its next ping"]],
  positionals: [{ name: "URI", required: true, help: "SIP URI of the node, as `dmq list` shows it" }],
  options: [],
  exits: [
    [0, "removed"],
    [1, "it is this node itself"],
    [2, "usage; no SIP URI"],
    [3, "there is no such node"],
    [4, "no daemon"],
  ],
  seeAlso: ["dmq list", "dmq add", "dmq set"],
  run(context, args) {
    const uri = checkUri("URI", args.positionals[0] as string);
    return ask(context, args, "dmq.remove", { uri, strict: true }, `removed ${uri}`);
  },
};
