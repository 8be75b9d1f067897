/**
 * SIP URIs: read, write, compare (RFC 3261 §19.1, §25.1). Reading is strict, with one exception for what Kamailio writes:
 * a node without a port announces itself as `sip:host:`.
 */
import { formatHost } from "../core/endpoint.ts";
import { ProtocolError } from "../core/errors.ts";
import { ALPHA, DIGIT, HEADER, isEscaped, isOf, PARAM, PASSWORD, parsePort, readHost, USER } from "./grammar.ts";

export interface SipUri {
  readonly scheme: "sip" | "sips";
  /** As written, escapes included; without the password. */
  readonly user: string | undefined;
  /** As written. RFC 3261 §19.1.1 advises against it, but `user:password@` must not be read as a user. */
  readonly password?: string;
  /** A name in lower case, or an IP literal as canonicalIp spells it, without brackets. */
  readonly host: string;
  readonly port: number | undefined;
  /** Names in lower case, values as written; `undefined` for a bare name such as `lr`. */
  readonly params: ReadonlyMap<string, string | undefined>;
  /** What stands after the question mark, as written. */
  readonly headers: string | undefined;
}

function broken(what: string, text: string, statusHint = 400): ProtocolError {
  const shown = text.length > 80 ? `${text.slice(0, 80)}…` : text;
  return new ProtocolError(`${what} in URI ${JSON.stringify(shown)}`, { section: "RFC 3261 §19.1.1", statusHint });
}

/** RFC 3261 §8.2.2.1: a scheme that is one, but none of ours, is 416; anything else is no URI at all. */
function schemeFault(text: string): ProtocolError {
  let end = 0;
  for (; end < text.length; end++) {
    const code = text.charCodeAt(end);
    const inner = end > 0 && (isOf(code, DIGIT) || code === 0x2b || code === 0x2d || code === 0x2e);
    if (!isOf(code, ALPHA) && !inner) break;
  }
  const scheme = end > 0 && text.charCodeAt(end) === 0x3a;
  return scheme ? broken("unknown scheme", text, 416) : broken("no scheme", text);
}

function parseUriParams(text: string): Map<string, string | undefined> | undefined {
  const params = new Map<string, string | undefined>();
  if (text === "") return params;
  for (const part of text.slice(1).split(";")) {
    const equals = part.indexOf("=");
    const name = (equals === -1 ? part : part.slice(0, equals)).toLowerCase();
    const value = equals === -1 ? undefined : part.slice(equals + 1);
    if (name === "" || value === "" || params.has(name)) return undefined;
    if (!isEscaped(name, PARAM) || !isEscaped(value ?? "", PARAM)) return undefined;
    params.set(name, value);
  }
  return params;
}

/** `hname=hvalue` joined with `&`; a name is needed, a value is not (§25.1). */
function isUriHeaders(text: string): boolean {
  return text.split("&").every((part) => {
    const equals = part.indexOf("=");
    return equals > 0 && isEscaped(part.slice(0, equals), HEADER) && isEscaped(part.slice(equals + 1), HEADER);
  });
}

interface HostPort {
  host: string;
  port: number | undefined;
}

function parseHostPort(text: string): HostPort | undefined {
  const read = readHost(text, 0);
  if (read === undefined) return undefined;
  // `sip:host:` is how Kamailio writes a node without a port (quirk 8): it reads as no port.
  if (read.end === text.length || text.slice(read.end) === ":") return { host: read.host, port: undefined };
  const port = text.charAt(read.end) === ":" ? parsePort(text.slice(read.end + 1)) : undefined;
  return port === undefined ? undefined : { host: read.host, port };
}

function splitUserinfo(text: string): { user: string; password?: string } | undefined {
  const colon = text.indexOf(":");
  const user = colon === -1 ? text : text.slice(0, colon);
  if (user === "" || !isEscaped(user, USER)) return undefined;
  if (colon === -1) return { user };
  const password = text.slice(colon + 1);
  return isEscaped(password, PASSWORD) ? { user, password } : undefined;
}

/** A question mark starts the headers, a semicolon before it the parameters (the userinfo is gone already). */
function splitTail(text: string): { hostPort: string; params: string; headers: string | undefined } {
  const question = text.indexOf("?");
  const front = question === -1 ? text : text.slice(0, question);
  const semicolon = front.indexOf(";");
  return {
    hostPort: semicolon === -1 ? front : front.slice(0, semicolon),
    params: semicolon === -1 ? "" : front.slice(semicolon),
    headers: question === -1 ? undefined : text.slice(question + 1),
  };
}

/**
 * Reads a SIP or SIPS URI (RFC 3261 §19.1.1).
 *
 * @returns the parts; a ProtocolError with status 416 for another scheme, with 400 for anything that breaks the grammar
 */
export function parseUri(text: string): SipUri | ProtocolError {
  const colon = text.indexOf(":");
  const scheme = colon === 3 || colon === 4 ? text.slice(0, colon).toLowerCase() : "";
  if (scheme !== "sip" && scheme !== "sips") return schemeFault(text);
  // Neither parameters nor headers can hold a bare `@`, a user can hold `;` and `?`: the first `@` ends the userinfo.
  const at = text.indexOf("@");
  const info = at === -1 ? { user: undefined } : splitUserinfo(text.slice(colon + 1, at));
  if (info === undefined) return broken("bad user", text);
  const tail = splitTail(text.slice(at === -1 ? colon + 1 : at + 1));
  const hostPort = parseHostPort(tail.hostPort);
  if (hostPort === undefined) return broken("bad host or port", text);
  const params = parseUriParams(tail.params);
  if (params === undefined) return broken("bad parameters", text);
  if (tail.headers !== undefined && !isUriHeaders(tail.headers)) return broken("bad headers", text);
  return { scheme, ...info, ...hostPort, params, headers: tail.headers };
}

/** Writes a URI: the host in its canonical spelling, IPv6 in brackets, parameters in their order. */
export function formatUri(uri: SipUri): string {
  let text = `${uri.scheme}:`;
  if (uri.user !== undefined) text += uri.password === undefined ? `${uri.user}@` : `${uri.user}:${uri.password}@`;
  text += formatHost(uri.host);
  if (uri.port !== undefined) text += `:${uri.port}`;
  for (const [name, value] of uri.params) text += value === undefined ? `;${name}` : `;${name}=${value}`;
  return uri.headers === undefined ? text : `${text}?${uri.headers}`;
}

/** §19.1.4: an escaped character equals the plain one, except where the plain one would be a delimiter. */
function unescapeUnreserved(text: string | undefined, classes: number): string | undefined {
  if (text === undefined || !text.includes("%")) return text;
  let plain = "";
  for (let i = 0; i < text.length; i++) {
    const escaped = text.charCodeAt(i) === 0x25 ? Number.parseInt(text.slice(i + 1, i + 3), 16) : Number.NaN;
    if (Number.isNaN(escaped)) {
      plain += text.charAt(i);
      continue;
    }
    plain += isOf(escaped, classes) ? String.fromCharCode(escaped) : text.slice(i, i + 3).toUpperCase();
    i += 2;
  }
  return plain;
}

function equalParamValue(a: string | undefined, b: string | undefined): boolean {
  return unescapeUnreserved(a, PARAM)?.toLowerCase() === unescapeUnreserved(b, PARAM)?.toLowerCase();
}

/** These never match a URI without them, even with their default value (§19.1.4). */
const DECISIVE_PARAMS = ["user", "ttl", "method", "maddr"];

function equalParams(a: SipUri["params"], b: SipUri["params"]): boolean {
  for (const name of DECISIVE_PARAMS) if (a.has(name) !== b.has(name)) return false;
  for (const [name, value] of a) if (b.has(name) && !equalParamValue(value, b.get(name))) return false;
  return true;
}

function sortedHeaders(headers: string | undefined): string {
  if (headers === undefined) return "";
  const parts = headers.split("&").map((part) => {
    const equals = part.indexOf("=");
    return `${part.slice(0, equals).toLowerCase()}=${unescapeUnreserved(part.slice(equals + 1), HEADER)}`;
  });
  return parts.sort().join("&");
}

/**
 * RFC 3261 §19.1.4. Case matters in user and password only; a missing port is not 5060; parameters of one side only are
 * ignored except user, ttl, method and maddr; headers are never ignored, but their order is.
 */
export function equalUri(a: SipUri, b: SipUri): boolean {
  return (
    a.scheme === b.scheme &&
    unescapeUnreserved(a.user, USER) === unescapeUnreserved(b.user, USER) &&
    unescapeUnreserved(a.password, PASSWORD) === unescapeUnreserved(b.password, PASSWORD) &&
    a.host === b.host &&
    a.port === b.port &&
    equalParams(a.params, b.params) &&
    sortedHeaders(a.headers) === sortedHeaders(b.headers)
  );
}
