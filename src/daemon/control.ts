/** The control surface of a running node: what rpc/methods.ts serves, in the words and fields of docs/RPC.md. */
import type { AmqpSurface } from "../amqp/desk.ts";
import { deliver, deliverToAll } from "../channel/delivery.ts";
import { formatHost } from "../core/endpoint.ts";
import { UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import { VERSION } from "../core/version.ts";
import { Absent } from "../link/absent.ts";
import type { Links } from "../link/links.ts";
import type { Outbox } from "../link/outbox.ts";
import type { NodeEvent, PeerInfo } from "../node/io.ts";
import { checkOpen, kamailioFields, pingResultOf, resultOf, resultOfTries, rounded } from "../rpc/rows.ts";
import {
  type AnswerRequest,
  alreadyAdded,
  type BroadcastRequest,
  type ControlSurface,
  type DeliveryResult,
  type EventRecord,
  type LogLevel,
  type LogQuery,
  type LogRecord,
  localNode,
  type MessageEvent,
  malformed,
  type NodeRow,
  nodeIsLocal,
  nodeNotFound,
  type PingRequest,
  type PingResult,
  type QueueSurface,
  type ReloadReport,
  type ReplicateRequest,
  type RpcFault,
  type SendRequest,
  type Status,
  type StatusReport,
  unknownNode,
} from "../rpc/surface.ts";
import { monotonicNow, type RunningNode, wallTime } from "./driver.ts";
import type { Journal } from "./journal.ts";
import { spoolTo, spoolToAll } from "./linking.ts";
import { Listeners } from "./listeners.ts";

export interface ControlOptions {
  node: RunningNode;
  /** The node's `notification_channel`: whatever it is called, a stray body there freezes a Kamailio 5.6.3. */
  notificationChannel: string;
  /** What an answering listener has. */
  handlerTimeoutMs: Duration;
  journal: Journal;
  queues?: QueueSurface;
  amqp?: AmqpSurface;
  links?: Pick<Links, "status">;
  outbox?: Outbox;
  socketPath: string;
  stateDir: string | undefined;
  /** Takes in what changed in the configuration. */
  reload(): Promise<ReloadReport>;
  /** Ends the daemon; resolves when the node has left. */
  end(options: { announce: boolean }): Promise<void>;
}

const EVENT_TYPES = ["joined", "peer-up", "peer-down", "peer-disabled", "peer-removed", "warning"] as const;

export class Control implements ControlSurface {
  readonly queues?: QueueSurface;
  readonly amqp?: AmqpSurface;
  private readonly node: RunningNode;
  private readonly options: ControlOptions;
  private readonly startedAt = monotonicNow();
  private readonly listeners: Listeners;
  private readonly absent: Absent;
  private readonly subscribers = new Set<(event: EventRecord) => void>();
  private readonly ending = new AbortController();

  constructor(options: ControlOptions) {
    this.options = options;
    this.node = options.node;
    this.absent = new Absent(options.node);
    if (options.queues !== undefined) this.queues = options.queues;
    if (options.amqp !== undefined) this.amqp = options.amqp;
    this.listeners = new Listeners({
      node: options.node,
      handlerTimeoutMs: options.handlerTimeoutMs,
      changed: (channel, consumers) => this.consumersChanged(channel, consumers),
    });
  }

  /** What an answering listener has from now on. */
  setTimeout(handlerTimeoutMs: Duration): void {
    this.listeners.setTimeout(handlerTimeoutMs);
  }

  listNodes(): NodeRow[] {
    return [...this.node.nodes().map(peerRow), this.localRow()];
  }

  private localRow(): NodeRow {
    const local = localParts(this.node.uri());
    return {
      ...kamailioFields(local.host, local.port, local.transport, local.host, "active", 0),
      local: 1,
      uri: this.node.uri(),
      rtt_ms: null,
      last_seen: null,
      user_agent: null,
      source: "local",
      verified: true,
      in_flight: 0,
      queued: 0,
    };
  }

  add(uri: string, status?: Status): void {
    if (this.isLocal(uri) || this.isKnown(uri)) throw alreadyAdded();
    refusing(() => this.node.add(uri, status), malformed);
  }

  remove(uri: string): void {
    if (this.isLocal(uri)) throw localNode();
    const isKnown = refusing(() => this.node.remove(uri), malformed);
    // Behind it: it is this that makes it one of the absent.
    const wasAbsent = this.absent.forget(uri);
    if (!isKnown && !wasAbsent) throw unknownNode();
  }

  changeStatus(uri: string, status: string): "changed" | "already" {
    if (this.isLocal(uri)) throw nodeIsLocal();
    return refusing(() => this.node.setStatus(uri, status as Status), nodeNotFound);
  }

  async send(request: SendRequest): Promise<DeliveryResult> {
    checkOpen(request, this.options.notificationChannel);
    const { outbox } = this.options;
    if (request.spool !== undefined && outbox !== undefined) return spoolTo(outbox, this.node, request);
    try {
      return resultOfTries(await deliver(this.node, request, { signal: this.ending.signal }));
    } catch (cause) {
      if (cause instanceof UsageError && cause.code === "no-such-node") throw unknownNode();
      throw cause;
    }
  }

  async broadcast(request: BroadcastRequest): Promise<DeliveryResult[]> {
    checkOpen(request, this.options.notificationChannel);
    const { outbox } = this.options;
    if (request.spool !== undefined && outbox !== undefined) return spoolToAll(outbox, this.node, this.absent, request);
    return (await deliverToAll(this.node, request, { signal: this.ending.signal })).map(resultOfTries);
  }

  join(uris: string[]): void {
    refusing(() => this.node.join(uris), malformed);
  }

  leave(): Promise<void> {
    return this.end({ announce: true });
  }

  stop(): Promise<void> {
    return this.end({ announce: false });
  }

  reload(): Promise<ReloadReport> {
    return this.options.reload();
  }

  async replicate({ octets, timeoutMs }: ReplicateRequest): Promise<DeliveryResult[]> {
    const reports = await this.node.replicate(octets, timeoutMs === undefined ? {} : { timeoutMs });
    return reports.map((report) => resultOf(report));
  }

  private end(options: { announce: boolean }): Promise<void> {
    this.close();
    return this.options.end(options);
  }

  status(): StatusReport {
    const peers = { active: 0, not_active: 0, disabled: 0 };
    for (const peer of this.node.nodes()) peers[peer.status]++;
    return {
      version: VERSION,
      pid: process.pid,
      uptime_s: Math.floor((monotonicNow() - this.startedAt) / 1_000),
      uri: this.node.uri(),
      listeners: this.node.sockets().map(({ transport, ip, port }) => `${transport}:${formatHost(ip)}:${port}`),
      channels: this.node.channels().map(({ name, declared, consumed }) => ({
        name,
        declared,
        consumers: this.listeners.count(name) ?? (consumed ? 1 : 0),
      })),
      peers,
      counters: { ...this.node.counters() },
      ready: this.ready(),
      socket: this.options.socketPath,
      state_dir: this.options.stateDir ?? null,
      links: this.options.links?.status() ?? [],
    };
  }

  version(): string {
    return `dmq ${VERSION}`;
  }

  live(): boolean {
    return true;
  }

  /** The node is on its way out, whoever asked for it: it is not ready any more, and nothing waits to be sent again. */
  close(): void {
    this.ending.abort();
  }

  /** Ready: it serves, and is not on its way out. A node without peers is ready, because a first node has none. */
  ready(): boolean {
    return !this.ending.signal.aborted;
  }

  listen(
    channels: string[],
    onMessage: (message: MessageEvent) => void,
    { answer = false }: { answer?: boolean } = {},
  ): () => void {
    return this.listeners.add(channels, onMessage, answer);
  }

  answer(request: AnswerRequest): void {
    this.listeners.answer(request);
  }

  async ping({ nodes, timeoutMs }: PingRequest): Promise<PingResult[]> {
    const options = timeoutMs === undefined ? {} : { timeoutMs };
    const reports = await refusing(() => this.node.ping(nodes, options), unknownNode);
    return reports.map(pingResultOf);
  }

  logs(query: LogQuery): LogRecord[] {
    return this.options.journal.read(query);
  }

  followLogs(level: LogLevel | undefined, onRecord: (record: LogRecord) => void): () => void {
    return this.options.journal.follow(level, onRecord);
  }

  subscribe(onEvent: (event: EventRecord) => void): () => void {
    const ends = EVENT_TYPES.map((type) => this.node.on(type, (event) => onEvent(eventRecord(event))));
    this.subscribers.add(onEvent);
    return () => {
      this.subscribers.delete(onEvent);
      for (const end of ends) end();
    };
  }

  private consumersChanged(channel: string, consumers: number): void {
    const event: EventRecord = { type: "consumers", time: wallTime(monotonicNow()), channel, consumers };
    for (const subscriber of [...this.subscribers]) subscriber(event);
  }

  private isLocal(uri: string): boolean {
    return uri === this.node.uri();
  }

  private isKnown(uri: string): boolean {
    return this.node.nodes().some((peer) => peer.uri === uri);
  }
}

/** Runs `call`; a text that is no node's address becomes the fault that Kamailio has for it. */
function refusing<T>(call: () => T, fault: () => RpcFault): T {
  try {
    return call();
  } catch (cause) {
    if (cause instanceof UsageError) throw fault();
    throw cause;
  }
}

function peerRow(peer: PeerInfo): NodeRow {
  const { host, port, transport, resolvedIp, status, failCount } = peer;
  const { fail_count, ...fields } = kamailioFields(host, port, transport, resolvedIp, status, failCount);
  return {
    ...fields,
    local: 0,
    fail_count,
    uri: peer.uri,
    rtt_ms: peer.rttMs === undefined ? null : rounded(peer.rttMs),
    last_seen: peer.lastSeen === undefined ? null : wallTime(peer.lastSeen),
    user_agent: peer.userAgent ?? null,
    source: peer.source,
    verified: peer.verified,
    in_flight: peer.inFlight,
    queued: peer.queued,
  };
}

/** `sip:host:port[;transport=…]` as `RunningNode.uri` writes it. */
function localParts(uri: string): { host: string; port: number; transport: "udp" | "tcp" | "tls" } {
  const [address = "", parameter] = uri.slice("sip:".length).split(";transport=");
  const colon = address.lastIndexOf(":");
  const host = address.slice(0, colon).replaceAll(/[[\]]/g, "");
  const transport = parameter === "tcp" || parameter === "tls" ? parameter : "udp";
  return { host, port: Number(address.slice(colon + 1)), transport };
}

function eventRecord(event: Extract<NodeEvent, { type: (typeof EVENT_TYPES)[number] }>): EventRecord {
  const time = wallTime(monotonicNow());
  if (event.type === "joined") return { type: event.type, time, nodes: event.nodes };
  if (event.type !== "warning") {
    const { type, peer, reason } = event;
    return { type, time, node: peer.uri, status: peer.status, reason };
  }
  const { type, code, text, peer } = event;
  return { type, time, code, text, ...(peer === undefined ? {} : { node: peer }) };
}
