/**
 * How many KDMQ requests a second a node takes, handles and answers over UDP, on one core: closed loop (64 under way, as fast
 * as they are answered), and open loop (requests come when they come).
 */
import { checkAnswers, closedRow, rateRatio, type Turn, turnOf } from "./lib/answering.ts";
import { type Contender, type ContenderName, startContenders } from "./lib/contenders.ts";
import { column, figure, takeTurns } from "./lib/figures.ts";
import { parseOptions } from "./lib/options.ts";
import { cell, plain, type Report, runBench } from "./lib/report.ts";

const NAMES: readonly ContenderName[] = [
  ...(["dmq", "dmq inline", "kamailio tlsf", "kamailio qm", "npm sip", "bun canned", "c echo"] as const),
];

const BODIES = [100, 1_000];

/** The first turn, which does not count: the first seconds of a process are spent on making its code fast. */
const WARM_SECONDS = 5;

/** Share of the slowest own maximum among ours and Kamailio's that the open loop asks of everybody. */
const OPEN_SHARE = 0.8;

/** @returns the turns of the smallest body */
async function closed(
  report: Report,
  contenders: readonly Contender[],
  body: number,
): Promise<ReadonlyMap<Contender, Turn[]> | undefined> {
  const { seconds, turns } = report.options;
  const results = await takeTurns(contenders, turns, (contender) => turnOf(contender, { seconds, body }));
  for (const [contender, all] of results) checkAnswers(report, contender, all);
  report.table(
    `closed loop, ${body} octets`,
    [...results].map(([contender, all]) => closedRow(contender, all)),
  );
  for (const [under, atLeast] of [
    ["kamailio tlsf", 2],
    ["kamailio qm", 8],
    ["c echo", 0.42],
  ] as const) {
    const measured = rateRatio(results, "dmq", under)?.median;
    if (measured !== undefined)
      report.goal({ name: `receive ${body} octets, dmq over ${under}`, measured, unit: "×", atLeast });
  }
  return body === BODIES[0] ? results : undefined;
}

async function open(report: Report, first: ReadonlyMap<Contender, Turn[]>): Promise<void> {
  const { seconds, turns } = report.options;
  const compared = [...first].filter(([{ name }]) => !["kamailio qm", "npm sip"].includes(name));
  const rate = OPEN_SHARE * Math.min(...compared.map(([, all]) => figure(column(all, (turn) => turn.rate)).median));
  const contenders = compared.map(([contender]) => contender);
  const results = await takeTurns(contenders, turns, (contender) => turnOf(contender, { seconds, rate }));
  report.table(
    `open loop, 100 octets, ${Math.round(rate)} requests/s`,
    [...results].map(([{ name }, all]) => ({
      name,
      cells: {
        "answers/s": cell(figure(column(all, (turn) => turn.rate))),
        "CPU µs": cell(figure(column(all, ({ cpuUs }) => cpuUs)), 2),
        "p50 µs": cell(figure(column(all, ({ p50 }) => p50))),
        "p99 µs": cell(figure(column(all, ({ p99 }) => p99))),
        "p99.9 µs": cell(figure(column(all, ({ p999 }) => p999))),
        lost: plain(column(all, ({ lost }) => lost).reduce((sum, one) => sum + one, 0)),
      },
    })),
  );
}

const options = parseOptions(process.argv.slice(2));

await runBench("receive", options, async (report) => {
  const contenders = await startContenders(NAMES, options.only);
  for (const contender of contenders) await turnOf(contender, { seconds: options.quick ? 0.7 : WARM_SECONDS });
  let first: ReadonlyMap<Contender, Turn[]> | undefined;
  for (const body of BODIES) first = (await closed(report, contenders, body)) ?? first;
  if (first !== undefined) await open(report, first);
});
