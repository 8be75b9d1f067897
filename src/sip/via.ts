/**
 * Via: who sent a request through which hop, and where its response goes (RFC 3261 §18.2, §20.42, RFC 3581).
 */
import { canonicalIp, type Endpoint } from "../core/endpoint.ts";
import { ProtocolError } from "../core/errors.ts";
import {
  type HeaderParam,
  paramMap,
  parsePort,
  readHost,
  readParams,
  readQuoted,
  runEnd,
  skipSpace,
  TOKEN,
} from "./grammar.ts";
import type { SipMessage } from "./message.ts";

export interface Via {
  /** Upper case; `""` where it is missing: Kamailio 6.2 with sl_send=1 writes `Via: SIP/2.0/ 127.0.0.11:5070`. */
  readonly transport: string;
  /** Sent-by host: lower-case name or canonical IP literal. */
  readonly host: string;
  readonly port: number | undefined;
  /** As written. */
  readonly branch: string | undefined;
  /** Canonical where it is an IP literal (with or without brackets, RFC 5118 §4.5). */
  readonly received: string | undefined;
  readonly rport: number | "requested" | undefined;
  readonly params: ReadonlyMap<string, string | undefined>;
}

/** One via-parm and where its pieces stand in the header's text. */
interface ViaParm {
  via: Via;
  params: HeaderParam[];
  paramsStart: number;
  end: number;
}

function broken(what: string, value: string): ProtocolError {
  const shown = value.length > 80 ? `${value.slice(0, 80)}…` : value;
  return new ProtocolError(`${what} in Via ${JSON.stringify(shown)}`, { section: "RFC 3261 §20.42" });
}

/** `token SLASH token SLASH`, any protocol and version: a 505 must find its way back too. */
function afterVersion(text: string): number {
  let at = 0;
  for (let part = 0; part < 2; part++) {
    const start = skipSpace(text, at);
    const end = runEnd(text, start, TOKEN);
    const slash = skipSpace(text, end);
    if (end === start || text.charCodeAt(slash) !== 0x2f) return -1;
    at = slash + 1;
  }
  return at;
}

/** The transport may be left out only where a space follows the slash; then the first token is the host already. */
function readTransport(text: string, index: number): { transport: string; end: number } {
  const start = skipSpace(text, index);
  const end = runEnd(text, start, TOKEN);
  const next = skipSpace(text, end);
  const missing = start > index && (next === text.length || ":;,".includes(text.charAt(next)) || end === start);
  return missing ? { transport: "", end: start } : { transport: text.slice(start, end).toUpperCase(), end };
}

function readSentBy(text: string, index: number): { host: string; port: number | undefined; end: number } | undefined {
  const read = readHost(text, index);
  if (read === undefined) return undefined;
  const colon = skipSpace(text, read.end);
  if (text.charCodeAt(colon) !== 0x3a) return { host: read.host, port: undefined, end: read.end };
  const start = skipSpace(text, colon + 1);
  let end = start;
  while (text.charCodeAt(end) >= 0x30 && text.charCodeAt(end) <= 0x39) end++;
  const port = parsePort(text.slice(start, end));
  return port === undefined ? undefined : { host: read.host, port, end };
}

function rportOf(params: Via["params"]): Via["rport"] {
  if (!params.has("rport")) return undefined;
  return parsePort(params.get("rport") ?? "") ?? "requested";
}

function readViaParm(text: string): ViaParm | ProtocolError {
  const version = afterVersion(text);
  if (version === -1) return broken("no sent-protocol", text);
  const { transport, end: transportEnd } = readTransport(text, version);
  const hostStart = skipSpace(text, transportEnd);
  if (transport !== "" && hostStart === transportEnd) return broken("no space before the host", text);
  const sentBy = readSentBy(text, hostStart);
  if (sentBy === undefined) return broken("bad sent-by", text);
  const read = readParams(text, sentBy.end);
  if (read === undefined) return broken("bad parameters", text);
  const params = paramMap(read.list);
  const received = params.get("received");
  const via: Via = {
    transport,
    host: sentBy.host,
    port: sentBy.port,
    branch: params.get("branch"),
    received: received === undefined ? undefined : (canonicalIp(received) ?? received),
    rport: rportOf(params),
    params,
  };
  return { via, params: read.list, paramsStart: sentBy.end, end: read.end };
}

/**
 * Reads the first via-parm of a Via value (RFC 3261 §20.42); what follows a comma is not looked at.
 *
 * @param value  unfolded header value
 * @returns      its parts, or a ProtocolError (400)
 */
export function parseVia(value: string): Via | ProtocolError {
  const parm = readViaParm(value);
  return parm instanceof ProtocolError ? parm : parm.via;
}

/** The topmost Via: a ProtocolError where it does not parse, `undefined` where there is none. */
export function topVia(message: SipMessage): Via | ProtocolError | undefined {
  const value = message.headers.get("Via");
  return value === undefined ? undefined : parseVia(value);
}

/** Commas outside quotes, plus one. */
function countParms(value: string): number {
  let count = 1;
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i);
    if (code === 0x2c) count++;
    if (code === 0x22) i = (readQuoted(value, i)?.end ?? value.length) - 1;
  }
  return count;
}

/** Number of via-parms over all Via lines, members of comma lists counted one by one (§7.3.1). */
export function viaCount(message: SipMessage): number {
  let count = 0;
  for (const value of message.headers.getAll("Via")) count += countParms(value);
  return count;
}

/**
 * Where the response to a request goes (RFC 3261 §18.2.2, RFC 3581 §4). Streams: the connection it came on. Datagrams: the
 * source address; its port where rport was asked for, else the port of the sent-by, else 5060.
 *
 * `maddr` is ignored on purpose: it would let anyone aim our responses, node lists included, at an address of his choice.
 * The sent-by host is not used either, for the same reason; Kamailio does the same.
 */
export function responseDestination(via: Via, source: Endpoint): Endpoint {
  if (source.transport !== "udp" || via.rport !== undefined) return source;
  return { transport: "udp", ip: source.ip, port: via.port ?? 5060 };
}

function isStamped(via: Via, source: Endpoint): boolean {
  if (via.rport === "requested") return false;
  if (via.received !== undefined) return via.received === source.ip;
  return via.host === source.ip;
}

/**
 * Notes in the topmost via-parm where the request came from: `received` when the sent-by is another host (RFC 3261
 * §18.2.1) or rport was asked for, and then the value of `rport` (RFC 3581 §4). A wrong `received` of the sender's is replaced.
 *
 * @param value  unfolded value of the first Via line
 * @returns      the new value with the rest of a comma list kept, or `undefined` where nothing is to be changed (also
 *               where the Via does not parse)
 */
export function stampVia(value: string, source: Endpoint): string | undefined {
  const parm = readViaParm(value);
  if (parm instanceof ProtocolError || isStamped(parm.via, source)) return undefined;
  // First among the parameters, where a Kamailio writes it: what we replicate is what it would send (dmq.md section 10).
  let text = `${value.slice(0, parm.paramsStart)};received=${source.ip}`;
  for (const param of parm.params) {
    if (param.name === "received") continue;
    const asked = param.name === "rport" && parm.via.rport === "requested";
    text += asked ? `;rport=${source.port}` : value.slice(param.start, param.end);
  }
  return text + value.slice(parm.end);
}
