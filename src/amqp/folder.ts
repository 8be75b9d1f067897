/** A directory of handlers: the executable of a name, and nothing that lies elsewhere (amqp.md B6). */
import { accessSync, constants, lstatSync, realpathSync, statSync } from "node:fs";
import { join, sep } from "node:path";
import { ConfigError } from "../core/errors.ts";
import { PREFIX } from "./dispatch.ts";

export type Found =
  | { readonly type: "handler"; readonly name: string; readonly path: string }
  /** The most significant file that there is must not, or cannot, be run. */
  | { readonly type: "refused"; readonly path: string; readonly why: string }
  | { readonly type: "none" };

export class HandlerFolder {
  /** Without symbolic links. */
  readonly path: string;

  /** @throws ConfigError where there is no such directory */
  constructor(path: string, option = "handlers") {
    try {
      this.path = realpathSync(path);
      if (statSync(this.path).isDirectory()) return;
    } catch (cause) {
      throw new ConfigError("config-unreadable", option, JSON.stringify(path), "a directory that can be read", cause);
    }
    throw new ConfigError("config-unreadable", option, JSON.stringify(path), "a directory");
  }

  /** @param names  of `eventNames`; looked for each time, so that handlers come and go without a restart */
  find(names: readonly string[]): Found {
    for (const name of names) {
      for (const file of [name, `${PREFIX}${name}`]) {
        const found = this.look(name, join(this.path, file));
        if (found.type !== "none") return found;
      }
    }
    return { type: "none" };
  }

  private look(name: string, path: string): Found {
    if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return { type: "none" };
    const why = this.objectionTo(path);
    return why === undefined ? { type: "handler", name, path } : { type: "refused", path, why };
  }

  private objectionTo(path: string): string | undefined {
    try {
      const real = realpathSync(path);
      if (!real.startsWith(`${this.path}${sep}`)) return "a symbolic link that leads out of the directory";
      if (!statSync(real).isFile()) return "no file";
      accessSync(real, constants.X_OK);
      return undefined;
    } catch {
      return "not executable, or a symbolic link to nothing";
    }
  }
}
