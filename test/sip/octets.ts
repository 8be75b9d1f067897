/** Raw octets for the tests of the codec: fixtures as they are, and messages written as lines. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { concatBytes, encodeUtf8 } from "../../src/core/bytes.ts";
import type { SipMessage, SipRequest, SipResponse } from "../../src/sip/message.ts";
import { type Malformed, parseMessage } from "../../src/sip/parse.ts";

const FIXTURES = join(import.meta.dir, "..", "fixtures");

export function fixture(...path: string[]): Uint8Array {
  return new Uint8Array(readFileSync(join(FIXTURES, ...path)));
}

/** Names of the captured messages, in order. */
export const CAPTURES = readdirSync(join(FIXTURES, "captures"))
  .filter((name) => name.endsWith(".sip"))
  .sort();

export function torture(rfc: "rfc4475" | "rfc5118"): string[] {
  return readdirSync(join(FIXTURES, "sip-torture", rfc)).sort();
}

/** Joins lines with CRLF; the caller writes the empty line and the body. */
export function lines(...text: string[]): Uint8Array {
  return encodeUtf8(text.join("\r\n"));
}

/** A KDMQ request that is in order, with lines changed, taken away (`""`) or added by header name. */
export function kdmq(changes: Record<string, string> = {}, body = "hello"): Uint8Array {
  const headers: Record<string, string> = {
    start: "KDMQ sip:lab@127.0.0.2:5060 SIP/2.0",
    via: "Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1",
    to: "To: <sip:lab@127.0.0.2:5060>",
    from: "From: <sip:lab@127.0.0.1:5060>;tag=a",
    callId: "Call-ID: 1@127.0.0.1",
    cseq: "CSeq: 10 KDMQ",
    length: `Content-Length: ${encodeUtf8(body).length}`,
    maxForwards: "Max-Forwards: 1",
    ...changes,
  };
  return lines(...Object.values(headers).filter((line) => line !== ""), "", body);
}

/** A request put together again from what was read of it. */
export function rewritten({ method, uri, headers, body }: SipRequest): Uint8Array {
  const head = lines(
    `${method} ${uri} SIP/2.0`,
    ...headers.entries().map(([name, text]) => `${name}: ${text}`),
    "",
    "",
  );
  return concatBytes([head, body]);
}

export function request(bytes: Uint8Array, kind: "datagram" | "stream" = "datagram"): SipRequest {
  const message = parseMessage(bytes, kind);
  if (message.type !== "request") throw new Error(`expected a request, got ${describeMessage(message)}`);
  return message;
}

export function response(bytes: Uint8Array): SipResponse {
  const message = parseMessage(bytes, "datagram");
  if (message.type !== "response") throw new Error(`expected a response, got ${describeMessage(message)}`);
  return message;
}

export function malformed(bytes: Uint8Array, kind: "datagram" | "stream" = "datagram"): Malformed {
  const message = parseMessage(bytes, kind);
  if (message.type !== "malformed") throw new Error(`expected malformed, got ${describeMessage(message)}`);
  return message;
}

/** All that can be told about a message, as plain values to compare. */
export function describeMessage(message: SipMessage | Malformed | { type: "keepalive"; pong: boolean }): string {
  switch (message.type) {
    case "keepalive":
      return `keepalive ${message.pong}`;
    case "malformed":
      return `malformed ${message.error.statusHint} ${message.error.message} ${message.request?.method}`;
    case "request":
      return JSON.stringify([message.method, message.uri, message.headers.entries(), [...message.body]]);
    case "response":
      return JSON.stringify([message.status, message.reason, message.headers.entries(), [...message.body]]);
  }
}

/** Narrows what a parser gave back, and fails the test with the fault where it is one. */
export function value<T>(result: T): Exclude<T, Error> {
  if (result instanceof Error) throw result;
  return result as Exclude<T, Error>;
}
