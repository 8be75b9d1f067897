/** What can break on a simulated bus, each as one thing that happens at one instant, and how all of it is mended. */
import { below, type Random } from "../../src/core/random.ts";
import type { Bus, SimNode } from "../../src/sim/bus.ts";
import { CLEAN_LINK, type Death } from "../../src/sim/network.ts";
import type { Hostile } from "./hostile.ts";
import type { Invariants } from "./invariants.ts";
import type { Witness } from "./witness.ts";

const CHANNEL = "explore";
const CLOCK_ORIGIN_MS = 1_000_000_000;
/** Longer than any timer of a transaction. */
const CLOCK_BACK_MS = 60_000;
const CLOCK_AHEAD_MS = 600_000;
const FREEZE_MS = 45_000;
const BURST_MAX = 50;

/** How often each is drawn, beside the others; the last two are the hostile node's and are planned apart. */
const WEIGHTS = {
  weather: 3,
  clean: 1,
  split: 1,
  oneWay: 1,
  heal: 1,
  crash: 2,
  back: 3,
  restart: 2,
  leave: 1,
  resetStreams: 1,
  loseState: 1,
  damageState: 1,
  clockBack: 1,
  clockAhead: 1,
  freeze: 2,
  burst: 3,
  move: 1,
  dnsGone: 1,
  dnsFails: 1,
  dnsDead: 1,
  dnsLies: 3,
  dnsFlaps: 1,
  come: 0,
  act: 0,
} as const;

export type FaultKind = keyof typeof WEIGHTS;

const URN = (Object.keys(WEIGHTS) as FaultKind[]).flatMap((kind) => Array<FaultKind>(WEIGHTS[kind]).fill(kind));

export interface Ground {
  /** Nodes that are notification addresses. */
  readonly seeds: readonly SimNode[];
  /** The notification addresses are names. */
  readonly named: boolean;
}

export class Faults {
  private readonly bus: Bus;
  private readonly witness: Witness;
  private readonly invariants: Invariants;
  private readonly hostile: Hostile;
  private readonly ground: Ground;
  private readonly kinds: { [K in FaultKind]: (dice: Random) => void };
  private moves = 0;

  constructor(bus: Bus, witness: Witness, invariants: Invariants, hostile: Hostile, ground: Ground) {
    this.bus = bus;
    this.invariants = invariants;
    this.witness = witness;
    this.hostile = hostile;
    this.ground = ground;
    this.kinds = {
      weather: (dice) => this.weather(dice),
      clean: () => bus.setLink(CLEAN_LINK),
      split: (dice) => this.split(dice, false),
      oneWay: (dice) => this.split(dice, true),
      heal: () => bus.heal(),
      crash: (dice) => this.crash(dice),
      back: (dice) => this.back(dice),
      restart: (dice) => this.restart(dice, chance(dice, 0.5)),
      leave: (dice) => this.leave(dice),
      resetStreams: () => bus.network.resetStreams(bus.now),
      loseState: (dice) => this.restart(dice, false),
      damageState: (dice) => this.restart(dice, damaged(dice)),
      clockBack: (dice) => this.withOne(dice, (node) => bus.setClock(node, -below(dice, CLOCK_BACK_MS))),
      clockAhead: (dice) => this.clockAhead(dice),
      freeze: (dice) => this.withOne(dice, (node) => bus.freeze(node, below(dice, FREEZE_MS))),
      burst: (dice) => this.burst(dice),
      move: (dice) => this.move(dice),
      dnsGone: (dice) => this.lie(dice, []),
      dnsFails: (dice) => this.lie(dice, [], "SERVFAIL"),
      dnsDead: (dice) => this.dnsDead(dice),
      dnsLies: (dice) => this.lie(dice, this.wrong(dice)),
      dnsFlaps: (dice) => this.flap(dice),
      come: () => hostile.come(),
      act: (dice) => this.withOne(dice, (node) => hostile.act(node)),
    };
  }

  draw(dice: Random): FaultKind {
    return pick(dice, URN);
  }

  happen(kind: FaultKind, dice: Random): void {
    this.kinds[kind](dice);
  }

  /** Mends everything: the network, the clocks, DNS; the notification addresses are up, and of the others some. */
  end(dice: Random): void {
    const { bus, ground } = this;
    bus.heal();
    bus.setLink(CLEAN_LINK);
    bus.setDnsDead(false);
    this.hostile.go();
    for (const node of bus.nodes) {
      if (node.frozen !== undefined) bus.thaw(node);
      // A clock that stands has been set back: somebody sets it right.
      const behindMs = node.core === undefined ? 0 : bus.clock(node) - bus.now - node.skewMs;
      if (behindMs > 0) bus.setClock(node, behindMs);
    }
    for (const seed of ground.seeds) {
      if (seed.core === undefined) this.up(seed, dice);
      if (ground.named) bus.setName(seedName(seed), [seed.ip]);
    }
    for (const node of bus.nodes) if (node.core === undefined && chance(dice, 0.5)) this.up(node, dice);
    bus.trace.note(bus.now, "story", "the faults end");
  }

  up(node: SimNode, dice: Random): void {
    if (node.core === undefined) this.start(node, chance(dice, 0.5), dice);
  }

  pickUp(dice: Random): SimNode | undefined {
    const up = this.bus.nodes.filter((node) => node.core !== undefined);
    return up.length === 0 ? undefined : pick(dice, up);
  }

  pickAwake(dice: Random): SimNode | undefined {
    const node = this.pickUp(dice);
    return node?.frozen === undefined ? node : undefined;
  }

  say(from: SimNode, peer: string, dice: Random, maxBytes: number): void {
    const body = this.witness.body(dice, maxBytes);
    const request = this.bus.send(from, CHANNEL, peer, body);
    this.witness.sent(from, body, [{ request, peer }]);
  }

  private start(node: SimNode, snapshot: boolean | readonly string[], dice: Random): void {
    this.bus.start(node, { snapshot, skewMs: below(dice, CLOCK_ORIGIN_MS) });
  }

  private withOne(dice: Random, action: (node: SimNode) => void): void {
    const node = this.pickUp(dice);
    if (node !== undefined) action(node);
  }

  private kill(node: SimNode, death: Death): void {
    this.bus.kill(node, death);
    this.witness.died(node);
  }

  private weather(dice: Random): void {
    this.bus.setLink({
      loss: below(dice, 31) / 100,
      duplication: below(dice, 21) / 100,
      reordering: below(dice, 31) / 100,
      reorderingMs: pick(dice, [20, 300, 3_000]),
      delayMaxMs: pick(dice, [5, 50, 500]),
      split: below(dice, 60) / 100,
    });
  }

  private split(dice: Random, oneWay: boolean): void {
    const left: SimNode[] = [];
    const right: SimNode[] = [];
    for (const node of this.bus.nodes) (chance(dice, 0.5) ? left : right).push(node);
    if (left.length > 0 && right.length > 0) this.bus.partition(left, right, { oneWay });
  }

  private crash(dice: Random): void {
    this.withOne(dice, (node) => this.kill(node, pick(dice, ["process", "process", "host"])));
  }

  private back(dice: Random): void {
    const down = this.bus.nodes.filter((node) => node.core === undefined);
    if (down.length > 0) this.up(pick(dice, down), dice);
  }

  /** A quick restart, as of a service that was upgraded, with or without what it knew, or with nonsense. */
  private restart(dice: Random, snapshot: boolean | readonly string[]): void {
    this.withOne(dice, (node) => {
      this.kill(node, "process");
      this.start(node, snapshot, dice);
    });
  }

  private leave(dice: Random): void {
    const node = this.pickAwake(dice);
    if (node !== undefined && !node.leaving) this.bus.leave(node, chance(dice, 0.7));
  }

  private clockAhead(dice: Random): void {
    this.withOne(dice, (node) => {
      this.invariants.forgot(node);
      this.bus.setClock(node, below(dice, CLOCK_AHEAD_MS));
    });
  }

  /** More for one peer than its window and its queue hold. */
  private burst(dice: Random): void {
    const from = this.pickAwake(dice);
    if (from === undefined || from.leaving) return;
    const peers = from.running.nodes();
    if (peers.length === 0) return;
    const { uri } = pick(dice, peers);
    for (let i = below(dice, BURST_MAX); i >= 0 && from.core !== undefined; i--) this.say(from, uri, dice, 60);
  }

  // Names.

  /** A seed moves to another address and its name follows later. */
  private move(dice: Random): void {
    if (!this.ground.named) return;
    const seed = pick(dice, this.ground.seeds);
    if (seed.core !== undefined) this.kill(seed, pick(dice, ["process", "host"]));
    const ip = `10.1.${++this.moves}.${1 + this.ground.seeds.indexOf(seed)}`;
    this.bus.start(seed, { ip, skewMs: below(dice, CLOCK_ORIGIN_MS) });
    this.bus.schedule(below(dice, 20_000), () => {
      if (seed.ip === ip) this.bus.setName(seedName(seed), [ip]);
    });
  }

  private lie(dice: Random, addresses: readonly string[], failure?: string): void {
    if (!this.ground.named) return;
    const name = seedName(pick(dice, this.ground.seeds));
    const ttlMs = pick(dice, [0, 1_000, 60_000]);
    this.bus.setName(name, addresses, failure === undefined ? { ttlMs } : { ttlMs, failure });
  }

  /** Addresses that the name should not have: of another node, of whoever asks, of nobody, of the hostile one; or several. */
  private wrong(dice: Random): string[] {
    const { ip: right, transport } = pick(dice, this.ground.seeds);
    // On another transport a node is another node (design.md 4), and a name that leads there makes it two.
    const { ip } = pick(
      dice,
      this.bus.nodes.filter((node) => node.transport === transport),
    );
    const nobody = `10.68.0.${1 + below(dice, 200)}`;
    return pick(dice, [[ip], [ip, right], [nobody], [nobody, right], [this.hostile.stranger.ip], [right, ip, nobody]]);
  }

  private flap(dice: Random): void {
    for (let i = 1 + below(dice, 8); i > 0; i--)
      this.bus.schedule(below(dice, 20_000), () => this.lie(dice, chance(dice, 0.3) ? [] : this.wrong(dice)));
  }

  private dnsDead(dice: Random): void {
    this.bus.setDnsDead(true);
    this.bus.schedule(1_000 + below(dice, 60_000), () => this.bus.setDnsDead(false));
  }
}

export function seedName(seed: SimNode): string {
  return `${seed.name.replace("n", "seed")}.test`;
}

/** Lines of a state file that somebody has written over. */
function damaged(dice: Random): string[] {
  const lines = ["", "sip:", "sip:10.68.200.1:5060", "\0\0\0\0", "sip:10.0.0.1:5060;status=active", "sip:[::]:99999"];
  return Array.from({ length: below(dice, 300) }, () => pick(dice, lines));
}

function chance(dice: Random, probability: number): boolean {
  return dice.u32() < probability * 0x1_0000_0000;
}

function pick<T>(dice: Random, from: readonly T[]): T {
  return from[below(dice, from.length)] as T;
}
