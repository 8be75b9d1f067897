/**
 * The only file that imports citty: it holds the tree of commands and finds the one that is meant. What it cannot do
 * safely is done elsewhere: reading options (command.ts; citty accepts unknown ones), help on the right stream and exit
 * codes (main.ts; its `runMain` prints help to stdout, exits 1 and drops what a command returns).
 */
import { defineCommand, runCommand, type SubCommandsDef } from "citty";
import type { CommandEntry, CommandSpec } from "./command.ts";

/**
 * Loads the named command, and no other one, and hands it to `run` with the words behind its name.
 *
 * @param name  a key of `entries`, checked by the caller
 * @returns     what `run` gives
 */
export async function dispatch(
  entries: ReadonlyMap<string, CommandEntry>,
  name: string,
  words: readonly string[],
  run: (spec: CommandSpec, words: readonly string[]) => Promise<number>,
): Promise<number> {
  let exit = 0;
  const subCommands: SubCommandsDef = Object.fromEntries(
    [...entries].map(([key, entry]) => [
      key,
      async () => {
        const spec = await entry.load();
        return defineCommand({
          meta: { name: key, description: entry.summary },
          // citty drops what a subcommand returns.
          run: async ({ rawArgs }) => {
            exit = await run(spec, rawArgs);
          },
        });
      },
    ]),
  );
  await runCommand(defineCommand({ meta: { name: "dmq" }, subCommands }), { rawArgs: [name, ...words] });
  return exit;
}
