/**
 * Waits until the node is as somebody wants it, also for a daemon that is not up yet. What changes is told by `/events`;
 * then everything is looked at again. A slow look besides is for the few changes that no event tells of.
 */
import { RpcError, UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import type { RpcClient } from "../rpc/client.ts";
import { probeSocket } from "../rpc/socket-file.ts";
import { type NodeRow, STATUSES, type StatusReport } from "../rpc/surface.ts";
import { type CommandSpec, sayable } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import { checkChannelName, checkUri } from "./message.ts";
import { progressLine } from "./progress.ts";
import { ANSWER_MS_MAX, connectDaemon } from "./socket.ts";
import { readDuration } from "./stream.ts";

/** Between two looks for a daemon that is not there: a file that is not there has no events. */
const RETRY_MS: Duration = 100;

/** Between two looks where no event came. */
const LOOK_MS: Duration = 1_000;

/** A daemon that comes up or goes down may refuse now and then; one that always does is somebody else's. */
const REFUSALS_MAX = 20;

const A_DAEMON = "a daemon that answers";

const MEMBERS_MAX = 1_001;

export const wait: CommandSpec = {
  name: "wait",
  summary: "wait until all conditions hold; for a daemon that is not up yet, too",
  examples: [
    ["dmq wait ready --timeout 10s && dmq bcast channel1 hello", "after the start of a daemon in a script"],
    ["dmq wait members=3 --timeout 1m", "three active nodes, this one among them"],
    ["dmq wait node=sip:192.0.2.2:5060 channel=alerts", "a node that is active, and somebody who listens here"],
    ["dmq wait node=sip:192.0.2.2:5060:disabled", "a node that was switched off"],
  ],
  positionals: [
    {
      name: "CONDITION",
      required: true,
      repeatable: true,
      help: "ready, members=N, node=URI[:STATUS], channel=NAME",
    },
  ],
  options: [{ flag: "timeout", value: "DURATION", help: "give up after that long (never): 500ms, 10s, 1m" }],
  notes: [
    "ready         the daemon serves, and is not on its way out",
    "members=N     at least N nodes are active, counted as in `dmq list`, so with this one",
    "node=URI      this node is active, or has the status that stands behind: active, not_active, disabled",
    "channel=NAME  somebody takes the channel's messages here: dmq listen, or a command of --on",
  ],
  exits: [
    [EXIT.ok, "all conditions hold"],
    [EXIT.usage, "a condition is malformed"],
    [EXIT.unreachable, "DURATION is over and there never was a daemon, or no permission for its socket"],
    [EXIT.timeout, "DURATION is over"],
    [EXIT.interrupted, "interrupted"],
  ],
  seeAlso: ["dmq list --watch", "dmq events", "dmq ping"],
  async run(context, args) {
    const conditions = args.positionals.map(readCondition);
    const timeoutMs = readDuration(args, "timeout");
    return new Waiting(context, connectDaemon(context, args), conditions, timeoutMs).done();
  },
};

// --- conditions ------------------------------------------------------------------------------------------------------

/** What conditions are held against. */
interface View {
  status: StatusReport;
  nodes: readonly NodeRow[];
}

interface Condition {
  text: string;
  /** @returns `undefined` if it holds, else how it is now */
  unmet(view: View): string | undefined;
}

function readCondition(text: string): Condition {
  if (text === "ready") return { text, unmet: ({ status }) => (status.ready ? undefined : "it is ending") };
  const equals = text.indexOf("=");
  const value = text.slice(equals + 1);
  if (equals > 0 && value !== "") {
    const name = text.slice(0, equals);
    if (name === "members") return members(text, value);
    if (name === "node") return node(text, value);
    if (name === "channel") return channel(text, value);
  }
  throw new UsageError(`${JSON.stringify(text)} is no condition: ready, members=N, node=URI[:STATUS], channel=NAME`);
}

function members(text: string, value: string): Condition {
  const wanted = /^\d{1,5}$/.test(value) ? Number(value) : 0;
  if (wanted < 1 || wanted > MEMBERS_MAX)
    throw new UsageError(`members=${value}: expected a number from 1 to ${MEMBERS_MAX}, this node is one of them`);
  return {
    text,
    unmet: ({ nodes }) => {
      const active = nodes.filter(({ status }) => status === "active").length;
      return active >= wanted ? undefined : String(active);
    },
  };
}

function node(text: string, value: string): Condition {
  const status = STATUSES.find((one) => value.endsWith(`:${one}`));
  const uri = withPort(checkUri("node", status === undefined ? value : value.slice(0, -status.length - 1)));
  return {
    text,
    unmet: ({ nodes }) => {
      const now = nodes.find((row) => row.uri === uri)?.status;
      return now === (status ?? "active") ? undefined : (now ?? "not known");
    },
  };
}

/** As `dmq list` shows it, where the port is always there. */
function withPort(uri: string): string {
  const match = /^(sips?):([^;@]*?)(;.*)?$/.exec(uri);
  if (match === null) return uri;
  const [, scheme = "", host = "", parameters = ""] = match;
  if (/:\d+$/.test(host) && !host.endsWith("]")) return uri;
  const port = scheme === "sips" || parameters.includes("transport=tls") ? 5061 : 5060;
  return `${scheme}:${host}:${port}${parameters}`;
}

function channel(text: string, value: string): Condition {
  checkChannelName(value);
  return {
    text,
    unmet: ({ status }) => {
      const found = status.channels.find(({ name }) => name === value);
      return (found?.consumers ?? 0) > 0 ? undefined : "nobody listens";
    },
  };
}

// --- waiting ---------------------------------------------------------------------------------------------------------

class Waiting {
  private readonly context: CliContext;
  private readonly client: RpcClient;
  private readonly conditions: readonly Condition[];
  private readonly timeoutMs: Duration | undefined;
  private readonly over = new AbortController();
  private wake: () => void = () => undefined;
  private isReached = false;
  private refusals = 0;
  /** Why it is not over yet. */
  private state: string = A_DAEMON;
  /** What is to come, for the line that stands while it waits. */
  private wanted: string = A_DAEMON;

  constructor(
    context: CliContext,
    client: RpcClient,
    conditions: readonly Condition[],
    timeoutMs: Duration | undefined,
  ) {
    this.context = context;
    this.client = client;
    this.conditions = conditions;
    this.timeoutMs = timeoutMs;
  }

  async done(): Promise<number> {
    const timer = this.timeoutMs === undefined ? undefined : setTimeout(() => this.end(), this.timeoutMs);
    const progress = progressLine(this.context);
    const startedAt = performance.now();
    progress?.start(() => `waiting for ${this.wanted}, ${Math.floor((performance.now() - startedAt) / 1_000)} s`);
    // Or the line would stand before the shell's next prompt.
    const deafen = this.context.onSignal(() => progress?.end());
    try {
      while (!this.over.signal.aborted) {
        if (await this.visit()) return EXIT.ok;
        await this.pause(RETRY_MS);
      }
    } finally {
      clearTimeout(timer);
      deafen();
      progress?.end();
    }
    this.context.stderr(`dmq: not within ${this.timeoutMs} ms: ${this.state}\n`);
    return this.isReached ? EXIT.timeout : EXIT.unreachable;
  }

  private end(): void {
    this.over.abort();
    this.wake();
  }

  /** @returns false where the daemon is not there, or went away. @throws RpcError where waiting is of no use */
  private async visit(): Promise<boolean> {
    try {
      return await this.watch();
    } catch (error) {
      if (this.over.signal.aborted) return false;
      if (!(error instanceof RpcError) || error.code !== "rpc-unreachable" || (await this.isHopeless())) throw error;
      this.wanted = A_DAEMON;
      this.state = this.isReached ? "a daemon that went away" : sayable(error.message);
      return false;
    }
  }

  /** No permission; or something answers there, again and again, and is not to be talked to. */
  private async isHopeless(): Promise<boolean> {
    const probe = await probeSocket(this.client.socketPath);
    this.refusals = probe === "answers" ? this.refusals + 1 : 0;
    return probe === "denied" || this.refusals === REFUSALS_MAX;
  }

  /** Looks, and looks again whenever something happens. */
  private async watch(): Promise<boolean> {
    const stop = new AbortController();
    const { promise: opened, resolve: onOpen } = Promise.withResolvers<void>();
    let isOpen = true;
    const following = this.follow(AbortSignal.any([stop.signal, this.over.signal]), onOpen).finally(() => {
      isOpen = false;
      this.wake();
      onOpen();
    });
    // Where both fail, a look tells of it first.
    following.catch(() => undefined);
    try {
      await opened;
      while (isOpen && !this.over.signal.aborted) {
        if (await this.holds()) return true;
        await this.pause(LOOK_MS);
      }
    } finally {
      stop.abort();
    }
    await following;
    return false;
  }

  private async follow(signal: AbortSignal, onOpen: () => void): Promise<void> {
    for await (const _event of this.client.stream("/events", signal, onOpen)) this.wake();
  }

  private async holds(): Promise<boolean> {
    const options = { timeoutMs: ANSWER_MS_MAX, signal: this.over.signal };
    const [status, nodes] = await Promise.all([
      this.client.call<StatusReport>("dmq.status", undefined, options),
      this.client.call<NodeRow[]>("dmq.list_nodes", undefined, options),
    ]);
    this.isReached = true;
    this.refusals = 0;
    const unmet = this.conditions.flatMap((one) => {
      const now = one.unmet({ status, nodes });
      return now === undefined ? [] : [`${one.text} (now: ${now})`];
    });
    this.state = unmet.join(", ");
    this.wanted = this.state;
    return unmet.length === 0;
  }

  /** Until something wakes it, at most so long. */
  private async pause(ms: Duration): Promise<void> {
    if (this.over.signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.wake = resolve;
    const timer = setTimeout(resolve, ms);
    await promise;
    clearTimeout(timer);
  }
}
