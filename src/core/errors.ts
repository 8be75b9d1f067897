/**
 * Every failure that leaves a module has a class and a stable code here (docs/ERRORS.md has a line for each code).
 *
 * Whose move it is decides the class. Messages are lower-case, name the value seen and end without a period. Nothing
 * matches on message text: `switch (error.code)` narrows. Broken invariants are assertions (assert.ts), not these.
 */
export type ErrorCode =
  | "protocol-malformed"
  | "protocol-limit"
  | "protocol-unsupported"
  | "config-unknown-key"
  | "config-invalid-value"
  | "config-contradiction"
  | "config-unreadable"
  | "usage"
  | "no-such-node"
  | "no-such-channel"
  | "transport-bind"
  | "transport-connect"
  | "transport-send"
  | "tls-refused"
  | "delivery"
  | "rpc-unreachable"
  | "rpc-fault"
  | "rpc-protocol"
  | "no-such-queue"
  | "no-such-item"
  | "queue-full"
  | "queue-busy"
  | "queue-timeout"
  | "item-refused"
  | "storage"
  | "amqp-unreachable"
  | "amqp-login"
  | "amqp-no-such"
  | "amqp-refused"
  | "amqp-timeout"
  | "amqp-invalid";

/** The base of all errors of this project: a stable `code`, and `cause` where there is one. */
export class DmqError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.name = new.target.name;
  }
}

/**
 * The remote sent what the protocol does not allow. It is a value, not an exception, on the receive path: it becomes an
 * answer, a counter or an event, and never leaves the core.
 */
export class ProtocolError extends DmqError {
  /** The clause that was broken, for example `RFC 3261 §20.8`. */
  readonly section: string;
  /** Octet offset in the message where it showed, −1 where no single octet is to blame. */
  readonly offset: number;
  /** The SIP status that tells the remote: 400, 413, 414, 415, 420, 416, 505, 513 … */
  readonly statusHint: number;

  constructor(
    message: string,
    options: { section: string; offset?: number; statusHint?: number; code?: ErrorCode; cause?: unknown },
  ) {
    super(options.code ?? "protocol-malformed", message, options.cause === undefined ? {} : { cause: options.cause });
    this.section = options.section;
    this.offset = options.offset ?? -1;
    this.statusHint = options.statusHint ?? 400;
  }
}

/** An option of the operator's is unknown, out of bounds or contradicts another. Thrown at start; exit code 9. */
export class ConfigError extends DmqError {
  readonly option: string;
  readonly received: string;
  readonly expected: string;

  constructor(code: ErrorCode, option: string, received: string, expected: string, cause?: unknown) {
    super(code, `${option}: got ${received}, expected ${expected}`, cause === undefined ? {} : { cause });
    this.option = option;
    this.received = received;
    this.expected = expected;
  }
}

/** The caller's mistake: thrown at once by the function that was called wrongly; exit code 2 on the command line. */
export class UsageError extends DmqError {
  constructor(message: string, code: ErrorCode = "usage") {
    super(code, message);
  }
}

/** The network's move: an input of the core, never thrown through it. */
export class TransportError extends DmqError {
  readonly operation: string;
  readonly endpoint: string;

  constructor(code: ErrorCode, operation: string, endpoint: string, cause?: unknown) {
    const why = cause instanceof Error ? `: ${cause.message}` : "";
    super(code, `${operation} ${endpoint} failed${why}`, cause === undefined ? {} : { cause });
    this.operation = operation;
    this.endpoint = endpoint;
  }
}

/** The daemon's move: what the RPC client throws. `fault` is the JSON-RPC error code where the daemon answered one. */
export class RpcError extends DmqError {
  readonly method: string;
  readonly socketPath: string;
  readonly fault: number | undefined;
  /** The fault's `data` member, when the daemon sent one (for example `{ exit: 3 }`). */
  readonly data: unknown;

  constructor(
    code: ErrorCode,
    message: string,
    options: { method: string; socketPath: string; fault?: number; data?: unknown; cause?: unknown },
  ) {
    super(code, message, options.cause === undefined ? {} : { cause: options.cause });
    this.method = options.method;
    this.socketPath = options.socketPath;
    this.fault = options.fault;
    this.data = options.data;
  }
}
