/**
 * The thread that the daemon's store runs on. Whatever has arrived while the last group was being flushed is the next group:
 * one writer waits for one flush, a thousand writers wait for one, too (group commit, queue.md B10).
 */
import { QueueError } from "./error.ts";
import { Linger } from "./linger.ts";
import { type OpenedStore, openStore } from "./open.ts";
import { Pair } from "./pair.ts";
import { type Asked, packAnswered, unpackAsked } from "./parcel.ts";
import { LOOK_MS } from "./store.ts";
import type { FromWorker, ToWorker } from "./thread.ts";

declare const self: {
  onmessage: ((event: { data: ToWorker }) => void) | null;
  postMessage(message: FromWorker): void;
};

const TIDY_MS = 1_000;

let store: OpenedStore | undefined;
let pair: Pair | undefined;
let waiting: Asked[] = [];
let scheduled = false;
let posted: Int32Array = new Int32Array(1);
let received = 0;
const linger = new Linger();
/** On one processor nobody can ask while it looks out. */
const IS_ALONE = navigator.hardwareConcurrency === 1;

self.onmessage = ({ data }) => {
  if (typeof data === "string") {
    take(unpackAsked(data));
    return;
  }
  switch (data.type) {
    case "open":
      open(data);
      return;
    case "close":
      flush();
      pair?.close();
      store?.close();
      self.postMessage({ type: "closed" });
      process.exit(0);
  }
};

function open(options: Extract<ToWorker, { type: "open" }>): void {
  try {
    store = openStore({ ...options, daemon: true });
    pair = new Pair(store.engine, { bytesMax: options.bytesMax, now: Date.now, random: Math.random });
    ({ posted } = options);
    self.postMessage({ type: "opened", warnings: store.warnings });
    setInterval(look, LOOK_MS);
    setInterval(tidy, TIDY_MS);
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    self.postMessage({ type: "refused", message, isHeld: cause instanceof QueueError && cause.isHeld });
  }
}

function take(asked: Asked): void {
  waiting.push(asked);
  received = (received + 1) | 0;
  linger.asked(performance.now());
  // To look for what else has arrived takes a turn of the event loop.
  if (Atomics.load(posted, 0) === received) flush();
  else schedule();
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
  const first = (waiting[0] as Asked).first;
  const operations = waiting.flatMap((asked) => asked.operations);
  waiting = [];
  const outcomes = pair.run(operations);
  self.postMessage(packAnswered({ first, outcomes, touched: pair.takeTouched() }, operations));
  lookOut(linger.answered(performance.now()));
}

/** Whatever comes meanwhile is taken by the turn of the event loop that follows. */
function lookOut(until: number | undefined): void {
  if (until === undefined || IS_ALONE) return;
  while (Atomics.load(posted, 0) === received) {
    if (performance.now() < until) continue;
    linger.missed();
    return;
  }
}

/** Somebody else wrote to the file: what became ready there is not known by name, so all queues are. */
function look(): void {
  if (scheduled || store?.engine.isStale() !== true) return;
  const [outcome] = store.engine.run([{ type: "report" }]);
  if (outcome?.ok !== true) return;
  const names = (outcome.answer as { name: string }[]).map(({ name }) => name);
  self.postMessage({ type: "touched", queues: names });
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
  if (touched.length > 0) self.postMessage({ type: "touched", queues: touched });
}
