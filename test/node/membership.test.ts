import { describe, expect, test } from "bun:test";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { ANNOUNCED_MAX, CLAIMS_MAX, PROBES_MAX } from "../../src/membership/hints.ts";
import { ADDRESS_PEERS_MAX } from "../../src/membership/registry.ts";
import { bodyOf, Harness, kdmq, line, response, type Sent, udp } from "./harness.ts";

const OWN = line("127.0.0.1:5060");

function isRequest(message: Sent): boolean {
  return message.text.startsWith("KDMQ");
}

/** A node that knows one active peer at 127.0.0.2. */
function joined(options = {}): Harness {
  const harness = new Harness({ notificationAddresses: ["sip:127.0.0.2:5060"], ...options });
  harness.start();
  const [join] = harness.take();
  harness.receive(response(join as Sent, "200 OK", line("127.0.0.2:5060") + OWN), udp("127.0.0.2"));
  harness.take();
  return harness;
}

function statuses(harness: Harness): string[] {
  return harness.node.nodes().map(({ uri, status }) => `${uri} ${status}`);
}

describe("joining", () => {
  test("join: the notification address is told our own line with Max-Forwards 2", () => {
    const harness = new Harness({ notificationAddresses: ["sip:127.0.0.2:5060"] });
    harness.start();
    const [join] = harness.take();
    expect(join?.to).toBe("127.0.0.2:5060");
    expect(join?.text).toStartWith("KDMQ sip:notification_peer@127.0.0.2:5060 SIP/2.0\r\n");
    expect(join?.text).toContain("\r\nMax-Forwards: 2\r\n");
    expect(bodyOf(join)).toBe(OWN);
  });

  test("join: Max-Forwards and Content-Length stand before From", () => {
    const harness = new Harness({ notificationAddresses: ["sip:127.0.0.2:5060"] });
    harness.start();
    const text = harness.take()[0]?.text ?? "";
    const from = text.indexOf("\r\nFrom:");
    expect(text.indexOf("\r\nMax-Forwards:")).toBeLessThan(from);
    expect(text.indexOf("\r\nContent-Length:")).toBeLessThan(from);
  });

  test("join: a 200 makes the peer active", () => {
    const harness = joined();
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 active"]);
    expect(harness.ofType("peer-up").length).toBe(1);
  });

  test("join: a name is asked for, and asked again for ever", () => {
    const harness = new Harness({ notificationAddresses: ["sip:seed.example:5060"] });
    harness.start();
    expect(harness.asked).toEqual(["seed.example"]);
    harness.resolve("seed.example", [], { ttlMs: 0 });
    harness.runUntil(10_000);
    expect(harness.asked.length).toBeGreaterThan(1);
    harness.resolve("seed.example", ["127.0.0.9"]);
    expect(harness.take().map(({ to }) => to)).toEqual(["127.0.0.9:5060"]);
  });

  test("join: with multi_notify every address of the name is greeted but our own", () => {
    const harness = new Harness({ notificationAddresses: ["sip:seed.example:5060"], multiNotify: true });
    harness.start();
    const addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    harness.resolve("seed.example", addresses, { services: [] });
    expect(harness.take().map(({ to }) => to)).toEqual(["127.0.0.2:5060", "127.0.0.3:5060"]);
  });

  test("join: our own address as notification address is no peer", () => {
    const harness = new Harness({ notificationAddresses: ["sip:127.0.0.1:5060;transport=udp"] });
    harness.start();
    expect(harness.take()).toEqual([]);
    expect(harness.ofType("warning").map(({ code }) => code)).toEqual(["self-talk"]);
  });

  test("join: a dead notification address is tried again and never given up", () => {
    const harness = new Harness({ notificationAddresses: ["sip:127.0.0.2:5060"], pingIntervalMs: 5_000 });
    harness.start();
    harness.runUntil(600_000);
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 not_active"]);
    const [last] = harness.take().slice(-1);
    expect(last?.to).toBe("127.0.0.2:5060");
  });
});

describe("room", () => {
  /** Says that it is there, and answers when it is asked. */
  function meet(harness: Harness, ip: string, port: number): void {
    const body = line(`${ip}:${port}`);
    harness.runUntil(harness.now + 300);
    harness.take();
    harness.receive(kdmq({ from: `${ip}:${port}`, body }), udp(ip, port));
    const question = harness.take().find((one) => isRequest(one) && one.to === `${ip}:${port}`);
    expect(question).toBeDefined();
    harness.receive(response(question as Sent, "200 OK", body), udp(ip, port));
  }

  test("room: one address has 64 peers at most, those aside that an operator names; others are still taken", () => {
    const harness = new Harness({ pingIntervalMs: 3_600_000 });
    for (let port = 6_001; port <= 6_000 + ADDRESS_PEERS_MAX + 10; port++) meet(harness, "127.0.0.9", port);
    expect(harness.node.nodes().length).toBe(ADDRESS_PEERS_MAX);
    const [warning] = harness.ofType("warning");
    expect(warning).toMatchObject({ code: "registry-full" });
    expect(warning?.text).toContain("127.0.0.9:6065: 64 peers are known at 127.0.0.9");
    meet(harness, "127.0.0.8", 6_001);
    harness.do((node, now) => node.add("sip:127.0.0.9:7000", "active", now));
    expect(statuses(harness).slice(0, 2)).toEqual(["sip:127.0.0.9:7000 active", "sip:127.0.0.8:6001 active"]);
    // Who goes makes room.
    harness.do((node, now) => node.remove("sip:127.0.0.9:6001", now));
    harness.do((node, now) => node.remove("sip:127.0.0.9:7000", now));
    meet(harness, "127.0.0.9", 6_074);
    expect(statuses(harness)).toContain("sip:127.0.0.9:6074 active");
  });
});

describe("announcements", () => {
  test("announce: who speaks for itself is in our answer at once, and pinged small", () => {
    const harness = new Harness();
    harness.receive(kdmq({ body: line("127.0.0.2:5060"), maxForwards: 2 }), udp("127.0.0.2"));
    const sent = harness.take();
    const answer = sent.find(({ text }) => text.startsWith("SIP/2.0 200"));
    const ping = sent.find(isRequest);
    expect(bodyOf(answer)).toBe(OWN + line("127.0.0.2:5060"));
    expect(bodyOf(ping)).toBe(OWN);
    expect(statuses(harness)).toEqual([]);
    expect(harness.do((node, now) => node.broadcast("lab", new Uint8Array(1), {}, now))).toEqual([]);
  });

  test("announce: who calls itself 0.0.0.0 is at the address that it speaks from", () => {
    const harness = new Harness();
    const body = line("0.0.0.0:5090") + line("127.0.0.3:5090");
    harness.receive(kdmq({ from: "0.0.0.0:5090", body, maxForwards: 2 }), udp("127.0.0.2", 5090));
    const sent = harness.take();
    expect(bodyOf(sent.find(({ text }) => text.startsWith("SIP/2.0 200")))).toBe(OWN + line("127.0.0.2:5090"));
    const ping = sent.find((one) => isRequest(one) && one.to === "127.0.0.2:5090") as Sent;
    expect(ping.text).toStartWith("KDMQ sip:notification_peer@127.0.0.2:5090 SIP/2.0\r\n");
    harness.receive(response(ping, "200 OK", body), udp("127.0.0.2", 5090));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5090 active"]);
    expect(harness.ofType("warning")).toEqual([]);
    harness.receive(kdmq({ from: "0.0.0.0:5090", channel: "lab" }), udp("127.0.0.2", 5090));
    expect(harness.ofType("message")[0]?.message.peer).toBe("sip:127.0.0.2:5090");
  });

  test("announce: a line 0.0.0.0 of someone with a name is a bad line, and nobody is asked", () => {
    const harness = new Harness();
    harness.receive(kdmq({ body: line("127.0.0.2:5060") + line("0.0.0.0:5090") }), udp("127.0.0.2"));
    expect(harness.ofType("warning").map(({ code }) => code)).toEqual(["bad-line"]);
    expect(
      harness
        .take()
        .filter(isRequest)
        .map(({ to }) => to),
    ).toEqual(["127.0.0.2:5060"]);
  });

  test("announce: its answer makes it active, and broadcasts go to it", () => {
    const harness = new Harness();
    harness.receive(kdmq({ body: line("127.0.0.2:5060") }), udp("127.0.0.2"));
    const ping = harness.take().find(isRequest) as Sent;
    harness.receive(response(ping, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 active"]);
    expect(harness.do((node, now) => node.broadcast("lab", new Uint8Array(1), {}, now)).length).toBe(1);
  });

  test("announce: a join is relayed to the other active peers with one hop less once it has answered, a ping is not", () => {
    const harness = joined();
    const relayed = (): Sent[] => harness.take().filter((one) => isRequest(one) && one.to === "127.0.0.2:5060");
    harness.receive(kdmq({ from: "127.0.0.3:5060", body: line("127.0.0.3:5060"), maxForwards: 2 }), udp("127.0.0.3"));
    const sent = harness.take();
    expect(sent.filter(isRequest).map(({ to }) => to)).toEqual(["127.0.0.3:5060"]);
    harness.receive(response(sent.find(isRequest) as Sent, "200 OK", line("127.0.0.3:5060")), udp("127.0.0.3"));
    const relay = relayed();
    expect(relay.length).toBe(1);
    expect(relay[0]?.text).toContain("\r\nMax-Forwards: 1\r\n");
    expect(bodyOf(relay[0])).toContain(line("127.0.0.3:5060"));
    harness.receive(kdmq({ from: "127.0.0.4:5060", body: line("127.0.0.4:5060"), maxForwards: 1 }), udp("127.0.0.4"));
    const ping = harness.take().find(isRequest) as Sent;
    harness.receive(response(ping, "200 OK", line("127.0.0.4:5060")), udp("127.0.0.4"));
    expect(relayed()).toEqual([]);
    expect(statuses(harness).length).toBe(3);
  });

  test("announce: who has not answered yet is in no list but the answer to itself", () => {
    const harness = joined();
    harness.receive(kdmq({ from: "127.0.0.3:5060", body: line("127.0.0.3:5060"), maxForwards: 2 }), udp("127.0.0.3"));
    harness.take();
    harness.receive(kdmq({ body: line("127.0.0.2:5060") }), udp("127.0.0.2"));
    expect(bodyOf(harness.take()[0])).toBe(OWN + line("127.0.0.2:5060"));
  });

  test("announce: from another address than the line's it is only a hint", () => {
    const harness = new Harness();
    harness.receive(kdmq({ from: "127.0.0.3:5060", body: line("127.0.0.3:5060"), maxForwards: 2 }), udp("127.0.0.66"));
    const answer = harness.take().find(({ text }) => text.startsWith("SIP/2.0 200"));
    expect(bodyOf(answer)).toBe(OWN);
    expect(harness.node.nodes()).toEqual([]);
  });

  test("announce: an announced node that never answers is forgotten", () => {
    const harness = new Harness();
    harness.receive(kdmq({ body: line("127.0.0.2:5060") }), udp("127.0.0.2"));
    harness.runUntil(40_000);
    expect(harness.node.nodes()).toEqual([]);
  });
});

describe("mentions", () => {
  test("mention: a node of others' lists is probed, and a peer only when it has answered", () => {
    const harness = joined();
    harness.receive(kdmq({ body: line("127.0.0.2:5060") + line("127.0.0.7:5060") }), udp("127.0.0.2"));
    const sent = harness.take();
    const answer = sent.find(({ text }) => text.startsWith("SIP/2.0 200"));
    const probe = sent.find(({ to }) => to === "127.0.0.7:5060") as Sent;
    expect(bodyOf(answer)).not.toContain("127.0.0.7");
    expect(bodyOf(probe)).toBe(OWN);
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 active"]);
    harness.receive(response(probe, "200 OK", line("127.0.0.7:5060")), udp("127.0.0.7"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.7:5060 active", "sip:127.0.0.2:5060 active"]);
  });

  test("mention: a made-up list in a request costs four small probes at a time at most", () => {
    const harness = joined();
    const body = Array.from({ length: 200 }, (_, i) => line(`10.9.0.${i}:5060`)).join("");
    harness.receive(kdmq({ body }), udp("127.0.0.2"));
    expect(harness.take().filter(isRequest).length).toBe(CLAIMS_MAX);
    expect(harness.node.nodes().length).toBe(1);
  });

  test("mention: a made-up list in an answer costs twelve small probes at a time at most", () => {
    const harness = joined({ pingIntervalMs: 5_000 });
    harness.runUntil(5_600);
    const ping = harness.take().find(isRequest) as Sent;
    const body = Array.from({ length: 200 }, (_, i) => line(`10.9.0.${i}:5060`)).join("");
    harness.receive(response(ping, "200 OK", body), udp("127.0.0.2"));
    expect(harness.take().filter(isRequest).length).toBe(PROBES_MAX);
    expect(harness.node.nodes().length).toBe(1);
  });

  test("mention: somebody else's active does not revive a peer that failed us", () => {
    const harness = joined({ pingIntervalMs: 5_000 });
    harness.runUntil(12_000);
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 not_active"]);
    harness.receive(kdmq({ from: "127.0.0.3:5060", body: line("127.0.0.2:5060") }), udp("127.0.0.3"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 not_active"]);
  });

  test("mention: somebody else's disabled switches nobody off", () => {
    const harness = joined();
    harness.receive(kdmq({ from: "127.0.0.3:5060", body: line("127.0.0.2:5060", "disabled") }), udp("127.0.0.3"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 active"]);
  });

  test("mention: that we are disabled is answered, counted and ignored", () => {
    const harness = joined();
    harness.receive(kdmq({ body: line("127.0.0.2:5060") + line("127.0.0.1:5060", "disabled") }), udp("127.0.0.2"));
    expect(bodyOf(harness.take()[0])).toStartWith(OWN);
    expect(harness.node.counters.guardsHit).toBe(1);
  });
});

describe("one node, several spellings", () => {
  test("names: a node that is listed by name and by address is one peer", () => {
    const harness = joined();
    harness.receive(
      kdmq({ body: line("127.0.0.2:5060") + line("127.0.0.9:5061") + line("a.example:5061") }),
      udp("127.0.0.2"),
    );
    harness.resolve("a.example", ["127.0.0.9"]);
    const probes = harness.take().filter(({ to }) => to === "127.0.0.9:5061");
    for (const probe of probes)
      harness.receive(response(probe, "200 OK", line("127.0.0.9:5061")), udp("127.0.0.9", 5061));
    expect(probes.length).toBe(2);
    expect(statuses(harness)).toEqual(["sip:127.0.0.9:5061 active", "sip:127.0.0.2:5060 active"]);
  });

  test("names: a name that turns out to be a known address takes over what is known", () => {
    const harness = new Harness({ notificationAddresses: ["sip:seed.example:5060"] });
    harness.start();
    harness.receive(kdmq({ body: line("127.0.0.2:5060") }), udp("127.0.0.2"));
    const ping = harness.take().find(isRequest) as Sent;
    harness.receive(response(ping, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    harness.resolve("seed.example", ["127.0.0.2"]);
    expect(statuses(harness)).toEqual(["sip:seed.example:5060 active"]);
    expect(harness.events.map(({ type }) => type)).toEqual(["peer-up", "joined", "peer-up", "peer-removed"]);
  });
});

describe("leaving and losing", () => {
  test("leave: a peer that says goodbye over TCP is disabled at once, and an older answer does not revive it", () => {
    const harness = joined({ pingIntervalMs: 5_000 });
    harness.runUntil(5_600);
    const ping = harness.take().find(isRequest) as Sent;
    harness.now += 100;
    const leave = kdmq({ body: line("127.0.0.2:5060", "disabled") });
    const from: Endpoint = { transport: "tcp", ip: "127.0.0.2", port: 40_000 };
    harness.do((node, now) => node.handle({ type: "received", from, flow: 1, bytes: encodeUtf8(leave) }, now));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 disabled"]);
    harness.receive(response(ping, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 disabled"]);
  });

  test("leave: a peer that says goodbye in a datagram is asked, and disabled when it says so again", () => {
    const harness = joined();
    harness.receive(kdmq({ body: line("127.0.0.2:5060", "disabled") }), udp("127.0.0.2"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 active"]);
    const question = harness.take().find(isRequest) as Sent;
    harness.receive(response(question, "200 OK", line("127.0.0.2:5060", "disabled")), udp("127.0.0.2"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 disabled"]);
  });

  test("leave: a peer that says goodbye in a datagram and no more is disabled a second later", () => {
    const harness = joined();
    harness.receive(kdmq({ body: line("127.0.0.2:5060", "disabled") }), udp("127.0.0.2"));
    harness.runUntil(999);
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 active"]);
    harness.runUntil(1_000);
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 disabled"]);
    expect(harness.take().filter(isRequest).length).toBe(2);
  });

  test("leave: a goodbye that somebody says in the name of a peer changes nothing, and is warned of", () => {
    const harness = joined();
    const before = harness.node.nodes().map(({ rttMs, ...rest }) => rest);
    for (let i = 0; i < 10; i++) harness.receive(kdmq({ body: line("127.0.0.2:5060", "disabled") }), udp("127.0.0.2"));
    const questions = harness.take().filter(isRequest);
    expect(questions.length).toBe(1);
    harness.receive(response(questions[0] as Sent, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    expect(harness.node.nodes().map(({ rttMs, ...rest }) => rest)).toEqual(before);
    expect(harness.ofType("peer-disabled")).toEqual([]);
    expect(harness.node.counters.falseLeaves).toBe(1);
    expect(harness.ofType("warning").map(({ code }) => code)).toEqual(["false-leave"]);
  });

  test("leave: a peer that comes back is asked, and active when it answers", () => {
    const harness = joined();
    harness.receive(kdmq({ body: line("127.0.0.2:5060", "disabled") }), udp("127.0.0.2"));
    harness.runUntil(1_000);
    harness.take();
    harness.receive(kdmq({ body: line("127.0.0.2:5060"), maxForwards: 2 }), udp("127.0.0.2"));
    const ping = harness.take().find(isRequest) as Sent;
    harness.now += 10;
    harness.receive(response(ping, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 active"]);
  });

  test("leave: we tell every peer, and are gone when they have answered", () => {
    const harness = joined();
    harness.do((node, now) => node.leave({ announce: true }, now));
    const [leave] = harness.take();
    expect(bodyOf(leave)).toBe(line("127.0.0.1:5060", "disabled"));
    expect(leave?.text).toContain("\r\nMax-Forwards: 1\r\n");
    expect(harness.ofType("left")).toEqual([]);
    harness.receive(response(leave as Sent, "200 OK"), udp("127.0.0.2"));
    expect(harness.ofType("left").length).toBe(1);
  });

  test("leave: nobody is waited for beyond a second and a half", () => {
    const harness = joined();
    harness.do((node, now) => node.leave({ announce: true }, now));
    harness.runUntil(1_500);
    expect(harness.ofType("left").length).toBe(1);
  });

  test("leave: without a word where a peer shares our address", () => {
    const harness = new Harness({ notificationAddresses: ["sip:127.0.0.1:5070"] });
    harness.start();
    const [join] = harness.take();
    harness.receive(response(join as Sent, "200 OK", line("127.0.0.1:5070")), udp("127.0.0.1", 5070));
    harness.do((node, now) => node.leave({ announce: true }, now));
    expect(harness.take()).toEqual([]);
    expect(harness.ofType("left").length).toBe(1);
  });

  test("lose: a 408 that somebody says for a peer is a miss like silence", () => {
    const harness = joined({ pingIntervalMs: 5_000 });
    harness.runUntil(5_600);
    const ping = harness.take().find(isRequest) as Sent;
    harness.now += 10;
    harness.receive(response(ping, "408 Request Timeout"), udp("127.0.0.2"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 not_active"]);
  });

  test("lose: an ordinary peer is disabled by the first missed ping and removed by the second", () => {
    const harness = new Harness({ pingIntervalMs: 5_000 });
    harness.receive(kdmq({ body: line("127.0.0.2:5060") }), udp("127.0.0.2"));
    const ping = harness.take().find(isRequest) as Sent;
    harness.receive(response(ping, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    harness.runUntil(60_000);
    expect(harness.events.map(({ type }) => type)).toEqual(["peer-up", "joined", "peer-disabled", "peer-removed"]);
  });
});

describe("what the simulator found", () => {
  const nobodies = (count: number): string =>
    Array.from({ length: count }, (_, i) => line(`127.0.9.${i + 1}:5060`)).join("");

  test("mentioned and announced names together are 16 at most, and who announces itself finds a place", () => {
    const harness = new Harness();
    harness.receive(kdmq({ body: nobodies(40) }), udp("127.0.0.9"));
    for (let i = 0; i < 40; i++) {
      const from = `127.0.8.${i + 1}`;
      harness.receive(kdmq({ from: `${from}:5060`, body: line(`${from}:5060`) }), udp(from));
      expect(harness.node.usage().unverified).toBeLessThanOrEqual(16);
    }
    expect(harness.node.usage()).toMatchObject({ peers: 0, unverified: CLAIMS_MAX + ANNOUNCED_MAX });
  });

  test("a node that answers on another transport as well stays one node", () => {
    const harness = joined();
    harness.receive(kdmq({ body: line("127.0.0.2:5060") + line("127.0.0.3:5060") }), udp("127.0.0.2"));
    const probe = harness.take().find((one) => isRequest(one) && one.to === "127.0.0.3:5060") as Sent;
    harness.receive(response(probe, "200 OK", line("127.0.0.3:5060;transport=tcp")), udp("127.0.0.3"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 active"]);
    const own = kdmq({ from: "127.0.0.4:5060", body: line("127.0.0.4:5060") });
    harness.receive(own, udp("127.0.0.4"));
    const ping = harness.take().find((one) => isRequest(one) && one.to === "127.0.0.4:5060") as Sent;
    harness.receive(response(ping, "200 OK", line("127.0.0.4:5060;transport=tcp")), udp("127.0.0.4"));
    expect(statuses(harness)).toEqual(["sip:127.0.0.2:5060 active"]);
  });

  test("a notification address on another transport gives way to the node's own, whichever answers first", () => {
    const own = line("127.0.0.3:5060");
    for (const first of ["tcp", "udp"]) {
      const harness = new Harness({ notificationAddresses: ["sip:127.0.0.3:5060;transport=tcp"] });
      harness.start();
      const connection = harness.take().find(({ to }) => to === "127.0.0.3:5060") as Sent;
      const viaTcp = (): void =>
        harness.receive(response(connection, "200 OK", own), { ...udp("127.0.0.3"), transport: "tcp" });
      const viaUdp = (): void => {
        harness.receive(kdmq({ from: "127.0.0.3:5060", body: own }), udp("127.0.0.3"));
        const ping = harness.take().find((one) => isRequest(one) && one.to === "127.0.0.3:5060") as Sent;
        harness.receive(response(ping, "200 OK", own), udp("127.0.0.3"));
      };
      for (const answer of first === "tcp" ? [viaTcp, viaUdp] : [viaUdp, viaTcp]) answer();
      expect(harness.node.nodes().map(({ uri, status, source }) => `${uri} ${status} ${source}`)).toEqual([
        "sip:127.0.0.3:5060 active notification_address",
      ]);
    }
  });

  test("a name that leads elsewhere of late is not listed before it has answered from there", () => {
    const harness = new Harness({ notificationAddresses: ["sip:bus.example:5060"] });
    harness.start();
    const pinged = (ip: string): Sent => harness.take().findLast(({ to }) => to === `${ip}:5060`) as Sent;
    const listed = (): string => {
      harness.receive(kdmq({ from: "127.0.0.7:5060" }), udp("127.0.0.7"));
      return bodyOf(harness.take().at(-1));
    };
    harness.resolve("bus.example", ["127.0.0.2"]);
    harness.receive(response(pinged("127.0.0.2"), "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    expect(listed()).toBe(OWN + line("127.0.0.2:5060"));
    harness.runUntil(60_000);
    harness.take();
    harness.resolve("bus.example", ["127.0.0.5"]);
    const ping = pinged("127.0.0.5");
    expect(listed()).toBe(OWN);
    harness.receive(response(ping, "200 OK", line("127.0.0.5:5060")), udp("127.0.0.5"));
    expect(listed()).toBe(OWN + line("127.0.0.5:5060"));
  });
});
