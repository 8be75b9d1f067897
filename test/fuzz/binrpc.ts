/**
 * Invariant: any octets on the socket of kamcmd give packets, values or a BinrpcError, nothing else, the same however they are
 * cut; what was read can be written and reads back as the same; and no more than a packet is kept.
 */
import fc from "fast-check";
import { concatBytes } from "../../src/core/bytes.ts";
import {
  BinrpcError,
  type BinrpcValue,
  BODY_BYTES_MAX,
  PacketReader,
  readRequest,
  readValues,
  writePacket,
  writeValues,
} from "../../src/rpc/binrpc.ts";
import { kamailioCalls } from "../../src/rpc/kamailio-shape.ts";
import { METHODS } from "../../src/rpc/methods.ts";
import { FakeSurface } from "../rpc/fake-surface.ts";
import { cutAt, cuts, mutated } from "./octets.ts";
import { must, type Target } from "./target.ts";

interface Input {
  octets: Uint8Array;
  cuts: number[];
}

interface Seen {
  packets: { kind: string; cookie: Uint8Array; body: Uint8Array }[];
  end: string;
}

const HEAD_BYTES_MAX = 16;
const PIECES = [
  ...[
    [0xa1],
    [0xa1, 0x00],
    [0xa1, 0x03, 0x01],
    [0x83],
    [0x84],
    [0x03],
    [0x04],
    [0x00],
    [0x10, 0x01],
    [0x11, 0x00],
    [0x91, 0x02],
  ],
  ...[
    [0xa1, 0xff, 0xff, 0xff, 0xff],
    [0xc1, 0xff, 0xff, 0xff, 0xff],
    [0x7f],
    [0xff],
    [0x25, 0x61, 0x00],
    [0x21, 0x61, 0x00],
    [0x12],
  ],
].map((octets) => Uint8Array.from(octets));

function read(chunks: readonly Uint8Array[]): Seen {
  const reader = new PacketReader();
  const seen: Seen = { packets: [], end: "" };
  try {
    for (const chunk of chunks) {
      reader.push(chunk);
      for (let packet = reader.next(); packet !== undefined; packet = reader.next()) seen.packets.push(packet);
      must(reader.pendingBytes <= BODY_BYTES_MAX + HEAD_BYTES_MAX, `${reader.pendingBytes} octets wait`);
    }
  } catch (cause) {
    if (!(cause instanceof BinrpcError)) throw cause;
    seen.end = cause.message.replace(/\d+/g, "N");
  }
  return seen;
}

/** A number with a fraction travels as thousandths: the second time nothing is lost any more. */
function checkValues(values: BinrpcValue[]): void {
  const once = readValues(writeValues(values));
  must(Bun.deepEquals(readValues(writeValues(once)), once), `written again they read ${JSON.stringify(once)}`);
}

async function served(body: Uint8Array): Promise<string> {
  try {
    const { method, params } = readRequest(body);
    checkValues(params);
    const reply = await kamailioCalls(new FakeSurface(), () => 0)(method, params);
    return "result" in reply ? `result of ${method}` : `fault ${reply.fault.code}`;
  } catch (cause) {
    if (!(cause instanceof BinrpcError)) throw cause;
    return cause.message.replace(/\d+/g, "N");
  }
}

async function run({ octets, cuts: places }: Input): Promise<string[]> {
  const whole = read([octets]);
  const split = read(cutAt(octets, places));
  must(Bun.deepEquals(whole, split), `cut it is ${JSON.stringify(split)}, whole ${JSON.stringify(whole)}`);
  const words = [whole.end === "" ? "in order" : whole.end];
  for (const packet of whole.packets) {
    const again = read([writePacket(packet.kind as "request", packet.cookie, packet.body)]).packets[0];
    must(Bun.deepEquals(again, packet), "a packet that is written again is another one");
    words.push(packet.kind, await served(packet.body));
  }
  return words;
}

const leaf = fc.oneof(
  fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.string({ maxLength: 10 }).filter((text) => !text.includes("\0")),
  fc.uint8Array({ maxLength: 10 }),
  fc.constantFrom("sip:127.0.0.2:5060", "active", "disabled"),
);
const values = fc.letrec<{ value: BinrpcValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3 },
    leaf,
    fc.array(tie("value"), { maxLength: 4 }),
    fc
      .array(
        fc.record({ name: fc.option(fc.stringMatching(/^[a-z]{1,4}$/), { nil: undefined }), value: tie("value") }),
        { maxLength: 3 },
      )
      .map((members) => ({ members })),
  ),
}));
const packet = fc
  .tuple(
    fc.constantFrom("request", "request", "reply", "fault"),
    fc.uint8Array({ minLength: 1, maxLength: 4 }),
    fc.oneof(fc.constantFrom(...METHODS.keys(), "core.uptime", "system.methodHelp"), fc.string({ maxLength: 6 })),
    fc.array(values.value, { maxLength: 4 }),
  )
  .map(([kind, cookie, method, params]) => writePacket(kind, cookie, writeValues([method, ...params])));

export const binrpc: Target<Input> = {
  name: "binrpc",
  inputs: (pool) =>
    fc.record({
      octets: fc.array(fc.oneof(packet, mutated(PIECES, pool, 4)), { maxLength: 4 }).map(concatBytes),
      cuts,
    }),
  run,
  seedOf: ({ octets }) => octets,
};
