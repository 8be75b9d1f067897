/** The links and the outbox of a daemon: what the configuration says of them, and the addresses of nodes that are not there. */
import type { DmqConfig } from "../config/schema.ts";
import { ConfigError } from "../core/errors.ts";
import type { Absent } from "../link/absent.ts";
import { readLinks } from "../link/definition.ts";
import { isBrokerLink, type LinkDefinition } from "../link/kinds.ts";
import type { Outbox, SpoolRequest } from "../link/outbox.ts";
import { addressUri } from "../membership/peer.ts";
import { addressOf } from "../node/message.ts";
import { endedResult, resultOf, spooledResult } from "../rpc/rows.ts";
import { type BroadcastRequest, type DeliveryResult, MODULE_CHANNELS, type SendRequest } from "../rpc/surface.ts";
import type { RunningNode } from "./driver.ts";

type Options = Pick<DmqConfig, "links" | "handlers" | "notificationChannel" | "amqp">;

/** @throws ConfigError for what is no link, a circle, a channel that has a command already, and a broker that there is not */
export function readDaemonLinks({ links, handlers, notificationChannel, amqp }: Options): LinkDefinition[] {
  const taken = handlers.map((text) => text.slice(0, text.indexOf("=")));
  const inbound = new Set([...taken, notificationChannel]);
  const outbound = closedChannels({ notificationChannel });
  const definitions = readLinks(links, { inbound, outbound }, process.env.PATH);
  const lone = amqp.length > 0 ? undefined : definitions.find(isBrokerLink);
  if (lone === undefined) return definitions;
  const expected = "amqp=URL besides, which says where the broker is";
  throw new ConfigError("config-contradiction", "link", `${lone.name}, and no broker`, expected);
}

/** Channels that a wrong body does harm on. */
export function closedChannels({ notificationChannel }: Pick<DmqConfig, "notificationChannel">): ReadonlySet<string> {
  return new Set([...MODULE_CHANNELS, notificationChannel]);
}

/** `dmq.send` with `spool`. The node need not be known: one that was down for long is forgotten, and comes back under its address. */
export async function spoolTo(outbox: Outbox, node: RunningNode, request: SendRequest): Promise<DeliveryResult> {
  const known = node.nodes().some(({ uri }) => uri === request.node);
  const address = addressOf(request.node);
  const uri = known ? request.node : addressUri(address, address.host);
  return (await spool(outbox, request, [uri]))[0] as DeliveryResult;
}

/** `dmq.bcast` with `spool`: to every node in the list, whatever its status, and to those that are absent. */
export async function spoolToAll(
  outbox: Outbox,
  node: RunningNode,
  absent: Absent,
  request: BroadcastRequest,
): Promise<DeliveryResult[]> {
  const uris = new Set([...node.nodes().map(({ uri }) => uri), ...absent.uris()]);
  for (const uri of request.except) uris.delete(uri);
  return spool(outbox, request, [...uris]);
}

async function spool(
  outbox: Outbox,
  { spool: how, ...message }: Omit<SpoolRequest, "ttlMs"> & Pick<SendRequest, "spool">,
  nodes: readonly string[],
): Promise<DeliveryResult[]> {
  const { channel, body, contentType, maxForwards, messageId, timeoutMs } = message;
  const request: SpoolRequest = {
    ...{ channel, body, contentType },
    ...(maxForwards !== undefined && { maxForwards }),
    ...(messageId !== undefined && { messageId }),
    ...(timeoutMs !== undefined && { timeoutMs }),
    ...(how?.ttlMs !== undefined && { ttlMs: how.ttlMs }),
  };
  const results = await outbox.spool(request, nodes);
  return results.map(({ node, messageId: id, end }) => {
    if (end === undefined) return spooledResult(node, id);
    return "type" in end ? endedResult(node, id, end) : resultOf(end, id);
  });
}
