/**
 * `send`, `bcast` and `req` of the compiled executable with what a shell can do to them: octets of every kind in arguments and
 * on standard input, streams that are closed, no daemon, one that dies, one of another user. And the exit codes of messages to real
 * nodes: one that answers, one that answers with 503, one that is stopped.
 */
// needs programs: bash cat env false head sleep tr true wc
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, type DeliveryRow, EXECUTABLE } from "../helpers/daemon.ts";
import { describeWhere } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const SETUP_MS = 30_000;
const MESSAGE_COMMANDS = ["send", "bcast", "req"];

const daemons = new Daemons();
let asking: Daemon;
let answering: Daemon;
/** Knows the channel `busy`, where it answers 503. */
let busy: Daemon;

async function freeAddress(host: number): Promise<string> {
  const socket = await Bun.udpSocket({ hostname: `127.0.0.${host}`, port: 0 });
  const port = socket.port;
  socket.close();
  return `sip:127.0.0.${host}:${port}`;
}

async function activePeers(daemon: Daemon): Promise<number> {
  return (await daemon.list()).filter((row) => row.local === 0 && row.status === "active").length;
}

beforeAll(async () => {
  const options = ["--log-level", "error", "--channel", "declared"];
  const handlers = ["cat=cat", "id=sh -c 'printf %s \"$DMQ_MESSAGE_ID\"'", "mute=true", "busy=true"];
  asking = await daemons.serve("a", await freeAddress(1), options);
  const meet = [...options, "--notification-address", asking.uri];
  answering = await daemons.serve("b", await freeAddress(2), [...meet, ...handlers.flatMap((one) => ["--on", one])]);
  busy = await daemons.serve("c", await freeAddress(3), [...meet, "--on", "busy=sh -c 'exit 75'"]);
  await until(async () => (await activePeers(asking)) === 2, 10_000, "the first knows two");
}, SETUP_MS);

afterAll(() => daemons.endAll(), SETUP_MS);

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

/** What a shell makes of a line; `$DMQ`, `$A` (the socket), `$B` and `$C` (nodes) are set. Octets as Latin-1. */
async function shell(line: string, env: Record<string, string> = {}): Promise<Ended> {
  const child = Bun.spawn(["bash", "-c", line], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: 20_000,
    env: {
      ...{ PATH: process.env.PATH ?? "", DMQ: EXECUTABLE, DMQ_SOCKET: asking.socket },
      ...{ B: answering.uri, C: busy.uri, DIR: daemons.dir, ...env },
    },
  });
  const text = async (stream: ReadableStream): Promise<string> =>
    Buffer.from(await new Response(stream).arrayBuffer()).toString("latin1");
  const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), child.exited]);
  return { code, stdout, stderr };
}

describe("bodies", () => {
  const whole: [what: string, line: string, stdout: string][] = [
    ["every octet from standard input", "printf '\\0\\r\\n\\377\\200A' | $DMQ req cat $B -", "\0\r\n\xff\x80A"],
    ["every octet from a file", "printf '\\0\\377\\n' >$DIR/body; $DMQ req -f $DIR/body cat $B", "\0\xff\n"],
    ["an argument in UTF-8", "$DMQ req cat $B 'caf\xc3\xa9'", "caf\xc3\xa9"],
    ["one that begins with a dash", "$DMQ req cat $B -- --json", "--json"],
    ["none, from a standard input that is closed", "$DMQ req cat $B - <&-", ""],
  ];
  for (const [what, line, stdout] of whole) {
    test(`${what} comes back as it was`, async () => {
      expect(await shell(Buffer.from(line, "latin1").toString("utf8"))).toEqual({ code: 0, stdout, stderr: "" });
    });
  }

  const refused: [what: string, line: string, told: RegExp][] = [
    ["an argument that is no UTF-8", "$DMQ send cat $B $'a\\377'", /^dmq: BODY has octets that are no UTF-8/],
    ["more than a datagram takes", "head -c 1048576 /dev/zero | $DMQ send cat $B -", /^dmq: message of \d+ octets/],
    ["a file without end", "$DMQ send -f /dev/zero cat $B", /^dmq: \/dev\/zero is larger than/],
    ["standard input without end", "yes | $DMQ send cat $B -", /^dmq: standard input is larger than/],
    ["a directory", "$DMQ send -f / cat $B", /^dmq: cannot read \/ \(EISDIR\)/],
    ["an option that was meant as a body", "$DMQ send cat $B -5", /a BODY that begins with - goes behind --\n$/],
    ["a line end in a header", "$DMQ send -T $'text/plain\\r\\nX: y' cat $B x", /is no media type/],
    ["a line end in the message's id", "$DMQ send --message-id $'a\\nb' cat $B x", /visible ASCII/],
    ["a line end in the channel", "$DMQ bcast $'c\\nd' x", /letters, digits/],
    ["octets that are no text in a node", "$DMQ send c $'sip:\\377' x", /is no SIP URI/],
    ["100,000 octets where a channel goes", "$DMQ send $(head -c 100000 /dev/zero | tr '\\0' x) $B", /letters, digits/],
  ];
  for (const [what, line, told] of refused) {
    test(`${what}: exit 2, one line, nothing sent`, async () => {
      const { code, stdout, stderr } = await shell(line);
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).toMatch(told);
      expect(stderr.length).toBeLessThan(1_000);
      expect(stderr.trimEnd()).not.toContain("\n");
    });
  }

  test("no stdout: the message goes out all the same, quietly", async () => {
    expect(await shell("$DMQ send cat $B x >&-")).toEqual({ code: 0, stdout: "", stderr: "" });
    expect((await shell("$DMQ send nowhere $B x >&-")).code).toBe(3);
  });
});

describe("outcomes", () => {
  test("0 and 5: 200, and 503 from a handler that says later", async () => {
    expect((await shell("$DMQ send busy $B x")).code).toBe(0);
    const refused = await shell("$DMQ send busy $C x");
    expect(refused.code).toBe(5);
    expect(refused.stdout).toMatch(/^sip:[^\t]+\t503\t[^\t]+\t\d+\n$/);
  });

  test("7 with --require all, 0 with --require any", async () => {
    expect((await shell("$DMQ bcast busy x")).code).toBe(7);
    expect((await shell("$DMQ bcast --require any busy x")).code).toBe(0);
    expect((await shell("$DMQ bcast --require 50% busy x")).code).toBe(0);
    expect((await shell("$DMQ bcast --require 2 busy x")).code).toBe(7);
    expect((await shell("$DMQ bcast --except $C busy x")).code).toBe(0);
  });

  test("3: a channel that nobody knows, a node that nobody knows, nobody at all, and 202 that is not enough", async () => {
    expect((await shell("$DMQ bcast nowhere x")).code).toBe(3);
    expect(await shell("$DMQ send c sip:127.0.0.1:9 x")).toEqual({
      code: 3,
      stdout: "",
      stderr: "dmq: Node Not Found\n",
    });
    expect((await shell("$DMQ bcast --except $B --except $C declared x")).code).toBe(3);
    expect((await shell("$DMQ send declared $B x")).code).toBe(0);
    const unheard = await shell("$DMQ send --require-consumer declared $B x");
    expect(unheard.code).toBe(3);
    expect(unheard.stderr).toBe(`dmq: ${answering.uri}: nobody takes the messages of this channel there\n`);
  });

  test("--retry sends a message that was refused for now again, with one id", async () => {
    const { code, stdout } = await shell("$DMQ send --json --retry 1 --timeout 10s busy $C x");
    expect(code).toBe(5);
    expect(JSON.parse(stdout)).toMatchObject({ code: 503, tries: 2, message_id: expect.stringMatching(/./) });
    expect(await shell("$DMQ req --message-id job-7 id $B")).toMatchObject({ code: 0, stdout: "job-7" });
    const lines = await shell("printf 'a\\nb\\n' | $DMQ send -l --json --message-id job id $B");
    const ids = lines.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { results: { message_id: string }[] });
    expect(ids.map(({ results }) => results[0]?.message_id)).toEqual(["job-1", "job-2"]);
  });

  test("req: an answer without a body prints nothing, one that is no 2xx is on stderr", async () => {
    expect(await shell("$DMQ req mute $B")).toEqual({ code: 0, stdout: "", stderr: "" });
    const refused = await shell("$DMQ req busy $C");
    expect(refused).toMatchObject({ code: 5, stdout: "" });
    expect(refused.stderr).toMatch(/^dmq: sip:[^ ]+: 503 [^\n]+\n$/);
    expect(await shell("$DMQ req nowhere $B")).toMatchObject({ code: 3, stdout: "" });
  });

  test("req --all: a line for each node; --replies is content with so many", async () => {
    const all = await shell("$DMQ req --all cat $'a\\tb'");
    expect(all.code).toBe(7);
    expect(all.stdout.split("\n").sort()).toEqual([
      "",
      expect.stringMatching(new RegExp(`^${answering.uri}\t200\t[^\t]+\t\\d+\ta\\\\tb$`)),
      expect.stringMatching(new RegExp(`^${busy.uri}\t404\t[^\t]+\t\\d+\t-$`)),
    ]);
    const one = await shell("$DMQ req --all --replies 1 --json cat hi");
    expect(one.code).toBe(0);
    const delivered = (JSON.parse(one.stdout) as (DeliveryRow & { body: string | null })[]).filter(
      ({ outcome }) => outcome === "delivered",
    );
    expect(delivered).toMatchObject([{ node: answering.uri, body: "hi" }]);
  });
});

describe("a daemon that is not there, stuck, or dies", () => {
  const lines = [...MESSAGE_COMMANDS.map((name) => `$DMQ ${name} c`), "$DMQ send -l c", "$DMQ bcast -l c"];
  for (const line of lines) {
    const whole = / (send|req) /.test(line) ? `${line} $B` : line;
    test(`${line}: exit 4 and one line without a daemon`, async () => {
      const { code, stdout, stderr } = await shell(`${whole} </dev/zero`, { DMQ_SOCKET: "/nonexistent/dmq.sock" });
      expect({ code, stdout }).toEqual({ code: 4, stdout: "" });
      expect(stderr).toMatch(/^dmq: no daemon on \/nonexistent\/dmq\.sock[^\n]*\n$/);
    });
  }

  test(
    "exit 6 for a node that is stopped, within --timeout; exit 4 when the daemon is killed meanwhile",
    async () => {
      const victim = await daemons.serve("v", await freeAddress(4), ["--notification-address", answering.uri]);
      await until(async () => (await activePeers(victim)) >= 3, 10_000, "the victim knows all");
      const { pid } = await asking.status();
      process.kill(pid, "SIGSTOP");
      try {
        const started = performance.now();
        const env = { DMQ_SOCKET: victim.socket, A: asking.uri };
        expect(await shell("$DMQ send --timeout 1s declared $A x", env)).toMatchObject({ code: 6 });
        expect(performance.now() - started).toBeLessThan(2_500);
        const some = await shell("$DMQ bcast --timeout 1s --except $C declared x", env);
        expect(some.code).toBe(7);
        const hanging = shell("$DMQ send declared $A x", env);
        const isUnderWay = async (): Promise<boolean> =>
          (await victim.run(["list", "--json"])).stdout.includes('"in_flight":1');
        await until(isUnderWay, 5_000, "the message is under way");
        await victim.end("SIGKILL");
        expect(await hanging).toMatchObject({ code: 4, stdout: "", stderr: expect.stringContaining(victim.socket) });
      } finally {
        process.kill(pid, "SIGCONT");
      }
    },
    SETUP_MS,
  );

  const isRoot = process.getuid?.() === 0 && Bun.which("setpriv") !== null;
  describeWhere(isRoot ? undefined : { refused: "only a superuser can play two users" }, "another user", () => {
    test("may not use the socket: exit 4, one line that says what to do", async () => {
      chmodSync(daemons.dir, 0o755);
      const copy = join(daemons.dir, "dmq");
      for (const name of MESSAGE_COMMANDS) {
        const line = `cp $DMQ ${copy}; setpriv --reuid=65534 --regid=65534 --clear-groups ${copy} ${name} c ${name === "bcast" ? "" : "$B"}`;
        const { code, stdout, stderr } = await shell(line);
        expect({ code, stdout }).toEqual({ code: 4, stdout: "" });
        expect(stderr).toMatch(/^dmq: no permission for [^\n]*use the account that started the daemon[^\n]*\n$/);
      }
    });
  });
});
