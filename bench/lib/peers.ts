/** Fake peers (c/peers.c): nodes of the bus that answer at once, and count. */
import { program } from "./compile.ts";
import { type Address, freeAddress } from "./ports.ts";
import { Program } from "./process.ts";

/** What the peers counted since they were started. */
export interface PeerCounts {
  /** Messages on channels, without repetitions. */
  readonly received: number;
  /** Messages that came again. */
  readonly repeated: number;
  readonly notifications: number;
  /** Messages that were left without an answer on purpose. */
  readonly silent: number;
  /** Peers whose announcement the node of the last `join` has answered. */
  readonly joined: number;
  readonly triggers: number;
  /** Triggers that were answered 200. */
  readonly triggered: number;
  readonly stray: number;
  /** Share of the time since the last count in which there was nothing to do. */
  readonly idle: number;
}

export interface Peers {
  readonly program: Program;
  readonly count: number;
  readonly port: number;
}

/** The first of their addresses, and the next after it: none that anything else here uses. */
const FIRST = "127.0.1.1";

const JOIN_MS_MAX = 90_000;

/** Starts so many peers; they know nobody yet. Messages on the channel `hold0000` get no answer. */
export async function startPeers(count: number): Promise<Peers> {
  const { port } = await freeAddress("0.0.0.0");
  const words = ["--count", String(count), "--port", String(port), "--first", FIRST, "--silent", "hold"];
  const started = new Program(`${count} peers`, [program("peers"), ...words], "other");
  await started.line();
  return { program: started, count, port };
}

/** The least that a program can do that sends to them (c/send.c). */
export async function startCSender({ count, port }: Peers): Promise<Program> {
  const words = ["--count", String(count), "--port", String(port), "--first", FIRST];
  const started = new Program(`c send to ${count} peers`, [program("send"), ...words], "server");
  await started.line();
  return started;
}

export function countsOf({ program: peers }: Peers): Promise<PeerCounts> {
  return peers.ask<PeerCounts>("stats");
}

/**
 * Lets them announce themselves to a node.
 *
 * @param known  how many of them the node has active by now
 * @throws Error where it does not come to know all of them in time
 */
export async function join(peers: Peers, node: Address, known: () => Promise<number>): Promise<void> {
  const end = performance.now() + JOIN_MS_MAX;
  peers.program.tell(`join ${node.text}`);
  let active = 0;
  while (performance.now() < end) {
    active = await known();
    if (active >= peers.count) break;
    await Bun.sleep(20);
  }
  peers.program.tell("stop");
  if (active < peers.count) throw new Error(`${node.text} has ${active} of ${peers.count} peers active`);
}
