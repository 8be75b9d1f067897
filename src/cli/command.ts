/**
 * The strict front of the command line: what a command is, and how words become its arguments. citty lets unknown
 * options pass and knows no repeated ones, so it only holds the tree (citty.ts) and every word is read here.
 *
 * Options may stand before and after arguments; `--` ends them; `-` is an argument. An option that nobody offers, one
 * that lacks its value, one given twice, a missing or an extra argument are usage errors with the nearest right word.
 */
import { UsageError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import type { CliContext } from "./context.ts";

export interface OptionSpec {
  /** Without dashes. */
  flag: string;
  short?: string;
  /** What the value is, for help; an option without it is a switch. */
  value?: string;
  /** The value may be missing: the next word is it only if this says so, `--flag=VALUE` always is. */
  optionalValue?: (word: string) => boolean;
  /** A switch that also takes `=0` and `=1`, and `--no-FLAG`: the module's integer parameters. */
  settable?: boolean;
  repeatable?: boolean;
  /** All values that there are, for completion and descriptions; the command itself checks what it is given. */
  choices?: readonly string[];
  help: string;
}

export interface PositionalSpec {
  name: string;
  required: boolean;
  repeatable?: boolean;
  choices?: readonly string[];
  help: string;
}

/** A command that is not loaded yet. */
export interface CommandEntry {
  summary: string;
  load: () => Promise<CommandSpec>;
}

export interface CommandSpec {
  /** What stands behind `dmq`: `send`, and of a subcommand `queue add`. */
  name: string;
  summary: string;
  /** First in the help: a command line and what it does. */
  examples: [line: string, what: string][];
  positionals: PositionalSpec[];
  options: OptionSpec[];
  /** Further lines behind the options. */
  notes?: string[];
  /** What each exit code means here; behind the notes. */
  exits?: readonly (readonly [code: number, meaning: string])[];
  /** Command lines that a reader of this help may want next; the last line. */
  seeAlso?: readonly string[];
  /** A command of these only, chosen by the word behind its name; it is never run itself. */
  subcommands?: ReadonlyMap<string, CommandEntry>;
  /** Decides itself what a signal means (`serve`, and `-l`); everything else is ended by one. */
  ownSignals?: boolean | ((args: Arguments) => boolean);
  /** @returns the exit code */
  run(context: CliContext, args: Arguments): Promise<number>;
}

export const SOCKET_OPTION: OptionSpec = {
  flag: "socket",
  short: "s",
  value: "PATH",
  help: "control socket of the daemon (else DMQ_SOCKET, else the usual places)",
};

export const HELP_OPTION: OptionSpec = { flag: "help", short: "h", help: "this text" };

export const FORM_OPTIONS: OptionSpec[] = [
  { flag: "plain", help: "tab-separated lines without a header, also on a terminal" },
  { flag: "json", help: "JSON" },
];

/** What was typed, by option and position, as text. */
export class Arguments {
  readonly values: ReadonlyMap<string, readonly string[]>;
  readonly positionals: readonly string[];

  constructor(values: ReadonlyMap<string, readonly string[]>, positionals: readonly string[]) {
    this.values = values;
    this.positionals = positionals;
  }

  has(flag: string): boolean {
    return this.values.has(flag);
  }

  value(flag: string): string | undefined {
    return this.values.get(flag)?.at(-1);
  }

  all(flag: string): readonly string[] {
    return this.values.get(flag) ?? [];
  }
}

/** What parsing a command's words gives. */
export type Parsed = { type: "run"; args: Arguments } | { type: "help" };

/** Those that are its own, and those of every command. */
export function optionsOf(spec: CommandSpec): OptionSpec[] {
  const own = spec.options.some((option) => option.flag === "socket") ? [] : [SOCKET_OPTION];
  return [...spec.options, ...own, HELP_OPTION];
}

interface Reading {
  readonly spec: CommandSpec;
  readonly options: OptionSpec[];
  readonly words: readonly string[];
  next: number;
  readonly values: Map<string, string[]>;
}

/**
 * @param words  what follows the command's name
 * @returns      `help` as soon as `--help` stands among the options, whatever else is wrong
 * @throws       UsageError that names the word and, where there is one, the nearest right one
 */
export function parseWords(spec: CommandSpec, words: readonly string[]): Parsed {
  const reading: Reading = { spec, options: optionsOf(spec), words, next: 0, values: new Map() };
  const positionals: string[] = [];
  if (asksForHelp(words)) return { type: "help" };
  while (reading.next < words.length) {
    const word = words[reading.next++] as string;
    if (word === "--") {
      positionals.push(...words.slice(reading.next));
      break;
    }
    if (word.startsWith("--")) readLong(reading, word);
    else if (word.startsWith("-") && word !== "-") readShort(reading, word);
    else positionals.push(word);
  }
  checkPositionals(spec, positionals);
  return { type: "run", args: new Arguments(reading.values, positionals) };
}

function asksForHelp(words: readonly string[]): boolean {
  const end = words.indexOf("--");
  const before = end === -1 ? words : words.slice(0, end);
  return before.includes("--help") || before.includes("-h");
}

function readLong(reading: Reading, word: string): void {
  const equals = word.indexOf("=");
  const name = equals === -1 ? word.slice(2) : word.slice(2, equals);
  const value = equals === -1 ? undefined : word.slice(equals + 1);
  const option = reading.options.find((one) => one.flag === name);
  const negated = reading.options.find((one) => one.settable === true && `no-${one.flag}` === name);
  if (option !== undefined) take(reading, option, `--${name}`, value);
  else if (negated !== undefined && value === undefined) store(reading, negated, word, "0");
  else throw unknownOption(reading, `--${name}`);
}

/** `-n5` and `-n 5` for options with a value, `-abc` for switches is not offered: no switch but -h is short. */
function readShort(reading: Reading, word: string): void {
  const option = reading.options.find((one) => one.short === word[1]);
  if (option === undefined) throw unknownOption(reading, word);
  const rest = word.slice(2);
  if (option.value === undefined && rest !== "") throw unknownOption(reading, word);
  take(reading, option, `-${option.short}`, rest === "" ? undefined : rest.replace(/^=/, ""));
}

function take(reading: Reading, option: OptionSpec, word: string, attached: string | undefined): void {
  if (option.value === undefined && attached !== undefined && option.settable !== true) {
    throw new UsageError(`${word} takes no value`);
  }
  const value = attached ?? (option.value === undefined ? "1" : nextWord(reading, option, word));
  store(reading, option, word, value);
}

function nextWord(reading: Reading, option: OptionSpec, word: string): string {
  const next = reading.words[reading.next];
  if (option.optionalValue !== undefined && (next === undefined || !option.optionalValue(next))) return "";
  // A value that looks like an option is nearly always a forgotten value; who means it writes it with an equals sign.
  if (next === undefined || (next.startsWith("-") && next !== "-")) {
    throw new UsageError(`${word} needs a value: ${word} ${option.value}`);
  }
  reading.next++;
  return next;
}

function store(reading: Reading, option: OptionSpec, word: string, value: string): void {
  const values = reading.values.get(option.flag) ?? [];
  if (values.length > 0 && option.repeatable !== true) throw new UsageError(`${word} is given twice`);
  reading.values.set(option.flag, [...values, value]);
}

/** A word of the command line may have a megabyte; this much is enough to know it. */
const SHOWN_CHARS_MAX = 80;

/** A word as an error message shows it: in quotes, without control characters, and not too long. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > SHOWN_CHARS_MAX ? `${text.slice(0, SHOWN_CHARS_MAX)}...` : text);
}

/** A message shows what was typed, and a word can have 128 KiB and what moves a cursor; its end says what is expected. */
const MESSAGE_CHARS_MAX = 1_000;

/** An error as it goes to stderr, of bounded length and without control characters. */
export function sayable(message: string): string {
  const half = MESSAGE_CHARS_MAX / 2;
  const short = message.length <= MESSAGE_CHARS_MAX ? message : `${message.slice(0, half)}...${message.slice(-half)}`;
  return short.replaceAll(/\p{Cc}/gu, (control) => `\\x${control.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

function bare(word: string): string {
  return /^[\x21-\x7e]{1,80}$/.test(word) ? word : quoted(word);
}

function unknownOption(reading: Reading, word: string): UsageError {
  const flags = reading.options.map((option) => option.flag);
  const near = word.startsWith("--") ? nearest(word.slice(2), flags) : nearestOfSingleDash(word, flags);
  const hint = near === undefined ? undefined : `; did you mean --${near}?`;
  return new UsageError(`unknown option ${bare(word)}${hint ?? dashHint(reading.spec)}`);
}

/** `dmq send channel1 NODE -5` was meant as a body. */
function dashHint(spec: CommandSpec): string {
  const hasBody = spec.positionals.some((one) => one.name === "BODY");
  return hasBody ? "; a BODY that begins with - goes behind --" : "; -- ends the options";
}

/** `-json` is a long option with one dash too few more often than it is four switches. */
function nearestOfSingleDash(word: string, flags: string[]): string | undefined {
  return word.length > 3 ? nearest(word.slice(1), flags) : undefined;
}

function checkPositionals(spec: CommandSpec, positionals: readonly string[]): void {
  const required = spec.positionals.filter((one) => one.required);
  const missing = required[positionals.length];
  if (missing !== undefined) throw new UsageError(`missing argument ${missing.name}: ${usageLine(spec)}`);
  const isOpen = spec.positionals.some((one) => one.repeatable === true);
  const extra = positionals[spec.positionals.length];
  if (extra !== undefined && !isOpen) throw new UsageError(`unexpected argument ${quoted(extra)}`);
}

export function usageLine(spec: CommandSpec): string {
  if (spec.subcommands !== undefined) return `dmq ${spec.name} COMMAND [options] [arguments]`;
  const words = spec.positionals.map((one) => {
    const name = one.repeatable === true ? `${one.name}...` : one.name;
    return one.required ? name : `[${name}]`;
  });
  return ["dmq", spec.name, "[options]", ...words].join(" ");
}

/** Examples first, because they are what most people look for. */
export function helpText(spec: CommandSpec): string {
  const lines = [`${spec.summary}`, "", "examples:"];
  for (const [line, what] of spec.examples) lines.push(`  ${line}`, `      ${what}`);
  lines.push("", `usage: ${usageLine(spec)}`);
  if (spec.subcommands !== undefined) {
    lines.push("", "commands:", ...columns([...spec.subcommands].map(([name, { summary }]) => [name, summary])));
  }
  if (spec.positionals.length > 0) {
    lines.push("", "arguments:", ...columns(spec.positionals.map((one) => [one.name, one.help])));
  }
  lines.push("", "options:", ...columns(optionsOf(spec).map((one) => [optionLabel(one), one.help])));
  if (spec.notes !== undefined) lines.push("", ...spec.notes);
  if (spec.exits !== undefined) {
    lines.push("", "exit codes:", ...columns(exitsOf(spec).map(([code, meaning]) => [String(code), meaning])));
  }
  if (spec.seeAlso !== undefined) lines.push("", `see also: ${spec.seeAlso.join(", ")}`);
  return `${lines.join("\n")}\n`;
}

/** Words that make no sense are exit 2 of every command. */
export function exitsOf({ exits = [] }: CommandSpec): (readonly [code: number, meaning: string])[] {
  const usage = exits.some(([code]) => code === 2) ? [] : ([[2, "usage"]] as const);
  return [...exits, ...usage].sort(([a], [b]) => a - b);
}

export function optionLabel(option: OptionSpec): string {
  const short = option.short === undefined ? "    " : `-${option.short}, `;
  const word = option.optionalValue === undefined ? option.value : `[${option.value}]`;
  const value = option.value === undefined ? "" : ` ${word}`;
  return `${short}--${option.flag}${option.settable === true ? "[=0|1]" : value}`;
}

/** Beyond this the help text of an option goes to a line of its own. */
const LABEL_WIDTH_MAX = 30;

export function columns(rows: [label: string, text: string][]): string[] {
  const width = Math.min(LABEL_WIDTH_MAX, Math.max(...rows.map(([label]) => label.length)));
  return rows.flatMap(([label, text]) =>
    label.length > width ? [`  ${label}`, `  ${" ".repeat(width)}  ${text}`] : [`  ${label.padEnd(width)}  ${text}`],
  );
}
