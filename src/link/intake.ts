/**
 * What takes a channel's messages, for one link or several of them. The answer is due within 1.5 s whatever happens, because a Kamailio
 * takes a node that is silent off its list; it has no body ever (queue.md B8).
 */
import type { Handler } from "../channel/channel.ts";
import type { Duration } from "../core/time.ts";
import type { Answer, ChannelMessage } from "../node/io.ts";
import { PATH_HEADER } from "../node/kdmq.ts";
import type { Counters } from "./counters.ts";
import type { Sparing } from "./host.ts";
import { readPath } from "./path.ts";

/** Until the answer, whatever it waits for. */
const ANSWER_MS: Duration = 1_400;
/** Messages that wait for their answer. */
const PENDING_MAX = 1_024;
const RETRY_AFTER_SECONDS = 2;

/** One link's part. */
export interface Intake {
  readonly counters: Counters;
  /** @param path  where the message has been */
  take(message: ChannelMessage, path: readonly string[]): Promise<Answer>;
}

export const TAKEN: Answer = { status: 200 };
/** Taken note of, and taken by nobody. */
export const NOT_TAKEN: Answer = { status: 202, reason: "Accepted, Not Passed On" };

/** 503, to be asked again: a `dmq` with an outbox does, a Kamailio does not. */
export function later(reason: string): Answer {
  return { status: 503, reason, retryAfterSeconds: RETRY_AFTER_SECONDS };
}

/** @param intakes  the links of one channel; a message is with all of them, or answered as not taken */
export function intakeHandler(warnings: Sparing, intakes: readonly Intake[]): Handler {
  let pending = 0;
  return async (message) => {
    for (const { counters } of intakes) counters.in++;
    if (pending >= PENDING_MAX) {
      for (const { counters } of intakes) counters.failed++;
      warnings.warn("pending", `channel ${message.channel}: ${PENDING_MAX} messages wait for their answer already`);
      return later("Store Busy");
    }
    pending++;
    try {
      return await inTime(takeAll(intakes, message));
    } finally {
      pending--;
    }
  };
}

async function inTime(answer: Promise<Answer>): Promise<Answer> {
  const { promise, resolve } = Promise.withResolvers<Answer>();
  const timer = setTimeout(() => resolve(later("Store Too Slow")), ANSWER_MS);
  try {
    return await Promise.race([answer, promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function takeAll(intakes: readonly Intake[], message: ChannelMessage): Promise<Answer> {
  const path = readPath(message.request.headers.get(PATH_HEADER));
  const answers = await Promise.all(intakes.map((intake) => intake.take(message, path)));
  // The gravest: a message that one link has not must come again, and the others know it by then.
  return answers.reduce((a, b) => (b.status > a.status ? b : a));
}
