import { ask } from "./ask.ts";
import type { CommandSpec } from "./command.ts";
import { checkUri } from "./message.ts";

export const join: CommandSpec = {
  name: "join",
  summary: "meet the bus at further nodes, until the daemon ends",
  examples: [["dmq join sip:192.0.2.2:5060", "as one more notification_address of the running daemon"]],
  positionals: [{ name: "URI", required: true, repeatable: true, help: "SIP URI of a node of the bus" }],
  options: [],
  exits: [
    [0, "they will be asked, which says nothing about their answers"],
    [2, "usage; no SIP URI"],
    [4, "no daemon"],
  ],
  seeAlso: ["dmq list", "dmq wait", "dmq leave"],
  run(context, args) {
    const uris = args.positionals.map((uri) => checkUri("URI", uri));
    return ask(context, args, "dmq.join", { uris }, `joining at ${uris.join(", ")}`);
  },
};
