import type { ReloadReport } from "../rpc/surface.ts";
import type { CommandSpec } from "./command.ts";
import { EXIT } from "./exit.ts";
import { writeJson } from "./output.ts";
import { ANSWER_MS_MAX, connectDaemon } from "./socket.ts";

export const reload: CommandSpec = {
  name: "reload",
  summary: "read the configuration and the certificates of the running daemon again",
  examples: [
    ["dmq reload", "after tls_cert, tls_key or tls_ca were renewed: connections stay, new ones use the new files"],
    ["dmq config check && dmq reload", "after the configuration file was edited"],
  ],
  positionals: [],
  options: [{ flag: "json", help: 'JSON: names of options, {"changed":[],"needs_restart":[]}' }],
  notes: [
    "SIGHUP does the same. docs/CONFIG.md says of each option whether a reload changes it. What is to change and cannot is",
    "named on stderr; on a terminal what was changed, too. A mistake anywhere leaves everything as it was.",
  ],
  exits: [
    [0, "what can change has changed, or there was nothing to change"],
    [4, "no daemon"],
    [9, "the configuration or a file in it is missing or wrong: nothing has changed"],
  ],
  seeAlso: ["dmq config", "dmq serve"],
  async run(context, args) {
    const report = await connectDaemon(context, args).call<ReloadReport>("dmq.reload", undefined, {
      timeoutMs: ANSWER_MS_MAX,
    });
    const { changed, needs_restart: waiting } = report;
    if (args.has("json")) writeJson(context, report);
    const done = changed.length === 0 ? "nothing has changed" : `changed: ${changed.join(", ")}`;
    if (context.isTty.stderr) context.stderr(`${done}\n`);
    if (waiting.length > 0) context.stderr(`dmq: not changed, needs a restart: ${waiting.join(", ")}\n`);
    return EXIT.ok;
  },
};
