/**
 * Every command of the compiled executable × (terminal, pipe, `--json`) × (success, each failure that its help names): stdout, stderr
 * and exit code. A command or an exit code without a row fails. What holds for all rows is held by `check`: nothing on stderr of a
 * success that is piped, no colour there, one line of stderr behind `dmq: ` for a failure, JSON with the fields of docs/RPC.md.
 */
// needs programs: bash cat env false head sleep tr true wc
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, dmq } from "../helpers/daemon.ts";
import { type Described, describedCommands, type Expected, testRuns } from "../helpers/expected.ts";
import { type Form, type Started, start } from "../helpers/forms.ts";
import { freeAddress, heard, Neighbourhood, type Place } from "../helpers/neighbourhood.ts";
import type { Finished } from "../helpers/process.ts";
import { until } from "../helpers/wait.ts";

const SETUP_MS = 40_000;

interface Row extends Expected {
  /** Behind the command's name; `$A` and its like are replaced. */
  args: string[];
  /** Whose socket it asks; `none` without a word. */
  at?: Place;
  /** It is run without `--socket`. */
  hasNoSocket?: true;
  stdin?: string;
  forms?: readonly Form[];
  /** A command to its daemon before it runs. */
  before?: readonly string[];
  /** What happens while it runs. */
  meanwhile?: Meanwhile;
}

type Meanwhile = (started: Started, row: Running) => Promise<unknown>;

/** A row in one of its forms. */
interface Running {
  readonly row: Row;
  readonly form: Form;
  readonly name: string;
  readonly args: readonly string[];
  readonly socket: string;
  readonly daemon: Daemon | undefined;
  /** A name that no other row has. */
  readonly unique: string;
}

const DELIVERY = [
  ...["node", "outcome", "code", "reason", "ms", "consumer", "attempts", "tries", "message_id"],
] as const;
const NODE = [
  ...["host", "port", "proto", "resolved_ip", "status", "last_notification", "local", "fail_count", "uri", "rtt_ms"],
  ...["last_seen", "user_agent", "source", "verified", "in_flight", "queued"],
] as const;
const STATUS = [
  ...[
    "amqp",
    "version",
    "pid",
    "uptime_s",
    "uri",
    "listeners",
    "channels",
    "peers",
    "counters",
    "ready",
    "socket",
    "state_dir",
    "links",
    "queues",
  ],
];
const MESSAGE = [
  ...["time", "channel", "from", "node", "source", "call_id", "content_type", "max_forwards", "message_id"],
  ...["size", "accepts_body", "body"],
];
const PINGED = ["round", "node", "outcome", "code", "reason", "ms", "attempts"];

const EVENT = ["type", "time", "channel", "consumers"];
const HELP = ["name", "summary", "usage", "examples", "arguments", "options", "notes", "exits", "see_also", "commands"];

const JSON_TEXT = '{"a": {"b": [1, 12345678901234567890]}, "s": "x y"}';

const DELIVERY_HEADER = "NODE\tCODE\tREASON\tMS";
const LIST_HEADER = "URI\tSTATUS\tLOCAL\tIP\tRTT_MS\tFAILS\tLAST_SEEN\tSOURCE\tUSER_AGENT";
const SOON = ["--timeout", "400ms"];
const GHOST = "sip:127.0.0.1:9";

/** A result line of a node: `code` with its reason. */
function said(code: string): RegExp {
  return new RegExp(`^sip:127\\.0\\.0\\.1:\\d+(;transport=tcp)?\t${code}\t[\\d.]+\n$`);
}

const REFUSED = said("603\tDecline");
const NO_CHANNEL = said("404\t[^\t]+");
const TIMEOUT = said("-\ttimeout");
const UNREACHABLE = said("-\tunreachable");
const NO_NODE = /Node Not Found/;
const LATE = /no answer in time: it may or may not have happened there/;
const CHECKED = ["file", "mistakes", "warnings"];
const GONE = /ECONNREFUSED, nothing listens there/;
const NOT_ALL = /^(sip:127\.0\.0\.1:\d+(;transport=tcp)?\t(200|202|404|603|-)\t[^\t]+\t\d+\n){7}$/;
const BOTH_FAIL = /^(sip:127\.0\.0\.1:\d+(;transport=tcp)?\t-\t(timeout|unreachable)\t\d+\n){2}$/;
const ANSWERED = /^sip:127\.0\.0\.1:\d+\t200\tOK\t\d+\t-\n$/;
const NOT_ALL_BODY = /^(sip:127\.0\.0\.1:\d+(;transport=tcp)?\t(200|202|404|603|-)\t[^\t]+\t\d+\t-\n){7}$/;
const BOTH_FAIL_BODY = /^(sip:127\.0\.0\.1:\d+(;transport=tcp)?\t-\t(timeout|unreachable)\t\d+\t-\n){2}$/;
const HEARD = /^\S+\tlisten\S+\tsip:[^\t]+\ttext\/plain\thello\n$/;
const LISTED = /^sip:127\.0\.0\.1:\d+\tactive\t1\t127\.0\.0\.1\t-\t0\t-\tlocal\t-\n$/;
const NO_PONG = /^(sip:127\.0\.0\.1:\d+(;transport=tcp)?\t(403|-)\t[^\t]+\t[\d.]+\n){2}$/;
const BY_LINE = /^1\tsip:[^\t]+\t200\tOK\t\d+\n2\t-\t-\trefused\t-\n$/;
const SOME_PONG = /^(sip:127\.0\.0\.1:\d+(;transport=tcp)?\t(403|200)\t[^\t]+\t[\d.]+\n){2}$/;
const NOBODY = /there is no active node to address; dmq list shows the nodes/;

/** Ends it by a signal, once its daemon knows that it listens. */
async function interrupted({ pid }: Started, { daemon, unique }: Running): Promise<void> {
  await heard(daemon as Daemon, unique);
  process.kill(pid, "SIGINT");
}

/** Sends a message to the channel of the row, once somebody listens. */
async function speak(_: Started, { daemon, unique }: Running): Promise<void> {
  await heard(daemon as Daemon, unique);
  const { uri } = daemon as Daemon;
  const done = await dmq(["send", "--via", uri, unique, uri, "hello"]);
  if (done.stdout === "") throw new Error(done.stderr);
}

/** Kills its daemon, once that knows it. */
async function orphan({ ended }: Started, { daemon, unique, row }: Running): Promise<void> {
  if (row.args.includes("$U")) await heard(daemon as Daemon, unique);
  else await Promise.race([ended, Bun.sleep(SETTLE_MS)]);
  await (daemon as Daemon).end("SIGKILL");
}

/** For what has no sign that it has begun to wait. */
const SETTLE_MS = 400;

async function interruptSoon({ pid, ended }: Started): Promise<void> {
  await Promise.race([ended, Bun.sleep(SETTLE_MS)]);
  process.kill(pid, "SIGINT");
}

async function interruptAfterOutput({ pid, seen }: Started): Promise<void> {
  await until(() => seen().endsWith("\n"), 10_000, "a first line");
  tell(pid, "SIGINT");
}

/** Something that `events` tells of, until somebody was told. */
async function stir({ ended }: Started, { daemon, unique }: Running): Promise<void> {
  let isOver = false;
  void ended.then(() => {
    isOver = true;
  });
  while (!isOver) await (daemon as Daemon).run(["listen", "-W", "300ms", unique]);
}

/** Signals until it ends: the first asks it to, the second does not ask. */
function twice(signal: "SIGINT" | "SIGTERM"): Meanwhile {
  return async ({ pid, ended }, { socket, unique, args }) => {
    const uri = args[args.indexOf("--server-address") + 1] as string;
    await answers(socket);
    void dmq(["send", "--via", uri, "slow", uri, "--timeout", "1s"]);
    await until(() => existsSync(join(world.daemons.dir, unique)), 10_000, "the handler runs");
    const over = ended.then(() => true);
    do tell(pid, signal);
    while (!(await Promise.race([over, Bun.sleep(100).then(() => false)])));
  };
}

/** A process may be gone by now. */
function tell(pid: number, signal: "SIGINT" | "SIGTERM"): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function once(signal: "SIGINT" | "SIGTERM"): Meanwhile {
  return async ({ pid }, { socket }) => {
    await answers(socket);
    process.kill(pid, signal);
  };
}

async function answers(socket: string): Promise<void> {
  const isUp = async (): Promise<boolean> => (await dmq(["status", "-s", socket])).code === 0;
  await until(isUp, 10_000, `a daemon on ${socket}`);
}

const UNTIL_SIGNAL = ["--server-address", "$FREE", "--no-snapshot", "--log-level", "error"];
const SLOW = ["--on", "slow=sh -c 'echo >$DIR/$U; sleep 5'", "--handler-timeout", "5"];

function broadcastRow(row: Row): Row {
  return row.out === undefined ? row : { ...row, fields: DELIVERY, header: DELIVERY_HEADER };
}

/** With `--json` the result is on stdout however it went, and nothing is on stderr that is not in it. */
function askingRow(row: Row): Row {
  if (row.err === NO_NODE || row.err === NOBODY) return row;
  const header = row.args.includes("--all") ? { header: `${DELIVERY_HEADER}\tBODY` } : {};
  return { ...row, ...header, fields: [...DELIVERY, "body", ...(row.args.includes("cat") ? ["content_type"] : [])] };
}

function pingRow(row: Row): Row {
  return row.out === undefined ? row : { ...row, fields: PINGED };
}

function each(finished: (row: Row) => Row, rows: Row[]): Row[] {
  return rows.map(finished);
}

/** Besides an unknown option, and no daemon where a command wants one: those are rows of every command. */
const TABLE: Record<string, Row[]> = {
  serve: [
    { what: "SIGINT", args: UNTIL_SIGNAL, at: "gone", code: 0, meanwhile: once("SIGINT") },
    { what: "SIGTERM", args: UNTIL_SIGNAL, at: "gone", code: 0, meanwhile: once("SIGTERM") },
    { what: "SIGINT twice", args: [...UNTIL_SIGNAL, ...SLOW], at: "gone", code: 130, meanwhile: twice("SIGINT") },
    { what: "SIGTERM twice", args: [...UNTIL_SIGNAL, ...SLOW], at: "gone", code: 143, meanwhile: twice("SIGTERM") },
    { what: "an address in use", args: ["--server-address", "$NONE"], at: "gone", code: 4, err: /in use|EADDRINUSE/ },
    { what: "a control socket in use", args: UNTIL_SIGNAL, code: 4, err: /another daemon answers on/ },
    { what: "an option out of bounds", args: ["--ping-interval", "0"], at: "gone", code: 9, err: /ping-interval: got/ },
  ],
  send: [
    ...each(broadcastRow, [
      { what: "200", args: ["c", "$KIND", "hi"], at: "kind", code: 0, out: said("200\tOK"), header: DELIVERY_HEADER },
      { what: "no such node", args: ["c", GHOST, "hi"], code: 3, err: NO_NODE },
      { what: "404", args: ["c", "$UNKNOWING"], at: "unknowing", code: 3, out: NO_CHANNEL, header: DELIVERY_HEADER },
      {
        what: "nobody there",
        args: ["c", "$CLOSED"],
        at: "closed",
        code: 4,
        out: UNREACHABLE,
        err: GONE,
        header: DELIVERY_HEADER,
      },
      { what: "603", args: ["c", "$REFUSING"], at: "refusing", code: 5, out: REFUSED, header: DELIVERY_HEADER },
      {
        what: "silence",
        args: [...SOON, "c", "$MUTE"],
        at: "mute",
        code: 6,
        out: TIMEOUT,
        err: LATE,
        header: DELIVERY_HEADER,
      },
      { what: "CR LF in the channel", args: ["c\r\nX: y", "$KIND"], at: "kind", code: 2, err: /channel "c\\r\\nX: y"/ },
    ]),
    {
      what: "some lines were too large",
      args: ["-l", "-f", "$LINES", "c", "$KIND"],
      at: "kind",
      code: 7,
      out: BY_LINE,
      err: /line 2: .* does not fit a datagram/,
      fields: ["line", "exit", "results", "error?"],
    },
  ],
  bcast: each(broadcastRow, [
    { what: "all say 200", args: ["c", "hi"], at: "kind", code: 0, out: said("200\tOK"), header: DELIVERY_HEADER },
    { what: "all fail, each its own way", args: [...SOON, "c"], at: "mixed", code: 1, out: BOTH_FAIL, err: LATE },
    { what: "nobody to address", args: ["c", "hi"], at: "none", code: 3, err: NOBODY },
    { what: "all say 404", args: ["c", "hi"], at: "unknowing", code: 3, out: NO_CHANNEL },
    { what: "all are gone", args: ["c", "hi"], at: "closed", code: 4, out: UNREACHABLE, err: GONE },
    { what: "all refuse", args: ["c", "hi"], at: "refusing", code: 5, out: REFUSED },
    { what: "all are silent", args: [...SOON, "c", "hi"], at: "mute", code: 6, out: TIMEOUT, err: LATE },
    { what: "some did", args: [...SOON, "c", "hi"], at: "all", code: 7, out: NOT_ALL, err: LATE },
    {
      what: "enough did",
      args: [...SOON, "--require", "any", "c", "hi"],
      at: "all",
      code: 0,
      out: NOT_ALL,
      told: LATE,
    },
  ]),
  req: each(askingRow, [
    { what: "a body", args: ["cat", "$A", "hi"], at: "all", code: 0, out: /^hi\n?$/ },
    { what: "all say 200", args: ["--all", "c"], at: "kind", code: 0, out: ANSWERED },
    {
      what: "all fail, each its own way",
      args: ["--all", ...SOON, "c"],
      at: "mixed",
      code: 1,
      out: BOTH_FAIL_BODY,
      err: LATE,
    },
    { what: "no such node", args: ["c", GHOST], code: 3, err: NO_NODE },
    { what: "nobody to address", args: ["--all", "c"], code: 3, err: NOBODY },
    { what: "nobody there", args: ["c", "$CLOSED"], at: "closed", code: 4, err: GONE },
    { what: "603", args: ["c", "$REFUSING"], at: "refusing", code: 5, err: /: 603 Decline$/, hasQuietJson: true },
    { what: "silence", args: [...SOON, "c", "$MUTE"], at: "mute", code: 6, err: LATE },
    { what: "some did", args: ["--all", ...SOON, "c"], at: "all", code: 7, out: NOT_ALL_BODY, err: LATE },
  ]),
  replicate: each(broadcastRow, [
    { what: "all say 200", args: ["$REQUEST"], at: "kind", code: 0, out: said("200\tOK") },
    {
      what: "all fail, each its own way",
      args: [...SOON, "$REQUEST"],
      at: "mixed",
      code: 1,
      out: BOTH_FAIL,
      err: LATE,
    },
    { what: "no SIP request", args: ["/dev/null"], code: 2, err: /no SIP request: nothing came/ },
    { what: "nobody to address", args: ["$REQUEST"], code: 3, err: NOBODY },
    { what: "all are gone", args: ["$REQUEST"], at: "closed", code: 4, out: UNREACHABLE, err: GONE },
    { what: "all refuse", args: ["$REQUEST"], at: "refusing", code: 5, out: REFUSED },
    { what: "all are silent", args: [...SOON, "$REQUEST"], at: "mute", code: 6, out: TIMEOUT, err: LATE },
    { what: "some did", args: [...SOON, "$REQUEST"], at: "all", code: 7, out: NOT_ALL, err: LATE },
  ]),
  listen: [
    { what: "COUNT came", args: ["-n", "1", "$U"], code: 0, out: HEARD, fields: MESSAGE, meanwhile: speak },
    { what: "DURATION is over", args: ["-W", "700ms", "$U"], code: 0 },
    { what: "answered already", args: ["--reply", "x", "taken"], code: 1, err: /taken/ },
    { what: "the daemon is killed", args: ["$U"], at: "own", code: 4, err: /daemon on/, meanwhile: orphan },
    { what: "not COUNT in DURATION", args: ["-n", "1", "-W", "700ms", "$U"], code: 6 },
    {
      what: "a command failed",
      args: ["--exec", "false", "-n", "1", "$U"],
      code: 8,
      err: /./,
      meanwhile: speak,
      fields: [...MESSAGE, "reply_id", "answer_within_ms"],
    },
    { what: "SIGINT", args: ["$U"], code: 130, meanwhile: interrupted },
  ],
  list: [
    { what: "the nodes", args: [], code: 0, out: LISTED, header: LIST_HEADER, fields: NODE },
    {
      what: "--via",
      args: ["--via", "$NONE"],
      hasNoSocket: true,
      code: 0,
      out: /\tvia\t/,
      header: LIST_HEADER,
      fields: NODE,
    },
    { what: "nobody at --via", args: ["--via", "$CLOSED"], hasNoSocket: true, code: 4, err: GONE },
    { what: "403 at --via", args: ["--via", "$RUDE"], hasNoSocket: true, code: 5, err: /403/ },
    { what: "SIGINT", args: ["--watch"], code: 130, out: LISTED, forms: ["pipe"], meanwhile: interruptAfterOutput },
  ],
  ping: each(pingRow, [
    { what: "it answers", args: ["$KIND"], at: "all", code: 0, out: said("200\tOK") },
    {
      what: "nobody, each its own way",
      args: ["--timeout", "400ms", "$CLOSED", "$RUDE"],
      at: "all",
      code: 1,
      out: NO_PONG,
      err: GONE,
    },
    { what: "no such node", args: [GHOST], code: 3, err: NO_NODE },
    { what: "no node at all", args: [], code: 3, err: /there is no peer to ping/ },
    { what: "nobody there", args: ["$CLOSED"], at: "closed", code: 4, out: UNREACHABLE, err: GONE },
    { what: "403", args: ["$RUDE"], at: "all", code: 5, out: said("403\tForbidden") },
    { what: "silence", args: ["--timeout", "300ms", "$FROZEN"], at: "all", code: 6, out: TIMEOUT },
    { what: "some", args: ["$KIND", "$RUDE"], at: "all", code: 7, out: SOME_PONG },
  ]),
  wait: [
    { what: "all hold", args: ["ready", "channel=taken", "members=1"], code: 0 },
    { what: "a malformed condition", args: ["member=1"], code: 2, err: /member=1/ },
    {
      what: "never a daemon",
      args: ["ready", "--timeout", "700ms"],
      at: "gone",
      code: 4,
      err: /not within 700 ms: no daemon on/,
      told: /waiting for a daemon that answers, 0 s.*not within 700 ms: no daemon on/s,
    },
    { what: "not in time", args: ["members=9", "--timeout", "100ms"], code: 6, err: /not within 100 ms/ },
    { what: "SIGINT", args: ["members=9"], code: 130, told: /./, meanwhile: interruptSoon },
  ],
  add: [
    { what: "a new one", args: ["$FREE"], at: "own", code: 0, told: /^added/ },
    { what: "one that is there", args: ["$KIND"], at: "kind", code: 1, err: /already/ },
    { what: "no URI", args: ["somewhere"], code: 2, err: /did you mean sip:somewhere\?/ },
  ],
  remove: [
    { what: "a peer", args: ["$KIND"], at: "own", code: 0, told: /^removed/, before: ["add", "$KIND"] },
    { what: "this node", args: ["$NONE"], code: 1, err: /local/ },
    { what: "no URI", args: [""], code: 2, err: /URI "" is no SIP URI/ },
    { what: "no such peer", args: [GHOST], code: 3, err: NO_NODE },
  ],
  set: [
    { what: "a peer", args: ["$KIND", "active"], at: "kind", code: 0, told: /./ },
    { what: "this node", args: ["$NONE", "active"], code: 1, err: /local/ },
    { what: "no status", args: ["$NONE", "actve"], code: 2, err: /did you mean active\?/ },
    { what: "no such peer", args: [GHOST, "active"], code: 3, err: NO_NODE },
  ],
  join: [
    { what: "a node to ask", args: ["$KIND"], at: "own", code: 0, told: /./ },
    { what: "no URI", args: ["-"], code: 2, err: /URI "-" is no SIP URI/ },
  ],
  leave: [{ what: "a daemon", args: [], at: "own", code: 0, told: /^left the bus/ }],
  stop: [{ what: "a daemon", args: [], at: "own", code: 0, told: /^stopped/ }],
  json: [
    {
      what: "get",
      args: ["get", "a.b[1]"],
      stdin: JSON_TEXT,
      code: 0,
      out: /^12345678901234567890\n$/,
      forms: ["pipe"],
    },
    {
      what: "get, as JSON",
      args: ["get", "s", "--json"],
      stdin: JSON_TEXT,
      code: 0,
      out: /^"x y"\n$/,
      forms: ["pipe"],
    },
    { what: "keys", args: ["keys"], stdin: JSON_TEXT, code: 0, out: /^a\ns\n$/, forms: ["pipe"] },
    { what: "count", args: ["count", "a.b"], stdin: JSON_TEXT, code: 0, out: /^2\n$/, forms: ["pipe"] },
    { what: "nothing there", args: ["get", "a.c"], stdin: JSON_TEXT, code: 1, forms: ["pipe", "json"] },
    { what: "no object", args: ["keys", "s"], stdin: JSON_TEXT, code: 1, forms: ["pipe", "json"] },
    { what: "no JSON", args: ["count"], stdin: "{", code: 2, err: /no JSON: it begins with/, forms: ["pipe", "json"] },
    { what: "nothing at all", args: ["count"], stdin: "", code: 2, err: /is empty/, forms: ["pipe", "json"] },
    { what: "no such action", args: ["gte"], code: 2, err: /did you mean get\?/ },
  ],
  config: [
    {
      what: "show",
      args: ["show", "$TOML"],
      code: 0,
      out: /^ping_interval\t7\t\S+$/m,
      header: "OPTION\tVALUE\tFROM",
      fields: ["option", "value", "from"],
    },
    { what: "check", args: ["check", "$TOML"], code: 0, told: /./, fields: CHECKED },
    { what: "init", args: ["init"], code: 0, out: /^# ?ping_interval = 60/m, forms: ["terminal", "pipe"] },
    {
      what: "init over a file",
      args: ["init", "--output", "$TOML"],
      code: 1,
      err: /it exists and is left as it is/,
      forms: ["terminal", "pipe"],
    },
    { what: "no such action", args: ["shwo"], code: 2, err: /did you mean show\?/ },
    {
      what: "a file that is not there",
      args: ["check", "$DIR/none"],
      code: 9,
      err: /expected a file that can be read/,
      fields: CHECKED,
      hasQuietJson: true,
    },
    { what: "a wrong key", args: ["check", "$REQUEST"], code: 9, err: /./, fields: CHECKED, hasQuietJson: true },
  ],
  reload: [
    { what: "nothing to change", args: [], code: 0, told: /./, fields: ["changed", "needs_restart"] },
    { what: "a file that went wrong", args: [], at: "spoilt", code: 9, err: /ping_interval/ },
  ],
  status: [{ what: "a daemon", args: [], code: 0, out: /^uri\tsip:127\.0\.0\.1:\d+$/m, header: "", fields: STATUS }],
  events: [
    {
      what: "COUNT came",
      args: ["-n", "1", "--type", "consumers"],
      code: 0,
      out: /^\S+\tconsumers\t\S+\t\d+\n$/,
      fields: EVENT,
      meanwhile: stir,
    },
    { what: "DURATION is over", args: ["-W", "700ms", "--type", "joined"], code: 0 },
    { what: "no such type", args: ["--type", "peerup"], code: 2, err: /peer-up/ },
    { what: "the daemon is killed", args: [], at: "own", code: 4, err: /daemon on/, meanwhile: orphan },
    { what: "not COUNT in DURATION", args: ["-n", "1", "-W", "700ms", "--type", "joined"], code: 6 },
    { what: "SIGINT", args: ["--type", "joined"], code: 130, meanwhile: interruptSoon },
  ],
  logs: [
    {
      what: "one line",
      args: ["-n", "1"],
      at: "kind",
      code: 0,
      out: /^\S+\s+info\s+\S/,
      fields: ["time", "level", "text", "fields"],
    },
    { what: "no such level", args: ["--level", "inf"], code: 2, err: /info/ },
    {
      what: "SIGINT",
      args: ["-f", "-n", "1"],
      code: 130,
      out: /./,
      fields: ["time", "level", "text", "fields"],
      meanwhile: interruptAfterOutput,
    },
  ],
  rpc: [
    { what: "a result", args: ["core.version"], code: 0, out: /^"[^"]+"\n$/ },
    { what: "a fault", args: ["dmq.add", '["$KIND"]'], at: "kind", code: 1, err: /already/ },
    { what: "no JSON", args: ["dmq.add", "{"], code: 2, err: /the parameters are not JSON/ },
    { what: "no such method", args: ["nonsense"], code: 2, err: /Method Not Found/ },
    { what: "no such node", args: ["dmq.remove", `{"uri":"${GHOST}","strict":true}`], code: 3, err: NO_NODE },
  ],
  demo: [{ what: "the scene", args: [], hasNoSocket: true, code: 0, out: /./ }],
  version: [{ what: "the version", args: [], code: 0, out: /^dmq \d+\.\d+\.\d+/, fields: ["version", "commit"] }],
  completion: [
    { what: "a script", args: ["bash"], code: 0, out: /complete .*dmq/ },
    { what: "no such shell", args: ["basj"], code: 2, err: /did you mean bash\?/ },
  ],
  help: [
    { what: "a command", args: ["send"], code: 0, out: /^send a message/, fields: HELP },
    { what: "no such command", args: ["sned"], code: 2, err: /did you mean send\?/ },
  ],
};

/** Exit codes that no row can have, with the reason. */
const WITHOUT_ROW: Record<string, string> = {
  "send 75": "test/executable/spool.test.ts: it takes a daemon with an outbox",
  "bcast 75": "test/executable/spool.test.ts, likewise",
  "demo 1": "it would be a mistake of ours",
  "demo 4": "test/cli/demo.test.ts: it takes a machine without loopback",
};

/** Shortest line of each command that is right. */
const USUAL: Record<string, string[]> = {
  send: ["c", GHOST],
  bcast: ["c"],
  req: ["c", GHOST],
  replicate: ["$REQUEST"],
  listen: ["c"],
  wait: ["ready"],
  add: [GHOST],
  remove: [GHOST],
  set: [GHOST, "active"],
  join: [GHOST],
  json: ["get"],
  config: ["show"],
  rpc: ["core.version"],
  completion: ["bash"],
};

/** A group of commands has its rows in a file of its own: queues.test.ts, amqp.test.ts. */
const alone = describedCommands().filter(({ name }) => name !== "queue" && name !== "amqp");

function rowsOf({ name, exits }: Described): Row[] {
  const usual = USUAL[name] ?? [];
  const unknown: Row = {
    what: "an unknown option",
    args: [...usual, "--nonsense"],
    code: 2,
    err: /unknown option --nonsense/,
  };
  const missing: Row[] =
    usual.length === 0 ? [] : [{ what: "no argument", args: [], code: 2, err: /missing argument/ }];
  const wantsDaemon = exits.some(({ code }) => code === 4) && !["serve", "demo", "wait"].includes(name);
  const gone: Row = {
    what: "no daemon",
    args: usual,
    at: "gone",
    code: 4,
    err: /no daemon on .*start one with: dmq serve$/,
  };
  return [...(TABLE[name] ?? []), unknown, ...(name === "replicate" ? [] : missing), ...(wantsDaemon ? [gone] : [])];
}

const world = new Neighbourhood();

const runs: Pick<Running, "row" | "form" | "name" | "unique">[] = alone.flatMap((command) =>
  rowsOf(command).flatMap((row, index) =>
    formsOf(command, row).map((form) => ({ row, form, name: command.name, unique: `${command.name}${index}${form}` })),
  ),
);

function formsOf({ options }: Described, row: Row): readonly Form[] {
  const all: Form[] = ["terminal", "pipe", ...(options.some(({ flag }) => flag === "json") ? (["json"] as const) : [])];
  return all.filter((form) => (row.forms ?? all).includes(form));
}

const startRuns = testRuns(runs, finish);
const words = new Map<string, string>();

beforeAll(async () => {
  await world.start();
  const [request, toml, lines] = ["request", "dmq.toml", "lines"].map((name) => join(world.daemons.dir, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(lines, `a\n${"x".repeat(100_000)}\n`);
  writeFileSync(
    request,
    "OPTIONS sip:all SIP/2.0\nFrom: <sip:a@b>;tag=1\nTo: <sip:all>\nCall-ID: 1\nCSeq: 1 OPTIONS\nMax-Forwards: 9\n\n",
  );
  writeFileSync(toml, 'server_address = "sip:127.0.0.1:5060"\nping_interval = 7\n');
  const sayers = ["kind", "refusing", "unknowing", "mute", "closed", "rude", "frozen"] as const;
  for (const name of sayers) words.set(`$${name.toUpperCase()}`, world.sayer(name).uri);
  for (const [name, text] of [
    ["$REQUEST", request],
    ["$TOML", toml],
    ["$LINES", lines],
    ["$DIR", world.daemons.dir],
  ])
    words.set(name as string, text as string);
  words.set("$NONE", world.at("none").uri);
  words.set("$A", world.answering.uri);
  startRuns();
}, SETUP_MS);

afterAll(() => world.end(), SETUP_MS);

/** Runs a row, with all that happens meanwhile. */
async function finish({ row, form, name, unique }: (typeof runs)[number]): Promise<Finished> {
  const place = row.at ?? "none";
  const daemon = await world.open(place);
  const socket = daemon?.socket ?? join(world.daemons.dir, `${unique}.sock`);
  const own = new Map([["$U", unique], ["$FREE", await freeAddress()], ...words]);
  const told = (text: string): string => text.replaceAll(/\$[A-Z]+/g, (word) => own.get(word) ?? word);
  if (row.before !== undefined) await daemon?.run(row.before.map(told));
  const args = row.args.map(told);
  const at = row.hasNoSocket ? [] : ["--socket", socket];
  const started = await start(form, [name, ...(form === "json" ? ["--json"] : []), ...at, ...args], row.stdin);
  const happened = row.meanwhile?.(started, { row, form, args, name, socket, daemon, unique });
  const [done] = await Promise.all([started.ended, happened]);
  if (place === "own" || place === "spoilt") await daemon?.end("SIGKILL");
  return done;
}

describe("each command has rows, and each exit code of its help one", () => {
  for (const command of alone) {
    test(command.name, () => {
      const codes = new Set(rowsOf(command).map(({ code }) => code));
      const listed = command.exits.map(({ code }) => code);
      expect(TABLE[command.name]).toBeDefined();
      const without = listed.filter((code) => !codes.has(code) && WITHOUT_ROW[`${command.name} ${code}`] === undefined);
      expect({ without, unlisted: [...codes].filter((code) => !listed.includes(code)) }).toEqual({
        without: [],
        unlisted: [],
      });
    });
  }
});
