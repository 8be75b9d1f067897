/** What an item of a queue is on its way to a channel, and why it does not go out. */

import type { Item } from "../queue/operation.ts";
import { itemExtras, itemFacts, itemMessageId } from "./fields.ts";
import type { Store } from "./host.ts";
import type { OutboundLink } from "./kinds.ts";
import { failed, type Letter, type Letters, type Refused } from "./outbound.ts";
import { busPlace, hasBeenIn, linkId, loopIn } from "./path.ts";

export interface QueueLettersHost {
  store: Store;
  /** Name of the bus. */
  bus: string;
  /** Our own URI. */
  uri(): string;
}

export class QueueLetters implements Letters {
  private readonly link: OutboundLink;
  private readonly host: QueueLettersHost;
  /** As paths have it. */
  private readonly bus: string;

  constructor(link: OutboundLink, host: QueueLettersHost) {
    this.link = link;
    this.host = host;
    this.bus = busPlace(host.bus);
  }

  of(item: Item): Letter | Refused {
    const { link, host } = this;
    const id = linkId(host.uri(), link.name);
    const why = this.loopOf(item, id);
    if (why !== undefined) {
      const text = `would make it go round: ${why}`;
      return { verdict: failed(text, { fate: "dead", reason: `loop: ${why}` }), isLoop: true };
    }
    return {
      ...{ channel: link.channel, contentType: item.contentType, messageId: itemMessageId(host.uri(), item) },
      ...{ path: [...item.path, id], headers: itemExtras(item), isWatched: item.channel !== null },
      node: link.node?.fill(itemFacts(item)),
      // With an item of the bus the node that it came from knows it already.
      except: link.echo ? (item.from ?? undefined) : undefined,
    };
  }

  private loopOf({ path, channel }: Item, id: string): string | undefined {
    const { link, host } = this;
    const loop = loopIn(path, id);
    if (loop !== undefined) return loop;
    if (hasBeenIn(path, this.bus)) return `it comes from bus ${host.bus}, by way of a broker`;
    // What came from this channel is not sent there again.
    return link.echo || channel !== link.channel
      ? undefined
      : `it came from channel ${channel}, and echo=yes is not set`;
  }

  /** The queue's own bound holds, too. */
  async maxTries(): Promise<number> {
    const { link, host } = this;
    const [report] = await host.store.perform({ type: "report", queue: link.queue });
    return Math.min(link.maxTries, report?.definition.maxTries ?? link.maxTries);
  }
}
