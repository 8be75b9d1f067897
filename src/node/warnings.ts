/** Warnings for the operator, held back where a remote could write our log: one of a kind in ten seconds. */
import type { Instant } from "../core/time.ts";
import type { WarningCode } from "./io.ts";
import type { Outbox } from "./outbox.ts";

const QUIET_MS = 10_000;

export class Warnings {
  private readonly last = new Map<WarningCode, { at: Instant; held: number }>();
  private readonly outbox: Pick<Outbox, "event">;

  constructor(outbox: Pick<Outbox, "event">) {
    this.outbox = outbox;
  }

  warn(code: WarningCode, text: string, now: Instant, peer?: string): void {
    const last = this.last.get(code);
    if (last !== undefined && now - last.at < QUIET_MS) {
      last.held++;
      return;
    }
    const held = last === undefined || last.held === 0 ? "" : ` (${last.held} more of this kind since the last one)`;
    this.last.set(code, { at: now, held: 0 });
    this.outbox.event({ type: "warning", code, text: text + held, ...(peer === undefined ? {} : { peer }) });
  }
}
