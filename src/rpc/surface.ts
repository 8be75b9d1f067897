/**
 * What a daemon lets its operators see and do: the interface that the RPC methods and streams serve, and nothing else of
 * the daemon. Field names are those of the wire (docs/RPC.md), because these objects go out as JSON without translation.
 */
import type { AmqpReport, AmqpSurface } from "../amqp/desk.ts";
import type { LinkStatus } from "../link/counters.ts";
import type { NodeEvent, Outcome, PeerInfo, WarningCode } from "../node/io.ts";
import type { AnswerOf, Answers, Item, LeaseRequest, Operation } from "../queue/operation.ts";

/** A request larger than this is refused before it is read: 413. */
export const REQUEST_BYTES_MAX = 32 * 1024 * 1024;

/** The media type of all streams: a JSON object a line. */
export const STREAM_TYPE = "application/x-ndjson";

export type Status = PeerInfo["status"];

/** What a reload did; both lists hold names of options, and the first one `tls certificates` where files were read again. */
export interface ReloadReport {
  changed: string[];
  /** Changed in the configuration, but not in the running daemon. */
  needs_restart: string[];
}

export const STATUSES: readonly Status[] = ["active", "not_active", "disabled"];

/**
 * Channels whose messages Kamailio's own modules read: `{}` on htable crashes a Kamailio 5.6.3 (dmq.md 11.10), and a wrong
 * line on notification_peer freezes it (11.1).
 */
export const MODULE_CHANNELS: ReadonlySet<string> = new Set([
  "notification_peer",
  "htable",
  "usrloc",
  "dialog",
  "presence",
  "rtpengine",
]);

/** One node of the bus; the first eight fields are those of Kamailio's `dmq.list_nodes`, in its order. */
export interface NodeRow {
  host: string;
  /** Text, as Kamailio has it. */
  port: string;
  /** `*` is UDP: Kamailio writes it where the URI names no transport. */
  proto: "*" | "tcp" | "tls";
  resolved_ip: string;
  status: Status;
  last_notification: number;
  /** 1 is the node itself. */
  local: 0 | 1;
  fail_count: number;
  uri: string;
  rtt_ms: number | null;
  /** ISO 8601. */
  last_seen: string | null;
  user_agent: string | null;
  source: string;
  verified: boolean;
  in_flight: number;
  queued: number;
}

/** Fields of Kamailio's own, in its order; `fail_count` is there in newer versions, 5.6 has not. */
export const KAMAILIO_FIELDS: readonly (keyof NodeRow)[] = [
  "host",
  "port",
  "proto",
  "resolved_ip",
  "status",
  "last_notification",
  "local",
  "fail_count",
];

/** The order in which the fields of a row are written. */
export const NODE_FIELDS: readonly (keyof NodeRow)[] = [
  ...KAMAILIO_FIELDS,
  "uri",
  "rtt_ms",
  "last_seen",
  "user_agent",
  "source",
  "verified",
  "in_flight",
  "queued",
];

/** How one message to one node ended; `code` is null where no final response came. */
export interface DeliveryResult {
  node: string;
  /** `spooled`: it is in the outbox, and goes out when the node is there (`spool`). */
  outcome: Outcome["type"] | "spooled";
  code: number | null;
  reason: string;
  ms: number;
  consumer: boolean;
  /** Transmissions, of all tries together. */
  attempts: number;
  /** 1, and one more for each time that the message was sent again as a new request (`retry`). */
  tries: number;
  /** What went out as `X-DMQ-Id`. */
  message_id: string | null;
  content_type?: string;
  body_base64?: string;
}

/** A message that came in on a channel, one line of `/listen`. */
export interface MessageEvent {
  channel: string;
  from: string;
  /** URI of the peer that sent it, null if it is none that we know. */
  node: string | null;
  source: string;
  call_id: string;
  /** Header `X-DMQ-Id`: who sends a message again gives it the same one. */
  message_id: string | null;
  content_type: string | null;
  max_forwards: number | null;
  /** The request has an Accept header: an answer may bring a body. */
  accepts_body: boolean;
  /** Octets of the body. */
  size: number;
  /** The body as text, null if it is not valid UTF-8; then `body_base64` has it. */
  body: string | null;
  body_base64?: string;
  /** ISO 8601. */
  time: string;
  /** For the answering listener: what `dmq.answer` takes. */
  reply_id?: string;
  /** For the answering listener: after that long the sender has been answered 503. */
  answer_within_ms?: number;
}

/** What an answering listener says to a message. */
export interface AnswerRequest {
  replyId: string;
  /** 200 to 699, and not 408. */
  code: number;
  reason?: string;
  contentType: string;
  /** Goes out only if the request accepts one. */
  body: Uint8Array;
}

export interface PingRequest {
  /** Without them, all peers. */
  nodes?: string[];
  timeoutMs?: number;
}

/** How one ping of one node ended; nothing follows of it for the node's status. */
export type PingResult = Pick<DeliveryResult, "node" | "code" | "reason" | "ms" | "attempts"> & {
  outcome: Outcome["type"];
};

/** The gravest first. */
export const LOG_LEVELS = ["error", "warn", "info", "debug", "trace"] as const;

export type LogLevel = (typeof LOG_LEVELS)[number];

/** A line of the daemon's log. */
export interface LogRecord {
  /** ISO 8601. */
  time: string;
  level: LogLevel;
  text: string;
  fields: Record<string, string | number | boolean | null>;
}

export interface LogQuery {
  /** Lines of this level and graver ones. */
  level?: LogLevel;
  /** The latest so many. */
  count?: number;
}

/** What happened to the node, one line of `/events`. Fields beyond `type` and `time` are there where they apply. */
export interface EventRecord {
  type: Exclude<NodeEvent["type"], "message" | "request" | "outcome" | "left"> | "consumers";
  /** ISO 8601. */
  time: string;
  /** URI of the peer that it is about. */
  node?: string;
  /** Of `joined`: URIs of those whom to synchronise with. */
  nodes?: string[];
  status?: Status;
  /** What happened to the peer, in words. */
  reason?: string;
  /** Of a warning. */
  code?: WarningCode;
  text?: string;
  /** Of `consumers`: a channel, and how many listen to it now. */
  channel?: string;
  consumers?: number;
}

export interface StatusReport {
  version: string;
  pid: number;
  uptime_s: number;
  uri: string;
  listeners: string[];
  channels: { name: string; consumers: number; declared: boolean }[];
  /** Peers by status; the local node is not counted. */
  peers: { active: number; not_active: number; disabled: number };
  counters: Record<string, number>;
  /** As `/readyz`: it serves, and is not on its way out. */
  ready: boolean;
  socket: string;
  state_dir?: string | null;
  links: LinkStatus[];
}

/** What `dmq.status` answers: sizes are asked of the store; `amqp` is null where the daemon has no brokers. */
export type StatusAnswer = StatusReport & { queues: QueueRow[]; amqp: AmqpReport | null };

/** A queue in `dmq.status`. */
export interface QueueRow {
  name: string;
  ready: number;
  delayed: number;
  leased: number;
  dead: number;
  bytes: number;
}

interface MessageOptions {
  channel: string;
  body: Uint8Array;
  contentType: string;
  maxForwards?: number;
  timeoutMs?: number;
  /** Opens channels that Kamailio's modules own (design.md section 4, guards). */
  force?: boolean;
  /** Header Accept: asks for a body in the answer. */
  accept?: string;
  /** Header `X-DMQ-Id`. */
  messageId?: string;
  /** So often at most it is sent again where that is right (channel/retry.ts). */
  retry?: number;
  /** Stores it first, and goes on until it is delivered. */
  spool?: { ttlMs?: number };
}

export interface SendRequest extends MessageOptions {
  node: string;
}

export interface BroadcastRequest extends MessageOptions {
  except: string[];
  /** So many answers are enough: who has not answered by then is `cancelled`. */
  replies?: number;
}

export interface ReplicateRequest {
  /** The request as on the wire; its Content-Length may be missing. */
  octets: Uint8Array;
  timeoutMs?: number;
}

/** The queues of a daemon. Its members throw `QueueError`s, of which methods make faults. */
export interface QueueSurface {
  /** @returns the answer, once it is committed */
  perform<O extends Operation>(operation: O): Promise<AnswerOf<O>>;
  /**
   * Makes or changes a queue.
   *
   * @param definition  `NAME`, or `name=NAME;size=100;addmode=2`
   * @throws            ConfigError for what is no definition
   */
  define(definition: string): Promise<Answers["define"]>;
  /**
   * As the operation `add`; where the queue says `full=wait`, it waits for room.
   *
   * @throws QueueError `queue-timeout` where there was none in `timeoutMs`
   */
  add(operation: Operation & { type: "add" }, timeoutMs: number): Promise<Answers["add"]>;
  /** As the operation `lease`, and waits for the first item up to `waitMs`. Without items: none came. */
  lease(request: QueueLease & { waitMs: number }): Promise<Item[]>;
  /**
   * Leases item after item; the leases last as long as the one who follows is there.
   *
   * @returns  the function that ends it; what is not settled then is ready again
   */
  follow(request: QueueLease & { once?: boolean }, listener: FollowListener): () => void;
  /** Without opening a store that nobody needed so far: none then. */
  sizes(): Promise<QueueRow[]>;
}

/** What somebody who follows a queue is told. */
export interface FollowListener {
  /** An item; not more than `count` are unsettled at a time. */
  item(item: Item): void;
  /** With `once`: these are all, whatever becomes of them. */
  taken(): void;
  /** Nothing more is ready, and the next item is waited for. */
  empty(): void;
  error(error: unknown): void;
}

export type QueueLease = { queue: string } & Omit<LeaseRequest, "holder">;

/** Every member may throw an `RpcFault` (the caller sees it as it is) or a `DmqError` (methods.ts makes a fault of it). */
export interface ControlSurface {
  /** Absent where there are none: at a node that is only visited. */
  readonly queues?: QueueSurface;
  /** Absent where there are no brokers. */
  readonly amqp?: AmqpSurface;
  /** Peers newest first, the local node last. */
  listNodes(): NodeRow[] | Promise<NodeRow[]>;
  /** @throws RpcFault `malformed()`, `alreadyAdded()` */
  add(uri: string, status?: Status): void;
  /**
   * Forgets a peer.
   *
   * @throws RpcFault `malformed()`; 404 `unknownNode()` and 409 `localNode()`, which the method hides unless it was
   *         called strictly, because Kamailio says that it removed a node that it does not know
   */
  remove(uri: string): void;
  /**
   * @param status  one of `STATUSES`, checked by the method
   * @throws RpcFault `nodeNotFound()` also for a malformed URI, `nodeIsLocal()`
   */
  changeStatus(uri: string, status: string): "changed" | "already";
  send(request: SendRequest): Promise<DeliveryResult>;
  /** One result for each peer addressed, none if there is nobody. */
  broadcast(request: BroadcastRequest): Promise<DeliveryResult[]>;
  join(uris: string[]): void;
  /** Leaves the bus with an announcement. Resolves when that is through; the answer must still find the server open. */
  leave(): Promise<void>;
  /** As `leave`, without the announcement. */
  stop(): Promise<void>;
  /**
   * Reads again what can change while the daemon runs.
   *
   * @returns what was read again, for the operator: `tls certificates`
   * @throws  DmqError where it cannot be used; what was in use before stays in use
   */
  reload(): Promise<ReloadReport>;
  /**
   * Passes a SIP request on to every active node (Kamailio's `dmq_t_replicate`).
   *
   * @returns one result for each node, none if there is nobody
   * @throws  RpcFault for octets that are no SIP request
   */
  replicate(request: ReplicateRequest): Promise<DeliveryResult[]>;
  status(): StatusReport;
  version(): string | Promise<string>;
  live(): boolean;
  ready(): boolean;
  /**
   * @param options.answer  the listener answers: each message for it has a `reply_id`, and waits for `answer`
   * @returns               the function that ends it; what it has not answered is 503 then
   * @throws RpcFault       409 where a channel is answered already
   */
  listen(channels: string[], onMessage: (message: MessageEvent) => void, options?: { answer?: boolean }): () => void;
  /** @throws RpcFault 404 where no message waits for it any more, −32602 for what cannot be an answer */
  answer(request: AnswerRequest): void;
  /** @throws RpcFault 404 `unknownNode()` */
  ping(request: PingRequest): Promise<PingResult[]>;
  /** The latest lines of the daemon's log, oldest first. */
  logs(query: LogQuery): LogRecord[];
  /** Each line from now on. @returns the function that ends it */
  followLogs(level: LogLevel | undefined, onRecord: (record: LogRecord) => void): () => void;
  /** @returns the function that ends it */
  subscribe(onEvent: (event: EventRecord) => void): () => void;
}

/** Exit codes of design.md section 5 that a fault carries to the command line. */
export interface FaultData {
  exit: number;
}

/** A "no" of the daemon's that the caller sees as a JSON-RPC error: code, text and, for our commands, an exit code. */
export class RpcFault extends Error {
  readonly code: number;
  readonly data: FaultData | undefined;

  constructor(code: number, message: string, data?: FaultData) {
    super(message);
    this.name = "RpcFault";
    this.code = code;
    this.data = data;
  }
}

/** A URI that is none (Kamailio's text and code, dmq.md section 14). */
export function malformed(): RpcFault {
  return new RpcFault(500, "Failure", { exit: 2 });
}

export function invalidParameters(): RpcFault {
  return new RpcFault(500, "Invalid Parameters", { exit: 2 });
}

export function invalidStatus(): RpcFault {
  return new RpcFault(500, `Invalid Status - use: ${STATUSES.join(", ")}`, { exit: 2 });
}

export function alreadyAdded(): RpcFault {
  return new RpcFault(500, "Node is already added", { exit: 1 });
}

/** `dmq.change_status` of a node that is not in the registry. */
export function nodeNotFound(): RpcFault {
  return new RpcFault(500, "Node Not Found", { exit: 3 });
}

/** `dmq.change_status` of the node itself. */
export function nodeIsLocal(): RpcFault {
  return new RpcFault(500, "Node is local", { exit: 1 });
}

/** Ours: no such node, where Kamailio has no fault of its own (`dmq.remove` with `strict`, `dmq.send`). */
export function unknownNode(): RpcFault {
  return new RpcFault(404, "Node Not Found", { exit: 3 });
}

/** Ours: `dmq.remove` with `strict` of the node itself. */
export function localNode(): RpcFault {
  return new RpcFault(409, "Node is local", { exit: 1 });
}
