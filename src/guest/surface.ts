/** What a visitor can do of what a daemon does: list, send, broadcast, ping. Everything else needs a node, and says so. */
import { deliver, deliverToAll } from "../channel/delivery.ts";
import { UsageError } from "../core/errors.ts";
import type { Duration, Instant } from "../core/time.ts";
import { VERSION } from "../core/version.ts";
import { addressUri, isLiteral } from "../membership/peer.ts";
import { checkMessage } from "../node/message.ts";
import { checkOpen, kamailioFields, pingResultOf, resultOfTries, rounded } from "../rpc/rows.ts";
import {
  type BroadcastRequest,
  type ControlSurface,
  type DeliveryResult,
  type NodeRow,
  type PingRequest,
  type PingResult,
  RpcFault,
  type SendRequest,
  unknownNode,
} from "../rpc/surface.ts";
import type { VisitedNode } from "./reading.ts";
import type { Nobody, Visitor } from "./visitor.ts";

/** For all contacts together, if `--timeout` leaves so much. */
const READ_MS_MAX: Duration = 9_000;
/** How long a list is good for further messages, and "nobody" for saying so at once: `-l` sends many. */
const LIST_MS_MAX: Duration = 60_000;

export class GuestSurface implements ControlSurface {
  private readonly visitor: Visitor;
  private readonly notificationChannel: string;
  private readonly ending = new AbortController();
  private last: { at: Instant; nobody: Nobody | undefined } | undefined;

  constructor(visitor: Visitor, notificationChannel: string) {
    this.visitor = visitor;
    this.notificationChannel = notificationChannel;
  }

  async listNodes(): Promise<NodeRow[]> {
    await this.read(READ_MS_MAX);
    return this.visitor.nodes().map(rowOf);
  }

  async send(request: SendRequest): Promise<DeliveryResult> {
    if (request.spool !== undefined) throw needsDaemon();
    checkOpen(request, this.notificationChannel);
    checkMessage(request.channel, request);
    const message = await this.inTime(request);
    return resultOfTries(await known(deliver(this.visitor, message, { signal: this.ending.signal })));
  }

  async broadcast(request: BroadcastRequest): Promise<DeliveryResult[]> {
    if (request.spool !== undefined) throw needsDaemon();
    checkOpen(request, this.notificationChannel);
    checkMessage(request.channel, request);
    const message = await this.inTime(request);
    return (await deliverToAll(this.visitor, message, { signal: this.ending.signal })).map(resultOfTries);
  }

  async ping({ nodes, ...request }: PingRequest): Promise<PingResult[]> {
    const options = await this.inTime(request);
    return (await known(this.visitor.ping(nodes, options))).map(pingResultOf);
  }

  /** What is under way is `cancelled`, and nothing waits to be sent again. */
  close(): Promise<void> {
    this.ending.abort();
    return this.visitor.close();
  }

  /** Waits for a list that is fresh enough. @returns the options with what is left of their time */
  private async inTime<T extends { timeoutMs?: Duration }>(options: T): Promise<T> {
    const startedAt = performance.now();
    const { timeoutMs } = options;
    await this.refresh(Math.min(READ_MS_MAX, timeoutMs ?? READ_MS_MAX));
    if (timeoutMs === undefined) return options;
    return { ...options, timeoutMs: Math.max(1, timeoutMs - (performance.now() - startedAt)) };
  }

  private async refresh(timeoutMs: Duration): Promise<void> {
    const { last } = this;
    if (last === undefined || performance.now() - last.at > LIST_MS_MAX) await this.read(timeoutMs);
    else if (last.nobody !== undefined) throw unread(last.nobody);
  }

  private async read(timeoutMs: Duration): Promise<void> {
    const nobody = await this.visitor.read(timeoutMs);
    this.last = { at: performance.now(), nobody };
    if (nobody !== undefined) throw unread(nobody);
  }

  /** Who asks for it wants to know whether there is anybody before he begins (`-l`). */
  async version(): Promise<string> {
    await this.refresh(READ_MS_MAX);
    return `dmq ${VERSION}`;
  }

  live(): boolean {
    return true;
  }

  ready(): boolean {
    return true;
  }

  add(): never {
    throw needsDaemon();
  }

  remove(): never {
    throw needsDaemon();
  }

  changeStatus(): never {
    throw needsDaemon();
  }

  join(): never {
    throw needsDaemon();
  }

  leave(): never {
    throw needsDaemon();
  }

  stop(): never {
    throw needsDaemon();
  }

  reload(): never {
    throw needsDaemon();
  }

  replicate(): never {
    throw needsDaemon();
  }

  status(): never {
    throw needsDaemon();
  }

  listen(): never {
    throw needsDaemon();
  }

  answer(): never {
    throw needsDaemon();
  }

  logs(): never {
    throw needsDaemon();
  }

  followLogs(): never {
    throw needsDaemon();
  }

  subscribe(): never {
    throw needsDaemon();
  }
}

function needsDaemon(): RpcFault {
  return new RpcFault(501, "this needs a daemon, and --via goes without one; start one with: dmq serve", { exit: 4 });
}

function unread({ failures, refused }: Nobody): RpcFault {
  const why = failures.map((failure) => `${failure.contact}: ${failure.why}`).join("; ");
  return new RpcFault(503, `no node list from --via: ${why}`, { exit: refused ? 5 : 4 });
}

async function known<T>(sending: Promise<T>): Promise<T> {
  try {
    return await sending;
  } catch (cause) {
    if (cause instanceof UsageError && cause.code === "no-such-node") throw unknownNode();
    throw cause;
  }
}

function rowOf({ address, status, asked }: VisitedNode): NodeRow {
  const { host, port, transport } = address;
  return {
    ...kamailioFields(host, port, transport, isLiteral(address) ? host : "", status, 0),
    local: 0,
    uri: addressUri(address),
    rtt_ms: asked === undefined ? null : rounded(asked.rttMs),
    last_seen: asked === undefined ? null : new Date(performance.timeOrigin + asked.at).toISOString(),
    user_agent: asked?.userAgent ?? null,
    source: asked === undefined ? "mentioned" : "via",
    verified: asked !== undefined,
    in_flight: 0,
    queued: 0,
  };
}
