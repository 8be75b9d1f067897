/**
 * Host names to addresses and services, each with the time for which the answer holds: the machine's table first, then
 * DNS (A, AAAA, SRV; no NAPTR), then whatever else the system knows (mDNS, containers).
 *
 * It never blocks the loop and never asks without end: so many questions are under way at a time, the same one is asked once
 * for all who wait, an answer is given again while its TTL lasts, and everyone is answered within `timeoutMs`. It keeps no
 * answer beyond its TTL; to go on with the last known addresses while DNS is dead is the core's decision.
 */
import { lookup } from "node:dns/promises";
import { canonicalIp, isIpv6 } from "../core/endpoint.ts";
import { TransportError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import type { DnsClient } from "./dns-client.ts";
import type { DnsRecord, DnsType } from "./dns-message.ts";
import {
  candidatesOf,
  type DnsServer,
  parseDnsServer,
  readHosts,
  readSystemDns,
  type SystemDns,
} from "./dns-system.ts";
import { Gate } from "./gate.ts";

/** Asks the system for all addresses of a name; rejects where it has none. */
export type Lookup = (host: string) => Promise<readonly { readonly address: string }[]>;

export interface ResolverOptions {
  /** `IP[:PORT]` each: ask these instead of the system's servers, without its search list and without `lookup`. */
  readonly servers?: readonly string[];
  /** Which kinds of addresses are of use. Default both; the other kind is not even asked for. */
  readonly families?: { readonly ipv4: boolean; readonly ipv6: boolean };
  /** From the question to the answer, queueing included. Default 5,000. */
  readonly timeoutMs?: Duration;
  /** How long an answer without a TTL holds: of the machine's table and of the system. Default 30,000. */
  readonly localTtlMs?: Duration;
  /** Questions to DNS at one time. Default 16. */
  readonly maxConcurrent?: number;
  /** Questions that may wait for their turn; beyond it one fails at once. Default 1,000. */
  readonly maxWaiting?: number;
  /** Stands in for the system in tests. */
  readonly lookup?: Lookup;
  /** Likewise; default `/etc/hosts` and `/etc/resolv.conf`. */
  readonly hostsPath?: string;
  readonly resolvConfPath?: string;
}

/** One SRV record's target with its port, as an address. */
export interface ResolvedService {
  readonly ip: string;
  readonly port: number;
}

export interface Resolution {
  /** Of the name itself: canonical IP literals without duplicates, A before AAAA; empty where there are none. */
  readonly addresses: readonly string[];
  /** One for each address of each SRV target, A before AAAA; empty where none were asked for. */
  readonly services: readonly ResolvedService[];
  /** False where a question had no answer: what is missing here may hold all the same. */
  readonly complete: boolean;
  /** How long this may be used: the smallest TTL in it. */
  readonly ttlMs: Duration;
  /** Why there is nothing, or not all. */
  readonly cause?: TransportError;
}

/** What is known of one name and one kind of records. */
interface Part {
  readonly records: readonly DnsRecord[];
  readonly complete: boolean;
  readonly ttlMs: Duration;
  readonly cause?: unknown;
}

const MAX_CACHED = 1_000;
/** Lookups of the system at one time: each holds a thread of the runtime's pool, also after its timeout. */
const LOOKUPS_MAX = 4;
/** Targets of one name's SRV records; more than the core takes, so that it is the core who says what is left out. */
const TARGETS_MAX = 300;
/** After a question without an answer; the core waits longer each time. */
const FAILED_TTL_MS = 1_000;
/** Where there is no server that would say how long its "nothing" holds. */
const NOTHING_TTL_MS = 5_000;

export class Resolver {
  readonly #servers: readonly DnsServer[];
  readonly #types: readonly DnsType[];
  readonly #timeoutMs: Duration;
  readonly #localTtlMs: Duration;
  readonly #lookup: Lookup;
  readonly #hostsPath: string;
  readonly #resolvConfPath: string;
  readonly #questions: Gate;
  readonly #lookups: Gate;
  readonly #asked = new Map<string, Promise<Part>>();
  readonly #cache = new Map<string, { part: Part; until: number }>();
  readonly #running = new Set<AbortController>();
  #client: Promise<DnsClient> | undefined;

  /** @throws ConfigError for a server that is no `IP[:PORT]` */
  constructor(options: ResolverOptions = {}) {
    const families = options.families ?? { ipv4: true, ipv6: true };
    const waiting = options.maxWaiting ?? 1_000;
    this.#servers = (options.servers ?? []).map(parseDnsServer);
    this.#types = [...(families.ipv4 ? (["A"] as const) : []), ...(families.ipv6 ? (["AAAA"] as const) : [])];
    this.#timeoutMs = options.timeoutMs ?? 5_000;
    this.#localTtlMs = options.localTtlMs ?? 30_000;
    this.#lookup = options.lookup ?? ((host) => lookup(host, { all: true }));
    this.#hostsPath = options.hostsPath ?? "/etc/hosts";
    this.#resolvConfPath = options.resolvConfPath ?? "/etc/resolv.conf";
    this.#questions = new Gate(options.maxConcurrent ?? 16, waiting);
    this.#lookups = new Gate(LOOKUPS_MAX, waiting);
  }

  /**
   * @param host      a name, or an IP literal with or without brackets, which gives itself
   * @param services  also the SRV records of exactly this name, and the addresses of their targets
   * @returns         what was found; it never rejects
   */
  async resolve(host: string, services = false): Promise<Resolution> {
    const literal = canonicalIp(host);
    if (literal !== undefined) return { addresses: [literal], services: [], complete: true, ttlMs: this.#localTtlMs };
    const name = host.toLowerCase();
    if (!isHostName(name)) return nothing(host, new Error("not a host name"));
    const end = new AbortController();
    const timer = setTimeout(() => end.abort(new Error(`no answer in ${this.#timeoutMs} ms`)), this.#timeoutMs);
    this.#running.add(end);
    try {
      return await this.#resolve(name, services, end.signal);
    } catch (cause) {
      return nothing(host, cause);
    } finally {
      clearTimeout(timer);
      this.#running.delete(end);
    }
  }

  /** Gives up what is under way; whoever waits is answered with that. */
  close(): void {
    for (const end of this.#running) end.abort(new Error("the resolver is closed"));
  }

  async #resolve(name: string, services: boolean, signal: AbortSignal): Promise<Resolution> {
    const [srv, own] = await Promise.all([
      services ? this.#part("SRV", name, signal) : undefined,
      this.#addresses(name, signal),
    ]);
    const targets = await this.#targets(srv?.records ?? [], signal);
    const isNothing = own.complete && own.records.length === 0 && targets.length === 0;
    if (!isNothing || this.#servers.length > 0) return together(name, srv, targets, own);
    return together(name, srv, targets, await this.#part("SYSTEM", name, signal));
  }

  /** @returns the addresses of each target, beside the port that goes with them */
  async #targets(records: readonly DnsRecord[], signal: AbortSignal): Promise<Target[]> {
    const names = [...new Set(records.map(({ host }) => host))].filter(isHostName).slice(0, TARGETS_MAX);
    const parts = new Map<string, Part>();
    const ask = async (name: string): Promise<void> => {
      parts.set(name, await this.#addresses(name, signal));
    };
    await Promise.all(names.map(ask));
    return records.flatMap(({ host, port }) => {
      const part = parts.get(host);
      return part === undefined ? [] : [{ port, part }];
    });
  }

  /** By the machine's table, else by DNS. */
  async #addresses(name: string, signal: AbortSignal): Promise<Part> {
    const listed = this.#usable(await readHosts(this.#hostsPath, name.replace(/\.$/, "")));
    if (listed.length > 0) return this.#local(listed);
    const parts = await Promise.all(this.#types.map((type) => this.#part(type, name, signal)));
    const cause = parts.find((part) => part.cause !== undefined)?.cause;
    return {
      records: unique(parts.flatMap(({ records }) => records)),
      complete: parts.every(({ complete }) => complete),
      ttlMs: shortest(parts),
      ...(cause !== undefined && { cause }),
    };
  }

  /** From the cache, from a question that is under way, or by a new one. */
  async #part(kind: Kind, name: string, signal: AbortSignal): Promise<Part> {
    const key = `${kind} ${name}`;
    const cached = this.#cache.get(key);
    const leftMs = (cached?.until ?? 0) - performance.now();
    if (cached !== undefined && leftMs > 0) return { ...cached.part, ttlMs: leftMs };
    let asked = this.#asked.get(key);
    if (asked === undefined) {
      asked = (kind === "SYSTEM" ? this.#askSystem(name, signal) : this.#askDns(kind, name, signal))
        .catch((cause: unknown): Part => ({ records: [], complete: false, ttlMs: FAILED_TTL_MS, cause }))
        .finally(() => this.#asked.delete(key));
      this.#asked.set(key, asked);
    }
    const part = await asked;
    if (part.complete) this.#remember(key, part);
    return part;
  }

  #remember(key: string, part: Part): void {
    // The oldest goes: a Map keeps the order in which keys came.
    this.#cache.delete(key);
    if (this.#cache.size >= MAX_CACHED) this.#cache.delete(this.#cache.keys().next().value as string);
    this.#cache.set(key, { part, until: performance.now() + part.ttlMs });
  }

  /**
   * What DNS says of the first candidate that there is. One that is there without such records ends the search, or a
   * name with A records alone would get the AAAA records of a wildcard in the search list. One that no server tells of
   * is passed over, as other resolvers do, but what is not found then may be there all the same.
   */
  async #askDns(type: DnsType, name: string, signal: AbortSignal): Promise<Part> {
    const system = await this.#system();
    // Without a server there is only the system's own way.
    if (system.servers.length === 0) return { records: [], complete: true, ttlMs: NOTHING_TTL_MS };
    const client = await this.#dns();
    let ttlMs: Duration = NOTHING_TTL_MS;
    let problem: unknown;
    for (const candidate of candidatesOf(name, system).filter(isHostName)) {
      try {
        const found = await this.#questions.run(() => client.ask(system.servers, candidate, type, signal), signal);
        ttlMs = found.ttlMs;
        if (found.exists) return { records: found.records, complete: true, ttlMs };
      } catch (cause) {
        if (signal.aborted) throw cause;
        problem ??= cause;
      }
    }
    if (problem !== undefined) throw problem;
    return { records: [], complete: true, ttlMs };
  }

  async #askSystem(name: string, signal: AbortSignal): Promise<Part> {
    try {
      const found = await this.#lookups.run(() => this.#lookup(name), signal);
      const usable = this.#usable(found.map(({ address }) => address));
      if (usable.length > 0) return this.#local(usable);
      return { records: [], complete: true, ttlMs: NOTHING_TTL_MS };
    } catch (cause) {
      // This code is an answer, all others are not: EAI_AGAIN, ETIMEOUT, our own.
      if ((cause as { code?: unknown }).code !== "ENOTFOUND") throw cause;
      return { records: [], complete: true, ttlMs: NOTHING_TTL_MS, cause };
    }
  }

  async #system(): Promise<SystemDns> {
    if (this.#servers.length > 0) return { servers: this.#servers, search: [], ndots: 0 };
    return await readSystemDns(this.#resolvConfPath);
  }

  /** A node whose addresses are all literals never loads it. */
  #dns(): Promise<DnsClient> {
    this.#client ??= import("./dns-client.ts").then((module) => new module.DnsClient());
    return this.#client;
  }

  #local(addresses: readonly string[]): Part {
    const records = unique(addresses.map((host) => ({ host, port: 0 })));
    return { records, complete: true, ttlMs: this.#localTtlMs };
  }

  #usable(addresses: readonly string[]): string[] {
    const canonical = addresses.flatMap((address) => canonicalIp(address) ?? []);
    return canonical.filter((ip) => this.#types.includes(isIpv6(ip) ? "AAAA" : "A"));
  }
}

/** What one answer is remembered under. */
type Kind = DnsType | "SYSTEM";

interface Target {
  readonly port: number;
  readonly part: Part;
}

function together(host: string, srv: Part | undefined, targets: readonly Target[], own: Part): Resolution {
  const parts = [...(srv === undefined ? [] : [srv]), ...targets.map(({ part }) => part), own];
  const ttlMs = shortest(parts);
  const cause = parts.find((part) => part.cause !== undefined)?.cause;
  const complete = parts.every((part) => part.complete);
  const services = targets.flatMap(({ port, part }) => part.records.map((record) => ({ ip: record.host, port })));
  const addresses = own.records.map((record) => record.host);
  const found = { addresses, services, complete, ttlMs };
  if (complete && addresses.length + services.length > 0) return found;
  return { ...found, cause: failure(host, cause ?? new Error("the name has no address that is of use here")) };
}

function nothing(host: string, cause: unknown): Resolution {
  return { addresses: [], services: [], complete: false, ttlMs: FAILED_TTL_MS, cause: failure(host, cause) };
}

function failure(host: string, cause: unknown): TransportError {
  return new TransportError("transport-connect", "resolve", JSON.stringify(host), cause);
}

function shortest(parts: readonly Part[]): Duration {
  return Math.min(...parts.map(({ ttlMs }) => ttlMs));
}

/** Each once, IPv4 first: what node/io.ts promises the core of a `resolved`. */
function unique(records: readonly DnsRecord[]): DnsRecord[] {
  const hosts = [...new Set(records.map(({ host }) => host))];
  return [...hosts.filter((ip) => !isIpv6(ip)), ...hosts.filter(isIpv6)].map((host) => ({ host, port: 0 }));
}

/**
 * RFC 1123 §2.1, with the underscore of SRV names and container networks. A name that ends in a number is an address to
 * the system's resolver in ways nobody expects (`010.1` is 8.0.0.1): it is refused.
 */
function isHostName(name: string): boolean {
  if (name.length === 0 || name.length > 253 || !/^[a-z0-9._-]+$/.test(name)) return false;
  const labels = (name.endsWith(".") ? name.slice(0, -1) : name).split(".");
  const last = labels.at(-1) ?? "";
  if (/^(?:[0-9]+|0x[0-9a-f]*)$/.test(last)) return false;
  return labels.every((label) => label.length >= 1 && label.length <= 63);
}
