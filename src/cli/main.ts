/**
 * From the words of a command line to an exit code. Data goes to stdout, help too when it was asked for; usage errors and
 * everything else go to stderr (design.md section 5).
 */
import { DmqError, UsageError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { type CommandEntry, type CommandSpec, helpText, parseWords, quoted, sayable } from "./command.ts";
import type { CliContext, SignalName } from "./context.ts";
import { EXIT, exitOfError } from "./exit.ts";
import { ALL_COMMANDS } from "./tree.ts";

/**
 * @param argv  the words behind the program's name
 * @returns     the exit code; errors of this project never leave, broken invariants do
 */
export async function main(argv: readonly string[], context: CliContext): Promise<number> {
  try {
    return await route(argv, context);
  } catch (error) {
    return report(error, context);
  }
}

function report(error: unknown, context: CliContext): number {
  if (!(error instanceof DmqError)) throw error;
  context.stderr(`dmq: ${sayable(error.message)}\n`);
  return exitOfError(error);
}

async function route(argv: readonly string[], context: CliContext): Promise<number> {
  const front = readFront(argv);
  if (front.type === "help") {
    context.stdout((await import("./overview.ts")).overview(ALL_COMMANDS));
    return EXIT.ok;
  }
  // Not through the tree of commands: scripts ask for it often, and finding a name takes longer than all the rest of it.
  if (front.type === "version") return runSpec((await import("./version.ts")).version, [], context);
  if (front.name === undefined) {
    context.stderr((await import("./overview.ts")).overview(ALL_COMMANDS));
    return EXIT.usage;
  }
  if (!ALL_COMMANDS.has(front.name)) throw unknownCommand(front.name, ALL_COMMANDS);
  const { dispatch } = await import("./citty.ts");
  return dispatch(ALL_COMMANDS, front.name, front.words, (spec, words) => runSpec(spec, words, context));
}

/** The command that the word behind `dmq queue` names; its words have what stood before it. */
async function runGroup(group: CommandSpec, words: readonly string[], context: CliContext): Promise<number> {
  const commands = group.subcommands as ReadonlyMap<string, CommandEntry>;
  // As of every command, whatever else is wrong.
  const asksForHelp = words.every((word) => word.startsWith("-")) && words.some((word) => /^(-h|--help)$/.test(word));
  const front: Front = asksForHelp ? { type: "help" } : readFront(words);
  if (front.type === "version") throw new UsageError("--version stands before the command: dmq --version");
  if (front.type === "help" || front.name === undefined) {
    context[front.type === "help" ? "stdout" : "stderr"](helpText(group));
    return front.type === "help" ? EXIT.ok : EXIT.usage;
  }
  const entry = commands.get(front.name);
  if (entry === undefined) throw unknownCommand(front.name, commands, `dmq ${group.name} `);
  return runSpec(await entry.load(), front.words, context);
}

type Front =
  | { type: "help" }
  | { type: "version" }
  | { type: "command"; name: string | undefined; words: readonly string[] };

/** What may stand before the command: `-s PATH`, which is handed on to it, `--help` and `--version`. */
function readFront(argv: readonly string[]): Front {
  const before: string[] = [];
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] as string;
    if (word === "--help" || word === "-h") return { type: "help" };
    if (word === "--version" || word === "-V") return { type: "version" };
    if (word === "-s" || word === "--socket") {
      const path = argv[++index];
      if (path === undefined) throw new UsageError(`${word} needs a value: ${word} PATH`);
      before.push(`--socket=${path}`);
    } else if (word.startsWith("--socket=")) before.push(word);
    else if (word.startsWith("-s") && word.length > 2) before.push(`--socket=${word.slice(2)}`);
    else if (word.startsWith("-")) throw unknownFrontOption(word);
    else return { type: "command", name: word, words: [...before, ...argv.slice(index + 1)] };
  }
  return { type: "command", name: undefined, words: [] };
}

function unknownFrontOption(word: string): UsageError {
  const near = nearest(word.replace(/^-+/, ""), ["socket", "help", "version"]);
  const hint = near === undefined ? "options of a command stand behind its name" : `did you mean --${near}?`;
  return new UsageError(`unknown option ${word}; ${hint}`);
}

function unknownCommand(name: string, commands: ReadonlyMap<string, CommandEntry>, before = ""): UsageError {
  const near = nearest(name, commands.keys());
  const hint = near === undefined ? `there are ${[...commands.keys()].join(", ")}` : `did you mean ${before}${near}?`;
  return new UsageError(`unknown command ${quoted(name)}; ${hint}`);
}

async function runSpec(spec: CommandSpec, words: readonly string[], context: CliContext): Promise<number> {
  if (spec.subcommands !== undefined) return runGroup(spec, words, context);
  const parsed = parseWords(spec, words);
  if (parsed.type === "help") {
    context.stdout(helpText(spec));
    return EXIT.ok;
  }
  const { ownSignals } = spec;
  if (typeof ownSignals === "function" ? ownSignals(parsed.args) : ownSignals) return spec.run(context, parsed.args);
  return untilSignal(context, spec.run(context, parsed.args));
}

const SIGNAL_EXITS: Record<SignalName, number> = { SIGINT: EXIT.interrupted, SIGTERM: EXIT.terminated };

/** The command's own exit code, or that of the signal that came first; what still runs ends with the process. */
async function untilSignal(context: CliContext, running: Promise<number>): Promise<number> {
  let end = (): void => undefined;
  const signalled = new Promise<number>((resolve) => {
    end = context.onSignal((signal) => resolve(SIGNAL_EXITS[signal]));
  });
  try {
    return await Promise.race([running, signalled]);
  } finally {
    end();
    // Lost the race: nobody waits for it any more, and its failure must not become an unhandled one.
    running.catch(() => undefined);
  }
}
