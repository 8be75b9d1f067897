/**
 * The peers that were proved, kept on disk so that a restarted node finds the bus when every notification address is
 * down (design.md 4, joining). What stands in the file is only a hint: each name is probed like one that others mention.
 * The file is written whole beside its place and then renamed; one that cannot be read is as good as none.
 */
import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "../core/logger.ts";

const FORMAT = 1;
/** A registry has at most 1,000 peers. */
const PEERS_MAX = 1_000;

export class Snapshot {
  private readonly path: string;
  private readonly directory: string;
  private readonly log: Logger;
  private written = "";
  private complained = false;

  /** @param uri  our own address: nodes of one machine share a state directory without reading each other's peers */
  constructor(directory: string, uri: string, log: Logger) {
    this.directory = directory;
    this.path = join(directory, `peers-${uri.replaceAll(/[^0-9a-zA-Z.]+/g, "-")}.json`);
    this.log = log;
  }

  read(): string[] {
    try {
      const data: unknown = JSON.parse(readFileSync(this.path, "utf8"));
      if (!isSnapshot(data)) throw new Error(`expected {"format":${FORMAT},"peers":[…]}`);
      return data.peers.slice(0, PEERS_MAX);
    } catch (cause) {
      const missing = cause instanceof Error && "code" in cause && cause.code === "ENOENT";
      if (!missing) this.log.warn(`snapshot ${this.path} is not used: ${String(cause)}`);
      return [];
    }
  }

  write(peers: readonly string[]): void {
    const text = `${JSON.stringify({ format: FORMAT, peers })}\n`;
    if (text === this.written) return;
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 });
      const beside = `${this.path}.${process.pid}`;
      writeFileSync(beside, text, { mode: 0o600 });
      chmodSync(beside, 0o600);
      renameSync(beside, this.path);
      this.written = text;
    } catch (cause) {
      if (this.complained) return;
      this.complained = true;
      this.log.warn(`no snapshot of the peers is kept: ${String(cause)}; give --state-dir, or --no-snapshot`);
    }
  }
}

function isSnapshot(data: unknown): data is { peers: string[] } {
  if (typeof data !== "object" || data === null || !("format" in data) || data.format !== FORMAT) return false;
  return "peers" in data && Array.isArray(data.peers) && data.peers.every((peer) => typeof peer === "string");
}
