/**
 * Reads and answers the same kind of request over and over, in one of several ways, and says what one took.
 *
 *   codec-loop WAY COUNT
 *
 * Ways: `alike` and `alike-answer`, the short way that ordinary messages take in the node, of one sender one after the other in the
 * memory that datagrams come in; `scan` and `scan-answer`, the same of two senders in turn, so that none is like the last one;
 * `parse`, `check` (parse and check) and `answer` (parse, check, build the 200), the parser's way of all others; of the npm package
 * `sip-parse` and `sip-answer`. Between the two marks on stderr everything happens COUNT times; the nanoseconds of one go to
 * stdout.
 */
import { writeSync } from "node:fs";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import { OctetStore } from "../../src/core/octet-store.ts";
import type { SipRequest } from "../../src/sip/message.ts";
import { writeAnswer } from "../../src/sip/ordinary.ts";
import { checkRequest, parseMessage } from "../../src/sip/parse.ts";
import { MessageScan } from "../../src/sip/scan.ts";
import { ResponseWriter } from "../../src/sip/serialize.ts";
import { sipPackage } from "../lib/sip-package.ts";

const SOURCE = { transport: "udp", ip: "127.0.0.2", port: 5099 } as const;

const ANSWER = { status: 200, reason: "OK", toTag: "0f1e2d3c4b5a6978", headers: [["Server", "dmq"]] } as const;

/** As the generator writes it; no two have the same branch. */
function requestOf(number: number, port = 5099): Buffer {
  const id = number.toString(16).padStart(16, "0");
  return Buffer.from(
    [
      "KDMQ sip:bench0000@127.0.0.1:5060 SIP/2.0",
      `Via: SIP/2.0/UDP 127.0.0.2:${port};branch=z9hG4bK${id}`,
      "To: <sip:bench0000@127.0.0.1:5060>",
      "From: <sip:bench0000@127.0.0.2:5099>;tag=2f61a0c3-0000",
      "CSeq: 10 KDMQ",
      `Call-ID: ${id}@127.0.0.2`,
      "Content-Length: 100",
      "User-Agent: load",
      "Max-Forwards: 1",
      "Content-Type: text/plain",
      "",
      "x".repeat(100),
    ].join("\r\n"),
  );
}

/** Messages that are read over and over. */
const COUNT = 4_096;

const writer = new ResponseWriter();
const scan = new MessageScan();
const store = new OctetStore();
const [HEAD, TAG, TAIL] = [
  "SIP/2.0 200 OK\r\n",
  `;tag=${ANSWER.toTag}`,
  "Server: dmq\r\nContent-Length: 0\r\n\r\n",
].map(encodeUtf8) as [Uint8Array, Uint8Array, Uint8Array];

/** Messages one behind the other, as datagrams stand in the memory that they come in; all have one size. */
class Arena {
  readonly octets: Buffer;
  readonly size: number;

  constructor(portOf: (i: number) => number) {
    const requests = Array.from({ length: COUNT }, (_, i) => requestOf(i, portOf(i)));
    this.size = requests[0]?.length ?? 0;
    this.octets = Buffer.concat(requests);
  }

  read(i: number): number {
    const start = (i % COUNT) * this.size;
    if (!scan.read(this.octets, false, start, start + this.size)) throw new Error("the request is not ordinary");
    return scan.bodyEnd - scan.bodyStart;
  }

  /** The answer stands where the transport takes it from. */
  answer(i: number): number {
    this.read(i);
    const end = writeAnswer(scan, this.octets, HEAD, TAG, TAIL, store);
    const length = end - store.reserve(0);
    store.release(store.commit(end));
    return length;
  }
}

function parse(bytes: Uint8Array): SipRequest {
  const message = parseMessage(bytes, "datagram");
  if (message.type !== "request") throw new Error("the request was not read as one");
  return message;
}

function check(bytes: Uint8Array): SipRequest {
  const request = parse(bytes);
  if (checkRequest(request) !== undefined) throw new Error("the request has a fault");
  return request;
}

type Way = (i: number) => number;

/** Each gives a number that depends on the work, so that none of it can be left out. */
const WAYS: Readonly<Record<string, () => Way>> = {
  alike: () => inArena(new Arena(() => 5099), false),
  "alike-answer": () => inArena(new Arena(() => 5099), true),
  scan: () => inArena(new Arena((i) => 5098 + (i % 2)), false),
  "scan-answer": () => inArena(new Arena((i) => 5098 + (i % 2)), true),
  parse: () => ofEach((bytes) => parse(bytes).body.length),
  check: () => ofEach((bytes) => check(bytes).body.length),
  answer: () => ofEach((bytes) => writer.write(check(bytes), SOURCE, ANSWER).length),
  "sip-parse": () => ofEach((bytes) => sipPackage.parse(bytes.toString("latin1"))?.method?.length ?? 0),
  "sip-answer": () =>
    ofEach((bytes) => {
      const request = sipPackage.parse(bytes.toString("latin1"));
      if (request === undefined) throw new Error("the package did not read the request");
      return Buffer.from(sipPackage.stringify(sipPackage.makeResponse(request, 200, "OK")), "latin1").length;
    }),
};

function inArena(arena: Arena, isAnswered: boolean): Way {
  return isAnswered ? (i) => arena.answer(i) : (i) => arena.read(i);
}

function ofEach(way: (bytes: Buffer) => number): Way {
  const requests = Array.from({ length: COUNT }, (_, i) => requestOf(i));
  return (i) => way(requests[i % COUNT] as Buffer);
}

function repeat(way: Way, count: number): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += way(i);
  return sum;
}

function main(): void {
  const [name = "", count = "100000"] = process.argv.slice(2);
  const make = WAYS[name];
  if (make === undefined) throw new Error(`${name} is no way: expected ${Object.keys(WAYS).join(", ")}`);
  const way = make();
  const expected = way(0);
  repeat(way, Math.min(Number(count), 50_000));
  Bun.gc(true);
  writeSync(2, "MARK\n");
  const start = performance.now();
  const sum = repeat(way, Number(count));
  const passed = performance.now() - start;
  writeSync(2, "MARK\n");
  if (sum !== expected * Number(count)) throw new Error(`${name} gave ${sum}, expected ${expected * Number(count)}`);
  console.log((passed * 1e6) / Number(count));
}

main();
