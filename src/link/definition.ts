/**
 * What a link is told to be: `A -> B;option=value;…` (queue.md B8), from a channel into a queue, from a queue to a channel, or from a
 * queue to a command. A queue stands between any two others, because it is what keeps a message until the next one has it.
 */
import { ConfigError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { parseDuration } from "../core/time.ts";
import { DEFAULT_PATH, findProgram } from "../exec/program.ts";
import { splitWords } from "../exec/words.ts";
import { checkChannel } from "../node/kdmq.ts";
import { DEAD_SUFFIX, NAME_PATTERN, parseOctets } from "../queue/definition.ts";
import { Template } from "./template.ts";

export type Endpoint =
  | { type: "channel"; name: string }
  | { type: "queue"; name: string }
  | { type: "exec"; name: string; argv: readonly string[] };

interface Named {
  /** Of one node's links each has its own. */
  name: string;
  from: Endpoint;
  to: Endpoint;
  /** The operator knows that it is part of a circle. */
  circle: boolean;
}

/** From a channel into a queue. */
export interface InboundLink extends Named {
  type: "inbound";
  channel: string;
  queue: string;
  key: Template;
}

/** From a queue to a channel. */
export interface OutboundLink extends Named {
  type: "outbound";
  queue: string;
  channel: string;
  /** To this node only; without it to all active ones. */
  node: Template | undefined;
  /** Whose yes an item needs. */
  require: "any" | "all" | "none";
  /** One after the other for each node. */
  ordered: boolean;
  maxTries: number;
  /** Octets; `undefined`: what the transport carries. */
  maxBody: number | undefined;
  /** Also what came from this channel. */
  echo: boolean;
}

/** From a queue to a command. */
export interface ExecLink extends Named {
  type: "exec";
  queue: string;
  argv: readonly string[];
  jobs: number;
  maxTries: number;
  timeoutMs: number;
  orderByKey: boolean;
}

export type LinkDefinition = InboundLink | OutboundLink | ExecLink;

const DEFAULT_KEY = "{from.host}:{from.port}";
const MAX_TRIES = 5;
const TRIES_MAX = 1_000_000;
const JOBS_MAX = 256;
const TIMEOUT_MS = 60_000;
const TIMEOUT_MS_MAX = 2 ** 31 - 1;
const NAME_CHARS_MAX = 128;

/** What the node keeps for itself. */
export interface Closed {
  /** Channels that nothing is taken from: they have a handler, or are the node's own. */
  inbound: ReadonlySet<string>;
  /** Channels of Kamailio's modules, which a wrong body can crash. */
  outbound: ReadonlySet<string>;
}

/**
 * Reads all links of a node.
 *
 * @throws ConfigError for what is no link, two of one name, and a circle that no `circle=yes` allows
 */
export function readLinks(texts: readonly string[], closed: Closed, path: string = DEFAULT_PATH): LinkDefinition[] {
  const links: LinkDefinition[] = [];
  for (const text of texts) {
    const link = parseLink(text, path);
    const twin = links.find(({ name }) => name === link.name);
    if (twin !== undefined)
      throw new ConfigError("config-contradiction", "link", `two of name ${link.name}`, "another name=NAME for one");
    checkClosed(link, closed);
    links.push(link);
  }
  checkCircles(links);
  return links;
}

/**
 * @param path  where programs are looked for
 * @throws      ConfigError for what is no link
 */
export function parseLink(text: string, path: string = DEFAULT_PATH): LinkDefinition {
  const arrow = text.indexOf("->");
  if (arrow === -1) throw invalid(text, "A -> B, such as channel:alerts -> queue:alert");
  const from = readEndpoint(text.slice(0, arrow), text, path);
  const { target, options } = takeOptions(text.slice(arrow + 2), text);
  const to = readEndpoint(target, text, path);
  const own = new Options(options, `${from.type} -> ${to.type}`);
  const named = { from, to, name: readName(own, from, to), circle: own.flag("circle", false) };
  const link = build(named, own, text);
  own.finish();
  return link;
}

function build(named: Named, own: Options, text: string): LinkDefinition {
  const { from, to } = named;
  if (from.type === "channel" && to.type === "queue") {
    const key = own.template("key", "message") ?? new Template(DEFAULT_KEY, "link key", "message");
    return { type: "inbound", ...named, channel: from.name, queue: to.name, key };
  }
  if (from.type === "queue" && to.type === "channel")
    return {
      ...{ type: "outbound", ...named, queue: from.name, channel: to.name },
      node: own.template("node", "item"),
      require: own.choice("require", ["any", "all", "none"], "any"),
      ordered: own.flag("ordered", true),
      maxTries: own.integer("max-tries", 1, TRIES_MAX, MAX_TRIES),
      maxBody: own.octets("max-body"),
      echo: own.flag("echo", false),
    };
  if (from.type === "queue" && to.type === "exec")
    return {
      ...{ type: "exec", ...named, queue: from.name, argv: to.argv },
      jobs: own.integer("jobs", 1, JOBS_MAX, 1),
      maxTries: own.integer("max-tries", 1, TRIES_MAX, MAX_TRIES),
      timeoutMs: own.duration("timeout", TIMEOUT_MS),
      orderByKey: own.choice("order-by", ["key", "none"], "none") === "key",
    };
  throw invalid(text, "channel -> queue, queue -> channel or queue -> exec: a queue stands between two others");
}

// --- endpoints -------------------------------------------------------------------------------------------------------

function readEndpoint(text: string, link: string, path: string): Endpoint {
  const word = text.trim();
  const colon = word.indexOf(":");
  const [type, name] = colon === -1 ? [word, ""] : [word.slice(0, colon), word.slice(colon + 1).trim()];
  switch (type) {
    case "channel":
      try {
        checkChannel(name);
      } catch (cause) {
        throw invalid(link, `a channel's name behind channel:, but ${(cause as Error).message}`);
      }
      return { type, name };
    case "queue":
      if (!NAME_PATTERN.test(name))
        throw invalid(
          link,
          "a queue's name behind queue:, a letter or digit, then at most 63 of letters, digits, . _ -",
        );
      return { type, name };
    case "exec":
      return { type, name, argv: readCommand(name, link, path) };
    default:
      throw new ConfigError(
        "config-invalid-value",
        "link",
        `unknown endpoint ${JSON.stringify(word)}`,
        "channel:NAME, queue:NAME or exec:CMD",
      );
  }
}

function readCommand(command: string, link: string, path: string): string[] {
  let words: [string, ...string[]];
  try {
    words = splitWords(command);
  } catch (cause) {
    throw invalid(link, `a command behind exec:, but ${(cause as Error).message}`);
  }
  const [program, ...rest] = words;
  const found = findProgram(program, path);
  if (found.path !== undefined) return [found.path, ...rest];
  const expected = `a program that is there and may be executed; looked for in ${found.searched}`;
  throw new ConfigError("config-invalid-value", "link", `the program ${JSON.stringify(program)}`, expected);
}

// --- options ---------------------------------------------------------------------------------------------------------

const OPTION_NAMES = [
  ...["name", "circle", "key", "node", "require", "ordered", "max-tries", "max-body", "echo", "jobs", "timeout"],
  "order-by",
] as const;

type OptionName = (typeof OPTION_NAMES)[number];

/** A semicolon within a command, or within the URI of `node=`, belongs there. */
function takeOptions(text: string, link: string): { target: string; options: Map<OptionName, string> } {
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
    const option = optionOf(part);
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

function optionOf(part: string): { name: OptionName; value: string } | undefined {
  const [, word = "", value = ""] = /^\s*([A-Za-z_-]+)\s*=(.*)$/s.exec(part) ?? [];
  const name = OPTION_NAMES.find((one) => one === word.toLowerCase().replaceAll("_", "-"));
  return name === undefined ? undefined : { name, value: value.trim() };
}

class Options {
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

  template(name: OptionName, of: "message" | "item"): Template | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : new Template(text, `link ${name}`, of);
  }

  choice<W extends string>(name: OptionName, words: readonly W[], usual: W): W {
    return this.read(name, usual, words.join(" or "), (text) => words.find((word) => word === text));
  }

  flag(name: OptionName, usual: boolean): boolean {
    return this.read(name, usual, "yes or no", (text) => ({ yes: true, no: false })[text]);
  }

  integer(name: OptionName, low: number, high: number, usual: number): number {
    return this.read(name, usual, `${low} to ${high}`, (text) => {
      const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
      return value >= low && value <= high ? value : undefined;
    });
  }

  octets(name: OptionName): number | undefined {
    return this.read<number | undefined>(name, undefined, "octets, also as 64k", parseOctets);
  }

  duration(name: OptionName, usual: number): number {
    return this.read(name, usual, "a duration such as 30s", (text) => {
      const ms = parseDuration(text);
      return ms === undefined || ms < 1 || ms > TIMEOUT_MS_MAX ? undefined : Math.ceil(ms);
    });
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

function readName(own: Options, from: Endpoint, to: Endpoint): string {
  const given = own.text("name");
  // An id of a link is a word of a header, with commas between.
  if (given === undefined)
    return `${short(from)}>${short(to)}`.replaceAll(/[^A-Za-z0-9._:>-]/g, "_").slice(0, NAME_CHARS_MAX);
  if (/^[A-Za-z0-9][A-Za-z0-9._:>-]{0,127}$/.test(given)) return given;
  throw new ConfigError("config-invalid-value", "link name", JSON.stringify(given), "letters, digits and . _ : > -");
}

function short(endpoint: Endpoint): string {
  return endpoint.type === "exec" ? "exec" : `${endpoint.type}:${endpoint.name}`;
}

// --- what cannot be at the same time ---------------------------------------------------------------------------------

function checkClosed(link: LinkDefinition, closed: Closed): void {
  if (link.type === "inbound" && closed.inbound.has(link.channel)) {
    const expected = "a channel that nobody else answers: a command of `on` or the node itself does";
    throw new ConfigError("config-contradiction", "link", `channel ${link.channel}`, expected);
  }
  if (link.type === "outbound" && closed.outbound.has(link.channel)) {
    const expected = "a channel of yours: those of Kamailio's modules crash it with a wrong body";
    throw new ConfigError("config-invalid-value", "link", `channel ${link.channel}`, expected);
  }
  if (link.type === "inbound" && link.queue.endsWith(DEAD_SUFFIX)) {
    const expected = "a queue that takes items: dead letters come there by themselves";
    throw new ConfigError("config-invalid-value", "link", `queue ${link.queue}`, expected);
  }
}

/** @throws ConfigError where messages would go round for ever (queue.md B9) */
export function checkCircles(links: readonly LinkDefinition[]): void {
  const edges = links.filter(({ circle, to }) => !circle && to.type !== "exec");
  const seen = new Set<string>();
  const visit = (at: string, way: readonly LinkDefinition[]): void => {
    if (seen.has(at)) return;
    for (const link of edges.filter(({ from }) => short(from) === at)) {
      const goal = short(link.to);
      const all = [...way, link];
      const start = all.findIndex(({ from }) => short(from) === goal);
      if (start !== -1) throw circle(all.slice(start));
      visit(goal, all);
    }
    seen.add(at);
  };
  for (const { from } of edges) visit(short(from), []);
}

function circle(links: readonly LinkDefinition[]): ConfigError {
  const names = [...links, links[0] as LinkDefinition].map(({ from }) => short(from)).join(" -> ");
  return new ConfigError(
    "config-contradiction",
    "link",
    `a circle: ${names}`,
    "no circle, or circle=yes in one of them",
  );
}

function invalid(link: string, expected: string): ConfigError {
  return new ConfigError("config-invalid-value", "link", JSON.stringify(link), expected);
}

function unknownOption(word: string, link: string): ConfigError {
  const near = nearest(word.toLowerCase(), OPTION_NAMES);
  const hint = near === undefined ? `one of ${OPTION_NAMES.join(", ")}` : `${near}?`;
  return new ConfigError("config-unknown-key", "link", `${JSON.stringify(word)} in ${JSON.stringify(link)}`, hint);
}
