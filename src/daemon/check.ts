/** What a start would refuse beyond the schema, found without opening a socket: commands, methods, paths, TLS files. */
import { Mistakes } from "../config/mistakes.ts";
import type { DmqConfig } from "../config/schema.ts";
import type { ConfigError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import { checkSocketPath, controlSocketPath, type Environment } from "../rpc/paths.ts";
import { checkAmqp } from "./amqp.ts";
import { checkPaths, readGroup } from "./carriers.ts";
import { Handlers } from "./handlers.ts";
import { readDaemonLinks } from "./linking.ts";
import { readQueues } from "./queues.ts";
import { tlsOf } from "./reload.ts";
import { readReplication } from "./replication.ts";
import { ownAddress, readMaterial } from "./sockets.ts";
import { warnOfSource } from "./sources.ts";

/** @returns one for each option, or each of its values, that a start would refuse */
export async function checkConfig(config: DmqConfig, env: Environment, log: Logger): Promise<ConfigError[]> {
  const mistakes = new Mistakes();
  const socketPath = mistakes.try(() => checkSocketPath(config.socket ?? controlSocketPath(env))) ?? "";
  mistakes.try(() => ownAddress(config.serverAddress));
  mistakes.each(config.replicate, readReplication);
  mistakes.each(config.queues, (queues) => readQueues({ ...config, queues }));
  mistakes.try(() => checkPaths({ ...config, socketPath }));
  mistakes.try(() => readGroup(config.rpcGroup));
  mistakes.each(config.links, (links) => readDaemonLinks({ ...config, links }));
  mistakes.each(config.handlers, (handlers) => new Handlers({ config: { ...config, handlers }, socketPath, log }));
  await mistakes.await(readMaterial(tlsOf(config)));
  await mistakes.await(checkAmqp(config));
  await warnOfSource(config, log);
  return mistakes.found;
}
