/**
 * From a channel to an exchange (amqp.md B9). With `until=stored` the answer is 200 when the message is in the spool, from where it is
 * published when a broker is there; with `confirmed` when the broker has confirmed it; with `received` at once.
 */
import { AmqpError } from "../amqp/error.ts";
import type { Publication } from "../amqp/message.ts";
import { SPOOL, spooled } from "../amqp/spool.ts";
import type { Duration } from "../core/time.ts";
import type { Answer, ChannelMessage } from "../node/io.ts";
import type { NewItem } from "../queue/operation.ts";
import type { LinkBroker, Publisher } from "./broker.ts";
import { Counters } from "./counters.ts";
import { publicationOfMessage } from "./fields.ts";
import { heldBack, type InboundHost, identityOf, keep } from "./inbound.ts";
import { type Intake, later, TAKEN } from "./intake.ts";
import type { PublishLink } from "./kinds.ts";
import { type BridgeLock, standbyQueue } from "./lock.ts";
import { busPlace, exchangePlace, hasBeenIn, loopIn, placeId } from "./path.ts";
import type { Repeats } from "./repeat.ts";

/** What a broker has for its confirm: the answer is due within 1.5 s. */
const CONFIRM_MS: Duration = 1_300;

const KEY_BYTES_MAX = 255;

const TOO_LARGE: Answer = { status: 413, reason: "Not For The Broker" };

export interface PublishHost extends InboundHost {
  broker: LinkBroker;
  publisher: Pick<Publisher, "publish">;
  repeats: Repeats;
  /** Of links with `lock=`. */
  lock(): BridgeLock | undefined;
}

export class PublishIntake implements Intake {
  readonly counters: Counters = new Counters();
  private readonly link: PublishLink;
  private readonly host: PublishHost;
  /** As paths have them. */
  private readonly own: string;
  private readonly exchange: string;

  constructor(link: PublishLink, host: PublishHost) {
    this.link = link;
    this.host = host;
    this.own = placeId(busPlace(host.broker.bus), link.name);
    this.exchange = exchangePlace(host.broker.zone, link.target.exchange.name);
  }

  take(message: ChannelMessage, path: readonly string[]): Promise<Answer> | Answer {
    const { link, host, counters } = this;
    const loop = this.loopOf(path);
    if (loop !== undefined) return heldBack(link.name, counters, host.warnings, message, loop);
    const facts = { node: host.uri(), path: [...path, this.own], nowMs: Date.now() };
    const publication = publicationOfMessage(message, link.target, facts);
    if (Buffer.byteLength(publication.routingKey) > KEY_BYTES_MAX) {
      counters.failed++;
      const why = `its routing key is longer than ${KEY_BYTES_MAX} octets`;
      host.warnings.warn(`key ${link.name}`, `link ${link.name}: a message of ${message.from} is refused: ${why}`);
      return TOO_LARGE;
    }
    host.repeats.note(publication.body, performance.now());
    return this.pass(publication, message);
  }

  private loopOf(path: readonly string[]): string | undefined {
    if (hasBeenIn(path, this.exchange)) return `it comes from exchange ${this.link.target.exchange.name}`;
    return loopIn(path, this.own);
  }

  private pass(publication: Publication, message: ChannelMessage): Promise<Answer> | Answer {
    const { link, host } = this;
    if (link.until === "confirmed" && host.lock()?.isStandingBy !== true) return this.confirm(publication);
    const stored = this.store(publication, message);
    if (link.until !== "received") return stored;
    stored.catch((error: Error) => host.warnings.warn(`store ${link.name}`, `link ${link.name}: ${error.message}`));
    return TAKEN;
  }

  private store(publication: Publication, message: ChannelMessage): Promise<Answer> {
    const { link, host, counters } = this;
    const { dedupe, ...identity } = identityOf(message);
    // Several links have one spool.
    const item: NewItem = { ...spooled(publication), ...identity, dedupe: `${link.name} ${dedupe}` };
    const { lock } = link;
    const queue = (): string => (lock !== undefined && host.lock()?.isStandingBy === true ? standbyQueue(lock) : SPOOL);
    return keep(host, link.name, counters, queue, item);
  }

  private async confirm(publication: Publication): Promise<Answer> {
    const { link, host, counters } = this;
    try {
      await host.publisher.publish(publication, { timeoutMs: CONFIRM_MS });
      counters.out++;
      return TAKEN;
    } catch (error) {
      counters.failed++;
      if (!(error instanceof AmqpError)) throw error;
      host.warnings.warn(`${error.code} ${link.name}`, `link ${link.name}: not confirmed: ${error.message}`);
      return error.code === "amqp-invalid" ? TOO_LARGE : later("Not Confirmed");
    }
  }
}
