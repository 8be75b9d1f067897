/** `dmq amqp consume`: the words; request.ts reads them, consuming.ts does it. */
import { MAX_TRIES } from "../../amqp/supply.ts";
import type { Arguments, CommandSpec } from "../command.ts";
import type { CliContext } from "../context.ts";
import { Ending } from "../ending.ts";
import { EXIT } from "../exit.ts";
import { QUEUES_OPTIONS } from "../queue/queues.ts";
import { BROKER_NOTES, BROKER_OPTIONS, brokerExits, openBrokers } from "./brokers.ts";
import { Consuming } from "./consuming.ts";
import { readRequest } from "./request.ts";
import { SUBSCRIPTION_OPTIONS } from "./subscriptions.ts";

export const consumeMessages: CommandSpec = {
  name: "amqp consume",
  summary: "take messages of RabbitMQ: printed, or handled by a command and acknowledged when it ends with 0",
  examples: [
    ["dmq amqp consume --exchange sip --type topic --routing 'alert.#'", "ROUTING-KEY<TAB>BODY of each, as they come"],
    [
      "dmq amqp consume --queue orders -n 1 --for 10s --json",
      "the next one within ten seconds; exit 1 if there is none",
    ],
    [
      "dmq amqp consume --queue jobs --jobs 4 --exec ./work.sh",
      "handled, acknowledged after that, tried again where it failed",
    ],
    [
      "dmq amqp consume --exchange whapps --type topic --routing 'presence.#' --handlers ./handlers",
      "the command of each message's Event-Category and Event-Name",
    ],
    ["dmq amqp consume --queue rpc --reply --exec ./answer.sh", "what the command prints is the answer"],
  ],
  positionals: [
    { name: "ARG", required: false, repeatable: true, help: "of the command of --exec; those with a dash behind --" },
  ],
  options: [
    ...SUBSCRIPTION_OPTIONS,
    {
      flag: "ack",
      value: "MODE",
      choices: ["after", "receipt", "none"],
      help: "when the broker may forget a message: after it was handled or printed (default), as soon as it is here, when it was sent",
    },
    {
      flag: "prefetch",
      value: "N",
      help: "messages that are here unacknowledged (twice --jobs; 256 where they are printed)",
    },
    { flag: "exec", value: "CMD", help: "run CMD for each message: by sh -c, or as it is if there are ARGs" },
    {
      flag: "handlers",
      value: "DIR",
      help: "run the file in DIR that fields of the message name, as Kamailio's event routes",
    },
    {
      flag: "on",
      value: "NAME=CMD",
      repeatable: true,
      help: "the same without a directory: presence-update=CMD, connection-open=CMD",
    },
    {
      flag: "unmatched",
      value: "WHAT",
      choices: ["ack", "dead", "stop"],
      help: "with --handlers, --on: what becomes of a message without a handler (dead)",
    },
    {
      flag: "event-key",
      value: "FIELD",
      help: "the field that names the handler (Event-Category); with a leading dot a path: .event.kind",
    },
    { flag: "event-subkey", value: "FIELD", help: "the second one (Event-Name)" },
    {
      flag: "timeout",
      value: "DURATION",
      help: "what a command may take (60s); 25 minutes at most, less what its message waited here",
    },
    { flag: "jobs", value: "N", help: "that many commands at a time (1)" },
    {
      flag: "order-by",
      value: "routing-key|json:PATH",
      help: "messages of one routing key, or with the same text at PATH of a JSON body, one after the other",
    },
    { flag: "max-tries", value: "N", help: `failures of a message, then it is dead (${MAX_TRIES})` },
    {
      flag: "dead-letter",
      value: "WHERE",
      choices: ["exchange", "store"],
      help: "the dead go to the queue's dead-letter exchange (if --arg names one), or into a queue of ours, QUEUE.dead",
    },
    { flag: "reply", help: "what the command prints is published to the message's reply_to" },
    { flag: "reply-type", value: "TYPE", help: "with --reply: the content type of answers (as it looks)" },
    { flag: "decode", help: "commands get bodies in gzip or deflate unpacked" },
    {
      flag: "kazoo",
      help: "bodies of Kazoo's applications: AMQP-Broker-Zone, AMQP-Received and Server-ID as Kamailio's kazoo has them",
    },
    { flag: "count", short: "n", value: "COUNT", help: "end after that many" },
    { flag: "for", value: "DURATION", help: "end after that long" },
    {
      flag: "reconnect",
      value: "DURATION",
      help: "without -n and --for: wait so long for a daemon that went away, 0 not at all (10m)",
    },
    { flag: "json", help: "print a JSON object a line, with all properties" },
    { flag: "raw", help: "print the bodies alone, octet by octet" },
    ...BROKER_OPTIONS,
    ...QUEUES_OPTIONS,
  ],
  notes: [
    "A line is ROUTING-KEY<TAB>BODY with \\t \\n \\r \\\\ for what would break it, and \\xHH for control characters and what is no UTF-8.",
    "CMD has the body on standard input and DMQ_EXCHANGE, DMQ_ROUTING_KEY, DMQ_QUEUE, DMQ_MESSAGE_ID, DMQ_CORRELATION_ID, DMQ_REPLY_TO,",
    "DMQ_CONTENT_TYPE, DMQ_CONTENT_ENCODING, DMQ_REDELIVERED, DMQ_TRIES, DMQ_BROKER, DMQ_ZONE, DMQ_HANDLER, DMQ_HEADER_*. It ends with 0:",
    "acknowledged; 65, 66 or 100: dead; 75: tried again, which does not count for an hour; 126, 127: the consumer ends; anything else, a",
    "signal or --timeout: tried again after 1 s doubling to 5 min, dead after --max-tries. At SIGTERM running ones have 10 s.",
    ...BROKER_NOTES,
  ],
  exits: brokerExits(
    [EXIT.ok, "at least one came, and all were printed or handled"],
    [EXIT.no, "none came in --for DURATION"],
    [EXIT.notFound, "no such exchange, queue or virtual host"],
    [EXIT.refused, "the broker said no: access refused, or declared with other attributes before"],
    [EXIT.command, "a command failed, with -n or --for; or cannot be run at all, or --unmatched stop; mod-init failed"],
    [EXIT.interrupted, "interrupted: what was not settled is given back"],
    [EXIT.terminated, "terminated, likewise"],
  ),
  seeAlso: ["dmq amqp publish", "dmq amqp get", "dmq queue fetch"],
  ownSignals: true,
  run: runConsume,
};

async function runConsume(context: CliContext, args: Arguments): Promise<number> {
  const request = await readRequest(context, args);
  const ending = new Ending(context);
  try {
    const brokers = await openBrokers(context, args, "reconnect");
    try {
      return await new Consuming(context, args, request, brokers, ending).run();
    } finally {
      await brokers.close();
    }
  } finally {
    ending.end();
  }
}
