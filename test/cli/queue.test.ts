/**
 * `dmq queue`, each story twice: over a control socket with the daemon's queues behind it, and on the file where nobody answers.
 * What a shell reads must not depend on which it was.
 */
// needs programs: bash cat env false head sleep tr true wc
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SignalName } from "../../src/cli/context.ts";
import { escapedOctets, unescapedOctets } from "../../src/cli/queue/words.ts";
import type { Logger } from "../../src/core/logger.ts";
import { Queues } from "../../src/daemon/queues.ts";
import { KamailioTable } from "../../src/queue/table.ts";
import { type RpcServer, serveRpc } from "../../src/rpc/server.ts";
import { type Ran, runCli, type World } from "../helpers/cli.ts";
import { until } from "../helpers/wait.ts";
import { FakeSurface } from "../rpc/fake-surface.ts";

const LOG: Logger = { error() {}, warn() {}, info() {}, debug() {}, trace() {} };
const CONFIG = { queues: [], queueSize: 0, queueAddmode: "0", storeMax: "64m", storeRepair: false };

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

interface Place {
  dir: string;
  env: Record<string, string>;
  end(): Promise<void>;
}

function file(): Promise<Place> {
  const dir = mkdtempSync(join(tmpdir(), "qf-"));
  const env = { DMQ_SOCKET: join(dir, "none.sock"), DMQ_STATE_DIR: dir, XDG_CONFIG_HOME: dir };
  return Promise.resolve({ dir, env, end: async () => rmSync(dir, { recursive: true, force: true }) });
}

async function daemon(): Promise<Place> {
  const dir = mkdtempSync(join(tmpdir(), "qd-"));
  const socketPath = join(dir, "d.sock");
  const queues = new Queues(CONFIG, dir, LOG);
  const surface = Object.assign(new FakeSurface(), { queues });
  const server: RpcServer = await serveRpc({ path: socketPath, surface });
  const end = async (): Promise<void> => {
    await server.close();
    await queues.close();
    rmSync(dir, { recursive: true, force: true });
  };
  // A state directory of its own: what is stored there was not the daemon's doing.
  return { dir, env: { DMQ_SOCKET: socketPath, DMQ_STATE_DIR: join(dir, "other"), XDG_CONFIG_HOME: dir }, end };
}

for (const [way, open] of [
  ["on the file", file],
  ["over the control socket", daemon],
] as const) {
  describe(`queues ${way}`, () => {
    let place: Place;
    beforeEach(async () => {
      place = await open();
    });
    afterEach(() => place.end());

    const q = (words: string[], world: World = {}): Promise<Ran> =>
      runCli(["queue", ...words], { ...world, env: { ...place.env, ...world.env } });
    const ok = async (words: string[], world: World = {}): Promise<string> => {
      const ran = await q(words, world);
      expect([words, ran.code, ran.err]).toEqual([words, 0, ""]);
      return ran.out;
    };

    test("an item goes in, shows, counts, comes out once, and then there is none", async () => {
      expect(await ok(["define", "alert"])).toBe("");
      expect(await ok(["add", "alert", "192.0.2.1:5060", "pike flood detected"])).toBe("");
      expect(await ok(["peek", "alert"])).toBe("192.0.2.1:5060\tpike flood detected\n");
      expect(await ok(["size", "alert"])).toBe("1\n");
      expect(await ok(["fetch", "alert"])).toBe("192.0.2.1:5060\tpike flood detected\n");
      expect(await q(["fetch", "alert"])).toEqual({ code: 1, out: "", err: "" });
      expect(await q(["size", "alert", "--test-empty"])).toEqual({ code: 1, out: "0\n", err: "" });
      expect(await ok(["size", "alert"])).toBe("0\n");
    });

    test("a queue that nobody defined is exit 3 with advice, for every command that names one", async () => {
      await ok(["define", "other"]);
      const lines = [
        ["add", "no", "k", "v"],
        ["fetch", "no"],
        ["fetch", "no", "--lease", "1s"],
        ["peek", "no"],
      ];
      lines.push(["size", "no"], ["stats", "no"], ["clear", "no"], ["drop", "no"], ["move", "other", "no"]);
      lines.push(["dead", "no", "list"], ["fetch", "no", "--exec", "true"]);
      for (const line of lines) {
        const { code, err } = await q(line);
        expect([line, code]).toEqual([line, 3]);
        expect(err).toBe("dmq: no queue no; there are other\n");
      }
    });

    test("keys and values of any octets: an empty value is one, a missing one is standard input", async () => {
      await ok(["define", "q"]);
      await ok(["add", "q", "", ""]);
      const octets = Uint8Array.from([0, 9, 10, 13, 92, 39, 0x7f, 0xc3, 0xa9, 0xff, 0xc3]);
      await ok(["add", "q", "k"], { stdin: octets });
      await ok(["add", "q", "a\tb", "-"], { stdin: bytes("x\n") });
      expect(await ok(["fetch", "q", "--all"])).toBe(`\t\nk\t\\x00\\t\\n\\r\\\\'\\x7fé\\xff\\xc3\na\\tb\tx\\n\n`);
    });

    test("lines come in as they went out, with every octet", async () => {
      await ok(["define", "a"]);
      await ok(["define", "b"]);
      await ok(["add", "a", "k\\\t"], { stdin: Uint8Array.from({ length: 256 }, (_, octet) => octet) });
      await ok(["add", "a", "é", "\u0085\u{1f600}"]);
      const lines = await ok(["peek", "a", "-n", "9"]);
      await ok(["add", "b", "--lines"], { stdin: bytes(lines) });
      expect(await ok(["peek", "b", "-n", "9"])).toBe(lines);
      const json = await ok(["fetch", "a", "--all", "--json"]);
      await ok(["clear", "b"]);
      await ok(["add", "b", "--json-lines"], { stdin: bytes(json) });
      expect(await ok(["peek", "b", "-n", "9"])).toBe(lines);
    });

    test("a line that is none ends it, behind those before it, and says how many were stored", async () => {
      await ok(["define", "q"]);
      const { code, err } = await q(["add", "q", "--lines"], { stdin: bytes("a\t1\nb\t2\nc\nd\t4\n") });
      expect([code, err]).toEqual([
        2,
        "dmq: 2 items were stored before the error\ndmq: line 3: there is no tab between key and value\n",
      ]);
      expect(await ok(["fetch", "q", "--all"])).toBe("a\t1\nb\t2\n");
      const wrong: [string, string][] = [
        ["{", "it is no JSON"],
        ["[]", "it is no JSON object"],
        ["{}", "there is no member key"],
        ['{"key":"k"}', "there is neither value nor value_base64"],
        ['{"key":1,"value":""}', "member key is no string"],
        ['{"key":"k","value_base64":"?"}', "value_base64 is no base64"],
      ];
      for (const [line, why] of wrong) {
        const ran = await q(["add", "q", "--json-lines"], { stdin: bytes(line) });
        expect([line, ran.code, ran.err]).toEqual([line, 2, `dmq: line 1: ${why}\n`]);
      }
    });

    test("for eval: quoted so that a shell has the octets again, a NUL as base64", async () => {
      await ok(["define", "q"]);
      await ok(["add", "q", `k'"$(x)`, "it's\n`y` \\ $z"]);
      await ok(["add", "q", "nul"], { stdin: Uint8Array.from([1, 0, 2]) });
      const script = `${await ok(["fetch", "q", "--sh"])}printf '%s|%s|%s' "$DMQ_KEY" "$DMQ_VALUE" "$DMQ_ID"`;
      const done = Bun.spawnSync(["sh", "-c", script], { stdout: "pipe" });
      expect(done.stdout.toString()).toBe(`k'"$(x)|it's\n\`y\` \\ $z|1`);
      expect(await ok(["fetch", "q", "--sh"])).toBe("DMQ_KEY='nul' DMQ_VALUE_BASE64='AQAC' DMQ_ID=2\n");
    });

    test("--json, --raw and --format", async () => {
      await ok(["define", "q"]);
      await ok(["add", "q", "k", "v\n", "-T", "text/x", "--header", "A-b=c d"]);
      const row = JSON.parse(await ok(["peek", "q", "--json"])) as Record<string, unknown>;
      expect(row).toEqual({
        ...{ id: "1", key: "k", value: "v\n", content_type: "text/x", headers: { "A-b": "c d" }, tries: 0 },
        ...{ added: row.added, from: null, channel: null },
      });
      expect(Math.abs(Date.parse(row.added as string) - Date.now())).toBeLessThan(60_000);
      expect(await ok(["peek", "q", "--raw"])).toBe("v\n");
      expect(await ok(["peek", "q", "--format", "{id}\\t{key}={value} {header.a-B} {size}"])).toBe("1\tk=v\\n c d 2\n");
      expect((await q(["peek", "q", "--format", "{kee}"])).code).toBe(2);
      expect((await q(["peek", "q", "--json", "--raw"])).code).toBe(2);
    });

    test("the same --id twice is stored once; --delay is not ready yet, --wait has it when it is", async () => {
      await ok(["define", "q"]);
      expect(await ok(["add", "q", "k", "1", "--id", "x", "--print-id"])).toBe("1\n");
      expect(await ok(["add", "q", "k", "2", "--id", "x", "--print-id"])).toBe("1\n");
      expect(await ok(["fetch", "q", "--all"])).toBe("k\t1\n");
      await ok(["add", "q", "late", "", "--delay", "300ms"]);
      expect((await q(["fetch", "q"])).code).toBe(1);
      expect((await q(["fetch", "q", "--wait", "10ms"])).code).toBe(1);
      expect(await ok(["fetch", "q", "--wait", "20s"])).toBe("late\t\n");
    });

    test("a full queue is exit 5, one that waits for room exit 6, and nothing of it is stored", async () => {
      await ok(["define", "q", "--size", "1", "--full", "reject"]);
      await ok(["add", "q", "a", "1"]);
      expect((await q(["add", "q", "b", "2"])).code).toBe(5);
      await ok(["define", "q", "--size", "1", "--full", "wait"]);
      const late = await q(["add", "q", "b", "2", "--timeout", "50ms"]);
      expect(late.code).toBe(6);
      const waiting = ok(["add", "q", "c", "3", "--timeout", "20s"]);
      expect(await ok(["fetch", "q"])).toBe("a\t1\n");
      await waiting;
      expect(await ok(["fetch", "q", "--all"])).toBe("c\t3\n");
      expect((await q(["add", "q", "k".repeat(1_025), ""])).code).toBe(5);
    });

    test("a lease: nobody else has it, ack settles it, a late ack is exit 3 and does not keep the others", async () => {
      await ok(["define", "q", "--retry", "0"]);
      for (const key of ["a", "b", "c"]) await ok(["add", "q", key, ""]);
      expect(await ok(["fetch", "q", "--lease", "60s", "-n", "2"])).toBe("1-1\ta\t\n2-1\tb\t\n");
      expect(await ok(["size", "q"])).toBe("1\n");
      expect(await ok(["extend", "1-1", "--lease", "2m"])).toBe("");
      expect(await ok(["nack", "2-1"])).toBe("");
      const { code, err } = await q(["ack", "2-1", "1-1"]);
      expect([code, err]).toEqual([3, 'dmq: no item is leased as "2-1": it was settled, or its lease ran out\n']);
      expect(await ok(["fetch", "q", "--all"])).toBe("b\t\nc\t\n");
      await ok(["add", "q", "d", ""]);
      expect(await ok(["fetch", "q", "--lease", "50ms"])).toBe("4-1\td\t\n");
      expect(await ok(["fetch", "q", "--wait", "20s"])).toBe("d\t\n");
      expect((await q(["ack", "4-1"])).code).toBe(3);
    });

    test("a reader of stdout that is gone has read nothing: the item is there again", async () => {
      await ok(["define", "q"]);
      await ok(["add", "q", "k", "v"]);
      await q(["fetch", "q"], { outputClosed: AbortSignal.abort() });
      const sizes = JSON.parse(await ok(["size", "q", "--json"])) as Record<string, number>;
      expect([sizes.ready, sizes.leased]).toEqual([1, 0]);
      expect(await ok(["fetch", "q", "--no-ack"])).toBe("k\tv\n");
    });

    test("--follow has items as they come, and a signal ends it with what is not settled given back", async () => {
      await ok(["define", "q"]);
      let raise: (signal: SignalName) => void = () => undefined;
      const following = q(["fetch", "q", "--follow"], { onStart: (own) => (raise = own) });
      await ok(["add", "q", "a", "1"]);
      const isTaken = async (): Promise<boolean> =>
        (JSON.parse(await ok(["stats", "q", "--json"])).counted.acked as number) === 1;
      await until(isTaken, 5_000, "the follower has the item");
      raise("SIGTERM");
      expect(await following).toEqual({ code: 143, out: "a\t1\n", err: "" });
    });

    test("commands: value on stdin, facts in variables, done with 0; other ends say what became of the item", async () => {
      await ok(["define", "q", "--retry", "0", "--max-tries", "2"]);
      await ok(["add", "q", "k", "v", "--header", "X-y=z", "-T", "a/b"]);
      const told = await ok([
        "fetch",
        "q",
        "--exec",
        'echo "$DMQ_QUEUE $DMQ_ID $DMQ_KEY $DMQ_TRIES $DMQ_CONTENT_TYPE $DMQ_HEADER_X_Y $(cat)"',
      ]);
      expect(told).toBe("q 1 k 1 a/b z v\n");
      await ok(["add", "q", "bad", ""]);
      const failed = await q(["fetch", "q", "--exec", "echo why >&2; exit 3"]);
      expect([failed.code, failed.err]).toEqual([
        8,
        "why\ndmq: item 2 of q: the command exited with 3; it is tried again\n",
      ]);
      const dead = await q(["fetch", "q", "--exec", "echo why >&2; exit 3"]);
      expect([dead.code, dead.err]).toEqual([
        8,
        "why\ndmq: item 2 of q: the command exited with 3; it is a dead letter now: dmq queue dead q show 2\n",
      ]);
      const [id, , tries, reason, key] = (await ok(["dead", "q", "list"])).split("\t");
      expect([id, tries, reason, key]).toEqual(["2", "2", "exit 3", "bad"]);
      const shown = JSON.parse(await ok(["dead", "q", "show", "2", "--json"])) as Record<string, unknown>;
      expect([shown.exit_code, shown.stderr]).toEqual([3, "why\n"]);
      expect(await ok(["dead", "q", "retry", "2"])).toBe("1\n");
      expect((await q(["fetch", "q", "--exec", "exit 65"])).code).toBe(8);
      expect((await q(["dead", "q", "drop", "99"])).code).toBe(3);
      expect(await ok(["dead", "q", "drop", "--all"])).toBe("1\n");
      expect((await q(["dead", "q", "list"])).code).toBe(1);
    });

    test("a command with arguments runs as given; one that cannot be run gives back and ends the consumer", async () => {
      await ok(["define", "q"]);
      for (const key of ["a", "b"]) await ok(["add", "q", key, ""]);
      expect(await ok(["fetch", "q", "--exec", "printf", "--", "%s|", "$DMQ_KEY", "-x"])).toBe("$DMQ_KEY|-x|");
      const { code, err } = await q(["fetch", "q", "--follow", "--exec", "./no-such-program", "x"]);
      expect([code, err]).toEqual([
        8,
        "dmq: item 2 of q: the command could not be started (ENOENT); it is given back, and nothing more is taken\n",
      ]);
      expect(JSON.parse(await ok(["peek", "q", "--json"])).tries).toBe(0);
    });

    test("--all --jobs handles all there is; --batch gives JSON lines, and one end counts for all", async () => {
      await ok(["define", "q"]);
      await ok(["add", "q", "--lines"], {
        stdin: bytes(Array.from({ length: 20 }, (_, n) => `k${n}\tv${n}\n`).join("")),
      });
      const out = await ok(["fetch", "q", "--all", "--exec", 'echo "$DMQ_KEY"', "--jobs", "4"]);
      expect(out.trim().split("\n").sort()).toEqual(Array.from({ length: 20 }, (_, n) => `k${n}`).sort());
      await ok(["add", "q", "--lines"], { stdin: bytes("a\t1\nb\t2\nc\t3\n") });
      const batch = await ok(["fetch", "q", "--all", "--exec", 'echo "$DMQ_BATCH"; cat', "--batch", "2"]);
      const lines = batch.trim().split("\n");
      expect([lines[0], lines[3]]).toEqual(["2", "1"]);
      expect([1, 2, 4].map((at) => JSON.parse(lines[at] as string).key)).toEqual(["a", "b", "c"]);
    });

    test("move, clear, list, stats, drop", async () => {
      await ok(["define", "a"]);
      await ok(["define", "name=b;size=3;addmode=2"]);
      await ok(["add", "a", "--lines"], { stdin: bytes("x\t1\ny\t2\nx\t3\n") });
      expect(await ok(["move", "a", "b", "--key", "x", "-n", "1"])).toBe("1\n");
      expect((await ok(["list"])).split("\n").map((line) => line.split("\t").slice(0, 2).join(" "))).toEqual([
        "b 1",
        "a 2",
        "",
      ]);
      const stats = await ok(["stats", "b"]);
      expect(stats).toContain("definition\tname=b;size=3;addmode=newest\n");
      expect(await ok(["clear", "a"])).toBe("2\n");
      expect((await q(["drop", "b"])).code).toBe(5);
      expect((await q(["move", "a", "a"])).code).toBe(2);
      await ok(["drop", "b", "--force"]);
      await ok(["drop", "a"]);
      expect(await ok(["list", "--json"])).toBe("[]\n");
      expect((await q(["check"])).code).toBe(0);
    });

    test("Kamailio's table: rows come in and are deleted, go out again, and a table that is none is exit 3", async () => {
      const path = join(place.dir, "mqueue.sqlite");
      const table = new KamailioTable(path, "alert", true);
      table.write([
        { key: "a", value: bytes("1") },
        { key: "b", value: bytes("") },
      ]);
      await ok(["define", "alert"]);
      expect((await q(["import", "alert", "--sqlite", path, "--table", "none"])).code).toBe(3);
      expect((await q(["import", "alert", "--sqlite", join(place.dir, "none")])).code).toBe(9);
      expect(await ok(["import", "alert", "--sqlite", path, "--keep"])).toBe("2\n");
      expect(await ok(["import", "alert", "--sqlite", path])).toBe("2\n");
      expect(table.read(0, 9)).toEqual([]);
      expect(await ok(["peek", "alert", "-n", "9"])).toBe("a\t1\nb\t\na\t1\nb\t\n");
      const copied = await q(["export", "alert", "--sqlite", path]);
      expect(copied).toEqual({
        code: 0,
        out: "4\n",
        err: "dmq: warning: 2 of them are empty or too long for Kamailio\n",
      });
      expect(table.read(0, 9).map(({ key }) => key)).toEqual(["a", "b", "a", "b"]);
      expect((await q(["export", "alert", "--sqlite", path, "--take"])).out).toBe("4\n");
      expect(await ok(["size", "alert"])).toBe("0\n");
      table.close();
    });
  });
}

describe("queues", () => {
  let place: Place;
  beforeEach(async () => {
    place = await file();
  });
  afterEach(() => place.end());
  const q = (words: string[]): Promise<Ran> => runCli(["queue", ...words], { env: place.env });

  test("without a store only define makes one; a queue in memory needs a daemon", async () => {
    expect((await q(["add", "q", "k", "v"])).code).toBe(3);
    expect((await q(["list"])).code).toBe(0);
    expect((await q(["define", "q", "--store", "memory"])).code).toBe(4);
    expect((await q(["define", "q"])).code).toBe(0);
    expect((await q(["add", "q", "k", "v"])).code).toBe(0);
  });

  test("a file that is no store is exit 9, and is left as it is", async () => {
    const path = join(place.dir, "queues.db");
    await Bun.write(path, "no store at all, but long enough to be looked at as one".repeat(100));
    const { code, err } = await q(["fetch", "q"]);
    expect([code, err]).toEqual([9, expect.stringContaining("SQLITE_NOTADB")]);
    expect(await Bun.file(path).text()).toStartWith("no store at all");
  });

  const wrong: [line: string[], words: string][] = [
    [["define", "q", "--size", "x"], "queue size"],
    [["define", "name=q;colour=red"], "colour"],
    [["define", "q.dead"], "queue name"],
    [["add", "q"], "missing argument KEY"],
    [["add", "a b", "k", "v"], "queue"],
    [["add", "q", "k", "v", "--lines"], "unexpected argument"],
    [["fetch", "q", "--jobs", "2"], "--jobs goes with --exec"],
    [["fetch", "q", "word"], "goes with --exec"],
    [["fetch", "q", "--all", "--follow"], "exclude each other"],
    [["fetch", "q", "--lease", "1s", "--exec", "x"], "exclude each other"],
    [["fetch", "q", "--exec", "x", "--order-by", "value"], "--order-by"],
    [["ack", "one two"], "no id"],
    [["extend", "1-1"], "--lease"],
    [["dead", "q", "show"], "show takes one ID"],
    [["dead", "q", "retry"], "--all"],
    [["dead", "q", "lst"], "did you mean list?"],
    [["import", "q"], "--sqlite"],
    [["pull", "q", "--from", "sip:x"], "--from"],
    [["fetchh", "q"], "did you mean dmq queue fetch?"],
    [["fetch", "q", "--folow"], "did you mean --follow?"],
  ];
  test.each(wrong)("%p is a usage error that says why", async (line, words) => {
    const { code, out, err } = await q(line);
    expect([code, out]).toEqual([2, ""]);
    expect(err).toContain(words);
  });

  test("a command of the group has its own help, completion and page; the group lists them all", async () => {
    const group = await runCli(["queue", "--help"]);
    expect(group.code).toBe(0);
    for (const name of [
      "add",
      "fetch",
      "peek",
      "ack",
      "nack",
      "extend",
      "size",
      "list",
      "stats",
      "move",
      "clear",
      "define",
    ])
      expect(group.out).toContain(`\n  ${name} `);
    expect((await runCli(["queue"])).code).toBe(2);
    const own = await runCli(["queue", "add", "--help"]);
    expect(own.out).toContain("usage: dmq queue add [options] QUEUE [KEY] [VALUE]");
    expect((await runCli(["help", "queue", "add"])).out).toBe(own.out);
    expect((await runCli(["help", "--man", "queue", "add"])).out).toStartWith(".TH DMQ-QUEUE-ADD 1");
    const described = JSON.parse((await runCli(["help", "--json", "queue"])).out) as { commands: { name: string }[] };
    expect(described.commands.map(({ name }) => name)).toContain("queue pull");
    expect((await runCli(["help", "send", "x"])).code).toBe(2);
  });
});

test("any octets survive being a part of a line", () => {
  for (let first = 0; first < 256; first++) {
    const octets = Uint8Array.from([first, 0xe2, 0x82, 0xac, first, 0xe2, 0x82, first, 0x5c]);
    const text = escapedOctets(octets);
    expect(text).not.toMatch(/[\x00-\x1f\x7f-\x9f]/);
    expect(unescapedOctets(bytes(text))).toEqual(octets);
  }
});
