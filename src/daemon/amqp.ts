/**
 * The daemon's brokers: one client for links, the spool and whoever asks over the control socket. Nothing of AMQP is loaded by a daemon
 * that has none.
 */
import type { AmqpClient } from "../amqp/client.ts";
import type { AmqpSurface, Desk } from "../amqp/desk.ts";
import type { BrokerUrl } from "../amqp/url.ts";
import type { DmqConfig } from "../config/schema.ts";
import type { Logger } from "../core/logger.ts";
import type { LinkBroker } from "../link/broker.ts";
import type { LinkQueues } from "../link/host.ts";
import type { Spool } from "../link/spool.ts";

/** @throws ConfigError for what says nothing that brokers can be connected with */
export async function checkAmqp(config: DmqConfig): Promise<void> {
  if (config.amqp.length === 0) return;
  const { readAmqp } = await import("../amqp/options.ts");
  readAmqp(config);
}

/**
 * Makes the client, which connects to nobody before `start`.
 *
 * @returns `undefined` where the configuration names no broker
 * @throws  ConfigError as `checkAmqp`
 */
export async function openAmqp(config: DmqConfig, queues: LinkQueues, log: Logger): Promise<DaemonAmqp | undefined> {
  if (config.amqp.length === 0) return undefined;
  const { readAmqp, nodeName } = await import("../amqp/options.ts");
  const options = readAmqp(config, log);
  if (options === undefined) return undefined;
  const [{ AmqpClient }, { Desk }, { Publisher }, { Spool }] = await Promise.all([
    import("../amqp/client.ts"),
    import("../amqp/desk.ts"),
    import("../link/broker.ts"),
    import("../link/spool.ts"),
  ]);
  const client = new AmqpClient(options);
  const publisher = new Publisher(client);
  const spool = new Spool({ client: publisher, queues, log });
  const zone = options.primaryZone ?? (options.brokers[0] as BrokerUrl).zone;
  const heartbeatMs = Math.max(...options.brokers.map(({ heartbeatS }) => heartbeatS)) * 1_000;
  // Brokers that know nothing of one another must not each have the lock; those of a cluster stand in for each other.
  const lockAt = options.brokers.find((broker) => broker.zone === zone)?.number;
  const links = { client, publisher, bus: config.bus, zone, lockAt, heartbeatMs };
  return new DaemonAmqp(client, links, spool, new Desk({ client, spool, nodeName: nodeName(config) }));
}

export class DaemonAmqp {
  readonly client: AmqpClient;
  /** What links need of it. */
  readonly links: LinkBroker;
  readonly spool: Spool;
  private readonly desk: Desk;

  constructor(client: AmqpClient, links: LinkBroker, spool: Spool, desk: Desk) {
    this.client = client;
    this.links = links;
    this.spool = spool;
    this.desk = desk;
  }

  /** What the control socket serves. */
  get surface(): AmqpSurface {
    return this.desk;
  }

  /**
   * Begins to connect, for ever, and goes on with what is in the spool.
   *
   * @param hasStore  the store of the queues is open, so there may be a spool in it
   */
  async start(hasStore: boolean): Promise<void> {
    this.client.start();
    if (hasStore) await this.spool.resume();
  }

  /** Within a second and a half; what is not published then is in the spool, or its caller is told. */
  async close(): Promise<void> {
    this.links.publisher.close();
    await this.spool.close();
    this.desk.close();
    await this.client.close();
  }
}
