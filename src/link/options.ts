/** What stands behind the semicolons of a link: `option=value`, each known, each once, each with a meaning for its kind. */
import { ConfigError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { parseDuration } from "../core/time.ts";
import { parseOctets } from "../queue/definition.ts";
import { Template, type TemplateOf } from "./template.ts";

const TIMEOUT_MS_MAX = 2 ** 31 - 1;

const OPTION_NAMES = [
  ...["name", "circle", "key", "node", "require", "ordered", "max-tries", "max-body", "echo", "jobs", "timeout"],
  ...["order-by", "type", "durable", "declare", "queue", "until", "prefetch", "lock", "standby", "headers", "channel"],
  ...["internal", "priority", "mandatory", "dead"],
] as const;

export type OptionName = (typeof OPTION_NAMES)[number];

/** A semicolon within a command, or within the URI of `node=`, belongs there. */
export function takeOptions(text: string, link: string): { target: string; options: Map<OptionName, string> } {
  const parts = text.split(";");
  if (parts.length > 1 && parts.at(-1)?.trim() === "") parts.pop();
  const options = new Map<OptionName, string>();
  let first = 1;
  if (/^\s*exec:/.test(text)) {
    first = parts.length;
    while (first > 1 && optionOf(parts[first - 1] as string) !== undefined) first--;
  }
  let last: OptionName | undefined;
  for (const part of parts.slice(first)) {
    const option = optionOf(part, first === 1);
    if (option === undefined && last !== "node") throw unknownOption(part.split("=", 1)[0]?.trim() ?? "", link);
    if (option === undefined) options.set("node", `${options.get("node")};${part.trim()}`);
    else if (options.has(option.name))
      throw new ConfigError("config-contradiction", `link ${option.name}`, "it twice", "it once");
    else {
      options.set(option.name, option.value);
      last = option.name;
    }
  }
  return { target: parts.slice(0, first).join(";"), options };
}

/** Those that say yes by being there. */
const FLAGS: readonly string[] = ["ordered", "durable", "internal", "mandatory", "echo"] satisfies OptionName[];

function optionOf(part: string, isBareAllowed = false): { name: OptionName; value: string } | undefined {
  const [, word = "", value = ""] = /^\s*([A-Za-z_-]+)\s*=(.*)$/s.exec(part) ?? [];
  const bare = part.trim().toLowerCase();
  if (isBareAllowed && FLAGS.includes(bare)) return { name: bare as OptionName, value: "yes" };
  const name = OPTION_NAMES.find((one) => one === word.toLowerCase().replaceAll("_", "-"));
  return name === undefined ? undefined : { name, value: value.trim() };
}

export class Options {
  private readonly given: ReadonlyMap<OptionName, string>;
  private readonly kind: string;
  private readonly used = new Set<OptionName>();

  constructor(given: ReadonlyMap<OptionName, string>, kind: string) {
    this.given = given;
    this.kind = kind;
  }

  text(name: OptionName): string | undefined {
    this.used.add(name);
    return this.given.get(name);
  }

  template(name: OptionName, of: TemplateOf): Template | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : new Template(text, `link ${name}`, of);
  }

  choice<W extends string>(name: OptionName, words: readonly W[], usual: W): W {
    return this.read(name, usual, words.join(" or "), (text) => words.find((word) => word === text));
  }

  flag(name: OptionName, usual: boolean): boolean {
    return this.read(name, usual, "yes or no", (text) => ({ yes: true, no: false })[text]);
  }

  integer(name: OptionName, low: number, high: number, usual: number): number;
  integer(name: OptionName, low: number, high: number, usual: undefined): number | undefined;
  integer(name: OptionName, low: number, high: number, usual: number | undefined): number | undefined {
    return this.read<number | undefined>(name, usual, `${low} to ${high}`, (text) => {
      const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
      return value >= low && value <= high ? value : undefined;
    });
  }

  octets(name: OptionName): number | undefined {
    return this.read<number | undefined>(name, undefined, "octets, also as 64k", parseOctets);
  }

  duration(name: OptionName, usual: number): number;
  duration(name: OptionName, usual: undefined): number | undefined;
  duration(name: OptionName, usual: number | undefined): number | undefined {
    return this.read<number | undefined>(name, usual, "a duration such as 30s", (text) => {
      const ms = parseDuration(text);
      return ms === undefined || ms < 1 || ms > TIMEOUT_MS_MAX ? undefined : Math.ceil(ms);
    });
  }

  /** Words with commas between. */
  list(name: OptionName, pattern: RegExp, expected: string): string[] {
    return this.read<string[]>(name, [], expected, (text) => {
      const words = text.split(",").map((word) => word.trim());
      return words.every((word) => pattern.test(word)) ? words : undefined;
    });
  }

  /** A text of its own form. */
  word(name: OptionName, pattern: RegExp, expected: string): string | undefined {
    return this.read<string | undefined>(name, undefined, expected, (text) => (pattern.test(text) ? text : undefined));
  }

  private read<T>(name: OptionName, usual: T, expected: string, read: (text: string) => T | undefined): T {
    const text = this.text(name);
    if (text === undefined) return usual;
    const value = read(text);
    if (value !== undefined) return value;
    throw new ConfigError("config-invalid-value", `link ${name}`, JSON.stringify(text), expected);
  }

  /** @throws ConfigError for an option that means nothing here */
  finish(): void {
    const stray = [...this.given.keys()].find((name) => !this.used.has(name));
    if (stray === undefined) return;
    const expected = `one of ${[...this.used].join(", ")} for ${this.kind}`;
    throw new ConfigError("config-contradiction", "link", `option ${stray}`, expected);
  }
}

function unknownOption(word: string, link: string): ConfigError {
  const near = nearest(word.toLowerCase(), OPTION_NAMES);
  const hint = near === undefined ? `one of ${OPTION_NAMES.join(", ")}` : `${near}?`;
  return new ConfigError("config-unknown-key", "link", `${JSON.stringify(word)} in ${JSON.stringify(link)}`, hint);
}
