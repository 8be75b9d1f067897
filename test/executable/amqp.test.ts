/**
 * Every command of `dmq amqp` × (success, each failure that its help names), as far as it takes no broker: stdout, stderr and exit
 * code. What takes one is named in `WITH_BROKER` with the file whose test has it. A command or an exit code without either fails.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Described, describedCommands, type Expected, testRuns } from "../helpers/expected.ts";
import { type Form, start } from "../helpers/forms.ts";
import type { Finished } from "../helpers/process.ts";

interface Row extends Expected {
  /** Behind the command's name. */
  args: string[];
  stdin?: string;
  forms?: readonly Form[];
}

/** Besides an unknown option and, where one is required, no argument. */
const TABLE: Record<string, Row[]> = {
  consume: [
    { what: "nothing to consume", args: [], code: 2, err: /nothing to consume/ },
    {
      what: "a broker that is not there",
      args: ["--url", "amqp://127.0.0.1:1", "--queue", "q"],
      ...{ code: 4, err: /ECONNREFUSED/, forms: ["pipe"] },
    },
    {
      what: "no directory of handlers",
      args: ["--url", "amqp://127.0.0.1:1", "--queue", "q", "--handlers", "/no/such"],
      ...{ code: 9, err: /expected a directory/, forms: ["pipe"] },
    },
  ],
  encode: [
    { what: "a word", args: ["a.b ~#é"], code: 0, out: /^a%2Eb\+~%23%C3%A9\n$/ },
    { what: "standard input", args: [], stdin: "*", code: 0, out: /^\*\n$/, forms: ["pipe"] },
    { what: "too long", args: [".".repeat(86)], code: 2, err: /a word of 258 octets, a routing key has at most 255/ },
  ],
};

const folder = mkdtempSync(join(tmpdir(), "dmq-amqp-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A configuration without brokers, whatever this machine has. */
const EMPTY = join(folder, "empty.toml");
writeFileSync(EMPTY, "");

const COMMANDS = "test/amqp/commands.test.ts";

/** Exit codes that take a broker: the file with a test whose title begins with `dmq amqp NAME: exit CODE`. */
const WITH_BROKER: Record<string, string> = {
  ...named("test/amqp/consumed.test.ts", "consume", 0, 1, 3, 5, 8, 130, 143),
  ...named(COMMANDS, "publish", 0, 3, 5, 6, 7),
  ...named(COMMANDS, "query", 0, 3, 5, 6, 8),
  ...named(COMMANDS, "get", 0, 1, 3, 5, 6),
  ...named(COMMANDS, "status", 0, 3),
  ...named(COMMANDS, "declare", 0, 3, 5, 6),
  ...named(COMMANDS, "bind", 0, 3, 5, 6),
  ...named(COMMANDS, "unbind", 0, 3, 5, 6),
  ...named(COMMANDS, "delete", 0, 3, 5, 6),
  ...named(COMMANDS, "purge", 0, 3, 5, 6),
};

function named(file: string, command: string, ...codes: readonly number[]): Record<string, string> {
  return Object.fromEntries(codes.map((code) => [`${command} ${code}`, file]));
}

/** Shortest line of each command that is right. */
const USUAL: Record<string, string[]> = {
  consume: ["--queue", "q"],
  encode: ["x"],
  publish: ["x", "k", "body"],
  query: ["x", "k", "body"],
  get: ["q"],
  status: [],
  declare: ["queue", "q"],
  bind: ["queue", "q", "x"],
  unbind: ["queue", "q", "x"],
  delete: ["queue", "q"],
  purge: ["q"],
};

/** A port that nobody listens at, and the least of patience. */
const NOBODY = ["--url", "amqp://user:secret@127.0.0.1:1/", "--timeout", "200ms"];

/** Of each command that asks a broker once. */
function brokerRows(name: string): Row[] {
  const usual = USUAL[name] as string[];
  const rows: Row[] = [
    {
      what: "no broker there",
      args: [...usual, ...NOBODY],
      code: 4,
      err: /^dmq: amqp:\/\/user@127\.0\.0\.1:1: .*refused/i,
    },
    {
      what: "no broker named",
      args: [...usual, "--config", EMPTY],
      code: 4,
      err: /^dmq: no broker: no daemon runs that has one; name it with --url URL, or in DMQ_AMQP_URL$/,
    },
    {
      what: "what is no URL",
      args: [...usual, "--url", "http://u:secret@x"],
      code: 2,
      err: /--url: got "http:\/\/u:\*\*\*@x"/,
    },
    {
      what: "a certificate that is not there",
      args: [...usual, "--url", "amqps://127.0.0.1:1", "--amqp-ca", "/nowhere/ca.pem"],
      code: 9,
      err: /amqp_ca: got \/nowhere\/ca\.pem \(ENOENT\)/,
    },
    {
      what: "a daemon and a broker",
      args: [...usual, ...NOBODY, "-s", "/x"],
      code: 2,
      err: /--url and --socket exclude/,
    },
    {
      what: "no daemon at this socket",
      args: [...usual, "-s", "/nowhere/dmq.sock"],
      code: 4,
      err: /no daemon on \/nowhere/,
    },
  ];
  return rows.map((row, index) => (index === 0 ? row : { ...row, forms: ["pipe"] }));
}

const commands = describedCommands("amqp");

function rowsOf({ name, arguments: places, options }: Described): Row[] {
  const args = USUAL[name] ?? [];
  const rows: Row[] = [
    ...(TABLE[name] ?? []),
    ...(options.some(({ flag }) => flag === "url") && name !== "consume" ? brokerRows(name) : []),
    { what: "an unknown option", args: [...args, "--nonsense"], code: 2, err: /unknown option --nonsense/ },
  ];
  if (places.some(({ required }) => required))
    rows.push({ what: "no argument", args: [], code: 2, err: /missing argument/ });
  return rows;
}

function formsOf({ options }: Described, row: Row): readonly Form[] {
  const all: Form[] = ["pipe"];
  if (options.some(({ flag }) => flag === "json")) all.push("json");
  if (row.stdin === undefined) all.push("terminal");
  return all.filter((form) => (row.forms ?? all).includes(form));
}

describe("each command has rows, and each exit code of its help one here or with a broker", () => {
  expect(commands.length).toBeGreaterThan(0);
  for (const command of commands) {
    test(command.name, () => {
      const codes = new Set(rowsOf(command).map(({ code }) => code));
      const listed = command.exits.map(({ code }) => code);
      const without = listed.filter((code) => !codes.has(code) && !isWithBroker(command.name, code));
      expect(USUAL[command.name]).toBeDefined();
      expect({ without, unlisted: [...codes].filter((code) => !listed.includes(code)) }).toEqual({
        without: [],
        unlisted: [],
      });
    });
  }
});

function isWithBroker(name: string, code: number): boolean {
  const file = WITH_BROKER[`${name} ${code}`];
  if (file === undefined) return false;
  const path = join(import.meta.dir, "..", "..", file);
  return existsSync(path) && readFileSync(path, "utf8").includes(`dmq amqp ${name}: exit ${code}`);
}

const runs = commands.flatMap((command) =>
  rowsOf(command).flatMap((row) => formsOf(command, row).map((form) => ({ row, form, name: command.name }))),
);
beforeAll(testRuns(runs, finish));

async function finish({ row, form, name }: (typeof runs)[number]): Promise<Finished> {
  const args = ["amqp", name, ...(form === "json" ? ["--json"] : []), ...row.args];
  return (await start(form, args, row.stdin)).ended;
}
