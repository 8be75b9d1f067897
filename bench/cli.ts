/**
 * How long a command takes as a whole process, from its start to its end: those of `dmq`, beside Kamailio's kamcmd and beside
 * the least that a process and a runtime cost here. The commands through the daemon ask a `dmq serve`, which sends to one
 * fake peer that answers at once.
 */
import { executable, program, server } from "./lib/compile.ts";
import { activePeers, nodesOf, startDaemon } from "./lib/daemon.ts";
import { figure, takeTurns } from "./lib/figures.ts";
import { kamailioProblem, startKamailio } from "./lib/kamailio.ts";
import { parseOptions } from "./lib/options.ts";
import { join, startPeers } from "./lib/peers.ts";
import { cell, plain, type Report, runBench } from "./lib/report.ts";

interface Command {
  readonly name: string;
  readonly words: readonly string[];
  /** Milliseconds that it may take. */
  readonly atMost?: number;
}

/** A program that does nothing, compiled as ours is: what every command takes at least. */
const EMPTY = "empty program, compiled by Bun";

/** Runs of each command in a turn; the first of them is not counted. */
const RUNS = 11;

async function commandsOf(report: Report): Promise<Command[]> {
  const dmq = executable();
  const daemon = await startDaemon();
  const peers = await startPeers(1);
  await join(peers, daemon.address, () => activePeers(daemon));
  const [peer] = await nodesOf(daemon);
  const { socket, ctl } = daemon;
  const send = [dmq, "send", "--socket", socket, "bench0000", peer as string, "good morning"];
  return [
    { name: "true", words: ["true"] },
    { name: EMPTY, words: [server("empty")] },
    { name: "dmq --version", words: [dmq, "--version"], atMost: 15 },
    { name: "dmq send, through the daemon", words: send, atMost: 20 },
    { name: "dmq list", words: [dmq, "list", "--socket", socket] },
    { name: "dmq status", words: [dmq, "status", "--socket", socket] },
    ...(await kamcmdOf(report, ctl)),
  ];
}

async function kamcmdOf(report: Report, ctl: string): Promise<Command[]> {
  const problem = kamailioProblem();
  if (problem !== undefined) {
    report.note(`kamcmd is left out: ${problem}`);
    return [];
  }
  const kamailio = await startKamailio("tlsf");
  return [
    { name: "kamcmd core.version, of Kamailio", words: ["kamcmd", "-s", `unix:${kamailio.ctl}`, "core.version"] },
    { name: "kamcmd dmq.list_nodes, of Kamailio", words: ["kamcmd", "-s", `unix:${kamailio.ctl}`, "dmq.list_nodes"] },
    { name: "kamcmd dmq.list_nodes, of dmq", words: ["kamcmd", "-s", `unix:${ctl}`, "dmq.list_nodes"] },
  ];
}

/** @returns milliseconds of each run of this turn */
function turnOf({ name, words }: Command): number[] {
  const done = Bun.spawnSync([program("spawn"), String(RUNS), ...words], { stdout: "pipe", stderr: "pipe" });
  if (!done.success) throw new Error(`${name}: ${done.stderr.toString()}`);
  const lines = done.stdout.toString().trim().split("\n").slice(1);
  return lines.map((line) => Number(line) / 1e6);
}

const options = parseOptions(process.argv.slice(2));

await runBench("cli", options, async (report) => {
  const commands = await commandsOf(report);
  const results = await takeTurns(commands, options.turns, async (command) => turnOf(command));
  const medians = (all: readonly number[][]) => figure(all.map((runs) => figure(runs).median));
  const floor = medians([...results].find(([{ name }]) => name === EMPTY)?.[1] ?? []).median;
  report.table(
    `whole process, ${RUNS - 1} runs a turn`,
    [...results].map(([{ name }, all]) => ({
      name,
      cells: {
        ms: cell(medians(all), 2),
        "above empty": plain(medians(all).median - floor, 2),
        fastest: plain(Math.min(...all.flat()), 2),
        slowest: plain(Math.max(...all.flat()), 2),
      },
    })),
  );
  for (const [{ name, atMost }, all] of results)
    if (atMost !== undefined) report.goal({ name, measured: medians(all).median, unit: "ms", atMost });
});
