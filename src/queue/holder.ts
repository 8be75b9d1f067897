/**
 * Who has leased an item: a process, named so that another one sees when it is gone. A pid alone is not enough, because pids
 * are used again; its start time is (proc(5), field 22). A process of another pid namespace cannot be seen from here, so its
 * leases end by time.
 */
import { readFileSync, readlinkSync } from "node:fs";

/** Before the rest in what the daemon leases: there is one daemon a store, so what a former one held is nobody's. */
const DAEMON = "daemon:";

/**
 * @param label   tells the leases of one process apart
 * @param daemon  whether it is the one that owns the store
 */
export function holderName(label: string, daemon = false): string {
  return `${daemon ? DAEMON : ""}${process.pid}.${startOf(process.pid) ?? 0}.${namespace()}/${label}`;
}

/** @param byDaemon  who asks is the daemon, and has just begun */
export function isGone(holder: string, byDaemon = false): boolean {
  if (byDaemon && holder.startsWith(DAEMON)) return true;
  const match = /^(?:daemon:)?(\d+)\.(\d+)\.([^/]*)\//.exec(holder);
  if (match === null || match[3] !== namespace()) return false;
  return startOf(Number(match[1])) !== match[2];
}

function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name of the program may have spaces and parentheses in it, the last one ends it.
    return stat
      .slice(stat.lastIndexOf(")") + 2)
      .split(" ")
      .at(19);
  } catch {
    return undefined;
  }
}

let ownNamespace: string | undefined;

function namespace(): string {
  try {
    ownNamespace ??= readlinkSync("/proc/self/ns/pid").replaceAll(/\D/g, "");
  } catch {
    ownNamespace = "";
  }
  return ownNamespace;
}
