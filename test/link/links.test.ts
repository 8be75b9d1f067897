/** Links of nodes with real sockets and a real store: what is answered, what is stored, who is told, and what goes round. */
// needs programs: bash cat env false head sleep tr true wc
import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createNode } from "../../src/daemon/driver.ts";
import { ABSENT_MS, Absent } from "../../src/link/absent.ts";
import type { Spooled } from "../../src/link/outbox.ts";
import type { ChannelMessage } from "../../src/node/io.ts";
import { linkedNodes, meet, request } from "../helpers/linked.ts";
import { until } from "../helpers/wait.ts";

const TEST_MS = 15_000;

const { linked, plain, wire, folder, closing, closeAll } = linkedNodes();

afterEach(closeAll);

describe("B12.6: channel -> queue", () => {
  test("200 without a body, and the item is there with all that is known of the message", async () => {
    const one = await linked({ links: ["channel:alerts -> queue:alert"] });
    const ask = await wire();
    const answer = await ask(one.node, request(one.node, '{"a":1}', "one", ["X-DMQ-Path: n/other"]));
    expect(answer).toStartWith("SIP/2.0 200 ");
    expect(answer).toEndWith("Content-Length: 0\r\n\r\n");
    const id = `${one.node.uri().slice(4)}/channel:alerts>queue:alert`;
    expect(await one.items("alert")).toMatchObject([
      {
        key: "127.0.0.1:9",
        contentType: "application/json",
        channel: "alerts",
        from: "sip:127.0.0.1:9",
        path: ["n/other", id],
      },
    ]);
    expect(await one.values("alert")).toEqual(['{"a":1}']);
    expect(one.links.status()).toMatchObject([{ in: 1, out: 1, failed: 0, held_back: 0 }]);
  });

  test("killed between commit and answer: the retransmission meets another process, and the item is there once", async () => {
    const directory = folder();
    const ask = await wire();
    const first = await linked({ links: ["channel:alerts -> queue:alert"], directory });
    const text = request(first.node, "x", "same");
    await ask(first.node, text);
    const second = await linked({ links: ["channel:alerts -> queue:alert"], directory });
    expect(await ask(second.node, text)).toStartWith("SIP/2.0 200 ");
    expect(await second.values("alert")).toEqual(["x"]);
    expect(await ask(second.node, request(first.node, "x", "another"))).toStartWith("SIP/2.0 200 ");
    expect(await second.values("alert")).toEqual(["x", "x"]);
  });

  test("a message that its sender repeats under its X-DMQ-Id is there once", async () => {
    const one = await linked({ links: ["channel:alerts -> queue:alert"] });
    const ask = await wire();
    for (const id of ["a", "b"])
      expect(await ask(one.node, request(one.node, "x", id, ["X-DMQ-Id: m-1"]))).toStartWith("SIP/2.0 200 ");
    expect(await one.items("alert")).toMatchObject([{ headers: { "X-DMQ-Id": "m-1" } }]);
  });

  for (const full of ["reject", "drop-newest", "wait"])
    test(`a full queue with full=${full} is 503 with Retry-After, in time, and nothing is stored`, async () => {
      const queues = [`name=alert;size=1;full=${full}`];
      const one = await linked({ links: ["channel:alerts -> queue:alert"], queues });
      await one.add("alert", "first");
      const ask = await wire();
      const began = performance.now();
      const answer = await ask(one.node, request(one.node, "second", "full"));
      expect(performance.now() - began).toBeLessThan(1_500);
      expect(answer).toStartWith("SIP/2.0 503 ");
      expect(answer).toContain("\r\nRetry-After: ");
      expect(await one.values("alert")).toEqual(["first"]);
      expect(one.links.status()).toMatchObject([{ in: 1, out: 0, failed: 1 }]);
    });

  test("with full=wait, an item that is settled in time makes the answer 200", async () => {
    const one = await linked({ links: ["channel:alerts -> queue:alert"], queues: ["name=alert;size=1;full=wait"] });
    await one.add("alert", "first");
    const ask = await wire();
    const answer = ask(one.node, request(one.node, "second", "room"));
    await one.store.perform({ type: "clear", queue: "alert" });
    expect(await answer).toStartWith("SIP/2.0 200 ");
    expect(await one.values("alert")).toEqual(["second"]);
  });

  test("an item that is too large is 413, a store that is slow 503 before the sender repeats itself for long", async () => {
    const one = await linked({ links: ["channel:alerts -> queue:alert"], queues: ["name=alert;max-value=3"] });
    const ask = await wire();
    expect(await ask(one.node, request(one.node, "four", "large"))).toStartWith("SIP/2.0 413 ");
    const never = Promise.withResolvers<never>();
    one.store.perform = () => never.promise;
    const began = performance.now();
    expect(await ask(one.node, request(one.node, "x", "slow"))).toStartWith("SIP/2.0 503 ");
    expect(performance.now() - began).toBeLessThan(1_500);
  });

  test("two links of one channel: both queues have it", async () => {
    const one = await linked({
      links: ["channel:alerts -> queue:a;key={sha256}", "channel:alerts -> queue:b;key={json:k}"],
    });
    expect(await (await wire())(one.node, request(one.node, '{"k":"v"}', "two"))).toStartWith("SIP/2.0 200 ");
    expect(await one.items("a")).toHaveLength(1);
    expect(await one.items("b")).toMatchObject([{ key: "v" }]);
  });

  test("what has been here before is 202 and goes no further", async () => {
    const one = await linked({ links: ["channel:alerts -> queue:alert;name=in"] });
    const path = `X-DMQ-Path: ${one.node.uri().slice(4)}/in`;
    expect(await (await wire())(one.node, request(one.node, "x", "loop", [path]))).toStartWith("SIP/2.0 202 ");
    expect(await one.items("alert")).toEqual([]);
    expect(one.links.status()).toMatchObject([{ in: 1, out: 0, held_back: 1 }]);
    expect(one.warnings).toHaveLength(1);
  });
});

describe("B12.7: queue -> channel", () => {
  test(
    "an item waits while nobody is there, then all have it, in order, with path and id",
    async () => {
      const one = await linked({ links: ["queue:out -> channel:lab;name=out"] });
      const [two, three] = [await plain(() => 200), await plain(() => 202)];
      await one.add("out", "early");
      expect((await one.sizes("out")).ready).toBe(1);
      await meet(one.node, two.node);
      await until(() => one.isEmpty("out"), 5_000, "it is sent");
      expect(two.bodies.splice(0)).toEqual(["early"]);
      await meet(one.node, two.node, three.node);
      two.messages.splice(0);
      const values = Array.from({ length: 40 }, (_, index) => `m${index}`);
      await one.add("out", ...values);
      await until(() => one.isEmpty("out"), 5_000, "all is sent");
      expect([two.bodies, three.bodies]).toEqual([values, values]);
      const { headers } = (two.messages[0] as ChannelMessage).request;
      expect(headers.get("X-DMQ-Path")).toBe(`${one.node.uri().slice(4)}/out`);
      expect(new Set(two.messages.map(({ messageId }) => messageId)).size).toBe(40);
      expect(two.messages[7]?.messageId).toBe(three.messages[7]?.messageId as string);
      expect(one.links.status()).toMatchObject([{ in: 41, out: 41, failed: 0 }]);
    },
    TEST_MS,
  );

  test(
    "503 is tried again at that node only; 404 is no failure",
    async () => {
      const one = await linked({ links: ["queue:out -> channel:lab"], queues: ["name=out;retry=100ms"] });
      const busy = await plain((_, count) => (count < 3 ? 503 : 200));
      const [well, absent] = [await plain(() => 200), await plain(() => 404)];
      await meet(one.node, busy.node, well.node, absent.node);
      await one.add("out", "x");
      await until(() => one.isEmpty("out"), 5_000, "it is done");
      expect([busy.bodies.length, well.bodies.length, absent.bodies.length]).toEqual([3, 1, 1]);
      expect(new Set(busy.messages.map(({ messageId }) => messageId)).size).toBe(1);
      expect((await one.sizes("out")).dead).toBe(0);
    },
    TEST_MS,
  );

  test(
    "nobody's yes: tried again, then a dead letter with who said what",
    async () => {
      const one = await linked({ links: ["queue:out -> channel:lab;max-tries=3"], queues: ["name=out;retry=50ms"] });
      const [no, absent] = [await plain(() => 403), await plain(() => 404)];
      await meet(one.node, no.node, absent.node);
      await one.add("out", "x");
      const [dead] = await until(
        async () => {
          const all = await one.dead("out");
          return all.length > 0 && all;
        },
        5_000,
        "it is dead",
      );
      expect(dead?.reason).toContain(`${no.node.uri()}: 403`);
      expect(dead?.reason).toContain(`${absent.node.uri()}: 404`);
      expect(no.bodies).toHaveLength(3);
    },
    TEST_MS,
  );

  test(
    "require=all: one node's no makes a dead letter; require=none: it is done",
    async () => {
      const links = ["queue:all -> channel:lab;require=all;max-tries=1", "queue:none -> channel:lab;require=none"];
      const one = await linked({ links });
      const [yes, no] = [await plain(() => 200), await plain(() => 403)];
      await meet(one.node, yes.node, no.node);
      await one.add("all", "a");
      await one.add("none", "n");
      await until(async () => (await one.isEmpty("all")) && (await one.isEmpty("none")), 5_000, "both are through");
      expect((await one.sizes("all")).dead).toBe(1);
      expect((await one.sizes("none")).dead).toBe(0);
    },
    TEST_MS,
  );

  test(
    "a node that is silent holds up nobody for long, and the item is done by the others",
    async () => {
      const one = await linked({ links: ["queue:out -> channel:lab;max-tries=2"], queues: ["name=out;retry=50ms"] });
      const [well, gone] = [await plain(() => 200), await plain(() => 200)];
      await meet(one.node, well.node, gone.node);
      await gone.node.close({ announce: false });
      await one.add("out", "a", "b", "c");
      await until(() => one.isEmpty("out"), 10_000, "all is through");
      expect(well.bodies).toEqual(["a", "b", "c"]);
      expect((await one.sizes("out")).dead).toBe(0);
    },
    TEST_MS,
  );

  test(
    "to one node, by a template; a node that is not known is in the reason",
    async () => {
      const one = await linked({ links: ["queue:out -> channel:lab;node={key};max-tries=1"] });
      const [two, three] = [await plain(() => 200), await plain(() => 200)];
      await meet(one.node, two.node, three.node);
      await one.add("out", three.node.uri(), "sip:192.0.2.77:5060");
      await until(() => one.isEmpty("out"), 5_000, "both are through");
      expect([two.bodies, three.bodies]).toEqual([[], [three.node.uri()]]);
      expect(await one.dead("out")).toMatchObject([{ reason: "sip:192.0.2.77:5060: no such node" }]);
    },
    TEST_MS,
  );

  test(
    "what no datagram carries, and what is larger than max-body, is dead at once",
    async () => {
      const one = await linked({ links: ["queue:big -> channel:lab", "queue:small -> channel:lab;max-body=3"] });
      const two = await plain(() => 200);
      await meet(one.node, two.node);
      await one.add("small", "four");
      await one.store.perform({ type: "add", queue: "big", items: [{ key: "", value: new Uint8Array(60_001) }] });
      await until(async () => (await one.isEmpty("big")) && (await one.isEmpty("small")), 5_000, "both are through");
      for (const queue of ["big", "small"]) expect((await one.dead(queue))[0]?.reason).toStartWith("too-large: ");
      expect(two.bodies).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "when the daemon stops, what is under way is back in the queue",
    async () => {
      const directory = folder();
      const one = await linked({ links: ["queue:out -> channel:lab"], directory });
      const never = Promise.withResolvers<never>();
      const hanging = await createNode({ serverAddress: "sip:127.0.0.1:0", handlerTimeoutMs: 900 }, (fresh) => {
        fresh.channel("lab", () => never.promise);
      });
      closing.push(() => hanging.close({ announce: false }));
      await meet(one.node, hanging);
      await one.add("out", "x");
      await until(async () => (await one.sizes("out")).leased === 1, 3_000, "it is under way");
      const closed = one.links.close();
      await one.node.close({ announce: false });
      await closed;
      expect((await one.items("out")).map(({ tries }) => tries)).toEqual([0]);
    },
    TEST_MS,
  );
});

describe("queue -> exec", () => {
  test(
    "a command has each item, and its failures are dead letters",
    async () => {
      const file = join(folder(), "heard");
      const script = `cat >>${file}; echo " $DMQ_KEY" >>${file}; [ "$DMQ_KEY" != bad ]`;
      const one = await linked({ links: [`queue:jobs -> exec:sh -c '${script}';max-tries=1`] });
      await one.add("jobs", "one", "bad", "two");
      await until(() => one.isEmpty("jobs"), 10_000, "all is through");
      expect(readFileSync(file, "utf8")).toBe("one one\nbad bad\ntwo two\n");
      expect(await one.dead("jobs")).toMatchObject([{ key: "bad", exitCode: 1 }]);
      expect(one.links.status()).toMatchObject([{ in: 3, out: 2, failed: 1 }]);
    },
    TEST_MS,
  );
});

describe("B12.8: circles", () => {
  test(
    "in one node: what came from a channel is not sent to it, unless echo says so, and then not to where it came from",
    async () => {
      const round = (echo: string): string[] => ["channel:lab -> queue:q", `queue:q -> channel:lab;circle=yes${echo}`];
      const quiet = await linked({ links: round("") });
      const two = await plain(() => 200);
      await meet(quiet.node, two.node);
      expect((await two.node.send("lab", quiet.node.uri(), "x")).outcome.type).toBe("delivered");
      await until(async () => (await quiet.sizes("q")).dead === 1, 5_000, "it is a dead letter");
      expect((await quiet.dead("q"))[0]?.reason).toStartWith("loop: ");
      const echoing = await linked({ links: round(";echo=yes") });
      const three = await plain(() => 200);
      await meet(echoing.node, two.node, three.node);
      await two.node.send("lab", echoing.node.uri(), "y");
      await until(() => three.bodies.includes("y"), 5_000, "the third node has it");
      await until(() => echoing.isEmpty("q"), 5_000, "it is done");
      expect(two.bodies).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "over two nodes: it comes back once, and the path ends it",
    async () => {
      const there = await linked({ links: ["channel:a -> queue:q;name=in", "queue:q -> channel:b;name=out"] });
      const back = await linked({ links: ["channel:b -> queue:q;name=in", "queue:q -> channel:a;name=out"] });
      await meet(there.node, back.node);
      await there.add("q", "x");
      await until(
        () => there.links.status()[0]?.held_back === 1 || there.links.status()[1]?.held_back === 1,
        5_000,
        "it ends",
      );
      await until(async () => (await there.isEmpty("q")) && (await back.isEmpty("q")), 5_000, "nothing is under way");
      const [inThere, outThere] = there.links.status();
      expect([inThere?.in, (outThere?.out ?? 0) + (outThere?.held_back ?? 0)]).toEqual([1, 2]);
      expect(back.links.status()[0]?.in).toBe(1);
    },
    TEST_MS,
  );

  test(
    "over a node that repeats everything and strips the path: it pauses, is said once, and nothing is lost",
    async () => {
      const one = await linked({ links: ["channel:b -> queue:q", "queue:q -> channel:lab"] });
      const repeater = await plain((body) => {
        void repeater.node.send("b", one.node.uri(), body);
        return 200;
      });
      await meet(one.node, repeater.node);
      await one.add("q", "round");
      const out = (): number => one.links.status()[1]?.held_back ?? 0;
      await until(() => out() > 0, 5_000, "it pauses");
      // The first one was nobody's echo: six are on the bus.
      expect(repeater.bodies).toHaveLength(6);
      expect((await one.sizes("q")).delayed).toBe(1);
      expect(one.warnings.filter((text) => text.includes("again and again"))).toHaveLength(1);
    },
    TEST_MS,
  );
});

describe("outbox", () => {
  const MESSAGE = { channel: "lab", contentType: "text/plain" };
  const octets = (text: string): Uint8Array => new TextEncoder().encode(text);
  const outcomeOf = (spooled: Spooled | undefined): { type: string } | undefined =>
    spooled?.end !== undefined && "outcome" in spooled.end ? spooled.end.outcome : spooled?.end;

  test(
    "who repeats a call with its id stores nothing again, and hears what became of the first one",
    async () => {
      const one = await linked();
      const two = await plain((body) => (body === "no" ? 403 : 200));
      const uri = two.node.uri();
      const call = async (body: string, messageId: string): Promise<object | undefined> =>
        outcomeOf((await one.outbox.spool({ ...MESSAGE, body: octets(body), messageId, timeoutMs: 1_000 }, [uri]))[0]);
      for (let i = 0; i < 3; i++) expect(await call("yes", "m-1")).toBeUndefined();
      expect((await one.sizes("outbox")).ready).toBe(1);
      await meet(one.node, two.node);
      await until(() => one.isEmpty("outbox"), 8_000, "it is delivered");
      expect(await call("yes", "m-1")).toEqual({ type: "delivered" });
      expect(await call("no", "m-2")).toMatchObject({ type: "rejected", code: 403 });
      expect(await call("no", "m-2")).toEqual({ type: "dead", reason: expect.stringContaining("403") });
      expect(await call("yes", "m-3")).toMatchObject({ type: "delivered", code: 200 });
      expect(two.bodies).toEqual(["yes", "no", "yes"]);
      // A repetition while it is on its way waits for the same end.
      const [a, b] = await Promise.all([call("yes", "m-4"), call("yes", "m-4")]);
      for (const end of [a, b]) expect(end).toMatchObject({ type: "delivered" });
      expect(two.messages.filter(({ messageId }) => messageId === "m-4")).toHaveLength(1);
    },
    TEST_MS,
  );

  test(
    "a node that was forgotten is absent until it is back; one that never answered is not, nor one that an operator removes",
    async () => {
      let now = 0;
      const one = await linked();
      const absent = new Absent(one.node, () => now);
      const two = await plain(() => 200);
      const uri = two.node.uri();
      await meet(one.node, two.node);
      one.node.add("sip:127.0.0.9:5999");
      one.node.remove("sip:127.0.0.9:5999");
      await two.node.close({ announce: false });
      expect(absent.uris()).toEqual([]);
      one.node.remove(uri);
      expect(absent.uris()).toEqual([uri]);
      const again = await plain(() => 200, uri);
      await meet(one.node, again.node);
      expect(absent.uris()).toEqual([]);
      one.node.remove(uri);
      expect([absent.forget(uri), absent.uris(), absent.forget(uri)]).toEqual([true, [], false]);
      await meet(one.node, again.node);
      one.node.remove(uri);
      now = ABSENT_MS + 1;
      expect(absent.uris()).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "a node that is there has it at once; one that is down when it is back, in order, once, each with its id",
    async () => {
      const one = await linked();
      const first = await plain(() => 200);
      await meet(one.node, first.node);
      const uri = first.node.uri();
      const [now] = await one.outbox.spool({ ...MESSAGE, body: octets("now") }, [uri]);
      expect(outcomeOf(now)?.type).toBe("delivered");
      await first.node.close({ announce: false });
      const values = Array.from({ length: 5 }, (_, index) => `m${index}`);
      const spooled = [];
      for (const value of values) spooled.push(...(await one.outbox.spool({ ...MESSAGE, body: octets(value) }, [uri])));
      expect(spooled.map(({ end }) => end)).toEqual(new Array(5).fill(undefined));
      expect(await one.store.perform({ type: "peek", queue: "outbox", count: 9, key: uri })).toHaveLength(5);
      const again = await plain(() => 200, uri);
      await meet(one.node, again.node);
      await until(() => one.isEmpty("outbox"), 8_000, "all is delivered");
      expect(again.bodies).toEqual(values);
      expect(again.messages.map(({ messageId }) => messageId)).toEqual(spooled.map(({ messageId }) => messageId));
    },
    TEST_MS,
  );

  test(
    "what was stored by a daemon that ended goes out with the next one",
    async () => {
      const directory = folder();
      const two = await plain(() => 200);
      const uri = two.node.uri();
      const before = await linked({ directory });
      const spooled = await before.outbox.spool({ ...MESSAGE, body: octets("x"), messageId: "m-1" }, [uri]);
      expect(spooled).toEqual([{ node: uri, messageId: "m-1", end: undefined }]);
      await before.outbox.close();
      await before.node.close({ announce: false });
      const after = await linked({ directory });
      await after.outbox.resume();
      await meet(after.node, two.node);
      await until(() => after.isEmpty("outbox"), 8_000, "it is delivered");
      expect(two.messages.map(({ messageId }) => messageId)).toEqual(["m-1"]);
    },
    TEST_MS,
  );

  test(
    "503 is tried again after Retry-After, before what is behind it; 404 is a dead letter, and said at once",
    async () => {
      const one = await linked();
      const busy = await plain((_, count) => (count === 1 ? { status: 503, retryAfterSeconds: 1 } : 200));
      await meet(one.node, busy.node);
      const uri = busy.node.uri();
      const [first] = await one.outbox.spool({ ...MESSAGE, body: octets("a") }, [uri]);
      const [second] = await one.outbox.spool({ ...MESSAGE, body: octets("b") }, [uri]);
      expect([first?.end, second?.end]).toEqual([undefined, undefined]);
      await until(() => one.isEmpty("outbox"), 8_000, "both are delivered");
      expect(busy.bodies).toEqual(["a", "a", "b"]);
      const [absent] = await one.outbox.spool({ channel: "none", contentType: "text/plain", body: octets("c") }, [uri]);
      expect(outcomeOf(absent)).toMatchObject({ type: "rejected", code: 404 });
      expect(await one.dead("outbox")).toMatchObject([{ key: uri, reason: expect.stringContaining("404") }]);
    },
    TEST_MS,
  );

  test(
    "what nobody came for in its time is a dead letter",
    async () => {
      const one = await linked();
      await one.outbox.spool({ ...MESSAGE, body: octets("x"), ttlMs: 50 }, ["sip:127.0.0.9:5999"]);
      const isDead = async (): Promise<boolean> => (await one.sizes("outbox")).dead === 1;
      await until(isDead, 5_000, "it expired");
      expect(await one.dead("outbox")).toMatchObject([{ key: "sip:127.0.0.9:5999", reason: "expired" }]);
    },
    TEST_MS,
  );
});
