/**
 * The notification body: one line a node, `sip:host:port[;transport=…];status=…` and CRLF (dmq.md section 5).
 *
 * Reading is tolerant, line by line: a bad line costs itself only. Writing is strict, because one bad line in a list
 * stops a Kamailio before 5.6.6, 5.7.5 and 5.8.1 for good: what is written here was built from parsed addresses.
 */

import { decodeUtf8, encodeUtf8 } from "../core/bytes.ts";
import { isIpv6 } from "../core/endpoint.ts";
import { ProtocolError } from "../core/errors.ts";
import { parseUri } from "../sip/uri.ts";
import { addressKey, addressOfUri, addressUri, type PeerAddress } from "./peer.ts";
import { STATUSES, type Status } from "./status.ts";

export interface NodeLine {
  readonly address: PeerAddress;
  readonly status: Status;
}

export interface NodeList {
  lines: NodeLine[];
  /** Lines that were no node line, or stood beyond the limit. */
  badLines: number;
}

/** Kamailio's own body buffer; a node whose list does not fit becomes mute (dmq.md 11.3). */
export const BODY_BYTES_MAX = 1_023;
/** Lines read of one body; a list that a Kamailio can write has fewer than 40. */
export const LINES_MAX = 1_000;

const LF = 0x0a;

/** @param self  the sender's IP address, where a line with an unspecified host speaks of the sender itself */
export function parseNodeList(body: Uint8Array, self?: string): NodeList {
  const list: NodeList = { lines: [], badLines: 0 };
  const seen = new Set<string>();
  let start = 0;
  let count = 0;
  while (start < body.length) {
    const newline = body.indexOf(LF, start);
    const end = newline === -1 ? body.length : newline;
    if (++count > LINES_MAX) {
      list.badLines++;
      break;
    }
    readLine(body.subarray(start, trimmedEnd(body, start, end)), list, seen, self);
    start = end + 1;
  }
  return list;
}

/** Kamailio cuts trailing CR, LF, space, tab and NUL off a line. */
function trimmedEnd(body: Uint8Array, start: number, end: number): number {
  let last = end;
  while (last > start) {
    const octet = body[last - 1];
    if (octet !== 0x0d && octet !== 0x20 && octet !== 0x09 && octet !== 0) break;
    last--;
  }
  return last;
}

function readLine(octets: Uint8Array, list: NodeList, seen: Set<string>, self: string | undefined): void {
  if (octets.length === 0) return;
  const line = octets.length > 512 ? undefined : parseLine(decodeUtf8(octets).trimStart(), self);
  if (line === undefined) {
    list.badLines++;
    return;
  }
  const key = addressKey(line.address);
  // A node that took itself for a remote one lists itself twice (dmq.md 11.7): the first line counts.
  if (seen.has(key)) return;
  seen.add(key);
  list.lines.push(line);
}

function parseLine(text: string, self: string | undefined): NodeLine | undefined {
  // Kamailio takes a quoted status, which no SIP URI can hold (RFC 3261 §25.1, uri-parameter).
  const uri = parseUri(text.replaceAll('"', ""));
  if (uri instanceof ProtocolError) return undefined;
  const address = addressOfUri(uri, text, self);
  if (address instanceof ProtocolError) return undefined;
  return { address, status: readStatus(uri.params.get("status")) };
}

/** No status means active (Kamailio 6.1); an unknown one, `pending` and `timeout` of older nodes among them, does not. */
function readStatus(value: string | undefined): Status {
  if (value === undefined) return "active";
  return STATUSES.find((status) => status === value) ?? "not_active";
}

export interface WrittenList {
  body: Uint8Array;
  /** Peers that did not fit. */
  omitted: number;
}

/**
 * Writes the list for one receiver: our own line first, then the peers in the order given, as many as fit.
 *
 * @param local      our own address and status
 * @param peers      `ip` is what goes on the line: names are never written, because a receiver that cannot resolve one
 *                   may stop for good
 * @param allowIpv6  false leaves IPv6 lines out: a Kamailio without an IPv6 socket takes them for bad lines
 * @param bytesMax   octets, our own line apart, which always stands there
 */
export function writeNodeList(
  local: NodeLine,
  peers: Iterable<{ address: PeerAddress; ip: string }>,
  allowIpv6: boolean,
  bytesMax: number = BODY_BYTES_MAX,
): WrittenList {
  let text = formatLine(local.address, local.address.host, local.status);
  let omitted = 0;
  const written = new Set<string>([text]);
  for (const { address, ip } of peers) {
    if (!allowIpv6 && isIpv6(ip)) continue;
    const line = formatLine(address, ip, "active");
    if (written.has(line)) continue;
    if (text.length + line.length > bytesMax) {
      omitted++;
      continue;
    }
    written.add(line);
    text += line;
  }
  return { body: encodeUtf8(text), omitted };
}

function formatLine(address: PeerAddress, ip: string, status: Status): string {
  return `${addressUri(address, ip)};status=${status}\r\n`;
}
