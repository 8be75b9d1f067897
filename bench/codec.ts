/**
 * What it costs to read a request and to write its answer, without a socket: nanoseconds, and octets that the collector has
 * to clean up, for one message; beside the npm package `sip`, which parses and stringifies.
 *
 * Allocation is what JavaScriptCore's own log of its collections says was allocated between two of them (BUN_JSC_logGC), in a
 * run of its own, because writing that log takes time.
 */
import { join } from "node:path";
import { column, figure, ratio, takeTurns } from "./lib/figures.ts";
import { pinned, ROOT } from "./lib/machine.ts";
import { parseOptions } from "./lib/options.ts";
import { cell, type Report, runBench } from "./lib/report.ts";

const WAYS = [
  { way: "alike", name: "dmq, like the last one, read and check" },
  { way: "alike-answer", name: "dmq, like the last one, and answer" },
  { way: "scan", name: "dmq, ordinary, read and check" },
  { way: "scan-answer", name: "dmq, ordinary, and answer" },
  { way: "parse", name: "dmq, parse" },
  { way: "check", name: "dmq, parse and check" },
  { way: "answer", name: "dmq, parse, check and answer" },
  { way: "sip-parse", name: "npm sip, parse" },
  { way: "sip-answer", name: "npm sip, parse and answer" },
] as const;

/** Length of the run in which allocation is counted. */
const COUNTED_NS = 3e9;

type Way = (typeof WAYS)[number];

interface Turn {
  readonly ns: number;
  readonly octets: number;
}

interface Ran {
  readonly stdout: string;
  readonly stderr: string;
}

async function runLoop(way: string, count: number, env: Record<string, string>): Promise<Ran> {
  const script = join(ROOT, "bench", "servers", "codec-loop.ts");
  const child = Bun.spawn(pinned("server", [process.execPath, script, way, String(count)]), {
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...env },
  });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`codec-loop ${way} ended with ${code}: ${stderr.slice(-500)}`);
  return { stdout, stderr };
}

async function turnOf({ way }: Way, { options: { seconds } }: Report): Promise<Turn> {
  const probe = Number((await runLoop(way, 20_000, {})).stdout);
  const count = Math.max(20_000, Math.round((seconds * 1e9) / probe));
  const timed = await runLoop(way, count, {});
  // What is left in the last cycle is not logged: with so many messages it is a few octets each.
  const many = Math.min(2_000_000, Math.max(100_000, Math.round(COUNTED_NS / probe)));
  const counted = await runLoop(way, many, { BUN_JSC_logGC: "1" });
  const between = counted.stderr.split("MARK\n")[1] ?? "";
  const cycles = [...between.matchAll(/bytes allocated this cycle: (\d+) exceed/g)];
  const octets = cycles.reduce((sum, [, size]) => sum + Number(size), 0) / many;
  return { ns: Number(timed.stdout), octets };
}

const options = parseOptions(process.argv.slice(2));

await runBench("codec", options, async (report) => {
  const results = await takeTurns(WAYS, options.turns, (way) => turnOf(way, report));
  report.table(
    "one message of 100 octets",
    [...results].map(([{ name }, all]) => ({
      name,
      cells: {
        ns: cell(figure(column(all, ({ ns }) => ns))),
        "octets allocated": cell(figure(column(all, ({ octets }) => octets))),
      },
    })),
  );
  const of = (wanted: Way["way"]): Turn[] => [...results].find(([{ way }]) => way === wanted)?.[1] ?? [];
  // What a sender's messages are, one after the other.
  const [ours, theirs] = [of("alike-answer"), of("sip-answer")];
  const ns = (turns: Turn[]): number[] => column(turns, (turn) => turn.ns);
  const octets = figure(column(ours, (turn) => turn.octets)).median;
  report.goal({ name: "codec, parse, check and answer", measured: figure(ns(ours)).median, unit: "ns", atMost: 1_000 });
  report.note(`two senders in turn, parse, check and answer: ${Math.round(figure(ns(of("scan-answer"))).median)} ns`);
  report.goal({ name: "codec, allocated for it", measured: octets, unit: "octets", atMost: 200 });
  const measured = ratio(ns(theirs), ns(ours)).median;
  report.goal({ name: "codec, npm sip over dmq", measured, unit: "×", atLeast: 5 });
});
