/**
 * The daemon's two stores behind one door: the file, and beside it one in memory for queues with `store=memory`, whose ids
 * begin with `m`. What concerns memory alone is done at once and waits for no flush. Between the two an item moves by being
 * added there and settled here: after a crash it may be in both, never in none.
 */
import type { QueueDefinition } from "./definition.ts";
import { Engine } from "./engine.ts";
import { QueueError } from "./error.ts";
import type { Answers, Item, NewItem, Operation, Outcome } from "./operation.ts";

export const MEMORY_PREFIX = "m";

const MOVER = "move";
const MOVE_LEASE_MS = 60_000;
/** Items that move at a time. */
const MOVED = 1_000;

export class Pair {
  readonly disk: Engine;
  private readonly memory: Engine;

  /** @param bytesMax  of what is in memory */
  constructor(disk: Engine, options: { bytesMax: number; now(): number; random(): number }) {
    this.disk = disk;
    this.memory = new Engine({ ...options, path: ":memory:", prefix: MEMORY_PREFIX });
  }

  /** As `Engine.run`: a group, and one flush for what is in the file. */
  run(operations: readonly Operation[]): Outcome[] {
    const outcomes: Outcome[] = new Array(operations.length);
    let group: { at: number; operation: Operation }[] = [];
    const flush = (): void => {
      const done = this.disk.run(group.map(({ operation }) => operation));
      for (const [index, { at }] of group.entries()) outcomes[at] = done[index] as Outcome;
      group = [];
    };
    for (const [at, operation] of operations.entries()) {
      const place = this.placeOf(operation);
      if (place === "disk") group.push({ at, operation });
      else if (place === "memory") outcomes[at] = one(this.memory, operation);
      else {
        if (group.length > 0) flush();
        outcomes[at] = this.both(operation);
      }
    }
    if (group.length > 0) flush();
    return outcomes;
  }

  takeTouched(): string[] {
    return [...this.disk.takeTouched(), ...this.memory.takeTouched()];
  }

  isDue(): boolean {
    return this.disk.isDue() || this.memory.isDue();
  }

  close(): void {
    this.memory.close();
  }

  private placeOf(operation: Operation): "disk" | "memory" | "both" {
    switch (operation.type) {
      case "define": {
        const { name, store } = operation.definition;
        const wrong = store === "memory" ? this.disk : this.memory;
        if (wrong.has(name)) return "both";
        return store === "memory" ? "memory" : "disk";
      }
      case "ack":
      case "extend":
        return placeOfIds(operation.ids);
      case "fail":
        return placeOfIds(operation.failures.map(({ id }) => id));
      case "move": {
        const from = this.placeOfQueue(operation.from);
        return from === this.placeOfQueue(operation.to) ? from : "both";
      }
      case "report":
        return operation.queue === undefined ? "both" : this.placeOfQueue(operation.queue);
      case "release":
      case "holders":
      case "check":
        return "both";
      default:
        return this.placeOfQueue(operation.queue);
    }
  }

  private placeOfQueue(name: string): "disk" | "memory" {
    return this.memory.has(name) ? "memory" : "disk";
  }

  private both(operation: Operation): Outcome {
    try {
      return { ok: true, answer: this.performBoth(operation) };
    } catch (error) {
      if (!(error instanceof QueueError)) throw error;
      return { ok: false, code: error.code, message: error.message };
    }
  }

  private performBoth(operation: Operation): Answers[Operation["type"]] {
    switch (operation.type) {
      case "define":
        return this.redefine(operation.definition);
      case "move":
        return this.move(operation);
      case "ack":
      case "extend":
        return this.split(operation);
      case "fail":
        return this.failBoth(operation);
      case "release":
        return ask(this.memory, operation) + ask(this.disk, operation);
      case "holders":
      case "report":
        return [...(ask(this.memory, operation) as unknown[]), ...(ask(this.disk, operation) as unknown[])] as never;
      case "check": {
        const [disk, memory] = [ask(this.disk, operation), ask(this.memory, operation)];
        const problems = [...disk.problems, ...memory.problems];
        return { ...disk, ok: problems.length === 0, problems, items: disk.items + memory.items };
      }
      default:
        throw new QueueError("storage", `${operation.type} concerns one store`);
    }
  }

  /** The other kind of store: only where nothing would have to move. */
  private redefine(definition: QueueDefinition): Answers["define"] {
    const [old, next] = definition.store === "memory" ? [this.disk, this.memory] : [this.memory, this.disk];
    dropEmpty(old, definition);
    ask(next, { type: "define", definition });
    return "changed";
  }

  /** @throws QueueError `no-such-item` before anything is done where one of them is not leased */
  private split(operation: Operation & { type: "ack" | "extend" }): number {
    const inMemory = operation.ids.filter(isOfMemory);
    const onDisk = operation.ids.filter((id) => !isOfMemory(id));
    // What is in memory is checked first and done last: nothing comes between.
    if (!this.memory.holds(inMemory)) return ask(this.memory, { ...operation, ids: inMemory });
    const done = ask(this.disk, { ...operation, ids: onDisk });
    return done + ask(this.memory, { ...operation, ids: inMemory });
  }

  private failBoth(operation: Operation & { type: "fail" }): Answers["fail"] {
    const { failures } = operation;
    const inMemory = failures.filter(({ id }) => isOfMemory(id));
    if (!this.memory.holds(inMemory.map(({ id }) => id))) return ask(this.memory, { ...operation, failures: inMemory });
    const onDisk = ask(this.disk, { ...operation, failures: failures.filter(({ id }) => !isOfMemory(id)) });
    const rest = ask(this.memory, { ...operation, failures: inMemory });
    return failures.map(({ id }) => (isOfMemory(id) ? rest : onDisk).shift() as Answers["fail"][number]);
  }

  private move({ from, to, count, key }: Operation & { type: "move" }): number {
    const [source, goal] = this.memory.has(from) ? [this.memory, this.disk] : [this.disk, this.memory];
    let moved = 0;
    while (moved < count) {
      const wanted = Math.min(MOVED, count - moved);
      const lease = { type: "lease" as const, queue: from, count: wanted, leaseMs: MOVE_LEASE_MS, holder: MOVER };
      const items = ask(source, { ...lease, ...(key !== undefined && { key }) });
      if (items.length === 0) break;
      const ids = items.map(({ id }) => id);
      try {
        ask(goal, { type: "add", queue: to, items: items.map(asNew) });
      } catch (error) {
        ask(source, { type: "fail", failures: ids.map((id) => ({ id, fate: "now", counts: false })) });
        throw error;
      }
      ask(source, { type: "ack", ids });
      moved += items.length;
    }
    return moved;
  }
}

function asNew({ key, value, contentType, headers, path, from, channel }: Item): NewItem {
  return {
    ...{ key, value, contentType, headers, path },
    ...(from !== null && { from }),
    ...(channel !== null && { channel }),
  };
}

function isOfMemory(id: string): boolean {
  return id.startsWith(MEMORY_PREFIX);
}

function placeOfIds(ids: readonly string[]): "disk" | "memory" | "both" {
  const inMemory = ids.filter(isOfMemory).length;
  if (inMemory === 0) return "disk";
  return inMemory === ids.length ? "memory" : "both";
}

function one(engine: Engine, operation: Operation): Outcome {
  return engine.run([operation])[0] as Outcome;
}

/** @throws QueueError where it failed */
function ask<O extends Operation>(engine: Engine, operation: O): Answers[O["type"]] {
  const outcome = one(engine, operation);
  if (outcome.ok) return outcome.answer as Answers[O["type"]];
  throw new QueueError(outcome.code, outcome.message);
}

/** What `--force` does for `drop` nothing does here: the items would be gone. */
function dropEmpty(engine: Engine, { name, store }: QueueDefinition): void {
  const outcome = one(engine, { type: "drop", queue: name, force: false });
  if (outcome.ok) return;
  const isBusy = outcome.code === "queue-busy";
  const advice = `queue ${name} holds items, so it cannot become store=${store}: fetch or clear them first, and dead letters`;
  throw new QueueError(outcome.code, isBusy ? advice : outcome.message);
}
