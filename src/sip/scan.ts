/**
 * The short way through an ordinary KDMQ request, or its answer: one pass over its octets notes where the headers stand that an
 * answer repeats or a node decides on, and makes nothing of them (RFC 3261 §7, §8.1.1).
 *
 * It knows a part of the grammar only: what Kamailio and this project write, with IPv4 hosts, names in their usual letter
 * case, one Via and no folding. Whatever else a request has, and every fault, is `false`, and parse.ts decides. So the two
 * cannot disagree: what is taken here is taken there, with the same channel, headers and body (test/sip/scan.test.ts).
 *
 * Each octet is looked at about once, and nothing is allocated; that is why offsets travel in members and not in objects, and
 * why a name is compared where it stands instead of being cut out.
 */
import { DIGIT_PLACE, Likeness, TOKEN_PLACE } from "./likeness.ts";

/** Header blocks of ordinary requests have about 500 octets; a longer one is for the parser. */
const HEAD_BYTES_MAX = 4_096;
const HEADERS_MAX = 32;
const CONTENT_LENGTH_MAX = 999_999;
/** As the parser has it: what is longer is refused, zeros or not. */
const CONTENT_LENGTH_DIGITS_MAX = 9;

const TOKEN = 1;
const ALPHA = 2;
const USER = 4;

/** Classes of RFC 3261 §25.1 for every octet; `USER` leaves escapes to the parser. */
const CLASSES = new Uint8Array(256);

function mark(characters: string, classes: number): void {
  for (let i = 0; i < characters.length; i++) CLASSES[characters.charCodeAt(i)]! |= classes;
}

mark("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", ALPHA | TOKEN | USER);
mark("0123456789", TOKEN | USER);
mark("-.!%*_+`'~", TOKEN);
mark("-_.!~*'()&=+$,;?/", USER);

function octets(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

const METHOD = octets("KDMQ sip:");
const STATUS_VERSION = octets("SIP/2.0 ");
const VERSION = octets(" SIP/2.0\r\n");
const SIP = octets("sip:");
const TRANSPORT = octets(";transport=");
const TAG = octets(";tag=");
const BRANCH = octets(";branch=z9hG4bK");
const COOKIE_BYTES = 7;
const CSEQ_METHOD = octets(" KDMQ");

/** The headers that are read, by their first octet. A name in other letters is found by `isKnownName`. */
const VIA = octets("Via: SIP/2.0/");
const TO = octets("To: <");
const FROM = octets("From: <");
const CSEQ = octets("CSeq: ");
const CALL_ID = octets("Call-ID: ");
const CONTENT_LENGTH = octets("Content-Length: ");
const CONTENT_TYPE = octets("Content-Type: ");
const MAX_FORWARDS = octets("Max-Forwards: ");
const ACCEPT = octets("Accept: ");

/** Names that mean something here, or make a request one that is not ordinary. */
const KNOWN_NAMES = [
  ...["via", "to", "from", "cseq", "call-id", "content-length", "content-type", "max-forwards", "accept", "require"],
  ...["content-encoding"],
].map(octets);

/** A bit for each length that one of them has: most other names are told by it. */
const KNOWN_LENGTHS = KNOWN_NAMES.reduce((bits, name) => bits | (1 << name.length), 0);

/** True if `text` stands at `at`, letter by letter. */
function stands(text: Uint8Array, b: Uint8Array, at: number): boolean {
  for (let i = 0; i < text.length; i++) if (b[at + i] !== text[i]) return false;
  return true;
}

/** True if the name is one of ours in letters of any case: an unusual spelling is for the parser. */
function isKnownName(b: Uint8Array, at: number, length: number): boolean {
  if (length > 30 || (KNOWN_LENGTHS & (1 << length)) === 0) return false;
  for (const name of KNOWN_NAMES) {
    if (name.length !== length) continue;
    let i = 0;
    while (i < length && (b[at + i]! | 0x20) === name[i]) i++;
    if (i === length) return true;
  }
  return false;
}

/** What a scan found. It is used again for every message: whoever keeps something copies it. */
export class MessageScan {
  /** User part of the Request-URI. */
  channelStart = 0;
  channelEnd = 0;
  /** Header lines from the first octet of the name to the CR, and the first octet of some values. */
  viaLine = -1;
  viaEnd = -1;
  viaHost = -1;
  viaHostEnd = -1;
  /** 0 where the sent-by has none. */
  viaPort = 0;
  branch = -1;
  branchEnd = -1;
  toLine = -1;
  toEnd = -1;
  toHasTag = false;
  fromLine = -1;
  fromEnd = -1;
  /** URI between the brackets. */
  fromUri = -1;
  fromUriEnd = -1;
  cseqLine = -1;
  cseqEnd = -1;
  callIdLine = -1;
  callIdEnd = -1;
  callId = -1;
  /** −1 where there is none. */
  contentType = -1;
  contentTypeEnd = -1;
  maxForwards = -1;
  hasAccept = false;
  bodyStart = 0;
  bodyEnd = 0;
  /** Of a response; the reason is text up to the CR. */
  status = 0;
  reason = -1;
  reasonEnd = -1;
  private contentLength = -1;
  private digits = -1;
  private digitsEnd = -1;
  /** Of To and From, −1 where there is none. */
  private toTag = -1;
  private fromTag = -1;
  private readonly likeness = new Likeness(CLASSES, TOKEN);
  /** Where the message begins that the members speak of. */
  private origin = 0;
  /** Where the octets end that may be read: what is behind them is another datagram's. */
  private to = 0;
  /** Of the last host and port, user, tag and number that were read. */
  private hostEnd = -1;
  private port = 0;
  private userStart = -1;
  private userEnd = -1;
  private tag = -1;
  private number = 0;

  /**
   * Reads an ordinary request.
   *
   * @param b         datagrams, or octets of a stream
   * @param isStream  Content-Length is needed
   * @param from      where the request begins; all members are offsets in `b`
   * @param to        where its datagram ends, or what there is of the stream
   * @returns         false where the request is not ordinary, or none: the members mean nothing then
   */
  read(b: Uint8Array, isStream: boolean, from = 0, to: number = b.length): boolean {
    const limit = Math.min(to, from + HEAD_BYTES_MAX);
    this.to = to;
    if (!stands(METHOD, b, from)) return false;
    if (this.isLikeLast(b, from)) return this.takeOver(b, from, isStream);
    const end = this.readUri(b, from + METHOD.length, limit);
    if (end === -1 || this.userStart === -1 || !stands(VERSION, b, end)) return false;
    this.channelStart = this.userStart;
    this.channelEnd = this.userEnd;
    return this.readHeaders(b, end + VERSION.length, limit, isStream);
  }

  /**
   * Reads an ordinary response to a KDMQ request: what `read` says of headers and body holds for it too.
   *
   * @returns false where the response is not ordinary, or none: the members mean nothing then
   */
  readResponse(b: Uint8Array, isStream: boolean, from = 0, to: number = b.length): boolean {
    const limit = Math.min(to, from + HEAD_BYTES_MAX);
    this.to = to;
    if (!stands(STATUS_VERSION, b, from)) return false;
    if (this.isLikeLast(b, from)) return this.takeOver(b, from, isStream);
    const code = from + STATUS_VERSION.length;
    const digits = this.readNumber(b, code, 699);
    if (digits !== code + 3 || this.number < 100 || b[digits] !== 0x20) return false;
    this.status = this.number;
    this.reason = digits + 1;
    this.reasonEnd = this.reason;
    while (this.reasonEnd < limit && b[this.reasonEnd]! >= 0x20) this.reasonEnd++;
    const end = this.reasonEnd;
    if (b[end] !== 0x0d || b[end + 1] !== 0x0a || b[end + 2] === 0x20 || b[end + 2] === 0x09) return false;
    return this.readHeaders(b, end + 2, limit, isStream);
  }

  private readHeaders(b: Uint8Array, start: number, limit: number, isStream: boolean): boolean {
    this.forget();
    let at = start;
    for (let count = 0; count < HEADERS_MAX; count++) {
      if (b[at] === 0x0d) return this.isComplete(b, at, isStream) && this.learn(b);
      const end = this.readHeader(b, at, limit);
      if (end === -1 || b[end] !== 0x0d || b[end + 1] !== 0x0a) return false;
      at = end + 2;
      // The line goes on: RFC 3261 §7.3.1.
      if (b[at] === 0x20 || b[at] === 0x09) return false;
    }
    return false;
  }

  /** @returns false where the message at `from` has to be read: what the last one had means nothing any more then */
  private isLikeLast(b: Uint8Array, from: number): boolean {
    if (this.likeness.holds(b, from, this.to)) return true;
    this.likeness.forget();
    this.origin = from;
    return false;
  }

  /** The next message may have the same head. @returns true */
  private learn(b: Uint8Array): true {
    const { likeness, origin } = this;
    if (!likeness.learn(b, origin, this.bodyStart)) return true;
    likeness.place(this.branch + COOKIE_BYTES - origin, this.branchEnd - origin, TOKEN_PLACE);
    likeness.place(this.callId - origin, callIdTokenEnd(b, this.callId, this.callIdEnd) - origin, TOKEN_PLACE);
    if (this.toTag !== -1) likeness.place(this.toTag - origin, this.toEnd - origin, TOKEN_PLACE);
    if (this.fromTag !== -1) likeness.place(this.fromTag - origin, this.fromEnd - origin, TOKEN_PLACE);
    if (this.contentLength !== -1) likeness.place(this.digits - origin, this.digitsEnd - origin, DIGIT_PLACE);
    return true;
  }

  /** The message at `from` has the head of the last one: everything stands where it stood there. */
  private takeOver(b: Uint8Array, from: number, isStream: boolean): boolean {
    this.moveBy(from - this.origin);
    this.origin = from;
    if (this.contentLength !== -1 && this.readNumber(b, this.digits, CONTENT_LENGTH_MAX) === -1) return false;
    if (this.contentLength !== -1) this.contentLength = this.number;
    return this.isComplete(b, this.bodyStart - 2, isStream);
  }

  private moveBy(octets: number): void {
    if (octets === 0) return;
    this.channelStart += octets;
    this.channelEnd += octets;
    this.viaLine += octets;
    this.viaEnd += octets;
    this.viaHost += octets;
    this.viaHostEnd += octets;
    this.branch += octets;
    this.branchEnd += octets;
    this.toLine += octets;
    this.toEnd += octets;
    this.fromLine += octets;
    this.fromEnd += octets;
    this.fromUri += octets;
    this.fromUriEnd += octets;
    this.cseqLine += octets;
    this.cseqEnd += octets;
    this.callIdLine += octets;
    this.callIdEnd += octets;
    this.callId += octets;
    if (this.contentType !== -1) {
      this.contentType += octets;
      this.contentTypeEnd += octets;
    }
    this.bodyStart += octets;
    this.reason += octets;
    this.reasonEnd += octets;
    this.digits += octets;
    this.digitsEnd += octets;
  }

  private forget(): void {
    this.viaLine = -1;
    this.toLine = -1;
    this.fromLine = -1;
    this.cseqLine = -1;
    this.callIdLine = -1;
    this.contentType = -1;
    this.maxForwards = -1;
    this.contentLength = -1;
    this.hasAccept = false;
  }

  /** @returns the offset after the line's last octet, −1 where it is not ordinary */
  private readHeader(b: Uint8Array, at: number, limit: number): number {
    switch (b[at]) {
      case 0x56:
        if (stands(VIA, b, at)) return this.readVia(b, at, limit);
        break;
      case 0x54:
        if (stands(TO, b, at)) return this.readTo(b, at, limit);
        break;
      case 0x46:
        if (stands(FROM, b, at)) return this.readFrom(b, at, limit);
        break;
      case 0x4d:
        if (stands(MAX_FORWARDS, b, at)) return this.readMaxForwards(b, at);
        break;
      case 0x43:
        return this.readC(b, at, limit);
      case 0x41:
        if (!stands(ACCEPT, b, at)) break;
        this.hasAccept = true;
        return textEnd(b, at + ACCEPT.length, limit);
    }
    return readOther(b, at, limit);
  }

  /** The four that begin with C. */
  private readC(b: Uint8Array, at: number, limit: number): number {
    switch (b[at + 1]) {
      case 0x53:
        if (stands(CSEQ, b, at)) return this.readCseq(b, at);
        break;
      case 0x61:
        if (stands(CALL_ID, b, at)) return this.readCallId(b, at, limit);
        break;
      case 0x6f:
        if (stands(CONTENT_LENGTH, b, at)) return this.readContentLength(b, at);
        if (stands(CONTENT_TYPE, b, at)) return this.readContentType(b, at, limit);
        break;
    }
    return readOther(b, at, limit);
  }

  /** After `sip:`: `[user@]IPv4[:port][;transport=token]`. @returns the offset after it, −1 where it is not that */
  private readUri(b: Uint8Array, start: number, limit: number): number {
    let end = start;
    while (end < limit && (CLASSES[b[end]!]! & USER) !== 0) end++;
    const hasUser = b[end] === 0x40;
    if (hasUser && end === start) return -1;
    this.userStart = hasUser ? start : -1;
    this.userEnd = end;
    const after = this.readHostPort(b, hasUser ? end + 1 : start);
    if (after === -1 || b[after] !== 0x3b) return after;
    return stands(TRANSPORT, b, after) ? runEnd(b, after + TRANSPORT.length, limit, ALPHA) : -1;
  }

  /** `IPv4[:port]`. @returns the offset after it, −1 where it is not that */
  private readHostPort(b: Uint8Array, at: number): number {
    const end = ipv4End(b, at);
    this.hostEnd = end;
    this.port = 0;
    if (end === -1 || b[end] !== 0x3a) return end;
    // A leading zero would be another spelling of the same port.
    const after = b[end + 1] === 0x30 ? -1 : this.readNumber(b, end + 1, 65_535);
    this.port = this.number;
    return after;
  }

  /** @returns the offset after the digits, −1 where there are none or too many; the number is in `number` */
  private readNumber(b: Uint8Array, at: number, max: number): number {
    let value = 0;
    let end = at;
    for (let digit = b[end]! - 0x30; digit >= 0 && digit <= 9; digit = b[++end]! - 0x30) {
      value = value * 10 + digit;
      if (value > max || end - at > 9) return -1;
    }
    // A digit behind the last octet is NaN, and then JavaScriptCore keeps `value` as floating point: an offset made of that would make
    // every index into every later message of the stream one, which is three times as slow.
    this.number = value | 0;
    return end === at ? -1 : end;
  }

  /** `SIP/2.0/transport IPv4[:port];branch=z9hG4bK…`, and no other parameter: those that mean something are for the parser. */
  private readVia(b: Uint8Array, line: number, limit: number): number {
    const space = this.viaLine === -1 ? runEnd(b, line + VIA.length, limit, ALPHA) : -1;
    if (space === -1 || b[space] !== 0x20) return -1;
    const after = this.readHostPort(b, space + 1);
    if (after === -1 || !stands(BRANCH, b, after)) return -1;
    this.viaLine = line;
    this.viaHost = space + 1;
    this.viaHostEnd = this.hostEnd;
    this.viaPort = this.port;
    this.branch = after + BRANCH.length - COOKIE_BYTES;
    this.viaEnd = runEnd(b, after + BRANCH.length, limit, TOKEN);
    this.branchEnd = this.viaEnd;
    return this.viaEnd;
  }

  /** After `<`: `sip:…>[;tag=token]`. @returns the offset after it, −1 where it is not that */
  private readAddress(b: Uint8Array, at: number, limit: number): number {
    this.tag = -1;
    if (!stands(SIP, b, at)) return -1;
    const close = this.readUri(b, at + SIP.length, limit);
    if (close === -1 || b[close] !== 0x3e) return -1;
    this.fromUriEnd = close;
    if (b[close + 1] !== 0x3b) return close + 1;
    this.tag = close + 1 + TAG.length;
    return stands(TAG, b, close + 1) ? runEnd(b, this.tag, limit, TOKEN) : -1;
  }

  private readTo(b: Uint8Array, line: number, limit: number): number {
    // From is read with the same members: what To leaves in them must not stay.
    const fromUriEnd = this.fromUriEnd;
    const end = this.toLine === -1 ? this.readAddress(b, line + TO.length, limit) : -1;
    this.toHasTag = end > this.fromUriEnd + 1;
    this.toTag = this.tag;
    this.fromUriEnd = fromUriEnd;
    this.toLine = line;
    this.toEnd = end;
    return end;
  }

  private readFrom(b: Uint8Array, line: number, limit: number): number {
    const end = this.fromLine === -1 ? this.readAddress(b, line + FROM.length, limit) : -1;
    this.fromLine = line;
    this.fromEnd = end;
    this.fromTag = this.tag;
    this.fromUri = line + FROM.length;
    return end;
  }

  private readCseq(b: Uint8Array, line: number): number {
    const digits = this.cseqLine === -1 ? this.readNumber(b, line + CSEQ.length, 0x7fff_ffff) : -1;
    if (digits === -1 || !stands(CSEQ_METHOD, b, digits)) return -1;
    this.cseqLine = line;
    this.cseqEnd = digits + CSEQ_METHOD.length;
    return this.cseqEnd;
  }

  private readCallId(b: Uint8Array, line: number, limit: number): number {
    if (this.callIdLine !== -1) return -1;
    this.callIdLine = line;
    this.callId = line + CALL_ID.length;
    this.callIdEnd = textEnd(b, this.callId, limit);
    return this.callIdEnd > this.callId ? this.callIdEnd : -1;
  }

  private readContentType(b: Uint8Array, line: number, limit: number): number {
    if (this.contentType !== -1) return -1;
    this.contentType = line + CONTENT_TYPE.length;
    this.contentTypeEnd = textEnd(b, this.contentType, limit);
    return this.contentTypeEnd;
  }

  private readMaxForwards(b: Uint8Array, line: number): number {
    const end = this.maxForwards === -1 ? this.readNumber(b, line + MAX_FORWARDS.length, 255) : -1;
    this.maxForwards = this.number;
    return end;
  }

  private readContentLength(b: Uint8Array, line: number): number {
    const start = line + CONTENT_LENGTH.length;
    const end = this.contentLength === -1 ? this.readNumber(b, start, CONTENT_LENGTH_MAX) : -1;
    this.contentLength = this.number;
    this.digits = start;
    this.digitsEnd = end;
    return end - start > CONTENT_LENGTH_DIGITS_MAX ? -1 : end;
  }

  /** At the empty line: all that a request must have is there, and its body is as long as it says (§18.3). */
  private isComplete(b: Uint8Array, at: number, isStream: boolean): boolean {
    if (b[at + 1] !== 0x0a || (isStream && this.contentLength === -1)) return false;
    this.bodyStart = at + 2;
    this.bodyEnd = this.bodyStart + Math.max(0, this.contentLength);
    // Whoever compares text may read on behind the end, and finds the empty line there: then the body is behind it, too.
    if (this.bodyEnd > this.to || this.viaLine === -1 || this.toLine === -1) return false;
    return this.fromLine !== -1 && this.cseqLine !== -1 && this.callIdLine !== -1;
  }
}

/** @returns the offset after the token that a Call-ID begins with; `@` and a host follow it, mostly */
function callIdTokenEnd(b: Uint8Array, callId: number, end: number): number {
  let at = callId;
  while (at < end && (CLASSES[b[at]!]! & TOKEN) !== 0) at++;
  return at;
}

/** @returns the offset after one or more octets of `classes`, −1 where there is none */
function runEnd(b: Uint8Array, at: number, limit: number, classes: number): number {
  let end = at;
  while (end < limit && (CLASSES[b[end]!]! & classes) !== 0) end++;
  return end === at ? -1 : end;
}

/** @returns the offset of the first control character, −1 where white space stands at an end and would have to be cut off */
function textEnd(b: Uint8Array, at: number, limit: number): number {
  let end = at;
  while (end < limit && b[end]! >= 0x20) end++;
  return b[at] === 0x20 || b[end - 1] === 0x20 ? -1 : end;
}

/** Four numbers without leading zeros. @returns the offset after them, −1 where it is not that */
function ipv4End(b: Uint8Array, at: number): number {
  let end = at;
  for (let part = 0; part < 4; part++) {
    if (part > 0 && b[end++] !== 0x2e) return -1;
    const first = end;
    let value = 0;
    for (let digit = b[end]! - 0x30; digit >= 0 && digit <= 9; digit = b[++end]! - 0x30) {
      value = value * 10 + digit;
      if (value > 255) return -1;
    }
    if (end === first || (end - first > 1 && b[first] === 0x30)) return -1;
  }
  return end;
}

/** A header that nobody asks for: a token, a colon, and text. */
function readOther(b: Uint8Array, at: number, limit: number): number {
  const colon = runEnd(b, at, limit, TOKEN);
  // One letter is a compact name.
  if (colon === -1 || b[colon] !== 0x3a || colon - at === 1 || isKnownName(b, at, colon - at)) return -1;
  const end = textEnd(b, b[colon + 1] === 0x20 ? colon + 2 : colon + 1, limit);
  return end;
}
