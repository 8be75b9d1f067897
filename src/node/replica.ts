/**
 * The copy of a foreign request that goes to the nodes (Kamailio's `dmq_t_replicate`, dmq.md section 10): one Via of ours on
 * top, everything else as it came: Request-URI, Route, Max-Forwards, all headers, the body. Nothing marks it as a copy but the
 * branch, and only for us.
 */
import { concatBytes, encodeUtf8 } from "../core/bytes.ts";
import { type Endpoint, formatHost, isReliable, type Transport } from "../core/endpoint.ts";
import { ProtocolError, UsageError } from "../core/errors.ts";
import { type Random, token } from "../core/random.ts";
import type { PeerAddress } from "../membership/peer.ts";
import type { SipRequest } from "../sip/message.ts";
import { checkRequest, parseMessage } from "../sip/parse.ts";
import { stampVia, viaCount } from "../sip/via.ts";
import { MAGIC_COOKIE } from "../transaction/key.ts";

/** INVITE has another transaction, ACK and CANCEL belong to one of another request, KDMQ is the bus's own. */
const NOT_REPLICATED = new Set(["INVITE", "ACK", "CANCEL", "KDMQ"]);

/** A request made ready: what is the same in every copy. */
export interface Original {
  readonly method: string;
  /** Via values of a copy, ours counted. */
  readonly vias: number;
  readonly requestLine: Uint8Array;
  /** From the first header to the end of the last one, without the empty line. */
  readonly headers: Uint8Array;
  readonly body: Uint8Array;
  readonly hasLength: boolean;
}

export interface Replica {
  readonly branch: string;
  readonly bytes: Uint8Array;
}

/**
 * @param source  where it came from: noted in its topmost Via as RFC 3261 §18.2.1 says; `undefined` where it did not come
 *                over the network
 * @throws UsageError for a method that cannot be replicated
 */
export function originalOf(request: SipRequest, source: Endpoint | undefined): Original {
  if (NOT_REPLICATED.has(request.method)) throw new UsageError(`${request.method} cannot be replicated`);
  const { bytes, headers } = request;
  const lineEnd = findCrlf(bytes, 0) + 2;
  const headersEnd = findBlankLine(bytes);
  return {
    method: request.method,
    vias: viaCount(request) + 1,
    requestLine: bytes.subarray(0, lineEnd),
    headers: stamped(request, source, lineEnd, headersEnd),
    body: headers.has("Content-Length") ? request.body : bytes.subarray(headersEnd + 2),
    hasLength: headers.has("Content-Length"),
  };
}

function stamped(request: SipRequest, source: Endpoint | undefined, start: number, end: number): Uint8Array {
  const { bytes, headers } = request;
  const via = headers.find("Via");
  const value = source === undefined || via === -1 ? undefined : stampVia(headers.valueAt(via), source);
  if (value === undefined) return bytes.subarray(start, end);
  const before = bytes.subarray(start, headers.valueStart(via));
  return concatBytes([before, encodeUtf8(value), bytes.subarray(headers.valueEnd(via), end)]);
}

/**
 * @param index  which copy it is: each node has a branch of its own, as each request of a transaction (RFC 3261 §8.1.1.7)
 * @param tag    a token of this node's alone, the beginning of its branches: `hasPassed` finds it
 */
export function replicaFor(
  original: Original,
  local: PeerAddress,
  transport: Transport,
  index: number,
  tag: string,
  random: Random,
): Replica {
  const branch = `${MAGIC_COOKIE}${tag}${token(random, 2)}.${index}`;
  const host = formatHost(local.host);
  const via = `Via: SIP/2.0/${transport.toUpperCase()} ${host}:${local.port};branch=${branch}\r\n`;
  // A stream cannot tell where a message without it ends (RFC 3261 §20.14).
  const length = isReliable(transport) && !original.hasLength ? `Content-Length: ${original.body.length}\r\n` : "";
  const parts = [original.requestLine, encodeUtf8(via), original.headers, encodeUtf8(`${length}\r\n`), original.body];
  return { branch, bytes: concatBytes(parts) };
}

/**
 * True if the request is a copy of ours that came back (RFC 3261 §16.3, item 4). The address that it came from does not
 * always tell: on a machine with several, a node that listens at a wildcard connects from another one than its own.
 */
export function hasPassed({ headers }: SipRequest, tag: string): boolean {
  return headers.getAll("Via").some((value) => value.includes(MAGIC_COOKIE + tag));
}

/**
 * Reads a request that an operator gave: one message, which may lack Via and Content-Length (the body is then the rest).
 *
 * @throws UsageError with what is wrong with it
 */
export function readOriginal(octets: Uint8Array): Original {
  const message = parseMessage(octets, "datagram");
  if (message.type === "malformed") throw new UsageError(`no SIP request: ${message.error.message}`);
  if (message.type === "response") throw new UsageError("no SIP request: it is a response");
  // Who never was on the wire has no Via; ours will be its first.
  const error = message.headers.has("Via") ? checkRequest(message) : checkWithoutVia(octets, message);
  if (error !== undefined) throw new UsageError(`no SIP request: ${error.message} (${error.section})`);
  return originalOf(message, undefined);
}

function checkWithoutVia(octets: Uint8Array, message: SipRequest): ProtocolError | undefined {
  const lineEnd = findCrlf(octets, 0) + 2;
  const via = encodeUtf8("Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK0\r\n");
  const whole = parseMessage(concatBytes([octets.subarray(0, lineEnd), via, octets.subarray(lineEnd)]), "datagram");
  if (whole.type !== "request") return new ProtocolError(`bad ${message.method}`, { section: "RFC 3261 §7" });
  return checkRequest(whole);
}

/** @returns offset of the CR LF at or after `from`; there is one, because the message was parsed */
function findCrlf(bytes: Uint8Array, from: number): number {
  let at = from;
  while (!(bytes[at] === 0x0d && bytes[at + 1] === 0x0a)) at++;
  return at;
}

/** @returns offset of the CR LF that is the empty line */
function findBlankLine(bytes: Uint8Array): number {
  let at = findCrlf(bytes, 0) + 2;
  while (!(bytes[at] === 0x0d && bytes[at + 1] === 0x0a)) at = findCrlf(bytes, at) + 2;
  return at;
}
