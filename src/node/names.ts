/**
 * Host names under resolution: which are asked for, and when again. Each is one question at a time, answered by the driver in
 * its own time. An answer is asked for anew when its TTL is over, at the latest each ping interval; a question that failed
 * after 1 s, 2 s, 4 s … up to the ping interval, for ever. A name that nobody wants any more is forgotten.
 */
import { DeadlineQueue } from "../core/deadline-queue.ts";
import type { Duration, Instant } from "../core/time.ts";
import type { Outbox } from "./outbox.ts";

/** However short a TTL is: no name is asked for more often. */
const TTL_MS_MIN = 1_000;
const RETRY_FIRST_MS = 1_000;

/** A host name, and whether the SRV records of it are wanted too. */
export interface Name {
  readonly host: string;
  readonly services: boolean;
}

export class Names {
  private readonly asked = new Set<string>();
  private readonly retries = new Map<string, Duration>();
  private readonly due = new DeadlineQueue<string>();
  private readonly outbox: Outbox;
  private intervalMs: Duration;

  /** @param intervalMs  the ping interval */
  constructor(outbox: Outbox, intervalMs: Duration) {
    this.outbox = outbox;
    this.intervalMs = intervalMs;
  }

  useInterval(intervalMs: Duration): void {
    this.intervalMs = intervalMs;
  }

  /** Asks now, whatever is known; not if the question is under way. */
  ask({ host, services }: Name): void {
    const key = keyOf({ host, services });
    this.due.delete(key);
    if (this.asked.has(key)) return;
    this.asked.add(key);
    this.outbox.push({ type: "resolve", host, services });
  }

  /** Asks unless the name is under way or will be asked for when its time has come. */
  want(name: Name): void {
    if (!this.due.has(keyOf(name))) this.ask(name);
  }

  /** @returns false for an answer that nobody waits for */
  answered(name: Name): boolean {
    return this.asked.delete(keyOf(name));
  }

  /** Asks again when the answer is too old, or after a while if it was none. */
  schedule(name: Name, ttlMs: Duration, isFailure: boolean, now: Instant): void {
    const key = keyOf(name);
    const retryMs = isFailure ? (this.retries.get(key) ?? RETRY_FIRST_MS) : TTL_MS_MIN;
    if (isFailure) this.retries.set(key, Math.min(retryMs * 2, this.intervalMs));
    else this.retries.delete(key);
    this.due.set(key, now + Math.min(Math.max(ttlMs, retryMs), this.intervalMs));
  }

  forget(name: Name): void {
    this.due.delete(keyOf(name));
    this.retries.delete(keyOf(name));
  }

  /** The next name whose time has come. */
  take(now: Instant): Name | undefined {
    const key = this.due.take(now);
    return key === undefined ? undefined : nameOf(key);
  }

  nextTimeout(): Instant | undefined {
    return this.due.next();
  }
}

/** No host name has a space in it. */
function keyOf({ host, services }: Name): string {
  return services ? `${host} SRV` : host;
}

function nameOf(key: string): Name {
  const services = key.endsWith(" SRV");
  return { host: services ? key.slice(0, -4) : key, services };
}
