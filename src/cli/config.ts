/** `dmq config`: what the node's options are and where each is from, whether a file is right, and a file to begin with. */
import { closeSync, openSync, writeSync } from "node:fs";
import { type LoadedConfig, readConfig } from "../config/load.ts";
import { CONFIG_OPTIONS } from "../config/schema.ts";
import { configTemplate, type ShownValue, shownValue } from "../config/text.ts";
import { type ConfigError, UsageError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import { controlSocketPath, stateDirectory } from "../rpc/paths.ts";
import { choose } from "./choice.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS, sayable } from "./command.ts";
import { CONFIG_FLAGS, configFlags } from "./config-flags.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import { type Cell, formOf, writeJson, writeResult } from "./output.ts";

const ACTIONS = ["show", "check", "init"] as const;

export const config: CommandSpec = {
  name: "config",
  summary: "show, check or begin a configuration",
  examples: [
    ["dmq config show", "each option, its value, and whether a flag, a variable, the file or the default says so"],
    ["dmq config check /etc/dmq/dmq.toml", "whether `dmq serve` would start with this file"],
    ["dmq config init --output dmq.toml", "a file with every option in it, switched off"],
    ["dmq config check && dmq reload", "a changed file, into the running daemon"],
  ],
  positionals: [
    { name: "show|check|init", required: true, choices: ACTIONS, help: "what to do" },
    { name: "FILE", required: false, help: "of show and check: this file, as --config FILE" },
  ],
  options: [
    { flag: "config", value: "FILE", help: "TOML file ($XDG_CONFIG_HOME/dmq/dmq.toml, /etc/dmq/dmq.toml)" },
    {
      flag: "output",
      value: "FILE",
      help: "of init: write a new file instead of stdout; one that exists is left alone",
    },
    ...FORM_OPTIONS,
    ...CONFIG_FLAGS,
  ],
  notes: [
    "The options of the node are read as `dmq serve` reads them: flags win over DMQ_… variables, variables over the file.",
    "A check also looks for the commands of handlers and reads the TLS files. A line on stderr for each mistake and each warning;",
    "with --json one object instead: file, mistakes (code, option, received, expected) and warnings. Warnings change no exit code.",
  ],
  exits: [
    [0, "shown, right, written"],
    [1, "init: the file exists, or cannot be written"],
    [2, "usage"],
    [9, "an option or the file is invalid: stderr names the key, what was seen and what is allowed"],
  ],
  seeAlso: ["dmq serve", "dmq reload"],
  run: runConfig,
};

async function runConfig(context: CliContext, args: Arguments): Promise<number> {
  const action = choose("action", args.positionals[0] as string, ACTIONS);
  for (const flag of args.values.keys()) {
    const owners = ownersOf(flag);
    if (owners.includes(action)) continue;
    throw new UsageError(`--${flag} belongs to dmq config ${owners.join(" and ")}, not to ${action}`);
  }
  if (action === "init") return init(context, args);
  const loaded = read(context, args);
  if (action === "check") return check(context, args, loaded);
  return Array.isArray(loaded) ? refuse(context, loaded) : show(context, args, loaded);
}

type Action = (typeof ACTIONS)[number];

/** The flags are one list for three actions; the socket may be of an alias, `dmq -s PATH`. */
function ownersOf(flag: string): readonly Action[] {
  if (flag === "socket") return ACTIONS;
  if (flag === "output") return ["init"];
  return flag === "plain" ? ["show"] : ["show", "check"];
}

function read(context: CliContext, args: Arguments): LoadedConfig | ConfigError[] {
  const [, named] = args.positionals;
  const flag = args.value("config");
  if (named !== undefined && flag !== undefined) throw new UsageError("the file is given twice: FILE and --config");
  const file = named ?? flag;
  return readConfig({ flags: configFlags(args), env: context.env, ...(file !== undefined && { file }) });
}

function refuse(context: CliContext, mistakes: readonly ConfigError[]): number {
  for (const { message } of mistakes) context.stderr(`dmq: ${sayable(message)}\n`);
  return EXIT.state;
}

interface Shown {
  option: string;
  value: ShownValue;
  /** A flag, a variable, a path, or `default`. */
  from: string;
}

function show(context: CliContext, args: Arguments, { config: values, sources }: LoadedConfig): number {
  const shown = CONFIG_OPTIONS.map(
    (option): Shown => ({
      option: option.name,
      value: shownValue(option, values) ?? placeOf(option.name, context),
      from: sources.get(option.name) as string,
    }),
  );
  const rows = shown.map(({ option, value, from }): Cell[] => [option, cellOf(value), from]);
  writeResult(context, formOf(context, args), shown, rows, ["OPTION", "VALUE", "FROM"]);
  return EXIT.ok;
}

/** Where nothing is said, the environment decides (rpc/paths.ts). */
function placeOf(option: string, { env }: CliContext): string | null {
  if (option === "socket") return controlSocketPath(env);
  return option === "state_dir" ? stateDirectory(env) : null;
}

function cellOf(value: ShownValue): Cell {
  if (typeof value === "boolean") return value ? 1 : 0;
  return typeof value === "object" && value !== null ? value.join(", ") : value;
}

async function check(context: CliContext, args: Arguments, loaded: LoadedConfig | ConfigError[]): Promise<number> {
  const warnings: string[] = [];
  const mistakes = Array.isArray(loaded) ? loaded : await checkStart(context, loaded, warnings);
  if (args.has("json")) {
    const told = mistakes.map(({ code, option, received, expected }) => ({ code, option, received, expected }));
    writeJson(context, { file: Array.isArray(loaded) ? null : (loaded.file ?? null), mistakes: told, warnings });
    return mistakes.length > 0 ? EXIT.state : EXIT.ok;
  }
  for (const warning of warnings) context.stderr(`dmq: warning: ${warning}\n`);
  if (Array.isArray(loaded) || mistakes.length > 0) return refuse(context, mistakes);
  const { file } = loaded;
  const done =
    file === undefined ? "right; there is no file, so these are defaults, flags and variables" : `${file} is right`;
  if (context.isTty.stderr) context.stderr(`${done}\n`);
  return EXIT.ok;
}

/** What only the start itself would find. */
async function checkStart(
  { env }: CliContext,
  { config: values, warnings: said }: LoadedConfig,
  warnings: string[],
): Promise<ConfigError[]> {
  const warn = (text: string): number => warnings.push(text);
  const silent = (): void => undefined;
  const log: Logger = { error: warn, warn, info: silent, debug: silent, trace: silent };
  warnings.push(...said);
  const { checkConfig } = await import("../daemon/check.ts");
  return checkConfig(values, env, log);
}

function init(context: CliContext, args: Arguments): number {
  if (args.positionals.length > 1) throw new UsageError("dmq config init takes no FILE: --output FILE names a new one");
  const path = args.value("output");
  if (path === undefined) {
    context.stdout(configTemplate());
    return EXIT.ok;
  }
  return writeNew(context, path);
}

/** A name that something has already is never written to, not even through a symbolic link. */
function writeNew(context: CliContext, path: string): number {
  try {
    const file = openSync(path, "wx", 0o644);
    writeSync(file, configTemplate());
    closeSync(file);
    return EXIT.ok;
  } catch (cause) {
    const code = (cause as { code?: string }).code ?? String(cause);
    const why = code === "EEXIST" ? "it exists and is left as it is" : `it cannot be written (${code})`;
    context.stderr(`dmq: ${path}: ${why}\n`);
    return EXIT.no;
  }
}
