/**
 * The links of a daemon (`--link`, queue.md B8): channels that are taken into queues, queues that are sent on, or handed to commands,
 * by the consumer of `dmq queue fetch`.
 */
import type { Handler as ChannelHandler } from "../channel/channel.ts";
import { commandHandler } from "../consume/command.ts";
import type { Handler } from "../consume/consumer.ts";
import { StoreSupply, type Supply } from "../consume/supply.ts";
import { assert } from "../core/assert.ts";
import type { Logger } from "../core/logger.ts";
import type { Duration } from "../core/time.ts";
import type { HandlerMode } from "../node/io.ts";
import { holderName } from "../queue/holder.ts";
import type { Item } from "../queue/operation.ts";
import type { Bridge } from "./bridge.ts";
import type { LinkBroker } from "./broker.ts";
import { Counters, type LinkStatus } from "./counters.ts";
import { place } from "./endpoint.ts";
import { GatedSupply } from "./gate.ts";
import { ensureQueue, type LinkNode, type LinkQueues, Sparing, type Store } from "./host.ts";
import { Inbound } from "./inbound.ts";
import { type Intake, intakeHandler } from "./intake.ts";
import { keepConsuming } from "./keeper.ts";
import {
  type ExecLink,
  type InboundLink,
  isBrokerLink,
  type LinkDefinition,
  type OutboundLink,
  type PublishLink,
} from "./kinds.ts";
import { QueueLetters } from "./letters.ts";
import { Outbound, WINDOW } from "./outbound.ts";
import { Repeats } from "./repeat.ts";

/** Leases of items that are under way; they are renewed until that ends. */
const LEASE_MS: Duration = 60_000;

/** What commands have when the daemon stops; supervisors are patient for ten seconds. */
const GRACE_MS: Duration = 5_000;

/** Of a node that does not say. */
export const DEFAULT_BUS = "dmq";

/** What a node has that links give handlers to. */
export interface ChannelHost extends LinkNode {
  declare(name: string): void;
  channel(name: string, handler: ChannelHandler, options: { mode: HandlerMode }): () => void;
}

export interface LinksOptions {
  links: readonly LinkDefinition[];
  queues: LinkQueues;
  log: Logger;
  /** For commands: a `dmq` that they call talks to this daemon. */
  socketPath: string;
  /** For links with a broker at one end. */
  broker?: LinkBroker;
  /** Channels of Kamailio's modules: no link that takes the channel from a message sends there. */
  closed?: ReadonlySet<string>;
}

interface Running {
  readonly counters: Counters;
  readonly link: LinkDefinition;
}

export class Links {
  private readonly options: LinksOptions;
  private readonly warnings: Sparing;
  private readonly repeats = new Repeats();
  private bridge: Bridge | undefined;
  private readonly running: Running[] = [];
  private readonly stopping = new AbortController();
  private readonly ends: (() => void)[] = [];
  private readonly consumers: Promise<void>[] = [];

  constructor(options: LinksOptions) {
    this.options = options;
    this.warnings = new Sparing(options.log);
  }

  /**
   * Makes the queues that are not there yet.
   *
   * @throws QueueError `storage` where the store cannot be used
   */
  async prepare(): Promise<void> {
    const { links, queues } = this.options;
    const names = links.flatMap((link) => ("queue" in link ? [link.queue] : []));
    for (const queue of new Set(names)) await ensureQueue(queues, queue);
    await this.prepareBridge();
  }

  /** What knows brokers is loaded where a link needs one. */
  private async prepareBridge(): Promise<void> {
    const { links: all, broker, queues, log, closed = new Set() } = this.options;
    const links = all.filter(isBrokerLink);
    if (links.length === 0) return;
    assert(broker !== undefined, "links with a broker at one end have one");
    const { Bridge } = await import("./bridge.ts");
    const { warnings, repeats } = this;
    this.bridge = new Bridge({ links, broker, queues, log, closed, warnings, repeats });
    await this.bridge.prepare();
  }

  /** Takes the channels; to be called before the node joins. */
  bind(node: ChannelHost): void {
    const taking = this.options.links.filter((link) => link.type === "inbound" || link.type === "publish");
    const byChannel = Map.groupBy(taking, ({ channel }) => channel);
    for (const [channel, links] of byChannel) {
      const intakes = links.map((link) => this.intakeOf(link, node));
      node.declare(channel);
      // Inline: many commits are one flush, and a worker would wait for each of them.
      node.channel(channel, intakeHandler(this.warnings, intakes), { mode: "inline" });
    }
  }

  private intakeOf(link: InboundLink | PublishLink, node: ChannelHost): Intake {
    const uri = (): string => node.uri();
    const intake =
      link.type === "publish"
        ? (this.bridge as Bridge).intake(link, uri)
        : new Inbound(link, { queues: this.options.queues, warnings: this.warnings, uri });
    this.counting(link, intake.counters);
    return intake;
  }

  private counting(link: LinkDefinition, counters: Counters = new Counters()): Counters {
    this.running.push({ link, counters });
    return counters;
  }

  /** Begins to take items out of queues, and from brokers. @throws QueueError `storage` */
  async start(node: LinkNode): Promise<void> {
    const { links, queues } = this.options;
    if (links.every(({ type }) => type === "inbound")) return;
    const store = await queues.open();
    for (const link of links) {
      if (link.type === "outbound") this.startOutbound(link, node, store);
      if (link.type === "exec") this.startExec(link, store);
    }
    for (const { link, counters, consuming } of this.bridge?.start(node, store) ?? []) {
      this.counting(link, counters);
      this.consumers.push(keepConsuming(consuming, this.keeper()));
    }
  }

  private keeper(): { log: Logger; warnings: Sparing; stop: AbortSignal } {
    return { log: this.options.log, warnings: this.warnings, stop: this.stopping.signal };
  }

  private startOutbound(link: OutboundLink, node: LinkNode, store: Store): void {
    const { repeats, warnings } = this;
    const bus = this.options.broker?.bus ?? DEFAULT_BUS;
    const letters = new QueueLetters(link, { store, bus, uri: () => node.uri() });
    const outbound = new Outbound(link, { node, letters, repeats, warnings });
    this.counting(link, outbound.counters);
    let gate: GatedSupply | undefined;
    this.ends.push(node.on("peer-up", () => gate?.look()));
    const supplied = (supply: Supply): Supply => {
      gate = new GatedSupply(supply, () => outbound.isOpen());
      return gate;
    };
    // Requests that wait for an answer are given up by the node, which has its own patience.
    this.keep(link, store, outbound.handle, { jobs: WINDOW, graceMs: 0, what: "the item", supplied });
  }

  private startExec(link: ExecLink, store: Store): void {
    const counters = this.counting(link);
    const { log, socketPath } = this.options;
    const command = commandHandler({
      argv: link.argv,
      timeoutMs: link.timeoutMs,
      batch: false,
      variables: { DMQ_SOCKET: socketPath },
      // What it has to say it says on stderr, as a handler of --on.
      onStdout: () => {},
      onStderrLine: (line) => log.info(line, { link: link.name }),
    });
    const handle: Handler = async (items, stop) => {
      const [item] = items as [Item];
      counters.in++;
      const verdict = await command(items, stop);
      if (verdict.type === "done") counters.out++;
      if (verdict.type !== "failed") return verdict;
      counters.failed++;
      const isLast = verdict.fate.counts !== false && item.tries >= link.maxTries;
      return isLast ? { ...verdict, fate: { ...verdict.fate, fate: "dead" } } : verdict;
    };
    const { jobs } = link;
    this.keep(link, store, handle, { jobs, graceMs: GRACE_MS, what: "the command", supplied: (supply) => supply });
  }

  private keep(
    link: OutboundLink | ExecLink,
    store: Store,
    handle: Handler,
    how: { jobs: number; graceMs: Duration; what: string; supplied: (supply: Supply) => Supply },
  ): void {
    const { name, queue } = link;
    const { supplied, ...rest } = how;
    const orderByKey = link.type === "exec" && link.orderByKey;
    const supply = (): Supply => {
      const holder = holderName(`link ${name}`, true);
      return supplied(new StoreSupply(store, { queue, leaseMs: LEASE_MS, holder, ...(orderByKey && { orderByKey }) }));
    };
    const deadOf = ({ seq }: Item): string => `dmq queue dead ${queue} show ${seq}`;
    this.consumers.push(keepConsuming({ name, supply, handle, ...rest, deadOf }, this.keeper()));
  }

  status(): LinkStatus[] {
    return this.options.links.map((link) => {
      const counters = this.running.find((one) => one.link === link)?.counters ?? new Counters();
      const { in: taken, out, failed, heldBack } = counters;
      const state = this.bridge?.stateOf(link);
      const { name, from, to } = link;
      return {
        ...{ name, from: place(from), to: place(to), in: taken, out, failed, held_back: heldBack },
        ...(state !== undefined && { state }),
      };
    });
  }

  /** Nothing more is taken; commands have five seconds, and what is not through is given back. */
  async close(): Promise<void> {
    this.stopping.abort();
    for (const end of this.ends) end();
    await Promise.all([...this.consumers, this.bridge?.close()]);
  }
}
