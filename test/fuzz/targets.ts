/** All targets by name, each with what it starts from. */
import { AMQP_BODIES, amqp } from "./amqp.ts";
import { binrpc } from "./binrpc.ts";
import { codec } from "./codec.ts";
import { CONFIG_FILES, config } from "./config.ts";
import { definition } from "./definition.ts";
import { FIFO_REQUESTS, fifo } from "./fifo.ts";
import { framer } from "./framer.ts";
import { node } from "./node.ts";
import { NODE_LISTS, notification } from "./notification.ts";
import { rpcCorpus, SIP_CORPUS } from "./octets.ts";
import { rpc } from "./rpc.ts";
import type { Target } from "./target.ts";

export interface Entry {
  target: Target<unknown>;
  corpus: readonly Uint8Array[];
}

function entry<T>(target: Target<T>, corpus: readonly Uint8Array[]): [string, Entry] {
  return [target.name, { target: target as Target<unknown>, corpus }];
}

export const TARGETS: ReadonlyMap<string, Entry> = new Map([
  entry(codec, SIP_CORPUS),
  entry(framer, SIP_CORPUS),
  entry(node, SIP_CORPUS),
  entry(notification, NODE_LISTS),
  entry(rpc, []),
  entry(fifo, FIFO_REQUESTS),
  entry(binrpc, rpcCorpus("binrpc")),
  entry(config, CONFIG_FILES),
  entry(definition, []),
  entry(amqp, AMQP_BODIES),
]);
