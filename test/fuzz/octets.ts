/** Octets for targets: messages of the bus with parts changed by someone who knows what parts there are, and plain damage. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { concatBytes, encodeUtf8 } from "../../src/core/bytes.ts";
import { CAPTURES, fixture, kdmq, torture } from "../sip/octets.ts";
import type { Pool } from "./target.ts";

/** Messages of a Kamailio's bus, and those of the two torture RFCs. */
export const SIP_CORPUS: readonly Uint8Array[] = [
  ...CAPTURES.map((name) => fixture("captures", name)),
  ...torture("rfc4475").map((name) => fixture("sip-torture", "rfc4475", name)),
  ...torture("rfc5118").map((name) => fixture("sip-torture", "rfc5118", name)),
  kdmq(),
];

export function rpcCorpus(kind: "binrpc" | "jsonrpc"): Uint8Array[] {
  const folder = join(import.meta.dir, "..", "fixtures", "captures", "rpc");
  return readdirSync(folder)
    .filter((name) => name.startsWith(kind))
    .map((name) => fixture("captures", "rpc", name));
}

/** What means something to a reader of SIP. */
export const SIP_PIECES: readonly Uint8Array[] = [
  ...["\r\n", "\r", "\n", "\r\n\r\n", "\0", " ", "\t", ":", ";", ",", "=", '"', "\\", "<", ">", "@", "%", "[", "]"],
  ...["KDMQ", "ACK", "OPTIONS", "CANCEL", "SIP/2.0", "SIP/2.0/UDP", "SIP/2.0/TCP", "sip:", "sips:", "127.0.0.1"],
  ...["::1", "[::1]", ":5060", ":0", ":65536", "branch=z9hG4bK", "rport", "received=", "maddr=", "ttl=", "tag="],
  ...[
    "Via: ",
    "v:",
    "To: ",
    "From: ",
    "Call-ID: ",
    "CSeq: 1 KDMQ",
    "Content-Length: ",
    "l: 0",
    "l: 999999999",
    "00000000",
  ],
  ...["Content-Length: 0\r\n", "Content-Length: 5\r\nContent-Length: 6\r\n", "Max-Forwards: 0", "Require: x", "ж"],
  ...["Accept: text/plain\r\n", "X-DMQ-Id: a\r\n", "\r\n folded", "%00", "%zz", "?a=b", ";lr", ";transport=tcp"],
  ...[";status=active", ";status=disabled", "4294967296", "-1", "2147483648", "\ufeff", "\u202e"],
  ...["KDMQ sip:notification_peer@127.0.0.1:5060 SIP/2.0\r\n", "SIP/2.0 200 OK\r\n", "SIP/2.0 503 x\r\n"],
].map(encodeUtf8);

type Change = (octets: Uint8Array) => Uint8Array;

const number = fc.nat();

function spliced(octets: Uint8Array, where: number, gone: number, put: Uint8Array): Uint8Array {
  const at = where % (octets.length + 1);
  return concatBytes([octets.subarray(0, at), put, octets.subarray(Math.min(octets.length, at + gone))]);
}

/** Offsets after line ends, the start included. */
function lineStarts(octets: Uint8Array): number[] {
  const starts = [0];
  for (let at = 0; at < octets.length; at++) if (octets[at] === 0x0a) starts.push(at + 1);
  return starts;
}

function line(octets: Uint8Array, index: number): { start: number; end: number } {
  const starts = lineStarts(octets);
  const place = index % starts.length;
  return { start: starts[place] as number, end: starts[place + 1] ?? octets.length };
}

function lineDoubled(octets: Uint8Array, from: number, to: number): Uint8Array {
  const { start, end } = line(octets, from);
  return spliced(octets, line(octets, to).start, 0, octets.subarray(start, end));
}

function lineGone(octets: Uint8Array, index: number): Uint8Array {
  const { start, end } = line(octets, index);
  return spliced(octets, start, end - start, new Uint8Array());
}

function repeated(octets: Uint8Array, where: number, length: number, times: number): Uint8Array {
  const at = where % (octets.length + 1);
  const part = octets.subarray(at, at + length);
  return concatBytes([octets.subarray(0, at), ...new Array<Uint8Array>(times).fill(part), octets.subarray(at)]);
}

/** One change to octets, by `pieces` and by others of the pool. */
function changes(pieces: readonly Uint8Array[], pool: Pool): fc.Arbitrary<Change> {
  const piece = fc.oneof(fc.constantFrom(...pieces), fc.uint8Array({ maxLength: 8 }));
  const put = fc.tuple(number, fc.nat({ max: 8 }), piece).map(
    ([where, gone, what]): Change =>
      (octets) =>
        spliced(octets, where, gone, what),
  );
  const flip = fc.tuple(number, fc.nat({ max: 7 })).map(
    ([where, bit]): Change =>
      (octets) => {
        const copy = octets.slice();
        if (copy.length > 0) copy[where % copy.length]! ^= 1 << bit;
        return copy;
      },
  );
  const double = fc.tuple(number, number).map(
    ([from, to]): Change =>
      (octets) =>
        lineDoubled(octets, from, to),
  );
  const drop = number.map(
    (index): Change =>
      (octets) =>
        lineGone(octets, index),
  );
  const cut = number.map(
    (where): Change =>
      (octets) =>
        octets.subarray(0, where % (octets.length + 1)),
  );
  const repeat = fc.tuple(number, fc.integer({ min: 1, max: 40 }), fc.integer({ min: 2, max: 400 })).map(
    ([where, length, times]): Change =>
      (octets) =>
        repeated(octets, where, length, times),
  );
  const cross = fc.tuple(number, number, number).map(
    ([other, from, to]): Change =>
      (octets) => {
        const { start, end } = line(pool.at(other), from);
        return spliced(octets, line(octets, to).start, 0, pool.at(other).subarray(start, end));
      },
  );
  return fc.oneof(
    { weight: 6, arbitrary: put },
    { weight: 3, arbitrary: flip },
    { weight: 2, arbitrary: double },
    { weight: 2, arbitrary: drop },
    { weight: 1, arbitrary: cut },
    { weight: 1, arbitrary: repeat },
    { weight: 2, arbitrary: cross },
  );
}

/** Octets of the pool with a few changes, and now and then nothing but noise. */
export function mutated(pieces: readonly Uint8Array[], pool: Pool, changesMax = 6): fc.Arbitrary<Uint8Array> {
  const bent = fc
    .tuple(number, fc.array(changes(pieces, pool), { maxLength: changesMax }))
    .map(([index, steps]) => steps.reduce((octets, change) => change(octets), pool.at(index)));
  const soup = fc
    .array(fc.oneof(fc.constantFrom(...pieces), fc.uint8Array({ maxLength: 8 })), { maxLength: 60 })
    .map(concatBytes);
  return fc.oneof(
    { weight: 12, arbitrary: bent },
    { weight: 2, arbitrary: soup },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 300 }) },
  );
}

/** A header line with what its name may have, right and nearly right. */
const word = fc.string({ maxLength: 12 });
const host = fc.oneof(
  fc.constantFrom("127.0.0.1", "127.0.0.2", "[::1]", "node1.example", "256.1.1.1", "[::ffff:127.0.0.1]", "0.0.0.0", ""),
  fc.ipV4(),
  fc.ipV6().map((ip) => `[${ip}]`),
  word,
);
const port = fc.oneof(
  fc.constantFrom("", ":5060", ":5070", ":0", ":65536", ":x"),
  fc.nat().map((n) => `:${n}`),
);
const channel = fc.oneof(fc.constantFrom("notification_peer", "lab", "htable", "a%40b", ""), word);
const uriParams = fc.constantFrom(
  "",
  ";transport=tcp",
  ";transport=udp",
  ";lr",
  ";a=b;c",
  ";transport=tcp;transport=udp",
);
export const uri = fc
  .tuple(fc.constantFrom("sip:", "sip:", "sips:", "tel:", "SIP:"), channel, host, port, uriParams)
  .map(([scheme, user, name, at, params]) => `${scheme}${user === "" ? "" : `${user}@`}${name}${at}${params}`);
const tag = fc.oneof(
  fc.constantFrom("", ";tag=1", ";tag=", ";tag=a;tag=b"),
  word.map((text) => `;tag=${text}`),
);
const address = fc
  .tuple(fc.constantFrom("", '"Lab" ', "Lab ", '"', "ж "), uri, tag)
  .map(([name, to, params]) => `${name}<${to}>${params}`);
const method = fc.constantFrom("KDMQ", "KDMQ", "KDMQ", "OPTIONS", "INVITE", "ACK", "CANCEL", "MESSAGE", "kdmq");
const via = fc
  .tuple(
    fc.constantFrom("UDP", "TCP", "TLS", "X"),
    host,
    port,
    fc.nat({ max: 50 }),
    fc.constantFrom("", ";rport", ";received=1.2.3.4", ";rport=1"),
  )
  .map(([transport, name, at, branch, more]) => `SIP/2.0/${transport} ${name}${at};branch=z9hG4bK${branch}${more}`);
const other = fc.constantFrom(
  ...["Accept: text/plain", "Require: 100rel", "Content-Type: text/plain", "X-DMQ-Id: 7", "Subject: a\r\n b"],
  ...[
    "User-Agent: kamailio (5.6.3)",
    "Max-Forwards: 1",
    "Max-Forwards: 256",
    "Expires: 99999999999",
    "l: 3",
    "Route: <sip:a;lr>",
  ],
);

/** A request that is right more often than not. */
export function sipRequest(body: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Uint8Array> {
  return fc
    .record({
      method,
      cseqMethod: fc.option(method, { freq: 8 }),
      uri,
      vias: fc.array(via, { minLength: 1, maxLength: 3 }),
      to: address,
      from: address,
      callId: fc.oneof(
        fc.nat({ max: 9 }).map((n) => `${n}@fuzz`),
        word,
      ),
      cseq: fc.oneof({ weight: 6, arbitrary: fc.constant(10) }, { weight: 1, arbitrary: fc.nat() }),
      others: fc.array(other, { maxLength: 4 }),
      lengthOff: fc.oneof(
        { weight: 8, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.integer({ min: -3, max: 9 }) },
      ),
      body,
    })
    .map((parts) => {
      const head = [
        `${parts.method} ${parts.uri} SIP/2.0`,
        ...parts.vias.map((text) => `Via: ${text}`),
        `To: ${parts.to}`,
        `From: ${parts.from}`,
        `Call-ID: ${parts.callId}`,
        `CSeq: ${parts.cseq} ${parts.cseqMethod === null ? parts.method : parts.cseqMethod}`,
        ...parts.others,
        `Content-Length: ${parts.body.length + parts.lengthOff}`,
        "",
        "",
      ];
      return concatBytes([encodeUtf8(head.join("\r\n")), parts.body]);
    });
}

/** Where a stream is cut on its way. */
export const cuts: fc.Arbitrary<number[]> = fc.array(number, { maxLength: 8 });

export function cutAt(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const sorted = [...new Set(places.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  return [...sorted, bytes.length].map((place, index) => bytes.subarray(index === 0 ? 0 : sorted[index - 1], place));
}
