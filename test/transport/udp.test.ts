import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { TransportError } from "../../src/core/errors.ts";
import { type DatagramSocket, FIELDS, octetsAt, type Packets } from "../../src/transport/datagram.ts";
import { loadNative } from "../../src/transport/native.ts";
import { openUdp, UdpTransport } from "../../src/transport/udp.ts";
import { describeWhere, type Refused } from "../helpers/needs.ts";
import { pattern, Recorder, until } from "./recorder.ts";

const open: UdpTransport[] = [];

let native = true;

const WAYS = [
  { way: "the system's way", isNative: true, missing: await nativeProblem() },
  { way: "Bun's way", isNative: false, missing: undefined },
];

/** Both ways to the kernel are held to the same (transport/native.ts). */
function eachWay(name: string, body: () => void): void {
  for (const { way, isNative, missing } of WAYS) {
    describeWhere(missing, `${name}, ${way}`, () => {
      beforeEach(() => {
        native = isNative;
      });
      body();
    });
  }
}

async function nativeProblem(): Promise<Refused | undefined> {
  return (await loadNative()) === undefined ? { refused: "sendmmsg of glibc is not there" } : undefined;
}

afterEach(() => {
  for (const transport of open.splice(0)) transport.close();
});

async function udp(ip: string, port = 0): Promise<{ transport: UdpTransport; sink: Recorder; endpoint: Endpoint }> {
  const sink = new Recorder();
  const transport = await openUdp({ ip, port }, sink, { native });
  open.push(transport);
  return { transport, sink, endpoint: { transport: "udp", ip, port: transport.listener.port } };
}

/** A port that was bound a moment ago and is not any more: the kernel answers for it with ICMP. */
async function deadEndpoint(ip: string): Promise<Endpoint> {
  const { transport, endpoint } = await udp(ip);
  transport.close();
  return endpoint;
}

/** Who reads himself asks the kernel for no errors of others, and meets none but at the very beginning (transport/inbox.ts). */
function expectErrors(transport: UdpTransport): void {
  if (native) expect(transport.icmpErrors()).toBeLessThan(10);
  else expect(transport.icmpErrors()).toBeGreaterThan(0);
}

function texts(sink: Recorder): string[] {
  return sink.arrivals.map((one) => Buffer.from(one.bytes).toString());
}

eachWay("udp delivery", () => {
  for (const [fromIp, toIp] of [
    ["127.0.0.1", "127.0.0.1"],
    ["127.0.0.1", "127.0.0.2"],
    ["::1", "::1"],
  ] as const) {
    test(`udp: octets from ${fromIp} arrive at ${toIp} as they were, 0 to 60,000 of them`, async () => {
      const a = await udp(fromIp);
      const b = await udp(toIp);
      for (const length of [0, 1, 100, 1_472, 1_473, 9_000, 32_768, 60_000]) {
        const sent = pattern(length);
        a.transport.send(b.endpoint, sent);
        await until(`${length} octets`, () => b.sink.arrivals.length === 1);
        const arrival = b.sink.arrivals.pop()!;
        expect(Buffer.compare(arrival.bytes, sent)).toBe(0);
        expect(arrival.from).toEqual(a.endpoint);
        expect(arrival.flow).toBe(0);
      }
    });
  }

  test("udp: a socket on :: hears IPv4 and calls it so, and sends to it", async () => {
    const dual = await udp("::");
    const four = await udp("127.0.0.1");
    four.transport.send({ transport: "udp", ip: "127.0.0.1", port: dual.endpoint.port }, pattern(10));
    await until("the IPv4 datagram", () => dual.sink.arrivals.length === 1);
    expect(dual.sink.arrivals[0]!.from).toEqual(four.endpoint);
    dual.transport.send(four.endpoint, pattern(11));
    await until("the answer", () => four.sink.arrivals.length === 1);
    expect(four.sink.arrivals[0]!.bytes.length).toBe(11);
  });

  test("udp: the caller may write to its buffer again once the batch is out", async () => {
    const a = await udp("127.0.0.1");
    const b = await udp("127.0.0.1");
    const buffer = Buffer.alloc(4);
    for (let i = 0; i < 100; i++) {
      buffer.writeUInt32BE(i);
      a.transport.send(b.endpoint, buffer);
      a.transport.flush();
    }
    buffer.fill(255);
    await until("100 datagrams", () => b.sink.arrivals.length === 100);
    const numbers = b.sink.arrivals.map((one) => Buffer.from(one.bytes).readUInt32BE());
    expect(numbers).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  test("udp: octets that came in stay as they are when more come", async () => {
    const a = await udp("127.0.0.1");
    const b = await udp("127.0.0.1");
    for (let round = 1; round <= 20; round++) {
      for (let i = 0; i < 10; i++) a.transport.send(b.endpoint, Buffer.from(`datagram ${round * 10 + i}`));
      await until(`round ${round}`, () => b.sink.arrivals.length === round * 10);
    }
    expect(texts(b.sink)).toEqual(Array.from({ length: 200 }, (_, i) => `datagram ${i + 10}`));
  });

  for (const ip of ["127.0.0.1", "::1"]) {
    test(`udp: thousands to three peers over ${ip}, of all sizes and of one, arrive whole and in order at each`, async () => {
      const node = await udp(ip);
      const peers = [await udp(ip), await udp(ip), await udp(ip)];
      const sent: Uint8Array[][] = [[], [], []];
      for (let round = 0; round < 60; round++) {
        for (let i = 0; i < 60; i++) {
          // Runs of one size with others between them, empty ones too; every third round all are of one size.
          const size = round % 3 === 0 ? 437 : [437, 437, 437, 100, 1_500, 437, 0][(i * 5) % 7]!;
          const bytes = pattern(size);
          bytes.set(Buffer.from(`${round}/${i}`).subarray(0, size));
          // Now one after the other, now many in a row.
          const to = round % 2 === 0 ? i % 3 : Math.floor(i / 20);
          node.transport.send(peers[to]!.endpoint, bytes);
          sent[to]!.push(bytes);
        }
        await until(`round ${round}`, () => peers.every(({ sink }, i) => sink.arrivals.length === sent[i]!.length));
      }
      for (const [i, { sink }] of peers.entries())
        expect(sink.octets().equals(Buffer.concat(sent[i]!)), `octets at peer ${i}`).toBe(true);
      for (const [i, { sink }] of peers.entries())
        expect(sink.arrivals.map(({ bytes }) => bytes.length)).toEqual(sent[i]!.map(({ length }) => length));
      expect(node.sink.losses).toEqual([]);
    });
  }

  test("udp: a socket on :: sends many to IPv4 and to IPv6 in one batch", async () => {
    const dual = await udp("::");
    const [four, six] = [await udp("127.0.0.1"), await udp("::1")];
    for (let i = 0; i < 200; i++) dual.transport.send((i % 2 === 0 ? four : six).endpoint, Buffer.from(`${i}`));
    await until("all", () => four.sink.arrivals.length === 100 && six.sink.arrivals.length === 100);
    expect(texts(four.sink)).toEqual(Array.from({ length: 100 }, (_, i) => `${2 * i}`));
    expect(texts(six.sink)).toEqual(Array.from({ length: 100 }, (_, i) => `${2 * i + 1}`));
  });

  test("udp: close sends what waits, and afterwards nothing is sent or reported", async () => {
    const a = await udp("127.0.0.1");
    const b = await udp("127.0.0.1");
    const c = await udp("127.0.0.1");
    a.transport.send(b.endpoint, Buffer.from("last words"));
    a.transport.close();
    a.transport.send(b.endpoint, Buffer.from("too late"));
    a.transport.close();
    // What c sends after it arrives after it.
    c.transport.send(b.endpoint, Buffer.from("later"));
    await until("both", () => b.sink.arrivals.length >= 2);
    expect(texts(b.sink)).toEqual(["last words", "later"]);
    expect(a.sink.calls).toEqual([]);
  });
});

eachWay("udp failures", () => {
  test("udp: more octets than a datagram carries are reported unsent with their number, after send and flush", async () => {
    const a = await udp("127.0.0.1");
    const b = await udp("127.0.0.1");
    a.transport.send(b.endpoint, Buffer.from("before"));
    a.transport.send(b.endpoint, new Uint8Array(65_508));
    a.transport.send(b.endpoint, Buffer.from("after"));
    a.transport.flush();
    expect(a.sink.losses).toEqual([]);
    await until("the report and both", () => a.sink.losses.length === 1 && b.sink.arrivals.length === 2);
    expect(a.sink.losses[0]!.to).toEqual(b.endpoint);
    expect(a.sink.losses[0]!.cause.message).toMatch(/^send to udp:127\.0\.0\.1:\d+ failed: EMSGSIZE, 65508 octets/);
    expect(texts(b.sink)).toEqual(["before", "after"]);
  });

  test("udp: an endpoint of the other address family is unsent and harms no other", async () => {
    const a = await udp("127.0.0.1");
    const b = await udp("127.0.0.1");
    const six: Endpoint = { transport: "udp", ip: "::1", port: 5060 };
    a.transport.send(b.endpoint, Buffer.from("one"));
    a.transport.send(six, Buffer.from("no"));
    a.transport.send(b.endpoint, Buffer.from("two"));
    await until("the report and both", () => a.sink.losses.length === 1 && b.sink.arrivals.length === 2);
    expect(a.sink.losses[0]!.to).toEqual(six);
    expect((a.sink.losses[0]!.cause as TransportError).code).toBe("transport-send");
  });

  test("udp: an address in use is named in words that say what to do", async () => {
    const a = await udp("127.0.0.1");
    const error = await udp("127.0.0.1", a.endpoint.port).catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(TransportError);
    expect((error as TransportError).code).toBe("transport-bind");
    expect((error as TransportError).message).toBe(
      `bind udp:127.0.0.1:${a.endpoint.port} failed: EADDRINUSE, another process has this address; stop it, or choose another port`,
    );
  });

  test("udp: an address of no interface here is named so", async () => {
    const error = await udp("192.0.2.1").catch((cause: unknown) => cause);
    expect((error as TransportError).message).toStartWith("bind udp:192.0.2.1:0 failed: EADDRNOTAVAIL, no interface");
  });

  test("udp: an exception behind received is not taken for an ICMP error", async () => {
    const { transport } = await udp("127.0.0.1");
    const bug = new Error("assertion failed: something");
    expect(() => transport.failed(bug)).toThrow(bug);
    expect(transport.icmpErrors()).toBe(0);
  });
});

eachWay("one dead peer harms no other", () => {
  for (const ip of ["127.0.0.1", "::1"]) {
    test(`udp: 500 broadcasts over ${ip} to a dead peer and four live ones lose nothing for the live ones`, async () => {
      const node = await udp(ip);
      const dead = await deadEndpoint(ip);
      const live = [await udp(ip), await udp(ip), await udp(ip), await udp(ip)];
      for (let round = 1; round <= 500; round++) {
        // The dead one in each place of the batch: first, between, last.
        const targets = live.map((peer) => peer.endpoint);
        targets.splice(round % 5, 0, dead);
        for (const to of targets) node.transport.send(to, Buffer.from(`round ${round}`));
        const isThere = (): boolean => live.every((peer) => peer.sink.arrivals.length === round);
        if (round % 10 === 0) await until(`round ${round}`, isThere);
      }
      const expected = Array.from({ length: 500 }, (_, i) => `round ${i + 1}`);
      for (const peer of live) expect(texts(peer.sink)).toEqual(expected);
      expectErrors(node.transport);
      expect(node.sink.losses.filter((report) => report.to.port !== dead.port)).toEqual([]);
    });
  }

  test("udp: a flood of answers to a live peer loses none while the errors of three dead ones arrive", async () => {
    const node = await udp("127.0.0.1");
    const peer = await udp("127.0.0.1");
    const dead = [await deadEndpoint("127.0.0.1"), await deadEndpoint("127.0.0.1"), await deadEndpoint("127.0.0.1")];
    // Each answer stands between messages to the dead, so that it meets their errors.
    node.sink.onReceived = ({ from, bytes }) => {
      for (const to of [dead[0]!, dead[1]!, from, dead[2]!]) node.transport.send(to, bytes);
    };
    for (let round = 1; round <= 100; round++) {
      for (let i = 0; i < 20; i++) peer.transport.send(node.endpoint, pattern(300 + i));
      await until(`the answers of round ${round}`, () => peer.sink.arrivals.length === round * 20);
    }
    expect(peer.sink.arrivals.map((one) => one.bytes.length)).toEqual(
      Array.from({ length: 2_000 }, (_, i) => 300 + (i % 20)),
    );
    expectErrors(node.transport);
    expect(node.sink.losses.filter((report) => report.to.port === peer.endpoint.port)).toEqual([]);
  });
});

/** A socket whose kernel takes `room` datagrams and fails as it is told to. */
class FakeSocket implements DatagramSocket {
  readonly port = 5060;
  readonly taken: string[] = [];
  room = Number.POSITIVE_INFINITY;
  /** Errors that the next sends throw, one each. */
  pending: Error[] = [];

  send(bytes: Uint8Array): boolean {
    const error = this.pending.shift();
    if (error !== undefined) throw error;
    if (this.room <= 0) return false;
    this.room--;
    this.taken.push(Buffer.from(bytes).toString());
    return true;
  }

  sendMany(packets: Packets, from: number): number {
    let sent = 0;
    for (let i = from; i < packets.length; i += FIELDS) {
      // As Bun does: an error counts only if nothing went out before it, else it is a short count and stays pending.
      if (sent > 0 && this.pending.length > 0) return sent;
      if (!this.send(octetsAt(packets, i))) return sent;
      sent++;
    }
    return sent;
  }

  close(): void {}
}

describe("udp queue", () => {
  const to: Endpoint = { transport: "udp", ip: "127.0.0.1", port: 5061 };
  const names = Array.from({ length: 10 }, (_, i) => `datagram ${i}`);

  test("udp: what a full kernel does not take goes out in order when it has room", () => {
    const socket = new FakeSocket();
    const transport = new UdpTransport(socket, "127.0.0.1", new Recorder());
    for (const name of names) transport.send(to, Buffer.from(name));
    for (const [room, taken] of [
      [3, 3],
      [4, 7],
      [0, 7],
      [100, 10],
    ] as const) {
      socket.room = room;
      transport.flush();
      expect(socket.taken).toEqual(names.slice(0, taken));
    }
  });

  test("udp: what waits has a limit, and what is beyond it is reported", async () => {
    const socket = new FakeSocket();
    const sink = new Recorder();
    const transport = new UdpTransport(socket, "127.0.0.1", sink, { maxQueuedBytes: 100 });
    socket.room = 0;
    for (const name of [...names, ...names]) transport.send(to, Buffer.from(name));
    expect(sink.losses).toEqual([]);
    await Promise.resolve();
    expect(sink.losses.length).toBe(10);
    expect(sink.losses[0]!.cause.message).toContain("100 octets wait already");
    socket.room = 100;
    transport.flush();
    expect(socket.taken).toEqual(names);
  });

  for (const { errors, lost } of [
    { errors: 1, lost: 0 },
    { errors: 4, lost: 0 },
    { errors: 5, lost: 1 },
  ]) {
    test(`udp: ${errors} pending errors cost ${lost} datagrams, and the rest goes out in order`, async () => {
      const socket = new FakeSocket();
      const sink = new Recorder();
      const transport = new UdpTransport(socket, "127.0.0.1", sink);
      // One fails the batch, and the head alone is tried four times.
      const refused = Object.assign(new Error("connection refused"), { code: "ECONNREFUSED" });
      socket.pending = Array.from({ length: errors }, () => refused);
      for (const name of names) transport.send(to, Buffer.from(name));
      transport.flush();
      await Promise.resolve();
      expect(socket.taken).toEqual(names.slice(lost));
      expect(sink.losses.length).toBe(lost);
    });
  }

  test("udp: a batch goes out early when it is large, and one that waits goes out by itself", async () => {
    const socket = new FakeSocket();
    const transport = new UdpTransport(socket, "127.0.0.1", new Recorder());
    const others = [to, { ...to, port: 5062 }];
    for (let i = 0; i < 600; i++) transport.send(others[i % 2] as Endpoint, Buffer.from(`${i}`));
    expect(socket.taken.length).toBe(512);
    await until("the rest", () => socket.taken.length === 600);
    expect(socket.taken).toEqual(Array.from({ length: 600 }, (_, i) => `${i}`));
  });

  test("udp: many to one receiver go out before the wake-up is over", async () => {
    const socket = new FakeSocket();
    const transport = new UdpTransport(socket, "127.0.0.1", new Recorder());
    for (let i = 0; i < 70; i++) transport.send({ ...to }, Buffer.from(`${i}`));
    expect(socket.taken.length).toBe(64);
    await until("the rest", () => socket.taken.length === 70);
  });
});

describeWhere(WAYS[0]?.missing, "udp receive buffer", () => {
  test("udp: a burst that comes while nobody reads is kept, where a default socket keeps 277", async () => {
    native = true;
    const [from, to] = [await udp("127.0.0.1"), await udp("127.0.0.1")];
    for (let i = 0; i < 400; i++) from.transport.send(to.endpoint, pattern(10));
    from.transport.flush();
    await until("the whole burst", () => to.sink.arrivals.length === 400);
  });
});
