/**
 * Character classes and the small rules that several headers share (RFC 3261 §25.1). Everything here walks once over text
 * that has been unfolded already, so linear white space is SP and HTAB only. No regular expressions: the text is remote.
 */
import { canonicalIp } from "../core/endpoint.ts";

export const TOKEN = 1;
export const DIGIT = 2;
export const ALPHA = 4;
export const HEX = 8;
/** unreserved / user-unreserved. */
export const USER = 16;
/** unreserved / "&" / "=" / "+" / "$" / ",". */
export const PASSWORD = 32;
/** paramchar without escapes. */
export const PARAM = 64;
/** hnv-unreserved / unreserved, of URI headers. */
export const HEADER = 128;

const CLASSES = new Uint8Array(256);

function mark(characters: string, classes: number): void {
  for (let i = 0; i < characters.length; i++) CLASSES[characters.charCodeAt(i)]! |= classes;
}

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const UNRESERVED = USER | PASSWORD | PARAM | HEADER;
mark(LETTERS, ALPHA | TOKEN | UNRESERVED);
mark("0123456789", DIGIT | HEX | TOKEN | UNRESERVED);
mark("abcdefABCDEF", HEX);
mark("-.!%*_+`'~", TOKEN);
mark("-_.!~*'()", UNRESERVED);
mark("&=+$,;?/", USER);
mark("&=+$,", PASSWORD);
mark("[]/:&+$", PARAM);
mark("[]/?:+$", HEADER);

/** True if the character or octet `code` is of one of `classes`; false for NaN, so the end of a text is of no class. */
export function isOf(code: number, classes: number): boolean {
  return code < 128 && (CLASSES[code]! & classes) !== 0;
}

/** RFC 3261 §25.1 `token`: one or more characters. */
export function isToken(text: string): boolean {
  return text.length > 0 && runEnd(text, 0, TOKEN) === text.length;
}

/** Index after the longest run of `classes` that starts at `index`. */
export function runEnd(text: string, index: number, classes: number): number {
  let end = index;
  while (end < text.length && isOf(text.charCodeAt(end), classes)) end++;
  return end;
}

/** Index of the first character at or after `index` that is neither SP nor HTAB. */
export function skipSpace(text: string, index: number): number {
  let end = index;
  while (text.charCodeAt(end) === 0x20 || text.charCodeAt(end) === 0x09) end++;
  return end;
}

/** Without SP and HTAB at both ends; other white space of Unicode is content. */
export function trimSpace(text: string): string {
  const start = skipSpace(text, 0);
  let end = text.length;
  while (end > start && (text.charCodeAt(end - 1) === 0x20 || text.charCodeAt(end - 1) === 0x09)) end--;
  return text.slice(start, end);
}

/** Every character is of `classes` or part of a `%HH` escape. The empty text passes. */
export function isEscaped(text: string, classes: number): boolean {
  for (let i = 0; i < text.length; i++) {
    if (text.charCodeAt(i) !== 0x25) {
      if (!isOf(text.charCodeAt(i), classes)) return false;
      continue;
    }
    if (!isOf(text.charCodeAt(i + 1), HEX) || !isOf(text.charCodeAt(i + 2), HEX)) return false;
    i += 2;
  }
  return true;
}

/** @returns the decimal number, leading zeros allowed (`0068`), or `undefined` if it is none or greater than `max` */
export function parseNumber(text: string, max: number): number | undefined {
  if (text.length === 0) return undefined;
  let value = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (!isOf(code, DIGIT)) return undefined;
    value = value * 10 + (code - 0x30);
    if (value > max) return undefined;
  }
  return value;
}

/** A port is 1 … 65535: nobody can be reached at port 0. */
export function parsePort(text: string): number | undefined {
  const port = text.length > 5 ? undefined : parseNumber(text, 65_535);
  return port === 0 ? undefined : port;
}

function isHostname(text: string): boolean {
  if (text.length === 0 || text.length > 255) return false;
  const labels = (text.endsWith(".") ? text.slice(0, -1) : text).split(".");
  for (const label of labels) {
    if (label.length === 0 || label.length > 63 || label.startsWith("-") || label.endsWith("-")) return false;
  }
  // The top label starts with a letter (§25.1): otherwise `127.1` would be a name here and an address to a resolver.
  return isOf(labels[labels.length - 1]!.charCodeAt(0), ALPHA);
}

/**
 * Reads a `host` (§25.1). An underscore is taken in names although the grammar has none, because container names have it.
 *
 * @returns the canonical host (lower-case name, IP literal as canonicalIp has it) and the index after it, or `undefined`
 */
export function readHost(text: string, index: number): { host: string; end: number } | undefined {
  if (text.charCodeAt(index) === 0x5b) {
    const close = text.indexOf("]", index);
    // The longest spelling of an IPv6 address has 45 characters.
    if (close === -1 || close - index > 46) return undefined;
    const literal = text.slice(index + 1, close);
    const ip = literal.includes(":") ? canonicalIp(literal) : undefined;
    return ip === undefined ? undefined : { host: ip, end: close + 1 };
  }
  let end = index;
  for (; end < text.length; end++) {
    const code = text.charCodeAt(end);
    if (!isOf(code, ALPHA | DIGIT) && code !== 0x2d && code !== 0x2e && code !== 0x5f) break;
  }
  const name = text.slice(index, end);
  const host = canonicalIp(name) ?? (isHostname(name) ? name.toLowerCase() : undefined);
  return host === undefined ? undefined : { host, end };
}

/**
 * Reads a `quoted-string` (§25.1) whose opening quote stands at `index`.
 *
 * @returns the text without quotes and with quoted pairs resolved, and the index after the closing quote; `undefined` if
 *          there is no closing quote
 */
export function readQuoted(text: string, index: number): { value: string; end: number } | undefined {
  let value = "";
  let plain = index + 1;
  for (let i = plain; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x22) return { value: value + text.slice(plain, i), end: i + 1 };
    if (code === 0x5c) {
      value += text.slice(plain, i);
      plain = ++i;
    }
  }
  return undefined;
}

/** One `;name=value` of a header, and where it stands in the header's text (from its semicolon on). */
export interface HeaderParam {
  /** Lower case. */
  name: string;
  /** Without quotes; `undefined` for a bare name. */
  value: string | undefined;
  start: number;
  end: number;
}

/** gen-value is token / host / quoted-string (§25.1); this is the part without quotes, IPv6 brackets and colons included. */
function valueEnd(text: string, index: number): number {
  let end = index;
  for (; end < text.length; end++) {
    const code = text.charCodeAt(end);
    if (!isOf(code, TOKEN) && code !== 0x5b && code !== 0x5d && code !== 0x3a) break;
  }
  return end;
}

function readParam(text: string, semicolon: number): HeaderParam | undefined {
  const start = skipSpace(text, semicolon + 1);
  const nameEnd = runEnd(text, start, TOKEN);
  if (nameEnd === start) return undefined;
  const name = text.slice(start, nameEnd).toLowerCase();
  const equals = skipSpace(text, nameEnd);
  if (text.charCodeAt(equals) !== 0x3d) return { name, value: undefined, start: semicolon, end: nameEnd };
  const valueStart = skipSpace(text, equals + 1);
  if (text.charCodeAt(valueStart) === 0x22) {
    const quoted = readQuoted(text, valueStart);
    return quoted && { name, value: quoted.value, start: semicolon, end: quoted.end };
  }
  const end = valueEnd(text, valueStart);
  return end === valueStart ? undefined : { name, value: text.slice(valueStart, end), start: semicolon, end };
}

/**
 * Reads `*( SEMI generic-param )` (§25.1) up to a comma or the end of the text.
 *
 * @returns the parameters in order and the index where they stop; `undefined` for a broken, empty or repeated parameter
 *          (§7.3.1: a name must not appear twice) or for anything else than a comma after them
 */
export function readParams(text: string, index: number): { list: HeaderParam[]; end: number } | undefined {
  const list: HeaderParam[] = [];
  const seen = new Set<string>();
  let at = skipSpace(text, index);
  while (text.charCodeAt(at) === 0x3b) {
    const param = readParam(text, at);
    if (param === undefined || seen.has(param.name)) return undefined;
    seen.add(param.name);
    list.push(param);
    at = skipSpace(text, param.end);
  }
  return at === text.length || text.charCodeAt(at) === 0x2c ? { list, end: at } : undefined;
}

export function paramMap(list: readonly HeaderParam[]): ReadonlyMap<string, string | undefined> {
  const map = new Map<string, string | undefined>();
  for (const param of list) map.set(param.name, param.value);
  return map;
}
