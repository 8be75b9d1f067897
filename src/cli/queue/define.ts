/** `dmq queue define` and `drop`. */
import { ConfigError, UsageError } from "../../core/errors.ts";
import { parseDefinition } from "../../queue/definition.ts";
import { type Arguments, type CommandSpec, type OptionSpec, quoted } from "../command.ts";
import { EXIT } from "../exit.ts";
import { withQueues } from "./open.ts";
import { QUEUES_OPTIONS } from "./queues.ts";
import { QUEUE_EXITS, queueExits, queueName } from "./words.ts";

const ATTRIBUTES: OptionSpec[] = [
  { flag: "size", value: "N", help: "items at most; 0 is no limit (0)" },
  { flag: "bytes", value: "SIZE", help: "octets of all values at most: 64k, 256m, 2g (256m)" },
  {
    flag: "full",
    value: "POLICY",
    choices: ["drop-oldest", "reject", "wait", "drop-newest"],
    help: "an item that does not fit: drop-oldest (with size), reject, wait or drop-newest",
  },
  {
    flag: "addmode",
    value: "MODE",
    choices: ["all", "oldest", "newest", "in-place"],
    help: "a key that is queued: all append, the oldest wins, the newest wins, or takes its place (all; also 0, 1, 2)",
  },
  { flag: "ttl", value: "DURATION", help: "an item expires that long after it is ready; 0 is never (0)" },
  {
    flag: "expired",
    value: "drop|dead",
    choices: ["drop", "dead"],
    help: "what expired is dropped or a dead letter (drop)",
  },
  { flag: "overflow", value: "drop|dead", choices: ["drop", "dead"], help: "what made room, likewise (drop)" },
  { flag: "max-tries", value: "N", help: "deliveries before an item is a dead letter (5)" },
  { flag: "retry", value: "DURATION", help: "delay after a failure; it doubles to 5m; 0 is at once (1s)" },
  { flag: "max-value", value: "SIZE", help: "octets of a value at most (1m)" },
  {
    flag: "store",
    value: "disk|memory",
    choices: ["disk", "memory"],
    help: "memory: gone with the daemon, which it needs (disk)",
  },
  {
    flag: "sync",
    value: "full|normal",
    choices: ["full", "normal"],
    help: "what was answered survives a power cut, or a kill of the daemon (full)",
  },
  {
    flag: "dbmode",
    value: "0|1|2|3",
    choices: ["0", "1", "2", "3"],
    help: "Kamailio's: 0 memory, 1 disk, 2 the daemon takes in --db at start, 3 moves items there at stop",
  },
  { flag: "db", value: "FILE", help: "SQLite file of dbmode 2 and 3, from / on; its table has the queue's name" },
];

export const define: CommandSpec = {
  name: "queue define",
  summary: "make a queue, or change the definition of one: what is in it stays",
  examples: [
    ["dmq queue define alert --size 100 --addmode newest", "by options"],
    ["dmq queue define 'name=alert;size=100;addmode=2'", "as Kamailio's mqueue has it"],
    ["dmq queue define jobs --full wait --bytes 64m --max-tries 10", "writers wait for room"],
  ],
  positionals: [{ name: "NAME", required: true, help: "name of the queue, or a definition as in Kamailio's mqueue" }],
  options: [...ATTRIBUTES, ...QUEUES_OPTIONS],
  notes: [
    "Attributes that are not given have their default, also where the queue was defined before. Without a daemon the store is made",
    "where there is none. A queue of the daemon's configuration gets that definition again at each start.",
  ],
  exits: queueExits(
    [EXIT.ok, "it is as defined"],
    [EXIT.usage, "usage; an attribute that is none, or two that contradict"],
    [EXIT.unreachable, "store=memory without a daemon; no permission for its socket, or it is gone"],
    [EXIT.refused, "it holds items, and its kind of store would change"],
  ).filter(([code]) => code !== EXIT.notFound),
  seeAlso: ["dmq queue stats", "dmq queue drop", "dmq serve --queue"],
  async run(context, args) {
    const text = definitionOf(args);
    await withQueues(context, args, (queues) => queues.define(text), true);
    return EXIT.ok;
  },
};

/** @throws UsageError for what is no definition; on a command line that is not the configuration's fault */
function definitionOf(args: Arguments): string {
  const [name] = args.positionals as [string];
  const given = ATTRIBUTES.filter(({ flag }) => args.has(flag)).map(({ flag }): [string, string] => [
    flag,
    args.value(flag) as string,
  ]);
  const broken = given.find(([, value]) => value.includes(";"));
  if (broken !== undefined) throw new UsageError(`--${broken[0]} ${quoted(broken[1])}: a semicolon cannot be in it`);
  const parts = given.map(([flag, value]) => `${flag}=${value}`);
  const text = [name.includes("=") ? name.replace(/;\s*$/, "") : `name=${name}`, ...parts].join(";");
  try {
    parseDefinition(text);
  } catch (error) {
    if (error instanceof ConfigError) throw new UsageError(error.message);
    throw error;
  }
  return text;
}

export const drop: CommandSpec = {
  name: "queue drop",
  summary: "forget a queue; one that holds items only with --force",
  examples: [
    ["dmq queue drop alert", "an empty one"],
    ["dmq queue drop alert --force", "with all that is in it, dead letters too"],
  ],
  positionals: [{ name: "QUEUE", required: true, help: "name of the queue" }],
  options: [{ flag: "force", help: "also if it holds items" }, ...QUEUES_OPTIONS],
  exits: [...QUEUE_EXITS, [EXIT.ok, "it is gone"], [EXIT.refused, "it holds items"]],
  seeAlso: ["dmq queue clear", "dmq queue define"],
  async run(context, args) {
    const queue = queueName(args.positionals[0] as string);
    const force = args.has("force");
    await withQueues(context, args, (queues) => queues.perform({ type: "drop", queue, force }));
    return EXIT.ok;
  },
};
