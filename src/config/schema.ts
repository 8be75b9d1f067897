/**
 * Every option of the node once: name, type, unit, default, bounds, help. Flags, environment variables, the TOML file,
 * `dmq serve --help` and docs/CONFIG.md come out of this table; nothing else knows an option's name.
 *
 * Names, units and defaults are those of Kamailio's dmq module where it has the option (dmq.md section 13). Durations
 * are seconds at the operator's edge, or carry a unit (`500ms`, `1m`); inside they are milliseconds.
 */
import * as v from "valibot";
import { parseDuration } from "../core/time.ts";
import {
  isAllow,
  isBroker,
  isBrokerMode,
  isChannelName,
  isDnsServer,
  isGroup,
  isHandler,
  isPath,
  isReplication,
  isServerAddress,
  isServerName,
  isServerSocket,
  isSipAddress,
  isSocketPath,
  isZone,
} from "./syntax.ts";

export type OptionType = "text" | "integer" | "boolean" | "duration" | "choice";

export type OptionValue = string | number | boolean;

export interface ConfigOption {
  /** Kamailio's parameter name, the key in the TOML file. */
  readonly name: string;
  /** Member of `DmqConfig`. */
  readonly property: keyof DmqConfig;
  readonly type: OptionType;
  /** What the value is, in `--help`: `URI`, `SECONDS`, `N` … Empty for booleans. */
  readonly placeholder: string;
  /** As the operator would write it; `undefined` where there is none. */
  readonly default: string | undefined;
  /** As it could stand in the file, where there is no default to show. */
  readonly example?: string;
  readonly repeatable: boolean;
  /** Inclusive; durations in milliseconds, integers as they are. */
  readonly bounds?: readonly [minimum: number, maximum: number];
  readonly choices?: readonly string[];
  /** What is allowed, in words, for messages and documents. */
  readonly expected: string;
  readonly help: string;
  /**
   * What `dmq reload` does: the running daemon takes the new `value`, or of a list the `additions`; where it is missing,
   * only a restart changes the option.
   */
  readonly reload?: "value" | "additions";
  /** A further rule on the text. */
  readonly accepts?: (text: string) => boolean;
  /** A second variable, read where the first one is not set. */
  readonly alias?: string;
  /** Values are URLs that may hold a password: it is shown nowhere. */
  readonly secret?: boolean;
  /** One value of a flag or of the file may be several with commas between them. */
  readonly commas?: boolean;
}

export type LogLevelName = "error" | "warn" | "info" | "debug" | "trace";

/** What the daemon is started with; all durations are milliseconds. */
export interface DmqConfig {
  serverAddress: string;
  /** `proto:ip:port` each; empty means that of `serverAddress`. */
  serverSockets: string[];
  notificationAddresses: string[];
  notificationChannel: string;
  multiNotify: boolean;
  numWorkers: number;
  /** 0: workers are woken; else they look at their queue at this interval, at least 1 ms. */
  workerSleepMs: number;
  pingIntervalMs: number;
  removeInactive: boolean;
  failCountEnabled: boolean;
  failCountThresholdNotActive: number;
  failCountThresholdDisabled: number;
  handlerTimeoutMs: number;
  requestTimeoutMs: number;
  window: number;
  queueMessages: number;
  initWithSingle: boolean;
  slSend: boolean;
  udpSegmentation: boolean;
  /** CIDRs, addresses, `private`, `members`, `any`: who may speak KDMQ to the node. */
  allow: string[];
  /** The same, for those who may send requests of other methods besides. */
  allowRequests: string[];
  leaveOnTerminate: boolean;
  channels: string[];
  /** `NAME=CMD` each: a channel, or `peer-up`, `peer-down`, `peer-disabled`. */
  handlers: string[];
  /** `METHOD[,METHOD…][=CODE]` each. */
  replicate: string[];
  /** `ip` or `ip:port` each; empty means those of the system. */
  dnsServers: string[];
  /** Paths of PEM files; `undefined` where there is none. */
  tlsCert: string | undefined;
  tlsKey: string | undefined;
  tlsCa: string | undefined;
  tlsVerify: "peer" | "none";
  tlsRequireClientCert: boolean;
  /** Path of the control socket; `undefined` means the rule of rpc/paths.ts. */
  socket: string | undefined;
  /** Name or number of the group that may use the control sockets, too; `undefined`: the owner alone. */
  rpcGroup: string | undefined;
  /** `undefined` means the rule of rpc/paths.ts. */
  stateDir: string | undefined;
  noSnapshot: boolean;
  /** `NAME` or `name=NAME;size=N;…` each (queue/definition.ts). */
  queues: string[];
  /** `A -> B;options` each (link/definition.ts). */
  links: string[];
  /** For queues that say nothing themselves; 0 is no limit. */
  queueSize: number;
  queueAddmode: string;
  /** Octets that the store of all queues may grow to: `2g`. */
  storeMax: string;
  storeRepair: boolean;
  /** Path of the socket for kamcmd; `undefined`: there is none. */
  ctl: string | undefined;
  /** Path of the FIFO for kamctl; `undefined`: there is none. */
  rpcFifo: string | undefined;
  /** Directory of the reply FIFOs of kamctl; `undefined` means `/tmp`, where kamctl makes them. */
  rpcFifoReplyDir: string | undefined;
  /** URLs of brokers, in the order of preference, with their passwords. */
  amqp: string[];
  /** The zone of brokers that name none. */
  amqpPrimary: string;
  /** `MODE` for all zones, or `ZONE=MODE`: failover or all. */
  amqpMode: string[];
  amqpPrefer: "current" | "first";
  /** 0: none. */
  amqpHeartbeatMs: number;
  amqpConnectTimeoutMs: number;
  /** Messages that a broker has not confirmed yet. */
  amqpWindow: number;
  /** Path of a file with the password of brokers whose URL has none. */
  amqpPasswordFile: string | undefined;
  /** Paths of PEM files. */
  amqpCa: string | undefined;
  amqpCert: string | undefined;
  amqpKey: string | undefined;
  amqpInsecure: boolean;
  amqpServername: string | undefined;
  /** Of this machine in `dmq@NAME`; `undefined` means its host name. */
  nodeName: string | undefined;
  /** Name of the bus, in the paths of messages that go over brokers. */
  bus: string;
  logLevel: LogLevelName;
  logJson: boolean;
}

export const DEFAULT_SERVER_ADDRESS = "sip:127.0.0.1:5060";

const LOG_LEVELS: readonly LogLevelName[] = ["error", "warn", "info", "debug", "trace"];

const BOOLEAN_EXPECTED = "0 or 1";

const ALLOW_EXPECTED =
  "a CIDR or an IP address (192.0.2.0/24, 2001:db8::1), or private (RFC 1918, 4193, 6598, loopback, link-local), members (notification addresses and nodes that answered), any";

type Entry = Pick<ConfigOption, "name" | "property" | "help"> & Partial<ConfigOption>;

function text(entry: Entry & { placeholder: string; expected: string }): ConfigOption {
  return { type: "text", repeatable: false, default: undefined, ...entry };
}

function integer(entry: Entry & { bounds: readonly [number, number]; default: string }): ConfigOption {
  const expected = `an integer from ${entry.bounds[0]} to ${entry.bounds[1]}`;
  return { type: "integer", placeholder: "N", repeatable: false, expected, ...entry };
}

function duration(entry: Entry & { bounds: readonly [number, number]; default: string }): ConfigOption {
  const [low, high] = entry.bounds.map((ms) => (ms % 1_000 === 0 ? `${ms / 1_000}s` : `${ms}ms`));
  const expected = `seconds, or a duration such as 500ms or 2s, from ${low} to ${high}`;
  return { type: "duration", placeholder: "SECONDS", repeatable: false, expected, ...entry };
}

function boolean(entry: Entry & { default: "0" | "1" }): ConfigOption {
  return { type: "boolean", placeholder: "", repeatable: false, expected: BOOLEAN_EXPECTED, ...entry };
}

export const CONFIG_OPTIONS: readonly ConfigOption[] = [
  text({
    name: "server_address",
    property: "serverAddress",
    placeholder: "URI",
    example: "sip:192.0.2.1:5060",
    expected:
      "sip:IP:port, sip:IP:port;transport=tcp or sips:IP:port with an IP address that other nodes reach; port 0 takes a free one; to listen at all addresses, name one of them here and add server_socket udp:0.0.0.0:port",
    accepts: isServerAddress,
    help: "SIP address that the other nodes know this one by (sip:127.0.0.1:5060 if unset, which only this machine reaches)",
  }),
  text({
    name: "server_socket",
    property: "serverSockets",
    placeholder: "PROTO:IP:PORT",
    example: "udp:192.0.2.1:5060",
    repeatable: true,
    expected: "udp:IP:PORT, tcp:IP:PORT or tls:IP:PORT, IPv6 in brackets; port 0 takes a free one",
    accepts: isServerSocket,
    help: "where to listen (that of server_address if unset)",
  }),
  text({
    name: "notification_address",
    property: "notificationAddresses",
    reload: "additions",
    placeholder: "URI",
    example: "sip:192.0.2.2:5060",
    repeatable: true,
    expected: "a SIP URI such as sip:192.0.2.2:5060, sip:node2.example;transport=tcp or sips:node2.example",
    accepts: isSipAddress,
    help: "a node to meet the bus at; a node without one waits for others",
  }),
  text({
    name: "notification_channel",
    property: "notificationChannel",
    placeholder: "NAME",
    default: "notification_peer",
    expected: "a channel name: letters, digits and -_.!~*'()&=+$,;?/",
    accepts: isChannelName,
    help: "channel that carries the membership; the same on all nodes",
  }),
  boolean({
    name: "multi_notify",
    property: "multiNotify",
    default: "0",
    help: "meet every address that the host name of the one notification_address leads to by SRV, A and AAAA records",
  }),
  integer({
    name: "num_workers",
    property: "numWorkers",
    default: "2",
    bounds: [1, 1_024],
    help: "handlers of one channel that may run at a time",
  }),
  integer({
    name: "worker_usleep",
    property: "workerSleepMs",
    placeholder: "MICROSECONDS",
    default: "0",
    bounds: [0, 60_000_000],
    help: "0: workers are woken; else they look at their queue at this interval, rounded up to 1 ms",
  }),
  duration({
    name: "ping_interval",
    property: "pingIntervalMs",
    reload: "value",
    default: "60",
    bounds: [1_000, 86_400_000],
    help: "time between two pings of a peer; below 5 s every node of the bus pays for it",
  }),
  boolean({
    name: "remove_inactive",
    property: "removeInactive",
    reload: "value",
    default: "1",
    help: "forget a peer that does not answer a ping, instead of keeping it as not_active",
  }),
  boolean({
    name: "fail_count_enabled",
    property: "failCountEnabled",
    reload: "value",
    default: "0",
    help: "count timeouts and act on the two thresholds below, instead of on the first timeout",
  }),
  integer({
    name: "fail_count_threshold_not_active",
    property: "failCountThresholdNotActive",
    reload: "value",
    default: "0",
    bounds: [0, 1_000_000],
    help: "an active peer with more timeouts than this becomes not_active",
  }),
  integer({
    name: "fail_count_threshold_disabled",
    property: "failCountThresholdDisabled",
    reload: "value",
    default: "1",
    bounds: [0, 1_000_000],
    help: "a not_active peer with more timeouts than this becomes disabled",
  }),
  boolean({
    name: "init_with_single",
    property: "initWithSingle",
    default: "0",
    help: "at first contact, handlers synchronise with the first node only, instead of with all",
  }),
  boolean({
    name: "sl_send",
    property: "slSend",
    reload: "value",
    default: "0",
    help: "send messages once over UDP and never again; their answers still count",
  }),
  boolean({
    name: "udp_segmentation",
    property: "udpSegmentation",
    default: "1",
    help: "hand messages of one size to one peer to Linux in one piece, which it cuts into datagrams, and take such pieces whole; 0 where a capture on this machine is to show each",
  }),
  duration({
    name: "handler_timeout",
    property: "handlerTimeoutMs",
    reload: "value",
    default: "1.5",
    bounds: [10, 30_000],
    help: "time that a handler has before the answer is 503 with Retry-After",
  }),
  duration({
    name: "request_timeout",
    property: "requestTimeoutMs",
    reload: "value",
    default: "32",
    bounds: [100, 600_000],
    help: "time that a request waits for its final response (RFC 3261 Timer F)",
  }),
  integer({
    name: "window",
    property: "window",
    reload: "value",
    default: "256",
    bounds: [1, 65_536],
    help: "requests in flight to one peer; what comes on top is queued",
  }),
  integer({
    name: "queue_messages",
    property: "queueMessages",
    reload: "value",
    default: "10000",
    bounds: [0, 1_000_000],
    help: "messages queued for one peer behind its window; what comes on top is refused as overloaded",
  }),
  text({
    name: "allow",
    property: "allow",
    reload: "value",
    placeholder: "WHO",
    default: "private",
    example: "192.0.2.0/24",
    repeatable: true,
    expected: ALLOW_EXPECTED,
    accepts: isAllow,
    help: "who may speak to the node; others get 403 a few times, then silence",
  }),
  text({
    name: "allow_requests",
    property: "allowRequests",
    reload: "value",
    placeholder: "WHO",
    example: "198.51.100.7",
    repeatable: true,
    expected: ALLOW_EXPECTED,
    accepts: isAllow,
    help: "who else may send what is not KDMQ: OPTIONS, and requests that replicate names",
  }),
  boolean({
    name: "leave_on_terminate",
    property: "leaveOnTerminate",
    reload: "value",
    default: "0",
    help: "announce the leave on SIGTERM too, not only on SIGINT and `dmq leave`",
  }),
  text({
    name: "channel",
    property: "channels",
    reload: "additions",
    placeholder: "NAME",
    example: "channel1",
    repeatable: true,
    expected: "a channel name: letters, digits and -_.!~*'()&=+$,;?/",
    accepts: isChannelName,
    help: "declare a channel: messages on it are answered 202 while nobody listens, instead of 404",
  }),
  text({
    name: "on",
    property: "handlers",
    reload: "value",
    placeholder: "NAME=CMD",
    example: "channel1=/usr/local/bin/on-message",
    repeatable: true,
    expected: "CHANNEL=CMD, peer-up=CMD, peer-down=CMD or peer-disabled=CMD",
    accepts: isHandler,
    help: "run a command for each message of a channel, or when a peer comes, fails or is disabled",
  }),
  text({
    name: "replicate",
    property: "replicate",
    placeholder: "METHOD[,METHOD][=CODE]",
    example: "REGISTER,PUBLISH=202",
    repeatable: true,
    expected: "SIP methods such as REGISTER,PUBLISH, perhaps with the code of the answer: REGISTER=202",
    accepts: isReplication,
    help: "pass requests of these methods from outside the bus on to all active nodes, and answer them with CODE (200)",
  }),
  text({
    name: "dns_server",
    property: "dnsServers",
    placeholder: "IP[:PORT]",
    example: "192.0.2.53",
    repeatable: true,
    expected: "an IP address, perhaps with a port: 192.0.2.53, 127.0.0.1:5353, [2001:db8::1]:53",
    accepts: isDnsServer,
    help: "ask these DNS servers instead of those of the system",
  }),
  text({
    name: "tls_cert",
    property: "tlsCert",
    reload: "value",
    placeholder: "FILE",
    example: "/etc/dmq/node.pem",
    expected: "the path of a PEM file",
    accepts: isPath,
    help: "certificate of this node with its chain, as server and as client",
  }),
  text({
    name: "tls_key",
    property: "tlsKey",
    reload: "value",
    placeholder: "FILE",
    example: "/etc/dmq/node.key",
    expected: "the path of a PEM file",
    accepts: isPath,
    help: "private key of tls_cert",
  }),
  text({
    name: "tls_ca",
    property: "tlsCa",
    reload: "value",
    placeholder: "FILE",
    example: "/etc/dmq/bus-ca.pem",
    expected: "the path of a PEM file",
    accepts: isPath,
    help: "certificates of the authorities that vouch for the other nodes (the public ones that Mozilla lists if unset)",
  }),
  {
    name: "tls_verify",
    property: "tlsVerify",
    reload: "value",
    type: "choice",
    placeholder: "peer|none",
    default: "peer",
    repeatable: false,
    choices: ["peer", "none"],
    expected: "peer or none",
    help: "whether the certificate of a node that we connect to must be valid, and for its name or address",
  },
  boolean({
    name: "tls_require_client_cert",
    property: "tlsRequireClientCert",
    reload: "value",
    default: "0",
    help: "refuse nodes that connect to us without a certificate that tls_ca vouches for",
  }),
  text({
    name: "socket",
    property: "socket",
    placeholder: "PATH",
    example: "/run/dmq/dmq.sock",
    expected: "the path of a unix socket, at most 107 bytes",
    accepts: isSocketPath,
    help: "control socket (DMQ_SOCKET, $RUNTIME_DIRECTORY/dmq.sock, $XDG_RUNTIME_DIR/dmq/dmq.sock, /run/dmq/dmq.sock)",
  }),
  text({
    name: "rpc_group",
    property: "rpcGroup",
    placeholder: "GROUP",
    example: "dmq",
    expected: "the name of a group in /etc/group, or its number",
    accepts: isGroup,
    help: "group whose members may use the control socket and ctl, too, and so do everything that the node can do",
  }),
  text({
    name: "state_dir",
    property: "stateDir",
    placeholder: "DIR",
    example: "/var/lib/dmq",
    expected: "the path of a directory",
    accepts: isPath,
    help: "where the snapshot of the known peers and the store of the queues are kept",
  }),
  boolean({
    name: "no_snapshot",
    property: "noSnapshot",
    default: "0",
    help: "keep no snapshot: a restarted node knows nobody but its notification addresses",
  }),
  text({
    name: "queue",
    property: "queues",
    placeholder: "DEFINITION",
    example: "name=alert;size=100;addmode=2",
    repeatable: true,
    expected:
      "NAME, or attributes as Kamailio's mqueue has them: name=alert;size=100;addmode=2; in the file also tables: [[queue]]",
    accepts: (one) => one.trim() !== "",
    help: "define a queue; docs/QUEUES.md has the attributes",
  }),
  text({
    name: "link",
    property: "links",
    placeholder: "LINK",
    example: "channel:alerts -> queue:alert",
    repeatable: true,
    expected:
      "A -> B with options behind semicolons, A and B one of channel:NAME, queue:NAME, exec:CMD, exchange:NAME/KEY, amqp-queue:NAME; in the file also tables: [[link]]",
    accepts: (one) => one.includes("->"),
    help: "carry messages between a channel, a queue, a command and a broker, one of them a queue or a broker's exchange; docs/QUEUES.md, docs/AMQP.md",
  }),
  integer({
    name: "queue_size",
    property: "queueSize",
    default: "0",
    bounds: [0, 1_000_000_000],
    help: "items that a queue holds which says no size itself; the oldest makes room; 0: no limit",
  }),
  {
    name: "queue_addmode",
    property: "queueAddmode",
    type: "choice",
    placeholder: "MODE",
    default: "0",
    repeatable: false,
    choices: ["0", "1", "2", "all", "oldest", "newest", "in-place"],
    expected: "0 or all, 1 or oldest, 2 or newest, in-place",
    help: "what an item does in a queue that says no addmode itself: all append; of one key, the oldest or the newest stays",
  },
  text({
    name: "store_max",
    property: "storeMax",
    placeholder: "SIZE",
    default: "2g",
    expected: "octets, also as 512m or 2g, at least 1m",
    accepts: (one) =>
      /^\d{1,13}[kmg]?$/i.test(one) &&
      (/[mg]$/i.test(one) ? !/^0+[mg]$/i.test(one) : Number.parseInt(one, 10) >= (/k$/i.test(one) ? 1_024 : 1_048_576)),
    help: "what the store of all queues may grow to",
  }),
  boolean({
    name: "store_repair",
    property: "storeRepair",
    default: "0",
    help: "set a damaged store of queues aside, and begin an empty one",
  }),
  text({
    name: "ctl",
    property: "ctl",
    placeholder: "PATH",
    example: "/run/dmq/dmq_ctl",
    expected: "the path of a unix socket, at most 107 bytes",
    accepts: isSocketPath,
    help: "socket that speaks Kamailio's binary RPC: kamcmd -s unixs:PATH dmq.list_nodes",
  }),
  text({
    name: "rpc_fifo",
    property: "rpcFifo",
    placeholder: "PATH",
    example: "/run/dmq/dmq_fifo",
    expected: "the path of a FIFO",
    accepts: isPath,
    help: "FIFO that speaks Kamailio's JSON-RPC: RPCFIFOPATH=PATH kamctl rpc dmq.list_nodes",
  }),
  text({
    name: "rpc_fifo_reply_dir",
    property: "rpcFifoReplyDir",
    placeholder: "DIR",
    example: "/run/dmq",
    expected: "the path of a directory",
    accepts: isPath,
    help: "where kamctl makes its reply FIFOs (/tmp if unset, whatever TMPDIR says: kamctl has it so)",
  }),
  text({
    name: "amqp",
    property: "amqp",
    placeholder: "URL",
    example: "amqp://dmq@192.0.2.10:5672/",
    repeatable: true,
    commas: true,
    secret: true,
    alias: "DMQ_AMQP_URL",
    expected:
      "amqp://USER:PASSWORD@HOST:PORT/VHOST, amqps:// or kazoo://, perhaps with a zone before it: zone=NAME;amqp://HOST; what is special in a user, password or virtual host as %XX",
    accepts: isBroker,
    help: "a broker (RabbitMQ), several in the order of preference; a password is better in the variable, or in amqp_password_file, than on a command line",
  }),
  text({
    name: "amqp_primary",
    property: "amqpPrimary",
    placeholder: "ZONE",
    default: "local",
    expected: "a name of letters, digits and . _ -",
    accepts: isZone,
    help: "zone of the brokers that name none: it is where messages are published and queries are asked",
  }),
  text({
    name: "amqp_mode",
    property: "amqpMode",
    placeholder: "MODE",
    default: "failover",
    example: "failover",
    repeatable: true,
    commas: true,
    expected: "failover or all, or of one zone: ZONE=failover, ZONE=all",
    accepts: isBrokerMode,
    help: "failover: one broker at a time, the next when it fails, right for a broker cluster; all: connected to each, as Kamailio's kazoo, right where the brokers know nothing of one another",
  }),
  {
    name: "amqp_prefer",
    property: "amqpPrefer",
    type: "choice",
    placeholder: "current|first",
    default: "current",
    repeatable: false,
    choices: ["current", "first"],
    expected: "current or first",
    help: "with failover: stay with the broker that works, or go back to an earlier one of the list when it answers again",
  },
  duration({
    name: "amqp_heartbeat",
    property: "amqpHeartbeatMs",
    default: "10",
    bounds: [0, 600_000],
    help: "heartbeat of the connections in whole seconds; a broker that misses two of them is left; 0: none",
  }),
  duration({
    name: "amqp_connect_timeout",
    property: "amqpConnectTimeoutMs",
    default: "3",
    bounds: [100, 60_000],
    help: "time that one address of a broker has for the connection and the login",
  }),
  integer({
    name: "amqp_window",
    property: "amqpWindow",
    default: "500",
    bounds: [1, 65_535],
    help: "messages that a broker may leave unconfirmed; who publishes more waits",
  }),
  text({
    name: "amqp_password_file",
    property: "amqpPasswordFile",
    placeholder: "FILE",
    example: "/etc/dmq/amqp.password",
    expected: "the path of a file whose first line is the password",
    accepts: isPath,
    help: "password for the brokers whose URL has a user and no password",
  }),
  text({
    name: "amqp_ca",
    property: "amqpCa",
    placeholder: "FILE",
    example: "/etc/dmq/broker-ca.pem",
    expected: "the path of a PEM file",
    accepts: isPath,
    help: "certificates of the authorities that vouch for brokers (amqps) (the public ones that Mozilla lists if unset)",
  }),
  text({
    name: "amqp_cert",
    property: "amqpCert",
    placeholder: "FILE",
    example: "/etc/dmq/broker-client.pem",
    expected: "the path of a PEM file",
    accepts: isPath,
    help: "certificate that is shown to brokers (amqps); with auth=external in the URL it is the login",
  }),
  text({
    name: "amqp_key",
    property: "amqpKey",
    placeholder: "FILE",
    example: "/etc/dmq/broker-client.key",
    expected: "the path of a PEM file",
    accepts: isPath,
    help: "private key of amqp_cert",
  }),
  boolean({
    name: "amqp_insecure",
    property: "amqpInsecure",
    default: "0",
    help: "believe whatever certificate a broker shows",
  }),
  text({
    name: "amqp_servername",
    property: "amqpServername",
    placeholder: "NAME",
    example: "rabbit.example",
    expected: "a host name",
    accepts: isServerName,
    help: "name that the certificates of brokers must have, instead of that in their URL",
  }),
  text({
    name: "node_name",
    property: "nodeName",
    placeholder: "NAME",
    example: "edge1.example",
    expected: "letters, digits and . _ -",
    accepts: isServerName,
    help: "name of this machine in dmq@NAME, by which brokers and Kazoo applications know it (its host name if unset)",
  }),
  text({
    name: "bus",
    property: "bus",
    placeholder: "NAME",
    default: "dmq",
    expected: "a name of letters, digits and . _ -",
    accepts: isZone,
    help: "name of this bus, for links with a broker: what has been on it is not sent to it again; two buses that are joined over one exchange have different ones",
  }),
  {
    name: "log_level",
    property: "logLevel",
    reload: "value",
    type: "choice",
    placeholder: "LEVEL",
    default: "info",
    repeatable: false,
    choices: LOG_LEVELS,
    expected: `one of ${LOG_LEVELS.join(", ")}`,
    help: `what is logged on stderr: ${LOG_LEVELS.join(", ")}`,
  },
  boolean({
    name: "log_json",
    property: "logJson",
    reload: "value",
    default: "0",
    help: "log one JSON object a line",
  }),
];

export function flagOf(option: ConfigOption): string {
  return option.name.replaceAll("_", "-");
}

export function environmentOf(option: ConfigOption): string {
  return `DMQ_${option.name.toUpperCase()}`;
}

/** The options as a table in Markdown, for docs/CONFIG.md: a test keeps the file equal to it. */
export function configTable(): string {
  const rows = CONFIG_OPTIONS.map((option) => {
    const variables = [environmentOf(option), ...(option.alias === undefined ? [] : [option.alias])];
    const cells = [`\`${option.name}\``, `\`--${flagOf(option)}\``, variables.map((one) => `\`${one}\``).join(", ")];
    const standard = option.default === undefined ? "–" : `\`${option.default}\``;
    const several = option.repeatable ? "; repeatable" : "";
    const allowed = `${option.expected}${several}`;
    const reload = option.reload === undefined ? "restart" : option.reload === "value" ? "reload" : "reload adds";
    return [...cells, standard, allowed, option.help, reload].map((cell) => cell.replaceAll("|", "\\|"));
  });
  const header = ["key", "flag", "variable", "default", "allowed", "what it does", "changes with"];
  return [header, header.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |\n`).join("");
}

export type Validation = { ok: true; value: OptionValue } | { ok: false };

/**
 * @param raw  the text of a flag or variable, or the value of a TOML key
 * @returns    the value in the unit of `DmqConfig` (milliseconds for durations)
 */
export function validate(option: ConfigOption, raw: unknown): Validation {
  const result = v.safeParse(schemaOf(option), raw);
  if (!result.success) return { ok: false };
  // The module's unit is the microsecond; timers of ours have a resolution of one millisecond.
  if (option.name === "worker_usleep") return { ok: true, value: Math.ceil((result.output as number) / 1_000) };
  return { ok: true, value: result.output };
}

function schemaOf(option: ConfigOption): v.GenericSchema<unknown, OptionValue> {
  switch (option.type) {
    case "integer":
      return numberSchema(option, readInteger);
    case "duration":
      return numberSchema(option, readDuration);
    case "boolean":
      return v.pipe(v.unknown(), v.transform(readBoolean), v.boolean());
    case "choice":
      return v.pipe(
        v.unknown(),
        // Kamailio numbers its modes, and TOML has numbers.
        v.transform((raw) => (Number.isInteger(raw) ? String(raw) : raw)),
        v.picklist(option.choices as readonly string[]),
      );
    case "text":
      return v.pipe(
        v.string(),
        v.check((one) => option.accepts === undefined || option.accepts(one)),
      ) as v.GenericSchema<unknown, OptionValue>;
  }
}

function numberSchema(
  option: ConfigOption,
  read: (raw: unknown) => number | undefined,
): v.GenericSchema<unknown, OptionValue> {
  const [minimum, maximum] = option.bounds as readonly [number, number];
  return v.pipe(v.unknown(), v.transform(read), v.number(), v.minValue(minimum), v.maxValue(maximum));
}

function readInteger(raw: unknown): number | undefined {
  if (typeof raw === "string") return /^-?\d{1,15}$/.test(raw) ? Number(raw) : undefined;
  return typeof raw === "number" && Number.isInteger(raw) ? raw : undefined;
}

function readDuration(raw: unknown): number | undefined {
  if (typeof raw === "string") return parseDuration(raw);
  return typeof raw === "number" && Number.isFinite(raw) ? raw * 1_000 : undefined;
}

const BOOLEANS = new Map<unknown, boolean>([
  ...[true, 1, "1", "true", "yes", "on"].map((word): [unknown, boolean] => [word, true]),
  ...[false, 0, "0", "false", "no", "off"].map((word): [unknown, boolean] => [word, false]),
]);

function readBoolean(raw: unknown): boolean | undefined {
  return BOOLEANS.get(raw);
}
