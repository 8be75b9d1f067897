/** All commands: those of commands.ts, and the two that tell of all commands. */
import type { CommandEntry } from "./command.ts";
import { COMMANDS } from "./commands.ts";

export const ALL_COMMANDS: ReadonlyMap<string, CommandEntry> = new Map<string, CommandEntry>([
  ...COMMANDS,
  [
    "completion",
    {
      summary: "make a shell complete command lines",
      load: async () => (await import("./completion.ts")).completionOf(ALL_COMMANDS),
    },
  ],
  [
    "help",
    { summary: "help, for readers and machines", load: async () => (await import("./help.ts")).helpOf(ALL_COMMANDS) },
  ],
]);
