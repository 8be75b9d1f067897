/** All that is wrong with a configuration: who mends a file wants to see it at once, and not one thing with each try. */
import { ConfigError } from "../core/errors.ts";

/** Who has as many reads no further; a file of 1 MiB can have a hundred thousand. */
const MISTAKES_MAX = 50;

export class Mistakes {
  /** In the order in which they were seen, the first 50. */
  readonly found: ConfigError[] = [];

  /** @param make  called where there is room for one more */
  add(make: () => ConfigError): void {
    if (this.found.length < MISTAKES_MAX) this.found.push(make());
  }

  /** @returns what `read` returns; `undefined` where it threw a ConfigError, which is kept */
  try<T>(read: () => T): T | undefined {
    try {
      return read();
    } catch (error) {
      this.keep(error);
      return undefined;
    }
  }

  /** As `try`, for what takes time. */
  async await(reading: Promise<unknown>): Promise<void> {
    await reading.catch((error: unknown) => this.keep(error));
  }

  /** Values that are read together: each one that is wrong by itself, else what is wrong with them as a whole. */
  each<T>(values: readonly T[], read: (values: T[]) => unknown): void {
    const together = new Mistakes();
    together.try(() => read([...values]));
    if (together.found.length === 0) return;
    const alone = new Mistakes();
    for (const value of values) alone.try(() => read([value]));
    for (const error of (alone.found.length > 0 ? alone : together).found) this.add(() => error);
  }

  private keep(error: unknown): void {
    if (!(error instanceof ConfigError)) throw error;
    this.add(() => error);
  }
}
