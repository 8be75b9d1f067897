/**
 * Names that we know from others only. Nobody vouches for them, so they are no peers yet: each is probed once with a
 * small request, a few at a time, and becomes a peer when it answers (design.md section 4, verified membership).
 *
 * A name that did not answer is not tried again before `forgetMs`: a bus whose Kamailio lists dead nodes for ever
 * (dmq.md 8) would otherwise make us probe them at every ping.
 */
import type { Duration, Instant } from "../core/time.ts";
import { addressKey, type PeerAddress, type PeerSource } from "./peer.ts";

/** Unverified names that may be under way at a time, mentioned ones and those that announced themselves. */
export const UNVERIFIED_MAX = 16;
/** So many of them may be mentioned ones: however long the lists of others are, who announces itself finds a place. */
export const PROBES_MAX = 12;
/** Names that may wait for their turn; what comes beyond is dropped and will be listed again. */
export const WAITING_MAX = 256;

export interface Hint {
  readonly key: string;
  readonly address: PeerAddress;
  readonly source: PeerSource;
}

export class Hints {
  private readonly probing = new Map<string, Hint>();
  private readonly waiting = new Map<string, Hint>();
  private readonly failedAt = new Map<string, Instant>();
  private forgetMs: Duration;
  /** Hints that found no room. */
  dropped = 0;

  constructor(forgetMs: Duration) {
    this.forgetMs = forgetMs;
  }

  useForget(forgetMs: Duration): void {
    this.forgetMs = forgetMs;
  }

  /** Takes in a name. Known, recently failed and surplus ones are ignored. */
  add(address: PeerAddress, source: PeerSource, now: Instant): void {
    const key = addressKey(address);
    if (this.probing.has(key) || this.waiting.has(key)) return;
    const failed = this.failedAt.get(key);
    if (failed !== undefined && now - failed < this.forgetMs) return;
    if (this.waiting.size >= WAITING_MAX) {
      this.dropped++;
      return;
    }
    this.waiting.set(key, { key, address, source });
  }

  /** The next name to probe, if there is one and `busy` others leave room for it. */
  take(busy: number): Hint | undefined {
    if (this.probing.size >= PROBES_MAX || this.probing.size + busy >= UNVERIFIED_MAX) return undefined;
    const first = this.waiting.values().next();
    if (first.done) return undefined;
    this.waiting.delete(first.value.key);
    this.probing.set(first.value.key, first.value);
    return first.value;
  }

  /** Names that wait or are being probed. */
  get size(): number {
    return this.probing.size + this.waiting.size;
  }

  /** Names that are being probed. */
  get probingNow(): number {
    return this.probing.size;
  }

  probed(key: string): Hint | undefined {
    return this.probing.get(key);
  }

  /** Names whose host has this spelling and that wait for DNS. */
  *byHost(host: string): Generator<Hint> {
    for (const hint of this.probing.values()) if (hint.address.host === host) yield hint;
  }

  /** The probe was answered, or the name turned out to be known: it is no hint any more. */
  settle(key: string): void {
    this.probing.delete(key);
    this.waiting.delete(key);
    this.failedAt.delete(key);
  }

  /** The probe was not answered, or not by a node. */
  fail(key: string, now: Instant): void {
    if (!this.probing.delete(key)) return;
    this.failedAt.set(key, now);
    // The map keeps the order of failing, so the oldest is the first one.
    if (this.failedAt.size > WAITING_MAX) this.failedAt.delete(this.failedAt.keys().next().value as string);
  }
}
