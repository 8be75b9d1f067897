/**
 * What a link is told to be: `A -> B;option=value;…` (queue.md B8, amqp.md B9). Reads the text of each, and refuses what cannot be at
 * the same time: two of one name, a channel that somebody else has, a circle.
 */
import { ConfigError } from "../core/errors.ts";
import { DEFAULT_PATH } from "../exec/program.ts";
import { DEAD_SUFFIX } from "../queue/definition.ts";
import { type Endpoint, invalid, readEndpoint, short } from "./endpoint.ts";
import { build, KINDS, type LinkDefinition } from "./kinds.ts";
import { Options, takeOptions } from "./options.ts";

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
  const link = build(named, own);
  if (link === undefined) throw invalid(text, KINDS);
  own.finish();
  return link;
}

function readName(own: Options, from: Endpoint, to: Endpoint): string {
  const given = own.text("name");
  // An id of a link is a word of a header, with commas between.
  if (given === undefined)
    return `${short(from)}>${short(to)}`.replaceAll(/[^A-Za-z0-9._:>-]/g, "_").slice(0, NAME_CHARS_MAX);
  if (/^[A-Za-z0-9][A-Za-z0-9._:>-]{0,127}$/.test(given)) return given;
  throw new ConfigError("config-invalid-value", "link name", JSON.stringify(given), "letters, digits and . _ : > -");
}

// --- what cannot be at the same time ---------------------------------------------------------------------------------

function checkClosed(link: LinkDefinition, closed: Closed): void {
  switch (link.type) {
    case "inbound":
    case "publish":
      if (closed.inbound.has(link.channel)) throw heldChannel(link.channel);
      break;
    case "outbound":
      if (closed.outbound.has(link.channel)) throw moduleChannel(link.channel, "a channel of yours");
      break;
    case "deliver":
      if (!link.internal && link.channel.isPlain && closed.outbound.has(link.channel.text))
        throw moduleChannel(link.channel.text, "a channel of yours, or internal=yes");
  }
  if ((link.type === "inbound" || link.type === "collect") && link.queue.endsWith(DEAD_SUFFIX)) {
    const expected = "a queue that takes items: dead letters come there by themselves";
    throw new ConfigError("config-invalid-value", "link", `queue ${link.queue}`, expected);
  }
}

function heldChannel(channel: string): ConfigError {
  const expected = "a channel that nobody else answers: a command of `on` or the node itself does";
  return new ConfigError("config-contradiction", "link", `channel ${channel}`, expected);
}

function moduleChannel(channel: string, instead: string): ConfigError {
  const expected = `${instead}: those of Kamailio's modules crash it with a wrong body`;
  return new ConfigError("config-invalid-value", "link", `channel ${channel}`, expected);
}

/**
 * What goes to an exchange ends there: whether it comes back is for the path to say that each message carries.
 *
 * @throws ConfigError where messages would go round for ever (queue.md B9)
 */
export function checkCircles(links: readonly LinkDefinition[]): void {
  const edges = links.filter(({ circle, to }) => !circle && to.type !== "exec" && to.type !== "exchange");
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
