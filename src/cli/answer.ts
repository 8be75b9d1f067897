/**
 * `dmq listen` as the answering listener of its channels: each message has its turn, in the order they came, one at a time,
 * and what comes of it goes to the daemon as `dmq.answer`. A message whose time is over has been answered 503 by the daemon;
 * its command is not begun any more, or ended.
 */
import { RpcError, UsageError } from "../core/errors.ts";
import type { Duration, Instant } from "../core/time.ts";
import { bodyOf, bounded, endText, type MessageFacts, messageVariables, verdictOf } from "../exec/command.ts";
import { DEFAULT_PATH, findProgram } from "../exec/program.ts";
import { run } from "../exec/run.ts";
import { splitWords } from "../exec/words.ts";
import type { RpcClient } from "../rpc/client.ts";
import type { MessageEvent, StatusReport } from "../rpc/surface.ts";
import type { Arguments } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import { readMediaType } from "./message.ts";
import { printable } from "./output.ts";
import { ANSWER_MS_MAX } from "./socket.ts";
import { endOf, type Limits, octetsOf, unheard } from "./stream.ts";

/** Messages that wait for their turn; the daemon answers 503 to what comes on top, when its time is over. */
const WAITING_MAX = 1_000;

const NOT_FOUND = 404;

/** What `dmq.answer` takes, without the `reply_id`. */
interface Answer {
  code: number;
  reason?: string;
  content_type?: string;
  body_base64?: string;
}

/** @returns the answer to a message, and in words what went wrong with the command, if that did */
export type Reply = (message: MessageEvent, late: AbortSignal) => Promise<{ answer: Answer; failure?: string }>;

export interface Answering {
  context: CliContext;
  client: RpcClient;
  /** Of the stream, without `answer`. */
  path: string;
  limits: Limits;
  reply: Reply;
  /** Prints a message. */
  write(message: MessageEvent): void;
}

/**
 * Answers until COUNT are answered, DURATION is over or the daemon ends.
 *
 * @returns the exit code: 8 where a command failed, else as of a listener
 * @throws  RpcError where the daemon is gone or says no
 */
export async function answer(options: Answering): Promise<number> {
  return new Answers(options).answered();
}

interface Waiting {
  message: MessageEvent;
  arrivedAt: Instant;
}

class Answers {
  private readonly options: Answering;
  private readonly waiting: Waiting[] = [];
  private readonly over = new AbortController();
  private readonly stopped = new AbortController();
  private wake: () => void = () => undefined;
  private taken = 0;
  private done = 0;
  private failed = 0;
  private isEnded = false;
  private isOpen = false;

  constructor(options: Answering) {
    this.options = options;
  }

  async answered(): Promise<number> {
    const { context, limits } = this.options;
    const timer = limits.waitMs === undefined ? undefined : setTimeout(() => this.finish(), limits.waitMs);
    const reading = this.read();
    // The reader's failure is told by `await reading`, once what runs has ended.
    reading.catch(() => undefined);
    try {
      await this.work();
    } finally {
      clearTimeout(timer);
      this.stopped.abort();
    }
    await reading;
    if (this.failed > 0 && !context.outputClosed.aborted) return EXIT.command;
    if (this.done >= limits.count) return EXIT.ok;
    if (this.over.signal.aborted && !this.isOpen) return unheard(context, this.options.client);
    return endOf(context, this.over.signal.aborted, limits.count !== Number.POSITIVE_INFINITY);
  }

  /** DURATION is over: what runs goes on to its end, what waits is left to the daemon. */
  private finish(): void {
    this.over.abort();
    this.wake();
  }

  private async read(): Promise<void> {
    const { client, path, limits, context } = this.options;
    const signal = AbortSignal.any([this.stopped.signal, context.outputClosed]);
    const onOpen = (): void => {
      this.isOpen = true;
    };
    try {
      for await (const line of client.stream(`${path}&answer=1`, signal, onOpen)) {
        if (this.taken === limits.count || this.waiting.length === WAITING_MAX) continue;
        this.taken++;
        this.waiting.push({ message: line as MessageEvent, arrivedAt: performance.now() });
        this.wake();
      }
    } finally {
      this.isEnded = true;
      this.wake();
    }
  }

  private async work(): Promise<void> {
    const { count } = this.options.limits;
    while (this.done < count && !this.over.signal.aborted) {
      const next = this.waiting.shift();
      if (next !== undefined) await this.one(next);
      else if (this.isEnded) return;
      else await this.woken();
    }
  }

  private woken(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.wake = resolve;
    return promise;
  }

  private async one({ message, arrivedAt }: Waiting): Promise<void> {
    const leftMs = (message.answer_within_ms ?? 0) - (performance.now() - arrivedAt);
    this.options.write(message);
    this.done++;
    if (leftMs <= 0) {
      this.fail(message, "its turn came too late: the sender has been answered 503");
      return;
    }
    const { answer, failure } = await this.inTime(message, leftMs);
    if (failure !== undefined) this.fail(message, failure);
    await this.send(message, answer);
  }

  private async inTime(message: MessageEvent, leftMs: Duration): ReturnType<Reply> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), leftMs);
    try {
      return await this.options.reply(message, AbortSignal.any([late.signal, this.options.context.outputClosed]));
    } finally {
      clearTimeout(timer);
    }
  }

  private async send(message: MessageEvent, answer: Answer): Promise<void> {
    try {
      const params = { reply_id: message.reply_id, ...answer };
      await this.options.client.call("dmq.answer", params, { timeoutMs: ANSWER_MS_MAX });
    } catch (error) {
      // The sender has its 503, and the next message is not to suffer for it.
      if (!(error instanceof RpcError) || error.fault !== NOT_FOUND) throw error;
      this.fail(message, error.message);
    }
  }

  private fail({ channel, node, from }: MessageEvent, why: string): void {
    this.failed++;
    this.options.context.stderr(`dmq: ${printable(channel)}: message of ${printable(node ?? from)}: ${why}\n`);
  }
}

// --- what the options ask for ----------------------------------------------------------------------------------------

/** @throws UsageError for options that contradict, a command that is none, a file that cannot be read */
export async function readReplies(context: CliContext, args: Arguments, client: RpcClient): Promise<Reply> {
  const given = ["exec", "reply", "reply-file"].filter((flag) => args.has(flag));
  const [first, second] = given;
  if (second !== undefined)
    throw new UsageError(`--${first} and --${second} exclude each other: a message has one answer`);
  if (first === undefined) throw new UsageError("--status and --content-type need --exec, --reply or --reply-file");
  if (first !== "exec") return readFixed(context, args);
  if (args.has("status")) throw new UsageError("--status and --exec exclude each other: the exit code is the status");
  return commandReply(context, args, client);
}

async function readFixed(context: CliContext, args: Arguments): Promise<Reply> {
  const body = await readBody(context, args);
  const answer: Answer = {
    code: readStatus(args.value("status")),
    content_type: readMediaType(args, "content-type") ?? "text/plain",
    body_base64: Buffer.from(body).toString("base64"),
  };
  return async () => ({ answer });
}

async function readBody(context: CliContext, args: Arguments): Promise<Uint8Array> {
  const text = args.value("reply");
  if (text === "-") return context.stdin();
  if (text !== undefined) return new TextEncoder().encode(text);
  const path = args.value("reply-file") as string;
  try {
    return await context.readFile(path);
  } catch (cause) {
    throw new UsageError(`--reply-file ${path}: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
}

function readStatus(text: string | undefined): number {
  const code = text === undefined ? 200 : /^\d{3}$/.test(text) ? Number(text) : 0;
  if (code >= 200 && code <= 699 && code !== 408) return code;
  throw new UsageError(`--status ${JSON.stringify(text)}: expected a SIP status from 200 to 699, and not 408`);
}

/** A command for each message; what it is told and what its end means is as for `dmq serve --on`. */
async function commandReply(context: CliContext, args: Arguments, client: RpcClient): Promise<Reply> {
  const argv = readCommand(context, args.value("exec") as string);
  const contentType = readMediaType(args, "content-type");
  const { uri } = await client.call<StatusReport>("dmq.status", undefined, { timeoutMs: ANSWER_MS_MAX });
  return async (message, late) => {
    const { end, stdout } = await run({
      argv,
      stdin: octetsOf(message),
      variables: bounded({ ...messageVariables(factsOf(message, uri)), DMQ_SOCKET: client.socketPath }),
      signal: late,
      onStderrLine: (line) => context.stderr(`${line}\n`),
    });
    const { status: code, reason } = verdictOf(end);
    const printed = stdout.length === 0 ? undefined : bodyOf(stdout);
    const isFine = end.type === "exited" && end.code === 0;
    return {
      answer: {
        code,
        ...(reason !== undefined && { reason }),
        ...(printed !== undefined && {
          body_base64: Buffer.from(printed.body).toString("base64"),
          content_type: contentType ?? printed.contentType,
        }),
      },
      ...(!isFine && { failure: `the command ${endText(end, argv[0] as string, message.answer_within_ms ?? 0)}` }),
    };
  };
}

function readCommand(context: CliContext, text: string): string[] {
  const [program, ...rest] = splitWords(text);
  const found = findProgram(program, context.env.PATH ?? DEFAULT_PATH);
  if (found.path !== undefined) return [found.path, ...rest];
  throw new UsageError(`--exec: the program ${JSON.stringify(program)} is not there; looked for in ${found.searched}`);
}

function factsOf(message: MessageEvent, uri: string): MessageFacts {
  return {
    channel: message.channel,
    from: message.from,
    node: message.node,
    source: message.source,
    callId: message.call_id,
    messageId: message.message_id,
    contentType: message.content_type,
    maxForwards: message.max_forwards,
    size: message.size,
    acceptsBody: message.accepts_body,
    uri,
  };
}
