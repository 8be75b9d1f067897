/** The commands as data: what `dmq help --json` prints, and what completions and man pages are made of. */
import {
  type CommandEntry,
  type CommandSpec,
  exitsOf,
  type OptionSpec,
  optionsOf,
  type PositionalSpec,
  usageLine,
} from "./command.ts";

/** What can stand in a place; `null` is anything. */
export type ValueKind = "nodes" | "channels" | "queues" | "files" | "directories" | "commands";

interface Place {
  repeatable: boolean;
  help: string;
  /** All values that there are. */
  choices: readonly string[] | null;
  kind: ValueKind | null;
}

export interface ArgumentInfo extends Place {
  name: string;
  required: boolean;
}

export interface OptionInfo extends Place {
  /** Without dashes. */
  flag: string;
  short: string | null;
  /** What the value is; `null` for a switch. */
  value: string | null;
  /** The value may be missing. */
  optional_value: boolean;
  /** A switch that takes `=0` and `=1`, and `--no-FLAG`. */
  settable: boolean;
}

export interface CommandInfo {
  name: string;
  summary: string;
  usage: string;
  examples: { line: string; what: string }[];
  arguments: ArgumentInfo[];
  options: OptionInfo[];
  notes: string[];
  exits: { code: number; meaning: string }[];
  see_also: string[];
  /** Of a command that has subcommands: these, under their whole names. */
  commands: CommandInfo[];
}

const KINDS = new Map<string, ValueKind>([
  ["NODE", "nodes"],
  ["URI", "nodes"],
  ["CHANNEL", "channels"],
  ["QUEUE", "queues"],
  ["FILE", "files"],
  ["PATH", "files"],
  ["DIR", "directories"],
  ["COMMAND", "commands"],
]);

/** Loads every command, which takes a while. */
export function describeAll(commands: ReadonlyMap<string, CommandEntry>): Promise<CommandInfo[]> {
  return Promise.all([...commands.values()].map(async (entry) => describe(await entry.load())));
}

/** Commands and their subcommands in one list. */
export function flattened(commands: readonly CommandInfo[]): CommandInfo[] {
  return commands.flatMap((command) => [command, ...flattened(command.commands)]);
}

/** Loads the subcommands, where there are any. */
export async function describe(spec: CommandSpec): Promise<CommandInfo> {
  return {
    name: spec.name,
    summary: spec.summary,
    usage: usageLine(spec),
    examples: spec.examples.map(([line, what]) => ({ line, what })),
    arguments: spec.positionals.map(argumentInfo),
    options: optionsOf(spec).map(optionInfo),
    notes: [...(spec.notes ?? [])],
    exits: exitsOf(spec).map(([code, meaning]) => ({ code, meaning })),
    see_also: [...(spec.seeAlso ?? [])],
    commands: spec.subcommands === undefined ? [] : await describeAll(spec.subcommands),
  };
}

function argumentInfo(spec: PositionalSpec): ArgumentInfo {
  const { name, required, repeatable = false, help, choices = null } = spec;
  return { name, required, repeatable, help, choices, kind: KINDS.get(name) ?? null };
}

function optionInfo(spec: OptionSpec): OptionInfo {
  const { flag, short = null, value = null, settable = false, repeatable = false, help, choices = null } = spec;
  const optional = spec.optionalValue !== undefined;
  return {
    ...{ flag, short, value, optional_value: optional, settable, repeatable, help, choices },
    kind: KINDS.get(value ?? "") ?? null,
  };
}
