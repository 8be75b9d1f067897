/**
 * A whole bus in one process: N nodes, a simulated network and one virtual clock. The next thing to happen is always the
 * earliest of what was scheduled, what the network delivers and what a node's own deadline asks for; nothing waits.
 *
 * A run is a function of its seed and of the calls made here. Every run is bounded in steps for each virtual second, so
 * a livelock of the core fails with its ladder instead of hanging.
 */
import type { Transport } from "../core/endpoint.ts";
import { type Random, seededRandom } from "../core/random.ts";
import type { Duration, Instant } from "../core/time.ts";
import type { Answer, ChannelMessage, Input, NodeEvent, OutcomeReport, Output, PeerInfo } from "../node/io.ts";
import { DmqNode, type NodeOptions } from "../node/node.ts";
import { Agenda } from "./agenda.ts";
import { type Death, type LinkOptions, type NameRecords, Network } from "./network.ts";
import { Trace } from "./trace.ts";

/** What a simulated handler does with a message: answers `afterMs` later, or never where it gives `undefined`. */
export type SimHandler = (message: ChannelMessage, node: SimNode) => { afterMs: Duration; answer: Answer } | undefined;

export interface SimNodeOptions extends Omit<NodeOptions, "address"> {
  /** Default `n1`, `n2`, …: how the ladder calls it. */
  name?: string;
  /** Default 10.0.0.1, 10.0.0.2, …: an address of its own for each node. */
  ip?: string;
  port?: number;
  transport?: Transport;
  /** Default: an empty 200 at once. */
  handler?: SimHandler;
}

export interface BusOptions {
  seed: number;
  link?: Partial<LinkOptions>;
  /** Ladder lines kept for reading. */
  traceLines?: number;
  /** Steps allowed in one virtual second before the run fails as a livelock. */
  maxStepsPerSecond?: number;
  /** Sees every event of every node as it comes out. */
  onEvent?: (node: SimNode, event: NodeEvent) => void;
  /** Sees all octets that a node wants sent; they belong to the node. */
  onTransmit?: (node: SimNode, output: Transmit) => void;
  /** Sees what the network hands a node, before the node does. */
  onArrival?: (node: SimNode, input: Input) => void;
  /** Called after every call into a core, when all that came out of it has been taken. */
  afterStep?: (node: SimNode) => void;
  /** Default true: `SimNode.events` keeps them all. */
  keepEvents?: boolean;
  /** A mistake that the simulator makes on purpose, to see that somebody notices. */
  plant?: Plant | undefined;
}

/** What is broken on purpose; plant.ts has some. */
export interface Plant {
  /** Options that every node gets, whatever was asked for. */
  readonly options?: Partial<NodeOptions>;
  /** What really comes out where the core said `output`. */
  polled?(node: SimNode, output: Output): readonly Output[];
  /** After a node has taken an input. */
  handed?(node: SimNode, input: Input, bus: Bus): void;
}

export type Transmit = Extract<Output, { type: "transmit" }>;

/** Something at an address that is no node of ours: what arrives there goes to its owner. */
export interface Stranger {
  readonly name: string;
  readonly ip: string;
  readonly port: number;
}

/** One node of the bus over all its lives; `core` is the present one. */
export class SimNode {
  readonly name: string;
  ip: string;
  readonly port: number;
  readonly transport: Transport;
  readonly options: SimNodeOptions;
  core: DmqNode | undefined;
  /** Number of its present life, from 1; 0 before the first. */
  life = 0;
  /** It was asked to leave in its present life. */
  leaving = false;
  /** `leave` is through in the present life. */
  left = false;
  /** Of all its lives, in order. */
  readonly events: NodeEvent[] = [];
  /** What the node knew when its last life ended, as a daemon would find it in its state directory. */
  snapshot: string[] = [];
  /** What its clock shows beside the bus's: a clock has an origin of its own, and may be wrong. */
  skewMs: Duration = 0;
  /** The last instant that its core was given: what it is given never falls, whatever the clock shows (node/io.ts). */
  lastNow: Instant = Number.NEGATIVE_INFINITY;
  /** Frozen, as by SIGSTOP: what is to happen to it waits here. */
  frozen: (() => void)[] | undefined;

  constructor(name: string, ip: string, options: SimNodeOptions) {
    this.name = name;
    this.ip = ip;
    this.port = options.port ?? 5060;
    this.transport = options.transport ?? "udp";
    this.options = options;
  }

  /** The present life; asking for it while the node is down is the caller's mistake. */
  get running(): DmqNode {
    if (this.core === undefined) throw new Error(`${this.name} is not running`);
    return this.core;
  }

  messages(): ChannelMessage[] {
    return this.events.flatMap((event) => (event.type === "message" ? [event.message] : []));
  }

  outcomes(): OutcomeReport[] {
    return this.events.flatMap((event) => (event.type === "outcome" ? [event.report] : []));
  }
}

export interface StartOptions {
  ip?: string;
  snapshot?: boolean | readonly string[];
  skewMs?: Duration;
}

const OK: Answer = { status: 200 };
const MAX_STEPS_PER_SECOND = 500_000;

export class Bus {
  readonly trace: Trace;
  readonly network: Network;
  readonly nodes: SimNode[] = [];
  now: Instant = 0;
  private readonly byName = new Map<string, SimNode>();
  private readonly random: Random;
  private readonly plans = new Agenda<() => void>();
  private readonly deadlines = new Map<SimNode, Instant>();
  private readonly strangers = new Map<string, (input: Input) => void>();
  private readonly options: BusOptions;
  private readonly maxSteps: number;
  private second = -1;
  private steps = 0;

  constructor(options: BusOptions) {
    this.trace = new Trace(options.seed, options.traceLines);
    this.random = seededRandom(options.seed);
    this.network = new Network(seededRandom(this.random.u32()), this.trace, options.link);
    this.options = options;
    this.maxSteps = options.maxStepsPerSecond ?? MAX_STEPS_PER_SECOND;
  }

  /** Makes a node that is down; `start` brings it up. */
  addNode(options: SimNodeOptions = {}): SimNode {
    const number = this.nodes.length + 1;
    const name = options.name ?? `n${number}`;
    if (this.byName.has(name)) throw new Error(`two nodes named ${name}`);
    const node = new SimNode(name, options.ip ?? `10.0.${number >> 8}.${number & 255}`, options);
    this.nodes.push(node);
    this.byName.set(name, node);
    return node;
  }

  node(name: string): SimNode {
    const node = this.byName.get(name);
    if (node === undefined) throw new Error(`no node named ${name}`);
    return node;
  }

  /**
   * Starts a node that is down, with fresh memory.
   *
   * @param again  `ip`: at another address from now on; `snapshot`: with what its last life knew, or with these lines;
   *               `skewMs`: its clock shows that much more than the bus's
   */
  start(node: SimNode, again: StartOptions = {}): void {
    if (node.core !== undefined) throw new Error(`${node.name} is running`);
    node.ip = again.ip ?? node.ip;
    node.life++;
    node.leaving = false;
    node.left = false;
    node.frozen = undefined;
    node.skewMs = again.skewMs ?? 0;
    node.lastNow = Number.NEGATIVE_INFINITY;
    const { name: _name, ip: _ip, port: _port, transport: _transport, handler: _handler, ...rest } = node.options;
    const address = { transport: node.transport, host: node.ip, port: node.port };
    // Whoever listens for datagrams listens for streams as well (network.ts): both are this node.
    const listening = (["udp", "tcp"] as const).map((transport) => ({ ...address, transport }));
    const options: NodeOptions = { listening, ...rest, address, ...this.options.plant?.options };
    if (again.snapshot === true) options.snapshot = node.snapshot;
    else if (again.snapshot !== undefined && again.snapshot !== false) options.snapshot = again.snapshot;
    const core = new DmqNode(options, seededRandom(this.random.u32()));
    node.core = core;
    this.network.attach(node.name, node.ip, node.port);
    this.trace.note(this.now, node.name, `starts life ${node.life} at ${core.uri()}`);
    this.call(node, (now) => core.start(now));
  }

  /** Makes a node and starts it. */
  startNode(options: SimNodeOptions = {}): SimNode {
    const node = this.addNode(options);
    this.start(node);
    return node;
  }

  /** Ends a node at once, without a word: its memory and its sockets are gone. */
  kill(node: SimNode, death: Death = "process"): void {
    node.snapshot = node.running.nodes().flatMap((peer) => (peer.verified ? [peer.uri] : []));
    node.core = undefined;
    this.deadlines.delete(node);
    this.network.detach(node.ip, node.port, death, this.now);
    this.trace.note(this.now, node.name, `dies (${death})`);
  }

  /** Kills and starts in the same instant. */
  restart(node: SimNode, again: StartOptions = {}): void {
    if (node.core !== undefined) this.kill(node);
    this.start(node, again);
  }

  /** Asks a node to leave; its sockets close with its event `left`. */
  leave(node: SimNode, announce = true): void {
    this.trace.note(this.now, node.name, `leaves${announce ? "" : " without a word"}`);
    node.leaving = true;
    this.call(node, (now) => node.running.leave({ announce }, now));
  }

  /**
   * Calls into a node's core and drains what comes out of it, as the contract asks (node/io.ts).
   *
   * @param action  is given the present as the node's clock has it
   * @returns       what `action` returned
   */
  call<T>(node: SimNode, action: (now: Instant) => T): T {
    const result = action(this.clock(node));
    this.drain(node);
    this.options.afterStep?.(node);
    return result;
  }

  /** The present of a node: its own clock, which stands still rather than run back. */
  clock(node: SimNode): Instant {
    node.lastNow = Math.max(node.lastNow, this.now + node.skewMs);
    return node.lastNow;
  }

  /** Sets a node's clock by that much, back if it is negative. */
  setClock(node: SimNode, byMs: Duration): void {
    this.trace.note(this.now, node.name, `its clock is set by ${byMs} ms`);
    node.skewMs += byMs;
    this.planTimeout(node);
  }

  /** Stops a node where it stands, for that long; what arrives meanwhile waits. */
  freeze(node: SimNode, forMs: Duration): void {
    if (node.core === undefined || node.frozen !== undefined) return;
    this.trace.note(this.now, node.name, `freezes for ${forMs} ms`);
    const held: (() => void)[] = [];
    node.frozen = held;
    this.deadlines.delete(node);
    this.schedule(forMs, () => {
      if (node.frozen === held) this.thaw(node);
    });
  }

  /** Lets a frozen node go on: it finds all at once what has arrived, and what it should have done. */
  thaw(node: SimNode): void {
    const held = node.frozen ?? [];
    node.frozen = undefined;
    this.trace.note(this.now, node.name, `goes on, ${held.length} things have waited`);
    for (const action of held) if (node.core !== undefined) action();
    if (node.core !== undefined) this.planTimeout(node);
  }

  /** Opens an address that is no node: what arrives there goes to `onInput`. */
  addStranger(stranger: Stranger, onInput: (input: Input) => void): void {
    this.strangers.set(stranger.name, onInput);
    this.network.attach(stranger.name, stranger.ip, stranger.port);
    this.trace.note(this.now, stranger.name, `is at ${stranger.ip}:${stranger.port}`);
  }

  removeStranger(stranger: Stranger): void {
    this.strangers.delete(stranger.name);
    this.network.detach(stranger.ip, stranger.port, "host", this.now);
    this.trace.note(this.now, stranger.name, "is gone");
  }

  send(from: SimNode, channel: string, to: string, body: Uint8Array): number {
    return this.call(from, (now) => from.running.send(channel, to, body, {}, now));
  }

  broadcast(from: SimNode, channel: string, body: Uint8Array): { request: number; peer: string }[] {
    return this.call(from, (now) => from.running.broadcast(channel, body, {}, now));
  }

  /** Does `action` `afterMs` from now. */
  schedule(afterMs: Duration, action: () => void): void {
    this.plans.add(this.now + afterMs, action);
  }

  /** Cuts every link from the first group to the second, and back unless it is one-way. */
  partition(from: readonly SimNode[], to: readonly SimNode[], options: { oneWay?: boolean } = {}): void {
    const way = options.oneWay === true ? "one way" : "both ways";
    this.trace.note(this.now, "network", `cuts ${names(from)} from ${names(to)}, ${way}`);
    for (const a of from) {
      for (const b of to) {
        this.network.cut(a.name, b.name);
        if (options.oneWay !== true) this.network.cut(b.name, a.name);
      }
    }
  }

  heal(): void {
    this.trace.note(this.now, "network", "heals");
    this.network.heal();
  }

  setLink(link: Partial<LinkOptions>): void {
    this.trace.note(this.now, "network", `links are ${JSON.stringify(link)}`);
    this.network.setLink(link);
  }

  setName(name: string, addresses: readonly string[], more: Partial<NameRecords> = {}): void {
    const services = (more.services ?? []).map(({ ip, port }) => `${ip}:${port}`);
    this.trace.note(this.now, "dns", `${name} is ${[...services, ...addresses].join(", ") || "unknown"}`);
    this.network.setName(name, addresses, more);
  }

  setDnsDead(isDead: boolean): void {
    this.trace.note(this.now, "dns", isDead ? "is dead" : "is back");
    this.network.setDnsDead(isDead);
  }

  /** Lets everything happen up to and including `until`. */
  run(until: Instant): void {
    while (this.step(until));
    this.now = Math.max(this.now, until);
  }

  runFor(durationMs: Duration): void {
    this.run(this.now + durationMs);
  }

  /**
   * Runs until a condition holds, looking every 10 ms of virtual time.
   *
   * @returns whether it held within `limitMs`; the clock stands where it first did, or at the limit
   */
  runUntil(condition: () => boolean, limitMs: Duration, everyMs: Duration = 10): boolean {
    const end = this.now + limitMs;
    while (!condition()) {
      if (this.now >= end) return false;
      this.run(Math.min(this.now + everyMs, end));
    }
    return true;
  }

  /** What `viewer` knows about the node `seen`, by the address it has now; `undefined` if nothing. */
  peer(viewer: SimNode, seen: SimNode): PeerInfo | undefined {
    return viewer.running.nodes().find((peer) => isAt(peer, seen));
  }

  /**
   * Says what keeps the bus from agreeing: a live node that another does not list as active, a dead one that is listed as
   * active, an active peer where no node is, a node listed twice or in its own registry. Empty when all is well.
   */
  disagreements(): string[] {
    const wrong: string[] = [];
    for (const viewer of this.nodes) {
      if (viewer.core === undefined || viewer.leaving) continue;
      const peers = viewer.core.nodes();
      for (const peer of peers) {
        if (peer.status === "active" && !this.nodes.some((node) => isAt(peer, node))) {
          wrong.push(`${viewer.name} has ${peer.uri} active, where no node is`);
        }
      }
      for (const seen of this.nodes) {
        const found = peers.filter((peer) => isAt(peer, seen));
        const statuses = found.map((peer) => `${peer.uri} ${peer.status}`).join(", ") || "nothing";
        const active = found.filter((peer) => peer.status === "active").length;
        const expected = seen !== viewer && seen.core !== undefined && !seen.leaving ? 1 : 0;
        const self = seen === viewer && found.length > 0;
        if (active !== expected || self) wrong.push(`${viewer.name} has ${statuses} for ${seen.name}`);
      }
    }
    return wrong;
  }

  /** Does the next thing that is due by `until`; false if there is none. */
  private step(until: Instant): boolean {
    const plan = this.plans.nextAt() ?? Number.POSITIVE_INFINITY;
    const delivery = this.network.nextAt() ?? Number.POSITIVE_INFINITY;
    const [node, deadline] = this.nextDeadline();
    const next = Math.min(plan, delivery, deadline);
    if (next > until || next === Number.POSITIVE_INFINITY) return false;
    this.now = Math.max(this.now, next);
    this.countStep();
    if (plan === next) this.plans.take(this.now)?.();
    else if (delivery === next) this.deliver();
    else if (node !== undefined) this.call(node, (now) => node.running.handleTimeout(now));
    return true;
  }

  private nextDeadline(): [SimNode | undefined, Instant] {
    let first: SimNode | undefined;
    let earliest = Number.POSITIVE_INFINITY;
    for (const [node, at] of this.deadlines) {
      if (at >= earliest) continue;
      first = node;
      earliest = at;
    }
    return [first, earliest];
  }

  private deliver(): void {
    const arrival = this.network.take(this.now);
    if (arrival === undefined) return;
    const stranger = this.strangers.get(arrival.host);
    if (stranger !== undefined) {
      stranger(arrival.input);
      return;
    }
    const node = this.node(arrival.host);
    this.whenAwake(node, () => this.hand(node, arrival.input));
  }

  private whenAwake(node: SimNode, action: () => void): void {
    if (node.frozen === undefined) action();
    else node.frozen.push(action);
  }

  private hand(node: SimNode, input: Input): void {
    this.noteInput(node, input);
    this.options.onArrival?.(node, input);
    this.call(node, (now) => node.running.handle(input, now));
    this.options.plant?.handed?.(node, input, this);
  }

  private noteInput(node: SimNode, input: Input): void {
    if (input.type === "resolved") {
      const found = [...(input.services ?? []).map(({ ip, port }) => `${ip}:${port}`), ...input.addresses];
      this.trace.note(this.now, node.name, `resolved ${input.host}: ${found.join(", ") || "nothing"}`);
    } else if (input.type === "closed") {
      this.trace.note(this.now, node.name, `flow ${input.flow} closed: ${input.cause?.message ?? "finished"}`);
    } else if (input.type === "unsent") {
      this.trace.note(this.now, node.name, `unsent to ${input.to.transport}:${input.to.ip}: ${input.cause.message}`);
    }
  }

  private drain(node: SimNode): void {
    const core = node.core;
    if (core === undefined) return;
    const { plant } = this.options;
    for (let output = core.poll(); output !== undefined; output = core.poll()) {
      this.countStep();
      if (plant?.polled === undefined) this.take(node, output);
      else for (const one of plant.polled(node, output)) this.take(node, one);
    }
    if (node.left) this.kill(node, "exit");
    else this.planTimeout(node);
  }

  private planTimeout(node: SimNode): void {
    const next = node.frozen === undefined ? node.core?.nextTimeout() : undefined;
    if (next === undefined) this.deadlines.delete(node);
    else this.deadlines.set(node, next - node.skewMs);
  }

  private transmit(node: SimNode, output: Transmit): void {
    this.options.onTransmit?.(node, output);
    this.network.transmit(node.ip, node.port, output, this.now);
  }

  private take(node: SimNode, output: Output): void {
    if (output.type === "transmit") this.transmit(node, output);
    else if (output.type === "close") this.network.close(node.ip, node.port, output.flow, this.now);
    else if (output.type === "resolve")
      this.network.resolve(node.ip, node.port, output.host, output.services, this.now);
    else this.takeEvent(node, output.event);
  }

  /** As if `node` had said it. */
  emit(node: SimNode, event: NodeEvent): void {
    this.takeEvent(node, event);
  }

  private takeEvent(node: SimNode, event: NodeEvent): void {
    if (this.options.keepEvents !== false) node.events.push(event);
    this.trace.note(this.now, node.name, describeEvent(event));
    this.options.onEvent?.(node, event);
    if (event.type === "left") node.left = true;
    if (event.type === "message") this.handleMessage(node, event.message);
  }

  /** The answer is a plan even when it is due at once: the core's contract forbids a call while it is being drained. */
  private handleMessage(node: SimNode, message: ChannelMessage): void {
    const reply = node.options.handler === undefined ? { afterMs: 0, answer: OK } : node.options.handler(message, node);
    if (reply === undefined) return;
    const { life } = node;
    this.schedule(reply.afterMs, () => {
      if (node.core === undefined || node.life !== life) return;
      const core = node.core;
      this.whenAwake(node, () => this.call(node, (now) => core.answer(message.id, reply.answer, now)));
    });
  }

  private countStep(): void {
    const second = Math.floor(this.now / 1_000);
    if (second !== this.second) {
      this.second = second;
      this.steps = 0;
    }
    this.steps++;
    if (this.steps <= this.maxSteps) return;
    throw new Error(`livelock: ${this.maxSteps} steps in virtual second ${second}\n${this.trace.text()}`);
  }
}

/** A peer is at a node's address by what it is called or by where its name leads. */
function isAt(peer: PeerInfo, node: SimNode): boolean {
  const sameAddress = peer.host === node.ip || peer.resolvedIp === node.ip;
  return sameAddress && peer.port === node.port && peer.transport === node.transport;
}

function names(nodes: readonly SimNode[]): string {
  return nodes.map((node) => node.name).join(" ");
}

function describeEvent(event: NodeEvent): string {
  switch (event.type) {
    case "message":
      return `message ${event.message.id} on ${event.message.channel} from ${event.message.from}`;
    case "outcome": {
      const { request, peer, outcome } = event.report;
      return `outcome of ${request} to ${peer}: ${outcome.type}${"code" in outcome ? ` ${outcome.code}` : ""}`;
    }
    case "warning":
      return `warning ${event.code}: ${event.text}`;
    case "left":
      return "left";
    case "joined":
      return `joined ${event.nodes.join(" ")}`;
    case "request":
      return `request ${event.request.method} from ${event.request.source.ip}`;
    default:
      return `${event.type} ${event.peer.uri}`;
  }
}
