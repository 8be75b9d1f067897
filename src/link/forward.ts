/** From a queue to an exchange: an item is done when a broker has confirmed it; what no broker takes is a dead letter. */
import { AmqpError } from "../amqp/error.ts";
import type { Handler, Verdict } from "../consume/consumer.ts";
import type { Duration } from "../core/time.ts";
import type { Item } from "../queue/operation.ts";
import type { LinkBroker, Publisher } from "./broker.ts";
import { Counters } from "./counters.ts";
import { publicationOfItem } from "./fields.ts";
import type { ForwardLink } from "./kinds.ts";
import { failed } from "./outbound.ts";
import { busPlace, exchangePlace, hasBeenIn, linkId, loopIn, placeId } from "./path.ts";
import type { Repeats } from "./repeat.ts";

/** A broker's no: it would say the same again. */
const FINAL: readonly string[] = ["amqp-refused", "amqp-no-such", "amqp-invalid"];

const AGAIN_MS: Duration = 1_000;

export interface ForwardHost {
  broker: LinkBroker;
  publisher: Pick<Publisher, "publish">;
  repeats: Repeats;
  uri(): string;
}

export class Forward {
  readonly counters: Counters = new Counters();
  private readonly link: ForwardLink;
  private readonly host: ForwardHost;

  /** As paths have it. */
  private readonly exchange: string;

  constructor(link: ForwardLink, host: ForwardHost) {
    this.link = link;
    this.host = host;
    this.exchange = exchangePlace(host.broker.zone, link.target.exchange.name);
  }

  readonly handle: Handler = async ([first], stop) => {
    const item = first as Item;
    this.counters.in++;
    // What came from the bus is known by that in paths, whichever node had it in a queue meanwhile.
    const { uri, broker } = this.host;
    const { name } = this.link;
    const id = item.channel === null ? linkId(uri(), name) : placeId(busPlace(broker.bus), name);
    const loop = this.loopOf(item.path, id);
    if (loop === undefined) return this.publish(item, [...item.path, id], stop);
    this.counters.heldBack++;
    return failed(`would make it go round: ${loop}`, { fate: "dead", reason: `loop: ${loop}` });
  };

  private loopOf(path: readonly string[], id: string): string | undefined {
    if (hasBeenIn(path, this.exchange)) return `it comes from exchange ${this.link.target.exchange.name}`;
    return loopIn(path, id);
  }

  private async publish(item: Item, path: readonly string[], stop: AbortSignal): Promise<Verdict> {
    const { link, host, counters } = this;
    try {
      // Without a limit: the client keeps it until there is a broker, and nothing overtakes it.
      await host.publisher.publish(publicationOfItem(item, link.target, { node: host.uri(), path }), { signal: stop });
      if (item.channel !== null) host.repeats.note(item.value, performance.now());
      counters.out++;
      return { type: "done" };
    } catch (error) {
      if (stop.aborted) return { type: "stopped" };
      if (!(error instanceof AmqpError)) throw error;
      counters.failed++;
      const { message: reason } = error;
      const isLast = item.tries >= link.maxTries || FINAL.includes(error.code);
      const fate = isLast ? { fate: "dead" as const, reason } : { fate: "retry" as const, reason, delayMs: AGAIN_MS };
      return failed(`was not published: ${reason}`, fate);
    }
  }
}
