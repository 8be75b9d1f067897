/** Floods of connections with real sockets: whoever has many loses some, and who has few keeps them. */
import { afterEach, describe, expect, test } from "bun:test";
import { connect, type Socket } from "node:net";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { Places } from "../../src/transport/places.ts";
import { openStreams, type StreamOptions, type StreamTransport } from "../../src/transport/stream.ts";
import { pattern, Recorder, until } from "./recorder.ts";

const cleanups: (() => void)[] = [];

afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

interface Opened {
  transport: StreamTransport;
  sink: Recorder;
  endpoint: Endpoint;
}

async function listening(options: Partial<StreamOptions> = {}): Promise<Opened> {
  const sink = new Recorder();
  const transport = await openStreams({ ip: "127.0.0.1", port: 0 }, sink, options);
  cleanups.push(() => transport.shutdown());
  return { transport, sink, endpoint: { transport: "tcp", ip: "127.0.0.1", port: transport.listener.port } };
}

interface Client {
  socket: Socket;
  isOver: () => boolean;
}

function client(to: Endpoint, localAddress: string): Client {
  let over = false;
  const socket = connect({ port: to.port, host: to.ip, localAddress });
  for (const event of ["end", "error", "close"]) socket.on(event, () => (over = true));
  socket.on("data", () => {});
  cleanups.push(() => socket.destroy());
  return { socket, isOver: () => over };
}

describe("floods of connections", () => {
  test("flood: one address gets so many connections, the next one is closed at once, another address is served", async () => {
    const { transport, sink, endpoint } = await listening({ maxConnectionsOfOne: 5 });
    const flood = Array.from({ length: 5 }, () => client(endpoint, "127.0.0.2"));
    await until("five", () => transport.connections() === 5);
    const sixth = client(endpoint, "127.0.0.2");
    await until("the refusal", sixth.isOver);
    client(endpoint, "127.0.0.3").socket.write("let me in");
    await until("the octets", () => sink.octets().toString() === "let me in");
    expect([transport.connections(), flood.filter(({ isOver }) => isOver()).length]).toEqual([6, 0]);
    flood[0]!.socket.destroy();
    await until("a free place", () => transport.connections() === 5);
    client(endpoint, "127.0.0.2");
    await until("its place taken", () => transport.connections() === 6);
  });

  test("flood: when all places are taken, who holds most gives its quietest up to who holds fewer", async () => {
    const { transport, sink, endpoint } = await listening({ maxConnections: 10 });
    const peer = client(endpoint, "127.0.0.3");
    await until("the peer", () => transport.connections() === 1);
    const flood = Array.from({ length: 9 }, () => client(endpoint, "127.0.0.2"));
    await until("all of them", () => transport.connections() === 10);
    for (const { socket } of flood.slice(1)) socket.write("x");
    await until("eight octets", () => sink.octets().length === 8);
    client(endpoint, "127.0.0.4").socket.write("newcomer");
    await until("the newcomer", () => sink.octets().toString().endsWith("newcomer"));
    await until("the quietest gone", () => flood[0]!.isOver());
    expect([transport.connections(), flood.filter(({ isOver }) => isOver()).length, peer.isOver()]).toEqual([
      10,
      1,
      false,
    ]);
    expect(sink.ends[0]?.cause?.message).toContain("10 are open, most of them from there");
    const more = client(endpoint, "127.0.0.2");
    await until("the refusal", more.isOver);
    expect(transport.connections()).toBe(10);
  });

  test("flood: what a thousand connections leave is nothing, however they end", async () => {
    const { transport, sink, endpoint } = await listening({
      maxConnections: 100,
      maxConnectionsOfOne: 50,
      halfOpenMs: 40,
    });
    for (let round = 0; round < 10; round++) {
      const clients = Array.from({ length: 100 }, (_, i) => client(endpoint, `127.0.0.${2 + (i % 4)}`));
      await until(
        "a full house",
        () => transport.connections() + clients.filter(({ isOver }) => isOver()).length >= 100,
      );
      for (const [i, { socket }] of clients.entries()) {
        if (i % 3 === 0) socket.write("half a mess");
        if (i % 2 === 0) socket.resetAndDestroy();
        else socket.destroy();
      }
      await until("an empty house", () => transport.connections() === 0);
    }
    client(endpoint, "127.0.0.2").socket.write("after");
    await until("the next one", () => sink.octets().toString().endsWith("after"));
  });

  test("flood: of peers that read nothing the one that most waits for goes, when all of it is too much", async () => {
    const options = { maxQueuedBytes: 20_000_000, maxQueuedBytesOfAll: 24_000_000 };
    const { transport, sink, endpoint } = await listening(options);
    const deaf = [client(endpoint, "127.0.0.2"), client(endpoint, "127.0.0.3")];
    for (const { socket } of deaf) socket.pause();
    await until("both", () => transport.connections() === 2);
    for (const { socket } of deaf) socket.write("?");
    await until("both questions", () => sink.arrivals.length === 2);
    const [first, second] = sink.arrivals as [(typeof sink.arrivals)[0], (typeof sink.arrivals)[0]];
    transport.send(first.from, first.flow, pattern(8_000_000));
    for (let i = 0; i < 19 && sink.ends.length === 0; i++) {
      transport.send(second.from, second.flow, pattern(1_000_000));
      await Bun.sleep(0);
    }
    transport.send(first.from, first.flow, pattern(10_000_000));
    await until("one end", () => sink.ends.length === 1);
    expect([sink.ends[0]?.flow === second.flow, transport.connections()]).toEqual([true, 1]);
  });
});

describe("places", () => {
  const holder = (ip: string, activeAt = 0): { remote: { ip: string }; activeAt: number } => ({
    remote: { ip },
    activeAt,
  });

  test("places: a network of IPv6 is one source, addresses of IPv4 are each their own", () => {
    const places = new Places(10, 2);
    for (const ip of ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"]) places.take(holder(ip));
    expect(places.roomFor("2001:db8::3")).toBe(false);
    expect([places.roomFor("2001:db8:0:1::1"), places.roomFor("192.0.2.3"), places.roomFor("192.0.2.1")]).toEqual([
      true,
      true,
      true,
    ]);
  });

  test("places: nobody gives way to who holds as many, and leaving twice frees one place", () => {
    const places = new Places(3, 3);
    const [a, b, c] = [holder("192.0.2.1", 5), holder("192.0.2.1", 3), holder("192.0.2.2")];
    for (const one of [a, b, c]) places.take(one);
    expect([places.roomFor("192.0.2.1"), places.roomFor("192.0.2.2"), places.roomFor("192.0.2.3")]).toEqual([
      false,
      false,
      b,
    ]);
    places.leave(c);
    places.leave(c);
    expect(places.roomFor("192.0.2.1")).toBe(true);
    places.take(holder("192.0.2.3"));
    // Two of one, one of another: the newcomer gets what the first has too much.
    expect(places.roomFor("192.0.2.9")).toBe(b);
  });
});
