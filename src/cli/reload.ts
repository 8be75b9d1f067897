import type { CommandSpec } from "./command.ts";
import { EXIT } from "./exit.ts";
import { ANSWER_MS_MAX, connectDaemon } from "./socket.ts";

export const reload: CommandSpec = {
  name: "reload",
  summary: "read the certificates of the running daemon again",
  examples: [
    ["dmq reload", "after tls_cert, tls_key or tls_ca were renewed: connections stay, new ones use the new files"],
  ],
  positionals: [],
  options: [],
  notes: [
    "On a terminal it says what was read again. SIGHUP does the same. Other options change with a restart only.",
    "exit: 0 read again, or there was nothing to read; 9 a file is missing or wrong, and the old ones stay in use.",
  ],
  async run(context, args) {
    const what = await connectDaemon(context, args).call<string[]>("dmq.reload", undefined, {
      timeoutMs: ANSWER_MS_MAX,
    });
    const done = what.length === 0 ? "nothing to read again" : `read again: ${what.join(", ")}`;
    if (context.isTty.stderr) context.stderr(`${done}\n`);
    return EXIT.ok;
  },
};
