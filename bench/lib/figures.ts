/**
 * From single measurements to figures: the median, how far the turns lie apart, and ratios taken turn by turn, because the
 * cores of one machine drift and only what was measured next to each other can be compared.
 */

export interface Figure {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** (max − min) / median; 0 where there is one value. */
  readonly spread: number;
  readonly values: readonly number[];
}

/** @throws Error where there is no value */
export function figure(values: readonly number[]): Figure {
  if (values.length === 0) throw new Error("a figure needs at least one measurement");
  const sorted = [...values].sort((a, b) => a - b);
  const [min, max] = [sorted[0] as number, sorted.at(-1) as number];
  const median = middle(sorted);
  return { median, min, max, spread: median === 0 ? 0 : (max - min) / median, values };
}

function middle(sorted: readonly number[]): number {
  const half = sorted.length >> 1;
  const upper = sorted[half] as number;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] as number) + upper) / 2;
}

/** Turn by turn: `a` of a turn over `b` of the same turn. */
export function ratio(a: readonly number[], b: readonly number[]): Figure {
  const count = Math.min(a.length, b.length);
  return figure(a.slice(0, count).map((value, i) => value / (b[i] as number)));
}

/**
 * Gives each contender one turn after the other, and that so many times. The order turns round every time, so that nobody
 * always follows the same neighbour.
 *
 * @returns the results of each contender, in the order of the turns
 */
export async function takeTurns<C, R>(
  contenders: readonly C[],
  turns: number,
  turn: (contender: C) => Promise<R>,
): Promise<Map<C, R[]>> {
  const results = new Map<C, R[]>(contenders.map((contender) => [contender, []]));
  for (let i = 0; i < turns; i++) {
    const order = i % 2 === 0 ? contenders : [...contenders].reverse();
    for (const contender of order) results.get(contender)?.push(await turn(contender));
  }
  return results;
}

/** One member of all results. */
export function column<R>(results: readonly R[] | undefined, read: (result: R) => number): number[] {
  return (results ?? []).map(read);
}
