/** Whether the simulator notices: a rule is broken on purpose, and a seed has to find it. `--plant all` tries every one of them. */
import { expect, test } from "bun:test";
import { PLANT_NAMES } from "../../src/sim/plant.ts";
import { findPlant } from "./explore.ts";
import { explore } from "./schedule.ts";
import { shrink } from "./shrink.ts";

/** Those that a few seeds find; all of them take a minute. */
const QUICK = ["forget-dedupe", "list-made-up", "lose-outcome", "answer-twice", "crowd"] as const;

for (const name of QUICK) {
  test(`a planted ${name} is found`, () => {
    const run = findPlant(name, { from: 1, count: 10 });
    expect(run?.violation).toMatch(
      {
        "forget-dedupe": /ran twice/,
        "list-made-up": /lists a node of which it has heard nothing: sip:10\.66\.66\.66/,
        "lose-outcome": /has no outcome/,
        crowd: /has 65 peers at 10\.0\.250\.9, limit 64/,
        "answer-twice": /then otherwise with SIP\/2\.0 500/,
      }[name],
    );
  });
}

test("a failing story is told shorter, and breaks in the same way again", () => {
  const telling = { plant: "answer-twice" } as const;
  const run = findPlant("answer-twice", { from: 1, count: 10 });
  if (run === undefined) throw new Error("the plant was not found");
  const { keep, run: shorter, replays } = shrink(run, telling, 8);
  expect(replays).toBeLessThanOrEqual(8);
  expect(keep.length).toBeLessThanOrEqual(run.faults.length);
  const again = explore(run.seed, { ...telling, keep: new Set(keep) });
  expect([again.violation, again.hash]).toEqual([shorter.violation, shorter.hash]);
});

test("every plant has a name of its own", () => expect(new Set(PLANT_NAMES).size).toBe(9));
