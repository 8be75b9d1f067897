/**
 * The node in the foreground. SIGINT leaves the bus with an announcement, SIGTERM without one, because a Kamailio keeps
 * repeating its requests to a node that is merely restarting (design.md section 4, leaving); a second signal ends it.
 */
import { loadConfig } from "../config/load.ts";
import type { DmqConfig } from "../config/schema.ts";
import type { Logger } from "../core/logger.ts";
import { type Daemon, startDaemon } from "../daemon/daemon.ts";
import type { Reread } from "../daemon/reload.ts";
import type { Systemd } from "../daemon/systemd.ts";
import type { Arguments, CommandSpec } from "./command.ts";
import { CONFIG_FLAGS, configFlags } from "./config-flags.ts";
import { type CliContext, type SignalName, wantsColour } from "./context.ts";
import { EXIT } from "./exit.ts";
import { type AdjustableLogger, createLogger, isJournal } from "./log.ts";
import { quickSocketPath } from "./socket.ts";

export const serve: CommandSpec = {
  name: "serve",
  summary: "run the node in the foreground",
  examples: [
    ["dmq serve --quick", "a node on 127.0.0.1, to try the other commands with"],
    [
      "dmq serve --server-address sip:10.0.0.1:5060 --notification-address sip:10.0.0.2:5060",
      "a node of the bus that 10.0.0.2 is on",
    ],
    ["dmq serve --config dmq.toml --channel channel1", "options from a file, and a channel of our own"],
  ],
  positionals: [],
  options: [
    { flag: "config", value: "FILE", help: "TOML file ($XDG_CONFIG_HOME/dmq/dmq.toml, /etc/dmq/dmq.toml)" },
    { flag: "quick", help: "defaults for a first look: this machine only, and what to type next" },
    ...CONFIG_FLAGS,
  ],
  notes: [
    "Each option is also a key of the file (ping_interval) and a variable (DMQ_PING_INTERVAL); flags win over variables,",
    "variables over the file. SIGINT leaves the bus with an announcement, SIGTERM without (--leave-on-terminate).",
    "SIGHUP reads the configuration and the TLS files again, as `dmq reload` does.",
    "Under systemd it tells of its start, its state and its end (Type=notify-reload), answers to the watchdog, and logs with levels.",
  ],
  exits: [
    [0, "left or stopped"],
    [2, "an option that is unknown or lacks its value"],
    [4, "an address or the control socket is in use or denied"],
    [9, "an option or a file is invalid"],
    [130, "a second SIGINT, which ends it at once"],
    [143, "a second SIGTERM, which ends it at once"],
  ],
  seeAlso: ["dmq config", "dmq reload", "dmq leave", "dmq status"],
  ownSignals: true,
  run: runServe,
};

async function runServe(context: CliContext, args: Arguments): Promise<number> {
  const isQuick = args.has("quick");
  const read = (): Reread => readConfig(context, args, isQuick);
  const { config, warnings } = read();
  const log = logFor(context, config);
  for (const warning of warnings) log.warn(warning);
  const signals = watchSignals(context);
  let supervisor: Systemd | undefined;
  try {
    supervisor = await supervisorOf(context, log);
    let { leaveOnTerminate } = config;
    const onConfig = (next: DmqConfig): void => {
      leaveOnTerminate = next.leaveOnTerminate;
      log.adjust({ level: next.logLevel, json: next.logJson });
    };
    const daemon = await startDaemon(config, { log, supervisor, reread: read, onConfig });
    signals.onHangup = () => void daemon.reload().catch(() => undefined);
    if (isQuick) sayNext(context, args, daemon);
    await live(daemon, () => leaveOnTerminate, signals, log);
    return EXIT.ok;
  } finally {
    signals.end();
    supervisor?.close();
  }
}

/** At the start, and again at each reload. */
function readConfig(context: CliContext, args: Arguments, isQuick: boolean): Reread {
  const file = args.value("config");
  const { config, warnings } = loadConfig({
    flags: configFlags(args),
    env: context.env,
    ...(file !== undefined && { file }),
  });
  // Who asked for the quick defaults knows that they are defaults.
  return isQuick ? { config: quickConfig(context, config), warnings: [] } : { config, warnings };
}

/** Loaded where a supervisor asks for it only. */
async function supervisorOf({ env }: CliContext, log: Logger): Promise<Systemd | undefined> {
  if (env.NOTIFY_SOCKET === undefined || env.NOTIFY_SOCKET === "") return undefined;
  const { openSystemd } = await import("../daemon/systemd.ts");
  return openSystemd(env, log);
}

function quickConfig(context: CliContext, config: DmqConfig): DmqConfig {
  const channels = config.channels.length === 0 ? ["channel1"] : config.channels;
  return { ...config, channels, socket: config.socket ?? quickSocketPath(context) };
}

function logFor(context: CliContext, config: DmqConfig): AdjustableLogger {
  return createLogger({
    journal: isJournal(context.env.JOURNAL_STREAM),
    level: config.logLevel,
    json: config.logJson,
    colour: wantsColour(context),
    write: (text) => context.stderr(text),
    now: () => Date.now(),
  });
}

function sayNext(context: CliContext, args: Arguments, daemon: Daemon): void {
  // A command of this user finds the socket by the same rule, unless an option of this start named another place.
  const at = args.has("socket") ? ` -s ${daemon.socketPath}` : "";
  const lines = [
    `the node ${daemon.uri} is up; in another terminal:`,
    `  dist/dmq${at} list                        the nodes of the bus`,
    `  dist/dmq${at} listen channel1             messages as they come`,
    "  dist/dmq demo                        three nodes, and what they say to each other",
    `  dist/dmq${at} leave                       the end; Ctrl-C here does the same`,
  ];
  context.stderr(`${lines.join("\n")}\n`);
}

interface Signals {
  /** Resolves with the first one. */
  readonly first: Promise<SignalName>;
  /** What SIGHUP does; nothing until the start is through. The daemon logs what is wrong with a reload. */
  onHangup: () => void;
  end(): void;
}

const SIGNAL_EXITS: Record<SignalName, number> = { SIGINT: EXIT.interrupted, SIGTERM: EXIT.terminated };

/** Counts from before the start, so that a signal during the start is not lost. */
function watchSignals(context: CliContext): Signals {
  const { promise: first, resolve } = Promise.withResolvers<SignalName>();
  let seen = 0;
  const endSignals = context.onSignal((signal) => {
    if (++seen === 1) resolve(signal);
    else context.exitNow(SIGNAL_EXITS[signal]);
  });
  const endHangup = context.onHangup(() => signals.onHangup());
  const end = (): void => {
    endSignals();
    endHangup();
  };
  const signals: Signals = { first, onHangup: () => undefined, end };
  return signals;
}

/** Until the daemon ended by itself (`dmq leave`, `dmq stop`) or a signal ended it. */
async function live(daemon: Daemon, leavesOnTerm: () => boolean, signals: Signals, log: Logger): Promise<void> {
  const signal = await Promise.race([daemon.done.then(() => undefined), signals.first]);
  if (signal === undefined) return;
  const announce = signal === "SIGINT" || leavesOnTerm();
  log.info(announce ? "leaving the bus" : "stopping without an announcement", { signal });
  await daemon.stop({ announce });
}
