/**
 * Headers as they are typed: `K=V` is text, `K:int=5`, `K:float=0.5`, `K:bool=true` and `K:json=[1,"a"]` are what they say, and
 * `--headers 'k=v;k2=v2'` is kazoo's list, in which all is text.
 */
import { UsageError } from "../core/errors.ts";
import { JsonValue } from "../core/json-path.ts";
import { nearest } from "../core/nearest.ts";
import { type HeaderValue, SHORT_STRING_MAX } from "./message.ts";

const INT64_MAX = 2n ** 63n - 1n;
const INT64_MIN = -(2n ** 63n);
const INT64_CHARS_MAX = 20;
const DEPTH_MAX = 32;

const READERS: ReadonlyMap<string, (text: string) => HeaderValue | undefined> = new Map<
  string,
  (text: string) => HeaderValue | undefined
>([
  ["text", (text) => text],
  ["int", (text) => (/^[+-]?\d+$/.test(text) ? integer(text) : undefined)],
  ["float", readFloat],
  ["bool", (text) => (text === "true" || text === "1" ? true : text === "false" || text === "0" ? false : undefined)],
  ["json", readJson],
]);

/**
 * @param words  of `--header`
 * @param lists  of `--headers`
 * @returns      `undefined` where there are none
 * @throws       UsageError for what cannot be a header, or one that is given twice
 */
export function readHeaders(
  words: readonly string[],
  lists: readonly string[] = [],
): Record<string, HeaderValue> | undefined {
  const found = [...lists.flatMap(parseHeaderList), ...words.map(parseHeader)];
  const names = found.map(([name]) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new UsageError(`header ${JSON.stringify(twice)} is given twice`);
  return found.length === 0 ? undefined : Object.fromEntries(found);
}

/** @throws UsageError */
export function parseHeader(word: string): [name: string, value: HeaderValue] {
  const equals = word.indexOf("=");
  if (equals === -1) throw unfit(word, "NAME=VALUE or NAME:TYPE=VALUE");
  const colon = word.lastIndexOf(":", equals);
  const name = word.slice(0, colon === -1 ? equals : colon);
  const type = colon === -1 ? "text" : word.slice(colon + 1, equals);
  const reader = READERS.get(type);
  if (reader === undefined) {
    const near = nearest(type, READERS.keys());
    const hint = near === undefined ? `one of ${[...READERS.keys()].join(", ")}` : `did you mean ${near}?`;
    throw unfit(word, `a type behind the last colon of the name: ${hint}`);
  }
  const value = reader(word.slice(equals + 1));
  if (value === undefined) throw unfit(word, EXPECTED.get(type) as string);
  return [checkedName(name, word), value];
}

const EXPECTED: ReadonlyMap<string, string> = new Map([
  ["int", "a whole number of 64 bits"],
  ["float", "a number"],
  ["bool", "true or false"],
  ["json", 'JSON without a member "!" and with whole numbers of 64 bits'],
]);

/** @throws UsageError */
export function parseHeaderList(text: string): [name: string, value: string][] {
  const parts = text.split(";").filter((one) => one.trim() !== "");
  return parts.map((one) => {
    const equals = one.indexOf("=");
    if (equals === -1) throw unfit(one, "NAME=VALUE;NAME=VALUE");
    return [checkedName(one.slice(0, equals).trim(), one), one.slice(equals + 1)];
  });
}

function checkedName(name: string, word: string): string {
  if (name === "" || name === "__proto__") throw unfit(word, "a name in front of =");
  if (Buffer.byteLength(name) > SHORT_STRING_MAX) throw unfit(word, `a name of at most ${SHORT_STRING_MAX} octets`);
  return name;
}

const SHOWN_CHARS_MAX = 80;

function unfit(word: string, expected: string): UsageError {
  return new UsageError(`header ${JSON.stringify(word.slice(0, SHOWN_CHARS_MAX))}: expected ${expected}`);
}

/** A number where that holds it; else a 64-bit integer by its digits, which the library reads. */
function integer(digits: string): HeaderValue | undefined {
  if (digits.length > INT64_CHARS_MAX) return undefined;
  const value = BigInt(digits.replace(/^\+/, ""));
  if (value > INT64_MAX || value < INT64_MIN) return undefined;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : { "!": "long", value: String(value) };
}

/** A whole one would become an integer. */
function readFloat(text: string): HeaderValue | undefined {
  const value = Number(text);
  return text.trim() === "" || !Number.isFinite(value) ? undefined : { "!": "double", value };
}

function readJson(text: string): HeaderValue | undefined {
  const value = JsonValue.read(text);
  return value === undefined ? undefined : headerOf(value);
}

/** @returns `undefined` for what a header cannot hold: "!" tells the library a type, and whoever writes JSON means none */
export function headerOf(value: JsonValue, depth = 0): HeaderValue | undefined {
  if (depth > DEPTH_MAX) return undefined;
  switch (value.kind) {
    case "object":
      return tableOf(value, depth);
    case "array": {
      const elements = [...value.elements()].map((element) => headerOf(element, depth + 1));
      return elements.includes(undefined) ? undefined : (elements as HeaderValue[]);
    }
    case "number":
      return /[.eE]/.test(value.source) ? finite(Number(value.source)) : integer(value.source);
    default:
      return JSON.parse(value.source) as string | boolean | null;
  }
}

function tableOf(object: JsonValue, depth: number): HeaderValue | undefined {
  const table: Record<string, HeaderValue> = {};
  for (const [name, member] of object.members()) {
    const value = headerOf(member, depth + 1);
    const isUnfit = name === "!" || name === "__proto__" || Buffer.byteLength(name) > SHORT_STRING_MAX;
    if (value === undefined || isUnfit) return undefined;
    table[name] = value;
  }
  return table;
}

function finite(number: number): number | undefined {
  return Number.isFinite(number) ? number : undefined;
}
