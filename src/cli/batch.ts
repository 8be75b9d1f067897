/**
 * `-l`: each line of the input is a message. What was read goes out at once while fewer than `BATCHES_MAX` batches are under
 * way, and is collected for the next one meanwhile: a slow input is prompt, a fast one fills its batches. Results are
 * printed in the order of the lines; one batch that takes its time holds up the others, and with them the reading, so that
 * nothing grows with the input.
 */
import { DmqError, RpcError, UsageError } from "../core/errors.ts";
import type { DeliveryResult } from "../rpc/surface.ts";
import type { Arguments } from "./command.ts";
import { type Caller, connect } from "./connect.ts";
import type { CliContext, SignalName } from "./context.ts";
import { EXIT, exitOfError } from "./exit.ts";
import { LINE_BYTES_MAX, type Line, LineCutter } from "./lines.ts";
import { causeOf, deliveryCells, encodeBody, type MessageParams, patienceMs, SILENT_TEXT } from "./message.ts";
import { type Cell, formOf, type OutputForm, rowText } from "./output.ts";
import { type ProgressLine, progressLine, progressText } from "./progress.ts";
import { ANSWER_MS_MAX } from "./socket.ts";

/** Batches under way, or waiting to be printed behind one that is. */
export const BATCHES_MAX = 4;

/**
 * Requests under way, to all nodes together: about as many answers as fit the receive buffer of a socket (212,992 octets on
 * Linux) if all come at once. Beyond that the kernel drops some, and each costs the 500 ms until it is sent again: measured with
 * two nodes, 20,000 lines took 2.5 s with 128 requests and 23 s with 256.
 */
const REQUESTS_MAX = 128;

/** Lines of a batch to one node, and of those that wait for the next one. */
export const BATCH_LINES_MAX: number = REQUESTS_MAX / BATCHES_MAX;

/** Octets of the bodies of a batch, unless one line has more: they must fit the receive buffers of the others. */
const BATCH_BYTES_MAX = 16 * 1024;

/** After a signal, what is under way has that long to end. */
const LAST_MS = 1_000;

/** Causes on stderr; with a hundred thousand lines to a bus without nodes nobody reads the last one. */
const CAUSES_MAX = 10;

export interface LineJob {
  method: "dmq.send" | "dmq.bcast";
  /** What all messages share; a `message_id` gets the number of the line behind it. */
  params: Omit<MessageParams, "body" | "body_base64"> & Record<string, unknown>;
  needsConsumer: boolean;
  /** The exit code that the results of one line mean. */
  exitOf(results: readonly DeliveryResult[]): number;
}

/** How one line ended. `word` stands in the place of a reason where no node has one. */
type LineEnd =
  | { type: "results"; results: readonly DeliveryResult[] }
  | { type: "none"; word: "nobody" | "refused" | "unknown"; text: string; exit: number };

interface Entry {
  readonly line: Line;
  end: LineEnd | undefined;
}

interface Flight {
  readonly entries: Entry[];
  landed: boolean;
}

/** Why the sending ended before the input did. */
interface Ending {
  text: string;
  exit: number;
}

/** @returns the exit code: 0 all, 7 some, the common one if none was delivered; 130, 143 or 4 where it ended early */
export async function sendLines(context: CliContext, args: Arguments, job: LineJob): Promise<number> {
  const stop = new Stop();
  const release = stopOnSignal(context, stop);
  const progress = progressLine(context);
  try {
    const caller = await stop.first(connectAndAsk(context, args));
    if (caller === undefined) return (stop.ending as Ending).exit;
    const report = new Report(context, formOf(context, args), job, progress);
    progress?.start(() => report.progress());
    return await run(context, args, new Sender(caller, job, report, stop), report, stop).finally(() => caller.close());
  } finally {
    progress?.end();
    release();
  }
}

/** Asks before anything is read: without a daemon no line is lost. */
async function connectAndAsk(context: CliContext, args: Arguments): Promise<Caller> {
  const caller = await connect(context, args);
  try {
    await caller.call("core.version", undefined, { timeoutMs: ANSWER_MS_MAX });
    return caller;
  } catch (error) {
    await caller.close();
    throw error;
  }
}

async function run(context: CliContext, args: Arguments, sender: Sender, report: Report, stop: Stop): Promise<number> {
  const file = args.value("file") ?? "-";
  const input = file === "-" ? context.stdinStream() : context.fileStream(file);
  const isWhole = await feed(context, input, sender, stop).catch((cause) => {
    const why = (cause as { code?: string }).code ?? String(cause);
    stop.end(new UsageError(`cannot read ${file === "-" ? "standard input" : file} (${why})`));
    return false;
  });
  await (stop.ending === undefined ? stop.first(sender.landed()) : undefined);
  if (stop.ending !== undefined) await Promise.race([sender.landed(), Bun.sleep(LAST_MS)]);
  return report.close(sender.abandon(), isWhole, stop.ending);
}

/** @returns whether the input was read to its end */
async function feed(
  context: CliContext,
  input: AsyncIterable<Uint8Array>,
  sender: Sender,
  stop: Stop,
): Promise<boolean> {
  const cutter = new LineCutter();
  const chunks = input[Symbol.asyncIterator]();
  for (;;) {
    const next = await stop.first(chunks.next());
    if (next === undefined) return false;
    if (next.done === true) break;
    for (const line of cutter.push(next.value)) {
      sender.add(line);
      if (sender.isFull) await stop.first(sender.room());
      if (stop.ending !== undefined) return false;
    }
    sender.launch();
    await stop.first(context.stdoutDrained());
  }
  const last = cutter.end();
  if (last !== undefined) sender.add(last);
  sender.launch();
  return true;
}

function stopOnSignal(context: CliContext, stop: Stop): () => void {
  const exits: Record<SignalName, number> = { SIGINT: EXIT.interrupted, SIGTERM: EXIT.terminated };
  const words: Record<SignalName, string> = { SIGINT: "interrupted", SIGTERM: "terminated" };
  // What follows takes LAST_MS at most, so that a second signal need not hurry it: wrappers pass on what the terminal sent already.
  return context.onSignal((signal) => stop.end({ text: words[signal], exit: exits[signal] }));
}

/** The end that may come from outside while one thing is waited for. A race against one lasting promise would never let go. */
class Stop {
  ending: Ending | undefined;
  #wake: () => void = () => undefined;

  /** The first ending counts. */
  end(ending: Ending | DmqError): void {
    this.ending ??= ending instanceof DmqError ? { text: ending.message, exit: exitOfError(ending) } : ending;
    this.#wake();
  }

  /** @returns what `promise` gives, `undefined` if the end came first; one at a time */
  first<T>(promise: Promise<T>): Promise<T | undefined> {
    const { promise: either, resolve, reject } = Promise.withResolvers<T | undefined>();
    this.#wake = () => resolve(undefined);
    if (this.ending !== undefined) resolve(undefined);
    promise.then(resolve, reject);
    return either;
  }
}

/** The window: lines that wait, and batches under way. */
class Sender {
  readonly #caller: Caller;
  readonly #job: LineJob;
  readonly #report: Report;
  readonly #stop: Stop;
  readonly #flights: Flight[] = [];
  #waiting: Line[] = [];
  #waitingBytes = 0;
  /** How many answer a line. Until the first answers tell, many. */
  #nodes = REQUESTS_MAX;
  #wake: () => void = () => undefined;

  constructor(caller: Caller, job: LineJob, report: Report, stop: Stop) {
    this.#caller = caller;
    this.#job = job;
    this.#report = report;
    this.#stop = stop;
  }

  add(line: Line): void {
    this.#waiting.push(line);
    this.#waitingBytes += line.octets?.length ?? 0;
    if (this.isFull) this.launch();
  }

  get isFull(): boolean {
    return this.#waiting.length >= BATCH_LINES_MAX || this.#waitingBytes >= BATCH_BYTES_MAX;
  }

  /** Sends what waits, if the window has room. */
  launch(): void {
    while (this.#flights.length < BATCHES_MAX && this.#waiting.length > 0 && this.#stop.ending === undefined) {
      const flight: Flight = { entries: this.#take().map(entryOf), landed: false };
      this.#flights.push(flight);
      void this.#fly(flight);
    }
  }

  /** As many of the lines that wait as a batch may have, at least one. */
  #take(): Line[] {
    const most = Math.max(1, Math.floor(BATCH_LINES_MAX / this.#nodes));
    let [count, bytes] = [0, 0];
    do bytes += this.#waiting[count++]?.octets?.length ?? 0;
    while (count < Math.min(most, this.#waiting.length) && bytes < BATCH_BYTES_MAX);
    this.#waitingBytes -= bytes;
    return this.#waiting.splice(0, count);
  }

  /** Resolves once lines may be added again. */
  async room(): Promise<void> {
    while (this.isFull) await this.#change();
    await this.#report.drained();
  }

  /** Resolves once nothing waits and nothing is under way. */
  async landed(): Promise<void> {
    while (this.#flights.length > 0) await this.#change();
  }

  /**
   * Gives up: what is under way and did not end is reported as unknown.
   *
   * @returns how many lines were read and not sent
   */
  abandon(): number {
    for (const { entries } of this.#flights.splice(0)) this.#report.write(entries);
    return this.#waiting.length;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  async #fly(flight: Flight): Promise<void> {
    const sent = flight.entries.filter((entry) => entry.end === undefined);
    const ends = sent.length === 0 ? [] : await this.#call(sent.map(({ line }) => this.#paramsOf(line)));
    for (const [index, entry] of sent.entries()) entry.end = ends[index];
    flight.landed = true;
    while (this.#flights[0]?.landed === true) this.#report.write((this.#flights.shift() as Flight).entries);
    this.launch();
    this.#wake();
  }

  #paramsOf(line: Line): object {
    const { params } = this.#job;
    const id = params.message_id;
    return {
      ...params,
      ...encodeBody(line.octets as Uint8Array),
      ...(id !== undefined && { message_id: `${id}-${line.number}` }),
    };
  }

  async #call(params: object[]): Promise<LineEnd[]> {
    const patience = patienceMs(this.#job.params);
    const signal = patience === undefined ? undefined : AbortSignal.timeout(patience);
    try {
      const answers = await callEach(this.#caller, this.#job.method, params, signal === undefined ? {} : { signal });
      return answers.map((answer) => this.#endOf(answer));
    } catch (error) {
      if (signal?.aborted !== true) throw error;
      this.#stop.end({ text: SILENT_TEXT, exit: EXIT.timeout });
      return params.map(() => UNKNOWN);
    }
  }

  #endOf(answer: DeliveryResult | DeliveryResult[] | RpcError): LineEnd {
    if (!(answer instanceof RpcError)) {
      const results = Array.isArray(answer) ? answer : [answer];
      this.#nodes = Math.max(1, results.length);
      return results.length === 0 ? NOBODY : { type: "results", results };
    }
    if (answer.code === "rpc-fault") {
      return { type: "none", word: "refused", text: answer.message, exit: exitOfError(answer) };
    }
    // The daemon is gone, and with it what it knew of these lines.
    this.#stop.end(answer);
    return UNKNOWN;
  }
}

const NOBODY: LineEnd = {
  type: "none",
  word: "nobody",
  text: "there is no active node to address",
  exit: EXIT.notFound,
};

const UNKNOWN: LineEnd = {
  type: "none",
  word: "unknown",
  text: "it may or may not have been delivered",
  exit: EXIT.timeout,
};

const TOO_LONG: LineEnd = {
  type: "none",
  word: "refused",
  text: `the line is longer than ${LINE_BYTES_MAX} bytes`,
  exit: EXIT.usage,
};

function entryOf(line: Line): Entry {
  return { line, end: line.octets === undefined ? TOO_LONG : undefined };
}

type Answer = DeliveryResult | DeliveryResult[] | RpcError;

async function callEach(
  caller: Caller,
  method: string,
  params: object[],
  options: { signal?: AbortSignal },
): Promise<Answer[]> {
  try {
    if (caller.callEach !== undefined) return await caller.callEach(method, params, options);
    return await Promise.all(params.map((one) => caller.call<Answer>(method, one, options).catch(asAnswer)));
  } catch (error) {
    const answer = asAnswer(error);
    return params.map(() => answer);
  }
}

function asAnswer(error: unknown): RpcError {
  if (error instanceof RpcError) return error;
  throw error;
}

/** What is printed, and counted for the exit code. */
class Report {
  readonly #context: CliContext;
  readonly #form: OutputForm;
  readonly #job: LineJob;
  readonly #progress: ProgressLine | undefined;
  readonly #startedAt = performance.now();
  readonly #exits = new Set<number>();
  #lines = 0;
  #delivered = 0;
  /** In the outbox. */
  #stored = 0;
  #refused = 0;
  #unknown = 0;
  #causes = 0;

  constructor(context: CliContext, form: OutputForm, job: LineJob, progress: ProgressLine | undefined) {
    this.#context = context;
    this.#form = form;
    this.#job = job;
    this.#progress = progress;
  }

  drained(): Promise<void> {
    return this.#context.stdoutDrained();
  }

  progress(): string {
    const failed = this.#lines - this.#delivered;
    return progressText({ done: this.#lines, failed, seconds: (performance.now() - this.#startedAt) / 1_000 });
  }

  /** In the order of the lines. */
  write(entries: readonly Entry[]): void {
    this.#progress?.clear();
    this.#context.stdout(entries.map(({ line, end }) => this.#textOf(line.number, end ?? UNKNOWN)).join(""));
  }

  /**
   * @param waiting  lines that were read and not sent
   * @param isWhole  the input was read to its end
   * @returns        the exit code of the command
   */
  close(waiting: number, isWhole: boolean, ending: Ending | undefined): number {
    this.#progress?.end();
    const exit = ending?.exit ?? this.#exit();
    if (exit === EXIT.ok) return exit;
    const why = ending === undefined ? "" : `${ending.text}: `;
    const rest = isWhole && waiting === 0 ? "" : ", rest not sent";
    this.#context.stderr(`dmq: ${why}${this.#lines === 0 ? "nothing was sent" : `${this.#summary()}${rest}`}\n`);
    return exit;
  }

  #summary(): string {
    const sent = this.#lines - this.#refused;
    const failed = sent - this.#delivered - this.#stored - this.#unknown;
    const parts = [`${sent} ${sent === 1 ? "line" : "lines"} sent`, `${this.#delivered} delivered`];
    if (this.#stored > 0) parts.push(`${this.#stored} stored`);
    if (failed > 0) parts.push(`${failed} failed`);
    if (this.#refused > 0) parts.push(`${this.#refused} refused`);
    if (this.#unknown > 0) parts.push(`${this.#unknown} unknown`);
    return parts.join(", ");
  }

  #exit(): number {
    if (this.#delivered === this.#lines) return EXIT.ok;
    if (this.#delivered + this.#stored === this.#lines) return EXIT.later;
    if (this.#delivered > 0) return EXIT.partial;
    return this.#exits.size === 1 ? ([...this.#exits][0] as number) : EXIT.no;
  }

  #textOf(number: number, end: LineEnd): string {
    const results = end.type === "results" ? end.results : [];
    const exit = end.type === "results" ? this.#job.exitOf(results) : end.exit;
    this.#count(exit, end);
    this.#sayCauses(number, end);
    const form = this.#form;
    if (form === "json") {
      const error = end.type === "none" ? { error: end.text } : {};
      return `${JSON.stringify({ line: number, exit, results, ...error })}\n`;
    }
    const rows: Cell[][] =
      end.type === "none"
        ? [[number, null, null, end.word, null]]
        : results.map((one) => [number, ...deliveryCells(one)]);
    return rows.map((row) => rowText(form, row)).join("");
  }

  #count(exit: number, end: LineEnd): void {
    this.#lines++;
    if (exit === EXIT.ok) this.#delivered++;
    else if (end === UNKNOWN) this.#unknown++;
    else this.#exits.add(exit);
    if (exit === EXIT.later) this.#stored++;
    if (end.type === "none" && end.word === "refused") this.#refused++;
  }

  #sayCauses(number: number, end: LineEnd): void {
    if (end === UNKNOWN) return;
    const causes = end.type === "none" ? [end.text] : end.results.map((one) => causeOf(one, this.#job.needsConsumer));
    for (const cause of causes) if (cause !== undefined) this.#sayCause(`line ${number}: ${cause}`);
  }

  #sayCause(cause: string): void {
    if (this.#causes > CAUSES_MAX) return;
    this.#context.stderr(
      `dmq: ${this.#causes < CAUSES_MAX ? cause : "further causes are not shown; --json has them"}\n`,
    );
    this.#causes++;
  }
}
