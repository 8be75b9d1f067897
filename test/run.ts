/**
 * Runs the tests in parts and says at the end, in one line, how they went: `N passed, N failed[, N skipped]`.
 *
 *   bun test/run.ts [unit|sim|executable|amqp|interop]…     all five without an argument
 *
 * A part is one `bun test` process, so that what one part breaks, another does not feel. What Bun counted is read from
 * its JUnit report and not from its words. A process that fails without a failed test (it crashed, a file did not load)
 * counts as one failure. Skipped tests are listed, and their names say why. Parts that mostly compute run beside parts that
 * mostly wait; what each of them prints is printed when it is over.
 */
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { missingPrograms } from "./helpers/needs.ts";
import { endBrokers } from "./helpers/rabbitmq.ts";

const ROOT = join(import.meta.dir, "..");
const TEST = join(ROOT, "test");

/** Seeds of the short simulation that belongs to the whole test; `npm run test:sim` runs the long one. */
const SHORT_SIM_SEEDS = "20";

/** A part that hangs is ended: the longest takes a few minutes. */
const PART_MS_MAX = 15 * 60_000;

interface Tally {
  passed: number;
  failed: number;
  skipped: string[];
}

/** Where a part writes. */
interface Place {
  /** Its own, empty. */
  folder: string;
  /** A file for what it prints; the terminal without it. */
  log?: string;
}

interface Part {
  name: string;
  run: (place: Place) => Promise<Tally>;
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

async function run(args: string[], { log }: Place, env: Record<string, string> = {}): Promise<number> {
  const out = log === undefined ? "inherit" : openSync(log, "a");
  const child = Bun.spawn([process.execPath, ...args], {
    cwd: ROOT,
    stdio: ["ignore", out, out],
    env: { ...process.env, ...env },
    timeout: PART_MS_MAX,
  });
  await child.exited;
  if (out !== "inherit") closeSync(out);
  if (child.signalCode !== null)
    console.log(`ended by ${child.signalCode} (a part has ${PART_MS_MAX / 60_000} minutes): bun ${args[0]}`);
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

async function runTests(all: string[], place: Place, env?: Record<string, string>): Promise<Tally> {
  const skipped = all.flatMap((file) => {
    const missing = missingOf(file);
    return missing === undefined ? [] : [`${relative(ROOT, file)}: the whole file: ${missing}`];
  });
  const files = all.filter((file) => missingOf(file) === undefined);
  const tally = await runFiles(files, place, env);
  return { ...tally, skipped: [...tally.skipped, ...skipped] };
}

async function runFiles(files: string[], place: Place, env?: Record<string, string>): Promise<Tally> {
  if (files.length === 0) return { passed: 0, failed: 0, skipped: [] };
  const report = join(place.folder, "report.xml");
  const paths = files.map((file) => `./${relative(ROOT, file)}`);
  const exit = await run(["test", "--reporter=junit", `--reporter-outfile=${report}`, ...paths], place, env);
  const tally = readReport(report);
  if (exit !== 0 && tally.failed === 0) tally.failed = 1;
  return tally;
}

function runUnit(place: Place): Promise<Tally> {
  const isOwnPart = (file: string): boolean => FOLDERS.some((name) => relative(TEST, file).startsWith(`${name}/`));
  return runTests(
    testFiles(TEST).filter((file) => !isOwnPart(file)),
    place,
  );
}

function runFolder(name: string, place: Place, env?: Record<string, string>): Promise<Tally> {
  return runTests(testFiles(join(TEST, name)), place, env);
}

async function runAmqp(place: Place): Promise<Tally> {
  const brokers = mkdtempSync(join(tmpdir(), "dr-"));
  const tally = await runFolder("amqp", place, { DMQ_BROKERS: brokers });
  await endBrokers(brokers);
  return tally;
}

async function runSimulation(place: Place): Promise<Tally> {
  const script = join(TEST, "sim", "explore.ts");
  if (!existsSync(script)) return { passed: 0, failed: 0, skipped: ["sim: test/sim/explore.ts is not there"] };
  const failed = (await run([relative(ROOT, script), "--seeds", SHORT_SIM_SEEDS], place)) === 0 ? 0 : 1;
  return { passed: 1 - failed, failed, skipped: [] };
}

const FOLDERS = ["executable", "interop", "amqp"];

/** Those of a lane run one after the other, the lanes side by side. */
const LANES: readonly (readonly Part[])[] = [
  [
    { name: "unit", run: runUnit },
    { name: "sim", run: runSimulation },
    { name: "executable", run: (place) => runFolder("executable", place) },
  ],
  [
    { name: "amqp", run: runAmqp },
    { name: "interop", run: (place) => runFolder("interop", place) },
  ],
];

async function runPart(part: Part, isBeside: boolean): Promise<Tally> {
  const folder = mkdtempSync(join(tmpdir(), "dmq-test-"));
  const log = join(folder, "log");
  if (!isBeside) console.log(`\n== ${part.name}`);
  const tally = await part.run(isBeside ? { folder, log } : { folder });
  if (isBeside) console.log(`\n== ${part.name}\n${existsSync(log) ? readFileSync(log, "utf8") : ""}`);
  rmSync(folder, { recursive: true });
  return tally;
}

async function runLanes(lanes: readonly (readonly Part[])[]): Promise<Tally[]> {
  const runLane = async (lane: readonly Part[]): Promise<Tally[]> => {
    const tallies: Tally[] = [];
    for (const part of lane) tallies.push(await runPart(part, lanes.length > 1));
    return tallies;
  };
  return (await Promise.all(lanes.map(runLane))).flat();
}

async function main(wanted: string[]): Promise<void> {
  const names = LANES.flat().map(({ name }) => name);
  const unknown = wanted.filter((name) => !names.includes(name));
  if (unknown.length > 0) {
    console.error(`no such part: ${unknown.join(", ")}; there are ${names.join(", ")}`);
    process.exitCode = 2;
    return;
  }
  const lanes = LANES.map((lane) => lane.filter(({ name }) => wanted.length === 0 || wanted.includes(name)));
  const tallies = await runLanes(lanes.filter((lane) => lane.length > 0));
  const sum = (count: (tally: Tally) => number): number => tallies.reduce((total, tally) => total + count(tally), 0);
  const skipped = tallies.flatMap((tally) => tally.skipped);
  const passed = sum((tally) => tally.passed);
  // A run that found no test has shown nothing.
  const failed =
    passed + skipped.length === 0
      ? Math.max(
          1,
          sum((tally) => tally.failed),
        )
      : sum((tally) => tally.failed);
  if (skipped.length > 0) console.log(`\nskipped:\n  ${skipped.join("\n  ")}`);
  console.log(`\n${passed} passed, ${failed} failed${skipped.length > 0 ? `, ${skipped.length} skipped` : ""}`);
  process.exitCode = failed === 0 ? 0 : 1;
}

await main(process.argv.slice(2));
