/**
 * The peers that were proved, kept on disk so that a restarted node finds the bus when every notification address is
 * down (design.md 4, joining). What stands in the file is only a hint: each name is probed like one that others mention.
 *
 * The file is written whole beside its place, brought to the disk, and then renamed, one write at a time and none on the loop: a
 * kill or a power failure leaves the old one or the new one. One that cannot be read, is not ours, or is no list of ours, is as good
 * as none.
 */
import { closeSync, constants, fstatSync, openSync, readdirSync, readSync, unlinkSync } from "node:fs";
import { type FileHandle, mkdir, open, rename, unlink } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Logger } from "../core/logger.ts";
import type { Duration } from "../core/time.ts";

const FORMAT = 1;

/** A registry has at most 1,000 peers. */
const PEERS_MAX = 1_000;

/** RFC 3261 has no limit; the core reads no longer ones from others either. */
const URI_CHARACTERS_MAX = 255;

/** More than the largest that we write. */
const FILE_BYTES_MAX: number = 512 * 1024;

/** What an end waits for a disk at most. */
const FLUSH_MS: Duration = 1_000;

/** No FIFO makes the start wait, no link leads elsewhere. */
const READ_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW;

export class Snapshot {
  private readonly path: string;
  private readonly directory: string;
  private readonly log: Logger;
  /** What is on the disk, as far as we know. */
  private written = "";
  /** What is to be there. */
  private wanted = "";
  private writing: Promise<void> | undefined;
  private complained = false;

  /** @param uri  our own address: nodes of one machine share a state directory without reading each other's peers */
  constructor(directory: string, uri: string, log: Logger) {
    this.directory = directory;
    this.path = join(directory, `peers-${uri.replaceAll(/[^0-9a-zA-Z.]+/g, "-")}.json`);
    this.log = log;
  }

  read(): string[] {
    this.removeRemains();
    try {
      const data: unknown = JSON.parse(readOwnFile(this.path));
      if (!isSnapshot(data)) throw new Error(`expected {"format":${FORMAT},"peers":[…]}`);
      return data.peers.filter(({ length }) => length <= URI_CHARACTERS_MAX).slice(0, PEERS_MAX);
    } catch (cause) {
      const missing = cause instanceof Error && "code" in cause && cause.code === "ENOENT";
      if (!missing) this.log.warn(`snapshot ${this.path} is not used: ${String(cause)}`);
      return [];
    }
  }

  /** Begins to write; of lists that come meanwhile the last one is written next. */
  write(peers: readonly string[]): void {
    this.wanted = `${JSON.stringify({ format: FORMAT, peers })}\n`;
    if (this.writing === undefined && this.wanted !== this.written) this.writing = this.work();
  }

  /** Resolves when the last list is on the disk, or could not be brought there, or the disk does not answer. */
  async flushed(): Promise<void> {
    if (this.writing !== undefined) await Promise.race([this.writing, Bun.sleep(FLUSH_MS)]);
  }

  private async work(): Promise<void> {
    while (this.wanted !== this.written) {
      const text = this.wanted;
      try {
        await this.replace(text);
        this.written = text;
        this.complained = false;
      } catch (cause) {
        this.complain(cause);
        break;
      }
    }
    this.writing = undefined;
  }

  private async replace(text: string): Promise<void> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    const beside = `${this.path}.${process.pid}`;
    try {
      const file = await openNew(beside);
      try {
        await file.writeFile(text);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(beside, this.path);
    } catch (cause) {
      await unlink(beside).catch(() => undefined);
      throw cause;
    }
  }

  private complain(cause: unknown): void {
    if (this.complained) return;
    this.complained = true;
    this.log.warn(`no snapshot of the peers is kept: ${String(cause)}; give --state-dir, or --no-snapshot`);
  }

  /** What processes that were killed had begun: `NAME.PID` of those that are no more. */
  private removeRemains(): void {
    const prefix = `${basename(this.path)}.`;
    try {
      for (const name of readdirSync(this.directory)) {
        const pid = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : Number.NaN;
        if (Number.isInteger(pid) && !isRunning(pid)) unlinkSync(join(this.directory, name));
      }
    } catch {
      // There is no directory yet, or it is not ours to tidy up; what is wrong with it shows at the first write.
    }
  }
}

/** A file that nobody else can have prepared: what lies there, a link above all, goes first. */
async function openNew(path: string): Promise<FileHandle> {
  await unlink(path).catch(() => undefined);
  return open(path, "wx", 0o600);
}

/** @throws Error where it is no file, belongs to a stranger, or is larger than what we write */
function readOwnFile(path: string): string {
  const file = openSync(path, READ_FLAGS);
  try {
    const stats = fstatSync(file);
    if (!stats.isFile()) throw new Error("it is no file");
    if (stats.uid !== 0 && stats.uid !== process.getuid?.()) throw new Error(`it belongs to user ${stats.uid}`);
    if ((stats.mode & 0o022) !== 0) throw new Error("others can write to it");
    if (stats.size > FILE_BYTES_MAX) throw new Error(`it is larger than ${FILE_BYTES_MAX} bytes`);
    const octets = new Uint8Array(stats.size);
    return new TextDecoder().decode(octets.subarray(0, readSync(file, octets)));
  } finally {
    closeSync(file);
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as { code?: string }).code !== "ESRCH";
  }
}

function isSnapshot(data: unknown): data is { peers: string[] } {
  if (typeof data !== "object" || data === null || !("format" in data) || data.format !== FORMAT) return false;
  return "peers" in data && Array.isArray(data.peers) && data.peers.every((peer) => typeof peer === "string");
}
