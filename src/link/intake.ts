/**
 * What takes a channel's messages, for one link or several of them. The answer is due within 1.5 s whatever happens, because a Kamailio
 * takes a node that is silent off its list; it has no body ever (queue.md B8).
 */
import type { Handler } from "../channel/channel.ts";
import type { Duration, Instant } from "../core/time.ts";
import type { Answer, ChannelMessage } from "../node/io.ts";
import { PATH_HEADER } from "../node/kdmq.ts";
import type { Counters } from "./counters.ts";
import type { Sparing } from "./host.ts";
import { readPath } from "./path.ts";
import { Turns } from "./turns.ts";

/** Until the answer, whatever it waits for. */
const ANSWER_MS: Duration = 1_400;
/** Messages that wait for their answer. */
const PENDING_MAX = 1_024;
const RETRY_AFTER_SECONDS = 2;

/** One link's part. */
export interface Intake {
  readonly counters: Counters;
  /** @param path  where the message has been */
  take(message: ChannelMessage, path: readonly string[]): Promise<Answer> | Answer;
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
  const patience = new Patience();
  const turns = new Turns();
  return (message) => {
    for (const { counters } of intakes) counters.in++;
    if (patience.size < PENDING_MAX) {
      const answer = turns.do(() => takeAll(intakes, message));
      return answer instanceof Promise ? patience.follow(answer) : answer;
    }
    for (const { counters } of intakes) counters.failed++;
    warnings.warn("pending", `channel ${message.channel}: ${PENDING_MAX} messages wait for their answer already`);
    return later("Store Busy");
  };
}

function takeAll(intakes: readonly Intake[], message: ChannelMessage): Promise<Answer> | Answer {
  const path = readPath(message.request.headers.get(PATH_HEADER));
  const [only] = intakes;
  return intakes.length === 1 && only !== undefined ? only.take(message, path) : gravest(intakes, message, path);
}

/** A message that one link has not must come again, and the others know it by then. */
async function gravest(intakes: readonly Intake[], message: ChannelMessage, path: readonly string[]): Promise<Answer> {
  const answers = await Promise.all(intakes.map(async (intake) => intake.take(message, path)));
  return answers.reduce((a, b) => (b.status > a.status ? b : a));
}

interface Waiting {
  readonly until: Instant;
  readonly resolve: (answer: Answer) => void;
}

/** Answers that are waited for, each for the same time: they are due in the order of their coming, and one timer does for all. */
class Patience {
  /** In that order. */
  private readonly waiting = new Set<Waiting>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  get size(): number {
    return this.waiting.size;
  }

  /** @returns the answer, or 503 where that takes too long */
  follow(answer: Promise<Answer>): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const one = { until: performance.now() + ANSWER_MS, resolve };
      this.waiting.add(one);
      if (this.timer === undefined) this.lookIn(ANSWER_MS);
      answer.then(
        (value) => {
          this.waiting.delete(one);
          resolve(value);
        },
        (error) => {
          this.waiting.delete(one);
          reject(error);
        },
      );
    });
  }

  private lookIn(ms: Duration): void {
    this.timer = setTimeout(() => this.look(), ms);
    // It rings once more after the last answer: nobody's end waits for that.
    this.timer.unref();
  }

  private look(): void {
    this.timer = undefined;
    const now = performance.now();
    for (const one of this.waiting) {
      if (one.until > now) {
        this.lookIn(one.until - now);
        return;
      }
      this.waiting.delete(one);
      one.resolve(later("Store Too Slow"));
    }
  }
}
