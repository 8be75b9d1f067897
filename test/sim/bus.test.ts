/** Stories of a bus, each with one line of goal and method. All of them run under a virtual clock, from one seed each. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { Bus, type BusOptions, type SimNode, type SimNodeOptions } from "../../src/sim/bus.ts";

const SECOND = 1_000;
const MINUTE = 60_000;
const SEED = "sip:10.0.0.1:5060";

let bus: Bus;

beforeEach(() => {
  bus = new Bus({ seed: 1 });
});

/** A story that ends badly is told by its ladder; one that ends well is not told. */
function agreed(withinMs: number): void {
  const done = bus.runUntil(() => bus.disagreements().length === 0, withinMs, 50);
  if (!done) throw new Error(`${bus.disagreements().join("\n")}\n${bus.trace.text(120)}`);
}

function three(options: SimNodeOptions = {}, busOptions: Partial<BusOptions> = {}): [SimNode, SimNode, SimNode] {
  bus = new Bus({ seed: 1, ...busOptions });
  const seed = bus.startNode({ ...options, notificationAddresses: [] });
  const others = [1, 2].map(() => bus.startNode({ ...options, notificationAddresses: [SEED] }));
  agreed(2 * SECOND);
  return [seed, others[0] as SimNode, others[1] as SimNode];
}

function status(viewer: SimNode, seen: SimNode): string | undefined {
  return bus.peer(viewer, seen)?.status;
}

function bodies(node: SimNode): string[] {
  return node.messages().map((message) => decodeUtf8(message.body));
}

describe("joining", () => {
  test("three nodes that know one seed know each other within two seconds", () => {
    const nodes = three();
    for (const node of nodes) expect(node.running.nodes().map((peer) => peer.status)).toEqual(["active", "active"]);
  });

  test("the same over TCP, and over both", () => {
    for (const transports of [
      ["tcp", "tcp", "tcp"],
      ["udp", "tcp", "udp"],
    ] as const) {
      bus = new Bus({ seed: 5 });
      const address = transports[0] === "tcp" ? `${SEED};transport=tcp` : SEED;
      for (const transport of transports) bus.startNode({ transport, notificationAddresses: [address] });
      agreed(5 * SECOND);
    }
  });

  test("twelve nodes that start at once find each other within two ping intervals", () => {
    for (let i = 0; i < 12; i++) bus.startNode({ notificationAddresses: [SEED] });
    agreed(2 * MINUTE);
  });

  test("nodes that start before their seed join when it comes", () => {
    const seed = bus.addNode();
    bus.startNode({ notificationAddresses: [SEED] });
    bus.startNode({ notificationAddresses: [SEED] });
    bus.runFor(5 * MINUTE);
    bus.start(seed);
    agreed(2 * MINUTE);
  });

  test("a name that resolves late only delays", () => {
    bus.startNode();
    bus.startNode({ notificationAddresses: ["sip:seed.test:5060"] });
    bus.runFor(3 * MINUTE);
    expect(bus.disagreements()).not.toEqual([]);
    bus.setName("seed.test", ["10.0.0.1"]);
    agreed(2 * MINUTE);
  });

  test("a node whose notification address is its own does not talk to itself", () => {
    const node = bus.startNode({ notificationAddresses: [SEED] });
    bus.runFor(3 * MINUTE);
    expect(node.running.nodes()).toEqual([]);
  });
});

describe("messages", () => {
  test("a broadcast reaches every other node once, and each answer is known", () => {
    const [seed, second, third] = three();
    const sent = bus.broadcast(seed, "news", encodeUtf8("hello"));
    expect(sent).toHaveLength(2);
    bus.runFor(SECOND);
    expect([bodies(seed), bodies(second), bodies(third)]).toEqual([[], ["hello"], ["hello"]]);
    expect(seed.outcomes().map((report) => report.outcome.type)).toEqual(["delivered", "delivered"]);
  });

  test("half of the datagrams copied: each handler still runs once", () => {
    const [seed, second, third] = three({}, { link: { duplication: 0.5, reordering: 0.5, reorderingMs: 2_000 } });
    const expected: string[] = [];
    for (let i = 0; i < 40; i++) {
      expected.push(`m${i}`);
      bus.broadcast(seed, "news", encodeUtf8(`m${i}`));
      bus.runFor(SECOND);
    }
    bus.runFor(MINUTE);
    for (const node of [second, third]) expect(bodies(node).toSorted()).toEqual(expected.toSorted());
    expect(second.running.counters.retransmissionsReceived).toBeGreaterThan(0);
  });

  test("30 % lost: every request still ends as delivered, once", () => {
    const [seed, second] = three({}, { link: {} });
    bus.setLink({ loss: 0.3 });
    const numbers = Array.from({ length: 30 }, (_, i) =>
      bus.send(seed, "news", second.running.uri(), encodeUtf8(`${i}`)),
    );
    bus.runFor(MINUTE);
    const reports = seed.outcomes();
    expect(reports.map((report) => report.request).toSorted((a, b) => a - b)).toEqual(numbers);
    expect(new Set(reports.map((report) => report.outcome.type))).toEqual(new Set(["delivered"]));
    expect(new Set(bodies(second)).size).toBe(30);
    expect(bodies(second)).toHaveLength(30);
  });

  test("a handler that takes two seconds answers in time, and runs once though the request is repeated", () => {
    const handler = () => ({ afterMs: 2_000, answer: { status: 202 } });
    const [seed, second] = three({ handler });
    bus.send(seed, "slow", second.running.uri(), encodeUtf8("x"));
    bus.runFor(10 * SECOND);
    expect(bodies(second)).toEqual(["x"]);
    expect(seed.outcomes()[0]?.outcome).toMatchObject({ type: "delivered", code: 202, consumer: false });
  });

  test("a message to a host that is gone times out after 32 seconds", () => {
    const [seed, second] = three();
    const uri = second.running.uri();
    bus.kill(second, "host");
    bus.send(seed, "news", uri, encodeUtf8("x"));
    bus.runFor(31 * SECOND);
    expect(seed.outcomes()).toEqual([]);
    bus.runFor(2 * SECOND);
    expect(seed.outcomes().map((report) => report.outcome)).toEqual([{ type: "timeout" }]);
  });

  test("an unknown node is the caller's mistake", () => {
    const [seed] = three();
    expect(() => bus.send(seed, "news", "sip:10.9.9.9:5060", encodeUtf8("x"))).toThrow();
  });
});

describe("faults", () => {
  test("cut off in one direction for ten minutes, then back", () => {
    const [seed, second, third] = three();
    bus.partition([third], [seed, second], { oneWay: true });
    bus.runFor(10 * MINUTE);
    expect(status(third, seed)).not.toBe("active");
    expect(status(seed, second)).toBe("active");
    bus.heal();
    agreed(3 * MINUTE);
  });

  test("split in half for ten minutes, then one bus again", () => {
    const nodes = [1, 2, 3, 4].map(() => bus.startNode({ notificationAddresses: [SEED] }));
    agreed(2 * MINUTE);
    bus.partition(nodes.slice(0, 2), nodes.slice(2));
    bus.runFor(10 * MINUTE);
    expect(status(nodes[0] as SimNode, nodes[3] as SimNode)).not.toBe("active");
    expect(status(nodes[2] as SimNode, nodes[3] as SimNode)).toBe("active");
    bus.heal();
    agreed(3 * MINUTE);
  });

  test("the seed dies, the others keep each other", () => {
    const [seed, second, third] = three();
    bus.kill(seed, "host");
    bus.runFor(10 * MINUTE);
    expect(bus.disagreements()).toEqual([]);
    expect([status(second, third), status(third, second)]).toEqual(["active", "active"]);
    expect(status(second, seed)).not.toBe("active");
  });

  test("all seeds lost: the rest goes on, and a returning seed is joined by all", () => {
    const seed = bus.startNode();
    const rest = [1, 2, 3].map(() => bus.startNode({ notificationAddresses: [SEED] }));
    agreed(2 * MINUTE);
    bus.kill(seed);
    bus.runFor(30 * MINUTE);
    expect(bus.disagreements()).toEqual([]);
    bus.restart(rest[0] as SimNode, { snapshot: true });
    agreed(2 * MINUTE);
    bus.start(seed);
    agreed(2 * MINUTE);
  });

  test("a node restarted without a snapshot while every seed is down is found again by the others' pings", () => {
    const [seed, second] = three();
    bus.kill(seed);
    bus.runFor(5 * SECOND);
    bus.restart(second);
    agreed(3 * MINUTE);
  });

  test("a restart at the same address is one entry, at once", () => {
    const [seed, second, third] = three();
    bus.restart(second);
    agreed(5 * SECOND);
    for (const node of [seed, third]) expect(node.running.nodes()).toHaveLength(2);
  });

  test("a crash is noticed within a ping interval and a timeout", () => {
    const [seed, second, third] = three();
    bus.kill(third, "host");
    // Give or take a tenth of an interval: nodes that were started at once do not ping at once.
    agreed(1.1 * MINUTE + 33 * SECOND);
    expect(seed.events.some((event) => event.type === "peer-disabled" || event.type === "peer-down")).toBe(true);
    expect(status(seed, second)).toBe("active");
  });
});

describe("names", () => {
  test("a seed that moves is followed, and is one entry", () => {
    bus.setName("seed.test", ["10.0.0.1"]);
    const address = ["sip:seed.test:5060"];
    const seed = bus.startNode();
    const rest = [1, 2].map(() => bus.startNode({ notificationAddresses: address }));
    agreed(2 * MINUTE);
    bus.restart(seed, { ip: "10.0.0.9" });
    bus.setName("seed.test", ["10.0.0.9"]);
    agreed(3 * MINUTE);
    for (const node of rest) {
      const active = node.running.nodes().filter((peer) => peer.status === "active");
      expect(active).toHaveLength(2);
    }
  });

  test("a name of several addresses with one dead, then another: the bus is what the name says within TTL and a ping", () => {
    const name = "bus.test";
    const address = [`sip:${name}:5060`];
    bus.setName(name, ["10.0.0.1", "10.0.0.2", "10.0.0.77"], { ttlMs: 10 * SECOND });
    const [first, second] = [bus.startNode(), bus.startNode()];
    const own = bus.startNode({ notificationAddresses: address, multiNotify: true });
    agreed(5 * SECOND);
    const dead = (): string | undefined => own.running.nodes().find(({ host }) => host === "10.0.0.77")?.status;
    bus.runFor(5 * MINUTE);
    expect([bus.disagreements(), dead()]).toEqual([[], "not_active"]);

    const moved = bus.addNode({ ip: "10.0.0.50" });
    bus.kill(second, "host");
    bus.start(moved);
    bus.setName(name, ["10.0.0.1", "10.0.0.50", "10.0.0.77"], { ttlMs: 10 * SECOND });
    expect(bus.runUntil(() => status(own, moved) === "active", 11 * SECOND)).toBe(true);
    // The old address is one of many now: two missed pings and it is forgotten.
    expect(bus.runUntil(() => status(own, second) === undefined, 4 * MINUTE)).toBe(true);
    agreed(MINUTE);
    expect([status(own, first), dead()]).toEqual(["active", "not_active"]);
  });

  test("SRV records give the port, and only those with the port of the address count", () => {
    const services = [
      { ip: "10.0.0.1", port: 5090 },
      { ip: "10.0.0.2", port: 5091 },
    ];
    bus.setName("_sip._udp.bus.test", [], { services });
    const first = bus.startNode({ port: 5090 });
    const second = bus.startNode({ port: 5091 });
    const all = bus.startNode({ notificationAddresses: ["sip:_sip._udp.bus.test"], multiNotify: true });
    const one = bus.startNode({ notificationAddresses: ["sip:_sip._udp.bus.test:5091"], multiNotify: true });
    const contacts = (node: SimNode): string[] =>
      node.running.nodes().flatMap(({ uri, source }) => (source === "notification_address" ? [uri] : []));
    agreed(5 * SECOND);
    expect(contacts(all).sort()).toEqual([first.running.uri(), second.running.uri()]);
    expect(contacts(one)).toEqual([second.running.uri()]);
  });

  test("DNS dies for an hour and comes back: nobody notices", () => {
    bus.setName("bus.test", ["10.0.0.1", "10.0.0.2"], { ttlMs: 5 * SECOND });
    const address = ["sip:bus.test:5060"];
    const nodes = [1, 2, 3].map((i) => bus.startNode({ notificationAddresses: address, multiNotify: i !== 3 }));
    agreed(MINUTE);
    const before = nodes.map((node) => node.events.filter(({ type }) => type.startsWith("peer-")).length);
    bus.setDnsDead(true);
    bus.runFor(60 * MINUTE);
    bus.setDnsDead(false);
    bus.runFor(5 * MINUTE);
    expect(bus.disagreements()).toEqual([]);
    expect(nodes.map((node) => node.events.filter(({ type }) => type.startsWith("peer-")).length)).toEqual(before);
    // Every failure waits twice as long as the one before, up to the ping interval.
    const warnings =
      nodes[0]?.events.filter((event) => event.type === "warning" && event.code === "unresolvable") ?? [];
    expect(warnings.length).toBeGreaterThan(10);
    expect(warnings.length).toBeLessThan(75);
  });
});

describe("leaving", () => {
  test("an announced leave is seen at once, and leaves nothing behind", () => {
    const [seed, second, third] = three();
    bus.leave(third);
    agreed(50);
    expect([status(seed, third), status(second, third)]).not.toContain("active");
    bus.runFor(10 * MINUTE);
    expect(third.left).toBe(true);
    expect(bus.disagreements()).toEqual([]);
  });

  test("a node that left comes back with its next start", () => {
    const [, , third] = three();
    bus.leave(third);
    bus.runFor(3 * SECOND);
    bus.start(third);
    agreed(2 * SECOND);
  });

  test("a leave without a word ends what is in flight", () => {
    const [seed, second, third] = three();
    const uri = second.running.uri();
    bus.kill(second, "host");
    bus.send(third, "news", uri, encodeUtf8("x"));
    bus.leave(third, false);
    expect(bus.runUntil(() => third.left, 2 * SECOND)).toBe(true);
    expect(third.outcomes()).toHaveLength(1);
    expect(status(seed, third)).toBe("active");
  });
});

describe("a run", () => {
  const play = (seed: number): string => {
    bus = new Bus({ seed, link: { loss: 0.2, duplication: 0.1, reordering: 0.2 } });
    for (let i = 0; i < 5; i++) bus.startNode({ notificationAddresses: [SEED] });
    bus.runFor(3 * MINUTE);
    bus.restart(bus.node("n2"));
    bus.runFor(3 * MINUTE);
    return bus.trace.hash();
  };

  test("is a function of its seed", () => {
    expect(play(11)).toBe(play(11));
    expect(play(11)).not.toBe(play(12));
  });

  test("that gets nowhere fails and shows its ladder", () => {
    bus = new Bus({ seed: 1, maxStepsPerSecond: 50 });
    const again = (): void => bus.schedule(0, again);
    again();
    expect(() => bus.runFor(SECOND)).toThrow(/livelock: 50 steps in virtual second 0[\s\S]*seed 1/);
  });
});

afterEach(() => {
  for (const node of bus.nodes) {
    if (node.core !== undefined) expect(node.running.counters.malformed).toBe(0);
  }
});
