import { describe, expect, test } from "bun:test";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { Correspondent, FIELDS, octetsAt, type Packets, TO } from "../../src/transport/datagram.ts";
import { MmsgSocket, type SendLibrary } from "../../src/transport/mmsg.ts";
import { UdpTransport } from "../../src/transport/udp.ts";
import { Recorder } from "./recorder.ts";

interface Taken {
  readonly address: string;
  readonly text: string;
}

/** Reads what stands in the memory that it is shown, as Linux on a 64-bit machine does, and takes as much of it as it is told to. */
class FakeKernel implements SendLibrary {
  readonly taken: Taken[] = [];
  /** Datagrams in each message of the calls so far. */
  readonly messages: number[][] = [];
  /** Datagrams that fit its buffer. */
  room = Number.POSITIVE_INFINITY;
  /** Refuses to cut, as a path does without checksums in hardware. */
  cuts = true;
  /** As a kernel before 4.18: it does not know the option. */
  old = false;
  private readonly memory: ArrayBuffer[] = [];

  address(octets: ArrayBuffer): number {
    return this.memory.push(octets) * 2 ** 40;
  }

  getsockopt(_fd: number, level: number, option: number, value: number): number {
    if (level === 17 && option === 103) return this.old ? -1 : 0;
    expect([level, option]).toEqual([1, 8]);
    this.octets(value, 4).writeUInt32LE(this.receiveBuffer);
    return 0;
  }

  /** Octets, twice what was asked for, as Linux tells it. */
  receiveBuffer = 212_992;
  /** Receive buffers that were asked for. */
  readonly buffers: number[] = [];
  mayForce = false;

  setsockopt(_fd: number, level: number, option: number, value: number, length: number): number {
    expect([level, length]).toEqual([1, 4]);
    // SO_RCVBUFFORCE, which needs a right, and SO_RCVBUF.
    expect([33, 8]).toContain(option);
    if (option === 33 && !this.mayForce) return -1;
    this.buffers.push(this.int(value));
    return 0;
  }

  sendmmsg(_fd: number, messages: number, count: number, flags: number): number {
    expect(flags).toBe(0x4040);
    const counts: number[] = [];
    for (let i = 0; i < count; i++) {
      const datagrams = this.read(messages + i * 64);
      if ((datagrams.length > 1 && !this.cuts) || datagrams.length > this.room) break;
      this.room -= datagrams.length;
      counts.push(datagrams.length);
      this.taken.push(...datagrams);
    }
    if (count > 0) this.messages.push(counts);
    return counts.length === 0 && count > 0 ? -1 : counts.length;
  }

  private read(header: number): Taken[] {
    const name = this.octets(this.long(header), this.int(header + 8));
    const address = name.readUInt16LE(0) === 2 ? [...name.subarray(4, 8)].join(".") : name.toString("hex", 8, 24);
    const iovec = this.long(header + 16);
    expect(this.long(header + 24)).toBe(1);
    const bytes = this.octets(this.long(iovec), this.long(iovec + 8));
    const control = this.long(header + 32);
    let size = bytes.length;
    if (this.long(header + 40) > 0) {
      expect([this.long(header + 40), this.long(control)]).toEqual([24, 18]);
      expect([this.int(control + 8), this.int(control + 12)]).toEqual([17, 103]);
      size = this.octets(control + 16, 2).readUInt16LE();
    }
    const datagrams: Taken[] = [];
    for (let at = 0; at === 0 || at < bytes.length; at += size) {
      datagrams.push({ address: `${address} ${name.readUInt16BE(2)}`, text: bytes.toString("latin1", at, at + size) });
      if (size === 0) break;
    }
    expect(datagrams.length).toBeLessThanOrEqual(64);
    return datagrams;
  }

  private octets(address: number, length: number): Buffer {
    return Buffer.from(this.memory[Math.floor(address / 2 ** 40) - 1]!, address % 2 ** 40, length);
  }

  private int(address: number): number {
    return this.octets(address, 4).readUInt32LE();
  }

  private long(address: number): number {
    return Number(this.octets(address, 8).readBigUInt64LE());
  }
}

/** What Bun does with single datagrams, at the same kernel. */
function bunSocket(kernel: FakeKernel, refuse: (text: string) => boolean = () => false) {
  return {
    port: 5060,
    send(bytes: unknown, port: unknown, ip: unknown): boolean {
      const text = Buffer.from(bytes as Uint8Array).toString("latin1");
      if (refuse(text)) throw Object.assign(new Error("refused"), { code: "ECONNREFUSED" });
      if (kernel.room <= 0) return false;
      kernel.room--;
      kernel.taken.push({ address: `${ip} ${port}`, text });
      return true;
    },
    sendMany(): number {
      throw new Error("nobody asks for this");
    },
    close() {},
  };
}

function texts(taken: readonly Taken[], port: number): string[] {
  return taken.filter(({ address }) => address.endsWith(` ${port}`)).map(({ text }) => text);
}

function packets(...list: [text: string, port: number][]): Packets {
  return list.flatMap(([text, port]) => packet(text, port, "127.0.0.1"));
}

/** It stands in larger memory, as what the node sends does. */
function packet(text: string, port: number, ip: string): Packets {
  const octets = Buffer.from(`<${text}>`);
  return [octets, 1, octets.length - 1, { transport: "udp", ip, port }];
}

describe("mmsg", () => {
  test("mmsg: what goes to one receiver is one message for each run of one size, with a shorter one at its end", () => {
    const kernel = new FakeKernel();
    const socket = new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false);
    const all = packets(["aaaa", 1], ["bb", 2], ["cccc", 1], ["dd", 1], ["ee", 2], ["ffff", 1], ["ggggg", 1], ["", 1]);
    expect(socket.sendMany(all, 0)).toBe(8);
    expect(kernel.messages).toEqual([[3, 1, 1, 1, 2]]);
    expect(texts(kernel.taken, 1)).toEqual(["aaaa", "cccc", "dd", "ffff", "ggggg", ""]);
    expect(texts(kernel.taken, 2)).toEqual(["bb", "ee"]);
  });

  test("mmsg: a socket of IPv6 gets mapped addresses for IPv4", () => {
    const kernel = new FakeKernel();
    const socket = new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, true);
    socket.sendMany([...packet("a", 5060, "192.0.2.1"), ...packet("b", 5061, "2001:db8::1")], 0);
    expect(kernel.taken).toEqual([
      { address: "00000000000000000000ffffc0000201 5060", text: "a" },
      { address: "20010db8000000000000000000000001 5061", text: "b" },
    ]);
  });

  test("mmsg: an endpoint that comes again and again, or as another object each time, is one receiver", () => {
    const kernel = new FakeKernel();
    const socket = new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false);
    const other = new MmsgSocket(bunSocket(kernel), kernel, { fd: 4 }, true);
    const same = new Correspondent("127.0.0.1", 1);
    const own = [...packets(["aa", 1], ["bb", 1]), Buffer.from("cc"), 0, 2, same, Buffer.from("dd"), 0, 2, same];
    for (const sender of [socket, socket, other, socket]) expect(sender.sendMany(own, 0)).toBe(4);
    expect(kernel.messages).toEqual([[4], [4], [4], [4]]);
    expect(texts(kernel.taken, 1)).toEqual(Array.from({ length: 4 }, () => ["aa", "bb", "cc", "dd"]).flat());
    expect(new Set(kernel.taken.map(({ address }) => address)).size).toBe(2);
    expect(same).toEqual(new Correspondent("127.0.0.1", 1));
  });

  test("mmsg: no message has more than 64 datagrams or more octets than an IPv4 datagram", () => {
    const kernel = new FakeKernel();
    const socket = new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false);
    expect(socket.sendMany(packets(...Array.from({ length: 150 }, () => ["x", 1] as [string, number])), 0)).toBe(150);
    const large = "y".repeat(30_000);
    expect(socket.sendMany(packets(...Array.from({ length: 5 }, () => [large, 1] as [string, number])), 0)).toBe(5);
    expect(kernel.messages).toEqual([
      [64, 64, 22],
      [2, 2, 1],
    ]);
  });

  test("mmsg: an address that it does not understand, and what is behind it, is left to Bun", () => {
    const kernel = new FakeKernel();
    const socket = new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, true);
    const all = [...packets(["a", 1]), ...packet("b", 2, "fe80::1%eth0"), ...packets(["c", 1])];
    expect(socket.sendMany(all, 0)).toBe(1);
    expect(socket.sendMany(all, FIELDS)).toBe(0);
    expect(socket.sendMany(all, 2 * FIELDS)).toBe(1);
    expect(kernel.taken.map(({ text }) => text)).toEqual(["a", "c"]);
  });

  test("mmsg: what the arena has no room for waits for the next call", () => {
    const kernel = new FakeKernel();
    const socket = new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false);
    const list = Array.from({ length: 6 }, (_, i) => [`${i}`.repeat(60_000), 1 + (i % 2)] as [string, number]);
    const all = packets(...list);
    const first = socket.sendMany(all, 0);
    expect(first).toBe(4);
    expect(socket.sendMany(all, first * FIELDS)).toBe(2);
    for (const port of [1, 2])
      expect(texts(kernel.taken, port)).toEqual(list.filter(([, to]) => to === port).map(([text]) => text));
    // More than the arena has at all is not its business.
    expect(socket.sendMany(packets(["z".repeat(300_000), 1]), 0)).toBe(0);
  });

  test("mmsg: after a full buffer what was taken stands first, and the rest as it was", () => {
    const kernel = new FakeKernel();
    const socket = new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false);
    kernel.room = 3;
    const all = packets(["a1", 1], ["b1", 2], ["a2", 1], ["c1", 3], ["b2", 2]);
    expect(socket.sendMany(all, 0)).toBe(2);
    const left = Array.from({ length: 5 }, (_, i) => [
      String(octetsAt(all, i * FIELDS)),
      (all[i * FIELDS + TO] as Endpoint).port,
    ]);
    expect(left).toEqual([
      ["a1", 1],
      ["a2", 1],
      ["b1", 2],
      ["c1", 3],
      ["b2", 2],
    ]);
  });

  test("mmsg: where a path cuts nothing its datagrams go one by one, and it is tried again ever later", () => {
    const kernel = new FakeKernel();
    const transport = new UdpTransport(
      new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false),
      "127.0.0.1",
      new Recorder(),
    );
    kernel.cuts = false;
    const batch = (number: number): void => {
      for (const name of ["a", "b", "c"])
        transport.send({ transport: "udp", ip: "127.0.0.1", port: 1 }, Buffer.from(`${name}${number}`));
      transport.flush();
    };
    const names: string[] = [];
    for (let i = 0; i < 40; i++) {
      batch(i);
      names.push(`a${i}`, `b${i}`, `c${i}`);
      expect(texts(kernel.taken, 1)).toEqual(names);
    }
    const refused = kernel.messages.filter((counts) => counts.length === 0).length;
    expect(refused).toBeGreaterThan(2);
    expect(refused).toBeLessThan(7);
    kernel.cuts = true;
    for (let i = 40; i < 110; i++) batch(i);
    expect(kernel.messages.at(-1)).toEqual([3]);
  });

  test("mmsg: an old kernel, which would send the piece as one datagram, gets none", () => {
    const kernel = new FakeKernel();
    kernel.old = true;
    const socket = new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false);
    expect(socket.sendMany(packets(["aa", 1], ["bb", 1]), 0)).toBe(2);
    expect(kernel.messages).toEqual([[1, 1]]);
  });

  test("mmsg: where captures are to show each datagram, none is put together with another", () => {
    const kernel = new FakeKernel();
    const socket = new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false, false);
    expect(socket.sendMany(packets(["aa", 1], ["bb", 1], ["cc", 1]), 0)).toBe(3);
    expect(kernel.messages).toEqual([[1, 1, 1]]);
  });

  test("mmsg: more may wait unread than a socket has room for by default", () => {
    const kernel = new FakeKernel();
    new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false).widen();
    expect(kernel.buffers).toEqual([4 * 1024 * 1024]);
    kernel.mayForce = true;
    new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false).widen();
    expect(kernel.buffers.length).toBe(2);
    kernel.receiveBuffer = 64 * 1024 * 1024;
    new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false).widen();
    expect(kernel.buffers.length).toBe(2);
  });

  test("mmsg: a queue that a full kernel takes in small steps is sent once and in order, whoever writes to its octets", async () => {
    const kernel = new FakeKernel();
    const sink = new Recorder();
    const transport = new UdpTransport(new MmsgSocket(bunSocket(kernel), kernel, { fd: 3 }, false), "127.0.0.1", sink);
    const expected: Record<number, string[]> = { 1: [], 2: [], 3: [] };
    let sent = 0;
    const flushed = (count: number, room: number): void => {
      const lent: Buffer[] = [];
      for (let i = 0; i < count; i++) {
        const port = 1 + ((sent * 7) % 3);
        const bytes = Buffer.from(`${sent++}`);
        expected[port]?.push(bytes.toString());
        lent.push(bytes);
        transport.send({ transport: "udp", ip: "127.0.0.1", port }, bytes);
      }
      kernel.room = room;
      transport.flush();
      for (const bytes of lent) bytes.fill("!");
    };
    kernel.room = 0;
    flushed(30, 3);
    flushed(900, 50);
    for (let step = 1; kernel.taken.length < sent; step++) {
      expect(step).toBeLessThan(900);
      flushed(step < 40 ? 5 : 0, (step * 13) % 70);
    }
    for (const port of [1, 2, 3]) expect(texts(kernel.taken, port)).toEqual(expected[port] as string[]);
    expect(sink.losses).toEqual([]);
  });

  test("mmsg: one datagram that is refused is reported, and no other of its piece", async () => {
    const kernel = new FakeKernel();
    const sink = new Recorder();
    const refusing = bunSocket(kernel, (text) => text === "bad");
    const transport = new UdpTransport(new MmsgSocket(refusing, kernel, { fd: 3 }, false), "127.0.0.1", sink);
    kernel.sendmmsg = () => -1;
    for (const text of ["one", "bad", "two"])
      transport.send({ transport: "udp", ip: "127.0.0.1", port: 1 }, Buffer.from(text));
    transport.flush();
    await Promise.resolve();
    expect(texts(kernel.taken, 1)).toEqual(["one", "two"]);
    expect(sink.losses.map(({ to }) => to.port)).toEqual([1]);
  });
});
