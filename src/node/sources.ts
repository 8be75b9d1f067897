/**
 * What those who speak to us may make us do, by the IP address that they speak from (design.md section 8, amplification).
 *
 * Over UDP nobody knows who has sent a request, and a list in it may name anybody. So each request earns its source a credit of
 * less than five times its octets, and what leaves us because of it is paid from that: the node list in the answer, and
 * questions to nodes that nobody vouches for. New names and look-ups of DNS are counted besides, whoever mentions them.
 */
import type { Duration, Instant } from "../core/time.ts";
import { TokenBucket } from "./bucket.ts";

/** Octets that may leave us for each that came in. */
export const CREDIT_RATIO = 5;
/** Credit that one source can have, so that nobody saves up for a burst. */
export const CREDIT_MAX = 16_384;
/** New names that one source may mention in a row, and how long one more takes. */
export const NAMES_PER_SOURCE = 64;
const NAME_EVERY_MS: Duration = 250;
/** Of them, host names that DNS has to be asked for. */
export const LOOKUPS_PER_SOURCE = 16;
const LOOKUP_EVERY_MS: Duration = 1_000;
/** Sources that are remembered; beyond, the one that was heard of first is forgotten, and its credit with it. */
export const SOURCES_MAX = 1_024;

interface Source {
  credit: number;
  readonly names: TokenBucket;
  readonly lookups: TokenBucket;
}

export class Sources {
  private readonly known = new Map<string, Source>();

  /** A request came in from there. */
  earn(ip: string, octets: number): void {
    const source = this.source(ip);
    source.credit = Math.min(CREDIT_MAX, source.credit + CREDIT_RATIO * octets);
  }

  credit(ip: string): number {
    return this.known.get(ip)?.credit ?? 0;
  }

  /** Octets leave us because of it. */
  spend(ip: string, octets: number): void {
    const source = this.known.get(ip);
    if (source !== undefined) source.credit = Math.max(0, source.credit - octets);
  }

  /** @returns how often `octets` can be paid for, `most` times at most; so often is paid */
  afford(ip: string, octets: number, most: number): number {
    const times = Math.min(most, Math.floor(this.credit(ip) / octets));
    this.spend(ip, times * octets);
    return times;
  }

  /** @returns false where this source has mentioned enough for now */
  mayName(ip: string, needsLookup: boolean, now: Instant): boolean {
    const { names, lookups } = this.source(ip);
    return names.take(now) && (!needsLookup || lookups.take(now));
  }

  private source(ip: string): Source {
    const known = this.known.get(ip);
    if (known !== undefined) return known;
    const names = new TokenBucket(NAMES_PER_SOURCE, NAME_EVERY_MS);
    const lookups = new TokenBucket(LOOKUPS_PER_SOURCE, LOOKUP_EVERY_MS);
    const fresh = { credit: 0, names, lookups };
    this.known.set(ip, fresh);
    if (this.known.size > SOURCES_MAX) this.known.delete(this.known.keys().next().value as string);
    return fresh;
  }
}
