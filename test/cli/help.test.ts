import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CommandInfo } from "../../src/cli/describe.ts";
import { EXIT } from "../../src/cli/exit.ts";
import { ALL_COMMANDS } from "../../src/cli/tree.ts";
import { FakeDaemon, runCli } from "../helpers/cli.ts";
import { describeWhere, missingPrograms, type Refused } from "../helpers/needs.ts";

const dir = mkdtempSync(join(tmpdir(), "dhelp-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const NAMES = [...ALL_COMMANDS.keys()];

async function out(...args: string[]): Promise<string> {
  const ran = await runCli(args);
  expect([ran.code, ran.err]).toEqual([0, ""]);
  return ran.out;
}

async function described(): Promise<CommandInfo[]> {
  return (JSON.parse(await out("help", "--json")) as { commands: CommandInfo[] }).commands;
}

describe("help", () => {
  test("without a command is the overview, with one the help of it", async () => {
    expect(await out("help")).toBe(await out("--help"));
    for (const name of NAMES) expect(await out("help", name)).toBe(await out(name, "--help"));
  });

  test("a wrong name is a usage error with the nearest right one", async () => {
    const { code, err } = await runCli(["help", "sned"]);
    expect([code, err]).toEqual([2, 'dmq: unknown command "sned"; did you mean send?\n']);
    expect((await runCli(["help", "--json", "--man"])).code).toBe(2);
  });

  test("--json describes every command as its own help does", async () => {
    const commands = await described();
    expect(commands.map(({ name }) => name)).toEqual(NAMES);
    for (const command of commands) {
      expect(JSON.parse(await out("help", command.name, "--json"))).toEqual(command);
      const help = await out(command.name, "--help");
      for (const { flag, help: text } of command.options)
        expect(help.includes(`--${flag}`) && help.includes(text)).toBe(true);
    }
  });

  test("every command says what its exit codes mean, with those of the one table, and what to read next", async () => {
    const known: number[] = Object.values(EXIT);
    for (const { name, exits, see_also: seeAlso, notes } of await described()) {
      const codes = exits.map(({ code }) => code);
      expect([name, codes.includes(0), codes.includes(2)]).toEqual([name, true, true]);
      expect(codes.filter((code) => !known.includes(code))).toEqual([]);
      expect(new Set(codes).size).toBe(codes.length);
      expect(seeAlso.length).toBeGreaterThan(0);
      const others = seeAlso.map((line) => line.split(" ")[1] as string);
      expect(others.filter((other) => !NAMES.includes(other))).toEqual([]);
      expect(notes.filter((note) => note.startsWith("exit:"))).toEqual([]);
    }
  });
});

/** Who completes in another shell has it; a machine for tests need not. */
function absent(shell: string): Refused | undefined {
  const missing = missingPrograms(shell);
  return missing === undefined ? undefined : { refused: missing };
}

describeWhere(missingPrograms("groff"), "man pages", () => {
  test("groff has nothing to complain of in any of them", async () => {
    for (const name of [undefined, ...NAMES]) {
      const page = await out("help", "--man", ...(name === undefined ? [] : [name]));
      const args = ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z"];
      const done = Bun.spawnSync(args, { stdin: new TextEncoder().encode(page), stdout: "pipe", stderr: "pipe" });
      expect([name, done.exitCode, done.stderr.toString()]).toEqual([name, 0, ""]);
    }
  });

  test("a page shows the texts as they are: quotes, dashes, dots and backslashes", async () => {
    const page = await out("help", "--man", "listen");
    const args = ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=300n"];
    const done = Bun.spawnSync(args, { stdin: new TextEncoder().encode(page), stdout: "pipe" });
    const shown = done.stdout.toString().replaceAll(/\s+/g, " ");
    const [command] = (await described()).filter(({ name }) => name === "listen");
    for (const { line, what } of command?.examples ?? []) {
      expect(shown).toContain(line.replaceAll(/\s+/g, " "));
      expect(shown).toContain(what.replaceAll(/\s+/g, " "));
    }
    for (const note of command?.notes ?? []) expect(shown).toContain(note.replaceAll(/\s+/g, " "));
  });
});

describeWhere(missingPrograms("bash"), "completion in bash", () => {
  const script = join(dir, "dmq.bash");
  const planted = join(dir, "planted");

  /** What bash offers at the end of a line, where nodes and channels are these. */
  async function offered(line: string): Promise<string[]> {
    if (!existsSync(script)) writeFileSync(script, await out("completion", "bash"));
    const stub = `dmq() { case "$*" in
      "completion nodes") printf '%s\\n' sip:192.0.2.2:5060 'sip:192.0.2.3:5060;transport=tcp' ;;
      "completion channels") printf '%s\\n' news 'evil$(touch ${planted})' ;;
    esac; }`;
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the text is a shell's
    const ask = 'COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=(); _dmq; printf "%s\\n" "${COMPREPLY[@]}"';
    const done = Bun.spawnSync(["bash", "-c", `${stub}\nsource ${script}\n${ask}`, "bash", line], {
      cwd: dir,
      stderr: "pipe",
    });
    expect(done.stderr.toString()).toBe("");
    return done.stdout
      .toString()
      .split("\n")
      .filter((word) => word !== "");
  }

  const cases: [line: string, words: string[]][] = [
    ["dmq se", ["serve", "send", "set"]],
    ["dmq -s /run/x.sock rel", ["reload"]],
    ["dmq --v", ["--version"]],
    ["dmq send news ", ["sip:192.0.2.2:5060", "sip:192.0.2.3:5060\\;transport=tcp"]],
    // Bash cuts words at colons: what stands before the last one is there already.
    ["dmq send news sip:192.0.2.2", ["192.0.2.2:5060"]],
    ["dmq send --retry 3 ne", ["news"]],
    ["dmq join sip:192.0.2.9:5060 sip:192.0.2.2", ["192.0.2.2:5060"]],
    ["dmq set sip:192.0.2.2:5060 ", ["active", "not_active", "disabled"]],
    ["dmq serve --log-level ", ["error", "warn", "info", "debug", "trace"]],
    ["dmq serve --log-level=de", ["debug"]],
    ["dmq serve --no-multi", ["--no-multi-notify"]],
    ["dmq config ", ["show", "check", "init"]],
    ["dmq config check dmq.b", ["dmq.bash"]],
    ["dmq completion f", ["fish"]],
    ["dmq help sen", ["send"]],
    ["dmq leave ", []],
    ["dmq no-such-command ", []],
  ];
  test.each(cases)("%s", async (line, words) => {
    expect(await offered(line)).toEqual(words);
  });

  test("a name that somebody made up to be executed is a word like any other", async () => {
    const words = await offered("dmq send evil");
    expect(words.join(" ")).toContain("evil\\$\\(touch");
    expect(existsSync(planted)).toBe(false);
  });
});

/** A zsh that completes reads its whole library. */
const SHELL_MS = 20_000;

/** What zsh and fish offer at the end of a line, in any order, where nodes and channels are those of bash above. */
const OFFERED: [line: string, words: string[]][] = [
  ["dmq se", ["send", "serve", "set"]],
  ["dmq -s /run/x.sock rel", ["reload"]],
  ["dmq --v", ["--version"]],
  ["dmq send news sip:192.0.2.2", ["sip:192.0.2.2:5060"]],
  ["dmq send --retry 3 ne", ["news"]],
  ["dmq join sip:192.0.2.9:5060 sip:192.0.2.2", ["sip:192.0.2.2:5060"]],
  ["dmq set sip:192.0.2.2:5060 ac", ["active"]],
  ["dmq serve --log-level ", ["debug", "error", "info", "trace", "warn"]],
  ["dmq serve --no-multi", ["--no-multi-notify"]],
  ["dmq config ch", ["check"]],
  ["dmq completion f", ["fish"]],
  ["dmq help sen", ["send"]],
  ["dmq queue fe", ["fetch"]],
  ["dmq -s /run/x.sock queue fetch --fol", ["--follow"]],
  // A channel may be called as a command is.
  ["dmq listen stop --exe", ["--exec"]],
  ["dmq send ne", ["news"]],
  ["dmq send news --timeout 2s ", ["sip:192.0.2.2:5060", "sip:192.0.2.3:5060;transport=tcp"]],
  ["dmq no-such-command ", []],
];

const STUB = `case "$*" in
  "completion nodes") printf '%s\\n' sip:192.0.2.2:5060 'sip:192.0.2.3:5060;transport=tcp' ;;
  "completion channels") printf '%s\\n' news ;;
esac`;

/** Each line that `compadd` is called with, from a zsh on a terminal of its own: nothing else completes in it. */
const ZSH_OFFERS = `zmodload zsh/zpty || exit 3
zpty z zsh -f -i
zpty -w z "PS1= PS2= RPS1=; source $1/inner.zsh; print READ''Y"
while zpty -r z line; do [[ $line == *READY* ]] && break; done
zpty -n -w z "$2"$'\\t'
while zpty -r z line; do
  [[ $line == *DONE* ]] && break
  [[ $line == *HIT:* ]] && print -r -- "\${\${line##*HIT:}%%$'\\r'*}"
done
zpty -d z
`;

const ZSH_INNER = `cd \${0:h}; autoload -U compinit; compinit -u -d ./dump; source ./dmq.zsh
dmq() { ${STUB} }
compadd() {
  if [[ \${@[1,(i)(-|--)]} == *-[A-Za-z]#[OAD]* ]]; then builtin compadd "$@"; return; fi
  local -a hits; builtin compadd -A hits "$@"; (( $#hits )) && print -rl -- HIT:$^hits; builtin compadd "$@"
}
said() { print DONE }
comppostfuncs=(said); zstyle ':completion:*' insert-tab false; bindkey '^I' complete-word
`;

describeWhere(absent("zsh"), "completion in zsh", () => {
  beforeAll(async () => {
    writeFileSync(join(dir, "dmq.zsh"), await out("completion", "zsh"));
    writeFileSync(join(dir, "inner.zsh"), ZSH_INNER);
    writeFileSync(join(dir, "offers.zsh"), ZSH_OFFERS);
  });

  test("the script is one", () => {
    const done = Bun.spawnSync(["zsh", "-n", join(dir, "dmq.zsh")], { stderr: "pipe" });
    expect([done.exitCode, done.stderr.toString()]).toEqual([0, ""]);
  });

  test.each(OFFERED)(
    "%s",
    (line, words) => {
      const done = Bun.spawnSync(["zsh", "-f", join(dir, "offers.zsh"), dir, line], {
        stderr: "pipe",
        timeout: SHELL_MS,
      });
      expect([done.exitCode, done.stderr.toString()]).toEqual([0, ""]);
      expect(wordsOf(done.stdout)).toEqual(words);
    },
    SHELL_MS,
  );
});

describeWhere(absent("fish"), "completion in fish", () => {
  const script = join(dir, "dmq.fish");
  const env = { ...process.env, HOME: dir };
  beforeAll(async () => {
    writeFileSync(script, await out("completion", "fish"));
    mkdirSync(join(dir, "bin"));
    writeFileSync(join(dir, "bin", "dmq"), `#!/bin/sh\n${STUB}\n`, { mode: 0o755 });
  });

  test("the script is one", () => {
    const done = Bun.spawnSync(["fish", "--no-execute", script], { stderr: "pipe", env });
    expect([done.exitCode, done.stderr.toString()]).toEqual([0, ""]);
  });

  test.each(OFFERED)(
    "%s",
    (line, words) => {
      const ask = `set -p PATH ${join(dir, "bin")}; source ${script}; complete -C $argv[1]`;
      const done = Bun.spawnSync(["fish", "--no-config", "-c", ask, line], { stderr: "pipe", env, timeout: SHELL_MS });
      expect([done.exitCode, done.stderr.toString()]).toEqual([0, ""]);
      expect(wordsOf(done.stdout)).toEqual(words);
    },
    SHELL_MS,
  );
});

/** Lines without what fish says of each, sorted. */
function wordsOf(stdout: Buffer): string[] {
  const words = stdout
    .toString()
    .split("\n")
    .map((word) => word.split("\t")[0] as string);
  return [...new Set(words)]
    .map((word) => word.replace("\\;", ";"))
    .filter((word) => word !== "")
    .sort();
}

describe("what the scripts ask for", () => {
  test("nodes but this one, channels; nothing and exit 0 without a daemon", async () => {
    const daemon = new FakeDaemon();
    try {
      daemon.reply = ({ method }) =>
        method === "dmq.status"
          ? { result: { channels: [{ name: "news" }, { name: "job" }] } }
          : {
              result: [
                { uri: "sip:192.0.2.2:5060", local: 0 },
                { uri: "sip:192.0.2.1:5060", local: 1 },
              ],
            };
      expect(await out("completion", "nodes", "-s", daemon.socket)).toBe("sip:192.0.2.2:5060\n");
      expect(await out("completion", "channels", "-s", daemon.socket)).toBe("news\njob\n");
    } finally {
      await daemon.end();
    }
    expect(await out("completion", "nodes", "-s", join(dir, "none.sock"))).toBe("");
  });

  test("another shell is a usage error", async () => {
    const { code, err } = await runCli(["completion", "bsah"]);
    expect([code, err]).toEqual([2, 'dmq: unknown shell "bsah"; did you mean bash?\n']);
    expect((await runCli(["completion"])).code).toBe(2);
  });
});
