/**
 * One command line of the compiled executable in each of the forms in which people and scripts run it: on a terminal, in a pipe, and
 * in a pipe with `--json`.
 */
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EXECUTABLE } from "./daemon.ts";
import { missingPrograms } from "./needs.ts";
import type { Finished } from "./process.ts";

export type Form = "terminal" | "pipe" | "json";

/** A process of the executable, from its start. */
export interface Started {
  readonly pid: number;
  readonly ended: Promise<Finished>;
  /** stdout so far; of a terminal no more than the end of its first line. */
  readonly seen: () => string;
}

/** A shim in PATH takes longer than the command does. */
const PYTHON = existsSync("/usr/bin/python3") ? "/usr/bin/python3" : "python3";

/** What there is no terminal without; `undefined` if there is one. Where everything is required that is a failure. */
export const noTerminal = missingPrograms("python3");
if (noTerminal !== undefined && process.env.DMQ_REQUIRE_INTEROP === "1") throw new Error(`terminals: ${noTerminal}`);

/** Longer than any row may take. */
const RUN_MS_MAX = 30_000;

/** Nothing here switches colour off: pipes must do that. */
const ENVIRONMENT = { PATH: process.env.PATH ?? "", HOME: tmpdir(), TERM: "xterm-256color" };

/** @param stdin  of the pipe and the JSON form; on a terminal nobody types anything */
export async function start(form: Form, args: readonly string[], stdin?: string): Promise<Started> {
  return form === "terminal" ? startOnTerminal(args) : startInPipe(args, stdin);
}

function startInPipe(args: readonly string[], stdin: string | undefined): Started {
  const child = Bun.spawn([EXECUTABLE, ...args], {
    stdin: stdin === undefined ? "ignore" : new TextEncoder().encode(stdin),
    ...{ stdout: "pipe", stderr: "pipe", env: ENVIRONMENT, timeout: RUN_MS_MAX, killSignal: "SIGKILL" },
  });
  let stdout = "";
  const gather = async (): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const chunk of child.stdout) stdout += decoder.decode(chunk, { stream: true });
  };
  const collect = async (): Promise<Finished> => {
    const [stderr] = await Promise.all([new Response(child.stderr).text(), gather()]);
    return { code: await child.exited, stdout, stderr };
  };
  return { pid: child.pid, ended: collect(), seen: () => stdout };
}

async function startOnTerminal(args: readonly string[]): Promise<Started> {
  const launcher = join(import.meta.dir, "terminal.py");
  const child = Bun.spawn([PYTHON, "-I", "-S", launcher, EXECUTABLE, ...args], {
    ...{ stdin: "ignore", stdout: "pipe", stderr: "inherit", env: ENVIRONMENT, timeout: RUN_MS_MAX },
  });
  const reader = child.stdout.getReader();
  let text = "";
  const more = async (): Promise<boolean> => {
    const { done, value } = await reader.read();
    text += new TextDecoder().decode(value);
    return !done;
  };
  while (!text.includes("\n") && (await more()));
  const end = async (): Promise<Finished> => {
    while (await more());
    const { code, stdout, stderr } = JSON.parse(text.slice(text.indexOf("\n"))) as Finished;
    const utf8 = (octets: string): string => Buffer.from(octets, "latin1").toString("utf8");
    return { code, stdout: utf8(stdout), stderr: utf8(stderr) };
  };
  return { pid: Number.parseInt(text, 10), ended: end(), seen: () => text.slice(text.indexOf("\n") + 1) };
}

const COLOUR = /\x1b\[\d*m/g;

/** A table as the lines that a pipe would get: without colour, and columns are two blanks apart or more. */
export function untable(table: string): string {
  return table.replace(COLOUR, "").replace(/ {2,}/g, "\t");
}

/** Jobs at a time: most of a command is waiting. */
const POOL_WIDTH = 5;

/** Runs jobs in their order, some at a time, and gives each one's end. */
export function pooled<T>(jobs: readonly (() => Promise<T>)[]): Promise<T>[] {
  const ends = jobs.map(() => Promise.withResolvers<T>());
  let next = 0;
  const work = async (): Promise<void> => {
    for (let index = next++; index < jobs.length; index = next++) {
      const { resolve, reject } = ends[index] as PromiseWithResolvers<T>;
      await (jobs[index] as () => Promise<T>)().then(resolve, reject);
    }
  };
  for (let worker = 0; worker < POOL_WIDTH; worker++) void work();
  // A row that fails is told by its test, which may not have begun to wait.
  for (const { promise } of ends) promise.catch(() => undefined);
  return ends.map(({ promise }) => promise);
}
