/**
 * Places for inbound connections: so many in all, so many for one address. When all are taken, the address that holds most gives
 * one up to an address that holds fewer: a flood keeps nobody out but itself.
 */
import { ipGroups, isIpv6 } from "../core/endpoint.ts";

/** What holds a place. */
export interface Holder {
  readonly remote: { readonly ip: string };
  /** When octets last moved on it, in either direction. */
  readonly activeAt: number;
}

/** Of an IPv6 address the network decides: whoever has one address of it has 2^64. */
function sourceOf(ip: string): string {
  const groups = isIpv6(ip) ? ipGroups(ip) : undefined;
  return groups === undefined ? ip : groups.slice(0, 4).join(":");
}

export class Places<T extends Holder> {
  readonly #max: number;
  readonly #maxOfOne: number;
  readonly #bySource = new Map<string, Set<T>>();
  #taken = 0;

  constructor(max: number, maxOfOne: number) {
    this.#max = max;
    this.#maxOfOne = maxOfOne;
  }

  /**
   * Decides about a newcomer; `take` gives it its place.
   *
   * @returns `true` if there is room, `false` if there is none for it, or whom it takes the place of
   */
  roomFor(ip: string): boolean | T {
    const own = this.#bySource.get(sourceOf(ip))?.size ?? 0;
    if (own >= this.#maxOfOne) return false;
    if (this.#taken < this.#max) return true;
    const largest = this.#largest();
    return largest !== undefined && largest.size > own + 1 ? quietest(largest) : false;
  }

  take(holder: T): void {
    const source = sourceOf(holder.remote.ip);
    const holders = this.#bySource.get(source);
    if (holders === undefined) this.#bySource.set(source, new Set([holder]));
    else holders.add(holder);
    this.#taken++;
  }

  leave(holder: T): void {
    const source = sourceOf(holder.remote.ip);
    const holders = this.#bySource.get(source);
    if (holders?.delete(holder) !== true) return;
    if (holders.size === 0) this.#bySource.delete(source);
    this.#taken--;
  }

  #largest(): Set<T> | undefined {
    let largest: Set<T> | undefined;
    for (const holders of this.#bySource.values())
      if (largest === undefined || holders.size > largest.size) largest = holders;
    return largest;
  }
}

/** Where nothing has moved for longest, least is lost. */
function quietest<T extends Holder>(holders: ReadonlySet<T>): T {
  const [first, ...others] = holders;
  return others.reduce((quiet, one) => (one.activeAt < quiet.activeAt ? one : quiet), first as T);
}
