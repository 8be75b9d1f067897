/**
 * RFC 4475 and RFC 5118, all files: what an element like ours makes of each. Goal: never a throw, and the verdict that the
 * RFC expects of an element that does not look at bodies, Contact, Date or extensions.
 */
import { describe, expect, test } from "bun:test";
import { checkRequest, checkResponse, parseMessage } from "../../src/sip/parse.ts";
import { fixture, torture } from "./octets.ts";

/** "ok", or the status that tells the sender; "dropped" where nobody can be told (responses, unreadable requests). */
function verdict(bytes: Uint8Array): string {
  const message = parseMessage(bytes, "datagram");
  if (message.type === "malformed") return message.request === undefined ? "dropped" : `${message.error.statusHint}`;
  const fault = message.type === "request" ? checkRequest(message) : checkResponse(message);
  if (fault === undefined) return "ok";
  return message.type === "request" ? `${fault.statusHint}` : "dropped";
}

const RFC4475: Record<string, string> = {
  "badaspec.dat": "400",
  "badbranch.dat": "ok",
  // Only a reader of Date could object.
  "baddate.dat": "ok",
  "baddn.dat": "400",
  "badinv01.dat": "400",
  "badvers.dat": "505",
  // Two Vias: it is the transaction layer that has no use for it.
  "bcast.dat": "ok",
  // 420 is the node's answer, which knows the extensions.
  "bext01.dat": "ok",
  "bigcode.dat": "dropped",
  "clerr.dat": "400",
  "cparam01.dat": "ok",
  "cparam02.dat": "ok",
  // A datagram: the octets after Content-Length are no second request.
  "dblreq.dat": "ok",
  "esc01.dat": "ok",
  "esc02.dat": "ok",
  "escnull.dat": "ok",
  "escruri.dat": "ok",
  "insuf.dat": "400",
  // Valid by the RFC (a NUL as quoted pair), but a NUL in a header reads differently to every C program (docs/decisions/0016).
  "intmeth.dat": "dropped",
  "inv2543.dat": "ok",
  "invut.dat": "ok",
  "longreq.dat": "ok",
  "ltgtruri.dat": "400",
  "lwsdisp.dat": "ok",
  "lwsruri.dat": "400",
  "lwsstart.dat": "400",
  "mcl01.dat": "400",
  "mismatch01.dat": "400",
  "mismatch02.dat": "400",
  "mpart01.dat": "ok",
  "multi01.dat": "400",
  "ncl.dat": "400",
  "noreason.dat": "ok",
  "novelsc.dat": "416",
  "quotbal.dat": "400",
  "regaut01.dat": "ok",
  "regbadct.dat": "ok",
  "regescrt.dat": "ok",
  "scalar02.dat": "400",
  "scalarlg.dat": "dropped",
  "sdp01.dat": "ok",
  "semiuri.dat": "ok",
  "transports.dat": "ok",
  "trws.dat": "400",
  "unkscm.dat": "416",
  // The schemes of From and To are a registrar's business.
  "unksm2.dat": "ok",
  "unreason.dat": "ok",
  "wsinv.dat": "ok",
  "zeromf.dat": "ok",
};

const RFC5118: Record<string, string> = {
  "ipv4-mapped-ipv6": "ok",
  "ipv6-bad": "400",
  // The RFC lets an element take three colons; we write two and read two.
  "ipv6-bug-abnf-3-colons": "400",
  "ipv6-correct-abnf-2-colons": "ok",
  "ipv6-good": "ok",
  "ipv6-in-sdp": "ok",
  "mult-ip-in-header": "ok",
  "mult-ip-in-sdp": "ok",
  "port-ambiguous": "ok",
  "port-unambiguous": "ok",
  "via-received-param-no-delim": "ok",
  "via-received-param-with-delim": "ok",
};

describe.each([
  ["rfc4475", RFC4475],
  ["rfc5118", RFC5118],
] as const)("torture: %s", (rfc, table) => {
  test("every file has its verdict in the table", () => {
    expect(torture(rfc)).toEqual(Object.keys(table).sort());
  });

  test.each(Object.entries(table))("%s: %s", (name, expected) => {
    expect(verdict(fixture("sip-torture", rfc, name))).toBe(expected);
  });
});
