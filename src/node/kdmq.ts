/**
 * How a KDMQ request of ours looks on the wire (dmq.md section 2).
 *
 * Max-Forwards and Content-Length stand before From, unlike Kamailio's own order: `dmq_process_message()` up to 6.0 sees
 * only the headers up to From and would read a missing Max-Forwards as 0 (dmq.md 11.12). To and Request-URI are the same
 * URI; the channel is the Request-URI's user part.
 */
import { formatHost, type Transport } from "../core/endpoint.ts";
import { UsageError } from "../core/errors.ts";
import { type Random, token } from "../core/random.ts";
import { addressUri, type PeerAddress } from "../membership/peer.ts";
import { isHeaderSafe, serializeRequest } from "../sip/serialize.ts";
import { MAGIC_COOKIE } from "../transaction/key.ts";

export interface KdmqParts {
  channel: string;
  local: PeerAddress;
  target: PeerAddress;
  /** Transport that the request goes out on. */
  transport: Transport;
  maxForwards: number;
  contentType: string;
  userAgent: string;
  /** Content types that the answer may have; only `dmq req` asks for a body. */
  accept?: string | undefined;
  body: Uint8Array;
}

export interface KdmqRequest {
  branch: string;
  bytes: Uint8Array;
}

export function buildKdmq(parts: KdmqParts, random: Random): KdmqRequest {
  const branch = MAGIC_COOKIE + token(random, 2);
  const uri = addressUri(parts.target, parts.target.host, parts.channel);
  const host = formatHost(parts.local.host);
  const headers: [string, string][] = [
    ["Via", `SIP/2.0/${parts.transport.toUpperCase()} ${host}:${parts.local.port};branch=${branch}`],
    ["Max-Forwards", String(parts.maxForwards)],
    ["Content-Length", ""],
    ["To", `<${uri}>`],
    ["From", `<${addressUri(parts.local, parts.local.host, parts.channel)}>;tag=${token(random, 1)}`],
    ["CSeq", "10 KDMQ"],
    ["Call-ID", `${token(random, 2)}@${parts.local.host}`],
    ["User-Agent", parts.userAgent],
  ];
  if (parts.accept !== undefined) headers.push(["Accept", parts.accept]);
  if (parts.body.length > 0) headers.push(["Content-Type", parts.contentType]);
  return { branch, bytes: serializeRequest({ method: "KDMQ", uri, headers, body: parts.body }) };
}

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
