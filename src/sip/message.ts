/**
 * What a SIP message is to everyone above the codec: a start line, headers and a body, over the octets that came in
 * (RFC 3261 §7). Nothing here is a string before somebody asks for it, except the start line.
 */
import type { Headers } from "./headers.ts";

export interface SipRequest {
  readonly type: "request";
  readonly method: string;
  /** Request-URI as written. */
  readonly uri: string;
  readonly headers: Headers;
  /** Exactly Content-Length octets (on datagrams without that header: none, as Kamailio has it). A view of `bytes`. */
  readonly body: Uint8Array;
  /** The whole message as received. */
  readonly bytes: Uint8Array;
}

export interface SipResponse {
  readonly type: "response";
  readonly status: number;
  readonly reason: string;
  readonly headers: Headers;
  readonly body: Uint8Array;
  readonly bytes: Uint8Array;
}

export type SipMessage = SipRequest | SipResponse;
