/**
 * The loop around the core: octets, DNS answers and the time go in, what the core wants done is done, one timer is set.
 * `createNode` is what the library offers; the daemon adds a control socket to it and nothing else.
 */

import type { Handler } from "../channel/channel.ts";
import { Dispatcher } from "../channel/dispatcher.ts";
import { type Route, type RouteOptions, Router } from "../channel/router.ts";
import { EMPTY } from "../core/bytes.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { ProtocolError, UsageError } from "../core/errors.ts";
import type { Random } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";
import type { Status } from "../membership/status.ts";
import type {
  Answer,
  HandlerMode,
  IncomingRequest,
  NodeCounters,
  NodeEvent,
  OutcomeReport,
  Output,
  PeerInfo,
} from "../node/io.ts";
import {
  type Addressed,
  DmqNode,
  type NodeChanges,
  type NodeOptions,
  type ReplicateOptions,
  type SendOptions,
} from "../node/node.ts";
import { checkCount, checkDuration } from "../node/options.ts";
import { Warnings } from "../node/warnings.ts";
import { Resolver } from "../transport/resolver.ts";
import type { TlsOptions } from "../transport/tls.ts";
import type { Listener, TransportSink } from "../transport/transport.ts";
import { QueueFull } from "../transport/udp.ts";
import { aside } from "./aside.ts";
import { Outcomes } from "./outcomes.ts";
import { families, ownAddresses } from "./reach.ts";
import { openSockets, ownAddress, type SocketOptions, type Sockets } from "./sockets.ts";

export interface CreateNodeOptions extends Omit<NodeOptions, "address">, SocketOptions {
  /** Our own address, `sip:IP:port[;transport=tcp|tls]` or `sips:IP:port`; port 0 takes a free one. */
  serverAddress: string;
  /** Handler runs at a time, default 2. */
  numWorkers?: number;
  /** Milliseconds between the workers' looks at their queue; 0 (default) wakes them. */
  workerSleepMs?: Duration;
  /** Milliseconds until what a late handler or route has not answered is answered 503, default 1,500. */
  handlerTimeoutMs?: Duration;
  /** `IP[:PORT]` each: these DNS servers are asked instead of the system's. */
  dnsServers?: readonly string[];
}

const NOBODY: Endpoint = { transport: "udp", ip: "0.0.0.0", port: 0 };
const HANDLER_TIMEOUT_MS: Duration = 1_500;

/** The clock of this process: milliseconds that never run back. */
export function monotonicNow(): Instant {
  return performance.now();
}

/** ISO 8601 of an instant of `monotonicNow`. */
export function wallTime(at: Instant): string {
  return new Date(performance.timeOrigin + at).toISOString();
}

/** What a caller may hear of, and do to, requests that are under way. */
export interface Following {
  /** Called for each of them when it is over. */
  onResponse?: (report: OutcomeReport) => void;
  /** Gives those up that are not over: their outcome is `cancelled`, and an answer that still comes is not looked at. */
  signal?: AbortSignal;
}

type Listeners = { [K in NodeEvent["type"]]?: Set<(event: Extract<NodeEvent, { type: K }>) => void> };

/** A node that runs: the core, its sockets and its handlers. Made by `createNode`. */
export class RunningNode {
  private readonly core: DmqNode;
  private readonly opened: Sockets;
  private readonly resolver: Resolver;
  private readonly dispatcher: Dispatcher;
  private readonly router: Router;
  private readonly initWithSingle: boolean;
  /** Since `joined`, until the last active peer is lost. */
  private isMet = false;
  private readonly outcomes = new Outcomes();
  private readonly listeners: Listeners = {};
  /** Of what the core does not see. */
  private readonly warnings = new Warnings({ event: (event) => this.emit(event) });
  private timer: ReturnType<typeof setTimeout> | undefined;
  private timerAt: Instant | undefined;
  private draining = false;
  private arming = false;
  private inputAt: Instant = 0;
  /** One for all octets that come in. */
  private readonly input = { type: "received" as const, from: NOBODY, flow: 0, bytes: EMPTY, start: 0, end: 0 };
  private closed = false;
  private closing: Promise<void> | undefined;
  private left: (() => void) | undefined;

  /** @internal Use `createNode`. */
  constructor(core: DmqNode, sockets: Sockets, options: CreateNodeOptions) {
    this.core = core;
    this.opened = sockets;
    this.initWithSingle = options.initWithSingle === true;
    this.resolver = new Resolver({ servers: options.dnsServers ?? [], families: families(sockets.listeners()) });
    this.dispatcher = new Dispatcher(
      {
        answer: (id, answer) => this.answer(id, answer),
        now: () => this.now(),
        failed: (channel, cause) => this.emitFailure(`handler of channel ${channel}`, cause),
        changed: () => this.armSoon(),
      },
      options,
    );
    this.router = new Router(
      {
        answer: (id, answer) => this.answer(id, answer),
        serve: (id) => this.run((now) => core.serve(id, now)),
        take: (id, mode) => this.run((now) => core.take(id, mode, now)),
        now: monotonicNow,
        failed: (cause) => this.emitFailure("the route", cause),
        changed: () => this.armSoon(),
      },
      options.handlerTimeoutMs ?? HANDLER_TIMEOUT_MS,
    );
  }

  /** Joins the bus. `createNode` has called it. */
  start(): void {
    this.run((now) => this.core.start(now));
  }

  // --- channels ----------------------------------------------------------------------------------------------------

  /** Makes a channel known without a handler: messages on it are answered 202. */
  declare(name: string): void {
    this.dispatcher.declare(name);
  }

  /**
   * Gives a channel a handler (Kamailio's `register_dmq_peer`).
   *
   * @param handler       returns nothing (200), a status code, or `{ status, reason, contentType, body }`; or a promise of
   *                      that. A throw is 500, silence beyond `handlerTimeoutMs` is 503 with Retry-After
   * @param options.mode  `queued` (default): on one of `numWorkers` workers, in order for one sender. `inline`: at once
   * @param options.init  called at the first contact with the bus, and again after all peers were lost: `nodes` are the
   *                      active ones, or with `initWithSingle` the one that answered first. The place to ask for a
   *                      synchronisation (`init_callback` in Kamailio). At once if the bus has been met already, with
   *                      those that are active by then, or with `initWithSingle` the one that has been known longest
   * @returns             the function that takes the handler away
   * @throws UsageError   if the channel has a handler already
   */
  channel(
    name: string,
    handler: Handler,
    options: { mode?: HandlerMode; init?: (nodes: readonly string[]) => void } = {},
  ): () => void {
    const unregister = this.dispatcher.register(name, handler, options.mode ?? "queued");
    const { init } = options;
    if (init === undefined) return unregister;
    const silence = this.on("joined", ({ nodes }) => init(nodes));
    const nodes = this.toSynchroniseWith();
    if (nodes.length > 0) init(nodes);
    return () => {
      silence();
      unregister();
    };
  }

  /** For a handler that comes after the first contact; empty where that, the first or the next one, is still to come. */
  private toSynchroniseWith(): string[] {
    if (!this.isMet) return [];
    const active = this.activeUris();
    return this.initWithSingle ? active.slice(-1) : active;
  }

  private activeUris(): string[] {
    return this.nodes().flatMap(({ status, uri }) => (status === "active" ? [uri] : []));
  }

  channels(): { name: string; declared: boolean; consumed: boolean }[] {
    return this.dispatcher.names();
  }

  // --- sending -----------------------------------------------------------------------------------------------------

  /**
   * Sends to one node, whatever its status (`dmq_send_message`, `send_message`).
   *
   * @param node  URI of a peer as `nodes()` has it
   * @returns     how it ended; it never rejects for what the peer or the network does
   * @throws UsageError  node not known (`code` is `no-such-node`), or a message that cannot be sent (`usage`)
   */
  send(
    channel: string,
    node: string,
    body: string | Uint8Array,
    options: SendOptions & Following = {},
  ): Promise<OutcomeReport> {
    const id = this.run((now) => this.core.send(channel, node, octets(body), options, now), false);
    const reports = this.gather(() => [{ request: id, peer: node }], options);
    return reports.then(([report]) => report as OutcomeReport);
  }

  /**
   * Sends to every active peer but those in `except` (`dmq_bcast_message`, `bcast_message`).
   *
   * @returns one report for each peer, in the order of `nodes()`; empty if there is nobody
   */
  broadcast(
    channel: string,
    body: string | Uint8Array,
    options: SendOptions & Following & { except?: readonly string[] } = {},
  ): Promise<OutcomeReport[]> {
    return this.gather(
      () => this.run((now) => this.core.broadcast(channel, octets(body), options, now), false),
      options,
    );
  }

  /**
   * Measures the way to peers and back: what they are sent is an ordinary ping of the bus, and nothing follows of its end.
   *
   * @param nodes        URIs of peers as `nodes()` has them; without them, all peers
   * @returns            one report for each
   * @throws UsageError  for a node that is not known (`no-such-node`) or no address (`usage`); then none is pinged
   */
  ping(nodes?: readonly string[], options: { timeoutMs?: Duration } = {}): Promise<OutcomeReport[]> {
    return this.gather(() => this.run((now) => this.core.ping(nodes, options, now), false), {});
  }

  private gather(send: () => Addressed[], { onResponse, signal }: Following): Promise<OutcomeReport[]> {
    const addressed = send();
    if (addressed.length === 0) {
      this.drain();
      return Promise.resolve([]);
    }
    const reports = this.outcomes.gather(addressed, onResponse);
    this.drain();
    if (signal !== undefined) this.giveUpOn(signal, addressed, reports);
    return reports;
  }

  private giveUpOn(signal: AbortSignal, addressed: readonly Addressed[], over: Promise<unknown>): void {
    const giveUp = (): void => {
      for (const { request } of addressed)
        if (this.outcomes.isAwaited(request)) this.run((now) => this.core.cancel(request, now));
    };
    if (signal.aborted) {
      giveUp();
      return;
    }
    signal.addEventListener("abort", giveUp, { once: true });
    over.then(() => signal.removeEventListener("abort", giveUp));
  }

  // --- routing -----------------------------------------------------------------------------------------------------

  /**
   * Sets the route: a function that sees each SIP request that is no KDMQ, and with `kdmq` those too, before the node does.
   * Retransmissions, ACK, CANCEL and malformed requests do not get there.
   *
   * @param route  returns nothing to leave the request to the node (KDMQ is handled, OPTIONS is 200, anything else 405), a
   *               status code or an answer to end it; or a promise of that. A throw is 500, silence beyond
   *               `handlerTimeoutMs` is 503 with Retry-After
   * @returns      the function that takes the route away
   * @throws UsageError if there is a route already
   */
  onRequest(route: Route, options: RouteOptions = {}): () => void {
    const unset = this.router.set(route);
    this.core.route(options.kdmq === true ? "all" : "others");
    return () => {
      // Called again, it must not make the route deaf that has come since.
      if (unset()) this.core.route("none");
    };
  }

  /**
   * In a route: gives a KDMQ request to its channel's handler, on one of the `numWorkers` workers (`dmq_handle_message`).
   * The handler's answer is the request's; what the route returns does not count any more.
   *
   * @param options.continue  the route goes on with the request, to replicate it say; without it the request is ended
   * @throws UsageError for a method other than KDMQ, or a request that was given away before
   */
  handle(request: IncomingRequest, options: { continue?: boolean } = {}): void {
    this.router.take(request, "queued", options.continue === true);
  }

  /** As `handle`, but the handler runs at once, before the next datagram is looked at (`dmq_process_message`). */
  process(request: IncomingRequest, options: { continue?: boolean } = {}): void {
    this.router.take(request, "inline", options.continue === true);
  }

  /**
   * Passes a request from outside the bus on to every active peer, unchanged but for our Via on top (`dmq_t_replicate`).
   *
   * @param request               what a route was given, or the octets of a SIP request (Via and Content-Length may be missing)
   * @param options.skipLoopTest  also if it came from the address of a node, or is a copy of ours; without it such a request goes nowhere
   * @returns one report for each peer; empty if there is nobody, or the request came from a node or has passed this one
   * @throws UsageError for octets that are no SIP request, for INVITE, ACK, CANCEL, KDMQ, and for a request that the route
   *         has ended
   */
  replicate(
    request: IncomingRequest | Uint8Array,
    options: ReplicateOptions & Following = {},
  ): Promise<OutcomeReport[]> {
    if (!(request instanceof Uint8Array)) this.router.checkOpen(request);
    return this.gather(() => this.run((now) => this.core.replicate(request, options, now), false), options);
  }

  // --- membership --------------------------------------------------------------------------------------------------

  /** Our own URI as on our line. */
  uri(): string {
    return this.core.uri();
  }

  /** The peers, newest first; the local node is not among them. */
  nodes(): PeerInfo[] {
    return this.core.nodes();
  }

  counters(): Readonly<NodeCounters> {
    return this.core.counters;
  }

  /** True if a peer, of whatever status, has the IP address that a request came from (`dmq_is_from_node`). */
  isFromNode(from: IncomingRequest | string): boolean {
    return this.core.isFromNode(typeof from === "string" ? from : from.source.ip);
  }

  /** @throws UsageError for a malformed address, or a node that is known already */
  add(uri: string, status?: Status): void {
    this.run((now) => this.core.add(uri, status, now));
  }

  /** @returns false where no such peer is known. @throws UsageError for a malformed address */
  remove(uri: string): boolean {
    return this.run((now) => this.core.remove(uri, now));
  }

  /** @throws UsageError for a malformed address or one that is not known (`no-such-node`) */
  setStatus(uri: string, status: Status): "changed" | "already" {
    return this.run((now) => this.core.setStatus(uri, status, now));
  }

  /** Adds notification addresses for this run. @throws UsageError for a malformed one */
  join(uris: readonly string[]): void {
    this.run((now) => this.core.join(uris, now));
  }

  /**
   * Reads the files of the TLS options again: handshakes from now on use them, connections that are up stay as they are.
   *
   * @param options       other files and rules than those of the start
   * @returns             false where there are none, and were none
   * @throws ConfigError  a rejection: a file is missing or wrong; what was read before stays in use
   */
  reloadTls(options?: TlsOptions): Promise<boolean> {
    return this.opened.reloadTls(options);
  }

  /**
   * Changes options while the node runs: what comes from now on goes by them, what is under way ends as it began.
   *
   * @throws ConfigError for a value that `createNode` refuses, too; nothing is changed then
   */
  configure(changes: NodeChanges & { handlerTimeoutMs?: Duration }): void {
    const { handlerTimeoutMs, ...ofCore } = changes;
    checkDuration("handlerTimeoutMs", handlerTimeoutMs, 1);
    this.run((now) => this.core.configure(ofCore, now));
    if (handlerTimeoutMs === undefined) return;
    this.dispatcher.setTimeout(handlerTimeoutMs);
    this.router.setTimeout(handlerTimeoutMs);
  }

  /** How far this node is behind its own deadlines: next to nothing, unless its loop or its timer is stuck. */
  behindMs(): Duration {
    const next = this.closed ? undefined : this.nextTimeout();
    return next === undefined ? 0 : Math.max(0, monotonicNow() - next);
  }

  /** Where the node listens. */
  sockets(): Listener[] {
    return this.opened.listeners();
  }

  // --- events ------------------------------------------------------------------------------------------------------

  /** @returns the function that ends it */
  on<K extends NodeEvent["type"]>(type: K, listener: (event: Extract<NodeEvent, { type: K }>) => void): () => void {
    const listeners = this.listeners as Record<K, Set<typeof listener> | undefined>;
    const set = listeners[type] ?? new Set<typeof listener>();
    listeners[type] = set;
    set.add(listener);
    return () => set.delete(listener);
  }

  private emit(event: NodeEvent): void {
    const set = this.listeners[event.type] as Set<(event: NodeEvent) => void> | undefined;
    if (set !== undefined) for (const listener of [...set]) aside(() => listener(event));
  }

  private emitFailure(what: string, cause: unknown): void {
    const text = `${what} failed: ${cause instanceof Error ? cause.message : String(cause)}`;
    this.emit({ type: "warning", code: "handler-failed", text });
  }

  // --- stopping ----------------------------------------------------------------------------------------------------

  /**
   * Stops within two seconds: handlers finish, what waits for an answer is `cancelled`, and with `announce` every peer is
   * told that we leave. Called again, it returns the same promise.
   */
  close(options: { announce: boolean }): Promise<void> {
    this.closing ??= this.shut(options);
    return this.closing;
  }

  private async shut(options: { announce: boolean }): Promise<void> {
    const left = new Promise<void>((resolve) => {
      this.left = resolve;
    });
    this.run((now) => this.core.leave(options, now));
    await left;
    this.dispatcher.abandon();
    this.closed = true;
    clearTimeout(this.timer);
    this.resolver.close();
    this.opened.shutdown();
  }

  // --- the loop ----------------------------------------------------------------------------------------------------

  /** What the transports call. */
  sink(): TransportSink {
    return {
      received: (from, flow, octets, start, end, size) => this.received(from, flow, octets, start, end, size),
      closed: (flow, cause) =>
        this.run((now) => this.core.handle({ type: "closed", flow, ...(cause === undefined ? {} : { cause }) }, now)),
      unsent: (to, cause) => {
        // Our own queue was full: nothing is known of the peer, and retransmission repairs it.
        if (cause instanceof QueueFull) return;
        this.run((now) => this.core.handle({ type: "unsent", to, cause }, now));
      },
      accepts: (from) => this.run((now) => this.core.accepts(from, now)),
      refused: (_remote, cause) => this.warnings.warn("tls-refused", cause.message, monotonicNow()),
    };
  }

  /** The time of the input that is being worked off: asking the clock for each answer to it would cost more than the answer. */
  private now(): Instant {
    return this.draining ? this.inputAt : monotonicNow();
  }

  private received(from: Endpoint, flow: number, octets: Uint8Array, start: number, end: number, size: number): void {
    const { input } = this;
    // Datagrams that came in one piece have come at one time.
    this.clock();
    let at = start;
    do {
      input.from = from;
      input.flow = flow;
      input.bytes = octets;
      input.start = at;
      at = Math.min(at + size, end);
      input.end = at;
      this.core.handle(input, this.inputAt);
      this.drain();
    } while (at < end);
    input.bytes = EMPTY;
  }

  private clock(): Instant {
    this.inputAt = monotonicNow();
    return this.inputAt;
  }

  private answer(id: number, answer: Answer): void {
    this.core.answer(id, answer, this.now());
    this.drain();
  }

  private run<T>(call: (now: Instant) => T, drain = true): T {
    const result = call(this.clock());
    if (drain) this.drain();
    return result;
  }

  private drain(): void {
    // A handler that answers at once comes here from within: its output is polled by the loop that is running already.
    if (this.draining) return;
    this.draining = true;
    try {
      for (let output = this.core.poll(); output !== undefined; output = this.core.poll()) this.perform(output);
    } finally {
      this.draining = false;
    }
    this.armSoon();
  }

  private perform(output: Output): void {
    // Whoever sends after the end still learns that it is `cancelled`, but there is nothing to send with any more.
    if (this.closed && output.type !== "event") return;
    switch (output.type) {
      case "transmit":
        this.transmit(output);
        break;
      case "close":
        this.opened.closeFlow(output.flow);
        break;
      case "resolve":
        this.resolve(output.host, output.services);
        break;
      case "event":
        this.onEvent(output.event);
        break;
    }
  }

  private transmit(output: Extract<Output, { type: "transmit" }>): void {
    const { to } = output;
    const cause = this.opened.send(to, output.flow, output, output.close);
    // Anyone may name a node with a transport that is not open here: that is unsent, like any other.
    if (cause !== undefined)
      queueMicrotask(() => this.run((now) => this.core.handle({ type: "unsent", to, cause }, now)));
  }

  private resolve(host: string, services: boolean): void {
    this.resolver.resolve(host, services).then((found) => {
      const { complete, ttlMs, cause } = found;
      const facts = { host, addresses: [...found.addresses], complete, ttlMs, ...(cause !== undefined && { cause }) };
      const asked = services ? { services: [...found.services] } : {};
      this.run((now) => this.core.handle({ type: "resolved", ...facts, ...asked }, now));
    });
  }

  private onEvent(event: NodeEvent): void {
    switch (event.type) {
      case "message":
        this.emit(event);
        this.dispatcher.receive(event.message, event.mode);
        break;
      case "request":
        this.emit(event);
        this.router.receive(event.request);
        break;
      case "joined":
        this.isMet = true;
        this.emit(event);
        break;
      case "peer-down":
      case "peer-disabled":
      case "peer-removed":
        if (this.activeUris().length === 0) this.isMet = false;
        this.emit(event);
        break;
      case "outcome":
        this.outcomes.take(event.report);
        this.emit(event);
        break;
      case "left":
        this.left?.();
        break;
      default:
        this.emit(event);
    }
  }

  /** Once for all that one wake-up brings: what is due within it is due now. */
  private armSoon(): void {
    if (this.arming || this.closed) return;
    this.arming = true;
    setImmediate(this.onArm);
  }

  private readonly onArm = (): void => {
    this.arming = false;
    this.arm();
  };

  /** One timer for everything; an early one is harmless, so it is moved only when something is due before it. */
  private arm(): void {
    if (this.closed) return;
    const next = this.nextTimeout();
    if (next === undefined || (this.timerAt !== undefined && this.timerAt <= next)) return;
    clearTimeout(this.timer);
    this.timerAt = next;
    this.timer = setTimeout(() => this.onTimer(), Math.max(0, Math.ceil(next - monotonicNow())));
  }

  private nextTimeout(): Instant | undefined {
    return earliest(this.core.nextTimeout(), this.dispatcher.nextTimeout(), this.router.nextTimeout());
  }

  private onTimer(): void {
    this.timerAt = undefined;
    this.run((now) => {
      this.dispatcher.handleTimeout(now);
      this.router.handleTimeout(now);
      this.core.handleTimeout(now);
    });
  }
}

function earliest(...instants: (Instant | undefined)[]): Instant | undefined {
  let first: Instant | undefined;
  for (const at of instants) if (at !== undefined && (first === undefined || at < first)) first = at;
  return first;
}

function octets(body: string | Uint8Array): Uint8Array {
  return typeof body === "string" ? new TextEncoder().encode(body) : body;
}

const SYSTEM_RANDOM: Random = systemRandom();

/** The system's cryptographic source, fetched a page at a time. */
function systemRandom(): Random {
  const page = new Uint32Array(256);
  let used = page.length;
  return {
    u32() {
      if (used === page.length) {
        crypto.getRandomValues(page);
        used = 0;
      }
      return page[used++] as number;
    },
  };
}

/**
 * Starts a node: opens its sockets and joins the bus.
 *
 * @param prepare         called before the node joins: listeners and handlers that are set here miss nothing
 * @throws ConfigError     an option is malformed (a number out of bounds, server_address no IP literal, server_socket no `proto:ip:port`), or a TLS
 *                         file is missing or wrong
 * @throws TransportError  an address cannot be bound (`transport-bind`)
 */
export async function createNode(
  options: CreateNodeOptions,
  prepare: (node: RunningNode) => void = () => {},
): Promise<RunningNode> {
  const address = ownAddress(options.serverAddress);
  checkCount("numWorkers", options.numWorkers, 1);
  checkDuration("workerSleepMs", options.workerSleepMs, 0);
  checkDuration("handlerTimeoutMs", options.handlerTimeoutMs, 1);
  const sink: TransportSink = {
    received: (from, flow, octets, start, end, size) => deliver?.received(from, flow, octets, start, end, size),
    closed: (flow, cause) => deliver?.closed(flow, cause),
    unsent: (to, cause) => deliver?.unsent(to, cause),
    accepts: (from) => deliver?.accepts?.(from) !== false,
    refused: (remote, cause) => deliver?.refused(remote, cause),
  };
  let deliver: TransportSink | undefined;
  const sockets = await openSockets(address, options, sink);
  try {
    const own = { ...address, port: sockets.portFor(address) };
    const listening = ownAddresses(sockets.listeners());
    const core = new DmqNode({ ...options, address: own, listening }, SYSTEM_RANDOM);
    const node = new RunningNode(core, sockets, options);
    deliver = node.sink();
    prepare(node);
    node.start();
    return node;
  } catch (cause) {
    sockets.shutdown();
    throw cause instanceof ProtocolError ? new UsageError(cause.message) : cause;
  }
}
