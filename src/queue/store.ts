/**
 * A store as its users see it: ask for an operation, get a promise of its answer; what is answered is committed.
 *
 * `inProcess` runs every call at once, for a command that ends soon. The daemon's runs on a thread of its own
 * (`startStore`, thread.ts), because SQLite is synchronous and a flush of an ordinary disk takes longer than SIP timers may wait.
 */
import { Engine, type EngineOptions } from "./engine.ts";
import { type AnswerOf, answerOf, type Operation, type Outcome } from "./operation.ts";

export interface QueueStore {
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

  tell(queues: readonly string[]): void {
    if (queues.length === 0) return;
    for (const listener of [...this.listeners]) listener(queues);
  }
}

/**
 * Opens the file in this process.
 *
 * @throws QueueError `storage` if it cannot be opened
 */
export function inProcess(options: EngineOptions): QueueStore {
  const engine = new Engine(options);
  const touches = new Touches();
  return {
    async perform<O extends Operation>(operation: O): Promise<AnswerOf<O>> {
      const [outcome] = engine.run([operation]);
      touches.tell([...engine.touched]);
      engine.touched.clear();
      return answerOf(operation, outcome as Outcome);
    },
    onTouched: (listener) => touches.on(listener),
    async close() {
      engine.close();
    },
  };
}
