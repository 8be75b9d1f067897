/**
 * Chance comes from outside: the driver passes the system's cryptographic source, the simulator a seeded one, and a run
 * is then a function of its seed.
 */
export interface Random {
  /** Uniform in 0 … 2³²−1. */
  u32(): number;
}

/** A small fast generator (sfc32 construction) for simulations: the same seed gives the same sequence for ever. */
export function seededRandom(seed: number): Random {
  let a = seed >>> 0;
  let b = 0x9e3779b9;
  let c = 0x243f6a88;
  let counter = 1;
  const u32 = (): number => {
    const result = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + result) | 0;
    return result >>> 0;
  };
  for (let i = 0; i < 15; i++) u32();
  return { u32 };
}

/** Lower-case hexadecimal of `words` × 32 bits: two words are the 64 bits that design.md asks of a branch. */
export function token(random: Random, words: number): string {
  let text = "";
  for (let i = 0; i < words; i++) {
    const word = random.u32();
    text += `${HEX[word >>> 24]}${HEX[(word >>> 16) & 255]}${HEX[(word >>> 8) & 255]}${HEX[word & 255]}`;
  }
  return text;
}

/** Every octet as two digits. */
const HEX = Array.from({ length: 256 }, (_, octet) => octet.toString(16).padStart(2, "0"));

const DIGITS = Uint8Array.from("0123456789abcdef", (digit) => digit.charCodeAt(0));

/** Writes what `token` gives to `out` at `start`: eight octets a word. */
export function putToken(random: Random, words: number, out: Uint8Array, start: number): void {
  let at = start;
  for (let i = 0; i < words; i++) {
    const word = random.u32();
    for (let shift = 28; shift >= 0; shift -= 4) out[at++] = DIGITS[(word >>> shift) & 15] as number;
  }
}

/** Uniform integer in 0 … bound−1; the bias for bounds far below 2³² is of no consequence to timers and simulations. */
export function below(random: Random, bound: number): number {
  return Math.floor((random.u32() / 0x1_0000_0000) * bound);
}
