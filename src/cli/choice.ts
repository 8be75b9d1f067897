/** One word out of a few: what is none of them is a usage error with the nearest one. */
import { UsageError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";

/**
 * @param what  names the word in the error: `status`
 * @throws UsageError for another word
 */
export function choose<T extends string>(what: string, word: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === word);
  if (found !== undefined) return found;
  const near = nearest(word, choices);
  const hint = near === undefined ? `expected ${choices.join(", ")}` : `did you mean ${near}?`;
  throw new UsageError(`unknown ${what} ${JSON.stringify(word)}; ${hint}`);
}
