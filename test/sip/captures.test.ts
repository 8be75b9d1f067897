/** What Kamailio really sent: every capture is in order, and what is written again from it says the same. */
import { describe, expect, test } from "bun:test";
import { checkRequest, checkResponse, parseMessage } from "../../src/sip/parse.ts";
import { CAPTURES, fixture, rewritten } from "./octets.ts";

describe("captures", () => {
  test("are there", () => {
    expect(CAPTURES.length).toBeGreaterThan(60);
  });

  test.each(CAPTURES)("%s is read without a fault, on datagrams and streams", (name) => {
    const bytes = fixture("captures", name);
    for (const kind of ["datagram", "stream"] as const) {
      const message = parseMessage(bytes, kind);
      if (message.type === "malformed") throw message.error;
      const fault = message.type === "request" ? checkRequest(message) : checkResponse(message);
      expect(fault).toBeUndefined();
      expect(message.bytes).toBe(bytes);
      // No capture has octets behind its body, so the body must reach to the end.
      expect(bytes.length - message.body.length).toBe(new TextDecoder("latin1").decode(bytes).indexOf("\r\n\r\n") + 4);
    }
  });

  test.each(CAPTURES)("%s, if a request, keeps start line, headers and body when written again", (name) => {
    const message = parseMessage(fixture("captures", name), "datagram");
    if (message.type !== "request") {
      expect(message.type).toBe("response");
      return;
    }
    const again = parseMessage(rewritten(message), "stream");
    if (again.type !== "request") throw new Error("expected a request");
    expect([again.method, again.uri]).toEqual([message.method, message.uri]);
    expect(again.headers.entries()).toEqual(message.headers.entries());
    expect(again.body).toEqual(message.body);
  });
});
