/**
 * The full node of the library, as a program would have it: a handler that is called for each message, outcomes that are
 * awaited.
 *
 *   node ADDRESS [queued|inline] [CHANNELS] [CERT KEY]
 *
 * It has the channels `bench0000` to the number given, and `hold0000`, whose handler never ends. Commands are lines on stdin,
 * each answered by a line of JSON:
 *
 *   stats                           what the handlers counted, and the node
 *   peers                           how many are known and how many active
 *   open N                          sends N messages on `hold0000` that the peers leave unanswered
 *   send SECONDS IN_FLIGHT BODY     messages to one peer after the other
 *   broadcast SECONDS IN_FLIGHT BODY  broadcasts, each awaited with all its outcomes
 */
import { createNode, type OutcomeReport, type RunningNode } from "../../src/index.ts";
import { commands } from "./commands.ts";

const [address = "sip:127.0.0.1:0", mode = "queued", channels = "1", cert = "", key = ""] = process.argv.slice(2);

/** Longer than any benchmark, so that nothing that is open is ended meanwhile. */
const OPEN_MS = 600_000;

const seen = { handled: 0, octets: 0, held: 0 };

function prepare(node: RunningNode): void {
  for (let i = 0; i < Number(channels); i++) listen(node, `bench${String(i).padStart(4, "0")}`);
  const forever = (): Promise<void> => {
    seen.held++;
    return new Promise(() => undefined);
  };
  node.channel("hold0000", forever, { mode: "inline" });
}

function listen(node: RunningNode, channel: string): void {
  const handler = (message: { body: Uint8Array }): void => {
    seen.handled++;
    seen.octets += message.body.length;
  };
  node.channel(channel, handler, { mode: mode === "inline" ? "inline" : "queued" });
}

function active(node: RunningNode): string[] {
  return node.nodes().flatMap(({ uri, status }) => (status === "active" ? [uri] : []));
}

/** Their outcomes are nobody's business: the process ends before they come. */
function open(node: RunningNode, count: number): { open: number } {
  const peers = active(node);
  for (let i = 0; i < count; i++) node.send("hold0000", peers[i % peers.length] as string, "x");
  return { open: count };
}

interface Sent {
  /** Calls of send or broadcast. */
  calls: number;
  delivered: number;
  failed: number;
  seconds: number;
}

/** Keeps `inFlight` calls under way for so long; each is awaited. */
async function keepSending(
  seconds: number,
  inFlight: number,
  call: () => Promise<readonly OutcomeReport[]>,
): Promise<Sent> {
  const sent: Sent = { calls: 0, delivered: 0, failed: 0, seconds: 0 };
  const start = performance.now();
  const end = start + seconds * 1_000;
  const lane = async (): Promise<void> => {
    while (performance.now() < end) {
      const reports = await call();
      sent.calls++;
      for (const { outcome } of reports) {
        if (outcome.type === "delivered") sent.delivered++;
        else sent.failed++;
      }
    }
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
  sent.seconds = (performance.now() - start) / 1_000;
  return sent;
}

async function main(): Promise<void> {
  const tls = cert === "" ? {} : { tls: { cert, key } };
  const options = { serverAddress: address, handlerTimeoutMs: OPEN_MS, requestTimeoutMs: OPEN_MS };
  const node = await createNode({ ...options, ...tls }, prepare);
  let turn = 0;
  await commands({
    stats: async () => ({ ...seen, counters: node.counters() }),
    peers: async () => ({ active: active(node).length, known: node.nodes().length }),
    open: async ([count]) => open(node, Number(count)),
    send: ([seconds, inFlight, size]) => {
      const peers = active(node);
      const body = new Uint8Array(Number(size)).fill(0x78);
      const call = async () => [await node.send("bench0000", peers[turn++ % peers.length] as string, body)];
      return keepSending(Number(seconds), Number(inFlight), call);
    },
    broadcast: ([seconds, inFlight, size]) => {
      const body = new Uint8Array(Number(size)).fill(0x78);
      return keepSending(Number(seconds), Number(inFlight), () => node.broadcast("bench0000", body));
    },
  });
}

main();
