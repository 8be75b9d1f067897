/**
 * The process behind `dmq serve`: a running node, its control sockets, its log and its snapshot. It owns no signal and
 * ends no process; the command does.
 */
import { statSync } from "node:fs";
import type { DmqConfig } from "../config/schema.ts";
import { DEFAULT_SERVER_ADDRESS } from "../config/schema.ts";
import type { Logger } from "../core/logger.ts";
import type { Duration } from "../core/time.ts";
import { VERSION } from "../core/version.ts";
import { Links } from "../link/links.ts";
import { Outbox } from "../link/outbox.ts";
import { controlSocketPath, stateDirectory } from "../rpc/paths.ts";
import type { ReloadReport } from "../rpc/surface.ts";
import { openAmqp } from "./amqp.ts";
import { type Carriers, openCarriers } from "./carriers.ts";
import { Control } from "./control.ts";
import { createNode, type RunningNode } from "./driver.ts";
import { Handlers } from "./handlers.ts";
import { Journal } from "./journal.ts";
import { closedChannels, readDaemonLinks } from "./linking.ts";
import { openQueues, type Queues } from "./queues.ts";
import { Reloader, type Reread, tlsOf } from "./reload.ts";
import { readReplication, replicateRequests } from "./replication.ts";
import { Snapshot } from "./snapshot.ts";
import { warnOfSource } from "./sources.ts";

export interface Daemon {
  /** Leaves the bus within two seconds, then closes the control socket. */
  stop(options: { announce: boolean }): Promise<void>;
  /**
   * Reads the configuration and the TLS files again; connections that are up stay.
   *
   * @throws ConfigError a rejection: something is missing or wrong, and everything stays as it was
   */
  reload(): Promise<ReloadReport>;
  /** Resolves when the daemon has ended, whoever ended it. */
  readonly done: Promise<void>;
  readonly uri: string;
  readonly socketPath: string;
}

export interface DaemonHooks {
  log: Logger;
  /** Who is told of the start, reloads and the end; `undefined` where nobody asked. */
  supervisor?: Supervisor | undefined;
  /** Reads the configuration again; without it a reload reads the TLS files only. @throws ConfigError */
  reread?: () => Reread;
  /** Told of what is in force after a reload. */
  onConfig?: (config: DmqConfig) => void;
  /** Gets the node before it joins, to put on it what no option does. */
  onNode?: (node: RunningNode) => void;
}

/** What systemd.ts is to the daemon. */
export interface Supervisor {
  ready(): void;
  status(text: string): void;
  reloading(): void;
  stopping(): void;
  watch(behindMs: () => Duration): void;
}

/**
 * Starts a daemon; it serves and has joined when this resolves.
 *
 * @throws ConfigError     an option cannot be used
 * @throws TransportError  an address or the control socket is in use or denied; nothing is left behind
 */
export async function startDaemon(config: DmqConfig, hooks: DaemonHooks): Promise<Daemon> {
  const { supervisor } = hooks;
  const journal = new Journal({ level: config.logLevel });
  const log = journal.beside(hooks.log);
  const socketPath = config.socket ?? controlSocketPath(process.env);
  const storeDir = config.stateDir ?? stateDirectory(process.env);
  const stateDir = config.noSnapshot ? undefined : storeDir;
  const snapshot =
    stateDir === undefined ? undefined : new Snapshot(stateDir, config.serverAddress ?? DEFAULT_SERVER_ADDRESS, log);
  const replication = readReplication(config.replicate);
  const methods = [...replication.keys()];
  const handlers = new Handlers({ config, socketPath, log });
  await keepSecret(config.tlsKey, log);
  const definitions = readDaemonLinks(config);
  const queues = await openQueues(config, storeDir, log);
  const amqp = await closing(queues, openAmqp(config, queues, log));
  const bridging = amqp === undefined ? {} : { broker: amqp.links };
  const closed = closedChannels(config);
  const links = new Links({ links: definitions, queues, log, socketPath, closed, ...bridging });
  await closing(queues, links.prepare());
  const created = createNode(
    { ...config, snapshot: snapshot?.read() ?? [], userAgent: `dmq/${VERSION}`, methods, tls: tlsOf(config) },
    (fresh) => {
      report(fresh, log);
      if (supervisor !== undefined) superviseStatus(fresh, supervisor);
      for (const channel of config.channels) fresh.declare(channel);
      replicateRequests(fresh, replication, log);
      keepSnapshot(fresh, snapshot);
      handlers.bind(fresh);
      links.bind(fresh);
      hooks.onNode?.(fresh);
    },
  );
  const node = await closing(queues, created);
  const outbox = new Outbox({ node, queues, log });
  const { reread, onConfig } = hooks;
  const onChange = (next: DmqConfig): void => {
    void keepSecret(next.tlsKey, log);
    journal.setLevel(next.logLevel);
    surface?.setTimeout(next.handlerTimeoutMs);
    onConfig?.(next);
  };
  const reloader = new Reloader({ node, handlers, log, config, reread, onConfig: onChange });
  const reload = async (): Promise<ReloadReport> => {
    supervisor?.reloading();
    // Whatever came of it: the supervisor is told that the daemon serves, with the old configuration if need be.
    return reloader.reload().finally(() => supervisor?.ready());
  };
  const done = Promise.withResolvers<void>();
  let surface: Control | undefined;
  let serving: Promise<Carriers> | undefined;
  let ending: Promise<void> | undefined;
  let work: Promise<unknown> | undefined;
  const closeSocket = async (): Promise<void> => {
    // The answer to `dmq leave` still has to go out, so the socket closes after the call that asked for it.
    await Bun.sleep(0);
    await snapshot?.flushed();
    // Commands of links may still talk to this daemon.
    await work;
    await (await serving)?.close();
    await queues.stop();
  };
  const end = (options: { announce: boolean }): Promise<void> => {
    if (ending !== undefined) return ending;
    supervisor?.stopping();
    surface?.close();
    // Both go on with the node for as long as it leaves: what is under way then is given up, and given back.
    work = Promise.all([links.close(), outbox.close()]).finally(() => amqp?.close());
    ending = handlers.close(node.close(options));
    ending.then(closeSocket, closeSocket).then(done.resolve, done.reject);
    return ending;
  };
  try {
    const { notificationChannel, handlerTimeoutMs } = config;
    const brokers = amqp === undefined ? {} : { amqp: amqp.surface };
    const facts = { notificationChannel, handlerTimeoutMs, queues, links, outbox, socketPath, stateDir, ...brokers };
    surface = new Control({ node, journal, reload, end, ...facts });
    serving = openCarriers({ ...config, socketPath }, surface, log);
    await serving;
    await amqp?.start(queues.isOpen);
    await links.start(node);
    if (queues.isOpen) await outbox.resume();
  } catch (cause) {
    await Promise.all([links.close(), outbox.close()]);
    await amqp?.close();
    await handlers.close(node.close({ announce: false }));
    await queues.close();
    throw cause;
  }
  await warnOfSource(config, log);
  log.info(`node ${node.uri()} is up`, { socket: socketPath });
  supervisor?.ready();
  supervisor?.watch(() => node.behindMs());
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

/** @returns what `step` gives; where it fails, the queues are closed */
async function closing<T>(queues: Queues, step: Promise<T>): Promise<T> {
  try {
    return await step;
  } catch (cause) {
    await queues.close();
    throw cause;
  }
}

/** What can be done for a private key outside of it: no dump of our memory, and a word about a file that everybody reads. */
async function keepSecret(path: string | undefined, log: Logger): Promise<void> {
  if (path === undefined) return;
  const { forbidDumps } = await import("./libc.ts");
  if (!forbidDumps()) log.warn("this system may dump the memory of the process, and tls_key with it: set ulimit -c 0");
  // What is no file (a pipe of the shell's) has no permissions that count, and what is not there is told of elsewhere.
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isFile() !== true || (found.mode & 0o004) === 0) return;
  log.warn(`tls_key ${path} can be read by every account of this machine: chmod o-r`);
}

function report(node: RunningNode, log: Logger): void {
  node.on("peer-up", ({ peer, reason }) => {
    log.info(`peer ${peer.uri} is active: ${reason}`, { rtt_ms: peer.rttMs?.toFixed(3) });
  });
  node.on("peer-down", ({ peer, reason }) => {
    log.warn(`peer ${peer.uri} is not active: ${reason}`, { fail_count: peer.failCount });
  });
  node.on("peer-disabled", ({ peer, reason }) => {
    log.warn(`peer ${peer.uri} is disabled: ${reason}`, { fail_count: peer.failCount });
  });
  node.on("peer-removed", ({ peer, reason }) => {
    log.info(`peer ${peer.uri} is forgotten: ${reason}`, { status: peer.status });
  });
  node.on("joined", ({ nodes }) => log.info("the bus is met", { nodes: nodes.join(" ") }));
  node.on("warning", ({ code, text, peer }) => log.warn(text, { code, ...(peer !== undefined && { node: peer }) }));
}

/** The line of `systemctl status`, whenever it is another one. */
function superviseStatus(node: RunningNode, supervisor: Supervisor): void {
  const say = (): void => {
    const counts = { active: 0, not_active: 0, disabled: 0 };
    for (const peer of node.nodes()) counts[peer.status]++;
    const others = [`${counts.not_active} not active`, `${counts.disabled} disabled`].filter((text) => text[0] !== "0");
    supervisor.status([`${node.uri()}: ${counts.active} active peers`, ...others].join(", "));
  };
  for (const type of ["peer-up", "peer-down", "peer-disabled", "peer-removed"] as const) node.on(type, say);
  say();
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
