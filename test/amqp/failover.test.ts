// needs programs: rabbitmq-server
/**
 * Brokers that die, freeze, block and come back, under a client that publishes all the time. Goal: nothing that was confirmed is missing,
 * nothing that was given is forgotten, and never more connections than there should be.
 */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import { AmqpClient, type AmqpOptions, type Subscribed } from "../../src/amqp/client.ts";
import type { Delivery } from "../../src/amqp/message.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import { collect, drain, subscription } from "../helpers/amqp.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

const WAIT_MS = 20_000;
/** `DMQ_AMQP_FLOOD=1073741824` is a whole GiB. */
const FLOOD_BYTES = Number(process.env.DMQ_AMQP_FLOOD ?? 256 * 1024 ** 2);
const DEAD = "amqp://127.0.0.1:1";

const body = (text: string): Uint8Array => new TextEncoder().encode(text);
const textOf = ({ body: octets }: Delivery): string => Buffer.from(octets).toString();

describeBroker("two independent brokers", () => {
  let brokers: Brokers;
  const clients: AmqpClient[] = [];
  const closers: (() => void)[] = [];

  function connect(urls: readonly string[], options: Partial<AmqpOptions> = {}): AmqpClient {
    const client = new AmqpClient({ brokers: parseBrokers(urls), connectTimeoutMs: 1_500, ...options });
    clients.push(client);
    client.start();
    return client;
  }

  async function declare(client: AmqpClient, name: string): Promise<void> {
    await client.topology([{ do: "declare-queue", name, durable: true }], { timeoutMs: WAIT_MS });
  }

  /** At both brokers. */
  async function declareAtBoth(name: string): Promise<void> {
    for (const broker of ["a", "b"] as const) await declare(connect([brokers.url(broker)]), name);
  }

  beforeAll(async () => {
    brokers = await startBrokers({ nodes: 2 });
  }, BROKER_START_MS);

  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.close()));
    for (const close of closers.splice(0)) close();
  });

  afterAll(async () => {
    await brokers?.down();
  }, BROKER_START_MS);

  test(
    "stopped in good order: the next broker is taken, nobody is blamed, and consumers are there again",
    async () => {
      await declareAtBoth("orderly");
      const client = connect([brokers.url("a"), brokers.url("b")]);
      const events: string[] = [];
      client.on("connection", ({ state, broker }) => events.push(`${state} ${broker.number}`));
      const { got, subscribed } = collect(client, subscription("orderly"), textOf);
      await subscribed.ready;
      await client.publish({ exchange: "", routingKey: "orderly", body: body("1") });
      await brokers.stop("a");
      const { broker } = await client.publish({ exchange: "", routingKey: "orderly", body: body("2") });
      expect(broker.number).toBe(2);
      await until(() => got.length === 2, WAIT_MS, "both came");
      expect(events).toEqual(["open 1", "closed 1", "open 2"]);
      await brokers.start("a");
      expect(client.status().brokers.map(({ state }) => state)).toEqual(["standby", "connected"]);
    },
    BROKER_START_MS,
  );

  test(
    "prefer=first: back to the better-placed broker when it answers, and nothing is lost on the way",
    async () => {
      await declareAtBoth("prefer");
      const gate = new Gate(brokers.url("a"));
      closers.push(() => gate.close());
      const client = connect([await gate.open(), brokers.url("b")], {
        prefer: "first",
        preferMs: 200,
        name: "prefers",
      });
      await client.ready(WAIT_MS);
      gate.close();
      await until(() => client.status().brokers[1]?.state === "connected", WAIT_MS, "at the second");
      let sent = 0;
      let going = true;
      const publishing = (async () => {
        for (; going; sent++) await client.publish({ exchange: "", routingKey: "prefer", body: body(String(sent)) });
      })();
      await gate.open();
      await until(() => client.status().brokers[0]?.state === "connected", WAIT_MS, "back at the first");
      going = false;
      await publishing;
      await until(
        async () => !(await brokers.connections("b")).includes("dmq prefers"),
        WAIT_MS,
        "the second is let go",
      );
      const found = new Set<string>();
      for (const name of ["a", "b"] as const) {
        for (const text of await drain(connect([brokers.url(name)]), "prefer")) found.add(text);
      }
      expect(found.size).toBe(sent);
    },
    BROKER_START_MS,
  );

  test("all: declared at the broker that is named, and at no other", async () => {
    const client = connect([brokers.url("a"), brokers.url("b")], { mode: "all" });
    const there = (): boolean => client.status().brokers.every(({ state }) => state === "connected");
    await until(there, WAIT_MS, "both are connected");
    await client.topology([{ do: "declare-queue", name: "named", durable: true }], { broker: 2 });
    const look = (broker: number): Promise<unknown> =>
      client.topology([{ do: "declare-queue", name: "named", passive: true }], { broker });
    await expect(look(1)).rejects.toMatchObject({ code: "amqp-no-such" });
    expect(await look(2)).toMatchObject([{ queue: "named" }]);
  });

  test(
    "all: consumed from both, published to the first that is there, to the other by its number",
    async () => {
      await declareAtBoth("both");
      const gate = new Gate(brokers.url("a"));
      closers.push(() => gate.close());
      const client = connect([await gate.open(), brokers.url("b")], { mode: "all" });
      const place = (delivery: Delivery): string => `${delivery.broker.number} ${textOf(delivery)}`;
      const { got, subscribed } = collect(client, subscription("both"), place);
      await consuming(subscribed, 2);
      const publish = async (text: string, choice = {}): Promise<number> =>
        (await client.publish({ exchange: "", routingKey: "both", body: body(text) }, choice)).broker.number;
      expect([await publish("1"), await publish("2", { broker: 2 })]).toEqual([1, 2]);
      gate.close();
      await until(() => client.status().brokers[0]?.state !== "connected", WAIT_MS, "the first is gone");
      expect(await publish("3")).toBe(2);
      const pinned = publish("4", { broker: 1 });
      await gate.open();
      expect(await pinned).toBe(1);
      await until(() => got.length === 4, WAIT_MS, "all came");
      expect(got.sort()).toEqual(["1 1", "1 4", "2 2", "2 3"]);
      await subscribed.close();
    },
    BROKER_START_MS,
  );

  test("zones: each has its own connection, and a federated subscription consumes in all of them", async () => {
    const urls = [brokers.url("a"), `zone=far;${brokers.url("b")}`];
    const client = connect(urls);
    const place = (delivery: Delivery): string => `${delivery.broker.zone} ${textOf(delivery)}`;
    const { got, subscribed } = collect(client, subscription("zoned", { federate: true }), place);
    await consuming(subscribed, 2);
    await client.publish({ exchange: "", routingKey: "zoned", body: body("1") });
    await client.publish({ exchange: "", routingKey: "zoned", body: body("2") }, { zone: "far" });
    await until(() => got.length === 2, WAIT_MS, "both came");
    expect(got.sort()).toEqual(["far 2", "local 1"]);
    expect(client.publish({ exchange: "", routingKey: "k", body: body("x") }, { zone: "none" })).rejects.toThrow(
      "zone",
    );
    expect(client.publish({ exchange: "", routingKey: "k", body: body("x") }, { broker: 3 })).rejects.toThrow("1 to 2");
    await subscribed.close();
  });

  test(
    "frozen: noticed within three heartbeats, the next is used, and no second connection is left",
    async () => {
      await declareAtBoth("frozen");
      const heartbeatS = 1;
      const client = connect([`${brokers.url("a")}?heartbeat=${heartbeatS}`, brokers.url("b")], { name: "froze" });
      await client.publish({ exchange: "", routingKey: "frozen", body: body("1") });
      brokers.freeze("a");
      try {
        const begin = performance.now();
        const { broker } = await client.publish({ exchange: "", routingKey: "frozen", body: body("2") });
        expect(broker.number).toBe(2);
        expect(performance.now() - begin).toBeLessThan(3 * heartbeatS * 1_000 + 1_500);
      } finally {
        brokers.thaw("a");
      }
      await until(
        async () => !(await brokers.connections("a")).includes("dmq froze"),
        WAIT_MS,
        "nothing is left at the first",
      );
      expect((await brokers.connections("b")).filter((name) => name === "dmq froze")).toEqual(["dmq froze"]);
    },
    BROKER_START_MS,
  );

  test(
    "a broker that freezes without heartbeats is given up when a confirm does not come",
    async () => {
      await declareAtBoth("confirms");
      const urls = [`${brokers.url("a")}?heartbeat=0`, brokers.url("b")];
      const client = connect(urls, { confirmTimeoutMs: 800 });
      await client.ready(WAIT_MS);
      brokers.freeze("a");
      try {
        const { broker, repeats } = await client.publish({ exchange: "", routingKey: "confirms", body: body("1") });
        expect([broker.number, repeats]).toEqual([2, 1]);
      } finally {
        brokers.thaw("a");
      }
    },
    BROKER_START_MS,
  );

  test("frozen at the end: close does not wait for it", async () => {
    const client = connect([brokers.url("b")]);
    await client.ready(WAIT_MS);
    brokers.freeze("b");
    try {
      const begin = performance.now();
      await client.close();
      expect(performance.now() - begin).toBeLessThan(3_000);
    } finally {
      brokers.thaw("b");
    }
  });

  test(
    "broker lost while a query waits: told at once that it may have been done; again if it is idempotent",
    async () => {
      await declareAtBoth("asked");
      const gate = new Gate(brokers.url("a"));
      closers.push(() => gate.close());
      const client = connect([await gate.open(), brokers.url("b")]);
      await client.ready(WAIT_MS);
      const answering = connect([brokers.url("b")]);
      const answers = answering.subscribe(subscription("asked"), {
        delivered: ({ replyTo = "", correlationId = "" }, tag) => {
          tag.ack();
          void answering.publish({
            exchange: "",
            routingKey: replyTo,
            correlationId,
            body: body("yes"),
            mandatory: false,
          });
        },
        lost: () => undefined,
      });
      await answers.ready;
      const question = { exchange: "", routingKey: "asked", body: body("?") };
      const once = client.query(question, { timeoutMs: 60_000 });
      const again = client.query(question, { timeoutMs: 60_000, idempotent: true });
      const setUp = connect([brokers.url("a")]);
      await until(
        async () => (await setUp.topology([{ do: "declare-queue", name: "asked", passive: true }]))[0]?.messages === 2,
        WAIT_MS,
        "both are asked",
      );
      gate.close();
      expect(once).rejects.toMatchObject({ code: "amqp-timeout" });
      expect(textOf((await again)[0] as Delivery)).toBe("yes");
      await answers.close();
    },
    BROKER_START_MS,
  );

  test(
    "blocked: what is given waits, a consumer goes on, a deadline is kept, and all goes out afterwards",
    async () => {
      const client = connect([brokers.url("a")]);
      const filling = connect([brokers.url("a")]);
      await declare(client, "blocked");
      for (let index = 0; index < 20; index++) {
        await filling.publish({ exchange: "", routingKey: "blocked", body: body(`old ${index}`) });
      }
      await client.publish({ exchange: "", routingKey: "blocked", body: body("old 20") });
      await brokers.block("a", true);
      try {
        // Only who publishes is told.
        const first = client.publish({ exchange: "", routingKey: "blocked", body: body("new 0") });
        await until(() => client.status().brokers[0]?.blocked, WAIT_MS, "it is told to wait");
        const late = client.publish({ exchange: "", routingKey: "blocked", body: body("late") }, { timeoutMs: 200 });
        expect(late).rejects.toMatchObject({ code: "amqp-timeout" });
        const more = [1, 2, 3].map((one) =>
          client.publish({ exchange: "", routingKey: "blocked", body: body(`new ${one}`) }),
        );
        const { got, subscribed } = collect(client, subscription("blocked", { prefetch: 4 }), textOf);
        const distinct = (): number => new Set(got).size;
        await until(() => distinct() >= 21, WAIT_MS, "acknowledgements are heard although publishers are blocked");
        await late.catch(() => undefined);
        expect(client.status().publisher).toMatchObject({ waiting: 3 });
        await brokers.block("a", false);
        await Promise.all([first, ...more]);
        await until(() => distinct() === 25, WAIT_MS, "the new ones came");
        expect(got).not.toContain("late");
        await subscribed.close();
      } finally {
        await brokers.block("a", false);
      }
    },
    BROKER_START_MS,
  );

  test(
    `blocked, while ${FLOOD_BYTES / 1024 ** 2} MiB are pushed: no more memory than the window and what waits`,
    async () => {
      const client = connect([brokers.url("b")]);
      await client.topology([
        { do: "declare-queue", name: "flood", durable: true, arguments: { "x-max-length-bytes": 4_000_000 } },
      ]);
      const chunk = new Uint8Array(64 * 1024).fill(7);
      const push = (): Promise<unknown> =>
        client.publish({ exchange: "", routingKey: "flood", body: Uint8Array.from(chunk) });
      await push();
      await brokers.block("b", true);
      const pushed: Promise<unknown>[] = [];
      let refused = 0;
      const before = process.memoryUsage.rss();
      try {
        for (let sent = 0; sent < FLOOD_BYTES; sent += chunk.length) {
          pushed.push(
            push().catch((error) => {
              expect(error).toMatchObject({ code: "amqp-refused" });
              refused++;
            }),
          );
          if (pushed.length % 64 === 0) await Bun.sleep(0);
        }
        Bun.gc(true);
        const { unconfirmedBytes, waitingBytes } = client.status().publisher;
        expect(unconfirmedBytes).toBeLessThanOrEqual(8 * 1024 ** 2);
        expect(waitingBytes).toBeLessThanOrEqual(64 * 1024 ** 2);
        expect(refused).toBeGreaterThan(0);
        expect(process.memoryUsage.rss() - before).toBeLessThan(200 * 1024 ** 2);
      } finally {
        await brokers.block("b", false);
      }
      await Promise.all(pushed);
      expect(client.status().publisher).toMatchObject({ unconfirmed: 0, waiting: 0 });
    },
    BROKER_START_MS,
  );
});

async function consuming(subscribed: Subscribed, count: number): Promise<void> {
  const states = (): string[] => subscribed.status().map(({ state }) => state);
  await until(() => states().filter((state) => state === "consuming").length === count, WAIT_MS, `${count} consume`);
}

/** A way to a broker that can be shut and opened: the broker itself stays. */
class Gate {
  private readonly target: URL;
  private readonly sockets = new Set<Socket>();
  private server: Server | undefined;
  private port = 0;

  constructor(target: string) {
    this.target = new URL(target);
  }

  /** @returns the address of the gate, the same each time */
  async open(): Promise<string> {
    const server = createServer((socket) => {
      const other = Bun.connect({
        hostname: this.target.hostname,
        port: Number(this.target.port),
        socket: {
          data: (_, chunk) => void socket.write(chunk),
          close: () => void socket.destroy(),
          error: () => void socket.destroy(),
        },
      });
      this.sockets.add(socket);
      socket.on("data", async (chunk) => void (await other).write(chunk));
      socket.on("error", () => undefined);
      socket.on("close", async () => {
        this.sockets.delete(socket);
        (await other).end();
      });
    });
    await new Promise<void>((resolve) => server.listen(this.port, "127.0.0.1", resolve));
    this.server = server;
    this.port = (server.address() as { port: number }).port;
    return `amqp://guest:guest@127.0.0.1:${this.port}`;
  }

  /** Cuts what is connected, and refuses what comes. */
  close(): void {
    this.server?.close();
    for (const socket of this.sockets) socket.destroy();
  }
}

describeBroker("a cluster of two with a mirrored queue", () => {
  let brokers: Brokers;

  beforeAll(async () => {
    brokers = await startBrokers({ cluster: true });
    await brokers.ctl("a", "set_policy", "ha", "^mirrored", '{"ha-mode":"all","ha-sync-mode":"automatic"}');
  }, BROKER_START_MS);

  afterAll(async () => {
    await brokers?.down();
  }, BROKER_START_MS);

  test(
    "the node in use is killed: 2,000 published, confirmed, handled in 5 ms and acknowledged, none lost",
    async () => {
      const client = new AmqpClient({ brokers: parseBrokers([DEAD, brokers.url("a"), brokers.url("b")]) });
      client.start();
      await client.topology([{ do: "declare-queue", name: "mirrored", durable: true }], { timeoutMs: WAIT_MS });
      const handled = new Set<string>();
      const subscribed = client.subscribe(subscription("mirrored"), {
        delivered: (delivery, tag) => {
          setTimeout(() => {
            handled.add(textOf(delivery));
            tag.ack();
          }, 5);
        },
        lost: () => undefined,
      });
      await subscribed.ready;
      const confirmed: string[] = [];
      const all = Array.from({ length: 2_000 }, async (_, index) => {
        await client.publish({ exchange: "", routingKey: "mirrored", body: body(String(index)) });
        confirmed.push(String(index));
      });
      await until(() => confirmed.length > 500, WAIT_MS, "a quarter is confirmed");
      brokers.kill("a");
      await Promise.all(all);
      expect(confirmed.length).toBe(2_000);
      await until(() => handled.size === 2_000, WAIT_MS, "all are handled");
      await until(
        async () =>
          (await client.topology([{ do: "declare-queue", name: "mirrored", passive: true }]))[0]?.messages === 0,
        WAIT_MS,
        "the queue is empty",
      );
      await client.close();
    },
    2 * BROKER_START_MS,
  );
});
