/**
 * Whom the commands of AMQP ask: the daemon, where one with brokers answers on the control socket, else brokers that the command
 * connects to itself (amqp.md B2). Both serve the same methods of docs/RPC.md, and a command does not know the difference.
 */
import { RpcError, UsageError } from "../../core/errors.ts";
import { type CallOptions, RpcClient } from "../../rpc/client.ts";
import { probeSocket } from "../../rpc/socket-file.ts";
import type { Arguments, OptionSpec } from "../command.ts";
import type { CliContext } from "../context.ts";
import { EXIT } from "../exit.ts";
import { clientSocketPath } from "../socket.ts";
import type { Brokers } from "./caller.ts";

/** Options of `dmq serve` that say how a command connects which asks no daemon. */
const CONNECTION_FLAGS = [
  ...["amqp-primary", "amqp-mode", "amqp-heartbeat", "amqp-connect-timeout", "amqp-password-file"],
  ...["amqp-ca", "amqp-cert", "amqp-key", "amqp-insecure", "amqp-servername", "node-name"],
] as const;

export const BROKER_OPTIONS: OptionSpec[] = [
  {
    flag: "url",
    value: "URL",
    repeatable: true,
    help: "ask no daemon: connect to this broker, amqp://USER:PASSWORD@HOST/VHOST; several in their order, also with commas",
  },
  { flag: "config", value: "FILE", help: "without a daemon: the configuration that names the brokers" },
  { flag: "amqp-password-file", value: "FILE", help: "with --url: its first line is the password of URLs without one" },
  { flag: "amqp-ca", value: "FILE", help: "with amqps: certificates of those who vouch for the broker" },
  {
    flag: "amqp-cert",
    value: "FILE",
    help: "with amqps: our own certificate; auth=external in the URL makes it the login",
  },
  { flag: "amqp-key", value: "FILE", help: "with amqps: the private key of --amqp-cert" },
  { flag: "amqp-servername", value: "NAME", help: "with amqps: the name that the broker's certificate must have" },
  { flag: "amqp-insecure", help: "with amqps: believe whatever certificate a broker shows" },
  {
    flag: "amqp-connect-timeout",
    value: "SECONDS",
    help: "what one address of a broker has for connection and login (3)",
  },
  { flag: "amqp-mode", value: "MODE", help: "failover, or all: connected to every broker (failover)" },
  { flag: "amqp-primary", value: "ZONE", help: "zone of the URLs that name none (local)" },
  { flag: "amqp-heartbeat", value: "SECONDS", help: "heartbeat of the connection (10)" },
  { flag: "node-name", value: "NAME", help: "with --kazoo: this machine in dmq@NAME (its host name)" },
];

export const BROKER_NOTES: readonly string[] = [
  "A daemon with --amqp is asked; else, and with --url, this command connects itself: to the brokers of --url, of DMQ_AMQP or DMQ_AMQP_URL,",
  "or of `amqp` in the configuration. A password is better in a variable or a file: other accounts see what is on a command line.",
];

type Exits = readonly (readonly [code: number, meaning: string])[];

const EXITS: Exits = [
  [EXIT.notFound, "no such virtual host"],
  [
    EXIT.unreachable,
    "no broker reachable, or none let us in: stderr says what each of them said; no permission for the daemon's socket",
  ],
  [EXIT.state, "the configuration is invalid, a file of it cannot be read"],
];

/** Exit codes of every command that needs a broker, where it does not say more of them. */
export function brokerExits(...own: Exits): Exits {
  const said = new Set(own.map(([code]) => code));
  return [...own, ...EXITS.filter(([code]) => !said.has(code))];
}

/** Fault code of a daemon that has no brokers. */
const NOT_FOUND = 404;

/**
 * @param waiting  the option by which a command is told to wait where nobody listens at any of the brokers
 * @throws UsageError for options that contradict, ConfigError for brokers that are none, RpcError where nobody can be asked
 */
export async function openBrokers(context: CliContext, args: Arguments, waiting = "timeout"): Promise<Brokers> {
  if (args.has("url") && args.has("socket"))
    throw new UsageError("--url and --socket exclude each other: a daemon has its own brokers");
  const own = ["config", ...CONNECTION_FLAGS].find((flag) => args.has(flag));
  const socketPath = args.has("url") ? undefined : await daemonSocket(context, args);
  if (socketPath === undefined) return alone(context, args, waiting);
  const daemon = new DaemonBrokers(socketPath);
  if (await daemon.hasBrokers()) {
    if (own === undefined) return daemon;
    throw new UsageError(`--${own} goes with --url: the daemon on ${socketPath} has its own brokers`);
  }
  if (args.has("socket"))
    throw noBrokers(socketPath, `the daemon on ${socketPath} has no brokers: start it with --amqp URL`);
  return alone(context, args, waiting);
}

function alone(context: CliContext, args: Arguments, waiting: string): Promise<Brokers> {
  return args.has("spool") ? storeOnly(context, args) : connectOwn(context, args, waiting);
}

/** Opens, runs `work` and closes, however it ends. */
export async function withBrokers<T>(
  context: CliContext,
  args: Arguments,
  work: (brokers: Brokers) => Promise<T>,
): Promise<T> {
  const brokers = await openBrokers(context, args);
  try {
    return await work(brokers);
  } finally {
    await brokers.close();
  }
}

/** @returns `undefined` where no daemon runs */
async function daemonSocket(context: CliContext, args: Arguments): Promise<string | undefined> {
  const path = clientSocketPath(context, args.value("socket"));
  const probe = await probeSocket(path);
  if (probe === "answers") return path;
  if (probe === "denied")
    throw noBrokers(
      path,
      `no permission for ${path}: use the account that started the daemon, or name a broker with --url`,
    );
  if (args.has("socket"))
    throw noBrokers(path, `no daemon on ${path}: start one with dmq serve --amqp URL, or name a broker with --url`);
  return undefined;
}

function noBrokers(socketPath: string, text: string): RpcError {
  return new RpcError("rpc-unreachable", text, { method: "amqp", socketPath });
}

/** What only those need who connect themselves. */
async function connectOwn(context: CliContext, args: Arguments, waiting: string): Promise<Brokers> {
  const { OwnBrokers, readOwn } = await import("./own.ts");
  const flags = new Map<string, readonly string[]>(
    CONNECTION_FLAGS.filter((flag) => args.has(flag)).map((flag) => [
      flag.replaceAll("-", "_"),
      flag === "amqp-insecure" ? ["1"] : args.all(flag),
    ]),
  );
  if (args.has("url")) flags.set("amqp", args.all("url"));
  const config = readOwn(flags, context, args.value("config"));
  if (config.amqp.length === 0)
    throw noBrokers("", "no broker: no daemon runs that has one; name it with --url URL, or in DMQ_AMQP_URL");
  return new OwnBrokers(config, args.has(waiting));
}

/** The daemon's store, or where none runs its file: a daemon with brokers publishes what is there. */
async function storeOnly(context: CliContext, args: Arguments): Promise<Brokers> {
  const [{ SpoolOnly, readOwn }, { openQueues }] = await Promise.all([import("./own.ts"), import("../queue/open.ts")]);
  const config = readOwn(new Map(), context, args.value("config"));
  return new SpoolOnly(await openQueues(context, args, true), config);
}

class DaemonBrokers implements Brokers {
  readonly socketPath: string;
  private readonly client: RpcClient;

  constructor(socketPath: string) {
    this.socketPath = socketPath;
    this.client = new RpcClient(socketPath);
  }

  async hasBrokers(): Promise<boolean> {
    try {
      await this.client.call("amqp.status", {});
      return true;
    } catch (error) {
      if (error instanceof RpcError && (error.fault === NOT_FOUND || error.fault === -32_601)) return false;
      throw error;
    }
  }

  call<T>(method: string, params: object, options: CallOptions = {}): Promise<T> {
    return this.client.call<T>(method, params, options);
  }

  callEach<T>(method: string, params: readonly object[], options: CallOptions = {}): Promise<(T | RpcError)[]> {
    return this.client.callEach<T>(method, params, options);
  }

  async close(): Promise<void> {}
}
