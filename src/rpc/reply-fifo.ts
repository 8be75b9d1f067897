/**
 * Writes one answer into the FIFO that a caller made for it. The name comes from outside, so it must not lead anywhere but
 * to a FIFO of a trusted user in one directory; and the caller may be slow or gone, so nothing here waits without an end.
 */
import { closeSync, constants, fstatSync, lstatSync, openSync, type Stats, writeSync } from "node:fs";
import { join } from "node:path";
import { TransportError } from "../core/errors.ts";
import { errorCode } from "./socket-file.ts";

export interface ReplyLimits {
  /** kamctl starts its reader at the same moment as it writes its request: it may come a little later than the answer. */
  openMs: number;
  /** The reader has to take something within this time. */
  stallMs: number;
}

export const REPLY_LIMITS: ReplyLimits = { openMs: 2_000, stallMs: 5_000 };

/** Octets; a file name has at most 255. */
const NAME_BYTES_MAX = 128;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/;

const STEP_MS_MIN = 2;
const STEP_MS_MAX = 50;

/** No `O_CREAT`: what is not there is not made. */
const FLAGS = constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW;

/** @returns true for a plain file name without a slash, `..` or a leading dot or dash */
export function isReplyName(name: unknown): name is string {
  return typeof name === "string" && name.length <= NAME_BYTES_MAX && NAME.test(name) && !name.includes("..");
}

/**
 * @param name  checked by `isReplyName`
 * @throws      TransportError `transport-connect` (it is no FIFO, of another user, or nobody reads it), `transport-send`
 *              (the reader went away or does not read)
 */
export async function writeReply(
  directory: string,
  name: string,
  bytes: Uint8Array,
  limits: ReplyLimits = REPLY_LIMITS,
): Promise<void> {
  const path = join(directory, name);
  const file = await open(path, limits.openMs);
  try {
    await write(file, bytes, limits.stallMs);
  } catch (cause) {
    throw new TransportError("transport-send", "write to", path, cause);
  } finally {
    closeSync(file);
  }
}

async function open(path: string, openMs: number): Promise<number> {
  const steps = new Steps(openMs);
  for (;;) {
    try {
      const file = openOnce(path);
      if (file !== undefined) return file;
      if (!(await steps.next())) throw new Error(`nobody reads it after ${openMs} ms`);
    } catch (cause) {
      throw new TransportError("transport-connect", "open", path, cause);
    }
  }
}

/** @returns `undefined` if nobody reads it yet */
function openOnce(path: string): number | undefined {
  // Before it is opened, because opening a device can do something.
  check(lstatSync(path));
  const file = tryOpen(path);
  if (file === undefined) return undefined;
  try {
    // And after, because the name may stand for another file by now.
    check(fstatSync(file));
    return file;
  } catch (error) {
    closeSync(file);
    throw error;
  }
}

function tryOpen(path: string): number | undefined {
  try {
    return openSync(path, FLAGS);
  } catch (error) {
    if (errorCode(error) === "ENXIO") return undefined;
    throw error;
  }
}

function check(stats: Stats): void {
  if (!stats.isFIFO()) throw new Error("it is not a FIFO");
  const trusted = [0, process.getuid?.()];
  if (!trusted.includes(stats.uid)) throw new Error(`it belongs to user ${stats.uid}, expected ours or root`);
}

async function write(file: number, bytes: Uint8Array, stallMs: number): Promise<void> {
  let rest = bytes;
  let steps = new Steps(stallMs);
  while (rest.length > 0) {
    const written = writeSome(file, rest);
    rest = rest.subarray(written);
    if (written > 0) steps = new Steps(stallMs);
    else if (!(await steps.next())) throw new Error(`nobody took anything for ${stallMs} ms`);
  }
}

/** @returns 0 if the pipe is full */
function writeSome(file: number, bytes: Uint8Array): number {
  try {
    return writeSync(file, bytes);
  } catch (error) {
    if (errorCode(error) === "EAGAIN") return 0;
    throw error;
  }
}

/** Waits in growing steps until a time is over. Nothing tells a writer that a FIFO has got a reader, so it has to look. */
class Steps {
  readonly #end: number;
  #stepMs = STEP_MS_MIN;

  constructor(ms: number) {
    this.#end = performance.now() + ms;
  }

  /** @returns false if the time is over */
  async next(): Promise<boolean> {
    if (performance.now() >= this.#end) return false;
    await Bun.sleep(this.#stepMs);
    this.#stepMs = Math.min(this.#stepMs * 2, STEP_MS_MAX);
    return true;
  }
}
