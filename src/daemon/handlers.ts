/**
 * Commands as handlers: `--on CHANNEL=CMD` answers the messages of a channel, `--on peer-up=CMD` (`peer-down`,
 * `peer-disabled`) runs when that happens to a peer. Nothing of a message stands on a command line: the body is on stdin,
 * what is known of it in `DMQ_*` variables (design.md sections 5 and 8). docs/CLI.md is the operator's view.
 *
 * Messages take their turn in the dispatcher, events in a queue here; both run `num_workers` commands at a time and give
 * each `handler_timeout`.
 */
import type { HandlerContext } from "../channel/channel.ts";
import type { DmqConfig } from "../config/schema.ts";
import { formatHost } from "../core/endpoint.ts";
import { ConfigError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import type { Duration, Instant } from "../core/time.ts";
import {
  bodyOf,
  bounded,
  endText,
  type MessageFacts,
  messageVariables,
  type Variables,
  verdictOf,
} from "../exec/command.ts";
import { JobQueue } from "../exec/jobs.ts";
import { DEFAULT_PATH, findProgram } from "../exec/program.ts";
import { type RunResult, run } from "../exec/run.ts";
import { splitWords } from "../exec/words.ts";
import type { Answer, ChannelMessage, PeerInfo } from "../node/io.ts";
import { monotonicNow, type RunningNode } from "./driver.ts";

type EventName = "peer-up" | "peer-down" | "peer-disabled";

const EVENTS: readonly string[] = ["peer-up", "peer-down", "peer-disabled"] satisfies EventName[];

/** Events that wait for a worker; beyond it the oldest is dropped. */
const EVENTS_WAITING_MAX = 1_000;

/** What a stopping node gives the commands of events; the core gives those of messages the same. */
const LEAVE_MS: Duration = 1_500;

/** Commands that are still there after that cannot be ended: they changed their user, or hang in the kernel. */
const STOP_MS: Duration = 2_500;

/** What a command may write into our log: lines of its stderr, and lines of ours about its failures. */
const STDERR_LINES = { max: 100, windowMs: 10_000 };
const FAILURE_LINES = { max: 5, windowMs: 10_000 };

export interface HandlersOptions {
  config: Pick<DmqConfig, "handlers" | "numWorkers" | "handlerTimeoutMs" | "notificationChannel">;
  /** What commands find in `DMQ_SOCKET`, so that a `dmq` that they call talks to this daemon. */
  socketPath: string;
  log: Logger;
  /** Stands in for the system in tests. */
  run?: typeof run;
}

/** One `--on`. */
interface Command {
  /** Channel or event. */
  name: string;
  argv: string[];
  stderr: Budget;
  failures: Budget;
}

export class Handlers {
  private commands: Command[];
  /** Takes the present commands away. */
  private ends: (() => void)[] = [];
  private timeoutMs: Duration;
  private readonly options: HandlersOptions;
  private readonly events: JobQueue;
  private readonly dropped = new Budget(FAILURE_LINES);
  private readonly runs = new Set<Promise<RunResult>>();
  /** Ends the runs of events. */
  private readonly controllers = new Set<AbortController>();
  private closed = false;

  /** @throws ConfigError for a command that cannot be taken apart or found, and for two on one channel */
  constructor(options: HandlersOptions) {
    this.options = options;
    this.commands = this.read(options.config.handlers);
    this.timeoutMs = options.config.handlerTimeoutMs;
    this.events = new JobQueue({ atATime: options.config.numWorkers, waitingMax: EVENTS_WAITING_MAX });
  }

  private read(handlers: readonly string[]): Command[] {
    const commands = handlers.map(readCommand);
    checkTogether(commands, this.options.config.notificationChannel);
    return commands;
  }

  /** Gives the node its handlers; to be called before it joins. */
  bind(node: RunningNode): void {
    this.ends = this.commands.map((command) => {
      if (EVENTS.includes(command.name))
        return node.on(command.name as EventName, ({ type, peer }) => this.onEvent(command, type, peer, node.uri()));
      node.declare(command.name);
      return node.channel(command.name, (message, context) => this.answer(command, message, context, node.uri()));
    });
  }

  /**
   * Reads other commands. Runs under way end as they began; messages that wait for a worker get the new command.
   *
   * @returns            what puts them in the place of the present ones
   * @throws ConfigError as the constructor
   */
  replacement(handlers: readonly string[], node: RunningNode): () => void {
    const commands = this.read(handlers);
    this.checkFree(commands, node);
    return () => {
      for (const end of this.ends) end();
      this.commands = commands;
      this.bind(node);
    };
  }

  /** A channel has one handler: `dmq listen` may have come first. */
  private checkFree(commands: readonly Command[], node: RunningNode): void {
    const taken = new Set(node.channels().flatMap(({ name, consumed }) => (consumed ? [name] : [])));
    for (const { name } of this.commands) taken.delete(name);
    const other = commands.find(({ name }) => taken.has(name));
    if (other === undefined) return;
    const received = `a command for channel ${other.name}, which somebody listens to`;
    throw new ConfigError("config-contradiction", "on", received, "a channel that is free: end that dmq listen first");
  }

  /** Time that a command has from now on. */
  setTimeout(timeoutMs: Duration): void {
    this.timeoutMs = timeoutMs;
  }

  /**
   * Stops with the node: what waits is dropped, commands of events have 1.5 s, those of messages what the node gives them.
   *
   * @param left  the node's own closing
   * @returns     resolves when the node has left and no command runs any more, or after 2.5 s, because one that nobody can
   *              end must not keep the daemon; rejects as `left` does
   */
  async close(left: Promise<void>): Promise<void> {
    this.closed = true;
    this.events.clear();
    const timer = setTimeout(() => {
      for (const controller of this.controllers) controller.abort();
    }, LEAVE_MS);
    const { promise: patienceOver, resolve } = Promise.withResolvers<void>();
    const stopTimer = setTimeout(resolve, STOP_MS);
    try {
      await left;
      await Promise.race([Promise.all(this.runs), patienceOver]);
    } finally {
      clearTimeout(timer);
      clearTimeout(stopTimer);
    }
    if (this.runs.size > 0) this.options.log.warn(`commands of handlers that could not be ended: ${this.runs.size}`);
  }

  private async answer(
    command: Command,
    message: ChannelMessage,
    { signal }: HandlerContext,
    uri: string,
  ): Promise<Answer> {
    const variables = messageVariables(factsOf(message, uri));
    const { end, stdout } = await this.run(command, variables, message.body, signal);
    const answer = verdictOf(end);
    // Without an Accept the node would drop the body all the same, and warn.
    return stdout.length === 0 || !message.acceptsBody ? answer : { ...answer, ...bodyOf(stdout) };
  }

  private onEvent(command: Command, event: EventName, peer: PeerInfo, uri: string): void {
    if (this.closed) return;
    const variables = { DMQ_EVENT: event, DMQ_NODE: peer.uri, DMQ_STATUS: peer.status, DMQ_URI: uri };
    const dropped = this.events.push(peer.uri, () => this.runEvent(command, variables));
    if (dropped === undefined) return;
    const text = `${EVENTS_WAITING_MAX} events wait for a command: the oldest, of ${dropped}, was dropped`;
    this.dropped.spend((more) => this.options.log.warn(text + more));
  }

  private async runEvent(command: Command, variables: Variables): Promise<void> {
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), this.timeoutMs);
    this.controllers.add(controller);
    await this.run(command, variables, new Uint8Array(0), controller.signal);
    clearTimeout(timer);
    this.controllers.delete(controller);
  }

  private async run(
    command: Command,
    variables: Variables,
    stdin: Uint8Array,
    signal: AbortSignal,
  ): Promise<RunResult> {
    const running = (this.options.run ?? run)({
      argv: command.argv,
      stdin,
      variables: bounded({ ...variables, DMQ_SOCKET: this.options.socketPath }),
      signal,
      onStderrLine: (line) => this.onStderrLine(command, line),
    });
    this.runs.add(running);
    const result = await running;
    this.runs.delete(running);
    this.report(command, variables, result);
    return result;
  }

  private onStderrLine(command: Command, line: string): void {
    command.stderr.spend((more) => this.options.log.info(line + more, { handler: command.name }));
  }

  private report(command: Command, variables: Variables, { end, durationMs }: RunResult): void {
    const { log } = this.options;
    const fields = { handler: command.name, node: variables.DMQ_NODE, ms: Math.round(durationMs) };
    if (end.type === "exited" && end.code === 0) {
      log.debug("the handler's command is done", fields);
      return;
    }
    const text = `the handler's command ${endText(end, command.argv[0] as string, this.timeoutMs)}`;
    command.failures.spend((more) => log.warn(text + more, fields));
  }
}

// --- reading the option ----------------------------------------------------------------------------------------------

/** `NAME=CMD`, whose form the schema has checked. */
function readCommand(text: string): Command {
  const equals = text.indexOf("=");
  const name = text.slice(0, equals);
  const [program, ...rest] = wordsOf(text, text.slice(equals + 1));
  const found = findProgram(program, process.env.PATH ?? DEFAULT_PATH);
  if (found.path === undefined) {
    const expected = `a program that is there and may be executed; looked for in ${found.searched}`;
    throw new ConfigError("config-invalid-value", `on ${name}`, `the program ${JSON.stringify(program)}`, expected);
  }
  return { name, argv: [found.path, ...rest], stderr: new Budget(STDERR_LINES), failures: new Budget(FAILURE_LINES) };
}

function wordsOf(text: string, command: string): [string, ...string[]] {
  try {
    return splitWords(command);
  } catch (cause) {
    const why = (cause as Error).message;
    throw new ConfigError("config-invalid-value", "on", JSON.stringify(text), `NAME=CMD, but ${why}`, cause);
  }
}

function checkTogether(commands: readonly Command[], notificationChannel: string): void {
  const channels = commands.map(({ name }) => name).filter((name) => !EVENTS.includes(name));
  if (channels.includes(notificationChannel)) {
    const expected = "another channel: the node itself answers on its notification_channel";
    throw new ConfigError("config-contradiction", "on", `a command for ${notificationChannel}`, expected);
  }
  const twice = channels.find((name, index) => channels.indexOf(name) !== index);
  if (twice === undefined) return;
  const expected = `one command for a channel, because one answers: sh -c 'first; second' runs two`;
  throw new ConfigError("config-contradiction", "on", `two commands for channel ${twice}`, expected);
}

// --- what a command is told ------------------------------------------------------------------------------------------

function factsOf(message: ChannelMessage, uri: string): MessageFacts {
  const { transport, ip, port } = message.source;
  return {
    channel: message.channel,
    from: message.from,
    node: message.peer ?? null,
    source: `${transport}:${formatHost(ip)}:${port}`,
    callId: message.callId,
    messageId: message.messageId ?? null,
    contentType: message.contentType ?? null,
    maxForwards: message.maxForwards ?? null,
    size: message.body.length,
    acceptsBody: message.acceptsBody,
    uri,
  };
}

// --- what it may write -----------------------------------------------------------------------------------------------

/** So many lines in a window of time; those held back are counted in the next one that goes out. */
class Budget {
  private readonly max: number;
  private readonly windowMs: Duration;
  private windowAt: Instant = Number.NEGATIVE_INFINITY;
  private spent = 0;
  private held = 0;

  constructor({ max, windowMs }: { max: number; windowMs: Duration }) {
    this.max = max;
    this.windowMs = windowMs;
  }

  /** Calls `write`, with words about what was held back, unless the window's lines are spent. */
  spend(write: (more: string) => void): void {
    const now = monotonicNow();
    if (now - this.windowAt >= this.windowMs) {
      this.windowAt = now;
      this.spent = 0;
    }
    if (this.spent === this.max) {
      this.held++;
      return;
    }
    this.spent++;
    const more = this.held === 0 ? "" : ` (${this.held} more lines of this handler were left out)`;
    this.held = 0;
    write(more);
  }
}
