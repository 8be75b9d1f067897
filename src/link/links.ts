/**
 * The links of a daemon (`--link`, queue.md B8): channels that are taken into queues, queues that are sent on, or handed to commands,
 * by the consumer of `dmq queue fetch`.
 */
import type { Handler as ChannelHandler } from "../channel/channel.ts";
import { commandHandler } from "../consume/command.ts";
import { type Became, consume, type Handler } from "../consume/consumer.ts";
import { StoreSupply, type Supply } from "../consume/supply.ts";
import type { Logger } from "../core/logger.ts";
import type { Duration } from "../core/time.ts";
import type { HandlerMode } from "../node/io.ts";
import { holderName } from "../queue/holder.ts";
import type { Item } from "../queue/operation.ts";
import { Counters, type LinkStatus } from "./counters.ts";
import type { Endpoint, ExecLink, InboundLink, LinkDefinition, OutboundLink } from "./definition.ts";
import { GatedSupply } from "./gate.ts";
import { ensureQueue, type LinkNode, type LinkQueues, Sparing, type Store } from "./host.ts";
import { type InboundState, inboundHandler } from "./inbound.ts";
import { Outbound, WINDOW } from "./outbound.ts";
import { Repeats } from "./repeat.ts";

/** Leases of items that are under way; they are renewed until that ends. */
const LEASE_MS: Duration = 60_000;

/** What commands have when the daemon stops; supervisors are patient for ten seconds. */
const GRACE_MS: Duration = 5_000;

/** After a consumer's end that was not asked for. */
const AGAIN_MS: Duration = 5_000;

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
}

interface Running {
  readonly counters: Counters;
  readonly link: LinkDefinition;
}

export class Links {
  private readonly options: LinksOptions;
  private readonly warnings: Sparing;
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
    for (const queue of new Set(links.map((link) => link.queue))) await ensureQueue(queues, queue);
  }

  /** Takes the channels; to be called before the node joins. */
  bind(node: ChannelHost): void {
    const inbound = this.options.links.filter((link): link is InboundLink => link.type === "inbound");
    const byChannel = Map.groupBy(inbound, ({ channel }) => channel);
    for (const [channel, links] of byChannel) {
      const states = links.map((link): InboundState => ({ link, counters: this.counting(link) }));
      const host = { queues: this.options.queues, warnings: this.warnings, uri: () => node.uri() };
      node.declare(channel);
      // Inline: many commits are one flush, and a worker would wait for each of them.
      node.channel(channel, inboundHandler(host, states), { mode: "inline" });
    }
  }

  private counting(link: LinkDefinition, counters: Counters = new Counters()): Counters {
    this.running.push({ link, counters });
    return counters;
  }

  /** Begins to take items out of queues. @throws QueueError `storage` */
  async start(node: LinkNode): Promise<void> {
    const { links, queues } = this.options;
    if (!links.some(({ type }) => type !== "inbound")) return;
    const store = await queues.open();
    const repeats = new Repeats();
    for (const link of links) {
      if (link.type === "outbound") this.startOutbound(link, node, store, repeats);
      if (link.type === "exec") this.startExec(link, store);
    }
  }

  private startOutbound(link: OutboundLink, node: LinkNode, store: Store, repeats: Repeats): void {
    const outbound = new Outbound(link, { node, store, repeats, warnings: this.warnings });
    this.counting(link, outbound.counters);
    let gate: GatedSupply | undefined;
    this.ends.push(node.on("peer-up", () => gate?.look()));
    const supplied = (supply: Supply): Supply => {
      gate = new GatedSupply(supply, () => outbound.isOpen());
      return gate;
    };
    this.consumers.push(this.keepConsuming(link, store, outbound.handle, WINDOW, supplied));
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
    this.consumers.push(this.keepConsuming(link, store, handle, link.jobs, (supply) => supply));
  }

  /** Until the daemon stops: a consumer that fails, or whose command cannot be run, is tried again. */
  private async keepConsuming(
    link: OutboundLink | ExecLink,
    store: Store,
    handle: Handler,
    jobs: number,
    supplied: (supply: Supply) => Supply,
  ): Promise<void> {
    const { signal } = this.stopping;
    while (!signal.aborted) {
      const why = await this.consumeOnce(link, store, handle, jobs, supplied).catch((error: Error) => error.message);
      if (signal.aborted) return;
      const text = why === undefined ? "it ended" : why;
      this.warnings.warn(`ended ${link.name}`, `link ${link.name} begins anew in ${AGAIN_MS / 1_000} s: ${text}`);
      await pause(AGAIN_MS, signal);
    }
  }

  /** @returns why no item can be handled, if so */
  private async consumeOnce(
    link: OutboundLink | ExecLink,
    store: Store,
    handle: Handler,
    jobs: number,
    supplied: (supply: Supply) => Supply,
  ): Promise<string | undefined> {
    const orderByKey = link.type === "exec" && link.orderByKey;
    const holder = holderName(`link ${link.name}`, true);
    const supply = supplied(
      new StoreSupply(store, { queue: link.queue, leaseMs: LEASE_MS, holder, ...(orderByKey && { orderByKey }) }),
    );
    try {
      const endless = { batch: 1, count: Number.POSITIVE_INFINITY, waitMs: Number.POSITIVE_INFINITY };
      const stop = this.stopping.signal;
      const onFailure = (item: Item, why: string, became: Became): void => this.onFailure(link, item, why, became);
      // Requests that wait for an answer are given up by the node, which has its own patience.
      const graceMs = link.type === "exec" ? GRACE_MS : 0;
      return (await consume({ supply, handle, jobs, ...endless, stop, graceMs, onFailure })).unable;
    } finally {
      await supply.end();
    }
  }

  private onFailure(link: LinkDefinition, item: Item, why: string, became: Became): void {
    const who = link.type === "exec" ? "the command" : "the item";
    const fate = became === "dead" ? `it is a dead letter: dmq queue dead ${item.queue} show ${item.seq}` : became;
    const text = `link ${link.name}: ${who} ${why}; ${fate}`;
    if (became === "dead") this.warnings.warn(`dead ${link.name}`, text, { item: item.seq });
    else this.options.log.debug(text, { item: item.seq });
  }

  status(): LinkStatus[] {
    return this.options.links.map((link) => {
      const counters = this.running.find((one) => one.link === link)?.counters ?? new Counters();
      const { in: taken, out, failed, heldBack } = counters;
      return {
        name: link.name,
        from: place(link.from),
        to: place(link.to),
        in: taken,
        out,
        failed,
        held_back: heldBack,
      };
    });
  }

  /** Nothing more is taken; commands have five seconds, and what is not through is given back. */
  async close(): Promise<void> {
    this.stopping.abort();
    for (const end of this.ends) end();
    await Promise.all(this.consumers);
  }
}

function place(endpoint: Endpoint): string {
  return `${endpoint.type}:${endpoint.name}`;
}

async function pause(ms: Duration, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const onAbort = (): void => resolve();
  signal.addEventListener("abort", onAbort);
  await promise;
  clearTimeout(timer);
  signal.removeEventListener("abort", onAbort);
}
