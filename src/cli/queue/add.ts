import { encodeUtf8, strictUtf8 } from "../../core/bytes.ts";
import { RpcError, UsageError } from "../../core/errors.ts";
import type { Added, NewItem } from "../../queue/operation.ts";
import { type Arguments, type CommandSpec, quoted } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT } from "../exit.ts";
import { type Line, LineCutter } from "../lines.ts";
import { readMediaType } from "../message.ts";
import { openQueues } from "./open.ts";
import { QUEUES_OPTIONS, type Queues } from "./queues.ts";
import { QUEUE_EXITS, queueName, readSpan, unescapedOctets, utf8Word } from "./words.ts";

/** How long a queue with `full=wait` is waited for. */
const ROOM_MS = 30_000;

/** What is added in one piece: the items of one read, as far as they are no more than this. */
const BATCH_ITEMS_MAX = 1_000;
const BATCH_BYTES_MAX = 4 * 1024 * 1024;

/** A value of 1 MiB in escapes, or in base64 with its key beside it. */
const LINE_BYTES_MAX = 5 * 1024 * 1024;

const TAB = 0x09;

export const add: CommandSpec = {
  name: "queue add",
  summary: "add an item; exit 0 says that it is stored as the queue's definition promises",
  examples: [
    ['dmq queue add alert "$SRC:$PORT" "pike flood detected"', "a key and a value"],
    ["dmq queue add jobs nightly <report.json --content-type application/json", "the value is standard input"],
    [
      "dmq queue add jobs nightly '' --id 2026-11-21 --delay 5m",
      "twice within an hour: stored once; due in five minutes",
    ],
    [
      "tail -F log | awk -F'\\t' '{print $1 \"\\t\" $2}' | dmq queue add log --lines",
      "each line KEY<TAB>VALUE is an item",
    ],
    ["dmq queue fetch old --all --json | dmq queue add new --json-lines", "with content types and headers"],
  ],
  positionals: [
    { name: "QUEUE", required: true, help: "name of the queue" },
    {
      name: "KEY",
      required: false,
      help: "text, at most 1,024 octets, may be empty; not with --lines and --json-lines",
    },
    { name: "VALUE", required: false, help: "text; without it, or -, all of standard input, octet by octet" },
  ],
  options: [
    { flag: "content-type", short: "T", value: "TYPE", help: "media type of the value (text/plain)" },
    { flag: "header", value: "NAME=VALUE", repeatable: true, help: "goes with the item; may be repeated" },
    { flag: "id", value: "ID", help: "given twice within an hour: stored once, and exit 0 both times" },
    { flag: "delay", value: "DURATION", help: "ready only after that long" },
    { flag: "ttl", value: "DURATION", help: "expires that long after it was ready, instead of the queue's ttl" },
    { flag: "timeout", value: "DURATION", help: "wait that long for room in a queue with full=wait (30s)" },
    { flag: "print-id", help: "print the number of the item" },
    { flag: "lines", help: "each line of standard input is an item, KEY<TAB>VALUE, escaped as fetch prints it" },
    { flag: "json-lines", help: "each line of standard input is an item, as fetch --json prints it" },
    ...QUEUES_OPTIONS,
  ],
  notes: [
    "With --lines and --json-lines what one read of standard input gave is stored together. A line that is wrong, or an error, ends it,",
    "and says how many items were stored before; a JSON line may also have dedupe (as --id), delay_ms and ttl_ms.",
  ],
  exits: [
    ...QUEUE_EXITS,
    [EXIT.ok, "stored, or ignored because addmode says that the queued item wins"],
    [EXIT.usage, "usage; a line that is no item"],
    [EXIT.refused, "the queue is full, or key or value too large: nothing was stored"],
    [
      EXIT.timeout,
      "no room in time: not stored; or the daemon was gone before it answered: with --id it may be repeated",
    ],
  ],
  seeAlso: ["dmq queue fetch", "dmq queue define", "dmq bcast"],
  run: runAdd,
};

async function runAdd(context: CliContext, args: Arguments): Promise<number> {
  const name = queueName(args.positionals[0] as string);
  const options = readOptions(args);
  const adder = new Adder(context, args, name, readSpan(args, "timeout", 1) ?? ROOM_MS);
  try {
    if (!args.has("lines") && !args.has("json-lines")) await adder.add([await readItem(context, args, options)]);
    else await addLines(context, args, options, adder);
    return EXIT.ok;
  } finally {
    await adder.close();
  }
}

type Options = Omit<NewItem, "key" | "value">;

function readOptions(args: Arguments): Options {
  const contentType = readMediaType(args, "content-type");
  const headers = Object.fromEntries(args.all("header").map(readHeader));
  const dedupe = args.value("id");
  if (dedupe !== undefined && !/^[\x20-\x7e]{1,200}$/.test(dedupe))
    throw new UsageError(`--id ${quoted(dedupe)}: expected 1 to 200 ASCII characters`);
  const delayMs = readSpan(args, "delay", 0);
  const ttlMs = readSpan(args, "ttl", 0);
  return {
    ...(contentType !== undefined && { contentType }),
    ...(args.has("header") && { headers }),
    ...(dedupe !== undefined && { dedupe }),
    ...(delayMs !== undefined && { delayMs }),
    ...(ttlMs !== undefined && { ttlMs }),
  };
}

function readHeader(text: string): [string, string] {
  const match = /^([A-Za-z0-9._-]{1,64})=([^\r\n\0]*)$/.exec(text);
  if (match !== null) return [match[1] as string, utf8Word("--header", match[2] as string)];
  throw new UsageError(`--header ${quoted(text)}: expected NAME=VALUE on one line; NAME is letters, digits and . _ -`);
}

async function readItem(context: CliContext, args: Arguments, options: Options): Promise<NewItem> {
  const [, key, value] = args.positionals;
  if (key === undefined) throw new UsageError("missing argument KEY: dmq queue add [options] QUEUE KEY [VALUE]");
  const octets = value === undefined || value === "-" ? await context.stdin() : encodeUtf8(utf8Word("VALUE", value));
  return { key: utf8Word("KEY", key), value: octets, ...options };
}

/** Adds in the daemon or on the file, and asks a second time where that can do no harm. */
class Adder {
  stored = 0;
  private readonly context: CliContext;
  private readonly args: Arguments;
  private readonly name: string;
  private readonly timeoutMs: number;
  private queues: Queues | undefined;

  constructor(context: CliContext, args: Arguments, name: string, timeoutMs: number) {
    this.context = context;
    this.args = args;
    this.name = name;
    this.timeoutMs = timeoutMs;
  }

  async add(items: readonly NewItem[]): Promise<void> {
    const added = await this.once(items).catch((error: unknown) => this.again(items, error));
    this.stored += items.length;
    if (this.args.has("print-id")) this.context.stdout(added.map(({ seq }) => `${seq}\n`).join(""));
  }

  private async once(items: readonly NewItem[]): Promise<Added[]> {
    this.queues ??= await openQueues(this.context, this.args);
    return this.queues.add({ type: "add", queue: this.name, items }, this.timeoutMs);
  }

  /** The daemon went away in the middle: it may or may not have stored them. */
  private async again(items: readonly NewItem[], error: unknown): Promise<Added[]> {
    if (!(error instanceof RpcError) || error.code !== "rpc-unreachable" || this.queues === undefined) throw error;
    await this.close();
    if (items.every(({ dedupe }) => dedupe !== undefined)) return this.once(items);
    const data = { exit: EXIT.timeout };
    const advice = "it may or may not be stored; with --id the same command can be given again";
    const { method, socketPath } = error;
    throw new RpcError("rpc-fault", `${error.message}; ${advice}`, { method, socketPath, data, cause: error });
  }

  async close(): Promise<void> {
    await this.queues?.close();
    this.queues = undefined;
  }
}

// --- lines ------------------------------------------------------------------------------------------------------------

async function addLines(context: CliContext, args: Arguments, options: Options, adder: Adder): Promise<void> {
  if (args.has("lines") && args.has("json-lines")) throw new UsageError("--lines and --json-lines exclude each other");
  const [, extra] = args.positionals;
  if (extra !== undefined)
    throw new UsageError(`unexpected argument ${quoted(extra)}: keys and values are in the lines`);
  if (options.dedupe !== undefined)
    throw new UsageError("--id is one item's; a line of --json-lines has it as its member dedupe");
  const read = args.has("lines") ? lineItem : jsonItem;
  try {
    await eachBatch(
      context,
      (line) => ({ ...options, ...read(octetsOf(line)) }),
      (items) => adder.add(items),
    );
  } catch (error) {
    if (adder.stored > 0) context.stderr(`dmq: ${adder.stored} items were stored before the error\n`);
    throw error;
  }
}

/** A batch is what one read gave; a line that is wrong ends it, behind those before it. */
async function eachBatch(
  context: CliContext,
  read: (line: Line) => NewItem,
  store: (items: readonly NewItem[]) => Promise<void>,
): Promise<void> {
  const cutter = new LineCutter(LINE_BYTES_MAX);
  const batch = new Batch(store);
  for await (const chunk of context.stdinStream()) {
    for (const line of cutter.push(chunk)) await batch.push(() => itemOf(line, read));
    await batch.flush();
  }
  const last = cutter.end();
  if (last !== undefined) await batch.push(() => itemOf(last, read));
  await batch.flush();
}

class Batch {
  private readonly store: (items: readonly NewItem[]) => Promise<void>;
  private items: NewItem[] = [];
  private bytes = 0;

  constructor(store: (items: readonly NewItem[]) => Promise<void>) {
    this.store = store;
  }

  async push(read: () => NewItem): Promise<void> {
    try {
      const item = read();
      // A view of the chunk is the chunk's only until the next one comes.
      this.items.push({ ...item, value: item.value.slice() });
      this.bytes += item.value.length;
    } catch (error) {
      await this.flush();
      throw error;
    }
    if (this.items.length >= BATCH_ITEMS_MAX || this.bytes >= BATCH_BYTES_MAX) await this.flush();
  }

  async flush(): Promise<void> {
    const { items } = this;
    this.items = [];
    this.bytes = 0;
    if (items.length > 0) await this.store(items);
  }
}

function itemOf(line: Line, read: (line: Line) => NewItem): NewItem {
  try {
    return read(line);
  } catch (error) {
    if (error instanceof UsageError) throw new UsageError(`line ${line.number}: ${error.message}`);
    throw error;
  }
}

function octetsOf({ octets }: Line): Uint8Array {
  if (octets !== undefined) return octets;
  throw new UsageError(`it is longer than ${LINE_BYTES_MAX} octets`);
}

function lineItem(octets: Uint8Array): NewItem {
  const tab = octets.indexOf(TAB);
  if (tab === -1) throw new UsageError("there is no tab between key and value");
  return { key: keyOf(unescapedOctets(octets.subarray(0, tab))), value: unescapedOctets(octets.subarray(tab + 1)) };
}

function keyOf(octets: Uint8Array): string {
  const key = strictUtf8(octets);
  if (key === undefined) throw new UsageError("the key is no UTF-8");
  return key;
}

function jsonItem(octets: Uint8Array): NewItem {
  const row = parseObject(octets);
  const text = (name: string): string | undefined => memberOf(row, name, "string") as string | undefined;
  const number = (name: string): number | undefined => memberOf(row, name, "number") as number | undefined;
  const [key, contentType, dedupe, from, channel] = ["key", "content_type", "dedupe", "from", "channel"].map(text);
  const [delayMs, ttlMs] = ["delay_ms", "ttl_ms"].map(number);
  if (key === undefined) throw new UsageError("there is no member key");
  return {
    key,
    value: octetsOfValue(text("value"), text("value_base64")),
    ...(contentType !== undefined && { contentType }),
    ...(row.headers !== undefined && { headers: headersOf(row.headers) }),
    ...(dedupe !== undefined && { dedupe }),
    ...(from !== undefined && { from }),
    ...(channel !== undefined && { channel }),
    ...(delayMs !== undefined && { delayMs: span("delay_ms", delayMs) }),
    ...(ttlMs !== undefined && { ttlMs: span("ttl_ms", ttlMs) }),
  };
}

function parseObject(octets: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(octets));
  } catch {
    throw new UsageError("it is no JSON");
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new UsageError("it is no JSON object");
}

/** null is as good as missing: `fetch --json` has it where there is nothing. */
function memberOf(row: Record<string, unknown>, name: string, type: "string" | "number"): unknown {
  const value = row[name] ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value === type && (typeof value !== "string" || value.isWellFormed())) return value;
  throw new UsageError(`member ${name} is no ${type}`);
}

function octetsOfValue(text: string | undefined, coded: string | undefined): Uint8Array {
  if (text !== undefined && coded !== undefined) throw new UsageError("value and value_base64 exclude each other");
  if (text !== undefined) return encodeUtf8(text);
  if (coded === undefined) throw new UsageError("there is neither value nor value_base64");
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(coded) || coded.length % 4 !== 0)
    throw new UsageError("value_base64 is no base64");
  return new Uint8Array(Buffer.from(coded, "base64"));
}

function headersOf(headers: unknown): Record<string, string> {
  const isFine =
    typeof headers === "object" && headers !== null && Object.values(headers).every((one) => typeof one === "string");
  if (isFine) return headers as Record<string, string>;
  throw new UsageError("headers is no object of texts");
}

function span(name: string, ms: number): number {
  if (Number.isInteger(ms) && ms >= 0) return ms;
  throw new UsageError(`${name} is no number of milliseconds`);
}
