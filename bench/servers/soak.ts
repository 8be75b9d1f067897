/**
 * The daemon as `dmq serve` starts it, with one channel more: `bench0000`, whose handler runs inline, as only a program has it. Further
 * words are options of `dmq serve`, `--name value` each. Commands are lines on stdin, each answered by a line of JSON:
 *
 *   stats     what the inline handler counted, the node's counters, and what it still has under way
 *   delay     how late the event loop was since the last time, in milliseconds
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import { loadConfig } from "../../src/config/load.ts";
import type { Logger } from "../../src/core/logger.ts";
import { startDaemon } from "../../src/daemon/daemon.ts";
import type { RunningNode } from "../../src/index.ts";
import { commands } from "./commands.ts";

const NANOSECONDS_PER_MS = 1e6;

const log: Logger = {
  error: (text) => console.error(text),
  warn: (text) => console.error(text),
  info: () => undefined,
  debug: () => undefined,
  trace: () => undefined,
};

function optionsOf(words: readonly string[]): Map<string, string[]> {
  const options = new Map<string, string[]>();
  for (let i = 0; i < words.length; i += 2) {
    const name = (words[i] as string).slice(2).replaceAll("-", "_");
    options.set(name, [...(options.get(name) ?? []), words[i + 1] as string]);
  }
  return options;
}

let handled = 0;
let node: RunningNode | undefined;

function prepare(fresh: RunningNode): void {
  node = fresh;
  const count = (): void => {
    handled++;
  };
  fresh.channel("bench0000", count, { mode: "inline" });
}

const delays = monitorEventLoopDelay({ resolution: 1 });

async function delay(): Promise<object> {
  const [p50, p99, p999] = [50, 99, 99.9].map((share) => delays.percentile(share) / NANOSECONDS_PER_MS);
  const answer = { count: delays.count, p50, p99, p999, max: delays.max / NANOSECONDS_PER_MS };
  delays.reset();
  return answer;
}

async function stats(): Promise<object> {
  const peers = node?.nodes() ?? [];
  const open = peers.reduce((sum, { inFlight, queued }) => sum + inFlight + queued, 0);
  const active = peers.filter(({ status }) => status === "active").length;
  return { handled, open, active, peers: peers.length, counters: node?.counters() };
}

async function main(): Promise<void> {
  const { config } = loadConfig({ flags: optionsOf(process.argv.slice(2)), env: { XDG_CONFIG_HOME: "/nonexistent" } });
  await startDaemon(config, { log, onNode: prepare });
  delays.enable();
  await commands({ stats, delay });
}

main();
