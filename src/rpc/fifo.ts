/**
 * The FIFO for `kamctl rpc`: Kamailio's JSON-RPC, one request after the other out of one FIFO, each answer into the one
 * that the request names (dmq.md section 14). Who may write is decided by the mode of the file, 0600, alone.
 *
 * Nothing is answered that cannot be: garbage, a request that breaks off, one without `reply_name`. Requests run at the
 * same time, because each has an answer of its own to wait for; at the limit the FIFO is not read, and writers wait.
 */
import { closeSync, constants, lstatSync, openSync } from "node:fs";
import { ConfigError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import { type KamailioAnswer, type KamailioCall, kamailioCalls } from "./kamailio-shape.ts";
import { isReplyName, REPLY_LIMITS, type ReplyLimits, writeReply } from "./reply-fifo.ts";
import { RequestCutter } from "./request-cutter.ts";
import { claimFile, errorCode, type FileKind, hiddenBeside, type Probe, type SocketClaim } from "./socket-file.ts";
import type { ControlSurface } from "./surface.ts";

export interface FifoLimits extends ReplyLimits {
  /** Requests at a time. */
  callsMax: number;
  /** What has begun and does not go on for so long is dropped. */
  partialMs: number;
  /** What runs when the server closes may go on for so long. */
  closeGraceMs: number;
  /** Complaints about callers: at most one in this time. */
  complaintMs: number;
}

const FIFO_LIMITS: FifoLimits = {
  ...REPLY_LIMITS,
  callsMax: 32,
  partialMs: 5_000,
  closeGraceMs: 1_000,
  complaintMs: 10_000,
};

/** kamctl makes its FIFOs there whatever TMPDIR says. */
const REPLY_DIR_DEFAULT = "/tmp";

export interface FifoOptions {
  path: string;
  /** Where the FIFOs for the answers are; `undefined`: where kamctl makes them. */
  replyDir?: string | undefined;
  surface: ControlSurface;
  /** Gets what no caller can be told. */
  log?: Pick<Logger, "warn">;
  limits?: Partial<FifoLimits>;
}

export interface FifoServer {
  readonly path: string;
  /** Lets running calls finish for a second, and removes the FIFO if it is still ours. */
  close(): Promise<void>;
}

/**
 * @returns once the FIFO is read
 * @throws  ConfigError for a path that no file can have; TransportError `transport-bind` if another daemon reads it,
 *          something else than a FIFO is there, or the permission is missing; nothing is left behind then
 */
export async function serveFifo(options: FifoOptions): Promise<FifoServer> {
  const { path } = options;
  if (path === "" || path.includes("\0")) {
    throw new ConfigError("config-invalid-value", "rpc_fifo", JSON.stringify(path), "the path of a FIFO");
  }
  let file = -1;
  const claim = await claimFile(FIFO, path, hiddenBeside(path), {
    make: (hidden) => {
      file = makeAndOpen(hidden);
    },
    abandon: () => {
      if (file >= 0) closeSync(file);
    },
  });
  const server = new Server(file, claim, options);
  server.start();
  return { path, close: () => server.close() };
}

const FIFO: FileKind = { name: "a FIFO", is: (stats) => stats.isFIFO(), probe: async (path) => probeFifo(path) };

/** A FIFO that opens for writing at once has a reader. */
function probeFifo(path: string): Probe {
  try {
    if (lstatSync(path).uid !== process.getuid?.()) return "denied";
    closeSync(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW));
    return "answers";
  } catch (error) {
    const code = errorCode(error);
    if (code === "ENXIO") return "refused";
    return code === "ENOENT" ? "absent" : "denied";
  }
}

/** For reading and writing, so that it does not end when the last writer goes, and opening waits for nobody. */
const READ_FLAGS = constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW;

function makeAndOpen(path: string): number {
  const { exitCode, stderr } = runMkfifo(path);
  if (exitCode !== 0) throw new Error(`mkfifo failed: ${stderr.toString().trim()}`);
  return openSync(path, READ_FLAGS);
}

/** Bun has no mkfifo(3). Where kamctl is, this program is, because kamctl uses it, too. */
function runMkfifo(path: string): { exitCode: number; stderr: Buffer } {
  try {
    return Bun.spawnSync(["mkfifo", "-m", "600", "--", path], { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  } catch (cause) {
    throw new Error("the program mkfifo cannot be run; install coreutils", { cause });
  }
}

/** As far as it is used here: the types of Bun and of the platform disagree about the rest. */
interface ChunkReader {
  read(): Promise<{ value?: Uint8Array | undefined }>;
  cancel(): Promise<void>;
}

class Server {
  readonly #file: number;
  readonly #claim: SocketClaim;
  readonly #call: KamailioCall;
  readonly #replyDir: string;
  readonly #limits: FifoLimits;
  readonly #complain: (text: string) => void;
  readonly #cutter = new RequestCutter();
  readonly #running = new Set<Promise<void>>();
  readonly #reader: ChunkReader;
  #partial: ReturnType<typeof setTimeout> | undefined;
  #closing = false;
  #closed: Promise<void> | undefined;

  constructor(file: number, claim: SocketClaim, options: FifoOptions) {
    this.#file = file;
    this.#claim = claim;
    this.#call = kamailioCalls(options.surface);
    this.#replyDir = options.replyDir ?? REPLY_DIR_DEFAULT;
    this.#limits = { ...FIFO_LIMITS, ...options.limits };
    this.#complain = limited(this.#limits.complaintMs, (text) => options.log?.warn(text, { fifo: options.path }));
    // The one way of reading a FIFO in Bun 1.4.5 that neither polls nor stops at EAGAIN (docs/decisions/0006-fifo-in-bun.md).
    this.#reader = Bun.file(file).stream().getReader();
  }

  start(): void {
    this.#read().catch((error: unknown) => this.#complain(`the FIFO cannot be read any more: ${String(error)}`));
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing = true;
    this.#claim.release();
    clearTimeout(this.#partial);
    await this.#reader.cancel();
    const grace = Promise.withResolvers<void>();
    const timer = setTimeout(grace.resolve, this.#limits.closeGraceMs);
    await Promise.race([Promise.all(this.#running), grace.promise]);
    clearTimeout(timer);
    closeSync(this.#file);
  }

  async #read(): Promise<void> {
    for (let part = await this.#reader.read(); part.value !== undefined; part = await this.#reader.read()) {
      clearTimeout(this.#partial);
      const { requests, skipped } = this.#cutter.push(part.value);
      if (skipped > 0) this.#complain("skipped what is no request");
      for (const request of requests) await this.#begin(request);
      if (this.#cutter.isPartial && !this.#closing) this.#awaitRest();
    }
  }

  #awaitRest(): void {
    this.#partial = setTimeout(() => {
      this.#cutter.drop();
      this.#complain("dropped a request that broke off");
    }, this.#limits.partialMs);
  }

  /** Starts a request when there is a place for it, and lets the node have its turn before the next. */
  async #begin(request: Uint8Array): Promise<void> {
    while (this.#running.size >= this.#limits.callsMax) await Promise.race(this.#running);
    if (this.#closing) return;
    const running: Promise<void> = this.#serve(request)
      .catch((error: unknown) => this.#complain(error instanceof Error ? error.message : String(error)))
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
    await new Promise((resolve) => setImmediate(resolve));
  }

  async #serve(octets: Uint8Array): Promise<void> {
    const request = requestOf(octets);
    if (request === undefined) {
      this.#complain("skipped what is no JSON");
      return;
    }
    const { reply_name: name, id } = request;
    if (name !== undefined && !isReplyName(name)) {
      this.#complain(`refused a request with the reply_name ${shown(name)}, expected a plain file name`);
      return;
    }
    const answer = await this.#answer(request);
    if (name !== undefined) await writeReply(this.#replyDir, name, encoded(answer, id), this.#limits);
  }

  async #answer({ jsonrpc, method, params }: Request): Promise<KamailioAnswer> {
    if (jsonrpc !== "2.0") return invalid('jsonrpc is not "2.0"');
    return typeof method === "string" ? this.#call(method, params) : invalid("method is no string");
  }
}

interface Request {
  jsonrpc?: unknown;
  method?: unknown;
  params?: unknown;
  id?: unknown;
  reply_name?: unknown;
}

function requestOf(octets: Uint8Array): Request | undefined {
  try {
    // It begins with a brace, so it is an object if it is anything.
    return JSON.parse(STRICT_UTF8.decode(octets)) as Request;
  } catch {
    // Also what nests deeper than the stack.
    return undefined;
  }
}

const STRICT_UTF8 = new TextDecoder("utf-8", { fatal: true });

function invalid(why: string): KamailioAnswer {
  return { fault: { code: 400, text: `Invalid Request: ${why}`, isUnknownMethod: false } };
}

/** The id comes back with its type; where there was none, there is an answer all the same, because one was asked for. */
function encoded(answer: KamailioAnswer, id: unknown): Uint8Array {
  const echoed = typeof id === "string" || typeof id === "number" || id === null ? { id } : {};
  const outcome =
    "result" in answer
      ? { result: answer.result ?? null }
      : { error: { code: answer.fault.code, message: answer.fault.text } };
  return Buffer.from(kamailioJson({ jsonrpc: "2.0", ...outcome, ...echoed }));
}

/** One member a line, a tab behind its name: kamctl prints lines as they come, and cuts values out of them. */
export function kamailioJson(value: unknown): string {
  return JSON.stringify(value, null, "\t").replace(/^(\t*"(?:[^"\\\n]|\\.)*":) /gm, "$1\t");
}

function shown(value: unknown): string {
  return JSON.stringify(value).slice(0, 80);
}

/** Lets one text through in so many milliseconds, and says how many did not come. */
function limited(ms: number, tell: (text: string) => void): (text: string) => void {
  let last = Number.NEGATIVE_INFINITY;
  let kept = 0;
  return (text) => {
    const now = performance.now();
    if (now - last < ms) {
      kept++;
      return;
    }
    tell(kept === 0 ? text : `${text} (and ${kept} more complaints since the last one)`);
    last = now;
    kept = 0;
  };
}
