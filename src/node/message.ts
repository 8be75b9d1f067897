/** What sending a message means to whoever sends one: the options and their checks, sizes, and how an answer ends it. */

import type { Endpoint } from "../core/endpoint.ts";
import { ProtocolError, UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import { type PeerAddress, parseAddress } from "../membership/peer.ts";
import type { SipResponse } from "../sip/message.ts";
import type { Outcome } from "./io.ts";
import {
  checkAccept,
  checkChannel,
  checkExtraHeaders,
  checkHeaderText,
  checkMessageId,
  type ExtraHeaders,
} from "./kdmq.ts";

export interface SendOptions {
  /** Default `text/plain`. */
  contentType?: string;
  /** Default 1; it means something on the notification channel only. */
  maxForwards?: number;
  /** Instead of `requestTimeoutMs`. */
  timeoutMs?: Duration;
  /** Header Accept, 1 to 255 printable ASCII characters: asks for a body in the answer; without it a 200 has none. */
  accept?: string;
  /** Header `X-DMQ-Id`, 1 to 255 visible ASCII characters: by it a receiver knows a message that comes again. */
  messageId?: string;
  /** Header `X-DMQ-Path`: the links that the message went through, with commas between. */
  path?: string;
  /** Further headers, `X-…` or Content-Encoding. */
  headers?: ExtraHeaders;
}

/** A request that was sent to a peer, and the number under which its `outcome` comes. */
export interface Addressed {
  request: number;
  peer: string;
}

/** UDP payload over IPv4: 65,535 − 20 − 8. */
const DATAGRAM_BYTES_MAX = 65_507;

/** @throws UsageError for a channel, a header or a number that cannot be sent */
export function checkMessage(channel: string, options: SendOptions): void {
  checkChannel(channel);
  if (options.contentType !== undefined) checkHeaderText("content type", options.contentType);
  if (options.accept !== undefined) checkAccept(options.accept);
  if (options.messageId !== undefined) checkMessageId(options.messageId);
  if (options.path !== undefined) checkHeaderText("path", options.path);
  if (options.headers !== undefined) checkExtraHeaders(options.headers);
  const hops = options.maxForwards;
  if (hops !== undefined && !(Number.isInteger(hops) && hops >= 0 && hops <= 255))
    throw new UsageError(`max-forwards ${hops} is not a whole number from 0 to 255`);
}

/** @throws UsageError where it is no node's address */
export function addressOf(uri: string): PeerAddress {
  const address = parseAddress(uri);
  if (address instanceof ProtocolError)
    throw new UsageError(
      `${JSON.stringify(uri)} is no node's address: ${address.message}; expected sip:host:port[;transport=tcp]`,
    );
  return address;
}

/** @returns why a message of this size cannot go out, `undefined` if it can */
export function tooLarge(transport: Endpoint["transport"], size: number): string | undefined {
  if (transport !== "udp" || size <= DATAGRAM_BYTES_MAX) return undefined;
  return `message of ${size} octets with headers does not fit a datagram (${DATAGRAM_BYTES_MAX}): address the node with ;transport=tcp, or send less`;
}

/** What a final response means. */
export function outcomeOf(response: SipResponse): Outcome {
  const { status: code, reason, headers, body } = response;
  if (code < 300) {
    const contentType = headers.get("Content-Type");
    return {
      type: "delivered",
      code,
      reason,
      consumer: code !== 202,
      ...(contentType === undefined ? {} : { contentType }),
      ...(body.length === 0 ? {} : { body }),
    };
  }
  const retryAfter = Number.parseInt(headers.get("Retry-After") ?? "", 10);
  return { type: "rejected", code, reason, ...(Number.isNaN(retryAfter) ? {} : { retryAfterSeconds: retryAfter }) };
}
