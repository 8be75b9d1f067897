/**
 * What a benchmark says: tables for people, and with `--json` one record on stdout. A goal is printed with what was measured
 * and never decides how the process ends; wrong answers do.
 */
import type { Figure } from "./figures.ts";
import { describeMachine, type Machine, pinning } from "./machine.ts";
import type { BenchOptions } from "./options.ts";
import { endAll } from "./process.ts";

export interface Cell {
  readonly text: string;
  /** For the record. */
  readonly value: unknown;
}

/** A figure as `median ±spread %`. */
export function cell(figure: Figure, digits = 0, unit = ""): Cell {
  const spread = figure.values.length < 2 ? "" : ` ±${Math.round((figure.spread / 2) * 100)}%`;
  return { text: `${grouped(figure.median, digits)}${unit}${spread}`, value: figure };
}

export function plain(value: number | string, digits = 0, unit = ""): Cell {
  return { text: typeof value === "string" ? value : `${grouped(value, digits)}${unit}`, value };
}

function grouped(value: number, digits: number): string {
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export interface Goal {
  readonly name: string;
  readonly measured: number;
  readonly unit: string;
  readonly atLeast?: number;
  readonly atMost?: number;
}

interface Table {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly { name: string; cells: Record<string, Cell> }[];
}

interface BenchRecord extends Machine {
  readonly bench: string;
  readonly quick: boolean;
  readonly turns: number;
  readonly seconds: number;
  readonly pinning: string;
  readonly tables: { title: string; rows: { name: string; figures: Record<string, unknown> }[] }[];
  readonly goals: (Goal & { met: boolean })[];
  readonly faults: readonly string[];
  readonly notes: readonly string[];
}

export class Report {
  readonly options: BenchOptions;
  readonly #name: string;
  readonly #tables: Table[] = [];
  readonly #goals: Goal[] = [];
  readonly #faults: string[] = [];
  readonly #notes: string[] = [];

  constructor(name: string, options: BenchOptions) {
    this.#name = name;
    this.options = options;
    this.#say(`== ${name} (${options.turns} turns of ${options.seconds} s; ${pinning()})`);
  }

  /** Prints a table; the first column is the name of the row. */
  table(title: string, rows: readonly { name: string; cells: Record<string, Cell> }[]): void {
    const columns = [...new Set(rows.flatMap(({ cells }) => Object.keys(cells)))];
    this.#tables.push({ title, columns, rows });
    const texts = rows.map(({ name, cells }) => [name, ...columns.map((column) => cells[column]?.text ?? "–")]);
    const all = [[title, ...columns], ...texts];
    const widths = [title, ...columns].map((_, i) => Math.max(...all.map((row) => (row[i] as string).length)));
    this.#say("");
    for (const row of all)
      this.#say(
        row
          .map((text, i) => pad(text, widths[i] as number, i === 0))
          .join("  ")
          .trimEnd(),
      );
  }

  goal(goal: Goal): void {
    this.#goals.push(goal);
  }

  /** Something that makes the figures worthless: an answer that is not one. */
  fault(text: string): void {
    this.#faults.push(text);
  }

  note(text: string): void {
    this.#notes.push(text);
    this.#say(`   ${text}`);
  }

  end(): void {
    if (this.#goals.length > 0) this.#say("");
    for (const goal of this.#goals) this.#say(goalLine(goal));
    for (const fault of this.#faults) this.#say(`FAULT  ${fault}`);
    if (this.options.json) console.log(JSON.stringify(this.#record()));
    if (this.#faults.length > 0) process.exitCode = 1;
  }

  #record(): BenchRecord {
    const { quick, turns, seconds } = this.options;
    return {
      bench: this.#name,
      ...describeMachine(),
      quick,
      turns,
      seconds,
      pinning: pinning(),
      tables: this.#tables.map(({ title, rows }) => ({
        title,
        rows: rows.map(({ name, cells }) => ({
          name,
          figures: Object.fromEntries(Object.entries(cells).map(([key, { value }]) => [key, value])),
        })),
      })),
      goals: this.#goals.map((goal) => ({ ...goal, met: isMet(goal) })),
      faults: this.#faults,
      notes: this.#notes,
    };
  }

  #say(text: string): void {
    if (this.options.json) console.error(text);
    else console.log(text);
  }
}

function pad(text: string, width: number, isName: boolean): string {
  return isName ? text.padEnd(width) : text.padStart(width);
}

function isMet({ measured, atLeast = Number.NEGATIVE_INFINITY, atMost = Number.POSITIVE_INFINITY }: Goal): boolean {
  return measured >= atLeast && measured <= atMost;
}

function goalLine(goal: Goal): string {
  const wanted = goal.atLeast === undefined ? `≤ ${goal.atMost}` : `≥ ${goal.atLeast}`;
  const measured = goal.measured.toFixed(goal.measured < 10 ? 2 : 1);
  return `${isMet(goal) ? "met    " : "not yet"} ${goal.name}: ${measured} ${goal.unit}, wanted ${wanted}`;
}

/** Runs a benchmark to its end, whatever happens in it: its processes are ended, an error is told. */
export async function runBench(
  name: string,
  options: BenchOptions,
  body: (report: Report) => Promise<void>,
): Promise<void> {
  const report = new Report(name, options);
  try {
    await body(report);
    report.end();
  } catch (cause) {
    console.error(`${name}: ${cause instanceof Error ? cause.message : String(cause)}`);
    process.exitCode = 1;
  } finally {
    await endAll();
  }
  // Sockets and timers of a stack that was measured in this process may still be open.
  process.exit();
}
