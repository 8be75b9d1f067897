/**
 * What the machine says about names: its DNS servers and search list (`/etc/resolv.conf`, resolv.conf(5)) and its own table
 * (`/etc/hosts`). Both are read anew whenever a name is asked for, because containers and laptops rewrite them under a
 * running process.
 */
import { readFile } from "node:fs/promises";
import { canonicalIp } from "../core/endpoint.ts";
import { ConfigError } from "../core/errors.ts";

export interface DnsServer {
  readonly ip: string;
  readonly port: number;
}

export interface SystemDns {
  readonly servers: readonly DnsServer[];
  readonly search: readonly string[];
  /** Names with fewer dots are tried with the search list first. */
  readonly ndots: number;
}

const DNS_PORT = 53;
/** What other resolvers read at most: MAXNS, MAXDNSRCH, and the cap of ndots. */
const SERVERS_MAX = 3;
const SEARCH_MAX = 6;
const NDOTS_MAX = 15;

/**
 * Reads `IP`, `IP:PORT` or `[IP]:PORT`.
 *
 * @throws ConfigError where it is none of them
 */
export function parseDnsServer(text: string): DnsServer {
  const alone = canonicalIp(text);
  if (alone !== undefined) return { ip: alone, port: DNS_PORT };
  const colon = text.lastIndexOf(":");
  const ip = canonicalIp(text.slice(0, colon));
  const port = Number(text.slice(colon + 1));
  if (ip === undefined || !/:[0-9]{1,5}$/.test(text) || port < 1 || port > 65_535)
    throw new ConfigError("config-invalid-value", "dns_server", text, "an IP address, perhaps with a port");
  return { ip, port };
}

/** @returns nothing in it where the file cannot be read */
export async function readSystemDns(path: string): Promise<SystemDns> {
  return parseResolvConf(await read(path));
}

/** Later lines of `search` and `domain` replace earlier ones; what is not understood is passed over. */
export function parseResolvConf(text: string): SystemDns {
  const servers: DnsServer[] = [];
  let search: string[] = [];
  let ndots = 1;
  for (const line of text.split("\n")) {
    const [keyword, ...words] = withoutComment(line);
    if (keyword === "nameserver") {
      const ip = canonicalIp(words[0] ?? "");
      if (ip !== undefined && servers.length < SERVERS_MAX) servers.push({ ip, port: DNS_PORT });
    } else if (keyword === "search" || keyword === "domain") {
      search = words.slice(0, SEARCH_MAX).map((word) => word.toLowerCase().replace(/\.$/, ""));
    } else if (keyword === "options") {
      const option = words.findLast((word) => /^ndots:[0-9]{1,3}$/.test(word));
      if (option !== undefined) ndots = Math.min(Number(option.slice(6)), NDOTS_MAX);
    }
  }
  return { servers, search: search.filter((domain) => domain !== ""), ndots };
}

/** What a name may stand for, in order: as it is first if it has enough dots, and only so if it ends with one. */
export function candidatesOf(name: string, { search, ndots }: SystemDns): string[] {
  if (name.endsWith(".")) return [name.slice(0, -1)];
  const longer = search.map((domain) => `${name}.${domain}`);
  return name.split(".").length > ndots ? [name, ...longer] : [...longer, name];
}

/** @returns the addresses of a name in the machine's own table, as written there, in order */
export async function readHosts(path: string, name: string): Promise<string[]> {
  return addressesIn(await read(path), name);
}

function addressesIn(hosts: string, name: string): string[] {
  const found: string[] = [];
  for (const line of hosts.split("\n")) {
    const [address, ...names] = withoutComment(line);
    if (address !== undefined && names.some((each) => each.toLowerCase() === name)) found.push(address);
  }
  return found;
}

function withoutComment(line: string): string[] {
  const end = line.search(/[#;]/);
  return (end === -1 ? line : line.slice(0, end)).split(/\s+/).filter((word) => word !== "");
}

async function read(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch {
    return "";
  }
}
