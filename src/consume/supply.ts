/**
 * Where a consumer has its items from, and whom it tells what became of them: the store itself, in the daemon or in a command that
 * works on the file (`StoreSupply`), or a daemon behind its control socket (src/cli/queue/remote.ts).
 */
import type { Failure, Item, LeaseRequest, Operation } from "../queue/operation.ts";
import type { QueueStore } from "../queue/store.ts";
import { leaseWhenReady } from "../queue/wait.ts";

export interface Take {
  /** Items at most. */
  max: number;
  /** How long to wait for the first one; `Infinity` is for ever. */
  waitMs: number;
  /** Ends the wait. */
  signal: AbortSignal;
}

/** What became of an item that was not handled. */
export type Fate = Omit<Failure, "id">;

/**
 * Items that are nobody else's until they are settled. Their leases are renewed meanwhile; when the supply ends, or its process does,
 * what is not settled is ready again.
 */
export interface Supply {
  /** @returns the oldest ready items; none where none came in time */
  next(take: Take): Promise<Item[]>;
  /** @returns of how many it could be said: a lease that was lost meanwhile is somebody else's matter now */
  ack(items: readonly Item[]): Promise<number>;
  /** @returns what became of each; `lost` where the lease was */
  fail(items: readonly Item[], fate: Fate): Promise<("retried" | "dead" | "lost")[]>;
  /** Tells of items that are not settled and nobody's here any more: what is known of them is to be forgotten. */
  onGone?(listener: (items: readonly Item[]) => void): void;
  /** Gives back what is not settled, with the tries it had. */
  end(): Promise<void>;
}

export type SupplyRequest = { queue: string; leaseMs: number } & Pick<LeaseRequest, "orderByKey" | "key">;

/** Renewals within the time of a lease. */
const RENEWALS = 3;

export class StoreSupply implements Supply {
  private readonly store: Pick<QueueStore, "perform" | "onTouched">;
  private readonly request: SupplyRequest & { holder: string };
  private readonly held = new Set<string>();
  private readonly renewal: ReturnType<typeof setInterval>;

  /** @param request  `holder` is this supply's alone: `holderName` of src/queue/holder.ts */
  constructor(store: Pick<QueueStore, "perform" | "onTouched">, request: SupplyRequest & { holder: string }) {
    this.store = store;
    this.request = request;
    this.renewal = setInterval(() => void this.renew(), request.leaseMs / RENEWALS);
  }

  async next({ max, waitMs, signal }: Take): Promise<Item[]> {
    const operation: Operation & { type: "lease" } = { type: "lease", count: max, ...this.request };
    const items = await leaseWhenReady(this.store, operation, waitMs, signal);
    for (const { id } of items) this.held.add(id);
    return items;
  }

  async ack(items: readonly Item[]): Promise<number> {
    const ids = items.map(({ id }) => id);
    for (const id of ids) this.held.delete(id);
    const done = await this.store.perform({ type: "ack", ids }).catch(unlessLost);
    if (done !== undefined) return done;
    // One that was lost must not keep the others.
    const each = await Promise.all(ids.map((id) => this.store.perform({ type: "ack", ids: [id] }).catch(unlessLost)));
    return each.filter((one) => one !== undefined).length;
  }

  async fail(items: readonly Item[], fate: Fate): Promise<("retried" | "dead" | "lost")[]> {
    return Promise.all(
      items.map(async ({ id }) => {
        this.held.delete(id);
        const failures = [{ ...fate, id }];
        const [end] = (await this.store.perform({ type: "fail", failures }).catch(unlessLost)) ?? [];
        return end ?? "lost";
      }),
    );
  }

  async end(): Promise<void> {
    clearInterval(this.renewal);
    const items = [...this.held].map((id) => ({ id }));
    await this.fail(items as Item[], { fate: "now", counts: false });
  }

  private async renew(): Promise<void> {
    const { leaseMs } = this.request;
    for (const id of [...this.held])
      await this.store.perform({ type: "extend", ids: [id], leaseMs }).catch(() => this.held.delete(id));
  }
}

/** @returns `undefined` for an item whose lease is over; anything else goes on as it is */
function unlessLost(error: unknown): undefined {
  if ((error as { code?: string }).code !== "no-such-item") throw error;
  return undefined;
}
