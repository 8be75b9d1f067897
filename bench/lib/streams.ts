/** KDMQ over connections, pipelined: what tcp.ts and tls.ts have in common. */
import { checkAnswers, closedRow, rateRatio, turnOf } from "./answering.ts";
import { type ContenderName, type StartOptions, startContenders } from "./contenders.ts";
import { takeTurns } from "./figures.ts";
import type { Report } from "./report.ts";

/** Connections of the generator, and requests under way on all of them together. */
const SHAPES = [
  { connections: 1, outstanding: 64 },
  { connections: 8, outstanding: 128 },
];

export async function measureStreams(
  report: Report,
  names: readonly ContenderName[],
  start: StartOptions,
  atLeast: number,
): Promise<void> {
  const { seconds, turns, only, quick } = report.options;
  const contenders = await startContenders(names, only, start);
  for (const shape of SHAPES) {
    // The C echo serves one connection after the other.
    const able = contenders.filter(({ name }) => name !== "c echo" || shape.connections === 1);
    for (const contender of able) await turnOf(contender, { seconds: quick ? 0.7 : 2, ...shape });
    const results = await takeTurns(able, turns, (contender) => turnOf(contender, { seconds, ...shape }));
    for (const [contender, all] of results) checkAnswers(report, contender, all);
    const what = `${shape.connections} ${shape.connections === 1 ? "connection" : "connections"}`;
    report.table(
      `${start.transport}, ${what}, ${shape.outstanding} under way, 100 octets`,
      [...results].map(([contender, all]) => closedRow(contender, all)),
    );
    const measured = rateRatio(results, "dmq", "kamailio tlsf")?.median;
    const name = `${start.transport}, ${what}, dmq over kamailio tlsf`;
    if (measured !== undefined) report.goal({ name, measured, unit: "×", atLeast });
  }
}
