/**
 * RFC 4475 and RFC 5118, all files, into a node: what it sends back, over UDP and over a stream. Goal: the answer that the RFC asks
 * of an element like ours, which serves KDMQ and OPTIONS, knows no extension, and has no use for bodies, Contact or Date. A
 * request in order with another method is 405 (RFC 3261 §8.2.1 looks at the method first).
 */
import { describe, expect, test } from "bun:test";
import { decodeUtf8, viewOf } from "../../src/core/bytes.ts";
import { fixture, torture } from "../sip/octets.ts";
import { Harness } from "./harness.ts";

type Row = [clause: string, asked: string, answer: string, onStream?: string];

/** Nothing is sent; `close` is the end of the stream. */
const NOTHING = "";

const RFC4475: Record<string, Row> = {
  "wsinv.dat": ["3.1.1.1", "valid INVITE", "405"],
  // The one deviation: a NUL is a different text to each reader in C, also behind a backslash (docs/decisions/0016).
  "intmeth.dat": ["3.1.1.2", "valid, unknown method", NOTHING, "close"],
  "esc01.dat": ["3.1.1.3", "valid INVITE", "405"],
  "escnull.dat": ["3.1.1.4", "valid REGISTER, escaped NULs are content", "405"],
  "esc02.dat": ["3.1.1.5", "valid, the method is not REGISTER", "405"],
  "lwsdisp.dat": ["3.1.1.6", "valid OPTIONS", "200"],
  "longreq.dat": ["3.1.1.7", "valid INVITE", "405"],
  "dblreq.dat": [
    "3.1.1.8",
    "one request in a datagram, two on a stream, and what is behind them no third",
    "405",
    "405 405 close",
  ],
  "semiuri.dat": ["3.1.1.9", "valid OPTIONS", "200"],
  "transports.dat": ["3.1.1.10", "valid OPTIONS, unknown transports below the first Via", "200"],
  "mpart01.dat": ["3.1.1.11", "valid MESSAGE", "405"],
  "unreason.dat": ["3.1.1.12", "valid response, to nothing of ours", NOTHING],
  "noreason.dat": ["3.1.1.13", "valid response, to nothing of ours", NOTHING],
  "badinv01.dat": ["3.1.2.1", "400", "400"],
  "clerr.dat": ["3.1.2.2", "400; a stream waits for the rest", "400", NOTHING],
  "ncl.dat": ["3.1.2.3", "400, and the stream is lost", "400", "400 close"],
  "scalar02.dat": ["3.1.2.4", "400", "400"],
  "scalarlg.dat": ["3.1.2.5", "discarded", NOTHING],
  "quotbal.dat": ["3.1.2.6", "400", "400"],
  "ltgtruri.dat": ["3.1.2.7", "400", "400"],
  "lwsruri.dat": ["3.1.2.8", "400", "400"],
  "lwsstart.dat": ["3.1.2.9", "400", "400"],
  "trws.dat": ["3.1.2.10", "400", "400"],
  "escruri.dat": ["3.1.2.11", "400, or the escaped headers are ignored", "405"],
  "baddate.dat": ["3.1.2.12", "400, or Date is ignored", "405"],
  "regbadct.dat": ["3.1.2.13", "400 of a registrar, which we are not", "405"],
  "badaspec.dat": ["3.1.2.14", "400", "400"],
  "baddn.dat": ["3.1.2.15", "400", "400"],
  "badvers.dat": ["3.1.2.16", "505", "505"],
  "mismatch01.dat": ["3.1.2.17", "400", "400"],
  "mismatch02.dat": ["3.1.2.18", "400, or 501", "400"],
  "bigcode.dat": ["3.1.2.19", "discarded", NOTHING, "close"],
  "badbranch.dat": ["3.2.1", "matched as RFC 2543 has it", "200"],
  "insuf.dat": ["3.3.1", "400", "400"],
  "unkscm.dat": ["3.3.2", "416", "416"],
  "novelsc.dat": ["3.3.3", "416", "416"],
  "unksm2.dat": ["3.3.4", "400 of a registrar, which we are not", "405"],
  "bext01.dat": ["3.3.5", "420 with Unsupported", "420"],
  "invut.dat": ["3.3.6", "415 of who takes INVITE", "405"],
  "regaut01.dat": ["3.3.7", "401 of a registrar, which we are not", "405"],
  "multi01.dat": ["3.3.8", "400", "400"],
  "mcl01.dat": ["3.3.9", "400, and the stream is lost", "400", "400 close"],
  "bcast.dat": ["3.3.10", "discarded: its second Via is not of our making", NOTHING],
  "zeromf.dat": ["3.3.11", "served: an endpoint does not look at Max-Forwards", "200"],
  "cparam01.dat": ["3.3.12", "valid REGISTER", "405"],
  "cparam02.dat": ["3.3.13", "valid REGISTER", "405"],
  "regescrt.dat": ["3.3.14", "valid REGISTER", "405"],
  "sdp01.dat": ["3.3.15", "406 of who takes INVITE", "405"],
  "inv2543.dat": ["3.4.1", "served as RFC 2543 has it; a stream needs a Content-Length", "405", "400 close"],
};

const RFC5118: Record<string, Row> = {
  "ipv6-good": ["4.1", "valid REGISTER", "405"],
  "ipv6-bad": ["4.2", "400: no brackets", "400"],
  "port-ambiguous": ["4.3", "valid, the last group is no port", "405"],
  "port-unambiguous": ["4.4", "valid, with a port", "405"],
  "via-received-param-with-delim": ["4.5", "valid BYE, received with brackets is accepted", "405"],
  "via-received-param-no-delim": ["4.5", "valid OPTIONS", "200"],
  "ipv6-in-sdp": ["4.6", "valid INVITE", "405"],
  "mult-ip-in-header": ["4.7", "valid BYE", "405"],
  "mult-ip-in-sdp": ["4.8", "valid INVITE", "405"],
  "ipv4-mapped-ipv6": ["4.9", "valid INVITE", "405"],
  "ipv6-bug-abnf-3-colons": ["4.10", "may be accepted; three colons are no address to anybody else", "400"],
  "ipv6-correct-abnf-2-colons": ["4.10", "valid OPTIONS", "200"],
};

/** Status codes that go out, and `close`; the headers of the last answer. */
function into(transport: "udp" | "tcp", bytes: Uint8Array): { said: string; last: string } {
  const { node } = new Harness();
  const said: string[] = [];
  let last = "";
  const from = { transport, ip: "127.0.0.2", port: 5060 };
  node.handle({ type: "received", from, flow: transport === "udp" ? 0 : 1, bytes }, 0);
  for (let output = node.poll(); output !== undefined; output = node.poll()) {
    if (output.type === "close") said.push("close");
    if (output.type !== "transmit") continue;
    last = decodeUtf8(viewOf(output));
    said.push(last.slice(8, 11));
  }
  return { said: said.join(" "), last };
}

describe.each([
  ["rfc4475", RFC4475],
  ["rfc5118", RFC5118],
] as const)("torture: %s", (rfc, table) => {
  test("every file has its row", () => expect(torture(rfc)).toEqual(Object.keys(table).sort()));

  for (const [name, [clause, asked, answer, onStream = answer]] of Object.entries(table))
    test(`${clause} ${name}: ${asked}`, () => {
      const bytes = fixture("sip-torture", rfc, name);
      expect([into("udp", bytes).said, into("tcp", bytes).said]).toEqual([answer, onStream]);
    });
});

test("torture: an answer to a Via that makes no sense has it as it came", () => {
  const bytes = fixture("sip-torture", "rfc4475", "badinv01.dat");
  expect(into("udp", bytes).last).toContain("\r\nVia: SIP/2.0/UDP 192.0.2.15;;,;,,\r\n");
});

test("torture: a 420 names what is not supported", () => {
  const bytes = fixture("sip-torture", "rfc4475", "bext01.dat");
  expect(into("udp", bytes).last).toMatch(/\r\nUnsupported: nothingSupportsThis, *nothingSupportsThisEither\r\n/);
});
