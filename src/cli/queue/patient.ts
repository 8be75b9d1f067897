/**
 * A supply that outlives its daemon (`dmq queue fetch --follow`): while none answers it waits, and what was leased is the next daemon's to
 * give out again.
 */
import type { Fate, Supply, Take } from "../../consume/supply.ts";
import type { Item } from "../../queue/operation.ts";
import { Absence, isGone, type Patience } from "../absence.ts";

export class PatientSupply implements Supply {
  private readonly supply: Supply;
  private readonly absence: Absence;

  constructor(supply: Supply, patience: Patience) {
    this.supply = supply;
    this.absence = new Absence(patience);
  }

  /** @throws RpcError `rpc-unreachable` where no daemon came back in time */
  async next(take: Take): Promise<Item[]> {
    for (;;) {
      try {
        return await this.supply.next(take);
      } catch (error) {
        if (!isGone(error)) throw error;
        await this.absence.over(error);
        if (take.signal.aborted) return [];
      }
    }
  }

  /** What the daemon that is gone had leased to us comes again. */
  async ack(items: readonly Item[]): Promise<number> {
    return this.supply.ack(items).catch((error: unknown) => {
      if (!isGone(error)) throw error;
      return 0;
    });
  }

  async fail(items: readonly Pick<Item, "id">[], fate: Fate): Promise<("retried" | "dead" | "lost")[]> {
    return this.supply.fail(items as readonly Item[], fate).catch((error: unknown) => {
      if (!isGone(error)) throw error;
      return items.map(() => "retried" as const);
    });
  }

  end(): Promise<void> {
    return this.supply.end();
  }
}
