/**
 * One peer and what makes it the same peer: transport, host and port as written on its line, the default port filled in
 * and UDP never spelled out (design.md section 4). Addresses that its name resolves to are aliases, not identities.
 */
import {
  canonicalIp,
  defaultPort,
  type Endpoint,
  endpointKey,
  formatHost,
  isIpv6,
  type Transport,
} from "../core/endpoint.ts";
import { ProtocolError } from "../core/errors.ts";
import type { Instant } from "../core/time.ts";
import { parseUri, type SipUri } from "../sip/uri.ts";
import type { Status } from "./status.ts";

export interface PeerAddress {
  readonly transport: Transport;
  /** Canonical IP literal without brackets, or a host name in lower case. */
  readonly host: string;
  readonly port: number;
  /** With `multi_notify`: the domain of the notification address that led to this literal. No part of what a peer is. */
  readonly domain?: string;
}

/** Where a peer is known from: configuration, its own announcement, others' lists, the control surface, the snapshot. */
export type PeerSource = "notification_address" | "announced" | "mentioned" | "added" | "snapshot";

export interface Peer {
  readonly address: PeerAddress;
  readonly key: string;
  /** `sip:host:port[;transport=…]`. */
  readonly uri: string;
  /** Where messages go; `undefined` while its name does not resolve. */
  endpoint: Endpoint | undefined;
  /** Key of the endpoint, `""` without one. */
  endpointKey: string;
  status: Status;
  source: PeerSource;
  /** It answered a notification of ours with 2xx since we know it. */
  verified: boolean;
  /** The IP address that it answered from last; its name may lead elsewhere by now. */
  provenIp: string | undefined;
  /** It announced itself while it was not active: Max-Forwards with which others are told when it answers; 0: they are not. */
  forwards: number;
  failCount: number;
  rttMs: number | undefined;
  lastSeen: Instant | undefined;
  userAgent: string | undefined;
  /** Instant of its last answer: a failure of an older request says nothing. */
  answeredAt: Instant | undefined;
  /** Instant of the last change of status: a failure of an older request does not count twice. */
  statusSince: Instant | undefined;
  /** Instant of the last ping that somebody else's mention made us send. */
  nudgedAt: Instant | undefined;
  /** Number of the ping that is to tell whether a leave in its name is its own; `undefined`: there is none. */
  leaveAsked: number | undefined;
  /** Instant of the leave that it announced; answers to requests that are older prove nothing. */
  leftAt: Instant | undefined;
}

export function createPeer(address: PeerAddress, source: PeerSource, status: Status): Peer {
  const literal = canonicalIp(address.host);
  return {
    address,
    // What a message looks at stands together: a thousand peers fit no cache.
    key: addressKey(address),
    uri: addressUri(address),
    endpoint: literal === undefined ? undefined : endpointOf(address, literal),
    endpointKey: literal === undefined ? "" : endpointKey(endpointOf(address, literal)),
    status,
    source,
    verified: false,
    provenIp: undefined,
    forwards: 0,
    failCount: 0,
    rttMs: undefined,
    lastSeen: undefined,
    userAgent: undefined,
    answeredAt: undefined,
    statusSince: undefined,
    nudgedAt: undefined,
    leaveAsked: undefined,
    leftAt: undefined,
  };
}

export function addressKey(address: PeerAddress): string {
  return `${address.transport}:${formatHost(address.host)}:${address.port}`;
}

/** The URI without status, as it stands on a line and in a Request-URI: always with a port, never `transport=udp`. */
export function addressUri(address: PeerAddress, host: string = address.host, user?: string): string {
  const suffix = address.transport === "udp" ? "" : `;transport=${address.transport}`;
  const prefix = user === undefined ? "sip:" : `sip:${user}@`;
  return `${prefix}${formatHost(host)}:${address.port}${suffix}`;
}

export function endpointOf(address: PeerAddress, ip: string): Endpoint {
  const { transport, host, port, domain } = address;
  if (transport !== "tls") return { transport, ip, port };
  if (canonicalIp(host) === undefined) return { transport, ip, port, name: host };
  return { transport, ip, port, ...(domain !== undefined && { domain }) };
}

/** A literal needs no DNS. */
export function isLiteral(address: PeerAddress): boolean {
  return canonicalIp(address.host) !== undefined;
}

/** `0.0.0.0` or `::`, which a socket may be bound to, but which nobody can be reached at. */
export function isUnspecified(host: string): boolean {
  const ip = canonicalIp(host);
  return ip === "0.0.0.0" || ip === "::";
}

/**
 * Reads the address of a node as an operator, a list line or a From header writes it.
 *
 * @param self  IP address that an unspecified host stands for: a node that calls itself 0.0.0.0, as a well-known tutorial has
 *              it, is at the address that its request came from. Without it such a host is refused
 * @returns     the address; a ProtocolError that says what was seen where it is no SIP URI, has a transport that we do not
 *          speak, or names an address that nobody can be reached at (0.0.0.0, ::, multicast, broadcast, port 0)
 */
export function parseAddress(text: string, self?: string): PeerAddress | ProtocolError {
  const uri = parseUri(text);
  return uri instanceof ProtocolError ? uri : addressOfUri(uri, text, self);
}

export function addressOfUri(uri: SipUri, text: string, self?: string): PeerAddress | ProtocolError {
  const named = uri.params.get("transport")?.toLowerCase() ?? (uri.scheme === "sips" ? "tls" : "udp");
  if (named !== "udp" && named !== "tcp" && named !== "tls") return refuse(`transport ${named} in ${text}`);
  const host = self !== undefined && isUnspecified(uri.host) ? self : (canonicalIp(uri.host) ?? rootless(uri.host));
  if (isUnusable(host)) return refuse(`address ${host} in ${text} is no node's address`);
  if (uri.port === 0) return refuse(`port 0 in ${text}`);
  return { transport: named, host, port: uri.port ?? defaultPort(named) };
}

function refuse(message: string): ProtocolError {
  return new ProtocolError(message, { section: "RFC 3261 §19.1" });
}

/** `node.example.` is `node.example` (RFC 1034 §3.1). */
function rootless(name: string): string {
  return name.endsWith(".") ? name.slice(0, -1) : name;
}

function isUnusable(host: string): boolean {
  if (isUnspecified(host) || host === "255.255.255.255") return true;
  if (isIpv6(host)) return host.startsWith("ff");
  const first = canonicalIp(host) === undefined ? 0 : Number(host.slice(0, host.indexOf(".")));
  return first >= 224 && first <= 239;
}
