/**
 * The thread that the daemon's store runs on. Whatever has arrived while the last group was being flushed is the next group:
 * one writer waits for one flush, a thousand writers wait for one, too (group commit, queue.md B10).
 */
import { QueueError } from "./error.ts";
import { type OpenedStore, openStore } from "./open.ts";
import type { Operation, Outcome } from "./operation.ts";
import { Pair } from "./pair.ts";
import { LOOK_MS } from "./store.ts";
import type { FromWorker, ToWorker } from "./thread.ts";

declare const self: {
  onmessage: ((event: { data: ToWorker }) => void) | null;
  postMessage(message: FromWorker): void;
};

const TIDY_MS = 1_000;

interface Waiting {
  readonly first: number;
  readonly operations: readonly Operation[];
}

let store: OpenedStore | undefined;
let pair: Pair | undefined;
let waiting: Waiting[] = [];
let scheduled = false;

self.onmessage = ({ data }) => {
  switch (data.type) {
    case "open":
      open(data);
      return;
    case "run":
      waiting.push(data);
      schedule();
      return;
    case "close":
      flush();
      pair?.close();
      store?.close();
      self.postMessage({ type: "closed" });
      process.exit(0);
  }
};

function open(options: ToWorker & { type: "open" }): void {
  try {
    store = openStore({ ...options, daemon: true });
    pair = new Pair(store.engine, { bytesMax: options.bytesMax, now: Date.now, random: Math.random });
    self.postMessage({ type: "opened", warnings: store.warnings });
    setInterval(look, LOOK_MS);
    setInterval(tidy, TIDY_MS);
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    self.postMessage({ type: "refused", message, isHeld: cause instanceof QueueError && cause.isHeld });
  }
}

function schedule(): void {
  if (scheduled) return;
  scheduled = true;
  // After the other messages that have arrived already.
  setImmediate(flush);
}

function flush(): void {
  scheduled = false;
  if (pair === undefined || waiting.length === 0) return;
  const groups = waiting;
  waiting = [];
  const outcomes = pair.run(groups.flatMap(({ operations }) => operations));
  let from = 0;
  const answers = groups.map(({ first, operations }): { first: number; outcomes: Outcome[] } => {
    const answer = { first, outcomes: outcomes.slice(from, from + operations.length) };
    from += operations.length;
    return answer;
  });
  self.postMessage({ type: "answers", answers, touched: pair.takeTouched() });
}

/** Somebody else wrote to the file: what became ready there is not known by name, so all queues are. */
function look(): void {
  if (scheduled || store?.engine.isStale() !== true) return;
  const [outcome] = store.engine.run([{ type: "report" }]);
  if (outcome?.ok !== true) return;
  const names = (outcome.answer as { name: string }[]).map(({ name }) => name);
  self.postMessage({ type: "answers", answers: [], touched: names });
}

/** What time did to items that nobody asks for. A store that cannot be written says so to whoever asks next. */
function tidy(): void {
  if (pair === undefined || scheduled) return;
  try {
    if (pair.isDue()) pair.run([{ type: "release", holders: [] }]);
    pair.disk.space.shrink();
  } catch {
    return;
  }
  const touched = pair.takeTouched();
  if (touched.length > 0) self.postMessage({ type: "answers", answers: [], touched });
}
