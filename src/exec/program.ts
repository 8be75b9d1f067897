/**
 * Where a program is, by the rules of execvp(3): a name with a slash is a path, any other is looked for in the
 * directories of PATH. It is asked once, at the start, so that a misspelt program is the operator's error and not that of
 * the first message.
 */
import { accessSync, constants, statSync } from "node:fs";
import { join } from "node:path";

/** What runs where the process has no PATH of its own (the default of a service manager). */
export const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export type Found =
  | { path: string }
  /** `searched` says where it was looked for, in words. */
  | { path: undefined; searched: string };

export function findProgram(name: string, path: string): Found {
  if (name.includes("/")) {
    const why = unusable(name);
    return why === undefined ? { path: name } : { path: undefined, searched: `${name}, which ${why}` };
  }
  const folders = path.split(":").filter((folder) => folder !== "");
  const hit = folders.map((folder) => join(folder, name)).find((file) => unusable(file) === undefined);
  return hit === undefined ? { path: undefined, searched: `PATH ${folders.join(":")}` } : { path: hit };
}

/** @returns why `file` cannot be executed, `undefined` if it can */
function unusable(file: string): string | undefined {
  try {
    if (!statSync(file).isFile()) return "is no file";
    accessSync(file, constants.X_OK);
    return undefined;
  } catch (cause) {
    return (cause as { code?: string }).code === "EACCES" ? "may not be executed" : "is not there";
  }
}
