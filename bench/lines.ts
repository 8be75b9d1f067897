/**
 * How many messages a second go through the control socket to two fake peers and come back with their outcomes: what
 * `dmq bcast -l` does, batches of 250 with four under way, beside a call for each message with as many under way.
 */
import { activePeers, type Daemon, startDaemon } from "./lib/daemon.ts";
import { column, figure, takeTurns } from "./lib/figures.ts";
import { parseOptions } from "./lib/options.ts";
import { countsOf, join, type Peers, startPeers } from "./lib/peers.ts";
import { cell, runBench } from "./lib/report.ts";

const PEERS = 2;
const UNDER_WAY = 4;

interface Way {
  readonly name: string;
  readonly size: number;
  readonly options: object;
}

const WAYS: readonly Way[] = [
  { name: "batches of 250", size: 250, options: {} },
  { name: "batches of 250, to be repeated", size: 250, options: { retry: 2, timeout_ms: 5_000 } },
  { name: "a call for each", size: 1, options: {} },
];

interface Turn {
  readonly rate: number;
  /** Of 1,000 messages, so many came again. */
  readonly repeated: number;
  readonly mib: number;
}

interface Answer {
  readonly result?: readonly { readonly outcome: string }[];
}

/** @throws Error where one of the messages was not delivered to all */
async function exchange({ socket }: Daemon, { size, options }: Way): Promise<void> {
  const params = {
    channel: "bench0000",
    body: "a line of some sixty characters, as a log or a list has them",
    ...options,
  };
  const calls = Array.from({ length: size }, (_, id) => ({ jsonrpc: "2.0", id, method: "dmq.bcast", params }));
  const response = await fetch("http://dmq/rpc", { method: "POST", body: JSON.stringify(calls), unix: socket });
  const answers = (await response.json()) as Answer[];
  const isDone = ({ result }: Answer): boolean =>
    result?.length === PEERS && result.every(({ outcome }) => outcome === "delivered");
  if (answers.length !== size || !answers.every(isDone)) throw new Error("a message was not delivered to all");
}

async function turnOf(daemon: Daemon, peers: Peers, way: Way, seconds: number): Promise<Turn> {
  const before = await countsOf(peers);
  const start = performance.now();
  const end = start + seconds * 1_000;
  let messages = 0;
  const lane = async (): Promise<void> => {
    while (performance.now() < end) {
      await exchange(daemon, way);
      messages += way.size;
    }
  };
  await Promise.all(Array.from({ length: UNDER_WAY }, lane));
  const passed = (performance.now() - start) / 1_000;
  const after = await countsOf(peers);
  const repeated = ((after.repeated - before.repeated) * 1_000) / messages;
  return { rate: messages / passed, repeated, mib: daemon.program.usage().residentKiB / 1_024 };
}

const options = parseOptions(process.argv.slice(2));

await runBench("lines", options, async (report) => {
  const daemon = await startDaemon();
  const peers = await startPeers(PEERS);
  await join(peers, daemon.address, () => activePeers(daemon));
  for (const way of WAYS) await turnOf(daemon, peers, way, options.quick ? 0.5 : 1);
  const results = await takeTurns(WAYS, options.turns, (way) => turnOf(daemon, peers, way, options.seconds));
  report.table(
    `broadcast to ${PEERS} through the control socket`,
    [...results].map(([{ name }, all]) => ({
      name,
      cells: {
        "messages/s": cell(figure(column(all, ({ rate }) => rate))),
        "repeated of 1,000": cell(figure(column(all, ({ repeated }) => repeated))),
        "memory MiB": cell(figure(column(all, ({ mib }) => mib))),
      },
    })),
  );
});
