/** The generator (c/load.c) as a function: one run against one server. */
import { program } from "./compile.ts";
import { pinned } from "./machine.ts";
import type { Address } from "./ports.ts";

export interface LoadPlan {
  readonly to: Address;
  readonly seconds: number;
  readonly transport?: "udp" | "tcp" | "tls";
  /** Octets of each body, default 100. */
  readonly body?: number;
  /** Closed loop: requests under way, default 64. */
  readonly outstanding?: number;
  /** Open loop: requests a second. */
  readonly rate?: number;
  /** Ends after so many requests, if the time has not come before. */
  readonly count?: number;
  /** Name of the channels without their four digits, default `bench`. */
  readonly channel?: string;
  /** The channels `bench0000`, `bench0001` … in turn, default 1. */
  readonly channels?: number;
  readonly connections?: number;
}

/** What the generator counted; latencies are microseconds. */
export interface LoadResult {
  readonly sent: number;
  readonly answered: number;
  /** Answered before the time was over: what the rate counts. */
  readonly inTime: number;
  /** 200, another 2xx, anything else. */
  readonly ok: number;
  readonly accepted: number;
  readonly refused: number;
  /** Answers to nothing that was under way. */
  readonly stray: number;
  readonly lost: number;
  /** Answers that lacked what an answer has to repeat. */
  readonly bad: number;
  readonly seconds: number;
  /** Answers a second. */
  readonly rate: number;
  /** Share of the time in which the generator had nothing to do. */
  readonly idle: number;
  /** Octets of a request. */
  readonly size: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export async function load(plan: LoadPlan): Promise<LoadResult> {
  const { to, ...rest } = plan;
  // Another address than the server's: a node takes a request from its own for its own.
  const options = Object.entries({ to: to.text, bind: "127.0.0.2", ...rest });
  const words = options.flatMap(([name, value]) => [`--${name}`, String(value)]);
  const child = Bun.spawn(pinned("other", [program("load"), ...words]), { stdout: "pipe", stderr: "pipe" });
  const [text, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`the generator against ${to.text} ended with ${code}: ${errors.trim()}`);
  return JSON.parse(text) as LoadResult;
}

/** @returns what is wrong with the answers of a run, `undefined` if nothing is */
export function faultOf({ answered, refused, bad, stray }: LoadResult): string | undefined {
  if (answered === 0) return "no request was answered";
  if (refused > 0) return `${refused} of ${answered} answers are no 2xx`;
  if (bad > 0) return `${bad} answers lack what an answer repeats`;
  // A second answer to the same request, say.
  return stray > answered / 1_000 ? `${stray} answers belong to no request` : undefined;
}
