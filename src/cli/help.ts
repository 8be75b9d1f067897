/** `dmq help`: the overview, the help of a command, all of it as JSON, and man pages. */
import { UsageError } from "../core/errors.ts";
import { VERSION } from "../core/version.ts";
import { choose } from "./choice.ts";
import { type Arguments, type CommandEntry, type CommandSpec, helpText } from "./command.ts";
import type { CliContext } from "./context.ts";
import { describe, describeAll } from "./describe.ts";
import { EXIT } from "./exit.ts";
import { commandPage, overviewPage } from "./man.ts";
import { writeJson } from "./output.ts";
import { overview } from "./overview.ts";

export function helpOf(commands: ReadonlyMap<string, CommandEntry>): CommandSpec {
  return {
    name: "help",
    summary: "help of all commands or one, for readers and machines",
    examples: [
      ["dmq help send", "the same as dmq send --help"],
      ["dmq help --man send | man -l -", "the man page of a command"],
      ["dmq help --json | jq -r '.commands[].name'", "every command, option and exit code as data"],
    ],
    positionals: [
      { name: "COMMAND", required: false, help: "one command; without it, all" },
      { name: "SUBCOMMAND", required: false, help: "one of its commands" },
    ],
    options: [
      { flag: "json", help: "JSON: an object of this command, or of all in commands" },
      { flag: "man", help: "a man page: of this command, or dmq(1)" },
    ],
    exits: [
      [0, "printed"],
      [2, "usage; no such command"],
    ],
    seeAlso: ["dmq completion"],
    run: (context, args) => run(context, args, commands),
  };
}

async function run(context: CliContext, args: Arguments, commands: ReadonlyMap<string, CommandEntry>): Promise<number> {
  if (args.has("json") && args.has("man")) throw new UsageError("--json and --man exclude each other");
  const [name, sub] = args.positionals;
  if (name !== undefined) await one(context, args, await find(commands, name, sub));
  else if (args.has("json")) writeJson(context, { version: VERSION, commands: await describeAll(commands) });
  else context.stdout(args.has("man") ? overviewPage(await describeAll(commands)) : overview(commands));
  return EXIT.ok;
}

/** @throws UsageError for a name that is none */
async function find(
  commands: ReadonlyMap<string, CommandEntry>,
  name: string,
  sub: string | undefined,
): Promise<CommandSpec> {
  const spec = await (commands.get(choose("command", name, [...commands.keys()])) as CommandEntry).load();
  if (sub === undefined) return spec;
  if (spec.subcommands === undefined) throw new UsageError(`dmq ${name} has no commands of its own`);
  return find(spec.subcommands, sub, undefined);
}

async function one(context: CliContext, args: Arguments, spec: CommandSpec): Promise<void> {
  if (args.has("json")) writeJson(context, await describe(spec));
  else context.stdout(args.has("man") ? commandPage(await describe(spec)) : helpText(spec));
}
