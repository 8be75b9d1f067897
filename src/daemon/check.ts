/** What a start would refuse beyond the schema, found without opening a socket: commands, methods, TLS files. */
import type { DmqConfig } from "../config/schema.ts";
import type { Logger } from "../core/logger.ts";
import { readGroup } from "./carriers.ts";
import { Handlers } from "./handlers.ts";
import { readDaemonLinks } from "./linking.ts";
import { readQueues } from "./queues.ts";
import { tlsOf } from "./reload.ts";
import { readReplication } from "./replication.ts";
import { ownAddress, readMaterial } from "./sockets.ts";

/** @throws ConfigError (a rejection) with the option, what was seen and what is allowed */
export async function checkConfig(config: DmqConfig, log: Logger): Promise<void> {
  ownAddress(config.serverAddress);
  readReplication(config.replicate);
  readQueues(config);
  readGroup(config.rpcGroup);
  readDaemonLinks(config);
  new Handlers({ config, socketPath: "", log });
  await readMaterial(tlsOf(config));
}
