/** A visit under a virtual clock: what it says on the bus, whom it believes, and when it gives up. */

import { describe, expect, test } from "bun:test";
import { viewOf } from "../../src/core/bytes.ts";
import { type Endpoint, endpointKey, isReliable } from "../../src/core/endpoint.ts";
import { ProtocolError } from "../../src/core/errors.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { Place, ReadingStep } from "../../src/guest/reading.ts";
import { Visit } from "../../src/guest/visit.ts";
import { type PeerAddress, parseAddress } from "../../src/membership/peer.ts";
import type { OutcomeReport } from "../../src/node/io.ts";
import type { SipRequest } from "../../src/sip/message.ts";
import { parseMessage } from "../../src/sip/parse.ts";

const A = "sip:192.0.2.1:5060";
const B = "sip:192.0.2.2:5060";
const C = "sip:192.0.2.3:5060";
const OWN = "192.0.2.99";

function address(uri: string): PeerAddress {
  const parsed = parseAddress(uri);
  if (parsed instanceof ProtocolError) throw parsed;
  return parsed;
}

function list(...lines: string[]): string {
  return lines.map((line) => `${line}\r\n`).join("");
}

const active = (uri: string): string => `${uri};status=active`;

interface Sent {
  at: number;
  to: string;
  request: SipRequest;
  text: string;
}

/** Answers of the nodes by endpoint: the whole answer is made of a status line and a body. */
type Responder = (request: SipRequest, count: number) => { status: string; body?: string } | undefined;

class World {
  now = 0;
  readonly visit: Visit;
  readonly sent: Sent[] = [];
  readonly placing: PeerAddress[] = [];
  readonly outcomes: OutcomeReport[] = [];
  readonly nodes = new Map<string, Responder>();
  /** Addresses of names; one that is not here is never answered. */
  readonly names = new Map<string, string[]>();
  result: Extract<ReadingStep, { type: "found" | "nobody" }> | undefined;
  private readonly counts = new Map<string, number>();

  constructor(...contacts: string[]) {
    const options = {
      contacts: contacts.map((text) => ({ text, address: address(text) })),
      notificationChannel: "notification_peer",
      userAgent: "dmq",
    };
    this.visit = new Visit(options, seededRandom(1));
  }

  /** The node at `uri` answers its list to an empty notification, and 200 to everything else. */
  node(uri: string, body: string): this {
    const key = endpointKey({ ...address(uri), ip: address(uri).host });
    this.nodes.set(key, (request) => ({
      status: "200 OK",
      body: request.uri.includes("notification_peer") ? body : "",
    }));
    return this;
  }

  answers(uri: string, responder: Responder): this {
    this.nodes.set(endpointKey({ ...address(uri), ip: address(uri).host }), responder);
    return this;
  }

  read(timeoutMs = 9_000): this {
    this.visit.read(timeoutMs, this.now);
    this.pump();
    return this;
  }

  /** Until nothing is left to wait for. Bounded: a visit that never ends fails. */
  run(): this {
    for (let steps = 0; steps < 1_000; steps++) {
      const next = this.visit.nextTimeout();
      if (next === undefined || next > 60_000) return this;
      this.advance(Math.max(next, this.now));
    }
    throw new Error("the visit never came to rest");
  }

  advance(to: number): void {
    this.now = to;
    this.visit.handleTimeout(to);
    this.pump();
  }

  pump(): void {
    for (let output = this.visit.poll(); output !== undefined; output = this.visit.poll()) {
      if (output.type === "transmit") this.transmit(output.to, viewOf(output));
      else if (output.type === "place") this.place(output.address);
      else if (output.type === "read") this.result = output.result;
      else if (output.type === "outcome") this.outcomes.push(output.report);
    }
  }

  private place(where: PeerAddress): void {
    this.placing.push(where);
    const literal = /^[\d.]+$/.test(where.host) ? [where.host] : this.names.get(where.host);
    if (literal === undefined) return;
    const { transport, port } = where;
    const from = { transport, host: OWN, port: isReliable(transport) ? 9 : 40_000 };
    const places: Place[] = literal.map((ip) => ({ to: { transport, ip, port }, from }));
    const why = `${where.host} has no address`;
    this.visit.handle({ type: "placed", address: where, places, why }, this.now);
  }

  private transmit(to: Endpoint, bytes: Uint8Array): void {
    const request = parseMessage(bytes, "datagram") as SipRequest;
    const key = endpointKey(to);
    this.sent.push({ at: this.now, to: key, request, text: new TextDecoder().decode(bytes) });
    const count = (this.counts.get(key) ?? 0) + 1;
    this.counts.set(key, count);
    const answer = this.nodes.get(key)?.(request, count);
    if (answer !== undefined) this.receive(to, responseTo(request, answer.status, answer.body ?? ""));
  }

  receive(from: Endpoint, text: string, flow = isReliable(from.transport) ? 1 : 0): void {
    this.visit.handle({ type: "received", from, flow, bytes: new TextEncoder().encode(text) }, this.now);
  }

  send(channel: string, node: string, options: { timeoutMs?: number } = {}): number {
    const id = this.visit.send(channel, node, new Uint8Array([0x78]), options, this.now);
    this.pump();
    return id;
  }

  broadcast(options: { except?: string[] } = {}): string[] {
    const addressed = this.visit.broadcast("lab", new Uint8Array([0x78]), options, this.now);
    this.pump();
    return addressed.map(({ peer }) => peer);
  }
}

function responseTo(request: SipRequest, status: string, body: string): string {
  const copied = ["Via", "From", "To", "Call-ID", "CSeq"].map((name) => `${name}: ${request.headers.get(name)}`);
  const lines = [`SIP/2.0 ${status}`, ...copied, "Server: kamailio (5.6.3)", `Content-Length: ${body.length}`, ""];
  return `${lines.join("\r\n")}\r\n${body}`;
}

function failures(world: World): string[] {
  return world.result?.type === "nobody" ? world.result.failures.map(({ contact, why }) => `${contact}: ${why}`) : [];
}

describe("reading the node list", () => {
  test("visit: the question is an empty notification that names nobody", () => {
    const world = new World(A).node(A, list(active(B), active(A))).read();
    const [{ request, text }] = world.sent as [Sent];
    expect(request.uri).toBe("sip:notification_peer@192.0.2.1:5060");
    expect(request.headers.get("Content-Length")).toBe("0");
    expect(request.body.length).toBe(0);
    expect(text).not.toContain("status=");
    expect(request.headers.get("Contact")).toBeUndefined();
    expect(request.headers.get("From")).toStartWith(`<sip:notification_peer@${OWN}:40000>`);
    expect(world.visit.list().map(({ key, status }) => [key, status])).toEqual([
      ["udp:192.0.2.2:5060", "active"],
      ["udp:192.0.2.1:5060", "active"],
    ]);
    expect(world.visit.list().map(({ asked }) => asked?.userAgent)).toEqual([undefined, "kamailio (5.6.3)"]);
    expect(world.visit.nextTimeout()).toBeGreaterThan(0);
  });

  test("visit: the silent one has three transmissions and 3 s, then the next is asked", () => {
    const world = new World(A, B)
      .node(B, list(active(B)))
      .read()
      .run();
    expect(world.sent.map(({ at, to }) => [at, to])).toEqual([
      [0, "udp:192.0.2.1:5060"],
      [500, "udp:192.0.2.1:5060"],
      [1_500, "udp:192.0.2.1:5060"],
      [3_000, "udp:192.0.2.2:5060"],
    ]);
    expect(world.result?.type).toBe("found");
  });

  test("visit: when nobody answers, each is named with its reason", () => {
    const world = new World(A, B, "sip:nobody.example").read();
    world.names.set("nobody.example", []);
    world.run();
    expect(failures(world)).toEqual([
      `${A}: no answer in 3000 ms`,
      `${B}: no answer in 3000 ms`,
      "sip:nobody.example: nobody.example has no address",
    ]);
    expect(world.result).toMatchObject({ refused: false });
    expect(world.now).toBe(6_000);
  });

  test("visit: little time is shared by all that may still be asked", () => {
    const world = new World(A, B, C).read(1_500).run();
    expect(failures(world)).toEqual([A, B, C].map((uri) => `${uri}: no answer in 500 ms`));
    expect(world.now).toBe(1_500);
  });

  for (const [status, body, why] of [
    ["404 Not Found Peer ID", "", "answered 404 Not Found Peer ID"],
    ["202 Accepted", list(active(A)), "answered 202 Accepted"],
    ["200 OK", "", "answered without a node list"],
    ["200 OK", "hello\r\n", "answered without a node list"],
  ] as const)
    test(`visit: ${status} with ${body.length} octets is no list, and the next is asked`, () => {
      const world = new World(A, B).answers(A, () => ({ status, body })).node(B, list(active(B)));
      expect(world.read().result?.type).toBe("found");
      const alone = new World(A).answers(A, () => ({ status, body })).read();
      expect(failures(alone)).toEqual([`${A}: ${why}`]);
      expect(alone.result).toMatchObject({ refused: true });
    });

  test("visit: an ICMP error ends the question at once, and no message", () => {
    const world = new World(A, B).node(B, list(active(B), active(C))).read();
    world.visit.handle({ type: "icmp", cause: new Error("ECONNREFUSED") }, world.now);
    world.pump();
    expect(world.result?.type).toBe("found");
    expect(world.now).toBe(0);
    world.send("lab", C);
    world.visit.handle({ type: "icmp", cause: new Error("ECONNREFUSED") }, world.now);
    world.pump();
    expect(world.outcomes).toEqual([]);
  });

  test("visit: every address of a name is tried, and the reason says which", () => {
    const world = new World("sip:kam.example", C).node(B, list(active(B)));
    world.names.set("kam.example", ["192.0.2.1", "192.0.2.2"]);
    world.read().run();
    expect(world.sent.map(({ to }) => to)).toEqual([...Array(3).fill("udp:192.0.2.1:5060"), "udp:192.0.2.2:5060"]);
    expect(world.result?.type).toBe("found");
    const dead = new World("sip:kam.example");
    dead.names.set("kam.example", ["192.0.2.1"]);
    expect(failures(dead.read().run())).toEqual(["sip:kam.example: udp:192.0.2.1:5060 no answer in 3000 ms"]);
  });

  test("visit: a name that DNS never answers costs its share only", () => {
    const world = new World("sip:slow.example", A)
      .node(A, list(active(A)))
      .read()
      .run();
    expect(world.result?.type).toBe("found");
    expect(world.now).toBeGreaterThanOrEqual(3_000);
    expect(world.sent[0]?.at).toBe(3_000);
  });

  test("visit: bad lines cost themselves only, and a node that calls itself 0.0.0.0 is where it answered from", () => {
    const lines = [
      "nonsense",
      active("sip:0.0.0.0:5060"),
      "",
      active(B),
      "sip:192.0.2.4:99999;status=active",
      active(C),
    ];
    const world = new World(A).node(A, list(...lines)).read();
    expect(world.visit.list().map(({ key }) => key)).toEqual([
      "udp:192.0.2.1:5060",
      "udp:192.0.2.2:5060",
      "udp:192.0.2.3:5060",
    ]);
    expect(world.result).toMatchObject({ badLines: 2 });
  });

  test("visit: our own address is never on the list", () => {
    const world = new World(A).node(A, list(active(`sip:${OWN}:40000`), active(A))).read();
    expect(world.broadcast()).toEqual([A]);
  });

  test("visit: a list that may have been cut is asked for again until nothing new comes", () => {
    const all = Array.from({ length: 40 }, (_, i) => `sip:198.51.100.${i + 1}:5060`);
    const part = (turn: number): string => {
      const start = (turn * 13) % all.length;
      let text = list(active(A));
      for (const uri of [...all.slice(start), ...all.slice(0, start)])
        if (text.length + list(active(uri)).length <= 1_023) text += list(active(uri));
      return text;
    };
    const world = new World(A).answers(A, (_, count) => ({ status: "200 OK", body: part(count) })).read();
    expect(world.visit.list().length).toBe(41);
    expect(world.sent.length).toBeLessThan(6);
  });

  for (const [what, lines, pad, nodes, questions] of [
    ["at most 1,000 nodes", 28, "", 1_000, 37],
    ["at most 80 questions", 12, ".long.name.of.a.domain.somewhere.example", 961, 80],
  ] as const)
    test(`visit: of a list without end, ${what}`, () => {
      const world = new World(A).answers(A, (_, count) => {
        const fresh = Array.from({ length: lines }, (_line, i) => active(`sip:10.${count}.${i}.1${pad}:5060`));
        const body = list(active(A), ...fresh);
        return { status: "200 OK", body: body.padEnd(1_000) };
      });
      world.read();
      expect(world.result?.type).toBe("found");
      expect([world.visit.list().length, world.sent.length]).toEqual([nodes, questions]);
    });

  test("visit: a node that goes silent half-way has shown what it has shown", () => {
    const uris = Array.from({ length: 29 }, (_, i) => active(`sip:10.0.${i}.1:5060`));
    const world = new World(A).answers(A, (_, count) =>
      count === 1 ? { status: "200 OK", body: list(...uris) } : undefined,
    );
    world.read().run();
    expect(world.result?.type).toBe("found");
    expect(world.visit.list().length).toBe(29);
  });

  test("visit: an answer on a stream may come in pieces", () => {
    const uri = `${A};transport=tcp`;
    const world = new World(uri).read();
    const [{ request }] = world.sent as [Sent];
    const text = responseTo(request, "200 OK", list(active(uri)));
    const from: Endpoint = { transport: "tcp", ip: "192.0.2.1", port: 5060 };
    world.receive(from, text.slice(0, 70));
    expect(world.result).toBeUndefined();
    world.receive(from, text.slice(70));
    world.pump();
    expect(world.result?.type).toBe("found");
    expect(request.headers.get("Via")).toStartWith(`SIP/2.0/TCP ${OWN}:9;`);
  });

  test("visit: answers of others, and with other branches, are nobody's", () => {
    const world = new World(A).read();
    const [{ request }] = world.sent as [Sent];
    const text = responseTo(request, "200 OK", list(active(B)));
    world.receive({ transport: "udp", ip: "192.0.2.9", port: 5060 }, text);
    world.receive({ transport: "udp", ip: "192.0.2.1", port: 5060 }, text.replace(/branch=\w+/, "branch=z9hG4bKx"));
    world.pump();
    expect(world.result).toBeUndefined();
  });

  test("visit: requests that come in are not answered", () => {
    const world = new World(A).read();
    const asked = world.sent.length;
    const [{ text }] = world.sent as [Sent];
    world.receive({ transport: "udp", ip: "192.0.2.1", port: 5060 }, text);
    world.receive({ transport: "udp", ip: "192.0.2.1", port: 5060 }, "\0\r\nnonsense");
    world.pump();
    expect(world.sent.length).toBe(asked);
  });
});

describe("sending", () => {
  const LINES = list(active(B), `${C};status=disabled`, "sip:192.0.2.4:5060;status=pending", active(A));

  test("visit: a broadcast goes to active nodes only, the one that was asked among them", () => {
    const world = new World(A).node(A, LINES).read();
    expect(world.broadcast()).toEqual([B, A]);
    expect(world.broadcast({ except: [B, "sip:192.0.2.77:5060"] })).toEqual([A]);
    expect(
      world.sent
        .slice(1)
        .map(({ to }) => to)
        .sort(),
    ).toEqual(["udp:192.0.2.1:5060", "udp:192.0.2.1:5060", "udp:192.0.2.2:5060"]);
  });

  test("visit: a message goes to any node of the list, and to no other", () => {
    const world = new World(A).node(A, LINES).node(C, "").read();
    world.send("lab", C);
    expect(world.outcomes[0]).toMatchObject({ peer: C, outcome: { type: "delivered", code: 200 }, attempts: 1 });
    expect(() => world.send("lab", "sip:192.0.2.77:5060")).toThrow("node sip:192.0.2.77:5060 is not known");
    expect(() => world.send("lab", "nonsense")).toThrow("is no node's address");
    expect(() => world.send("la b", B)).toThrow("channel name");
  });

  test("visit: the name that the list was asked for at means the node that answered", () => {
    const world = new World("sip:kam.example").node(A, LINES);
    world.names.set("kam.example", ["192.0.2.1"]);
    world.read();
    world.send("lab", "sip:kam.example");
    expect(world.outcomes[0]).toMatchObject({ peer: A, outcome: { type: "delivered" } });
  });

  test("visit: every end is told once", () => {
    const world = new World(A).node(A, LINES).answers(B, () => ({ status: "404 Not Found Peer ID" }));
    world.read();
    world.send("lab", B);
    world.send("lab", C, { timeoutMs: 700 });
    const gone = world.send("lab", "sip:192.0.2.4:5060");
    world.visit.handle(
      { type: "unsent", to: { transport: "udp", ip: "192.0.2.4", port: 5060 }, cause: new Error("EPERM") },
      0,
    );
    const cancelled = world.send("lab", C);
    expect(world.visit.cancel(cancelled, 0)).toBe(true);
    expect(world.visit.cancel(cancelled, 0)).toBe(false);
    world.pump();
    world.run();
    expect(world.outcomes.map(({ peer, outcome }) => [peer, outcome.type])).toEqual([
      [B, "rejected"],
      ["sip:192.0.2.4:5060", "unreachable"],
      [C, "cancelled"],
      [C, "timeout"],
    ]);
    expect(world.outcomes[1]?.request).toBe(gone);
    expect(world.outcomes[3]?.elapsedMs).toBe(700);
  });

  test("visit: a node whose name leads nowhere is unreachable, one whose name is never answered too, in time", () => {
    const lines = list(active("sip:gone.example:5060"), active("sip:slow.example:5060"), active(A));
    const world = new World(A).node(A, lines).read();
    world.names.set("gone.example", []);
    world.send("lab", "sip:gone.example:5060");
    world.send("lab", "sip:slow.example:5060", { timeoutMs: 400 });
    world.run();
    expect(world.outcomes.map(({ outcome, elapsedMs }) => ({ ...outcome, elapsedMs }))).toEqual([
      { type: "unreachable", reason: "gone.example has no address", elapsedMs: 0 },
      { type: "unreachable", reason: "its name was not resolved in time", elapsedMs: 400 },
    ]);
  });

  test("visit: a ping is an empty notification as well", () => {
    const world = new World(A).node(A, LINES).node(B, LINES).read();
    world.visit.ping([B], {}, world.now);
    world.pump();
    const { request } = world.sent.at(-1) as Sent;
    expect([request.uri, request.body.length]).toEqual(["sip:notification_peer@192.0.2.2:5060", 0]);
    expect(world.outcomes[0]).toMatchObject({ peer: B, outcome: { type: "delivered" } });
    expect(world.visit.list().length).toBe(4);
  });
});
