// needs programs: rabbitmq-server
/**
 * Links over a real broker (amqp.md B9, B12 7 and 12): octets both ways, both directions over one exchange, a broker that is stopped and
 * started, connections that are cut while messages are under way, dead-letter exchanges, one active consumer, and the lock of two bridges.
 */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { AmqpClient } from "../../src/amqp/client.ts";
import type { Publication } from "../../src/amqp/message.ts";
import { SPOOL } from "../../src/amqp/spool.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import { watch } from "../helpers/amqp.ts";
import { type Linked, type LinkedOptions, linkedNodes, meet } from "../helpers/linked.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

const WAIT_MS = 15_000;
const TEST_MS = 60_000;

const { linked, plain, closing, closeAll } = linkedNodes();

const octets = (text: string): Uint8Array => new TextEncoder().encode(text);
const textOf = ({ body }: { body: Uint8Array }): string => Buffer.from(body).toString();
const numbers = (count: number): string[] => Array.from({ length: count }, (_, n) => `m${n}`);

describeBroker("links over a broker", () => {
  let brokers: Brokers;
  let count = 0;

  beforeAll(async () => {
    brokers = await startBrokers();
  }, BROKER_START_MS);

  afterEach(closeAll);

  afterAll(async () => {
    await brokers?.down();
  }, BROKER_START_MS);

  function connect(): AmqpClient {
    const client = new AmqpClient({ brokers: parseBrokers([brokers.url()]), connectTimeoutMs: 1_500 });
    closing.push(() => client.close());
    client.start();
    return client;
  }

  async function bridge(links: readonly string[], more: LinkedOptions = {}): Promise<Linked & { client: AmqpClient }> {
    const client = connect();
    return Object.assign(await linked({ links, client, ...more }), { client });
  }

  /** Names that no other test has. */
  function names(): { exchange: string; queue: string; lock: string } {
    count++;
    return { exchange: `x${count}`, queue: `q${count}`, lock: `l${count}` };
  }

  async function publish(message: Pick<Publication, "exchange" | "routingKey" | "body"> & Partial<Publication>) {
    await connect().publish(message, { timeoutMs: WAIT_MS });
  }

  /** The queue is there, and somebody consumes it. */
  async function isConsumed(client: AmqpClient, queue: string): Promise<boolean> {
    const [reply] = await client.topology([{ do: "declare-queue", name: queue, passive: true }]);
    return (reply?.consumers ?? 0) > 0;
  }

  const bodies: [name: string, body: Uint8Array][] = [
    ["every value of an octet", Uint8Array.from({ length: 512 }, (_, index) => index % 256)],
    ["nothing", new Uint8Array()],
    ["numbers of 64 bits in JSON", octets('{"id":12345678901234567890,"f":1.0,"e":1e400}')],
    ["40,000 octets", Uint8Array.from({ length: 40_000 }, (_, index) => (index * 7) % 256)],
  ];

  test(
    "octets, headers and ids are the same on the way from the bus to a broker, and on to another bus",
    async () => {
      const { exchange, queue } = names();
      const seen = await watch(connect(), exchange, queue);
      const west = await bridge([`channel:lab -> exchange:${exchange}/a.{from.host|enc}`], { bus: "west" });
      const east = await bridge([`exchange:${exchange}/a.# -> channel:lab;queue=${queue}-in`], { bus: "east" });
      await until(() => isConsumed(east.client, `${queue}-in`), WAIT_MS, "the east consumes");
      const [from, to] = [await plain(() => 200), await plain(() => 200)];
      await meet(from.node, west.node);
      await meet(east.node, to.node);
      for (const [index, [, body]] of bodies.entries()) {
        const options = { contentType: "application/json;charset=x", messageId: `m/${index}` };
        await from.node.broadcast("lab", body, options);
      }
      await until(
        () => seen.length === bodies.length && to.messages.length === bodies.length,
        WAIT_MS,
        "all are there",
      );
      for (const [index, [name, body]] of bodies.entries()) {
        const same = [seen[index]?.body, to.messages.find((one) => Buffer.from(one.body).equals(body))?.body];
        for (const one of same) expect([name, Buffer.from(one ?? octets("?")).equals(body)]).toEqual([name, true]);
      }
      expect(seen[0]).toMatchObject({
        ...{ contentType: "application/json;charset=x", appId: "dmq", persistent: true, messageId: "m/0" },
        ...{ routingKey: "a.127%2E0%2E0%2E1" },
        headers: { "x-dmq-from": from.node.uri(), "x-dmq-node": west.node.uri(), "x-dmq-channel": "lab" },
      });
      expect(seen[0]?.timestamp).toBeWithin(Date.now() / 1_000 - 60, Date.now() / 1_000 + 60);
      const [message] = to.messages;
      expect(message?.messageId).toMatch(/^m\/[0-3]$/);
      expect(message?.request.headers.get("X-DMQ-Path")).toMatch(
        new RegExp(`^bus=west/channel:lab>\\S+, exchange=local%3A${exchange}/\\S+$`),
      );
    },
    TEST_MS,
  );

  test(
    "from a queue of the broker over one of ours to an exchange: up to 5 MiB, octet by octet, under its own id",
    async () => {
      const { exchange, queue } = names();
      const seen = await watch(connect(), exchange, queue);
      const links = [`amqp-queue:${queue}-in -> queue:mid`, `queue:mid -> exchange:${exchange}/{key|enc}`];
      const one = await bridge(links, { queues: ["name=mid;max-value=16m"] });
      await until(() => isConsumed(one.client, `${queue}-in`), WAIT_MS, "it is consumed");
      const large = Uint8Array.from({ length: 5 * 1024 ** 2 }, (_, index) => (index * 31) % 256);
      const all = [...bodies.map(([, body]) => body), large];
      for (const [index, body] of all.entries())
        await publish({ exchange: "", routingKey: `${queue}-in`, body, messageId: `big/${index}` });
      await until(() => seen.length === all.length, WAIT_MS, "all are there");
      for (const { messageId, body, routingKey } of seen) {
        const index = Number(messageId?.slice("big/".length));
        expect([index, Buffer.from(body).equals(all[index] as Uint8Array)]).toEqual([index, true]);
        expect(routingKey).toBe(`${queue}-in`);
      }
      expect(new Set(seen.map(({ messageId }) => messageId)).size).toBe(all.length);
    },
    TEST_MS,
  );

  test(
    "both directions over one exchange on one bus: nothing goes round",
    async () => {
      const { exchange, queue } = names();
      const seen = await watch(connect(), exchange, queue);
      const pair = [
        `channel:lab -> exchange:${exchange}/a.x`,
        `exchange:${exchange}/a.# -> channel:lab;queue=${queue}-in`,
      ];
      const [one, two] = [await bridge(pair), await bridge(pair)];
      await until(() => isConsumed(one.client, `${queue}-in`), WAIT_MS, "they consume");
      const three = await plain(() => 200);
      await meet(three.node, one.node, two.node);
      await meet(one.node, two.node);
      await three.node.broadcast("lab", "from the bus");
      await publish({ exchange, routingKey: "a.y", body: octets("from elsewhere") });
      await until(() => seen.length === 3 && three.bodies.length === 1, WAIT_MS, "all are there");
      await until(() => brokers.isDrained(`${queue}-in`), WAIT_MS, "all are acknowledged");
      for (const each of [one, two]) await until(() => each.isEmpty(SPOOL), WAIT_MS, "nothing is on its way");
      // Both bridges published it, because they have no lock; what came back went no further.
      expect(seen.map(textOf).sort()).toEqual(["from elsewhere", "from the bus", "from the bus"]);
      expect(three.bodies).toEqual(["from elsewhere"]);
    },
    TEST_MS,
  );

  test(
    "a broker that is stopped and started: what was answered 200 meanwhile is published, in order",
    async () => {
      const { exchange, queue } = names();
      const seen = await watch(connect(), exchange, queue);
      const one = await bridge([`channel:lab -> exchange:${exchange};name=stored`]);
      const sender = await plain(() => 200);
      await meet(sender.node, one.node);
      const send = async (body: string): Promise<number | undefined> => {
        const [report] = await sender.node.broadcast("lab", body);
        return report?.outcome.type === "delivered" ? report.outcome.code : undefined;
      };
      expect(await send("before")).toBe(200);
      await until(() => seen.length === 1, WAIT_MS, "it is published");
      await brokers.stop("a");
      for (const body of numbers(30)) expect(await send(body)).toBe(200);
      expect((await one.sizes(SPOOL)).dead).toBe(0);
      await brokers.start("a");
      await until(() => new Set(seen.map(textOf)).size === 31, WAIT_MS, "all are published");
      expect([...new Set(seen.map(textOf))]).toEqual(["before", ...numbers(30)]);
    },
    TEST_MS + BROKER_START_MS,
  );

  test(
    "until=confirmed: 200 with a broker, 503 within 1.5 s with one that hangs, 200 again",
    async () => {
      const { exchange, queue } = names();
      await watch(connect(), exchange, queue);
      const one = await bridge([`channel:lab -> exchange:${exchange};until=confirmed`]);
      await one.client.ready(WAIT_MS);
      const sender = await plain(() => 200);
      await meet(sender.node, one.node);
      const send = async (): Promise<{ code: number; ms: number }> => {
        const began = performance.now();
        const [report] = await sender.node.broadcast("lab", "x", { timeoutMs: 5_000 });
        const outcome = report?.outcome;
        const code = outcome?.type === "delivered" || outcome?.type === "rejected" ? outcome.code : 0;
        return { code, ms: performance.now() - began };
      };
      expect((await send()).code).toBe(200);
      brokers.freeze("a");
      try {
        const { code, ms } = await send();
        expect(code).toBe(503);
        expect(ms).toBeLessThan(1_500);
      } finally {
        brokers.thaw("a");
      }
      await until(async () => (await send()).code === 200, WAIT_MS, "it is confirmed again");
    },
    TEST_MS,
  );

  test(
    "what no node takes goes to the dead-letter exchange of its queue with dead=broker",
    async () => {
      const { exchange, queue } = names();
      const dead = await watch(connect(), `${exchange}-dead`, `${queue}-dead`);
      const admin = connect();
      const args = { "x-dead-letter-exchange": `${exchange}-dead` };
      await admin.ready(WAIT_MS);
      await admin.topology([{ do: "declare-queue", name: queue, durable: true, arguments: args }]);
      const one = await bridge([`amqp-queue:${queue} -> channel:lab;declare=no;dead=broker;max-tries=1`]);
      const two = await plain(() => 403);
      await meet(one.node, two.node);
      await publish({ exchange: "", routingKey: queue, body: octets("nobody's") });
      await until(() => dead.length === 1, WAIT_MS, "it is there");
      expect(dead.map(textOf)).toEqual(["nobody's"]);
      expect(two.bodies).toEqual(["nobody's"]);
    },
    TEST_MS,
  );

  test(
    "a queue of the broker into one of ours, while all connections are cut: nothing is missing, nothing there twice",
    async () => {
      const { queue } = names();
      const one = await bridge([`amqp-queue:${queue} -> queue:in`]);
      await until(() => isConsumed(one.client, queue), WAIT_MS, "it is consumed");
      const sender = connect();
      await sender.ready(WAIT_MS);
      const all = numbers(600);
      const sent = all.map((text) =>
        sender.publish({ exchange: "", routingKey: queue, body: octets(text), messageId: text }),
      );
      await until(async () => (await one.sizes("in")).ready > 20, WAIT_MS, "some are stored");
      await brokers.ctl("a", "close_all_connections", "test");
      await Promise.all(sent);
      await until(async () => (await one.sizes("in")).ready >= all.length, WAIT_MS, "all are stored");
      await until(() => brokers.isDrained(queue), WAIT_MS, "all are acknowledged");
      const items = await one.store.perform({ type: "peek", queue: "in", count: 10_000 });
      expect(items.map(({ value }) => Buffer.from(value).toString()).sort()).toEqual([...all].sort());
    },
    TEST_MS,
  );

  test(
    "ordered: of two bridges one has the messages, and the other goes on where that one ended",
    async () => {
      const { exchange, queue } = names();
      const link = `exchange:${exchange} -> channel:lab;queue=${queue};ordered`;
      const first = await bridge([link]);
      await until(() => isConsumed(first.client, queue), WAIT_MS, "the first consumes");
      const second = await bridge([link]);
      const receiver = await plain(() => 200);
      await meet(receiver.node, first.node, second.node);
      await second.client.ready(WAIT_MS);
      const all = numbers(120);
      const sender = connect();
      for (const text of all.slice(0, 60)) await sender.publish({ exchange, routingKey: "k", body: octets(text) });
      await until(() => receiver.bodies.length > 20, WAIT_MS, "some are there");
      expect(second.links.status()).toMatchObject([{ in: 0 }]);
      await Promise.all([first.links.close(), first.client.close()]);
      for (const text of all.slice(60)) await sender.publish({ exchange, routingKey: "k", body: octets(text) });
      await until(() => new Set(receiver.bodies).size === all.length, WAIT_MS, "all are there");
      // What was under way when the first one ended may come twice, next to itself.
      expect(receiver.bodies.filter((text, index) => text !== receiver.bodies[index - 1])).toEqual(all);
    },
    TEST_MS,
  );

  test(
    "lock: of two bridges one publishes; when its connection ends, the other goes on with what it kept",
    async () => {
      const { exchange, queue, lock } = names();
      const seen = await watch(connect(), exchange, queue);
      const link = `channel:lab -> exchange:${exchange};lock=${lock};standby=10s`;
      const first = await bridge([link]);
      const holds = async (): Promise<boolean> =>
        (await brokers.ctl("a", "-q", "list_queues", "name")).includes(`dmq.lock.${lock}`);
      await until(holds, WAIT_MS, "the lock is held");
      const second = await bridge([link]);
      const sender = await plain(() => 200);
      await meet(sender.node, first.node, second.node);
      const standsBy = async (): Promise<boolean> => {
        await sender.node.broadcast("lab", "try");
        return (await second.sizes(`amqp.standby.${lock}`)).ready > 0;
      };
      await until(standsBy, WAIT_MS, "the second stands by");
      for (const body of numbers(20)) await sender.node.broadcast("lab", body);
      const has = (body: string) => (): boolean => seen.some((one) => textOf(one) === body);
      await until(has("m19"), WAIT_MS, "the first publishes");
      expect(seen.filter((one) => textOf(one) === "m7")).toHaveLength(1);
      // Both still have the channel; what the first one takes now stays in its spool.
      await first.client.close();
      for (const body of ["a", "b", "c"]) await sender.node.broadcast("lab", body);
      await until(has("c"), WAIT_MS, "the second publishes");
      const order = seen.map(textOf);
      const after = order.slice(order.lastIndexOf("m19"));
      expect(after.filter((text) => text !== "try")).toEqual(["m19", "a", "b", "c"]);
      expect(new Set(order)).toEqual(new Set(["try", ...numbers(20), "a", "b", "c"]));
    },
    TEST_MS,
  );
});
