/**
 * Invariant: what the short way takes, the parser takes too, and both read the same. The other way round nothing is promised
 * but that ordinary requests, Kamailio's and ours, go the short way. FUZZ_SEED and FUZZ_RUNS take another run.
 */
import { jscDescribe } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { concatBytes, decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { parseMessage } from "../../src/sip/parse.ts";
import { MessageScan } from "../../src/sip/scan.ts";
import { topVia, viaCount } from "../../src/sip/via.ts";
import { CAPTURES, fixture, kdmq, request, value } from "./octets.ts";
import { parsed, scanned } from "./readings.ts";

const OPTIONS = { seed: Number(process.env.FUZZ_SEED ?? 3261), numRuns: Number(process.env.FUZZ_RUNS ?? 20_000) };

const scan = new MessageScan();

/** @returns whether the short way took it; fails where the two do not agree */
function agrees(b: Uint8Array, kind: "datagram" | "stream"): boolean {
  if (!scan.read(b, kind === "stream")) return false;
  expect(scanned(scan, b)).toEqual(parsed(b, kind));
  // One Via, nothing required, nothing that was received elsewhere: what the short way does without looking.
  const message = request(b, kind);
  expect([viaCount(message), message.headers.has("Require"), message.method]).toEqual([1, false, "KDMQ"]);
  const via = value(topVia(message));
  expect([via?.received, via?.rport]).toEqual([undefined, undefined]);
  return true;
}

describe("scan: takes", () => {
  const takes: [name: string, octets: Uint8Array][] = [
    ["an ordinary request", kdmq()],
    ["one without a body", kdmq({}, "")],
    ["a body of any octets", kdmq({}, "\0\r\n\r\nVia: x\r\n")],
    ["a To with a tag", kdmq({ to: "To: <sip:lab@127.0.0.2:5060>;tag=b" })],
    ["a From without a tag", kdmq({ from: "From: <sip:lab@127.0.0.1:5060>" })],
    ["a transport in each URI", kdmq({ start: "KDMQ sip:lab@127.0.0.2;transport=tcp SIP/2.0" })],
    ["a From without a user", kdmq({ from: "From: <sip:127.0.0.1:5060>;tag=a" })],
    ["a Via without a port", kdmq({ via: "Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1" })],
    ["an Accept", kdmq({ accept: "Accept: text/plain" })],
    ["headers that nobody knows", kdmq({ x: 'X-Y: (quoted "text", ж)', y: "XY:Z", z: "Subject:" })],
    ["no Max-Forwards", kdmq({ maxForwards: "" })],
  ];
  for (const [name, octets] of takes) test(`scan: takes ${name}`, () => expect(agrees(octets, "datagram")).toBe(true));

  test("scan: takes every KDMQ that a Kamailio over IPv4 sent, but what newer ones write wrongly", () => {
    const left = CAPTURES.filter((name) => {
      const octets = fixture("captures", name);
      return decodeUtf8(octets).startsWith("KDMQ ") && !agrees(octets, "datagram");
    });
    // Two IPv6, and a Via without its transport.
    expect(left).toEqual(["090-ipv6-join.sip", "092-ipv6-ping.sip", "601-newer-sl_send-first.sip"]);
  });
});

describe("scan: leaves to the parser", () => {
  const leaves: [name: string, octets: Uint8Array][] = [
    ["another method", kdmq({ start: "OPTIONS sip:lab@127.0.0.2:5060 SIP/2.0", cseq: "CSeq: 10 OPTIONS" })],
    ["a Request-URI without a user", kdmq({ start: "KDMQ sip:127.0.0.2:5060 SIP/2.0" })],
    ["an escape in the user", kdmq({ start: "KDMQ sip:l%61b@127.0.0.2:5060 SIP/2.0" })],
    ["a password", kdmq({ start: "KDMQ sip:lab:x@127.0.0.2:5060 SIP/2.0" })],
    ["a host name", kdmq({ via: "Via: SIP/2.0/UDP node1:5060;branch=z9hG4bK1" })],
    ["an address that is none", kdmq({ via: "Via: SIP/2.0/UDP 127.0.0.256:5060;branch=z9hG4bK1" })],
    ["a leading zero", kdmq({ via: "Via: SIP/2.0/UDP 127.0.0.01:5060;branch=z9hG4bK1" })],
    ["port 0", kdmq({ via: "Via: SIP/2.0/UDP 127.0.0.1:0;branch=z9hG4bK1" })],
    ["an rport", kdmq({ via: "Via: SIP/2.0/UDP 127.0.0.1:5060;rport;branch=z9hG4bK1" })],
    ["an rport behind the branch", kdmq({ via: "Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1;rport" })],
    ["a branch without the cookie", kdmq({ via: "Via: SIP/2.0/UDP 127.0.0.1:5060;branch=1" })],
    ["the bare cookie", kdmq({ via: "Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK" })],
    ["a second Via", kdmq({ x: "Via: SIP/2.0/UDP 127.0.0.9;branch=z9hG4bK2" })],
    ["a compact name", kdmq({ x: "v: SIP/2.0/UDP 127.0.0.9;branch=z9hG4bK2" })],
    ["a name in other letters", kdmq({ to: "TO: <sip:lab@127.0.0.2:5060>" })],
    ["a space before the colon", kdmq({ to: "To : <sip:lab@127.0.0.2:5060>" })],
    ["a display name", kdmq({ to: 'To: "Lab" <sip:lab@127.0.0.2:5060>' })],
    ["a second To", kdmq({ x: "To: <sip:x@127.0.0.2:5060>" })],
    ["a second Content-Length", kdmq({ x: "content-length: 5" })],
    ["a Require", kdmq({ x: "Require: 100rel" })],
    ["folding", kdmq({ x: "X-Y: a\r\n b" })],
    ["a NUL", kdmq({ x: "X-Y: a\0b" })],
    ["a line feed alone", kdmq({ x: "X-Y: a\nb" })],
    ["another method in CSeq", kdmq({ cseq: "CSeq: 10 OPTIONS" })],
    ["a CSeq of 2^31", kdmq({ cseq: "CSeq: 2147483648 KDMQ" })],
    ["no Call-ID", kdmq({ callId: "" })],
    ["an empty Call-ID", kdmq({ callId: "Call-ID: " })],
    ["a body that is shorter than it says", kdmq({ length: "Content-Length: 6" })],
    ["a Content-Length of ten digits", kdmq({ length: "Content-Length: 0000000005" })],
    ["Max-Forwards 256", kdmq({ maxForwards: "Max-Forwards: 256" })],
  ];
  for (const [name, octets] of leaves) test(`scan: leaves ${name}`, () => expect(scan.read(octets, false)).toBe(false));

  test("scan: leaves a message on a stream without its length, and takes it on a datagram", () => {
    const octets = kdmq({ length: "" }, "");
    expect([scan.read(octets, false), scan.read(octets, true)]).toEqual([true, false]);
  });

  test("scan: leaves whatever is cut short", () => {
    const octets = kdmq();
    for (let length = 0; length < octets.length; length++)
      expect([length, scan.read(octets.subarray(0, length), false)]).toEqual([length, false]);
  });

  // Goal: datagrams that came in one piece stand one behind the other, and no octet of the next one is taken for this one's.
  test("scan: leaves whatever is cut short, though the rest of it, or another one, stands behind", () => {
    const octets = kdmq();
    const twice = concatBytes([encodeUtf8("KDMQ"), octets, octets]);
    for (let length = 0; length < octets.length; length++) {
      expect([length, scan.read(twice, false, 4, 4 + length)]).toEqual([length, false]);
      const others = concatBytes([octets.subarray(0, length), octets]);
      expect([length, scan.read(others, false, 0, length)]).toEqual([length, false]);
    }
    expect(scan.read(twice, false, 4, 4 + octets.length)).toBe(true);
    expect([scan.channelStart, scan.bodyEnd]).toEqual([4 + 9, 4 + octets.length]);
  });

  test("scan: the same of a response", () => {
    const lines = [
      "SIP/2.0 200 OK",
      "Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa",
      "To: <sip:a@10.0.0.2>;tag=b",
      "From: <sip:a@10.0.0.1>;tag=c",
      "CSeq: 10 KDMQ",
      "Call-ID: d",
      "Content-Length: 2",
    ];
    const octets = encodeUtf8(`${lines.join("\r\n")}\r\n\r\nok`);
    const twice = concatBytes([encodeUtf8("SIP/2.0 "), octets, octets]);
    for (let length = 0; length < octets.length; length++)
      expect([length, scan.readResponse(twice, false, 8, 8 + length)]).toEqual([length, false]);
    expect(scan.readResponse(twice, false, 8, 8 + octets.length)).toBe(true);
    expect([scan.status, scan.bodyStart, scan.bodyEnd]).toEqual([200, 6 + octets.length, 8 + octets.length]);
  });
});

const PIECES = [
  ...[
    "\r\n",
    "\r",
    "\n",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    "<",
    ">",
    "@",
    "0",
    "255",
    "sip:",
    ";tag=x",
    ";transport=tcp",
    "ж",
  ],
  ...["Via: SIP/2.0/UDP 127.0.0.9;branch=z9hG4bK2\r\n", "To: <sip:a@127.0.0.1>\r\n", "l: 0\r\n", "Require: x\r\n"],
  ...["\r\nAccept: a", "\r\nCSeq: 1 KDMQ", "\r\nX: y", "\r\n x", ";rport", ";received=1.2.3.4", "KDMQ", "SIP/2.0"],
].map(encodeUtf8);

/** An ordinary request with a few pieces put in, octets taken out or changed. */
const nearly = fc
  .tuple(
    fc.oneof(fc.constant(kdmq()), fc.constantFrom(...CAPTURES.slice(0, 20).map((name) => fixture("captures", name)))),
    fc.array(
      fc.tuple(fc.nat(), fc.nat({ max: 3 }), fc.oneof(fc.constantFrom(...PIECES), fc.uint8Array({ maxLength: 2 }))),
      { minLength: 1, maxLength: 3 },
    ),
  )
  .map(([start, changes]) => {
    let octets = start;
    for (const [where, gone, piece] of changes) {
      const at = where % (octets.length + 1);
      octets = Uint8Array.from([...octets.subarray(0, at), ...piece, ...octets.subarray(at + gone)]);
    }
    return octets;
  });

/** A run by hand may be long. */
const FUZZ_MS_MAX = 3_600_000;

test(
  "scan: agrees with the parser on whatever is nearly ordinary",
  () => {
    let taken = 0;
    fc.assert(
      fc.property(nearly, fc.constantFrom("datagram" as const, "stream" as const), (octets, kind) => {
        // The framer gives streams exactly one message; here a message with octets behind it is one too.
        if (kind === "stream" && parseMessage(octets, kind).type !== "request") return;
        if (agrees(octets, kind)) taken++;
      }),
      OPTIONS,
    );
    // A run in which the short way takes nothing would have compared nothing.
    expect(taken).toBeGreaterThan(OPTIONS.numRuns / 50);
  },
  FUZZ_MS_MAX,
);

/** Enough for every compiler of JavaScriptCore to have had its turn. */
const COMPILED_AFTER = 200_000;

test("offsets stay integers for the machine, also after a chunk ended inside a number", () => {
  const whole = kdmq({}, "0123456789");
  const cut = whole.subarray(0, decodeUtf8(whole).indexOf("Content-Length: 1") + "Content-Length: 1".length);
  const own = new MessageScan();
  for (let i = 0; i < COMPILED_AFTER; i++) own.read(i % 3 === 0 ? cut : whole, true);
  expect([own.read(cut, true), own.read(whole, true)]).toEqual([false, true]);
  // Where the next message of the stream begins: as floating point it would slow down all that follow.
  expect(jscDescribe(own.bodyEnd)).toBe(`Int32: ${whole.length}`);
});
