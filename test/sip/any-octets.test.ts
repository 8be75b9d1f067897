/**
 * Invariant: any octets, whole, split or byte by byte, give messages or Malformed, nothing else, never a throw, in bounded
 * memory; and whatever is answerable can be answered. The seed is fixed; FUZZ_SEED and FUZZ_RUNS take another.
 */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { concatBytes } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { ProtocolError } from "../../src/core/errors.ts";
import { Framer } from "../../src/sip/framer.ts";
import { parseNameAddr } from "../../src/sip/name-addr.ts";
import { checkRequest, checkResponse, isAnswerable, LIMITS, parseMessage } from "../../src/sip/parse.ts";
import { ResponseWriter } from "../../src/sip/serialize.ts";
import { equalUri, formatUri, parseUri } from "../../src/sip/uri.ts";
import { parseVia, responseDestination, stampVia, topVia, viaCount } from "../../src/sip/via.ts";
import { SIP_CORPUS, SIP_PIECES } from "../fuzz/octets.ts";
import { describeMessage, kdmq } from "./octets.ts";

const OPTIONS = { seed: Number(process.env.FUZZ_SEED ?? 3261), numRuns: Number(process.env.FUZZ_RUNS ?? 300) };
const SOURCE: Endpoint = { transport: "udp", ip: "127.0.0.1", port: 4000 };

const piece = fc.oneof(fc.constantFrom(...SIP_PIECES), fc.uint8Array({ maxLength: 8 }));
const soup = fc.array(piece, { maxLength: 60 }).map(concatBytes);
/** A real message with octets replaced by others at one place. */
const bent = fc
  .record({ seed: fc.constantFrom(...SIP_CORPUS), at: fc.nat(), gone: fc.nat({ max: 6 }), put: piece })
  .map(({ seed, at, gone, put }) => {
    const cut = at % (seed.length + 1);
    return concatBytes([seed.subarray(0, cut), put, seed.subarray(cut + gone)]);
  });
const octets = fc.oneof(bent, soup, fc.uint8Array({ maxLength: 200 }));
const stream = fc.array(fc.oneof(octets, fc.constantFrom(kdmq(), ...SIP_PIECES)), { maxLength: 5 }).map(concatBytes);

function readWhole(chunks: readonly Uint8Array[], total: number): string[] {
  const framer = new Framer();
  const items: string[] = [];
  for (const chunk of chunks) {
    framer.push(chunk);
    // Every item takes at least two octets, so a framer that goes round in circles fails here instead of hanging.
    for (let item = framer.next(); item !== undefined; item = framer.next()) {
      items.push(describeMessage(item));
      expect(items.length).toBeLessThanOrEqual(total + 1);
    }
    expect(framer.buffered()).toBeLessThanOrEqual(LIMITS.headerBytes + LIMITS.bodyBytes);
  }
  return items;
}

function cutAt(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  return [...places, bytes.length].map((place, index) => bytes.subarray(index === 0 ? 0 : places[index - 1]!, place));
}

test("any octets: a datagram gives a message or Malformed, and what is answerable is answered", () => {
  const writer = new ResponseWriter();
  const property = fc.property(octets, fc.constantFrom("datagram" as const, "stream" as const), (bytes, kind) => {
    const message = parseMessage(bytes, kind);
    if (message.type === "response") {
      expect(checkResponse(message) ?? topVia(message)).not.toBeUndefined();
      return;
    }
    const request = message.type === "malformed" ? message.request : message;
    if (request === undefined) return;
    const fault = message.type === "malformed" ? message.error : checkRequest(message);
    if (fault === undefined) expect(isAnswerable(request)).toBe(true);
    if (!isAnswerable(request)) return;
    const answer = { status: fault?.statusHint ?? 200, reason: "Any", toTag: "t" };
    const reply = parseMessage(writer.write(request, SOURCE, answer), "stream");
    if (reply.type !== "response") throw new Error(`the answer is ${describeMessage(reply)}`);
    expect(reply.headers.get("Call-ID")).toBe(request.headers.get("Call-ID")!);
    expect(viaCount(reply)).toBe(viaCount(request));
  });
  fc.assert(property, OPTIONS);
});

test("any octets: a stream gives the same however it is split", () => {
  const property = fc.property(stream, fc.array(fc.nat(), { maxLength: 8 }), (bytes, cuts) => {
    const whole = readWhole([bytes], bytes.length);
    expect(readWhole(cutAt(bytes, cuts), bytes.length)).toEqual(whole);
    expect(
      readWhole(
        Array.from(bytes, (octet) => Uint8Array.of(octet)),
        bytes.length,
      ),
    ).toEqual(whole);
  });
  fc.assert(property, { ...OPTIONS, numRuns: Math.ceil(OPTIONS.numRuns / 2) });
});

const text = fc.array(
  fc.oneof(fc.constantFrom(...SIP_PIECES.map((bytes) => new TextDecoder().decode(bytes))), fc.string()),
  {
    maxLength: 12,
  },
);

test("any text: a URI that is read is written and read as the same", () => {
  const property = fc.property(text, (parts) => {
    const uri = parseUri(`sip:${parts.join("")}`);
    if (uri instanceof ProtocolError) return;
    const again = parseUri(formatUri(uri));
    if (again instanceof ProtocolError) throw again;
    expect(equalUri(uri, again)).toBe(true);
    expect(formatUri(again)).toBe(formatUri(uri));
  });
  fc.assert(property, { ...OPTIONS, numRuns: 4 * OPTIONS.numRuns });
});

test("any text: an address and a Via are read or refused; what is stamped is read again", () => {
  const property = fc.property(text, (parts) => {
    const address = parseNameAddr(parts.join(""));
    if (!(address instanceof ProtocolError)) expect(address.uri).toContain(":");
    const value = `SIP/2.0/UDP 127.0.0.2${parts.join("")}`;
    const via = parseVia(value);
    const stamped = stampVia(value, SOURCE);
    if (via instanceof ProtocolError) {
      expect(stamped).toBeUndefined();
      return;
    }
    const again = parseVia(stamped ?? value);
    expect(again).toMatchObject({ host: via.host, received: "127.0.0.1" });
    expect(responseDestination(via, SOURCE).ip).toBe("127.0.0.1");
  });
  fc.assert(property, { ...OPTIONS, numRuns: 4 * OPTIONS.numRuns });
});
