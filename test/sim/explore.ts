/**
 * Plays seeds of random buses with random faults and checks what must hold on each (schedule.ts and witness.ts).
 *
 *   npm run test:sim -- [--seed S] [--seeds N] [--minutes M] [--lines L]
 *
 * Without arguments: 200 seeds from 1. `--seed S` alone plays that one. `--minutes` is virtual minutes of faults, `--lines`
 * how much of the ladder a failing seed shows. Every tenth seed is played twice and must give the same trace. Exit codes:
 * 0 all held, 1 a seed failed, 2 wrong arguments.
 */
import { type Exploration, explore, PING_MS } from "./schedule.ts";

interface Plan {
  from: number;
  count: number;
  minutes: number | undefined;
  lines: number;
}

const SEEDS = 200;
const LINES = 60;
const LADDERS_MAX = 3;
const REPLAY_EVERY = 10;

function readArguments(args: readonly string[]): Plan | string {
  const values = new Map<string, number>();
  for (let i = 0; i < args.length; i += 2) {
    const name = args[i] as string;
    const value = Number(args[i + 1]);
    if (!["--seed", "--seeds", "--minutes", "--lines"].includes(name)) return `unknown argument ${name}`;
    if (!Number.isSafeInteger(value) || value < 1)
      return `${name}: got ${args[i + 1]}, expected a whole number above 0`;
    values.set(name, value);
  }
  const seed = values.get("--seed");
  return {
    from: seed ?? 1,
    count: values.get("--seeds") ?? (seed === undefined ? SEEDS : 1),
    minutes: values.get("--minutes"),
    lines: values.get("--lines") ?? LINES,
  };
}

function report(run: Exploration, violations: readonly string[], ladder: number): void {
  console.log(`\nseed ${run.seed} failed, ${run.nodes} nodes:`);
  for (const violation of violations.slice(0, 10)) console.log(`  ${violation}`);
  if (violations.length > 10) console.log(`  and ${violations.length - 10} more`);
  if (ladder > 0) console.log(run.ladder(ladder));
  console.log(`again: npm run test:sim -- --seed ${run.seed}`);
}

function playTwice(run: Exploration, minutes: number | undefined): string[] {
  const again = explore(run.seed, minutes);
  return again.hash === run.hash ? [] : [`the same seed gave trace ${run.hash}, then ${again.hash}`];
}

function main(plan: Plan): number {
  const started = performance.now();
  let failed = 0;
  let virtualMs = 0;
  let requests = 0;
  let slowestMs = 0;
  let replayed = 0;
  let doubtful = 0;
  const outcomes = new Map<string, number>();
  for (let seed = plan.from; seed < plan.from + plan.count; seed++) {
    const run = explore(seed, plan.minutes);
    const twice = (seed - plan.from) % REPLAY_EVERY === 0;
    const violations = twice ? [...run.violations, ...playTwice(run, plan.minutes)] : run.violations;
    if (twice) replayed++;
    if (violations.length > 0) {
      failed++;
      report(run, violations, failed <= LADDERS_MAX ? plan.lines : 0);
    } else slowestMs = Math.max(slowestMs, run.convergedMs);
    virtualMs += run.virtualMs;
    requests += run.requests;
    doubtful += run.doubtful;
    for (const [type, count] of run.outcomes) outcomes.set(type, (outcomes.get(type) ?? 0) + count);
  }
  const wall = ((performance.now() - started) / 1_000).toFixed(1);
  const spread = [...outcomes].map(([type, count]) => `${count} ${type}`).join(", ");
  console.log(`${requests} requests: ${spread} (${doubtful} of the unreachable had arrived)`);
  console.log(`slowest agreement ${(slowestMs / PING_MS).toFixed(2)} ping intervals`);
  const hours = (virtualMs / 3_600_000).toFixed(1);
  console.log(`${plan.count} seeds, ${failed} failed, ${replayed} played twice, ${hours} virtual hours, ${wall} s`);
  return failed === 0 ? 0 : 1;
}

const plan = readArguments(process.argv.slice(2));
if (typeof plan === "string") {
  console.error(plan);
  process.exitCode = 2;
} else process.exitCode = main(plan);
