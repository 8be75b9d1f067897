/**
 * The process behind `dmq serve`: a running node, its control sockets, its log and its snapshot. It owns no signal and
 * ends no process; the command does.
 */
import { statSync } from "node:fs";
import type { DmqConfig } from "../config/schema.ts";
import { DEFAULT_SERVER_ADDRESS } from "../config/schema.ts";
import type { Logger } from "../core/logger.ts";
import { VERSION } from "../core/version.ts";
import { controlSocketPath, stateDirectory } from "../rpc/paths.ts";
import type { TlsOptions } from "../transport/tls.ts";
import { type Carriers, openCarriers } from "./carriers.ts";
import { Control } from "./control.ts";
import { createNode, type RunningNode } from "./driver.ts";
import { Handlers } from "./handlers.ts";
import { Journal } from "./journal.ts";
import { readReplication, replicateRequests } from "./replication.ts";
import { Snapshot } from "./snapshot.ts";

export interface Daemon {
  /** Leaves the bus within two seconds, then closes the control socket. */
  stop(options: { announce: boolean }): Promise<void>;
  /**
   * Reads the TLS files again; connections that are up stay.
   *
   * @returns            what was read again, in words
   * @throws ConfigError a rejection: a file is missing or wrong, and what was read before stays in use
   */
  reload(): Promise<string[]>;
  /** Resolves when the daemon has ended, whoever ended it. */
  readonly done: Promise<void>;
  readonly uri: string;
  readonly socketPath: string;
}

/**
 * Starts a daemon; it serves and has joined when this resolves.
 *
 * @throws ConfigError     an option cannot be used
 * @throws TransportError  an address or the control socket is in use or denied; nothing is left behind
 */
export async function startDaemon(config: DmqConfig, hooks: { log: Logger }): Promise<Daemon> {
  const journal = new Journal({ level: config.logLevel });
  const log = journal.beside(hooks.log);
  const socketPath = config.socket ?? controlSocketPath(process.env);
  const stateDir = config.noSnapshot ? undefined : (config.stateDir ?? stateDirectory(process.env));
  const snapshot =
    stateDir === undefined ? undefined : new Snapshot(stateDir, config.serverAddress ?? DEFAULT_SERVER_ADDRESS, log);
  const replication = readReplication(config.replicate);
  const allow = [...replication.keys()];
  const handlers = new Handlers({ config, socketPath, log });
  const node = await createNode(
    { ...config, snapshot: snapshot?.read() ?? [], userAgent: `dmq/${VERSION}`, allow, tls: tlsOf(config) },
    (fresh) => {
      report(fresh, log);
      for (const channel of config.channels) fresh.declare(channel);
      replicateRequests(fresh, replication, log);
      keepSnapshot(fresh, snapshot);
      handlers.bind(fresh);
    },
  );
  warnOfKey(config.tlsKey, log);
  const reload = async (): Promise<string[]> => {
    const what = await reloadTls(node, log);
    warnOfKey(config.tlsKey, log);
    return what;
  };
  const done = Promise.withResolvers<void>();
  let serving: Promise<Carriers> | undefined;
  let ending: Promise<void> | undefined;
  const closeSocket = async (): Promise<void> => {
    // The answer to `dmq leave` still has to go out, so the socket closes after the call that asked for it.
    await Bun.sleep(0);
    await (await serving)?.close();
  };
  const end = (options: { announce: boolean }): Promise<void> => {
    if (ending !== undefined) return ending;
    ending = handlers.close(node.close(options));
    ending.then(closeSocket, closeSocket).then(done.resolve, done.reject);
    return ending;
  };
  try {
    const { notificationChannel, handlerTimeoutMs } = config;
    const facts = { notificationChannel, handlerTimeoutMs, socketPath, stateDir };
    const surface = new Control({ node, journal, reload, end, ...facts });
    serving = openCarriers({ ...config, socketPath }, surface, log);
    await serving;
  } catch (cause) {
    await handlers.close(node.close({ announce: false }));
    throw cause;
  }
  log.info(`node ${node.uri()} is up`, { socket: socketPath });
  return {
    done: done.promise,
    uri: node.uri(),
    socketPath,
    reload,
    stop: async (options) => {
      await end(options);
      await done.promise;
    },
  };
}

function tlsOf(config: DmqConfig): TlsOptions {
  const { tlsCert: cert, tlsKey: key, tlsCa: ca, tlsVerify: verify, tlsRequireClientCert: requireClientCert } = config;
  return { cert, key, ca, verify, requireClientCert };
}

/** It was read a moment ago; what is no file (a pipe of the shell's) has no permissions that count. */
function warnOfKey(path: string | undefined, log: Logger): void {
  const found = path === undefined ? undefined : statSync(path, { throwIfNoEntry: false });
  if (found?.isFile() !== true || (found.mode & 0o004) === 0) return;
  log.warn(`tls_key ${path} can be read by every account of this machine: chmod o-r`);
}

async function reloadTls(node: RunningNode, log: Logger): Promise<string[]> {
  try {
    const what = (await node.reloadTls()) ? ["tls certificates"] : [];
    log.info(what.length === 0 ? "reload: nothing to read again" : `reload: ${what.join(", ")} read again`);
    return what;
  } catch (cause) {
    log.error(`reload: nothing is changed: ${cause instanceof Error ? cause.message : String(cause)}`);
    throw cause;
  }
}

function report(node: RunningNode, log: Logger): void {
  node.on("peer-up", ({ peer }) => log.info(`peer ${peer.uri} is active`, { rtt_ms: peer.rttMs?.toFixed(3) }));
  node.on("peer-down", ({ peer }) => log.warn(`peer ${peer.uri} is not active`, { fail_count: peer.failCount }));
  node.on("peer-disabled", ({ peer }) => log.warn(`peer ${peer.uri} is disabled`, { fail_count: peer.failCount }));
  node.on("peer-removed", ({ peer }) => log.info(`peer ${peer.uri} is forgotten`, { status: peer.status }));
  node.on("joined", ({ nodes }) => log.info("the bus is met", { nodes: nodes.join(" ") }));
  node.on("warning", ({ code, text }) => log.warn(text, { code }));
}

function keepSnapshot(node: RunningNode, snapshot: Snapshot | undefined): void {
  if (snapshot === undefined) return;
  const write = (): void => {
    const proved = node.nodes().filter(({ verified }) => verified);
    // While nobody is left the old snapshot is the only way back to the bus.
    if (proved.length > 0) snapshot.write(proved.map(({ uri }) => uri));
  };
  for (const type of ["peer-up", "peer-disabled", "peer-removed"] as const) node.on(type, write);
}
