/**
 * Sending a message again where that is right: after which outcomes, when, and within which time. It knows no node; who
 * sends gives it a function that sends once. Each time is a new request with a new Call-ID (docs/decisions), and the same
 * X-DMQ-Id, by which a receiver that got the message before can tell.
 */
import type { Duration, Instant } from "../core/time.ts";
import type { Outcome, OutcomeReport } from "../node/io.ts";

/** Pauses before a repeat: the first one, doubled each time, up to the last one. */
const PAUSE_MS: Duration = 250;
const PAUSE_MS_MAX: Duration = 5_000;

/** A node that asks for more patience than that is not asked again. */
const RETRY_AFTER_MS_MAX: Duration = 30_000;

/** No try is cut shorter than that to leave time for another: a node of ours answers within `handler_timeout`, 1.5 s. */
const TRY_MS_MIN: Duration = 2_000;

/** With less than that left nothing is begun: the message might arrive, and its answer too late. */
const LEFT_MS_MIN: Duration = 100;

export interface RetryPlan {
  /** Repeats at most. */
  retry: number;
  /** For all tries and pauses together; without it each try has the time that the node gives a request. */
  timeoutMs?: Duration | undefined;
}

/** Stands for the system's in tests. */
export interface RetryClock {
  now(): Instant;
  /** Resolves after that time, or as soon as the signal aborts. */
  wait(ms: Duration, signal: AbortSignal | undefined): Promise<void>;
}

/** How a message to one node ended, repeats included. */
export interface Tried {
  /** `elapsedMs` and `attempts` are those of all tries together. */
  report: OutcomeReport;
  tries: number;
  /**
   * Only where an earlier try was a timeout, and this is what became of the last one: the message may have arrived before,
   * so that the whole is a timeout all the same.
   */
  last?: Outcome;
}

/** Sends once more. @returns `undefined` where it cannot be sent any more: the node has been removed */
export type SendAgain = (timeoutMs: Duration | undefined) => Promise<OutcomeReport | undefined>;

/**
 * When a message is sent again after an outcome.
 *
 * - `timeout`: at once, its time was pause enough; it may be the second time that the message arrives.
 * - `unreachable`, `overloaded`: it did not arrive; after a pause.
 * - 408, 480, 503 (RFC 3261 §21.4.9, §21.4.18, §21.5.4), and what else of 4xx and 5xx has a Retry-After (§20.33): after a
 *   pause, and not before Retry-After is over.
 * - everything else would be answered the same again, and `cancelled` was not wanted any more.
 *
 * @param tries  so far, ≥ 1
 * @returns      milliseconds to wait; `undefined` where a repeat is not right
 */
export function pauseBefore(outcome: Outcome, tries: number): Duration | undefined {
  const pause = Math.min(PAUSE_MS * 2 ** (tries - 1), PAUSE_MS_MAX);
  switch (outcome.type) {
    case "timeout":
      return 0;
    case "unreachable":
    case "overloaded":
      return pause;
    case "rejected":
      return pauseAfterRejection(outcome, pause);
    case "delivered":
    case "cancelled":
      return undefined;
  }
}

const REPEATABLE: readonly number[] = [408, 480, 503];

function pauseAfterRejection(
  { code, retryAfterSeconds }: { code: number; retryAfterSeconds?: number },
  pause: Duration,
): Duration | undefined {
  const isLater = retryAfterSeconds !== undefined && code >= 400 && code < 600;
  if (!isLater && !REPEATABLE.includes(code)) return undefined;
  const asked = (retryAfterSeconds ?? 0) * 1_000;
  return asked > RETRY_AFTER_MS_MAX ? undefined : Math.max(pause, asked);
}

/** One call: its plan, and the time since it began. The tries of a broadcast's nodes share one. */
export class Retry {
  private readonly plan: RetryPlan;
  private readonly clock: RetryClock;
  private readonly startedAt: Instant;

  constructor(plan: RetryPlan, clock: RetryClock = SYSTEM_CLOCK) {
    this.plan = plan;
    this.clock = clock;
    this.startedAt = clock.now();
  }

  /**
   * What the next try may take: its share of the time that is left, so that a node that is silent once does not take all
   * of it, but no less than 2 s while there are any.
   *
   * @param tries  so far, 0 before the first
   * @returns      `undefined` where the call has no time of its own
   */
  timeoutMs(tries = 0): Duration | undefined {
    const left = this.left();
    if (left === undefined) return undefined;
    return Math.min(left, Math.max(left / (this.plan.retry + 1 - tries), TRY_MS_MIN));
  }

  /**
   * Repeats a message until it is through, nothing more is to be hoped for, or the time is over.
   *
   * @param first   how the first try ended
   * @param signal  ends a pause: the outcome is `cancelled` then
   */
  async finish(first: OutcomeReport, again: SendAgain, signal?: AbortSignal): Promise<Tried> {
    const sofar = { report: first, tries: 1, attempts: first.attempts, isDoubtful: first.outcome.type === "timeout" };
    while (sofar.tries <= this.plan.retry) {
      const pause = pauseBefore(sofar.report.outcome, sofar.tries);
      if (pause === undefined || (this.left() ?? Number.POSITIVE_INFINITY) - pause < LEFT_MS_MIN) break;
      if (pause > 0 && signal?.aborted !== true) await this.clock.wait(pause, signal);
      if (signal?.aborted) {
        sofar.report = { ...sofar.report, outcome: { type: "cancelled" } };
        break;
      }
      const next = await again(this.timeoutMs(sofar.tries));
      if (next === undefined) break;
      sofar.report = next;
      sofar.tries++;
      sofar.attempts += next.attempts;
      if (next.outcome.type === "timeout") sofar.isDoubtful = true;
    }
    return sofar.tries === 1 ? { report: sofar.report, tries: 1 } : this.sum(sofar);
  }

  private sum({ report, tries, attempts, isDoubtful }: Sofar): Tried {
    const whole = { ...report, attempts, elapsedMs: this.clock.now() - this.startedAt };
    const { type } = report.outcome;
    const isCertain = type === "delivered" || type === "cancelled" || type === "timeout";
    if (isCertain || !isDoubtful) return { report: whole, tries };
    return { report: { ...whole, outcome: { type: "timeout" } }, tries, last: report.outcome };
  }

  private left(): Duration | undefined {
    const { timeoutMs } = this.plan;
    return timeoutMs === undefined ? undefined : timeoutMs - (this.clock.now() - this.startedAt);
  }
}

interface Sofar {
  report: OutcomeReport;
  tries: number;
  attempts: number;
  /** A try was a timeout. */
  isDoubtful: boolean;
}

const SYSTEM_CLOCK: RetryClock = {
  now: () => performance.now(),
  wait: (ms, signal) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    const onAbort = (): void => resolve();
    signal?.addEventListener("abort", onAbort, { once: true });
    return promise.finally(() => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    });
  },
};
