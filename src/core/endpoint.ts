/**
 * An endpoint is where octets go: transport, IP literal and port. Host names never get in here; the resolver answers with
 * endpoints. IPv6 addresses are kept in one spelling (RFC 5952), without brackets, so that equal means equal as text.
 */
export type Transport = "udp" | "tcp" | "tls";

export interface Endpoint {
  readonly transport: Transport;
  /** IPv4 dotted quad, or IPv6 in RFC 5952 form without brackets. */
  readonly ip: string;
  readonly port: number;
  /**
   * Host of the URI that led here, where it is a name: TLS sends it as server name and holds the certificate against it
   * (RFC 5922 §7.1). It is no part of what an endpoint is: two endpoints that differ in it are the same.
   */
  readonly name?: string;
  /**
   * Name whose addresses in DNS led here although the URI has the IP: TLS sends it as server name, and takes a certificate
   * for it as well as one for the IP (RFC 5922 §4). It is no part of what an endpoint is either.
   */
  readonly domain?: string;
}

/** RFC 3261 §18: messages over a stream are never sent again by a transaction. */
export function isReliable(transport: Transport): boolean {
  return transport !== "udp";
}

/** RFC 3261 §19.1.2. */
export function defaultPort(transport: Transport): number {
  return transport === "tls" ? 5061 : 5060;
}

/** A key that is equal exactly for equal endpoints, and readable in logs: `udp:127.0.0.1:5060`, `tcp:[::1]:5060`. */
export function endpointKey(endpoint: Endpoint): string {
  return `${endpoint.transport}:${formatHost(endpoint.ip)}:${endpoint.port}`;
}

export function sameEndpoint(a: Endpoint, b: Endpoint): boolean {
  return a === b || (a.port === b.port && a.ip === b.ip && a.transport === b.transport);
}

/** Brackets around IPv6, as SIP writes a host (RFC 3261 §25.1 `IPv6reference`). */
export function formatHost(host: string): string {
  return host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
}

export function isIpv6(ip: string): boolean {
  return ip.includes(":");
}

/**
 * @param text  an address as anyone may spell it, with or without brackets
 * @returns     the one spelling of it (IPv4 without leading zeros, IPv6 as in RFC 5952 with IPv4-mapped addresses as
 *              IPv4, which is what a dual-stack socket means by them), or `undefined` if it is no IP literal
 */
export function canonicalIp(text: string): string | undefined {
  const bare = text.startsWith("[") && text.endsWith("]") ? text.slice(1, -1) : text;
  if (bare.includes(":")) {
    const groups = parseIpv6(bare);
    return groups === undefined ? undefined : formatIpv6(groups);
  }
  return isIpv4(bare) ? bare : undefined;
}

/** @returns the eight groups of an IP literal without brackets, IPv4 as mapped; `undefined` if it is none, or has a scope */
export function ipGroups(ip: string): number[] | undefined {
  return parseIpv6(isIpv6(ip) ? ip : `::ffff:${ip}`);
}

/** Four octets in decimal. A leading zero is octal to some readers and decimal to others: no address may mean two things. */
function isIpv4(text: string): boolean {
  let dots = 0;
  let digits = 0;
  let octet = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === DOT) {
      if (digits === 0 || ++dots > 3) return false;
      digits = 0;
      octet = 0;
      continue;
    }
    if (code < ZERO || code > ZERO + 9 || (digits > 0 && octet === 0)) return false;
    octet = octet * 10 + code - ZERO;
    if (++digits > 3 || octet > 255) return false;
  }
  return dots === 3 && digits > 0;
}

const DOT = 0x2e;
const ZERO = 0x30;

function parseIpv4(text: string): number[] | undefined {
  return isIpv4(text) ? text.split(".").map(Number) : undefined;
}

function parseGroups(text: string): number[] | undefined {
  if (text === "") return [];
  const groups: number[] = [];
  const parts = text.split(":");
  for (let index = 0; index < parts.length; index++) {
    const part = parts[index] as string;
    if (part.includes(".")) {
      if (index !== parts.length - 1) return undefined;
      const quad = parseIpv4(part);
      if (quad === undefined) return undefined;
      groups.push(((quad[0] as number) << 8) | (quad[1] as number), ((quad[2] as number) << 8) | (quad[3] as number));
      continue;
    }
    if (part.length < 1 || part.length > 4) return undefined;
    let group = 0;
    for (let i = 0; i < part.length; i++) {
      const digit = Number.parseInt(part.charAt(i), 16);
      if (Number.isNaN(digit)) return undefined;
      group = group * 16 + digit;
    }
    groups.push(group);
  }
  return groups;
}

function parseIpv6(text: string): number[] | undefined {
  if (text.length > 45) return undefined;
  const gap = text.indexOf("::");
  if (gap === -1) {
    const groups = parseGroups(text);
    return groups?.length === 8 ? groups : undefined;
  }
  const head = parseGroups(text.slice(0, gap));
  const tail = parseGroups(text.slice(gap + 2));
  if (head === undefined || tail === undefined || head.length + tail.length > 7) return undefined;
  if (text.slice(0, gap).includes(".")) return undefined;
  return [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail];
}

function formatIpv6(groups: number[]): string {
  const mapped = groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff;
  if (mapped) {
    const high = groups[6] as number;
    const low = groups[7] as number;
    return `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`;
  }
  let best = -1;
  let bestLength = 1;
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (start + length < 8 && groups[start + length] === 0) length++;
    if (length > bestLength) {
      best = start;
      bestLength = length;
    }
  }
  const hex = (part: number[]): string => part.map((group) => group.toString(16)).join(":");
  return best === -1 ? hex(groups) : `${hex(groups.slice(0, best))}::${hex(groups.slice(best + bestLength))}`;
}
