/**
 * The last guard against circles: a script that sends on what it receives strips our path. When what a link sent comes back again and
 * again within seconds, the body is held back until it has been quiet for a while (queue.md B9).
 *
 * Only what links pass on from the bus is watched: in a circle everything comes round, and a local writer may say the same as often as
 * he likes.
 */
import type { Duration, Instant } from "../core/time.ts";

/** Sendings of one body within the window that are believed to be meant. */
const TIMES_MAX = 5;
const WINDOW_MS: Duration = 10_000;
/** After so long without it a body is a new one: its next pause is worth a warning again. */
const QUIET_MS: Duration = 3 * WINDOW_MS;
/** Bodies that are watched; beyond it the one that was quiet longest is forgotten. */
const BODIES_MAX = 4_096;

interface Watched {
  /** Of the last times, oldest first; no more than `TIMES_MAX`. */
  readonly times: Instant[];
  seenAt: Instant;
  isWarnedOf: boolean;
}

export class Repeats {
  private readonly bodies = new Map<string, Watched>();
  /**
   * By a body's hash, when it went to a broker last; and those before them, which are forgotten all at once: to forget the oldest of a
   * map, one at a time, takes longer than to publish.
   */
  private published = new Map<bigint, Instant>();
  private publishedBefore: ReadonlyMap<bigint, Instant> = new Map();

  /**
   * A body from the bus is about to be sent on a channel.
   *
   * @returns `go`; `held`, or `still-held` where that was said before: not now, look again in `HELD_MS`
   */
  pass(channel: string, body: Uint8Array, now: Instant): "go" | "held" | "still-held" {
    const watched = this.watch(`${channel} ${hashOf(body).toString(36)}`, now);
    if (now - watched.seenAt >= QUIET_MS) watched.isWarnedOf = false;
    watched.seenAt = now;
    while (watched.times.length > 0 && now - (watched.times[0] as Instant) >= WINDOW_MS) watched.times.shift();
    if (watched.times.length < TIMES_MAX) {
      watched.times.push(now);
      return "go";
    }
    const isKnown = watched.isWarnedOf;
    watched.isWarnedOf = true;
    return isKnown ? "still-held" : "held";
  }

  /** A body of the bus goes to a broker, by a link of this node. */
  note(body: Uint8Array, now: Instant): void {
    this.published.set(hashOf(body), now);
    if (this.published.size < BODIES_MAX) return;
    this.publishedBefore = this.published;
    this.published = new Map();
  }

  /** What comes from a broker may be what went there: somebody may have sent it on without our headers. */
  isNoted(body: Uint8Array, now: Instant): boolean {
    const key = hashOf(body);
    const at = this.published.get(key) ?? this.publishedBefore.get(key) ?? Number.NEGATIVE_INFINITY;
    return now - at < QUIET_MS;
  }

  private watch(key: string, now: Instant): Watched {
    const watched = this.bodies.get(key) ?? { times: [], seenAt: now, isWarnedOf: false };
    this.bodies.delete(key);
    this.bodies.set(key, watched);
    if (this.bodies.size > BODIES_MAX) this.bodies.delete(this.bodies.keys().next().value as string);
    return watched;
  }
}

function hashOf(body: Uint8Array): bigint {
  return Bun.hash(body) as bigint;
}

/** How long what is held back waits. */
export const HELD_MS: Duration = WINDOW_MS;
