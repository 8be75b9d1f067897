/**
 * Invariant: a stream gives the same messages however it is cut, never a throw; what waits stays below one message and its
 * limits; and once the end of a message is lost nothing more comes out.
 */
import fc from "fast-check";
import { concatBytes, encodeUtf8 } from "../../src/core/bytes.ts";
import { Framer } from "../../src/sip/framer.ts";
import { LIMITS } from "../../src/sip/parse.ts";
import { describeMessage } from "../sip/octets.ts";
import { cutAt, cuts, mutated, SIP_PIECES, sipRequest } from "./octets.ts";
import { must, type Target } from "./target.ts";

interface Input {
  octets: Uint8Array;
  cuts: number[];
}

/** Byte by byte is the hardest way to get a message, and takes the longest to try. */
const SINGLE_BYTES_MAX = 2_048;

function read(chunks: readonly Uint8Array[], total: number): string[] {
  const framer = new Framer();
  const items: string[] = [];
  for (const chunk of chunks) {
    const wasDead = framer.dead();
    framer.push(chunk);
    for (let item = framer.next(); item !== undefined; item = framer.next()) {
      must(!wasDead, "something came out of a stream that was lost");
      items.push(describeMessage(item));
      // Every item takes two octets at least: a framer that goes round in circles fails here instead of hanging.
      must(items.length <= total + 1, "more messages than octets");
    }
    must(framer.buffered() <= LIMITS.headerBytes + LIMITS.bodyBytes, `${framer.buffered()} octets wait`);
  }
  if (framer.dead()) items.push("lost");
  return items;
}

function same(a: readonly string[], b: readonly string[], how: string): void {
  must(Bun.deepEquals(a, b), `${how}: ${JSON.stringify(b)}\nwhole: ${JSON.stringify(a)}`);
}

function run({ octets, cuts: places }: Input): string[] {
  const whole = read([octets], octets.length);
  same(whole, read(cutAt(octets, places), octets.length), "cut");
  const singles = octets.subarray(0, SINGLE_BYTES_MAX);
  const alone = read([singles], singles.length);
  const bytes = Array.from(singles, (octet) => Uint8Array.of(octet));
  same(alone, read(bytes, singles.length), "byte by byte");
  return whole.map((item) => (item.startsWith("[") ? "message" : item.replace(/"[^"]*"|\d{4,}/g, "…").slice(0, 60)));
}

const between = fc.constantFrom("\r\n\r\n", "\r\n", "\r", "\n", "\r\n\r\n\r\n", "").map(encodeUtf8);
const body = fc.uint8Array({ maxLength: 60 });

export const framer: Target<Input> = {
  name: "framer",
  inputs: (pool) => {
    const part = fc.oneof(mutated(SIP_PIECES, pool, 3), sipRequest(body), between);
    return fc.record({ octets: fc.array(part, { maxLength: 5 }).map(concatBytes), cuts });
  },
  run,
  seedOf: ({ octets }) => octets,
};
