// needs programs: rabbitmq-server kamailio kamcmd curl jq
/**
 * Two compiled nodes that bridge a bus of real Kamailio nodes and an exchange of a real broker (amqp.md B12 12). Goal: nothing goes round,
 * a Kamailio's 200 means that the message is stored, its 503 comes before it gives the node up, and when one bridge is killed nothing is
 * missing and nothing is out of order.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { AmqpClient } from "../../src/amqp/client.ts";
import type { Delivery } from "../../src/amqp/message.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import { watch } from "../helpers/amqp.ts";
import { type Daemon, Daemons } from "../helpers/daemon.ts";
import { expectHealthy, type KamailioNode, type Lab, labProblem, startLab } from "../helpers/kamailio.ts";
import { BROKER_START_MS, type Brokers, brokerProblem, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

const WAIT_MS = 15_000;
const TEST_MS = 90_000;

const EAST = "sip:127.0.0.35:5564";
const WEST = "sip:127.0.0.36:5564";

const octets = (text: string): Uint8Array => new TextEncoder().encode(text);
const md5 = (body: Uint8Array): string => createHash("md5").update(body).digest("hex");
const textOf = ({ body }: { body: Uint8Array }): string => Buffer.from(body).toString();
const numbers = (word: string, count: number): string[] => Array.from({ length: count }, (_, n) => `${word}-${n}`);

describeBroker(
  "bridges between Kamailio nodes and a broker",
  () => {
    let brokers: Brokers;
    let lab: Lab;
    let one: KamailioNode;
    let two: KamailioNode;
    let client: AmqpClient;
    let daemons: Daemons;
    const bridges = new Map<string, Daemon>();
    let seen: Delivery[] = [];

    beforeAll(async () => {
      daemons = new Daemons();
      brokers = await startBrokers();
      client = new AmqpClient({ brokers: parseBrokers([brokers.url()]), connectTimeoutMs: 1_500 });
      client.start();
      seen = await watch(client, "sip", "watch");
      lab = await startLab({ port: 5584 });
      [one, two] = lab.nodes as [KamailioNode, KamailioNode];
      await serve(EAST);
      await serve(WEST);
    }, BROKER_START_MS + TEST_MS);

    afterAll(async () => {
      await daemons?.endAll();
      await client?.close();
      await lab?.down();
      await brokers?.down();
    }, BROKER_START_MS);

    async function serve(uri: string): Promise<void> {
      const name = uri === EAST ? "east" : "west";
      const daemon = await daemons.serve(name, uri, [
        ...["--ping-interval", "5", "--request-timeout", "2s", "--log-level", "warn", "--amqp", brokers.url()],
        ...["--notification-address", one.uri, "--state-dir", join(daemons.dir, name)],
        ...["--link", "channel:lab -> exchange:sip/lab.{from.host|enc};lock=lab;standby=20s;name=out"],
        ...["--link", "exchange:sip/lab.# -> channel:lab;name=in"],
        ...["--link", "channel:lab-quick -> exchange:sip/quick;until=confirmed;name=quick"],
        ...["--link", "exchange:seq/# -> channel:lab-seq;ordered;name=seq"],
      ]);
      for (const node of lab.nodes)
        await until(() => isActiveAt(node, uri), 12_000, `${node.uri} has ${uri} as active`);
      await until(async () => ((await daemon.status()).peers.active ?? 0) >= 2, 12_000, `${uri} has both as active`);
      bridges.set(uri, daemon);
    }

    async function kill(uri: string): Promise<void> {
      await bridges.get(uri)?.end("SIGKILL");
      bridges.delete(uri);
    }

    /** The bridge whose link has had messages. */
    async function consumerOf(link: string): Promise<string> {
      for (const [uri, bridge] of bridges) {
        const { links } = await bridge.status();
        if (links.some(({ name, in: taken }) => name === link && taken > 0)) return uri;
      }
      throw new Error(`no bridge has had messages of link ${link}`);
    }

    async function isActiveAt(node: KamailioNode, uri: string): Promise<boolean> {
      return (await node.list()).some(({ host, status }) => uri.includes(`:${host}:`) && status === "active");
    }

    async function messagesIn(queue: string): Promise<number> {
      const [reply] = await client.topology([{ do: "declare-queue", name: queue, passive: true }]);
      return reply?.messages ?? -1;
    }

    const times = (body: string): number => seen.filter((delivery) => textOf(delivery) === body).length;

    /** Which of `words` a Kamailio has had of a channel, in the order of their arrival. */
    function arrived(node: KamailioNode, channel: string, words: readonly string[]): string[] {
      const known = new Map(words.map((word) => [md5(octets(word)), word]));
      return node.arrivals(channel).flatMap((arrival) => known.get(arrival.md5) ?? []);
    }

    async function send(word: string): Promise<void> {
      expect(await one.bcast("lab", octets(word))).toBe(200);
    }

    /** @returns the bridge that holds the lock, where it publishes each message, once, and the other one none */
    async function publisher(): Promise<string | undefined> {
      const word = `settled-${crypto.randomUUID()}`;
      const publishersOf = (body: string): string[] =>
        seen.filter((each) => textOf(each) === body).map((each) => String(each.headers?.["x-dmq-node"]));
      await send(word);
      await until(() => times(word) > 0, WAIT_MS, "somebody publishes");
      // The other one would have by the time that this one is through.
      await send(`${word}-2`);
      await until(() => times(`${word}-2`) > 0, WAIT_MS, "somebody publishes");
      const [first, ...others] = publishersOf(word);
      return others.length === 0 && publishersOf(`${word}-2`).every((each) => each === first) ? first : undefined;
    }

    test(
      "octets of a Kamailio are at the broker, and back at both of them from an application, once, and nothing goes round",
      async () => {
        await until(publisher, WAIT_MS, "one of them has the lock");
        const body = Uint8Array.from({ length: 512 }, (_, index) => index % 256);
        expect(await one.bcast("lab", body, "application/json")).toBe(200);
        const published = await until(() => seen.find((each) => md5(each.body) === md5(body)), WAIT_MS, "it is there");
        expect(published).toMatchObject({
          ...{ contentType: "application/json", routingKey: `lab.${one.ip.replaceAll(".", "%2E")}`, appId: "dmq" },
          headers: { "x-dmq-from": one.uri, "x-dmq-channel": "lab", "x-dmq-path": ["bus=dmq/out"] },
        });
        const back = Uint8Array.from({ length: 512 }, (_, index) => 255 - (index % 256));
        await client.publish({ exchange: "sip", routingKey: "lab.app", body: back });
        for (const node of lab.nodes) await until(() => node.hasReceived("lab", back), WAIT_MS, `${node.uri} has it`);
        await until(() => brokers.isDrained("dmq.dmq.in"), WAIT_MS, "the broker has nothing left");
        await send("last");
        await until(
          () => times("last") === 1 && two.hasReceived("lab", octets("last")),
          WAIT_MS,
          "the next one is there",
        );
        const copies = (node: KamailioNode, of: Uint8Array): number =>
          node.arrivals("lab").filter((arrival) => arrival.md5 === md5(of)).length;
        expect([copies(one, body), copies(two, body), copies(one, back), copies(two, back)]).toEqual([0, 1, 1, 1]);
        expect(seen.filter((each) => md5(each.body) === md5(body))).toHaveLength(1);
        expect(seen.filter((each) => md5(each.body) === md5(back))).toHaveLength(1);
        await expectHealthy(lab.nodes);
      },
      TEST_MS,
    );

    test(
      "a broker that hangs: what Kamailio sends is stored, and 200; with until=confirmed it is 503 before Kamailio gives up",
      async () => {
        const [refused, late] = [await one.counter("5xx"), await one.counter("4xx")];
        brokers.freeze("a");
        try {
          for (const word of numbers("stored", 10)) await send(word);
          expect(await one.bcast("lab-quick", octets("quick"))).toBe(200);
          // Both bridges say so, and nobody is silent for the two seconds that this Kamailio waits.
          await until(async () => (await one.counter("5xx")) === refused + 2, WAIT_MS, "both have said 503");
          expect(await one.counter("4xx")).toBe(late);
          for (const uri of [EAST, WEST]) expect(await isActiveAt(one, uri)).toBe(true);
        } finally {
          brokers.thaw("a");
        }
        const words = numbers("stored", 10);
        await until(() => words.every((word) => times(word) > 0), WAIT_MS * 2, "all is published");
        const order = seen.map(textOf).filter((text) => words.includes(text));
        expect([...new Set(order)]).toEqual(words);
      },
      TEST_MS,
    );

    test(
      "the bridge that publishes is killed: nothing is missing",
      async () => {
        const holder = await until(publisher, WAIT_MS * 2, "one of them has the lock");
        const words = numbers("killed", 120);
        for (const [index, word] of words.entries()) {
          await send(word);
          if (index === 40) await kill(holder);
        }
        await until(() => words.every((word) => times(word) > 0), WAIT_MS * 2, "all is published");
        const nodes = new Set(
          seen.filter((each) => words.includes(textOf(each))).map((each) => each.headers?.["x-dmq-node"]),
        );
        expect(nodes.size).toBe(2);
        await serve(holder);
        await until(publisher, WAIT_MS * 2, "one of them has the lock");
      },
      TEST_MS,
    );

    test(
      "ordered: the bridge that consumes is killed, and Kamailio has all in order",
      async () => {
        const words = numbers("ordered", 200);
        for (const word of words.slice(0, 100))
          await client.publish({ exchange: "seq", routingKey: "k", body: octets(word) });
        await until(() => arrived(one, "lab-seq", words).length > 10, WAIT_MS, "some are there");
        await kill(await consumerOf("seq"));
        for (const word of words.slice(100))
          await client.publish({ exchange: "seq", routingKey: "k", body: octets(word) });
        for (const node of lab.nodes) {
          const all = (): boolean => new Set(arrived(node, "lab-seq", words)).size === words.length;
          await until(all, WAIT_MS * 2, `${node.uri} has all`);
          // What was under way when it was killed may come twice, next to itself.
          const order = arrived(node, "lab-seq", words);
          expect(order.filter((word, index) => word !== order[index - 1])).toEqual(words);
        }
        expect(await messagesIn("dmq.dmq.seq")).toBe(0);
        await expectHealthy(lab.nodes);
      },
      TEST_MS,
    );
  },
  labProblem() ?? brokerProblem(),
);
