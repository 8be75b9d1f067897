/** What a row of a table of commands expects of one of them, in each of its forms. */
import { expect, test } from "bun:test";
import { EXECUTABLE, jsonRows } from "./daemon.ts";
import { type Form, noTerminal, pooled, untable } from "./forms.ts";
import type { Finished } from "./process.ts";

export interface Expected {
  /** The rest of the test's name. */
  what: string;
  /** How it ends. */
  code: number;
  /** stdout in a pipe; on a terminal the same with its columns padded. Nothing without a word. */
  out?: RegExp;
  /** First line of the table on a terminal. */
  header?: string;
  /**
   * stdout with `--json`: the fields of each object in it, or of the one that it is; `name?` need not be there. Nothing without
   * a word.
   */
  fields?: readonly string[];
  /** stderr of a failure, in all forms. */
  err?: RegExp;
  /** With `--json` stderr is empty: the result says it all. */
  hasQuietJson?: true;
  /** stderr on a terminal, where it says more. */
  told?: RegExp;
}

function checkStdout({ out, header = "", fields = [] }: Expected, form: Form, stdout: string): void {
  if (form === "json") checkJson(fields, stdout);
  else if (out === undefined) expect(stdout).toBe("");
  else if (form === "pipe") {
    expect(stdout).not.toContain("\x1b");
    expect(stdout).toMatch(out);
  } else {
    const plain = untable(stdout);
    const head = header === "" ? "" : `${header}\n`;
    expect(plain).toStartWith(head);
    expect(plain.slice(head.length)).toMatch(out);
  }
}

/** All documented fields, and no other one. */
function checkJson(fields: readonly string[], stdout: string): void {
  if (fields.length === 0) {
    expect(["", "[]\n"]).toContain(stdout);
    return;
  }
  expect(stdout).toEndWith("\n");
  const rows = jsonRows<object>(stdout);
  expect(rows.length).toBeGreaterThan(0);
  for (const row of rows) {
    const there = fields.filter((field) => !field.endsWith("?") || field.slice(0, -1) in row);
    expect(Object.keys(row).sort()).toEqual(there.map((field) => field.replace("?", "")).sort());
  }
}

const PROGRESS = /\r\x1b\[K(?:[^\r]*(?=\r\x1b\[K))?/g;

function checkStderr({ err, told, hasQuietJson }: Expected, form: Form, stderr: string): void {
  if (form === "terminal" && told !== undefined) expect(stderr).toMatch(told);
  else if (err === undefined || (form === "json" && hasQuietJson)) expect(stderr).toBe("");
  else {
    // Progress stands on a terminal as long as it lasts, and only if it lasts.
    const lasting = form === "terminal" ? stderr.replaceAll(PROGRESS, "") : stderr;
    expect(lasting).toMatch(/^(dmq: [^\n]+\n)+$/);
    expect(lasting.trimEnd()).toMatch(err);
  }
}

/** A row in one of its forms. */
export interface Run {
  readonly row: Expected;
  readonly form: Form;
  /** The command's. */
  readonly name: string;
  /** Where there is more than one way to what it asks. */
  readonly way?: string;
}

/** A command as the executable's help has it, as far as tests look at it. */
export interface Described {
  name: string;
  arguments: { required: boolean }[];
  options: { flag: string }[];
  exits: { code: number }[];
  commands: Described[];
}

/** @param group  whose commands, under their own names; without it those of `dmq` */
export function describedCommands(group?: string): Described[] {
  const help = JSON.parse(Bun.spawnSync([EXECUTABLE, "help", "--json"]).stdout.toString()) as Described;
  if (group === undefined) return help.commands;
  const { commands = [] } = help.commands.find(({ name }) => name === group) ?? {};
  return commands.map((command) => ({ ...command, name: command.name.replace(`${group} `, "") }));
}

const ROW_MS_MAX = 60_000;

/**
 * A test for each run: its end is what its row expects.
 *
 * @param finish  runs it, with all that it needs; not called for a terminal where there is none
 * @returns       call it in `beforeAll`, when what they need is there: it starts them, some at a time
 */
export function testRuns<T extends Run>(runs: readonly T[], finish: (run: T) => Promise<Finished>): () => void {
  const possible = runs.filter(({ form }) => form !== "terminal" || noTerminal === undefined);
  const ends = new Map<T, Promise<Finished>>();
  for (const run of runs) {
    const { row, form, name, way } = run;
    const missing = possible.includes(run) ? "" : ` (${noTerminal})`;
    test.skipIf(missing !== "")(
      `${[`${name}: ${row.what}`, ...(way === undefined ? [] : [way]), form].join(", ")}: exit ${row.code}${missing}`,
      async () => {
        const done = await (ends.get(run) as Promise<Finished>);
        expect(done).toMatchObject({ code: row.code });
        checkStdout(row, form, done.stdout);
        checkStderr(row, form, done.stderr);
      },
      ROW_MS_MAX,
    );
  }
  return () => {
    const started = pooled(possible.map((run) => () => finish(run)));
    for (const [index, run] of possible.entries()) ends.set(run, started[index] as Promise<Finished>);
  };
}
