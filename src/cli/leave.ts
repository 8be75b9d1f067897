import { ask } from "./ask.ts";
import type { CommandSpec } from "./command.ts";

/** The daemon bounds its handlers and its announcement; twice that is a daemon that is stuck. */
export const LEAVE_MS_MAX = 60_000;

export const leave: CommandSpec = {
  name: "leave",
  summary: "stop the daemon, and tell every node that it goes",
  examples: [["dmq leave", "before the machine goes for good; for a restart see `dmq stop`"]],
  positionals: [],
  options: [],
  exits: [
    [0, "it is gone"],
    [2, "usage"],
    [4, "no daemon"],
  ],
  seeAlso: ["dmq stop", "dmq join"],
  run: (context, args) => ask(context, args, "dmq.leave", undefined, "left the bus", LEAVE_MS_MAX),
};
