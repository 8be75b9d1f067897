/** The machine and the commit that figures belong to, and which core each side of a benchmark runs on. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { join } from "node:path";

export const ROOT: string = join(import.meta.dir, "..", "..");

export interface Machine {
  readonly date: string;
  readonly commit: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly bun: string;
  readonly kamailio: string | undefined;
}

export function describeMachine(): Machine {
  const all = cpus();
  return {
    date: new Date().toISOString(),
    commit: commitOf(),
    cpu: all[0]?.model ?? "unknown",
    cores: all.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    bun: Bun.version,
    kamailio: kamailioVersion(),
  };
}

/** With a plus where the sources differ from it. */
function commitOf(): string {
  if (Bun.which("git") === null || !existsSync(join(ROOT, ".git"))) return "";
  const head = output(["git", "rev-parse", "--short=9", "HEAD"]);
  return output(["git", "status", "--porcelain", "--", "src"]) === "" ? head : `${head}+`;
}

function kamailioVersion(): string | undefined {
  if (Bun.which("kamailio") === null) return undefined;
  return /kamailio (\S+)/.exec(output(["kamailio", "-v"]))?.[1];
}

function output(command: string[]): string {
  return Bun.spawnSync(command, { cwd: ROOT, stdout: "pipe", stderr: "ignore" }).stdout.toString().trim();
}

/** `server` is what is measured, `other` is generator and peers. */
export type Side = "server" | "other";

/** The first two cores that we may use; `undefined` where there are no two, or no taskset. */
function cores(): readonly [number, number] | undefined {
  if (Bun.which("taskset") === null || !existsSync("/proc/self/status")) return undefined;
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "";
  const allowed = list.split(",").flatMap((range) => {
    const [first, last] = range.split("-").map(Number) as [number, number | undefined];
    return Array.from({ length: (last ?? first) - first + 1 }, (_, i) => first + i);
  });
  return allowed.length < 2 ? undefined : [allowed[0] as number, allowed[1] as number];
}

const CORES = cores();

function coreOf(side: Side, [server, other]: readonly [number, number]): string {
  return String(side === "server" ? server : other);
}

/** The command, on the core of its side. */
export function pinned(side: Side, command: readonly string[]): string[] {
  return CORES === undefined ? [...command] : ["taskset", "-c", coreOf(side, CORES), ...command];
}

/** A process that is there already, with all its threads, onto the core of its side. */
export function pin(side: Side, pid: number): void {
  if (CORES !== undefined) output(["taskset", "-apc", coreOf(side, CORES), String(pid)]);
}

/** Threads of this process that have this name. @returns false where there is none */
export function pinThreads(side: Side, name: string): boolean {
  if (CORES === undefined) return true;
  const tasks = "/proc/self/task";
  const found = readdirSync(tasks).filter((id) => readFileSync(`${tasks}/${id}/comm`, "utf8").trim() === name);
  for (const id of found) output(["taskset", "-pc", coreOf(side, CORES), id]);
  return found.length > 0;
}

export function pinning(): string {
  if (CORES === undefined) return "not pinned: taskset or a second core is missing";
  return `server on core ${CORES[0]}, generator and peers on core ${CORES[1]}`;
}
