import { afterEach, describe, expect, test } from "bun:test";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { TransportError } from "../../src/core/errors.ts";
import { openStreams, type StreamOptions, StreamTransport } from "../../src/transport/stream.ts";
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

async function streams(ip: string, options: Partial<StreamOptions> = {}, port = 0): Promise<Opened> {
  const sink = new Recorder();
  const transport = await openStreams({ ip, port }, sink, { halfOpenMs: 100, ...options });
  cleanups.push(() => transport.shutdown());
  return { transport, sink, endpoint: { transport: "tcp", ip, port: transport.listener.port } };
}

/** A foreign peer with node's own sockets; `allowHalfOpen` as most SIP stacks have it. */
async function foreignServer(onSocket: (socket: Socket) => void): Promise<{ server: Server; endpoint: Endpoint }> {
  const server = createServer(onSocket);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanups.push(() => server.close());
  return { server, endpoint: { transport: "tcp", ip: "127.0.0.1", port: (server.address() as AddressInfo).port } };
}

function foreignClient(to: Endpoint): { socket: Socket; heard: () => string; isOver: () => boolean } {
  let text = "";
  let isOver = false;
  const socket = connect({ port: to.port, host: to.ip, allowHalfOpen: true });
  socket.on("data", (chunk) => {
    text += chunk.toString();
  });
  socket.on("end", () => {
    isOver = true;
  });
  socket.on("error", () => {
    isOver = true;
  });
  cleanups.push(() => socket.destroy());
  return { socket, heard: () => text, isOver: () => isOver };
}

async function deadEndpoint(): Promise<Endpoint> {
  const { transport, endpoint } = await streams("127.0.0.1");
  transport.shutdown();
  return endpoint;
}

test("stream: who connects and resets before it is accepted ends nothing", async () => {
  const { transport, sink, endpoint } = await streams("127.0.0.1");
  const knock = `await Bun.connect({ hostname: "127.0.0.1", port: ${endpoint.port}, socket: { data() {}, open: (s) => s.terminate() } })`;
  // While a child runs synchronously nobody accepts: the connection is reset when its turn comes, and has no address.
  expect(Bun.spawnSync([process.execPath, "-e", `${knock};${knock}`]).exitCode).toBe(0);
  const after = foreignClient(endpoint);
  after.socket.write("after");
  await until("the next one", () => sink.octets().toString() === "after");
  expect([transport.connections(), sink.ends.length]).toEqual([1, 0]);
});

describe("stream delivery", () => {
  for (const [fromIp, toIp] of [
    ["127.0.0.1", "127.0.0.1"],
    ["127.0.0.1", "127.0.0.2"],
    ["::1", "::1"],
  ] as const) {
    test(`stream: tiny and huge messages from ${fromIp} arrive at ${toIp} as they were and in order`, async () => {
      const a = await streams(fromIp);
      const b = await streams(toIp);
      const sent = [1, 0, 2, 100, 65_536, 3_000_000, 1, 700].map(pattern);
      for (const bytes of sent) a.transport.send(b.endpoint, undefined, bytes);
      const whole = Buffer.concat(sent);
      await until("all octets", () => b.sink.octets().length >= whole.length);
      expect(b.sink.octets().equals(whole)).toBe(true);
      expect(new Set(b.sink.arrivals.map((one) => one.flow))).toEqual(new Set([1]));
    });
  }

  test("stream: an outbound connection comes from the IP that is listened on", async () => {
    const a = await streams("127.0.0.2");
    const b = await streams("127.0.0.1");
    a.transport.send(b.endpoint, undefined, pattern(10));
    await until("the octets", () => b.sink.arrivals.length === 1);
    expect(b.sink.arrivals[0]!.from).toMatchObject({ transport: "tcp", ip: "127.0.0.2" });
  });

  test("stream: a listener on :: takes IPv4 and calls it so", async () => {
    const dual = await streams("::");
    const four = await streams("127.0.0.1");
    four.transport.send({ ...dual.endpoint, ip: "127.0.0.1" }, undefined, pattern(10));
    await until("the octets", () => dual.sink.arrivals.length === 1);
    expect(dual.sink.arrivals[0]!.from.ip).toBe("127.0.0.1");
  });

  test("stream: a transport without a listener connects and hears answers", async () => {
    const b = await streams("127.0.0.1");
    b.sink.onReceived = ({ from, flow, bytes }) => b.transport.send(from, flow, bytes);
    const sink = new Recorder();
    const a = await openStreams(undefined, sink);
    cleanups.push(() => a.shutdown());
    a.send(b.endpoint, undefined, pattern(500));
    await until("the echo", () => sink.octets().length === 500);
    expect(sink.octets().equals(pattern(500))).toBe(true);
    expect(sink.arrivals[0]!.from).toEqual(b.endpoint);
  });

  test("stream: the caller may write to its buffer again right after send", async () => {
    const a = await streams("127.0.0.1");
    const b = await streams("127.0.0.1");
    const buffer = Buffer.from("first ");
    a.transport.send(b.endpoint, undefined, buffer);
    buffer.write("second");
    a.transport.send(b.endpoint, undefined, buffer);
    buffer.fill(0);
    await until("both", () => b.sink.octets().length === 12);
    expect(b.sink.octets().toString()).toBe("first second");
  });

  test("stream: chunks that came in stay as they are when more come", async () => {
    const a = await streams("127.0.0.1");
    const b = await streams("127.0.0.1");
    for (let i = 0; i < 50; i++) {
      a.transport.send(b.endpoint, undefined, Buffer.from(`chunk ${i + 10};`));
      await until(`chunk ${i}`, () => b.sink.octets().length === (i + 1) * 9);
    }
    expect(b.sink.octets().toString()).toBe(Array.from({ length: 50 }, (_, i) => `chunk ${i + 10};`).join(""));
  });
});

describe("flows", () => {
  test("stream: messages to one endpoint share a connection, also while it is being made", async () => {
    const a = await streams("127.0.0.1");
    const b = await streams("127.0.0.1");
    for (let i = 0; i < 5; i++) a.transport.send(b.endpoint, undefined, Buffer.from(`${i}`));
    await until("five octets", () => b.sink.octets().length === 5);
    a.transport.send(b.endpoint, undefined, Buffer.from("5"));
    await until("six octets", () => b.sink.octets().length === 6);
    expect(b.sink.octets().toString()).toBe("012345");
    expect([a.transport.connections(), b.transport.connections()]).toEqual([1, 1]);
  });

  test("stream: an answer goes over the flow that the request came on", async () => {
    const a = await streams("127.0.0.1");
    const b = await streams("127.0.0.1");
    b.sink.onReceived = ({ flow }) => b.transport.send(a.endpoint, flow, Buffer.from("answer"));
    a.transport.send(b.endpoint, undefined, Buffer.from("question"));
    await until("the answer", () => a.sink.octets().toString() === "answer");
    expect(a.sink.arrivals[0]!.from).toEqual(b.endpoint);
    expect([a.transport.connections(), b.transport.connections()]).toEqual([1, 1]);
  });

  test("stream: octets for the exact remote end of an inbound connection go over it", async () => {
    const a = await streams("127.0.0.1");
    const b = await streams("127.0.0.1");
    a.transport.send(b.endpoint, undefined, Buffer.from("question"));
    await until("the question", () => b.sink.arrivals.length === 1);
    b.transport.send(b.sink.arrivals[0]!.from, undefined, Buffer.from("unasked"));
    await until("the octets", () => a.sink.octets().toString() === "unasked");
    expect(b.transport.connections()).toBe(1);
  });

  test("stream: an answer for a flow that is gone goes over a new connection to the endpoint", async () => {
    const a = await streams("127.0.0.1");
    const b = await streams("127.0.0.1");
    a.transport.send(b.endpoint, undefined, Buffer.from("question"));
    await until("the question", () => b.sink.arrivals.length === 1);
    a.transport.close(1);
    await until("the end on both sides", () => a.sink.ends.length === 1 && b.transport.connections() === 0);
    b.transport.send(a.endpoint, 1, Buffer.from("answer"));
    await until("the answer", () => a.sink.octets().toString() === "answer");
    expect(a.sink.arrivals[0]!.flow).toBe(2);
  });

  test("stream: flow numbers grow, in and out alike, and are never used again", async () => {
    const a = await streams("127.0.0.1");
    const b = await streams("127.0.0.1");
    for (let flow = 1; flow <= 6; flow += 2) {
      a.transport.send(b.endpoint, undefined, Buffer.from("out"));
      await until("the octets out", () => b.sink.octets().length === 3 * flow);
      b.transport.send(a.endpoint, undefined, Buffer.from("in."));
      await until("the octets in", () => a.sink.arrivals.at(-1)?.flow === flow + 1);
      b.transport.send(a.endpoint, undefined, Buffer.from("!!!"), true);
      a.transport.send(b.endpoint, undefined, Buffer.from("..."), true);
      await until("all ends", () => a.sink.ends.length === flow + 1 && b.sink.octets().length === 3 * (flow + 1));
    }
    expect(a.sink.ends.map((end) => end.flow).sort()).toEqual([1, 2, 3, 4, 5, 6]);
    expect(a.sink.ends.map((end) => end.cause)).toEqual(Array(6).fill(undefined));
  });
});

describe("the end of a connection", () => {
  test("stream: send with close ends the connection after the octets, on one that is being made as well", async () => {
    const a = await streams("127.0.0.1");
    const b = await streams("127.0.0.1");
    a.transport.send(b.endpoint, undefined, pattern(2_000_000), true);
    await until("the end", () => a.sink.ends.length === 1 && b.sink.ends.length === 1);
    expect(b.sink.octets().equals(pattern(2_000_000))).toBe(true);
    expect([a.transport.connections(), b.transport.connections()]).toEqual([0, 0]);
    expect(a.sink.losses).toEqual([]);
  });

  test("stream: a last answer is read by a peer that keeps sending, and nothing more of it comes up", async () => {
    const b = await streams("127.0.0.1", { lingerMs: 5_000 });
    b.sink.onReceived = ({ from, flow }) => b.transport.send(from, flow, Buffer.from("400 no more"), true);
    const client = foreignClient(b.endpoint);
    client.socket.write("garbage");
    await until("the end of the answer", () => {
      if (!client.isOver()) client.socket.write(Buffer.alloc(100_000));
      return client.isOver();
    });
    expect(client.heard()).toBe("400 no more");
    expect(b.sink.calls).toEqual(["received 1"]);
    client.socket.end();
    await until("the end", () => b.sink.ends.length === 1);
  });

  test("stream: a peer that ends its side still gets the answers, and is not asked anything new on it", async () => {
    const b = await streams("127.0.0.1", { halfOpenMs: 5_000 });
    const client = foreignClient(b.endpoint);
    client.socket.end("question");
    await until("the question", () => b.sink.arrivals.length === 1);
    const { from, flow } = b.sink.arrivals[0]!;
    // The FIN has no sign of its own here: a connection made for new octets shows that it came.
    await until("the half-open state", () => {
      b.transport.send(from, undefined, Buffer.from("new"));
      return b.transport.connections() > 1 || b.sink.losses.length > 0;
    });
    b.transport.send(from, flow, Buffer.from("answer"), true);
    await until("the end", () => client.isOver() && b.sink.ends.some((end) => end.flow === flow));
    expect(client.heard()).toEndWith("answer");
  });

  test("stream: a peer that had its answer and ends is gone at once, one that had none after a while", async () => {
    const b = await streams("127.0.0.1", { halfOpenMs: 200 });
    b.sink.onReceived = ({ from, flow, bytes }) => {
      if (bytes.length === 8) b.transport.send(from, flow, Buffer.from("answer"));
    };
    const unanswered = foreignClient(b.endpoint);
    unanswered.socket.end("?");
    await until("the octet", () => b.sink.arrivals.length === 1);
    const answered = foreignClient(b.endpoint);
    answered.socket.write("question");
    await until("the answer", () => answered.heard() === "answer");
    answered.socket.end();
    await until("both ends", () => b.sink.ends.length === 2);
    expect(b.sink.ends).toEqual([
      { flow: 2, cause: undefined },
      { flow: 1, cause: undefined },
    ]);
  });

  test("stream: a peer that closed an outbound connection is reported, and the next octets connect again", async () => {
    let count = 0;
    const sockets: Socket[] = [];
    const { endpoint } = await foreignServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => {});
      socket.on("data", (chunk) => {
        count += chunk.length;
      });
    });
    const a = await streams("127.0.0.1");
    a.transport.send(endpoint, undefined, Buffer.from("one"));
    await until("the octets", () => count === 3);
    sockets[0]!.end();
    await until("the end", () => a.sink.ends.length === 1);
    expect(a.sink.ends[0]).toEqual({ flow: 1, cause: undefined });
    a.transport.send(endpoint, undefined, Buffer.from("two"));
    await until("the octets", () => count === 6);
    expect(sockets.length).toBe(2);
  });

  test("stream: a reset is an end with a cause, and throws nothing", async () => {
    const sockets: Socket[] = [];
    const { endpoint } = await foreignServer((socket) => sockets.push(socket));
    const a = await streams("127.0.0.1");
    a.transport.send(endpoint, undefined, Buffer.from("one"));
    await until("the connection", () => sockets.length === 1);
    sockets[0]!.resetAndDestroy();
    await until("the end", () => a.sink.ends.length === 1);
    expect(a.sink.ends[0]!.flow).toBe(1);
    expect(a.sink.ends[0]!.cause?.message).toContain("ECONNRESET");
  });

  test("stream: close of a flow that is not there does nothing, and shutdown reports nothing", async () => {
    const a = await streams("127.0.0.1");
    const b = await streams("127.0.0.1");
    a.transport.close(77);
    a.transport.send(b.endpoint, undefined, Buffer.from("x"));
    await until("the octet", () => b.sink.arrivals.length === 1);
    a.transport.shutdown();
    await until("the end", () => b.sink.ends.length === 1);
    a.transport.send(b.endpoint, undefined, Buffer.from("y"));
    expect(a.sink.calls).toEqual([]);
    expect(a.transport.connections()).toBe(0);
  });
});

describe("stream failures", () => {
  test("stream: a refused connection is unsent once for all that waited, then closed, and never before send returns", async () => {
    const to = await deadEndpoint();
    const a = await streams("127.0.0.1");
    for (let i = 0; i < 3; i++) a.transport.send(to, undefined, Buffer.from("x"));
    expect(a.sink.calls).toEqual([]);
    await until("the end", () => a.sink.ends.length === 1);
    expect(a.sink.calls).toEqual([`unsent tcp ${to.port}`, "closed 1"]);
    const cause = a.sink.losses[0]!.cause as TransportError;
    expect(cause.code).toBe("transport-connect");
    expect(cause.message).toStartWith(`connect to tcp:127.0.0.1:${to.port} failed: ECONNREFUSED`);
    expect(a.transport.connections()).toBe(0);
  });

  test("stream: a connection that does not come up in time has failed", async () => {
    class Unanswered extends StreamTransport {
      protected override dial(): Promise<unknown> {
        return new Promise(() => {});
      }
    }
    const sink = new Recorder();
    const transport = new Unanswered(undefined, sink, { connectTimeoutMs: 40 });
    cleanups.push(() => transport.shutdown());
    const to: Endpoint = { transport: "tcp", ip: "192.0.2.1", port: 5060 };
    transport.send(to, undefined, Buffer.from("x"));
    await until("the end", () => sink.ends.length === 1);
    expect(sink.calls).toEqual(["unsent tcp 5060", "closed 1"]);
    expect(sink.losses[0]!.cause.message).toContain("ETIMEDOUT, not connected after 40 ms");
  });

  test("stream: a peer that never reads is dropped at the limit, with unsent", async () => {
    const { endpoint } = await foreignServer((socket) => {
      socket.pause();
      socket.on("error", () => {});
    });
    const a = await streams("127.0.0.1", { maxQueuedBytes: 1_000_000 });
    const bytes = pattern(500_000);
    let sent = 0;
    await until("the end", () => {
      if (a.sink.ends.length === 0 && sent++ < 200) a.transport.send(endpoint, undefined, bytes);
      return a.sink.ends.length > 0;
    });
    expect(a.sink.calls.slice(0, 2)).toEqual([`unsent tcp ${endpoint.port}`, "closed 1"]);
    expect(a.sink.losses[0]!.cause.message).toContain("octets wait and the peer reads none");
  });

  test("stream: an address in use is named in words that say what to do", async () => {
    const a = await streams("127.0.0.1");
    const error = await streams("127.0.0.1", {}, a.endpoint.port).catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(TransportError);
    expect((error as TransportError).code).toBe("transport-bind");
    expect((error as TransportError).message).toBe(
      `bind tcp:127.0.0.1:${a.endpoint.port} failed: EADDRINUSE, another process has this address; stop it, or choose another port`,
    );
  });

  test("stream: the address is free again after shutdown, with connections on it or not", async () => {
    const a = await streams("127.0.0.1");
    const client = foreignClient(a.endpoint);
    await until("the connection", () => a.transport.connections() === 1);
    a.transport.shutdown();
    const again = await streams("127.0.0.1", {}, a.endpoint.port);
    expect(again.endpoint).toEqual(a.endpoint);
    client.socket.destroy();
  });
});

describe("stream limits", () => {
  test("stream: inbound connections beyond the limit are closed at once and never heard of", async () => {
    const b = await streams("127.0.0.1", { maxConnections: 2 });
    const clients = [foreignClient(b.endpoint), foreignClient(b.endpoint)];
    await until("both", () => b.transport.connections() === 2);
    const third = foreignClient(b.endpoint);
    third.socket.write("let me in");
    await until("the refusal", third.isOver);
    clients[0]!.socket.write("still here");
    await until("the first", () => b.sink.octets().toString() === "still here");
    expect(b.sink.calls).toEqual(["received 1"]);
    clients[1]!.socket.destroy();
    await until("a free place", () => b.transport.connections() === 1);
    foreignClient(b.endpoint);
    await until("the next one", () => b.transport.connections() === 2);
  });

  test("stream: outbound connections beyond the limit are unsent, and inbound ones take no place of theirs", async () => {
    const a = await streams("127.0.0.1", { maxConnections: 1 });
    const b = await streams("127.0.0.1");
    const c = await streams("127.0.0.1");
    foreignClient(a.endpoint);
    await until("the inbound one", () => a.transport.connections() === 1);
    a.transport.send(b.endpoint, undefined, Buffer.from("b"));
    a.transport.send(c.endpoint, undefined, Buffer.from("c"));
    await until("the report and the octet", () => a.sink.losses.length === 1 && b.sink.arrivals.length === 1);
    expect(a.sink.losses[0]!.to).toEqual(c.endpoint);
    expect(a.sink.losses[0]!.cause.message).toContain("1 outbound connections are open already");
  });

  test("stream: a connection over which nothing moves is closed, one that is used is not", async () => {
    const b = await streams("127.0.0.1", { idleMs: 120 });
    const idle = foreignClient(b.endpoint);
    const busy = foreignClient(b.endpoint);
    idle.socket.write("x");
    await until("the idle end", () => {
      busy.socket.write("x");
      return idle.isOver();
    });
    expect(busy.isOver()).toBe(false);
    expect(b.transport.connections()).toBe(1);
    expect(b.sink.ends[0]!.cause?.message).toContain("nothing moved for 120 ms");
  });

  test("stream: an inbound connection that sends nothing is closed early", async () => {
    const b = await streams("127.0.0.1", { headerTimeoutMs: 60 });
    const speaking = foreignClient(b.endpoint);
    speaking.socket.write("x");
    await until("the octet", () => b.sink.arrivals.length === 1);
    const silent = foreignClient(b.endpoint);
    await until("the end", silent.isOver);
    expect(speaking.isOver()).toBe(false);
  });

  test("stream: a peer that does not end its side after we did is cut off", async () => {
    const b = await streams("127.0.0.1", { lingerMs: 60 });
    const client = foreignClient(b.endpoint);
    client.socket.write("x");
    await until("the octet", () => b.sink.arrivals.length === 1);
    b.transport.close(1);
    await until("the end", () => b.sink.ends.length === 1);
    expect(b.transport.connections()).toBe(0);
  });
});
