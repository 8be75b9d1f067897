/** Whose datagrams are whose when a socket goes back and forth between Bun and us (transport/inbox.ts). */
import { afterEach, describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import type { Endpoint } from "../../src/core/endpoint.ts";
import type { Deliver } from "../../src/transport/batch.ts";
import { FIELDS } from "../../src/transport/datagram.ts";
import { loadNative, type NativeSocket } from "../../src/transport/native.ts";
import { openUdp } from "../../src/transport/udp.ts";
import { describeWhere } from "../helpers/needs.ts";
import { Recorder, until } from "./recorder.ts";

const library = await loadNative();

interface OpenOptions {
  readonly hostname?: string;
  /** Reads before Bun has said that it waits: what a Bun that changes would do to us. */
  readonly early?: boolean;
  readonly mayCut?: boolean;
}

interface Opened {
  native: NativeSocket;
  /** What came, and who read it. */
  arrivals: { text: string; reader: "bun" | "us"; from: Endpoint | undefined }[];
  wakeUps: number;
  /** Called for each datagram that we read. */
  onArrival?: () => void;
}

const closing: (() => void)[] = [];

afterEach(() => {
  for (const close of closing.splice(0)) close();
});

async function open({ hostname = "127.0.0.1", early = false, mayCut = true }: OpenOptions = {}): Promise<Opened> {
  const arrivals: Opened["arrivals"] = [];
  const opened = { arrivals, wakeUps: 0 } as unknown as Opened;
  const decoder = new TextDecoder();
  const deliver: Deliver = (from, octets, start, end, size) => {
    for (let at = start; at < end; at += size) {
      arrivals.push({ text: decoder.decode(octets.subarray(at, Math.min(at + size, end))), reader: "us", from });
      opened.onArrival?.();
    }
  };
  const socket = await Bun.udpSocket({
    hostname,
    port: 0,
    binaryType: "buffer",
    socket: {
      data(_socket, bytes) {
        opened.wakeUps++;
        const { native } = opened;
        if (!native.isReading) arrivals.push({ text: decoder.decode(bytes), reader: "bun", from: undefined });
        else native.read();
      },
      drain: () => opened.native?.readAgain(),
    },
  });
  const isIpv6 = hostname.includes(":");
  opened.native = library!.open(socket, { isIpv6, mayCut, mayRead: true, deliver }) as NativeSocket;
  if (early) opened.native.readAgain();
  closing.push(() => opened.native.close());
  return opened;
}

async function sender(): Promise<(text: string, port: number, ip?: string) => void> {
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0 });
  closing.push(() => socket.close());
  return (text, port, ip = "127.0.0.1") => void socket.send(text, port, ip);
}

/** Numbers of one width, a run of one size, with a shorter datagram at its end. */
const RUN = [...Array.from({ length: 320 }, (_, i) => String(i).padStart(100, "0")), "end"];

/** Hands them down in one call, as few pieces. */
function sendRun(from: Opened, to: Opened): void {
  const receiver = { transport: "udp" as const, ip: "127.0.0.1", port: to.native.port };
  const packets = RUN.flatMap((text) => [Buffer.from(text), 0, text.length, receiver]);
  for (let at = 0; at < packets.length; ) at += FIELDS * from.native.sendMany(packets, at);
}

function descriptors(): number {
  return readdirSync("/proc/self/fd").length;
}

const missing = library === undefined ? { refused: "recvmmsg of glibc is not there" } : undefined;

describeWhere(missing, "a socket that we read", () => {
  test("is ours once Bun waits for it, and what comes is read by us", async () => {
    const { native, arrivals } = await open();
    const send = await sender();
    await until("it is ours", () => native.isReading);
    send("one", native.port);
    await until("it came", () => arrivals.length === 1);
    expect(arrivals[0]).toMatchObject({ text: "one", reader: "us", from: { transport: "udp", ip: "127.0.0.1" } });
  });

  test("goes back to Bun for a datagram that Bun sends, and to us again: nothing is lost or overtaken", async () => {
    const { native, arrivals } = await open();
    const peer = await open();
    const send = await sender();
    await until("both are ours", () => native.isReading && peer.native.isReading);
    for (let i = 0; i < 2_000; i++) {
      send(String(i), native.port);
      if (i % 100 === 50) native.send(Buffer.from(`back ${i}`), peer.native.port, "127.0.0.1");
      if (i % 50 === 0) await until(`number ${i}`, () => arrivals.length > i);
    }
    await until("all", () => arrivals.length === 2_000 && peer.arrivals.length === 20);
    expect(arrivals.map(({ text }) => Number(text))).toEqual(Array.from({ length: 2_000 }, (_, i) => i));
    expect(peer.arrivals.map(({ text }) => text)).toEqual(Array.from({ length: 20 }, (_, i) => `back ${i * 100 + 50}`));
    await until("it is ours again", () => native.isReading);
  });

  test("more than one wake-up may read waits for the next one", async () => {
    const { native, arrivals } = await open();
    const send = await sender();
    await until("it is ours", () => native.isReading);
    for (let i = 0; i < 600; i++) send(String(i), native.port);
    await until("all", () => arrivals.length === 600);
    expect(arrivals.map(({ text }) => Number(text))).toEqual(Array.from({ length: 600 }, (_, i) => i));
  });

  test.each(["127.0.0.1", "::"])(
    "what a peer hands down in pieces comes datagram by datagram, all in one wake-up, at %s",
    async (hostname) => {
      const [peer, opened] = [await open(), await open({ hostname })];
      await until("both are ours", () => opened.native.isReading && peer.native.isReading);
      sendRun(peer, opened);
      await until("all", () => opened.arrivals.length === RUN.length);
      expect(opened.arrivals.map(({ text }) => text)).toEqual(RUN);
      expect(opened.arrivals.map(({ from }) => from?.port)).toEqual(RUN.map(() => peer.native.port));
      // Datagrams by themselves would have taken two: one reads 256 of them.
      expect(opened.wakeUps).toBe(1);
    },
  );

  test("nothing comes in pieces where the operator wants none", async () => {
    const [peer, opened] = [await open(), await open({ mayCut: false })];
    await until("both are ours", () => opened.native.isReading && peer.native.isReading);
    sendRun(peer, opened);
    await until("all", () => opened.arrivals.length === RUN.length);
    expect(opened.arrivals.map(({ text }) => text)).toEqual(RUN);
    expect(opened.wakeUps).toBe(2);
  });

  test("pieces that wait while the socket goes back to Bun are no single datagrams for it", async () => {
    const [peer, opened] = [await open(), await open()];
    await until("both are ours", () => opened.native.isReading && peer.native.isReading);
    sendRun(peer, opened);
    opened.native.send(Buffer.from("back"), peer.native.port, "127.0.0.1");
    expect(opened.native.isReading).toBe(false);
    expect(opened.arrivals).toHaveLength(0);
    await until("all", () => opened.arrivals.length === RUN.length && peer.arrivals.length === 1);
    expect(opened.arrivals.map(({ text }) => text)).toEqual(RUN);
    await until("it is ours again", () => opened.native.isReading);
    sendRun(peer, opened);
    await until("all again", () => opened.arrivals.length === 2 * RUN.length);
  });

  test("nor those that wait while it goes back in the middle of reading", async () => {
    const [peer, opened] = [await open(), await open()];
    await until("both are ours", () => opened.native.isReading && peer.native.isReading);
    opened.onArrival = () => {
      if (opened.arrivals.length === 10) opened.native.send(Buffer.from("back"), peer.native.port, "127.0.0.1");
    };
    for (let i = 0; i < 10; i++) sendRun(peer, opened);
    await until("all", () => opened.arrivals.length === 10 * RUN.length && peer.arrivals.length === 1);
    expect(opened.arrivals.map(({ text }) => text)).toEqual(Array.from({ length: 10 }, () => RUN).flat());
  });

  test("without anything to read nobody is woken up", async () => {
    const opened = await open();
    const { native, arrivals } = opened;
    const send = await sender();
    await until("it is ours", () => native.isReading);
    send("one", native.port);
    await until("it came", () => arrivals.length === 1);
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(opened.wakeUps).toBe(1);
  });

  test("stays with Bun for good where Bun waits for the bell", async () => {
    const { native, arrivals } = await open({ early: true });
    const send = await sender();
    await until("it is ours", () => native.isReading);
    await until("it is Bun's again", () => !native.isReading);
    send("one", native.port);
    await until("it came", () => arrivals.length === 1);
    expect(arrivals[0]).toMatchObject({ text: "one", reader: "bun" });
    expect(native.isReading).toBe(false);
  });

  test("a socket of IPv6 names senders of IPv4 as such", async () => {
    const { native, arrivals } = await open({ hostname: "::" });
    const send = await sender();
    await until("it is ours", () => native.isReading);
    send("one", native.port);
    await until("it came", () => arrivals.length === 1);
    expect(arrivals[0]?.from).toMatchObject({ ip: "127.0.0.1" });
  });

  test("closing leaves no descriptor behind", async () => {
    const before = descriptors();
    for (let round = 0; round < 20; round++) {
      const { native } = await open();
      await until("it is ours", () => native.isReading);
      native.close();
    }
    await until("all are gone", () => descriptors() <= before);
  });
});

describe("a socket whose owner wants to hear of ICMP errors", () => {
  test("is read by Bun, which is told of them", async () => {
    const errors: Error[] = [];
    const transport = await openUdp({ ip: "127.0.0.1", port: 0 }, new Recorder(), {
      onIcmp: (error) => errors.push(error),
    });
    closing.push(() => transport.close());
    const gone = await openUdp({ ip: "127.0.0.1", port: 0 }, new Recorder());
    gone.close();
    const to: Endpoint = { transport: "udp", ip: "127.0.0.1", port: gone.listener.port };
    transport.send(to, Buffer.from("x"));
    await until("an error", () => errors.length > 0);
    expect(transport.icmpErrors()).toBe(errors.length);
  });
});
