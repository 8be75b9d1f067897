/**
 * Octets to one message (RFC 3261 §7), and what a request or response must have before anyone looks at it (§8.2, §16.3,
 * §20). Strict, because what two readers read differently is how one of them gets fooled; everything is bounded and linear.
 * Nothing here throws on octets.
 */
import { decodeUtf8, EMPTY } from "../core/bytes.ts";
import { type ErrorCode, ProtocolError } from "../core/errors.ts";
import { isToken, parseNumber, runEnd, skipSpace, TOKEN } from "./grammar.ts";
import { findLineEnd, Headers, scanHeaders } from "./headers.ts";
import type { SipMessage, SipRequest, SipResponse } from "./message.ts";
import { parseNameAddr } from "./name-addr.ts";
import { parseUri } from "./uri.ts";
import { topVia } from "./via.ts";

/** Limits of the codec; the answer to more is the status in brackets. */
export const LIMITS = {
  /** Start line and headers with the empty line, octets [513]. */
  headerBytes: 65_536,
  /** Body on a stream, octets [413]; a datagram bounds itself. */
  bodyBytes: 1_048_576,
  /** Header lines of one name [513]. */
  headerLinesOfOneName: 64,
  /** Header lines overall [513]. */
  headerLines: 512,
  /** Request-URI, characters [414]. */
  requestUriLength: 8_192,
} as const;

/** Octets that are no message, and why. */
export interface Malformed {
  readonly type: "malformed";
  readonly error: ProtocolError;
  /** Given when it is a request that can still be answered: Via, From, To, Call-ID and CSeq are readable. */
  readonly request: SipRequest | undefined;
}

/** Start line and headers of a message whose body has perhaps not arrived yet. */
export interface Head {
  start: RequestLine | StatusLine | undefined;
  headers: Headers;
  /** Octet offset of the body, −1 if the header block has no end. */
  bodyStart: number;
  /** `undefined` where there is no Content-Length header. */
  contentLength: number | undefined;
  /** The first fault; the rest is still filled in as far as it can be read. */
  error: ProtocolError | undefined;
  /** False where the fault leaves it in doubt where the message ends: a stream is lost then. */
  framed: boolean;
}

interface RequestLine {
  type: "request";
  method: string;
  uri: string;
}

interface StatusLine {
  type: "response";
  status: number;
  reason: string;
}

interface StartLine {
  line: RequestLine | StatusLine | undefined;
  error: ProtocolError | undefined;
}

function fault(message: string, section: string, statusHint = 400, code: ErrorCode = "protocol-malformed") {
  return new ProtocolError(message, { section: `RFC 3261 ${section}`, statusHint, code });
}

function shown(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}

/** `SIP/digits.digits` in any case (§7.1), but not ours: 505. Anything else in its place: 400. */
function versionFault(version: string): ProtocolError | undefined {
  const upper = version.toUpperCase();
  if (upper === "SIP/2.0") return undefined;
  const dot = upper.indexOf(".");
  const known = upper.startsWith("SIP/") && dot !== -1;
  const major = known ? parseNumber(upper.slice(4, dot), 999_999) : undefined;
  const minor = known ? parseNumber(upper.slice(dot + 1), 999_999) : undefined;
  if (major === undefined || minor === undefined) return fault(`bad SIP version ${shown(version)}`, "§7.1");
  return fault(`SIP version ${shown(version)}`, "§21.5.6", 505, "protocol-unsupported");
}

/** `SIP/2.0 SP 3DIGIT SP reason`; the space stays when the reason is empty (RFC 4475 §3.1.1.13). */
function parseStatusLine(text: string): StartLine {
  const version = text.slice(0, runEndOfWord(text));
  const digits = text.slice(version.length + 1, version.length + 4);
  const status = parseNumber(digits, 699);
  const spaced = text.charAt(version.length) === " " && text.charAt(version.length + 4) === " ";
  if (digits.length !== 3 || status === undefined || status < 100 || !spaced) {
    return { line: undefined, error: fault(`bad status line ${shown(text)}`, "§7.2") };
  }
  return { line: { type: "response", status, reason: text.slice(version.length + 5) }, error: versionFault(version) };
}

function runEndOfWord(text: string): number {
  const space = text.indexOf(" ");
  return space === -1 ? text.length : space;
}

/** `Method SP Request-URI SP SIP-Version`: single spaces, none inside the URI, none at the end (§7.1). */
function parseRequestLine(text: string): StartLine {
  const methodEnd = runEnd(text, 0, TOKEN);
  const last = text.lastIndexOf(" ");
  if (methodEnd === 0 || text.charAt(methodEnd) !== " " || !text.toUpperCase().includes(" SIP/")) {
    return { line: undefined, error: fault(`no start line ${shown(text)}`, "§7.1") };
  }
  const uri = last > methodEnd ? text.slice(methodEnd + 1, last) : "";
  const line: RequestLine = { type: "request", method: text.slice(0, methodEnd), uri };
  if (uri.length > LIMITS.requestUriLength) {
    return { line, error: fault(`Request-URI of ${uri.length} characters`, "§21.4.15", 414, "protocol-limit") };
  }
  const spaced = uri === "" || uri.includes(" ") || uri.includes("\t");
  const error = spaced ? fault(`bad request line ${shown(text)}`, "§7.1") : versionFault(text.slice(last + 1));
  return { line, error };
}

function parseStartLine(text: string): StartLine {
  return text.slice(0, 4).toUpperCase() === "SIP/" ? parseStatusLine(text) : parseRequestLine(text);
}

/** Once, digits only, at most nine of them: the sum with an offset stays exact whatever the remote claims. */
function readContentLength(headers: Headers): number | undefined | ProtocolError {
  const index = headers.find("Content-Length");
  if (index === -1) return undefined;
  if (headers.find("Content-Length", index + 1) !== -1) return fault("more than one Content-Length", "§20.14");
  const value = headers.valueAt(index);
  const length = value.length > 9 ? undefined : parseNumber(value, 999_999_999);
  return length ?? fault(`Content-Length ${shown(value)}`, "§20.14");
}

function noHead(bytes: Uint8Array, error: ProtocolError): Head {
  const headers = new Headers(bytes);
  return { start: undefined, headers, bodyStart: -1, contentLength: undefined, error, framed: false };
}

/** Reads start line and headers; `bytes` starts with the message and may hold more than it. */
export function parseHead(bytes: Uint8Array): Head {
  const eol = findLineEnd(bytes, 0, Math.min(bytes.length, LIMITS.headerBytes), false);
  if (eol === -1 && bytes.length >= LIMITS.headerBytes) {
    return noHead(bytes, fault("start line without an end", "§21.5.7", 513, "protocol-limit"));
  }
  if (eol < 0) return noHead(bytes, fault("start line not ended by CRLF", "§7"));
  const { line, error: lineError } = parseStartLine(decodeUtf8(bytes, 0, eol));
  const scan = scanHeaders(bytes, eol + 2, LIMITS);
  const length = readContentLength(scan.headers);
  const lengthError = length instanceof ProtocolError ? length : undefined;
  return {
    start: line,
    headers: scan.headers,
    bodyStart: scan.bodyStart,
    contentLength: length instanceof ProtocolError ? undefined : length,
    error: lineError ?? scan.error ?? lengthError,
    framed: line !== undefined && scan.framed && lengthError === undefined,
  };
}

function buildMessage(start: RequestLine | StatusLine, head: Head, body: Uint8Array, bytes: Uint8Array): SipMessage {
  const headers = head.headers;
  if (start.type === "request") {
    return { type: "request", method: start.method, uri: start.uri, headers, body, bytes };
  }
  return { type: "response", status: start.status, reason: start.reason, headers, body, bytes };
}

/**
 * True if a response to the request can be built and has somewhere to go (RFC 3261 §8.2.6.2): From, To, Call-ID and CSeq
 * are there and readable, and the topmost Via parses.
 */
export function isAnswerable(request: SipRequest): boolean {
  for (const name of ["From", "To", "Call-ID"]) if (!request.headers.get(name)) return false;
  const via = topVia(request);
  return via !== undefined && !(via instanceof ProtocolError) && cseqOf(request) !== undefined;
}

/** What is left of a message that has a fault. A malformed response has no request, and is answered by nobody. */
export function malformedOf(head: Head, error: ProtocolError, bytes: Uint8Array): Malformed {
  const start = head.start;
  if (start?.type !== "request") return { type: "malformed", error, request: undefined };
  const request = buildMessage(start, head, EMPTY, bytes) as SipRequest;
  // An ACK is never answered (§17.1.1.3), whatever is wrong with it.
  const answerable = start.method !== "ACK" && isAnswerable(request);
  return { type: "malformed", error, request: answerable ? request : undefined };
}

/** Why the body of this head cannot be had, `undefined` if it can. `available` counts the octets after the headers. */
export function bodyFault(head: Head, available: number, kind: "datagram" | "stream", bodyLimit: number) {
  const length = head.contentLength;
  if (length === undefined) return kind === "stream" ? fault("no Content-Length on a stream", "§18.3") : undefined;
  if (kind === "stream" && length > bodyLimit) {
    return fault(`body of ${length} octets, at most ${bodyLimit}`, "§21.4.11", 413, "protocol-limit");
  }
  return length > available ? fault(`Content-Length ${length}, but ${available} octets`, "§18.3") : undefined;
}

/** Joins a head and its body; `bytes` is what the head was read from, cut to the message on streams. */
export function completeMessage(
  head: Head,
  bytes: Uint8Array,
  kind: "datagram" | "stream",
  bodyLimit: number = LIMITS.bodyBytes,
): SipMessage | Malformed {
  const error = head.error ?? bodyFault(head, bytes.length - head.bodyStart, kind, bodyLimit);
  if (error !== undefined || head.start === undefined) {
    return malformedOf(head, error ?? fault("no start line", "§7"), bytes);
  }
  // §18.3: octets of a datagram beyond Content-Length are dropped; without the header the body is absent, as in Kamailio.
  const length = head.contentLength ?? 0;
  const body = length === 0 ? EMPTY : bytes.subarray(head.bodyStart, head.bodyStart + length);
  return buildMessage(head.start, head, body, bytes);
}

/**
 * Reads one message (RFC 3261 §7). It checks what is needed to know where everything stands: start line, header lines,
 * Content-Length (§18.3). What the headers say is for checkRequest and checkResponse.
 *
 * @param bytes  one datagram, or exactly one message of a stream; the message keeps views of it
 * @param kind   on a stream Content-Length is needed; on a datagram its absence means no body
 * @returns      the message, or Malformed with the fault and, where it can still be answered, the request
 */
export function parseMessage(bytes: Uint8Array, kind: "datagram" | "stream"): SipMessage | Malformed {
  return completeMessage(parseHead(bytes), bytes, kind);
}

/** RFC 3261 §20.16: number below 2³¹ (leading zeros allowed), white space, method; `undefined` where it is anything else. */
export function cseqOf(message: SipMessage): { number: number; method: string } | undefined {
  const value = message.headers.get("CSeq");
  if (value === undefined) return undefined;
  let digits = 0;
  while (value.charCodeAt(digits) >= 0x30 && value.charCodeAt(digits) <= 0x39) digits++;
  const number = parseNumber(value.slice(0, digits), 0x7fff_ffff);
  const method = value.slice(skipSpace(value, digits));
  if (number === undefined || method.length === value.length - digits || !isToken(method)) return undefined;
  return { number, method };
}

const MANDATORY = ["To", "From", "Call-ID", "CSeq"] as const;

/** §8.1.1: each once. Two To headers mean that two readers may see two addressees (RFC 4475 §3.3.8). */
function checkMandatory(message: SipMessage): ProtocolError | undefined {
  for (const name of MANDATORY) {
    const count = message.headers.count(name);
    if (count !== 1) return fault(`${count} ${name} headers, expected one`, "§8.1.1");
  }
  const via = topVia(message);
  if (via === undefined) return fault("no Via header", "§8.1.1");
  return via instanceof ProtocolError ? via : undefined;
}

function checkCommon(message: SipMessage): ProtocolError | undefined {
  const mandatory = checkMandatory(message);
  if (mandatory !== undefined) return mandatory;
  for (const name of ["From", "To"]) {
    const address = parseNameAddr(message.headers.get(name) ?? "");
    if (address instanceof ProtocolError) return address;
  }
  if (!message.headers.get("Call-ID")) return fault("empty Call-ID", "§20.8");
  if (cseqOf(message) === undefined) return fault(`CSeq ${shown(message.headers.get("CSeq") ?? "")}`, "§20.16");
  return undefined;
}

function checkMaxForwards(headers: Headers): ProtocolError | undefined {
  const index = headers.find("Max-Forwards");
  if (index === -1) return undefined;
  if (headers.find("Max-Forwards", index + 1) !== -1) return fault("more than one Max-Forwards", "§20.22");
  const value = headers.valueAt(index);
  return parseNumber(value, 255) === undefined ? fault(`Max-Forwards ${shown(value)}`, "§20.22") : undefined;
}

/**
 * Checks what a request must have before it is served (RFC 3261 §8.1.1, §8.2.2, §20.16, §20.22). Version, Content-Length
 * and limits are behind it: parseMessage gives no request that breaks them.
 *
 * @returns `undefined` if all is well, else the first fault; `statusHint` is 400, or 416 for a foreign URI scheme
 */
export function checkRequest(request: SipRequest): ProtocolError | undefined {
  const common = checkCommon(request);
  if (common !== undefined) return common;
  const method = cseqOf(request)?.method ?? "";
  if (method !== request.method) {
    return fault(`CSeq method ${shown(method)} in a ${shown(request.method)} request`, "§8.1.1.5");
  }
  const uri = parseUri(request.uri);
  return uri instanceof ProtocolError ? uri : checkMaxForwards(request.headers);
}

/** Checks what a response must have to be matched (RFC 3261 §8.2.6.2); the fault is for the log, nobody answers it. */
export function checkResponse(response: SipResponse): ProtocolError | undefined {
  return checkCommon(response);
}
