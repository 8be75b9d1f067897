import { UsageError } from "../core/errors.ts";
import type { PingResult } from "../rpc/surface.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS, sayable } from "./command.ts";
import { type Caller, VIA_OPTIONS, withCaller } from "./connect.ts";
import type { CliContext } from "./context.ts";
import { EXIT, exitOfBroadcast } from "./exit.ts";
import { checkUri } from "./message.ts";
import { type Cell, formOf, type OutputForm, writeJson, writeRows } from "./output.ts";
import { ANSWER_MS_MAX } from "./socket.ts";
import { readCount, readDuration } from "./stream.ts";

const TIMEOUT_MS = 2_000;
const INTERVAL_MS = 1_000;

/** A ping is a whole node list: what is sent faster is no measurement, but load. */
const INTERVAL_MS_MIN = 100;

/** The daemon's own bound. */
const TIMEOUT_MS_MAX = 3_600_000;

export const ping: CommandSpec = {
  name: "ping",
  summary: "round trips to nodes: to all peers, or to those that are named",
  examples: [
    ["dmq ping", "every peer once, whatever its status; prints NODE CODE REASON MS"],
    ["dmq ping -c 5 -i 500ms sip:192.0.2.2:5060", "one node five times"],
    ["dmq ping --json | jq -r 'select(.outcome != \"delivered\") | .node'", "who does not answer"],
  ],
  positionals: [{ name: "NODE", required: false, repeatable: true, help: "SIP URI of a node, as `dmq list` shows it" }],
  options: [
    { flag: "count", short: "c", value: "COUNT", help: "so many rounds (1)" },
    { flag: "interval", short: "i", value: "DURATION", help: "between the beginnings of rounds (1s, at least 100ms)" },
    { flag: "timeout", value: "DURATION", help: "for one answer (2s)" },
    ...VIA_OPTIONS,
    ...FORM_OPTIONS,
  ],
  notes: [
    "A ping is what the nodes of the bus send each other all the time, so a Kamailio answers it as it is. Neither status nor",
    "fail count of a node changes by it. --json gives an object a line; `round` counts from 1. Why a node is unreachable is on",
    "stderr, once as long as it stays the same.",
  ],
  exits: [
    [EXIT.ok, "all answered, each time"],
    [EXIT.notFound, "a node is not known, there is none, or all answered 404"],
    [EXIT.unreachable, "no daemon, or all are unreachable"],
    [EXIT.refused, "all refused"],
    [EXIT.timeout, "nobody answered in time"],
    [EXIT.partial, "some answered"],
    [EXIT.no, "nobody, for different reasons"],
  ],
  seeAlso: ["dmq list", "dmq wait"],
  async run(context, args) {
    const rounds = readRounds(args);
    const nodes = args.positionals.map((uri) => checkUri("NODE", uri));
    return withCaller(context, args, (caller) => pingAll(context, args, caller, nodes, rounds));
  },
};

interface Rounds {
  count: number;
  intervalMs: number;
  timeoutMs: number;
}

function readRounds(args: Arguments): Rounds {
  const timeoutMs = Math.ceil(readDuration(args, "timeout") ?? TIMEOUT_MS);
  if (timeoutMs > TIMEOUT_MS_MAX) throw new UsageError(`--timeout ${args.value("timeout")}: expected at most 1h`);
  return {
    count: readCount(args, "count", 1),
    intervalMs: readDuration(args, "interval", INTERVAL_MS_MIN) ?? INTERVAL_MS,
    timeoutMs,
  };
}

async function pingAll(
  context: CliContext,
  args: Arguments,
  caller: Caller,
  nodes: readonly string[],
  { count, intervalMs, timeoutMs }: Rounds,
): Promise<number> {
  const form = formOf(context, args);
  const params = { ...(nodes.length > 0 && { nodes }), timeout_ms: timeoutMs };
  const tally = new Map<string, number[]>();
  const exits = new Exits();
  const causes = new Map<string, string>();
  for (let round = 1; round <= count && !context.outputClosed.aborted; round++) {
    const beganAt = performance.now();
    const options = { timeoutMs: timeoutMs + ANSWER_MS_MAX };
    const results = await caller.call<PingResult[]>("dmq.ping", params, options);
    write(context, form, results, round);
    sayCauses(context, results, causes);
    exits.add(results);
    for (const result of results) keep(tally, result);
    if (round < count) await Bun.sleep(Math.max(0, intervalMs - (performance.now() - beganAt)));
  }
  if (count > 1 && context.isTty.stderr) for (const [node, times] of tally) context.stderr(summary(node, times));
  if (exits.isEmpty()) context.stderr("dmq: there is no peer to ping; dmq list shows the nodes\n");
  return exits.code();
}

/** All rounds as one: a number of rounds without a bound must not need memory without one. */
class Exits {
  private readonly byCode = new Map<number, PingResult>();

  add(results: readonly PingResult[]): void {
    for (const result of results) this.byCode.set(codeOf([result]), result);
  }

  isEmpty(): boolean {
    return this.byCode.size === 0;
  }

  code(): number {
    return codeOf([...this.byCode.values()]);
  }
}

function codeOf(results: readonly PingResult[]): number {
  const deliveries = results.map((result) => ({ ...result, consumer: true, tries: 1, message_id: null }));
  return exitOfBroadcast(deliveries, { type: "all" });
}

function write(context: CliContext, form: OutputForm, results: readonly PingResult[], round: number): void {
  if (form === "json") for (const result of results) writeJson(context, { round, ...result });
  else writeRows(context, form, [], results.map(cells));
}

/** On stderr, as the words of a cause may change: why a node cannot be reached, once for each cause that it has in a row. */
function sayCauses(context: CliContext, results: readonly PingResult[], said: Map<string, string>): void {
  for (const { node, outcome, reason } of results) {
    if (outcome !== "unreachable") said.delete(node);
    else if (said.get(node) !== reason) {
      said.set(node, reason);
      context.stderr(`dmq: ${sayable(`${node}: ${reason}`)}\n`);
    }
  }
}

function cells({ node, code, reason, outcome, ms }: PingResult): Cell[] {
  return [node, code, code === null ? outcome : reason, ms.toFixed(1)];
}

/** Times of the answers by node; the latest 1,000 of each. */
const TIMES_MAX = 1_000;

function keep(tally: Map<string, number[]>, { node, outcome, ms }: PingResult): void {
  const times = tally.get(node) ?? [];
  tally.set(node, times);
  times.push(outcome === "delivered" ? ms : Number.NaN);
  if (times.length > TIMES_MAX) times.shift();
}

function summary(node: string, times: readonly number[]): string {
  const answered = times.filter((ms) => !Number.isNaN(ms));
  const facts = `${node}: ${times.length} sent, ${answered.length} answered`;
  if (answered.length === 0) return `${facts}\n`;
  const mean = answered.reduce((sum, ms) => sum + ms, 0) / answered.length;
  const span = [Math.min(...answered), mean, Math.max(...answered)].map((ms) => ms.toFixed(1)).join("/");
  return `${facts}, min/mean/max ${span} ms\n`;
}
