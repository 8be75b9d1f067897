// needs programs: rabbitmq-server
/**
 * A broker killed with -9 in the middle of 300 pending messages, a dead address first in the list: no confirmed message is missing in
 * both brokers together, and how long it takes from the kill to the first confirm of the other one.
 *
 *   DMQ_AMQP_ROUNDS=50 npm run test:amqp     more rounds than the 2 of every run: each broker once
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { AmqpClient } from "../../src/amqp/client.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import { drain } from "../helpers/amqp.ts";
import { BROKER_START_MS, type BrokerName, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";

const WAIT_MS = 30_000;
const DEAD = "amqp://127.0.0.1:1";
const QUEUE = "kill";
const PENDING = 300;
const ROUNDS = Number(process.env.DMQ_AMQP_ROUNDS ?? 2);

describeBroker("brokers killed under load", () => {
  let brokers: Brokers;
  const clients: AmqpClient[] = [];

  function connect(urls: readonly string[]): AmqpClient {
    const client = new AmqpClient({ brokers: parseBrokers(urls) });
    clients.push(client);
    client.start();
    return client;
  }

  beforeAll(async () => {
    brokers = await startBrokers({ nodes: 2 });
  }, BROKER_START_MS);

  afterAll(async () => {
    await Promise.all(clients.map((client) => client.close()));
    await brokers?.down();
  }, BROKER_START_MS);

  test(
    `${ROUNDS} rounds, ${PENDING} pending in each: nothing confirmed is missing`,
    async () => {
      const each = (["a", "b"] as const).map((name) => connect([brokers.url(name)]));
      for (const one of each) await one.topology([{ do: "declare-queue", name: QUEUE }], { timeoutMs: WAIT_MS });
      const client = connect([DEAD, brokers.url("a"), brokers.url("b")]);
      await client.ready(WAIT_MS);
      const confirmed = new Set<string>();
      const delays: number[] = [];
      const publish = async (text: string): Promise<number> => {
        const message = { exchange: "", routingKey: QUEUE, body: new TextEncoder().encode(text) };
        const { broker } = await client.publish(message);
        confirmed.add(text);
        return broker.number;
      };
      for (let round = 0; round < ROUNDS; round++) {
        const used = await publish(`${round} before`);
        const victim: BrokerName = used === 2 ? "a" : "b";
        let killedAt = 0;
        let first = Number.POSITIVE_INFINITY;
        const pending = Array.from({ length: PENDING }, async (_, index) => {
          const number = await publish(`${round} ${index}`);
          if (number !== used) first = Math.min(first, performance.now() - killedAt);
          // In the middle of them.
          if (index === 20) {
            brokers.kill(victim);
            killedAt = performance.now();
          }
        });
        await Promise.all(pending);
        if (!Number.isFinite(first)) {
          // All were confirmed before it died.
          await publish(`${round} after`);
          first = performance.now() - killedAt;
        }
        delays.push(first);
        await brokers.start(victim);
      }
      const found = new Set<string>();
      for (const one of each) for (const text of await drain(one, QUEUE)) found.add(text);
      const missing = [...confirmed].filter((text) => !found.has(text));
      const sorted = delays.toSorted((one, other) => one - other);
      const [median, worst] = [sorted[sorted.length >> 1], sorted.at(-1)].map((ms) => `${ms?.toFixed(0)} ms`);
      const { repeated } = client.status().publisher;
      console.log(
        `${ROUNDS} brokers killed: ${confirmed.size} messages confirmed, ${missing.length} missing, ${repeated} sent again;`,
        `first confirm of the next broker after ${median} (median), ${worst} (worst)`,
      );
      expect(missing).toEqual([]);
      expect(confirmed.size).toBeGreaterThanOrEqual(ROUNDS * (PENDING + 1));
      expect(client.status().publisher).toMatchObject({ unconfirmed: 0, waiting: 0, refused: 0 });
    },
    (ROUNDS + 2) * BROKER_START_MS,
  );
});
