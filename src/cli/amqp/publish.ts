/** `dmq amqp publish`: a message that a broker has confirmed, or that is in the spool. */
import { type PublishedRow, TIMEOUT_MS } from "../../amqp/desk.ts";
import { RpcError, UsageError } from "../../core/errors.ts";
import type { Arguments, CommandSpec } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT, exitOfError } from "../exit.ts";
import { type Line, LineCutter } from "../lines.ts";
import { encodeBody } from "../message.ts";
import { printable } from "../output.ts";
import { readSpan } from "../queue/words.ts";
import { BROKER_NOTES, BROKER_OPTIONS, brokerExits, openBrokers } from "./brokers.ts";
import type { Brokers } from "./caller.ts";
import { ask, BODY_NOTE, lost, type MessageParams, named, PROPERTY_OPTIONS, readBody, readMessage } from "./message.ts";

/** What a broker takes in one message. */
const LINE_BYTES_MAX = 16 * 1024 * 1024;

/** Lines that are under way at a time: about a window. */
const BATCH_LINES_MAX = 500;
const BATCH_BYTES_MAX = 4 * 1024 * 1024;

/** Lines that failed and are told of one by one. */
const TOLD_MAX = 10;

/** Thirty-two bits of milliseconds. */
const EXPIRES_MS_MAX = 0xffff_ffff;

export const publish: CommandSpec = {
  name: "amqp publish",
  summary: "publish a message; exit 0 says that a broker has confirmed it, or with --spool that it is stored",
  examples: [
    [
      "dmq amqp publish sip call.start '{\"id\": 12345678901234567890}'",
      "to the exchange sip; the body goes out as it is",
    ],
    ["dmq amqp publish '' jobs <report.pdf", "into the queue jobs; standard input, octet by octet"],
    ["dmq amqp publish sip alert --spool 'flood'", "stored now, published when a broker is there"],
    ["tail -F events.ndjson | dmq amqp publish sip cdr --lines", "each line is a message, in their order"],
    [
      "dmq amqp publish whapps presence.update -f body.json --kazoo --url amqp://dmq@192.0.2.10/",
      "for a Kazoo application",
    ],
  ],
  positionals: [
    { name: "EXCHANGE", required: true, help: "'' is the default exchange, whose keys are names of queues" },
    { name: "KEY", required: true, help: "routing key; dmq amqp encode makes any text one word of it" },
    { name: "BODY", required: false, help: "text; without it, or -, all of standard input" },
  ],
  options: [
    ...PROPERTY_OPTIONS,
    { flag: "correlation-id", value: "ID", help: "of the message that this one answers" },
    { flag: "reply-to", value: "QUEUE", help: "where an answer is to go" },
    { flag: "expires", value: "DURATION", help: "the broker drops it if nobody took it by then" },
    { flag: "transient", help: "lost when the broker restarts" },
    { flag: "no-mandatory", help: "a message that reaches no queue is no error" },
    { flag: "no-confirm", help: "do not wait for the broker: exit 0 says that it was written to the connection" },
    {
      flag: "declare",
      value: "TYPE",
      help: "make the exchange, durable, if it is missing: topic, direct, fanout, headers",
    },
    {
      flag: "spool",
      help: "store it first: the daemon publishes it when a broker is there, in the order of each exchange",
    },
    { flag: "lines", short: "l", help: "each line of standard input, or of -f FILE, is a message" },
    { flag: "timeout", value: "DURATION", help: "give up after that long (10s)" },
    { flag: "json", help: "print broker, message_id, repeats and spooled as JSON; with --lines a line each" },
    ...BROKER_OPTIONS,
  ],
  notes: [
    BODY_NOTE,
    "A message is persistent, confirmed and mandatory unless an option says otherwise. One that was under way when a connection broke is sent",
    "again with the same message id and the header x-dmq-repeat: a receiver may get it twice, it does not get lost.",
    "--spool: the queue amqp.spool of the daemon has it; dmq queue dead amqp.spool what a broker refused. Where no daemon has brokers, it is",
    "stored nevertheless, and waits for the next daemon with --amqp on this state directory.",
    "--lines: LF or CRLF ends a line. A line that fails stops nothing; --message-id ID becomes ID-1, ID-2 ...",
    ...BROKER_NOTES,
  ],
  exits: brokerExits(
    [EXIT.ok, "confirmed by a broker; with --spool: stored"],
    [EXIT.notFound, "no such exchange, or broker of a key consumer://BROKER/KEY"],
    [EXIT.refused, "no queue takes it, no right to, refused, too large; with --spool: the spool is full"],
    [EXIT.timeout, "no confirm in time: it may have been delivered"],
    [EXIT.partial, "with --lines: some lines were published, some not"],
    [EXIT.state, "with --spool: it cannot be written; the configuration is invalid, a file of it cannot be read"],
  ),
  seeAlso: ["dmq amqp query", "dmq amqp consume", "dmq amqp encode", "dmq queue dead amqp.spool"],
  run: runPublish,
};

type PublishParams = MessageParams & Record<string, unknown>;

function readPublish(args: Arguments): PublishParams {
  const params = readMessage(args, TIMEOUT_MS);
  const expires = readSpan(args, "expires", 1, EXPIRES_MS_MAX);
  const spooled = ["declare", "no-confirm", "url"].find((flag) => args.has("spool") && args.has(flag));
  if (spooled !== undefined)
    throw new UsageError(`--spool and --${spooled} exclude each other: there may be no broker now`);
  return {
    ...params,
    ...named(args, "correlation-id", "correlation_id"),
    ...named(args, "reply-to", "reply_to"),
    ...(expires !== undefined && { expiration_ms: expires }),
    ...(args.has("transient") && { persistent: false }),
    ...(args.has("no-mandatory") && { mandatory: false }),
    ...(args.has("no-confirm") && { confirm: false }),
    ...named(args, "declare", "declare"),
    ...(args.has("spool") && { spool: true }),
  };
}

async function runPublish(context: CliContext, args: Arguments): Promise<number> {
  const params = readPublish(args);
  if (args.has("lines")) checkLines(args);
  const brokers = await openBrokers(context, args);
  try {
    if (args.has("lines")) return await publishLines(context, args, brokers, params);
    const body = encodeBody(await readBody(context, args));
    const row = await ask<PublishedRow>(brokers, "amqp.publish", { ...params, ...body }, params.timeout_ms);
    if (args.has("json")) context.stdout(`${JSON.stringify(row)}\n`);
    return EXIT.ok;
  } finally {
    await brokers.close();
  }
}

function checkLines(args: Arguments): void {
  const [, , word] = args.positionals;
  if (word !== undefined && word !== "-")
    throw new UsageError("with --lines the messages come from standard input or -f FILE, not from an argument");
}

// --- lines -------------------------------------------------------------------------------------------------------------

async function publishLines(
  context: CliContext,
  args: Arguments,
  brokers: Brokers,
  params: PublishParams,
): Promise<number> {
  const file = args.value("file");
  const stream = file === undefined || file === "-" ? context.stdinStream() : context.fileStream(file);
  const lines = new Lines(context, args, brokers, params);
  const cutter = new LineCutter(LINE_BYTES_MAX);
  for await (const chunk of stream) {
    for (const line of cutter.push(chunk)) await lines.push(line);
    await lines.flush();
  }
  const last = cutter.end();
  if (last !== undefined) await lines.push(last);
  await lines.flush();
  return lines.exit();
}

/** One batch after the other, in the order of the lines; those of a batch are under way together. */
class Lines {
  private readonly context: CliContext;
  private readonly args: Arguments;
  private readonly brokers: Brokers;
  private readonly params: PublishParams;
  private batch: { number: number; params: object }[] = [];
  private bytes = 0;
  private published = 0;
  private failed = 0;
  private readonly codes = new Set<number>();

  constructor(context: CliContext, args: Arguments, brokers: Brokers, params: PublishParams) {
    this.context = context;
    this.args = args;
    this.brokers = brokers;
    this.params = params;
  }

  async push({ number, octets }: Line): Promise<void> {
    if (octets === undefined) {
      await this.flush();
      this.fail(number, `it is longer than ${LINE_BYTES_MAX} octets`, EXIT.refused);
      return;
    }
    const { message_id: id } = this.params;
    const own = id === undefined ? {} : { message_id: `${String(id)}-${number}` };
    this.batch.push({ number, params: { ...this.params, ...own, ...encodeBody(octets) } });
    this.bytes += octets.length;
    if (this.batch.length >= BATCH_LINES_MAX || this.bytes >= BATCH_BYTES_MAX) await this.flush();
  }

  async flush(): Promise<void> {
    const { batch } = this;
    this.batch = [];
    this.bytes = 0;
    if (batch.length === 0) return;
    const calls = batch.map(({ params }) => params);
    const ends = await this.brokers.callEach<PublishedRow>("amqp.publish", calls).catch((error: unknown) => {
      const isSome = this.published > 0;
      if (isSome) this.context.stderr(`dmq: ${this.published} lines were published before the error\n`);
      throw lost(error);
    });
    for (const [index, end] of ends.entries()) this.ended(batch[index]?.number as number, end);
  }

  private ended(number: number, end: PublishedRow | RpcError): void {
    if (end instanceof RpcError) this.fail(number, end.message, exitOfError(end));
    else {
      this.published++;
      if (this.args.has("json")) this.context.stdout(`${JSON.stringify({ line: number, ...end })}\n`);
    }
  }

  private fail(number: number, why: string, exit: number): void {
    this.codes.add(exit);
    if (this.args.has("json")) this.context.stdout(`${JSON.stringify({ line: number, error: why, exit })}\n`);
    if (++this.failed <= TOLD_MAX) this.context.stderr(`dmq: line ${number}: ${printable(why)}\n`);
  }

  exit(): number {
    if (this.failed > TOLD_MAX) this.context.stderr(`dmq: ${this.failed} lines failed in all\n`);
    if (this.failed === 0) return EXIT.ok;
    if (this.published > 0) return EXIT.partial;
    return this.codes.size === 1 ? ([...this.codes][0] as number) : EXIT.no;
  }
}
