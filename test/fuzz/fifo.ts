/**
 * Invariant: octets out of a FIFO give the same requests however the kernel cut them, none longer than its limit; a request in
 * order behind anything else is found once it begins in the first column; every call that is one has an answer or a fault; and
 * what is printed for kamctl reads back as the same JSON.
 */
import fc from "fast-check";
import { concatBytes, decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { kamailioJson } from "../../src/rpc/fifo.ts";
import { kamailioCalls } from "../../src/rpc/kamailio-shape.ts";
import { METHODS } from "../../src/rpc/methods.ts";
import { FIFO_REQUEST_BYTES_MAX, RequestCutter } from "../../src/rpc/request-cutter.ts";
import { FakeSurface } from "../rpc/fake-surface.ts";
import { cutAt, cuts, mutated } from "./octets.ts";
import { must, type Target } from "./target.ts";

interface Input {
  octets: Uint8Array;
  cuts: number[];
}

const LAST = '{"jsonrpc":"2.0","method":"core.version","id":1}';
const PIECES = [
  ...[
    '{"jsonrpc": "2.0", "method": "dmq.list_nodes", "reply_name": "r", "id": 1}\n',
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    "\\u0000",
  ],
  ...[
    "\n",
    "\r\n",
    ",",
    ":",
    '"method"',
    '"params"',
    '"reply_name"',
    '"../x"',
    "dmq.remove",
    "null",
    "1e999",
    "-0",
    "ж",
    "\0",
  ],
].map(encodeUtf8);

function read(chunks: readonly Uint8Array[]): { texts: string[]; skipped: number } {
  const cutter = new RequestCutter();
  const texts: string[] = [];
  let skipped = 0;
  for (const chunk of chunks) {
    const cut = cutter.push(chunk);
    skipped += cut.skipped;
    for (const request of cut.requests) {
      must(request.length <= FIFO_REQUEST_BYTES_MAX, `a request of ${request.length} octets`);
      texts.push(Buffer.from(request).toString("latin1"));
    }
  }
  return { texts, skipped };
}

function objectOf(text: string): { method?: unknown; params?: unknown } | undefined {
  try {
    return JSON.parse(decodeUtf8(Buffer.from(text, "latin1"))) as object;
  } catch {
    return undefined;
  }
}

async function called(text: string): Promise<string> {
  const request = objectOf(text);
  if (typeof request?.method !== "string") return "no call";
  const reply = await kamailioCalls(new FakeSurface(), () => 0)(request.method, request.params);
  const printed = kamailioJson({ reply });
  must(Bun.deepEquals(JSON.parse(printed), JSON.parse(JSON.stringify({ reply }))), `printed as ${printed}`);
  if ("result" in reply) return `result of ${request.method}`;
  must(Number.isInteger(reply.fault.code), `a fault without a code: ${printed}`);
  return `fault ${reply.fault.code} ${reply.fault.text.replace(/: .*/s, "").slice(0, 24)}`;
}

async function run({ octets, cuts: places }: Input): Promise<string[]> {
  const whole = read([octets]);
  const split = read(cutAt(octets, places));
  must(Bun.deepEquals(whole, split), `cut it is ${JSON.stringify(split)}, whole ${JSON.stringify(whole)}`);
  const after = read([octets, encodeUtf8(`\n${LAST}\n`)]);
  must(after.texts.at(-1) === LAST, `a request behind it was not found: ${JSON.stringify(after)}`);
  const words = [`skipped ${Math.min(3, whole.skipped)}`];
  for (const text of whole.texts) words.push(await called(text));
  return words;
}

const params = fc.oneof(
  fc.array(fc.oneof(fc.string(), fc.integer(), fc.jsonValue({ maxDepth: 2 })), { maxLength: 4 }),
  fc.jsonValue({ maxDepth: 2 }),
);
const request = fc
  .record({
    jsonrpc: fc.constant("2.0"),
    method: fc.oneof(
      fc.constantFrom(...METHODS.keys(), "core.uptime", "system.methodHelp"),
      fc.string({ maxLength: 8 }),
    ),
    params,
    reply_name: fc.oneof(fc.constantFrom("kamailio_1", "../x", ""), fc.string({ maxLength: 8 })),
    id: fc.jsonValue({ maxDepth: 1 }),
  })
  .chain((asked) =>
    fc.constantFrom(`${JSON.stringify(asked)}\n`, JSON.stringify(asked, null, 1), JSON.stringify(asked)),
  )
  .map(encodeUtf8);

export const fifo: Target<Input> = {
  name: "fifo",
  inputs: (pool) =>
    fc.record({
      octets: fc.array(fc.oneof(request, mutated(PIECES, pool, 3)), { maxLength: 4 }).map(concatBytes),
      cuts,
    }),
  run,
  seedOf: ({ octets }) => octets,
};

export const FIFO_REQUESTS: readonly Uint8Array[] = [
  `${LAST}\n`,
  '{\n"jsonrpc": "2.0",\n"method": "dmq.add",\n"params": ["sip:127.0.0.7:5060"],\n"reply_name": "kamailio_9",\n"id": "9"\n}\n',
  '{"jsonrpc":"2.0","method":"dmq.change_status","params":{"uri":"sip:127.0.0.2:5060","status":"disabled"},"id":2}',
].map(encodeUtf8);
