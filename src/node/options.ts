/** What a node is made with. Every limit has a name, a number and a stated behaviour (ARCHITECTURE.md, limits). */
import { ConfigError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import { isLiteral, type PeerAddress } from "../membership/peer.ts";
import { DEFAULT_FAILURE_RULES, type FailureRules } from "../membership/status.ts";
import { readRules } from "./admission.ts";

export interface NodeOptions extends Partial<FailureRules> {
  /** Our own address as it stands on our line: an IP literal with a port. */
  address: PeerAddress;
  /** Where this node listens besides: these addresses are this node too, whoever names them. */
  listening?: readonly PeerAddress[];
  /** First contacts, `sip:host:port[;transport=tcp]`; a host name is resolved again for ever. */
  notificationAddresses?: readonly string[];
  /** Channel of the membership; all nodes of a bus need the same. Default `notification_peer`. */
  notificationChannel?: string;
  /**
   * Every address that a notification address leads to by SRV, A and AAAA records is a contact. Default false: one of the
   * addresses of the name.
   */
  multiNotify?: boolean;
  /** Milliseconds between pings of one peer, default 60,000. Lower finds the dead sooner and costs the bus n² requests. */
  pingIntervalMs?: Duration;
  /** Milliseconds until a request without a final response is a timeout, default 32,000 (RFC 3261 Timer F, 64·T1). */
  requestTimeoutMs?: Duration;
  /** At first contact handlers synchronise with the node that answered first, not with all. Default false. */
  initWithSingle?: boolean;
  /**
   * Messages go out once over UDP and are never repeated (Kamailio's `sl_send`): less traffic where a loss does not matter.
   * Their answers count as ever, so that a lost one is a `timeout`. Notifications are repeated all the same.
   */
  slSend?: boolean;
  /** Messages in flight to one peer, default 256. */
  window?: number;
  /** Messages that wait for one peer behind its window, default 10,000; beyond: `overloaded` at once. */
  queueMessages?: number;
  /** Octets that wait for one peer, default 64 MiB; beyond: `overloaded` at once. */
  queueBytes?: number;
  /**
   * Messages on one channel that wait for a handler's answer, default 10,000, and 32 MiB; on all channels together four times as
   * many; beyond: 503 with Retry-After.
   */
  pendingMessages?: number;
  /** Methods that the route takes, for the Allow header beside KDMQ and OPTIONS. */
  methods?: readonly string[];
  /** Who may speak KDMQ to us: CIDRs, addresses, `private`, `members`, `any`. Default `private`; others get 403, then silence. */
  allow?: readonly string[];
  /** Who may send requests of other methods besides: texts as in `allow`. Default nobody else. */
  allowRequests?: readonly string[];
  /** Value of User-Agent and Server, default `dmq`. */
  userAgent?: string;
  /** Peers known before a restart: probed at the start like names that others mention. */
  snapshot?: readonly string[];
}

/** What may change while the node runs: each part looks where it needs it, so the next request already goes by it. */
export type NodeChanges = Pick<
  NodeOptions,
  | keyof FailureRules
  | "pingIntervalMs"
  | "requestTimeoutMs"
  | "slSend"
  | "window"
  | "queueMessages"
  | "allow"
  | "allowRequests"
>;

export interface ResolvedOptions extends FailureRules {
  address: PeerAddress;
  listening: readonly PeerAddress[];
  notificationAddresses: readonly string[];
  notificationChannel: string;
  multiNotify: boolean;
  pingIntervalMs: Duration;
  requestTimeoutMs: Duration;
  initWithSingle: boolean;
  slSend: boolean;
  /** A ping is given up before the next one is due, so that a failed peer is known within two intervals. */
  pingTimeoutMs: Duration;
  window: number;
  queueMessages: number;
  queueBytes: number;
  pendingMessages: number;
  methods: readonly string[];
  allow: readonly string[];
  allowRequests: readonly string[];
  userAgent: string;
  snapshot: readonly string[];
}

const PING_TIMEOUT_MS_MIN = 2_000;

/** What a timer can hold: 32 bits, about 24 days. */
const DURATION_MS_MAX: Duration = 2 ** 31 - 1;

/** @throws ConfigError for a duration that is none, or that no timer can hold; `undefined` is left to the default */
export function checkDuration(option: string, value: Duration | undefined, minimum: Duration): void {
  checkNumber(option, value, minimum, DURATION_MS_MAX);
}

/** @throws ConfigError for what is no whole number of things */
export function checkCount(option: string, value: number | undefined, minimum: number): void {
  checkNumber(option, value, minimum, Number.MAX_SAFE_INTEGER);
  if (value !== undefined && !Number.isInteger(value)) throw badNumber(option, value, "a whole number");
}

function checkNumber(option: string, value: number | undefined, minimum: number, maximum: number): void {
  // Turned round, so that what is no number is refused, too.
  if (value === undefined || (value >= minimum && value <= maximum)) return;
  throw badNumber(option, value, `${minimum} to ${maximum}`);
}

function badNumber(option: string, value: number, expected: string): ConfigError {
  return new ConfigError("config-invalid-value", option, String(value), expected);
}

/**
 * @throws ConfigError where our own address is a name: not every node could resolve it (dmq.md 15.1); and for numbers with
 *         which nothing would ever happen, or something all the time
 */
export function resolveOptions(options: NodeOptions): ResolvedOptions {
  if (!isLiteral(options.address))
    throw new ConfigError("config-invalid-value", "server_address", options.address.host, "an IP literal");
  for (const option of ["pingIntervalMs", "requestTimeoutMs"] as const) checkDuration(option, options[option], 1);
  checkCount("window", options.window, 1);
  for (const option of ["queueMessages", "queueBytes", "pendingMessages"] as const)
    checkCount(option, options[option], 0);
  readRules("allow", options.allow ?? []);
  readRules("allow_requests", options.allowRequests ?? []);
  const pingIntervalMs = options.pingIntervalMs ?? 60_000;
  const requestTimeoutMs = options.requestTimeoutMs ?? 32_000;
  return {
    ...DEFAULT_FAILURE_RULES,
    listening: [],
    notificationAddresses: [],
    notificationChannel: "notification_peer",
    multiNotify: false,
    initWithSingle: false,
    slSend: false,
    window: 256,
    queueMessages: 10_000,
    queueBytes: 64 * 1024 * 1024,
    pendingMessages: 10_000,
    methods: [],
    allow: ["private"],
    allowRequests: [],
    userAgent: "dmq",
    snapshot: [],
    ...options,
    pingIntervalMs,
    requestTimeoutMs,
    pingTimeoutMs: Math.max(PING_TIMEOUT_MS_MIN, Math.min(requestTimeoutMs, pingIntervalMs)),
  };
}
