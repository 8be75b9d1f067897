/**
 * Processes of a benchmark: started on a core, asked over stdin and stdout line by line, their use of CPU and memory read from
 * /proc, ended as the group that they are. Nothing that a benchmark started outlives it.
 */
import { readdirSync, readFileSync } from "node:fs";
import { pinned, type Side } from "./machine.ts";

/** Clock ticks of /proc/PID/stat: USER_HZ is 100 on every Linux that Bun runs on. */
const TICK_MS = 10;

/** Longer than any answer may take; a process that says nothing for so long hangs. */
const ANSWER_MS_MAX = 120_000;

const END_MS_MAX = 3_000;

const running = new Set<Program>();

/** What a process and its descendants have used so far. */
export interface Usage {
  /** User and system time, all threads. */
  readonly cpuMs: number;
  /** Resident now: VmRSS of one process; the sum of their proportional sets where there are several that share memory. */
  readonly residentKiB: number;
}

export class Program {
  readonly name: string;
  readonly pid: number;
  readonly #child: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly #lines: AsyncGenerator<string, void, undefined>;
  #errors = "";

  constructor(name: string, command: readonly string[], side: Side, env: Record<string, string> = {}) {
    this.name = name;
    this.#child = Bun.spawn(pinned(side, command), {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
      // A group of its own, so that what it starts can be ended with it.
      detached: true,
      env: { ...process.env, ...env },
    });
    this.pid = this.#child.pid;
    this.#lines = linesOf(this.#child.stdout);
    this.#collectErrors();
    running.add(this);
  }

  get errors(): string {
    return this.#errors;
  }

  get hasExited(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** The next line on stdout. @throws Error with its stderr where it ends, or says nothing for too long */
  async line(): Promise<string> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(this.#failure("says nothing")), ANSWER_MS_MAX);
    try {
      const next = await Promise.race([this.#lines.next(), late.promise]);
      if (next.done === true) {
        await this.#child.exited;
        throw this.#failure("ended");
      }
      return next.value;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Writes a line; an answer, if there is one, is the next `line`. */
  tell(text: string): void {
    this.#child.stdin.write(`${text}\n`);
    this.#child.stdin.flush();
  }

  /** Writes a line and reads the JSON that comes back. */
  async ask<T>(text: string): Promise<T> {
    this.tell(text);
    return JSON.parse(await this.line()) as T;
  }

  usage(): Usage {
    const pids = descendants(this.pid);
    const cpuMs = pids.reduce((sum, pid) => sum + cpuOf(pid), 0);
    const residentKiB = pids.length === 1 ? residentOf(this.pid) : pids.reduce((sum, pid) => sum + shareOf(pid), 0);
    return { cpuMs, residentKiB };
  }

  /** SIGTERM, and SIGKILL for the whole group if it takes too long. */
  async end(): Promise<void> {
    running.delete(this);
    if (!this.hasExited) this.#child.kill("SIGTERM");
    const timer = setTimeout(() => this.#killGroup(), END_MS_MAX);
    await this.#child.exited;
    clearTimeout(timer);
    this.#killGroup();
  }

  /** At once, for where nothing can be awaited any more. */
  kill(): void {
    running.delete(this);
    this.#killGroup();
  }

  #killGroup(): void {
    try {
      process.kill(-this.pid, "SIGKILL");
    } catch {
      // Nobody is left of it.
    }
  }

  #failure(what: string): Error {
    return new Error(`${this.name} ${what}: ${this.#errors.trim().split("\n").slice(-5).join("\n")}`);
  }

  async #collectErrors(): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of this.#child.stderr) {
      this.#errors = (this.#errors + decoder.decode(chunk, { stream: true })).slice(-16_384);
    }
  }
}

/** Ends what still runs. */
export async function endAll(): Promise<void> {
  await Promise.all([...running].map((program) => program.end()));
}

process.on("exit", () => {
  for (const program of [...running]) program.kill();
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(130));

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, void, undefined> {
  const decoder = new TextDecoder();
  let pending = "";
  for await (const chunk of stream) {
    const parts = (pending + decoder.decode(chunk, { stream: true })).split("\n");
    pending = parts.pop() as string;
    yield* parts;
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** Fields of /proc/PID/stat from the third on: the name before them may hold anything. */
function statOf(pid: number): string[] {
  const text = read(`/proc/${pid}/stat`);
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}

function cpuOf(pid: number): number {
  const fields = statOf(pid);
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * TICK_MS;
}

/** VmRSS in KiB; 0 where there is no such process. */
export function residentOf(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1] ?? 0);
}

function shareOf(pid: number): number {
  return Number(/^Pss:\s+(\d+)/m.exec(read(`/proc/${pid}/smaps_rollup`))?.[1] ?? residentOf(pid));
}

/** The process itself and all that it or they started. */
function descendants(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const parent = Number(statOf(Number(name))[1] ?? 0);
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const found = [root];
  for (let i = 0; i < found.length; i++) found.push(...(children.get(found[i] as number) ?? []));
  return found;
}
