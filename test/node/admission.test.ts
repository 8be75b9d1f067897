/** Who may speak to us (design.md section 8): what a stranger gets, and what it leaves behind. */
import { describe, expect, test } from "bun:test";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { REFUSAL_EVERY_MS, REFUSALS_IN_ALL, REFUSALS_PER_SOURCE } from "../../src/node/admission.ts";
import type { NodeOptions } from "../../src/node/node.ts";
import { bodyOf, Harness, kdmq, line, response, type Sent, udp } from "./harness.ts";

const STRANGER = udp("203.0.113.9");
const MEMBER = "127.0.0.2:5060";

function started(options: Partial<NodeOptions> = {}): Harness {
  const harness = new Harness(options);
  harness.start();
  return harness;
}

/** A node with one active peer that it met by its notification address. */
function met(options: Partial<NodeOptions> = {}): Harness {
  const harness = started({ notificationAddresses: [`sip:${MEMBER}`], ...options });
  harness.receive(response(harness.take()[0] as Sent, "200 OK", line(MEMBER)), udp("127.0.0.2"));
  return harness;
}

function stranger(text: Parameters<typeof kdmq>[0] = {}): string {
  return kdmq({ from: "203.0.113.9:5060", ...text });
}

function statusLines(sent: readonly Sent[]): string[] {
  return sent.map(({ text }) => text.slice(0, text.indexOf("\r\n")));
}

describe("strangers", () => {
  test("strangers: 403 without a body, no larger than the request, and nothing is kept", () => {
    const harness = met();
    const before = harness.node.nodes();
    const request = stranger({ body: line("203.0.113.9:5060") });
    harness.receive(request, STRANGER);
    const sent = harness.take();
    expect(statusLines(sent)).toEqual(["SIP/2.0 403 Forbidden"]);
    expect(encodeUtf8(sent[0]?.text ?? "").length).toBeLessThanOrEqual(encodeUtf8(request).length);
    expect(bodyOf(sent[0])).toBe("");
    expect(harness.node.nodes()).toEqual(before);
    expect(harness.node.counters).toMatchObject({ refusedRequests: 1, refusalsSent: 1, notificationsReceived: 0 });
  });

  test("strangers: a message on a channel reaches no handler", () => {
    const harness = started();
    harness.receive(stranger({ channel: "lab", body: "x" }), STRANGER);
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 403 Forbidden"]);
    expect(harness.ofType("message")).toEqual([]);
    expect(harness.node.counters.messagesReceived).toBe(0);
  });

  test("strangers: a few answers, then silence, then one again after a while", () => {
    const harness = started();
    for (let i = 0; i < 100; i++) harness.receive(stranger(), STRANGER);
    expect(harness.take().length).toBe(REFUSALS_PER_SOURCE);
    harness.runUntil(REFUSAL_EVERY_MS);
    for (let i = 0; i < 100; i++) harness.receive(stranger(), STRANGER);
    expect(harness.take().length).toBe(1);
    expect(harness.node.counters).toMatchObject({ refusedRequests: 200, refusalsSent: REFUSALS_PER_SOURCE + 1 });
  });

  test("strangers: many of them together get a few answers, too", () => {
    const harness = started();
    for (let i = 0; i < 10_000; i++) harness.receive(stranger(), udp(`203.${i >> 8}.113.${i & 255}`));
    expect(harness.take().length).toBe(REFUSALS_IN_ALL);
  });

  test("strangers: one warning for each address, with what to do", () => {
    const harness = started();
    for (let i = 0; i < 10; i++) harness.receive(stranger(), STRANGER);
    harness.now += 20_000;
    harness.receive(stranger(), STRANGER);
    harness.receive(stranger(), udp("203.0.113.10"));
    const warnings = harness.ofType("warning").filter(({ code }) => code === "not-allowed");
    expect(warnings.map(({ text }) => /from (\S+) .*\(allow (\S+)\)/.exec(text)?.slice(1))).toEqual([
      ["udp:203.0.113.9:5060", "203.0.113.9"],
      ["udp:203.0.113.10:5060", "203.0.113.10"],
    ]);
  });

  test("strangers: what would make the answer larger than the request is not answered", () => {
    const harness = started();
    const short =
      "KDMQ sip:a SIP/2.0\r\nv:SIP/2.0/UDP a;branch=z9hG4bK1;rport\r\nf:a:a;tag=1\r\nt:a:a\r\ni:1\r\nCSeq:1 KDMQ\r\n\r\n";
    harness.receive(short.replaceAll("a:a", "<sip:a>"), STRANGER);
    expect(harness.take()).toEqual([]);
    expect(harness.node.counters).toMatchObject({ refusedRequests: 1, refusalsSent: 0 });
  });

  const quiet: [name: string, text: string][] = [
    ["an ACK", stranger({ method: "ACK" })],
    ["nonsense", "nonsense\r\n\r\n"],
    ["a request without a Call-ID", stranger().replace(/Call-ID: .*\r\n/, "")],
    ["a datagram of nothing", ""],
  ];
  for (const [name, text] of quiet)
    test(`strangers: ${name} is not answered, and nothing is said of it`, () => {
      const harness = started();
      harness.receive(text, STRANGER);
      expect(harness.take()).toEqual([]);
      expect(harness.ofType("warning").filter(({ code }) => code === "malformed")).toEqual([]);
    });

  test("strangers: OPTIONS and REGISTER are refused, and reach no route", () => {
    const harness = started();
    harness.node.route("others");
    for (const method of ["OPTIONS", "REGISTER"]) harness.receive(stranger({ method }), STRANGER);
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 403 Forbidden", "SIP/2.0 403 Forbidden"]);
    expect(harness.ofType("request")).toEqual([]);
  });

  test("strangers: allow_requests lets in what is not KDMQ, and nothing else", () => {
    const harness = started({ allowRequests: ["203.0.113.0/24"] });
    harness.node.route("others");
    harness.receive(stranger({ method: "REGISTER" }), STRANGER);
    harness.receive(stranger({ body: line("203.0.113.9:5060") }), STRANGER);
    expect(harness.ofType("request").map(({ request }) => request.method)).toEqual(["REGISTER"]);
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 403 Forbidden"]);
    expect(harness.node.accepts({ transport: "tcp", ip: "203.0.113.9", port: 1 }, 0)).toBe(true);
  });

  test("strangers: on a stream KDMQ is refused on its connection", () => {
    const harness = started({ allowRequests: ["203.0.113.0/24"] });
    const from: Endpoint = { transport: "tcp", ip: "203.0.113.9", port: 40_000 };
    const text = stranger({ channel: "lab", body: "x" }).replace("/UDP", "/TCP");
    harness.do((node, now) => node.handle({ type: "received", from, flow: 1, bytes: encodeUtf8(text) }, now));
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 403 Forbidden"]);
    expect(harness.ofType("message")).toEqual([]);
  });

  test("strangers: their connections are refused by the address alone, and counted", () => {
    const harness = started();
    const from: Endpoint = { transport: "tls", ip: "203.0.113.9", port: 40_000 };
    expect(harness.do((node, now) => node.accepts(from, now))).toBe(false);
    expect(harness.node.accepts({ transport: "tls", ip: "127.0.0.9", port: 1 }, 0)).toBe(true);
    expect(harness.node.counters.refusedConnections).toBe(1);
    expect(harness.ofType("warning")[0]?.text).toStartWith("a connection from tls:203.0.113.9:40000 is refused");
  });
});

describe("allow", () => {
  test("allow: mapped addresses are the IPv4 addresses that they are", () => {
    const harness = started({ allow: ["::ffff:203.0.113.0/120"] });
    harness.receive(stranger(), STRANGER);
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 200 OK"]);
  });

  test("allow: a reload counts from the next request on, in both directions", () => {
    const harness = started();
    const ask = (): string[] => {
      harness.receive(stranger(), STRANGER);
      return statusLines(harness.take());
    };
    expect(ask()).toEqual(["SIP/2.0 403 Forbidden"]);
    harness.do((node, now) => node.configure({ allow: ["any"] }, now));
    expect(ask()).toEqual(["SIP/2.0 200 OK"]);
    harness.do((node, now) => node.configure({ allow: ["private"] }, now));
    expect(ask()).toEqual(["SIP/2.0 403 Forbidden"]);
  });

  test("allow: what is no rule changes nothing", () => {
    const harness = started();
    expect(() => harness.do((node, now) => node.configure({ allow: ["10.0.0.1/8"] }, now))).toThrow("allow");
    harness.receive(stranger(), STRANGER);
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 403 Forbidden"]);
  });

  test("allow: members are the notification addresses and who has answered, for as long as they are", () => {
    const harness = started({ allow: ["members"], notificationAddresses: ["sip:203.0.113.9:5060"] });
    harness.take();
    harness.receive(stranger(), STRANGER);
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 200 OK"]);
    harness.receive(kdmq({}), udp("127.0.0.2"));
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 403 Forbidden"]);
    harness.do((node, now) => node.add("sip:127.0.0.2:5060", "active", now));
    harness.take();
    harness.receive(kdmq({}), udp("127.0.0.2"));
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 200 OK"]);
    harness.do((node, now) => node.remove("sip:127.0.0.2:5060", now));
    harness.receive(kdmq({}), udp("127.0.0.2"));
    expect(statusLines(harness.take())).toEqual(["SIP/2.0 403 Forbidden"]);
  });

  test("allow: a name that others mention and whose address is outside is never asked", () => {
    const harness = met();
    harness.take();
    const body = line("203.0.113.7:5060") + line("far.example:5060");
    harness.receive(kdmq({ from: MEMBER, body }), udp("127.0.0.2"));
    harness.resolve("far.example", ["203.0.113.8"]);
    const requests = harness.take().filter(({ text }) => text.startsWith("KDMQ"));
    expect(requests).toEqual([]);
    expect(harness.node.counters.refusedNames).toBe(2);
  });

  test("allow: answers to our own requests come in from anywhere", () => {
    const harness = started({ notificationAddresses: ["sip:203.0.113.9:5060"] });
    harness.receive(response(harness.take()[0] as Sent, "200 OK", line("203.0.113.9:5060")), STRANGER);
    expect(harness.node.nodes().map(({ status }) => status)).toEqual(["active"]);
  });
});
