/**
 * One seed, one hour of a bus: how many nodes and of which kind, what breaks when, who says what to whom. Faults come in one or
 * two storms of minutes; after each the network is clean, every notification address is up again, and the bus has to find
 * itself. Between them is quiet: pings, now and then a message.
 *
 * The faults are drawn up before the first step, each with dice of its own, so that a story can be told again with some of them
 * left out (shrink.ts).
 */
import type { Transport } from "../../src/core/endpoint.ts";
import { below, type Random, seededRandom } from "../../src/core/random.ts";
import type { Answer, ChannelMessage } from "../../src/node/io.ts";
import { Bus, type SimNode, type SimNodeOptions } from "../../src/sim/bus.ts";
import { type PlantName, plant } from "../../src/sim/plant.ts";
import { type FaultKind, Faults, seedName } from "./faults.ts";
import { Hostile } from "./hostile.ts";
import { Invariants } from "./invariants.ts";
import { Violation, Witness } from "./witness.ts";

export const CHANNEL = "explore";
/** In a storm; agreement is measured in these. */
const PING_MS = [30_000, 60_000, 60_000, 60_000, 120_000] as const;
/** Where nothing happens: nodes are told so as by a reload of their configuration. One bus in twenty goes on as it was. */
const QUIET_PING_MS = 600_000;
const REQUEST_TIMEOUT_MS = 32_000;
/** Must hold: three ping intervals after the last fault every node knows every other. */
const CONVERGENCE_PINGS = 3;
const STARTING_MS = 20_000;
const HOUR_MS = 3_600_000;
const NODES_MAX = 50;
/** Time to be over for everything that the last storm has left: handlers, requests, transactions. */
const CALM_DOWN_MS = 2 * REQUEST_TIMEOUT_MS;

export interface Telling {
  /** Minutes of the first storm, instead of what the seed says. */
  minutes?: number | undefined;
  /** How long it lasts, 1 without it. */
  hours?: number | undefined;
  /** Only these of its faults happen; all without it. */
  keep?: ReadonlySet<number> | undefined;
  plant?: PlantName | undefined;
  /** Ladder lines that are kept. */
  lines?: number;
}

export interface Exploration {
  readonly seed: number;
  readonly nodes: number;
  /** What did not hold, and ended the story; `undefined` where all did. */
  readonly violation: string | undefined;
  readonly hash: string;
  readonly virtualMs: number;
  /** Longest time from the last fault of a storm until all agreed, in ping intervals. */
  readonly agreedPings: number;
  readonly requests: number;
  readonly outcomes: ReadonlyMap<string, number>;
  readonly doubtful: number;
  /** Numbers of the faults that happened. */
  readonly faults: readonly number[];
  /** The last lines of the ladder. */
  ladder(lines: number): string;
}

/** Plays one seed. It never throws: a crash of the core is a violation like any other. */
export function explore(seed: number, telling: Telling = {}): Exploration {
  const story = new Story(seed, telling);
  let violation: string | undefined;
  try {
    story.play();
  } catch (error) {
    violation = error instanceof Violation ? error.message : String((error as Error).stack ?? error);
  }
  const { bus, witness } = story;
  return {
    seed,
    nodes: bus.nodes.length,
    violation,
    hash: bus.trace.hash(),
    virtualMs: bus.now,
    agreedPings: story.agreedPings,
    requests: witness.requests,
    outcomes: witness.outcomes,
    doubtful: witness.doubtful,
    faults: story.happened,
    ladder: (lines) => bus.trace.text(lines),
  };
}

/** One fault of a storm: when, which, and the dice for its details. */
interface Planned {
  readonly number: number;
  readonly at: number;
  readonly kind: FaultKind;
  readonly dice: number;
}

class Story {
  readonly bus: Bus;
  readonly witness = new Witness();
  readonly happened: number[] = [];
  agreedPings = 0;
  private readonly random: Random;
  private readonly telling: Telling;
  private readonly invariants: Invariants;
  private readonly hostile: Hostile;
  private readonly faults: Faults;
  private readonly seeds: SimNode[] = [];
  private readonly named: boolean;
  private readonly pingMs: number;
  private readonly lazy: boolean;
  private calm = false;
  private planned = 0;
  private steps = 0;

  constructor(seed: number, telling: Telling) {
    this.telling = telling;
    this.random = seededRandom(seed ^ 0x5eed);
    const { witness } = this;
    this.bus = new Bus({
      seed,
      traceLines: telling.lines ?? 2_000,
      keepEvents: false,
      maxStepsPerSecond: 200_000,
      plant: telling.plant === undefined ? undefined : plant(telling.plant),
      onEvent: (node, event) => witness.event(node, event),
      onArrival: (node, input) => this.invariants.arrival(node, input),
      onTransmit: (node, output) => {
        this.hostile.tap(node, output);
        this.invariants.transmit(node, output);
      },
      afterStep: (node) => this.check(node),
    });
    this.hostile = new Hostile(this.bus, seededRandom(this.random.u32()), witness, CHANNEL);
    this.invariants = new Invariants(witness, {
      now: () => this.bus.now,
      allowance: (node) => this.hostile.allowance(node),
      hostileIp: this.hostile.stranger.ip,
    });
    const count = this.drawSize(seed);
    this.pingMs = count > 10 ? 60_000 : this.pick(PING_MS);
    this.lazy = this.chance(0.95);
    this.named = this.chance(0.4);
    this.makeNodes(count);
    this.faults = new Faults(this.bus, witness, this.invariants, this.hostile, {
      seeds: this.seeds,
      named: this.named,
    });
  }

  play(): void {
    const { bus } = this;
    for (const node of bus.nodes)
      bus.schedule(below(this.random, STARTING_MS), () => this.faults.up(node, this.random));
    const isLarge = bus.nodes.length > 10;
    const endsAt = (this.telling.hours ?? 1) * HOUR_MS;
    const second = !isLarge && this.chance(0.2) ? endsAt / 2 + below(this.random, endsAt / 6) : undefined;
    this.storm(STARTING_MS, this.telling.minutes === undefined ? this.stormMs() : this.telling.minutes * 60_000);
    this.quiet(second ?? Math.max(endsAt, bus.now));
    if (second !== undefined) {
      this.storm(second, this.stormMs());
      this.quiet(Math.max(endsAt, bus.now));
    }
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

  /** Small buses, mostly: the cost of one grows with the square of its size. */
  private drawSize(seed: number): number {
    if (seed % 1_000 === 50) return NODES_MAX;
    if (seed % 100 === 50) return 10 + below(this.random, 11);
    return this.pick([3, 3, 3, 4, 4, 5, 6]);
  }

  private stormMs(): number {
    return this.bus.nodes.length > 10 ? 90_000 : 20_000 + below(this.random, 120_000);
  }

  private nodeOptions(transport: Transport, addresses: string[]): SimNodeOptions {
    const isNarrow = this.chance(0.3);
    return {
      transport,
      notificationAddresses: addresses,
      pingIntervalMs: this.pingMs,
      requestTimeoutMs: REQUEST_TIMEOUT_MS,
      removeInactive: this.chance(0.7),
      failCountEnabled: this.chance(0.3),
      multiNotify: this.named && this.chance(0.3),
      ...(isNarrow && { window: 1 + below(this.random, 4), queueMessages: below(this.random, 12) }),
      handler: (message, node) => this.handle(message, node),
    };
  }

  private transport(kind: "udp" | "tcp" | "mixed"): Transport {
    if (kind !== "mixed") return kind;
    return this.chance(0.5) ? "udp" : "tcp";
  }

  // What happens when.

  private storm(from: number, lastsMs: number): void {
    const { bus } = this;
    const until = from + lastsMs;
    const withHostile = this.chance(0.6);
    this.calm = false;
    for (const { number, at, kind, dice } of this.plan(from, until, withHostile)) {
      if (this.telling.keep !== undefined && !this.telling.keep.has(number)) continue;
      bus.schedule(at - bus.now, () => {
        this.happened.push(number);
        this.faults.happen(kind, seededRandom(dice));
      });
    }
    this.chatter(until + 2 * this.pingMs, 5_000);
    bus.run(until);
    this.faults.end(this.random);
    this.watchAgreement();
  }

  /** Nothing breaks, little is said. */
  private quiet(until: number): void {
    const { bus } = this;
    bus.run(bus.now + CALM_DOWN_MS);
    this.calm = true;
    this.witness.missing("the storm ended long ago");
    if (this.lazy) this.usePings(QUIET_PING_MS);
    this.chatter(until - CALM_DOWN_MS, 300_000);
    bus.run(until);
    this.witness.missing("the traffic ended long ago");
    this.witness.agreement(bus, "after the quiet time");
    if (this.lazy) this.usePings(this.pingMs);
  }

  private usePings(pingIntervalMs: number): void {
    for (const node of this.bus.nodes)
      if (node.core !== undefined) this.bus.call(node, (now) => node.running.configure({ pingIntervalMs }, now));
  }

  private plan(from: number, until: number, withHostile: boolean): Planned[] {
    const planned: Planned[] = [];
    const add = (at: number, kind: FaultKind): void => {
      planned.push({ number: ++this.planned, at, kind, dice: this.random.u32() });
    };
    let at = from;
    for (at += below(this.random, 10_000); at < until; at += 2_000 + below(this.random, 20_000))
      add(at, this.faults.draw(this.random));
    if (!withHostile) return planned;
    // Within the storm, however short: after it nothing may happen.
    const comesAt = Math.min(below(this.random, 30_000), until - from - 1);
    add(from + comesAt, "come");
    for (at = from + comesAt; at < until; at += 50 + below(this.random, 6_000)) add(at, "act");
    return planned;
  }

  /** Somebody says something at drawn distances, `everyMs` on the average, until `until`. */
  private chatter(until: number, everyMs: number): void {
    const dice = seededRandom(this.random.u32());
    const next = (): void => {
      const wait = everyMs / 10 + below(dice, 2 * everyMs);
      if (this.bus.now + wait >= until) return;
      this.bus.schedule(wait, () => {
        this.talk(dice);
        next();
      });
    };
    next();
  }

  private watchAgreement(): void {
    const { bus } = this;
    const start = bus.now;
    const limitMs = CONVERGENCE_PINGS * this.pingMs + REQUEST_TIMEOUT_MS;
    if (bus.runUntil(() => bus.disagreements().length === 0, limitMs, 3_000))
      this.agreedPings = Math.max(this.agreedPings, (bus.now - start) / this.pingMs);
    bus.run(start + limitMs);
    this.witness.agreement(bus, "three ping intervals after the last fault");
  }

  /** All agree, still, and a broadcast of each node reaches every other. */
  private finale(): void {
    const up = this.bus.nodes.filter((node) => node.core !== undefined);
    const before = this.witness.outcomes.get("delivered") ?? 0;
    for (const node of up) {
      const body = this.witness.body(this.random, 100);
      const sent = this.bus.broadcast(node, CHANNEL, body);
      this.witness.sent(node, body, sent);
      if (sent.length !== up.length - 1)
        throw new Violation(`${node.name} broadcasts to ${sent.length} of ${up.length - 1} nodes`);
    }
    this.bus.runFor(5_000);
    const delivered = (this.witness.outcomes.get("delivered") ?? 0) - before;
    const expected = up.length * (up.length - 1);
    if (delivered !== expected) throw new Violation(`the last broadcasts: ${delivered} of ${expected} delivered`);
    this.witness.missing("the last broadcasts are five seconds old");
  }

  // What nodes say.

  private talk(dice: Random): void {
    const from = this.faults.pickAwake(dice);
    if (from === undefined || from.leaving) return;
    const { witness, bus } = this;
    if (below(dice, 10) < 4) {
      const body = witness.body(dice, 600);
      witness.sent(from, body, bus.broadcast(from, CHANNEL, body));
      return;
    }
    const peers = from.running.nodes();
    const peer = peers[below(dice, peers.length)]?.uri;
    if (peer !== undefined) this.faults.say(from, peer, dice, below(dice, 10) === 0 ? 20_000 : 600);
  }

  private handle(message: ChannelMessage, node: SimNode): { afterMs: number; answer: Answer } {
    const status = this.calm ? 200 : this.pick([200, 200, 200, 200, 202, 404, 500, 503]);
    const afterMs = this.calm ? 0 : this.pick([0, 0, 0, below(this.random, 1_500), below(this.random, 8_000)]);
    const isHonest = this.bus.nodes.some(({ ip }) => ip === message.source.ip && message.from.includes(`@${ip}:`));
    this.witness.ran(node, message, status, isHonest, this.bus.now);
    return { afterMs, answer: { status } };
  }

  /** The dear part of the invariants after every step of a storm, and after each eighth where nothing happens but pings. */
  private check(node: SimNode): void {
    this.invariants.step(node, this.bus.clock(node));
    if (!this.calm || ++this.steps % 8 === 0) this.invariants.peers(node);
  }

  // Dice.

  private chance(probability: number): boolean {
    return this.random.u32() < probability * 0x1_0000_0000;
  }

  private pick<T>(from: readonly T[]): T {
    return from[below(this.random, from.length)] as T;
  }
}
