/**
 * From a message to its answer: finds the channel, runs the handler on one of its `num_workers` workers, and answers in time
 * whatever the handler does (design.md 4: a Kamailio script whose message runs into 408 drops us).
 *
 * Each channel has workers of its own: a handler that hangs keeps those of its channel, and no other waits for them.
 *
 * Messages of one sender to one channel are handled in the order of arrival: each such pair has a line, a line has one
 * worker at a time, and lines take turns.
 */
import { DeadlineQueue } from "../core/deadline-queue.ts";
import { UsageError } from "../core/errors.ts";
import type { Duration, Instant } from "../core/time.ts";
import type { Answer, ChannelMessage, HandlerMode } from "../node/io.ts";
import { answerOf, type Handler, type HandlerContext, type HandlerResult } from "./channel.ts";

export interface DispatcherOptions {
  /** Handler runs of one channel at a time, default 2. */
  numWorkers?: number;
  /**
   * 0: workers are woken. Above (Kamailio's `worker_usleep`, in ms): a worker with nothing to do looks at the lines at
   * multiples of this interval from the start; one that ends a run looks at once, and sleeps if there is nothing.
   */
  workerSleepMs?: Duration;
  /** Milliseconds from arrival to the 503 that answers for a late handler, default 1,500. */
  handlerTimeoutMs?: Duration;
}

/** What the dispatcher needs of its surroundings. */
export interface DispatcherHost {
  answer(id: number, answer: Answer): void;
  now(): Instant;
  /** A handler threw, or returned what cannot be answered. */
  failed(channel: string, cause: unknown): void;
  /** The next deadline may have moved. */
  changed(): void;
}

interface Registered {
  declared: boolean;
  handler: Handler | undefined;
  mode: HandlerMode;
  /** Runs under way on its workers. */
  busy: number;
  /** Its lines that are not empty, or have a worker. */
  lines: number;
  /** Those with something to do and no worker, in turn. */
  readonly ready: Line[];
  /** Its workers are being given work: a handler that ends at once comes back here. */
  working: boolean;
}

interface Line {
  readonly key: string;
  readonly channel: Registered;
  readonly waiting: ChannelMessage[];
  running: boolean;
}

/** Seconds that a sender is asked to wait after a handler was late. */
const RETRY_AFTER_SECONDS = 2;

const NOT_FOUND: Answer = { status: 404, reason: "Not Found Peer ID" };
const ACCEPTED: Answer = { status: 202, reason: "Accepted DMQ" };
const FAILED: Answer = { status: 500, reason: "Handler Failed" };

/** The context of one run. Few handlers ask for their signal, and an AbortController costs more than all the rest. */
class RunContext implements HandlerContext {
  private controller: AbortController | undefined;
  private reason: Error | undefined;

  get signal(): AbortSignal {
    this.controller ??= new AbortController();
    if (this.reason !== undefined) this.controller.abort(this.reason);
    return this.controller.signal;
  }

  abort(reason: Error): void {
    this.reason = reason;
    this.controller?.abort(reason);
  }
}

export class Dispatcher {
  private readonly channels = new Map<string, Registered>();
  private readonly lines = new Map<string, Line>();
  /** The line that a message waits in, until it is run or answered for. */
  private readonly waitingIn = new Map<number, Line>();
  private readonly late = new DeadlineQueue<number>();
  /** What tells a handler that goes on that nobody waits for it any more. */
  private readonly contexts = new Map<number, RunContext>();
  /** Of the run that begins next: a handler that ends at once has no use of it any more. */
  private spare = new RunContext();
  private readonly host: DispatcherHost;
  private readonly numWorkers: number;
  private readonly workerSleepMs: Duration;
  private handlerTimeoutMs: Duration;
  /** Looks are at this instant and whole intervals after it. */
  private readonly firstLook: Instant;
  private nextLook: Instant | undefined;
  /** With `workerSleepMs`: channels with lines that wait for a look. */
  private readonly loaded = new Set<Registered>();
  private busy = 0;

  constructor(host: DispatcherHost, options: DispatcherOptions = {}) {
    this.host = host;
    this.numWorkers = options.numWorkers ?? 2;
    this.workerSleepMs = options.workerSleepMs ?? 0;
    this.handlerTimeoutMs = options.handlerTimeoutMs ?? 1_500;
    this.firstLook = host.now();
  }

  /** Counts for the messages that come from now on. */
  setTimeout(handlerTimeoutMs: Duration): void {
    this.handlerTimeoutMs = handlerTimeoutMs;
  }

  /** Makes a channel known: without a handler its messages are answered 202. */
  declare(name: string): void {
    this.channel(name).declared = true;
  }

  /**
   * Gives a channel its handler.
   *
   * @returns the function that takes it away again
   * @throws UsageError if the channel has one
   */
  register(name: string, handler: Handler, mode: HandlerMode = "queued"): () => void {
    const channel = this.channel(name);
    if (channel.handler !== undefined) throw new UsageError(`channel ${name} has a handler already`);
    channel.handler = handler;
    channel.mode = mode;
    return () => {
      if (channel.handler !== handler) return;
      channel.handler = undefined;
      if (!channel.declared) this.channels.delete(name);
    };
  }

  names(): { name: string; declared: boolean; consumed: boolean }[] {
    return [...this.channels].map(([name, { declared, handler }]) => ({
      name,
      declared,
      consumed: handler !== undefined,
    }));
  }

  /**
   * Takes a message; exactly one answer comes of it.
   *
   * @param mode  where a route decided it, instead of the channel's own
   */
  receive(message: ChannelMessage, mode?: HandlerMode): void {
    const channel = this.channels.get(message.channel);
    if (channel === undefined) {
      this.host.answer(message.id, NOT_FOUND);
      return;
    }
    if (channel.handler === undefined) {
      this.host.answer(message.id, ACCEPTED);
      return;
    }
    const isQueued = (mode ?? channel.mode) === "queued";
    if (isQueued && !this.isIdle(channel)) {
      this.late.set(message.id, this.host.now() + this.handlerTimeoutMs);
      this.enqueue(message, channel);
    } else this.runFresh(message, channel.handler, isQueued ? channel : undefined);
    this.host.changed();
  }

  /** A worker is free, and nobody's order would be broken by a message that goes first. */
  private isIdle({ busy, lines, working }: Registered): boolean {
    return this.workerSleepMs === 0 && busy < this.numWorkers && lines === 0 && !working;
  }

  /** A message that need not wait. Most handlers end at once: then nothing is kept of it. */
  private runFresh(message: ChannelMessage, handler: Handler, workers: Registered | undefined): void {
    const context = this.spare;
    let result: HandlerResult | Promise<HandlerResult>;
    try {
      result = handler(message, context);
    } catch (cause) {
      this.host.failed(message.channel, cause);
      this.host.answer(message.id, FAILED);
      return;
    }
    if (!(result instanceof Promise)) {
      this.host.answer(message.id, answerOf(result));
      return;
    }
    // It belongs to this run from now on; the next one gets another.
    this.spare = new RunContext();
    this.late.set(message.id, this.host.now() + this.handlerTimeoutMs);
    this.follow(message, workers && this.occupy(message, workers), context, result);
  }

  /** The worker that a message is on, and the line that keeps others of its sender behind it. */
  private occupy({ channel, from }: ChannelMessage, workers: Registered): Line {
    const line = this.open(`${channel} ${from}`, workers);
    this.begin(line);
    return line;
  }

  private open(key: string, channel: Registered): Line {
    const line: Line = { key, channel, waiting: [], running: false };
    this.lines.set(key, line);
    channel.lines++;
    return line;
  }

  private close({ key, channel }: Line): void {
    this.lines.delete(key);
    channel.lines--;
  }

  private begin(line: Line): void {
    line.running = true;
    line.channel.busy++;
    this.busy++;
  }

  handleTimeout(now: Instant): void {
    for (let id = this.late.take(now); id !== undefined; id = this.late.take(now)) {
      this.withdraw(id);
      this.host.answer(id, { status: 503, reason: "Handler Too Late", retryAfterSeconds: RETRY_AFTER_SECONDS });
      this.contexts.get(id)?.abort(new Error("handler_timeout is over"));
    }
    if (this.nextLook !== undefined && now >= this.nextLook) {
      this.nextLook = undefined;
      for (const channel of this.sleeping()) this.work(channel);
      this.planLook(now);
    }
  }

  /** Channels that a look would find something to do for. */
  private sleeping(): Registered[] {
    for (const channel of this.loaded) if (channel.ready.length === 0) this.loaded.delete(channel);
    return [...this.loaded].filter(({ busy }) => busy < this.numWorkers);
  }

  private makeReady(line: Line): void {
    line.channel.ready.push(line);
    if (this.workerSleepMs > 0) this.loaded.add(line.channel);
  }

  nextTimeout(): Instant | undefined {
    const late = this.late.next();
    if (late === undefined || this.nextLook === undefined) return late ?? this.nextLook;
    return Math.min(late, this.nextLook);
  }

  /** The node has left: what waits is forgotten, and every handler that is running is told that nobody waits for it. */
  abandon(): void {
    for (const id of [...this.waitingIn.keys()]) this.withdraw(id);
    for (const context of [...this.contexts.values()]) context.abort(new Error("the node has left"));
  }

  /** Handler runs under way. */
  running(): number {
    return this.busy;
  }

  /** Messages that wait for a worker. */
  waiting(): number {
    return this.waitingIn.size;
  }

  private channel(name: string): Registered {
    let channel = this.channels.get(name);
    if (channel === undefined) {
      channel = { declared: false, handler: undefined, mode: "queued", busy: 0, lines: 0, ready: [], working: false };
      this.channels.set(name, channel);
    }
    return channel;
  }

  private enqueue(message: ChannelMessage, channel: Registered): void {
    const key = `${message.channel} ${message.from}`;
    const line = this.lines.get(key) ?? this.open(key, channel);
    line.waiting.push(message);
    this.waitingIn.set(message.id, line);
    if (line.waiting.length === 1 && !line.running) this.makeReady(line);
    if (this.workerSleepMs === 0) this.work(line.channel);
    else this.planLook(this.host.now());
  }

  /** A message that was answered for before its turn leaves its line, or hanging handlers would keep all that come. */
  private withdraw(id: number): void {
    const line = this.waitingIn.get(id);
    if (line === undefined) return;
    this.waitingIn.delete(id);
    line.waiting.splice(
      line.waiting.findIndex((message) => message.id === id),
      1,
    );
    if (line.waiting.length > 0 || line.running) return;
    this.close(line);
    const { ready } = line.channel;
    ready.splice(ready.indexOf(line), 1);
  }

  private planLook(now: Instant): void {
    // Where every worker is busy nobody sleeps: the one that ends looks at once.
    if (this.nextLook !== undefined || this.sleeping().length === 0) return;
    const looks = Math.floor((now - this.firstLook) / this.workerSleepMs);
    this.nextLook = this.firstLook + (looks + 1) * this.workerSleepMs;
  }

  /** @param workers  so many of those that are free begin a run each; one whose run ends at once begins the next */
  private work(channel: Registered, workers = this.numWorkers): void {
    // A handler that ends at once comes back here: the loop that is running goes on, however long the backlog is.
    if (channel.working) return;
    channel.working = true;
    const busyMax = Math.min(channel.busy + workers, this.numWorkers);
    try {
      while (channel.busy < busyMax) {
        const line = channel.ready.shift();
        if (line === undefined) break;
        const message = line.waiting.shift();
        if (message !== undefined) this.run(message, line);
      }
    } finally {
      channel.working = false;
    }
  }

  private run(message: ChannelMessage, line: Line): void {
    const handler = this.channels.get(message.channel)?.handler;
    this.begin(line);
    this.waitingIn.delete(message.id);
    const context = new RunContext();
    let result: HandlerResult | Promise<HandlerResult>;
    try {
      result = handler === undefined ? ACCEPTED : handler(message, context);
    } catch (cause) {
      this.fail(message, line, cause);
      return;
    }
    if (result instanceof Promise) this.follow(message, line, context, result);
    else this.complete(message, line, result);
  }

  private follow(
    message: ChannelMessage,
    line: Line | undefined,
    context: RunContext,
    result: Promise<HandlerResult>,
  ): void {
    this.contexts.set(message.id, context);
    result.then(
      (value) => this.complete(message, line, value),
      (cause) => this.fail(message, line, cause),
    );
  }

  private complete(message: ChannelMessage, line: Line | undefined, result: HandlerResult): void {
    try {
      if (this.late.delete(message.id)) this.host.answer(message.id, answerOf(result));
    } finally {
      this.finish(message, line);
    }
  }

  private fail(message: ChannelMessage, line: Line | undefined, cause: unknown): void {
    this.host.failed(message.channel, cause);
    if (this.late.delete(message.id)) this.host.answer(message.id, FAILED);
    this.finish(message, line);
  }

  private finish(message: ChannelMessage, line: Line | undefined): void {
    this.contexts.delete(message.id);
    if (line === undefined) return;
    const { channel } = line;
    this.busy--;
    channel.busy--;
    line.running = false;
    if (line.waiting.length > 0) this.makeReady(line);
    else this.close(line);
    if (this.workerSleepMs === 0) {
      this.work(channel);
    } else {
      this.work(channel, 1);
      this.planLook(this.host.now());
    }
    this.host.changed();
  }
}
