/** Calls that wait for how their requests end. */
import { assert } from "../core/assert.ts";
import { NumberTable } from "../core/number-table.ts";
import { NO_ROW } from "../core/rows.ts";
import type { OutcomeReport } from "../node/io.ts";
import type { Addressed } from "../node/node.ts";
import { aside } from "./aside.ts";

/** Reports of one call on their way together: a promise for each of them would cost more than the message. */
interface Gathered {
  /** The numbers of its requests are this one and those after it. */
  readonly first: number;
  readonly reports: OutcomeReport[];
  missing: number;
  readonly resolve: (reports: OutcomeReport[]) => void;
  readonly onResponse: ((report: OutcomeReport) => void) | undefined;
}

export class Outcomes {
  /** Each call has a slot. */
  private readonly calls: (Gathered | undefined)[] = [];
  private readonly free: number[] = [];
  /** The slot of each request. */
  private readonly slots = new NumberTable();

  /**
   * @param addressed   requests of one call, one at least, numbered in order
   * @param onResponse  called for each of them when it is over
   * @returns           one report for each, in their order, when the last is over
   */
  gather(
    addressed: readonly Addressed[],
    onResponse: ((report: OutcomeReport) => void) | undefined,
  ): Promise<OutcomeReport[]> {
    const { promise, resolve } = Promise.withResolvers<OutcomeReport[]>();
    const first = (addressed[0] as Addressed).request;
    const missing = addressed.length;
    const slot = this.free.pop() ?? this.calls.length;
    this.calls[slot] = { first, reports: new Array(missing), missing, resolve, onResponse };
    for (let index = 0; index < missing; index++) {
      assert((addressed[index] as Addressed).request === first + index, "the requests of a call are numbered in order");
      this.slots.add(first + index, slot);
    }
    return promise;
  }

  isAwaited(request: number): boolean {
    return this.slots.get(request) !== NO_ROW;
  }

  /** A request is over; one that nobody waits for is passed over. */
  take(report: OutcomeReport): void {
    const slot = this.slots.get(report.request);
    const gathered = slot === NO_ROW ? undefined : this.calls[slot];
    if (gathered === undefined) return;
    this.slots.delete(report.request);
    gathered.reports[report.request - gathered.first] = report;
    if (gathered.onResponse !== undefined) aside(() => gathered.onResponse?.(report));
    if (--gathered.missing > 0) return;
    this.calls[slot] = undefined;
    this.free.push(slot);
    gathered.resolve(gathered.reports);
  }
}
