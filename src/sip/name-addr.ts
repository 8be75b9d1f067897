/**
 * Values of From, To and Contact: an address with or without a display name (RFC 3261 §20.10, §20.20, §20.39). In the form
 * without angle brackets everything after a semicolon belongs to the header, not to the URI.
 */
import { ProtocolError } from "../core/errors.ts";
import { ALPHA, isOf, paramMap, readParams, readQuoted, runEnd, skipSpace, TOKEN } from "./grammar.ts";

export interface NameAddr {
  /** Without quotes, `undefined` where there is none. */
  readonly displayName: string | undefined;
  /** As written, of any scheme: whoever needs a SIP URI parses it. */
  readonly uri: string;
  /** Header parameters (`tag`), names in lower case, values without quotes. */
  readonly params: ReadonlyMap<string, string | undefined>;
}

function broken(what: string, value: string): ProtocolError {
  const shown = value.length > 80 ? `${value.slice(0, 80)}…` : value;
  return new ProtocolError(`${what} in address ${JSON.stringify(shown)}`, { section: "RFC 3261 §20.10" });
}

/** A scheme and something behind it, without the characters that no URI has: those would move the URI's end elsewhere. */
function isAddrSpec(text: string): boolean {
  const colon = text.indexOf(":");
  if (colon < 1 || colon === text.length - 1 || !isOf(text.charCodeAt(0), ALPHA)) return false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code <= 0x20 || code === 0x22 || code === 0x3c || code === 0x3e || code === 0x7f) return false;
  }
  return true;
}

interface Display {
  name: string | undefined;
  end: number;
}

/** `*(token LWS) / quoted-string` (§25.1), up to the opening bracket at `bracket` of an unquoted name. */
function readDisplay(value: string): Display | undefined {
  const start = skipSpace(value, 0);
  if (value.charCodeAt(start) === 0x22) {
    const quoted = readQuoted(value, start);
    return quoted && { name: quoted.value, end: skipSpace(value, quoted.end) };
  }
  let at = start;
  let end = start;
  while (isOf(value.charCodeAt(at), TOKEN)) {
    end = runEnd(value, at, TOKEN);
    at = skipSpace(value, end);
  }
  return { name: end === start ? undefined : value.slice(start, end), end: at };
}

function finish(value: string, displayName: string | undefined, uri: string, after: number): NameAddr | ProtocolError {
  if (!isAddrSpec(uri)) return broken("bad URI", value);
  const params = readParams(value, after);
  // From and To hold one address (§20.20, §20.39): a comma after it starts nothing that we would read.
  if (params === undefined || params.end !== value.length) return broken("bad parameters", value);
  return { displayName, uri, params: paramMap(params.list) };
}

/**
 * Reads one name-addr or addr-spec with its header parameters.
 *
 * @returns the parts, or a ProtocolError (400): unbalanced quotes or brackets, space in the URI, an unquoted display name
 *          that is no list of tokens, a broken or repeated parameter, a second address
 */
export function parseNameAddr(value: string): NameAddr | ProtocolError {
  const display = readDisplay(value);
  if (display === undefined) return broken("open quote", value);
  if (value.charCodeAt(display.end) === 0x3c) {
    const close = value.indexOf(">", display.end);
    if (close === -1) return broken("open bracket", value);
    return finish(value, display.name, value.slice(display.end + 1, close), close + 1);
  }
  const start = skipSpace(value, 0);
  let end = start;
  while (end < value.length && !" \t;,".includes(value.charAt(end))) end++;
  const uri = value.slice(start, end);
  // §20.10: a URI with a question mark must stand in brackets, or nobody knows whose the rest is.
  return uri.includes("?") ? broken("question mark without brackets", value) : finish(value, undefined, uri, end);
}
