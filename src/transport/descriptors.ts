/**
 * How many file descriptors the kernel lets us have. Without one that is free a listener of the runtime asks for the next connection
 * again and again and gets none: a core at work for nothing (measured: 97 % of one). So connections are counted before they are
 * that many.
 */
import { readFileSync } from "node:fs";

const CONNECTIONS_MAX = 1_000;

/** Each transport may have as many inbound as outbound ones, and commands, control connections and files need some as well. */
const SHARE = 4;

/**
 * @param limits  the text of /proc/self/limits (proc(5))
 * @returns       inbound, and outbound, connections of one transport: at least 1, at most 1,000
 */
export function connectionsMax(limits: string = ownLimits()): number {
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  if (soft === undefined) return CONNECTIONS_MAX;
  return Math.max(1, Math.min(CONNECTIONS_MAX, Math.floor(Number(soft) / SHARE)));
}

function ownLimits(): string {
  try {
    return readFileSync("/proc/self/limits", "utf8");
  } catch {
    // No Linux, or no /proc in this container: then the limit is as unknown as it always was.
    return "";
  }
}
