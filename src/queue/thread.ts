/** The daemon's store: the near side of the thread in worker.ts. Calls of one turn of the event loop cross together. */
import { QueueError } from "./error.ts";
import { type AnswerOf, answerOf, type Operation, type Outcome } from "./operation.ts";
import { type QueueStore, Touches } from "./store.ts";

declare const DMQ_BUILD_WORKER: string;

/** In the executable it lies elsewhere (build.ts). */
const WORKER = typeof DMQ_BUILD_WORKER === "string" ? DMQ_BUILD_WORKER : "./worker.ts";

export type ToWorker =
  | ({ type: "open" } & ThreadOptions)
  /** Operations with the numbers from `first` on. */
  | { type: "run"; first: number; operations: Operation[] }
  | { type: "close" };

export type FromWorker =
  | { type: "opened"; warnings: string[] }
  | { type: "refused"; message: string; isHeld: boolean }
  | { type: "answers"; answers: { first: number; outcomes: Outcome[] }[]; touched: string[] }
  | { type: "closed" };

export interface ThreadOptions {
  /** The state directory that the store is in. */
  directory: string;
  /** Octets that the file may grow to. */
  bytesMax: number;
  /** Sets a damaged file aside and begins an empty one. */
  repair: boolean;
}

/**
 * @returns once the file is open
 * @throws  QueueError `storage` if it cannot be opened
 */
export async function startStore(options: ThreadOptions): Promise<QueueStore> {
  const store = new ThreadStore(new Worker(new URL(WORKER, import.meta.url).href));
  await store.open(options);
  return store;
}

interface Asked {
  readonly operation: Operation;
  readonly resolve: (answer: never) => void;
  readonly reject: (error: unknown) => void;
}

class ThreadStore implements QueueStore {
  readonly warnings: string[] = [];
  private readonly worker: Worker;
  private readonly touches = new Touches();
  private readonly asked = new Map<number, Asked>();
  private readonly opened = Promise.withResolvers<void>();
  private readonly ended = Promise.withResolvers<void>();
  private batch: Operation[] = [];
  private batchFirst = 0;
  private lastNumber = 0;
  private closing = false;

  constructor(worker: Worker) {
    this.worker = worker;
    worker.onmessage = (event: MessageEvent<FromWorker>) => this.received(event.data);
    worker.onerror = (event: ErrorEvent) => this.died(event.message);
    worker.addEventListener("close", () => this.died("it ended"));
  }

  async open(options: ThreadOptions): Promise<void> {
    this.post({ type: "open", ...options });
    await this.opened.promise;
  }

  perform<O extends Operation>(operation: O): Promise<AnswerOf<O>> {
    if (this.closing) return Promise.reject(new QueueError("storage", "the store is closed"));
    const { promise, resolve, reject } = Promise.withResolvers<AnswerOf<O>>();
    const number = ++this.lastNumber;
    this.asked.set(number, { operation, resolve, reject });
    if (this.batch.length === 0) {
      this.batchFirst = number;
      queueMicrotask(() => this.send());
    }
    this.batch.push(operation);
    return promise;
  }

  onTouched(listener: (queues: readonly string[]) => void): () => void {
    return this.touches.on(listener);
  }

  async close(): Promise<void> {
    if (!this.closing) {
      this.send();
      this.closing = true;
      this.post({ type: "close" });
    }
    await this.ended.promise;
  }

  private send(): void {
    if (this.batch.length === 0) return;
    this.post({ type: "run", first: this.batchFirst, operations: this.batch });
    this.batch = [];
  }

  private post(message: ToWorker): void {
    this.worker.postMessage(message);
  }

  private received(message: FromWorker): void {
    switch (message.type) {
      case "opened":
        this.warnings.push(...message.warnings);
        this.opened.resolve();
        return;
      case "refused":
        this.opened.reject(Object.assign(new QueueError("storage", message.message), { isHeld: message.isHeld }));
        this.worker.terminate();
        return;
      case "answers":
        for (const { first, outcomes } of message.answers)
          for (const [index, outcome] of outcomes.entries()) this.settle(first + index, outcome);
        this.touches.tell(message.touched);
        return;
      case "closed":
        this.ended.resolve();
    }
  }

  private settle(number: number, outcome: Outcome): void {
    const asked = this.asked.get(number);
    if (asked === undefined) return;
    this.asked.delete(number);
    try {
      asked.resolve(answerOf(asked.operation, outcome) as never);
    } catch (error) {
      asked.reject(error);
    }
  }

  /** Whatever was not answered may or may not be stored. */
  private died(why: string): void {
    const error = new QueueError("storage", `the thread of the store is gone: ${why}`);
    this.opened.reject(error);
    for (const { reject } of this.asked.values()) reject(error);
    this.asked.clear();
    this.closing = true;
    this.ended.resolve();
  }
}
