/** The options of the node as flags of a command: what `dmq serve` and `dmq config` share. */
import { CONFIG_OPTIONS, type ConfigOption, flagOf } from "../config/schema.ts";
import type { Arguments, OptionSpec } from "./command.ts";

export const CONFIG_FLAGS: readonly OptionSpec[] = CONFIG_OPTIONS.map(optionSpec);

function optionSpec(option: ConfigOption): OptionSpec {
  const base: OptionSpec = {
    flag: flagOf(option),
    help: helpOf(option),
    repeatable: option.repeatable,
    ...(option.choices !== undefined && { choices: option.choices }),
    ...(option.name === "socket" && { short: "s" }),
  };
  return option.type === "boolean" ? { ...base, settable: true } : { ...base, value: option.placeholder };
}

function helpOf(option: ConfigOption): string {
  const facts = [
    ...(option.default === undefined ? [] : [option.default]),
    ...(option.repeatable ? ["may be repeated"] : []),
  ];
  return facts.length === 0 ? option.help : `${option.help} (${facts.join("; ")})`;
}

/** What was given, by option name. */
export function configFlags(args: Arguments): Map<string, readonly string[]> {
  const given = CONFIG_OPTIONS.filter((option) => args.has(flagOf(option)));
  return new Map(given.map((option) => [option.name, args.all(flagOf(option))]));
}
