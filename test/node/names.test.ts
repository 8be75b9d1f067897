/** Names in the core: the port rule of multi_notify, when a name is asked for again, and what an answer changes. */
import { describe, expect, test } from "bun:test";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { seededRandom } from "../../src/core/random.ts";
import { DmqNode, type NodeOptions } from "../../src/node/node.ts";
import { Harness, line, response, type Sent, udp } from "./harness.ts";

const SECOND = 1_000;
const NAME = "bus.example";

function multi(address: string, options: Partial<NodeOptions> = {}): Harness {
  const harness = new Harness({ notificationAddresses: [address], multiNotify: true, ...options });
  harness.start();
  return harness;
}

function greeted(harness: Harness): string[] {
  return harness.take().map(({ to }) => to);
}

function peers(harness: Harness): string[] {
  return harness.node.nodes().map(({ uri, status, source }) => `${uri} ${status} ${source}`);
}

/** Answers whatever was sent to `host` as that node would. */
function answer(harness: Harness, host: string): void {
  const [ip, port] = host.split(":") as [string, string];
  for (const sent of harness.take().filter(({ to, text }) => to === host && text.startsWith("KDMQ")))
    harness.receive(response(sent as Sent, "200 OK", line(host)), udp(ip, Number(port)));
}

/** When a name was asked for, over `ms`, each time answered at once. */
function askedAt(harness: Harness, ms: number, reply: () => void): number[] {
  const times: number[] = [];
  let seen = harness.asked.length;
  const end = harness.now + ms;
  while (harness.now < end) {
    harness.runUntil(Math.min(harness.now + 100, end));
    if (harness.asked.length === seen) continue;
    seen = harness.asked.length;
    times.push(harness.now);
    reply();
  }
  return times;
}

describe("multi_notify", () => {
  const services = [
    { ip: "127.0.0.2", port: 5090 },
    { ip: "127.0.0.3", port: 5091 },
  ];
  const addresses = ["127.0.0.4"];
  const cases: [uri: string, expected: string[]][] = [
    [`sip:${NAME}`, ["127.0.0.2:5090", "127.0.0.3:5091", "127.0.0.4:5060"]],
    [`sip:${NAME}:5090`, ["127.0.0.2:5090", "127.0.0.4:5090"]],
    [`sip:${NAME}:5060`, ["127.0.0.4:5060"]],
    [`sip:_sip._udp.${NAME}`, ["127.0.0.2:5090", "127.0.0.3:5091", "127.0.0.4:5060"]],
    [`sip:${NAME}:5091;transport=tcp`, ["127.0.0.3:5091", "127.0.0.4:5091"]],
    [`sip:${NAME.toUpperCase()}`, ["127.0.0.2:5090", "127.0.0.3:5091", "127.0.0.4:5060"]],
  ];
  for (const [uri, expected] of cases)
    test(`names: ${uri} leads to ${expected.join(" ")}`, () => {
      const harness = multi(uri);
      const [asked] = harness.asked as [string];
      expect(asked).toEndWith(`${NAME} SRV`);
      harness.resolve(asked.replace(" SRV", ""), addresses, { services });
      expect(greeted(harness)).toEqual(expected);
      const transport = uri.includes("tcp") ? "tcp" : "udp";
      expect(new Set(harness.node.nodes().map((peer) => peer.transport))).toEqual(new Set([transport]));
    });

  test("names: who is met by a name over TLS may have a certificate for the name, while DNS leads there", () => {
    const uri = `sips:_sips._tcp.${NAME}`;
    const address = { transport: "tls", host: "127.0.0.1", port: 5061 } as const;
    const node = new DmqNode({ address, notificationAddresses: [uri], multiNotify: true }, seededRandom(1));
    let now = 0;
    const settle = (): { endpoints: Endpoint[]; asked: boolean } => {
      const endpoints: Endpoint[] = [];
      let asked = false;
      for (let output = node.poll(); output !== undefined; output = node.poll()) {
        if (output.type === "transmit") endpoints.push(output.to);
        if (output.type === "resolve") asked = true;
      }
      return { endpoints, asked };
    };
    const answered = (ip: string): Endpoint[] => {
      const services = [{ ip, port: 5061 }];
      const host = `_sips._tcp.${NAME}`;
      node.handle({ type: "resolved", host, addresses: [], services, complete: true, ttlMs: 1_000 }, now);
      return settle().endpoints;
    };
    const at = (ip: string, domain?: string): Endpoint =>
      ({ transport: "tls", ip, port: 5061, ...(domain !== undefined && { domain }) }) as Endpoint;
    node.start(now);
    expect(settle().asked).toBe(true);
    expect(answered("127.0.0.2")).toEqual([at("127.0.0.2", NAME)]);
    let asked = false;
    while (!asked && now < 60 * SECOND) {
      now = node.nextTimeout() ?? now;
      node.handleTimeout(now);
      asked = settle().asked;
    }
    expect(answered("127.0.0.3")).toEqual([at("127.0.0.3", NAME)]);
    const left = node.send("channel1", "sip:127.0.0.2:5061;transport=tls", new Uint8Array(), {}, now);
    expect(left).toBeGreaterThan(0);
    expect(settle().endpoints).toEqual([at("127.0.0.2")]);
  });

  test("names: an address is asked for as it is where it is a literal", () => {
    const harness = multi("sip:127.0.0.2:5090");
    expect(harness.asked).toEqual([]);
    expect(greeted(harness)).toEqual(["127.0.0.2:5090"]);
  });

  test("names: contacts are greeted with Max-Forwards 2 and are never given up", () => {
    const harness = multi(`sip:${NAME}`, { pingIntervalMs: 5 * SECOND });
    harness.resolve(NAME, ["127.0.0.2"], { services: [] });
    expect(harness.take()[0]?.text).toContain("\r\nMax-Forwards: 2\r\n");
    harness.runUntil(300 * SECOND);
    expect(peers(harness)).toEqual(["sip:127.0.0.2:5060 not_active notification_address"]);
  });

  test("names: an SRV record and an address that lead to the same place are one contact", () => {
    const harness = multi(`sip:${NAME}`);
    harness.resolve(NAME, ["127.0.0.2"], { services: [{ ip: "127.0.0.2", port: 5060 }] });
    expect(greeted(harness)).toEqual(["127.0.0.2:5060"]);
  });

  test("names: this node itself is no contact, by its address or by where else it listens", () => {
    const listening = [{ transport: "udp", host: "127.0.0.7", port: 5060 } as const];
    const harness = multi(`sip:${NAME}`, { listening });
    harness.resolve(NAME, ["127.0.0.1", "127.0.0.7", "127.0.0.8"], { services: [{ ip: "127.0.0.1", port: 5061 }] });
    expect(greeted(harness)).toEqual(["127.0.0.1:5061", "127.0.0.8:5060"]);
    expect(harness.ofType("warning")).toEqual([]);
  });

  test("names: 256 contacts of one name, and a warning for what exceeds them", () => {
    const harness = multi(`sip:${NAME}`);
    const many = Array.from({ length: 300 }, (_, i) => `10.0.${i >> 8}.${i & 255}`);
    harness.resolve(NAME, many, { services: [] });
    expect(greeted(harness)).toHaveLength(256);
    const [warning] = harness.ofType("warning");
    expect(warning).toMatchObject({ code: "too-many-addresses", text: expect.stringContaining("44 addresses") });
  });

  test("names: two notification addresses with one host are two sets of contacts", () => {
    const harness = multi(`sip:${NAME}:5060`, { notificationAddresses: [`sip:${NAME}:5060`, `sip:${NAME}:5070`] });
    expect(harness.asked).toEqual([`${NAME} SRV`]);
    harness.resolve(NAME, ["127.0.0.2"], { services: [] });
    expect(greeted(harness)).toEqual(["127.0.0.2:5060", "127.0.0.2:5070"]);
  });
});

describe("an answer that changes", () => {
  /** A node whose name leads to 127.0.0.2 (active) and 127.0.0.3 (dead). */
  function settled(): Harness {
    const harness = multi(`sip:${NAME}:5060`, { pingIntervalMs: 5 * SECOND });
    harness.resolve(NAME, ["127.0.0.2", "127.0.0.3"], { services: [], ttlMs: SECOND });
    answer(harness, "127.0.0.2:5060");
    harness.runUntil(SECOND);
    harness.take();
    return harness;
  }

  test("names: a new address is greeted at once", () => {
    const harness = settled();
    harness.resolve(NAME, ["127.0.0.2", "127.0.0.3", "127.0.0.4"], { services: [] });
    expect(greeted(harness)).toEqual(["127.0.0.4:5060"]);
  });

  test("names: an address that left is no contact any more: dead it is forgotten, alive it stays", () => {
    const harness = settled();
    harness.resolve(NAME, ["127.0.0.4"], { services: [], ttlMs: 3_600 * SECOND });
    expect(peers(harness)).toContain("sip:127.0.0.2:5060 active mentioned");
    for (let i = 0; i < 60; i++) {
      harness.runUntil(harness.now + SECOND);
      answer(harness, "127.0.0.2:5060");
    }
    expect(peers(harness).sort()).toEqual([
      "sip:127.0.0.2:5060 active mentioned",
      "sip:127.0.0.4:5060 not_active notification_address",
    ]);
  });

  const harmless: [what: string, addresses: string[], more: { complete?: boolean; cause?: Error }][] = [
    ["nothing, for sure", [], { cause: new Error("ENOTFOUND") }],
    ["no answer", [], { complete: false, cause: new Error("ETIMEOUT") }],
    ["half an answer", ["127.0.0.3"], { complete: false }],
  ];
  for (const [what, addresses, more] of harmless)
    test(`names: ${what} takes no contact away`, () => {
      const harness = settled();
      const before = peers(harness);
      harness.resolve(NAME, addresses, { services: [], ...more });
      expect(peers(harness)).toEqual(before);
    });

  test("names: half an answer brings new contacts all the same, and a whole one takes the old away", () => {
    const harness = settled();
    harness.resolve(NAME, ["127.0.0.4"], { services: [], complete: false, ttlMs: 0 });
    expect(greeted(harness)).toEqual(["127.0.0.4:5060"]);
    harness.runUntil(harness.now + SECOND);
    harness.resolve(NAME, ["127.0.0.4"], { services: [] });
    expect(peers(harness).filter((peer) => peer.endsWith("notification_address"))).toHaveLength(1);
  });

  test("names: a contact that is a notification address of its own stays one", () => {
    const harness = multi(`sip:${NAME}`, { notificationAddresses: [`sip:${NAME}`, "sip:127.0.0.2"] });
    harness.resolve(NAME, ["127.0.0.2"], { services: [], ttlMs: 0 });
    harness.runUntil(SECOND);
    harness.resolve(NAME, ["127.0.0.3"], { services: [] });
    expect(peers(harness)).toContain("sip:127.0.0.2:5060 not_active notification_address");
  });

  test("names: what an operator removed does not come back with the next answer, but with an empty list", () => {
    const harness = settled();
    harness.do((node, now) => node.remove("sip:127.0.0.3:5060", now));
    harness.resolve(NAME, ["127.0.0.2", "127.0.0.3"], { services: [], ttlMs: SECOND });
    expect(peers(harness)).toEqual(["sip:127.0.0.2:5060 active notification_address"]);
    harness.do((node, now) => node.remove("sip:127.0.0.2:5060", now));
    const again = (): void => harness.resolve(NAME, ["127.0.0.2", "127.0.0.3"], { services: [], ttlMs: SECOND });
    askedAt(harness, 10 * SECOND, again);
    expect(peers(harness)).toHaveLength(2);
  });
});

describe("when a name is asked for again", () => {
  const schedule: [what: string, ttlMs: number, intervalMs: number, expected: number[]][] = [
    ["its TTL", 7 * SECOND, 60 * SECOND, [7, 14, 21, 28]],
    ["a second at least", 10, 60 * SECOND, [1, 2, 3, 4]],
    ["the ping interval at most", 3_600 * SECOND, 5 * SECOND, [5, 10, 15, 20]],
  ];
  for (const [what, ttlMs, pingIntervalMs, expected] of schedule)
    for (const multiNotify of [true, false])
      test(`names: after ${what}${multiNotify ? ", with multi_notify" : ""}`, () => {
        const harness = multi(`sip:${NAME}`, { pingIntervalMs, multiNotify });
        const reply = (): void => harness.resolve(NAME, ["127.0.0.2"], { ttlMs, ...(multiNotify && { services: [] }) });
        reply();
        for (const sent of harness.take()) harness.receive(response(sent, "200 OK", line(sent.to)), udp("127.0.0.2"));
        const times = askedAt(harness, 30 * SECOND, () => {
          reply();
          answer(harness, "127.0.0.2:5060");
        });
        expect(times.slice(0, 4)).toEqual(expected.map((seconds) => seconds * SECOND));
      });

  test("names: after a failure in 1, 2, 4 … seconds up to the ping interval, for ever", () => {
    const harness = multi(`sip:${NAME}`, { pingIntervalMs: 10 * SECOND });
    const fail = (): void => harness.resolve(NAME, [], { services: [], complete: false, ttlMs: 0 });
    fail();
    const times = askedAt(harness, 60 * SECOND, fail);
    expect(times.map((at) => at / SECOND)).toEqual([1, 3, 7, 15, 25, 35, 45, 55]);
  });

  test("names: after a nothing not before it is over", () => {
    const harness = multi(`sip:${NAME}`, { pingIntervalMs: 60 * SECOND });
    const nothing = (): void => harness.resolve(NAME, [], { services: [], ttlMs: 9 * SECOND });
    nothing();
    expect(askedAt(harness, 30 * SECOND, nothing)).toEqual([9_000, 18_000, 27_000]);
  });

  test("names: once at a time, and an answer that nobody waits for changes nothing", () => {
    const harness = multi(`sip:${NAME}`);
    harness.do((node, now) => node.join([`sip:${NAME}:5070`], now));
    expect(harness.asked).toEqual([`${NAME} SRV`]);
    harness.resolve("stranger.example", ["127.0.0.9"], { services: [] });
    harness.resolve(NAME, ["127.0.0.9"]);
    expect(harness.node.nodes()).toEqual([]);
  });

  test("names: no more once its peer is removed, or the node has left", () => {
    const harness = multi(`sip:${NAME}`, { multiNotify: false, pingIntervalMs: 5 * SECOND });
    harness.resolve(NAME, ["127.0.0.2"], { ttlMs: SECOND });
    harness.do((node, now) => node.add("sip:127.0.0.5:5060", "active", now));
    harness.do((node, now) => node.remove(`sip:${NAME}:5060`, now));
    harness.runUntil(4 * SECOND);
    expect(harness.asked).toEqual([NAME]);

    const leaving = multi(`sip:${NAME}`);
    leaving.resolve(NAME, ["127.0.0.2"], { services: [], ttlMs: SECOND });
    leaving.do((node, now) => node.leave({ announce: true }, now));
    leaving.runUntil(60 * SECOND);
    expect(leaving.asked).toEqual([`${NAME} SRV`]);
  });
});

describe("a peer under a name", () => {
  function named(addresses: string[]): Harness {
    const harness = multi(`sip:${NAME}:5060`, { multiNotify: false, pingIntervalMs: 5 * SECOND });
    harness.resolve(NAME, addresses, { ttlMs: SECOND });
    return harness;
  }

  const ip = (harness: Harness): string | undefined => harness.node.nodes()[0]?.resolvedIp;

  test("names: it follows its name, and its new address is asked though the old one's answer is still out", () => {
    const harness = named(["127.0.0.2"]);
    expect(greeted(harness)).toEqual(["127.0.0.2:5060"]);
    harness.runUntil(SECOND);
    harness.take();
    harness.resolve(NAME, ["127.0.0.3"], { ttlMs: 3_600 * SECOND });
    expect([ip(harness), greeted(harness)]).toEqual(["127.0.0.3", ["127.0.0.3:5060"]]);
  });

  test("names: that the old address is silent says nothing of the new one", () => {
    const harness = named(["127.0.0.2"]);
    harness.runUntil(SECOND);
    harness.take();
    harness.resolve(NAME, ["127.0.0.3"], { ttlMs: 3_600 * SECOND });
    answer(harness, "127.0.0.3:5060");
    for (let i = 0; i < 20; i++) {
      harness.runUntil(harness.now + SECOND);
      answer(harness, "127.0.0.3:5060");
    }
    expect(harness.ofType("peer-down")).toEqual([]);
    expect(peers(harness)).toEqual([`sip:${NAME}:5060 active notification_address`]);
  });

  test("names: it stays where it is while that is among its addresses", () => {
    const harness = named(["127.0.0.2", "127.0.0.3"]);
    answer(harness, "127.0.0.2:5060");
    harness.runUntil(SECOND);
    harness.resolve(NAME, ["127.0.0.3", "127.0.0.2"], { ttlMs: SECOND });
    expect(ip(harness)).toBe("127.0.0.2");
  });

  test("names: a failure moves it to the next of its addresses, once a failure", () => {
    const harness = named(["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    const seen: (string | undefined)[] = [];
    askedAt(harness, 20 * SECOND, () => {
      harness.resolve(NAME, ["127.0.0.2", "127.0.0.3", "127.0.0.4"], { ttlMs: SECOND });
      if (seen.at(-1) !== ip(harness)) seen.push(ip(harness));
    });
    expect(seen.slice(0, 4)).toEqual(["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"]);
    // A ping is given up after five seconds, so in twenty there is no room for more than five moves.
    expect(seen.length).toBeLessThanOrEqual(6);
  });

  test("names: half an answer does not move it, and no answer neither", () => {
    const harness = named(["127.0.0.2"]);
    answer(harness, "127.0.0.2:5060");
    harness.runUntil(SECOND);
    harness.resolve(NAME, ["2001:db8::1"], { complete: false, ttlMs: SECOND });
    harness.runUntil(2 * SECOND);
    harness.resolve(NAME, [], { complete: false, ttlMs: SECOND });
    expect(ip(harness)).toBe("127.0.0.2");
  });
});
