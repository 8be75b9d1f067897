/** The two ends of a link: `channel:NAME`, `queue:NAME`, `exec:CMD`, and at a broker `exchange:NAME/KEY`, `amqp-queue:NAME`. */
import { ConfigError } from "../core/errors.ts";
import { findProgram } from "../exec/program.ts";
import { splitWords } from "../exec/words.ts";
import { checkChannel } from "../node/kdmq.ts";
import { NAME_PATTERN } from "../queue/definition.ts";

export type Endpoint =
  | { type: "channel"; name: string }
  | { type: "queue"; name: string }
  | { type: "exec"; name: string; argv: readonly string[] }
  /** `key`: what stands behind the first slash, `undefined` without one. */
  | { type: "exchange"; name: string; key: string | undefined }
  | { type: "amqp-queue"; name: string };

/** AMQP's short strings have a length of one octet. */
export const AMQP_NAME_BYTES_MAX = 255;

/** @throws ConfigError for what is none */
export function readEndpoint(text: string, link: string, path: string): Endpoint {
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
    case "exchange":
      return { type, ...readExchange(name, link) };
    case "amqp-queue":
      if (name === "" || !isAmqpName(name))
        throw invalid(link, "a queue of the broker behind amqp-queue:, 1 to 255 octets");
      return { type, name };
    case "exec":
      return { type, name, argv: readCommand(name, link, path) };
    default:
      throw new ConfigError(
        "config-invalid-value",
        "link",
        `unknown endpoint ${JSON.stringify(word)}`,
        "channel:NAME, queue:NAME, exec:CMD, exchange:NAME/KEY or amqp-queue:NAME",
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

/** An exchange's name ends at the first slash; an empty one is the default exchange, whose keys are queues. */
function readExchange(text: string, link: string): { name: string; key: string | undefined } {
  const slash = text.indexOf("/");
  const name = slash === -1 ? text : text.slice(0, slash);
  const key = slash === -1 ? undefined : text.slice(slash + 1);
  if (!isAmqpName(name) || text === "")
    throw invalid(link, "an exchange behind exchange:, its name of at most 255 octets, then / and a key");
  return { name, key };
}

function isAmqpName(text: string): boolean {
  return Buffer.byteLength(text) <= AMQP_NAME_BYTES_MAX && !/[\x00-\x1f\x7f]/.test(text);
}

/** As it stands in names of links, in `dmq status`, and where circles are looked for. */
export function place(endpoint: Endpoint): string {
  if (endpoint.type !== "exchange" || endpoint.key === undefined) return `${endpoint.type}:${endpoint.name}`;
  return `exchange:${endpoint.name}/${endpoint.key}`;
}

/** Without the words of a command. */
export function short(endpoint: Endpoint): string {
  return endpoint.type === "exec" ? "exec" : place(endpoint);
}

export function invalid(link: string, expected: string): ConfigError {
  return new ConfigError("config-invalid-value", "link", JSON.stringify(link), expected);
}
