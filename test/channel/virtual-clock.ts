/** A clock that runs as fast as what waits for it lets it: each `wait` moves it on at once, and is written down. */
import type { RetryClock } from "../../src/channel/retry.ts";

export class VirtualClock implements RetryClock {
  at = 0;
  readonly waits: number[] = [];
  /** Called in the middle of each wait. */
  onWait: () => void = () => {};

  now(): number {
    return this.at;
  }

  async wait(ms: number, _signal: AbortSignal | undefined): Promise<void> {
    this.waits.push(ms);
    this.onWait();
    this.at += ms;
  }
}
