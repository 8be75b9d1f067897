/** A small file system that only processes of the test see: a tmpfs in a mount namespace of its own, gone with its last process. */
import { mkdirSync } from "node:fs";
import { EXECUTABLE } from "./daemon.ts";

import { missingPrograms, type Refused } from "./needs.ts";
import { type Finished, finished } from "./process.ts";
import { until } from "./wait.ts";

/** @returns what is missing for one, `undefined` if nothing is */
export function diskProblem(): string | Refused | undefined {
  const missing = missingPrograms("unshare", "mount", "nsenter", "sh", "dd");
  if (missing !== undefined) return missing;
  if (process.getuid?.() !== 0) return { refused: "a file system of its own needs root" };
  const probe = Bun.spawnSync(["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]);
  return probe.success ? undefined : { refused: `no mount namespace: ${probe.stderr.toString().trim()}` };
}

export class SmallDisk {
  readonly folder: string;
  /** Keeps the namespace for as long as its input is open. */
  readonly #holder: Bun.Subprocess<"pipe", "pipe", "inherit">;

  private constructor(folder: string, size: string) {
    this.folder = folder;
    const script = `mount --make-rprivate / && mount -t tmpfs -o size=${size} none ${folder} && echo && exec cat`;
    this.#holder = Bun.spawn(["unshare", "-m", "sh", "-c", script], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
  }

  /** @param size  as tmpfs has it: `32m` */
  static async make(folder: string, size: string): Promise<SmallDisk> {
    mkdirSync(folder);
    const disk = new SmallDisk(folder, size);
    const { value } = await disk.#holder.stdout.getReader().read();
    if (value === undefined) throw new Error(`no file system at ${folder}`);
    return disk;
  }

  /** What stands before a command that is to see it. */
  get prefix(): string[] {
    return ["nsenter", "-t", String(this.#holder.pid), "-m"];
  }

  /** Runs `dmq` beside it. */
  async dmq(args: readonly string[], env: Record<string, string>, stdin?: Uint8Array): Promise<Finished> {
    const child = Bun.spawn([...this.prefix, EXECUTABLE, ...args], {
      stdin: stdin ?? "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: { PATH: process.env.PATH ?? "", ...env },
      timeout: 40_000,
    });
    return finished(child);
  }

  /** @throws Error where the command fails */
  sh(command: string): string {
    const done = Bun.spawnSync([...this.prefix, "sh", "-c", command]);
    if (!done.success) throw new Error(`${command}: ${done.stderr.toString()}`);
    return done.stdout.toString();
  }

  async end(): Promise<void> {
    await this.#holder.stdin.end();
    await until(() => this.#holder.exitCode !== null, 5_000, "the namespace ends");
  }
}
