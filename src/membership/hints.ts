/**
 * Names that nobody has proved yet: nodes that announced themselves, or that others mention. They are no peers: each is probed
 * with a small request, a few at a time, and becomes a peer when it answers (design.md section 4, verified membership).
 *
 * Names from answers to our own requests come before names from requests, which anybody may have sent. A mentioned name that
 * did not answer is not tried again before `forgetMs`: a bus whose Kamailio lists dead nodes for ever (dmq.md 8) would otherwise
 * make us probe them at every ping. One that announces itself anew is.
 */
import type { Duration, Instant } from "../core/time.ts";
import { addressKey, type PeerAddress, type PeerSource } from "./peer.ts";

/** Unverified names that may be under way at a time, mentioned ones and those that announced themselves. */
export const UNVERIFIED_MAX = 16;
/** So many of them may be mentioned ones: however long the lists of others are, who announces itself finds a place. */
export const PROBES_MAX = 12;
/** Of these, names from requests: whoever forges those leaves room for names from answers. */
export const CLAIMS_MAX = 4;
/** So many may be nodes that announced themselves: however many of these are forged, names from answers find a place. */
export const ANNOUNCED_MAX = 8;
/** Names of either kind that may wait for their turn; what comes beyond is dropped and will be listed again. */
export const WAITING_MAX = 256;

/** Where a name is from, besides its kind of source. */
export interface Claim {
  /** IP address of the request that it came in, which pays for the probe; `undefined`: it came in an answer. */
  readonly payer?: string | undefined;
  /** Max-Forwards with which others are told of the node once it has answered; 0: they are not. */
  readonly forwards?: number;
}

export interface Hint {
  readonly key: string;
  readonly address: PeerAddress;
  readonly source: PeerSource;
  readonly payer: string | undefined;
  forwards: number;
}

export class Hints {
  private readonly probing = new Map<string, Hint>();
  private readonly vouched = new Map<string, Hint>();
  private readonly claimed = new Map<string, Hint>();
  private readonly announced = new Map<string, Hint>();
  private readonly failures = new Map<string, { readonly at: Instant; readonly isClaim: boolean }>();
  private forgetMs: Duration;

  constructor(forgetMs: Duration) {
    this.forgetMs = forgetMs;
  }

  useForget(forgetMs: Duration): void {
    this.forgetMs = forgetMs;
  }

  /** True if a name waits or is being probed, so that to hear of it again is no news. */
  has(address: PeerAddress): boolean {
    const key = addressKey(address);
    return this.find(key) !== undefined;
  }

  /**
   * Takes in a name. Known and recently failed ones are ignored.
   *
   * @returns false where there was no room for it
   */
  add(address: PeerAddress, source: PeerSource, now: Instant, { payer, forwards = 0 }: Claim = {}): boolean {
    const key = addressKey(address);
    const known = this.find(key);
    if (known !== undefined) known.forwards = Math.max(known.forwards, forwards);
    if (known !== undefined && !this.isBetter(known, source, payer)) return true;
    if (source !== "announced" && this.hasFailed(key, payer !== undefined, now)) return true;
    const waiting = payer === undefined ? this.vouched : source === "announced" ? this.announced : this.claimed;
    if (waiting.size >= WAITING_MAX) return false;
    this.leaveQueue(key);
    waiting.set(key, { key, address, source, payer, forwards: known?.forwards ?? forwards });
    return true;
  }

  /** It waits, and would come sooner by what is known of it now. */
  private isBetter({ key, payer: before }: Hint, source: PeerSource, payer: string | undefined): boolean {
    if (this.probing.has(key) || before === undefined) return false;
    return payer === undefined || (source === "announced" && this.claimed.has(key));
  }

  /** The next name to probe, if there is one and room for it. */
  take(): Hint | undefined {
    const next = this.probing.size < UNVERIFIED_MAX ? this.next() : undefined;
    if (next === undefined) return undefined;
    this.leaveQueue(next.key);
    this.probing.set(next.key, next);
    return next;
  }

  private next(): Hint | undefined {
    let announced = 0;
    let claimed = 0;
    for (const hint of this.probing.values()) {
      if (isAnnounced(hint)) announced++;
      else if (hint.payer !== undefined) claimed++;
    }
    const hint = announced < ANNOUNCED_MAX ? first(this.announced) : undefined;
    if (hint !== undefined || this.probing.size - announced >= PROBES_MAX) return hint;
    return first(this.vouched) ?? (claimed < CLAIMS_MAX ? first(this.claimed) : undefined);
  }

  private find(key: string): Hint | undefined {
    return this.probing.get(key) ?? this.vouched.get(key) ?? this.announced.get(key) ?? this.claimed.get(key);
  }

  private leaveQueue(key: string): void {
    for (const queue of [this.vouched, this.announced, this.claimed]) queue.delete(key);
  }

  /** Names that wait or are being probed. */
  get size(): number {
    return this.probing.size + this.vouched.size + this.announced.size + this.claimed.size;
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
    this.leaveQueue(key);
    this.failures.delete(key);
  }

  /** The probe was not answered, or not by a node. */
  fail(key: string, now: Instant): void {
    const isClaim = this.probing.get(key)?.payer !== undefined;
    if (!this.probing.delete(key)) return;
    // The map keeps the order of failing, so the oldest is the first one.
    this.failures.delete(key);
    this.failures.set(key, { at: now, isClaim });
    if (this.failures.size > WAITING_MAX) this.failures.delete(this.failures.keys().next().value as string);
  }

  /** What a request has claimed is asked with little patience: that it failed says nothing to one that is vouched for. */
  private hasFailed(key: string, isClaim: boolean, now: Instant): boolean {
    const failure = this.failures.get(key);
    return failure !== undefined && now - failure.at < this.forgetMs && (isClaim || !failure.isClaim);
  }
}

function isAnnounced({ source, payer }: Hint): boolean {
  return source === "announced" && payer !== undefined;
}

function first(waiting: ReadonlyMap<string, Hint>): Hint | undefined {
  return waiting.values().next().value;
}
