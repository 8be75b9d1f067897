/** So many at a time, so many behind them, and nobody waits beyond its time. */

export class Gate {
  readonly #places: number;
  readonly #waitingMax: number;
  readonly #waiting: (() => void)[] = [];
  #inside = 0;

  constructor(places: number, waitingMax: number) {
    this.#places = places;
    this.#waitingMax = waitingMax;
  }

  /**
   * Runs `task` when there is a place. A task that goes on after `signal` keeps its place until it ends: nobody can stop a
   * lookup of the system's.
   *
   * @throws Error  too many wait already, the time was over before there was a place or before the task ended, or the task's
   */
  async run<T>(task: () => Promise<T>, signal: AbortSignal): Promise<T> {
    if (this.#inside < this.#places) this.#inside++;
    else await this.#queue(signal);
    const running = task().finally(() => this.#leave());
    return await before(running, signal);
  }

  /** Resolves with a place taken. */
  #queue(signal: AbortSignal): Promise<void> {
    if (this.#waiting.length >= this.#waitingMax)
      return Promise.reject(new Error(`${this.#waitingMax} questions wait already`));
    let enter = (): void => undefined;
    const turn = new Promise<void>((resolve) => {
      enter = resolve;
    });
    this.#waiting.push(enter);
    return before(turn, signal).catch((cause: unknown) => {
      const place = this.#waiting.indexOf(enter);
      if (place !== -1) this.#waiting.splice(place, 1);
      // Its turn came in the moment in which it gave up.
      else this.#leave();
      throw cause;
    });
  }

  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#inside--;
    else next();
  }
}

/** As `promise`, or rejects with the signal's reason; whoever loses is heard of no more. */
function before<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const over = (): void => reject(signal.reason);
    if (signal.aborted) over();
    else signal.addEventListener("abort", over, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", over));
  });
}
