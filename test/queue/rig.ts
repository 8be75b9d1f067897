/** An engine in memory, or in a folder of its own, with a clock and chance that the test turns. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseDefinition } from "../../src/queue/definition.ts";
import { Engine } from "../../src/queue/engine.ts";
import { QueueError } from "../../src/queue/error.ts";
import type { Added, Answers, Item, NewItem, Operation } from "../../src/queue/operation.ts";

export const START = 1_000_000;

export class Rig {
  now = START;
  random = 0.5;
  engine: Engine;
  private readonly path: string;

  constructor(path = ":memory:", options: { bytesMax?: number } = {}) {
    this.path = path;
    this.engine = this.open(options);
  }

  private open(options: { bytesMax?: number }): Engine {
    return new Engine({ path: this.path, now: () => this.now, random: () => this.random, ...options });
  }

  /** As after a restart. */
  reopen(): void {
    this.engine.close();
    this.engine = this.open({});
  }

  /** @throws QueueError where the operation fails */
  do<O extends Operation>(operation: O): Answers[O["type"]] {
    const [outcome] = this.engine.run([operation]);
    if (outcome?.ok === true) return outcome.answer as Answers[O["type"]];
    throw outcome === undefined ? new Error("no outcome") : new QueueError(outcome.code, outcome.message);
  }

  /** The code of how it fails, `undefined` if it does not. */
  failure(operation: Operation): string | undefined {
    const [outcome] = this.engine.run([operation]);
    return outcome?.ok === false ? outcome.code : undefined;
  }

  define(text: string): Answers["define"] {
    return this.do({ type: "define", definition: parseDefinition(text) });
  }

  add(queue: string, key: string, value = "", more: Partial<NewItem> = {}): Added {
    return this.do({ type: "add", queue, items: [item(key, value, more)] })[0] as Added;
  }

  /** Adds `k1` to `kN`, one by one. */
  fill(queue: string, count: number): void {
    for (let i = 1; i <= count; i++) this.add(queue, `k${i}`, `v${i}`);
  }

  lease(queue: string, options: Partial<Omit<Operation & { type: "lease" }, "type" | "queue">> = {}): Item[] {
    return this.do({ type: "lease", queue, count: 1, leaseMs: 60_000, holder: "test", ...options });
  }

  /** Takes the oldest item off, as Kamailio does. @returns `undefined` where it is empty */
  fetch(queue: string): [key: string, value: string] | undefined {
    const [found] = this.lease(queue);
    if (found === undefined) return undefined;
    this.do({ type: "ack", ids: [found.id] });
    return [found.key, text(found)];
  }

  keys(queue: string): string[] {
    return this.do({ type: "peek", queue, count: 1_000 }).map(({ key }) => key);
  }

  sizes(queue: string): Answers["sizes"] {
    return this.do({ type: "sizes", queue });
  }

  counted(queue: string): Answers["report"][number]["counted"] {
    return (this.do({ type: "report", queue })[0] as Answers["report"][number]).counted;
  }

  /** Whatever happened: the counters are right and the file is whole. */
  close(): void {
    const { problems } = this.do({ type: "check" });
    this.engine.close();
    if (problems.length > 0) throw new Error(problems.join("; "));
  }
}

export function item(key: string, value: string | Uint8Array = "", more: Partial<NewItem> = {}): NewItem {
  return { key, value: typeof value === "string" ? Buffer.from(value) : value, ...more };
}

export function text({ value }: Item): string {
  return Buffer.from(value).toString();
}

export class Folder {
  readonly path = mkdtempSync(join(tmpdir(), "dqs-"));

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}
