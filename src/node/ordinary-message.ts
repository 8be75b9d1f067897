/**
 * A channel message that came the short way (sip/scan.ts): its octets, and where its parts stand; each part is made when a
 * handler asks for it.
 */
import { copyOf, decodeUtf8 } from "../core/bytes.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { SipRequest } from "../sip/message.ts";
import { OrdinaryRequest } from "../sip/ordinary.ts";
import type { MessageScan } from "../sip/scan.ts";
import type { ChannelMessage, Flow, Pending } from "./io.ts";
import { MESSAGE_ID_HEADER, messageIdIn } from "./kdmq.ts";
import type { Share } from "./shares.ts";

/** URI of the peer that a From URI names, if it is one. */
export type PeerLookup = (from: string, source: Endpoint) => string | undefined;

/**
 * Up to here a body is copied: a view makes JavaScriptCore move the whole datagram and give it an ArrayBuffer, which costs more than
 * to copy 1,000 octets (0.7 to 0.9 µs of 9.6 and 10.5 a message, and the datagram stays as long as the body).
 */
const COPIED_BYTES = 4_096;

/** Where the octets of a message stay, and where they stood when they were read. */
export interface Kept {
  octets: Uint8Array;
  start: number;
  end: number;
  origin: number;
}

/** The message, and the request that waits for its answer, in one: there is one of them for every message of a busy node. */
export class OrdinaryMessage implements ChannelMessage, Pending {
  /** What the request came in, and where it stands there. */
  octets: Uint8Array;
  start: number;
  end: number;
  readonly source: Endpoint;
  readonly flow: Flow;
  readonly transaction: number;
  readonly channel: string;
  readonly maxForwards: number | undefined;
  readonly acceptsBody: boolean;
  share: Share | undefined;
  private readonly peers: PeerLookup;
  private fromUri: number;
  private fromUriEnd: number;
  private bodyStart: number;
  private bodyEnd: number;
  private parsed: SipRequest | undefined;

  /** @param scan  of the request, as it stood at `kept.origin` */
  constructor(
    kept: Kept,
    scan: MessageScan,
    transaction: number,
    channel: string,
    source: Endpoint,
    flow: Flow,
    peers: PeerLookup,
  ) {
    const { start } = kept;
    const shift = start - kept.origin;
    this.octets = kept.octets;
    this.start = start;
    this.end = kept.end;
    this.source = source;
    this.flow = flow;
    this.transaction = transaction;
    this.channel = channel;
    this.maxForwards = scan.maxForwards === -1 ? undefined : scan.maxForwards;
    this.acceptsBody = scan.hasAccept;
    this.peers = peers;
    this.fromUri = scan.fromUri + shift;
    this.fromUriEnd = scan.fromUriEnd + shift;
    this.bodyStart = scan.bodyStart + shift;
    this.bodyEnd = scan.bodyEnd + shift;
    this.share = undefined;
    this.parsed = undefined;
  }

  /** Octets of the whole message. */
  get size(): number {
    return this.bodyEnd - this.start;
  }

  get id(): number {
    return this.transaction;
  }

  get request(): SipRequest {
    if (this.parsed === undefined) {
      this.own();
      this.parsed = new OrdinaryRequest(this.octets);
    }
    return this.parsed;
  }

  /** Keeps its own octets from now on, and not what came with them. */
  own(): void {
    const { octets, start, end } = this;
    if (start === 0 && end === octets.length) return;
    this.octets = copyOf(octets, start, end);
    this.start = 0;
    this.end -= start;
    this.fromUri -= start;
    this.fromUriEnd -= start;
    this.bodyStart -= start;
    this.bodyEnd -= start;
  }

  get from(): string {
    return decodeUtf8(this.octets, this.fromUri, this.fromUriEnd);
  }

  get peer(): string | undefined {
    return this.peers(this.from, this.source);
  }

  get callId(): string {
    return this.request.headers.get("Call-ID") ?? "";
  }

  get messageId(): string | undefined {
    return messageIdIn(this.request.headers.get(MESSAGE_ID_HEADER));
  }

  get contentType(): string | undefined {
    return this.request.headers.get("Content-Type");
  }

  get body(): Uint8Array {
    const { octets, bodyStart, bodyEnd } = this;
    if (bodyEnd - bodyStart > COPIED_BYTES) return octets.subarray(bodyStart, bodyEnd);
    return copyOf(octets, bodyStart, bodyEnd);
  }
}

/** A power of two: a thousand channels have room, with few of them in the place of another. */
const TEXT_SLOTS = 4_096;

interface KnownText {
  readonly octets: Uint8Array;
  readonly text: string;
}

/**
 * Texts that come again and again, names of channels and reason phrases, each made once. A text has two slots, and the next one
 * of both takes the first; made-up ones push one another out, and cost no more than this.
 */
export class Texts {
  private readonly slots = new Array<KnownText | undefined>(TEXT_SLOTS).fill(undefined);

  of(b: Uint8Array, start: number, end: number): string {
    let hash = 0;
    for (let i = start; i < end; i++) hash = Math.imul(hash, 31) + (b[i] as number);
    // The upper bits of the product depend on all of them.
    const slot = (Math.imul(hash, 0x9e37_79b1) >>> 20) & (TEXT_SLOTS - 1);
    const first = this.slots[slot];
    if (first !== undefined && isAt(b, start, end, first.octets)) return first.text;
    const second = this.slots[slot ^ 1];
    if (second !== undefined && isAt(b, start, end, second.octets)) return second.text;
    const octets = Uint8Array.from(b.subarray(start, end));
    const text = decodeUtf8(octets);
    this.slots[first === undefined || second !== undefined ? slot : slot ^ 1] = { octets, text };
    return text;
  }
}

function isAt(b: Uint8Array, start: number, end: number, octets: Uint8Array): boolean {
  if (end - start !== octets.length) return false;
  for (let i = 0; i < octets.length; i++) if (b[start + i] !== octets[i]) return false;
  return true;
}
