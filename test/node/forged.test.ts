/** What datagrams can do that are not from whom they say (must-show 5 of issue 6): nothing that stays, and little that leaves. */
import { describe, expect, test } from "bun:test";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import { CREDIT_RATIO, LOOKUPS_PER_SOURCE } from "../../src/node/sources.ts";
import { bodyOf, Harness, kdmq, line, response, type Sent, udp } from "./harness.ts";

const OWN = line("127.0.0.1:5060");
const PEER = "127.0.0.2:5060";

/** A node with one active peer. */
function met(options = {}): Harness {
  const harness = new Harness({ notificationAddresses: [`sip:${PEER}`], ...options });
  harness.start();
  harness.receive(response(harness.take()[0] as Sent, "200 OK", line(PEER) + OWN), udp("127.0.0.2"));
  harness.take();
  return harness;
}

/** Adds so many peers, which answer. */
function prove(harness: Harness, count: number): void {
  for (let i = 10; i < 10 + count; i++) harness.do((node, now) => node.add(`sip:127.0.0.${i}:5060`, "active", now));
  for (const ping of harness.take()) harness.receive(response(ping, "200 OK"), udp(ping.to.slice(0, -":5060".length)));
  harness.take();
}

function registry(harness: Harness): unknown {
  return harness.node.nodes().map(({ uri, status, verified, userAgent, lastSeen, failCount }) => {
    return { uri, status, verified, userAgent, lastSeen, failCount };
  });
}

function octets(sent: readonly Sent[]): number {
  return sent.reduce((sum, { text }) => sum + encodeUtf8(text).length, 0);
}

function isRequest({ text }: Sent): boolean {
  return text.startsWith("KDMQ");
}

const FORGED: [name: string, request: Parameters<typeof kdmq>[0], source: string][] = [
  ["a join in a peer's name", { body: line(PEER), maxForwards: 2 }, "127.0.0.2"],
  ["a goodbye in a peer's name", { body: line(PEER, "disabled") }, "127.0.0.2"],
  ["a peer called disabled", { from: "127.0.0.3:5060", body: line(PEER, "disabled") }, "127.0.0.3"],
  ["another port of a peer's address", { from: "127.0.0.2:6060", body: line("127.0.0.2:6060") }, "127.0.0.2"],
  ["an address where nobody is", { from: "127.0.0.9:5060", body: line("127.0.0.9:5060"), maxForwards: 9 }, "127.0.0.9"],
  ["ourselves", { from: "127.0.0.1:5060", body: OWN, maxForwards: 2 }, "127.0.0.1"],
  ["ourselves, disabled", { from: "127.0.0.1:5060", body: line("127.0.0.1:5060", "disabled") }, "127.0.0.1"],
  ["a list of victims", { body: Array.from({ length: 40 }, (_, i) => line(`10.1.0.${i}:5060`)).join("") }, "127.0.0.2"],
  ["another kind of node", { body: line(PEER), extra: "Server: dmq\r\n" }, "127.0.0.2"],
];

describe("forged", () => {
  for (const [name, request, source] of FORGED)
    test(`forged: ${name} leaves the registry and others' answers as they were`, () => {
      const harness = met({ pingIntervalMs: 600_000 });
      const before = registry(harness);
      for (let i = 0; i < 50; i++) harness.receive(kdmq(request), udp(source));
      // The rightful peer answers what it is asked; those who are not there do not.
      const asked = harness.take().filter((one) => isRequest(one) && one.to === PEER);
      for (const question of asked) harness.receive(response(question, "200 OK", line(PEER)), udp("127.0.0.2"));
      harness.runUntil(30_000);
      harness.take();
      expect(registry(harness)).toEqual(
        // Who has answered was seen.
        asked.length === 0 ? before : expect.arrayContaining([expect.objectContaining({ status: "active" })]),
      );
      expect(harness.node.nodes().map(({ uri }) => uri)).toEqual([`sip:${PEER}`]);
      harness.receive(kdmq({ body: line(PEER) }), udp("127.0.0.2"));
      expect(bodyOf(harness.take()[0])).toBe(OWN + line(PEER));
      expect(harness.ofType("peer-disabled")).toEqual([]);
      expect(harness.node.counters.relays).toBe(0);
    });

  for (const [name, request, source] of FORGED)
    test(`forged: ${name} makes less than five times its octets leave, repeats included`, () => {
      const harness = met({ pingIntervalMs: 600_000 });
      let came = 0;
      for (let i = 0; i < 20; i++) {
        const text = kdmq(request);
        came += encodeUtf8(text).length;
        harness.receive(text, udp(source));
      }
      harness.runUntil(60_000);
      expect(octets(harness.take())).toBeLessThan(CREDIT_RATIO * came);
    });

  test("forged: the smallest request gets no long list", () => {
    const harness = met();
    prove(harness, 30);
    const small = (branch: number): string =>
      `KDMQ sip:notification_peer@a SIP/2.0\r\nv:SIP/2.0/UDP a;branch=z9hG4bK${branch}\r\nf:<sip:a>;tag=1\r\nt:<sip:a>\r\ni:${branch}\r\nCSeq:1 KDMQ\r\n\r\n`;
    let came = 0;
    for (let i = 0; i < 20; i++) {
      came += small(i).length;
      harness.receive(small(i), udp("127.0.0.200"));
    }
    const sent = harness.take();
    expect(sent.length).toBe(20);
    expect(octets(sent)).toBeLessThan(CREDIT_RATIO * came);
  });

  test("forged: who asks for the list with an ordinary request gets all of it that fits", () => {
    const harness = met();
    prove(harness, 70);
    harness.receive(kdmq({ from: "127.0.0.200:5060" }), udp("127.0.0.200"));
    expect(bodyOf(harness.take()[0]).length).toBeGreaterThan(980);
  });

  test("forged: host names cost a bounded number of questions to DNS", () => {
    const harness = met();
    for (let i = 0; i < 100; i++) {
      const body = Array.from({ length: 9 }, (_, n) => line(`h${i}x${n}.example:5060`)).join("");
      harness.receive(kdmq({ body }), udp("127.0.0.2"));
      for (const host of harness.asked.splice(0)) {
        harness.resolve(host, []);
        harness.asked.push(`+${host}`);
      }
    }
    expect(harness.asked.length).toBeLessThanOrEqual(LOOKUPS_PER_SOURCE);
    expect(harness.node.counters.heldNames).toBeGreaterThan(500);
  });

  test("forged: a flood of names from requests does not keep out those that a peer answers with", () => {
    const harness = met({ pingIntervalMs: 5_000 });
    for (let i = 0; i < 500; i++) {
      const body = Array.from({ length: 30 }, (_, n) => line(`10.${n}.${i >> 8}.${i & 255}:5060`)).join("");
      harness.receive(kdmq({ from: "127.0.0.3:5060", body }), udp("127.0.0.3"));
    }
    harness.take();
    harness.runUntil(5_600);
    const ping = harness.take().find((one) => isRequest(one) && one.to === PEER) as Sent;
    harness.receive(response(ping, "200 OK", line("127.0.0.7:5060")), udp("127.0.0.2"));
    const probe = harness.take().find(({ to }) => to === "127.0.0.7:5060") as Sent;
    harness.receive(response(probe, "200 OK", line("127.0.0.7:5060")), udp("127.0.0.7"));
    expect(harness.node.nodes().map(({ uri }) => uri)).toContain("sip:127.0.0.7:5060");
  });

  const SPELLINGS = [
    ...["sip:127.0.0.1", "sip:127.0.0.1:5060;transport=udp", "SIP:127.0.0.1:5060", "sip:127.0.0.1:5060;transport=UDP"],
    ...[
      "sip:[::ffff:127.0.0.1]:5060",
      "sip:[::ffff:7f00:1]:5060",
      "sip:[0:0:0:0:0:ffff:127.0.0.1]",
      "sip:node@127.0.0.1:5060",
    ],
    ...[
      "sip:127.0.0.1:",
      "sip:127.0.0.4:5070",
      "sip:[::1]:5060;transport=tcp",
      "sip:[0:0:0:0:0:0:0:1]:5060;transport=TCP",
    ],
  ];
  test("ourselves: every spelling of our addresses is us, and nobody is asked", () => {
    const listening = [
      { transport: "udp", host: "127.0.0.4", port: 5070 },
      { transport: "tcp", host: "::1", port: 5060 },
    ] as const;
    const harness = met({ listening });
    for (const spelling of SPELLINGS)
      harness.receive(kdmq({ body: `${spelling};status=active\r\n` }), udp("127.0.0.2"));
    expect(harness.take().filter(isRequest)).toEqual([]);
    expect(harness.node.counters.badLines).toBe(0);
  });

  test("ourselves: spellings that mean an address to some readers only are no lines", () => {
    const harness = met();
    const odd = [
      "127.1",
      "2130706433",
      "0x7f000001",
      "0177.0.0.1",
      "127.000.000.001",
      "0.0.0.0",
      "[::]",
      "localhost:0",
    ];
    for (const host of odd) harness.receive(kdmq({ body: `sip:${host};status=active\r\n` }), udp("127.0.0.2"));
    expect(harness.take().filter(isRequest)).toEqual([]);
    expect(harness.asked).toEqual([]);
    expect(harness.node.counters.badLines).toBe(odd.length);
  });

  test("ourselves: a name that leads to us, in any case and with the root's dot, is asked for once and probed never", () => {
    const harness = met();
    const body = line("ME.Example:5060") + line("me.example.:5060");
    harness.receive(kdmq({ body }), udp("127.0.0.2"));
    harness.resolve("me.example", ["127.0.0.1"]);
    expect(harness.asked).toEqual(["me.example"]);
    expect(harness.take().filter(isRequest)).toEqual([]);
  });

  test("ourselves: an address that leads back to us is found out by our own request, and is no peer", () => {
    const harness = met();
    harness.receive(kdmq({ body: line("127.0.0.50:5060") }), udp("127.0.0.2"));
    const probe = harness.take().find(({ to }) => to === "127.0.0.50:5060") as Sent;
    harness.receive(probe.text, udp("127.0.0.50"));
    const answer = harness.take().find(({ text }) => text.startsWith("SIP/2.0")) as Sent;
    expect(answer.text).toStartWith("SIP/2.0 482 Loop Detected\r\n");
    harness.receive(answer.text, udp("127.0.0.50"));
    harness.runUntil(20_000);
    expect(harness.node.nodes().map(({ uri }) => uri)).toEqual([`sip:${PEER}`]);
    expect(harness.node.counters.loops).toBe(1);
  });
});

describe("answers for others", () => {
  const LIES: [name: string, lie: (request: Sent) => string, from: ReturnType<typeof udp>][] = [
    ["from another address", (request) => response(request, "200 OK", line("127.0.0.66:5060")), udp("127.0.0.66")],
    ["from another port", (request) => response(request, "200 OK", line("127.0.0.66:5060")), udp("127.0.0.2", 5061)],
    ["over a stream", (request) => response(request, "200 OK"), { transport: "tcp", ip: "127.0.0.2", port: 5060 }],
    [
      "with a guessed branch",
      (request) => response(request, "200 OK").replace(/z9hG4bK\w+/, "z9hG4bK0000000000000001"),
      udp("127.0.0.2"),
    ],
    [
      "with another method",
      (request) => response(request, "200 OK").replace("10 KDMQ", "10 OPTIONS"),
      udp("127.0.0.2"),
    ],
    [
      "with two Vias",
      (request) => response(request, "200 OK").replace("Via:", "Via: SIP/2.0/UDP 127.0.0.66\r\nVia:"),
      udp("127.0.0.2"),
    ],
  ];
  for (const [name, lie, from] of LIES)
    test(`answers for others: ${name} is stray, and the rightful answer still counts`, () => {
      const harness = met();
      const id = harness.do((node, now) => node.send("lab", `sip:${PEER}`, new Uint8Array(1), {}, now));
      const request = harness.take()[0] as Sent;
      const text = lie(request);
      harness.do((node, now) => {
        if (from.transport === "udp") node.handle({ type: "received", from, flow: 0, bytes: encodeUtf8(text) }, now);
        else node.handle({ type: "received", from, flow: 7, bytes: encodeUtf8(text) }, now);
      });
      expect(harness.ofType("outcome")).toEqual([]);
      expect(harness.node.counters.strayResponses).toBe(1);
      harness.receive(response(request, "200 OK"), udp("127.0.0.2"));
      expect(harness.ofType("outcome").map(({ report }) => [report.request, report.outcome.type])).toEqual([
        [id, "delivered"],
      ]);
      expect(harness.node.nodes().map(({ uri }) => uri)).toEqual([`sip:${PEER}`]);
    });
});
