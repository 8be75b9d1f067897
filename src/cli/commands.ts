/** The commands: name, one line each, and how to load them. Nothing here loads one: `dmq send` must not pay for `serve`. */
import type { CommandEntry } from "./command.ts";

export const COMMANDS: ReadonlyMap<string, CommandEntry> = new Map<string, CommandEntry>([
  ["serve", { summary: "run the node in the foreground", load: async () => (await import("./serve.ts")).serve }],
  ["send", { summary: "send a message to one node", load: async () => (await import("./send.ts")).send }],
  ["bcast", { summary: "send a message to every active node", load: async () => (await import("./bcast.ts")).bcast }],
  ["req", { summary: "ask nodes, and print what they answer", load: async () => (await import("./req.ts")).req }],
  [
    "replicate",
    { summary: "pass a SIP request on to every node", load: async () => (await import("./replicate.ts")).replicate },
  ],
  [
    "listen",
    { summary: "print messages as they come, or answer them", load: async () => (await import("./listen.ts")).listen },
  ],
  ["list", { summary: "the nodes of the bus", load: async () => (await import("./list.ts")).list }],
  ["ping", { summary: "round trips to nodes", load: async () => (await import("./ping.ts")).ping }],
  ["wait", { summary: "wait for nodes, listeners or the daemon", load: async () => (await import("./wait.ts")).wait }],
  ["add", { summary: "add a node", load: async () => (await import("./add.ts")).add }],
  ["remove", { summary: "remove a node", load: async () => (await import("./remove.ts")).remove }],
  ["set", { summary: "set the status of a node", load: async () => (await import("./set.ts")).set }],
  ["join", { summary: "meet the bus at further nodes", load: async () => (await import("./join.ts")).join }],
  ["leave", { summary: "stop the daemon and tell the bus", load: async () => (await import("./leave.ts")).leave }],
  ["stop", { summary: "stop the daemon without a word", load: async () => (await import("./stop.ts")).stop }],
  ["queue", { summary: "queues that lose nothing", load: async () => (await import("./queue.ts")).queue }],
  ["amqp", { summary: "speak with RabbitMQ", load: async () => (await import("./amqp.ts")).amqp }],
  ["json", { summary: "look into a JSON text", load: async () => (await import("./json.ts")).json }],
  [
    "config",
    { summary: "show, check or begin a configuration", load: async () => (await import("./config.ts")).config },
  ],
  ["reload", { summary: "read the configuration again", load: async () => (await import("./reload.ts")).reload }],
  ["status", { summary: "what the daemon knows and does", load: async () => (await import("./status.ts")).status }],
  ["events", { summary: "what happens to the node", load: async () => (await import("./events.ts")).events }],
  ["logs", { summary: "the daemon's latest log lines", load: async () => (await import("./logs.ts")).logs }],
  ["rpc", { summary: "call a method of the daemon", load: async () => (await import("./rpc.ts")).rpc }],
  ["demo", { summary: "three nodes in one process, to look at", load: async () => (await import("./demo.ts")).demo }],
  ["version", { summary: "the version", load: async () => (await import("./version.ts")).version }],
]);
