/** The links of a node that have a broker at one end (amqp.md B9): what they need in common, and what each of them runs. */
import { SPOOL, SPOOL_DEFINITION } from "../amqp/spool.ts";
import { type AmqpItem, AmqpSupply } from "../amqp/supply.ts";
import type { Handler } from "../consume/consumer.ts";
import { type Fate, StoreSupply, type Supply, type Take } from "../consume/supply.ts";
import type { Logger } from "../core/logger.ts";
import type { Duration } from "../core/time.ts";
import { holderName } from "../queue/holder.ts";
import type { Item } from "../queue/operation.ts";
import { type Client, type LinkBroker, subscriptionOf } from "./broker.ts";
import { Burial, Collect } from "./collect.ts";
import type { Counters } from "./counters.ts";
import { DeliveryLetters } from "./deliver.ts";
import { Forward } from "./forward.ts";
import { GatedSupply } from "./gate.ts";
import { ensureQueue, type LinkNode, type LinkQueues, type Sparing, type Store } from "./host.ts";
import type { Consuming } from "./keeper.ts";
import type { BrokerLink, CollectLink, DeliverLink, ForwardLink, LinkDefinition, PublishLink } from "./kinds.ts";
import { BridgeLock, standbyQueue } from "./lock.ts";
import { Outbound } from "./outbound.ts";
import { PublishIntake } from "./publish.ts";
import type { Repeats } from "./repeat.ts";

const LEASE_MS: Duration = 60_000;

/** What the others keep at least of a channel with a lock, and in heartbeats, if that is more: so long a dead holder may seem alive. */
const STANDBY_MS: Duration = 10_000;
const STANDBY_HEARTBEATS = 3;

/** As large as a body of a broker's may be. */
const STANDBY_DEFINITION = "bytes=1g;max-value=16m;full=drop-oldest";
const DEAD_DEFINITION = "bytes=1g;max-value=16m";
const QUEUE_CHARS_MAX = 59;

export interface BridgeOptions {
  links: readonly BrokerLink[];
  broker: LinkBroker;
  queues: LinkQueues;
  /** Channels of Kamailio's modules. */
  closed: ReadonlySet<string>;
  log: Logger;
  warnings: Sparing;
  repeats: Repeats;
}

/** A link that takes items, with its counters. */
export interface Started {
  link: Taking;
  counters: Counters;
  consuming: Consuming;
}

export class Bridge {
  private readonly options: BridgeOptions;
  private readonly locks = new Map<string, BridgeLock>();
  /** By the link's name. */
  private readonly subscriptions = new Map<string, Subscription>();
  private readonly ends: (() => void)[] = [];

  constructor(options: BridgeOptions) {
    this.options = options;
    const { broker, links } = options;
    for (const link of links) if ("target" in link && link.target.declare) broker.publisher.keep(link.target.exchange);
  }

  /** Makes the queues that are not there yet. @throws QueueError `storage` */
  async prepare(): Promise<void> {
    const { queues, links } = this.options;
    const publishing = links.filter(({ type }) => type === "publish") as PublishLink[];
    if (publishing.length > 0) await ensureQueue(queues, SPOOL, SPOOL_DEFINITION);
    for (const name of locksOf(publishing)) {
      const queue = standbyQueue(name);
      await ensureQueue(queues, queue, `name=${queue};${STANDBY_DEFINITION}`);
    }
    for (const link of links)
      if (link.type === "deliver" || link.type === "collect")
        await ensureQueue(queues, deadQueue(link), `name=${deadQueue(link)};${DEAD_DEFINITION}`);
  }

  /** What takes a channel's messages. */
  intake(link: PublishLink, uri: () => string): PublishIntake {
    const { broker, queues, warnings, repeats } = this.options;
    const { publisher } = broker;
    const lock = (): BridgeLock | undefined => (link.lock === undefined ? undefined : this.locks.get(link.lock));
    return new PublishIntake(link, { broker, queues, warnings, repeats, publisher, lock, uri });
  }

  /** @returns the links that take items from queues or from a broker, for a consumer each */
  start(node: LinkNode, store: Store): Started[] {
    this.ask(store);
    return this.options.links.filter(isTaking).map((link) => this.startOne(link, node, store));
  }

  private startOne(link: Taking, node: LinkNode, store: Store): Started {
    switch (link.type) {
      case "forward":
        return this.forward(link, node, store);
      case "deliver":
        return this.deliver(link, node, store);
      case "collect":
        return this.collect(link, store);
    }
  }

  private ask(store: Store): void {
    const { links, broker, log } = this.options;
    const publishing = links.filter(({ type }) => type === "publish") as PublishLink[];
    for (const name of locksOf(publishing)) {
      const given = publishing.flatMap(({ lock, standbyMs }) => (lock === name && standbyMs ? [standbyMs] : []));
      const usual = Math.max(STANDBY_MS, STANDBY_HEARTBEATS * broker.heartbeatMs);
      const standbyMs = given.length > 0 ? Math.max(...given) : usual;
      const { client, lockAt } = broker;
      this.locks.set(name, new BridgeLock(name, { client, store, log, standbyMs, broker: lockAt }));
    }
  }

  private forward(link: ForwardLink, node: LinkNode, store: Store): Started {
    const { broker, repeats } = this.options;
    const forward = new Forward(link, { broker, repeats, publisher: broker.publisher, uri: () => node.uri() });
    const { queue, name, jobs } = link;
    const supply = (): Supply =>
      new StoreSupply(store, { queue, leaseMs: LEASE_MS, holder: holderName(`link ${name}`, true) });
    const deadOf = ({ seq }: Item): string => `dmq queue dead ${queue} show ${seq}`;
    const consuming = { name, supply, handle: forward.handle, jobs, graceMs: 0, what: "the item", deadOf };
    return { link, counters: forward.counters, consuming };
  }

  private deliver(link: DeliverLink, node: LinkNode, store: Store): Started {
    const { broker, warnings, repeats, closed } = this.options;
    const letters = new DeliveryLetters(link, { broker, warnings, repeats, closed, uri: () => node.uri() });
    const outbound = new Outbound(link, { node, letters, repeats, warnings });
    let gate: GatedSupply | undefined;
    this.ends.push(node.on("peer-up", () => gate?.look()));
    const gated = (supply: Supply): Supply => {
      gate = new GatedSupply(supply, () => outbound.isOpen());
      return gate;
    };
    return { link, counters: outbound.counters, consuming: this.consuming(link, outbound.handle, store, gated) };
  }

  private collect(link: CollectLink, store: Store): Started {
    const { broker, warnings } = this.options;
    const collect = new Collect(link, { store, broker, warnings });
    const { counters } = collect;
    return { link, counters, consuming: this.consuming(link, collect.handle, store, (supply) => supply) };
  }

  private consuming(
    link: DeliverLink | CollectLink,
    handle: Handler,
    store: Store,
    gated: (supply: Supply) => Supply,
  ): Consuming {
    const { broker, warnings } = this.options;
    const { name, source } = link;
    const burial = new Burial(deadQueue(link), store, holderName(`dead ${name}`, true));
    const bury = (item: AmqpItem, { reason }: Fate): Promise<void> => burial.bury(item, reason ?? "");
    const onTrouble = (text: string): void => warnings.warn(`broker ${name}`, `link ${name}: ${text}`);
    const supply = (): Supply => {
      const { prefetch, maxTries } = source;
      const inner = new AmqpSupply({ ack: "after", prefetch, maxTries, onTrouble, ...(source.deadHere && { bury }) });
      const subscription = new Subscription(inner, link, broker, onTrouble);
      this.subscriptions.set(name, subscription);
      return gated(subscription);
    };
    const deadOf = (): string =>
      source.deadHere ? `dmq queue dead ${deadQueue(link)}` : "the dead-letter exchange of its queue has it";
    return { name, supply, handle, jobs: source.jobs, graceMs: 0, what: "a message", deadOf };
  }

  /** @returns in words what a link does; `undefined` where there is nothing to say */
  stateOf(link: LinkDefinition): string | undefined {
    if (link.type !== "publish") return this.subscriptions.get(link.name)?.state;
    return link.lock === undefined ? undefined : (this.locks.get(link.lock)?.state ?? "asks for its lock");
  }

  async close(): Promise<void> {
    for (const end of this.ends) end();
    await Promise.all([...this.locks.values()].map((lock) => lock.close()));
  }
}

type Taking = Exclude<BrokerLink, PublishLink>;

function isTaking(link: BrokerLink): link is Taking {
  return link.type !== "publish";
}

function locksOf(links: readonly PublishLink[]): Set<string> {
  return new Set(links.flatMap(({ lock }) => (lock === undefined ? [] : [lock])));
}

/** A queue of ours for a link that has none: only its dead letters are ever in use. */
export function deadQueue({ name }: { name: string }): string {
  return `amqp.${name.replaceAll(/[^A-Za-z0-9._-]/g, "_")}`.slice(0, QUEUE_CHARS_MAX);
}

/** Items of a broker for as long as somebody wants them. */
class Subscription implements Supply {
  private readonly inner: AmqpSupply;
  private readonly subscribed: ReturnType<Client["subscribe"]>;

  constructor(
    inner: AmqpSupply,
    link: DeliverLink | CollectLink,
    broker: LinkBroker,
    onTrouble: (text: string) => void,
  ) {
    this.inner = inner;
    this.subscribed = broker.client.subscribe(subscriptionOf(link, broker.bus), inner);
    this.subscribed.ready.catch((error: Error) => onTrouble(`${error.message}; it is tried again`));
  }

  get state(): string {
    const all = this.subscribed.status();
    const refused = all.find(({ state }) => state === "refused");
    if (refused !== undefined) return `refused: ${refused.lastError ?? ""}`;
    return all.some(({ state }) => state === "consuming") ? "consumes" : "waits for a broker";
  }

  next(take: Take): Promise<Item[]> {
    return this.inner.next(take);
  }

  ack(items: readonly Item[]): Promise<number> {
    return this.inner.ack(items);
  }

  fail(items: readonly Item[], fate: Fate): Promise<("retried" | "dead" | "lost")[]> {
    return this.inner.fail(items, fate);
  }

  /** First the broker sends nothing more: what is given back before that would come again at once. */
  async end(): Promise<void> {
    await this.subscribed.close();
    await this.inner.end();
  }
}
