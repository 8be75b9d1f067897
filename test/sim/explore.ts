/**
 * Plays seeds of random buses with random faults and checks what must hold on each (schedule.ts, invariants.ts, witness.ts).
 *
 *   npm run test:sim -- [--seed S] [--seeds N] [--hours H] [--minutes M] [--lines L] [--jobs J] [--keep A,B] [--plant NAME|all]
 *
 * Without arguments: 200 seeds from 1. `--seed S` alone plays that one. `--hours` is how long a story lasts, in virtual hours, 1
 * without it; `--minutes` how long its first storm, in virtual minutes; `--lines` how much of the ladder a failing seed shows;
 * `--jobs` processes, one a core without it. `--keep` lets only these faults happen, as a shrunk story says it. Every twentieth
 * seed is played twice and must give the same trace.
 *
 * `--plant` makes the simulator break a rule on purpose, and is content when that is found within `--seeds` seeds, 100 without it.
 *
 * Exit codes: 0 all held (with `--plant`: it was found), 1 a seed failed (it was not), 2 wrong arguments.
 */
import { availableParallelism } from "node:os";
import { PLANT_NAMES, type PlantName } from "../../src/sim/plant.ts";
import { type Exploration, explore, type Telling } from "./schedule.ts";
import { shrink } from "./shrink.ts";

interface Plan {
  from: number;
  count: number;
  lines: number;
  jobs: number;
  /** This process plays each `jobs`-th seed, beginning with this one, and reports to the one that started it. */
  share: number | undefined;
  plants: readonly PlantName[];
  telling: Telling;
}

/** What one seed comes to, as one process tells another. */
interface Report {
  seed: number;
  nodes: number;
  violations: string[];
  virtualMs: number;
  agreedPings: number;
  requests: number;
  doubtful: number;
  twice: boolean;
  faults: number;
  outcomes: [string, number][];
}

const SEEDS = 200;
const PLANT_SEEDS = 100;
const LINES = 60;
const LADDERS_MAX = 3;
const SHRINK_REPLAYS = 40;
/** A longer list of faults helps nobody. */
const KEEP_MAX = 60;
const REPLAY_EVERY = 20;
const NUMBERS = ["--seed", "--seeds", "--hours", "--minutes", "--lines", "--jobs", "--share"];

function readArguments(args: readonly string[]): Plan | string {
  const values = new Map<string, number>();
  let keep: ReadonlySet<number> | undefined;
  let plants: readonly PlantName[] = [];
  for (let i = 0; i < args.length; i += 2) {
    const name = args[i] as string;
    const text = args[i + 1] ?? "";
    if (name === "--keep") keep = new Set(text.split(",").map(Number));
    else if (name === "--plant") plants = PLANT_NAMES.filter((one) => text === "all" || text === one);
    else if (!NUMBERS.includes(name)) return `unknown argument ${name}`;
    else if (!(Number(text) > 0)) return `${name}: got ${text}, expected a number above 0`;
    else values.set(name, Number(text));
    if (name === "--plant" && plants.length === 0)
      return `--plant: got ${text}, expected all, ${PLANT_NAMES.join(", ")}`;
  }
  const seed = values.get("--seed");
  const seeds = plants.length > 0 ? PLANT_SEEDS : seed === undefined ? SEEDS : 1;
  const count = values.get("--seeds") ?? seeds;
  return {
    from: seed ?? 1,
    count,
    lines: values.get("--lines") ?? LINES,
    jobs: Math.min(count, values.get("--jobs") ?? availableParallelism()),
    share: values.get("--share"),
    plants,
    telling: { minutes: values.get("--minutes"), hours: values.get("--hours"), keep },
  };
}

function reportOf(run: Exploration, telling: Telling, twice: boolean): Report {
  const violations = run.violation === undefined ? [] : [run.violation];
  if (twice) {
    const again = explore(run.seed, telling);
    if (again.hash !== run.hash) violations.push(`the same seed gave trace ${run.hash}, then ${again.hash}`);
  }
  const { seed, nodes, virtualMs, agreedPings, requests, doubtful, faults, outcomes } = run;
  const facts = { seed, nodes, violations, virtualMs, agreedPings, requests, doubtful, twice };
  return { ...facts, faults: faults.length, outcomes: [...outcomes] };
}

/** Plays the seeds of this process, one after the other. */
function* play({ from, count, jobs, share = 1, telling }: Plan): Generator<Report> {
  for (let i = share - 1; i < count; i += jobs)
    yield reportOf(explore(from + i, telling), telling, i % REPLAY_EVERY === 0);
}

/** Has the seeds played by as many processes as there are jobs. */
async function* playTogether(plan: Plan): AsyncGenerator<Report> {
  if (plan.jobs === 1) {
    yield* play(plan);
    return;
  }
  const reports: Report[] = [];
  let wake = (): void => {};
  let running = plan.jobs;
  let stopped = false;
  // What has been played counts: whoever ends a long run gets its sum. The children see that they are alone.
  process.once("SIGTERM", () => {
    stopped = true;
    wake();
  });
  for (let share = 1; share <= plan.jobs; share++) {
    const args = [...process.execArgv, import.meta.path, ...process.argv.slice(2), "--share", String(share)];
    const child = Bun.spawn([process.execPath, ...args], { stdio: ["ignore", "pipe", "inherit"] });
    const take = (report: Report): void => {
      reports.push(report);
      wake();
    };
    void readReports(child.stdout, take).then(() => {
      running--;
      wake();
    });
  }
  while (!stopped && (running > 0 || reports.length > 0)) {
    const report = reports.shift();
    if (report !== undefined) yield report;
    else await new Promise<void>((resolve) => (wake = resolve));
  }
}

async function readReports(stream: ReadableStream<Uint8Array>, take: (report: Report) => void): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) take(JSON.parse(line));
  }
}

/** Tells what broke, and the shortest story of it that was found. */
function tell({ seed, nodes, violations }: Report, plan: Plan, withLadder: boolean): void {
  console.log(`\nseed ${seed} failed, ${nodes} nodes:`);
  for (const violation of violations) console.log(`  ${violation}`);
  let again = `--seed ${seed}${plan.telling.hours === undefined ? "" : ` --hours ${plan.telling.hours}`}`;
  if (plan.telling.minutes !== undefined) again += ` --minutes ${plan.telling.minutes}`;
  if (withLadder) {
    const run = explore(seed, plan.telling);
    const shrunk = shrink(run, plan.telling, run.violation === undefined ? 0 : SHRINK_REPLAYS);
    console.log(`with ${shrunk.keep.length} of its ${run.faults.length} faults: ${shrunk.run.violation}`);
    console.log(shrunk.run.ladder(plan.lines));
    if (shrunk.keep.length > 0 && shrunk.keep.length < KEEP_MAX) again += ` --keep ${shrunk.keep.join(",")}`;
  }
  console.log(`again: npm run test:sim -- ${again}`);
}

async function exploreAll(plan: Plan): Promise<number> {
  const started = performance.now();
  const sum = { seeds: 0, failed: 0, twice: 0, virtualMs: 0, requests: 0, doubtful: 0, faults: 0, slowest: 0 };
  const outcomes = new Map<string, number>();
  for await (const report of playTogether(plan)) {
    sum.seeds++;
    sum.virtualMs += report.virtualMs * (report.twice ? 2 : 1);
    sum.requests += report.requests;
    sum.doubtful += report.doubtful;
    sum.faults += report.faults;
    if (report.twice) sum.twice++;
    if (report.violations.length === 0) sum.slowest = Math.max(sum.slowest, report.agreedPings);
    else tell(report, plan, ++sum.failed <= LADDERS_MAX);
    for (const [type, count] of report.outcomes) outcomes.set(type, (outcomes.get(type) ?? 0) + count);
  }
  const seconds = (performance.now() - started) / 1_000;
  const hours = sum.virtualMs / 3_600_000;
  const spread = [...outcomes].map(([type, count]) => `${count} ${type}`).join(", ");
  console.log(`${sum.faults} faults, ${sum.requests} requests: ${spread}`);
  console.log(
    `${sum.doubtful} of the unreachable had arrived; slowest agreement ${sum.slowest.toFixed(2)} ping intervals`,
  );
  console.log(
    `${sum.seeds} seeds from ${plan.from}, ${sum.failed} failed, ${sum.twice} played twice, ${hours.toFixed(1)} virtual hours, ` +
      `${seconds.toFixed(1)} s, ${(hours / seconds).toFixed(1)} virtual hours a second in ${plan.jobs} processes`,
  );
  if (sum.seeds < plan.count) console.log(`ended before the other ${plan.count - sum.seeds} seeds were played`);
  return sum.failed === 0 && sum.seeds === plan.count ? 0 : 1;
}

/** Breaks one rule after the other and looks who notices. */
function findPlants(plan: Plan): number {
  let missed = 0;
  for (const name of plan.plants) {
    const found = findPlant(name, plan);
    const seeds = found === undefined ? plan.count : found.seed - plan.from + 1;
    console.log(`${name}: ${found === undefined ? "NOT found" : "found"} in ${seeds} seeds`);
    if (found === undefined) missed++;
    else console.log(`  ${found.violation?.split("\n")[0]}`);
  }
  return missed === 0 ? 0 : 1;
}

/** The first seed at which this mistake is noticed; `undefined` where none of them does. */
export function findPlant(name: PlantName, { from, count }: { from: number; count: number }): Exploration | undefined {
  for (let seed = from; seed < from + count; seed++) {
    const run = explore(seed, { plant: name });
    if (run.violation !== undefined) return run;
  }
  return undefined;
}

function share(plan: Plan): number {
  const parent = process.ppid;
  for (const report of play(plan)) {
    console.log(JSON.stringify(report));
    if (process.ppid !== parent) return 1;
  }
  return 0;
}

if (import.meta.main) {
  const plan = readArguments(process.argv.slice(2));
  if (typeof plan === "string") {
    console.error(plan);
    process.exitCode = 2;
  } else if (plan.plants.length > 0) process.exitCode = findPlants(plan);
  else if (plan.share !== undefined) process.exitCode = share(plan);
  // Children may still be at a seed.
  else process.exit(await exploreAll(plan));
}
