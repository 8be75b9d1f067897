/**
 * Binary RPC against what a real kamcmd and real Kamailio (5.6.3 and a newer one) sent: read, and written again octet for
 * octet. Invariant of the last part: any octets, in any pieces, give packets, values or a `BinrpcError`, in bounded memory.
 */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { concatBytes } from "../../src/core/bytes.ts";
import {
  BinrpcError,
  type BinrpcValue,
  BODY_BYTES_MAX,
  NESTING_MAX,
  type Packet,
  PacketReader,
  readRequest,
  readValues,
  VALUES_MAX,
  writePacket,
  writeValues,
} from "../../src/rpc/binrpc.ts";

const FOLDER = join(import.meta.dir, "../fixtures/captures/rpc");
const CAPTURES = readdirSync(FOLDER).filter((name) => name.endsWith(".bin"));
const FUZZ = { seed: Number(process.env.FUZZ_SEED ?? 7), numRuns: Number(process.env.FUZZ_RUNS ?? 1_000) };

function capture(name: string): Uint8Array {
  return new Uint8Array(readFileSync(join(FOLDER, name)));
}

/** The packets in some chunks. */
function packetsOf(chunks: readonly Uint8Array[], reader = new PacketReader()): Packet[] {
  const packets: Packet[] = [];
  for (const chunk of chunks) {
    reader.push(chunk);
    for (let packet = reader.next(); packet !== undefined; packet = reader.next()) packets.push(packet);
  }
  return packets;
}

function onePacket(bytes: Uint8Array): Packet {
  const packets = packetsOf([bytes]);
  expect(packets.length).toBe(1);
  return packets[0] as Packet;
}

function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));
}

function struct(members: [string | undefined, BinrpcValue][]): BinrpcValue {
  return { members: members.map(([name, value]) => ({ name, value })) };
}

function node(fields: [string, BinrpcValue][]): BinrpcValue {
  return struct(fields);
}

describe("captures", () => {
  test("are there, of both versions", () => {
    expect(CAPTURES.length).toBe(28);
  });

  test.each(CAPTURES)("%s is read, and written again octet for octet", (name) => {
    const bytes = capture(name);
    const packet = onePacket(bytes);
    const values = readValues(packet.body);
    expect(packet.kind === "request").toBe(name.endsWith(".request.bin"));
    expect(writePacket(packet.kind, packet.cookie, writeValues(values))).toEqual(bytes);
  });

  test.each(CAPTURES)("%s is read alike at every split point", (name) => {
    const bytes = capture(name);
    const whole = onePacket(bytes);
    for (let at = 1; at < bytes.length; at++) {
      expect(packetsOf([bytes.subarray(0, at), bytes.subarray(at)])).toEqual([whole]);
    }
    expect(packetsOf([...bytes].map((octet) => Uint8Array.of(octet)))).toEqual([whole]);
  });

  const requests: [name: string, method: string, params: BinrpcValue[]][] = [
    ["core-version", "core.version", []],
    ["list-nodes", "dmq.list_nodes", []],
    ["remove-ok", "dmq.remove", ["sip:127.0.0.2:5061;transport=tls"]],
    ["remove-malformed", "dmq.remove", ["nonsense"]],
    ["remove-no-param", "dmq.remove", []],
    ["int-param", "dmq.remove", [5]],
    ["no-such-method", "nosuch.method", []],
  ];
  test.each(requests)("the request %s is %s with its parameters", (name, method, params) => {
    for (const version of ["", "-newer"]) {
      const { kind, body } = onePacket(capture(`binrpc-${name}${version}.request.bin`));
      expect([kind, readRequest(body)]).toEqual(["request", { method, params }]);
    }
  });

  const replies: [name: string, kind: string, values: BinrpcValue[]][] = [
    ["core-version", "reply", ["kamailio 5.6.3 (x86_64/linux) "]],
    ["remove-ok", "reply", ["Ok. DMQ node removed."]],
    ["remove-malformed", "fault", [500, "Failure"]],
    ["remove-no-param", "fault", [500, "Invalid Parameters"]],
    ["int-param", "fault", [500, "Failure"]],
    ["no-such-method", "fault", [500, "command nosuch.method not found"]],
  ];
  test.each(replies)("the answer %s is a %s", (name, kind, values) => {
    const packet = onePacket(capture(`binrpc-${name}.reply.bin`));
    expect([packet.kind, readValues(packet.body)] as unknown[]).toEqual([kind, values]);
  });

  test("a list of nodes is a struct a node, fail_count last in the newer version", () => {
    const own: [string, BinrpcValue][] = [
      ["host", "127.0.0.11"],
      ["port", "5070"],
      ["proto", "*"],
      ["resolved_ip", "127.0.0.11"],
      ["status", "active"],
      ["last_notification", 0],
      ["local", 1],
    ];
    const old = readValues(onePacket(capture("binrpc-list-nodes.reply.bin")).body);
    expect([old.length, old[2]]).toEqual([3, node(own)]);
    const newer = readValues(onePacket(capture("binrpc-list-nodes-newer.reply.bin")).body);
    expect([newer.length, newer[2]]).toEqual([3, node([...own, ["fail_count", 0]])]);
  });

  test("all of them in one stream are read one after the other, whatever the pieces", () => {
    const stream = concatBytes(CAPTURES.map(capture));
    const expected = CAPTURES.map((name) => onePacket(capture(name)));
    for (const size of [1, 7, 64, 1_000, stream.length]) {
      const chunks: Uint8Array[] = [];
      for (let at = 0; at < stream.length; at += size) chunks.push(stream.subarray(at, at + size));
      expect(packetsOf(chunks)).toEqual(expected);
    }
  });
});

describe("values", () => {
  const cases: [name: string, value: BinrpcValue, octets: string][] = [
    ["zero has no octet", 0, "00"],
    ["a small number has one", 5, "10 05"],
    ["500", 500, "20 01f4"],
    ["the largest", 2 ** 31 - 1, "40 7fffffff"],
    ["a negative one has four", -1, "40 ffffffff"],
    ["a fraction travels as thousandths", 1.5, "22 05dc"],
    ["a negative fraction", -0.001, "42 ffffffff"],
    ["a text of six with its NUL is short", "active", "71 61637469766500"],
    ["a text of seven with its NUL is long", "7654321", "91 08 3736353433323100"],
    ["no text", "", "11 00"],
    ["text is UTF-8", "é", "31 c3a900"],
    ["octets", Uint8Array.of(1, 2), "26 0102"],
    ["an array", ["*", 1], "04 21 2a00 10 01 84"],
    ["a struct", struct([["local", 1]]), "03 65 6c6f63616c00 10 01 83"],
    ["a name of seven is long", struct([["channel", 0]]), "03 95 08 6368616e6e656c00 00 83"],
    ["a list inside a struct has no names", struct([["a", struct([[undefined, "x"]])]]), "03 25 6100 03 21 7800 83 83"],
    ["nothing in a struct", struct([]), "03 83"],
  ];
  test.each(cases)("%s", (_, value, octets) => {
    expect(writeValues([value])).toEqual(hex(octets));
    expect(readValues(hex(octets))).toEqual([value]);
  });

  test("a number of more than 32 bits is written as text, to the last digit", () => {
    expect(readValues(writeValues([1_700_000_000_000, 2 ** 31, 9_999_999.5]))).toEqual([
      ...["1700000000000", "2147483648", "9999999.5"],
    ]);
  });

  const wrong: [name: string, octets: string, message: RegExp][] = [
    ["a text without its NUL", "21 6161", /without the NUL/],
    ["a text of nothing at all", "01", /without the NUL/],
    ["a text that is no UTF-8", "31 fffe00", /no UTF-8/],
    ["a number of five octets", "50 0000000001", /5 octets, expected at most 4/],
    ["a value that ends after the packet", "71 616263", /ends after its packet/],
    ["a size that ends after the packet", "91", /ends after its packet/],
    ["a size of five octets", "d1 0000000001 00", /unexpected octet 209/],
    ["an end without a start", "83", /unexpected octet 131/],
    ["an end of the other kind", "03 84", /unexpected octet 132/],
    ["a struct without an end", "03 21 7800", /without an end/],
    ["a name without a value", "03 21 7800 25 6100 83", /unexpected octet 131/],
    ["a name outside of a struct", "25 6100", /unexpected octet 37/],
    ["a type that there is not", "17 00", /unexpected octet 23/],
    ["structs in one another without end", "03".repeat(NESTING_MAX + 1), /deeper than 16/],
    ["arrays in one another without end", "04".repeat(NESTING_MAX + 1), /deeper than 16/],
    ["more values than allowed", "00".repeat(VALUES_MAX + 1), /more than 4096 values/],
  ];
  test.each(wrong)("%s is an error that says so", (_, octets, message) => {
    expect(() => readValues(hex(octets))).toThrow(message);
    expect(() => readValues(hex(octets))).toThrow(BinrpcError);
  });

  test("nesting and number of values are allowed up to the limit", () => {
    const deep = `${"04".repeat(NESTING_MAX)}${"84".repeat(NESTING_MAX)}`;
    expect(readValues(hex(deep)).length).toBe(1);
    expect(readValues(new Uint8Array(VALUES_MAX)).length).toBe(VALUES_MAX);
  });

  test("a request that does not begin with a name is an error", () => {
    expect(() => readRequest(hex("10 05"))).toThrow(/expected the name of a method/);
    expect(() => readRequest(new Uint8Array(0))).toThrow(/expected the name of a method/);
  });
});

describe("packets", () => {
  const sizes: [body: number, head: string][] = [
    [0, "a1 10 00 07"],
    [255, "a1 10 ff 07"],
    [256, "a1 14 0100 07"],
    [65_536, "a1 18 010000 07"],
  ];
  test.each(sizes)("a body of %d octets", (size, head) => {
    const bytes = writePacket("reply", Uint8Array.of(7), new Uint8Array(size));
    expect(bytes.subarray(0, bytes.length - size)).toEqual(hex(head));
    expect(onePacket(bytes).body.length).toBe(size);
  });

  test("a cookie of one to four octets comes back as it was", () => {
    for (const cookie of [hex("01"), hex("0102"), hex("010203"), hex("00000000")]) {
      expect(onePacket(writePacket("fault", cookie, new Uint8Array(3)))).toMatchObject({ kind: "fault", cookie });
    }
  });

  const wrong: [name: string, octets: string, message: RegExp][] = [
    ["another magic number", "41 03 00", /begins with octet 65, expected 161/],
    ["another version", "a2 03 00", /begins with octet 162/],
    ["text", Buffer.from("GET / HTTP/1.1").toString("hex"), /begins with octet 71/],
    ["flags that there are not", "a1 23", /flags 2/],
  ];
  test.each(wrong)("%s is an error at the first octet that shows it", (_, octets, message) => {
    expect(() => packetsOf([hex(octets)])).toThrow(message);
  });

  test("a packet larger than allowed is an error before its body comes, with the cookie to answer it", () => {
    const size = BODY_BYTES_MAX + 1;
    const head = writePacket("request", hex("01020304"), new Uint8Array(size)).subarray(0, -size);
    let seen: unknown;
    try {
      packetsOf([head]);
    } catch (error) {
      seen = error;
    }
    expect(seen).toBeInstanceOf(BinrpcError);
    expect((seen as BinrpcError).cookie).toEqual(hex("01020304"));
    expect((seen as BinrpcError).message).toBe("packet of 65537 octets, expected at most 65536");
    expect(() => packetsOf([hex("a1 0c ffffffff 01")])).toThrow(/packet of 4294967295 octets/);
  });

  test("a packet of the largest size that comes octet by octet takes no time to speak of", () => {
    const bytes = writePacket("request", hex("01"), new Uint8Array(BODY_BYTES_MAX));
    const reader = new PacketReader();
    const start = performance.now();
    for (const octet of bytes) {
      reader.push(Uint8Array.of(octet));
      reader.next();
    }
    expect(reader.pendingBytes).toBe(0);
    expect(performance.now() - start).toBeLessThan(2_000);
  });
});

describe("any octets", () => {
  const value: fc.Arbitrary<BinrpcValue> = fc.letrec<{ value: BinrpcValue }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
      fc.string({ unit: "grapheme" }),
      fc.uint8Array({ maxLength: 300 }),
      fc.array(tie("value"), { maxLength: 4 }),
      fc
        .array(fc.tuple(fc.option(fc.string(), { nil: undefined }), tie("value")), { maxLength: 4 })
        .map((members) => struct(members)),
    ),
  })).value;

  test("what is written is read again", () => {
    fc.assert(
      fc.property(
        fc.array(value, { maxLength: 5 }),
        fc.uint8Array({ minLength: 1, maxLength: 4 }),
        (values, cookie) => {
          const packet = onePacket(writePacket("reply", cookie, writeValues(values)));
          expect(packet.cookie).toEqual(cookie);
          expect(readValues(packet.body)).toEqual(values);
        },
      ),
      FUZZ,
    );
  });

  /** Everything that a server does with octets. @returns what came of them */
  function outcome(octets: Uint8Array, size: number): string[] {
    const reader = new PacketReader();
    const outcomes: string[] = [];
    try {
      for (let at = 0; at < octets.length; at += size) {
        reader.push(octets.subarray(at, at + size));
        for (let packet = reader.next(); packet !== undefined; packet = reader.next()) {
          outcomes.push(requestOrError(packet.body));
        }
        expect(reader.pendingBytes).toBeLessThanOrEqual(BODY_BYTES_MAX + 10 + size);
      }
    } catch (error) {
      expect(error).toBeInstanceOf(BinrpcError);
      outcomes.push((error as BinrpcError).message);
    }
    return outcomes;
  }

  function requestOrError(body: Uint8Array): string {
    try {
      return JSON.stringify(readRequest(body));
    } catch (error) {
      expect(error).toBeInstanceOf(BinrpcError);
      return (error as BinrpcError).message;
    }
  }

  const broken = fc
    .tuple(fc.constantFrom(...CAPTURES.map(capture)), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 }))
    .map(([bytes, changes]) => {
      const changed = bytes.slice();
      for (const [at, octet] of changes) changed[at % changed.length] = octet;
      return changed;
    });
  const method = writeValues(["dmq.remove"]);
  const plausible = fc
    .uint8Array({ maxLength: 20 })
    .map((rest) => writePacket("request", Uint8Array.of(1, 2, 3, 4), concatBytes([method, rest])));

  test("give requests or an error, the same in any pieces", () => {
    const octets = fc
      .array(fc.oneof(broken, plausible, fc.uint8Array({ maxLength: 40 })), { minLength: 1, maxLength: 4 })
      .map(concatBytes);
    const counts = { requests: 0, errors: 0 };
    fc.assert(
      fc.property(octets, fc.integer({ min: 1, max: 50 }), (bytes, size) => {
        const whole = outcome(bytes, bytes.length || 1);
        expect(outcome(bytes, size)).toEqual(whole);
        for (const one of whole) counts[one.startsWith("{") ? "requests" : "errors"]++;
      }),
      FUZZ,
    );
    // Chance has to meet both, or it has shown nothing.
    expect(Math.min(counts.requests, counts.errors)).toBeGreaterThan(100);
  });
});
