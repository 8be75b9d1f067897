/**
 * What a queue is told to be: its bounds, what a second item with the same key does, what happens to what nobody could
 * handle. Reads Kamailio's own text form, `name=alert;size=100;addmode=2` (queue.md part A), and further attributes of ours.
 *
 * Other than Kamailio, which takes a number that it cannot read for 0, a value that is none is refused: a queue without a bound
 * is not what somebody meant who wrote `size=1OO`.
 */
import { ConfigError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { parseDuration } from "../core/time.ts";

export type AddMode = "all" | "oldest" | "newest" | "in-place";

export type FullPolicy = "drop-oldest" | "reject" | "wait" | "drop-newest";

export interface QueueDefinition {
  name: string;
  /** `memory`: gone with the daemon. */
  store: "disk" | "memory";
  /** `full`: what was answered survives a power cut. `normal`: a kill of the daemon. */
  sync: "full" | "normal";
  /** Items at most; 0 is no limit. */
  size: number;
  /** Octets of all values at most. */
  bytes: number;
  /** What an item does that does not fit. */
  full: FullPolicy;
  /** `all` appends; `oldest`: the key that is queued wins; `newest`: the new one does, at the end, or `in-place`. */
  addmode: AddMode;
  /** Where what `drop-oldest` drops goes. */
  overflow: "drop" | "dead";
  /** How long an item may wait; 0 is for ever. */
  ttlMs: number;
  expired: "drop" | "dead";
  /** Deliveries that count before an item is a dead letter. */
  maxTries: number;
  /** First delay after a failure; it doubles to `RETRY_MS_MAX`. 0: at once. */
  retryMs: number;
  /** Octets of one value at most. */
  maxValue: number;
  /** Kamailio's: 0 memory, 1 disk, 2 the daemon reads `db` at its start, 3 it writes it at its stop. */
  dbmode: 0 | 1 | 2 | 3;
  /** SQLite file of dbmode 2 and 3. */
  db: string | undefined;
}

export const DEAD_SUFFIX = ".dead";
export const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
export const KEY_BYTES_MAX = 1_024;
export const VALUE_BYTES_MAX = 1024 * 1024;
export const QUEUE_BYTES_MAX = 256 * 1024 * 1024;
export const RETRY_MS_MAX = 300_000;

/** Bounds of what may be configured: beyond it a store is the wrong tool. */
const COUNT_MAX = 1_000_000_000;
const BYTES_MAX = 1024 ** 4;
const VALUE_BYTES_SETTABLE_MAX = 64 * 1024 * 1024;
const TRIES_MAX = 1_000_000;
const DURATION_MS_MAX = 10 * 365 * 24 * 3_600_000;

/** `size`, `addmode` and the like for all queues that say nothing themselves. */
export type QueueDefaults = Partial<Pick<QueueDefinition, "size" | "addmode">>;

const DEFAULTS: Omit<QueueDefinition, "name"> = {
  store: "disk",
  sync: "full",
  size: 0,
  bytes: QUEUE_BYTES_MAX,
  full: "reject",
  addmode: "all",
  overflow: "drop",
  ttlMs: 0,
  expired: "drop",
  maxTries: 5,
  retryMs: 1_000,
  maxValue: VALUE_BYTES_MAX,
  dbmode: 1,
  db: undefined,
};

interface Attribute {
  /** What is allowed, in words. */
  expected: string;
  /** @returns what it sets, `undefined` where the text is none */
  read(text: string): Partial<QueueDefinition> | undefined;
}

const ADDMODES = new Map<string, AddMode>([
  ["0", "all"],
  ["1", "oldest"],
  ["2", "newest"],
  ["all", "all"],
  ["oldest", "oldest"],
  ["newest", "newest"],
  ["in-place", "in-place"],
]);

const DBMODES = new Map<string, QueueDefinition["dbmode"]>([
  ["0", 0],
  ["1", 1],
  ["2", 2],
  ["3", 3],
]);

/** Kamailio's attributes first. Names are compared without regard to case, as there. */
const ATTRIBUTES: ReadonlyMap<string, Attribute> = new Map<string, Attribute>([
  ["name", { expected: "a letter or digit, then at most 63 of letters, digits, . _ -", read: readName }],
  ["size", { expected: `0 (no limit) to ${COUNT_MAX}`, read: (text) => named("size", integer(text, 0, COUNT_MAX)) }],
  [
    "addmode",
    { expected: "0, 1, 2, all, oldest, newest or in-place", read: (text) => named("addmode", ADDMODES.get(text)) },
  ],
  ["dbmode", { expected: "0, 1, 2 or 3", read: (text) => named("dbmode", DBMODES.get(text)) }],
  // The daemon, whose directory is another one than that of who defines, reads and writes it.
  ["db", { expected: "the path of an SQLite file from / on", read: (text) => named("db", path(text)) }],
  ["store", { expected: "disk or memory", read: (text) => named("store", oneOf(text, ["disk", "memory"])) }],
  ["sync", { expected: "full or normal", read: (text) => named("sync", oneOf(text, ["full", "normal"])) }],
  [
    "bytes",
    { expected: `1 to ${BYTES_MAX}, also as 64k, 256m, 2g`, read: (text) => named("bytes", octets(text, BYTES_MAX)) },
  ],
  [
    "full",
    {
      expected: "drop-oldest, reject, wait or drop-newest",
      read: (text) => named("full", oneOf(text, ["drop-oldest", "reject", "wait", "drop-newest"])),
    },
  ],
  ["overflow", { expected: "drop or dead", read: (text) => named("overflow", oneOf(text, ["drop", "dead"])) }],
  ["ttl", { expected: "a duration such as 30s or 24h, 0 for none", read: (text) => named("ttlMs", duration(text)) }],
  ["expired", { expected: "drop or dead", read: (text) => named("expired", oneOf(text, ["drop", "dead"])) }],
  ["max-tries", { expected: `1 to ${TRIES_MAX}`, read: (text) => named("maxTries", integer(text, 1, TRIES_MAX)) }],
  ["retry", { expected: "a duration such as 1s, 0 for at once", read: (text) => named("retryMs", duration(text)) }],
  [
    "max-value",
    {
      expected: `1 to ${VALUE_BYTES_SETTABLE_MAX}, also as 64k, 16m`,
      read: (text) => named("maxValue", octets(text, VALUE_BYTES_SETTABLE_MAX)),
    },
  ],
]);

/** The names of all attributes, for help and completion. */
export const ATTRIBUTE_NAMES: readonly string[] = [...ATTRIBUTES.keys()];

/**
 * Reads a definition: `NAME`, or `attribute=value` with semicolons between, one at the end allowed.
 *
 * @throws ConfigError for an unknown attribute, a value that is none, a missing name, attributes that contradict
 */
export function parseDefinition(text: string, defaults: QueueDefaults = {}): QueueDefinition {
  if (!text.includes("=")) return defineQueue([["name", text.trim()]], defaults);
  const parts = text.split(";").map((part) => part.trim());
  if (parts.at(-1) === "") parts.pop();
  return defineQueue(parts.map(pairOf), defaults);
}

function pairOf(part: string): [string, string] {
  const equals = part.indexOf("=");
  if (equals <= 0) throw invalid("queue", JSON.stringify(part), "attribute=value");
  return [part.slice(0, equals).trim(), part.slice(equals + 1).trim()];
}

/**
 * Makes a definition of attributes, as `[[queue]]` of the configuration and `dmq queue define` have them.
 *
 * @throws ConfigError as `parseDefinition`
 */
export function defineQueue(
  attributes: Iterable<readonly [string, string]>,
  defaults: QueueDefaults = {},
): QueueDefinition {
  const given = new Set<string>();
  let set: Partial<QueueDefinition> = {};
  for (const [word, value] of attributes) {
    const name = word.toLowerCase().replaceAll("_", "-");
    const attribute = ATTRIBUTES.get(name);
    if (attribute === undefined) throw unknownAttribute(word);
    if (given.has(name)) throw new ConfigError("config-contradiction", `queue ${word}`, "it twice", "it once");
    given.add(name);
    const read = attribute.read(value);
    if (read === undefined) throw invalid(`queue ${name}`, JSON.stringify(value), attribute.expected);
    set = { ...set, ...read };
  }
  if (set.name === undefined) throw invalid("queue", "no name", "name=NAME");
  return settle({ ...DEFAULTS, ...defaults, ...set, name: set.name }, given);
}

/** What follows from what was given, and what cannot be at the same time. */
function settle(definition: QueueDefinition, given: ReadonlySet<string>): QueueDefinition {
  const { dbmode, store, db, size } = definition;
  if (given.has("dbmode") && given.has("store") && (dbmode === 0) !== (store === "memory"))
    throw contradiction(
      "dbmode",
      `${dbmode} with store=${store}`,
      "dbmode=0 with store=memory, or only one of the two",
    );
  if (dbmode >= 2 !== (db !== undefined))
    throw contradiction(
      "db",
      db === undefined ? `dbmode=${dbmode} without db` : `db without dbmode=2 or 3`,
      "dbmode=2 or 3 with db=FILE",
    );
  const full = given.has("full") ? definition.full : size > 0 ? "drop-oldest" : "reject";
  if (given.has("overflow") && definition.overflow === "dead" && full !== "drop-oldest")
    throw contradiction("overflow", `dead with full=${full}`, "overflow=dead with full=drop-oldest");
  return {
    ...definition,
    full,
    store: given.has("dbmode") && dbmode === 0 ? "memory" : store,
    dbmode: store === "memory" ? 0 : dbmode,
    maxValue: Math.min(definition.maxValue, definition.bytes),
  };
}

/** The definition of `NAME.dead`: bounded, and its oldest makes room. */
export function deadDefinition(of: QueueDefinition): QueueDefinition {
  return {
    ...DEFAULTS,
    name: `${of.name}${DEAD_SUFFIX}`,
    store: of.store,
    sync: of.sync,
    full: "drop-oldest",
    maxValue: of.maxValue,
    dbmode: of.store === "memory" ? 0 : 1,
  };
}

/** The text form: what `parseDefinition` reads gives the same again. Only what differs from the defaults, after the name. */
export function formatDefinition(definition: QueueDefinition): string {
  const parts = [`name=${definition.name}`];
  const base = { ...DEFAULTS, full: definition.size > 0 ? "drop-oldest" : "reject" };
  const add = (name: string, value: string | number | undefined, usual: string | number | undefined): void => {
    if (value !== usual && value !== undefined) parts.push(`${name}=${value}`);
  };
  add("size", definition.size, base.size);
  add("addmode", definition.addmode, base.addmode);
  if (definition.dbmode >= 2) add("dbmode", definition.dbmode, 1);
  add("db", definition.db, undefined);
  add("store", definition.store, base.store);
  add("sync", definition.sync, base.sync);
  add("bytes", definition.bytes, base.bytes);
  add("full", definition.full, base.full);
  add("overflow", definition.overflow, base.overflow);
  add("ttl", definition.ttlMs === 0 ? undefined : `${definition.ttlMs}ms`, undefined);
  add("expired", definition.expired, base.expired);
  add("max-tries", definition.maxTries, base.maxTries);
  add("retry", definition.retryMs === base.retryMs ? undefined : `${definition.retryMs}ms`, undefined);
  add("max-value", definition.maxValue, Math.min(base.maxValue, definition.bytes));
  return parts.join(";");
}

function readName(text: string): Partial<QueueDefinition> | undefined {
  return NAME_PATTERN.test(text) && !text.endsWith(DEAD_SUFFIX) ? { name: text } : undefined;
}

function named<K extends keyof QueueDefinition>(
  key: K,
  value: QueueDefinition[K] | undefined,
): Partial<QueueDefinition> | undefined {
  return value === undefined ? undefined : ({ [key]: value } as Partial<QueueDefinition>);
}

function integer(text: string, low: number, high: number): number | undefined {
  // Kamailio: a negative size is no limit, too.
  if (low === 0 && /^-\d{1,9}$/.test(text)) return 0;
  if (!/^\d{1,15}$/.test(text)) return undefined;
  const value = Number(text);
  return value >= low && value <= high ? value : undefined;
}

const UNITS = new Map([
  ["", 1],
  ["k", 1_024],
  ["m", 1_024 ** 2],
  ["g", 1_024 ** 3],
]);

function octets(text: string, high: number): number | undefined {
  const match = /^(\d{1,13})([kmg]?)$/i.exec(text);
  if (match === null) return undefined;
  const value = Number(match[1]) * (UNITS.get((match[2] as string).toLowerCase()) as number);
  return value >= 1 && value <= high ? value : undefined;
}

/** @returns the number of octets that `64k`, `256m` or `2g` stand for; `undefined` where the text is none */
export function parseOctets(text: string): number | undefined {
  return octets(text, BYTES_MAX);
}

/** @returns the mode that a number of Kamailio's or a word of ours stands for */
export function readAddMode(text: string): AddMode | undefined {
  return ADDMODES.get(text);
}

function duration(text: string): number | undefined {
  const ms = parseDuration(text);
  return ms === undefined || ms > DURATION_MS_MAX ? undefined : Math.ceil(ms);
}

function path(text: string): string | undefined {
  return /^\/[^\0]*$/.test(text) ? text : undefined;
}

function oneOf<W extends string>(text: string, words: readonly W[]): W | undefined {
  return words.find((word) => word === text);
}

function unknownAttribute(word: string): ConfigError {
  const near = nearest(word.toLowerCase(), ATTRIBUTES.keys());
  const hint = near === undefined ? `one of ${ATTRIBUTE_NAMES.join(", ")}` : `${near}?`;
  return new ConfigError("config-unknown-key", "queue", JSON.stringify(word), hint);
}

function invalid(option: string, received: string, expected: string): ConfigError {
  return new ConfigError("config-invalid-value", option, received, expected);
}

function contradiction(option: string, received: string, expected: string): ConfigError {
  return new ConfigError("config-contradiction", `queue ${option}`, received, expected);
}
