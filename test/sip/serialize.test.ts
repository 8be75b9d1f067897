import { describe, expect, test } from "bun:test";
import { concatBytes, decodeUtf8 } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { checkResponse } from "../../src/sip/parse.ts";
import { isHeaderSafe, ResponseWriter, reasonPhrase } from "../../src/sip/serialize.ts";
import { fixture, kdmq, lines, request, response } from "./octets.ts";

const SOURCE: Endpoint = { transport: "udp", ip: "127.0.0.1", port: 4000 };

test("serialize: header-safe is what holds no CR, LF or NUL", () => {
  expect(["", "a b\tж", "a\u0001"].map(isHeaderSafe)).toEqual([true, true, true]);
  expect(["a\r", "\nb", "\u0000"].map(isHeaderSafe)).toEqual([false, false, false]);
});

describe("serialize: a response", () => {
  const writer = new ResponseWriter();
  const answer = { status: 200, reason: "OK", toTag: "t1" };

  test("copies the request's octets, adds the tag and a Content-Length", () => {
    expect(decodeUtf8(writer.write(request(kdmq()), SOURCE, answer))).toBe(
      decodeUtf8(
        lines(
          "SIP/2.0 200 OK",
          "Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1",
          "To: <sip:lab@127.0.0.2:5060>;tag=t1",
          "From: <sip:lab@127.0.0.1:5060>;tag=a",
          "CSeq: 10 KDMQ",
          "Call-ID: 1@127.0.0.1",
          "Content-Length: 0",
          "",
          "",
        ),
      ),
    );
  });

  test("carries headers, type and body", () => {
    const headers = [["Server", "dmq ж"]] as const;
    const bytes = writer.write(request(kdmq()), SOURCE, {
      ...answer,
      headers,
      contentType: "text/plain",
      body: Uint8Array.of(0, 255, 13, 10),
    });
    const read = response(bytes);
    expect(read.headers.get("Server")).toBe("dmq ж");
    expect(read.headers.get("Content-Type")).toBe("text/plain");
    expect([...read.body]).toEqual([0, 255, 13, 10]);
  });

  test("keeps a tag that is there, and adds none for an empty one", () => {
    const tagged = request(kdmq({ to: "t: sip:lab@h;TAG=old" }));
    expect(response(writer.write(tagged, SOURCE, answer)).headers.get("To")).toBe("sip:lab@h;TAG=old");
    const trying = { status: 100, reason: "Trying", toTag: "" };
    expect(response(writer.write(request(kdmq()), SOURCE, trying)).headers.get("To")).toBe("<sip:lab@127.0.0.2:5060>");
  });

  test("keeps all Vias in order and stamps the topmost", () => {
    const via = "Via: SIP/2.0/UDP a.example;rport;branch=1 , SIP/2.0/UDP b.example\r\nv: SIP/2.0/TCP c.example";
    expect(response(writer.write(request(kdmq({ via })), SOURCE, answer)).headers.getAll("Via")).toEqual([
      "SIP/2.0/UDP a.example;received=127.0.0.1;rport=4000;branch=1, SIP/2.0/UDP b.example",
      "SIP/2.0/TCP c.example",
    ]);
  });

  test("answers folded headers with headers that read the same", () => {
    const folded = request(fixture("sip-torture", "rfc4475", "wsinv.dat"));
    const read = response(writer.write(folded, SOURCE, answer));
    for (const name of ["From", "To", "Call-ID", "CSeq"])
      expect(read.headers.get(name)).toBe(folded.headers.get(name)!);
    expect(read.headers.count("Via")).toBe(folded.headers.count("Via"));
    expect(checkResponse(read)).toBeUndefined();
  });

  test("can be written for a request that lacks or breaks everything", () => {
    for (const name of ["insuf.dat", "multi01.dat", "quotbal.dat", "badinv01.dat"]) {
      const read = response(writer.write(request(fixture("sip-torture", "rfc4475", name)), SOURCE, answer));
      expect(read.status).toBe(200);
    }
  });

  test("is valid until the next one, which reuses the memory", () => {
    const first = writer.write(request(kdmq()), SOURCE, answer);
    const second = writer.write(request(kdmq()), SOURCE, { ...answer, status: 404, reason: "Not Found" });
    expect(second.buffer).toBe(first.buffer);
    expect(decodeUtf8(first)).toStartWith("SIP/2.0 404");
  });

  test("grows with a long body", () => {
    const body = new Uint8Array(100_000).fill(0x61);
    const bytes = new ResponseWriter().write(request(kdmq()), SOURCE, { ...answer, body });
    expect(response(concatBytes([bytes])).body).toEqual(body);
  });

  test.each([
    ["a reason with a line end", { reason: "OK\r\nX: y" }],
    ["a status of 99", { status: 99 }],
    ["a status of 700", { status: 700 }],
    ["a tag that is no token", { toTag: "a b" }],
    ["a header with LF", { headers: [["X", "\n"]] }],
    ["a type with CR", { contentType: "a\r" }],
  ])("is an assertion with %s", (_, change) => {
    const wrong = { ...answer, ...change } as Parameters<ResponseWriter["write"]>[2];
    expect(() => writer.write(request(kdmq()), SOURCE, wrong)).toThrow("assertion failed");
  });
});

test.each([
  [200, "OK"],
  [404, "Not Found"],
  [513, "Message Too Large"],
  [499, "Bad Request"],
  [699, "Busy Everywhere"],
])("serialize: the phrase of %d is %s", (status, phrase) => {
  expect(reasonPhrase(status)).toBe(phrase);
});
