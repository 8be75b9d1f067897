/** A token bucket: so many in a row, then one in each so many milliseconds. */
import type { Duration, Instant } from "../core/time.ts";

export class TokenBucket {
  private tokens: number;
  private at: Instant | undefined;
  private readonly size: number;
  private readonly everyMs: Duration;

  /**
   * @param size     tokens of a full bucket, which it is at first
   * @param everyMs  how long one token takes to come back
   */
  constructor(size: number, everyMs: Duration) {
    this.size = size;
    this.everyMs = everyMs;
    this.tokens = size;
  }

  /** @returns false where there is none left */
  take(now: Instant): boolean {
    if (this.at !== undefined)
      this.tokens = Math.min(this.size, this.tokens + Math.max(0, now - this.at) / this.everyMs);
    this.at = now;
    if (this.tokens < 1) return false;
    this.tokens--;
    return true;
  }
}
