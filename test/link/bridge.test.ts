/**
 * Links with a broker at one end (amqp.md B9), over nodes with real sockets and a store on disk; the broker is one of ours, so that it
 * can be cut off and looked into. What a real one does with the same links is in test/amqp.
 */
import { afterEach, describe, expect, test } from "bun:test";
import type { Publication } from "../../src/amqp/message.ts";
import { SPOOL } from "../../src/amqp/spool.ts";
import type { RunningNode } from "../../src/daemon/driver.ts";
import { deadQueue } from "../../src/link/bridge.ts";
import { FakeBroker, type FakeClient } from "../helpers/fake-broker.ts";
import { type Linked, type LinkedOptions, linkedNodes, meet, request } from "../helpers/linked.ts";
import { until } from "../helpers/wait.ts";

const TEST_MS = 20_000;
const WAIT_MS = 8_000;

const { linked, plain, wire, closeAll } = linkedNodes();

afterEach(closeAll);

const octets = (text: string): Uint8Array => new TextEncoder().encode(text);
const textOf = ({ body }: { body: Uint8Array }): string => new TextDecoder().decode(body);

interface Bridged {
  one: Linked;
  broker: FakeBroker;
  client: FakeClient;
  ask: (body: string, id: string, headers?: readonly string[]) => Promise<string>;
}

/** A node with links, a broker, and a sender. */
async function bridged(links: readonly string[], more: LinkedOptions & { broker?: FakeBroker } = {}): Promise<Bridged> {
  const { broker = new FakeBroker(), ...options } = more;
  const client = broker.client();
  const one = await linked({ links, client, ...options });
  const send = await wire();
  return { one, broker, client, ask: (body, id, headers) => send(one.node, request(one.node, body, id, headers)) };
}

function bind(broker: FakeBroker, exchange: string, queue: string): void {
  broker.exchanges.add(exchange);
  if (!broker.queues.has(queue)) broker.queue(queue);
  broker.bindings.push({ exchange, key: "#", queue });
}

function published(broker: FakeBroker, count: number): Promise<unknown> {
  return until(() => broker.published.length >= count, WAIT_MS, `${count} are published`);
}

/** From an application that knows nothing of us. */
function foreign(broker: FakeBroker, queue: string, body: string, more: Partial<Publication> = {}): void {
  broker.put(queue, { exchange: "sip", routingKey: "alert.x", body: octets(body), ...more });
}

function pendingIn(broker: FakeBroker, queue: string): number {
  const found = broker.queues.get(queue);
  return found?.consumers.reduce((sum, { pending }) => sum + pending.size, 0) ?? 0;
}

function isSettled(broker: FakeBroker, queue: string): boolean {
  return broker.queues.get(queue)?.waiting.length === 0 && pendingIn(broker, queue) === 0;
}

const OUT = "channel:alerts -> exchange:sip/alert.{from.host|enc};name=out";

describe("channel -> exchange", () => {
  test("until=stored: 200 when it is in the spool, and then it is published, with its fields", async () => {
    const { broker, client, ask, one } = await bridged([OUT]);
    bind(broker, "sip", "q");
    expect(await ask('{"n":12345678901234567890}', "a", ["X-DMQ-Path: n/l"])).toStartWith("SIP/2.0 200 ");
    await published(broker, 1);
    expect(broker.published).toMatchObject([
      {
        ...{ exchange: "sip", routingKey: "alert.127%2E0%2E0%2E1", contentType: "application/json", persistent: true },
        ...{ messageId: "a@127.0.0.1;10 KDMQ;a", appId: "dmq" },
        headers: { "x-dmq-from": "sip:127.0.0.1:9", "x-dmq-node": one.node.uri(), "x-dmq-channel": "alerts" },
      },
    ]);
    expect(broker.published[0]?.headers?.["x-dmq-path"]).toEqual(["n/l", "bus=dmq/out"]);
    expect(broker.published.map(textOf)).toEqual(['{"n":12345678901234567890}']);
    expect(client.declared).toBe(1);
    expect(one.links.status()).toMatchObject([{ name: "out", in: 1, out: 1, failed: 0 }]);
  });

  test("a retransmission is published once; a second link of the channel has it, too", async () => {
    const { broker, ask } = await bridged([OUT, "channel:alerts -> exchange:other;name=second"]);
    for (const name of ["sip", "other"]) bind(broker, name, "q");
    for (let times = 0; times < 3; times++) expect(await ask("x", "same")).toStartWith("SIP/2.0 200 ");
    expect(await ask("y", "next")).toStartWith("SIP/2.0 200 ");
    await published(broker, 4);
    const seen = broker.published.map((one) => `${one.exchange} ${textOf(one)}`);
    expect(seen.sort()).toEqual(["other x", "other y", "sip x", "sip y"]);
  });

  test(
    "while no broker is there, 200 says that it is stored; all of it is published then, in order",
    async () => {
      const { broker, client, ask, one } = await bridged([OUT]);
      bind(broker, "sip", "q");
      client.cut();
      for (let n = 0; n < 20; n++) expect(await ask(`m${n}`, `id${n}`)).toStartWith("SIP/2.0 200 ");
      expect(broker.published).toEqual([]);
      client.mend();
      await published(broker, 20);
      expect(broker.published.map(textOf)).toEqual(Array.from({ length: 20 }, (_, n) => `m${n}`));
      await until(() => one.isEmpty(SPOOL), WAIT_MS, "the spool is empty");
    },
    TEST_MS,
  );

  test("what no queue of the broker takes is a dead letter of the spool, unless it need not be taken", async () => {
    const { broker, ask, one } = await bridged([OUT, "channel:alerts -> exchange:any;mandatory=no"]);
    expect(await ask("x", "a")).toStartWith("SIP/2.0 200 ");
    const dead = await until(async () => (await one.dead(SPOOL))[0], WAIT_MS, "it is dead");
    expect(dead.reason).toContain("unroutable");
    await published(broker, 1);
    expect(broker.published.map(({ exchange }) => exchange)).toEqual(["any"]);
  });

  test(
    "until=confirmed: 200 when the broker has it, 503 in time when it does not say so, or nobody takes it",
    async () => {
      const { broker, client, ask, one } = await bridged([`${OUT};until=confirmed`]);
      expect(await ask("lost", "a")).toStartWith("SIP/2.0 503 ");
      bind(broker, "sip", "q");
      expect(await ask("x", "b")).toStartWith("SIP/2.0 200 ");
      expect(broker.published.map(textOf)).toEqual(["x"]);
      client.cut();
      const began = performance.now();
      const answer = await ask("y", "c");
      expect(performance.now() - began).toBeLessThan(1_500);
      expect(answer).toStartWith("SIP/2.0 503 ");
      expect(answer).toContain("\r\nRetry-After: ");
      expect(one.links.status()).toMatchObject([{ in: 3, out: 1, failed: 2 }]);
    },
    TEST_MS,
  );

  test("until=received: 200 whatever becomes of it", async () => {
    const { broker, ask, one } = await bridged([`${OUT};until=received`], { queues: ["name=amqp.spool;max-value=3"] });
    bind(broker, "sip", "q");
    expect(await ask("x", "a")).toStartWith("SIP/2.0 200 ");
    await published(broker, 1);
    expect(await ask("four", "b")).toStartWith("SIP/2.0 200 ");
    await until(() => one.warnings.some((text) => text.includes("not stored")), WAIT_MS, "the log has it");
  });

  test("a routing key that no broker can have is 413", async () => {
    const { broker, ask } = await bridged(["channel:alerts -> exchange:sip/{json:k}"]);
    bind(broker, "sip", "q");
    expect(await ask(JSON.stringify({ k: "x".repeat(256) }), "a")).toStartWith("SIP/2.0 413 ");
    expect(await ask(JSON.stringify({ k: "x".repeat(255) }), "b")).toStartWith("SIP/2.0 200 ");
    await published(broker, 1);
  });

  const loops: [name: string, path: string][] = [
    ["what came from that exchange", "exchange=local%3Asip/in"],
    ["what went this way before", "bus=dmq/out"],
    ["what has eight hops", "a/1, a/2, a/3, a/4, a/5, a/6, a/7, a/8"],
  ];
  for (const [name, path] of loops)
    test(`${name} is 202 and not published`, async () => {
      const { broker, ask, one } = await bridged([OUT]);
      bind(broker, "sip", "q");
      expect(await ask("x", "a", [`X-DMQ-Path: ${path}`])).toStartWith("SIP/2.0 202 ");
      expect(await one.isEmpty(SPOOL)).toBe(true);
      expect(one.links.status()).toMatchObject([{ in: 1, out: 0, held_back: 1 }]);
    });
});

describe("queue -> exchange", () => {
  test(
    "items wait for a broker and go out in order; what is refused is a dead letter",
    async () => {
      const { broker, client, one } = await bridged(["queue:out -> exchange:sip/{key|enc};priority=3"]);
      bind(broker, "sip", "q");
      client.cut();
      const values = Array.from({ length: 30 }, (_, n) => `v.${n}`);
      await one.add("out", ...values);
      client.mend();
      await published(broker, 30);
      expect(broker.published.map(textOf)).toEqual(values);
      expect(broker.published[3]).toMatchObject({ routingKey: "v%2E3", priority: 3, contentType: "text/plain" });
      expect(new Set(broker.published.map(({ messageId }) => messageId)).size).toBe(30);
      await until(() => one.isEmpty("out"), WAIT_MS, "all are acknowledged");
      broker.bindings.splice(0);
      await one.add("out", "lost");
      const dead = await until(async () => (await one.dead("out"))[0], WAIT_MS, "it is dead");
      expect(dead.reason).toContain("unroutable");
      expect(one.links.status()).toMatchObject([{ in: 31, out: 30, failed: 1 }]);
    },
    TEST_MS,
  );

  test("what came from that exchange does not go there again", async () => {
    const links = ["exchange:sip -> queue:q", "queue:q -> exchange:sip/out"];
    const { broker, one } = await bridged(links);
    foreign(broker, "dmq.dmq.exchange:sip>queue:q", "x");
    const dead = await until(async () => (await one.dead("q"))[0], WAIT_MS, "it is dead");
    expect(dead.reason).toBe("loop: it comes from exchange sip");
    expect(broker.published).toEqual([]);
  });

  test("a daemon that ends while no broker is there gives its items back", async () => {
    const { client, one } = await bridged(["queue:out -> exchange:sip"]);
    client.cut();
    await one.add("out", "a", "b");
    await until(async () => (await one.sizes("out")).leased === 1, WAIT_MS, "one is under way");
    await one.links.close();
    expect(await one.sizes("out")).toMatchObject({ ready: 2, leased: 0, dead: 0 });
    expect((await one.items("out")).map(({ tries }) => tries)).toEqual([0, 0]);
  });
});

const IN = "exchange:sip/alert.# -> channel:lab;name=in";
const IN_QUEUE = "dmq.dmq.in";

describe("exchange -> channel", () => {
  test("all nodes have it, with its fields, and the broker may forget it", async () => {
    const { broker, one } = await bridged([`${IN};headers=Kind,Evil`]);
    const two = await plain(() => 200);
    await meet(one.node, two.node);
    foreign(broker, IN_QUEUE, "x", {
      ...{ messageId: "m-1", correlationId: "c-1", contentEncoding: "gzip", contentType: "text/x;charset=utf-8" },
      headers: { kind: "disk", Evil: "a\r\nX-Evil: yes", unasked: "x", "x-dmq-path": ["n/l"] },
    });
    await until(() => isSettled(broker, IN_QUEUE) && two.messages[0], WAIT_MS, "it is through");
    const [message] = two.messages;
    expect(message).toMatchObject({ messageId: "m-1", contentType: "text/x;charset=utf-8" });
    const headers = message?.request.headers;
    const names = ["X-DMQ-Correlation-Id", "Content-Encoding", "X-DMQ-H-Kind", "X-DMQ-H-Evil", "X-Evil", "X-DMQ-Path"];
    expect(names.map((name) => headers?.get(name))).toEqual([
      ...["c-1", "gzip", "disk", undefined, undefined],
      "n/l, exchange=local%3Asip/in",
    ]);
    expect(one.links.status()).toMatchObject([{ in: 1, out: 1, failed: 0 }]);
  });

  test(
    "while no node is there, messages wait unacknowledged, up to prefetch, the rest with the broker",
    async () => {
      const { broker, one } = await bridged([`${IN};prefetch=3;jobs=2`]);
      for (let n = 0; n < 10; n++) foreign(broker, IN_QUEUE, `m${n}`);
      await until(() => pendingIn(broker, IN_QUEUE) === 3, WAIT_MS, "three are here");
      expect(broker.queues.get(IN_QUEUE)?.waiting).toHaveLength(7);
      const two = await plain(() => 200);
      await meet(one.node, two.node);
      await until(() => isSettled(broker, IN_QUEUE), WAIT_MS, "all are through");
      expect(two.bodies.sort()).toEqual(Array.from({ length: 10 }, (_, n) => `m${n}`));
    },
    TEST_MS,
  );

  test(
    "ordered: a node that says 503 has the message before the next one",
    async () => {
      const { broker, one } = await bridged([`${IN};ordered`]);
      expect(broker.queues.get(IN_QUEUE)?.isSingle).toBe(true);
      const two = await plain((_, count) => (count === 2 ? { status: 503, retryAfterSeconds: 1 } : 200));
      await meet(one.node, two.node);
      for (let n = 0; n < 5; n++) foreign(broker, IN_QUEUE, `m${n}`);
      await until(() => two.bodies.length === 6 && isSettled(broker, IN_QUEUE), WAIT_MS, "all are through");
      expect(two.bodies).toEqual(["m0", "m1", "m1", "m2", "m3", "m4"]);
    },
    TEST_MS,
  );

  const dead: [name: string, link: string, more: Partial<Publication>, reason: string][] = [
    ["that no node takes", `${IN};max-tries=1`, {}, "403"],
    ["that is too large", `${IN};max-body=3`, {}, "too-large"],
    [
      "for a channel that there cannot be",
      "exchange:sip -> channel:*;name=in",
      { routingKey: "a.b c" },
      "cannot be sent",
    ],
    ["for a channel of Kamailio's", "exchange:sip -> channel:*;name=in", { routingKey: "a.htable" }, "internal=yes"],
  ];
  for (const [name, link, more, reason] of dead)
    for (const where of ["here", "broker"])
      test(`a message ${name}, with dead=${where}`, async () => {
        const { broker, one } = await bridged([`${link};dead=${where}`], { closed: ["htable"] });
        const two = await plain(() => 403);
        await meet(one.node, two.node);
        foreign(broker, IN_QUEUE, "four", { headers: { kept: "yes" }, ...more });
        if (where === "here") {
          const item = await until(async () => (await one.dead(deadQueue({ name: "in" })))[0], WAIT_MS, "it is dead");
          expect(item.reason).toContain(reason);
          expect(new TextDecoder().decode(item.value)).toBe("four");
          expect(item.headers).toMatchObject({ kept: "yes" });
        } else await until(() => broker.rejected.length === 1, WAIT_MS, "it is rejected");
        await until(() => isSettled(broker, IN_QUEUE), WAIT_MS, "the broker may forget it");
      });

  test("the channel is the last word of the routing key, and one of Kamailio's with internal=yes", async () => {
    const link = "exchange:sip -> channel:*;internal=yes;name=in";
    const { broker, one } = await bridged([link], { closed: ["htable"] });
    const two = await plain(() => 200, undefined, "htable");
    await meet(one.node, two.node);
    foreign(broker, IN_QUEUE, "x", { routingKey: "to.htable" });
    await until(() => two.bodies.length === 1, WAIT_MS, "it is there");
  });

  test("to one node, named by a header", async () => {
    const { broker, one } = await bridged([`${IN};node={header.to}`]);
    const [two, three] = [await plain(() => 200), await plain(() => 200)];
    await meet(one.node, two.node, three.node);
    foreign(broker, IN_QUEUE, "x", { headers: { to: three.node.uri() } });
    await until(() => isSettled(broker, IN_QUEUE) && three.bodies.length === 1, WAIT_MS, "it is through");
    expect(two.bodies).toEqual([]);
  });

  test(
    "a body that comes back from a broker without our headers, again and again, pauses",
    async () => {
      const { broker, ask, one } = await bridged([OUT, IN]);
      bind(broker, "sip", "copies");
      const two = await plain(() => 200);
      await meet(one.node, two.node);
      expect(await ask("round", "a")).toStartWith("SIP/2.0 200 ");
      await published(broker, 1);
      for (let n = 0; n < 8; n++) foreign(broker, IN_QUEUE, "round");
      for (let n = 0; n < 8; n++) foreign(broker, IN_QUEUE, "not ours");
      await until(() => two.bodies.length === 13, WAIT_MS, "five of one, all of the other");
      await until(() => one.warnings.some((text) => text.includes("again and again")), WAIT_MS, "the log has it");
      expect(two.bodies.filter((body) => body === "round")).toHaveLength(5);
      await until(() => pendingIn(broker, IN_QUEUE) === 3, WAIT_MS, "the others are acknowledged");
    },
    TEST_MS,
  );
});

describe("both directions", () => {
  const pair = ["channel:lab -> exchange:sip/alert.x;name=out", IN];

  test(
    "over one exchange, on two nodes of a bus: each message is where it belongs, once, and nothing goes round",
    async () => {
      const broker = new FakeBroker();
      bind(broker, "sip", "watch");
      const [one, two] = [await bridged(pair, { broker }), await bridged(pair, { broker })];
      const three = await plain(() => 200);
      await meet(one.one.node, two.one.node, three.node);
      await meet(two.one.node, three.node);
      // From the bus: both bridges have it, because no lock says who publishes.
      await three.node.broadcast("lab", "from the bus");
      await published(broker, 2);
      await until(() => isSettled(broker, IN_QUEUE), WAIT_MS, "what came back is acknowledged");
      // From the broker: one bridge has it, and the other is a node of the bus as any.
      foreign(broker, IN_QUEUE, "from elsewhere");
      await until(() => three.bodies.length === 1 && isSettled(broker, IN_QUEUE), WAIT_MS, "it is on the bus");
      for (const { one: each } of [one, two]) await until(() => each.isEmpty(SPOOL), WAIT_MS, "nothing is on its way");
      expect(three.bodies).toEqual(["from elsewhere"]);
      expect(broker.published.map(textOf)).toEqual(["from the bus", "from the bus"]);
      const warnings = [...one.one.warnings, ...two.one.warnings].filter((text) => text.includes("--bus"));
      expect(warnings.length).toBeWithin(1, 3);
    },
    TEST_MS,
  );

  test(
    "two buses of different names are joined over one exchange, and nothing comes back",
    async () => {
      const broker = new FakeBroker();
      const links = (name: string): string[] => [
        `channel:lab -> exchange:sip/alert.x;name=${name}-out`,
        `${IN}-${name}`,
      ];
      const [west, east] = [
        await bridged(links("west"), { broker, bus: "west" }),
        await bridged(links("east"), { broker, bus: "east" }),
      ];
      const [w, e] = [await plain(() => 200), await plain(() => 200)];
      await meet(west.one.node, w.node);
      await meet(east.one.node, e.node);
      await w.node.broadcast("lab", "from the west");
      await until(() => e.bodies.length === 1, WAIT_MS, "the east has it");
      await e.node.broadcast("lab", "from the east");
      await until(() => w.bodies.length === 1, WAIT_MS, "the west has it");
      const queues = ["dmq.west.in-west", "dmq.east.in-east"];
      await until(() => queues.every((name) => isSettled(broker, name)), WAIT_MS, "all is acknowledged");
      expect([w.bodies, e.bodies]).toEqual([["from the east"], ["from the west"]]);
      expect(broker.published).toHaveLength(2);
    },
    TEST_MS,
  );
});

describe("broker -> queue", () => {
  test("stored with its fields, then acknowledged; a repetition of one message_id is stored once", async () => {
    const { broker, client, one } = await bridged(["amqp-queue:orders -> queue:orders;headers=Kind"]);
    broker.exchanges.add("shop");
    const order = { exchange: "shop", routingKey: "order.new", body: octets("{}"), messageId: "o-1" };
    const more = { contentType: "application/json", replyTo: "back", headers: { Kind: "new", other: "x" } };
    broker.put("orders", { ...order, ...more });
    await until(() => isSettled(broker, "orders"), WAIT_MS, "it is acknowledged");
    expect(await one.items("orders")).toMatchObject([
      {
        ...{ key: "order.new", contentType: "application/json", from: "shop", channel: null },
        headers: { "X-DMQ-Id": "o-1", "X-DMQ-Reply-To": "back", "X-DMQ-H-Kind": "new" },
        path: ["exchange=local%3Ashop/amqp-queue:orders>queue:orders"],
      },
    ]);
    client.cut();
    client.mend();
    broker.put("orders", { ...order, ...more });
    await until(() => isSettled(broker, "orders"), WAIT_MS, "it is acknowledged again");
    expect(await one.items("orders")).toHaveLength(1);
  });

  test(
    "a queue that is full leaves messages with the broker until there is room",
    async () => {
      const { broker, one } = await bridged(["exchange:sip -> queue:q;prefetch=2;name=in"], {
        queues: ["name=q;size=1;full=reject"],
      });
      for (const body of ["a", "b", "c", "d"]) foreign(broker, IN_QUEUE, body);
      await until(async () => (await one.values("q")).length === 1, WAIT_MS, "one is stored");
      expect(pendingIn(broker, IN_QUEUE)).toBe(2);
      expect(broker.queues.get(IN_QUEUE)?.waiting).toHaveLength(1);
      await one.store.perform({ type: "clear", queue: "q" });
      await until(async () => (await one.values("q")).length === 1, WAIT_MS, "the next one is stored");
      expect(one.links.status()).toMatchObject([{ failed: 0 }]);
    },
    TEST_MS,
  );

  test("what is too large for the queue is a dead letter of the link", async () => {
    const { broker, one } = await bridged(["exchange:sip -> queue:q;name=in"], { queues: ["name=q;max-value=3"] });
    foreign(broker, IN_QUEUE, "four");
    const dead = await until(async () => (await one.dead(deadQueue({ name: "in" })))[0], WAIT_MS, "it is dead");
    expect(dead.reason).toContain("4 octets");
    await until(() => isSettled(broker, IN_QUEUE), WAIT_MS, "the broker may forget it");
  });

  test(
    "from a broker over a queue to the bus: every value of an octet, the id of the message, and its headers",
    async () => {
      const links = ["exchange:sip -> queue:q;name=in;headers=Kind", "queue:q -> channel:lab"];
      const { broker, one } = await bridged(links);
      const two = await plain(() => 200);
      await meet(one.node, two.node);
      const body = Uint8Array.from({ length: 256 }, (_, value) => value);
      broker.put(IN_QUEUE, { exchange: "sip", routingKey: "k", body, messageId: "m-1", headers: { Kind: "disk" } });
      const message = await until(() => two.messages[0], WAIT_MS, "it is on the bus");
      expect([...message.body]).toEqual([...body]);
      expect(message.messageId).toBe("m-1");
      expect(message.request.headers.get("X-DMQ-H-Kind")).toBe("disk");
    },
    TEST_MS,
  );
});

describe("lock", () => {
  const locked = "channel:lab -> exchange:sip/x;name=out;lock=one;standby=2s";

  async function send(from: RunningNode, body: string): Promise<void> {
    await from.broadcast("lab", body);
  }

  test(
    "of two bridges one publishes; when it is cut off, the other publishes what it kept: nothing is missing",
    async () => {
      const broker = new FakeBroker();
      bind(broker, "sip", "q");
      const first = await bridged([locked], { broker });
      await until(() => broker.queues.get("dmq.lock.one")?.owner === first.client, WAIT_MS, "the first has the lock");
      const second = await bridged([locked], { broker });
      const states = (): (string | undefined)[] => [first, second].map(({ one }) => one.links.status()[0]?.state);
      await until(() => states().join() === "publishes,stands by", WAIT_MS, "one publishes, one stands by");
      const sender = await plain(() => 200);
      await meet(sender.node, first.one.node, second.one.node);
      await send(sender.node, "m0");
      await until(() => broker.published.some((one) => textOf(one) === "m0"), WAIT_MS, "the first publishes");
      for (let n = 1; n < 5; n++) await send(sender.node, `m${n}`);
      await until(() => new Set(broker.published.map(textOf)).size === 5, WAIT_MS, "all are published");
      // Cut off with messages that it has taken, and that are not published.
      first.client.cut();
      for (let n = 5; n < 10; n++) await send(sender.node, `m${n}`);
      await until(() => broker.queues.get("dmq.lock.one")?.owner === second.client, WAIT_MS, "the second has the lock");
      await until(() => new Set(broker.published.map(textOf)).size === 10, WAIT_MS, "nothing is missing");
      await send(sender.node, "after");
      await until(() => broker.published.some((one) => textOf(one) === "after"), WAIT_MS, "the second publishes");
      expect(states()).toEqual(["asks for its lock", "publishes"]);
      first.client.mend();
      await until(() => states()[0] === "stands by", WAIT_MS, "the first stands by now");
    },
    TEST_MS,
  );

  test(
    "who stands by publishes nothing, and forgets what is older than standby=",
    async () => {
      const broker = new FakeBroker();
      bind(broker, "sip", "q");
      broker.queue("dmq.lock.one", { owner: broker.client() });
      const { one } = await bridged([locked], { broker });
      const sender = await plain(() => 200);
      await meet(sender.node, one.node);
      const kept = (): Promise<number> => one.sizes("amqp.standby.one").then(({ ready }) => ready);
      const isKept = async (): Promise<boolean> => {
        await send(sender.node, "x");
        return (await kept()) > 0;
      };
      await until(isKept, WAIT_MS, "it stands by");
      const before = broker.published.length;
      await send(sender.node, "y");
      expect(await kept()).toBeGreaterThan(1);
      await until(async () => (await kept()) === 0, WAIT_MS, "the old is forgotten");
      expect(broker.published).toHaveLength(before);
    },
    TEST_MS,
  );
});
