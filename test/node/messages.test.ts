import { describe, expect, test } from "bun:test";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import { UsageError } from "../../src/core/errors.ts";
import type { Outcome } from "../../src/node/io.ts";
import type { SendOptions } from "../../src/node/node.ts";
import { bodyOf, Harness, kdmq, line, response, type Sent, udp } from "./harness.ts";

function withPeer(options = {}): Harness {
  const harness = new Harness({ notificationAddresses: ["sip:127.0.0.2:5060"], ...options });
  harness.start();
  const [join] = harness.take();
  harness.receive(response(join as Sent, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
  harness.take();
  return harness;
}

function outcomes(harness: Harness): Outcome["type"][] {
  return harness.ofType("outcome").map(({ report }) => report.outcome.type);
}

describe("requests that come in", () => {
  test("message: is told once however often it is repeated, and answered with the same octets", () => {
    const harness = new Harness();
    const request = kdmq({ channel: "lab", body: "hello", branch: "same" });
    harness.receive(request, udp("127.0.0.2"));
    harness.receive(request, udp("127.0.0.2"));
    const [event] = harness.ofType("message");
    expect(harness.ofType("message").length).toBe(1);
    harness.do((node, now) => node.answer(event?.message.id ?? 0, { status: 200 }, now));
    harness.receive(request, udp("127.0.0.2"));
    const [first, again] = harness.take();
    expect(first?.text).toStartWith("SIP/2.0 200 OK\r\n");
    expect(again).toEqual(first as Sent);
    expect(harness.node.counters.retransmissionsReceived).toBe(2);
  });

  test("message: an answer's body goes out only to who accepts one", () => {
    for (const [extra, body] of [
      ["", ""],
      ["Accept: text/plain\r\n", "pong"],
    ]) {
      const harness = new Harness();
      harness.receive(kdmq({ channel: "lab", ...(extra === "" ? {} : { extra: extra as string }) }), udp("127.0.0.2"));
      const id = harness.ofType("message")[0]?.message.id ?? 0;
      harness.do((node, now) => node.answer(id, { status: 200, body: encodeUtf8("pong") }, now));
      expect(bodyOf(harness.take()[0])).toBe(body as string);
    }
  });

  const ids: [name: string, header: string, id: string | undefined][] = [
    ["the sender's", "X-DMQ-Id: a-1", "a-1"],
    ["written in lower case", "x-dmq-id:a-1", "a-1"],
    ["of 255 characters", `X-DMQ-Id: ${"~".repeat(255)}`, "~".repeat(255)],
    ["none where it is longer", `X-DMQ-Id: ${"~".repeat(256)}`, undefined],
    ["none where it is empty", "X-DMQ-Id:", undefined],
    ["none where it holds a space", "X-DMQ-Id: a 1", undefined],
    ["none where it holds what is no ASCII", "X-DMQ-Id: \u00fc", undefined],
    ["none where there is no header", "X-Other: a", undefined],
  ];
  for (const [name, header, id] of ids)
    test(`message: its id is ${name}`, () => {
      const harness = new Harness();
      harness.receive(kdmq({ channel: "lab", extra: `${header}\r\n` }), udp("127.0.0.2"));
      expect(harness.ofType("message").map(({ message }) => message.messageId)).toEqual([id]);
    });

  const table: [name: string, request: string, status: string][] = [
    ["OPTIONS", kdmq({ method: "OPTIONS" }), "SIP/2.0 200 OK"],
    ["REGISTER", kdmq({ method: "REGISTER" }), "SIP/2.0 405 Method Not Allowed"],
    ["CANCEL", kdmq({ method: "CANCEL" }), "SIP/2.0 481"],
    ["KDMQ without a user part", kdmq({ channel: "" }), "SIP/2.0 404 Not Found Peer ID"],
    [
      "an extension that we do not know",
      kdmq({ channel: "lab", extra: "Require: 100rel\r\n" }),
      "SIP/2.0 420 Bad Extension",
    ],
    ["two Call-IDs", kdmq({ channel: "lab", extra: "Call-ID: other\r\n" }), "SIP/2.0 400"],
  ];
  for (const [name, request, status] of table)
    test(`request: ${name} is answered ${status.slice(8)}`, () => {
      const harness = new Harness();
      harness.receive(request, udp("127.0.0.2"));
      const [answer] = harness.take();
      expect(answer?.text).toStartWith(status);
      expect(answer?.to).toBe("127.0.0.2:5060");
    });

  test("request: an ACK is never answered", () => {
    const harness = new Harness();
    harness.receive(kdmq({ method: "ACK" }), udp("127.0.0.2"));
    expect(harness.take()).toEqual([]);
  });

  test("request: a full house answers 503 with Retry-After", () => {
    const harness = new Harness({ pendingMessages: 1 });
    harness.receive(kdmq({ channel: "lab" }), udp("127.0.0.2"));
    harness.receive(kdmq({ channel: "lab" }), udp("127.0.0.2"));
    const [answer] = harness.take();
    expect(answer?.text).toStartWith("SIP/2.0 503");
    expect(answer?.text).toContain("\r\nRetry-After: 2\r\n");
  });

  test("response: from another address, or for another request, is stray", () => {
    const harness = withPeer();
    harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8("x"), {}, now));
    const [request] = harness.take();
    harness.receive(response(request as Sent, "200 OK"), udp("127.0.0.66"));
    harness.receive(response(request as Sent, "200 OK").replace("branch=z9hG4bK", "branch=z9hG4bKx"), udp("127.0.0.2"));
    expect(harness.node.counters.strayResponses).toBe(2);
    expect(outcomes(harness)).toEqual([]);
  });
});

describe("headers of a message", () => {
  function sendWith(options: SendOptions): string {
    const harness = withPeer();
    harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8("x"), options, now));
    return harness.take()[0]?.text ?? "";
  }

  test("headers: Accept and X-DMQ-Id stand in it exactly where they were asked for", () => {
    const asked = sendWith({ accept: "text/plain, a/b", messageId: "a-1" });
    expect(asked).toContain("\r\nX-DMQ-Id: a-1\r\nAccept: text/plain, a/b\r\n");
    expect(sendWith({})).not.toMatch(/X-DMQ-Id|Accept/);
  });

  test("headers: further ones stand in it as they are, and another list is another message", () => {
    const headers = [["X-DMQ-H-Kind", "disk"]] as const;
    const harness = withPeer();
    const texts = [{ headers }, { headers }, {}].map((options: SendOptions) => {
      harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8("x"), options, now));
      return harness.take()[0]?.text ?? "";
    });
    const has = texts.map((text) => text.includes("\r\nX-DMQ-H-Kind: disk\r\nContent-Type: text/plain\r\n\r\nx"));
    expect(has).toEqual([true, true, false]);
  });

  const wrong: [name: string, options: SendOptions][] = [];
  for (const name of ["Via", "X Y", "", "X-a:b", "Content-Length", "X-a\r\nVia"])
    wrong.push([`a further header ${JSON.stringify(name)}`, { headers: [[name, "b"]] }]);
  for (const value of ["", "a\r\nVia: b", "a\0", "x".repeat(1_025)])
    wrong.push([`a further header of ${JSON.stringify(value)}`, { headers: [["X-a", value]] }]);
  wrong.push(["33 further headers", { headers: new Array(33).fill(["X-a", "b"]) }]);
  for (const text of ["", "a\r\nX: y", "a\n", "\0", "\u00fc", "a\t", " a", "x".repeat(256)])
    wrong.push(
      [`accept ${JSON.stringify(text)}`, { accept: text }],
      [`id ${JSON.stringify(text)}`, { messageId: text }],
    );
  wrong.push(["id with a space", { messageId: "a b" }]);
  for (const [name, options] of wrong)
    test(`headers: ${name.slice(0, 30)} is the caller's mistake, and nothing is sent`, () => {
      const harness = withPeer();
      const call = (): unknown => harness.do((node, now) => node.broadcast("lab", encodeUtf8("x"), options, now));
      expect(call).toThrow(UsageError);
      expect(harness.take()).toEqual([]);
    });
});

describe("outcomes", () => {
  const answers: [status: string, outcome: Partial<Outcome>][] = [
    ["200 OK", { type: "delivered", code: 200, consumer: true }],
    ["202 Accepted DMQ", { type: "delivered", code: 202, consumer: false }],
    ["404 User Not Found", { type: "rejected", code: 404, reason: "User Not Found" }],
    ["503 Busy", { type: "rejected", code: 503 }],
  ];
  for (const [status, outcome] of answers)
    test(`outcome: ${status} is ${outcome.type}`, () => {
      const harness = withPeer();
      const request = harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8("x"), {}, now));
      const [sent] = harness.take();
      harness.now += 7;
      harness.receive(response(sent as Sent, status), udp("127.0.0.2"));
      const [event] = harness.ofType("outcome");
      expect(event?.report).toMatchObject({ request, peer: "sip:127.0.0.2:5060", elapsedMs: 7, attempts: 1, outcome });
    });

  test("outcome: silence is a timeout, and makes us ask whether the peer lives", () => {
    const harness = withPeer({ pingIntervalMs: 3_600_000 });
    harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8("x"), { timeoutMs: 2_000 }, now));
    harness.runUntil(2_000);
    expect(outcomes(harness)).toEqual(["timeout"]);
    expect(harness.take().some(({ text }) => text.startsWith("KDMQ sip:notification_peer@"))).toBe(true);
  });

  test("outcome: what the network refuses is unreachable", () => {
    const harness = withPeer();
    harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8("x"), {}, now));
    harness.do((node, now) => node.handle({ type: "unsent", to: udp("127.0.0.2"), cause: new Error("refused") }, now));
    expect(outcomes(harness)).toEqual(["unreachable"]);
  });

  test("outcome: behind the window messages wait, and beyond the queue they are overloaded", () => {
    const harness = withPeer({ window: 1, queueMessages: 1 });
    for (const body of ["1", "2", "3"])
      harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8(body), {}, now));
    expect(outcomes(harness)).toEqual(["overloaded"]);
    const [first] = harness.take();
    harness.receive(response(first as Sent, "200 OK"), udp("127.0.0.2"));
    const [second] = harness.take();
    expect([bodyOf(first), bodyOf(second)]).toEqual(["1", "2"]);
  });

  test("outcome: one that waits behind the window times out without having been sent", () => {
    const harness = withPeer({ window: 1 });
    for (const body of ["1", "2"])
      harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8(body), { timeoutMs: 1_000 }, now));
    harness.runUntil(1_000);
    expect(harness.ofType("outcome").map(({ report }) => [report.outcome.type, report.attempts])).toEqual([
      ["timeout", 0],
      ["timeout", 2],
    ]);
  });

  test("outcome: leaving cancels what waits, and what comes after", () => {
    const harness = withPeer();
    harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8("x"), {}, now));
    harness.do((node, now) => node.leave({ announce: false }, now));
    harness.do((node, now) => node.send("lab", "sip:127.0.0.2:5060", encodeUtf8("x"), {}, now));
    expect(outcomes(harness)).toEqual(["cancelled", "cancelled"]);
  });

  test("broadcast: goes to active peers but those excepted", () => {
    const harness = withPeer();
    harness.do((node, now) => node.add("sip:127.0.0.3:5060", "active", now));
    harness.do((node, now) => node.add("sip:127.0.0.4:5060", "not_active", now));
    const options = { except: ["sip:127.0.0.3:5060"] };
    const addressed = harness.do((node, now) => node.broadcast("lab", encodeUtf8("x"), options, now));
    expect(addressed.map(({ peer }) => peer)).toEqual(["sip:127.0.0.2:5060"]);
  });

  test("send: refuses what cannot be sent, and says why", () => {
    const harness = withPeer();
    const send =
      (channel: string, node: string, size = 1, contentType = "text/plain"): (() => unknown) =>
      () =>
        harness.do((core, now) => core.send(channel, node, new Uint8Array(size), { contentType }, now));
    expect(send("lab", "sip:127.0.0.9:5060")).toThrow("is not known");
    expect(send("lab", "nonsense")).toThrow("is no node's address");
    expect(send("la b", "sip:127.0.0.2:5060")).toThrow("channel name");
    expect(send("lab", "sip:127.0.0.2:5060", 1, "a\r\nX: y")).toThrow("cannot stand in a SIP header");
    expect(send("lab", "sip:127.0.0.2:5060", 65_500)).toThrow("does not fit a datagram");
  });
});
