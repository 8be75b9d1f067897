/** Which command handles a message (amqp.md B6): the one of `--exec`, or that of the first of its names that there is. */
import { type EventFields, eventNames, handlerName, MOD_INIT } from "../../amqp/dispatch.ts";
import type { HandlerFolder } from "../../amqp/folder.ts";
import { UsageError } from "../../core/errors.ts";
import { quoted } from "../command.ts";

export type Choice =
  /** Program and arguments; `name` is empty for that of `--exec`. */
  | { type: "command"; argv: readonly string[]; name: string }
  /** `why` completes "its handler …". */
  | { type: "none"; why: string };

export interface HandlersOptions {
  exec: readonly string[] | undefined;
  /** By the name of a handler: text for `sh -c`. */
  on: ReadonlyMap<string, string>;
  folder: HandlerFolder | undefined;
}

export class Handlers {
  private readonly options: HandlersOptions;

  constructor(options: HandlersOptions) {
    this.options = options;
  }

  /** @param body  as it is looked into: decoded, where that was asked for */
  choose(body: Uint8Array, fields: EventFields): Choice {
    const { exec } = this.options;
    return exec === undefined ? this.find(eventNames(body, fields)) : { type: "command", argv: exec, name: "" };
  }

  /** @returns what is to run before anything is consumed */
  init(): Choice {
    return this.find([MOD_INIT]);
  }

  /** @param names  the most significant first */
  find(names: readonly string[]): Choice {
    for (const name of names) {
      const text = this.options.on.get(name);
      if (text !== undefined) return { type: "command", argv: ["sh", "-c", text], name };
      const found = this.options.folder?.find([name]) ?? { type: "none" };
      if (found.type === "handler") return { type: "command", argv: [found.path], name };
      if (found.type === "refused") return { type: "none", why: `may not be run: ${found.path} is ${found.why}` };
    }
    return { type: "none", why: `is missing: there is none of ${names.join(", ")}` };
  }
}

/** @throws UsageError for what is no `NAME=CMD`, and for a name that is given twice */
export function readOn(words: readonly string[]): Map<string, string> {
  const commands = new Map<string, string>();
  for (const word of words) {
    const equals = word.indexOf("=");
    const name = equals === -1 ? undefined : handlerName(word.slice(0, equals));
    const command = word.slice(equals + 1);
    if (name === undefined || command.trim() === "")
      throw new UsageError(`--on ${quoted(word)}: expected NAME=CMD, such as presence-update=./update.sh`);
    if (commands.has(name)) throw new UsageError(`--on: ${quoted(name)} is given twice`);
    commands.set(name, command);
  }
  return commands;
}
