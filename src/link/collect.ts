/**
 * From a broker into a queue: the broker's message is acknowledged when it is stored. One that comes again, because the connection broke
 * before the broker knew, is stored once, if it has a `message_id`.
 */
import type { AmqpItem } from "../amqp/supply.ts";
import type { Handler, Verdict } from "../consume/consumer.ts";
import type { Duration } from "../core/time.ts";
import { MESSAGE_ID_HEADER } from "../node/kdmq.ts";
import { QueueError } from "../queue/error.ts";
import type { Item, NewItem } from "../queue/operation.ts";
import { addWhenRoom } from "../queue/wait.ts";
import { type LinkBroker, placeOf } from "./broker.ts";
import { Counters } from "./counters.ts";
import {
  deliveryExtras,
  deliveryFacts,
  deliveryFrom,
  deliveryMessageId,
  deliveryPath,
  deliveryType,
} from "./fields.ts";
import type { Sparing, Store } from "./host.ts";
import { cutKey } from "./inbound.ts";
import type { CollectLink } from "./kinds.ts";
import { failed } from "./outbound.ts";
import { loopIn, placeId } from "./path.ts";

/** A queue that is full and says `full=wait` may take so long to have room, before the message is looked at again. */
const ROOM_MS: Duration = 30_000;
/** Between two tries to store it. */
const AGAIN_MS: Duration = 2_000;

export interface CollectHost {
  store: Store;
  broker: LinkBroker;
  warnings: Sparing;
}

export class Collect {
  readonly counters: Counters = new Counters();
  private readonly link: CollectLink;
  private readonly host: CollectHost;

  constructor(link: CollectLink, host: CollectHost) {
    this.link = link;
    this.host = host;
  }

  readonly handle: Handler = async ([first], stop) => {
    const item = first as AmqpItem;
    const { link, host, counters } = this;
    counters.in++;
    const path = deliveryPath(item.delivery);
    const id = placeId(placeOf(link.source, item.delivery.exchange, item.delivery.broker.zone), link.name);
    const loop = loopIn(path, id);
    if (loop !== undefined) {
      counters.heldBack++;
      host.warnings.warn(`loop ${link.name}`, `link ${link.name}: a message goes no further: ${loop}`);
      return { type: "done" };
    }
    return this.keep(item, [...path, id], stop);
  };

  private async keep(item: AmqpItem, path: readonly string[], stop: AbortSignal): Promise<Verdict> {
    const { link, host, counters } = this;
    const items = [newItem(link, item, path)];
    try {
      await addWhenRoom(host.store, { type: "add", queue: link.queue, items }, ROOM_MS, stop);
      counters.out++;
      return { type: "done" };
    } catch (error) {
      if (stop.aborted) return { type: "stopped" };
      if (!(error instanceof QueueError)) throw error;
      const { message } = error;
      host.warnings.warn(`${error.code} ${link.name}`, `link ${link.name}: not stored: ${message}`);
      if (error.code !== "item-refused")
        return failed(`is not stored: ${message}`, {
          fate: "retry",
          counts: false,
          delayMs: AGAIN_MS,
          reason: message,
        });
      counters.failed++;
      return failed(`is refused: ${message}`, { fate: "dead", reason: message });
    }
  }
}

function newItem(link: CollectLink, { delivery }: AmqpItem, path: readonly string[]): NewItem {
  const id = deliveryMessageId(delivery);
  const headers = Object.fromEntries(deliveryExtras(delivery, link.headers));
  return {
    ...{ key: cutKey(link.key.fill(deliveryFacts(delivery))), value: delivery.body, path },
    ...{ contentType: deliveryType(delivery), from: deliveryFrom(delivery) },
    headers: { ...headers, ...(id !== undefined && { [MESSAGE_ID_HEADER]: id }) },
    ...(id !== undefined && { dedupe: `amqp ${id}` }),
  };
}

/** Dead letters of a link from a broker, which has no queue of its own here. */
export class Burial {
  private readonly queue: string;
  private readonly store: Store;
  private readonly holder: string;
  private work: Promise<void> = Promise.resolve();

  /** @param queue  a queue whose dead letters they become; it holds nothing else */
  constructor(queue: string, store: Store, holder: string) {
    this.queue = queue;
    this.store = store;
    this.holder = holder;
  }

  /** One after the other. @throws QueueError where it cannot be stored */
  bury(item: Item, reason: string): Promise<void> {
    const buried = this.work.then(() => this.buryNow(item, reason));
    this.work = buried.catch(() => {});
    return buried;
  }

  private async buryNow({ key, value, contentType, headers, from }: Item, reason: string): Promise<void> {
    const { store, queue, holder } = this;
    const items = [{ key: cutKey(key), value, contentType, headers, ...(from !== null && { from }) }];
    await store.perform({ type: "add", queue, items });
    const lease = { type: "lease" as const, queue, count: LEFT_MAX, leaseMs: LEASE_MS, holder };
    // What is there besides was left when a daemon ended between these two steps.
    const failures = (await store.perform(lease)).map(({ id }) => ({ id, fate: "dead" as const, reason }));
    await store.perform({ type: "fail", failures });
  }
}

const LEFT_MAX = 100;
const LEASE_MS: Duration = 30_000;
