/** What the benchmarks with a broker have in common: a broker of their own, and what a turn of a contender came to. */
import { brokerProblem, startBrokers } from "../../test/helpers/rabbitmq.ts";
import { column, figure } from "./figures.ts";
import { type Cell, cell, type Report } from "./report.ts";

export interface Turn {
  readonly rate: number;
  /** Of the contender's process, all its threads, for each message. */
  readonly cpuUs: number;
}

export function cellsOf(turns: readonly Turn[] = []): Record<string, Cell> {
  return {
    "a second": cell(figure(column(turns, ({ rate }) => rate))),
    "µs of CPU": cell(figure(column(turns, ({ cpuUs }) => cpuUs)), 1),
  };
}

/**
 * Measures with a fresh broker, which is where the kernel has it; where there is none, the report says so and nothing is measured.
 *
 * @param measure  is given the broker's URL and process
 */
export async function withBroker(report: Report, measure: (url: string, pid: number) => Promise<void>): Promise<void> {
  const problem = brokerProblem();
  if (problem !== undefined) {
    report.note(`nothing is measured: ${problem}`);
    return;
  }
  const brokers = await startBrokers();
  try {
    await measure(brokers.url(), brokers.pid());
  } finally {
    await brokers.down();
  }
}
