/** What the two ways of reading a request make of one, in the same words, to be compared. */
import { decodeUtf8 } from "../../src/core/bytes.ts";
import { parseNameAddr } from "../../src/sip/name-addr.ts";
import { checkRequest } from "../../src/sip/parse.ts";
import type { MessageScan } from "../../src/sip/scan.ts";
import { parseUri } from "../../src/sip/uri.ts";
import { topVia } from "../../src/sip/via.ts";
import { request, value } from "./octets.ts";

function text(b: Uint8Array, start: number, end: number): string {
  return decodeUtf8(b.subarray(start, end));
}

/** What the short way says, in the words of the parser. */
export function scanned(scan: MessageScan, b: Uint8Array): Record<string, unknown> {
  return {
    channel: text(b, scan.channelStart, scan.channelEnd),
    via: text(b, scan.viaLine, scan.viaEnd),
    host: text(b, scan.viaHost, scan.viaHostEnd),
    port: scan.viaPort === 0 ? undefined : scan.viaPort,
    branch: text(b, scan.branch, scan.branchEnd),
    to: text(b, scan.toLine, scan.toEnd),
    toHasTag: scan.toHasTag,
    from: text(b, scan.fromLine, scan.fromEnd),
    fromUri: text(b, scan.fromUri, scan.fromUriEnd),
    cseq: text(b, scan.cseqLine, scan.cseqEnd),
    callId: text(b, scan.callId, scan.callIdEnd),
    contentType: scan.contentType === -1 ? undefined : text(b, scan.contentType, scan.contentTypeEnd),
    maxForwards: scan.maxForwards === -1 ? undefined : scan.maxForwards,
    accept: scan.hasAccept,
    body: [...b.subarray(scan.bodyStart, scan.bodyEnd)],
  };
}

/** What the parser says, where it takes the octets.
 *
 * @throws where it does not
 */
export function parsed(b: Uint8Array, kind: "datagram" | "stream"): Record<string, unknown> {
  const message = request(b, kind);
  const fault = checkRequest(message);
  if (fault !== undefined) throw fault;
  const { headers } = message;
  const via = value(topVia(message));
  const from = value(parseNameAddr(headers.get("From") ?? ""));
  const maxForwards = headers.get("Max-Forwards");
  return {
    channel: value(parseUri(message.uri)).user,
    via: `Via: ${headers.get("Via")}`,
    host: via?.host,
    port: via?.port,
    branch: via?.branch,
    to: `To: ${headers.get("To")}`,
    toHasTag: value(parseNameAddr(headers.get("To") ?? "")).params.has("tag"),
    from: `From: ${headers.get("From")}`,
    fromUri: from.uri,
    cseq: `CSeq: ${headers.get("CSeq")}`,
    callId: headers.get("Call-ID"),
    contentType: headers.get("Content-Type"),
    maxForwards: maxForwards === undefined ? undefined : Number(maxForwards),
    accept: headers.has("Accept"),
    body: [...message.body],
  };
}
