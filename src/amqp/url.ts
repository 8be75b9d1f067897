/**
 * The list of brokers as operators write it: `amqp://user:password@host:port/vhost?heartbeat=10`, several with commas or in
 * several texts, `amqps://` for TLS, `kazoo://` as another spelling of `amqp://`, and `zone=NAME;URL`.
 */
import { ConfigError } from "../core/errors.ts";
import { shownUrl } from "../core/secret.ts";

export interface BrokerUrl {
  readonly zone: string;
  /** 1 and up, in the order of the list. */
  readonly number: number;
  /** A name or an address, IPv6 without brackets. */
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly vhost: string;
  readonly tls: boolean;
  /** The client certificate says who we are (SASL EXTERNAL): `auth=external`. */
  readonly external: boolean;
  /** Seconds; 0 is off. */
  readonly heartbeatS: number;
  /** For logs and people: without the password. */
  readonly text: string;
}

export interface BrokerDefaults {
  /** The zone of URLs that name none. */
  readonly primaryZone?: string;
  /** For URLs that have none. */
  readonly password?: string;
  /** Seconds, for URLs that say nothing of it. */
  readonly heartbeatS?: number;
}

export const PRIMARY_ZONE = "local";
export const HEARTBEAT_S = 10;
const HEARTBEAT_S_MAX = 600;
const PLAIN_PORT = 5672;
const TLS_PORT = 5671;
const BROKERS_MAX = 64;
const EXPECTED = "amqp://[USER[:PASSWORD]@]HOST[:PORT][/VHOST][?heartbeat=S&auth=external], amqps:// or zone=NAME;URL";

/**
 * @param texts  each one URL or several with commas between them; a comma in a password is `%2C`
 * @returns the brokers in the order of the list, numbered from 1
 * @throws ConfigError, whose text has no password in it
 */
export function parseBrokers(texts: readonly string[], defaults: BrokerDefaults = {}): BrokerUrl[] {
  const items = texts.flatMap((text) => text.split(",")).map((text) => text.trim());
  const brokers = items.filter((text) => text !== "").map((text, index) => parseBroker(text, index + 1, defaults));
  if (brokers.length === 0) throw new ConfigError("config-invalid-value", "amqp", "no address", EXPECTED);
  if (brokers.length > BROKERS_MAX) {
    const got = `${brokers.length} addresses`;
    throw new ConfigError("config-invalid-value", "amqp", got, `at most ${BROKERS_MAX}`);
  }
  return brokers;
}

function parseBroker(text: string, number: number, defaults: BrokerDefaults): BrokerUrl {
  const { zone, address } = splitZone(text, defaults.primaryZone ?? PRIMARY_ZONE);
  const url = parseUrl(address, text);
  const tls = url.protocol === "amqps:";
  const query = readQuery(url, text);
  const user = decode(url.username, text) || "guest";
  const host = url.hostname.startsWith("[") ? url.hostname.slice(1, -1) : decode(url.hostname, text);
  const port = url.port === "" ? (tls ? TLS_PORT : PLAIN_PORT) : Number(url.port);
  const vhost = decode(url.pathname.slice(1), text) || "/";
  const password = url.password === "" ? defaults.password : decode(url.password, text);
  if (query.external && !tls) throw refuse(text, "auth=external with amqps://, because the certificate is the login");
  return {
    ...{ zone, number, host, port, user, vhost, tls },
    password: password ?? (url.username === "" ? "guest" : ""),
    external: query.external,
    heartbeatS: query.heartbeatS ?? defaults.heartbeatS ?? HEARTBEAT_S,
    text: describe(url, { tls, external: query.external, user, port, vhost }),
  };
}

function splitZone(text: string, primary: string): { zone: string; address: string } {
  if (!text.startsWith("zone=")) return { zone: primary, address: text };
  const end = text.indexOf(";");
  const zone = text.slice("zone=".length, end === -1 ? undefined : end);
  if (end === -1 || zone === "") throw refuse(text, "zone=NAME;amqp://…");
  return { zone, address: text.slice(end + 1) };
}

function parseUrl(address: string, text: string): URL {
  const plain = address.startsWith("kazoo://") ? `amqp${address.slice("kazoo".length)}` : address;
  if (!plain.startsWith("amqp://") && !plain.startsWith("amqps://")) throw refuse(text, EXPECTED);
  let url: URL;
  try {
    url = new URL(plain);
  } catch {
    throw refuse(text, EXPECTED);
  }
  if (url.hostname === "" || url.port === "0") throw refuse(text, EXPECTED);
  if (url.pathname.slice(1).includes("/"))
    throw refuse(text, "one virtual host after the slash; a slash in its name is %2F");
  return url;
}

function readQuery(url: URL, text: string): { heartbeatS: number | undefined; external: boolean } {
  let heartbeatS: number | undefined;
  let external = false;
  for (const [name, value] of url.searchParams) {
    if (name === "heartbeat") heartbeatS = readHeartbeat(value, text);
    else if (name === "auth" && (value === "external" || value === "plain")) external = value === "external";
    else throw refuse(text, "no options but heartbeat=S, auth=plain and auth=external");
  }
  return { heartbeatS, external };
}

function readHeartbeat(value: string, text: string): number {
  const seconds = Number(value);
  if (value !== "" && Number.isInteger(seconds) && seconds >= 0 && seconds <= HEARTBEAT_S_MAX) return seconds;
  throw refuse(text, `a heartbeat of 0 to ${HEARTBEAT_S_MAX} seconds`);
}

function decode(part: string, text: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw refuse(text, "percent signs only as %XX");
  }
}

type Described = Pick<BrokerUrl, "tls" | "external" | "user" | "port" | "vhost">;

function describe(url: URL, { tls, external, user, port, vhost }: Described): string {
  const who = external ? "" : `${encodeURIComponent(user)}@`;
  return `${tls ? "amqps" : "amqp"}://${who}${url.hostname}:${port}${vhost === "/" ? "" : `/${encodeURIComponent(vhost)}`}`;
}

function refuse(text: string, expected: string): ConfigError {
  return new ConfigError("config-invalid-value", "amqp", shownUrl(text), expected);
}
