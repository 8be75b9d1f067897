/** Host names under resolution: each asked once at a time, answered by the driver in its own time. */
import type { Outbox } from "./outbox.ts";

export class Names {
  private readonly asked = new Set<string>();
  private readonly outbox: Outbox;

  constructor(outbox: Outbox) {
    this.outbox = outbox;
  }

  ask(host: string): void {
    if (this.asked.has(host)) return;
    this.asked.add(host);
    this.outbox.push({ type: "resolve", host });
  }

  /** @returns false for an answer that nobody waits for */
  answered(host: string): boolean {
    return this.asked.delete(host);
  }
}
