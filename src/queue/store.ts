/**
 * A store as its users see it: ask for an operation, get a promise of its answer; what is answered is committed.
 *
 * `inProcess` (open.ts) runs every call at once, for a command that ends soon. The daemon's runs on a thread of its own
 * (`startStore`, thread.ts), because SQLite is synchronous and a flush of an ordinary disk takes longer than SIP timers may wait.
 */
import { join } from "node:path";
import type { AnswerOf, Operation } from "./operation.ts";

/** How often a foreign process's commits are looked for (a microsecond each time). */
export const LOOK_MS = 100;

/** Where the store of a state directory is. */
export function storePath(directory: string): string {
  return join(directory, "queues.db");
}

export interface QueueStore {
  /** What is worth telling the operator about how it was opened, a sentence each. */
  readonly warnings: readonly string[];
  /**
   * @returns the answer, once it is committed
   * @throws  QueueError: a rejection; nothing of the operation happened
   */
  perform<O extends Operation>(operation: O): Promise<AnswerOf<O>>;
  /** Calls back with the queues in which items became ready or room was made. @returns the function that ends it */
  onTouched(listener: (queues: readonly string[]) => void): () => void;
  /** What was asked before is done first. */
  close(): Promise<void>;
}

/** Listeners, and what they are told. */
export class Touches {
  private readonly listeners = new Set<(queues: readonly string[]) => void>();

  on(listener: (queues: readonly string[]) => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  get count(): number {
    return this.listeners.size;
  }

  tell(queues: readonly string[]): void {
    if (queues.length === 0) return;
    for (const listener of [...this.listeners]) listener(queues);
  }
}
