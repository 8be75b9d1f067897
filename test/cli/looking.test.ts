/**
 * The commands that look, wait and answer, in process against a real control socket whose node is the test's. Goal: what
 * they print, how they end, and that what changes is seen when it changes.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type RpcServer, serveRpc } from "../../src/rpc/server.ts";
import type { EventRecord, MessageEvent, PingResult } from "../../src/rpc/surface.ts";
import { type Ran, runCli, type World } from "../helpers/cli.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";
import { FakeSurface, LOCAL_URI, messageOf, PEER_URI, rowOf, STATUS_REPORT } from "../rpc/fake-surface.ts";

const TIME = "2026-01-01T00:00:00.000Z";

let directory: string;
let socket: string;
let surface: FakeSurface;
let server: RpcServer | undefined;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "dl-"));
  socket = join(directory, "d.sock");
  surface = new FakeSurface();
  await serve();
});

afterEach(async () => {
  await server?.close();
  rmSync(directory, { recursive: true });
});

async function serve(): Promise<void> {
  server = await serveRpc({ path: socket, surface });
}

function run(line: string[], world: World = {}): Promise<Ran> {
  return runCli(line, { ...world, env: { DMQ_SOCKET: socket, PATH: process.env.PATH ?? "", ...world.env } });
}

/** Runs a command and does `then` once it follows what happens. */
async function runAnd(line: string[], isThere: () => boolean, then: () => unknown, world: World = {}): Promise<Ran> {
  const running = run(line, world);
  await until(isThere, 4_000, `${line.join(" ")} follows`);
  await then();
  return running;
}

function isFollowed(): boolean {
  return surface.subscribers.size > 0;
}

function emit(type: EventRecord["type"], more: Partial<EventRecord> = {}): void {
  surface.emit({ type, time: TIME, ...more });
}

describe("events", () => {
  const cases: [name: string, event: Partial<EventRecord> & { type: EventRecord["type"] }, line: string][] = [
    ["a peer", { type: "peer-up", node: PEER_URI, status: "active" }, `peer-up\t${PEER_URI}\tactive`],
    ["a warning", { type: "warning", code: "bad-line", text: "a\nb", node: PEER_URI }, "warning\tbad-line\ta\\nb"],
    ["the first contact", { type: "joined", nodes: ["sip:a", "sip:b"] }, "joined\t-\tsip:a sip:b"],
    ["listeners", { type: "consumers", channel: "c", consumers: 0 }, "consumers\tc\t0"],
  ];
  for (const [name, event, line] of cases) {
    test(`${name} is a line in a pipe, and itself with --json`, async () => {
      const emitted = (): void => emit(event.type, event);
      expect(await runAnd(["events", "-n", "1"], isFollowed, emitted)).toEqual({
        code: 0,
        out: `${TIME}\t${line}\n`,
        err: "",
      });
      await until(() => !isFollowed(), 4_000, "the first one is through");
      const { out } = await runAnd(["events", "--json", "-n", "1"], isFollowed, emitted);
      expect(JSON.parse(out)).toEqual({ time: TIME, ...event });
    });
  }

  test("--type leaves out the others, which do not count", async () => {
    const line = ["events", "--type", "peer-up", "--type", "peer-down", "-n", "2"];
    const { out, code } = await runAnd(line, isFollowed, () => {
      emit("peer-up", { node: "sip:1" });
      emit("consumers", { channel: "c", consumers: 1 });
      emit("peer-down", { node: "sip:2" });
    });
    expect([code, out.split("\n").map((one) => one.split("\t")[2])]).toEqual([0, ["sip:1", "sip:2", undefined]]);
  });

  test("ends by DURATION: 0 without a COUNT, 6 with one; and with the daemon", async () => {
    expect(await run(["events", "-W", "200ms"])).toEqual({ code: 0, out: "", err: "" });
    expect(await run(["events", "-W", "200ms", "-n", "1"])).toEqual({ code: 6, out: "", err: "" });
    await until(() => !isFollowed(), 4_000, "those two are through");
    expect(await runAnd(["events", "-n", "1"], isFollowed, () => server?.close())).toEqual({
      code: 4,
      out: "",
      err: "dmq: the daemon ended\n",
    });
  });
});

describe("logs", () => {
  const line = {
    time: TIME,
    level: "warn",
    text: "peer \u001b[2J is gone",
    fields: { fail_count: 1, why: "a b" },
  } as const;
  const text = `${TIME} warn  peer \\x1b[2J is gone fail_count=1 why="a b"\n`;

  test("prints what is kept, with colour only on a terminal that can", async () => {
    surface.logLines.push(line);
    expect(await run(["logs"])).toEqual({ code: 0, out: text, err: "" });
    expect((await run(["logs"], { tty: true })).out).toContain("\u001b[33mwarn \u001b[0m peer \\x1b[2J");
    for (const env of [{ NO_COLOR: "1" }, { TERM: "dumb" }])
      expect((await run(["logs"], { tty: true, env })).out).toBe(text);
    expect((await run(["logs", "--plain"], { tty: true })).out).toBe(text);
    expect(JSON.parse((await run(["logs", "--json"])).out)).toEqual(line);
  });

  test("asks for a level and a number of lines, and follows", async () => {
    const isThere = (): boolean => surface.followers.size > 0;
    const ran = await runAnd(["logs", "-f", "-n", "5", "--level", "debug"], isThere, async () => {
      for (const follower of surface.followers) follower(line);
      await server?.close();
    });
    expect(ran).toEqual({ code: 0, out: text, err: "" });
    expect(surface.calls).toEqual([{ level: "debug", count: 5 }, "follow debug"]);
  });

  test("nothing kept is nothing printed; no daemon is 4", async () => {
    expect(await run(["logs"])).toEqual({ code: 0, out: "", err: "" });
    expect((await run(["logs", "-s", join(directory, "none.sock")])).code).toBe(4);
  });

  const STREAM = "application/x-ndjson";
  const strangers: [what: string, body: string, type: string, says: string][] = [
    ["a page", "<html></html>", "text/html", "/logs? is text/html, expected application/x-ndjson"],
    ["an object of another kind", "{}", "application/json", "is application/json"],
    ["lines that are no JSON", "hello\n", STREAM, "gave a line that is not JSON"],
    ["half a line", '{"a":', STREAM, "ended in the middle of a line"],
  ];
  test.each(strangers)("%s is no answer of a daemon: 4, and said", async (_what, body, type, says) => {
    const unix = join(directory, "other.sock");
    const stranger = Bun.serve({ unix, fetch: () => new Response(body, { headers: { "Content-Type": type } }) });
    try {
      const { code, out, err } = await run(["logs", "-s", unix]);
      expect([code, out]).toEqual([4, ""]);
      expect(err).toContain(says);
    } finally {
      await stranger.stop(true);
    }
  });
});

describe("ping", () => {
  const good: PingResult = { node: PEER_URI, outcome: "delivered", code: 200, reason: "OK", ms: 1.26, attempts: 1 };
  const late: PingResult = { ...good, outcome: "timeout", code: null, reason: "no answer" };
  const notFound: PingResult = { ...good, outcome: "rejected", code: 404, reason: "Not Found" };
  const dead: PingResult = { ...good, outcome: "unreachable", code: null, reason: "ECONNREFUSED" };
  const cases: [name: string, results: PingResult[], exit: number][] = [
    ["all answered", [good, good], 0],
    ["some answered", [good, late], 7],
    ["nobody in time", [late, late], 6],
    ["all unreachable", [dead], 4],
    ["all 404", [notFound], 3],
    ["nobody, in different ways", [late, dead], 1],
  ];
  for (const [name, results, exit] of cases) {
    test(`${name} exits ${exit}`, async () => {
      surface.ping = async () => results;
      expect((await run(["ping"])).code).toBe(exit);
    });
  }

  test("prints a line for each, in all forms; --json has the round", async () => {
    surface.ping = async () => [good, late];
    const out = `${PEER_URI}\t200\tOK\t1.3\n${PEER_URI}\t-\ttimeout\t1.3\n`;
    expect(await run(["ping"])).toEqual({ code: 7, out, err: "" });
    expect((await run(["ping"], { tty: true })).out).toContain(`${PEER_URI}  200  OK       1.3\n`);
    const json = (await run(["ping", "--json"])).out.trim().split("\n");
    expect(json.map((line) => JSON.parse(line))).toEqual([
      { round: 1, ...good },
      { round: 1, ...late },
    ]);
  });

  test("says why a node is unreachable, once while it stays so", async () => {
    const other: PingResult = { ...dead, reason: "no route\u001b[2J" };
    const rounds = [[dead], [dead], [other], [good], [other]];
    const said = ["ECONNREFUSED", "no route\\x1b[2J", "no route\\x1b[2J"].map((why) => `dmq: ${PEER_URI}: ${why}\n`);
    surface.ping = async () => rounds.shift() ?? [];
    const { err, out } = await run(["ping", "-c", "5", "-i", "100ms"]);
    expect(err).toBe(said.join(""));
    expect(out).toStartWith(`${PEER_URI}\t-\tunreachable\t1.3\n`);
  });

  test("hands over nodes and time, asks COUNT times, and sums up on a terminal", async () => {
    const { code, out, err } = await run(["ping", "-c", "2", "-i", "100ms", "--timeout", "0.5s", PEER_URI], {
      tty: true,
    });
    expect([code, out.split("\n").length]).toEqual([0, 3]);
    expect(surface.calls).toEqual(Array(2).fill({ nodes: [PEER_URI], timeoutMs: 500 }));
    expect(err).toBe(`${PEER_URI}: 2 sent, 2 answered, min/mean/max 1.5/1.5/1.5 ms\n`);
  });

  test("one good round among bad ones is partial", async () => {
    const rounds = [[late], [good], [late]];
    surface.ping = async () => rounds.shift() ?? [];
    expect((await run(["ping", "-c", "3", "-i", "100ms"])).code).toBe(7);
  });

  test("nobody there is 3, and said", async () => {
    surface.ping = async () => [];
    const err = "dmq: there is no peer to ping; dmq list shows the nodes\n";
    expect(await run(["ping"])).toEqual({ code: 3, out: "", err });
  });
});

describe("wait", () => {
  const held: [condition: string, isHeld: boolean][] = [
    ["ready", true],
    ["members=1", true],
    ["members=2", true],
    ["members=3", false],
    [`node=${PEER_URI}`, true],
    ["node=sip:127.0.0.2", true],
    [`node=${PEER_URI}:active`, true],
    [`node=${PEER_URI}:disabled`, false],
    ["node=sip:127.0.0.3:5060", false],
    ["node=sip:127.0.0.2:5060;transport=tcp", false],
    ["channel=channel1", true],
    ["channel=channel2", false],
  ];
  for (const [condition, isHeld] of held) {
    test(`${condition} ${isHeld ? "holds" : "does not hold"}`, async () => {
      const ran = await run(["wait", condition, "--timeout", isHeld ? "4s" : "60ms"]);
      if (isHeld) expect(ran).toEqual({ code: 0, out: "", err: "" });
      else expect([ran.code, ran.out, ran.err]).toEqual([6, "", expect.stringContaining(`60 ms: ${condition} (now: `)]);
    });
  }

  test("sees a change when its event comes, and needs all conditions", async () => {
    const startedAt = performance.now();
    let seenAt = 0;
    const ran = await runAnd(["wait", "members=3", "channel=c"], isFollowed, async () => {
      surface.rows.unshift(rowOf("sip:127.0.0.3:5060", "active"));
      emit("peer-up", { node: "sip:127.0.0.3:5060" });
      surface.onStatus = () => ({ ...STATUS_REPORT, channels: [{ name: "c", consumers: 1, declared: false }] });
      emit("consumers", { channel: "c", consumers: 1 });
      seenAt = performance.now();
    });
    expect(ran).toEqual({ code: 0, out: "", err: "" });
    // It was told: the slow look besides comes after a second.
    expect(performance.now() - seenAt).toBeLessThan(900);
    expect(seenAt).toBeGreaterThan(startedAt);
  });

  test("sees what no event tells of, a little later", async () => {
    const ran = await runAnd(["wait", "members=3"], isFollowed, () => {
      surface.rows.unshift(rowOf("sip:127.0.0.3:5060", "active"));
    });
    expect(ran.code).toBe(0);
  });

  test("waits for a daemon that is not up yet, and over a restart", async () => {
    await server?.close();
    const early = run(["wait", "ready", "--timeout", "8s"]);
    await Bun.sleep(150);
    await serve();
    expect(await early).toEqual({ code: 0, out: "", err: "" });
    const over = await runAnd(["wait", "members=3", "--timeout", "8s"], isFollowed, async () => {
      await server?.close();
      surface.rows.unshift(rowOf("sip:127.0.0.3:5060", "active"));
      await serve();
    });
    expect(over).toEqual({ code: 0, out: "", err: "" });
  });

  test("is 4 where there never was a daemon, and says what was missing", async () => {
    await server?.close();
    const { code, err } = await run(["wait", "ready", "--timeout", "250ms"]);
    expect([code, err]).toEqual([4, expect.stringContaining("dmq: not within 250 ms: no daemon on")]);
  });

  test("gives up where somebody answers, and never as a daemon", async () => {
    await server?.close();
    const stranger = Bun.listen({ unix: socket, socket: { open: (peer) => void peer.end(), data: () => undefined } });
    const { code, err } = await run(["wait", "ready"]);
    stranger.stop(true);
    expect([code, err]).toEqual([4, `dmq: the daemon on ${socket} closed the connection before it had answered\n`]);
  });

  test("shows on a terminal what it waits for, and wipes it", async () => {
    const { code, err } = await run(["wait", "members=9", "--timeout", "600ms"], { tty: true });
    expect(code).toBe(6);
    expect(err).toContain("waiting for members=9 (now: 2), 0 s");
    expect(err).toEndWith("\r\u001b[Kdmq: not within 600 ms: members=9 (now: 2)\n");
  });

  test("is interrupted with 130, and leaves no line behind", async () => {
    const world: World = { tty: true, onStart: (raise) => void setTimeout(() => raise("SIGINT"), 500) };
    const { code, err } = await run(["wait", "members=9"], world);
    expect([code, err]).toEqual([130, expect.stringMatching(/^\r\u001b\[Kwaiting for .*\r\u001b\[K$/)]);
  });
});

describe("list --watch", () => {
  test("in a pipe: the list, and again when more than fleeting figures changed", async () => {
    const peer = surface.rows[0] as { rtt_ms: number | null; status: string };
    const ran = await runAnd(["list", "--watch", "--json"], isFollowed, async () => {
      await Bun.sleep(100);
      peer.rtt_ms = 5;
      emit("warning");
      await Bun.sleep(100);
      peer.status = "disabled";
      emit("peer-disabled");
      await Bun.sleep(100);
      await server?.close();
    });
    const lists = ran.out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line)[0]);
    expect(lists.map(({ status, rtt_ms }) => [status, rtt_ms])).toEqual([
      ["active", null],
      ["disabled", 5],
    ]);
    expect([ran.code, ran.err]).toEqual([0, "dmq: the daemon ended\n"]);
  });

  test("on a terminal: drawn at the same place each time", async () => {
    const ran = await runAnd(
      ["list", "--watch"],
      isFollowed,
      async () => {
        await Bun.sleep(100);
        emit("peer-up");
        await Bun.sleep(100);
        await server?.close();
      },
      { tty: true },
    );
    const screens = ran.out.split("\u001b[H\u001b[J");
    expect(screens[0]).toBe("\u001b[2J");
    expect(screens.length).toBe(3);
    for (const screen of screens.slice(1)) expect(screen).toStartWith("URI ");
  });

  test("ends with its reader, quietly, and with 130 by a signal", async () => {
    const closed = new AbortController();
    const world = { outputClosed: closed.signal };
    const ran = await runAnd(["list", "--watch", "--plain"], isFollowed, () => closed.abort(), world);
    expect([ran.code, ran.err]).toEqual([0, ""]);
    const raised: World = { onStart: (raise) => void setTimeout(() => raise("SIGINT"), 100) };
    expect((await run(["list", "--watch"], raised)).code).toBe(130);
    expect((await run(["list", "--watch", "-s", join(directory, "none.sock")])).code).toBe(4);
  });
});

describeWhere(missingPrograms("sh", "cat", "env", "sleep"), "listen as the one that answers", () => {
  let asked = 0;

  function isListening(): boolean {
    return surface.listeners.size > 0;
  }

  /** A message for the answering listener. */
  function ask(body: string, more: Partial<MessageEvent> = {}): void {
    const message = { ...messageOf("c", body), accepts_body: true, reply_id: `r${++asked}`, answer_within_ms: 5_000 };
    for (const listener of surface.listeners.keys()) listener({ ...message, size: body.length, ...more });
  }

  interface Answered {
    code: number;
    reason?: string;
    contentType: string;
    body: Uint8Array;
  }

  function answers(): Answered[] {
    return surface.calls.filter((call): call is Answered => typeof call === "object" && "replyId" in (call as object));
  }

  function told(): string[] {
    return answers().map(({ code, reason, body }) => `${code} ${reason ?? "-"} ${new TextDecoder().decode(body)}`);
  }

  test("--exec: body on stdin, facts in variables, stdout is the body, nothing is printed", async () => {
    const script = `sh -c 'cat; echo " $DMQ_CHANNEL $DMQ_NODE $DMQ_ACCEPT $DMQ_URI $DMQ_SOCKET $DMQ_MAX_FORWARDS"'`;
    const ran = await runAnd(["listen", "--exec", script, "-n", "1", "c"], isListening, () => ask("$(boo)"));
    expect(ran).toEqual({ code: 0, out: "", err: "" });
    expect(surface.calls[0]).toBe("answering c");
    expect(told()).toEqual([`200 - $(boo) c ${PEER_URI} 1 ${LOCAL_URI} ${socket} 1\n`]);
    expect(answers()[0]?.contentType).toBe("text/plain");
  });

  const ends: [script: string, told: string, code: number][] = [
    ["exit 0", "200 - ", 0],
    ["exit 75", "503 Handler Busy ", 8],
    ["exit 3", "500 Handler Exited With 3 ", 8],
    ["kill -SEGV $$", "500 Handler Died Of SIGSEGV ", 8],
  ];
  for (const [script, answer, code] of ends) {
    test(`--exec: ${script} is ${answer}and exits ${code}`, async () => {
      const ran = await runAnd(["listen", "--exec", `sh -c '${script}'`, "-n", "1", "c"], isListening, () => ask("x"));
      expect([ran.code, told()]).toEqual([code, [answer]]);
      expect(ran.err).toMatch(code === 0 ? /^$/ : /^dmq: c: message of sip:127\.0\.0\.2:5060: the command .*\n$/);
    });
  }

  test("--exec: one at a time, in order; a COUNT ends it behind the last answer", async () => {
    const script = `sh -c 'read word; sleep 0.0$word; echo "$word"; echo "said $word" >&2'`;
    const line = ["listen", "--exec", script, "-n", "3", "--plain", "c"];
    const ran = await runAnd(line, isListening, () => {
      for (const word of ["9", "5", "1", "7"]) ask(word);
    });
    expect(told()).toEqual(["200 - 9\n", "200 - 5\n", "200 - 1\n"]);
    expect([ran.code, ran.err]).toEqual([0, "said 9\nsaid 5\nsaid 1\n"]);
    expect(ran.out.split("\n").map((one) => one.split("\t").at(-1))).toEqual(["9", "5", "1", ""]);
    await until(() => !isListening(), 4_000, "it listens no more");
  });

  test("--exec: what takes too long is ended, what comes too late is not begun; the next one is", async () => {
    const line = ["listen", "--exec", `sh -c 'read word; sleep "$word"; echo ran'`, "-n", "3", "c"];
    const ran = await runAnd(line, isListening, () => {
      ask("30", { answer_within_ms: 200 });
      ask("0", { answer_within_ms: 100 });
      ask("0");
    });
    expect(told()).toEqual(["503 Handler Too Late ", "200 - ran\n"]);
    expect(ran.code).toBe(8);
    expect(ran.err.replaceAll(`dmq: c: message of ${PEER_URI}: `, "").split("\n")).toEqual([
      "the command was ended: it took longer than handler_timeout (200 ms), or the node stopped",
      "its turn came too late: the sender has been answered 503",
      "",
    ]);
  });

  test("--exec: an answer that is too late for the daemon is told, and counts as failed", async () => {
    const ran = await runAnd(["listen", "--exec", "cat", "-n", "1", "c"], isListening, () =>
      ask("x", { reply_id: "late" }),
    );
    expect([ran.code, ran.err]).toEqual([8, `dmq: c: message of ${PEER_URI}: too late\n`]);
  });

  test("--exec: DURATION lets the one that runs end, and leaves the others", async () => {
    const line = ["listen", "--exec", `sh -c 'sleep 0.3; echo done'`, "-W", "150ms", "c"];
    const ran = await runAnd(line, isListening, () => {
      ask("1");
      ask("2");
    });
    expect([ran.code, told()]).toEqual([0, ["200 - done\n"]]);
  });

  test("--exec: a daemon that ends ends it; one that says no is told", async () => {
    const ran = await runAnd(["listen", "--exec", "cat", "c"], isListening, () => server?.close());
    expect(ran).toEqual({ code: 0, out: "", err: "dmq: the daemon ended\n" });
    await serve();
    expect((await run(["listen", "--exec", "cat", "closed"])).code).toBe(3);
  });

  test("--reply: the same for all, printed as ever", async () => {
    const line = ["listen", "--reply", "-", "-T", "a/b", "--status", "486", "-n", "2", "c"];
    const world = { stdin: Uint8Array.of(0xff, 0x00) };
    const askTwice = (): void => {
      ask("1");
      ask("2");
    };
    const ran = await runAnd(line, isListening, askTwice, world);
    expect([ran.code, ran.err, ran.out.split("\n").length]).toEqual([0, "", 3]);
    expect(answers().map(({ code, contentType, body }) => [code, contentType, [...body]])).toEqual(
      Array(2).fill([486, "a/b", [0xff, 0x00]]),
    );
  });

  test("--reply-file: what stands in the file", async () => {
    const world = { files: { "a.txt": new TextEncoder().encode("from a file") } };
    const line = ["listen", "--reply-file", "a.txt", "--json", "-n", "1", "c"];
    const ran = await runAnd(line, isListening, () => ask("1"), world);
    expect([ran.code, JSON.parse(ran.out).body, told()]).toEqual([0, "1", ["200 - from a file"]]);
  });
});
