/** Man pages out of the same descriptions as the help: man(7) macros, which groff and mandoc both read. */
import type { CommandInfo, OptionInfo } from "./describe.ts";
import { OVERVIEW_EXAMPLES, OVERVIEW_SUMMARY, OVERVIEW_USAGE } from "./overview.ts";

/** docs/CLI.md, exit codes. */
const EXITS: readonly (readonly [number, string])[] = [
  [0, "done: every target that had to answer did, with 2xx"],
  [1, "a plain no: nothing there, condition false, unspecific failure"],
  [2, "usage: unknown option, missing or malformed argument"],
  [3, "no such thing: node not known, no active node to address, channel (404), queue, item"],
  [4, "not reachable: no daemon, refused, DNS, TLS, address in use"],
  [5, "refused by the other side, or its queue here is full"],
  [6, "timeout: it may or may not have happened"],
  [7, "partial: some did, not enough for what was required"],
  [8, "the command of --exec failed"],
  [9, "our own state: configuration invalid, store of the queues damaged or full"],
  [130, "interrupted"],
  [143, "terminated"],
];

const ENVIRONMENT: readonly (readonly [string, string])[] = [
  ["DMQ_SOCKET", "path of the control socket"],
  ["DMQ_*", "every option of dmq serve, in capitals"],
  ["NO_COLOR", "no colour"],
  ["RUNTIME_DIRECTORY, XDG_RUNTIME_DIR", "where the control socket is by default"],
  ["STATE_DIRECTORY, XDG_STATE_HOME", "where the snapshot of the peers is by default"],
  ["NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM", "what systemd tells dmq serve"],
];

/** @returns dmq(1) */
export function overviewPage(commands: readonly CommandInfo[]): string {
  return [
    ...head("DMQ", "dmq", OVERVIEW_SUMMARY),
    ...section("SYNOPSIS", [bold(OVERVIEW_USAGE)]),
    ...section("EXAMPLES", examples(OVERVIEW_EXAMPLES)),
    ...section("COMMANDS", tagged(commands.map(commandRow))),
    ...section("EXIT STATUS", tagged(EXITS)),
    ...section("ENVIRONMENT", tagged(ENVIRONMENT)),
    ...section("FILES", tagged([["/etc/dmq/dmq.toml", "options of dmq serve; see dmq-config(1)"]])),
    ...section("SEE ALSO", [roff(commands.map(({ name }) => `${pageName(name)}(1)`).join(", "))]),
    "",
  ].join("\n");
}

/** @returns dmq-NAME(1) */
export function commandPage(command: CommandInfo): string {
  const { name, summary, usage, notes, exits, see_also: seeAlso } = command;
  const parameters = command.arguments.map((one): [string, string] => [one.name, one.help]);
  return [
    ...head(pageName(name).toUpperCase(), pageName(name), summary),
    ...section("SYNOPSIS", [bold(usage)]),
    ...section("EXAMPLES", examples(command.examples.map(({ line, what }) => [line, what]))),
    ...section("COMMANDS", tagged(command.commands.map(commandRow))),
    ...section("ARGUMENTS", tagged(parameters)),
    ...section("OPTIONS", tagged(command.options.map((option) => [labelOf(option), option.help]))),
    ...section("NOTES", notes.flatMap((note) => [roff(note), ".br"]).slice(0, -1)),
    ...section("EXIT STATUS", tagged(exits.map(({ code, meaning }) => [code, meaning]))),
    ...section("SEE ALSO", [roff(["dmq(1)", ...seeAlso.map(pageOf)].join(", "))]),
    "",
  ].join("\n");
}

/** `dmq-queue-add`, without its section. */
export function pageName(command: string): string {
  return `dmq-${command.replaceAll(" ", "-")}`;
}

function commandRow({ name, summary }: CommandInfo): [string, string] {
  return [`dmq ${name}`, `${summary}; see ${pageName(name)}(1)`];
}

function head(title: string, name: string, summary: string): string[] {
  return [`.TH ${title} 1 "" dmq "Commands of dmq"`, ".SH NAME", `${roff(name)} \\- ${roff(summary)}`];
}

function section(title: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : [`.SH ${title.includes(" ") ? `"${title}"` : title}`, ...lines];
}

function examples(rows: readonly (readonly [line: string, what: string])[]): string[] {
  return rows.flatMap(([line, what]) => [".TP", bold(line), roff(what)]);
}

function tagged(rows: readonly (readonly [label: string | number, text: string])[]): string[] {
  return rows.flatMap(([label, text]) => [".TP", bold(String(label)), roff(text)]);
}

function labelOf({ flag, short, value, optional_value: isOptional, settable }: OptionInfo): string {
  const word = value === null ? "" : isOptional ? ` [${value}]` : ` ${value}`;
  const long = `--${flag}${settable ? "[=0|1]" : word}`;
  return short === null ? long : `-${short}, ${long}`;
}

/** `dmq list --watch` has its page under dmq-list. */
function pageOf(line: string): string {
  const [program, command, sub] = line.split(" ");
  if (program !== "dmq" || command === undefined) return line;
  // Of a group of commands each has a page.
  const isGroup = (command === "queue" || command === "amqp") && sub !== undefined && /^[a-z]/.test(sub);
  return `${pageName(isGroup ? `${command} ${sub}` : command)}(1)`;
}

function bold(text: string): string {
  return `\\fB${escaped(text)}\\fR`;
}

/** One line of text: what begins with a dot or a quote would be a request to the formatter. */
function roff(text: string): string {
  const line = escaped(text);
  return /^[.']/.test(line) ? `\\&${line}` : line;
}

function escaped(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll("'", "\\(aq")
    .replaceAll("`", "\\(ga")
    .replaceAll("^", "\\(ha")
    .replaceAll("~", "\\(ti")
    .replaceAll("…", "...")
    .replaceAll(/[\r\n]+/g, " ");
}
