/**
 * The thread that the daemon's store runs on. Whatever has arrived while the last group was being flushed is the next group:
 * one writer waits for one flush, a thousand writers wait for one, too (group commit, queue.md B10).
 */
import type { Engine } from "./engine.ts";
import { QueueError } from "./error.ts";
import { openStore } from "./open.ts";
import type { Operation, Outcome } from "./operation.ts";
import { LOOK_MS } from "./store.ts";
import type { FromWorker, ToWorker } from "./thread.ts";

declare const self: {
  onmessage: ((event: { data: ToWorker }) => void) | null;
  postMessage(message: FromWorker): void;
};

interface Waiting {
  readonly first: number;
  readonly operations: readonly Operation[];
}

let engine: Engine | undefined;
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
      engine?.close();
      self.postMessage({ type: "closed" });
      process.exit(0);
  }
};

function open(options: ToWorker & { type: "open" }): void {
  try {
    const opened = openStore(options);
    engine = opened.engine;
    self.postMessage({ type: "opened", warnings: opened.warnings });
    setInterval(look, LOOK_MS);
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
  if (engine === undefined || waiting.length === 0) return;
  const groups = waiting;
  waiting = [];
  const outcomes = engine.run(groups.flatMap(({ operations }) => operations));
  let from = 0;
  const answers = groups.map(({ first, operations }): { first: number; outcomes: Outcome[] } => {
    const answer = { first, outcomes: outcomes.slice(from, from + operations.length) };
    from += operations.length;
    return answer;
  });
  self.postMessage({ type: "answers", answers, touched: takeTouched(engine) });
}

function takeTouched(from: Engine): string[] {
  const touched = [...from.touched];
  from.touched.clear();
  return touched;
}

/** Somebody else wrote to the file: what became ready there is not known by name, so all queues are. */
function look(): void {
  if (engine === undefined || scheduled || !engine.isStale()) return;
  const [outcome] = engine.run([{ type: "report" }]);
  if (outcome?.ok !== true) return;
  const names = (outcome.answer as { name: string }[]).map(({ name }) => name);
  self.postMessage({ type: "answers", answers: [], touched: names });
}
