/**
 * Writes that are made in one go, handed on as one. The client library writes each message to the socket by itself, and without Nagle's
 * algorithm, which would make single ones wait, each write is a system call and a segment: more work than all the rest of a message.
 */
import type { Writable } from "node:stream";

/** From now on what is written without waiting for anything in between leaves the stream together. */
export function gatherWrites(stream: Writable): void {
  const write = stream.write;
  stream.write = ((...args: Parameters<Writable["write"]>) => {
    if (stream.writableCorked === 0) {
      stream.cork();
      queueMicrotask(() => stream.uncork());
    }
    return write.apply(stream, args);
  }) as Writable["write"];
}
