/** `dmq amqp`: its commands, none of which is loaded before it is asked for. */
import type { CommandEntry, CommandSpec } from "./command.ts";
import { EXIT } from "./exit.ts";

const COMMANDS: ReadonlyMap<string, CommandEntry> = new Map<string, CommandEntry>([
  [
    "consume",
    {
      summary: "take messages, or have commands handle them",
      load: async () => (await import("./amqp/consume.ts")).consumeMessages,
    },
  ],
  [
    "publish",
    { summary: "publish a message, confirmed", load: async () => (await import("./amqp/publish.ts")).publish },
  ],
  [
    "query",
    { summary: "publish a request, print the answer", load: async () => (await import("./amqp/query.ts")).query },
  ],
  ["get", { summary: "take one message off a queue", load: async () => (await import("./amqp/get.ts")).get }],
  [
    "declare",
    { summary: "make an exchange or a queue", load: async () => (await import("./amqp/topology.ts")).declare },
  ],
  ["bind", { summary: "bind a queue to an exchange", load: async () => (await import("./amqp/topology.ts")).bind }],
  ["unbind", { summary: "end a binding", load: async () => (await import("./amqp/topology.ts")).unbind }],
  [
    "delete",
    { summary: "delete an exchange or a queue", load: async () => (await import("./amqp/topology.ts")).remove },
  ],
  ["purge", { summary: "drop all messages of a queue", load: async () => (await import("./amqp/topology.ts")).purge }],
  [
    "encode",
    { summary: "make any text one word of a routing key", load: async () => (await import("./amqp/encode.ts")).encode },
  ],
  [
    "status",
    { summary: "brokers, what is connected, the spool", load: async () => (await import("./amqp/status.ts")).status },
  ],
]);

export const amqp: CommandSpec = {
  name: "amqp",
  summary: "speak with RabbitMQ: Kamailio's kazoo and rabbitmq for shells and nodes",
  examples: [['dmq amqp encode "$USER"', "one word of a routing key, whatever stands in it"]],
  positionals: [],
  options: [],
  subcommands: COMMANDS,
  exits: [[EXIT.ok, "done"]],
  seeAlso: ["dmq amqp encode --help", "dmq json"],
  run: async () => EXIT.usage,
};
