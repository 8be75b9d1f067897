/**
 * A channel as an application sees it: a name, a handler and how the handler is run. `register_dmq_peer` in Kamailio's
 * terms; modes are those of `dmq_handle_message` (queued) and `dmq_process_message` (inline).
 */

import type { Answer, ChannelMessage } from "../node/io.ts";
import { isHeaderSafe } from "../sip/serialize.ts";
import { isAnswerStatus } from "../transaction/server.ts";

/** Nothing is 200; a number is a status code; an object says more. A body goes out only if the request has an Accept. */
// biome-ignore lint/suspicious/noConfusingVoidType: a handler without a return statement is the common one
export type HandlerResult = void | undefined | number | Answer;

export type Handler = (message: ChannelMessage) => HandlerResult | Promise<HandlerResult>;

/** `queued`: taken by one of `num_workers` workers. `inline`: run at once, before the next datagram is looked at. */
export type HandlerMode = "queued" | "inline";

/** A reason or a content type that would break out of its line, the text of an exception say, cannot be sent. */
function isWritable({ reason, contentType }: Answer): boolean {
  return (reason === undefined || isHeaderSafe(reason)) && (contentType === undefined || isHeaderSafe(contentType));
}

/** What a handler's result means on the wire; RFC 4320 forbids 408 and provisional responses here. */
export function answerOf(result: HandlerResult): Answer {
  if (result === undefined || result === null) return { status: 200 };
  const answer = typeof result === "number" ? { status: result } : result;
  if (!isWritable(answer)) return { status: 500, reason: "Handler Gave Unsafe Text" };
  return answer.status >= 200 && isAnswerStatus(answer.status)
    ? answer
    : { status: 500, reason: "Handler Gave No Final Status" };
}
