/** `dmq amqp declare`, `bind`, `unbind`, `delete` and `purge`: exchanges, queues and bindings, for scripts. */
import { TIMEOUT_MS } from "../../amqp/desk.ts";
import { readHeaders } from "../../amqp/headers.ts";
import { headersJson } from "../../amqp/json.ts";
import type { TopologyReply } from "../../amqp/topology.ts";
import { UsageError } from "../../core/errors.ts";
import { choose } from "../choice.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS, type OptionSpec, type PositionalSpec } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT } from "../exit.ts";
import { readTimeout } from "../message.ts";
import { type Cell, formOf, writeResult } from "../output.ts";
import { BROKER_NOTES, BROKER_OPTIONS, brokerExits, withBrokers } from "./brokers.ts";
import { ask, shortText } from "./message.ts";

const KINDS = ["exchange", "queue"] as const;
const QUEUE_TYPES = ["classic", "quorum", "stream"] as const;

const KIND: PositionalSpec = { name: "exchange|queue", required: true, choices: KINDS, help: "what it is about" };
const TIMEOUT: OptionSpec = { flag: "timeout", value: "DURATION", help: "give up after that long (10s)" };
const ARGUMENT: OptionSpec = {
  flag: "arg",
  value: "K=V",
  repeatable: true,
  help: "an argument: text, or K:int=5, K:bool=true, K:json=...; may be repeated",
};

const EXITS = [
  [EXIT.notFound, "no such exchange, queue or virtual host"],
  [
    EXIT.refused,
    "the broker refused: it is there with other attributes, another's alone, in use, or there is no right to",
  ],
  [EXIT.timeout, "no answer in time, or the connection broke: it may have happened"],
] as const;

const NOTES = [...BROKER_NOTES];

export const declare: CommandSpec = {
  name: "amqp declare",
  summary: "make an exchange or a queue, unless it is there with the same attributes",
  examples: [
    ["dmq amqp declare exchange sip", "topic, durable"],
    ["dmq amqp declare queue orders --queue-type quorum --arg x-dead-letter-exchange=dead", "durable, with arguments"],
    ["dmq amqp declare queue orders --passive", "NAME MESSAGES CONSUMERS, or exit 3 if it is not there"],
  ],
  positionals: [KIND, { name: "NAME", required: true, help: "name" }],
  options: [
    { flag: "type", value: "TYPE", help: "of an exchange: topic, direct, fanout, headers (topic)" },
    { flag: "queue-type", value: "TYPE", choices: QUEUE_TYPES, help: "of a queue: classic, quorum or stream" },
    { flag: "transient", help: "gone when the broker restarts" },
    { flag: "auto-delete", help: "gone when the last one who used it is" },
    { flag: "internal", help: "of an exchange: only other exchanges may publish to it" },
    { flag: "passive", help: "make nothing: only look whether it is there" },
    ARGUMENT,
    TIMEOUT,
    ...FORM_OPTIONS,
    ...BROKER_OPTIONS,
  ],
  notes: NOTES,
  exits: brokerExits([EXIT.ok, "it is there"], ...EXITS),
  seeAlso: ["dmq amqp bind", "dmq amqp delete"],
  run: runDeclare,
};

async function runDeclare(context: CliContext, args: Arguments): Promise<number> {
  const [kind, name] = readTarget(args);
  const foreign = kind === "queue" ? ["type", "internal"] : ["queue-type"];
  refuseFlags(args, kind, foreign);
  const queueType = args.value("queue-type");
  if (queueType !== undefined) choose("--queue-type", queueType, QUEUE_TYPES);
  const arguments_ = {
    ...readArguments(args),
    ...(queueType !== undefined && { "x-queue-type": queueType }),
  };
  const step = {
    do: `declare-${kind}`,
    name,
    ...(args.has("type") && { type: shortText("--type", args.value("type") as string) }),
    ...(args.has("internal") && { internal: true }),
    durable: !args.has("transient"),
    auto_delete: args.has("auto-delete"),
    passive: args.has("passive"),
    ...(Object.keys(arguments_).length > 0 && { arguments: arguments_ }),
  };
  const [reply] = await perform(context, args, [step]);
  const isShown = args.has("json") || (args.has("passive") && kind === "queue");
  if (isShown) show(context, args, { name, ...reply }, [name, reply?.messages ?? 0, reply?.consumers ?? 0]);
  return EXIT.ok;
}

const BIND_POSITIONALS: PositionalSpec[] = [
  KIND,
  { name: "NAME", required: true, help: "what messages go to" },
  { name: "EXCHANGE", required: true, help: "where they come from" },
  { name: "KEY", required: false, repeatable: true, help: "routing keys; without one the empty key" },
];

export const bind: CommandSpec = {
  name: "amqp bind",
  summary: "have an exchange pass messages on to a queue, or to another exchange",
  examples: [
    ["dmq amqp bind queue orders sip 'order.#' 'invoice.*'", "two keys of the topic exchange sip"],
    ["dmq amqp bind exchange archive sip '#'", "all that comes to sip goes to archive, too"],
  ],
  positionals: BIND_POSITIONALS,
  options: [ARGUMENT, TIMEOUT, ...BROKER_OPTIONS],
  notes: NOTES,
  exits: brokerExits([EXIT.ok, "bound; it may have been before"], ...EXITS),
  seeAlso: ["dmq amqp unbind", "dmq amqp declare"],
  run: (context, args) => runBinding(context, args, "bind"),
};

export const unbind: CommandSpec = {
  name: "amqp unbind",
  summary: "end what dmq amqp bind began",
  examples: [["dmq amqp unbind queue orders sip 'invoice.*'", "messages with this key stay away"]],
  positionals: BIND_POSITIONALS,
  options: [ARGUMENT, TIMEOUT, ...BROKER_OPTIONS],
  notes: NOTES,
  exits: brokerExits([EXIT.ok, "not bound any more; it may not have been before"], ...EXITS),
  seeAlso: ["dmq amqp bind"],
  run: (context, args) => runBinding(context, args, "unbind"),
};

async function runBinding(context: CliContext, args: Arguments, action: "bind" | "unbind"): Promise<number> {
  const [kind, destination] = readTarget(args);
  const [, , source, ...keys] = args.positionals as [string, string, string, ...string[]];
  shortText("EXCHANGE", source);
  const table = readArguments(args);
  const more = Object.keys(table).length > 0 ? { arguments: table } : {};
  const steps = (keys.length === 0 ? [""] : keys).map((key) => ({
    ...{ do: action, source, kind, destination, key: shortText("KEY", key) },
    ...more,
  }));
  await perform(context, args, steps);
  return EXIT.ok;
}

export const remove: CommandSpec = {
  name: "amqp delete",
  summary: "delete an exchange, or a queue with all that is in it",
  examples: [
    ["dmq amqp delete queue orders --if-empty --if-unused", "exit 5 if somebody still needs it"],
    ["dmq amqp delete exchange sip", "with its bindings"],
  ],
  positionals: [KIND, { name: "NAME", required: true, help: "name" }],
  options: [
    { flag: "if-unused", help: "only if nothing is bound to the exchange, or nobody consumes the queue" },
    { flag: "if-empty", help: "only if the queue is empty" },
    TIMEOUT,
    ...FORM_OPTIONS,
    ...BROKER_OPTIONS,
  ],
  notes: [
    "With --json, of a queue: messages, how many went with it. What is not there is deleted, for a broker.",
    ...NOTES,
  ],
  exits: brokerExits([EXIT.ok, "it is gone"], ...EXITS),
  seeAlso: ["dmq amqp purge", "dmq amqp declare"],
  async run(context, args) {
    const [kind, name] = readTarget(args);
    if (kind === "exchange") refuseFlags(args, kind, ["if-empty"]);
    const [reply] = await perform(context, args, [
      { do: "delete", kind, name, if_unused: args.has("if-unused"), if_empty: args.has("if-empty") },
    ]);
    if (args.has("json")) show(context, args, { name, ...reply }, []);
    return EXIT.ok;
  },
};

export const purge: CommandSpec = {
  name: "amqp purge",
  summary: "drop all messages of a queue that nobody is handling; prints how many",
  examples: [["dmq amqp purge orders", "how many there were"]],
  positionals: [{ name: "QUEUE", required: true, help: "name of the queue" }],
  options: [TIMEOUT, ...FORM_OPTIONS, ...BROKER_OPTIONS],
  notes: NOTES,
  exits: brokerExits([EXIT.ok, "the queue is empty"], ...EXITS),
  seeAlso: ["dmq amqp get", "dmq amqp delete"],
  async run(context, args) {
    const name = shortText("QUEUE", args.positionals[0] as string);
    const [reply] = await perform(context, args, [{ do: "purge", name }]);
    show(context, args, { name, ...reply }, [reply?.messages ?? 0]);
    return EXIT.ok;
  },
};

function readTarget(args: Arguments): [kind: (typeof KINDS)[number], name: string] {
  const [kind, name] = args.positionals as [string, string];
  if (name === "") throw new UsageError("NAME is empty: the default exchange is not to be changed, a queue has a name");
  return [choose("kind", kind, KINDS), shortText("NAME", name)];
}

function refuseFlags(args: Arguments, kind: string, flags: readonly string[]): void {
  const flag = flags.find((one) => args.has(one));
  if (flag !== undefined) throw new UsageError(`--${flag} does not go with ${kind}`);
}

function readArguments(args: Arguments): Record<string, unknown> {
  const read = readHeaders(args.all("arg"));
  return read === undefined ? {} : { ...headersJson(read) };
}

function perform(context: CliContext, args: Arguments, steps: readonly object[]): Promise<TopologyReply[]> {
  const timeoutMs = readTimeout(args.value("timeout")) ?? TIMEOUT_MS;
  return withBrokers(context, args, (brokers) =>
    ask<TopologyReply[]>(brokers, "amqp.topology", { steps, timeout_ms: timeoutMs }, timeoutMs),
  );
}

function show(context: CliContext, args: Arguments, result: object, row: Cell[]): void {
  writeResult(context, formOf(context, args), result, [row]);
}
