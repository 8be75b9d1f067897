/**
 * What a node keeps resident: idle, and after a million and ten million messages that a handler took (a tenth of that with
 * --quick). The generator sends as fast as it is answered, so that what a node remembers of each message is at its most.
 */
import { type Contender, startContender } from "./lib/contenders.ts";
import { startDaemon } from "./lib/daemon.ts";
import { kamailioProblem } from "./lib/kamailio.ts";
import { faultOf, load } from "./lib/load.ts";
import { isWanted, parseOptions } from "./lib/options.ts";
import type { Program } from "./lib/process.ts";
import { plain, type Report, runBench } from "./lib/report.ts";

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

const options = parseOptions(process.argv.slice(2));

await runBench("memory", options, async (report) => {
  const million = options.quick ? 30_000 : 1_000_000;
  if (options.quick) report.note(`a million is ${million} here: the short form shows that it works`);
  await idle(report);
  const rows = [];
  for (const name of ["dmq", "kamailio tlsf"] as const) {
    if (!isWanted(name, options.only)) continue;
    if (name !== "dmq" && kamailioProblem() !== undefined) continue;
    const contender = await startContender(name);
    await Bun.sleep(IDLE_MS / 3);
    const seen = await fill(report, contender, million);
    await Bun.sleep(IDLE_MS);
    const after = residentMiB(contender.program);
    const marks = seen.slice(1).map((mib, i) => [`${MARKS[i]} million`, plain(mib, 1)] as const);
    const cells = { start: plain(seen[0] as number, 1), ...Object.fromEntries(marks), "idle after": plain(after, 1) };
    rows.push({ name, cells });
    if (name === "dmq") goals(report, seen);
    await contender.program.end();
  }
  report.table("MiB resident", rows);
});

function goals(report: Report, seen: readonly number[]): void {
  const [first, last] = [seen[1], seen[MARKS.length]];
  // Without the last mark there is nothing to say yet.
  if (first === undefined || last === undefined) return;
  report.goal({ name: "memory after 10 million", measured: last, unit: "MiB", atMost: 90 });
  report.goal({ name: "memory after 10 million over 1 million", measured: last / first, unit: "×", atMost: 1.1 });
}
