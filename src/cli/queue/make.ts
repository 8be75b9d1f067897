/** Makes a queue for what a command has to store, unless it is there: what the operator said of it stands. */
import { QueueError } from "../../queue/error.ts";
import type { Queues } from "./queues.ts";

export async function makeQueue(queues: Queues, name: string, definition: string): Promise<void> {
  if (!(await isThere(queues, name))) await queues.define(definition);
}

async function isThere(queues: Queues, queue: string): Promise<boolean> {
  try {
    await queues.perform({ type: "sizes", queue });
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

const NOT_FOUND = 404;

function isMissing(error: unknown): boolean {
  if (error instanceof QueueError) return error.code === "no-such-queue";
  return (error as { fault?: unknown }).fault === NOT_FOUND;
}
