import type { AmqpReport } from "../amqp/desk.ts";
import type { StatusAnswer } from "../rpc/surface.ts";
import { type CommandSpec, FORM_OPTIONS } from "./command.ts";
import { EXIT } from "./exit.ts";
import { type Cell, formOf, writeResult } from "./output.ts";
import { ANSWER_MS_MAX, connectDaemon } from "./socket.ts";

export const status: CommandSpec = {
  name: "status",
  summary: "what the daemon is, knows and counts",
  examples: [
    ["dmq status", "one line a fact"],
    ["dmq status --json | jq .counters.notificationsSent", "one of its counters"],
  ],
  positionals: [],
  options: FORM_OPTIONS,
  exits: [
    [0, "shown"],
    [2, "usage"],
    [4, "no daemon"],
  ],
  seeAlso: ["dmq list", "dmq logs", "dmq config show"],
  async run(context, args) {
    const client = connectDaemon(context, args);
    const report = await client.call<StatusAnswer>("dmq.status", undefined, { timeoutMs: ANSWER_MS_MAX });
    writeResult(context, formOf(context, args), report, facts(report));
    return EXIT.ok;
  },
};

function facts(report: StatusAnswer): Cell[][] {
  const { channels, peers, counters, listeners, links = [], queues = [], amqp, ...plain } = report;
  const simple = Object.entries(plain).map(([name, value]): Cell[] => [name, value]);
  const listening = listeners.map((listener): Cell[] => ["listener", listener]);
  const spoken = channels.map(({ name, consumers, declared }): Cell[] => [
    `channel ${name}`,
    `${consumers} ${consumers === 1 ? "consumer" : "consumers"}${declared ? ", declared" : ""}`,
  ]);
  const linked = links.map((link): Cell[] => [`link ${link.name}`, linkText(link)]);
  const kept = queues.map(({ name, ready, delayed, leased, dead, bytes }): Cell[] => [
    `queue ${name}`,
    `${ready} ready, ${delayed} delayed, ${leased} leased, ${dead} dead, ${bytes} bytes`,
  ]);
  const brokers = (amqp?.brokers ?? []).map((one): Cell[] => [`broker ${one.number}`, brokerText(one)]);
  const known = Object.entries(peers).map(([name, count]): Cell[] => [`peers ${name}`, count]);
  const counted = Object.entries(counters).map(([name, count]): Cell[] => [`counter ${name}`, count]);
  return [...simple, ...listening, ...spoken, ...linked, ...kept, ...brokers, ...published(amqp), ...known, ...counted];
}

function linkText({ from, to, in: taken, out, failed, held_back, state }: StatusAnswer["links"][number]): string {
  const counts = `${taken} in, ${out} out, ${failed} failed, ${held_back} held back`;
  return `${from} -> ${to}: ${[...(state === undefined ? [] : [state]), counts].join("; ")}`;
}

function brokerText({ broker, zone, state, blocked, lastError }: AmqpReport["brokers"][number]): string {
  const why = [
    ...(blocked === undefined ? [] : [`blocked: ${blocked}`]),
    ...(lastError === undefined ? [] : [lastError]),
  ];
  return `${broker} (zone ${zone}): ${[state, ...why].join("; ")}`;
}

function published(amqp: AmqpReport | null | undefined): Cell[][] {
  if (amqp === null || amqp === undefined) return [];
  const { publisher, spool } = amqp;
  const { confirmed, unconfirmed, waiting, repeated, returned, refused } = publisher;
  const counts = { confirmed, unconfirmed, waiting, repeated, returned, refused };
  const text = Object.entries(counts).map(([name, count]) => `${count} ${name}`);
  const stored: Cell[][] =
    spool === null ? [] : [["spool", `${spool.waiting} waiting, ${spool.dead} dead, ${spool.bytes} bytes`]];
  return [["published", text.join(", ")], ...stored];
}
