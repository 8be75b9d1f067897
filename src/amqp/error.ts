/** What can be wrong between us and a broker; docs/ERRORS.md has a line for each code. */
import { DmqError } from "../core/errors.ts";

export type AmqpErrorCode =
  | "amqp-unreachable"
  | "amqp-login"
  | "amqp-no-such"
  | "amqp-refused"
  | "amqp-timeout"
  | "amqp-invalid";

export class AmqpError extends DmqError {
  declare readonly code: AmqpErrorCode;
  /** What the broker gave as the reason, where it gave one: 312, 403, 404, 406 … (AMQP 0-9-1, 1.2). */
  readonly replyCode: number | undefined;

  constructor(code: AmqpErrorCode, message: string, options: { replyCode?: number | undefined; cause?: unknown } = {}) {
    super(code, message, options.cause === undefined ? {} : { cause: options.cause });
    this.replyCode = options.replyCode;
  }
}
