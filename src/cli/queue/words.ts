/** What the commands of queues share: how names, durations, keys and values are read. */
import { strictUtf8 } from "../../core/bytes.ts";
import { UsageError } from "../../core/errors.ts";
import { parseDuration } from "../../core/time.ts";
import { NAME_PATTERN } from "../../queue/definition.ts";
import { type Arguments, quoted } from "../command.ts";
import { EXIT } from "../exit.ts";

type Exits = readonly (readonly [code: number, meaning: string])[];

/** Of every command that needs a queue. */
export const QUEUE_EXITS: Exits = [
  [EXIT.notFound, "no such queue"],
  [EXIT.unreachable, "no permission for the daemon's socket, or it is gone"],
  [EXIT.state, "the store is damaged, full, read-only or of a later version; the configuration is invalid"],
];

/** The same, where a command says more of some of them. */
export function queueExits(...own: Exits): Exits {
  const said = new Set(own.map(([code]) => code));
  return [...QUEUE_EXITS.filter(([code]) => !said.has(code)), ...own];
}

/** Ten years: what no date of ours goes beyond. */
export const DURATION_MS_MAX: number = 10 * 365 * 24 * 3_600_000;

/** @throws UsageError for what cannot be a queue's name */
export function queueName(word: string): string {
  if (NAME_PATTERN.test(word)) return word;
  throw new UsageError(
    `queue ${quoted(word)} is none: a letter or digit, then at most 63 letters, digits and . _ - are allowed`,
  );
}

/** @returns milliseconds, `undefined` where the option is not given */
export function readSpan(args: Arguments, flag: string, minMs: number, maxMs = DURATION_MS_MAX): number | undefined {
  const text = args.value(flag);
  if (text === undefined) return undefined;
  const ms = parseDuration(text);
  if (ms !== undefined && ms >= minMs && ms <= maxMs) return Math.ceil(ms);
  throw new UsageError(
    `--${flag} ${quoted(text)}: expected a duration of ${minMs} ms or more, such as 500ms, 10s or 2h`,
  );
}

/** @throws UsageError for what is no lease of an item */
export function leaseId(word: string): string {
  if (/^[\w.:-]{1,64}$/.test(word)) return word;
  throw new UsageError(`${quoted(word)} is no id of a leased item, such as 17-1: dmq queue fetch --lease prints it`);
}

/** @throws UsageError for a word that may not have been typed so: Bun puts U+FFFD where an argument is no UTF-8 */
export function utf8Word(what: string, word: string): string {
  if (!word.includes("\ufffd")) return word;
  throw new UsageError(
    `${what} has octets that are no UTF-8, or U+FFFD: give it by standard input, --lines or --json-lines`,
  );
}

// --- a key or value on a line (queue.md B2) ----------------------------------------------------------------------------

const NAMED = new Map([
  ["\t", "\\t"],
  ["\n", "\\n"],
  ["\r", "\\r"],
  ["\\", "\\\\"],
]);

/**
 * Makes octets a part of a line, so that `unescapedOctets` gives the same again: tab, line ends and the backslash by name, other
 * control characters and what is no UTF-8 as `\xHH`.
 */
export function escapedOctets(octets: Uint8Array): string {
  const text = strictUtf8(octets);
  if (text !== undefined) return escapedText(text);
  let out = "";
  for (let at = 0; at < octets.length; ) {
    const part = octets.subarray(at, at + Math.max(1, sequenceLength(octets, at)));
    const character = strictUtf8(part);
    out += character === undefined ? hex(part) : escapedText(character);
    at += part.length;
  }
  return out;
}

const ESCAPED = /[\x00-\x1f\\\x7f-\x9f]/g;

export function escapedText(text: string): string {
  return text.replaceAll(ESCAPED, (mark) => NAMED.get(mark) ?? hex(new TextEncoder().encode(mark)));
}

function hex(octets: Uint8Array): string {
  return [...octets].map((octet) => `\\x${octet.toString(16).padStart(2, "0")}`).join("");
}

/** @returns 0 where no character begins */
function sequenceLength(octets: Uint8Array, at: number): number {
  for (let length = 1; length <= 4 && at + length <= octets.length; length++)
    if (strictUtf8(octets.subarray(at, at + length)) !== undefined) return length;
  return 0;
}

const UNNAMED = new Map([
  ["t", 0x09],
  ["n", 0x0a],
  ["r", 0x0d],
  ["\\", 0x5c],
]);
const BACKSLASH = 0x5c;

/** @throws UsageError for a backslash that begins none of the escapes of `escapedOctets` */
export function unescapedOctets(octets: Uint8Array): Uint8Array {
  let at = octets.indexOf(BACKSLASH);
  if (at === -1) return octets;
  const out = new Uint8Array(octets.length);
  out.set(octets.subarray(0, at));
  let length = at;
  while (at < octets.length) {
    if (octets[at] !== BACKSLASH) {
      out[length++] = octets[at++] as number;
      continue;
    }
    const rest = new TextDecoder("latin1").decode(octets.subarray(at + 1, at + 4));
    const byHex = /^x([0-9a-fA-F]{2})/.exec(rest);
    const octet = byHex === null ? UNNAMED.get(rest[0] ?? "") : Number.parseInt(byHex[1] as string, 16);
    if (octet === undefined)
      throw new UsageError(`\\${rest[0] ?? ""} is no escape: a backslash is \\\\, others are \\t \\n \\r \\xHH`);
    out[length++] = octet;
    at += byHex === null ? 2 : 4;
  }
  return out.slice(0, length);
}
