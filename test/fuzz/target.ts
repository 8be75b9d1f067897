/**
 * What a fuzz target is, and how one is run: inputs from fast-check with shrinking, in batches, so that a run can last for any
 * time in the same memory. Each target opens with its invariant.
 *
 * Coverage is counted in outcomes: words that a target gives each run (a status and the section of the RFC behind it, an
 * error code, a shape). An input that reached a new word is kept, and later ones are made of it.
 */
import { heapStats } from "bun:jsc";
import fc from "fast-check";

export interface Target<T = unknown> {
  readonly name: string;
  /** How inputs are made; `pool` holds octets of inputs that reached something new, it grows while the run goes on. */
  inputs(pool: Pool): fc.Arbitrary<T>;
  /**
   * Tries one input.
   *
   * @returns words for what it reached
   * @throws  whatever it likes where the invariant is broken
   */
  run(input: T): readonly string[] | Promise<readonly string[]>;
  /** Octets of the input that others may be made of. */
  seedOf?(input: T): Uint8Array;
  /** Messages in an input, one unless said otherwise: what the time of a message is counted by. */
  messages?(input: T): number;
}

export interface Finding {
  target: string;
  seed: number;
  why: string;
  input: unknown;
}

export interface Report {
  target: string;
  seed: number;
  inputs: number;
  seconds: number;
  outcomes: Map<string, number>;
  slowestMs: number;
  /** Octets of the heap after a collection, at a tenth of the time and at its end. */
  heapEarly: number;
  heapLate: number;
  finding: Finding | undefined;
}

/** A message that takes longer stops everybody else's for as long. */
export const MESSAGE_MS_MAX = 100;
/** Beyond this much more heap at the end than at a tenth of the run something is kept that should not be. */
export const HEAP_GROWTH_BYTES_MAX: number = 24 * 1024 * 1024;
const POOL_MAX = 512;
const POOLED_BYTES_MAX = 64 * 1024;
const BATCH_MS = 1_000;
const BATCH_INPUTS_MAX = 2_000;
/** The machine may have had something else to do: an input is slow if it costs as much of the processor each time. */
const SLOW_AGAIN = 3;

/** Octets that reached something new; when it is full, the oldest found gives way, and what it began with stays. */
export class Pool {
  readonly #first: readonly Uint8Array[];
  readonly #found: Uint8Array[] = [];
  #next = 0;

  constructor(first: readonly Uint8Array[]) {
    this.#first = first;
  }

  at(index: number): Uint8Array {
    const all = this.#first.length + this.#found.length;
    const place = index % all;
    return (this.#first[place] ?? this.#found[place - this.#first.length]) as Uint8Array;
  }

  add(octets: Uint8Array): void {
    if (octets.length > POOLED_BYTES_MAX) return;
    this.#found[this.#next] = octets.slice();
    this.#next = (this.#next + 1) % POOL_MAX;
  }
}

class Run<T> {
  readonly target: Target<T>;
  readonly pool: Pool;
  readonly outcomes = new Map<string, number>();
  inputs = 0;
  slowestMs = 0;
  /** While fast-check makes a failing input smaller, nothing is learned from what it tries. */
  failed = false;

  constructor(target: Target<T>, corpus: readonly Uint8Array[]) {
    this.target = target;
    this.pool = new Pool(corpus);
  }

  async try(input: T): Promise<void> {
    const started = performance.now();
    let words: readonly string[];
    try {
      words = await this.target.run(input);
    } catch (cause) {
      this.failed = true;
      throw cause;
    }
    const perMessage = (performance.now() - started) / (this.target.messages?.(input) ?? 1);
    if (perMessage > this.slowestMs) await this.timeAgain(input, perMessage);
    if (!this.failed) this.learn(input, words);
  }

  private async timeAgain(input: T, firstMs: number): Promise<void> {
    let best = firstMs;
    for (let i = 0; i < SLOW_AGAIN && best > this.slowestMs; i++) {
      const before = process.cpuUsage();
      await this.target.run(input);
      const { user, system } = process.cpuUsage(before);
      best = Math.min(best, (user + system) / 1_000 / (this.target.messages?.(input) ?? 1));
    }
    this.slowestMs = Math.max(this.slowestMs, best);
    if (best <= MESSAGE_MS_MAX) return;
    this.failed = true;
    throw new Error(`a message took ${best.toFixed(1)} ms, expected at most ${MESSAGE_MS_MAX}`);
  }

  private learn(input: T, words: readonly string[]): void {
    this.inputs++;
    let isNew = false;
    for (const word of words) {
      const count = this.outcomes.get(word) ?? 0;
      if (count === 0) isNew = true;
      this.outcomes.set(word, count + 1);
    }
    const seed = isNew ? this.target.seedOf?.(input) : undefined;
    if (seed !== undefined) this.pool.add(seed);
  }
}

function heapBytes(): number {
  Bun.gc(true);
  return heapStats().heapSize;
}

/**
 * Tries inputs for so long, or until one breaks the invariant.
 *
 * @param limit  `seconds` of trying, or so many `inputs`
 */
export async function fuzz<T>(
  target: Target<T>,
  corpus: readonly Uint8Array[],
  seed: number,
  limit: { seconds: number } | { inputs: number },
): Promise<Report> {
  const run = new Run(target, corpus);
  const property = fc.asyncProperty(target.inputs(run.pool), (input) => run.try(input));
  const started = performance.now();
  const elapsed = (): number => (performance.now() - started) / 1_000;
  const done = (): number => ("seconds" in limit ? elapsed() / limit.seconds : run.inputs / limit.inputs);
  let finding: Finding | undefined;
  let heapEarly = 0;
  let size = 50;
  for (let batch = 0; done() < 1 && finding === undefined; batch++) {
    const before = performance.now();
    const left = "inputs" in limit ? limit.inputs - run.inputs : size;
    const checked = await fc.check(property, { seed: seed + batch, numRuns: Math.min(size, left) });
    if (checked.failed) {
      const { errorInstance: cause } = checked;
      const why = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
      finding = { target: target.name, seed: seed + batch, why: why, input: checked.counterexample?.[0] };
    }
    const took = performance.now() - before;
    if (took < BATCH_MS / 2 && size < BATCH_INPUTS_MAX) size *= 2;
    if (heapEarly === 0 && done() >= 0.1) heapEarly = heapBytes();
  }
  const heapLate = heapBytes();
  if (finding === undefined && heapLate - heapEarly > HEAP_GROWTH_BYTES_MAX) {
    const why = `the heap grew from ${heapEarly} to ${heapLate} octets`;
    finding = { target: target.name, seed, why, input: undefined };
  }
  const { inputs, outcomes, slowestMs } = run;
  return { target: target.name, seed, inputs, seconds: elapsed(), outcomes, slowestMs, heapEarly, heapLate, finding };
}

/** An input as JSON: octets as `{ "base64": … }`, everything else as it is. */
export function inputToJson(input: unknown): string {
  const encoded = (_: string, value: unknown): unknown =>
    value instanceof Uint8Array ? { base64: Buffer.from(value).toString("base64") } : value;
  return `${JSON.stringify(input, encoded, 1)}\n`;
}

export function inputFromJson(json: string): unknown {
  return JSON.parse(json, (_, value: unknown) => {
    const base64 = typeof value === "object" && value !== null && "base64" in value ? value.base64 : undefined;
    return typeof base64 === "string" ? new Uint8Array(Buffer.from(base64, "base64")) : value;
  });
}

/** Fails with what was seen, where a test library would say too much. */
export function must(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}
