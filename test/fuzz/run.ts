/**
 * Tries made-up inputs on every reader of octets that are not ours, for as long as you like.
 *
 *   npm run fuzz -- [--target NAME] [--seconds N] [--seed S] [--again FILE]
 *
 * Without arguments: each target for ten seconds, with a seed of the day. What breaks an invariant is made as small as it
 * goes and written to test/fixtures/fuzz/NAME/, where `npm test` tries it again each time. `--again` tries one such file.
 * Exit codes: 0 all held, 1 a finding, 2 wrong arguments.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { fuzz, inputFromJson, inputToJson, type Report } from "./target.ts";
import { TARGETS } from "./targets.ts";

interface Plan {
  targets: string[];
  seconds: number;
  seed: number;
  again: string | undefined;
}

const SECONDS = 10;
const OUTCOMES_SHOWN = 12;
export const FINDINGS: string = join(import.meta.dir, "..", "fixtures", "fuzz");

function readArguments(args: readonly string[]): Plan | string {
  const plan: Plan = { targets: [...TARGETS.keys()], seconds: SECONDS, seed: Date.now() % 2 ** 31, again: undefined };
  for (let i = 0; i < args.length; i += 2) {
    const [name, text = ""] = args.slice(i, i + 2) as [string, string | undefined];
    const value = Number(text);
    if (name === "--target") {
      if (!TARGETS.has(text)) return `--target: got ${text}, expected one of ${[...TARGETS.keys()].join(", ")}`;
      plan.targets = [text];
    } else if (name === "--again") plan.again = text;
    else if (name !== "--seconds" && name !== "--seed") return `unknown argument ${name}`;
    else if (!Number.isSafeInteger(value) || value < 1) return `${name}: got ${text}, expected a whole number above 0`;
    else if (name === "--seconds") plan.seconds = value;
    else plan.seed = value % 2 ** 31;
  }
  return plan;
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

function show({ target, seed, inputs, seconds, outcomes, slowestMs, heapEarly, heapLate, finding }: Report): void {
  const rate = Math.round(inputs / seconds);
  console.log(`${target}: ${inputs} inputs in ${seconds.toFixed(0)} s, ${rate} a second, seed ${seed}`);
  console.log(
    `  slowest ${slowestMs.toFixed(2)} ms a message, heap ${mebibytes(heapEarly)} early, ${mebibytes(heapLate)} at the end`,
  );
  const common = [...outcomes].sort((a, b) => b[1] - a[1]);
  const rest = common.length > OUTCOMES_SHOWN ? `, and ${common.length - OUTCOMES_SHOWN} more` : "";
  const shown = common.slice(0, OUTCOMES_SHOWN).map(([word, count]) => `${word} ${count}`);
  console.log(`  ${outcomes.size} outcomes: ${shown.join(", ")}${rest}`);
  if (finding !== undefined) console.log(`  FINDING: ${finding.why}`);
}

function keep({ finding }: Report): void {
  if (finding?.input === undefined) return;
  const json = inputToJson(finding.input);
  const path = join(FINDINGS, finding.target, `${Bun.hash(json).toString(16)}.json`);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, json);
  console.log(`  kept in ${relative(process.cwd(), path)}`);
}

async function tryAgain(path: string): Promise<number> {
  const name = basename(dirname(path));
  const entry = TARGETS.get(name);
  if (entry === undefined) {
    console.error(`--again: ${path} is not in the folder of a target`);
    return 2;
  }
  console.log((await entry.target.run(inputFromJson(readFileSync(path, "utf8")))).join("\n"));
  return 0;
}

async function main(args: readonly string[]): Promise<number> {
  const plan = readArguments(args);
  if (typeof plan === "string") {
    console.error(plan);
    return 2;
  }
  if (plan.again !== undefined) return tryAgain(plan.again);
  let findings = 0;
  for (const name of plan.targets) {
    const { target, corpus } = TARGETS.get(name)!;
    const report = await fuzz(target, corpus, plan.seed, { seconds: plan.seconds });
    show(report);
    keep(report);
    if (report.finding !== undefined) findings++;
  }
  return findings === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));
