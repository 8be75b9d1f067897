/**
 * One word of a routing key out of any text (amqp.md A2, `kazoo_encode`): a dot would begin a new word there, and `#` and `*` stand for
 * words. Letters, digits, `-`, `~` and `_` stay, a space becomes `+`, a text that is `#` or `*` and nothing else stays, everything else
 * becomes `%XX` for each octet of its UTF-8. Kazoo gets octets above 127 wrong; here they are two digits as all others.
 */
import { encodeUtf8 } from "../core/bytes.ts";

/** What a routing key may have (AMQP 0-9-1, 4.2.5.3: short string). */
export const KEY_BYTES_MAX = 255;

const KEPT = new Set(encodeUtf8("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-~_"));
const SPACE = 0x20;
const HASH = 0x23;
const STAR = 0x2a;
const HEX = "0123456789ABCDEF";

/** @returns ASCII, up to three times as long; its length is the caller's to check (`KEY_BYTES_MAX`) */
export function encodeKey(text: string | Uint8Array): string {
  const octets = typeof text === "string" ? encodeUtf8(text) : text;
  if (octets.length === 1 && (octets[0] === HASH || octets[0] === STAR)) return String.fromCharCode(octets[0]);
  let out = "";
  for (const octet of octets) out += encodedOctet(octet);
  return out;
}

function encodedOctet(octet: number): string {
  if (octet === SPACE) return "+";
  if (KEPT.has(octet)) return String.fromCharCode(octet);
  return `%${HEX[octet >> 4]}${HEX[octet & 15]}`;
}
