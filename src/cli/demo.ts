/**
 * Three nodes on loopback in one process: discovery, unicast, broadcast, a lost node. Each scene waits for what it shows,
 * with an end, so that a machine on which it cannot work says so instead of hanging.
 */
import { DmqError, TransportError } from "../core/errors.ts";
import { createNode, type RunningNode } from "../daemon/driver.ts";
import type { CommandSpec } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";

/** Kamailio takes two nodes with one IP address for one, so each of ours has its own, as on a real bus. */
const ADDRESSES = ["127.0.0.1", "127.0.0.2", "127.0.0.3"] as const;

const CHANNEL = "channel1";

/** Short, so that a lost node is noticed while somebody looks. */
const PING_INTERVAL_MS = 1_000;

/** Below the ports that the system gives to clients by itself. */
const PORT_MIN = 20_000;
const PORT_COUNT = 10_000;
const ATTEMPTS_MAX = 10;

const SCENE_MS_MAX = 8_000;
const LOOK_MS = 20;

export const demo: CommandSpec = {
  name: "demo",
  summary: "three nodes on loopback in one process: they find each other, talk, and lose one",
  examples: [["dmq demo", "takes a few seconds, needs no daemon, leaves nothing behind"]],
  positionals: [],
  options: [],
  exits: [
    [0, "it went as described"],
    [1, "it did not"],
    [4, "the loopback addresses cannot be used"],
  ],
  seeAlso: ["dmq serve --quick", "dmq help"],
  async run(context) {
    const nodes: RunningNode[] = [];
    try {
      await play(context, nodes);
      return EXIT.ok;
    } catch (error) {
      if (!(error instanceof SceneError)) throw error;
      context.stderr(`dmq: ${error.message}\n`);
      return EXIT.no;
    } finally {
      await Promise.all(nodes.map((node) => node.close({ announce: false })));
    }
  },
};

/** A scene that did not come to its end. */
class SceneError extends DmqError {
  constructor(what: string) {
    super("delivery", `the demo stopped: ${what} did not happen within ${SCENE_MS_MAX / 1_000} s`);
  }
}

async function play(context: CliContext, nodes: RunningNode[]): Promise<void> {
  const say = (line: string): void => context.stdout(`${line}\n`);
  const [first, second, third] = await discover(say, nodes);
  await talk(say, first, second);
  await tellAll(say, first);
  await lose(say, first, second, third);
}

type Say = (line: string) => void;

async function discover(say: Say, nodes: RunningNode[]): Promise<[RunningNode, RunningNode, RunningNode]> {
  say("1. Discovery: three nodes, two of which know only the first.");
  for (const address of ADDRESSES) {
    const seed = nodes[0]?.uri();
    const node = await startNode(address, seed === undefined ? [] : [seed]);
    nodes.push(node);
    node.channel(CHANNEL, (message) => {
      say(`   ${node.uri()} got ${JSON.stringify(new TextDecoder().decode(message.body))} from ${message.from}`);
    });
  }
  await until("discovery", () => nodes.every((node) => active(node).length === nodes.length - 1));
  for (const node of nodes) say(`   ${node.uri()} sees ${active(node).join(" and ")}`);
  return nodes as [RunningNode, RunningNode, RunningNode];
}

/** On a port that is free: the demo must run beside whatever this machine does with 5060. */
async function startNode(address: string, notificationAddresses: string[]): Promise<RunningNode> {
  for (let attempt = 1; ; attempt++) {
    const port = PORT_MIN + Math.floor(Math.random() * PORT_COUNT);
    const serverAddress = `sip:${address}:${port}`;
    try {
      return await createNode({ serverAddress, notificationAddresses, pingIntervalMs: PING_INTERVAL_MS });
    } catch (error) {
      if (attempt === ATTEMPTS_MAX || !(error instanceof TransportError)) throw error;
    }
  }
}

async function talk(say: Say, from: RunningNode, to: RunningNode): Promise<void> {
  say("2. Unicast: the first node tells the second something.");
  const report = await from.send(CHANNEL, to.uri(), "good morning");
  say(`   ${outcomeText(report.peer, report.outcome, report.elapsedMs)}`);
}

async function tellAll(say: Say, from: RunningNode): Promise<void> {
  say("3. Broadcast: the first node tells all others, and knows of each whether it heard.");
  for (const report of await from.broadcast(CHANNEL, "good morning, all")) {
    say(`   ${outcomeText(report.peer, report.outcome, report.elapsedMs)}`);
  }
}

async function lose(say: Say, first: RunningNode, second: RunningNode, third: RunningNode): Promise<void> {
  say("4. A lost node: the third ends without a word, and is missed at the next ping.");
  const lost = third.uri();
  await third.close({ announce: false });
  await until("the loss being noticed", () => ![first, second].some((node) => active(node).includes(lost)));
  for (const node of [first, second]) say(`   ${node.uri()} sees ${active(node).join(" and ")}`);
  say("Next: dmq serve --quick, and dmq --help.");
}

function active(node: RunningNode): string[] {
  return node.nodes().flatMap((peer) => (peer.status === "active" && peer.verified ? [peer.uri] : []));
}

type Outcome = Awaited<ReturnType<RunningNode["send"]>>["outcome"];

function outcomeText(peer: string, outcome: Outcome, elapsedMs: number): string {
  const how = "code" in outcome ? `${outcome.code} ${outcome.reason}` : outcome.type;
  return `${peer} answered ${how} after ${Math.round(elapsedMs)} ms`;
}

/** @throws SceneError after `SCENE_MS_MAX` */
async function until(what: string, condition: () => boolean): Promise<void> {
  const end = performance.now() + SCENE_MS_MAX;
  while (!condition()) {
    if (performance.now() > end) throw new SceneError(what);
    await Bun.sleep(LOOK_MS);
  }
}
