/**
 * What our client does with one broker a second, beside the library it is made of, used bare, in turns in the same run: confirmed
 * publications (persistent, mandatory, with a message id; 500 unconfirmed at most), consuming with an acknowledgement for each
 * (50 unacknowledged at most), and questions with direct reply-to, one at a time and 16 at a time. A link from a channel to an exchange
 * is bridge.ts.
 */
import amqplib from "amqplib";
import { AmqpClient } from "../src/amqp/client.ts";
import { parseBrokers } from "../src/amqp/url.ts";
import { subscription } from "../test/helpers/amqp.ts";
import { cellsOf, type Turn, withBroker } from "./lib/brokers.ts";
import { column, ratio, takeTurns } from "./lib/figures.ts";
import { isWanted, parseOptions } from "./lib/options.ts";
import { runBench } from "./lib/report.ts";

const BODY = Buffer.alloc(200, "v");
const WINDOW = 500;
const PREFETCH = 50;
const QUEUE = "bench";
const ASKED = "bench.asked";
/** Messages of a turn of consuming, for each second of a turn. */
const CONSUMED_A_SECOND = 10_000;
const GOAL = 0.9;

interface Contender {
  readonly name: string;
  /** Publishes for so long, so many under way. @returns how many were confirmed */
  publish(ms: number, window: number): Promise<number>;
  /** Takes so many out of the queue. */
  consume(count: number): Promise<void>;
  ask(): Promise<void>;
  close(): Promise<void>;
}

async function ours(url: string): Promise<Contender> {
  const client = new AmqpClient({ brokers: parseBrokers([url]) });
  client.start();
  await client.ready(10_000);
  const message = { exchange: "", routingKey: QUEUE, body: BODY };
  return {
    name: "dmq",
    async publish(ms, window) {
      const end = performance.now() + ms;
      let count = 0;
      const lane = async (): Promise<void> => {
        for (; performance.now() < end; count++) await client.publish(message);
      };
      await Promise.all(Array.from({ length: window }, lane));
      return count;
    },
    async consume(count) {
      const done = Promise.withResolvers<void>();
      let seen = 0;
      const subscribed = client.subscribe(subscription(QUEUE, { prefetch: PREFETCH }), {
        delivered: (_, tag) => {
          tag.ack();
          if (++seen === count) done.resolve();
        },
        lost: () => undefined,
      });
      await done.promise;
      await subscribed.close();
    },
    async ask() {
      await client.query({ exchange: "", routingKey: ASKED, body: BODY }, { timeoutMs: 10_000 });
    },
    close: () => client.close(),
  };
}

async function bare(url: string): Promise<Contender> {
  const connection = await amqplib.connect(url, { noDelay: true });
  const confirming = await connection.createConfirmChannel();
  const asking = await connection.createChannel();
  const waiting = new Map<string, () => void>();
  await asking.consume("amq.rabbitmq.reply-to", (answer) => waiting.get(answer?.properties.correlationId)?.(), {
    noAck: true,
  });
  return {
    name: "amqplib",
    publish(ms, window) {
      const end = performance.now() + ms;
      const done = Promise.withResolvers<number>();
      let count = 0;
      let under = 0;
      const go = (): void => {
        for (; under < window && performance.now() < end; under++) {
          const options = { persistent: true, mandatory: true, messageId: crypto.randomUUID() };
          confirming.publish("", QUEUE, BODY, options, () => {
            under--;
            count++;
            go();
          });
        }
        if (under === 0) done.resolve(count);
      };
      go();
      return done.promise;
    },
    async consume(count) {
      const done = Promise.withResolvers<void>();
      const channel = await connection.createChannel();
      await channel.prefetch(PREFETCH);
      let seen = 0;
      await channel.consume(QUEUE, (message) => {
        if (message === null) return;
        channel.ack(message);
        if (++seen === count) done.resolve();
      });
      await done.promise;
      await channel.close();
    },
    async ask() {
      const id = crypto.randomUUID();
      const answered = new Promise<void>((resolve) => waiting.set(id, resolve));
      const options = {
        correlationId: id,
        replyTo: "amq.rabbitmq.reply-to",
        mandatory: true,
        expiration: "10000",
        messageId: id,
      };
      asking.publish("", ASKED, BODY, options);
      await answered;
      waiting.delete(id);
    },
    close: () => connection.close(),
  };
}

/** The same for both: declares, answers questions, fills and empties the queue. */
async function side(
  url: string,
): Promise<{ purge(): Promise<void>; fill(count: number): Promise<void>; close(): Promise<void> }> {
  const connection = await amqplib.connect(url, { noDelay: true });
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(QUEUE, { durable: true });
  await channel.assertQueue(ASKED, { durable: false });
  await channel.consume(
    ASKED,
    (question) => {
      if (question === null) return;
      const { replyTo, correlationId } = question.properties;
      channel.publish("", replyTo, question.content, { correlationId });
    },
    { noAck: true },
  );
  return {
    purge: async () => void (await channel.purgeQueue(QUEUE)),
    async fill(count) {
      for (let index = 0; index < count; index++) {
        channel.publish("", QUEUE, BODY, { persistent: true });
        if (index % WINDOW === 0) await channel.waitForConfirms();
      }
      await channel.waitForConfirms();
    },
    close: () => connection.close(),
  };
}

async function askFor(ms: number, lanes: number, contender: Contender): Promise<number> {
  const end = performance.now() + ms;
  let count = 0;
  const lane = async (): Promise<void> => {
    for (; performance.now() < end; count++) await contender.ask();
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return count;
}

/** Time and CPU of this process, which is the contender, for each of so many messages. */
async function timed(work: () => Promise<number>): Promise<Turn> {
  const begin = performance.now();
  const before = process.cpuUsage();
  const count = await work();
  const { user, system } = process.cpuUsage(before);
  return { rate: (count * 1_000) / (performance.now() - begin), cpuUs: (user + system) / count };
}

const options = parseOptions(process.argv.slice(2));

await runBench("amqp", options, (report) =>
  withBroker(report, async (url) => {
    const helper = await side(url);
    const contenders = [await ours(url), await bare(url)];
    const ms = options.seconds * 1_000;
    const count = CONSUMED_A_SECOND * options.seconds;
    const works: [name: string, prepare: () => Promise<void>, work: (contender: Contender) => Promise<number>][] = [
      ["confirmed publications", () => helper.purge(), (contender) => contender.publish(ms, WINDOW)],
      [
        "consume with ack",
        async () => {
          await helper.purge();
          await helper.fill(count);
        },
        async (contender) => {
          await contender.consume(count);
          return count;
        },
      ],
      ["query, one at a time", async () => undefined, (contender) => askFor(ms, 1, contender)],
      ["query, 16 at a time", async () => undefined, (contender) => askFor(ms, 16, contender)],
    ];
    try {
      for (const [name, prepare, work] of works) {
        // There are two contenders, and one alone says nothing: it chooses what is measured.
        if (!isWanted(name, options.only)) continue;
        const turn = async (contender: Contender): Promise<Turn> => {
          await prepare();
          return timed(() => work(contender));
        };
        // Compiled by then, both.
        for (const contender of contenders) await turn(contender);
        const turns = await takeTurns(contenders, options.turns, turn);
        const rates = [...turns.values()].map((all) => column(all, ({ rate }) => rate));
        report.table(
          name,
          [...turns].map(([contender, all]) => ({ name: contender.name, cells: cellsOf(all) })),
        );
        const [mine, theirs] = rates as [number[], number[]];
        report.goal({
          name: `${name}: over the library`,
          measured: ratio(mine, theirs).median,
          unit: "×",
          atLeast: GOAL,
        });
      }
    } finally {
      for (const { close } of [...contenders, helper]) await close();
    }
  }),
);
