/** What a delivery of a broker is on its way to a channel, and why it does not go out (amqp.md B9). */
import type { AmqpItem } from "../amqp/supply.ts";
import { UsageError } from "../core/errors.ts";
import { checkChannel, type ExtraHeaders } from "../node/kdmq.ts";
import type { Item } from "../queue/operation.ts";
import { type LinkBroker, placeOf } from "./broker.ts";
import {
  deliveryExtras,
  deliveryFacts,
  deliveryMessageId,
  deliveryPath,
  deliveryType,
  itemMessageId,
} from "./fields.ts";
import type { Sparing } from "./host.ts";
import type { DeliverLink } from "./kinds.ts";
import { failed, type Letter, type Letters, type Refused } from "./outbound.ts";
import { busPlace, hasBeenIn, loopIn, placeId } from "./path.ts";
import type { Repeats } from "./repeat.ts";

export interface DeliveryHost {
  broker: LinkBroker;
  warnings: Sparing;
  repeats: Repeats;
  /** Channels of Kamailio's modules. */
  closed: ReadonlySet<string>;
  /** Our own URI. */
  uri(): string;
}

export class DeliveryLetters implements Letters {
  private readonly link: DeliverLink;
  private readonly host: DeliveryHost;
  /** As paths have it. */
  private readonly bus: string;
  private isAdvised = false;

  constructor(link: DeliverLink, host: DeliveryHost) {
    this.link = link;
    this.host = host;
    this.bus = busPlace(host.broker.bus);
  }

  of(item: Item): Letter | Refused {
    const { link, host } = this;
    const { delivery } = item as AmqpItem;
    const path = deliveryPath(delivery);
    const id = placeId(placeOf(link.source, delivery.exchange, delivery.broker.zone), link.name);
    const loop = this.loopOf(path, id);
    // It is where it belongs already: nothing is lost, so the broker may forget it.
    if (loop !== undefined) return { verdict: { type: "done" }, isLoop: true };
    const facts = deliveryFacts(delivery);
    const channel = link.channel.fill(facts);
    const why = this.obstacleTo(channel);
    if (why !== undefined) return { verdict: failed(why, { fate: "dead", reason: why }), isLoop: false };
    const extras: ExtraHeaders = deliveryExtras(delivery, link.headers);
    return {
      ...{ channel, contentType: deliveryType(delivery), path: [...path, id] },
      messageId: deliveryMessageId(delivery) ?? itemMessageId(host.uri(), item),
      headers: extras.length === 0 ? undefined : extras,
      node: link.node?.fill(facts),
      // Another bus may have a node of the same address.
      except: undefined,
      isWatched: host.repeats.isNoted(item.value, performance.now()),
    };
  }

  private loopOf(path: readonly string[], id: string): string | undefined {
    const { link, host } = this;
    const { bus } = host.broker;
    if (hasBeenIn(path, this.bus)) {
      // With the links of both directions that is so for each message that this bus has sent: once is enough.
      if (!this.isAdvised) {
        const advice = "where two buses are joined over one exchange, name them apart with --bus";
        host.warnings.warn(
          `bus ${link.name}`,
          `link ${link.name}: what comes from bus ${bus} is not sent to it: ${advice}`,
        );
      }
      this.isAdvised = true;
      return bus;
    }
    const loop = loopIn(path, id);
    if (loop !== undefined)
      host.warnings.warn(`loop ${link.name}`, `link ${link.name}: a message goes no further: ${loop}`);
    return loop;
  }

  private obstacleTo(channel: string): string | undefined {
    if (!this.link.internal && this.host.closed.has(channel))
      return `channel ${channel} is one of Kamailio's modules, and internal=yes is not set`;
    try {
      checkChannel(channel);
      return undefined;
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      return `cannot be sent: ${error.message}`;
    }
  }

  async maxTries(): Promise<number> {
    return this.link.maxTries;
  }
}
