/**
 * The timers of non-INVITE transactions (RFC 3261 §17.1.2.2, §17.2.2 and Table 4): how long, by transport. Who waits and
 * what happens then is the business of client.ts and clients.ts, server.ts and servers.ts.
 */
import { isReliable, type Transport } from "../core/endpoint.ts";
import { UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";

/** The three base values of RFC 3261 §17.1.1.1, §17.1.2.2; all of a bus should agree on them. */
export interface TimerSettings {
  /** Estimate of the round trip: the first retransmission, and 64 of it are the life of a transaction. */
  readonly t1Ms: Duration;
  /** The longest interval between two transmissions. */
  readonly t2Ms: Duration;
  /** The longest time that a message stays in the network. */
  readonly t4Ms: Duration;
}

export const DEFAULT_TIMERS: TimerSettings = { t1Ms: 500, t2Ms: 4_000, t4Ms: 5_000 };

/**
 * Completes settings with the defaults.
 *
 * @throws UsageError  unless 0 < T1 ≤ T2 and 0 ≤ T4, all finite
 */
export function timerSettings(partial: Partial<TimerSettings> = {}): TimerSettings {
  const settings = { ...DEFAULT_TIMERS, ...partial };
  const { t1Ms, t2Ms, t4Ms } = settings;
  if (!(t1Ms > 0 && t1Ms <= t2Ms && t2Ms < Infinity && t4Ms >= 0 && t4Ms < Infinity)) {
    throw new UsageError(`timers out of bounds: T1 ${t1Ms} ms, T2 ${t2Ms} ms, T4 ${t4Ms} ms`);
  }
  return settings;
}

/**
 * Decides when a request is sent again while its answer is outstanding (RFC 3261 §17.1.2.2, Timer E).
 *
 * @param sentCount  transmissions so far, ≥ 1
 * @param state      in "proceeding" the interval is T2 at once
 * @returns          milliseconds until the next transmission; `undefined` on reliable transports, which never resend
 */
export function timerE(
  settings: TimerSettings,
  transport: Transport,
  sentCount: number,
  state: "trying" | "proceeding",
): Duration | undefined {
  if (isReliable(transport)) return undefined;
  if (state === "proceeding") return settings.t2Ms;
  return Math.min(settings.t1Ms * 2 ** (sentCount - 1), settings.t2Ms);
}

/** How long a client transaction waits for its final response, on any transport (RFC 3261 §17.1.2.2, Timer F). */
export function timerF(settings: TimerSettings): Duration {
  return 64 * settings.t1Ms;
}

/** How long a server transaction repeats its final response (RFC 3261 §17.2.2, Timer J); 0 on reliable transports. */
export function timerJ(settings: TimerSettings, transport: Transport): Duration {
  return isReliable(transport) ? 0 : 64 * settings.t1Ms;
}

/** How long a client transaction absorbs repeated responses (RFC 3261 §17.1.2.2, Timer K); 0 on reliable transports. */
export function timerK(settings: TimerSettings, transport: Transport): Duration {
  return isReliable(transport) ? 0 : settings.t4Ms;
}

/**
 * How old a request is at least before it may be answered 100 (RFC 4320 §4.1): on UDP not before the client's Timer E
 * has been reset to T2, because an earlier 100 would only slow its retransmissions down.
 *
 * @returns milliseconds from the arrival of the request: 3,500 with the default timers on UDP, 0 on reliable transports
 */
export function tryingDelay(settings: TimerSettings, transport: Transport): Duration {
  if (isReliable(transport)) return 0;
  let elapsedMs = 0;
  let interval = settings.t1Ms;
  while (interval < settings.t2Ms) {
    elapsedMs += interval;
    interval *= 2;
  }
  return elapsedMs;
}
