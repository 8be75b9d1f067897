/**
 * What every benchmark takes on its command line. The long form is for figures that are quoted: at least five turns; the
 * short one shows that everything works.
 */

export interface BenchOptions {
  readonly quick: boolean;
  /** The record as JSON on stdout; the tables go to stderr then. */
  readonly json: boolean;
  /** Turns of each contender. */
  readonly turns: number;
  /** Length of one turn. */
  readonly seconds: number;
  /** Contenders, or what is measured, whose name contains one of these words; all where it is empty. */
  readonly only: readonly string[];
}

const USAGE = "options: --quick, --json, --turns N, --seconds S, --only WORD[,WORD…]";

/** @throws Error with the options there are */
export function parseOptions(argv: readonly string[]): BenchOptions {
  const values = new Map<string, string>();
  const flags = new Set<string>();
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] as string;
    if (word === "--quick" || word === "--json") flags.add(word);
    else if (["--turns", "--seconds", "--only"].includes(word)) values.set(word, argv[++i] ?? "");
    else throw new Error(`${word} is no option; ${USAGE}`);
  }
  const quick = flags.has("--quick");
  return {
    quick,
    json: flags.has("--json"),
    turns: positive(values, "--turns", quick ? 3 : 5),
    seconds: positive(values, "--seconds", quick ? 1 : 3),
    only: (values.get("--only") ?? "").split(",").filter((word) => word !== ""),
  };
}

/** True where `--only` leaves it in. */
export function isWanted(name: string, only: BenchOptions["only"]): boolean {
  return only.length === 0 || only.some((word) => name.includes(word));
}

function positive(values: ReadonlyMap<string, string>, name: string, otherwise: number): number {
  const text = values.get(name);
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!(value > 0)) throw new Error(`${name} ${text}: expected a number above 0`);
  return value;
}
