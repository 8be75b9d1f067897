/**
 * Work that comes in bursts, done a part at a time. 256 messages of one wake-up are 10 ms of work, and the loop writes nothing before
 * the last of them is through: the broker begins when we have ended. In parts, both work at once, and nobody else waits for so long.
 */

/** Between two looks at the sockets. Of 16, 32, 64 and all, 32 has the most messages a second (`bench bridge`). */
const PER_TURN = 32;

export class Turns {
  private readonly defer: (next: () => void) => void;
  private waiting: (() => void)[] = [];
  /** In the turn that is now. */
  private taken = 0;
  private isDeferred = false;

  /** @param defer  calls back in the next turn of the loop */
  constructor(defer: (next: () => void) => void = setImmediate) {
    this.defer = defer;
  }

  /** Does it now, or in one of the next turns, in the order of the calls. */
  do<T>(work: () => Promise<T> | T): Promise<T> | T {
    if (!this.isDeferred) this.plan();
    if (this.taken < PER_TURN) {
      this.taken++;
      return work();
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    this.waiting.push(resolve);
    return promise.then(work);
  }

  private plan(): void {
    this.isDeferred = true;
    this.defer(() => this.next());
  }

  private next(): void {
    this.isDeferred = false;
    const now = this.waiting.splice(0, PER_TURN);
    this.taken = now.length;
    if (now.length > 0) this.plan();
    for (const begin of now) begin();
  }
}
