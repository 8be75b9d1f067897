/**
 * How a KDMQ request of ours looks on the wire (dmq.md section 2).
 *
 * Max-Forwards and Content-Length stand before From, unlike Kamailio's own order: `dmq_process_message()` up to 6.0 sees
 * only the headers up to From and would read a missing Max-Forwards as 0 (dmq.md 11.12). To and Request-URI are the same
 * URI; the channel is the Request-URI's user part.
 */

import { assert } from "../core/assert.ts";
import { concatBytes, copyBytes, EMPTY, encodeUtf8, type Span } from "../core/bytes.ts";
import { formatHost, type Transport } from "../core/endpoint.ts";
import { UsageError } from "../core/errors.ts";
import type { OctetStore } from "../core/octet-store.ts";
import { putToken, type Random } from "../core/random.ts";
import { addressUri, type PeerAddress } from "../membership/peer.ts";
import { isHeaderSafe } from "../sip/serialize.ts";
import { branchKeyAt, type Fingerprint, MAGIC_COOKIE } from "../transaction/key.ts";
import { OWN } from "./requests.ts";

export interface KdmqParts {
  channel: string;
  local: PeerAddress;
  maxForwards: number;
  contentType: string;
  userAgent: string;
  /** Content types that the answer may have; only `dmq req` asks for a body. */
  accept?: string | undefined;
  /** Header `X-DMQ-Id`. */
  messageId?: string | undefined;
  /** Header `X-DMQ-Path`. */
  path?: string | undefined;
  /** Headers that the sender adds; they have been checked. */
  headers?: ExtraHeaders | undefined;
  bodyBytes: number;
}

/** Name and value each. */
export type ExtraHeaders = readonly (readonly [name: string, value: string])[];

/**
 * A header of ours: the sender's name for a message. Who sends a message again gives it the same one, so that a receiver
 * can tell. Kamailio leaves it alone.
 */
export const MESSAGE_ID_HEADER = "X-DMQ-Id";

/** A header of ours: the links that a message went through, with commas between (queue.md B9). Only links write it. */
export const PATH_HEADER = "X-DMQ-Path";

/** A request that was written, and where; `high` and `low` are the key of its branch. */
export interface KdmqRequest extends Fingerprint, Span {
  /** In the store, `OWN` where the octets do not stand there. */
  place: number;
}

/** Larger ones are rare, and do not stand in the store. */
const STORED_BYTES_MAX = 64 * 1_024;
/** Nodes whose URIs have one length, and one transport, share what is written for them; there are few such lengths. */
const FORMS_MAX = 16;

/** A head for URIs of one length, and where in it stands what is different for each node and each request. */
interface Form {
  readonly transport: Transport;
  readonly targetLength: number;
  readonly octets: Uint8Array;
  readonly requestUri: number;
  readonly branch: number;
  readonly to: number;
  readonly tag: number;
  readonly callId: number;
}

/** A message for any number of nodes: what is the same for all of them is written once. */
export class KdmqTemplate {
  private readonly channel: string;
  private readonly sentBy: string;
  /** From Max-Forwards to the To's name, from behind it to the tag, and from behind the Call-ID's token. */
  private readonly first: string;
  private readonly from: string;
  private readonly last: string;
  private readonly parts: KdmqParts;
  private readonly forms: Form[] = [];
  /** The result of `write`, which is used again. */
  private readonly written: { -readonly [K in keyof KdmqRequest]: KdmqRequest[K] } = {
    octets: EMPTY,
    start: 0,
    end: 0,
    place: OWN,
    high: 0,
    low: 0,
  };

  constructor(parts: KdmqParts) {
    const {
      channel,
      local,
      maxForwards,
      contentType,
      userAgent,
      accept,
      messageId,
      path,
      headers = [],
      bodyBytes,
    } = parts;
    for (const text of [channel, contentType, userAgent, accept ?? "", messageId ?? "", path ?? "", ...headers.flat()])
      assert(isHeaderSafe(text), "a header value has no CR, LF or NUL");
    this.channel = channel;
    this.sentBy = `${formatHost(local.host)}:${local.port}`;
    this.first = `Max-Forwards: ${maxForwards}\r\nContent-Length: ${bodyBytes}\r\nTo: <`;
    this.from = `>\r\nFrom: <${addressUri(local, local.host, channel)}>;tag=`;
    const type = bodyBytes === 0 ? "" : `Content-Type: ${contentType}\r\n`;
    const asked = accept === undefined ? "" : `Accept: ${accept}\r\n`;
    const named = messageId === undefined ? "" : `${MESSAGE_ID_HEADER}: ${messageId}\r\n`;
    const led = path === undefined ? "" : `${PATH_HEADER}: ${path}\r\n`;
    const extra = headers.map(([name, value]) => `${name}: ${value}\r\n`).join("");
    this.last = `@${local.host}\r\nUser-Agent: ${userAgent}\r\n${named}${led}${extra}${asked}${type}\r\n`;
    this.parts = parts;
  }

  /** True if it is one for a message of these parts, which then need not be looked at again. */
  isFor(channel: string, parts: Omit<KdmqParts, "channel" | "local" | "userAgent">): boolean {
    const { parts: own } = this;
    if (own.channel !== channel || own.bodyBytes !== parts.bodyBytes || own.contentType !== parts.contentType)
      return false;
    if (own.maxForwards !== parts.maxForwards || own.accept !== parts.accept) return false;
    // The same list, not an equal one: who sends a message to several nodes has one for all of them.
    return own.messageId === parts.messageId && own.path === parts.path && own.headers === parts.headers;
  }

  /** Octets of the request for a node, with headers. */
  sizeFor(target: string, transport: Transport): number {
    return this.formFor(target, transport).octets.length + this.parts.bodyBytes;
  }

  /**
   * Writes the request for one node.
   *
   * @param target     URI of the node as on its line: a SIP URI without a user
   * @param transport  that the request goes out on
   * @param body       as long as the template's parts say
   * @param store      where it is written; whoever sends it releases its place
   * @returns          it, in an object that is used again
   */
  write(target: string, transport: Transport, body: Uint8Array, random: Random, store: OctetStore): KdmqRequest {
    const form = this.formFor(target, transport);
    const { octets, branch } = form;
    assert(body.length === this.parts.bodyBytes, "a template is for bodies of one length");
    const size = octets.length + body.length;
    const isStored = size <= STORED_BYTES_MAX;
    const start = isStored ? store.reserve(size) : 0;
    const out = isStored ? store.octets : new Uint8Array(size);
    copyBytes(octets, 0, octets.length, out, start);
    copyBytes(body, 0, body.length, out, start + octets.length);
    putTarget(target, out, start + form.requestUri);
    putTarget(target, out, start + form.to);
    putToken(random, 2, out, start + branch);
    putToken(random, 1, out, start + form.tag);
    putToken(random, 2, out, start + form.callId);
    const { written } = this;
    const key = branchKeyAt(out, start + branch - MAGIC_COOKIE.length, start + branch + 2 * WORD_DIGITS);
    written.high = key.high;
    written.low = key.low;
    written.place = isStored ? store.commit(start + size) : OWN;
    written.octets = out;
    written.start = start;
    written.end = start + size;
    return written;
  }

  private formFor(target: string, transport: Transport): Form {
    const { forms } = this;
    for (let i = 0; i < forms.length; i++) {
      const form = forms[i] as Form;
      if (form.targetLength === target.length && form.transport === transport) return form;
    }
    if (forms.length >= FORMS_MAX) forms.length = 0;
    const form = this.compose(target, transport);
    forms.push(form);
    return form;
  }

  private compose(target: string, transport: Transport): Form {
    // Offsets are in octets, and a URI of a node has one for each character (putTarget).
    assert(encodeUtf8(target).length === target.length, "the URI of a node is ASCII");
    const host = target.slice(SCHEME.length);
    const name = `${SCHEME}${this.channel}@`;
    const via = `Via: SIP/2.0/${VIA_TRANSPORTS[transport]} ${this.sentBy};branch=${MAGIC_COOKIE}`;
    const pieces = [
      `KDMQ ${name}`,
      host,
      ` SIP/2.0\r\n${via}`,
      "0".repeat(2 * WORD_DIGITS),
      `\r\n${this.first}${name}`,
      host,
      this.from,
      "0".repeat(WORD_DIGITS),
      "\r\nCSeq: 10 KDMQ\r\nCall-ID: ",
      "0".repeat(2 * WORD_DIGITS),
      this.last,
    ].map(encodeUtf8);
    const at = (piece: number): number => pieces.slice(0, piece).reduce((sum, { length }) => sum + length, 0);
    const [requestUri, branch, to, tag, callId] = [at(1), at(3), at(5), at(7), at(9)];
    const octets = concatBytes(pieces);
    return { transport, targetLength: target.length, octets, requestUri, branch, to, tag, callId };
  }
}

const SCHEME = "sip:";
/** Hexadecimal digits of 32 bits. */
const WORD_DIGITS = 8;

/** Writes the part of the URI behind its scheme. */
function putTarget(target: string, out: Uint8Array, start: number): void {
  for (let i = SCHEME.length; i < target.length; i++) out[start + i - SCHEME.length] = target.charCodeAt(i);
}

const VIA_TRANSPORTS: Record<Transport, string> = { udp: "UDP", tcp: "TCP", tls: "TLS" };

/** RFC 3261 §25.1 `user`, without escapes: Kamailio compares channel names octet by octet. */
const CHANNEL_OCTETS = new Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!~*'()&=+$,;?/");
const CHANNEL_LENGTH_MAX = 128;

/** @throws UsageError where the name cannot stand in a Request-URI as it is */
export function checkChannel(name: string): void {
  if (name.length === 0 || name.length > CHANNEL_LENGTH_MAX)
    throw new UsageError(`channel name has ${name.length} characters, expected 1 to ${CHANNEL_LENGTH_MAX}`);
  for (const character of name)
    if (!CHANNEL_OCTETS.has(character))
      throw new UsageError(
        `channel name ${JSON.stringify(name)} holds ${JSON.stringify(character)}, which a SIP user part cannot`,
      );
}

/** @throws UsageError where text from a caller could break out of its header */
export function checkHeaderText(name: string, value: string): void {
  if (value.length === 0 || value.length > 1_024 || !isHeaderSafe(value))
    throw new UsageError(
      `${name} ${JSON.stringify(value.slice(0, 80))} cannot stand in a SIP header: control characters, empty or too long`,
    );
}

const ACCEPT_LENGTH_MAX = 255;
const MESSAGE_ID_LENGTH_MAX = 255;

/** @throws UsageError where the value cannot be an Accept header's: 1 to 255 printable ASCII characters */
export function checkAccept(value: string): void {
  if (isPrintable(value, ACCEPT_LENGTH_MAX, SPACE) && value.trim() === value) return;
  throw new UsageError(
    `accept ${shown(value)} is no media type of 1 to ${ACCEPT_LENGTH_MAX} printable ASCII characters`,
  );
}

const EXTRA_NAME = /^(?:X-[A-Za-z0-9-]{1,62}|Content-Encoding)$/i;
const EXTRA_MAX = 32;

/** @throws UsageError for headers that are none of the sender's: all but `X-…` and Content-Encoding have a meaning here */
export function checkExtraHeaders(headers: ExtraHeaders): void {
  if (headers.length > EXTRA_MAX) throw new UsageError(`${headers.length} headers, ${EXTRA_MAX} are the most`);
  for (const [name, value] of headers) {
    if (!EXTRA_NAME.test(name)) throw new UsageError(`header ${shown(name)} is neither X-NAME nor Content-Encoding`);
    checkHeaderText(`header ${name}`, value);
  }
}

/** @throws UsageError where the value cannot be a message id: 1 to 255 visible ASCII characters, no space */
export function checkMessageId(value: string): void {
  if (isMessageId(value)) return;
  throw new UsageError(
    `message id ${shown(value)} is not 1 to ${MESSAGE_ID_LENGTH_MAX} visible ASCII characters without a space`,
  );
}

/** The id that a request carries; one that we would not send ourselves is none. */
export function messageIdIn(header: string | undefined): string | undefined {
  return header !== undefined && isMessageId(header) ? header : undefined;
}

function isMessageId(value: string): boolean {
  return isPrintable(value, MESSAGE_ID_LENGTH_MAX, SPACE + 1);
}

const SPACE = 0x20;
const TILDE = 0x7e;

function isPrintable(value: string, lengthMax: number, lowest: number): boolean {
  if (value.length === 0 || value.length > lengthMax) return false;
  for (let i = 0; i < value.length; i++) if (value.charCodeAt(i) < lowest || value.charCodeAt(i) > TILDE) return false;
  return true;
}

function shown(value: string): string {
  return JSON.stringify(value.slice(0, 80));
}
