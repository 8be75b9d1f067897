/**
 * Invariant: any octets give a message or Malformed, never a throw; a message that is written again reads the same; the short
 * way agrees with the parser on whatever it takes; and what can be answered is answered with a response that reads back.
 */
import fc from "fast-check";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { ProtocolError } from "../../src/core/errors.ts";
import type { SipRequest } from "../../src/sip/message.ts";
import { checkRequest, checkResponse, isAnswerable, LIMITS, parseMessage } from "../../src/sip/parse.ts";
import { MessageScan } from "../../src/sip/scan.ts";
import { ResponseWriter } from "../../src/sip/serialize.ts";
import { equalUri, formatUri, parseUri } from "../../src/sip/uri.ts";
import { viaCount } from "../../src/sip/via.ts";
import { describeMessage, rewritten } from "../sip/octets.ts";
import { parsed, scanned } from "../sip/readings.ts";
import { mutated, SIP_PIECES, sipRequest } from "./octets.ts";
import { must, type Target } from "./target.ts";

const SOURCE: Endpoint = { transport: "udp", ip: "127.0.0.1", port: 4000 };
/** Well below the limits of the codec, so that what is written again is not beyond them. */
const REWRITTEN_BYTES_MAX = 20_000;

interface Input {
  octets: Uint8Array;
  kind: "datagram" | "stream";
}

const scan = new MessageScan();
const writer = new ResponseWriter();

/** The same octets twice: what is read once must not depend on what was read before. */
function readSame({ octets, kind }: Input): ReturnType<typeof parseMessage> {
  const message = parseMessage(octets, kind);
  must(describeMessage(message) === describeMessage(parseMessage(octets, kind)), "read twice, it is not the same");
  return message;
}

function checkShortWay({ octets, kind }: Input, isRequest: boolean): string {
  // The framer gives streams exactly one message; here one with octets behind it is one too.
  if (kind === "stream" && !isRequest) return "long";
  if (!scan.read(octets, kind === "stream")) return "long";
  const short = scanned(scan, octets);
  const long = parsed(octets, kind);
  must(Bun.deepEquals(short, long), `the short way reads ${JSON.stringify(short)}, the parser ${JSON.stringify(long)}`);
  return "short";
}

function checkRewritten(request: SipRequest): void {
  if (request.bytes.length > REWRITTEN_BYTES_MAX) return;
  const again = parseMessage(rewritten(request), "datagram");
  must(describeMessage(again) === describeMessage(request), `written again it reads ${describeMessage(again)}`);
}

function checkUri(request: SipRequest): void {
  const uri = parseUri(request.uri);
  if (uri instanceof ProtocolError) return;
  const again = parseUri(formatUri(uri));
  must(!(again instanceof ProtocolError) && equalUri(uri, again), `${request.uri} is written ${formatUri(uri)}`);
}

function checkAnswer(request: SipRequest, status: number): void {
  const octets = writer.write(request, SOURCE, { status, reason: "Any", toTag: "t" });
  const bound = request.bytes.length + 4_096;
  must(octets.length <= bound, `an answer of ${octets.length} octets to ${request.bytes.length}`);
  // All Vias go back (RFC 3261 §8.2.6.2), also where they are more than we would read ourselves.
  if (request.headers.count("Via") > LIMITS.headerLinesOfOneName) return;
  const reply = parseMessage(octets, "stream");
  if (reply.type !== "response") throw new Error(`the answer reads ${describeMessage(reply)}`);
  must(reply.status === status, `the answer has status ${reply.status}`);
  must(reply.headers.get("Call-ID") === request.headers.get("Call-ID"), "the answer has another Call-ID");
  must(viaCount(reply) === viaCount(request), `the answer has ${viaCount(reply)} Vias`);
}

function fault(error: ProtocolError): string {
  return `${error.statusHint} ${error.section}`;
}

function run(input: Input): string[] {
  const message = readSame(input);
  const way = checkShortWay(input, message.type === "request");
  if (message.type === "response") {
    const error = checkResponse(message);
    return ["response", error === undefined ? "response ok" : `response ${fault(error)}`];
  }
  const request = message.type === "malformed" ? message.request : message;
  const error = message.type === "malformed" ? message.error : checkRequest(message);
  const word = error === undefined ? `ok ${way}` : fault(error);
  if (request === undefined) return [`dropped ${word}`];
  if (message.type === "request") {
    checkRewritten(message);
    checkUri(message);
  }
  if (error === undefined) must(isAnswerable(request), "a request without a fault can be answered");
  if (!isAnswerable(request)) return [`unanswerable ${word}`];
  checkAnswer(request, error?.statusHint ?? 200);
  return [`${request.method === "KDMQ" ? "KDMQ" : "other"} ${word}`];
}

const body = fc.uint8Array({ maxLength: 40 });
/** Far beyond a limit: what is repeated so often is what a hostile peer would choose. */
const long = fc
  .tuple(
    fc.constantFrom(" ", "a", ";a=b", ",x", "\r\nX: y", "%41", '"', "\\", "<", "\r\n a", "sip:"),
    fc.nat({ max: 12_000 }),
  )
  .map(([part, times]) => {
    const text = part.repeat(Math.min(times, Math.floor(LIMITS.headerBytes / part.length)));
    return encodeUtf8(`KDMQ sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK${text}\r\nTo: ${text}\r\n\r\n`);
  });

export const codec: Target<Input> = {
  name: "codec",
  inputs: (pool) =>
    fc.record({
      octets: fc.oneof(
        { weight: 12, arbitrary: mutated(SIP_PIECES, pool) },
        { weight: 6, arbitrary: sipRequest(body) },
        { weight: 1, arbitrary: long },
      ),
      kind: fc.constantFrom("datagram", "stream"),
    }),
  run,
  seedOf: ({ octets }) => octets,
};
