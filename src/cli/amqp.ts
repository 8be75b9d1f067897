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
