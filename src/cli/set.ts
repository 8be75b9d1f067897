import { STATUSES } from "../rpc/surface.ts";
import { ask } from "./ask.ts";
import { choose } from "./choice.ts";
import type { CommandSpec } from "./command.ts";
import { checkUri } from "./message.ts";

export const set: CommandSpec = {
  name: "set",
  summary: "set the status of a node, as this one sees it",
  examples: [["dmq set sip:192.0.2.2:5060 disabled", "nothing is sent to it any more"]],
  positionals: [
    { name: "URI", required: true, help: "SIP URI of the node, as `dmq list` shows it" },
    { name: "STATUS", required: true, choices: STATUSES, help: STATUSES.join(", ") },
  ],
  options: [],
  exits: [
    [0, "set"],
    [1, "it is this node itself"],
    [2, "usage"],
    [3, "there is no such node"],
    [4, "no daemon"],
  ],
  seeAlso: ["dmq list", "dmq add", "dmq remove"],
  run(context, args) {
    const [address, status] = args.positionals as [string, string];
    const uri = checkUri("URI", address);
    choose("status", status, STATUSES);
    return ask(context, args, "dmq.change_status", { uri, status }, `${uri} is ${status}`);
  },
};
