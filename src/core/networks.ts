/**
 * Sets of IP addresses as an operator writes them: CIDRs (RFC 4632, RFC 4291 §2.3), single addresses, and words for sets
 * that have names. IPv4 and IPv4-mapped IPv6 addresses are the same address, as everywhere here (endpoint.ts).
 */
import { canonicalIp, ipGroups, isIpv6 } from "./endpoint.ts";

export interface Network {
  /** Eight groups; IPv4 as mapped. */
  readonly groups: readonly number[];
  /** Of 128: an IPv4 prefix counts from 96. */
  readonly bits: number;
}

/** RFC 1918, RFC 6598 (carrier-grade NAT), loopback, link-local; RFC 4193, IPv6 loopback and link-local. */
const PRIVATE = [
  "10.0.0.0/8",
  "172.16.0.0/12",
  "192.168.0.0/16",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "fc00::/7",
  "::1/128",
  "fe80::/10",
];

/** Where the mapped addresses of IPv4 begin. */
const MAPPED_BITS = 96;

/** `members`: who belongs to it changes while the node runs. */
export type AllowRule = readonly Network[] | "members";

/** @returns what one text of `allow` means; `undefined` where it is neither a CIDR, an address nor one of the words */
export function parseAllow(text: string): AllowRule | undefined {
  if (text === "members") return text;
  if (text === "any") return ["0.0.0.0/0", "::/0"].map(known);
  if (text === "private") return PRIVATE.map(known);
  const network = parseNetwork(text);
  return network === undefined ? undefined : [network];
}

function known(text: string): Network {
  return parseNetwork(text) as Network;
}

/**
 * Reads a CIDR, or an address, which stands for itself alone.
 *
 * @returns `undefined` where it is none, and where bits are set behind the prefix: `10.0.0.1/8` may mean two things
 */
export function parseNetwork(text: string): Network | undefined {
  const slash = text.indexOf("/");
  const address = slash === -1 ? text : text.slice(0, slash);
  // The mapped spelling has its prefix in IPv6 bits although it is an IPv4 address.
  const isLong = address.includes(":");
  const groups = address.startsWith("[") || canonicalIp(address) === undefined ? undefined : ipGroups(address);
  const bits = slash === -1 ? 128 : readBits(text.slice(slash + 1), isLong);
  if (groups === undefined || bits === undefined) return undefined;
  const network = { groups, bits };
  return hasNothingBehind(network) ? network : undefined;
}

function readBits(text: string, isLong: boolean): number | undefined {
  if (text.length < 1 || text.length > 3 || (text.length > 1 && text.startsWith("0"))) return undefined;
  let bits = 0;
  for (let i = 0; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 0x30;
    if (digit < 0 || digit > 9) return undefined;
    bits = bits * 10 + digit;
  }
  if (bits > (isLong ? 128 : 32)) return undefined;
  return isLong ? bits : bits + MAPPED_BITS;
}

function hasNothingBehind({ groups, bits }: Network): boolean {
  return groups.every((group, index) => (group & ~maskOf(index, bits) & 0xffff) === 0);
}

/** The part of a prefix of `bits` that falls into the group at `index`. */
function maskOf(index: number, bits: number): number {
  const own = Math.min(16, Math.max(0, bits - index * 16));
  return (0xffff << (16 - own)) & 0xffff;
}

/** @param ip  an IP literal without brackets; a scope (`fe80::1%eth0`) is no part of what it is compared by */
export function isWithin(ip: string, networks: readonly Network[]): boolean {
  const scope = ip.indexOf("%");
  const bare = scope === -1 ? ip : ip.slice(0, scope);
  const groups = ipGroups(bare);
  if (groups === undefined) return false;
  // `::/0` means IPv6: that the mapped addresses lie in it does not let IPv4 in.
  const least = isIpv6(canonicalIp(bare) ?? bare) ? 0 : MAPPED_BITS;
  return networks.some((network) => network.bits >= least && isPart(groups, network));
}

function isPart(groups: readonly number[], { groups: prefix, bits }: Network): boolean {
  for (let index = 0; index < 8 && index * 16 < bits; index++) {
    const mask = maskOf(index, bits);
    if (((groups[index] as number) & mask) !== ((prefix[index] as number) & mask)) return false;
  }
  return true;
}
