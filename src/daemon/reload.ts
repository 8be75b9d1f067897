/**
 * `dmq reload` and SIGHUP: takes what changed in the configuration into the running daemon, as far as that is possible
 * (`reload` in config/schema.ts), and says what has to wait for a restart. What can be wrong is read first, so that a
 * configuration with a mistake in it changes nothing.
 */
import { CONFIG_OPTIONS, type ConfigOption, type DmqConfig } from "../config/schema.ts";
import type { Logger } from "../core/logger.ts";
import type { ReloadReport } from "../rpc/surface.ts";
import type { TlsOptions } from "../transport/tls.ts";
import type { RunningNode } from "./driver.ts";
import type { Handlers } from "./handlers.ts";

/** What the daemon is to be from now on, as far as the file, the flags and the variables say. */
export interface Reread {
  config: DmqConfig;
  /** One sentence each, for the log. */
  warnings: readonly string[];
}

export interface ReloaderOptions {
  node: RunningNode;
  handlers: Handlers;
  log: Logger;
  /** What the daemon was started with. */
  config: DmqConfig;
  /** @throws ConfigError; where it is missing, only the TLS files are read again */
  reread: (() => Reread) | undefined;
  /** Told of what is in force after a reload: the part of it that belongs to the caller (the log, signals). */
  onConfig: ((config: DmqConfig) => void) | undefined;
}

const TLS_WORDS = "tls certificates";

export class Reloader {
  private readonly options: ReloaderOptions;
  /** What is in force: the values of the start where only a restart changes them. */
  private config: DmqConfig;
  private last: Promise<unknown> = Promise.resolve();

  constructor(options: ReloaderOptions) {
    this.options = options;
    this.config = options.config;
  }

  /**
   * One reload at a time: a second one waits for the first.
   *
   * @throws ConfigError (a rejection) the configuration or a TLS file is missing or wrong; everything stays as it was
   */
  reload(): Promise<ReloadReport> {
    const next = this.last.then(() => this.run());
    this.last = next.catch(() => undefined);
    return next;
  }

  private async run(): Promise<ReloadReport> {
    const { log } = this.options;
    try {
      const report = await this.apply();
      const { changed, needs_restart: waiting } = report;
      log.info(changed.length === 0 ? "reload: nothing has changed" : `reload: changed ${changed.join(", ")}`);
      if (waiting.length > 0) log.warn(`reload: not changed, needs a restart: ${waiting.join(", ")}`);
      return report;
    } catch (cause) {
      log.error(`reload: nothing is changed: ${cause instanceof Error ? cause.message : String(cause)}`);
      throw cause;
    }
  }

  private async apply(): Promise<ReloadReport> {
    const { node, handlers, log, reread } = this.options;
    const read = reread?.() ?? { config: this.config, warnings: [] };
    const changes = CONFIG_OPTIONS.filter((option) => differs(option, this.config, read.config));
    const next = merged(this.config, read.config);
    const replace = changed(changes, "on") ? handlers.replacement(next.handlers, node) : undefined;
    const hasTls = await node.reloadTls(tlsOf(next));
    node.join(next.notificationAddresses.filter((uri) => !this.config.notificationAddresses.includes(uri)));
    replace?.();
    for (const channel of next.channels) node.declare(channel);
    handlers.setTimeout(next.handlerTimeoutMs);
    node.configure(changeable(next));
    this.options.onConfig?.(next);
    for (const warning of read.warnings) log.warn(warning);
    const done = changes.filter((option) => differs(option, this.config, next)).map(({ name }) => name);
    const waiting = changes.filter((option) => differs(option, next, read.config)).map(({ name }) => name);
    this.config = next;
    return { changed: [...done, ...(hasTls ? [TLS_WORDS] : [])], needs_restart: waiting };
  }
}

export function tlsOf(config: DmqConfig): TlsOptions {
  const { tlsCert: cert, tlsKey: key, tlsCa: ca, tlsVerify: verify, tlsRequireClientCert: requireClientCert } = config;
  return { cert, key, ca, verify, requireClientCert };
}

function changeable(config: DmqConfig): Parameters<RunningNode["configure"]>[0] {
  return {
    pingIntervalMs: config.pingIntervalMs,
    requestTimeoutMs: config.requestTimeoutMs,
    handlerTimeoutMs: config.handlerTimeoutMs,
    removeInactive: config.removeInactive,
    failCountEnabled: config.failCountEnabled,
    failCountThresholdNotActive: config.failCountThresholdNotActive,
    failCountThresholdDisabled: config.failCountThresholdDisabled,
    slSend: config.slSend,
    window: config.window,
    queueMessages: config.queueMessages,
    allow: config.allow,
    allowRequests: config.allowRequests,
  };
}

function changed(changes: readonly ConfigOption[], name: string): boolean {
  return changes.some((option) => option.name === name);
}

function differs({ property }: ConfigOption, a: DmqConfig, b: DmqConfig): boolean {
  return JSON.stringify(a[property]) !== JSON.stringify(b[property]);
}

/** The new value where a running daemon can take it, the old one where not; of a list that only grows, both. */
function merged(current: DmqConfig, next: DmqConfig): DmqConfig {
  const values = CONFIG_OPTIONS.map(({ property, reload }): [string, unknown] => {
    if (reload === "value") return [property, next[property]];
    if (reload !== "additions") return [property, current[property]];
    return [property, union(current[property] as string[], next[property] as string[])];
  });
  return Object.fromEntries(values) as unknown as DmqConfig;
}

/** The new list where nothing is missing in it, so that another order alone is no reason for a restart. */
function union(current: readonly string[], next: readonly string[]): string[] {
  return [...next, ...current.filter((one) => !next.includes(one))];
}
