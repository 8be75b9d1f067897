/**
 * Messages a second from a channel of the bus to an exchange: `--link 'channel:… -> exchange:…'` of the executable, with `until=confirmed`
 * and with `until=stored` (on disk before the 200, at the broker afterwards), beside our library with the broker's library used bare, in
 * turns in the same run. A message counts when it is in the broker's queue; the sender keeps 256 requests under way.
 */
import { join } from "node:path";
import { AmqpClient } from "../src/amqp/client.ts";
import { parseBrokers } from "../src/amqp/url.ts";
import { createNode } from "../src/index.ts";
import { cellsOf, type Turn, withBroker } from "./lib/brokers.ts";
import { workDirectory } from "./lib/compile.ts";
import { startDaemon } from "./lib/daemon.ts";
import { column, ratio, takeTurns } from "./lib/figures.ts";
import { pin } from "./lib/machine.ts";
import { parseOptions } from "./lib/options.ts";
import { freeAddress } from "./lib/ports.ts";
import { Program } from "./lib/process.ts";
import { runBench } from "./lib/report.ts";

const BODY = new Uint8Array(200).fill(0x76);
const LANES = 256;
const EXCHANGE = "bench";
const KEY = "x";
const QUEUE = "bench";
const GOAL = 0.9;
const WAIT_MS = 30_000;
/** Of each contender before the first turn: after 10,000 it still spends a third more than a node that has been busy for a minute. */
const WARM_MESSAGES = 40_000;

interface Contender {
  readonly name: string;
  readonly uri: string;
  readonly program: Program;
}

async function linked(until: string, url: string): Promise<Contender> {
  const state = join(workDirectory(), `state-${until}`);
  const link = `channel:bench -> exchange:${EXCHANGE}/${KEY};until=${until}`;
  const { uri, program } = await startDaemon(["--state-dir", state, "--amqp", url, "--link", link]);
  return { name: `dmq, until=${until}`, uri, program };
}

async function bare(url: string): Promise<Contender> {
  const uri = `sip:${(await freeAddress()).text}`;
  const server = join(import.meta.dir, "servers", "bridge.ts");
  const program = new Program("bare", [process.execPath, server, uri, url, EXCHANGE, KEY], "server");
  if ((await program.line()) !== "ready") throw new Error(`it did not start: ${program.errors}`);
  return { name: "the two libraries", uri, program };
}

const options = parseOptions(process.argv.slice(2));

await runBench("bridge", options, (report) =>
  withBroker(report, async (url, pid) => {
    // Left to the kernel it works on the server's core, and who is measured waits for it.
    pin("other", pid);
    const helper = new AmqpClient({ brokers: parseBrokers([url]) });
    helper.start();
    const sender = await createNode({ serverAddress: "sip:127.0.0.1:0", requestTimeoutMs: WAIT_MS });
    try {
      await helper.ready(WAIT_MS);
      await helper.topology([
        { do: "declare-exchange", name: EXCHANGE, type: "topic", durable: true },
        { do: "declare-queue", name: QUEUE, durable: true },
        { do: "bind", source: EXCHANGE, kind: "queue", destination: QUEUE, key: "#" },
      ]);
      const inQueue = async (): Promise<number> =>
        (await helper.topology([{ do: "declare-queue", name: QUEUE, passive: true }]))[0]?.messages ?? 0;
      const contenders = [await linked("confirmed", url), await linked("stored", url), await bare(url)];
      sender.join(contenders.map(({ uri }) => uri));
      const isThere = ({ uri }: Contender): boolean =>
        sender.nodes().some((peer) => peer.uri === uri && peer.status === "active");
      while (!contenders.every(isThere)) await Bun.sleep(20);

      /** So many messages, or so long. */
      const turn = async ({ uri, name, program }: Contender, most: number, ms: number): Promise<Turn> => {
        await helper.topology([{ do: "purge", name: QUEUE }]);
        const begin = performance.now();
        const before = program.usage().cpuMs;
        let [taken, refused] = [0, 0];
        const lane = async (): Promise<void> => {
          while (performance.now() - begin < ms && taken < most) {
            const { outcome } = await sender.send("bench", uri, BODY);
            if (outcome.type === "delivered") taken++;
            else refused++;
          }
        };
        await Promise.all(Array.from({ length: LANES }, lane));
        while ((await inQueue()) < taken) {
          if (performance.now() - begin > ms + WAIT_MS)
            throw new Error(`${name}: ${taken} taken, ${await inQueue()} there`);
          await Bun.sleep(5);
        }
        if (refused > 0) report.fault(`${name}: ${refused} were not taken`);
        const cpuMs = program.usage().cpuMs - before;
        return { rate: (taken * 1_000) / (performance.now() - begin), cpuUs: (cpuMs * 1_000) / taken };
      };
      // Compiled by then, each by the same number of messages, and the exchange is known.
      for (const contender of contenders) await turn(contender, WARM_MESSAGES, WAIT_MS);
      const ms = options.seconds * 1_000;
      const turns = await takeTurns(contenders, options.turns, (each) => turn(each, Number.POSITIVE_INFINITY, ms));
      report.table(
        "channel -> exchange",
        [...turns].map(([{ name }, all]) => ({ name, cells: cellsOf(all) })),
      );
      const rates = [...turns.values()].map((all) => column(all, ({ rate }) => rate));
      const [confirmed, , theirs] = rates as [number[], number[], number[]];
      const name = "until=confirmed: over the two libraries";
      report.goal({ name, measured: ratio(confirmed, theirs).median, unit: "×", atLeast: GOAL });
    } finally {
      await sender.close({ announce: false });
      await helper.close();
    }
  }),
);
