/**
 * Whom to ping when. Each peer has its own phase, a little jittered, so that a bus that was started at once does not
 * ping at once for ever; a failed join is tried again after a delay that doubles up to the ping interval.
 */
import { DeadlineQueue } from "../core/deadline-queue.ts";
import { below, type Random } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";

const RETRY_FIRST_MS = 1_000;

export class Pinger {
  private readonly due = new DeadlineQueue<string>();
  private readonly retries = new Map<string, Duration>();
  private intervalMs: Duration;
  private readonly random: Random;

  constructor(intervalMs: Duration, random: Random) {
    this.intervalMs = intervalMs;
    this.random = random;
  }

  /** Counts for what is scheduled from now on. */
  useInterval(intervalMs: Duration): void {
    this.intervalMs = intervalMs;
  }

  /** The peer is pinged an interval from now, give or take a tenth; called again, the count starts anew. */
  schedule(key: string, now: Instant): void {
    const jitter = below(this.random, Math.max(1, Math.floor(this.intervalMs / 5)));
    this.due.set(key, now + this.intervalMs - Math.floor(this.intervalMs / 10) + jitter);
  }

  /** After a first contact that failed: 1 s, 2 s, 4 s … up to the ping interval. */
  scheduleRetry(key: string, now: Instant): void {
    const delay = Math.min(this.retries.get(key) ?? RETRY_FIRST_MS, this.intervalMs);
    this.retries.set(key, delay * 2);
    this.due.set(key, now + delay);
  }

  /** The peer answered: the next failure starts with the short delay again. */
  answered(key: string): void {
    this.retries.delete(key);
  }

  forget(key: string): void {
    this.due.delete(key);
    this.retries.delete(key);
  }

  take(now: Instant): string | undefined {
    return this.due.take(now);
  }

  nextTimeout(): Instant | undefined {
    return this.due.next();
  }
}
