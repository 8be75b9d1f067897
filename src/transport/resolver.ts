/**
 * Host names to addresses, by the system's resolver (hosts file, DNS). A and AAAA only; SRV and NAPTR (RFC 3263) are for
 * later.
 *
 * It never blocks the loop and never asks without end: lookups run on the runtime's threads, a few at a time, the same name
 * is asked once for all who wait, and everyone who waits is answered within `timeoutMs`.
 */
import { lookup } from "node:dns/promises";
import { canonicalIp, isIpv6 } from "../core/endpoint.ts";
import { TransportError } from "../core/errors.ts";

/** Asks the system for all addresses of a name; rejects where it has none. */
export type Lookup = (host: string) => Promise<readonly { readonly address: string }[]>;

export interface ResolverOptions {
  /** From the question to the answer or the error, queueing included. Default 5,000. */
  readonly timeoutMs?: number;
  /** How long an answer is given again without a lookup. Failures are not kept. Default 5,000. */
  readonly cacheMs?: number;
  /** Lookups at one time: each holds a thread of the runtime's pool, also after its timeout. Default 4. */
  readonly maxConcurrent?: number;
  /** Names that may wait for their turn; beyond it a question fails at once. Default 1,000. */
  readonly maxWaiting?: number;
  /** Stands in for the system in tests. */
  readonly lookup?: Lookup;
}

interface Answer {
  readonly addresses: readonly string[];
  readonly until: number;
}

interface Question {
  readonly name: string;
  readonly resolve: (addresses: string[]) => void;
  readonly reject: (cause: Error) => void;
  timer: ReturnType<typeof setTimeout> | undefined;
}

const MAX_CACHED = 1_000;

export class Resolver {
  readonly #timeoutMs: number;
  readonly #cacheMs: number;
  readonly #maxConcurrent: number;
  readonly #maxWaiting: number;
  readonly #lookup: Lookup;
  readonly #asked = new Map<string, Promise<string[]>>();
  readonly #cache = new Map<string, Answer>();
  readonly #waiting: Question[] = [];
  #running = 0;

  constructor(options: ResolverOptions = {}) {
    this.#timeoutMs = options.timeoutMs ?? 5_000;
    this.#cacheMs = options.cacheMs ?? 5_000;
    this.#maxConcurrent = options.maxConcurrent ?? 4;
    this.#maxWaiting = options.maxWaiting ?? 1_000;
    this.#lookup = options.lookup ?? ((host) => lookup(host, { all: true }));
  }

  /**
   * @param host  a name, or an IP literal with or without brackets
   * @returns     canonical IP literals without duplicates, A before AAAA, at least one; a literal gives itself
   * @throws      TransportError (a rejection, never at once): no such name, no answer in time, not a host name
   */
  async resolve(host: string): Promise<string[]> {
    const literal = canonicalIp(host);
    if (literal !== undefined) return [literal];
    const name = host.toLowerCase();
    if (!isHostName(name)) throw failure(host, new Error("not a host name"));
    const cached = this.#cache.get(name);
    if (cached !== undefined && performance.now() < cached.until) return [...cached.addresses];
    let answer = this.#asked.get(name);
    if (answer === undefined) {
      answer = this.#ask(name).finally(() => this.#asked.delete(name));
      this.#asked.set(name, answer);
    }
    return [...(await answer)];
  }

  #ask(name: string): Promise<string[]> {
    if (this.#running >= this.#maxConcurrent && this.#waiting.length >= this.#maxWaiting) {
      return Promise.reject(failure(name, new Error(`${this.#maxWaiting} names wait already`)));
    }
    return new Promise((resolve, reject) => {
      const question: Question = { name, resolve, reject, timer: undefined };
      question.timer = setTimeout(() => this.#giveUp(question), this.#timeoutMs);
      if (this.#running < this.#maxConcurrent) this.#start(question);
      else this.#waiting.push(question);
    });
  }

  /** A lookup that runs cannot be stopped and keeps its place; a question that waits loses it. */
  #giveUp(question: Question): void {
    const place = this.#waiting.indexOf(question);
    if (place !== -1) this.#waiting.splice(place, 1);
    question.reject(failure(question.name, new Error(`no answer in ${this.#timeoutMs} ms`)));
  }

  #start(question: Question): void {
    this.#running++;
    this.#run(question.name)
      .then(question.resolve, question.reject)
      .finally(() => {
        clearTimeout(question.timer);
        this.#running--;
        const next = this.#waiting.shift();
        if (next !== undefined) this.#start(next);
      });
  }

  async #run(name: string): Promise<string[]> {
    try {
      const found = await this.#lookup(name);
      const addresses = inOrder(found.map((entry) => entry.address));
      if (addresses.length === 0) throw new Error("the name has no address");
      this.#remember(name, addresses);
      return addresses;
    } catch (cause) {
      throw failure(name, cause);
    }
  }

  #remember(name: string, addresses: readonly string[]): void {
    if (this.#cacheMs <= 0) return;
    // The oldest goes: a Map keeps the order in which keys came.
    this.#cache.delete(name);
    if (this.#cache.size >= MAX_CACHED) this.#cache.delete(this.#cache.keys().next().value as string);
    this.#cache.set(name, { addresses, until: performance.now() + this.#cacheMs });
  }
}

function failure(host: string, cause: unknown): TransportError {
  return new TransportError("transport-connect", "resolve", JSON.stringify(host), cause);
}

/** One spelling, each once, IPv4 first: what node/io.ts promises the core of a `resolved`. */
function inOrder(addresses: readonly string[]): string[] {
  const canonical: string[] = [];
  for (const address of addresses) {
    const ip = canonicalIp(address);
    if (ip !== undefined && !canonical.includes(ip)) canonical.push(ip);
  }
  return [...canonical.filter((ip) => !isIpv6(ip)), ...canonical.filter(isIpv6)];
}

/**
 * RFC 1123 §2.1, with the underscore that container networks use. A name that ends in a number is an address to the
 * system's resolver in ways nobody expects (`010.1` is 8.0.0.1): it is refused.
 */
function isHostName(name: string): boolean {
  if (name.length === 0 || name.length > 253 || !/^[a-z0-9._-]+$/.test(name)) return false;
  const labels = (name.endsWith(".") ? name.slice(0, -1) : name).split(".");
  const last = labels.at(-1) ?? "";
  if (/^(?:[0-9]+|0x[0-9a-f]*)$/.test(last)) return false;
  return labels.every((label) => label.length >= 1 && label.length <= 63);
}
