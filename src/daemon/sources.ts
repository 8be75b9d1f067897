/**
 * From which address datagrams leave a socket that is bound to all of them: the kernel chooses by the route to the receiver, and a
 * machine may have others. Nodes believe an answer from where they asked (dmq.md 7), so a choice other than `server_address` makes
 * a node that hears everybody and is believed by nobody. It is found here by asking the kernel; nothing is sent.
 */
import { networkInterfaces } from "node:os";
import type { DmqConfig } from "../config/schema.ts";
import { type Place, readAddress, readSocket } from "../config/syntax.ts";
import { canonicalIp, formatHost, ipGroups, isIpv6 } from "../core/endpoint.ts";
import type { Logger } from "../core/logger.ts";

type Options = Pick<DmqConfig, "serverAddress" | "serverSockets" | "notificationAddresses">;

/** The port that leads nowhere (RFC 863): the kernel's choice does not depend on it. */
const DISCARD = 9;

/** A subnet with fewer addresses has no neighbour that could be asked about. */
const HOST_BITS_MIN = 3;

/** Warns where the kernel would send from another address than `server_address`, to a notification address or a neighbour of ours. */
export async function warnOfSource(options: Options, log: Logger): Promise<void> {
  const own = readAddress(options.serverAddress, 0);
  const ip = canonicalIp(own?.host ?? "");
  if (own?.transport !== "udp" || ip === undefined || !isHere(ip)) return;
  const wild = options.serverSockets.map(readSocket).find((socket) => isWildcardFor(ip, socket));
  if (wild === undefined) return;
  const known = options.notificationAddresses.map((uri) => canonicalIp(readAddress(uri, 0)?.host ?? ""));
  const others = [...known, ...neighboursOf(ip)].filter((other) => other !== undefined && isIpv6(other) === isIpv6(ip));
  for (const other of others) {
    const source = await sourceTo(other as string);
    if (source === undefined || source === ip) continue;
    const [at, instead] = [wild.host, ip].map((host) => `udp:${formatHost(host)}:${wild.port}`);
    const what = `server_socket ${at} sends to ${other} from ${source}, not from server_address ${options.serverAddress}`;
    log.warn(`${what}: other nodes do not believe answers from there; name server_socket ${instead} instead`);
    return;
  }
}

function isWildcardFor(ip: string, socket: Place | undefined): boolean {
  const host = canonicalIp(socket?.host ?? "");
  return socket?.transport === "udp" && (host === "::" || (host === "0.0.0.0" && !isIpv6(ip)));
}

/** Behind a NAT it is not, and what leaves there has the right address all the same. */
function isHere(ip: string): boolean {
  return ip.startsWith("127.") || interfaces().some(({ address }) => canonicalIp(address) === ip);
}

function interfaces(): { address: string; cidr: string | null }[] {
  return Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
}

/** Addresses beside ours in its subnet; not those of this machine, to which there is no way out. */
function neighboursOf(ip: string): string[] {
  const all = interfaces();
  const own = all.find(({ address }) => canonicalIp(address) === ip);
  const prefix = Number(own?.cidr?.split("/")[1] ?? 128);
  const groups = ipGroups(ip);
  if (groups === undefined || (isIpv6(ip) ? 128 : 32) - prefix < HOST_BITS_MIN) return [];
  const beside = [1, 2, 3].flatMap((bits) => {
    const other = groups.map((group, index) => (index === 7 ? group ^ bits : group).toString(16)).join(":");
    return canonicalIp(other) ?? [];
  });
  return beside.filter((other) => !all.some(({ address }) => canonicalIp(address) === other));
}

/** @returns the address that datagrams to `ip` have as their source; `undefined` where there is no way there */
async function sourceTo(ip: string): Promise<string | undefined> {
  try {
    const hostname = isIpv6(ip) ? "::" : "0.0.0.0";
    const socket = await Bun.udpSocket({ hostname, connect: { hostname: ip, port: DISCARD } });
    const { address } = socket.address;
    socket.close();
    return canonicalIp(address);
  } catch {
    return undefined;
  }
}
