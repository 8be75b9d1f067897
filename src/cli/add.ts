import { ask } from "./ask.ts";
import type { CommandSpec } from "./command.ts";
import { checkUri } from "./message.ts";

export const add: CommandSpec = {
  name: "add",
  summary: "add a node to the peers of this one",
  examples: [["dmq add sip:192.0.2.2:5060", "it is pinged, and listed as it answers"]],
  positionals: [{ name: "URI", required: true, help: "SIP URI of the node" }],
  options: [],
  exits: [
    [0, "added"],
    [1, "it is there already"],
    [2, "usage; no SIP URI"],
    [4, "no daemon"],
  ],
  seeAlso: ["dmq list", "dmq remove", "dmq set", "dmq join"],
  run(context, args) {
    const uri = checkUri("URI", args.positionals[0] as string);
    return ask(context, args, "dmq.add", { uri }, `added ${uri}`);
  },
};
