/**
 * Who may speak to us, decided by the address that octets came from (design.md section 8). `allow` is for KDMQ; `allowRequests`
 * adds those who may send what is not KDMQ: load balancers that ask with OPTIONS, proxies whose REGISTERs are replicated.
 *
 * A stranger gets 403, a few times, then nothing: an answer for each request would make us a mirror. Over UDP the address is
 * what the sender says it is, so being let in proves nothing; what an allowed source may cause is bounded elsewhere (sources.ts).
 */
import type { Endpoint } from "../core/endpoint.ts";
import { ConfigError } from "../core/errors.ts";
import { type AllowRule, isWithin, type Network, parseAllow } from "../core/networks.ts";
import type { Duration, Instant } from "../core/time.ts";
import { TokenBucket } from "./bucket.ts";
import type { NodeCounters } from "./io.ts";
import type { Warnings } from "./warnings.ts";

/** Refusals that one address is sent in a row, and how long until the next one is due. */
export const REFUSALS_PER_SOURCE = 4;
export const REFUSAL_EVERY_MS: Duration = 15_000;
/** Refusals that all strangers together are sent in a row, and in a second after that. */
export const REFUSALS_IN_ALL = 64;
const REFUSALS_A_SECOND = 16;
/** Strangers that are remembered; beyond, the one that was heard of first is forgotten. */
export const STRANGERS_MAX = 1_024;
/** The operator is told of a stranger again after that. */
const WARN_EVERY_MS: Duration = 600_000;
/** Addresses whose verdict is remembered; beyond, all are forgotten. */
const VERDICTS_MAX = 4_096;

/** What an address may send. */
const NOTHING = 0;
const REQUESTS = 1;
const ALL = 2;

export interface AdmissionContext {
  options: { readonly allow: readonly string[]; readonly allowRequests: readonly string[] };
  warnings: Warnings;
  counters: NodeCounters;
  /** Who is a member: `members` of the two lists. */
  members: Membership;
}

export interface Membership {
  /** Changes whenever the answer of `isMember` may. */
  readonly revision: number;
  /** True for the address of a notification address, of a peer that an operator added, and of one that has answered us. */
  isMember(ip: string): boolean;
}

interface Rules {
  readonly networks: readonly Network[];
  readonly members: boolean;
}

interface Stranger {
  readonly refusals: TokenBucket;
  warnedAt: Instant | undefined;
}

export class Admission {
  private readonly context: AdmissionContext;
  private readonly verdicts = new Map<string, number>();
  private readonly strangers = new Map<string, Stranger>();
  private readonly refusals = new TokenBucket(REFUSALS_IN_ALL, 1_000 / REFUSALS_A_SECOND);
  private bus: Rules = NOBODY;
  private others: Rules = NOBODY;
  /** Of the members, when the verdicts were made. */
  private revision = 0;
  /** Endpoints that may speak KDMQ: those of one sender are one object, mostly, and the last one is the next one. */
  private readonly speakers = new Set<Endpoint>();
  private last: Endpoint | undefined;

  constructor(context: AdmissionContext) {
    this.context = context;
    this.reload();
  }

  /** The options have changed. */
  reload(): void {
    this.bus = readRules("allow", this.context.options.allow);
    this.others = readRules("allow_requests", this.context.options.allowRequests);
    this.forget();
  }

  /** True if KDMQ from there is taken. */
  speaks(from: Endpoint): boolean {
    const isFresh = this.revision === this.context.members.revision;
    if (isFresh && from === this.last) return true;
    if (!(isFresh && this.speakers.has(from))) {
      if (this.verdict(from.ip) !== ALL) return false;
      if (this.speakers.size >= VERDICTS_MAX) this.speakers.clear();
      this.speakers.add(from);
    }
    this.last = from;
    return true;
  }

  /** True if requests of any other method from there are taken. */
  asks(from: Endpoint): boolean {
    return this.verdict(from.ip) !== NOTHING;
  }

  /** True if an address may become a peer because others mention it: where it could not speak to us, it is of no use. */
  mayJoin(ip: string): boolean {
    return this.bus.members || isWithin(ip, this.bus.networks);
  }

  /** True if there is anything in `allow` but `members`. */
  hasNetworks(): boolean {
    return this.bus.networks.length > 0;
  }

  /** True if an address is let in by more than being a member. */
  isListed(ip: string): boolean {
    return isWithin(ip, this.bus.networks);
  }

  /**
   * A request, or a connection, of a stranger came in: it is counted, and the operator is told.
   *
   * @returns true if it may be answered
   */
  refuse(from: Endpoint, what: string, now: Instant): boolean {
    const stranger = this.stranger(from.ip);
    if (stranger.warnedAt === undefined || now - stranger.warnedAt >= WARN_EVERY_MS) {
      stranger.warnedAt = now;
      const text = `${what} from ${from.transport}:${from.ip}:${from.port} is refused: not in allow; if it is a node of this bus, add it (allow ${from.ip})`;
      this.context.warnings.warn("not-allowed", text, now);
    }
    return stranger.refusals.take(now) && this.refusals.take(now);
  }

  private stranger(ip: string): Stranger {
    const known = this.strangers.get(ip);
    if (known !== undefined) return known;
    const fresh = { refusals: new TokenBucket(REFUSALS_PER_SOURCE, REFUSAL_EVERY_MS), warnedAt: undefined };
    this.strangers.set(ip, fresh);
    if (this.strangers.size > STRANGERS_MAX) this.strangers.delete(this.strangers.keys().next().value as string);
    return fresh;
  }

  private verdict(ip: string): number {
    if (this.revision !== this.context.members.revision) this.forget();
    const known = this.verdicts.get(ip);
    if (known !== undefined) return known;
    if (this.verdicts.size >= VERDICTS_MAX) this.verdicts.clear();
    const verdict = this.isIn(ip, this.bus) ? ALL : this.isIn(ip, this.others) ? REQUESTS : NOTHING;
    this.verdicts.set(ip, verdict);
    return verdict;
  }

  private isIn(ip: string, { networks, members }: Rules): boolean {
    return isWithin(ip, networks) || (members && this.context.members.isMember(ip));
  }

  private forget(): void {
    this.verdicts.clear();
    this.speakers.clear();
    this.last = undefined;
    this.revision = this.context.members.revision;
  }
}

const NOBODY: Rules = { networks: [], members: false };

/** @throws ConfigError for a text that is no rule */
export function readRules(option: string, texts: readonly string[]): Rules {
  const rules = texts.map((text): AllowRule => {
    const rule = parseAllow(text);
    if (rule === undefined)
      throw new ConfigError("config-invalid-value", option, text, "a CIDR, an IP address, private, members or any");
    return rule;
  });
  return { networks: rules.flatMap((rule) => (rule === "members" ? [] : rule)), members: rules.includes("members") };
}
