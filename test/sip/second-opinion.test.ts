/**
 * A second opinion on the codec from the npm package `sip`: it parses what we write, we parse what it writes. It has no
 * IPv6 and needs a transport in Via, so those captures are left out, by name.
 */

import { describe, expect, test } from "bun:test";
import { createRequire } from "node:module";
import { viewOf } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { OctetStore } from "../../src/core/octet-store.ts";
import { seededRandom } from "../../src/core/random.ts";
import { KdmqTemplate } from "../../src/node/kdmq.ts";
import type { SipMessage } from "../../src/sip/message.ts";
import { parseNameAddr } from "../../src/sip/name-addr.ts";
import { checkRequest, checkResponse, cseqOf, parseMessage } from "../../src/sip/parse.ts";
import { ResponseWriter, reasonPhrase } from "../../src/sip/serialize.ts";
import { topVia, viaCount } from "../../src/sip/via.ts";
import { CAPTURES, fixture, kdmq, request, rewritten, value } from "./octets.ts";

type Params = Record<string, string | null>;

interface ForeignAddress {
  name?: string;
  uri: string;
  params: Params;
}

interface ForeignMessage {
  method?: string;
  uri?: string;
  status?: number;
  reason?: string;
  headers: {
    via: { version: string; protocol: string; host: string; port?: number; params: Params }[];
    to: ForeignAddress;
    from: ForeignAddress;
    "call-id": string;
    cseq: { seq: number; method: string };
    [name: string]: unknown;
  };
  content: string;
}

interface ForeignSip {
  parse(bytes: Buffer): ForeignMessage | undefined;
  stringify(message: ForeignMessage): string;
  makeResponse(message: ForeignMessage, status: number, reason: string): ForeignMessage;
}

// The package has no types and is CommonJS.
const sip = createRequire(import.meta.url)("sip") as ForeignSip;

const SOURCE: Endpoint = { transport: "udp", ip: "127.0.0.1", port: 4000 };
const COMMON = CAPTURES.filter((name) => !name.includes("ipv6") && !name.startsWith("601"));

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("latin1");
}

function foreign(bytes: Uint8Array): ForeignMessage {
  const message = sip.parse(Buffer.from(bytes));
  if (message === undefined) throw new Error(`the second opinion refuses ${latin1(bytes)}`);
  return message;
}

/** What both readers can say of a message, in the same words. */
interface Reading {
  start: unknown[];
  via: unknown[];
  vias: number;
  to: unknown[];
  from: unknown[];
  callId: string | undefined;
  cseq: unknown[];
  content: string;
}

function theirs(message: ForeignMessage): Reading {
  const { via, to, from, cseq } = message.headers;
  const top = via[0]!;
  return {
    start: message.method === undefined ? [message.status, message.reason] : [message.method, message.uri],
    via: [top.protocol, top.host, top.port, top.params.branch ?? undefined],
    vias: via.length,
    to: [to.uri, to.params.tag ?? undefined],
    from: [from.uri, from.params.tag ?? undefined],
    callId: message.headers["call-id"],
    cseq: [cseq.seq, cseq.method],
    content: message.content,
  };
}

function ours(message: SipMessage): Reading {
  const via = value(topVia(message))!;
  const to = value(parseNameAddr(message.headers.get("To")!));
  const from = value(parseNameAddr(message.headers.get("From")!));
  const cseq = cseqOf(message);
  return {
    start: message.type === "request" ? [message.method, message.uri] : [message.status, message.reason],
    via: [via.transport, via.host, via.port, via.branch],
    vias: viaCount(message),
    to: [to.uri, to.params.get("tag")],
    from: [from.uri, from.params.get("tag")],
    callId: message.headers.get("Call-ID"),
    cseq: [cseq?.number, cseq?.method],
    content: latin1(message.body),
  };
}

function read(bytes: Uint8Array): SipMessage {
  const message = parseMessage(bytes, "stream");
  if (message.type === "malformed") throw message.error;
  const fault = message.type === "request" ? checkRequest(message) : checkResponse(message);
  if (fault !== undefined) throw fault;
  return message;
}

describe("second opinion: reads what we write as we do", () => {
  test.each(COMMON)("%s", (name) => {
    const captured = read(fixture("captures", name));
    if (captured.type === "response") {
      expect(theirs(foreign(captured.bytes))).toEqual(ours(captured));
      return;
    }
    expect(theirs(foreign(rewritten(captured)))).toEqual(ours(captured));
  });

  test("a message of ours, with a text that is no ASCII in a header and any octets behind it", () => {
    const body = Uint8Array.of(0, 13, 10, 13, 10, 200);
    const parts = {
      channel: "lab",
      maxForwards: 1,
      contentType: "text/plain",
      userAgent: "dmq é",
      bodyBytes: body.length,
    };
    const local = { transport: "udp", host: "127.0.0.1", port: 5060 } as const;
    const template = new KdmqTemplate({ ...parts, local, accept: "*/*" });
    const written = template.write("sip:127.0.0.2:5070;transport=tcp", "tcp", body, seededRandom(3), new OctetStore());
    const bytes = viewOf(written);
    const message = read(bytes);
    expect(theirs(foreign(bytes))).toEqual(ours(message));
    expect(message.type === "request" && message.uri).toBe("sip:lab@127.0.0.2:5070;transport=tcp");
    expect([...message.body]).toEqual([...body]);
    expect(message.headers.get("User-Agent")).toBe("dmq é");
  });

  test.each([200, 202, 404, 480])("%d to every captured request", (status) => {
    const writer = new ResponseWriter();
    for (const name of COMMON) {
      const captured = read(fixture("captures", name));
      if (captured.type === "response") continue;
      const answer = { status, reason: reasonPhrase(status), toTag: "tag1", body: Uint8Array.of(0, 13, 10, 200) };
      const written = writer.write(captured, SOURCE, answer).slice();
      expect(theirs(foreign(written))).toEqual(ours(read(written)));
      expect(ours(read(written))).toMatchObject({
        start: [status, answer.reason],
        callId: captured.headers.get("Call-ID"),
      });
    }
  });

  test("a response with received and rport", () => {
    const asked = request(kdmq({ via: "Via: SIP/2.0/UDP node.example:5070;rport;branch=z9hG4bK1" }));
    const written = new ResponseWriter().write(asked, SOURCE, { status: 200, reason: "OK", toTag: "t" });
    expect(foreign(written).headers.via[0]?.params).toEqual({
      rport: "4000",
      branch: "z9hG4bK1",
      received: "127.0.0.1",
    });
  });
});

describe("second opinion: what it writes is read by us as by itself", () => {
  test.each(COMMON)("%s", (name) => {
    const message = foreign(fixture("captures", name));
    const expected = theirs(message);
    expect(ours(read(Buffer.from(sip.stringify(message), "latin1")))).toEqual(expected);
  });

  test("its responses to every captured request", () => {
    for (const name of COMMON) {
      const message = foreign(fixture("captures", name));
      if (message.method === undefined) continue;
      const reply = sip.makeResponse(message, 404, "User Not Found");
      const written = Buffer.from(sip.stringify({ ...reply, content: "body \u00ff" }), "latin1");
      expect(ours(read(written))).toEqual({
        ...theirs(message),
        start: [404, "User Not Found"],
        content: "body \u00ff",
      });
    }
  });
});
