/**
 * Which broker of a list is tried next, and when (a value machine: time is an argument).
 *
 * After a loss the next in the list is tried at once. A round without success is followed by a wait that doubles from one round to the
 * next. A broker that refused us for good is left alone for half a minute. A connection that broke within a second was no success: a
 * broker that takes connections only to end them must not be asked a thousand times a second.
 */
import { assert } from "../core/assert.ts";
import { below, type Random } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";

export const PAUSE_MS = 200;
export const PAUSE_MS_MAX = 5_000;
/** Part of a pause by which it may be shorter or longer, so that many clients do not come back at once. */
const JITTER = 0.2;
/** Until a broker that refused login, virtual host or certificate is asked again. */
export const REFUSED_MS = 30_000;
/** A connection that lives so long was a success. */
export const STABLE_MS = 1_000;

export type Attempt =
  | { readonly type: "try"; readonly index: number }
  | { readonly type: "wait"; readonly ms: Duration };

export class Order {
  private readonly random: Random;
  private readonly refusedUntil: Instant[];
  /** The next to look at, and how many of this round are left. */
  private position = 0;
  private left: number;
  private pause = PAUSE_MS;
  private pauseUntil: Instant = Number.NEGATIVE_INFINITY;
  private connected: { index: number; at: Instant } | undefined;

  constructor(count: number, random: Random) {
    assert(count > 0, "a list of brokers has one at least");
    this.random = random;
    this.left = count;
    this.refusedUntil = Array.from({ length: count }, () => Number.NEGATIVE_INFINITY);
  }

  /** Whether each of the list has refused us for good. */
  allRefused(now: Instant): boolean {
    return this.refusedUntil.every((until) => until > now);
  }

  next(now: Instant): Attempt {
    assert(this.connected === undefined, "one connection at a time");
    if (now < this.pauseUntil) return { type: "wait", ms: this.pauseUntil - now };
    while (this.left > 0) {
      const index = this.position;
      this.position = (index + 1) % this.refusedUntil.length;
      this.left--;
      if ((this.refusedUntil[index] as Instant) <= now) return { type: "try", index };
    }
    this.endRound(now);
    return { type: "wait", ms: this.pauseUntil - now };
  }

  /** @param isFatal  the same would be answered again */
  failed(index: number, isFatal: boolean, now: Instant): void {
    if (isFatal) this.refusedUntil[index] = now + REFUSED_MS;
  }

  succeeded(index: number, now: Instant): void {
    this.connected = { index, at: now };
    this.refusedUntil[index] = Number.NEGATIVE_INFINITY;
  }

  lost(now: Instant): void {
    const last = this.connected;
    assert(last !== undefined, "only what was connected is lost");
    this.connected = undefined;
    this.position = (last.index + 1) % this.refusedUntil.length;
    if (now - last.at < STABLE_MS) return;
    this.left = this.refusedUntil.length;
    this.pause = PAUSE_MS;
  }

  private endRound(now: Instant): void {
    const spread = 1 + JITTER * ((2 * below(this.random, 1_001)) / 1_000 - 1);
    const earliest = this.allRefused(now) ? Math.min(...this.refusedUntil) : now;
    this.pauseUntil = Math.max(now + this.pause * spread, earliest);
    this.pause = Math.min(this.pause * 2, PAUSE_MS_MAX);
    this.position = 0;
    this.left = this.refusedUntil.length;
  }
}
