/** What the texts of options have to look like, and what is read from those that name a place on the network. */
import { canonicalIp } from "../core/endpoint.ts";
import { parseAllow } from "../core/networks.ts";

/** RFC 3261 §25.1 `user`, without escapes and without the colon of a password: what Kamailio's users name channels. */
export function isChannelName(name: string): boolean {
  return name.length <= 255 && /^[A-Za-z0-9\-_.!~*'()&=+$,;?/]+$/.test(name);
}

/** A place on the network as an operator wrote it; `port` is `undefined` where it was left out. */
export interface Place {
  host: string;
  transport: "udp" | "tcp" | "tls";
  port: number | undefined;
}

const TRANSPORTS: readonly Place["transport"][] = ["udp", "tcp", "tls"];

/**
 * `sip:host[:port][;transport=udp|tcp|tls]`, or `sips:` for TLS (RFC 3261 §19.1.1), without a user, headers or other parameters. This is a check of what an operator
 * typed, so that the message names the option; the codec has the full grammar.
 */
export function readAddress(uri: string, portMin: number): Place | undefined {
  const scheme = uri.slice(0, uri.indexOf(":")).toLowerCase();
  if (uri.length > 255 || (scheme !== "sip" && scheme !== "sips")) return undefined;
  const [place = "", ...parameters] = uri.slice(scheme.length + 1).split(";");
  if (parameters.length > 1) return undefined;
  const isSips = scheme === "sips";
  const parameter = parameters[0]?.toLowerCase() ?? `transport=${isSips ? "tls" : "udp"}`;
  const transport = TRANSPORTS.find((one) => parameter === `transport=${one}`);
  if (transport === undefined || (isSips && transport !== "tls")) return undefined;
  const found = readHostPort(place, { needsPort: false, portMin });
  return found === undefined ? undefined : { ...found, transport };
}

/** `udp|tcp|tls:IP:port`. */
export function readSocket(text: string): Place | undefined {
  const colon = text.indexOf(":");
  const transport = TRANSPORTS.find((one) => text.slice(0, colon).toLowerCase() === one);
  if (colon === -1 || transport === undefined) return undefined;
  const found = readHostPort(text.slice(colon + 1), { needsPort: true, portMin: 0 });
  return found === undefined || canonicalIp(found.host) === undefined ? undefined : { ...found, transport };
}

function readHostPort(
  place: string,
  rule: { needsPort: boolean; portMin: number },
): { host: string; port: number | undefined } | undefined {
  const end = place.startsWith("[") ? place.indexOf("]") + 1 : place.indexOf(":");
  if (place.startsWith("[") && end === 0) return undefined;
  const host = end === -1 ? place : place.slice(0, end);
  const port = end === -1 ? "" : place.slice(end);
  if (port === "" ? rule.needsPort : !isPort(port, rule.portMin)) return undefined;
  return isHost(host) ? { host, port: port === "" ? undefined : Number(port.slice(1)) } : undefined;
}

function isPort(text: string, minimum: number): boolean {
  return /^:\d{1,5}$/.test(text) && Number(text.slice(1)) >= minimum && Number(text.slice(1)) <= 65_535;
}

function isHost(host: string): boolean {
  if (host.startsWith("[")) return canonicalIp(host) !== undefined;
  if (canonicalIp(host) !== undefined) return !host.includes(":");
  // A name whose last label is all digits would be an address to some resolvers (RFC 3696 section 2).
  return /^[A-Za-z0-9_]([A-Za-z0-9\-_.]*[A-Za-z0-9])?$/.test(host) && !/(^|\.)\d+$/.test(host) && !host.includes("..");
}

export function isSipAddress(uri: string): boolean {
  return readAddress(uri, 1) !== undefined;
}

/**
 * A Kamailio takes the line of a node apart by its IP address, so ours is one (design.md section 4, identity); and the
 * others must be able to send to it, so the wildcards are none.
 */
export function isServerAddress(uri: string): boolean {
  const address = readAddress(uri, 0);
  const ip = address === undefined ? undefined : canonicalIp(address.host);
  return ip !== undefined && ip !== "0.0.0.0" && ip !== "::";
}

export function isServerSocket(text: string): boolean {
  return readSocket(text) !== undefined;
}

export function isPath(path: string): boolean {
  return path !== "" && !path.includes("\0");
}

/** useradd(8) of Debian and of systemd agree on these characters; groups of domains have the last three. */
export function isGroup(name: string): boolean {
  return name.length <= 255 && /^[A-Za-z0-9_][A-Za-z0-9_.@+\\ -]*$/.test(name);
}

export function isSocketPath(path: string): boolean {
  return isPath(path) && Buffer.byteLength(path) <= 107;
}

/** Its parts are read by the daemon at its start. */
export function isBroker(text: string): boolean {
  const url = /^(?:zone=[A-Za-z0-9._-]{1,64};)?(?:amqps?|kazoo):\/\/./i;
  return text.length <= 2_048 && url.test(text) && !/[\s\0]/.test(text);
}

export function isZone(name: string): boolean {
  return /^[A-Za-z0-9._-]{1,64}$/.test(name);
}

export function isBrokerMode(text: string): boolean {
  return /^(?:[A-Za-z0-9._-]{1,64}=)?(?:failover|all)$/.test(text);
}

export function isServerName(name: string): boolean {
  return name.length <= 253 && /^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9])?$/.test(name);
}

export function isAllow(text: string): boolean {
  return parseAllow(text) !== undefined;
}

/** What comes of CMD is the daemon's to say: it knows the programs. */
export function isHandler(text: string): boolean {
  const equals = text.indexOf("=");
  return equals > 0 && isChannelName(text.slice(0, equals)) && text.slice(equals + 1).trim() !== "";
}

/** RFC 3261 §25.1 `Method` is a token; ACK and CANCEL belong to another request and KDMQ to the node. */
export function isReplication(text: string): boolean {
  const [methods = "", code, ...rest] = text.split("=");
  if (rest.length > 0 || (code !== undefined && !/^[2-6]\d\d$/.test(code)) || code === "408") return false;
  return methods
    .split(",")
    .every((one) => /^[A-Z]{1,32}$/.test(one) && !["ACK", "CANCEL", "INVITE", "KDMQ"].includes(one));
}

export function isDnsServer(text: string): boolean {
  if (canonicalIp(text) !== undefined) return true;
  const found = readHostPort(text, { needsPort: true, portMin: 1 });
  return found !== undefined && canonicalIp(found.host) !== undefined;
}
