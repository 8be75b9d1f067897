/** Requests that are not the bus's own: routed, answered, and passed on to the nodes as Kamailio does it (dmq.md 10). */
import { describe, expect, test } from "bun:test";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import type { IncomingRequest, Outcome } from "../../src/node/io.ts";
import type { NodeOptions } from "../../src/node/node.ts";
import { Harness, kdmq, line, response, type Sent, udp } from "./harness.ts";

const PHONE = udp("127.0.0.1", 5099);

const REGISTER = [
  "REGISTER sip:127.0.0.11 SIP/2.0",
  "Via: SIP/2.0/UDP 127.0.0.1:5099;branch=z9hG4bK6fe768ce",
  "From: <sip:rita@127.0.0.11>;tag=d5736c50",
  "To: <sip:rita@127.0.0.11>",
  "Call-ID: rita-call",
  "CSeq: 1 REGISTER",
  "Max-Forwards: 70",
  'Contact:   <sip:rita@127.0.0.1:5099>;q=0.5;+sip.instance="<urn:uuid:00000000-0000-1000-8000-000000000001>"',
  "X-Folded: one",
  "  two",
  "Route: <sip:127.0.0.99:5060;lr>",
  "Content-Length: 4",
  "",
  "a\0b\n",
].join("\r\n");

/** A node that knows these as active. */
function met(peers: string[], options: Partial<NodeOptions> = {}): Harness {
  const harness = new Harness({ notificationAddresses: peers, ...options });
  harness.start();
  for (const join of harness.take()) {
    const [ip = "", port = ""] = join.to.split(":");
    const transport = join.text.includes("SIP/2.0/TCP") ? "tcp" : "udp";
    const from: Endpoint = { transport, ip, port: Number(port) };
    const text = response(join, "200 OK", line(`${ip}:${port}${transport === "tcp" ? ";transport=tcp" : ""}`));
    harness.do((node, now) =>
      node.handle({ type: "received", from, flow: transport === "tcp" ? 1 : 0, bytes: encodeUtf8(text) }, now),
    );
  }
  harness.take();
  return harness;
}

const PEERS = ["sip:127.0.0.2:5060", "sip:127.0.0.3:5060"];

function routed(harness: Harness, text = REGISTER, from = PHONE): IncomingRequest {
  harness.do((node) => node.route("others"));
  harness.receive(text, from);
  return harness.ofType("request").at(-1)?.request as IncomingRequest;
}

function outcomes(harness: Harness): Outcome[] {
  return harness.ofType("outcome").map(({ report }) => report.outcome);
}

function branches(sent: readonly Sent[]): string[] {
  return sent.map(({ text }) => /branch=([^\r;]*)/.exec(text)?.[1] ?? "");
}

describe("replicate", () => {
  test("replicate: each node gets the request with one Via on top, and nothing else is changed", () => {
    const harness = met(PEERS);
    const request = routed(harness);
    harness.do((node, now) => node.replicate(request, {}, now));
    const copies = harness.take();
    expect(copies.map(({ to }) => to)).toEqual(["127.0.0.2:5060", "127.0.0.3:5060"]);
    for (const [index, { text }] of copies.entries()) {
      const [first, via, ...rest] = text.split("\r\n");
      expect(via).toMatch(new RegExp(`^Via: SIP/2\\.0/UDP 127\\.0\\.0\\.1:5060;branch=z9hG4bK[0-9a-f]+\\.${index}$`));
      expect([first, ...rest].join("\r\n")).toBe(REGISTER);
    }
    expect(new Set(branches(copies)).size).toBe(2);
    expect(harness.node.counters.replicasSent).toBe(2);
  });

  test("replicate: the topmost Via is told where the request came from if it says something else", () => {
    const harness = met(PEERS);
    const request = routed(
      harness,
      REGISTER.replace("127.0.0.1:5099;", "10.0.0.9:5060;rport;"),
      udp("127.0.0.1", 6000),
    );
    harness.do((node, now) => node.replicate(request, {}, now));
    expect(harness.take()[0]?.text).toContain(
      "\r\nVia: SIP/2.0/UDP 10.0.0.9:5060;received=127.0.0.1;rport=6000;branch=z9hG4bK6fe768ce\r\n",
    );
  });

  test("replicate: what comes from the address of a node goes nowhere, unless the test is skipped", () => {
    const harness = met(PEERS);
    const request = routed(harness, REGISTER, udp("127.0.0.3", 9));
    expect(request.fromNode).toBe(true);
    expect(harness.do((node, now) => node.replicate(request, {}, now))).toEqual([]);
    expect(harness.take()).toEqual([]);
    expect(harness.node.counters.loopsPrevented).toBe(1);
    expect(harness.do((node, now) => node.replicate(request, { skipLoopTest: true }, now)).length).toBe(2);
  });

  test("replicate: a copy that comes back by an unknown address goes nowhere, unless the test is skipped", () => {
    const harness = met(PEERS);
    harness.do((node, now) => node.replicate(routed(harness), {}, now));
    const [copy] = harness.take() as [Sent];
    const again = copy.text.replace("Via:", "Via: SIP/2.0/UDP 127.0.0.2:5060;branch=z9hG4bKother.0\r\nVia:");
    const request = routed(harness, again, udp("127.0.0.77"));
    expect(request.fromNode).toBe(false);
    expect(harness.do((node, now) => node.replicate(request, {}, now))).toEqual([]);
    expect(harness.node.counters.loopsPrevented).toBe(1);
    expect(harness.do((node, now) => node.replicate(request, { skipLoopTest: true }, now)).length).toBe(2);
  });

  test("replicate: an answer with both Vias ends a copy, with another number of them it is a stranger's", () => {
    const harness = met(PEERS);
    const request = routed(harness);
    harness.do((node, now) => node.replicate(request, {}, now));
    const [copy] = harness.take() as [Sent];
    const mine = response(copy, "200 OK");
    const withoutTheirs = mine.replace("Via: SIP/2.0/UDP 127.0.0.1:5099;branch=z9hG4bK6fe768ce\r\n", "");
    const oneTooMany = mine.replace("Via:", "Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx\r\nVia:");
    for (const stranger of [withoutTheirs, oneTooMany]) harness.receive(stranger, udp("127.0.0.2"));
    expect(outcomes(harness)).toEqual([]);
    harness.receive(mine, udp("127.0.0.2"));
    expect(outcomes(harness)).toMatchObject([{ type: "delivered", code: 200 }]);
  });

  test("replicate: a lost copy is repeated as it is, and a timeout changes no status", () => {
    const harness = met(["sip:127.0.0.2:5060"], { requestTimeoutMs: 4_000, pingIntervalMs: 600_000 });
    const request = routed(harness);
    harness.do((node, now) => node.replicate(request, {}, now));
    harness.runUntil(3_999);
    const copies = harness.take().filter(({ text }) => text.startsWith("REGISTER"));
    expect(copies.length).toBe(4);
    expect(new Set(copies.map(({ text }) => text)).size).toBe(1);
    harness.runUntil(4_000);
    expect(outcomes(harness)).toEqual([{ type: "timeout" }]);
    expect(harness.node.nodes()[0]?.status).toBe("active");
  });

  test("replicate: a copy for a stream has a Content-Length, as nobody could see its end otherwise", () => {
    const bare = REGISTER.replace("Content-Length: 4\r\n", "");
    for (const [peer, length] of [
      ["sip:127.0.0.2:5060", ""],
      ["sip:127.0.0.2:5060;transport=tcp", "Content-Length: 4\r\n"],
    ]) {
      const harness = met([peer as string]);
      const request = routed(harness, bare);
      harness.do((node, now) => node.replicate(request, {}, now));
      const [copy] = harness.take();
      expect(copy?.text.split("\r\n").slice(2).join("\r\n")).toBe(
        bare.split("\r\n").slice(1).join("\r\n").replace("\r\n\r\n", `\r\n${length}\r\n`),
      );
    }
  });

  test("replicate: octets of an operator's need no Via; ours is the only one", () => {
    const harness = met(PEERS);
    const bare = REGISTER.replace(/Via: [^\r]*\r\n/, "");
    harness.do((node, now) => node.replicate(encodeUtf8(bare), {}, now));
    const [copy] = harness.take() as [Sent];
    expect(copy.text.replace(/Via: [^\r]*\r\n/, "")).toBe(bare);
    harness.receive(response(copy, "403 Forbidden"), udp("127.0.0.2"));
    expect(outcomes(harness)).toMatchObject([{ type: "rejected", code: 403 }]);
  });

  const refused: [name: string, octets: string, why: string][] = [
    ["nothing", "", "no SIP request"],
    ["a response", "SIP/2.0 200 OK\r\n\r\n", "it is a response"],
    ["text", "hello world\r\n\r\n", "no start line"],
    ["no From", REGISTER.replace(/From: [^\r]*\r\n/, ""), "0 From headers"],
    ["no From and no Via", REGISTER.replace(/From: [^\r]*\r\n/, "").replace(/Via: [^\r]*\r\n/, ""), "0 From headers"],
    ["a Via that is none", REGISTER.replace("SIP/2.0/UDP", "nonsense"), "Via"],
    ["another method in CSeq", REGISTER.replace("1 REGISTER", "1 PUBLISH"), "CSeq method"],
    ["a length that lies", REGISTER.replace("Content-Length: 4", "Content-Length: 5"), "Content-Length 5"],
    ...["INVITE", "ACK", "CANCEL", "KDMQ"].map((method): [string, string, string] => [
      method,
      REGISTER.replaceAll("REGISTER", method),
      `${method} cannot be replicated`,
    ]),
  ];
  for (const [name, octets, why] of refused)
    test(`replicate: ${name} is refused with the reason`, () => {
      const harness = met(PEERS);
      expect(() => harness.do((node, now) => node.replicate(encodeUtf8(octets), {}, now))).toThrow(why);
      expect(harness.take()).toEqual([]);
    });

  test("replicate: a copy that does not fit a datagram is unreachable for that node alone", () => {
    const harness = met(["sip:127.0.0.2:5060", "sip:127.0.0.3:5060;transport=tcp"]);
    const large = REGISTER.replace("Content-Length: 4", "Content-Length: 65400").replace("a\0b\n", "x".repeat(65_400));
    harness.do((node, now) => node.replicate(encodeUtf8(large), {}, now));
    expect(harness.take().map(({ to }) => to)).toEqual(["127.0.0.3:5060"]);
    expect(outcomes(harness)).toMatchObject([{ type: "unreachable" }]);
  });
});

describe("route", () => {
  test("route: others sees what is no KDMQ, all sees KDMQ too, and neither CANCEL nor ACK", () => {
    for (const [routing, methods] of [
      ["none", []],
      ["others", ["REGISTER", "OPTIONS"]],
      ["all", ["REGISTER", "OPTIONS", "KDMQ"]],
    ] as const) {
      const harness = new Harness();
      harness.do((node) => node.route(routing));
      for (const method of ["REGISTER", "OPTIONS", "KDMQ", "CANCEL", "ACK"])
        harness.receive(kdmq({ method, channel: "lab" }), PHONE);
      expect(harness.ofType("request").map(({ request }) => request.method)).toEqual([...methods]);
    }
  });

  test("route: a request is told once however often it comes, and its answer is repeated", () => {
    const harness = new Harness();
    const { id } = routed(harness);
    harness.receive(REGISTER, PHONE);
    harness.do((node, now) =>
      node.answer(id, { status: 200, headers: [["Contact", "<sip:rita@127.0.0.1:5099>;expires=60"]] }, now),
    );
    harness.receive(REGISTER, PHONE);
    const [first, again] = harness.take();
    expect(first?.text).toContain("\r\nContact: <sip:rita@127.0.0.1:5099>;expires=60\r\n");
    expect(again).toEqual(first as Sent);
    expect(harness.ofType("request").length).toBe(1);
  });

  test("route: an answer to what is no KDMQ may have a body", () => {
    const harness = new Harness();
    const { id } = routed(harness);
    harness.do((node, now) => node.answer(id, { status: 200, body: encodeUtf8("pong") }, now));
    expect(harness.take()[0]?.text).toEndWith("Content-Length: 4\r\n\r\npong");
  });

  const unsafe: [name: string, headers: [string, string][]][] = [
    ["a header that every answer has", [["Via", "SIP/2.0/UDP 10.0.0.1"]]],
    ["its compact form", [["v", "SIP/2.0/UDP 10.0.0.1"]]],
    ["a name that is no token", [["X Y", "1"]]],
    ["a value that breaks its line", [["X-Y", "1\r\nVia: x"]]],
  ];
  for (const [name, headers] of unsafe)
    test(`route: an answer with ${name} is refused, and the request can still be answered`, () => {
      const harness = new Harness();
      const { id } = routed(harness);
      expect(() => harness.do((node, now) => node.answer(id, { status: 200, headers }, now))).toThrow("header");
      harness.do((node, now) => node.answer(id, { status: 200 }, now));
      expect(harness.take().length).toBe(1);
    });

  test("route: what it does not want is served as without it", () => {
    const harness = new Harness({ methods: ["REGISTER"] });
    harness.do((node) => node.route("all"));
    for (const method of ["OPTIONS", "PUBLISH", "KDMQ"]) harness.receive(kdmq({ method }), udp("127.0.0.2"));
    for (const { request } of harness.ofType("request")) harness.do((node, now) => node.serve(request.id, now));
    const answers = harness.take().filter(({ text }) => text.startsWith("SIP/2.0"));
    expect(answers.map(({ text }) => text.slice(8, 11))).toEqual(["200", "405", "200"]);
    expect(answers[1]?.text).toContain("\r\nAllow: KDMQ, OPTIONS, REGISTER\r\n");
    expect(answers[2]?.text).toContain("sip:127.0.0.1:5060;status=active");
  });

  test("route: a KDMQ request that it takes goes to its channel in the mode that it says, once", () => {
    const harness = new Harness();
    harness.do((node) => node.route("all"));
    harness.receive(kdmq({ channel: "lab" }), udp("127.0.0.2"));
    const id = harness.ofType("request")[0]?.request.id ?? 0;
    expect(harness.do((node, now) => node.take(id, "inline", now))).toBe(true);
    expect(harness.ofType("message")).toMatchObject([{ mode: "inline", message: { id, channel: "lab" } }]);
    harness.do((node, now) => node.answer(id, { status: 202 }, now));
    expect(harness.do((node, now) => node.take(id, "inline", now))).toBe(false);
    expect(harness.take().map(({ text }) => text.slice(8, 11))).toEqual(["202"]);
  });

  test("route: another method has no channel, and can still be answered", () => {
    const harness = new Harness();
    const { id } = routed(harness);
    expect(() => harness.do((node, now) => node.take(id, "queued", now))).toThrow("REGISTER request has no channel");
    harness.do((node, now) => node.answer(id, { status: 200 }, now));
    expect(harness.take().length).toBe(1);
  });

  test("route: a full house answers 503, and so does a node on its way out", () => {
    const harness = new Harness({ pendingMessages: 1 });
    routed(harness);
    harness.receive(REGISTER.replace("6fe768ce", "other"), PHONE);
    expect(harness.take().map(({ text }) => text.slice(8, 11))).toEqual(["503"]);
    const leaving = new Harness();
    leaving.do((node) => node.route("others"));
    leaving.do((node, now) => node.leave({ announce: false }, now));
    leaving.receive(REGISTER, PHONE);
    expect(leaving.take().map(({ text }) => text.slice(8, 11))).toEqual(["503"]);
  });
});

describe("sl_send", () => {
  test("sl_send: a message goes out once over UDP, and its answer counts as ever", () => {
    const harness = met(PEERS, { slSend: true, requestTimeoutMs: 10_000, pingIntervalMs: 600_000 });
    harness.do((node, now) => node.broadcast("lab", encodeUtf8("x"), {}, now));
    const [first, second] = harness.take() as [Sent, Sent];
    harness.runUntil(5_000);
    expect(harness.take()).toEqual([]);
    harness.receive(response(first, "200 OK"), udp("127.0.0.2"));
    harness.runUntil(10_000);
    expect(outcomes(harness).map(({ type }) => type)).toEqual(["delivered", "timeout"]);
    expect(second.text).toStartWith("KDMQ sip:lab@");
  });

  test("sl_send: notifications are repeated all the same", () => {
    const harness = new Harness({ notificationAddresses: PEERS.slice(0, 1), slSend: true });
    harness.start();
    harness.runUntil(1_500);
    expect(harness.take().length).toBe(3);
  });
});
