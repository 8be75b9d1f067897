/**
 * The node in the foreground. SIGINT leaves the bus with an announcement, SIGTERM without one, because a Kamailio keeps
 * repeating its requests to a node that is merely restarting (design.md section 4, leaving); a second signal ends it.
 */
import { loadConfig } from "../config/load.ts";
import { CONFIG_OPTIONS, type ConfigOption, type DmqConfig, flagOf } from "../config/schema.ts";
import type { Logger } from "../core/logger.ts";
import { type Daemon, startDaemon } from "../daemon/daemon.ts";
import type { Arguments, CommandSpec, OptionSpec } from "./command.ts";
import { type CliContext, type SignalName, wantsColour } from "./context.ts";
import { EXIT } from "./exit.ts";
import { createLogger } from "./log.ts";
import { quickSocketPath } from "./socket.ts";

export const serve: CommandSpec = {
  name: "serve",
  summary: "run the node in the foreground",
  examples: [
    ["dmq serve --quick", "a node on 127.0.0.1, to try the other commands with"],
    [
      "dmq serve --server-address sip:192.0.2.1:5060 --notification-address sip:192.0.2.2:5060",
      "a node of the bus that 192.0.2.2 is on",
    ],
    ["dmq serve --config dmq.toml --channel channel1", "options from a file, and a channel of our own"],
  ],
  positionals: [],
  options: [
    { flag: "config", value: "FILE", help: "TOML file ($XDG_CONFIG_HOME/dmq/dmq.toml, /etc/dmq/dmq.toml)" },
    { flag: "quick", help: "defaults for a first look: this machine only, and what to type next" },
    ...CONFIG_OPTIONS.map(optionSpec),
  ],
  notes: [
    "Each option is also a key of the file (ping_interval) and a variable (DMQ_PING_INTERVAL); flags win over variables,",
    "variables over the file. SIGINT leaves the bus with an announcement, SIGTERM without (--leave-on-terminate).",
    "SIGHUP reads the TLS files again, as `dmq reload` does.",
    "exit: 0 left or stopped, 2 unknown option, 4 an address or the socket is in use or denied, 9 an option is invalid.",
  ],
  ownSignals: true,
  run: runServe,
};

function optionSpec(option: ConfigOption): OptionSpec {
  const base: OptionSpec = {
    flag: flagOf(option),
    help: helpOf(option),
    repeatable: option.repeatable,
    ...(option.name === "socket" && { short: "s" }),
  };
  return option.type === "boolean" ? { ...base, settable: true } : { ...base, value: option.placeholder };
}

function helpOf(option: ConfigOption): string {
  const facts = [
    ...(option.default === undefined ? [] : [option.default]),
    ...(option.repeatable ? ["may be repeated"] : []),
  ];
  return facts.length === 0 ? option.help : `${option.help} (${facts.join("; ")})`;
}

async function runServe(context: CliContext, args: Arguments): Promise<number> {
  const isQuick = args.has("quick");
  const file = args.value("config");
  const loaded = loadConfig({ flags: flagsOf(args), env: context.env, ...(file !== undefined && { file }) });
  const config = isQuick ? quickConfig(context, loaded.config) : loaded.config;
  const log = logFor(context, config);
  // Who asked for the quick defaults knows that they are defaults.
  if (!isQuick) for (const warning of loaded.warnings) log.warn(warning);
  const signals = watchSignals(context);
  try {
    const daemon = await startDaemon(config, { log });
    signals.onHangup = () => void daemon.reload().catch(() => undefined);
    if (isQuick) sayNext(context, args, daemon);
    await live(daemon, config, signals, log);
    return EXIT.ok;
  } finally {
    signals.end();
  }
}

function flagsOf(args: Arguments): Map<string, readonly string[]> {
  const given = CONFIG_OPTIONS.filter((option) => args.has(flagOf(option)));
  return new Map(given.map((option) => [option.name, args.all(flagOf(option))]));
}

function quickConfig(context: CliContext, config: DmqConfig): DmqConfig {
  const channels = config.channels.length === 0 ? ["channel1"] : config.channels;
  return { ...config, channels, socket: config.socket ?? quickSocketPath(context) };
}

function logFor(context: CliContext, config: DmqConfig): Logger {
  return createLogger({
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
async function live(daemon: Daemon, config: DmqConfig, signals: Signals, log: Logger): Promise<void> {
  const signal = await Promise.race([daemon.done.then(() => undefined), signals.first]);
  if (signal === undefined) return;
  const announce = signal === "SIGINT" || config.leaveOnTerminate;
  log.info(announce ? "leaving the bus" : "stopping without an announcement", { signal });
  await daemon.stop({ announce });
}
