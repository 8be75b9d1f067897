/** A control surface without a node: a registry of rows, a log of calls, and streams that the test feeds by hand. */
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
  type ReloadReport,
  type ReplicateRequest,
  RpcFault,
  type SendRequest,
  type Status,
  type StatusReport,
  unknownNode,
} from "../../src/rpc/surface.ts";

export const LOCAL_URI = "sip:127.0.0.1:5060";
export const PEER_URI = "sip:127.0.0.2:5060";

/** The fields are in another order than the wire's on purpose: methods.ts has to put them right. */
export function rowOf(uri: string, status: Status, local: 0 | 1 = 0): NodeRow {
  const [, host = "", port = ""] = uri.split(":");
  return {
    uri,
    host,
    port,
    proto: "*",
    status,
    resolved_ip: host,
    local,
    last_notification: 0,
    fail_count: 0,
    rtt_ms: null,
    last_seen: null,
    user_agent: null,
    source: "added",
    verified: true,
    in_flight: 0,
    queued: 0,
  };
}

export const STATUS_REPORT: StatusReport = {
  version: "dmq 0.1.0",
  pid: 4711,
  uptime_s: 90.5,
  uri: LOCAL_URI,
  listeners: ["udp:127.0.0.1:5060"],
  channels: [{ name: "channel1", consumers: 1, declared: true }],
  peers: { active: 1, not_active: 0, disabled: 0 },
  counters: { received: 3 },
  ready: true,
  links: [],
  socket: "dmq.sock",
};

export class FakeSurface implements ControlSurface {
  readonly rows = [rowOf(PEER_URI, "active"), rowOf(LOCAL_URI, "active", 1)];
  readonly calls: unknown[] = [];
  readonly listeners = new Map<(message: MessageEvent) => void, string[]>();
  readonly subscribers = new Set<(event: EventRecord) => void>();
  readonly followers = new Set<(record: LogRecord) => void>();
  readonly logLines: LogRecord[] = [];
  isLive = true;
  isReady = true;
  /** Set to make a call throw or wait. */
  onSend: (request: SendRequest) => Promise<DeliveryResult> = async (request) => delivered(request.node);
  onStop: () => Promise<void> = async () => {};
  onStatus: () => StatusReport = () => STATUS_REPORT;

  listNodes(): NodeRow[] {
    return this.rows;
  }

  add(uri: string, status: Status = "active"): void {
    if (this.#find(uri) !== undefined) throw alreadyAdded();
    this.rows.unshift(rowOf(uri, status));
  }

  remove(uri: string): void {
    const row = this.#find(uri);
    if (row === undefined) throw unknownNode();
    if (row.local === 1) throw localNode();
    this.rows.splice(this.rows.indexOf(row), 1);
  }

  changeStatus(uri: string, status: string): "changed" | "already" {
    const row = uri.startsWith("sip:") ? this.#find(uri) : undefined;
    if (row === undefined) throw nodeNotFound();
    if (row.local === 1) throw nodeIsLocal();
    if (row.status === status) return "already";
    row.status = status as Status;
    return "changed";
  }

  send(request: SendRequest): Promise<DeliveryResult> {
    this.calls.push(request);
    return this.onSend(request);
  }

  async broadcast(request: BroadcastRequest): Promise<DeliveryResult[]> {
    this.calls.push(request);
    return [delivered(PEER_URI)];
  }

  join(uris: string[]): void {
    this.calls.push(uris);
  }

  async leave(): Promise<void> {
    this.calls.push("leave");
  }

  async stop(): Promise<void> {
    this.calls.push("stop");
    await this.onStop();
  }

  async reload(): Promise<ReloadReport> {
    this.calls.push("reload");
    return { changed: ["tls certificates"], needs_restart: [] };
  }

  async replicate(request: ReplicateRequest): Promise<DeliveryResult[]> {
    this.calls.push(`replicate ${new TextDecoder().decode(request.octets)} ${request.timeoutMs ?? "-"}`);
    return [];
  }

  status(): StatusReport {
    return this.onStatus();
  }

  version(): string {
    return STATUS_REPORT.version;
  }

  live(): boolean {
    return this.isLive;
  }

  ready(): boolean {
    return this.isReady;
  }

  answer(request: AnswerRequest): void {
    this.calls.push(request);
    if (request.replyId === "late") throw new RpcFault(404, "too late", { exit: 3 });
  }

  async ping(request: PingRequest): Promise<PingResult[]> {
    this.calls.push(request);
    return (request.nodes ?? [PEER_URI]).map((node) => {
      return { node, outcome: "delivered", code: 200, reason: "OK", ms: 1.5, attempts: 1 };
    });
  }

  logs(query: LogQuery): LogRecord[] {
    this.calls.push(query);
    return this.logLines;
  }

  followLogs(level: LogLevel | undefined, onRecord: (record: LogRecord) => void): () => void {
    this.calls.push(`follow ${level ?? "-"}`);
    this.followers.add(onRecord);
    return () => this.followers.delete(onRecord);
  }

  listen(
    channels: string[],
    onMessage: (message: MessageEvent) => void,
    { answer = false }: { answer?: boolean } = {},
  ): () => void {
    if (answer) this.calls.push(`answering ${channels.join(" ")}`);
    if (channels.includes("closed")) throw unknownNode();
    this.listeners.set(onMessage, channels);
    return () => this.listeners.delete(onMessage);
  }

  subscribe(onEvent: (event: EventRecord) => void): () => void {
    this.subscribers.add(onEvent);
    return () => this.subscribers.delete(onEvent);
  }

  /** What a node does when a message comes in. */
  deliver(channel: string, body: string): void {
    for (const [listener, channels] of this.listeners)
      if (channels.includes(channel)) listener(messageOf(channel, body));
  }

  emit(event: EventRecord): void {
    for (const subscriber of this.subscribers) subscriber(event);
  }

  #find(uri: string): NodeRow | undefined {
    if (!uri.startsWith("sip:")) throw malformed();
    return this.rows.find((row) => row.uri === uri);
  }
}

export function delivered(node: string): DeliveryResult {
  return {
    node,
    outcome: "delivered",
    code: 200,
    reason: "OK",
    ms: 1.5,
    consumer: true,
    attempts: 1,
    tries: 1,
    message_id: null,
  };
}

export function messageOf(channel: string, body: string): MessageEvent {
  return {
    channel,
    from: PEER_URI,
    node: PEER_URI,
    source: "udp:127.0.0.2:5060",
    call_id: "a@b",
    message_id: null,
    content_type: "text/plain",
    max_forwards: 1,
    accepts_body: false,
    size: Buffer.byteLength(body),
    body,
    time: "2026-01-01T00:00:00.000Z",
  };
}
