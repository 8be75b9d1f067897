/** What `dmq send` and `dmq bcast` are one command in: a message, or one for each line, sent, printed and told by the exit code. */
import type { DeliveryResult } from "../rpc/surface.ts";
import { type Arguments, FORM_OPTIONS, type OptionSpec } from "./command.ts";
import { VIA_OPTIONS, withCaller } from "./connect.ts";
import type { CliContext } from "./context.ts";
import {
  BODY_NOTE,
  checkLines,
  deliver,
  LINES_NOTE,
  LINES_OPTION,
  MESSAGE_OPTIONS,
  readMessage,
  readOptions,
  SPOOL_NOTE,
  SPOOL_OPTION,
  sayNobody,
  silent,
  writeDeliveries,
} from "./message.ts";

export const DELIVERY_OPTIONS: OptionSpec[] = [
  ...[LINES_OPTION, ...MESSAGE_OPTIONS, SPOOL_OPTION],
  ...VIA_OPTIONS,
  ...FORM_OPTIONS,
];

export const DELIVERY_NOTES: string[] = [BODY_NOTE, ...LINES_NOTE, ...SPOOL_NOTE];

export interface Delivery {
  method: "dmq.send" | "dmq.bcast";
  channel: string;
  /** The argument, if there was one. */
  body: string | undefined;
  to: { node: string } | { except: readonly string[] };
  /** @param results  of one message */
  exitOf(results: readonly DeliveryResult[], needsConsumer: boolean): number;
}

export async function sendOut(
  context: CliContext,
  args: Arguments,
  { method, channel, body, to, exitOf }: Delivery,
): Promise<number> {
  const needsConsumer = args.has("require-consumer");
  if (args.has("lines")) {
    checkLines(body);
    const params = { ...readOptions(args, channel), ...to };
    const { sendLines } = await import("./batch.ts");
    return sendLines(context, args, { method, params, needsConsumer, exitOf: (each) => exitOf(each, needsConsumer) });
  }
  const params = { ...(await readMessage(context, args, channel, body)), ...to };
  const answer = await withCaller(context, args, (caller) =>
    deliver<DeliveryResult | DeliveryResult[]>(caller, method, params),
  );
  if (answer === undefined) return silent(context);
  const results = [answer].flat();
  const exit = exitOf(results, needsConsumer);
  writeDeliveries(context, args, results, answer, exit);
  if (results.length === 0) sayNobody(context, "except" in to ? to.except.length : 0);
  return exit;
}
