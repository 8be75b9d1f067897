import { ask } from "./ask.ts";
import type { CommandSpec } from "./command.ts";
import { LEAVE_MS_MAX } from "./leave.ts";

export const stop: CommandSpec = {
  name: "stop",
  summary: "stop the daemon without a word to the bus",
  examples: [
    ["dmq stop", "before a restart: Kamailio repeats its requests, while after a leave it sends nothing for a while"],
  ],
  positionals: [],
  options: [],
  exits: [
    [0, "it is gone"],
    [2, "usage"],
    [4, "no daemon"],
  ],
  seeAlso: ["dmq leave", "dmq serve"],
  run: (context, args) => ask(context, args, "dmq.stop", undefined, "stopped", LEAVE_MS_MAX),
};
