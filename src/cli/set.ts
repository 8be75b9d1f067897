import { UsageError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { STATUSES } from "../rpc/surface.ts";
import { ask } from "./ask.ts";
import type { CommandSpec } from "./command.ts";
import { checkUri } from "./message.ts";

export const set: CommandSpec = {
  name: "set",
  summary: "set the status of a node, as this one sees it",
  examples: [["dmq set sip:192.0.2.2:5060 disabled", "nothing is sent to it any more"]],
  positionals: [
    { name: "URI", required: true, help: "SIP URI of the node, as `dmq list` shows it" },
    { name: "STATUS", required: true, help: STATUSES.join(", ") },
  ],
  options: [],
  notes: ["exit: 0 set, 1 it is this node itself, 3 there is no such node, 2 usage."],
  run(context, args) {
    const [address, status] = args.positionals as [string, string];
    const uri = checkUri("URI", address);
    checkStatus(status);
    return ask(context, args, "dmq.change_status", { uri, status }, `${uri} is ${status}`);
  },
};

function checkStatus(status: string): void {
  if ((STATUSES as readonly string[]).includes(status)) return;
  const near = nearest(status, STATUSES);
  const hint = near === undefined ? `expected ${STATUSES.join(", ")}` : `did you mean ${near}?`;
  throw new UsageError(`unknown status ${JSON.stringify(status)}; ${hint}`);
}
