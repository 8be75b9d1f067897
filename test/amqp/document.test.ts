/**
 * The recipes of docs/AMQP.md, word for word, with a cluster of two real brokers behind a list whose first address is dead. What a block
 * has done is looked at with the bare client library, so that no mistake of ours hides behind another one.
 */
// needs programs: rabbitmq-server erl setsid openssl bash curl awk
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Channel, type ChannelModel, connect, type GetMessage } from "amqplib";
import { dmq, EXECUTABLE } from "../helpers/daemon.ts";
import { freeAddress } from "../helpers/neighbourhood.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

const TEST_MS = 90_000;
const PAGE = readFileSync(join(import.meta.dir, "..", "..", "docs", "AMQP.md"), "utf8");

/** Blocks of a part of the page, by its heading. */
const BLOCKS = new Map<string, string[]>();
for (const part of PAGE.split(/^(?=##+ )/m)) {
  const [, heading] = /^##+ (.*)/.exec(part) ?? [];
  const found = [...part.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(([, block]) => block as string);
  if (heading !== undefined && found.length > 0) BLOCKS.set(heading, found);
}
const used = new Set<string>();

function blocksOf(heading: string): string[] {
  const blocks = BLOCKS.get(heading);
  if (blocks === undefined) throw new Error(`docs/AMQP.md has no block below ${heading}`);
  used.add(heading);
  return blocks;
}

interface Done {
  code: number;
  out: string;
  err: string;
}

/** A block that goes on: the shell becomes the command, so that a signal is its own. */
class Going {
  out = "";
  err = "";
  readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  private readonly drained: Promise<unknown>;

  constructor(script: string, env: Record<string, string>, cwd: string) {
    const becoming = script.replace(/^dmq (?=[^\n]*\n?$)/, "exec dmq ");
    this.child = Bun.spawn(["sh", "-c", becoming], { env, cwd, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const drain = async (stream: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> => {
      const decoder = new TextDecoder();
      for await (const chunk of stream) take(decoder.decode(chunk, { stream: true }));
    };
    this.drained = Promise.all([
      drain(this.child.stdout, (text) => {
        this.out += text;
      }),
      drain(this.child.stderr, (text) => {
        this.err += text;
      }),
    ]);
  }

  /** What a killed one leaves behind may hold its pipes for as long as it likes. */
  async ended(): Promise<Done> {
    const code = await this.child.exited;
    await Promise.race([this.drained, Bun.sleep(1_000)]);
    return { code, out: this.out, err: this.err };
  }

  end(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<Done> {
    this.child.kill(signal);
    return this.ended();
  }
}

describeBroker("docs/AMQP.md", () => {
  let brokers: Brokers;
  let dir: string;
  let env: Record<string, string>;
  let model: ChannelModel;
  let channel: Channel;
  const going: Going[] = [];

  beforeAll(async () => {
    brokers = await startBrokers({ cluster: true });
    dir = mkdtempSync(join(tmpdir(), "ad-"));
    mkdirSync(join(dir, "bin"));
    script("bin/dmq", `exec ${EXECUTABLE} "$@"`);
    env = {
      PATH: `${join(dir, "bin")}:${process.env.PATH}`,
      HOME: dir,
      DMQ_AMQP_URL: `amqp://guest:guest@127.0.0.1:1,${brokers.url("a")},${brokers.url("b")}`,
      DMQ_SOCKET: join(dir, "none.sock"),
      DMQ_STATE_DIR: join(dir, "state"),
      XDG_CONFIG_HOME: dir,
    };
    // The second one, which no recipe ends.
    model = await connect(brokers.url("b"));
    model.on("error", () => undefined);
    channel = await model.createChannel();
  }, BROKER_START_MS);

  afterEach(async () => {
    await Promise.all(going.splice(0).map((one) => one.end("SIGKILL")));
  }, TEST_MS);

  afterAll(async () => {
    await model?.close().catch(() => undefined);
    await brokers?.down();
    if (dir !== undefined) rmSync(dir, { recursive: true, force: true });
  }, BROKER_START_MS);

  function script(name: string, body: string): void {
    writeFileSync(join(dir, name), `#!/bin/sh\n${body}\n`);
    chmodSync(join(dir, name), 0o755);
  }

  async function sh(block: string, own: Record<string, string> = {}): Promise<Done> {
    const one = new Going(block, { ...env, ...own }, dir);
    return one.ended();
  }

  function start(block: string, own: Record<string, string> = {}): Going {
    const one = new Going(block, { ...env, ...own }, dir);
    going.push(one);
    return one;
  }

  /** Until somebody consumes, a queue is not there, or nobody's. */
  async function consumed(queue: string, consumers = 1): Promise<void> {
    const isSo = async (): Promise<boolean> => {
      const probe = await model.createChannel();
      probe.on("error", () => undefined);
      try {
        return (await probe.checkQueue(queue)).consumerCount >= consumers;
      } catch {
        return false;
      } finally {
        await probe.close().catch(() => undefined);
      }
    };
    await until(isSo, 15_000, `${consumers} consumers of ${queue}`);
  }

  async function published(block: string, code = 0): Promise<void> {
    let last: Done | undefined;
    const isOut = async (): Promise<boolean> => {
      last = await sh(block);
      return last.code === code;
    };
    await until(isOut, 15_000, `exit ${code} of ${block}`).catch((error: unknown) => {
      throw new Error(`${String(error)}: the last one was ${JSON.stringify(last)}`);
    });
    expect(last).toEqual({ code, out: "", err: code === 0 ? "" : (last as Done).err });
  }

  async function got(queue: string): Promise<GetMessage> {
    let found: GetMessage | false = false;
    await until(
      async () => {
        found = await channel.get(queue, { noAck: true });
        return found !== false;
      },
      10_000,
      `a message in ${queue}`,
    );
    return found as unknown as GetMessage;
  }

  async function bound(queue: string, exchange: string, key: string): Promise<void> {
    await channel.assertExchange(exchange, "topic", { durable: true });
    await channel.assertQueue(queue, { durable: true });
    await channel.bindQueue(queue, exchange, key);
  }

  function put(queue: string, bodies: readonly string[]): void {
    for (const [index, body] of bodies.entries())
      channel.sendToQueue(queue, Buffer.from(body), { persistent: true, messageId: `${queue}-${index}` });
  }

  function read(name: string): string {
    return existsSync(join(dir, name)) ? readFileSync(join(dir, name), "utf8") : "";
  }

  function lines(name: string): string[] {
    return read(name)
      .split("\n")
      .filter((line) => line !== "");
  }

  test(
    "begin: one subscribes, one publishes",
    async () => {
      const [subscribing, publishing] = blocksOf("Begin") as [string, string];
      const consumer = start(subscribing);
      await published(publishing);
      await until(() => consumer.out !== "", 10_000, "a line");
      expect(consumer.out).toBe('alert.disk\t{"host":"a","free":17}\n');
      expect((await consumer.end()).code).toBe(143);
    },
    TEST_MS,
  );

  test(
    "publish JSON",
    async () => {
      const [one, many, typed, making] = blocksOf("Publish JSON") as [string, string, string, string];
      expect((await sh(one)).code).toBe(3);
      await channel.assertExchange("whapps", "topic", { durable: true });
      expect((await sh(one)).code).toBe(5);
      expect(await sh(making)).toMatchObject({ code: 0, out: expect.stringMatching(/nothing there: exit 1\n$/) });
      await published(one);
      const { content, properties, fields } = await got("seen");
      expect(content.toString()).toBe(
        '{"Event-Category":"presence","Event-Name":"update","Number":18446744073709551615}',
      );
      expect(properties).toMatchObject({ contentType: "application/json", deliveryMode: 2 });
      expect([fields.routingKey, String(properties.messageId).length > 8]).toEqual(["presence.update", true]);
      writeFileSync(join(dir, "events"), Array.from({ length: 500 }, (_, index) => `{"n":${index}}\n`).join(""));
      await published(many);
      const bodies: string[] = [];
      while (bodies.length < 500) bodies.push((await got("seen")).content.toString());
      expect(bodies.map((body) => JSON.parse(body).n)).toEqual(Array.from({ length: 500 }, (_, index) => index));
      await published(typed);
      expect((await got("seen")).properties.headers).toMatchObject({
        tries: 3,
        who: ["a", { b: true }],
        k: "v",
        k2: "v2",
      });
      await channel.deleteQueue("seen");
    },
    TEST_MS,
  );

  test(
    "publish, and wait for the answer; decide on a route",
    async () => {
      const [answering, asking] = blocksOf("Publish, and wait for the correlated answer") as [string, string];
      const [deciding] = blocksOf("Decide on a route in real time, without a database") as [string];
      script("lookup", 'cat >>asked; printf \'{"Gateways":[{"host":"192.0.2.7"}],"Id":12345678901234567890}\'');
      const before = performance.now();
      expect((await sh(asking.replace("2s", "20s"))).code).toBe(5);
      // At once, and not when the time for an answer is over.
      expect(performance.now() - before).toBeLessThan(10_000);
      start(answering);
      await consumed("lookup");
      expect(await sh(asking)).toEqual({
        ...{ code: 0, err: "" },
        out: '{"Gateways":[{"host":"192.0.2.7"}],"Id":12345678901234567890}',
      });
      expect(read("asked")).toBe('{"Number":"+49301234"}');
      expect(await sh(deciding, { NUMBER: "+49305678" })).toEqual({ code: 0, out: "192.0.2.7\n", err: "" });
      script("lookup", "sleep 5");
      expect((await sh(asking.replace("2s", "300ms"))).code).toBe(6);
    },
    TEST_MS,
  );

  test(
    "subscribe, with options and with the JSON of kazoo_subscribe",
    async () => {
      const [byOptions, byJson] = blocksOf("Subscribe to an exchange with a routing key") as [string, string];
      const first = start(byOptions);
      await published("dmq amqp publish whapps presence.a one");
      await published("dmq amqp publish whapps call.b.c two");
      expect(await first.ended()).toEqual({ code: 0, out: "presence.a\tone\ncall.b.c\ttwo\n", err: "" });
      const second = start(byJson);
      await consumed("kz");
      await published("dmq amqp publish kazoo presence.x.y '{}'");
      expect(await second.ended()).toMatchObject({ code: 0, out: "presence.x.y\t{}\n" });
    },
    TEST_MS,
  );

  test(
    "workers: four at a time, one call's messages one after the other",
    async () => {
      const [working] = blocksOf("Workers, so that the one who talks to the broker is not held up") as [string];
      script("slow", 'read -r line; echo "begin $line" >>calls; sleep 0.3; echo "end $line" >>calls');
      const consumer = start(working);
      await consumed("calls");
      for (let index = 0; index < 12; index++)
        channel.publish("calls", "c", Buffer.from(JSON.stringify({ "Call-ID": `c${index % 4}`, n: index })));
      await until(() => lines("calls").length === 24, 20_000, "all are handled");
      let running = 0;
      let most = 0;
      const handled = new Map<string, number[]>();
      const open = new Set<string>();
      for (const line of lines("calls")) {
        const [what, body] = [line.split(" ", 1)[0], JSON.parse(line.slice(line.indexOf("{")))] as [
          string,
          { "Call-ID": string; n: number },
        ];
        running += what === "begin" ? 1 : -1;
        most = Math.max(most, running);
        const call = body["Call-ID"];
        if (what === "end") open.delete(call);
        else {
          expect(open.has(call)).toBeFalse();
          open.add(call);
          handled.set(call, [...(handled.get(call) ?? []), body.n]);
        }
      }
      expect(most).toBeGreaterThan(1);
      expect(most).toBeLessThanOrEqual(4);
      for (const numbers of handled.values()) expect(numbers).toEqual([...numbers].sort((a, b) => a - b));
      expect((await consumer.end()).code).toBe(143);
    },
    TEST_MS,
  );

  test(
    "handlers by the fields of the body, in a directory and without one",
    async () => {
      const [inFolder, onNames] = blocksOf("A handler for each kind of message, named by its fields") as [
        string,
        string,
      ];
      mkdirSync(join(dir, "handlers"));
      script("handlers/consumer-event-presence-update", 'echo "update $DMQ_ROUTING_KEY" >>handled');
      script("handlers/consumer-event", 'echo "other $DMQ_ROUTING_KEY" >>handled');
      const first = start(inFolder);
      await consumed("events");
      const [publishing] = blocksOf("Publish JSON") as [string];
      await published(publishing);
      await published(`dmq amqp publish whapps evil '{"Event-Category":"../../outside","Event-Name":"../x"}'`);
      await until(() => lines("handled").length === 2, 10_000, "both are handled");
      expect(lines("handled").sort()).toEqual(["other evil", "update presence.update"]);
      await first.end();
      const second = start(onNames);
      await consumed("events");
      await published(publishing);
      await published("dmq amqp publish whapps x 'no JSON'");
      await until(() => read("updates") !== "" && read("others") !== "", 10_000, "both are handled");
      expect([JSON.parse(read("updates"))["Event-Name"], read("others")]).toEqual(["update", "no JSON"]);
      await second.end();
      await channel.deleteQueue("events");
    },
    TEST_MS,
  );

  test(
    "in your own language: a handler, and the control socket",
    async () => {
      const [handling, calling] = blocksOf("In your own language") as [string, string];
      const consumer = start(handling);
      await consumed("orders");
      const daemon = await serve("own");
      const done = await sh(calling, { DMQ_SOCKET: daemon });
      expect(JSON.parse(done.out)).toMatchObject({ id: 1, result: { repeats: 0, spooled: false } });
      expect(done.out).not.toContain("guest:guest");
      expect(await consumer.ended()).toEqual({ code: 0, out: "orders 7\n", err: "" });
    },
    TEST_MS,
  );

  /** A daemon with the brokers of the variable. @returns its control socket */
  async function serve(name: string, own: Record<string, string> = {}): Promise<string> {
    const socket = join(dir, `${name}.sock`);
    const uri = await freeAddress();
    start(`dmq serve --server-address ${uri} --socket ${socket} --state-dir ${join(dir, name)} --log-level error`, own);
    await until(async () => (await dmq(["status", "--socket", socket])).code === 0, 15_000, `the daemon ${name}`);
    return socket;
  }

  test(
    "Kazoo's applications: what they read is in the body, both ways",
    async () => {
      const [answering, asking] = blocksOf("Kazoo's applications") as [string, string];
      script("registrar", 'cat >kazoo; echo \'{"Contact":"sip:alice@192.0.2.9","Id":98765432109876543210}\'');
      await bound("wire", "registrar", "reg.#");
      const consumer = start(answering);
      // Somebody reads along; the exchange being there, the question must find the one who answers.
      await until(async () => (await sh(asking)).code === 0, 15_000, "an answer");
      await channel.purgeQueue("wire");
      const { code, out, err } = await sh(asking);
      expect([code, err]).toEqual([0, ""]);
      const asked = (await got("wire")).content.toString();
      expect(asked).toStartWith('{"User":"alice","Account":12345678901234567890,"App-Name":"dmq","App-Version":"');
      const members = JSON.parse(asked) as Record<string, string>;
      expect(Object.keys(members)).toEqual([
        "User",
        "Account",
        "App-Name",
        "App-Version",
        "Node",
        "Msg-ID",
        "Server-ID",
      ]);
      expect(members.Node).toStartWith("dmq@");
      expect(members["Server-ID"]).toMatch(/^dmq@.+-\d+-targeted-\d+$/);
      expect(out).toStartWith('{"Contact":"sip:alice@192.0.2.9","Id":98765432109876543210,"App-Name":"dmq"');
      expect(JSON.parse(out)["Msg-ID"]).toBe(members["Msg-ID"]);
      const handled = JSON.parse(read("kazoo")) as Record<string, unknown>;
      expect(handled).toMatchObject({
        "AMQP-Broker-Zone": "local",
        "Server-ID": `consumer://2/${members["Server-ID"]}`,
      });
      expect(Math.abs((handled["AMQP-Received"] as number) - Date.now() / 1_000)).toBeLessThan(60);
      expect((await consumer.end()).code).toBe(143);
    },
    TEST_MS,
  );

  for (const [mode, heading, left] of [
    ["receipt", "Acknowledge as soon as it is here", 0],
    ["after", "Acknowledge when it was handled", 1],
  ] as const)
    test(
      `acknowledge: ${mode}, and the consumer is killed while its command runs`,
      async () => {
        const [block] = blocksOf(heading) as [string];
        await channel.assertQueue("jobs", { durable: true });
        await channel.purgeQueue("jobs");
        script("work", `echo begun >>begun-${mode}; sleep 30`);
        const consumer = start(block);
        await consumed("jobs");
        put("jobs", ["x"]);
        await until(() => existsSync(join(dir, `begun-${mode}`)), 10_000, "the command runs");
        await consumer.end("SIGKILL");
        const messages = async (): Promise<boolean> => {
          const { messageCount, consumerCount } = await channel.checkQueue("jobs");
          return consumerCount === 0 && messageCount === left;
        };
        await until(messages, 10_000, `${left} messages in the queue`);
        if (left === 0) return;
        script("work", 'echo "again $DMQ_REDELIVERED $(cat)" >>again');
        const heir = start(block);
        await until(() => read("again") !== "", 10_000, "it is handled");
        expect(read("again")).toBe("again 1 x\n");
        await heir.end();
      },
      TEST_MS,
    );

  test(
    "share the work: each message goes to one, and what a killed one held to another",
    async () => {
      const [block] = blocksOf("Share the work; go and come as you like") as [string];
      await channel.assertQueue("shared", { durable: true });
      script("work", 'sleep 0.05; echo "$WHO $(cat)" >>"$HOME/shared"');
      put(
        "shared",
        Array.from({ length: 30 }, (_, index) => `waiting ${index}`),
      );
      const [one, two] = ["one", "two"].map((who) => start(block.replace("./work", `"WHO=${who} ./work"`)));
      await consumed("shared", 2);
      put(
        "shared",
        Array.from({ length: 30 }, (_, index) => `late ${index}`),
      );
      await until(() => lines("shared").length >= 20, 20_000, "some are handled");
      await (one as Going).end("SIGKILL");
      const bodies = (): Set<string> => new Set(lines("shared").map((line) => line.slice(line.indexOf(" ") + 1)));
      await until(() => bodies().size === 60, 20_000, "all are handled");
      expect(new Set(lines("shared").map((line) => line.split(" ", 1)[0]))).toEqual(new Set(["one", "two"]));
      await (two as Going).end();
    },
    TEST_MS,
  );

  test(
    "a broker dies: what is pending arrives nevertheless",
    async () => {
      const [publishing, handling] = blocksOf("A broker dies, and pending messages arrive nevertheless") as [
        string,
        string,
      ];
      await brokers.ctl("b", "set_policy", "ha", "^work$", '{"ha-mode":"all","ha-sync-mode":"automatic"}');
      await channel.assertQueue("work", { durable: true });
      const jobs = Array.from({ length: 400 }, (_, index) => `job ${index}`);
      writeFileSync(join(dir, "jobs"), `${jobs.join("\n")}\n`);
      script("work", 'line=$(cat); echo "$line" >>"$HOME/worked"');
      const consumer = start(handling);
      await consumed("work");
      const publisher = start(publishing);
      await until(() => lines("worked").length >= 20, 20_000, "the first are handled");
      brokers.kill("a");
      expect(await publisher.ended()).toMatchObject({ code: 0 });
      await until(() => new Set(lines("worked")).size === jobs.length, 60_000, "all are handled").catch(
        (error: unknown) => {
          throw new Error(`${String(error)}: ${new Set(lines("worked")).size} are; ${consumer.err}`);
        },
      );
      expect(new Set(lines("worked"))).toEqual(new Set(jobs));
      expect((await consumer.end()).code).toBe(143);
    },
    TEST_MS,
  );

  test(
    "no broker: a message is stored, and goes out when there is one",
    async () => {
      const [block] = blocksOf("No broker at all for a while") as [string];
      // The first broker is still dead, and this daemon knows no other.
      const socket = await serve("spool", { DMQ_AMQP_URL: brokers.url("a") });
      expect(await sh(block, { DMQ_SOCKET: socket })).toEqual({ code: 0, out: "", err: "" });
      const kept = async (): Promise<number> => {
        const { stdout } = await dmq(["queue", "size", "amqp.spool", "--json", "--socket", socket]);
        const { ready, delayed, leased } = JSON.parse(stdout) as Record<"ready" | "delayed" | "leased", number>;
        return ready + delayed + leased;
      };
      expect(await kept()).toBe(1);
      await channel.assertQueue("later", { durable: true });
      await brokers.start("a");
      const { content, properties } = await got("later");
      expect([content.toString(), properties.deliveryMode]).toEqual(['{"n":1}', 2]);
      await until(async () => (await kept()) === 0, 10_000, "the spool is empty");
    },
    TEST_MS,
  );

  test(
    "a channel into an exchange, and an exchange into a channel",
    async () => {
      const [block] = blocksOf("Between the bus and the brokers") as [string];
      await bound("bus.seen", "bus", "alert.#");
      const uri = await freeAddress();
      const socket = join(dir, "bridge.sock");
      start(block, { URI: uri, DMQ_SOCKET: socket, DMQ_STATE_DIR: join(dir, "bridge") });
      await until(async () => (await dmq(["status", "--socket", socket])).code === 0, 15_000, "the bridge");
      const other = join(dir, "other.sock");
      start(
        `dmq serve --server-address ${await freeAddress()} --notification-address ${uri} --socket ${other} --no-snapshot`,
      );
      const isMet = async (): Promise<boolean> =>
        (await dmq(["wait", "members=2", "--socket", other, "--timeout", "5s"])).code === 0;
      await until(isMet, 15_000, "two nodes");
      const listener = start(`dmq listen news -n 1 -W 20s --plain --socket ${other}`);
      await until(
        async () => (await dmq(["wait", "channel=news", "--socket", other, "--timeout", "5s"])).code === 0,
        15_000,
        "a listener",
      );
      const sent = await dmq(["bcast", "--socket", other, "alerts", "disk full"]);
      expect(sent.stdout).toContain("\t200\t");
      const { content, fields, properties } = await got("bus.seen");
      expect([content.toString(), fields.routingKey, properties.contentType]).toEqual([
        "disk full",
        "alert.alerts",
        "text/plain",
      ]);
      channel.publish("bus", "news.local", Buffer.from("hello"), { contentType: "text/plain" });
      expect((await listener.ended()).out).toContain("\thello\n");
    },
    TEST_MS,
  );

  test("each block of the page is run by one of these", () => {
    expect([...BLOCKS.keys()].filter((heading) => !used.has(heading))).toEqual([]);
  });
});
