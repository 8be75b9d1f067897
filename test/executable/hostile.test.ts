/**
 * Bad input to every command of the compiled executable: words that no program should have to read, streams that are closed, sockets that are
 * none, are somebody else's, or at which something answers that is no daemon. What a command says then is short, has nothing in it
 * that moves a cursor, and no trace of ours; and it says it with an exit code that its help knows.
 */
// needs programs: bash cat env false head sleep tr true wc
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, EXECUTABLE } from "../helpers/daemon.ts";
import { pooled } from "../helpers/forms.ts";
import { describeWhere } from "../helpers/needs.ts";
import { freeAddress } from "../helpers/neighbourhood.ts";
import { type Finished, finished } from "../helpers/process.ts";

const TEST_MS = 60_000;
const GHOST = "sip:127.0.0.1:9";

/** A line that is right, of each command that asks a daemon; none of them changes it or goes on. */
const ASKING: Record<string, string> = {
  send: `send c ${GHOST} x`,
  bcast: "bcast c x",
  req: `req c ${GHOST}`,
  replicate: "replicate $DIR/request",
  listen: "listen -W 500ms c",
  list: "list",
  ping: "ping",
  wait: "wait ready --timeout 300ms",
  add: `add ${GHOST}`,
  remove: `remove ${GHOST}`,
  set: `set ${GHOST} active`,
  join: `join ${GHOST}`,
  leave: "leave",
  stop: "stop",
  reload: "reload",
  status: "status",
  events: "events -W 500ms",
  logs: "logs",
  rpc: "rpc core.version",
};

/** Of these, the ones that leave a daemon as it was. */
const HARMLESS = Object.keys(ASKING).filter((name) => !["add", "join", "leave", "stop"].includes(name));
const ALONE: Record<string, string> = {
  version: "version",
  help: "help",
  completion: "completion bash",
  config: "config check",
};

interface Described {
  name: string;
  arguments: { name: string; required: boolean }[];
  options: { flag: string; value: string | null }[];
  exits: { code: number }[];
}

const described = JSON.parse(Bun.spawnSync([EXECUTABLE, "help", "--json"]).stdout.toString()) as {
  commands: Described[];
};

const daemons = new Daemons();
let node: Daemon;

beforeAll(async () => {
  chmodSync(daemons.dir, 0o755);
  writeFileSync(
    join(daemons.dir, "request"),
    "OPTIONS sip:a SIP/2.0\nFrom: <sip:a@b>;tag=1\nTo: <sip:a>\nCall-ID: 1\nCSeq: 1 OPTIONS\nMax-Forwards: 9\n\n",
  );
  node = await daemons.serve("n", await freeAddress(), ["--log-level", "error"]);
}, TEST_MS);

afterAll(() => daemons.endAll(), TEST_MS);

interface Ended extends Finished {
  line: string;
}

/** What bash makes of a line; `$DMQ`, `$DIR` and the words of `env` are set. */
async function shell(line: string, socket: string, env: Record<string, string> = {}): Promise<Ended> {
  const child = Bun.spawn(["bash", "-c", line], {
    ...{ stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 20_000, killSignal: "SIGKILL", cwd: daemons.dir },
    env: { PATH: process.env.PATH ?? "", DMQ: EXECUTABLE, DMQ_SOCKET: socket, DIR: daemons.dir, ...env },
  });
  return { line, ...(await finished(child)) };
}

const STDERR_CHARS_MAX = 1_200;

/** What must hold for whatever went wrong, as text that is empty if it holds. */
function complaintOf({ code, stdout, stderr }: Ended, codes: readonly number[]): string {
  if (!codes.includes(code)) return `exit ${code}: ${stderr.slice(0, 300)}`;
  if (stdout !== "") return `stdout: ${stdout.slice(0, 100)}`;
  if (stderr.length > STDERR_CHARS_MAX) return `${stderr.length} characters: ${stderr.slice(0, 100)}`;
  if (code === 0 && stderr === "") return "";
  if (!/^(dmq: [^\p{Cc}]+\n)+$/u.test(stderr)) return `stderr: ${JSON.stringify(stderr.slice(0, 300))}`;
  return /\n {4}at |TypeError|undefined is not/.test(stderr) ? `a trace: ${stderr}` : "";
}

async function complaints(lines: readonly string[], socket: string, codes: readonly number[]): Promise<string[]> {
  return failures(lines, async (line) => {
    const ended = await shell(line, socket, HOSTILE);
    const complaint = complaintOf(ended, codes);
    return complaint === "" ? [] : [`${ended.line}: ${complaint}`];
  });
}

/** What `run` finds wrong with each of the lines, a few at a time. */
async function failures(lines: readonly string[], run: (line: string) => Promise<string[]>): Promise<string[]> {
  const jobs = lines.map((line) => () => run(line));
  return (await Promise.all(pooled(jobs))).flat();
}

/** In bash's words. One argument can have 128 KiB; the limit of the kernel is no limit of ours to test. */
const WORDS = [
  "$'x\\r\\nX-Evil: 1'",
  "$'\\xff\\xfe\\x80'",
  "$'\\e[31m\\a'",
  "''",
  '"$(head -c 120000 /dev/zero | tr "\\0" x)"',
];
const HOSTILE = { LC_ALL: "C" };

/** Where no daemon is on the socket that was named, they are at home without one. */
const ALONE_IS_ENOUGH: readonly string[] = ["config", "queue", "amqp", "json"];

/** Without a command of its own a group shows what it has. */
const GROUPS: Readonly<Record<string, string>> = { queue: "queue list", amqp: "amqp encode a b" };

describe("words", () => {
  const nowhere = join(daemons.dir, "nowhere.sock");
  // 4: what is fit to be asked finds no daemon. 3: no node on a list. 1: a file that cannot be written.
  const wrong = [1, 2, 3, 4, 9];

  for (const { name, arguments: positionals, options } of described.commands) {
    test(
      `${name}: in the place of each argument and of each value`,
      async () => {
        const usual = (GROUPS[name] ?? ASKING[name] ?? ALONE[name] ?? name).split(" ").slice(1);
        const quick = name === "serve" ? ["--ping-interval", "0"] : usual;
        const inPlace = positionals.flatMap((_, at) =>
          WORDS.map((word) => [...quick.slice(0, at), word, ...quick.slice(at + 1)].join(" ")),
        );
        const valued = WITHOUT_OPTIONS.includes(name)
          ? []
          : options.filter(({ flag, value }) => value !== null && flag !== "config");
        const asValue = valued.flatMap(({ flag }, at) =>
          // Each word meets many options, and each option one or two of the words.
          (name === "serve" || name === "config" ? [0] : [0, 1]).map(
            (step) => `${quick.join(" ")} --${flag}=${WORDS[(2 * at + step) % WORDS.length]}`,
          ),
        );
        const extra = positionals.length === 0 || name === "version" ? WORDS : [];
        const lines = [...inPlace, ...asValue, ...extra].map((words) => `$DMQ ${name} ${words}`);
        expect(await complaints(lines, nowhere, ALONE_IS_ENOUGH.includes(name) ? [0, ...wrong] : wrong)).toEqual([]);
      },
      TEST_MS,
    );
  }

  test(
    "in the place of the command, and in front of it",
    async () => {
      const lines = WORDS.flatMap((word) => [`$DMQ ${word}`, `$DMQ -s ${word} list`, `$DMQ --${word}`]);
      expect(
        await complaints(
          lines.filter((line) => line !== "$DMQ --''"),
          nowhere,
          wrong,
        ),
      ).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "- and -- where nobody expects them",
    async () => {
      const lines = described.commands
        .filter(({ name }) => !["listen", "rpc"].includes(name))
        .map(({ name }) => `$DMQ ${name} - - - -`);
      const waiting = lines.filter((line) => !/ (join|wait|ping) /.test(line));
      expect(await complaints(waiting, nowhere, [2])).toEqual([]);
      expect((await shell("$DMQ version --", nowhere)).code).toBe(0);
      expect((await shell("$DMQ list -- --json", nowhere)).code).toBe(2);
    },
    TEST_MS,
  );
});

/** These take the option `--socket` and no other one with a value, and do not look at it. */
const WITHOUT_OPTIONS = ["demo", "version", "completion", "help"];

describe("streams", () => {
  const lines = [...HARMLESS.map((name) => ASKING[name] as string), ...Object.values(ALONE)];
  // Of a fresh node without peers: done, nobody there, a message that nobody could get.
  const codes = [0, 3];

  test(
    "closed: nothing is said of it, and the exit code stays",
    async () => {
      const run = async (line: string): Promise<string[]> => {
        const plain = await shell(`$DMQ ${line}`, node.socket);
        const noOutput = await shell(`$DMQ ${line} >&-`, node.socket);
        const nothing = await shell(`$DMQ ${line} <&- >&- 2>&-`, node.socket);
        const same =
          [noOutput.code, nothing.code, noOutput.stderr].join() === [plain.code, plain.code, plain.stderr].join();
        return same && codes.includes(plain.code) ? [] : [`${line}: ${JSON.stringify({ plain, noOutput, nothing })}`];
      };
      expect(await failures(lines, run)).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "a reader that goes away: quiet, and 141 or the exit code that it would have been",
    async () => {
      const run = async (line: string): Promise<string[]> => {
        const ended = await shell(`$DMQ ${line} 2>$DIR/err$BASHPID | true; echo "\${PIPESTATUS[0]}"`, node.socket);
        const head = await shell(`$DMQ ${line} | head -c 1 >/dev/null; exit "\${PIPESTATUS[0]}"`, node.socket);
        const codesSeen = [Number(ended.stdout), head.code];
        const isQuiet = !/EPIPE|SIGPIPE|roken pipe|\n {4}at /.test(head.stderr);
        return isQuiet && codesSeen.every((code) => [...codes, 141].includes(code))
          ? []
          : [`${line}: ${codesSeen} ${head.stderr}`];
      };
      expect(await failures(lines, run)).toEqual([]);
    },
    TEST_MS,
  );
});

describe("sockets", () => {
  const lines = Object.values(ASKING).map((line) => `$DMQ ${line}`);

  const places: [what: string, make: (path: string) => void, says: RegExp][] = [
    ["a file", (path) => writeFileSync(path, ""), /it is another kind of file; name the control socket with --socket/],
    ["a directory", (path) => mkdirSync(path), /it is a directory; name the control socket with --socket/],
  ];
  for (const [what, make, says] of places) {
    test(
      `${what} is none: exit 4, and what it is`,
      async () => {
        const path = join(daemons.dir, what.replace(" ", "-"));
        make(path);
        expect(await complaints(lines, path, [4])).toEqual([]);
        expect((await shell("$DMQ list", path)).stderr).toMatch(says);
      },
      TEST_MS,
    );
  }

  test(
    "a path that no socket can have: exit 9, and why",
    async () => {
      const path = `/tmp/${"x".repeat(150)}`;
      expect(await complaints(lines, path, [9])).toEqual([]);
    },
    TEST_MS,
  );

  /** What something that is no daemon says to a request, before it closes. */
  const answers: [what: string, text: string][] = [
    ["closes at once", ""],
    ["dies in the middle of an answer", 'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"jsonrpc":"2.0",'],
    ["speaks no HTTP", "220 mail.example ESMTP\r\n"],
    ["is another server", "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n\x1b[31mno\r\n"],
    ["says 200 to everything", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"],
  ];
  for (const [what, text] of answers) {
    test(
      `something that ${what}: exit 4, a line, no trace of ours`,
      async () => {
        const path = join(daemons.dir, `${what.replaceAll(" ", "-")}.sock`);
        const server = Bun.listen({ unix: path, socket: { data: (socket) => void socket.end(text) } });
        try {
          // A stream that ends in good order is the end of the daemon.
          const judged = lines.filter((line) => (text.endsWith("ok") ? !/ (listen|events|logs)\b/.test(line) : true));
          expect(await complaints(judged, path, [4])).toEqual([]);
        } finally {
          server.stop(true);
        }
      },
      TEST_MS,
    );
  }

  const isRoot = process.getuid?.() === 0 && Bun.which("setpriv") !== null;
  describeWhere(isRoot ? undefined : { refused: "only a superuser can play two users" }, "another user", () => {
    test(
      "may use none of it: exit 4 of each command, and what to do",
      async () => {
        copyFileSync(EXECUTABLE, join(daemons.dir, "dmq"));
        const other = "setpriv --reuid=65534 --regid=65534 --clear-groups $DIR/dmq";
        const asOther = lines.map((line) => line.replace("$DMQ", other));
        expect(await complaints(asOther, node.socket, [4])).toEqual([]);
        const { stderr } = await shell(`${other} stop`, node.socket);
        expect(stderr).toMatch(/^dmq: no permission for .*use the account that started the daemon/);
        expect((await node.status()).uri).toBe(node.uri);
      },
      TEST_MS,
    );
  });
});

describe("what a caller of the daemon can say", () => {
  const BAD = ["c\r\nX-Evil: 1", "c\0d", "\x1b[31m", "\ud800", "", "x".repeat(1_048_577), 7, null, [], {}];

  test(
    "parameters are checked there too: a fault for each, and the daemon lives",
    async () => {
      const wrong: string[] = [];
      const base = { channel: "c", node: GHOST, uri: GHOST, status: "active", body: "x" };
      const methods: Record<string, string[]> = {
        "dmq.send": ["channel", "node", "content_type", "message_id", "accept"],
        "dmq.bcast": ["channel", "except", "content_type", "message_id", "accept"],
        "dmq.add": ["uri"],
        "dmq.remove": ["uri"],
        "dmq.change_status": ["uri", "status"],
        "dmq.ping": ["node", "nodes"],
        "dmq.replicate": ["request_base64"],
      };
      for (const [method, names] of Object.entries(methods)) {
        for (const name of names) {
          for (const value of BAD) {
            const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params: { ...base, [name]: value } });
            const response = await fetch("http://dmq/rpc", { method: "POST", body, unix: node.socket });
            const { result, error } = (await response.json()) as {
              result?: unknown;
              error?: { code: number; message: string };
            };
            const isFine = result === undefined && error !== undefined && error.message.length < STDERR_CHARS_MAX;
            if (!isFine)
              wrong.push(
                `${method} ${name}=${JSON.stringify(value)?.slice(0, 40)}: ${JSON.stringify(result ?? error)?.slice(0, 200)}`,
              );
          }
        }
      }
      expect(wrong).toEqual([]);
      expect((await node.list()).map(({ uri }) => uri)).toEqual([node.uri]);
    },
    TEST_MS,
  );
});
