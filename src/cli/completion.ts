/** `dmq completion SHELL`: a script that makes a shell complete command lines of dmq. */
import type { NodeRow, StatusReport } from "../rpc/surface.ts";
import { choose } from "./choice.ts";
import type { Arguments, CommandEntry, CommandSpec } from "./command.ts";
import type { CliContext } from "./context.ts";
import { describeAll } from "./describe.ts";
import { EXIT } from "./exit.ts";
import { bashScript, fishScript, zshScript } from "./shells.ts";
import { connectDaemon } from "./socket.ts";

const SHELLS = ["bash", "zsh", "fish"] as const;

/** What the scripts ask for while somebody waits at the keyboard. */
const ANSWER_MS_MAX = 1_000;

const SCRIPTS = { bash: bashScript, zsh: zshScript, fish: fishScript };

export function completionOf(commands: ReadonlyMap<string, CommandEntry>): CommandSpec {
  return {
    name: "completion",
    summary: "make a shell complete commands, options, nodes and channels",
    examples: [
      ["source <(dmq completion bash)", "in ~/.bashrc"],
      ["source <(dmq completion zsh)", "in ~/.zshrc, behind compinit"],
      ["dmq completion fish > ~/.config/fish/completions/dmq.fish", "once"],
    ],
    positionals: [{ name: "SHELL", required: true, choices: SHELLS, help: SHELLS.join(", ") }],
    options: [],
    notes: [
      "`dmq completion nodes`, `channels` and `queues` are what the scripts ask for: a line each; the first two are nothing without a daemon.",
    ],
    exits: [
      [0, "printed"],
      [2, "usage"],
    ],
    seeAlso: ["dmq help"],
    async run(context, args) {
      const [what] = args.positionals as [string];
      const ask = WORDS.get(what);
      if (ask !== undefined) return words(context, args, ask);
      const shell = choose("shell", what, SHELLS);
      context.stdout(SCRIPTS[shell](await describeAll(commands)));
      return EXIT.ok;
    },
  };
}

/** A shell that completes has no use of an error. */
async function words(context: CliContext, args: Arguments, ask: Ask): Promise<number> {
  const found = await ask(context, args).catch(() => []);
  context.stdout(found.map((word) => `${word}\n`).join(""));
  return EXIT.ok;
}

async function nodes(context: CliContext, args: Arguments): Promise<string[]> {
  const client = connectDaemon(context, args);
  const rows = await client.call<NodeRow[]>("dmq.list_nodes", undefined, { timeoutMs: ANSWER_MS_MAX });
  return rows.filter(({ local }) => local === 0).map(({ uri }) => uri);
}

async function channels(context: CliContext, args: Arguments): Promise<string[]> {
  const client = connectDaemon(context, args);
  const status = await client.call<StatusReport>("dmq.status", undefined, { timeoutMs: ANSWER_MS_MAX });
  return status.channels.map(({ name }) => name);
}

async function queues(context: CliContext, args: Arguments): Promise<string[]> {
  const { withQueues } = await import("./queue/open.ts");
  const reports = await withQueues(context, args, (open) => open.perform({ type: "report" }));
  return reports.map(({ name }) => name);
}

type Ask = (context: CliContext, args: Arguments) => Promise<string[]>;

const WORDS: ReadonlyMap<string, Ask> = new Map<string, Ask>([
  ["nodes", nodes],
  ["channels", channels],
  ["queues", queues],
]);
