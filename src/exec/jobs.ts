/**
 * Work that waits its turn: so many jobs at a time, those of one key one after the other in the order they came, and a
 * bound on what waits. Beyond the bound the oldest is dropped: of a long list of things that were, the latest count.
 */

/** Ends when its promise does, which must not reject. */
export type Job = () => Promise<void>;

interface Waiting {
  key: string;
  job: Job;
}

export class JobQueue {
  private readonly waiting: Waiting[] = [];
  private readonly busyKeys = new Set<string>();
  private readonly atATime: number;
  private readonly waitingMax: number;

  constructor(options: { atATime: number; waitingMax: number }) {
    this.atATime = options.atATime;
    this.waitingMax = options.waitingMax;
  }

  /** @returns the key of the job that was dropped for this one, `undefined` if none was */
  push(key: string, job: Job): string | undefined {
    this.waiting.push({ key, job });
    this.work();
    return this.waiting.length > this.waitingMax ? this.waiting.shift()?.key : undefined;
  }

  /** Forgets what waits; what runs goes on. */
  clear(): void {
    this.waiting.length = 0;
  }

  private work(): void {
    while (this.busyKeys.size < this.atATime) {
      const index = this.waiting.findIndex(({ key }) => !this.busyKeys.has(key));
      const [next] = index === -1 ? [] : this.waiting.splice(index, 1);
      if (next === undefined) return;
      this.busyKeys.add(next.key);
      next.job().finally(() => {
        this.busyKeys.delete(next.key);
        this.work();
      });
    }
  }
}
