/**
 * What a node keeps resident: idle, and after a million and ten million messages that a handler took (a tenth of that with
 * --quick). The generator sends as fast as it is answered, so that what a node remembers of each message is at its most.
 */
import { type Contender, type ContenderName, startContender } from "./lib/contenders.ts";
import { startDaemon } from "./lib/daemon.ts";
import { figure, ratio } from "./lib/figures.ts";
import { kamailioProblem } from "./lib/kamailio.ts";
import { faultOf, load } from "./lib/load.ts";
import { isWanted, parseOptions } from "./lib/options.ts";
import type { Program } from "./lib/process.ts";
import { type Cell, cell, type Report, runBench } from "./lib/report.ts";

/** Millions of messages after which it is looked. */
const MARKS = [1, 2, 5, 10];

/** Between two marks. A node that needs longer for five million messages is not looked at any further. */
const SECONDS_MAX = 150;

/** What a node frees late it frees while it is idle. */
const IDLE_MS = 3_000;

function residentMiB(program: Program): number {
  return program.usage().residentKiB / 1_024;
}

async function idle(report: Report): Promise<void> {
  const daemon = await startDaemon();
  await Bun.sleep(IDLE_MS);
  const measured = residentMiB(daemon.program);
  report.goal({ name: "memory, dmq serve, idle", measured, unit: "MiB", atMost: 60 });
  await daemon.program.end();
}

/** @returns MiB before the first message, and at each mark that was reached in time */
async function fill(report: Report, contender: Contender, million: number): Promise<number[]> {
  const seen = [residentMiB(contender.program)];
  let sent = 0;
  for (const mark of MARKS) {
    const count = mark * million - sent;
    const result = await load({ to: contender.address, seconds: SECONDS_MAX, count });
    const fault = faultOf(result);
    if (fault !== undefined) report.fault(`${contender.name}: ${fault}`);
    if (result.sent < count) {
      report.note(`${contender.name} answered ${result.answered} of ${count} in ${SECONDS_MAX} s: too slow to go on`);
      break;
    }
    sent += count;
    seen.push(residentMiB(contender.program));
  }
  return seen;
}

/** What one process kept: before, at each mark, and a while later. */
interface Kept {
  readonly seen: readonly number[];
  readonly after: number;
}

async function turn(report: Report, name: ContenderName, million: number): Promise<Kept> {
  const contender = await startContender(name);
  await Bun.sleep(IDLE_MS / 3);
  const seen = await fill(report, contender, million);
  await Bun.sleep(IDLE_MS);
  const after = residentMiB(contender.program);
  await contender.program.end();
  return { seen, after };
}

function cellsOf(turns: readonly Kept[]): Record<string, Cell> {
  const at = (i: number): Cell => cell(figure(turns.flatMap(({ seen }) => seen[i] ?? [])), 1);
  const reached = Math.min(...turns.map(({ seen }) => seen.length));
  const marks = MARKS.slice(0, reached - 1).map((mark, i) => [`${mark} million`, at(i + 1)] as const);
  const after = cell(figure(turns.map((one) => one.after)), 1);
  return { start: at(0), ...Object.fromEntries(marks), "idle after": after };
}

function goals(report: Report, turns: readonly Kept[]): void {
  const first = turns.map(({ seen }) => seen[1] as number);
  const last = turns.flatMap(({ seen }) => seen[MARKS.length] ?? []);
  // Without the last mark there is nothing to say yet.
  if (last.length < turns.length) return;
  const grown = ratio(last, first).median;
  report.goal({ name: "memory after 10 million", measured: figure(last).median, unit: "MiB", atMost: 90 });
  report.goal({ name: "memory after 10 million over 1 million", measured: grown, unit: "×", atMost: 1.1 });
}

const options = parseOptions(process.argv.slice(2));

await runBench("memory", options, async (report) => {
  const million = options.quick ? 30_000 : 1_000_000;
  if (options.quick) report.note(`a million is ${million} here: the short form shows that it works`);
  await idle(report);
  const rows = [];
  for (const name of ["dmq", "kamailio tlsf"] as const) {
    if (!isWanted(name, options.only)) continue;
    if (name !== "dmq" && kamailioProblem() !== undefined) continue;
    const turns: Kept[] = [];
    // A Kamailio takes minutes for ten million, and its memory is one piece from the start: one turn says all.
    for (let i = 0; i < (name === "dmq" ? options.turns : 1); i++) turns.push(await turn(report, name, million));
    rows.push({ name, cells: cellsOf(turns) });
    if (name === "dmq") goals(report, turns);
  }
  report.table("MiB resident", rows);
});
