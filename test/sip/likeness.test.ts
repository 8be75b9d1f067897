/** Reading a message that is like the last one comes to the same as reading it for the first time. */
import { describe, expect, spyOn, test } from "bun:test";
import { concatBytes, encodeUtf8 } from "../../src/core/bytes.ts";
import { seededRandom } from "../../src/core/random.ts";
import { Likeness } from "../../src/sip/likeness.ts";
import { MessageScan } from "../../src/sip/scan.ts";
import { CAPTURES, fixture, kdmq } from "./octets.ts";

const ROOM = 8_192;

const RESPONSE = encodeUtf8(
  [
    "SIP/2.0 200 OK",
    "Via: SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK0a1b2c3d",
    "To: <sip:lab@10.0.0.2:5060>;tag=peer1",
    "From: <sip:lab@10.0.0.1:5070>;tag=c0ffee",
    "CSeq: 10 KDMQ",
    "Call-ID: d-17@10.0.0.1",
    "Content-Type: text/plain",
    "Content-Length: 12",
    "",
    "twelve octet",
  ].join("\r\n"),
);

/** What a scan has found, relative to where the message begins; `undefined` where it found none. */
function found(scan: MessageScan, b: Uint8Array, from: number, to: number, isStream = false): object | undefined {
  const isResponse = b[from] === 0x53;
  if (!(isResponse ? scan.readResponse(b, isStream, from, to) : scan.read(b, isStream, from, to))) return undefined;
  const offsets = [scan.viaLine, scan.viaEnd, scan.viaHost, scan.viaHostEnd, scan.branch, scan.branchEnd, scan.toLine];
  offsets.push(scan.toEnd, scan.fromLine, scan.fromEnd, scan.fromUri, scan.fromUriEnd, scan.cseqLine, scan.cseqEnd);
  offsets.push(scan.callIdLine, scan.callIdEnd, scan.callId, scan.bodyStart, scan.bodyEnd);
  offsets.push(...(isResponse ? [scan.reason, scan.reasonEnd] : [scan.channelStart, scan.channelEnd]));
  if (scan.contentType !== -1) offsets.push(scan.contentType, scan.contentTypeEnd);
  const { viaPort, toHasTag, maxForwards, hasAccept } = scan;
  const values = [viaPort, toHasTag, maxForwards, hasAccept, isResponse ? scan.status : 0];
  return { offsets: offsets.map((at) => at - from), values };
}

/** Two messages, one behind the other, in memory that is large enough to be compared in. */
function pair(first: Uint8Array, second: Uint8Array): Uint8Array {
  return concatBytes([first, second, new Uint8Array(ROOM).fill(0x78)]);
}

/** The second message, by a scan that has read the first one, and by one that has not. */
function readings(first: Uint8Array, second: Uint8Array, isStream = false): [object | undefined, object | undefined] {
  const b = pair(first, second);
  const to = first.length + second.length;
  const scan = new MessageScan();
  found(scan, b, 0, first.length);
  return [found(scan, b, first.length, to, isStream), found(new MessageScan(), b, first.length, to, isStream)];
}

const OCTETS = encodeUtf8('\0\t\n\r !"%-.0159:;<=>@AZaz~\x7fé');

const WHOLE: [name: string, octets: Uint8Array][] = [
  ["a request", kdmq()],
  ["a response", RESPONSE],
  ["a request without Content-Length", kdmq({ length: "" }, "")],
];

describe("likeness", () => {
  for (const [name, octets] of WHOLE)
    test(`likeness: ${name} with any one octet another is what it is without a message before it`, () => {
      let taken = 0;
      const holds = spyOn(Likeness.prototype, "holds");
      for (let at = 0; at < octets.length; at++)
        for (const octet of OCTETS) {
          const other = Uint8Array.from(octets);
          other[at] = octet;
          const [after, alone] = readings(octets, other);
          expect([at, octet, after]).toEqual([at, octet, alone]);
          if (after !== undefined) taken++;
        }
      expect(taken).toBeGreaterThan(octets.length);
      // Each octet of the branch, the tags and the Call-ID alone has a dozen others.
      expect(holds.mock.results.filter(({ value }) => value === true).length).toBeGreaterThan(100);
      holds.mockRestore();
    });

  for (const [name, octets] of WHOLE)
    test(`likeness: ${name} that is cut short is none, and on a stream it has its length`, () => {
      const b = pair(octets, octets);
      const scan = new MessageScan();
      for (let length = 0; length <= octets.length; length++) {
        found(scan, b, 0, octets.length);
        const after = found(scan, b, octets.length, octets.length + length);
        expect([length, after !== undefined]).toEqual([length, length === octets.length]);
      }
      const [after, alone] = readings(octets, octets, true);
      expect(after).toEqual(alone);
    });

  test("likeness: captures and faults in any order are what they are alone, wherever they stand", () => {
    const random = seededRandom(7);
    const pick = <T>(list: readonly T[]): T => list[random.u32() % list.length] as T;
    const all = [...CAPTURES.map((name) => fixture("captures", name)), ...WHOLE.map(([, octets]) => octets)];
    const scan = new MessageScan();
    let taken = 0;
    let last = pick(all);
    for (let i = 0; i < 20_000; i++) {
      // Runs of one message, as senders have them, now and then with a fault.
      if (random.u32() % 6 === 0) last = pick(all);
      const octets = Uint8Array.from(last);
      if (random.u32() % 2 === 0) octets[random.u32() % octets.length] = pick([...OCTETS]);
      const before = new Uint8Array(random.u32() % 9);
      const b = concatBytes([before, octets, new Uint8Array(random.u32() % 3 === 0 ? 0 : ROOM)]);
      const [from, to] = [before.length, before.length + octets.length];
      const isStream = random.u32() % 4 === 0;
      const after = found(scan, b, from, to, isStream);
      expect(after).toEqual(found(new MessageScan(), b, from, to, isStream));
      if (after !== undefined) taken++;
    }
    expect(taken).toBeGreaterThan(5_000);
  });
});
