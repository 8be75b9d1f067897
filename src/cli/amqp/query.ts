/** `dmq amqp query`: a request, and the answer to it. */
import { QUERY_MS } from "../../amqp/desk.ts";
import type { DeliveryRow } from "../../amqp/json.ts";
import { UsageError } from "../../core/errors.ts";
import type { Arguments, CommandSpec } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT, exitOfError } from "../exit.ts";
import { encodeBody, readInteger } from "../message.ts";
import { printableBytes } from "../output.ts";
import { BROKER_NOTES, BROKER_OPTIONS, brokerExits, withBrokers } from "./brokers.ts";
import { ask, BODY_NOTE, octetsOf, PROPERTY_OPTIONS, readBody, readMessage } from "./message.ts";

const ANSWERS_MAX = 10_000;

export const query: CommandSpec = {
  name: "amqp query",
  summary: "publish a request, wait for the answer, print its body",
  examples: [
    [
      "dmq amqp query '' rpc.lookup '{\"number\": \"+4930123456\"}'",
      "the answer of whoever consumes the queue rpc.lookup",
    ],
    ["dmq amqp query sip status.get --many 5 --timeout 1s", "up to five answers, one on a line, within a second"],
    ["dmq amqp query callmgr route.req -f req.json --kazoo", "of a Kazoo application: known by Msg-ID in the body"],
    ["dmq amqp query '' rpc x --exec ./on-answer --on-timeout 'logger nobody'", "commands instead of output"],
  ],
  positionals: [
    { name: "EXCHANGE", required: true, help: "'' is the default exchange, whose keys are names of queues" },
    { name: "KEY", required: true, help: "routing key" },
    { name: "BODY", required: false, help: "text; without it, or -, all of standard input" },
  ],
  options: [
    ...PROPERTY_OPTIONS,
    { flag: "timeout", value: "DURATION", help: "wait that long for the answer; the request expires with it (2s)" },
    { flag: "many", value: "N", help: "collect up to N answers until the timeout; each is printed as a line, escaped" },
    { flag: "direct", help: "answers come by RabbitMQ's direct reply-to (this is how)" },
    { flag: "queue", help: "answers come by an exclusive queue, for brokers without direct reply-to" },
    { flag: "idempotent", help: "ask again when the connection breaks: a second time does no harm" },
    { flag: "exec", value: "CMD", help: "run CMD by sh -c with the answer on standard input, instead of printing it" },
    { flag: "on-timeout", value: "CMD", help: "run CMD by sh -c where there is no answer" },
    { flag: "json", help: "print each answer as JSON with its properties" },
    ...BROKER_OPTIONS,
  ],
  notes: [
    BODY_NOTE,
    "The answer's body is printed octet by octet. Nobody who listens is exit 5 at once. A connection that breaks while waiting is exit 6, and the",
    "request is not sent again without --idempotent. CMD has DMQ_ROUTING_KEY, DMQ_EXCHANGE, DMQ_CONTENT_TYPE, DMQ_CORRELATION_ID and DMQ_MESSAGE_ID.",
    ...BROKER_NOTES,
  ],
  exits: brokerExits(
    [EXIT.ok, "there was an answer"],
    [EXIT.notFound, "no such exchange, or broker of a key consumer://BROKER/KEY"],
    [EXIT.refused, "nobody listens, no right to, too large"],
    [EXIT.timeout, "no answer in time, or the connection broke: the request may have been carried out"],
    [EXIT.command, "CMD of --exec failed"],
  ),
  seeAlso: ["dmq amqp publish", "dmq amqp consume --reply"],
  run: runQuery,
};

async function runQuery(context: CliContext, args: Arguments): Promise<number> {
  const many = readInteger(args, "many", 1, ANSWERS_MAX);
  if (args.has("direct") && args.has("queue")) throw new UsageError("--direct and --queue exclude each other");
  if (args.has("exec") && args.has("json")) throw new UsageError("--exec and --json exclude each other");
  const params = {
    ...readMessage(args, QUERY_MS),
    ...(many !== undefined && { many }),
    ...(args.has("queue") && { reply: "queue" }),
    ...(args.has("idempotent") && { idempotent: true }),
  };
  const body = encodeBody(await readBody(context, args));
  let answers: DeliveryRow[];
  try {
    answers = await withBrokers(context, args, (brokers) =>
      ask<DeliveryRow[]>(brokers, "amqp.query", { ...params, ...body }, params.timeout_ms),
    );
  } catch (error) {
    const command = args.value("on-timeout");
    if (command !== undefined && exitOfError(error) === EXIT.timeout) await runCommand(context, command, undefined);
    throw error;
  }
  return handle(context, args, answers, many !== undefined);
}

async function handle(
  context: CliContext,
  args: Arguments,
  answers: readonly DeliveryRow[],
  isMany: boolean,
): Promise<number> {
  const command = args.value("exec");
  let exit: number = EXIT.ok;
  for (const answer of answers) {
    if (command !== undefined) exit = (await runCommand(context, command, answer)) ? exit : EXIT.command;
    else if (args.has("json")) context.stdout(`${JSON.stringify(answer)}\n`);
    else if (isMany) context.stdout(`${printableBytes(octetsOf(answer))}\n`);
    else printOne(context, octetsOf(answer));
  }
  return exit;
}

/** As it is; a terminal gets the line end that a prompt wants before it. */
export function printOne(context: CliContext, body: Uint8Array): void {
  context.stdout(body);
  if (context.isTty.stdout && body.at(-1) !== 0x0a) context.stdout("\n");
}

/** @returns whether it ended with 0 */
async function runCommand(context: CliContext, command: string, answer: DeliveryRow | undefined): Promise<boolean> {
  const { run } = await import("../../exec/run.ts");
  const { end } = await run({
    argv: ["sh", "-c", command],
    stdin: answer === undefined ? new Uint8Array(0) : octetsOf(answer),
    variables: answer === undefined ? {} : variablesOf(answer),
    signal: context.outputClosed,
    onStderrLine: (line) => context.stderr(`${line}\n`),
    onStdout: (chunk) => context.stdout(chunk),
  });
  if (end.type === "exited" && end.code === 0) return true;
  context.stderr(`dmq: the command ended with ${end.type === "exited" ? end.code : end.type}\n`);
  return false;
}

function variablesOf(answer: DeliveryRow): Record<string, string> {
  return {
    DMQ_EXCHANGE: answer.exchange,
    DMQ_ROUTING_KEY: answer.routing_key,
    DMQ_CONTENT_TYPE: answer.content_type ?? "",
    DMQ_CORRELATION_ID: answer.correlation_id ?? "",
    DMQ_MESSAGE_ID: answer.message_id ?? "",
  };
}
