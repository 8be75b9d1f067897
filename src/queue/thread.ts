/** The daemon's store: the near side of the thread in worker.ts. Calls of one turn of the event loop cross together. */
import { QueueError } from "./error.ts";
import { type AnswerOf, answerOf, type Operation, type Outcome } from "./operation.ts";
import { packAsked, unpackAnswered } from "./parcel.ts";
import { type QueueStore, Touches } from "./store.ts";

declare const DMQ_BUILD_WORKER: string;

/** In the executable it lies elsewhere (build.ts). */
const WORKER = typeof DMQ_BUILD_WORKER === "string" ? DMQ_BUILD_WORKER : "./worker.ts";

export type ToWorker =
  /** @param posted  one number that both see: how many texts were posted so far */
  | ({ type: "open"; posted: Int32Array } & ThreadOptions)
  /** Of parcel.ts: what is asked. */
  | string
  | { type: "close" };

export type FromWorker =
  | { type: "opened"; warnings: string[] }
  | { type: "refused"; message: string; isHeld: boolean }
  /** Of parcel.ts: what is answered. */
  | string
  | { type: "touched"; queues: string[] }
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

interface Waiting {
  readonly operation: Operation;
  readonly resolve: (answer: never) => void;
  readonly reject: (error: unknown) => void;
}

class ThreadStore implements QueueStore {
  readonly warnings: string[] = [];
  private readonly worker: Worker;
  private readonly touches = new Touches();
  private readonly asked = new Map<number, Waiting>();
  private readonly opened = Promise.withResolvers<void>();
  private readonly ended = Promise.withResolvers<void>();
  private readonly posted = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
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
    this.post({ type: "open", posted: this.posted, ...options });
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
    Atomics.add(this.posted, 0, 1);
    this.post(packAsked({ first: this.batchFirst, operations: this.batch }));
    this.batch = [];
  }

  private post(message: ToWorker): void {
    this.worker.postMessage(message);
  }

  private received(message: FromWorker): void {
    if (typeof message === "string") {
      // After it died nobody waits.
      if (this.asked.size > 0) this.answered(message);
      return;
    }
    switch (message.type) {
      case "opened":
        this.warnings.push(...message.warnings);
        this.opened.resolve();
        return;
      case "refused":
        this.opened.reject(Object.assign(new QueueError("storage", message.message), { isHeld: message.isHeld }));
        this.worker.terminate();
        return;
      case "touched":
        this.touches.tell(message.queues);
        return;
      case "closed":
        this.ended.resolve();
    }
  }

  private answered(text: string): void {
    const asked = (number: number): Operation => (this.asked.get(number) as Waiting).operation;
    const { first, outcomes, touched } = unpackAnswered(text, asked);
    for (const [i, outcome] of outcomes.entries()) {
      const waiting = this.asked.get(first + i) as Waiting;
      this.asked.delete(first + i);
      settle(waiting, outcome);
    }
    this.touches.tell(touched);
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

function settle({ operation, resolve, reject }: Waiting, outcome: Outcome): void {
  try {
    resolve(answerOf(operation, outcome) as never);
  } catch (error) {
    reject(error);
  }
}
