/**
 * Makes a failing story shorter: faults are left out, first half of them, then quarters, at last one by one, for as long as the
 * same thing breaks. What is left is seldom the least possible, but a ladder that one can read.
 */
import { type Exploration, explore, type Telling } from "./schedule.ts";

export interface Shrunk {
  readonly run: Exploration;
  /** Faults that are needed. */
  readonly keep: readonly number[];
  readonly replays: number;
}

/** @param replays  stories that may be told at most */
export function shrink(failed: Exploration, telling: Telling, replays: number): Shrunk {
  const what = kindOf(failed.violation);
  let best = failed;
  let keep = [...failed.faults];
  let told = 0;
  for (
    let size = Math.ceil(keep.length / 2);
    size >= 1 && told < replays;
    size = size === 1 ? 0 : Math.ceil(size / 2)
  ) {
    for (let start = 0; start < keep.length && told < replays; ) {
      const fewer = [...keep.slice(0, start), ...keep.slice(start + size)];
      const run = explore(failed.seed, { ...telling, keep: new Set(fewer) });
      told++;
      if (kindOf(run.violation) !== what) start += size;
      else {
        best = run;
        keep = fewer.filter((number) => run.faults.includes(number));
      }
    }
  }
  return { run: best, keep, replays: told };
}

/** What broke, whoever it happened to. */
function kindOf(violation: string | undefined): string | undefined {
  return violation
    ?.split("\n")[0]
    ?.replaceAll(/\S*[\d@]\S*/g, "")
    .slice(0, 60);
}
