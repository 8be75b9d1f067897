import { describe, expect, test } from "bun:test";
import { concatBytes, decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { checkRequest, checkResponse, cseqOf, LIMITS } from "../../src/sip/parse.ts";
import { kdmq, lines, malformed, request, response } from "./octets.ts";

describe("parse: a datagram", () => {
  test("is read as a request", () => {
    const message = request(kdmq());
    expect([message.method, message.uri]).toEqual(["KDMQ", "sip:lab@127.0.0.2:5060"]);
    expect(decodeUtf8(message.body)).toBe("hello");
    expect(checkRequest(message)).toBeUndefined();
  });

  test("is read as a response, with any reason or none", () => {
    const head = [
      "Via: SIP/2.0/UDP h.example;branch=z",
      "To: <sip:a@h>",
      "From: <sip:b@h>;tag=1",
      "Call-ID: 1",
      "CSeq: 1 KDMQ",
      "",
      "",
    ];
    for (const reason of ["OK", "", "= 2**3 * 5**2 но сто"]) {
      const message = response(lines(`SIP/2.0 200 ${reason}`, ...head));
      expect([message.status, message.reason]).toEqual([200, reason]);
      expect(checkResponse(message)).toBeUndefined();
    }
  });

  test("keeps a binary body exactly, and views of the octets", () => {
    const body = Uint8Array.from({ length: 256 }, (_, i) => i);
    const bytes = concatBytes([kdmq({ length: "Content-Length: 256" }, ""), body]);
    const message = request(bytes);
    expect(message.body).toEqual(body);
    expect(message.body.buffer).toBe(bytes.buffer);
    expect(message.bytes).toBe(bytes);
  });

  test("is cut to its Content-Length, and has no body without one", () => {
    expect(decodeUtf8(request(kdmq({ length: "l: 2" })).body)).toBe("he");
    expect(request(kdmq({ length: "" })).body).toHaveLength(0);
    expect(decodeUtf8(request(kdmq({ length: "Content-Length: 0005" })).body)).toBe("hello");
  });

  test("needs Content-Length on a stream", () => {
    const fault = malformed(kdmq({ length: "" }), "stream");
    expect(fault.error.statusHint).toBe(400);
    expect(fault.request?.method).toBe("KDMQ");
  });
});

describe("parse: a fault of a request that can be answered names the status", () => {
  test.each([
    ["two spaces", { start: "KDMQ  sip:h SIP/2.0" }, 400],
    ["a space in the URI", { start: "KDMQ sip:h; lr SIP/2.0" }, 400],
    ["space at the end", { start: "KDMQ sip:h SIP/2.0 " }, 400],
    ["no URI", { start: "KDMQ SIP/2.0" }, 400],
    ["another version", { start: "KDMQ sip:h SIP/3.0" }, 505],
    ["a version that is none", { start: "KDMQ sip:h SIP/2" }, 400],
    ["a long URI", { start: `KDMQ sip:${"a".repeat(LIMITS.requestUriLength)} SIP/2.0` }, 414],
    ["a line that is no header", { extra: "no header" }, 400],
    ["65 lines of one name", { extra: "X: 1\r\n".repeat(65).trimEnd() }, 513],
    ["513 lines", { extra: Array.from({ length: 513 }, (_, i) => `X-${i}: 1`).join("\r\n") }, 513],
    ["a negative length", { length: "Content-Length: -1" }, 400],
    ["a length in hexadecimal", { length: "Content-Length: 0x5" }, 400],
    ["a signed length", { length: "Content-Length: +5" }, 400],
    ["a length behind a byte order mark", { length: "Content-Length: \ufeff5" }, 400],
    ["an empty length", { length: "Content-Length:" }, 400],
    ["a length of ten digits", { length: "Content-Length: 0000000005" }, 400],
    ["two lengths, though equal", { length: "Content-Length: 5\r\nl: 5" }, 400],
    ["a list of lengths", { length: "Content-Length: 5, 5" }, 400],
    ["a length beyond the datagram", { length: "Content-Length: 6" }, 400],
  ])("%s", (_, changes, status) => {
    const fault = malformed(kdmq(changes as Record<string, string>));
    expect(fault.error.statusHint).toBe(status);
    expect(fault.request?.method).toBe("KDMQ");
    expect(fault.request?.headers.get("Call-ID")).toBe("1@127.0.0.1");
  });
});

describe("parse: not answered, because nobody could", () => {
  test.each([
    ["nothing", ""],
    ["a keepalive", "\r\n\r\n"],
    ["four NULs", "\u0000\u0000\u0000\u0000"],
    ["HTTP", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"],
    ["lines that end with LF", decodeUtf8(kdmq()).replaceAll("\r\n", "\n")],
    ["a start line that goes on", "KDMQ sip:h\r\n SIP/2.0\r\n\r\n"],
    ["a status of two digits", "SIP/2.0 20 OK\r\n\r\n"],
    ["a status of ten digits", "SIP/2.0 4294967301 OK\r\n\r\n"],
    ["a status of 099", "SIP/2.0 099 OK\r\n\r\n"],
    ["a status of 700", "SIP/2.0 700 OK\r\n\r\n"],
    ["no space after the status", "SIP/2.0 200\r\n\r\n"],
    ["a method that is no token", "KD@MQ sip:h SIP/2.0\r\n\r\n"],
    ["no Via", decodeUtf8(kdmq({ via: "", length: "l: x" }))],
    ["a broken Via", decodeUtf8(kdmq({ via: "Via: nonsense", length: "l: x" }))],
    ["no Call-ID", decodeUtf8(kdmq({ callId: "", length: "l: x" }))],
    ["a broken CSeq", decodeUtf8(kdmq({ cseq: "CSeq: KDMQ", length: "l: x" }))],
    ["an ACK", decodeUtf8(kdmq({ start: "ACK sip:h SIP/2.0", cseq: "CSeq: 1 ACK", length: "l: x" }))],
  ])("%s", (_, text) => {
    const fault = malformed(encodeUtf8(text));
    expect(fault.error.section).toStartWith("RFC 3261");
    expect(fault.request).toBeUndefined();
  });
});

test("parse: methods and header names of the compact, folded kind are read", () => {
  const bytes = lines(
    "kdmq sip:lab@[::1] SIP/2.0",
    "v: SIP/2.0/UDP",
    " [::1]:5060;branch=z",
    "t: <sip:lab@[::1]>",
    "f:",
    "\t<sip:lab@[::1]>;tag=a",
    "i: 1",
    "cseq: 0009",
    "  kdmq",
    "l: 2",
    "",
    "ok",
  );
  const message = request(bytes, "stream");
  expect(message.method).toBe("kdmq");
  expect(checkRequest(message)).toBeUndefined();
  expect(cseqOf(message)).toEqual({ number: 9, method: "kdmq" });
});

describe("check: a request is refused", () => {
  test.each([
    ["without To", { to: "" }, 400],
    ["without From", { from: "" }, 400],
    ["without Call-ID", { callId: "" }, 400],
    ["with an empty Call-ID", { callId: "Call-ID:" }, 400],
    ["without CSeq", { cseq: "" }, 400],
    ["without Via", { via: "" }, 400],
    ["with a Via that does not parse", { via: "Via: SIP/2.0/UDP 1.2.3.4;;" }, 400],
    ["with two To", { to: "To: <sip:a@h>\r\nt: <sip:a@h>" }, 400],
    ["with two CSeq", { cseq: "CSeq: 1 KDMQ\r\nCSeq: 1 KDMQ" }, 400],
    ["with a To that does not parse", { to: 'To: "open <sip:a@h>' }, 400],
    ["with a CSeq of another method", { cseq: "CSeq: 1 kdmq" }, 400],
    ["with a CSeq of 2³¹", { cseq: "CSeq: 2147483648 KDMQ" }, 400],
    ["with a CSeq without method", { cseq: "CSeq: 1" }, 400],
    ["with a CSeq without space", { cseq: "CSeq: 1KDMQ" }, 400],
    ["with a negative Max-Forwards", { maxForwards: "Max-Forwards: -1" }, 400],
    ["with a Max-Forwards of 256", { maxForwards: "Max-Forwards: 256" }, 400],
    ["with an empty Max-Forwards", { maxForwards: "Max-Forwards:" }, 400],
    ["with two Max-Forwards", { maxForwards: "Max-Forwards: 1\r\nMax-Forwards: 1" }, 400],
    ["with a foreign scheme", { start: "KDMQ tel:110 SIP/2.0" }, 416],
    ["with a URI in brackets", { start: "KDMQ <sip:h> SIP/2.0" }, 400],
    ["with a host that is none", { start: "KDMQ sip:2001:db8::1 SIP/2.0" }, 400],
  ])("%s", (_, changes, status) => {
    expect(checkRequest(request(kdmq(changes as Record<string, string>)))?.statusHint).toBe(status);
  });

  test("but not for what a peer may do", () => {
    const allowed: Record<string, string>[] = [
      { maxForwards: "" },
      { maxForwards: "Max-Forwards: 0068" },
      { maxForwards: "Max-Forwards: 255" },
      { cseq: "CSeq: 2147483647 KDMQ" },
      { via: "Via: SIP/2.0/ 127.0.0.1:5060" },
      { from: "From: <sip:lab@127.0.0.1>" },
      { start: "KDMQ sip:127.0.0.1 SIP/2.0" },
    ];
    for (const changes of allowed) expect(checkRequest(request(kdmq(changes)))).toBeUndefined();
  });
});
