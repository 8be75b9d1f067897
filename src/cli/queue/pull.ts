import { encodeUtf8 } from "../../core/bytes.ts";
import { RpcError, UsageError } from "../../core/errors.ts";
import { type Arguments, type CommandSpec, quoted } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT } from "../exit.ts";
import { readTimeout } from "../message.ts";
import { readCount } from "../stream.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS, type Queues } from "./queues.ts";
import { escapedOctets, escapedText, queueExits, queueName } from "./words.ts";

const ANSWER_MS = 5_000;
const ROOM_MS = 30_000;

/** An answer holds one item; Kamailio's own buffers end long before this. */
const ANSWER_BYTES_MAX = 16 * 1024 * 1024;

/** What is lost there in a row before we take it for something else. */
const LOST_MAX = 1_000;

const EMPTY = 404;
const BROKEN = 500;

export const pull: CommandSpec = {
  name: "queue pull",
  summary: "drain a queue of a running Kamailio into ours, and print how many items came",
  examples: [
    ["dmq queue pull alert --from http://192.0.2.1:8080/RPC", "Kamailio's queue of the same name"],
    ["dmq queue pull alert --from http://192.0.2.1:8080/RPC --queue kamalert -n 1000", "a thousand of another one"],
  ],
  positionals: [{ name: "QUEUE", required: true, help: "name of our queue" }],
  options: [
    { flag: "from", value: "URL", help: "where that Kamailio answers JSON-RPC (modules jsonrpcs and xhttp); required" },
    { flag: "queue", value: "NAME", help: "name of its queue (that of ours)" },
    { flag: "count", short: "n", value: "COUNT", help: "that many items at most (all)" },
    { flag: "timeout", value: "DURATION", help: "for each answer of Kamailio (5s)" },
    ...QUEUES_OPTIONS,
  ],
  notes: [
    "Each item is fetched with Kamailio's mqueue.fetch and stored before the next one is. Kamailio takes it off before it answers: an",
    "answer that is lost on its way takes its item with it, and one with an empty key or value is lost in Kamailio itself, which stderr",
    "counts. What came but could not be stored here is printed on stdout as dmq queue fetch would, and nothing else is then; stderr says",
    "how many were stored before. dmq queue add --lines takes it in.",
  ],
  exits: queueExits(
    [EXIT.ok, "Kamailio's queue is empty now, or COUNT came"],
    [EXIT.no, "it was empty"],
    [EXIT.notFound, "no such queue here, or there"],
    [
      EXIT.unreachable,
      "that Kamailio does not answer, or not with JSON-RPC; no permission for the daemon's socket, or it is gone",
    ],
    [EXIT.refused, "our queue is full: the item that did not fit is on stdout"],
    [EXIT.timeout, "no answer in time: an item may be lost"],
  ),
  seeAlso: ["dmq queue import", "dmq rpc mqueue.fetch"],
  async run(context, args) {
    const queue = queueName(args.positionals[0] as string);
    const kamailio = new Kamailio(readUrl(args), args.value("queue") ?? queue, readTimeout(args.value("timeout")));
    const count = readCount(args, "count", Number.POSITIVE_INFINITY);
    return withQueues(context, args, async (queues) => {
      // Nothing is fetched that has nowhere to go.
      await queues.perform({ type: "sizes", queue });
      await kamailio.check();
      return drain(context, queues, queue, kamailio, count);
    });
  },
};

function readUrl(args: Arguments): string {
  const text = args.value("from");
  if (text === undefined) throw new UsageError("--from URL is missing, such as --from http://192.0.2.1:8080/RPC");
  const url = URL.parse(text);
  if (url !== null && /^https?:$/.test(url.protocol)) return text;
  throw new UsageError(
    `--from ${quoted(text)}: expected the URL of a Kamailio's JSON-RPC, such as http://192.0.2.1:8080/RPC`,
  );
}

async function drain(
  context: CliContext,
  queues: Queues,
  queue: string,
  kamailio: Kamailio,
  count: number,
): Promise<number> {
  let came = 0;
  let lost = 0;
  try {
    while (came < count && lost < LOST_MAX) {
      const item = await kamailio.fetch();
      if (item === "empty") break;
      if (item === "lost") lost++;
      else {
        await store(context, queues, queue, item);
        came++;
      }
    }
  } catch (error) {
    // On stdout stands the item that has no other place, for dmq queue add --lines to read.
    if (came > 0) context.stderr(`dmq: ${came} items were stored before the error\n`);
    throw error;
  } finally {
    if (lost > 0) context.stderr(`dmq: warning: ${lost} items had an empty key or value: Kamailio has lost them\n`);
  }
  context.stdout(`${came}\n`);
  return came > 0 ? EXIT.ok : EXIT.no;
}

interface Fetched {
  key: string;
  value: Uint8Array;
}

/** It is nowhere else any more. */
async function store(context: CliContext, queues: Queues, queue: string, item: Fetched): Promise<void> {
  try {
    await queues.add({ type: "add", queue, items: [item] }, ROOM_MS);
  } catch (error) {
    context.stdout(`${escapedText(item.key)}\t${escapedOctets(item.value)}\n`);
    throw error;
  }
}

interface Answer {
  result?: unknown;
  error?: { code?: unknown; message?: unknown };
}

class Kamailio {
  private readonly url: string;
  private readonly queue: string;
  private readonly timeoutMs: number;

  constructor(url: string, queue: string, timeoutMs = ANSWER_MS) {
    this.url = url;
    this.queue = queue;
    this.timeoutMs = timeoutMs;
  }

  /** @throws RpcError where there is no such queue */
  async check(): Promise<void> {
    const { error } = await this.call("mqueue.get_size");
    if (error !== undefined) throw this.fault(error, "mqueue.get_size");
  }

  async fetch(): Promise<Fetched | "empty" | "lost"> {
    const { result, error } = await this.call("mqueue.fetch");
    if (error?.code === EMPTY) return "empty";
    if (error?.code === BROKEN) return "lost";
    if (error !== undefined) throw this.fault(error, "mqueue.fetch");
    const { key, val } = (result ?? {}) as { key?: unknown; val?: unknown };
    if ((typeof key === "string" || typeof key === "number") && (typeof val === "string" || typeof val === "number"))
      return { key: String(key), value: encodeUtf8(String(val)) };
    throw this.error("rpc-protocol", `${this.url} answered mqueue.fetch without key and val`);
  }

  private async call(method: string): Promise<Answer> {
    const body = JSON.stringify({ jsonrpc: "2.0", method, params: [this.queue], id: 1 });
    const timeout = AbortSignal.timeout(this.timeoutMs);
    let text: string;
    try {
      const headers = { "Content-Type": "application/json" };
      const init = { method: "POST", headers, body, signal: timeout, keepalive: false, redirect: "error" } as const;
      // Kamailio says its faults with an HTTP status, too, and has them in the body all the same.
      text = await textOf(await fetch(this.url, init));
    } catch (cause) {
      if (!timeout.aborted)
        throw this.error("rpc-unreachable", `${this.url} does not answer: ${wordsOf(cause)}`, cause);
      const late = `${this.url} did not answer ${method} in ${this.timeoutMs} ms`;
      throw this.error("rpc-fault", late, cause, { exit: EXIT.timeout });
    }
    return this.parse(text, method);
  }

  private parse(text: string, method: string): Answer {
    try {
      const answer = JSON.parse(text) as Answer;
      if (typeof answer === "object" && answer !== null && ("result" in answer || "error" in answer)) return answer;
    } catch {
      // Said below.
    }
    throw this.error("rpc-protocol", `${this.url} answered ${method} with no JSON-RPC: ${quoted(text)}`);
  }

  private fault({ code, message }: NonNullable<Answer["error"]>, method: string): RpcError {
    const text = `${this.url} answered ${method} ${this.queue} with ${String(code)} ${quoted(String(message))}`;
    return this.error("rpc-fault", text, undefined, { exit: code === EMPTY ? EXIT.notFound : EXIT.refused });
  }

  private error(
    code: "rpc-fault" | "rpc-unreachable" | "rpc-protocol",
    message: string,
    cause?: unknown,
    data?: object,
  ): RpcError {
    return new RpcError(code, message, { method: "mqueue.fetch", socketPath: this.url, cause, data });
  }
}

/** @throws Error where the answer is larger than any of Kamailio's */
async function textOf(response: Response): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of response.body ?? []) {
    size += part.length;
    if (size > ANSWER_BYTES_MAX) throw new Error(`an answer of more than ${ANSWER_BYTES_MAX} octets`);
    parts.push(part);
  }
  return new TextDecoder().decode(Buffer.concat(parts));
}

function wordsOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
