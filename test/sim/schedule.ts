/**
 * One seed, one life of a bus: how many nodes and of which kind, what breaks when, who says what to whom. After the last
 * fault the network is clean, every notification address is up again, and the bus has to find itself.
 */
import type { Transport } from "../../src/core/endpoint.ts";
import { below, type Random, seededRandom } from "../../src/core/random.ts";
import type { Answer, ChannelMessage } from "../../src/node/io.ts";
import { Bus, type SimNode, type SimNodeOptions } from "../../src/sim/bus.ts";
import { CLEAN_LINK, type Death } from "../../src/sim/network.ts";
import { Witness } from "./witness.ts";

export const PING_MS = 60_000;
const REQUEST_TIMEOUT_MS = 32_000;
/** Must hold: three ping intervals after the last fault every node knows every other. */
const CONVERGENCE_PINGS = 3;
const CHANNEL = "explore";
const STARTING_MS = 20_000;
const NODES_MIN = 3;
const NODES_MAX = 50;
/**
 * How much later than another a datagram may be. The last transmission of a request leaves 31.5 s after the first (Timer E),
 * and our server forgets it 37 s after its answer (Timer J and T4): only what is later than that runs a handler again.
 */
const LATENESS_MS = 3_500;

export interface Exploration {
  readonly seed: number;
  readonly nodes: number;
  readonly violations: readonly string[];
  readonly hash: string;
  readonly virtualMs: number;
  /** From the last fault until all agreed for the first time. */
  readonly convergedMs: number;
  readonly requests: number;
  readonly outcomes: ReadonlyMap<string, number>;
  readonly doubtful: number;
  /** The last lines of the ladder. */
  ladder(lines: number): string;
}

/** Plays one seed. It never throws: a crash of the core is a violation like any other. */
export function explore(seed: number, faultMinutes?: number): Exploration {
  const story = new Story(seed, faultMinutes);
  try {
    story.play();
  } catch (error) {
    story.witness.violations.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
  }
  const { bus, witness } = story;
  return {
    seed,
    nodes: bus.nodes.length,
    violations: witness.violations,
    hash: bus.trace.hash(),
    virtualMs: bus.now,
    convergedMs: story.convergedMs,
    requests: witness.requests,
    outcomes: witness.outcomes,
    doubtful: witness.doubtful,
    ladder: (lines) => bus.trace.text(lines),
  };
}

class Story {
  readonly bus: Bus;
  readonly witness = new Witness();
  convergedMs = Number.POSITIVE_INFINITY;
  private readonly random: Random;
  private readonly faultsMs: number;
  private readonly seeds: SimNode[] = [];
  private readonly named: boolean;
  private calm = false;
  private moves = 0;

  constructor(seed: number, faultMinutes: number | undefined) {
    this.random = seededRandom(seed ^ 0x5eed);
    this.bus = new Bus({
      seed,
      traceLines: 4_000,
      onEvent: (node, event) => this.witness.event(node, event),
    });
    const count = this.drawSize(seed);
    const ownMs = count > 20 ? 90_000 : 120_000 + below(this.random, 300_000);
    this.faultsMs = faultMinutes === undefined ? ownMs : faultMinutes * 60_000;
    this.named = this.chance(0.4);
    this.makeNodes(count);
  }

  play(): void {
    for (const node of this.bus.nodes) this.bus.schedule(below(this.random, STARTING_MS), () => this.up(node));
    this.plan(
      STARTING_MS + this.faultsMs,
      () => 3_000 + below(this.random, 25_000),
      () => this.fault(),
    );
    const talkMs = STARTING_MS + this.faultsMs + 2 * PING_MS;
    this.plan(
      talkMs,
      () => 200 + below(this.random, 6_000),
      () => this.talk(),
    );
    this.bus.run(STARTING_MS + this.faultsMs);
    this.endFaults();
    this.watchConvergence();
    this.bus.run(talkMs + REQUEST_TIMEOUT_MS + PING_MS + 5_000);
    this.witness.missing("the traffic ended long ago");
    this.finale();
  }

  private makeNodes(count: number): void {
    const seedCount = count > 3 && this.chance(0.5) ? 2 : 1;
    const kind = this.pick(["udp", "udp", "udp", "tcp", "mixed"] as const);
    const transports = Array.from({ length: count }, (): Transport => this.transport(kind));
    const addresses = transports.slice(0, seedCount).map((transport, index) => {
      const host = this.named ? `seed${index + 1}.test` : `10.0.0.${index + 1}`;
      return `sip:${host}:5060${transport === "udp" ? "" : `;transport=${transport}`}`;
    });
    for (const [index, transport] of transports.entries()) {
      const node = this.bus.addNode(this.nodeOptions(transport, addresses));
      if (index < seedCount) this.seeds.push(node);
    }
    if (this.named) for (const seed of this.seeds) this.bus.setName(seedName(seed), [seed.ip]);
  }

  /** Few large buses, many small ones: the cost of a bus grows with the square of its size. Each hundredth is the largest. */
  private drawSize(seed: number): number {
    const skewed = (this.random.u32() / 0x1_0000_0000) ** 9;
    return seed % 100 === 50 ? NODES_MAX : NODES_MIN + Math.floor((NODES_MAX - NODES_MIN + 1) * skewed);
  }

  private nodeOptions(transport: Transport, addresses: string[]): SimNodeOptions {
    return {
      transport,
      notificationAddresses: addresses,
      pingIntervalMs: PING_MS,
      requestTimeoutMs: REQUEST_TIMEOUT_MS,
      removeInactive: this.chance(0.7),
      failCountEnabled: this.chance(0.3),
      handler: (message, node) => this.handle(message, node),
    };
  }

  private transport(kind: "udp" | "tcp" | "mixed"): Transport {
    if (kind !== "mixed") return kind;
    return this.chance(0.5) ? "udp" : "tcp";
  }

  /** Repeats an action at drawn distances until `untilMs`. */
  private plan(untilMs: number, distanceMs: () => number, action: () => void): void {
    const next = (): void => {
      const wait = distanceMs();
      if (this.bus.now + wait >= untilMs) return;
      this.bus.schedule(wait, () => {
        action();
        next();
      });
    };
    this.bus.schedule(STARTING_MS / 2, next);
  }

  // What nodes say.

  private talk(): void {
    const from = this.pickUp();
    if (from === undefined || from.leaving) return;
    const body = this.witness.body(this.random, this.chance(0.1) ? 20_000 : 600);
    if (this.chance(0.4)) {
      this.witness.sent(from, body, this.bus.broadcast(from, CHANNEL, body));
      return;
    }
    const peers = from.running.nodes();
    if (peers.length === 0) return;
    const peer = this.pick(peers).uri;
    const request = this.bus.send(from, CHANNEL, peer, body);
    this.witness.sent(from, body, [{ request, peer }]);
  }

  private handle(message: ChannelMessage, node: SimNode): { afterMs: number; answer: Answer } {
    const status = this.calm ? 200 : this.pick([200, 200, 200, 200, 202, 404, 500, 503]);
    const afterMs = this.calm ? 0 : this.pick([0, 0, 0, below(this.random, 1_500), below(this.random, 8_000)]);
    this.witness.ran(node, message, status);
    return { afterMs, answer: { status } };
  }

  // What breaks.

  private fault(): void {
    const faults: (() => void)[] = [
      () => this.weather(),
      () => this.weather(),
      () => this.split(true),
      () => this.split(false),
      () => this.bus.heal(),
      () => this.bus.setLink(CLEAN_LINK),
      () => this.down(),
      () => this.down(),
      () => this.back(),
      () => this.back(),
      () => this.again(),
      () => this.leave(),
      () => this.bus.network.resetStreams(this.bus.now),
      () => this.rename(),
    ];
    this.pick(faults)();
  }

  private weather(): void {
    this.bus.setLink({
      loss: below(this.random, 31) / 100,
      duplication: below(this.random, 21) / 100,
      reordering: below(this.random, 31) / 100,
      reorderingMs: this.pick([20, 300, LATENESS_MS - 500]),
      delayMaxMs: this.pick([5, 50, 500]),
      split: below(this.random, 60) / 100,
    });
  }

  private split(oneWay: boolean): void {
    const left: SimNode[] = [];
    const right: SimNode[] = [];
    for (const node of this.bus.nodes) (this.chance(0.5) ? left : right).push(node);
    if (left.length > 0 && right.length > 0) this.bus.partition(left, right, { oneWay });
  }

  private down(): void {
    const node = this.pickUp();
    if (node === undefined) return;
    this.bus.kill(node, this.pick<Death>(["process", "process", "host"]));
    this.witness.died(node);
  }

  private back(): void {
    const down = this.bus.nodes.filter((node) => node.core === undefined);
    if (down.length > 0) this.up(this.pick(down));
  }

  /** A quick restart, as of a service that was upgraded. */
  private again(): void {
    const node = this.pickUp();
    if (node === undefined) return;
    this.bus.kill(node);
    this.witness.died(node);
    this.up(node);
  }

  private leave(): void {
    const node = this.pickUp();
    if (node !== undefined && !node.leaving) this.bus.leave(node, this.chance(0.7));
  }

  /** A seed moves to another address and its name follows later, or the name is gone for a while. */
  private rename(): void {
    if (!this.named) return;
    const seed = this.pick(this.seeds);
    if (this.chance(0.5)) {
      this.bus.setName(seedName(seed), []);
      return;
    }
    if (seed.core !== undefined) {
      this.bus.kill(seed, this.pick<Death>(["process", "host"]));
      this.witness.died(seed);
    }
    this.bus.start(seed, { ip: `10.1.${++this.moves}.${1 + this.seeds.indexOf(seed)}` });
    const { ip } = seed;
    this.bus.schedule(below(this.random, 20_000), () => {
      if (seed.ip === ip) this.bus.setName(seedName(seed), [ip]);
    });
  }

  private up(node: SimNode): void {
    if (node.core === undefined) this.bus.start(node, { snapshot: this.chance(0.5) });
  }

  // And how it must end.

  private endFaults(): void {
    this.bus.heal();
    this.bus.setLink(CLEAN_LINK);
    for (const seed of this.seeds) {
      if (seed.core === undefined) this.up(seed);
      if (this.named) this.bus.setName(seedName(seed), [seed.ip]);
    }
    for (const node of this.bus.nodes) if (node.core === undefined && this.chance(0.5)) this.up(node);
    this.bus.trace.note(this.bus.now, "story", "the faults end");
  }

  private watchConvergence(): void {
    const start = this.bus.now;
    const limitMs = CONVERGENCE_PINGS * PING_MS;
    if (this.bus.runUntil(() => this.bus.disagreements().length === 0, limitMs, 1_000)) {
      this.convergedMs = this.bus.now - start;
    }
    this.bus.run(start + limitMs);
    this.witness.agreement(this.bus, "three ping intervals after the last fault");
  }

  /** All agree, still, and a broadcast of each node reaches every other. */
  private finale(): void {
    this.witness.agreement(this.bus, "a ping interval later");
    this.calm = true;
    const up = this.bus.nodes.filter((node) => node.core !== undefined);
    for (const node of up) {
      const body = this.witness.body(this.random, 100);
      const sent = this.bus.broadcast(node, CHANNEL, body);
      this.witness.sent(node, body, sent);
      if (sent.length !== up.length - 1) {
        this.witness.violations.push(`${node.name} broadcasts to ${sent.length} of ${up.length - 1} nodes`);
      }
    }
    const before = this.witness.outcomes.get("delivered") ?? 0;
    this.bus.runFor(5_000);
    const delivered = (this.witness.outcomes.get("delivered") ?? 0) - before;
    const expected = up.length * (up.length - 1);
    if (delivered !== expected)
      this.witness.violations.push(`the last broadcasts: ${delivered} of ${expected} delivered`);
    this.witness.missing("the last broadcasts are five seconds old");
  }

  // Dice.

  private chance(probability: number): boolean {
    return this.random.u32() < probability * 0x1_0000_0000;
  }

  private pick<T>(from: readonly T[]): T {
    return from[below(this.random, from.length)] as T;
  }

  private pickUp(): SimNode | undefined {
    const up = this.bus.nodes.filter((node) => node.core !== undefined);
    return up.length === 0 ? undefined : this.pick(up);
  }
}

function seedName(seed: SimNode): string {
  return `${seed.name.replace("n", "seed")}.test`;
}
