/** How fetched items look on stdout: a line each, for `eval`, as JSON, the bare value, or what `--format` says. */
import { itemRow } from "../../consume/row.ts";
import { concatBytes, encodeUtf8 } from "../../core/bytes.ts";
import { UsageError } from "../../core/errors.ts";
import type { Item } from "../../queue/operation.ts";
import { type Arguments, type OptionSpec, quoted } from "../command.ts";
import { escapedOctets, escapedText } from "./words.ts";

export const ITEM_OPTIONS: OptionSpec[] = [
  { flag: "json", help: "a JSON object a line" },
  { flag: "sh", help: "DMQ_KEY='...' DMQ_VALUE='...' DMQ_ID=... a line, for eval" },
  { flag: "raw", help: "the values alone, octet by octet" },
  { flag: "format", value: "TEXT", help: "a line of this text with {key} {value} {id} {tries} ... in it" },
];

/** What an item is as output. @param leased  its id is that of the lease, which `dmq queue ack` takes */
export type Form = (item: Item, leased: boolean) => string | Uint8Array;

/** @throws UsageError for two forms, and for a `--format` with a field that there is not */
export function readForm(args: Arguments): Form {
  const given = ["json", "sh", "raw", "format"].filter((flag) => args.has(flag));
  const [first, second] = given;
  if (second !== undefined) throw new UsageError(`--${first} and --${second} exclude each other`);
  switch (first) {
    case "json":
      return (item, leased) => `${JSON.stringify(itemRow(item, idOf(item, leased)))}\n`;
    case "sh":
      return shellLine;
    case "raw":
      return ({ value }) => value;
    case "format":
      return readTemplate(args.value("format") as string);
    default:
      return (item, leased) =>
        `${leased ? `${item.id}\t` : ""}${escapedText(item.key)}\t${escapedOctets(item.value)}\n`;
  }
}

/** The number of an item is the same in every delivery, its lease is not. */
function idOf({ seq, id }: Item, leased: boolean): string {
  return leased ? id : String(seq);
}

// --- sh ---------------------------------------------------------------------------------------------------------------

const QUOTE = 0x27;
const ESCAPED_QUOTE = encodeUtf8(`'\\''`);

function shellLine(item: Item, leased: boolean): Uint8Array {
  const key = assignment("DMQ_KEY", encodeUtf8(item.key));
  const value = assignment("DMQ_VALUE", item.value);
  return concatBytes([key, value, encodeUtf8(`DMQ_ID=${idOf(item, leased)}\n`)]);
}

/** In quotes as POSIX has them; no variable of a shell can hold a NUL, so that is base64 under another name. */
function assignment(name: string, octets: Uint8Array): Uint8Array {
  if (octets.includes(0)) return encodeUtf8(`${name}_BASE64='${Buffer.from(octets).toString("base64")}' `);
  const parts: Uint8Array[] = [encodeUtf8(`${name}='`)];
  let start = 0;
  for (let end = octets.indexOf(QUOTE); end !== -1; end = octets.indexOf(QUOTE, start)) {
    parts.push(octets.subarray(start, end), ESCAPED_QUOTE);
    start = end + 1;
  }
  parts.push(octets.subarray(start), encodeUtf8("' "));
  return concatBytes(parts);
}

// --- templates --------------------------------------------------------------------------------------------------------

const FIELDS: ReadonlyMap<string, (item: Item, leased: boolean) => string> = new Map([
  ["key", ({ key }: Item) => escapedText(key)],
  ["value", ({ value }: Item) => escapedOctets(value)],
  ["id", idOf],
  ["tries", ({ tries }: Item) => String(tries)],
  ["added", ({ addedAt }: Item) => new Date(addedAt).toISOString()],
  ["content_type", ({ contentType }: Item) => escapedText(contentType)],
  ["from", ({ from }: Item) => escapedText(from ?? "-")],
  ["channel", ({ channel }: Item) => escapedText(channel ?? "-")],
  ["queue", ({ queue }: Item) => queue],
  ["size", ({ value }: Item) => String(value.length)],
]);

const ESCAPES = new Map([
  ["\\t", "\t"],
  ["\\n", "\n"],
  ["\\\\", "\\"],
]);

function readTemplate(text: string): Form {
  const parts = text
    .split(/(\{[a-z_]+(?:\.[^{}]+)?\})/)
    .map((part, index) => (index % 2 === 0 ? plain(part) : field(part)));
  return (item, leased) => `${parts.map((part) => part(item, leased)).join("")}\n`;
}

function plain(part: string): (item: Item, leased: boolean) => string {
  const text = part.replaceAll(/\\[tn\\]/g, (pair) => ESCAPES.get(pair) as string);
  return () => text;
}

function field(part: string): (item: Item, leased: boolean) => string {
  const name = part.slice(1, -1);
  const header = name.startsWith("header.") ? name.slice("header.".length).toLowerCase() : undefined;
  if (header !== undefined) return ({ headers }) => escapedText(headerOf(headers, header));
  const found = FIELDS.get(name);
  if (found !== undefined) return found;
  throw new UsageError(
    `--format: there is no field ${quoted(part)}; there are ${[...FIELDS.keys(), "header.NAME"].join(", ")}`,
  );
}

function headerOf(headers: Readonly<Record<string, string>>, name: string): string {
  return Object.entries(headers).find(([one]) => one.toLowerCase() === name)?.[1] ?? "-";
}
