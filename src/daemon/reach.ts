/**
 * What the open sockets of a node mean for names: which kinds of addresses can be reached over them, and which addresses
 * lead back to the node itself.
 */
import { networkInterfaces } from "node:os";
import { canonicalIp, isIpv6 } from "../core/endpoint.ts";
import type { PeerAddress } from "../membership/peer.ts";
import type { Listener } from "../transport/transport.ts";

/** A socket at `::` takes both kinds (docs/decisions/0002-bun-udp.md), any other one its own. */
export function families(listeners: readonly Listener[]): { ipv4: boolean; ipv6: boolean } {
  const ips = listeners.map(({ ip }) => ip);
  return { ipv4: ips.some((ip) => !isIpv6(ip) || ip === "::"), ipv6: ips.some(isIpv6) };
}

/** Every address at which the node hears itself; a wildcard stands for all addresses that the machine has now. */
export function ownAddresses(listeners: readonly Listener[]): PeerAddress[] {
  return listeners.flatMap(({ transport, ip, port }) => hostsOf(ip).map((host) => ({ transport, host, port })));
}

function hostsOf(ip: string): string[] {
  if (ip !== "0.0.0.0" && ip !== "::") return [ip];
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  const hosts = all.flatMap(({ address }) => canonicalIp(address) ?? []);
  return ip === "::" ? hosts : hosts.filter((host) => !isIpv6(host));
}
