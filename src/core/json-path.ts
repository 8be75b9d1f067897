/**
 * Looks into a JSON text without rewriting it: what is found is a part of the text as it stands there, so that a number of 64 bits,
 * a spelling such as `1e400` and white space survive. Paths are those of Kamailio's kazoo module (amqp.md A2): names separated by
 * dots, `name[3]` for an element of an array, a character (`%`) that stands for a dot in a name; empty names count for nothing.
 *
 * The text is checked once, as a whole, by the engine's own parser; what walks through it afterwards relies on that.
 */

export type JsonKind = "object" | "array" | "string" | "number" | "boolean" | "null";

/** What stands for a dot inside a name, as kazoo's `json_escape_char`. */
export const JSON_PATH_ESCAPE = "%";

/** A value in a JSON text: `text.slice(start, end)` is how it is written. */
export class JsonValue {
  readonly text: string;
  readonly start: number;
  readonly end: number;

  private constructor(text: string, start: number, end: number) {
    this.text = text;
    this.start = start;
    this.end = end;
  }

  /** @returns `undefined` where the text is not one JSON value with nothing but white space around it */
  static read(text: string): JsonValue | undefined {
    try {
      JSON.parse(text);
    } catch {
      // Also where it is nested too deeply for the engine.
      return undefined;
    }
    const start = pastSpace(text, 0);
    return new JsonValue(text, start, pastValue(text, start));
  }

  get source(): string {
    return this.text.slice(this.start, this.end);
  }

  get kind(): JsonKind {
    return KINDS.get(this.text[this.start] as string) ?? "number";
  }

  /** A string's text; everything else as it is written. */
  get value(): string {
    return this.kind === "string" ? (JSON.parse(this.source) as string) : this.source;
  }

  /** Of an object: names with their values, in the order of the text, a name that is there twice twice. */
  *members(): Generator<[name: string, value: JsonValue]> {
    if (this.kind !== "object") return;
    let at = pastSpace(this.text, this.start + 1);
    while (this.text[at] !== "}") {
      const end = pastString(this.text, at);
      const name = JSON.parse(this.text.slice(at, end)) as string;
      const value = this.valueAt(pastSpace(this.text, pastSpace(this.text, end) + 1));
      yield [name, value];
      at = this.pastComma(value.end);
    }
  }

  /** Of an array. */
  *elements(): Generator<JsonValue> {
    if (this.kind !== "array") return;
    let at = pastSpace(this.text, this.start + 1);
    while (this.text[at] !== "]") {
      const value = this.valueAt(at);
      yield value;
      at = this.pastComma(value.end);
    }
  }

  /** The last one of this name, as every parser has it. */
  member(name: string): JsonValue | undefined {
    let found: JsonValue | undefined;
    for (const [one, value] of this.members()) if (one === name) found = value;
    return found;
  }

  element(index: number): JsonValue | undefined {
    let at = 0;
    for (const value of this.elements()) if (at++ === index) return value;
    return undefined;
  }

  /** @param dotMark  stands for a dot in a name; the empty text for none */
  at(path: string, dotMark: string = JSON_PATH_ESCAPE): JsonValue | undefined {
    let value: JsonValue | undefined = this;
    for (const step of stepsOf(path, dotMark))
      value = typeof step === "number" ? value?.element(step) : value?.member(step);
    return value;
  }

  private valueAt(start: number): JsonValue {
    return new JsonValue(this.text, start, pastValue(this.text, start));
  }

  private pastComma(end: number): number {
    const at = pastSpace(this.text, end);
    return this.text[at] === "," ? pastSpace(this.text, at + 1) : at;
  }
}

/**
 * @returns what stands at the path: the text of a string, everything else as it is written; `undefined` where there is nothing or
 *          `null`, which kazoo does not tell apart either, and where the text is no JSON
 */
export function jsonGet(text: string, path: string, dotMark?: string): string | undefined {
  const found = JsonValue.read(text)?.at(path, dotMark);
  return found === undefined || found.kind === "null" ? undefined : found.value;
}

/** @returns names of an object's members, each once, in their order; `undefined` where there is no object */
export function jsonKeys(text: string, path: string, dotMark?: string): string[] | undefined {
  const found = JsonValue.read(text)?.at(path, dotMark);
  return found?.kind === "object" ? [...new Set([...found.members()].map(([name]) => name))] : undefined;
}

/** @returns length of an array; 0 for everything else, and nothing; `undefined` where the text is no JSON */
export function jsonCount(text: string, path: string, dotMark?: string): number | undefined {
  const whole = JsonValue.read(text);
  if (whole === undefined) return undefined;
  const found = whole.at(path, dotMark);
  let count = 0;
  if (found !== undefined) for (const _ of found.elements()) count++;
  return count;
}

// --- a path ------------------------------------------------------------------------------------------------------------

function stepsOf(path: string, dotMark: string): (string | number)[] {
  return path.split(".").flatMap((part) => (part === "" ? [] : stepsOfPart(part, dotMark)));
}

/** `name`, `name[3]`, `[3]` and `name[3][4]`; brackets around anything but digits belong to the name. */
function stepsOfPart(part: string, dotMark: string): (string | number)[] {
  const indexes: number[] = [];
  let name = part;
  for (;;) {
    const open = name.lastIndexOf("[");
    const digits = open === -1 || !name.endsWith("]") ? "" : name.slice(open + 1, -1);
    if (!isIndex(digits)) break;
    indexes.unshift(Number(digits));
    name = name.slice(0, open);
  }
  const plain = dotMark === "" ? name : name.replaceAll(dotMark, ".");
  return plain === "" && indexes.length > 0 ? indexes : [plain, ...indexes];
}

const INDEX_DIGITS_MAX = 9;

function isIndex(text: string): boolean {
  if (text.length === 0 || text.length > INDEX_DIGITS_MAX) return false;
  for (const digit of text) if (digit < "0" || digit > "9") return false;
  return true;
}

// --- through a text that is known to be JSON -----------------------------------------------------------------------------

const KINDS: ReadonlyMap<string, JsonKind> = new Map<string, JsonKind>([
  ["{", "object"],
  ["[", "array"],
  ['"', "string"],
  ["t", "boolean"],
  ["f", "boolean"],
  ["n", "null"],
]);

const TAB = 0x09;
const LF = 0x0a;
const CR = 0x0d;
const SPACE = 0x20;
const QUOTE = 0x22;
const COMMA = 0x2c;
const OPEN_SQUARE = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_SQUARE = 0x5d;
const OPEN_CURLY = 0x7b;
const CLOSE_CURLY = 0x7d;

function isSpace(code: number): boolean {
  return code === SPACE || code === LF || code === TAB || code === CR;
}

function pastSpace(text: string, from: number): number {
  let at = from;
  while (isSpace(text.charCodeAt(at))) at++;
  return at;
}

/** @param from  its opening quote */
function pastString(text: string, from: number): number {
  let at = from + 1;
  while (text.charCodeAt(at) !== QUOTE) at += text.charCodeAt(at) === BACKSLASH ? 2 : 1;
  return at + 1;
}

function pastValue(text: string, from: number): number {
  const first = text.charCodeAt(from);
  if (first === QUOTE) return pastString(text, from);
  if (first === OPEN_CURLY || first === OPEN_SQUARE) return pastBrackets(text, from);
  let at = from;
  while (at < text.length && !endsWord(text.charCodeAt(at))) at++;
  return at;
}

function endsWord(code: number): boolean {
  return code === COMMA || code === CLOSE_CURLY || code === CLOSE_SQUARE || isSpace(code);
}

/** Brackets are known to match, so that their number is enough. */
function pastBrackets(text: string, from: number): number {
  let depth = 0;
  let at = from;
  do {
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = pastString(text, at);
      continue;
    }
    if (code === OPEN_CURLY || code === OPEN_SQUARE) depth++;
    else if (code === CLOSE_CURLY || code === CLOSE_SQUARE) depth--;
    at++;
  } while (depth > 0);
  return at;
}
