/**
 * Turns of the event loop for work that comes in bulk. Who begins a thousand messages in one go does not read the answers that
 * come meanwhile, and the kernel keeps few of them: what it drops is sent again after half a second. So a batch works for a
 * short while, lets the loop read, and goes on; several of them take turns.
 */

/** For so long at a time; about 30 messages. */
const SLICE_MS = 1;

export class Turns {
  private last: Promise<void> | undefined;
  private sliceEnd = 0;

  /** @returns what to wait for before the next piece of work; `undefined` while this turn has time left */
  next(): Promise<void> | undefined {
    if (this.last === undefined && performance.now() < this.sliceEnd) return undefined;
    const mine = (this.last ?? Promise.resolve()).then(loopTurn).then(() => {
      this.sliceEnd = performance.now() + SLICE_MS;
      if (this.last === mine) this.last = undefined;
    });
    this.last = mine;
    return mine;
  }
}

function loopTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
