/** The short way of ordinary messages beside the parser's way: whoever looks at a message or an answer sees no difference. */
import { describe, expect, test } from "bun:test";
import { decodeUtf8 } from "../../src/core/bytes.ts";
import { OrdinaryMessage, Texts } from "../../src/node/ordinary-message.ts";
import { parseMessage } from "../../src/sip/parse.ts";
import { MessageScan } from "../../src/sip/scan.ts";
import { topVia } from "../../src/sip/via.ts";
import { Fingerprinter, serverKey } from "../../src/transaction/key.ts";
import { CAPTURES, fixture, request, value } from "../sip/octets.ts";
import { bodyOf, Harness, kdmq, line, response, type Sent, udp } from "./harness.ts";

/** The same request as a Kamailio writes it, and with a header that only the parser knows how to read. */
function pair(options: Parameters<typeof kdmq>[0]): [ordinary: string, other: string] {
  const text = kdmq({ branch: "b1", ...options });
  return [text, text.replace("Max-Forwards: 1", "max-forwards: 1")];
}

/** Status line and headers, in any order: the two ways write them in orders of their own. */
function headersOf(text = ""): string[] {
  return text.split("\r\n").sort();
}

function scans(text: string): boolean {
  return new MessageScan().read(new TextEncoder().encode(text), false);
}

describe("ordinary messages", () => {
  test("ordinary: one that waits for its handler when the next one comes keeps its own octets alone, and is what it was", () => {
    const harness = new Harness();
    for (const [branch, body] of [
      ["b1", "first"],
      ["b2", "second"],
    ] as const)
      harness.receive(kdmq({ channel: "lab", branch, body }), udp("127.0.0.3"));
    const [first, second] = harness.ofType("message").map(({ message }) => message as OrdinaryMessage);
    expect(first?.octets.length).toBe(first?.size as number);
    expect(second?.octets.length).toBeGreaterThan(second?.size as number);
    expect([first?.from, decodeUtf8(first?.body as Uint8Array)]).toEqual([second?.from, "first"]);
    expect(first?.request.headers.get("Via")).toContain("b1");
    harness.take();
    for (const { id } of [first, second] as OrdinaryMessage[])
      harness.do((node, now) => node.answer(id, { status: 200 }, now));
    expect(harness.take().map(({ text }) => /branch=(\S+)/.exec(text)?.[1])).toEqual(["z9hG4bKb1", "z9hG4bKb2"]);
  });

  const cases: [name: string, options: Parameters<typeof kdmq>[0]][] = [
    ["a body", { channel: "lab", body: "héllo\0" }],
    ["none", { channel: "lab" }],
    ["an Accept", { channel: "lab", extra: "Accept: text/plain\r\n" }],
    ["a message id", { channel: "lab", extra: "X-DMQ-Id: backup-1\r\n" }],
    ["a message id that is too long", { channel: "lab", extra: `X-DMQ-Id: ${"x".repeat(256)}\r\n` }],
    ["a sender that is a peer", { channel: "lab", from: "127.0.0.3:5060" }],
    ["a sender that calls itself 0.0.0.0", { channel: "lab", from: "0.0.0.0:5060" }],
  ];
  for (const [name, options] of cases)
    test(`ordinary: a message with ${name} is the same in all that can be asked of it`, () => {
      const texts = pair(options);
      expect(texts.map(scans)).toEqual([true, false]);
      const [short, long] = texts.map((text) => {
        const harness = new Harness({ notificationAddresses: ["sip:127.0.0.3:5060"] });
        harness.start();
        harness.take();
        harness.receive(text, udp("127.0.0.3"));
        const message = harness.ofType("message")[0]?.message;
        if (message === undefined) throw new Error("no message");
        expect(message instanceof OrdinaryMessage).toBe(scans(text));
        const { channel, from, peer, source, callId, contentType, maxForwards, acceptsBody, body } = message;
        const { messageId } = message;
        const headers = message.request.headers.entries();
        const { method, uri } = message.request;
        return {
          channel,
          from,
          peer,
          source,
          callId,
          contentType,
          maxForwards,
          acceptsBody,
          messageId,
          body,
          method,
          uri,
          headers,
        };
      });
      const lower = long?.headers.map(([header, text]) => [header === "max-forwards" ? "Max-Forwards" : header, text]);
      expect(short).toEqual({ ...(long as NonNullable<typeof long>), headers: lower as [string, string][] });
    });

  // Goal: a copy gets the answer that the request got, whoever writes it. Method: more reasons than have a number, each asked
  // for again in the same octets, and in a spelling that only the parser knows.
  test("ordinary: a copy is answered as the request was, whatever the handler said", () => {
    const harness = new Harness();
    harness.start();
    for (let i = 0; i < 300; i++) {
      const text = kdmq({ branch: `many${i}`, channel: "lab", from: "127.0.0.3:5060" });
      harness.receive(text, udp("127.0.0.3"));
      const id = harness.ofType("message").at(-1)?.message.id as number;
      harness.do((node, now) => node.answer(id, { status: 200 + (i % 2) * 286, reason: `Reason ${i}` }, now));
      const [answer] = harness.take();
      expect(answer?.text).toStartWith(`SIP/2.0 ${200 + (i % 2) * 286} Reason ${i}\r\n`);
      for (const copy of [text, text.replace("Max-Forwards: 1", "max-forwards: 1")]) {
        harness.receive(copy, udp("127.0.0.3"));
        const [again, ...more] = harness.take();
        expect(more).toEqual([]);
        expect(again?.to).toBe(answer?.to as string);
        expect(headersOf(again?.text)).toEqual(headersOf(answer?.text));
      }
    }
    expect(harness.ofType("message")).toHaveLength(300);
    expect(harness.node.counters.retransmissionsReceived).toBe(600);
  });

  test("ordinary: a copy from elsewhere is not answered, neither there nor where the request came from", () => {
    const harness = new Harness();
    harness.start();
    const text = kdmq({ branch: "seen", channel: "lab", from: "127.0.0.3:5060" });
    harness.receive(text, udp("127.0.0.3"));
    harness.do((node, now) => node.answer(harness.ofType("message")[0]?.message.id ?? 0, { status: 200 }, now));
    expect(harness.take()).toHaveLength(1);
    for (const copy of [text, text.replace("Max-Forwards: 1", "max-forwards: 1")]) {
      harness.receive(copy, udp("127.0.0.9"));
      expect(harness.take()).toEqual([]);
    }
    harness.receive(text, udp("127.0.0.3"));
    expect(harness.take()).toHaveLength(1);
    expect(harness.ofType("message")).toHaveLength(1);
  });

  test("ordinary: the answers say the same, whatever the handler answers", () => {
    const answers = [
      { status: 200 },
      { status: 202, reason: "Accepted DMQ" },
      { status: 404, reason: "Not Found Peer ID" },
      { status: 503, retryAfterSeconds: 2 },
      { status: 200, body: new Uint8Array([65]) },
      { status: 486, headers: [["X-Why", "busy"]] as [string, string][] },
    ];
    for (const answer of answers) {
      const [short, long] = pair({ channel: "lab" }).map((text) => {
        const harness = new Harness();
        harness.receive(text, udp("127.0.0.2"));
        const id = harness.ofType("message")[0]?.message.id ?? 0;
        harness.do((node, now) => node.answer(id, answer, now));
        harness.receive(text, udp("127.0.0.2"));
        const [first, again] = harness.take() as [Sent, Sent];
        expect(again).toEqual(first);
        const message = parseMessage(new TextEncoder().encode(first.text), "datagram");
        if (message.type !== "response") throw new Error(first.text);
        return [first.to, message.status, message.reason, message.headers.entries().sort(), bodyOf(first)];
      });
      expect(short).toEqual(long as NonNullable<typeof long>);
    }
  });

  test("ordinary: an answer that comes after other messages is made of its own request", () => {
    const harness = new Harness();
    for (const branch of ["one", "two", "three"]) harness.receive(kdmq({ channel: "lab", branch }), udp("127.0.0.2"));
    const ids = harness.ofType("message").map(({ message }) => message.id);
    for (const id of ids) harness.do((node, now) => node.answer(id, { status: 200 }, now));
    const branches = harness.take().map(({ text }) => /branch=z9hG4bK(\w+)/.exec(text)?.[1]);
    expect(branches).toEqual(["one", "two", "three"]);
  });

  test("ordinary: a Via of another host is told where the request came from", () => {
    const harness = new Harness();
    harness.receive(kdmq({ channel: "lab", from: "127.0.0.9:5060" }), udp("127.0.0.2"));
    const id = harness.ofType("message")[0]?.message.id ?? 0;
    harness.do((node, now) => node.answer(id, { status: 200 }, now));
    expect(harness.take()[0]?.text).toContain("Via: SIP/2.0/UDP 127.0.0.9:5060;received=127.0.0.2;branch=");
  });

  test("ordinary: the notification channel, under whatever name, and a route for KDMQ take the parser's way", () => {
    const harness = new Harness({ notificationChannel: "peers" });
    harness.receive(kdmq({ channel: "peers", body: line("127.0.0.2:5060") }), udp("127.0.0.2"));
    expect(harness.take().some(({ text }) => text.startsWith("SIP/2.0 200"))).toBe(true);
    harness.do((node) => node.route("all"));
    harness.receive(kdmq({ channel: "lab" }), udp("127.0.0.2"));
    expect([harness.ofType("request").length, harness.ofType("message").length]).toEqual([1, 0]);
  });

  test("ordinary: on a stream each message of a chunk is taken, and what is left waits for its rest", () => {
    const one = kdmq({ channel: "lab", branch: "s1", body: "first" });
    const two = kdmq({ channel: "lab", branch: "s2", body: "second" });
    const octets = new TextEncoder().encode(`${one}\r\n${two}${one.replace("z9hG4bKs1", "z9hG4bKs3")}`);
    const from = { transport: "tcp", ip: "127.0.0.2", port: 5060 } as const;
    for (let cut = 0; cut <= octets.length; cut += 7) {
      const harness = new Harness();
      for (const bytes of [octets.slice(0, cut), octets.slice(cut)])
        harness.do((node, now) => node.handle({ type: "received", from, flow: 1, bytes }, now));
      const messages = harness.ofType("message").map(({ message }) => message);
      expect([cut, ...messages.map(({ body }) => decodeUtf8(body))]).toEqual([cut, "first", "second", "first"]);
      expect(
        messages.every(({ request }) => request.bytes.length === one.length || request.bytes.length === two.length),
      ).toBe(true);
      expect(harness.node.counters.received).toBe(3);
    }
  });
});

describe("fingerprints", () => {
  test("fingerprint: of the parts that the scan found is that of the parser's key", () => {
    const prints = new Fingerprinter(123, 456);
    const scan = new MessageScan();
    let compared = 0;
    for (const name of CAPTURES) {
      const octets = fixture("captures", name);
      if (!scan.read(octets, false)) continue;
      const via = value(topVia(request(octets)));
      const { host = "", port, branch } = via ?? {};
      const text = { ...prints.ofText(serverKey({ branch, host, port, method: "KDMQ" })) };
      const hostPortEnd = scan.viaPort === 0 ? scan.viaHostEnd : scan.branch - ";branch=".length;
      const { viaHost, viaPort, branch: start, branchEnd } = scan;
      expect(prints.ofParts("KDMQ", octets, viaHost, hostPortEnd, viaPort !== 0, start, branchEnd)).toEqual(text);
      compared++;
    }
    expect(compared).toBeGreaterThan(20);
  });

  test("fingerprint: a hundred thousand keys that differ by little have a hundred thousand fingerprints", () => {
    const prints = new Fingerprinter(1, 2);
    const seen = new Set<string>();
    for (let i = 0; i < 100_000; i++) {
      const { high, low } = prints.ofText(`KDMQ 127.0.0.1:5060 z9hG4bK${i.toString(16)}`);
      seen.add(`${high} ${low}`);
    }
    expect(seen.size).toBe(100_000);
  });

  test("fingerprint: another seed gives others", () => {
    const [a, b] = [new Fingerprinter(1, 2), new Fingerprinter(3, 4)].map((prints) => ({ ...prints.ofText("x") }));
    expect(a).not.toEqual(b as NonNullable<typeof b>);
  });
});

describe("channel names", () => {
  test("names: each is what it is, also when many made-up ones push one another out", () => {
    const names = new Texts();
    for (let round = 0; round < 3; round++)
      for (let i = 0; i < 5_000; i++) {
        const octets = new TextEncoder().encode(`<channel${i}>`);
        expect(names.of(octets, 1, octets.length - 1)).toBe(`channel${i}`);
      }
  });
});

test("a response of ours to a request of ours is no ordinary request", () => {
  const harness = new Harness({ notificationAddresses: ["sip:127.0.0.2:5060"] });
  harness.start();
  const [join] = harness.take() as [Sent];
  harness.receive(response(join, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
  expect(harness.ofType("peer-up").length).toBe(1);
});

describe("answers to ordinary messages", () => {
  // A chunk is read to its end before the first handler is called: each answer is of its own message all the same.
  const rests: [name: string, text: string, answers: string[]][] = [
    ["nothing", "", []],
    ["another message", kdmq({ channel: "lab", branch: "s2", body: "second" }), ["s2"]],
    ["a keepalive", "\r\n\r\n", []],
    ["the beginning of another message", kdmq({ channel: "lab", branch: "s2" }).slice(0, 90), []],
    ["a ping", kdmq({ branch: "s4", body: line("127.0.0.2:5060") }), ["s4"]],
    ["a copy of one that waits", kdmq({ channel: "slow", branch: "s5" }), []],
    ["something else", kdmq({ channel: "lab", branch: "s6" }).replace("Max-Forwards: 1", "max-forwards: 1"), ["s6"]],
  ];
  for (const [name, rest, others] of rests)
    for (const isLate of [false, true])
      test(`ordinary: on a stream a message with ${name} behind it is answered ${isLate ? "later" : "at once"} as itself`, () => {
        const { node } = new Harness();
        const from = { transport: "tcp", ip: "127.0.0.2", port: 5060 } as const;
        const answered: string[] = [];
        const waiting: number[] = [];
        const drain = (): void => {
          for (let output = node.poll(); output !== undefined; output = node.poll()) {
            if (output.type === "transmit") {
              const text = decodeUtf8(output.octets, output.start, output.end);
              if (text.startsWith("SIP/2.0 200")) answered.push(`${/branch=z9hG4bK(\w+)/.exec(text)?.[1]}`);
            }
            if (output.type !== "event" || output.event.type !== "message") continue;
            const { id, channel } = output.event.message;
            if (channel === "slow") continue;
            if (isLate) waiting.push(id);
            else node.answer(id, { status: 200 }, 0);
          }
        };
        const slow = kdmq({ channel: "slow", branch: "s5" });
        const first = kdmq({ channel: "lab", branch: "s1", body: "first" });
        for (const text of [slow, first + rest]) {
          node.handle({ type: "received", from, flow: 1, bytes: new TextEncoder().encode(text) }, 0);
          drain();
        }
        for (const id of waiting) node.answer(id, { status: 200 }, 0);
        drain();
        expect(answered.sort()).toEqual(["s1", ...others].sort());
      });

  test("ordinary: what a datagram has behind its body is not kept", () => {
    const harness = new Harness();
    const text = kdmq({ channel: "lab", branch: "b1", body: "short" });
    harness.receive(text + "x".repeat(30_000), udp("127.0.0.2"));
    harness.receive(kdmq({ channel: "lab", branch: "b2" }), udp("127.0.0.2"));
    const message = harness.ofType("message")[0]?.message as OrdinaryMessage;
    expect([message.octets.length, message.request.bytes.length]).toEqual([text.length, text.length]);
  });
});
