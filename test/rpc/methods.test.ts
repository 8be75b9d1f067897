/** Every method, its parameters by position and by name, and every fault, on a surface without a node. */
import { describe, expect, test } from "bun:test";
import { UsageError } from "../../src/core/errors.ts";
import { answer, BATCH_CALLS_MAX } from "../../src/rpc/jsonrpc.ts";
import { METHODS } from "../../src/rpc/methods.ts";
import { NODE_FIELDS } from "../../src/rpc/surface.ts";
import { delivered, FakeSurface, LOCAL_URI, PEER_URI, STATUS_REPORT } from "./fake-surface.ts";

const NEW_URI = "sip:127.0.0.3:5060";

async function call(surface: FakeSurface, method: string, params?: unknown): Promise<Record<string, unknown>> {
  const text = await answer(surface, JSON.stringify({ jsonrpc: "2.0", method, params, id: 7 }));
  const { jsonrpc, id, ...rest } = JSON.parse(text as string);
  expect([jsonrpc, id]).toEqual(["2.0", 7]);
  return rest;
}

function fault(code: number, message: string, exit: number): Record<string, unknown> {
  return { error: { code, message, data: { exit } } };
}

describe("Kamailio's methods", () => {
  test("dmq.list_nodes: has Kamailio's fields in Kamailio's order, then ours", async () => {
    const { result } = (await call(new FakeSurface(), "dmq.list_nodes")) as { result: Record<string, unknown>[] };
    expect(result.map((row) => row.uri)).toEqual([PEER_URI, LOCAL_URI]);
    for (const row of result) expect(Object.keys(row)).toEqual([...NODE_FIELDS]);
    expect(
      Object.keys(result[0] as object)
        .slice(0, 8)
        .join(" "),
    ).toBe("host port proto resolved_ip status last_notification local fail_count");
  });

  const CASES: [string, string, unknown, unknown][] = [
    ["adds", "dmq.add", [NEW_URI], { result: "Ok. DMQ node added." }],
    ["adds by name", "dmq.add", { uri: NEW_URI, status: "disabled" }, { result: "Ok. DMQ node added." }],
    ["adds nobody twice", "dmq.add", [PEER_URI], fault(500, "Node is already added", 1)],
    ["adds no nonsense", "dmq.add", ["nonsense"], fault(500, "Failure", 2)],
    ["takes a number as text", "dmq.add", [5], fault(500, "Failure", 2)],
    ["misses the address", "dmq.add", [], fault(500, "Invalid Parameters", 2)],
    ["misses all parameters", "dmq.add", undefined, fault(500, "Invalid Parameters", 2)],
    [
      "knows no fourth status",
      "dmq.add",
      [NEW_URI, "gone"],
      fault(500, "Invalid Status - use: active, not_active, disabled", 2),
    ],
    ["removes", "dmq.remove", [PEER_URI], { result: "Ok. DMQ node removed." }],
    ["removes by name", "dmq.remove", { uri: PEER_URI }, { result: "Ok. DMQ node removed." }],
    ["says so of an unknown node, too", "dmq.remove", [NEW_URI], { result: "Ok. DMQ node removed." }],
    ["says so of itself, too", "dmq.remove", [LOCAL_URI], { result: "Ok. DMQ node removed." }],
    [
      "strictly, an unknown node is a fault",
      "dmq.remove",
      { uri: NEW_URI, strict: true },
      fault(404, "Node Not Found", 3),
    ],
    [
      "strictly, the node itself is a fault",
      "dmq.remove",
      { uri: LOCAL_URI, strict: true },
      fault(409, "Node is local", 1),
    ],
    [
      "strictly, a known node is removed",
      "dmq.remove",
      { uri: PEER_URI, strict: true },
      { result: "Ok. DMQ node removed." },
    ],
    ["removes no nonsense", "dmq.remove", ["nonsense"], fault(500, "Failure", 2)],
    ["misses the address", "dmq.remove", [], fault(500, "Invalid Parameters", 2)],
    ["knows no other parameter", "dmq.remove", { uri: PEER_URI, node: 1 }, fault(500, "Invalid Parameters", 2)],
    ["has two parameters at most", "dmq.remove", [PEER_URI, true, 1], fault(500, "Invalid Parameters", 2)],
    ["takes no scalar for parameters", "dmq.remove", "x", fault(500, "Invalid Parameters", 2)],
    ["changes", "dmq.change_status", [PEER_URI, "disabled"], { result: "Ok. DMQ node status changed." }],
    [
      "changes by name",
      "dmq.change_status",
      { uri: PEER_URI, status: "not_active" },
      { result: "Ok. DMQ node status changed." },
    ],
    ["has it already", "dmq.change_status", [PEER_URI, "active"], { result: "Ok. DMQ node status is already active." }],
    ["misses the status", "dmq.change_status", [PEER_URI], fault(500, "Invalid Parameters", 2)],
    [
      "knows no fourth status",
      "dmq.change_status",
      [PEER_URI, "up"],
      fault(500, "Invalid Status - use: active, not_active, disabled", 2),
    ],
    ["finds no unknown node", "dmq.change_status", [NEW_URI, "active"], fault(500, "Node Not Found", 3)],
    ["finds no nonsense", "dmq.change_status", ["nonsense", "active"], fault(500, "Node Not Found", 3)],
    ["leaves itself alone", "dmq.change_status", [LOCAL_URI, "disabled"], fault(500, "Node is local", 1)],
  ];
  test.each(CASES)("%s: %s %j", async (_name, method, params, expected) => {
    expect(await call(new FakeSurface(), method, params)).toEqual(expected as Record<string, unknown>);
  });

  test("what they change can be seen in the list", async () => {
    const surface = new FakeSurface();
    await call(surface, "dmq.add", { uri: NEW_URI, status: "disabled" });
    await call(surface, "dmq.remove", [PEER_URI]);
    expect(surface.rows.map((row) => [row.uri, row.status])).toEqual([
      [NEW_URI, "disabled"],
      [LOCAL_URI, "active"],
    ]);
  });
});

describe("messages", () => {
  const MESSAGE = { channel: "c", node: PEER_URI, contentType: "text/plain" };
  const BROADCAST = { channel: "c", contentType: "text/plain", except: [] };
  const OPTIONS = { contentType: "a/b", maxForwards: 3, timeoutMs: 500, force: true };
  const CASES: [string, string, unknown, unknown][] = [
    ["sends by position", "dmq.send", ["c", PEER_URI, "ü"], { ...MESSAGE, body: Buffer.from("ü") }],
    ["sends nothing", "dmq.send", ["c", PEER_URI], { ...MESSAGE, body: Buffer.alloc(0) }],
    ["takes null for not given", "dmq.send", ["c", PEER_URI, null, null], { ...MESSAGE, body: Buffer.alloc(0) }],
    [
      "sends octets",
      "dmq.send",
      { channel: "c", node: PEER_URI, body_base64: "AP8=" },
      { ...MESSAGE, body: Buffer.from([0, 255]) },
    ],
    [
      "passes on all options",
      "dmq.send",
      ["c", PEER_URI, "x", "a/b", 3, 500, true],
      { ...MESSAGE, ...OPTIONS, body: Buffer.from("x") },
    ],
    [
      "lets a body have control characters",
      "dmq.send",
      ["c", PEER_URI, "\r\n\0"],
      { ...MESSAGE, body: Buffer.from("\r\n\0") },
    ],
    ["broadcasts by position", "dmq.bcast", ["c", "x"], { ...BROADCAST, body: Buffer.from("x") }],
    [
      "broadcasts by name",
      "dmq.bcast",
      { channel: "c", content_type: "a/b", max_forwards: 3, timeout_ms: 500, force: true, except: [PEER_URI] },
      { ...OPTIONS, channel: "c", body: Buffer.alloc(0), except: [PEER_URI] },
    ],
    [
      "what came later keeps the positions of what was there",
      "dmq.bcast",
      ["c", "x", null, null, null, null, null, null, "*/*", "id-1", 2, 3],
      { ...BROADCAST, body: Buffer.from("x"), accept: "*/*", messageId: "id-1", retry: 2, replies: 3 },
    ],
    [
      "takes one exception without an array",
      "dmq.bcast",
      { channel: "c", except: "sip:a" },
      { channel: "c", contentType: "text/plain", body: Buffer.alloc(0), except: ["sip:a"] },
    ],
  ];
  test.each(CASES)("%s: %s %j", async (_name, method, params, expected) => {
    const surface = new FakeSurface();
    const one = delivered(PEER_URI);
    expect(await call(surface, method, params)).toEqual({ result: method === "dmq.send" ? one : [one] });
    const [request] = surface.calls as { body: Uint8Array }[];
    expect({ ...request, body: Buffer.from(request?.body ?? []) }).toEqual(expected as { body: Buffer<ArrayBuffer> });
  });

  const FAULTS: [unknown, string][] = [
    [["c"], "node is missing"],
    [[], "channel is missing"],
    [[1, PEER_URI], "channel: got 1, expected the name of a channel"],
    [["", PEER_URI], 'channel: got "", expected the name of a channel'],
    [["c\r\nX: y", PEER_URI], 'channel: got "c\\r\\nX: y", expected the name of a channel'],
    [["c", "sip:\0"], 'node: got "sip:\\u0000", expected the URI of a node'],
    [["c", PEER_URI, 5], "body: got 5, expected a string"],
    [["c", PEER_URI, "\ud800"], 'body: got "\\ud800", expected a string'],
    [["c", PEER_URI, "", "a/b\n"], 'content_type: got "a/b\\n", expected a media type'],
    [{ channel: "c", node: "n", max_forwards: -1 }, "max_forwards: got -1, expected an integer from 0 to 255"],
    [{ channel: "c", node: "n", max_forwards: 256 }, "max_forwards: got 256, expected an integer from 0 to 255"],
    [{ channel: "c", node: "n", timeout_ms: 0 }, "timeout_ms: got 0, expected an integer from 1 to 3600000"],
    [{ channel: "c", node: "n", timeout_ms: 1.5 }, "timeout_ms: got 1.5, expected an integer from 1 to 3600000"],
    [{ channel: "c", node: "n", force: "yes" }, 'force: got "yes", expected true or false'],
    [{ channel: "c", node: "n", body_base64: "AP8" }, 'body_base64: got "AP8", expected a string in base64'],
    [{ channel: "c", node: "n", body_base64: "A P8" }, 'body_base64: got "A P8", expected a string in base64'],
    [{ channel: "c", node: "n", body: "", body_base64: "" }, "body and body_base64 exclude each other"],
    [{ channel: "c", node: "n", exept: 1 }, 'unknown parameter "exept", known are: channel, node, body, content_type'],
    [{ channel: "x".repeat(500), node: [] }, "node: got [], expected the URI of a node"],
    [[["x".repeat(500)], "n"], `channel: got ["${"x".repeat(58)}…, expected the name of a channel`],
    [5, "got 5, expected an array or an object"],
    [["c", "n", "", "a/b", 1, 1, true, "", "a/b", "id", 1, true, 9, 9], "got 14, expected at most 13"],
    [{ channel: "c", node: "n", spool: true, retry: 1 }, "spool and retry exclude each other"],
    [{ channel: "c", node: "n", spool_ttl_ms: 1_000, accept: "a/b" }, "spool and accept exclude each other"],
    [{ channel: "c", node: "n", spool_ttl_ms: 0 }, "spool_ttl_ms: got 0"],
    [{ channel: "c", node: "n", retry: 11 }, "retry: got 11, expected an integer from 0 to 10"],
    [{ channel: "c", node: "n", accept: "a/b\r\nX: y" }, 'accept: got "a/b\\r\\nX: y", expected a media type'],
    [{ channel: "c", node: "n", message_id: "" }, 'message_id: got "", expected a text without spaces'],
    [{ channel: "c", node: "n", replies: 1 }, 'unknown parameter "replies"'],
  ];
  test.each(FAULTS)("dmq.send %j is refused", async (params, why) => {
    const surface = new FakeSurface();
    const { error } = (await call(surface, "dmq.send", params)) as { error: { code: number; message: string } };
    expect(error).toMatchObject({ code: -32602, data: { exit: 2 } });
    expect(error.message).toStartWith(`Invalid params: ${why}`);
    expect(surface.calls).toEqual([]);
  });

  test("a parameter that every object has by birth is none of ours", async () => {
    const text =
      '{"jsonrpc":"2.0","id":1,"method":"dmq.send","params":{"channel":"c","node":"n","__proto__":{"force":true}}}';
    const { error } = JSON.parse((await answer(new FakeSurface(), text)) as string);
    expect(error.message).toStartWith('Invalid params: unknown parameter "__proto__"');
  });
});

describe("our other methods", () => {
  const CASES: [string, unknown, unknown, unknown[]][] = [
    ["dmq.join", ["sip:a", "sip:b"], { result: "Ok. DMQ node is joining." }, [["sip:a", "sip:b"]]],
    ["dmq.join", [["sip:a"]], { result: "Ok. DMQ node is joining." }, [["sip:a"]]],
    ["dmq.join", { uris: ["sip:a"] }, { result: "Ok. DMQ node is joining." }, [["sip:a"]]],
    ["dmq.join", { uris: "sip:a" }, { result: "Ok. DMQ node is joining." }, [["sip:a"]]],
    ["dmq.join", [], fault(-32602, "Invalid params: uris: got [], expected an array of SIP URIs", 2), []],
    ["dmq.join", undefined, fault(-32602, "Invalid params: uris is missing", 2), []],
    ["dmq.leave", undefined, { result: "Ok. DMQ node left." }, ["leave"]],
    ["dmq.stop", [], { result: "Ok. DMQ node stopped." }, ["stop"]],
    ["dmq.stop", {}, { result: "Ok. DMQ node stopped." }, ["stop"]],
    ["dmq.reload", [], { result: { changed: ["tls certificates"], needs_restart: [] } }, ["reload"]],
    ["dmq.replicate", ["X", 5], { result: [] }, ["replicate X 5"]],
    ["dmq.replicate", { request_base64: "WQ==" }, { result: [] }, ["replicate Y -"]],
    [
      "dmq.replicate",
      { request: "X", request_base64: "WQ==" },
      fault(-32602, "Invalid params: body and body_base64 exclude each other", 2),
      [],
    ],
    ["dmq.stop", [1], fault(-32602, "Invalid params: got 1, expected at most 0", 2), []],
    ["dmq.status", undefined, { result: { ...STATUS_REPORT, queues: [], amqp: null } }, []],
    ["core.version", undefined, { result: "dmq 0.1.0" }, []],
    ["system.listMethods", undefined, { result: [...METHODS.keys()].sort() }, []],
    ["system.methodHelp", ["core.version"], { result: "The daemon's name and version." }, []],
    ["system.methodHelp", ["core.vers"], fault(-32601, "Method Not Found", 2), []],
    ["dmq.nothing", undefined, fault(-32601, "Method Not Found", 2), []],
    ["__proto__", undefined, fault(-32601, "Method Not Found", 2), []],
  ];
  test.each(CASES)("%s %j", async (method, params, expected, calls) => {
    const surface = new FakeSurface();
    expect(await call(surface, method, params)).toEqual(expected as Record<string, unknown>);
    expect(surface.calls).toEqual(calls);
  });

  test("core.uptime: has Kamailio's three fields, which agree", async () => {
    const { result } = (await call(new FakeSurface(), "core.uptime")) as {
      result: { now: string; up_since: string; uptime: number };
    };
    expect(Object.keys(result)).toEqual(["now", "up_since", "uptime"]);
    expect(result.uptime).toBe(90);
    expect(Date.parse(result.now) - Date.parse(result.up_since)).toBe(90_500);
  });
});

describe("JSON-RPC", () => {
  const PARSE_ERROR = { jsonrpc: "2.0", error: { code: -32700, message: "Parse error" }, id: null };
  const refused = (why: string, id: unknown = null): unknown => ({
    jsonrpc: "2.0",
    error: { code: -32600, message: `Invalid Request: ${why}` },
    id,
  });
  const CASES: [string, unknown][] = [
    ["", PARSE_ERROR],
    ["{", PARSE_ERROR],
    ["\0\xff", PARSE_ERROR],
    ["[".repeat(1_000_000), PARSE_ERROR],
    ["[]", refused("empty batch")],
    ["1", refused("no object")],
    ["null", refused("no object")],
    ["{}", refused('jsonrpc is not "2.0"')],
    ['{"jsonrpc":"1.0","method":"core.version","id":"x"}', refused('jsonrpc is not "2.0"', "x")],
    ['{"jsonrpc":"2.0","id":1}', refused("method is no string", 1)],
    ['{"jsonrpc":"2.0","method":5}', refused("method is no string")],
    ['{"jsonrpc":"2.0","method":"core.version","id":{}}', refused("id is no string, number or null")],
    ["[1]", [refused("no object")]],
    ["[[]]", [refused("no object")]],
    [`[${"1,".repeat(BATCH_CALLS_MAX)}1]`, refused(`more than ${BATCH_CALLS_MAX} calls`)],
  ];
  test.each(CASES)("%.60s is answered with an error", async (text, expected) => {
    expect(JSON.parse((await answer(new FakeSurface(), text)) as string)).toEqual(expected);
  });

  test.each([1, 0, -1.5, "a", "", null])("id %j comes back with its type", async (id) => {
    const text = await answer(new FakeSurface(), JSON.stringify({ jsonrpc: "2.0", method: "core.version", id }));
    expect(JSON.parse(text as string)).toEqual({ jsonrpc: "2.0", result: "dmq 0.1.0", id });
  });

  test("a batch is answered in its order, without its notifications", async () => {
    const surface = new FakeSurface();
    const slow = Promise.withResolvers<void>();
    surface.onStop = () => slow.promise;
    const calls = [
      { jsonrpc: "2.0", method: "dmq.stop", id: 1 },
      { jsonrpc: "2.0", method: "dmq.join", params: ["sip:a"] },
      { jsonrpc: "2.0", method: "no.such" },
      7,
      { jsonrpc: "2.0", method: "core.version", id: 2 },
    ];
    const pending = answer(surface, JSON.stringify(calls));
    // The second begins while the first is not over, in the turn of the loop that the batch gets.
    for (let turn = 0; turn < 100 && surface.calls.length < 2; turn++) await Bun.sleep(0);
    expect(surface.calls).toEqual(["stop", ["sip:a"]]);
    slow.resolve();
    expect(JSON.parse((await pending) as string)).toEqual([
      { jsonrpc: "2.0", result: "Ok. DMQ node stopped.", id: 1 },
      refused("no object"),
      { jsonrpc: "2.0", result: "dmq 0.1.0", id: 2 },
    ]);
  });

  test("a notification has no answer, and neither has a batch of them", async () => {
    const surface = new FakeSurface();
    const one = '{"jsonrpc":"2.0","method":"dmq.leave"}';
    expect(await answer(surface, one)).toBeUndefined();
    expect(await answer(surface, `[${one},${one}]`)).toBeUndefined();
    expect(surface.calls).toEqual(["leave", "leave", "leave"]);
  });

  test("an error of ours becomes a fault with its exit code, any other one an internal error", async () => {
    const surface = new FakeSurface();
    surface.onStatus = () => {
      throw new UsageError("no such channel c", "no-such-channel");
    };
    expect(await call(surface, "dmq.status")).toEqual(fault(404, "no such channel c", 3));
    surface.onSend = () => Promise.reject(new UsageError("bad"));
    expect(await call(surface, "dmq.send", ["c", "n"])).toEqual(fault(-32602, "bad", 2));
    surface.onSend = () => Promise.reject(new Error("broken"));
    expect(await call(surface, "dmq.send", ["c", "n"])).toEqual(fault(-32603, "Internal error: broken", 1));
  });
});

describe("answers and pings", () => {
  test("dmq.answer: 200 with nothing but the reply_id, else what is said", async () => {
    const surface = new FakeSurface();
    const ok = { result: "Ok. DMQ message answered." };
    expect(await call(surface, "dmq.answer", ["a-1"])).toEqual(ok);
    const all = { reply_id: "a-2", code: 486, reason: "Busy Here", content_type: "a/b", body: "ü" };
    expect(await call(surface, "dmq.answer", all)).toEqual(ok);
    expect(await call(surface, "dmq.answer", { reply_id: "a-3", body_base64: "AP8=" })).toEqual(ok);
    expect(surface.calls).toEqual([
      { replyId: "a-1", code: 200, contentType: "text/plain", body: new Uint8Array(0) },
      { replyId: "a-2", code: 486, reason: "Busy Here", contentType: "a/b", body: new TextEncoder().encode("ü") },
      { replyId: "a-3", code: 200, contentType: "text/plain", body: Buffer.from([0, 255]) },
    ]);
  });

  test("dmq.answer: what is no answer, and one that is too late, are faults", async () => {
    const surface = new FakeSurface();
    const codes = [199, 700, "200", 200.5];
    for (const code of codes) {
      const { error } = (await call(surface, "dmq.answer", { reply_id: "a", code })) as { error: { message: string } };
      expect(error.message).toBe(
        `Invalid params: code: got ${JSON.stringify(code)}, expected an integer from 200 to 699`,
      );
    }
    expect(await call(surface, "dmq.answer", ["a", 200, "a\r\nb"])).toMatchObject({ error: { code: -32602 } });
    expect(await call(surface, "dmq.answer", ["late"])).toEqual(fault(404, "too late", 3));
  });

  test("dmq.ping: all, or those that are named", async () => {
    const surface = new FakeSurface();
    await call(surface, "dmq.ping");
    await call(surface, "dmq.ping", [PEER_URI, 300]);
    const { result } = await call(surface, "dmq.ping", { nodes: [PEER_URI], timeout_ms: 1 });
    expect(surface.calls).toEqual([{}, { nodes: [PEER_URI], timeoutMs: 300 }, { nodes: [PEER_URI], timeoutMs: 1 }]);
    expect(result).toMatchObject([{ node: PEER_URI, outcome: "delivered", code: 200 }]);
    expect(await call(surface, "dmq.ping", { nodes: [] })).toMatchObject({ error: { code: -32602 } });
  });
});
