/** What can be wrong about a queue; docs/ERRORS.md has a line for each code. */
import { DmqError } from "../core/errors.ts";

export type QueueErrorCode =
  | "no-such-queue"
  | "no-such-item"
  | "queue-full"
  | "queue-busy"
  | "queue-timeout"
  | "item-refused"
  | "storage";

export class QueueError extends DmqError {
  declare readonly code: QueueErrorCode;
  /** Of `storage`: another daemon has the store. */
  isHeld = false;

  constructor(code: QueueErrorCode, message: string, cause?: unknown) {
    super(code, message, cause === undefined ? {} : { cause });
  }
}
