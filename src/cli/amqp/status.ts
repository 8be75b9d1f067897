/** `dmq amqp status`: brokers, what is under way to them, and what waits in the spool. */
import type { AmqpReport } from "../../amqp/desk.ts";
import { type CommandSpec, FORM_OPTIONS } from "../command.ts";
import { EXIT } from "../exit.ts";
import { readTimeout } from "../message.ts";
import { type Cell, formOf, writeResult } from "../output.ts";
import { BROKER_NOTES, BROKER_OPTIONS, brokerExits, withBrokers } from "./brokers.ts";

const TIMEOUT_MS = 5_000;

export const status: CommandSpec = {
  name: "amqp status",
  summary: "brokers, what is connected, who is blocked, what waits in the spool",
  examples: [
    ["dmq amqp status", "one line a fact"],
    ["dmq amqp status --json | jq .publisher.unconfirmed", "messages that the daemon waits for the confirm of"],
    ["dmq amqp status --url amqp://dmq@192.0.2.10/", "whether this broker lets us in"],
  ],
  positionals: [],
  options: [
    { flag: "timeout", value: "DURATION", help: "without a daemon: give up after that long (5s)" },
    ...FORM_OPTIONS,
    ...BROKER_OPTIONS,
  ],
  notes: [...BROKER_NOTES],
  exits: brokerExits([EXIT.ok, "shown"]),
  seeAlso: ["dmq status", "dmq queue dead amqp.spool"],
  async run(context, args) {
    const timeoutMs = readTimeout(args.value("timeout")) ?? TIMEOUT_MS;
    const report = await withBrokers(context, args, (brokers) =>
      brokers.call<AmqpReport>("amqp.status", {}, { timeoutMs }),
    );
    writeResult(context, formOf(context, args), report, facts(report));
    return EXIT.ok;
  },
};

function facts({ brokers, publisher, subscriptions, spool }: AmqpReport): Cell[][] {
  const known = brokers.flatMap((one): Cell[][] => {
    const name = `broker ${one.number}`;
    return [
      [name, `${one.broker}, zone ${one.zone}: ${one.state}`],
      ...(one.address === undefined ? [] : [[`${name} address`, one.address]]),
      ...(one.blocked === undefined ? [] : [[`${name} blocked`, one.blocked]]),
      ...(one.lastError === undefined ? [] : [[`${name} error`, one.lastError]]),
    ];
  });
  const counted = Object.entries(publisher).map(([name, count]): Cell[] => [name.replace("Bytes", " bytes"), count]);
  const consumed = subscriptions.flat().map(({ broker, state, queue, unsettled, lastError }): Cell[] => {
    const why = lastError === undefined ? "" : `; ${lastError}`;
    return [`consumer ${queue ?? "-"}`, `${state} at broker ${broker}, ${unsettled} unsettled${why}`];
  });
  const stored = spool === null ? [] : Object.entries(spool).map(([name, count]): Cell[] => [`spool ${name}`, count]);
  return [...known, ...counted, ...consumed, ...stored];
}
