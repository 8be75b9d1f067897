/**
 * Runs the tests in parts and says at the end, in one line, how they went: `N passed, N failed[, N skipped]`.
 *
 *   bun test/run.ts [unit|sim|executable|amqp|interop]…     all five without an argument
 *
 * A part is one `bun test` process, so that what one part breaks, another does not feel. What Bun counted is read from
 * its JUnit report and not from its words. A process that fails without a failed test (it crashed, a file did not load)
 * counts as one failure. Skipped tests are listed, and their names say why.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { missingPrograms } from "./helpers/needs.ts";

const ROOT = join(import.meta.dir, "..");

/** Seeds of the short simulation that belongs to the whole test; `npm run test:sim` runs the long one. */
const SHORT_SIM_SEEDS = "20";

/** A part that hangs is ended: the longest takes a few minutes. */
const PART_MS_MAX = 10 * 60_000;

interface Tally {
  passed: number;
  failed: number;
  skipped: string[];
}

function testFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .flatMap((name) => {
      const path = join(folder, name);
      return statSync(path).isDirectory() ? testFiles(path) : [path];
    })
    .filter((path) => path.endsWith(".test.ts"))
    .sort();
}

function run(args: string[]): number {
  const child = Bun.spawnSync([process.execPath, ...args], {
    cwd: ROOT,
    stdio: ["ignore", "inherit", "inherit"],
    timeout: PART_MS_MAX,
  });
  if (child.exitedDueToTimeout) console.log(`ended after ${PART_MS_MAX / 60_000} minutes: bun ${args[0]}`);
  return child.exitCode ?? 1;
}

function unescapeXml(text: string): string {
  const marks: Record<string, string> = { quot: '"', apos: "'", lt: "<", gt: ">", amp: "&" };
  return text.replace(/&(quot|apos|lt|gt|amp);/g, (_, name: string) => marks[name] as string);
}

function readReport(path: string): Tally {
  const xml = existsSync(path) ? readFileSync(path, "utf8") : "";
  const total = /<testsuites [^>]*?tests="(\d+)"[^>]*?failures="(\d+)"[^>]*?skipped="(\d+)"/.exec(xml);
  if (total === null) return { passed: 0, failed: 0, skipped: [] };
  const [tests, failed, skips] = total.slice(1).map(Number) as [number, number, number];
  const skipped = [...xml.matchAll(/<testcase name="([^"]*)"[^>]*file="([^"]*)"[^>]*>\s*<skipped/g)].map(
    (match) => `${match[2]}: ${unescapeXml(match[1] as string)}`,
  );
  while (skipped.length < skips) skipped.push("a test without a name in the report");
  return { passed: tests - failed - skips, failed, skipped };
}

/** A file that is of no use without them says so on a line of its own: `// needs programs: bash cat`. */
function missingOf(file: string): string | undefined {
  const words = /^\/\/ needs programs: (.+)$/m.exec(readFileSync(file, "utf8"))?.[1]?.split(" ") ?? [];
  return process.env.DMQ_REQUIRE_INTEROP === "1" ? undefined : missingPrograms(...words);
}

function runTests(all: string[]): Tally {
  const skipped = all.flatMap((file) => {
    const missing = missingOf(file);
    return missing === undefined ? [] : [`${relative(ROOT, file)}: the whole file: ${missing}`];
  });
  const tally = runFiles(all.filter((file) => missingOf(file) === undefined));
  return { ...tally, skipped: [...tally.skipped, ...skipped] };
}

function runFiles(files: string[]): Tally {
  if (files.length === 0) return { passed: 0, failed: 0, skipped: [] };
  const folder = mkdtempSync(join(tmpdir(), "dmq-test-"));
  const report = join(folder, "report.xml");
  const paths = files.map((file) => `./${relative(ROOT, file)}`);
  const exit = run(["test", "--reporter=junit", `--reporter-outfile=${report}`, ...paths]);
  const tally = readReport(report);
  rmSync(folder, { recursive: true });
  if (exit !== 0 && tally.failed === 0) tally.failed = 1;
  return tally;
}

function runSimulation(): Tally {
  const script = join(ROOT, "test", "sim", "explore.ts");
  if (!existsSync(script)) return { passed: 0, failed: 0, skipped: ["sim: test/sim/explore.ts is not there"] };
  const failed = run([relative(ROOT, script), "--seeds", SHORT_SIM_SEEDS]) === 0 ? 0 : 1;
  return { passed: 1 - failed, failed, skipped: [] };
}

const FOLDERS = ["executable", "interop", "amqp"];

const PARTS: [name: string, run: () => Tally][] = [
  ["unit", () => runTests(testFiles(join(ROOT, "test")).filter((file) => !FOLDERS.some((name) => isIn(name, file))))],
  ["sim", runSimulation],
  ["executable", () => runTests(testFiles(join(ROOT, "test", "executable")))],
  ["amqp", () => runTests(testFiles(join(ROOT, "test", "amqp")))],
  ["interop", () => runTests(testFiles(join(ROOT, "test", "interop")))],
];

function isIn(folder: string, file: string): boolean {
  return relative(join(ROOT, "test"), file).startsWith(`${folder}/`);
}

function main(wanted: string[]): void {
  const unknown = wanted.filter((name) => !PARTS.some(([part]) => part === name));
  if (unknown.length > 0) {
    console.error(`no such part: ${unknown.join(", ")}; there are ${PARTS.map(([name]) => name).join(", ")}`);
    process.exitCode = 2;
    return;
  }
  const whole: Tally = { passed: 0, failed: 0, skipped: [] };
  for (const [name, runPart] of PARTS) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    console.log(`\n== ${name}`);
    const part = runPart();
    whole.passed += part.passed;
    whole.failed += part.failed;
    whole.skipped.push(...part.skipped);
  }
  if (whole.skipped.length > 0) console.log(`\nskipped:\n  ${whole.skipped.join("\n  ")}`);
  // A run that found no test has shown nothing.
  if (whole.passed + whole.failed + whole.skipped.length === 0) whole.failed = 1;
  const skipped = whole.skipped.length > 0 ? `, ${whole.skipped.length} skipped` : "";
  console.log(`\n${whole.passed} passed, ${whole.failed} failed${skipped}`);
  process.exitCode = whole.failed === 0 ? 0 : 1;
}

main(process.argv.slice(2));
