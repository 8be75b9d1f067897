import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { type DeliveryResult, NODE_FIELDS, type NodeRow } from "../../src/rpc/surface.ts";
import { FakeDaemon, type Ran, runCli, type World } from "../helpers/cli.ts";

const NODE = "sip:127.0.0.2:5060";

let daemon: FakeDaemon;
beforeEach(() => {
  daemon = new FakeDaemon();
});
afterEach(() => daemon.end());

function run(line: string[], world: World = {}): Promise<Ran> {
  return runCli(line, { ...world, env: { DMQ_SOCKET: daemon.socket, ...world.env } });
}

function delivery(part: Partial<DeliveryResult> = {}): DeliveryResult {
  const ok = {
    outcome: "delivered",
    code: 200,
    reason: "OK",
    ms: 3.4,
    consumer: true,
    attempts: 1,
    tries: 1,
    message_id: null,
  } as const;
  return { node: NODE, ...ok, ...part };
}

const REJECTED = { outcome: "rejected", consumer: false } as const;
const SILENT = { code: null, reason: "", consumer: false } as const;

/** Outcome of one node, the exit code that it means, and its line. */
const OUTCOMES: [name: string, part: Partial<DeliveryResult>, exit: number, line: string][] = [
  ["200", {}, 0, "200\tOK\t3"],
  ["202 without a consumer", { code: 202, reason: "Accepted", consumer: false }, 0, "202\tAccepted\t3"],
  ["302", { ...REJECTED, code: 302, reason: "Moved" }, 5, "302\tMoved\t3"],
  ["403", { ...REJECTED, code: 403, reason: "Forbidden" }, 5, "403\tForbidden\t3"],
  ["404", { ...REJECTED, code: 404, reason: "Not Found Peer ID" }, 3, "404\tNot Found Peer ID\t3"],
  ["408", { ...REJECTED, code: 408, reason: "Request Timeout" }, 6, "408\tRequest Timeout\t3"],
  ["503", { ...REJECTED, code: 503, reason: "Busy" }, 5, "503\tBusy\t3"],
  ["603", { ...REJECTED, code: 603, reason: "Decline" }, 5, "603\tDecline\t3"],
  ["timeout", { ...SILENT, outcome: "timeout" }, 6, "-\ttimeout\t3"],
  ["unreachable", { ...SILENT, outcome: "unreachable", reason: "ECONNREFUSED" }, 4, "-\tunreachable\t3"],
  ["overloaded", { ...SILENT, outcome: "overloaded" }, 5, "-\toverloaded\t3"],
  ["cancelled", { ...SILENT, outcome: "cancelled" }, 6, "-\tcancelled\t3"],
];

/** The cause, where the reason column has the outcome instead. */
function whyOf(part: Partial<DeliveryResult>): string {
  return part.code === null && part.reason !== "" ? `dmq: ${NODE}: ${part.reason}\n` : "";
}

describe("send", () => {
  for (const [name, part, code, line] of OUTCOMES) {
    test(`${name} exits ${code}`, async () => {
      daemon.reply = () => ({ result: delivery(part) });
      expect(await run(["send", "channel1", NODE, "hello"])).toEqual({
        code,
        out: `${NODE}\t${line}\n`,
        err: whyOf(part),
      });
    });
  }

  test("hands over channel, node, body and type, and nothing that was not asked for", async () => {
    daemon.reply = () => ({ result: delivery() });
    await run(["send", "channel1", NODE, "héllo"]);
    const params = { channel: "channel1", node: NODE, body: "héllo", content_type: "text/plain" };
    expect(daemon.calls).toEqual([{ method: "dmq.send", params }]);
  });

  test("hands over every option", async () => {
    daemon.reply = () => ({ result: delivery() });
    const options = ["-T", "a/b; c=d", "--timeout", "1.5s", "--max-forwards", "0", "--force", "--retry", "3"];
    options.push("--message-id", "job-7");
    await run(["send", ...options, "htable", NODE, "x"]);
    expect(daemon.calls[0]?.params).toEqual({
      channel: "htable",
      node: NODE,
      body: "x",
      content_type: "a/b; c=d",
      timeout_ms: 1_500,
      max_forwards: 0,
      force: true,
      retry: 3,
      message_id: "job-7",
    });
  });

  const bodies: [name: string, words: string[], octets: number[], params: object][] = [
    ["- is stdin", ["-"], [0x68, 0x69, 0x0a], { body: "hi\n" }],
    ["-f - is stdin", ["-f", "-"], [0x68, 0x69], { body: "hi" }],
    ["-f FILE is a file", ["-f", "body.bin"], [0x68, 0x69], { body: "hi" }],
    ["what is no UTF-8 travels as base64", ["-"], [0xff, 0x00, 0xfe], { body_base64: "/wD+" }],
    ["a byte order mark and a NUL stay", ["-"], [0xef, 0xbb, 0xbf, 0x00], { body: "\ufeff\u0000" }],
    ["no body is an empty one", [], [0x78], { body: "" }],
    ["-- makes an option a body", ["--", "--json"], [], { body: "--json" }],
  ];
  for (const [name, words, octets, params] of bodies) {
    test(`body: ${name}`, async () => {
      daemon.reply = () => ({ result: delivery() });
      const octetsIn = Uint8Array.from(octets);
      const options = words.slice(0, -1);
      const rest = words.slice(-1);
      const line = words[0] === "-f" ? [...words, "c", NODE] : ["c", NODE, ...options, ...rest];
      await run(["send", ...line], { stdin: octetsIn, files: { "body.bin": octetsIn } });
      expect(daemon.calls[0]?.params).toEqual({ channel: "c", node: NODE, content_type: "text/plain", ...params });
    });
  }

  test("--require-consumer: 202 exits 3, and why is on stderr", async () => {
    daemon.reply = () => ({ result: delivery({ code: 202, reason: "Accepted", consumer: false }) });
    expect(await run(["send", "--require-consumer", "c", NODE])).toEqual({
      code: 3,
      out: `${NODE}\t202\tAccepted\t3\n`,
      err: `dmq: ${NODE}: nobody takes the messages of this channel there\n`,
    });
    daemon.reply = () => ({ result: [delivery({ code: 202, consumer: false }), delivery()] });
    expect((await run(["bcast", "--require-consumer", "c"])).code).toBe(7);
    expect((await run(["bcast", "--require-consumer", "--require", "any", "c"])).code).toBe(0);
  });

  test("--json is the daemon's result on one line", async () => {
    daemon.reply = () => ({ result: delivery() });
    const { out } = await run(["send", "--json", "c", NODE], { tty: true });
    expect(out).toBe(`${JSON.stringify(delivery())}\n`);
  });

  test("a reason phrase cannot forge a column or move a cursor", async () => {
    daemon.reply = () => ({ result: delivery({ reason: "O\tK\u001b[2J\r\n\u009b" }) });
    const line = `${NODE}\t200\tO\\tK\\x1b[2J\\r\\n\\x9b\t3\n`;
    expect((await run(["send", "c", NODE])).out).toBe(line);
    expect((await run(["send", "--plain", "c", NODE], { tty: true })).out).toBe(line);
  });

  test("a terminal gets aligned columns", async () => {
    daemon.reply = () => ({ result: delivery() });
    const table = `NODE                CODE  REASON  MS\n${NODE}  200   OK      3\n`;
    expect((await run(["send", "c", NODE], { tty: true })).out).toBe(table);
    daemon.reply = () => ({ result: [] });
    expect((await run(["bcast", "c"], { tty: true })).out).toBe("");
  });
});

describe("bcast", () => {
  const NOT_FOUND = { outcome: "rejected", code: 404, reason: "no" } as const;
  const TIMEOUT = { outcome: "timeout", code: null } as const;
  const cases: [require: string | undefined, parts: Partial<DeliveryResult>[], exit: number][] = [
    [undefined, [{}, {}], 0],
    [undefined, [{}, TIMEOUT], 7],
    [undefined, [TIMEOUT, TIMEOUT], 6],
    [undefined, [NOT_FOUND, NOT_FOUND], 3],
    [undefined, [NOT_FOUND, TIMEOUT], 1],
    [undefined, [], 3],
    ["any", [{}, TIMEOUT], 0],
    ["any", [TIMEOUT], 6],
    ["any", [], 3],
    ["2", [{}, {}, TIMEOUT], 0],
    ["2", [{}, TIMEOUT, TIMEOUT], 7],
    ["3", [{}, {}], 7],
    ["50%", [{}, TIMEOUT], 0],
    ["50%", [{}, TIMEOUT, TIMEOUT], 7],
    ["100%", [{}, TIMEOUT], 7],
  ];
  for (const [require, parts, code] of cases) {
    const shown = parts.map((part) => part.code ?? (part.outcome === undefined ? 200 : part.outcome)).join(", ");
    test(`--require ${require ?? "all"} of [${shown}] exits ${code}`, async () => {
      daemon.reply = () => ({ result: parts.map(delivery) });
      const options = require === undefined ? [] : ["--require", require];
      const ran = await run(["bcast", ...options, "channel1", "x"]);
      expect(ran.code).toBe(code);
      expect(ran.out.split("\n")).toHaveLength(parts.length + 1);
    });
  }

  test("hands over those to leave out, and prints one array with --json", async () => {
    daemon.reply = () => ({ result: [delivery(), delivery()] });
    const { out, err } = await run(["bcast", "--except", NODE, "--except", "sip:a", "--json", "c", "-"], {
      stdin: Uint8Array.of(0xff),
    });
    expect({ parsed: JSON.parse(out), err }).toEqual({ parsed: [delivery(), delivery()], err: "" });
    const params = { channel: "c", body_base64: "/w==", content_type: "text/plain", except: [NODE, "sip:a"] };
    expect(daemon.calls).toEqual([{ method: "dmq.bcast", params }]);
  });

  test("says so when there is nobody, and prints nothing", async () => {
    daemon.reply = () => ({ result: [] });
    const { out, err } = await run(["bcast", "c", "x"]);
    expect(out).toBe("");
    expect(err).toBe("dmq: there is no active node to address; dmq list shows the nodes\n");
  });
});

describe("list", () => {
  const row: NodeRow = {
    ...{ host: "127.0.0.2", port: "5060", proto: "*", resolved_ip: "127.0.0.2", status: "active" },
    ...{ last_notification: 0, local: 0, fail_count: 0, uri: NODE, rtt_ms: 1.6, last_seen: null },
    ...{ user_agent: "kamailio (5.6.3)", source: "announced", verified: true, in_flight: 0, queued: 0 },
  };

  test("is a table on a terminal, tab-separated in a pipe, one array with --json", async () => {
    daemon.reply = () => ({ result: [row] });
    const table = (await run(["list"], { tty: true })).out.split("\n");
    expect(table[0]).toStartWith("URI                 STATUS  LOCAL  IP");
    expect(table[1]).toStartWith(`${NODE}  active  0      127.0.0.2  2`);
    const plain = `${NODE}\tactive\t0\t127.0.0.2\t2\t0\t-\tannounced\tkamailio (5.6.3)\n`;
    expect(await run(["list"])).toEqual({ code: 0, out: plain, err: "" });
    const json = JSON.parse((await run(["list", "--json"])).out) as NodeRow[];
    expect(json).toEqual([row]);
    expect(Object.keys(json[0] as NodeRow)).toEqual([...NODE_FIELDS]);
  });

  test("finds the daemon by --socket before and behind the command, and by the environment", async () => {
    daemon.reply = () => ({ result: [] });
    const env = { DMQ_SOCKET: "/nonexistent/x.sock" };
    for (const line of [
      ["-s", daemon.socket, "list"],
      [`-s${daemon.socket}`, "list"],
      [`--socket=${daemon.socket}`, "list"],
      ["list", "--socket", daemon.socket],
      ["list", "-s", daemon.socket],
    ]) {
      expect(await run(line, { env })).toEqual({ code: 0, out: "", err: "" });
    }
    expect(await run(["list"])).toEqual({ code: 0, out: "", err: "" });
    expect((await run(["list"], { env })).code).toBe(4);
  });
});

describe("commands that ask one thing", () => {
  const cases: [line: string[], method: string, params: unknown][] = [
    [["add", NODE], "dmq.add", { uri: NODE }],
    [["remove", NODE], "dmq.remove", { uri: NODE, strict: true }],
    [["set", NODE, "disabled"], "dmq.change_status", { uri: NODE, status: "disabled" }],
    [["join", NODE, "sip:a"], "dmq.join", { uris: [NODE, "sip:a"] }],
    [["leave"], "dmq.leave", undefined],
    [["stop"], "dmq.stop", undefined],
  ];
  for (const [line, method, params] of cases) {
    test(`${line[0]} calls ${method}, is silent in a pipe and brief on a terminal`, async () => {
      expect(await run(line)).toEqual({ code: 0, out: "", err: "" });
      expect(daemon.calls).toEqual([{ method, params }]);
      const { out, err } = await run(line, { tty: true });
      expect(out).toBe("");
      expect(err.trim().split("\n")).toHaveLength(1);
    });
  }

  test("reload calls dmq.reload, is silent in a pipe, and on a terminal says what has changed", async () => {
    daemon.reply = () => ({ result: { changed: ["ping_interval", "tls certificates"], needs_restart: [] } });
    expect(await run(["reload"])).toEqual({ code: 0, out: "", err: "" });
    expect(daemon.calls).toEqual([{ method: "dmq.reload", params: undefined }]);
    expect((await run(["reload"], { tty: true })).err).toBe("changed: ping_interval, tls certificates\n");
    daemon.reply = () => ({ result: { changed: [], needs_restart: ["server_address"] } });
    expect((await run(["reload"])).err).toBe("dmq: not changed, needs a restart: server_address\n");
    expect((await run(["reload"], { tty: true })).err).toStartWith("nothing has changed\n");
    expect(JSON.parse((await run(["reload", "--json"])).out)).toEqual({
      changed: [],
      needs_restart: ["server_address"],
    });
    daemon.reply = () => ({ error: { code: 500, message: "tls_cert: got a.pem", data: { exit: 9 } } });
    expect(await run(["reload"])).toEqual({ code: 9, out: "", err: "dmq: tls_cert: got a.pem\n" });
  });

  const faults: [name: string, error: { code: number; message: string; data?: unknown }, exit: number][] = [
    ["a fault with an exit code", { code: 404, message: "Node Not Found", data: { exit: 3 } }, 3],
    ["a fault without one", { code: 500, message: "Failure" }, 1],
    ["a fault with nonsense for one", { code: 500, message: "Failure", data: { exit: "no" } }, 1],
    ["method not found", { code: -32601, message: "Method Not Found" }, 3],
    ["invalid parameters", { code: -32602, message: "Invalid params" }, 2],
  ];
  for (const [name, error, code] of faults) {
    test(`${name} exits ${code}`, async () => {
      daemon.reply = () => ({ error });
      expect(await run(["remove", NODE])).toEqual({ code, out: "", err: `dmq: ${error.message}\n` });
    });
  }

  test("no daemon exits 4 with one line that says what to do", async () => {
    const env = { DMQ_SOCKET: "/nonexistent/dmq.sock" };
    for (const name of ["list", "leave", "stop", "status"]) {
      const { code, out, err } = await run([name], { env });
      expect({ code, out }).toEqual({ code: 4, out: "" });
      expect(err).toContain("dmq serve");
      expect(err.trim().split("\n")).toHaveLength(1);
    }
  });
});

describe("rpc", () => {
  test("a method that there is not is answered with the nearest, or all of them", async () => {
    const methods = ["dmq.add", "dmq.list_nodes", "system.listMethods"];
    const missing = { error: { code: -32601, message: "Method Not Found", data: { exit: 2 } } };
    daemon.reply = ({ method }) => (method === "system.listMethods" ? { result: methods } : missing);
    const near = 'dmq: Method Not Found: "dmq.lst_nodes"; did you mean dmq.list_nodes?\n';
    expect(await run(["rpc", "dmq.lst_nodes"])).toEqual({ code: 2, out: "", err: near });
    const all = `dmq: Method Not Found: "NONSENSE"; there are ${methods.join(", ")}\n`;
    expect(await run(["rpc", "NONSENSE"])).toEqual({ code: 2, out: "", err: all });
    daemon.reply = () => missing;
    expect(await run(["rpc", "NONSENSE"])).toEqual({ code: 2, out: "", err: "dmq: Method Not Found\n" });
  });

  test("passes parameters on and prints the result as JSON", async () => {
    daemon.reply = ({ params }) => ({ result: { got: params } });
    expect((await run(["rpc", "m", '["a"]'])).out).toBe('{"got":["a"]}\n');
    expect((await run(["rpc", "m", '{"a":1}'], { tty: true })).out).toBe('{\n  "got": {\n    "a": 1\n  }\n}\n');
    expect((await run(["rpc", "m", "-"], { stdin: new TextEncoder().encode("[1]") })).out).toBe('{"got":[1]}\n');
    await run(["rpc", "m"]);
    expect(daemon.calls.at(-1)).toEqual({ method: "m", params: undefined });
  });
});

describe("status", () => {
  const report = {
    ...{ version: "1", pid: 7, uptime_s: 2, uri: NODE, listeners: ["udp:127.0.0.2:5060"], socket: "/s" },
    channels: [
      { name: "a", consumers: 1, declared: true },
      { name: "b", consumers: 2, declared: false },
    ],
    peers: { active: 1, not_active: 0, disabled: 0 },
    counters: { notificationsSent: 5 },
  };

  test("is a line a fact, and JSON on one line", async () => {
    daemon.reply = () => ({ result: report });
    const { out } = await run(["status"]);
    expect(out.split("\n")).toEqual([
      ...["version\t1", "pid\t7", "uptime_s\t2", `uri\t${NODE}`, "socket\t/s", "listener\tudp:127.0.0.2:5060"],
      ...["channel a\t1 consumer, declared", "channel b\t2 consumers"],
      ...["peers active\t1", "peers not_active\t0", "peers disabled\t0", "counter notificationsSent\t5", ""],
    ]);
    expect(JSON.parse((await run(["status", "--json"])).out)).toEqual(report);
  });
});

describe("listen", () => {
  const message = {
    ...{ channel: "c", from: "sip:f", node: NODE, source: "udp:127.0.0.2:5060", call_id: "i" },
    ...{ content_type: "text/plain", size: 3, body: "a\tb", time: "2026-01-01T00:00:00.000Z" },
  };
  const binary = { ...message, node: null, content_type: null, body: null, body_base64: "/2EK" };

  test("prints a line for each message, and ends after COUNT", async () => {
    daemon.lines = [message, binary, message];
    daemon.open = true;
    const { code, out, err } = await run(["listen", "-n", "2", "c", "d&e"]);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out.split("\n")).toEqual([
      `${message.time}\tc\t${NODE}\ttext/plain\ta\\tb`,
      `${message.time}\tc\tsip:f\t-\t\\xffa\\n`,
      "",
    ]);
    expect(daemon.streams).toEqual(["/listen?channel=c&channel=d%26e"]);
  });

  test("prints what came as NDJSON with --json", async () => {
    daemon.lines = [message, binary];
    daemon.open = true;
    const { out } = await run(["listen", "--json", "-n", "2", "c"]);
    expect(
      out
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toEqual([message, binary]);
  });

  test("-W without a count exits 0 when the time is over, with one 6", async () => {
    daemon.open = true;
    daemon.lines = [message];
    expect((await run(["listen", "-W", "200ms", "c"])).code).toBe(0);
    const short = await run(["listen", "-W", "200ms", "-n", "2", "c"]);
    expect(short.code).toBe(6);
    expect(short.out.trim().split("\n")).toHaveLength(1);
  });

  test("-W that is over before a daemon has answered is no success: exit 4", async () => {
    const path = `${daemon.socket}.mute`;
    const mute = Bun.listen({ unix: path, socket: { data: () => undefined } });
    try {
      for (const line of [["listen", "c"], ["listen", "--reply", "x", "c"], ["events"]]) {
        const ran = await runCli([...line, "-W", "100ms", "--socket", path]);
        expect(ran).toEqual({
          code: 4,
          out: "",
          err: `dmq: no answer of a daemon on ${path} before DURATION was over\n`,
        });
      }
    } finally {
      mute.stop(true);
    }
  });

  test("a daemon that ends is no success while a count is open", async () => {
    expect((await run(["listen", "-n", "1", "c"])).code).toBe(4);
    expect((await run(["listen", "c"])).code).toBe(0);
  });

  test("ends quietly when the reader of stdout is gone", async () => {
    daemon.open = true;
    const closed = AbortSignal.timeout(50);
    expect(await run(["listen", "-n", "9", "c"], { outputClosed: closed })).toEqual({ code: 0, out: "", err: "" });
  });

  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const) {
    test(`${signal} exits ${code}`, async () => {
      daemon.open = true;
      const ran = await run(["listen", "c"], { onStart: (raise) => raise(signal) });
      expect(ran).toEqual({ code, out: "", err: "" });
    });
  }
});

describe("version", () => {
  test("is one line, or JSON", async () => {
    expect((await run(["version"])).out).toMatch(/^dmq \S+( \(\w+\))?\n$/);
    expect((await run(["--version"])).out).toMatch(/^dmq /);
    expect(Object.keys(JSON.parse((await run(["version", "--json"])).out) as object)).toEqual(["version", "commit"]);
  });
});
