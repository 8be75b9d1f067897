// needs programs: rabbitmq-server bash cat env false head sleep sha256sum tr true
/**
 * `dmq amqp consume` with a real broker, on connections of its own. Goal: what the broker has after each end of a handler, bodies to the
 * octet, and that neither limits of the broker's nor a queue that is deleted stops a consumer. What needs no broker: consuming.test.ts.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AmqpClient } from "../../src/amqp/client.ts";
import type { AmqpError } from "../../src/amqp/error.ts";
import type { Delivery, Properties } from "../../src/amqp/message.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import type { SignalName } from "../../src/cli/context.ts";
import { type Ran, runCli, type World } from "../helpers/cli.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

const WAIT_MS = 20_000;
const TEST_MS = 60_000;

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describeBroker("dmq amqp consume and one broker", () => {
  let brokers: Brokers;
  let client: AmqpClient;
  let dir: string;
  let env: Record<string, string>;
  let count = 0;

  beforeAll(async () => {
    brokers = await startBrokers();
    // The broker looks twice a second for consumers that are too slow, instead of once a minute.
    await brokers.ctl("a", "eval", "application:set_env(rabbit, channel_tick_interval, 500).");
    client = new AmqpClient({ brokers: parseBrokers([brokers.url()]) });
    client.start();
    await client.ready(WAIT_MS);
    dir = mkdtempSync(join(tmpdir(), "cb-"));
    env = { DMQ_SOCKET: join(dir, "none.sock"), DMQ_STATE_DIR: join(dir, "state"), XDG_CONFIG_HOME: dir };
  }, BROKER_START_MS);

  afterAll(async () => {
    await client?.close();
    await brokers?.down();
    rmSync(dir, { recursive: true, force: true });
  }, BROKER_START_MS);

  function consume(words: readonly string[], world: World = {}): Promise<Ran> {
    return runCli(["amqp", "consume", "--url", brokers.url(), ...words], { ...world, env });
  }

  /** A name of a queue that nobody else has; declared unless `consume` is to do that. */
  async function queue(args?: Record<string, string | number>): Promise<string> {
    const name = `q${++count}`;
    if (args !== undefined) await client.topology([{ do: "declare-queue", name, durable: true, arguments: args }]);
    return name;
  }

  async function publish(to: string, body: string | Uint8Array, more: Properties = {}): Promise<void> {
    const octets = typeof body === "string" ? bytes(body) : body;
    await client.publish({ exchange: "", routingKey: to, body: octets, ...more });
  }

  /** What lies in the queue, taken out. */
  async function drained(from: string): Promise<Delivery[]> {
    const found: Delivery[] = [];
    for (;;) {
      const fetched = await client.get(from, { timeoutMs: WAIT_MS });
      if (fetched === undefined) return found;
      await fetched.ack();
      found.push(fetched.delivery);
    }
  }

  function log(name: string): { path: string; text(): string } {
    const path = join(dir, `${name}-${++count}`);
    return { path, text: () => (Bun.file(path).size > 0 ? readFileSync(path, "utf8") : "") };
  }

  // --- bytes -------------------------------------------------------------------------------------------------------------

  const bodies: [what: string, body: Uint8Array, properties: Properties][] = [
    ["every octet", Uint8Array.from({ length: 256 }, (_, octet) => octet), {}],
    ["nothing", new Uint8Array(0), {}],
    ["5 MiB", Uint8Array.from({ length: 5 * 1024 * 1024 }, (_, index) => (index * 7919) >> 5), {}],
    ["64-bit numbers", bytes('{"id":12345678901234567890,"x":1.0e+2}'), { contentType: "application/json" }],
    ["text that is none", new Uint8Array([0xff, 0xfe, 0x00, 0x0a]), { contentType: "text/plain" }],
  ];
  for (const [what, body, properties] of bodies)
    test(
      `bytes: ${what}, to a command and as printed`,
      async () => {
        const name = await queue({});
        await publish(name, body, properties);
        await publish(name, body, properties);
        const file = log("body");
        const ran = await consume(["--queue", name, "-n", "1", "--exec", `cat > ${file.path}`]);
        expect([ran.code, ran.err]).toEqual([0, ""]);
        expect(Bun.hash(readFileSync(file.path))).toBe(Bun.hash(body));
        const printed = await consume(["--queue", name, "-n", "1", "--json"]);
        const row = JSON.parse(printed.out) as { body?: string; body_base64?: string };
        const octets = row.body === undefined ? Buffer.from(row.body_base64 as string, "base64") : bytes(row.body);
        expect(Bun.hash(octets)).toBe(Bun.hash(body));
      },
      TEST_MS,
    );

  // --- what the broker has afterwards ------------------------------------------------------------------------------------

  const ends: [what: string, command: string, code: number, left: string[]][] = [
    ["0", "true", 0, []],
    ["1", "exit 1", 8, ["again"]],
    ["75", "exit 75", 8, ["again"]],
    ["126", "exit 126", 8, ["again"]],
    ["127", "no-such-command", 8, ["again"]],
    ["a signal", "kill -9 $$", 8, ["again"]],
    ["a timeout", "exec sleep 20", 8, ["again"]],
  ];
  for (const [what, command, code, left] of ends)
    test(
      `a command that ends with ${what}`,
      async () => {
        const name = await queue({});
        await publish(name, "m");
        const ran = await consume(["--queue", name, "-n", "1", "--timeout", "500ms", "--exec", command]);
        expect(ran.code).toBe(code);
        const found = await drained(name);
        expect(found.map(({ redelivered }): string => (redelivered ? "again" : "new"))).toEqual(left);
      },
      TEST_MS,
    );

  test(
    "one that ends with 65: the queue's dead-letter exchange has it, or we",
    async () => {
      const letters = await queue({});
      const args = { "x-dead-letter-exchange": "", "x-dead-letter-routing-key": letters };
      const name = await queue(args);
      await publish(name, "m");
      const words = Object.entries(args).flatMap(([key, value]) => ["--arg", `${key}=${value}`]);
      expect((await consume(["--queue", name, ...words, "-n", "1", "--exec", "exit 65"])).code).toBe(8);
      expect((await drained(letters)).map(({ body }) => new TextDecoder().decode(body))).toEqual(["m"]);
      const own = await queue({});
      await publish(own, "n", { messageId: "id-n" });
      const ran = await consume(["--queue", own, "-n", "1", "--exec", "exit 65"]);
      expect(ran.err).toContain(`dmq queue dead ${own} list`);
      expect(await drained(own)).toEqual([]);
      const [letter] = JSON.parse((await runCli(["queue", "dead", own, "list", "--json"], { env })).out);
      expect(letter).toMatchObject({ value: "n", key: own, reason: "exit 65" });
    },
    TEST_MS,
  );

  test(
    "a poison message: tried again while others go on, and dead after --max-tries",
    async () => {
      const name = await queue({});
      await publish(name, "poison");
      for (let index = 0; index < 5; index++) await publish(name, `m${index}`);
      const handled = log("handled");
      const command = `read -r body || true; echo "$body $DMQ_TRIES" >> ${handled.path}; [ "$body" != poison ]`;
      const ran = await consume(["--queue", name, "-n", "7", "--max-tries", "2", "--exec", command]);
      expect(ran.code).toBe(8);
      expect(handled.text().trimEnd().split("\n")).toEqual([
        "poison 1",
        "m0 1",
        "m1 1",
        "m2 1",
        "m3 1",
        "m4 1",
        "poison 2",
      ]);
      expect(await drained(name)).toEqual([]);
      expect((await runCli(["queue", "dead", name, "list", "--json"], { env })).out).toContain('"reason":"exit 1"');
    },
    TEST_MS,
  );

  test(
    "tries outlive the consumer: by x-delivery-count of a quorum queue, as one by redelivered",
    async () => {
      for (const [args, tries] of [
        [{ "x-queue-type": "quorum" }, ["1", "2", "3"]],
        [{}, ["1", "2", "2"]],
      ] as const) {
        const name = await queue(args);
        await publish(name, "m");
        const type = "x-queue-type" in args ? ["--queue-type", "quorum"] : [];
        const words = ["--queue", name, ...type, "-n", "1", "--exec", 'echo "$DMQ_TRIES"; exit 1'];
        const seen: string[] = [];
        for (let run = 0; run < 3; run++) seen.push((await consume(words)).out.trim());
        expect(seen).toEqual([...tries]);
      }
    },
    TEST_MS,
  );

  test(
    "--jobs 1 --prefetch 1 keeps the order of the broker, also over a failure",
    async () => {
      const name = await queue({});
      for (let index = 0; index < 5; index++) await publish(name, `${index}\n`);
      const words = ["--queue", name, "-n", "6", "--prefetch", "1"];
      const ran = await consume([...words, "--exec", 'read -r n; echo "$n"; [ "$n$DMQ_TRIES" != 11 ]']);
      expect(ran.out.split("\n")).toEqual(["0", "1", "1", "2", "3", "4", ""]);
    },
    TEST_MS,
  );

  test(
    "--ack receipt and none: what fails is gone",
    async () => {
      for (const mode of ["receipt", "none"]) {
        const name = await queue({});
        await publish(name, "m");
        expect((await consume(["--queue", name, "--ack", mode, "-n", "1", "--exec", "exit 1"])).code).toBe(8);
        expect(await drained(name)).toEqual([]);
      }
    },
    TEST_MS,
  );

  // --- the broker's side -------------------------------------------------------------------------------------------------

  /** Runs until `wanted` is in the log, then ends it. */
  async function during(
    words: readonly string[],
    wanted: () => boolean,
    meanwhile: () => Promise<unknown> = async () => undefined,
  ): Promise<Ran> {
    let raise: (signal: SignalName) => void = () => undefined;
    const ran = consume(words, {
      onStart: (one) => {
        raise = one;
      },
    });
    try {
      await meanwhile();
      await until(wanted, WAIT_MS, "all is handled");
    } finally {
      raise("SIGTERM");
    }
    return ran;
  }

  const hasConsumer = async (name: string): Promise<boolean> =>
    (await client.topology([{ do: "declare-queue", name, durable: true, passive: true }])).some(
      (one) => one.consumers === 1,
    );

  test(
    "a handler that is slower than the broker allows: its channel is lost, the message comes again, the others are not lost",
    async () => {
      const name = await queue({});
      await publish(name, "slow");
      await publish(name, "quick");
      const handled = log("slow");
      await brokers.ctl("a", "eval", "application:set_env(rabbit, consumer_timeout, 1500).");
      try {
        const command = `read -r b || true; [ "$b$DMQ_REDELIVERED" = slow ] && sleep 3; echo "$b" >> ${handled.path}`;
        const count = (): string[] => handled.text().trimEnd().split("\n").toSorted();
        const words = ["--queue", name, "--jobs", "2", "--exec", command];
        await during(words, () => count().filter((one) => one === "slow").length === 2);
        expect(count()).toEqual(["quick", "slow", "slow"]);
      } finally {
        await brokers.ctl("a", "eval", "application:set_env(rabbit, consumer_timeout, 1800000).");
      }
      expect(await drained(name)).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "a queue that is deleted is declared again, and consumed",
    async () => {
      const name = await queue();
      const seen = log("deleted");
      const words = ["--queue", name, "--exec", `cat >> ${seen.path}`];
      await during(
        words,
        () => seen.text() === "ab",
        async () => {
          await until(() => hasConsumer(name), WAIT_MS, "it consumes");
          await publish(name, "a");
          await until(() => seen.text() === "a", WAIT_MS, "the first is handled");
          await client.topology([{ do: "delete", kind: "queue", name }]);
          await until(() => hasConsumer(name), WAIT_MS, "it consumes again");
          await publish(name, "b");
        },
      );
      expect(seen.text()).toBe("ab");
    },
    TEST_MS,
  );

  test(
    "connections that are cut: handlers are told, what was under way is repeated, nothing is lost",
    async () => {
      const name = await queue({});
      const seen = log("cut");
      const events = log("events");
      for (let index = 0; index < 20; index++) await publish(name, `m${index}`);
      const words = [
        "--queue",
        name,
        "--jobs",
        "2",
        "--on",
        `consumer-event=sleep 0.05; b=$(cat); echo "$b" >> ${seen.path}`,
      ];
      const on = [
        "--on",
        `connection-open=echo open >> ${events.path}`,
        "--on",
        `connection-closed=echo closed >> ${events.path}`,
      ];
      const all = (): string[] => [...new Set(seen.text().trimEnd().split("\n"))];
      const ran = await during(
        [...words, ...on],
        () => all().length === 20 && events.text().split("open").length === 3,
        async () => {
          await until(() => all().length > 3, WAIT_MS, "some are handled");
          await brokers.ctl("a", "close_all_connections", "test");
        },
      );
      expect(ran.code).toBe(143);
      expect(events.text()).toBe("open\nclosed\nopen\n");
      expect(ran.err).toContain("the connection is closed");
      await client.ready(WAIT_MS);
      expect(await drained(name)).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "kazoo's defaults: an exchange and a queue that are gone afterwards, and nothing to acknowledge",
    async () => {
      const json = '{"exchange":"kz","type":"topic","queue":"kzq","routing":["a.#","b.*"]}';
      const seen = log("kazoo");
      const words = ["--subscribe", json, "--on", `presence-update=cat >> ${seen.path}`];
      const event = '{"Event-Category":"Presence","Event-Name":"update"}';
      await during(
        words,
        () => seen.text() === event,
        async () => {
          await until(() => hasConsumer("kzq"), WAIT_MS, "it consumes");
          const listed = await brokers.ctl("a", "list_queues", "name", "durable", "auto_delete", "exclusive");
          expect(listed).toMatch(/^kzq\tfalse\ttrue\tfalse$/m);
          const consumers = await brokers.ctl("a", "list_consumers", "queue_name", "ack_required");
          expect(consumers).toMatch(/^kzq\tfalse$/m);
          await client.publish({ exchange: "kz", routingKey: "b.x", body: bytes(event) });
        },
      );
      expect(await hasConsumer("kzq").catch((error: AmqpError) => error.code)).toBe("amqp-no-such");
    },
    TEST_MS,
  );

  test(
    "an exchange alone: a queue of the broker's naming, the prefetch as it was asked for",
    async () => {
      const seen = log("exchange");
      await during(
        [
          "--exchange",
          "sip",
          "--type",
          "topic",
          "--routing",
          "alert.#",
          "--prefetch",
          "7",
          "--exec",
          `cat >> ${seen.path}`,
        ],
        () => seen.text() === "yes",
        async () => {
          const list = (): Promise<string> => brokers.ctl("a", "list_consumers", "queue_name", "prefetch_count");
          await until(async () => /^amq\.gen-\S+\t7$/m.test(await list()), WAIT_MS, "it consumes");
          await client.publish({ exchange: "sip", routingKey: "other", body: bytes("no"), mandatory: false });
          await client.publish({ exchange: "sip", routingKey: "alert.x", body: bytes("yes") });
        },
      );
    },
    TEST_MS,
  );

  test(
    "--reply: a question is answered, and acknowledged after the answer was confirmed",
    async () => {
      const name = await queue({});
      const answering = consume(["--queue", name, "-n", "2", "--reply", "--exec", "tr a-z A-Z"]);
      const ask = async (reply: "direct" | "queue"): Promise<string> => {
        const message = { exchange: "", routingKey: name, body: bytes(`hello ${reply}`) };
        const [answer] = await client.query(message, { timeoutMs: WAIT_MS, reply });
        return new TextDecoder().decode(answer?.body);
      };
      expect(await ask("direct")).toBe("HELLO DIRECT");
      expect(await ask("queue")).toBe("HELLO QUEUE");
      expect((await answering).code).toBe(0);
      await publish(name, "nobody", { replyTo: "amq.rabbitmq.reply-to.g1h2AAN4", correlationId: "c" });
      const late = await consume(["--queue", name, "-n", "1", "--reply", "--exec", "echo late"]);
      expect([late.code, await drained(name)]).toEqual([0, []]);
    },
    TEST_MS,
  );

  // --- exit codes --------------------------------------------------------------------------------------------------------

  test(
    "exit codes of what the broker refuses, or of none that is there",
    async () => {
      const url = (text: string): Promise<Ran> => runCli(["amqp", "consume", "--url", text, "--queue", "x"], { env });
      const name = await queue({ "x-max-length": 5 });
      expect(await consume(["--queue", name, "--for", "300ms"])).toMatchObject({ code: 5 });
      expect(await consume(["--queue", name, "--passive", "--for", "300ms"])).toMatchObject({ code: 1, err: "" });
      expect(await consume(["--queue", "no-such", "--passive"])).toMatchObject({ code: 3 });
      expect(await consume(["--exchange", "no-such"])).toMatchObject({ code: 3 });
      const login = await url(brokers.url().replace("guest:guest", "guest:secret"));
      expect(login.code).toBe(4);
      expect(login.err).not.toContain("secret");
      expect(await url(`${brokers.url()}/no-vhost`)).toMatchObject({ code: 3 });
      expect(await url("http://x")).toMatchObject({ code: 2 });
    },
    TEST_MS,
  );
});
