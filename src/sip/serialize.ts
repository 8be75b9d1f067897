/**
 * Messages to octets: our requests from parts, our answers from the request's own octets (RFC 3261 §7, §8.2.6.2). A CR, LF
 * or NUL in a value would let a remote write headers of ours, so it is an assertion here and a check (isHeaderSafe) above.
 */
import { assert } from "../core/assert.ts";
import { EMPTY, encodeUtf8 } from "../core/bytes.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { ProtocolError } from "../core/errors.ts";
import { isToken } from "./grammar.ts";
import type { SipRequest } from "./message.ts";
import { parseNameAddr } from "./name-addr.ts";
import { stampVia } from "./via.ts";

type HeaderList = readonly (readonly [name: string, value: string])[];

/** True if the text can stand in a header value or a reason phrase: no CR, LF or NUL. */
export function isHeaderSafe(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x0d || code === 0x0a || code === 0) return false;
  }
  return true;
}

function assertHeader(name: string, value: string): void {
  assert(isToken(name), "a header name is a token");
  assert(isHeaderSafe(value), "a header value has no CR, LF or NUL");
}

/** A buffer that grows and is used again: one answer is written per received request. */
class OctetWriter {
  private buffer = new Uint8Array(2_048);
  private length = 0;

  clear(): void {
    this.length = 0;
  }

  /** ASCII is written character by character; anything else goes through the encoder. */
  text(text: string): void {
    this.reserve(text.length);
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      if (code >= 0x80) {
        this.octets(encodeUtf8(text), 0);
        return;
      }
      this.buffer[this.length + i] = code;
    }
    this.length += text.length;
  }

  octets(bytes: Uint8Array, start: number, end: number = bytes.length): void {
    this.reserve(end - start);
    this.buffer.set(bytes.subarray(start, end), this.length);
    this.length += end - start;
  }

  view(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }

  private reserve(more: number): void {
    if (this.length + more <= this.buffer.length) return;
    const grown = new Uint8Array(2 * (this.length + more));
    grown.set(this.buffer.subarray(0, this.length));
    this.buffer = grown;
  }
}

/** What a response says beyond what it copies. `headers` without Content-Type and Content-Length. */
export interface ResponseParts {
  status: number;
  reason: string;
  /** Added to To where it has none; `""` adds nothing (a 100 needs none). */
  toTag: string;
  headers?: HeaderList;
  contentType?: string;
  body?: Uint8Array;
}

/** A To that does not parse is answered with 400; it gets a tag unless one may be in it. */
function hasTag(value: string): boolean {
  const address = parseNameAddr(value);
  return address instanceof ProtocolError ? value.toLowerCase().includes("tag") : address.params.has("tag");
}

/** Writes responses to received requests, one at a time, all into the same memory. */
export class ResponseWriter {
  private readonly out = new OctetWriter();

  /**
   * Writes a response (RFC 3261 §8.2.6.2): Via lines, From, To, Call-ID and CSeq are the request's octets; the topmost Via
   * notes where the request came from (§18.2.1, RFC 3581 §4), To gets a tag, Content-Length is always there.
   *
   * @param source  where the request came from
   * @returns       a view that is valid until the next write
   */
  write(request: SipRequest, source: Endpoint, answer: ResponseParts): Uint8Array {
    assert(answer.status >= 100 && answer.status <= 699, "a status code is 100 to 699");
    assert(isHeaderSafe(answer.reason), "a reason phrase has no CR, LF or NUL");
    this.out.clear();
    this.out.text(`SIP/2.0 ${answer.status} ${answer.reason}\r\n`);
    this.vias(request, source);
    this.to(request, answer.toTag);
    for (const name of ["From", "CSeq", "Call-ID"]) this.copy(request, name, request.headers.find(name));
    for (const [name, value] of answer.headers ?? []) this.header(name, value);
    if (answer.contentType !== undefined) this.header("Content-Type", answer.contentType);
    const body = answer.body ?? EMPTY;
    this.out.text(`Content-Length: ${body.length}\r\n\r\n`);
    this.out.octets(body, 0);
    return this.out.view();
  }

  private header(name: string, value: string): void {
    assertHeader(name, value);
    this.out.text(`${name}: ${value}\r\n`);
  }

  private value(request: SipRequest, name: string, index: number): void {
    const headers = request.headers;
    this.out.text(`${name}: `);
    this.out.octets(headers.bytes, headers.valueStart(index), headers.valueEnd(index));
  }

  private copy(request: SipRequest, name: string, index: number): void {
    if (index === -1) return;
    this.value(request, name, index);
    this.out.text("\r\n");
  }

  private vias(request: SipRequest, source: Endpoint): void {
    const first = request.headers.find("Via");
    const stamped = first === -1 ? undefined : stampVia(request.headers.valueAt(first), source);
    if (stamped === undefined) this.copy(request, "Via", first);
    else this.header("Via", stamped);
    if (first === -1) return;
    for (let i = request.headers.find("Via", first + 1); i !== -1; i = request.headers.find("Via", i + 1)) {
      this.copy(request, "Via", i);
    }
  }

  private to(request: SipRequest, toTag: string): void {
    const index = request.headers.find("To");
    if (index === -1) return;
    const tagged = toTag === "" || hasTag(request.headers.valueAt(index));
    assert(tagged || isToken(toTag), "a tag is a token");
    this.value(request, "To", index);
    this.out.text(tagged ? "\r\n" : `;tag=${toTag}\r\n`);
  }
}

/** RFC 3261 §21 and the registry after it, as far as this project meets them. */
const REASONS = new Map<number, string>([
  [100, "Trying"],
  [180, "Ringing"],
  [181, "Call Is Being Forwarded"],
  [182, "Queued"],
  [183, "Session Progress"],
  [200, "OK"],
  [202, "Accepted"],
  [300, "Multiple Choices"],
  [301, "Moved Permanently"],
  [302, "Moved Temporarily"],
  [305, "Use Proxy"],
  [380, "Alternative Service"],
  [400, "Bad Request"],
  [401, "Unauthorized"],
  [402, "Payment Required"],
  [403, "Forbidden"],
  [404, "Not Found"],
  [405, "Method Not Allowed"],
  [406, "Not Acceptable"],
  [407, "Proxy Authentication Required"],
  [408, "Request Timeout"],
  [410, "Gone"],
  [413, "Request Entity Too Large"],
  [414, "Request-URI Too Long"],
  [415, "Unsupported Media Type"],
  [416, "Unsupported URI Scheme"],
  [420, "Bad Extension"],
  [421, "Extension Required"],
  [423, "Interval Too Brief"],
  [480, "Temporarily Unavailable"],
  [481, "Call/Transaction Does Not Exist"],
  [482, "Loop Detected"],
  [483, "Too Many Hops"],
  [484, "Address Incomplete"],
  [485, "Ambiguous"],
  [486, "Busy Here"],
  [487, "Request Terminated"],
  [488, "Not Acceptable Here"],
  [489, "Bad Event"],
  [491, "Request Pending"],
  [493, "Undecipherable"],
  [500, "Server Internal Error"],
  [501, "Not Implemented"],
  [502, "Bad Gateway"],
  [503, "Service Unavailable"],
  [504, "Server Time-out"],
  [505, "Version Not Supported"],
  [513, "Message Too Large"],
  [600, "Busy Everywhere"],
  [603, "Decline"],
  [604, "Does Not Exist Anywhere"],
  [606, "Not Acceptable"],
]);

const CLASS_REASONS = ["Trying", "OK", "Multiple Choices", "Bad Request", "Server Internal Error", "Busy Everywhere"];

/** The usual phrase of a status code; of an unknown one that of its class (RFC 3261 §8.1.3.2 treats it as x00). */
export function reasonPhrase(status: number): string {
  return REASONS.get(status) ?? CLASS_REASONS[Math.floor(status / 100) - 1] ?? "Unknown";
}
