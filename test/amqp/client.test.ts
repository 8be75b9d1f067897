// needs programs: rabbitmq-server
/** The client against one real broker: publishing, asking, consuming, fetching, declaring. Goal: every outcome has its own error. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { AmqpClient, type AmqpOptions, type DeliveryTag } from "../../src/amqp/client.ts";
import type { AmqpError } from "../../src/amqp/error.ts";
import type { Delivery } from "../../src/amqp/message.ts";
import type { Subscription } from "../../src/amqp/subscription.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

const WAIT_MS = 10_000;

describeBroker("a client and one broker", () => {
  let brokers: Brokers;
  const clients: AmqpClient[] = [];

  function connect(url = brokers.url(), options: Partial<AmqpOptions> = {}): AmqpClient {
    const client = new AmqpClient({ brokers: parseBrokers([url]), ...options });
    clients.push(client);
    client.start();
    return client;
  }

  /** A queue of this test's own, with its messages. */
  async function makeQueue(client: AmqpClient, name: string, more: Record<string, unknown> = {}): Promise<string> {
    await client.topology([{ do: "declare-queue", name, durable: true, arguments: more as never }]);
    return name;
  }

  function subscription(queue: string, more: Partial<Subscription> = {}): Subscription {
    const definition = { name: queue, durable: true, autoDelete: false, exclusive: false, passive: true };
    const rest = { exchangeBindings: [], routing: [], noAck: false, prefetch: 10, federate: false };
    return { queue: definition, ...rest, ...more };
  }

  const body = (text: string): Uint8Array => new TextEncoder().encode(text);

  async function codeOf(promise: Promise<unknown>): Promise<[code: string, replyCode: number | undefined]> {
    const error = (await promise.then(
      () => {
        throw new Error("it was no error");
      },
      (reason) => reason,
    )) as AmqpError;
    return [error.code, error.replyCode];
  }

  beforeAll(async () => {
    brokers = await startBrokers();
  }, BROKER_START_MS);

  afterAll(async () => {
    await Promise.all(clients.map((client) => client.close()));
    await brokers?.down();
  }, BROKER_START_MS);

  test("a message with every property comes out as it went in, and the body to the octet", async () => {
    const client = connect();
    await client.ready(WAIT_MS);
    const queue = await makeQueue(client, "properties");
    const octets = Uint8Array.from({ length: 256 }, (_, octet) => octet);
    const headers = {
      text: "ä",
      int: -5,
      big: 2 ** 40,
      yes: true,
      none: null,
      list: [1, "two"],
      table: { a: { b: 1.5 } },
    };
    const properties = {
      ...{ contentType: "application/json", contentEncoding: "x", priority: 3, correlationId: "c", replyTo: "r" },
      ...{ expirationMs: 60_000, messageId: "m", timestamp: 1_700_000_000, type: "t", userId: "guest", appId: "a" },
    };
    await client.publish({ exchange: "", routingKey: queue, body: octets, headers, ...properties });
    const fetched = await client.get(queue);
    const delivery = fetched?.delivery as Delivery;
    expect(delivery).toMatchObject({
      ...properties,
      headers,
      queue,
      exchange: "",
      routingKey: queue,
      persistent: true,
    });
    expect(new Uint8Array(delivery.body)).toEqual(octets);
    await fetched?.ack();
    expect(await client.get(queue)).toBeUndefined();
  });

  test("bodies from nothing to 5 MiB are confirmed and come back unchanged", async () => {
    const client = connect();
    const queue = await makeQueue(client, "sizes");
    for (const size of [0, 1, 131_064, 131_065, 5 * 1024 ** 2]) {
      const sent = crypto.getRandomValues(new Uint8Array(Math.min(size, 65_536)));
      const whole = new Uint8Array(size).map((_, place) => sent[place % 65_536] as number);
      await client.publish({ exchange: "", routingKey: queue, body: whole });
      const fetched = await client.get(queue);
      expect(Buffer.compare(Buffer.from(fetched?.delivery.body as Uint8Array), Buffer.from(whole))).toBe(0);
      await fetched?.ack();
    }
  });

  test("what was fetched and put back comes again, marked", async () => {
    const client = connect();
    const queue = await makeQueue(client, "back");
    await client.publish({ exchange: "", routingKey: queue, body: body("1") });
    await (await client.get(queue))?.requeue();
    const again = await client.get(queue);
    expect(again?.delivery.redelivered).toBe(true);
    await again?.ack();
  });

  test("unroutable is refused with 312 before the confirm, and without mandatory it is nothing", async () => {
    const client = connect();
    expect(await codeOf(client.publish({ exchange: "", routingKey: "nobody", body: body("x") }))).toEqual([
      "amqp-refused",
      312,
    ]);
    const { broker } = await client.publish({ exchange: "", routingKey: "nobody", body: body("x"), mandatory: false });
    expect(broker.number).toBe(1);
  });

  test("a missing exchange is 404, and what was under way beside it is delivered", async () => {
    const client = connect();
    const queue = await makeQueue(client, "beside");
    await client.ready(WAIT_MS);
    const all = Array.from({ length: 20 }, (_, index) =>
      index === 7
        ? codeOf(client.publish({ exchange: "missing", routingKey: "k", body: body("x") }))
        : client.publish({ exchange: "", routingKey: queue, body: body(String(index)), messageId: `m${index}` }),
    );
    const outcomes = await Promise.all(all);
    expect(outcomes[7]).toEqual(["amqp-no-such", 404]);
    const ids = new Set<string>();
    for (let one = await client.get(queue); one !== undefined; one = await client.get(queue)) {
      ids.add(one.delivery.messageId as string);
      await one.ack();
    }
    expect(ids.size).toBe(19);
  });

  test("a full queue that rejects is refused after its repeats", async () => {
    const client = connect();
    const queue = await makeQueue(client, "full", { "x-max-length": 1, "x-overflow": "reject-publish" });
    const full = { exchange: "", routingKey: queue, body: body("x") };
    await client.publish(full);
    const begin = performance.now();
    const nacked = client.publish(full, { timeoutMs: 30_000 });
    await until(() => client.status().publisher.repeated > 0, WAIT_MS, "it is sent again");
    const [fetched] = await Promise.all([client.get(queue)]);
    await fetched?.ack();
    expect((await nacked).repeats).toBeGreaterThan(0);
    expect(performance.now() - begin).toBeGreaterThan(190);
    const marked = await client.get(queue);
    expect(marked?.delivery.headers?.["x-dmq-repeat"]).toBe(1);
    await marked?.requeue();
    expect(await codeOf(client.publish(full))).toEqual(["amqp-refused", undefined]);
  }, 20_000);

  test("what cannot be sent is told before anything is", async () => {
    const client = connect();
    const message = { exchange: "", routingKey: "k", body: body("x") };
    expect(await codeOf(client.publish({ ...message, routingKey: "ä".repeat(128) }))).toEqual([
      "amqp-invalid",
      undefined,
    ]);
    expect(await codeOf(client.publish({ ...message, exchange: "e".repeat(256) }))).toEqual([
      "amqp-invalid",
      undefined,
    ]);
    expect(await codeOf(client.publish({ ...message, headers: { h: "v".repeat(70_000) } }))).toEqual([
      "amqp-invalid",
      undefined,
    ]);
    expect(await codeOf(client.publish({ ...message, priority: 256 }))).toEqual(["amqp-invalid", undefined]);
    const huge = new Uint8Array(16 * 1024 ** 2 + 1);
    expect(await codeOf(client.publish({ ...message, body: huge }))).toEqual(["amqp-refused", undefined]);
    const large = { ...message, headers: { h: "v".repeat(60_000) }, mandatory: false };
    expect((await client.publish(large)).repeats).toBe(0);
  });

  test("login, virtual host and address have their own errors, told as soon as they are final", async () => {
    const url = brokers.url();
    const cases: [string, string, number | undefined][] = [
      [url.replace("guest:guest", "guest:wrong"), "amqp-login", 403],
      [`${url}/nowhere`, "amqp-no-such", 530],
    ];
    for (const [address, code, replyCode] of cases) {
      expect(await codeOf(connect(address).ready(WAIT_MS))).toEqual([code, replyCode]);
    }
    const dead = connect("amqp://u:secret@127.0.0.1:1");
    expect(await codeOf(dead.ready(300))).toEqual(["amqp-unreachable", undefined]);
    const unsent = dead.publish({ exchange: "", routingKey: "k", body: body("x") }, { timeoutMs: 300 });
    expect(await codeOf(unsent)).toEqual(["amqp-unreachable", undefined]);
    expect(JSON.stringify(dead.status())).not.toContain("secret");
  });

  test("deliveries: prefetch holds, ack and reject settle once, the rest is lost at the end and comes again", async () => {
    const client = connect();
    const queue = await makeQueue(client, "consume");
    for (let index = 0; index < 8; index++) {
      await client.publish({ exchange: "", routingKey: queue, body: body(String(index)) });
    }
    const got: [Delivery, DeliveryTag][] = [];
    const lost: DeliveryTag[] = [];
    const sink = {
      delivered: (delivery: Delivery, tag: DeliveryTag): void => void got.push([delivery, tag]),
      lost: (tags: readonly DeliveryTag[]): void => void lost.push(...tags),
    };
    const subscribed = client.subscribe(subscription(queue, { prefetch: 3 }), sink);
    await subscribed.ready;
    await until(() => got.length === 3, WAIT_MS, "three are here");
    await client.topology([{ do: "declare-queue", name: queue, passive: true }]);
    expect(got.length).toBe(3);
    const [first, second, third] = got.map(([, tag]) => tag) as [DeliveryTag, DeliveryTag, DeliveryTag];
    expect([first.ack(), first.ack(), second.reject(false)]).toEqual([true, false, true]);
    await until(() => got.length === 5, WAIT_MS, "two more came");
    expect(subscribed.status()).toMatchObject([{ state: "consuming", queue, unsettled: 3, broker: 1 }]);
    await subscribed.close();
    expect(lost.length).toBe(3);
    expect(third.ack()).toBe(false);
    const [reply] = await client.topology([{ do: "declare-queue", name: queue, passive: true }]);
    expect(reply?.messages).toBe(6);
  });

  test("a consumer whose queue is deleted is set up again", async () => {
    const client = connect();
    const got: string[] = [];
    const definition = { name: "reborn", durable: true, autoDelete: false, exclusive: false, passive: false };
    const exchange = {
      name: "amq.topic",
      type: "topic",
      durable: true,
      autoDelete: false,
      internal: false,
      passive: false,
    };
    const subscribed = client.subscribe(subscription("reborn", { queue: definition, exchange, routing: ["re.#"] }), {
      delivered: (delivery, tag) => {
        got.push(Buffer.from(delivery.body).toString());
        tag.ack();
      },
      lost: () => undefined,
    });
    await subscribed.ready;
    await client.publish({ exchange: "amq.topic", routingKey: "re.1", body: body("before") });
    await until(() => got.includes("before"), WAIT_MS, "the first came");
    await client.topology([{ do: "delete", kind: "queue", name: "reborn" }]);
    await until(
      () => client.publish({ exchange: "amq.topic", routingKey: "re.2", body: body("after") }).catch(() => undefined),
      WAIT_MS,
      "the queue is bound again",
    );
    await until(() => got.includes("after"), WAIT_MS, "consumed again");
    await subscribed.close();
  });

  test("a conflict of definitions refuses that subscription alone", async () => {
    const client = connect();
    await makeQueue(client, "conflict");
    const definition = { name: "conflict", durable: false, autoDelete: true, exclusive: false, passive: false };
    const subscribed = client.subscribe(subscription("conflict", { queue: definition }), {
      delivered: () => undefined,
      lost: () => undefined,
    });
    expect(await codeOf(subscribed.ready)).toEqual(["amqp-refused", 406]);
    expect(subscribed.status()).toMatchObject([{ state: "refused" }]);
    expect((await client.publish({ exchange: "", routingKey: "conflict", body: body("x") })).repeats).toBe(0);
    await subscribed.close();
    const missing = client.subscribe(subscription("no-such-queue"), {
      delivered: () => undefined,
      lost: () => undefined,
    });
    expect(await codeOf(missing.ready)).toEqual(["amqp-no-such", 404]);
    await missing.close();
  });

  test("topology: what is there, what is not, what another holds", async () => {
    const client = connect();
    const [, declared] = await client.topology([
      { do: "declare-exchange", name: "made", type: "fanout", durable: false, autoDelete: true },
      { do: "declare-queue", name: "mine", exclusive: true },
      { do: "bind", source: "made", kind: "queue", destination: "mine", key: "" },
    ]);
    expect(declared).toEqual({ queue: "mine", messages: 0, consumers: 0 });
    await client.publish({ exchange: "made", routingKey: "", body: body("x") });
    expect(await client.topology([{ do: "purge", name: "mine" }])).toEqual([{ messages: 1 }]);
    const other = connect();
    expect(await codeOf(other.topology([{ do: "declare-queue", name: "mine", exclusive: true }]))).toEqual([
      "amqp-refused",
      405,
    ]);
    expect(await codeOf(other.topology([{ do: "purge", name: "nothing" }]))).toEqual(["amqp-no-such", 404]);
    await client.topology([{ do: "delete", kind: "queue", name: "mine" }]);
    expect(await codeOf(client.topology([{ do: "declare-exchange", name: "made", passive: true }]))).toEqual([
      "amqp-no-such",
      404,
    ]);
  });

  test("what a broker cannot bear ends the connection, and is told with its reason", async () => {
    const client = connect();
    const nonsense = client.topology([{ do: "declare-exchange", name: "odd", type: "nonsense" }]);
    expect(await codeOf(nonsense)).toEqual(["amqp-refused", 503]);
    expect(await codeOf(client.topology([{ do: "purge", name: "n".repeat(256) }]))).toEqual([
      "amqp-invalid",
      undefined,
    ]);
    expect(await client.topology([{ do: "declare-queue", name: "still", durable: true }])).toMatchObject([
      { queue: "still" },
    ]);
  });

  test("a subscription that ends the connection is found out and left alone, the others go on", async () => {
    const client = connect();
    const queue = await makeQueue(client, "innocent");
    const got: string[] = [];
    const sink = {
      delivered: (delivery: Delivery, tag: DeliveryTag): void => {
        got.push(Buffer.from(delivery.body).toString());
        tag.ack();
      },
      lost: (): void => undefined,
    };
    const exchange = {
      name: "odd",
      type: "nonsense",
      durable: true,
      autoDelete: false,
      internal: false,
      passive: false,
    };
    const guilty = client.subscribe(subscription("guilty", { exchange }), sink);
    const innocent = client.subscribe(subscription(queue), sink);
    expect(await codeOf(guilty.ready)).toEqual(["amqp-refused", 503]);
    await innocent.ready;
    await client.publish({ exchange: "", routingKey: queue, body: body("on") });
    await until(() => got.length === 1, WAIT_MS, "the innocent one consumes");
    expect(client.status().brokers).toMatchObject([{ state: "connected" }]);
    await Promise.all([guilty.close(), innocent.close()]);
  });

  for (const reply of ["direct", "queue"] as const) {
    test(`query, ${reply}: the answer with our id, not another's, not a late one`, async () => {
      const client = connect();
      const queue = await makeQueue(client, `asked-${reply}`);
      const answering = client.subscribe(subscription(queue), {
        delivered: ({ replyTo = "", correlationId = "", body: asked }, tag) => {
          const answer = (id: string, text: string): Promise<unknown> =>
            client.publish({
              exchange: "",
              routingKey: replyTo,
              body: body(text),
              correlationId: id,
              mandatory: false,
            });
          const text = Buffer.from(asked).toString();
          if (text !== "late") void answer("another", "wrong").then(() => answer(correlationId, `to ${text}`));
          else setTimeout(() => void answer(correlationId, "too late"), 300);
          tag.ack();
        },
        lost: () => undefined,
      });
      await answering.ready;
      const ask = (text: string, timeoutMs = WAIT_MS): Promise<Delivery[]> =>
        client.query({ exchange: "", routingKey: queue, body: body(text) }, { timeoutMs, reply });
      const [one] = await ask("a");
      expect(Buffer.from(one?.body as Uint8Array).toString()).toBe("to a");
      expect(await codeOf(ask("late", 200))).toEqual(["amqp-timeout", undefined]);
      const [next] = await ask("b");
      expect(Buffer.from(next?.body as Uint8Array).toString()).toBe("to b");
      await answering.close();
    });
  }

  test("query: nobody listens is known at once, a missing exchange too, and others are not disturbed", async () => {
    const client = connect();
    const begin = performance.now();
    const ask = (exchange: string): Promise<unknown> =>
      client.query({ exchange, routingKey: "nobody", body: body("x") }, { timeoutMs: 30_000 });
    expect(await codeOf(ask(""))).toEqual(["amqp-refused", 312]);
    expect(await codeOf(ask("missing"))).toEqual(["amqp-no-such", 404]);
    expect(performance.now() - begin).toBeLessThan(10_000);
    const queue = await makeQueue(client, "unasked");
    const waiting = codeOf(client.query({ exchange: "", routingKey: queue, body: body("x") }, { timeoutMs: 600 }));
    expect(await codeOf(ask("missing"))).toEqual(["amqp-no-such", 404]);
    expect(await waiting).toEqual(["amqp-timeout", undefined]);
    // The request is gone with its time.
    await until(async () => (await client.get(queue)) === undefined, WAIT_MS, "it has expired");
  });

  test("query with many: as many as come in time", async () => {
    const client = connect();
    await client.topology([{ do: "declare-exchange", name: "all", type: "fanout", autoDelete: true }]);
    const exchange = { name: "all", type: "fanout", durable: true, autoDelete: true, internal: false, passive: false };
    const queue = { name: "", durable: false, autoDelete: false, exclusive: true, passive: false };
    const answering = [1, 2, 3].map((number) =>
      client.subscribe(subscription("", { queue, exchange }), {
        delivered: ({ replyTo = "", correlationId = "" }, tag) => {
          tag.ack();
          void client.publish({
            exchange: "",
            routingKey: replyTo,
            correlationId,
            body: body(String(number)),
            mandatory: false,
          });
        },
        lost: () => undefined,
      }),
    );
    await Promise.all(answering.map(({ ready }) => ready));
    const question = { exchange: "all", routingKey: "", body: body("?") };
    const answers = await client.query(question, { timeoutMs: 700, many: 9 });
    expect(answers.map((one) => Buffer.from(one.body).toString()).sort()).toEqual(["1", "2", "3"]);
    const begin = performance.now();
    expect((await client.query(question, { timeoutMs: WAIT_MS, many: 2 })).length).toBe(2);
    expect(performance.now() - begin).toBeLessThan(WAIT_MS);
    await Promise.all(answering.map((one) => one.close()));
  });

  test("a thousand at once stay within the window, and all are confirmed", async () => {
    const client = connect(brokers.url(), { window: { messages: 50 } });
    const queue = await makeQueue(client, "window");
    await client.ready(WAIT_MS);
    const all = Array.from({ length: 1_000 }, () =>
      client.publish({ exchange: "", routingKey: queue, body: body("x") }),
    );
    await Bun.sleep(0);
    const { unconfirmed, waiting } = client.status().publisher;
    expect(unconfirmed).toBeLessThanOrEqual(50);
    expect(waiting).toBeGreaterThanOrEqual(900);
    await Promise.all(all);
    expect(client.status().publisher).toMatchObject({ unconfirmed: 0, waiting: 0, waitingBytes: 0, confirmed: 1_000 });
  });

  test("a publish that is cancelled or too late is told so, and is not sent any more", async () => {
    const client = connect("amqp://127.0.0.1:1");
    const stop = new AbortController();
    const message = { exchange: "", routingKey: "k", body: body("x") };
    const cancelled = codeOf(client.publish(message, { signal: stop.signal }));
    stop.abort();
    expect(await cancelled).toEqual(["amqp-timeout", undefined]);
    expect(client.status().publisher).toMatchObject({ waiting: 0, waitingBytes: 0 });
    const kept = codeOf(client.publish(message));
    await client.close();
    expect(await kept).toEqual(["amqp-timeout", undefined]);
  });

  test("all connections are gone after close, and have our name before", async () => {
    const client = connect(brokers.url(), { name: "node-1" });
    await client.ready(WAIT_MS);
    expect(await brokers.connections()).toContain("dmq node-1");
    await client.close();
    await until(async () => !(await brokers.connections()).includes("dmq node-1"), WAIT_MS, "the broker has let it go");
  });
});
