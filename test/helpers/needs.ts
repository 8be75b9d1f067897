/**
 * Tests that need what a machine may lack: skipped with the reason in their name, or failed where everything is required
 * (DMQ_REQUIRE_INTEROP=1, as in CI). Never skipped silently.
 */
import { describe, test } from "bun:test";

/** A test that needs what no package gives (a right that the kernel or a container refuses) is never required. */
export interface Refused {
  readonly refused: string;
}

/**
 * `describe` that runs only where nothing is missing.
 *
 * @param missing  what is not there, or refused; `undefined` if all is there
 */
export function describeWhere(missing: string | Refused | undefined, name: string, body: () => void): void {
  const problem = typeof missing === "object" ? missing.refused : missing;
  if (problem === undefined) {
    describe(name, body);
  } else if (process.env.DMQ_REQUIRE_INTEROP === "1" && typeof missing === "string") {
    test(name, () => {
      throw new Error(`interop is required (DMQ_REQUIRE_INTEROP=1), but ${problem}`);
    });
  } else {
    console.log(`skipped: ${name}: ${problem}`);
    test.skip(`${name}: ${problem}`, () => undefined);
  }
}

/** @returns what is not there of these programs, `undefined` if all are */
export function missingPrograms(...programs: readonly string[]): string | undefined {
  const missing = programs.filter((program) => Bun.which(program) === null);
  return missing.length === 0 ? undefined : `not installed: ${missing.join(", ")}`;
}
