/**
 * How long an answer takes when the server is half busy: requests come at a given rate whatever comes back (open loop), and
 * the time counts from when each was due. Each server at half of its own maximum; and ours and Kamailio's at the same
 * absolute rates, at half of ours and at half of Kamailio's.
 */
import { checkAnswers, type Turn, turnOf } from "./lib/answering.ts";
import { type Contender, type ContenderName, startContenders } from "./lib/contenders.ts";
import { column, figure, ratio, takeTurns } from "./lib/figures.ts";
import { parseOptions } from "./lib/options.ts";
import { cell, plain, type Report, runBench } from "./lib/report.ts";

const NAMES: readonly ContenderName[] = ["dmq", "kamailio tlsf", "kamailio qm", "c echo"];

const LOAD = 0.5;

/** A server at a rate. */
interface Try {
  readonly contender: Contender;
  readonly rate: number;
  readonly why: string;
}

/** Of its closed loop, after it is warm. */
async function maximum(contender: Contender, quick: boolean): Promise<number> {
  await turnOf(contender, { seconds: quick ? 0.7 : 2 });
  const all = [];
  for (let i = 0; i < 3; i++) all.push((await turnOf(contender, { seconds: quick ? 0.5 : 1 })).rate);
  return figure(all).median;
}

function tries(maxima: ReadonlyMap<Contender, number>): Try[] {
  const own = [...maxima].map(([contender, max]) => ({ contender, rate: LOAD * max, why: "half of its own maximum" }));
  const find = (name: string) => own.find(({ contender }) => contender.name === name);
  const [ours, theirs] = [find("dmq"), find("kamailio tlsf")];
  if (ours === undefined || theirs === undefined) return own;
  const crossed = [
    { contender: theirs.contender, rate: ours.rate, why: "half of dmq's maximum" },
    { contender: ours.contender, rate: theirs.rate, why: "half of kamailio tlsf's maximum" },
  ];
  // Those that are compared come one after the other: a second later the machine may be another.
  return [...own, ...crossed].sort((a, b) => a.rate - b.rate);
}

function goal(report: Report, results: ReadonlyMap<Try, Turn[]>, where: "dmq" | "kamailio tlsf"): void {
  const all = [...results];
  const rate = all.find(([{ contender, why }]) => contender.name === where && why.startsWith("half of its"))?.[0].rate;
  const at = (name: string) => all.find(([one]) => one.contender.name === name && one.rate === rate)?.[1];
  const [ours, theirs] = [at("dmq"), at("kamailio tlsf")];
  if (ours === undefined || theirs === undefined) return;
  const p99 = (turns: readonly Turn[]): number[] => column(turns, (turn) => turn.p99);
  const measured = ratio(p99(ours), p99(theirs)).median;
  const name = `p99 of dmq over that of kamailio tlsf, both at half of ${where}'s maximum`;
  report.goal({ name, measured, unit: "×", atMost: 1 });
}

const options = parseOptions(process.argv.slice(2));

await runBench("latency", options, async (report) => {
  const contenders = await startContenders(NAMES, options.only);
  const maxima = new Map<Contender, number>();
  for (const contender of contenders) maxima.set(contender, await maximum(contender, options.quick));
  const { seconds, turns } = options;
  const results = await takeTurns(tries(maxima), turns, ({ contender, rate }) => turnOf(contender, { seconds, rate }));
  for (const [{ contender }, all] of results) checkAnswers(report, contender, all);
  report.table(
    "open loop, 100 octets",
    [...results].map(([{ contender, rate, why }, all]) => ({
      name: `${contender.name}, ${why}`,
      cells: {
        "requests/s": plain(rate),
        "p50 µs": cell(figure(column(all, ({ p50 }) => p50))),
        "p99 µs": cell(figure(column(all, ({ p99 }) => p99))),
        "p99.9 µs": cell(figure(column(all, ({ p999 }) => p999))),
        "CPU µs": cell(figure(column(all, ({ cpuUs }) => cpuUs)), 2),
        lost: plain(column(all, ({ lost }) => lost).reduce((sum, one) => sum + one, 0)),
      },
    })),
  );
  for (const where of ["dmq", "kamailio tlsf"] as const) goal(report, results, where);
});
