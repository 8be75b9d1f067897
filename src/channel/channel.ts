/**
 * A channel as an application sees it: a name, a handler and how the handler is run. `register_dmq_peer` in Kamailio's
 * terms; modes are those of `dmq_handle_message` (queued) and `dmq_process_message` (inline).
 */

import type { Answer, ChannelMessage } from "../node/io.ts";
import { answerFault } from "../node/serving.ts";

/** Nothing is 200; a number is a status code; an object says more. A body goes out only if the request has an Accept. */
// biome-ignore lint/suspicious/noConfusingVoidType: a handler without a return statement is the common one
export type HandlerResult = void | undefined | number | Answer;

export interface HandlerContext {
  /**
   * Aborts when the handler's result is of no use any more: the sender has been answered 503 because `handler_timeout` is
   * over, or the node has left. `reason` says which. It does not free the worker: only the end of the handler does.
   */
  readonly signal: AbortSignal;
}

export type Handler = (message: ChannelMessage, context: HandlerContext) => HandlerResult | Promise<HandlerResult>;

const OK: Answer = { status: 200 };

/** What a handler's result means on the wire; RFC 4320 forbids 408 and provisional responses here. */
export function answerOf(result: HandlerResult): Answer {
  if (result === undefined || result === null) return OK;
  const answer = typeof result === "number" ? { status: result } : result;
  // The text of an exception, say, as reason: what cannot be sent is the handler's mistake and not the sender's.
  return answerFault(answer) === undefined ? answer : { status: 500, reason: "Handler Gave No Valid Answer" };
}
