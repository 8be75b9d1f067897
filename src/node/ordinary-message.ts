/**
 * A channel message that came the short way (sip/scan.ts): its octets, and where its parts stand; each part is made when a
 * handler asks for it.
 */
import { decodeUtf8 } from "../core/bytes.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { SipRequest } from "../sip/message.ts";
import type { RequestScan } from "../sip/scan.ts";
import type { ChannelMessage } from "./io.ts";
import type { Pending } from "./serving.ts";

/** URI of the peer that a From URI names, if it is one. */
export type PeerLookup = (from: string, source: Endpoint) => string | undefined;

export class OrdinaryMessage implements ChannelMessage {
  readonly channel: string;
  readonly maxForwards: number | undefined;
  readonly acceptsBody: boolean;
  private readonly pending: Pending;
  private readonly peers: PeerLookup;
  private readonly fromUri: number;
  private readonly fromUriEnd: number;
  private readonly bodyStart: number;
  private readonly bodyEnd: number;

  /** @param scan  of the pending request */
  constructor(pending: Pending, channel: string, scan: RequestScan, peers: PeerLookup) {
    this.pending = pending;
    this.channel = channel;
    this.peers = peers;
    this.maxForwards = scan.maxForwards === -1 ? undefined : scan.maxForwards;
    this.acceptsBody = scan.hasAccept;
    this.fromUri = scan.fromUri;
    this.fromUriEnd = scan.fromUriEnd;
    this.bodyStart = scan.bodyStart;
    this.bodyEnd = scan.bodyEnd;
  }

  get id(): number {
    return this.pending.transaction;
  }

  get source(): Endpoint {
    return this.pending.source;
  }

  get request(): SipRequest {
    return this.pending.request;
  }

  get from(): string {
    return decodeUtf8(this.request.bytes.subarray(this.fromUri, this.fromUriEnd));
  }

  get peer(): string | undefined {
    return this.peers(this.from, this.source);
  }

  get callId(): string {
    return this.request.headers.get("Call-ID") ?? "";
  }

  get contentType(): string | undefined {
    return this.request.headers.get("Content-Type");
  }

  get body(): Uint8Array {
    return this.request.bytes.subarray(this.bodyStart, this.bodyEnd);
  }
}

/** A power of two. */
const NAME_SLOTS = 1_024;

/**
 * Names of channels as texts, each made once: a busy channel names itself in every message. A name has one slot, and the next
 * name of that slot takes it; made-up names push one another out, and cost no more than this.
 */
export class ChannelNames {
  private readonly slots = new Array<{ octets: Uint8Array; text: string } | undefined>(NAME_SLOTS).fill(undefined);

  of(b: Uint8Array, start: number, end: number): string {
    let hash = 0;
    for (let i = start; i < end; i++) hash = Math.imul(hash, 31) + (b[i] as number);
    const slot = (hash ^ (hash >>> 10)) & (NAME_SLOTS - 1);
    const known = this.slots[slot];
    if (known !== undefined && isAt(b, start, end, known.octets)) return known.text;
    const octets = Uint8Array.from(b.subarray(start, end));
    const text = decodeUtf8(octets);
    this.slots[slot] = { octets, text };
    return text;
  }
}

function isAt(b: Uint8Array, start: number, end: number, octets: Uint8Array): boolean {
  if (end - start !== octets.length) return false;
  for (let i = 0; i < octets.length; i++) if (b[start + i] !== octets[i]) return false;
  return true;
}
