/**
 * Every command of `dmq queue` × (success, each failure that its help names), asking a daemon and on the file where there is none:
 * stdout, stderr and exit code. A command or an exit code without a row fails. With a daemon it runs in each form in which its output
 * differs, on the file in a pipe.
 */
// needs programs: bash cat env false head sleep tr true wc
import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, dmq } from "../helpers/daemon.ts";
import { type Described, describedCommands, type Expected, testRuns } from "../helpers/expected.ts";
import { type Form, type Started, start } from "../helpers/forms.ts";
import { Hub } from "../helpers/mqueue.ts";
import { freeAddress } from "../helpers/neighbourhood.ts";
import type { Finished } from "../helpers/process.ts";
import { until } from "../helpers/wait.ts";

const SETUP_MS = 40_000;

/** `gone` is a daemon that hangs up, `broken` a store that is none, `nowhere` a state directory that is not there. */
type Way = "daemon" | "file" | "gone" | "broken" | "nowhere";

interface Row extends Expected {
  /** Behind the command's name: `$U` is the row's own queue, `$ID` the lease of its item, `$SEQ` the number of that. */
  args: string[];
  ways?: readonly Way[];
  forms?: readonly Form[];
  stdin?: string;
  /** Options of the definition of its queue. */
  defined?: readonly string[];
  /** Lines of items that are in its queue. */
  items?: string;
  /** What became of the oldest of them. */
  fate?: "leased" | "dead";
  /** Commands of `dmq queue` before it. */
  before?: readonly (readonly string[])[];
  /** Once its command for an item has run. */
  signal?: "SIGINT" | "SIGTERM";
}

const ITEM = ["id", "key", "value", "content_type", "headers", "added", "tries", "from", "channel"] as const;
const DEAD = [...ITEM, "reason", "exit_code", "stderr", "died"] as const;
const SIZES = ["ready", "delayed", "leased", "dead", "bytes", "oldest_ms"] as const;
const REPORT = ["name", "counted", ...SIZES, "definition"] as const;

const DEAD_HEADER = "ID\tDIED\tTRIES\tREASON\tKEY\tVALUE";
const ONE = "k\tv\n";
const TWO = "k\tv\nl\tw\n";
const FULL = ["--size", "1", "--full", "reject"];
const TOUCH = ["--follow", "--exec", "touch $DIR/$U$WAY", "$U"];
const TABLE_FILE = ["--sqlite", "$DIR/$U$WAY.db"];
const WRITTEN = [["export", "$U", ...TABLE_FILE]] as const;
const FROM = ["--from", "$HUB", "--queue"];
const NO_ROOM = /full|room/;

/** Besides those of `generalRows`. */
const TABLE: Record<string, Row[]> = {
  add: [
    { what: "an item", args: ["$U", "k", "v"], code: 0 },
    { what: "its number", args: ["--print-id", "$U", "k", "v"], code: 0, out: /^\d+\n$/ },
    { what: "lines", args: ["--lines", "$U"], stdin: TWO, code: 0 },
    { what: "a line that is none", args: ["--lines", "$U"], stdin: "kv\n", code: 2, err: /line 1: there is no tab/ },
    { what: "full", args: ["$U", "l", "w"], defined: FULL, items: ONE, code: 5, err: NO_ROOM },
    { what: "too large", args: ["$U", "l", "x".repeat(2_000)], defined: ["--max-value", "1k"], code: 5, err: /2,?000/ },
    {
      what: "no room in time",
      args: ["--timeout", "100ms", "$U", "l", "w"],
      defined: ["--size", "1", "--full", "wait"],
      items: ONE,
      code: 6,
      err: NO_ROOM,
    },
    {
      what: "the daemon is gone before it answered",
      args: ["$U", "k", "v"],
      ways: ["gone"],
      code: 6,
      err: /it may or may not be stored; with --id/,
    },
  ],
  fetch: [
    { what: "an item", args: ["$U"], items: TWO, code: 0, out: /^k\tv\n$/, fields: ITEM },
    { what: "all", args: ["--all", "$U"], items: TWO, code: 0, out: /^k\tv\nl\tw\n$/, fields: ITEM },
    { what: "a lease", args: ["--lease", "1m", "$U"], items: ONE, code: 0, out: /^\d+-\d+\tk\tv\n$/, fields: ITEM },
    { what: "a command", args: ["--exec", "cat", "$U"], items: ONE, code: 0, out: /^v\n?$/, forms: ["pipe"] },
    { what: "nothing", args: ["$U"], code: 1 },
    { what: "nothing in time", args: ["--wait", "100ms", "$U"], code: 1 },
    {
      what: "a command that fails",
      args: ["--exec", "exit 3", "$U"],
      items: ONE,
      code: 8,
      err: /^dmq: item \d+ of \S+: the command .*3; it is tried again$/,
      forms: ["pipe"],
    },
    {
      what: "a command that cannot be run",
      args: ["--follow", "--exec", "$DIR/nothing", "$U", "x"],
      items: ONE,
      code: 8,
      err: /it is given back, and nothing more is taken/,
      forms: ["pipe"],
    },
    { what: "SIGINT", args: TOUCH, items: ONE, code: 130, forms: ["pipe"], signal: "SIGINT" },
    { what: "SIGTERM", args: TOUCH, items: ONE, code: 143, forms: ["pipe"], signal: "SIGTERM" },
  ],
  peek: [
    { what: "an item", args: ["$U"], items: TWO, code: 0, out: /^k\tv\n$/, fields: ITEM },
    { what: "nothing", args: ["$U"], code: 1 },
  ],
  ack: [
    { what: "a leased one", args: ["$ID"], items: ONE, fate: "leased", code: 0 },
    { what: "one that is not", args: ["9999-9", "$ID"], items: ONE, fate: "leased", code: 3, err: /9999-9/ },
    { what: "no id", args: ["?"], code: 2, err: /"\?" is no id of a leased item/ },
  ],
  nack: [
    { what: "a leased one", args: ["$ID"], items: ONE, fate: "leased", code: 0 },
    { what: "a leased one, for ever", args: ["--dead", "$ID"], items: ONE, fate: "leased", code: 0 },
    { what: "one that is not", args: ["9999-9", "$ID"], items: ONE, fate: "leased", code: 3, err: /9999-9/ },
  ],
  extend: [
    { what: "a leased one", args: ["--lease", "5m", "$ID"], items: ONE, fate: "leased", code: 0 },
    { what: "one that is not", args: ["--lease", "5m", "9999-9"], code: 3, err: /9999-9/ },
    { what: "no time", args: ["9999-9"], code: 2, err: /--lease DURATION is missing/ },
  ],
  size: [
    { what: "two", args: ["$U"], items: TWO, code: 0, out: /^2\n$/, fields: ["name", "size", ...SIZES] },
    { what: "none", args: ["$U"], code: 0, out: /^0\n$/, fields: ["name", "size", ...SIZES] },
    { what: "none, tested", args: ["--test-empty", "$U"], code: 1, out: /^0\n$/, fields: ["name", "size", ...SIZES] },
  ],
  list: [
    {
      what: "queues",
      args: [],
      items: ONE,
      code: 0,
      out: /^(\S+(\t\d+){5}\t[-\d]+\n)+$/,
      header: "NAME\tREADY\tDELAYED\tLEASED\tDEAD\tBYTES\tOLDEST",
      fields: REPORT,
    },
    { what: "no store", args: [], ways: ["nowhere"], code: 0 },
  ],
  stats: [
    {
      what: "a queue",
      args: ["$U"],
      items: TWO,
      code: 0,
      out: /^definition\tname=\S+\nready\t2\n(\w+\t[-\d]+\n)+$/,
      header: "",
      fields: REPORT,
    },
  ],
  move: [
    { what: "items", args: ["$U", "$U.to"], before: [["define", "$U.to"]], items: TWO, code: 0, out: /^2\n$/ },
    { what: "none", args: ["$U", "$U.to"], before: [["define", "$U.to"]], code: 0, out: /^0\n$/ },
    { what: "to itself", args: ["$U", "$U"], code: 2, err: /FROM and TO are both/ },
    {
      what: "more than fit",
      args: ["$U", "$U.to"],
      before: [["define", "$U.to", ...FULL]],
      items: TWO,
      code: 5,
      err: NO_ROOM,
    },
  ],
  clear: [{ what: "items", args: ["$U"], items: TWO, code: 0, out: /^2\n$/ }],
  define: [
    { what: "a new one", args: ["$U.new", "--size", "3"], code: 0 },
    { what: "another definition", args: ["$U", "--ttl", "1h"], items: ONE, code: 0 },
    { what: "an attribute that is none", args: ["$U", "--size", "many"], code: 2, err: /many/ },
    {
      what: "memory without a daemon",
      args: ["$U", "--store", "memory"],
      ways: ["file"],
      code: 4,
      err: /needs a daemon, and none runs/,
    },
    {
      what: "another store for what it holds",
      args: ["$U", "--store", "memory"],
      items: ONE,
      ways: ["daemon"],
      code: 5,
      err: /holds items, so it cannot become store=memory: fetch or clear them/,
    },
  ],
  drop: [
    { what: "an empty one", args: ["$U"], code: 0 },
    { what: "all of it", args: ["--force", "$U"], items: ONE, code: 0 },
    { what: "one that holds items", args: ["$U"], items: ONE, code: 5, err: /--force/ },
  ],
  dead: [
    {
      what: "list",
      args: ["$U", "list"],
      items: ONE,
      fate: "dead",
      code: 0,
      out: /^\d+\t\S+Z\t1\tnack\tk\tv\n$/,
      header: DEAD_HEADER,
      fields: DEAD,
    },
    {
      what: "show",
      args: ["$U", "show", "$SEQ"],
      items: ONE,
      fate: "dead",
      code: 0,
      out: /^id\t\d+\nkey\tk\n(\w+\t.*\n)+value\tv\n$/,
      fields: DEAD,
    },
    { what: "retry", args: ["$U", "retry", "$SEQ"], items: ONE, fate: "dead", code: 0, out: /^1\n$/, forms: ["pipe"] },
    { what: "drop", args: ["$U", "drop", "--all"], items: ONE, fate: "dead", code: 0, out: /^1\n$/, forms: ["pipe"] },
    { what: "none", args: ["$U", "list"], code: 1, out: /^$/, header: DEAD_HEADER },
    { what: "no such action", args: ["$U", "lst"], code: 2, err: /did you mean list\?/ },
    { what: "no such dead letter", args: ["$U", "show", "999999"], code: 3, err: /no dead letter 999999/ },
    { what: "none of them to retry", args: ["$U", "retry", "999999"], code: 3, err: /999999/ },
    {
      what: "no room for it",
      args: ["$U", "retry", "--all"],
      defined: FULL,
      items: ONE,
      fate: "dead",
      before: [["add", "$U", "l", "w"]],
      code: 5,
      err: NO_ROOM,
    },
  ],
  import: [
    { what: "rows", args: ["$U", ...TABLE_FILE], items: TWO, before: WRITTEN, code: 0, out: /^2\n$/ },
    { what: "no file named", args: ["$U"], code: 2, err: /--sqlite FILE is missing/ },
    {
      what: "no such table",
      args: ["$U", ...TABLE_FILE, "--table", "other"],
      before: WRITTEN,
      code: 3,
      err: /no table other/,
    },
    { what: "no room", args: ["$U", ...TABLE_FILE], defined: FULL, items: ONE, before: WRITTEN, code: 5, err: NO_ROOM },
    { what: "no such file", args: ["$U", "--sqlite", "$DIR/nothing.db"], code: 9, err: /nothing\.db/ },
  ],
  export: [
    { what: "items", args: ["$U", ...TABLE_FILE], items: TWO, code: 0, out: /^2\n$/ },
    { what: "items, taken", args: ["$U", "--take", ...TABLE_FILE], items: TWO, code: 0, out: /^2\n$/ },
    { what: "no file named", args: ["$U"], code: 2, err: /--sqlite FILE is missing/ },
    {
      what: "a table of something else",
      args: ["$U", "--sqlite", "$DIR/odd.db", "--table", "odd"],
      code: 3,
      err: /a table odd without key, val/,
    },
    { what: "a file that is none", args: ["$U", "--sqlite", "$DIR/broken/queues.db"], code: 9, err: /queues\.db/ },
  ],
  pull: [
    { what: "an item", args: ["$U", ...FROM, "one.$U$WAY"], code: 0, out: /^1\n$/ },
    { what: "nothing", args: ["$U", ...FROM, "empty"], code: 1, out: /^0\n$/ },
    { what: "no URL", args: ["$U", "--from", "sip:x"], code: 2, err: /--from "sip:x"/ },
    { what: "no such queue there", args: ["$U", ...FROM, "missing"], code: 3, err: /404/ },
    { what: "nobody there", args: ["$U", "--from", "http://127.0.0.1:9/RPC"], code: 4, err: /does not answer/ },
    { what: "no JSON-RPC", args: ["$U", ...FROM, "words"], code: 4, err: /with no JSON-RPC/ },
    {
      what: "no room",
      args: ["$U", ...FROM, "one.$U$WAY"],
      defined: FULL,
      items: ONE,
      code: 5,
      out: /^key\tval\n$/,
      err: /^dmq: queue [^\n]* is full[^\n]*$/,
    },
    {
      what: "no room for the second",
      args: ["$U", ...FROM, "two.$U$WAY"],
      defined: FULL,
      code: 5,
      out: /^key\tval\n$/,
      err: /^dmq: 1 items were stored before the error\n[^\n]*is full/,
    },
    { what: "silence", args: ["$U", "--timeout", "300ms", ...FROM, "silent"], code: 6, err: /did not answer/ },
  ],
  check: [
    {
      what: "a store",
      args: [],
      items: ONE,
      code: 0,
      out: /^items\t\d+\nfile_bytes\t\d+\nfree_bytes\t\d+\n$/,
      header: "",
      fields: ["ok", "problems", "items", "file_bytes", "free_bytes"],
    },
    { what: "no store", args: [], ways: ["nowhere"], code: 3, err: /queues\.db is not there/ },
  ],
};

/** Shortest line of each command that is right, for a queue that is not there. */
const USUAL: Record<string, string[]> = {
  add: ["nought", "k", "v", "--id", "1"],
  ack: ["9999-9"],
  nack: ["9999-9"],
  extend: ["9999-9", "--lease", "1m"],
  list: [],
  move: ["nought", "other"],
  define: ["$U"],
  dead: ["nought", "list"],
  import: ["nought", "--sqlite", "$DIR/nothing.db"],
  export: ["nought", "--sqlite", "$DIR/nothing.db"],
  pull: ["nought", "--from", "$HUB"],
  check: [],
};

const commands = describedCommands("queue");

function rowsOf({ name, exits }: Described): Row[] {
  return [...(TABLE[name] ?? []), ...generalRows(name, new Set(exits.map(({ code }) => code)))];
}

/** What goes wrong in the same way with every command. */
function generalRows(name: string, exits: ReadonlySet<number>): Row[] {
  const args = USUAL[name] ?? ["nought"];
  const one: readonly Way[] = ["daemon"];
  const rows: Row[] = [
    { what: "an unknown option", args: [...args, "--nonsense"], ways: one, code: 2, err: /unknown option --nonsense/ },
    { what: "a daemon that hangs up", args, ways: ["gone"], code: 4, err: /gone\.sock/ },
    { what: "a store that is none", args, ways: ["broken"], code: 9, err: /queues\.db cannot be used/ },
  ];
  if (args.length > 0) rows.push({ what: "no argument", args: [], ways: one, code: 2, err: /missing argument/ });
  if (exits.has(3) && name !== "check") {
    rows.push({ what: "no such thing", args, code: 3, err: /no queue nought; there are |9999-9/ });
    rows.push({ what: "no store at all", args, ways: ["nowhere"], code: 3, err: /make one with: dmq queue define/ });
  }
  return rows;
}

interface Run {
  row: Row;
  name: string;
  way: Way;
  form: Form;
  /** Its queue. */
  unique: string;
}

const runs: Run[] = commands.flatMap((command) =>
  rowsOf(command).flatMap((row, index) =>
    (row.ways ?? (["daemon", "file"] as const)).flatMap((way) =>
      formsOf(command, row, way).map((form) => ({
        ...{ row, name: command.name, way, form },
        unique: `${command.name}${index}${form}`,
      })),
    ),
  ),
);

function formsOf({ options }: Described, row: Row, way: Way): readonly Form[] {
  const all: Form[] = ["pipe"];
  if (way === "daemon" && options.some(({ flag }) => flag === "json")) all.push("json");
  if (way === "daemon" && row.stdin === undefined && (row.header !== undefined || row.code !== 0)) all.push("terminal");
  return all.filter((form) => (row.forms ?? all).includes(form));
}

const daemons = new Daemons();
const hub = new Hub();
let daemon: Daemon;
let hangsUp: { stop(closes: boolean): void };
const startRuns = testRuns(runs, finish);

beforeAll(async () => {
  const { dir } = daemons;
  daemon = await daemons.serve("d", await freeAddress(), ["--state-dir", join(dir, "d"), "--log-level", "error"]);
  hangsUp = Bun.listen({ unix: join(dir, "gone.sock"), socket: { data: (socket) => void socket.end() } });
  mkdirSync(join(dir, "broken"));
  writeFileSync(join(dir, "broken", "queues.db"), "no store\n".repeat(1_000));
  const odd = new Database(join(dir, "odd.db"));
  odd.run("CREATE TABLE odd (id INTEGER PRIMARY KEY)");
  odd.close();
  // The first of a store's processes makes its file.
  expect((await dmq(["queue", "define", "first", ...whereOf("file")])).code).toBe(0);
  expect((await daemon.run(["queue", "define", "first"])).code).toBe(0);
  startRuns();
}, SETUP_MS);

afterAll(async () => {
  hangsUp?.stop(true);
  hub.end();
  await daemons.endAll();
}, SETUP_MS);

function whereOf(way: Way): string[] {
  const { dir } = daemons;
  if (way === "daemon") return ["--socket", daemon.socket];
  return way === "gone" ? ["--socket", join(dir, "gone.sock")] : ["--state-dir", join(dir, way)];
}

/** Runs a row, behind all that it needs. */
async function finish({ row, name, way, form, unique }: Run): Promise<Finished> {
  const where = whereOf(way);
  const words = new Map<string, string>([
    ...([
      ["$U", unique],
      ["$WAY", way],
      ["$DIR", daemons.dir],
      ["$HUB", hub.url],
    ] as const),
  ]);
  const told = (text: string): string =>
    text.replaceAll(/\$(?:WAY|DIR|HUB|SEQ|ID|U)/g, (word) => words.get(word) ?? word);
  const q = async (args: readonly string[], stdin?: string): Promise<string> => {
    const input = stdin === undefined ? {} : { stdin: new TextEncoder().encode(stdin) };
    const done = await dmq(["queue", ...args.map(told), ...where], input);
    if (done.code !== 0) throw new Error(`dmq queue ${args.join(" ")}: exit ${done.code}: ${done.stderr}`);
    return done.stdout;
  };
  if (way === "daemon" || way === "file") await prepare(row, q, words);
  const args = ["queue", name, ...(form === "json" ? ["--json"] : []), ...where, ...row.args.map(told)];
  const started = await start(form, args, row.stdin);
  const signalled = row.signal && raise(started, join(daemons.dir, `${unique}${way}`), row.signal);
  const [done] = await Promise.all([started.ended, signalled]);
  return done;
}

type Command = (args: readonly string[], stdin?: string) => Promise<string>;

async function prepare(row: Row, q: Command, words: Map<string, string>): Promise<void> {
  const names = row.args.some((word) => word.includes("$U")) || row.items !== undefined;
  if (names) await q(["define", "$U", ...(row.defined ?? [])]);
  if (row.items !== undefined) await q(["add", "--lines", "$U"], row.items);
  if (row.fate !== undefined) {
    const [id] = (await q(["fetch", "--lease", "5m", "$U"])).split("\t") as [string];
    words.set("$ID", id).set("$SEQ", id.replace(/-.*/, ""));
  }
  if (row.fate === "dead") await q(["nack", "--dead", "$ID"]);
  for (const line of row.before ?? []) await q(line);
}

/** Once its command has left its mark. */
async function raise({ pid }: Started, mark: string, signal: "SIGINT" | "SIGTERM"): Promise<void> {
  await until(() => existsSync(mark), 10_000, "the command runs");
  process.kill(pid, signal);
}

describe("each command has rows, and each exit code of its help one, which it says once", () => {
  test("dmq queue", () => {
    expect(commands.map(({ name }) => name).sort()).toEqual(Object.keys(TABLE).sort());
  });

  for (const command of commands) {
    test(command.name, () => {
      const codes = [...new Set(rowsOf(command).map(({ code }) => code))].sort((a, b) => a - b);
      expect(command.exits.map(({ code }) => code).sort((a, b) => a - b)).toEqual(codes);
    });
  }
});
