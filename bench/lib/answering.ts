/** One turn of a server that answers the generator, and the rows that come out of many. */
import type { Contender } from "./contenders.ts";
import { column, type Figure, figure, ratio } from "./figures.ts";
import { faultOf, type LoadPlan, type LoadResult, load } from "./load.ts";
import { type Cell, cell, plain, type Report } from "./report.ts";

export interface Turn extends LoadResult {
  /** CPU time of the server for one answer. */
  readonly cpuUs: number;
  readonly residentMiB: number;
  /** What the node's handlers counted meanwhile; `undefined` for a server that does not count. */
  readonly handled: number | undefined;
}

export async function turnOf(contender: Contender, plan: Omit<LoadPlan, "to" | "transport">): Promise<Turn> {
  const handled = await handledBy(contender);
  const before = contender.program.usage();
  const result = await load({ ...plan, to: contender.address, transport: contender.transport });
  const after = contender.program.usage();
  const end = await handledBy(contender);
  return {
    ...result,
    handled: handled === undefined || end === undefined ? undefined : end - handled,
    cpuUs: ((after.cpuMs - before.cpuMs) * 1_000) / result.answered,
    residentMiB: after.residentKiB / 1_024,
  };
}

async function handledBy({ name, program }: Contender): Promise<number | undefined> {
  if (!name.startsWith("dmq")) return undefined;
  return (await program.ask<{ handled: number }>("stats")).handled;
}

/** The row of a contender whose answers were counted as fast as they came. */
export function closedRow(contender: Contender, turns: readonly Turn[]): { name: string; cells: Record<string, Cell> } {
  return {
    name: contender.name,
    cells: {
      "answers/s": cell(figure(column(turns, ({ rate }) => rate))),
      "CPU µs": cell(figure(column(turns, ({ cpuUs }) => cpuUs)), 2),
      "p50 µs": cell(figure(column(turns, ({ p50 }) => p50)), 0),
      "p99 µs": cell(figure(column(turns, ({ p99 }) => p99)), 0),
      MiB: plain(turns.at(-1)?.residentMiB ?? 0),
      lost: plain(column(turns, ({ lost }) => lost).reduce((sum, one) => sum + one, 0)),
      "generator idle": plain(figure(column(turns, ({ idle }) => idle)).median * 100, 0, " %"),
    },
  };
}

/**
 * Tells what is wrong with the answers of these turns, at either end: what was answered was handled, and nothing was handled
 * that was not sent.
 */
export function checkAnswers(report: Report, contender: Contender, turns: readonly Turn[]): void {
  for (const turn of turns) {
    const fault = faultOf(turn);
    if (fault !== undefined) report.fault(`${contender.name}: ${fault}`);
    const { handled, sent, answered } = turn;
    if (handled !== undefined && (handled < answered || handled > sent))
      report.fault(`${contender.name}: ${handled} messages were handled, ${sent} sent and ${answered} answered`);
  }
}

export function rateRatio(turns: ReadonlyMap<Contender, Turn[]>, over: string, under: string): Figure | undefined {
  const find = (name: string): Turn[] | undefined => [...turns].find(([contender]) => contender.name === name)?.[1];
  const [a, b] = [find(over), find(under)];
  if (a === undefined || b === undefined) return undefined;
  return ratio(
    column(a, ({ rate }) => rate),
    column(b, ({ rate }) => rate),
  );
}
