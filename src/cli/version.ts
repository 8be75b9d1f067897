import { COMMIT, VERSION } from "../core/version.ts";
import type { CommandSpec } from "./command.ts";
import { EXIT } from "./exit.ts";
import { writeJson } from "./output.ts";

export const version: CommandSpec = {
  name: "version",
  summary: "the version of this program; `dmq rpc core.version` asks the daemon for its own",
  examples: [["dmq version", "dmq VERSION (COMMIT)"]],
  positionals: [],
  options: [{ flag: "json", help: "JSON" }],
  exits: [
    [0, "shown"],
    [2, "usage"],
  ],
  seeAlso: ["dmq rpc core.version", "dmq status"],
  run(context, args) {
    if (args.has("json")) writeJson(context, { version: VERSION, commit: COMMIT === "" ? null : COMMIT });
    else context.stdout(`dmq ${VERSION}${COMMIT === "" ? "" : ` (${COMMIT})`}\n`);
    return Promise.resolve(EXIT.ok);
  },
};
