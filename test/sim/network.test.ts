/** The simulated network alone: what it owes the nodes on either transport, and that a seed gives a run again. */
import { describe, expect, test } from "bun:test";
import { concatBytes, decodeUtf8, encodeUtf8, spanOf } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { Flow } from "../../src/node/io.ts";
import { Agenda } from "../../src/sim/agenda.ts";
import { type Arrival, type LinkOptions, Network } from "../../src/sim/network.ts";
import { summarize, Trace } from "../../src/sim/trace.ts";

const A = "10.0.0.1";
const B = "10.0.0.2";
const PORT = 5060;
const UDP_B: Endpoint = { transport: "udp", ip: B, port: PORT };
const TCP_B: Endpoint = { transport: "tcp", ip: B, port: PORT };

function twoHosts(link: Partial<LinkOptions> = {}, seed = 1): { network: Network; trace: Trace } {
  const trace = new Trace(seed);
  const network = new Network(seededRandom(seed), trace, link);
  network.attach("a", A, PORT);
  network.attach("b", B, PORT);
  return { network, trace };
}

function send(network: Network, to: Endpoint, text: string, now = 0, flow?: Flow): void {
  const output = { type: "transmit" as const, to, ...spanOf(encodeUtf8(text)) };
  network.transmit(A, PORT, flow === undefined ? output : { ...output, flow }, now);
}

/** Everything that arrives up to `until`, with its time. */
function arrivals(network: Network, until: number): { at: number; arrival: Arrival }[] {
  const found: { at: number; arrival: Arrival }[] = [];
  for (let at = network.nextAt(); at !== undefined && at <= until; at = network.nextAt()) {
    const arrival = network.take(at);
    if (arrival !== undefined) found.push({ at, arrival });
  }
  return found;
}

function texts(list: { arrival: Arrival }[]): string[] {
  return list.flatMap(({ arrival }) => (arrival.input.type === "received" ? [decodeUtf8(arrival.input.bytes)] : []));
}

function types(list: { arrival: Arrival }[]): string[] {
  return list.map(({ arrival }) => `${arrival.host} ${arrival.input.type}`);
}

describe("agenda", () => {
  test("items come by time, and at one instant in the order in which they were added", () => {
    const agenda = new Agenda<string>();
    for (const [at, item] of [
      [5, "c"],
      [1, "a"],
      [5, "d"],
      [3, "b"],
      [5, "e"],
    ] as const)
      agenda.add(at, item);
    expect(agenda.take(0)).toBeUndefined();
    const order: (string | undefined)[] = [];
    while (agenda.size > 0) order.push(agenda.take(9));
    expect(order).toEqual(["a", "b", "c", "d", "e"]);
  });

  test("a thousand items in any order come out sorted", () => {
    const random = seededRandom(7);
    const agenda = new Agenda<number>();
    const times = Array.from({ length: 1_000 }, () => random.u32() % 500);
    for (const at of times) agenda.add(at, at);
    const out = times.map(() => agenda.take(1_000));
    expect(out).toEqual(times.toSorted((x, y) => x - y));
  });
});

describe("datagrams", () => {
  test("arrive within the link's delay, from the sender's own address", () => {
    const { network } = twoHosts({ delayMinMs: 10, delayMaxMs: 20 });
    for (let i = 0; i < 50; i++) send(network, UDP_B, `m${i}`);
    const list = arrivals(network, 1_000);
    expect(list).toHaveLength(50);
    for (const { at, arrival } of list) {
      expect(at).toBeGreaterThanOrEqual(10);
      expect(at).toBeLessThanOrEqual(20);
      expect(arrival).toMatchObject({ host: "b", input: { flow: 0, from: { transport: "udp", ip: A, port: PORT } } });
    }
  });

  test("octets are copied, so that the sender may reuse its memory", () => {
    const { network } = twoHosts();
    const bytes = encodeUtf8("first");
    network.transmit(A, PORT, { type: "transmit", to: UDP_B, ...spanOf(bytes) }, 0);
    bytes.fill(0);
    expect(texts(arrivals(network, 100))).toEqual(["first"]);
  });

  test("are lost and copied about as often as asked for", () => {
    const { network } = twoHosts({ loss: 0.3, duplication: 0.1 });
    for (let i = 0; i < 2_000; i++) send(network, UDP_B, `m${i}`);
    const count = arrivals(network, 1_000).length;
    expect(count).toBeGreaterThan(1_500);
    expect(count).toBeLessThan(1_700);
  });

  test("are overtaken where reordering is asked for", () => {
    const { network } = twoHosts({ reordering: 0.2, reorderingMs: 500 });
    for (let i = 0; i < 100; i++) send(network, UDP_B, `${i}`, i * 10);
    const order = texts(arrivals(network, 10_000)).map(Number);
    expect(order).toHaveLength(100);
    expect(order).not.toEqual(order.toSorted((x, y) => x - y));
  });

  test("a partition in one direction leaves the other open", () => {
    const { network } = twoHosts();
    network.cut("a", "b");
    send(network, UDP_B, "to b");
    network.transmit(B, PORT, { type: "transmit", to: { ...UDP_B, ip: A }, ...spanOf(encodeUtf8("to a")) }, 0);
    expect(texts(arrivals(network, 100))).toEqual(["to a"]);
    network.heal();
    send(network, UDP_B, "again", 100);
    expect(texts(arrivals(network, 200))).toEqual(["again"]);
  });

  const deaths = [
    ["process", ["a unsent"]],
    ["host", []],
  ] as const;
  for (const [death, expected] of deaths) {
    test(`to a dead ${death} bring ${expected.length === 0 ? "nothing" : "an ICMP error"} back`, () => {
      const { network } = twoHosts();
      network.detach(B, PORT, death, 0);
      send(network, UDP_B, "hello");
      expect(types(arrivals(network, 100))).toEqual([...expected]);
    });
  }

  test("too large for IPv4 do not leave", () => {
    const { network } = twoHosts();
    send(network, UDP_B, "x".repeat(65_508));
    expect(types(arrivals(network, 100))).toEqual(["a unsent"]);
  });

  test("for an earlier life of a host reach the present one at that address", () => {
    const { network } = twoHosts({ delayMinMs: 50, delayMaxMs: 50 });
    send(network, UDP_B, "old");
    network.detach(B, PORT, "process", 10);
    network.attach("b", B, PORT);
    expect(texts(arrivals(network, 100))).toEqual(["old"]);
  });
});

describe("streams", () => {
  test("whatever the link does, octets arrive once and in order, split anywhere", () => {
    const { network } = twoHosts({ loss: 0.2, duplication: 0.5, reordering: 0.5, split: 0.6 });
    const parts = Array.from({ length: 200 }, (_, i) => `message ${i};`);
    for (const [i, part] of parts.entries()) send(network, TCP_B, part, i);
    const list = arrivals(network, 600_000);
    const bytes = list.map(({ arrival }) =>
      arrival.input.type === "received" ? arrival.input.bytes : encodeUtf8("!"),
    );
    expect(decodeUtf8(concatBytes(bytes))).toBe(parts.join(""));
    expect(list.length).toBeGreaterThan(parts.length);
    expect(new Set(list.map(({ arrival }) => "flow" in arrival.input && arrival.input.flow)).size).toBe(1);
  });

  test("an answer goes back on the flow of the question", () => {
    const { network } = twoHosts({ split: 0 });
    send(network, TCP_B, "question");
    const [first] = arrivals(network, 100);
    if (first?.arrival.input.type !== "received") throw new Error("no question");
    const { from, flow } = first.arrival.input;
    expect(from.port).not.toBe(PORT);
    network.transmit(B, PORT, { type: "transmit", to: from, flow, ...spanOf(encodeUtf8("answer")) }, 100);
    expect(texts(arrivals(network, 200))).toEqual(["answer"]);
  });

  test("to a closed port come back unsent, message by message", () => {
    const { network } = twoHosts();
    network.detach(B, PORT, "process", 0);
    send(network, TCP_B, "one");
    send(network, TCP_B, "two");
    expect(types(arrivals(network, 100))).toEqual(["a unsent", "a unsent"]);
  });

  test("to a host that is gone come back unsent when connecting takes too long", () => {
    const { network } = twoHosts();
    network.detach(B, PORT, "host", 0);
    send(network, TCP_B, "one");
    expect(arrivals(network, 9_000)).toEqual([]);
    expect(types(arrivals(network, 20_000))).toEqual(["a unsent"]);
  });

  test("a partition holds octets back, and a long one ends the stream", () => {
    const { network } = twoHosts({ split: 0 });
    send(network, TCP_B, "before");
    expect(texts(arrivals(network, 100))).toEqual(["before"]);
    network.cut("b", "a");
    send(network, TCP_B, "held", 100);
    expect(arrivals(network, 20_000)).toEqual([]);
    network.heal();
    expect(texts(arrivals(network, 40_000))).toEqual(["held"]);
    network.cut("b", "a");
    send(network, TCP_B, "lost", 40_000);
    expect(types(arrivals(network, 120_000))).toEqual(["a closed"]);
  });

  test("both ends hear of a reset, and the next octets make a new stream", () => {
    const { network } = twoHosts({ split: 0 });
    send(network, TCP_B, "one");
    arrivals(network, 100);
    network.resetStreams(100);
    expect(types(arrivals(network, 200)).toSorted()).toEqual(["a closed", "b closed"]);
    send(network, TCP_B, "two", 200);
    expect(texts(arrivals(network, 300))).toEqual(["two"]);
  });

  test("what was queued before a close still arrives, then the end", () => {
    const { network } = twoHosts({ split: 0 });
    network.transmit(A, PORT, { type: "transmit", to: TCP_B, ...spanOf(encodeUtf8("last")), close: true }, 0);
    expect(types(arrivals(network, 100))).toEqual(["a closed", "b received", "b closed"]);
  });

  test("of a killed process are reset, and what it had queued is lost", () => {
    const { network } = twoHosts({ split: 0 });
    send(network, TCP_B, "one");
    arrivals(network, 100);
    send(network, TCP_B, "two", 100);
    network.detach(A, PORT, "process", 100);
    expect(types(arrivals(network, 200))).toEqual(["b closed"]);
  });
});

describe("names", () => {
  const ask = (network: Network, name: string): unknown => {
    network.resolve(A, PORT, name, false, 0);
    return arrivals(network, 1_000).map(({ arrival }) => arrival.input);
  };

  test("are answered as they are known when the answer leaves", () => {
    const { network } = twoHosts({ dnsDelayMinMs: 100, dnsDelayMaxMs: 100 });
    network.setName("seed.test", [A]);
    network.resolve(A, PORT, "Seed.test", false, 0);
    network.setName("seed.test", [B]);
    const [answer] = arrivals(network, 1_000);
    expect(answer?.at).toBe(100);
    expect(answer?.arrival.input).toMatchObject({ type: "resolved", host: "Seed.test", addresses: [B] });
  });

  test("that nobody knows fail with a cause, and a literal is its own answer", () => {
    const { network } = twoHosts();
    expect(ask(network, "nobody.test")).toMatchObject([{ addresses: [], cause: expect.any(Error) }]);
    expect(ask(network, "10.9.9.9")).toMatchObject([{ type: "resolved", host: "10.9.9.9", addresses: ["10.9.9.9"] }]);
  });

  test("have services for who asks for them, and the TTL that they were given", () => {
    const { network } = twoHosts();
    const services = [{ ip: B, port: 5090 }];
    network.setName("seed.test", [A], { services, ttlMs: 7_000 });
    network.resolve(A, PORT, "seed.test", true, 0);
    const [answer] = arrivals(network, 1_000);
    const expected = { type: "resolved", host: "seed.test", addresses: [A], services, complete: true, ttlMs: 7_000 };
    expect(answer?.arrival.input).toEqual(expected as never);
    expect((ask(network, "seed.test") as { services?: unknown }[])[0]?.services).toBeUndefined();
  });

  test("have no answer while DNS is dead, and say after a while that it is none", () => {
    const { network } = twoHosts();
    network.setName("seed.test", [A]);
    network.setDnsDead(true);
    network.resolve(A, PORT, "seed.test", false, 0);
    expect(arrivals(network, 4_999)).toEqual([]);
    expect(arrivals(network, 5_000).map(({ arrival }) => arrival.input)).toMatchObject([
      { addresses: [], complete: false, cause: expect.any(Error) },
    ]);
    network.setDnsDead(false);
    expect(ask(network, "seed.test")).toMatchObject([{ addresses: [A], complete: true }]);
  });
});

describe("trace", () => {
  const play = (seed: number): Trace => {
    const { network, trace } = twoHosts({ loss: 0.2, duplication: 0.1, reordering: 0.3 }, seed);
    for (let i = 0; i < 100; i++) send(network, i % 3 === 0 ? TCP_B : UDP_B, `m${i}`, i);
    arrivals(network, 60_000);
    return trace;
  };

  test("the same seed gives the same hash, another seed another", () => {
    expect(play(3).hash()).toBe(play(3).hash());
    expect(play(3).hash()).not.toBe(play(4).hash());
  });

  test("a ladder names its seed, the direction, what the network did, and what a message is", () => {
    const trace = new Trace(42);
    const bytes = encodeUtf8(
      "KDMQ sip:c@b SIP/2.0\r\nv: SIP/2.0/UDP a;branch=z9hG4bK12345678;rport\r\nCSeq: 10 KDMQ\r\ni: x@a\r\n\r\nbody",
    );
    trace.message(1_500, "a", "b", "lost", bytes);
    trace.note(2_000, "a", "dies");
    expect(trace.text()).toContain("seed 42");
    expect(trace.text()).toContain("1.500  a ──✗ lost b  KDMQ sip:c@b SIP/2.0  [10 KDMQ 12345678]");
    expect(trace.text()).toContain("2.000  a: dies");
    expect(summarize(bytes)).toEqual({
      firstLine: "KDMQ sip:c@b SIP/2.0",
      callId: "x@a",
      cseq: "10 KDMQ",
      branch: "z9hG4bK12345678",
    });
  });

  test("forgets old lines, not that they were", () => {
    const trace = new Trace(1, 10);
    const other = new Trace(1, 10);
    for (let i = 0; i < 1_000; i++) trace.note(i, "a", `line ${i}`);
    for (let i = 0; i < 1_000; i++) other.note(i, "a", `line ${i === 5 ? "five" : i}`);
    expect(trace.text(5)).toContain("last 5 of 1000 lines");
    expect(trace.hash()).not.toBe(other.hash());
  });
});
