/**
 * One configuration out of flags, environment, file and defaults, in that order of precedence (design.md section 6). An
 * unknown key, a value out of bounds or two that contradict end the start; nothing is corrected silently.
 */
import { readFileSync } from "node:fs";
import { canonicalIp, defaultPort } from "../core/endpoint.ts";
import { ConfigError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { isWithin, parseAllow } from "../core/networks.ts";
import { shownUrl } from "../core/secret.ts";
import { Mistakes } from "./mistakes.ts";
import {
  CONFIG_OPTIONS,
  type ConfigOption,
  DEFAULT_SERVER_ADDRESS,
  type DmqConfig,
  environmentOf,
  flagOf,
  type OptionValue,
  validate,
} from "./schema.ts";
import { type Place, readAddress, readSocket } from "./syntax.ts";

/** Below this, the pings of a bus of some size are a load of their own, and older Kamailios raise it to 5. */
const PING_INTERVAL_MS_ADVISED = 5_000;

const FILE_BYTES_MAX = 1024 * 1024;

export interface ConfigInput {
  /** Texts by option name (`ping_interval`); booleans are `"1"` and `"0"`. */
  flags: ReadonlyMap<string, readonly string[]>;
  env: Readonly<Record<string, string | undefined>>;
  /** `--config`: must exist. Without it, the two usual places are tried. */
  file?: string;
}

export interface LoadedConfig {
  config: DmqConfig;
  /** Where each option's value is from, by option name: `--ping-interval`, `DMQ_PING_INTERVAL`, a path, `default`. */
  sources: Map<string, string>;
  /** The file that was read; `undefined` where there is none. */
  file: string | undefined;
  /** One sentence each, for the log. */
  warnings: string[];
}

interface Found {
  source: string;
  values: readonly unknown[];
}

/**
 * @throws ConfigError `config-unknown-key`, `config-invalid-value`, `config-contradiction`, `config-unreadable`, with the
 *         place and the name of the option, what was seen and what is allowed; of several the first
 */
export function loadConfig(input: ConfigInput): LoadedConfig {
  const reading = readConfig(input);
  if (Array.isArray(reading)) throw reading[0];
  return reading;
}

/**
 * Reads all of it, whatever is wrong on the way. What holds options together is looked at where each of them is right.
 *
 * @returns the configuration; or all mistakes, at least one
 */
export function readConfig(input: ConfigInput): LoadedConfig | ConfigError[] {
  const mistakes = new Mistakes();
  const file = mistakes.try(() => readConfigFile(input, mistakes));
  const settings = new Map<string, OptionValue | OptionValue[] | undefined>();
  const sources = new Map<string, string>();
  for (const option of CONFIG_OPTIONS) {
    const found = mistakes.try(() => find(option, input, file));
    if (found === undefined) continue;
    settings.set(option.property, read(option, found, mistakes));
    sources.set(option.name, found.source);
  }
  if (mistakes.found.length > 0) return mistakes.found;
  const config = Object.fromEntries(settings) as unknown as DmqConfig;
  config.serverAddress ??= DEFAULT_SERVER_ADDRESS;
  mistakes.try(() => checkNotification(config));
  mistakes.try(() => checkPlaces(config));
  if (mistakes.found.length > 0) return mistakes.found;
  return { config, sources, file: file?.path, warnings: warningsFor(config, sources) };
}

interface ConfigFile {
  path: string;
  keys: Map<string, unknown>;
}

function readConfigFile(input: ConfigInput, mistakes: Mistakes): ConfigFile | undefined {
  if (input.file !== undefined) return parseConfigFile(input.file, readText(input.file), mistakes);
  for (const path of usualPlaces(input.env)) {
    const content = readTextIfThere(path);
    if (content !== undefined) return parseConfigFile(path, content, mistakes);
  }
  return undefined;
}

function usualPlaces(env: ConfigInput["env"]): string[] {
  const home = env.XDG_CONFIG_HOME;
  // The XDG base directory specification: a relative path is invalid and is to be ignored.
  return [...(home?.startsWith("/") ? [`${home}/dmq/dmq.toml`] : []), "/etc/dmq/dmq.toml"];
}

function readTextIfThere(path: string): string | undefined {
  try {
    return readText(path);
  } catch (error) {
    const code = ((error as ConfigError).cause as { code?: string } | undefined)?.code;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}

function readText(path: string): string {
  let content: Buffer;
  try {
    content = readFileSync(path);
  } catch (cause) {
    const why = (cause as { code?: string }).code ?? "an error";
    throw new ConfigError("config-unreadable", "config", `${path} (${why})`, "a file that can be read", cause);
  }
  if (content.length <= FILE_BYTES_MAX) return content.toString("utf8");
  throw new ConfigError("config-unreadable", "config", `${path} (${content.length} bytes)`, "at most 1 MiB");
}

function parseConfigFile(path: string, content: string, mistakes: Mistakes): ConfigFile {
  let table: Record<string, unknown>;
  try {
    table = Bun.TOML.parse(content) as Record<string, unknown>;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ConfigError("config-unreadable", "config", `${path} (${why})`, "TOML", cause);
  }
  const keys = flattened(path, table, mistakes);
  for (const key of keys.keys()) if (!isOption(key)) mistakes.add(() => unknownKey(path, key));
  return { path, keys };
}

function isOption(name: string): boolean {
  return CONFIG_OPTIONS.some((option) => option.name === name);
}

/** The table `[tls]` is another way to write the keys that begin with `tls_`: `cert` in it is `tls_cert`. */
function flattened(path: string, table: Record<string, unknown>, mistakes: Mistakes): Map<string, unknown> {
  const { tls, ...rest } = table;
  const keys = new Map(Object.entries(rest));
  if (tls === undefined) return keys;
  if (typeof tls !== "object" || tls === null || Array.isArray(tls)) {
    const seen = JSON.stringify(tls);
    mistakes.add(() => new ConfigError("config-invalid-value", `tls in ${path}`, seen, "a table: [tls]"));
    return keys;
  }
  for (const [key, value] of Object.entries(tls)) {
    const name = `tls_${key}`;
    if (keys.has(name)) mistakes.add(() => twice(path, name, key));
    else if (isOption(name)) keys.set(name, value);
    else mistakes.add(() => unknownTlsKey(path, key));
  }
  return keys;
}

function twice(path: string, name: string, key: string): ConfigError {
  const both = `${name} and ${key} in [tls]`;
  return new ConfigError("config-contradiction", `${name} in ${path}`, both, "one of the two");
}

function unknownTlsKey(path: string, key: string): ConfigError {
  const names = CONFIG_OPTIONS.map(({ name }) => name).filter((name) => name.startsWith("tls_"));
  const short = names.map((name) => name.slice("tls_".length));
  const near = nearest(key.replaceAll("-", "_").replace(/^tls_/, ""), short);
  const expected = near === undefined ? `one of ${short.join(", ")}` : `a known key: did you mean ${near}?`;
  return new ConfigError("config-unknown-key", path, `the unknown key ${key} in [tls]`, expected);
}

function unknownKey(path: string, key: string): ConfigError {
  const names = CONFIG_OPTIONS.map((option) => option.name);
  const near = nearest(key.replaceAll("-", "_"), names);
  const expected = near === undefined ? `one of ${names.join(", ")}` : `a known key: did you mean ${near}?`;
  return new ConfigError("config-unknown-key", path, `the unknown key ${key}`, expected);
}

function find(option: ConfigOption, input: ConfigInput, file: ConfigFile | undefined): Found {
  const flags = input.flags.get(option.name);
  if (flags !== undefined && flags.length > 0)
    return { source: `--${flagOf(option)}`, values: splitCommas(option, flags) };
  for (const name of [environmentOf(option), ...(option.alias === undefined ? [] : [option.alias])]) {
    const variable = input.env[name];
    if (variable === undefined || variable === "") continue;
    return { source: name, values: option.repeatable ? splitVariable(option, variable) : [variable] };
  }
  if (file?.keys.has(option.name)) return { source: file.path, values: splitCommas(option, fileValues(option, file)) };
  return { source: "default", values: option.default === undefined ? [] : [option.default] };
}

/** A command has spaces and commas in it, the methods that are replicated with one code have commas between them. */
const SEPARATORS: ReadonlyMap<string, RegExp> = new Map([
  ["on", /[\r\n]+/],
  ["link", /[\r\n]+/],
  ["replicate", /\s+/],
  ["queue", /\s+/],
]);

/** White space and commas separate, where a value cannot have them. */
function splitVariable(option: ConfigOption, variable: string): string[] {
  const separator = SEPARATORS.get(option.name) ?? /[\s,]+/;
  return variable.split(separator).filter((one) => one.trim() !== "");
}

function splitCommas({ commas }: ConfigOption, values: readonly unknown[]): readonly unknown[] {
  if (commas !== true) return values;
  // An empty one stays, and is refused: something was left out there.
  return values.flatMap((value) => (typeof value === "string" ? value.split(",").map((one) => one.trim()) : [value]));
}

function fileValues(option: ConfigOption, file: ConfigFile): unknown[] {
  const value = file.keys.get(option.name);
  if (option.name === "queue") return [value].flat().map(definitionText);
  if (option.name === "link") return [value].flat().map(linkText);
  if (!Array.isArray(value)) return [value];
  if (option.repeatable) return value;
  throw invalid(option, file.path, value, `${option.expected}, one value`);
}

/** A table of `[[queue]]` in the text form of the flag: who reads that says what is wrong with it. */
function definitionText(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  return `${Object.entries(value)
    .map(([key, one]) => `${key}=${String(one)}`)
    .join(";")};`;
}

/** A table of `[[link]]`, `from` and `to` and options, likewise. */
function linkText(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  const { from, to, ...options } = value as Record<string, unknown>;
  if (from === undefined || to === undefined) return value;
  const texts = Object.entries(options).map(
    ([key, one]) => `;${key}=${one === true ? "yes" : one === false ? "no" : String(one)}`,
  );
  return `${String(from)} -> ${String(to)}${texts.join("")}`;
}

function read(option: ConfigOption, found: Found, mistakes: Mistakes): OptionValue | OptionValue[] | undefined {
  const values = found.values.flatMap((raw) => {
    const result = validate(option, raw);
    if (result.ok) return [result.value];
    mistakes.add(() => invalid(option, found.source, raw, option.expected));
    return [];
  });
  if (option.repeatable) return [...new Set(values)];
  return values.at(-1);
}

function invalid(option: ConfigOption, source: string, raw: unknown, expected: string): ConfigError {
  const name = source.startsWith("--") || source.startsWith("DMQ_") ? source : `${option.name} in ${source}`;
  const near = typeof raw === "string" ? nearest(raw, option.choices ?? []) : undefined;
  const hint = near === undefined ? "" : `: did you mean ${near}?`;
  const received =
    option.secret === true && typeof raw === "string" ? shownUrl(raw) : (JSON.stringify(raw) ?? String(raw));
  return new ConfigError("config-invalid-value", name, received, `${expected}${hint}`);
}

function checkNotification({ multiNotify, notificationAddresses: addresses }: DmqConfig): void {
  if (!multiNotify || addresses.length <= 1) return;
  throw new ConfigError(
    "config-contradiction",
    "multi_notify with notification_address",
    `${addresses.length} notification addresses (${addresses.join(", ")})`,
    "one notification_address whose host name resolves to all, or multi_notify 0",
  );
}

/** The node must listen for what its address promises, and TLS needs a certificate. What is in the files is seen later. */
function checkPlaces({ serverAddress, serverSockets, tlsCert }: DmqConfig): void {
  const own = readAddress(serverAddress, 0);
  const sockets = serverSockets.flatMap((text) => readSocket(text) ?? []);
  if (own !== undefined && sockets.length > 0 && !sockets.some(({ transport }) => transport === own.transport)) {
    throw new ConfigError(
      "config-contradiction",
      "server_socket with server_address",
      `${serverSockets.join(", ")} with ${serverAddress}`,
      `a server_socket for ${own.transport}, for example ${own.transport}:${own.host}:${portOf(own)}, where the others look for it`,
    );
  }
  const listens = sockets.length > 0 ? sockets : [own];
  if (tlsCert === undefined && listens.some((place) => place?.transport === "tls")) {
    const what = sockets.length > 0 ? `server_socket ${serverSockets.join(", ")}` : `server_address ${serverAddress}`;
    const expected = "tls_cert and tls_key with the certificate of this node and its private key";
    throw new ConfigError("config-contradiction", what, "no tls_cert", expected);
  }
}

function portOf({ port, transport }: Place): number {
  return port ?? defaultPort(transport);
}

/** Behind a NAT, or by mistake: the node listens elsewhere than at its address. */
function isElsewhere({ serverAddress, serverSockets }: DmqConfig): boolean {
  const own = readAddress(serverAddress, 0);
  const sockets = serverSockets.flatMap((text) => readSocket(text) ?? []);
  if (own === undefined || sockets.length === 0 || own.port === 0) return false;
  const leadsHere = ({ host, port, transport }: Place): boolean => {
    const ip = canonicalIp(host);
    const isIp = ip === canonicalIp(own.host) || ip === "0.0.0.0" || ip === "::";
    return transport === own.transport && isIp && port === portOf(own);
  };
  return !sockets.some(leadsHere);
}

/** Those whom the operator names, and does not let in. */
function outsiders({ serverAddress, notificationAddresses, allow }: DmqConfig): string[] {
  const rules = allow.map(parseAllow);
  const networks = rules.flatMap((rule) => (rule === undefined || rule === "members" ? [] : rule));
  const isOut = (uri: string): boolean => {
    const ip = canonicalIp(readAddress(uri, 0)?.host ?? "");
    return ip !== undefined && !isWithin(ip, networks);
  };
  const said = `allow is ${allow.join(", ") || "empty"}`;
  if (rules.includes("members")) return [];
  const warnings = notificationAddresses
    .filter(isOut)
    .map((uri) => `${said}: requests of notification_address ${uri} are refused; add members, or its network`);
  if (warnings.length > 0 || !isOut(serverAddress)) return warnings;
  return [
    `${said}, and server_address ${serverAddress} is not in it: its neighbours may be refused; add their network`,
  ];
}

function warningsFor(config: DmqConfig, sources: Map<string, string>): string[] {
  const warnings: string[] = [];
  if (config.pingIntervalMs < PING_INTERVAL_MS_ADVISED) {
    warnings.push(`ping_interval ${config.pingIntervalMs / 1_000} s is short: below 5 s the pings load every node`);
  }
  if (isElsewhere(config)) {
    const { serverAddress, serverSockets } = config;
    const sockets = serverSockets.join(", ");
    warnings.push(
      `server_socket ${sockets} is not at server_address ${serverAddress}: a NAT must lead from there to here`,
    );
  }
  if (config.tlsVerify === "none") {
    warnings.push("tls_verify is none: whoever answers at a node's address is believed, whatever certificate it shows");
  }
  if (config.amqpInsecure) {
    warnings.push("amqp_insecure is 1: whoever answers at a broker's address is believed, and given the password");
  }
  warnings.push(...outsiders(config));
  if (sources.get("server_address") === "default") {
    warnings.push(
      `server_address is not set: ${config.serverAddress} is used, and nodes on other machines cannot reach this one`,
    );
  }
  return warnings;
}
