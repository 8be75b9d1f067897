/** What an `AmqpClient` is made with, read from the options of the node (docs/CONFIG.md) and the files that they name. */
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { ConfigError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import type { AmqpOptions, Mode } from "./client.ts";
import type { AmqpTls } from "./connection.ts";
import { type BrokerUrl, parseBrokers } from "./url.ts";

/** Those of `DmqConfig` that say something of brokers. */
export interface AmqpSettings {
  readonly amqp: readonly string[];
  readonly amqpPrimary: string;
  readonly amqpMode: readonly string[];
  readonly amqpPrefer: "current" | "first";
  readonly amqpHeartbeatMs: number;
  readonly amqpConnectTimeoutMs: number;
  readonly amqpWindow: number;
  readonly amqpPasswordFile: string | undefined;
  readonly amqpCa: string | undefined;
  readonly amqpCert: string | undefined;
  readonly amqpKey: string | undefined;
  readonly amqpInsecure: boolean;
  readonly amqpServername: string | undefined;
  readonly nodeName: string | undefined;
}

/** A password, and a handful of certificates. */
const FILE_BYTES_MAX = 1024 * 1024;

/**
 * @returns `undefined` where no broker is named
 * @throws  ConfigError for what is no broker, a zone that none is in, a file that cannot be read, a certificate without its key
 */
export function readAmqp(settings: AmqpSettings, log?: Logger): AmqpOptions | undefined {
  if (settings.amqp.length === 0) return undefined;
  const { amqpPrimary: primaryZone, amqpPasswordFile, amqpHeartbeatMs, amqpWindow, amqpConnectTimeoutMs } = settings;
  const password = amqpPasswordFile === undefined ? undefined : readPassword(amqpPasswordFile);
  const brokers = parseBrokers(settings.amqp, {
    primaryZone,
    // The protocol counts in seconds, and 0 of them is none.
    heartbeatS: Math.ceil(amqpHeartbeatMs / 1_000),
    ...(password !== undefined && { password }),
  });
  return {
    brokers,
    ...modesOf(settings.amqpMode, brokers),
    primaryZone: primaryOf(primaryZone, brokers),
    ...(settings.amqpPrefer === "first" && { prefer: "first" as const }),
    tls: tlsOf(settings),
    connectTimeoutMs: amqpConnectTimeoutMs,
    window: { messages: amqpWindow },
    name: nodeName(settings),
    ...(log !== undefined && { log }),
  };
}

/** What stands behind `dmq@`. */
export function nodeName({ nodeName: named }: Pick<AmqpSettings, "nodeName">): string {
  return named ?? hostname();
}

function primaryOf(zone: string, brokers: readonly BrokerUrl[]): string {
  if (brokers.some((broker) => broker.zone === zone)) return zone;
  const zones = [...new Set(brokers.map((broker) => broker.zone))].join(", ");
  throw new ConfigError("config-contradiction", "amqp_primary", `${zone}, which no broker is in`, `one of ${zones}`);
}

function modesOf(texts: readonly string[], brokers: readonly BrokerUrl[]): Pick<AmqpOptions, "mode" | "modes"> {
  const modes: Record<string, Mode> = {};
  let mode: Mode = "failover";
  for (const text of texts) {
    const [zone, named] = text.includes("=") ? (text.split("=") as [string, Mode]) : [undefined, text as Mode];
    if (zone === undefined) mode = named;
    else if (brokers.some((broker) => broker.zone === zone)) modes[zone] = named;
    else
      throw new ConfigError("config-contradiction", "amqp_mode", `${text}, and no broker in ${zone}`, "a zone of amqp");
  }
  return { mode, modes };
}

function tlsOf({ amqpCa, amqpCert, amqpKey, amqpInsecure, amqpServername }: AmqpSettings): AmqpTls {
  if ((amqpCert === undefined) !== (amqpKey === undefined)) {
    const [seen, missing] = amqpKey === undefined ? ["amqp_cert", "amqp_key"] : ["amqp_key", "amqp_cert"];
    throw new ConfigError("config-contradiction", `${seen}`, `no ${missing}`, "both of them, or none");
  }
  return {
    ...(amqpCa !== undefined && { ca: readPem("amqp_ca", amqpCa) }),
    ...(amqpCert !== undefined && { cert: readPem("amqp_cert", amqpCert) }),
    ...(amqpKey !== undefined && { key: readPem("amqp_key", amqpKey) }),
    ...(amqpInsecure && { insecure: true }),
    ...(amqpServername !== undefined && { servername: amqpServername }),
  };
}

/** Its first line: editors and `echo` put a line end behind it. */
function readPassword(path: string): string {
  const text = readText("amqp_password_file", path, "a file with the password in its first line");
  const [first = ""] = text.split(/\r?\n/);
  if (first !== "") return first;
  throw new ConfigError(
    "config-invalid-value",
    "amqp_password_file",
    `${path} without a first line`,
    "the password in it",
  );
}

function readPem(option: string, path: string): string {
  const text = readText(option, path, "the path of a PEM file");
  if (text.includes("-----BEGIN ")) return text;
  throw new ConfigError("config-invalid-value", option, `${path}, which is no PEM`, "a file with -----BEGIN in it");
}

function readText(option: string, path: string, expected: string): string {
  let octets: Buffer;
  try {
    octets = readFileSync(path);
  } catch (cause) {
    const why = (cause as { code?: string }).code ?? "an error";
    throw new ConfigError("config-invalid-value", option, `${path} (${why})`, expected, cause);
  }
  if (octets.length <= FILE_BYTES_MAX) return octets.toString("utf8");
  throw new ConfigError("config-invalid-value", option, `${path} (${octets.length} octets)`, "at most 1 MiB");
}
