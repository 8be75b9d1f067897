/** The library's script functions on real sockets, as docs/KAMAILIO.md maps them to Kamailio's. */
import { afterEach, describe, expect, test } from "bun:test";
import { type CreateNodeOptions, createNode, type IncomingRequest, type RunningNode } from "../../src/index.ts";
import { askUdp, kdmq } from "../helpers/kamailio.ts";
import { until } from "../helpers/wait.ts";

const nodes: RunningNode[] = [];

async function node(options: Partial<CreateNodeOptions> = {}): Promise<RunningNode> {
  const made = await createNode({ serverAddress: "sip:127.0.0.1:0", pingIntervalMs: 2_000, ...options });
  nodes.push(made);
  return made;
}

afterEach(async () => {
  await Promise.all(nodes.splice(0).map((each) => each.close({ announce: false })));
});

function portOf(one: RunningNode): number {
  return one.sockets()[0]?.port as number;
}

function ask(one: RunningNode, method: string, channel = "lab", body = ""): Promise<string> {
  const text = kdmq({ channel, host: `127.0.0.1:${portOf(one)}`, from: "sip:lab@127.0.0.9:9", body });
  return askUdp("127.0.0.1", portOf(one), text.replaceAll("KDMQ", method), 5_000);
}

function status(answer: string): string {
  return answer.slice(8, 11);
}

describe("routing", () => {
  test("routing: a route sees what is no KDMQ, and the node serves what it leaves", async () => {
    const one = await node();
    const seen: string[] = [];
    const unset = one.onRequest(({ method }) => {
      seen.push(method);
      return method === "REGISTER" ? 202 : undefined;
    });
    one.channel("lab", () => undefined);
    const answers = await Promise.all(["REGISTER", "PUBLISH", "OPTIONS", "KDMQ"].map((method) => ask(one, method)));
    expect(answers.map(status)).toEqual(["202", "405", "200", "200"]);
    expect(seen.sort()).toEqual(["OPTIONS", "PUBLISH", "REGISTER"]);
    unset();
    expect(status(await ask(one, "REGISTER"))).toBe("405");
  });

  test("routing: taking a route away twice leaves the next one alone, also where it is the same function", async () => {
    const one = await node();
    const route = (): number => 202;
    const unset = one.onRequest(route);
    unset();
    one.onRequest(route);
    unset();
    expect(status(await ask(one, "REGISTER"))).toBe("202");
  });

  test("routing: a port, an address, a channel: a route keeps KDMQ out, or lets it in", async () => {
    const one = await node();
    const heard: string[] = [];
    one.channel("lab", ({ body }) => void heard.push(new TextDecoder().decode(body)));
    one.onRequest(
      (request) => {
        if (request.method !== "KDMQ") return 405;
        if (request.source.ip !== "127.0.0.1") return 403;
        return new TextDecoder().decode(request.body) === "bad" ? 603 : one.handle(request);
      },
      { kdmq: true },
    );
    expect(status(await ask(one, "KDMQ", "lab", "bad"))).toBe("603");
    expect(status(await ask(one, "KDMQ", "lab", "good"))).toBe("200");
    expect(heard).toEqual(["good"]);
    expect(await ask(one, "KDMQ", "notification_peer")).toContain(`${one.uri()};status=active`);
  });

  test("routing: handle queues behind the workers, process runs at once", async () => {
    const one = await node({ numWorkers: 1 });
    const order: string[] = [];
    const first = Promise.withResolvers<void>();
    one.channel("lab", async ({ body }) => {
      const text = new TextDecoder().decode(body);
      order.push(text);
      if (text === "slow") await first.promise;
    });
    one.onRequest(
      (request) => (new TextDecoder().decode(request.body) === "now" ? one.process(request) : one.handle(request)),
      { kdmq: true },
    );
    const slow = ask(one, "KDMQ", "lab", "slow");
    await until(() => order.length === 1, 2_000, "the worker is busy");
    const queued = ask(one, "KDMQ", "lab", "queued");
    expect(status(await ask(one, "KDMQ", "lab", "now"))).toBe("200");
    expect(order).toEqual(["slow", "now"]);
    first.resolve();
    await Promise.all([slow, queued]);
    expect(order).toEqual(["slow", "now", "queued"]);
  });

  test("routing: with continue the route goes on with the request, without it the request is ended", async () => {
    const one = await node();
    one.channel("lab", () => undefined);
    const after: string[] = [];
    one.onRequest(
      async (request: IncomingRequest) => {
        const goesOn = new TextDecoder().decode(request.body) === "on";
        one.handle(request, { continue: goesOn });
        const why = await Promise.resolve()
          .then(() => one.replicate(request))
          .catch((cause: Error) => cause.message);
        after.push(String(why));
        return 486;
      },
      { kdmq: true },
    );
    expect(status(await ask(one, "KDMQ", "lab", "on"))).toBe("200");
    expect(status(await ask(one, "KDMQ", "lab", "off"))).toBe("200");
    await until(() => after.length === 2, 2_000, "both routes have ended");
    // KDMQ cannot be replicated anyway; the second one does not even get that far.
    expect(after[0]).toContain("KDMQ cannot be replicated");
    expect(after[1]).toContain("without continue");
  });

  test("routing: a route that throws or is late costs an answer of 500 or 503, and nothing else", async () => {
    const one = await node({ handlerTimeoutMs: 100 });
    const warnings: string[] = [];
    one.on("warning", ({ text }) => warnings.push(text));
    one.onRequest(({ method }) => {
      if (method === "PUBLISH") throw new Error("no idea");
      return new Promise<number>(() => {});
    });
    const [broken, late, options] = await Promise.all([
      ask(one, "PUBLISH"),
      ask(one, "REGISTER"),
      ask(one, "KDMQ", "nobody"),
    ]);
    expect([broken, late, options].map(status)).toEqual(["500", "503", "404"]);
    expect(late).toContain("\r\nRetry-After: 2\r\n");
    expect(warnings).toEqual(["the route failed: no idea"]);
  });
});

describe("first contact", () => {
  test("first contact: each handler's init is called with the active nodes, also one that comes later", async () => {
    const seed = await node();
    const second = await node({ serverAddress: "sip:127.0.0.2:0", notificationAddresses: [seed.uri()] });
    await until(() => seed.nodes().some((peer) => peer.status === "active"), 5_000, "the two have met");
    const told: string[][] = [];
    const third = await createNode(
      { serverAddress: "sip:127.0.0.3:0", notificationAddresses: [seed.uri()], pingIntervalMs: 2_000 },
      (fresh) => void fresh.channel("lab", () => undefined, { init: (uris) => void told.push([...uris].sort()) }),
    );
    nodes.push(third);
    await until(() => told.length > 0, 5_000, "init was called");
    third.channel("late", () => undefined, { init: (uris) => void told.push([...uris].sort()) });
    expect(told).toEqual([[seed.uri(), second.uri()].sort(), [seed.uri(), second.uri()].sort()]);
  });

  test("first contact: a handler that comes when everybody is lost waits for the next contact", async () => {
    const one = await node();
    const other = await node({ serverAddress: "sip:127.0.0.2:0", notificationAddresses: [one.uri()] });
    await until(() => one.nodes().some((peer) => peer.status === "active"), 5_000, "the two have met");
    await other.close({ announce: true });
    await until(() => one.nodes().every((peer) => peer.status !== "active"), 5_000, "nobody is left");
    const told: string[][] = [];
    one.channel("late", () => undefined, { init: (uris) => void told.push([...uris]) });
    expect(told).toEqual([]);
    const third = await node({ serverAddress: "sip:127.0.0.3:0", notificationAddresses: [one.uri()] });
    await until(() => told.length > 0, 5_000, "init was called");
    expect(told).toEqual([[third.uri()]]);
  });

  test("first contact: with initWithSingle there is one node to synchronise with", async () => {
    const seed = await node();
    await node({ serverAddress: "sip:127.0.0.2:0", notificationAddresses: [seed.uri()] });
    await until(() => seed.nodes().some((peer) => peer.status === "active"), 5_000, "the two have met");
    const told: string[][] = [];
    await createNode(
      { serverAddress: "sip:127.0.0.3:0", notificationAddresses: [seed.uri()], initWithSingle: true },
      (fresh) => {
        nodes.push(fresh);
        fresh.channel("lab", () => undefined, { init: (uris) => void told.push([...uris]) });
      },
    );
    await until(() => told.length > 0, 5_000, "init was called");
    expect(told).toEqual([[seed.uri()]]);
  });
});

describe("the C API's two functions", () => {
  async function three(): Promise<[RunningNode, RunningNode, RunningNode]> {
    const first = await node();
    const second = await node({ serverAddress: "sip:127.0.0.2:0", notificationAddresses: [first.uri()] });
    const third = await node({ serverAddress: "sip:127.0.0.3:0", notificationAddresses: [first.uri()] });
    const active = (): number => first.nodes().filter((peer) => peer.status === "active").length;
    await until(() => active() === 2, 5_000, "all three have met");
    return [first, second, third];
  }

  /** What a handler is told, in the words of the parameters. */
  function told(one: RunningNode): string[] {
    const seen: string[] = [];
    one.channel("lab", ({ body, contentType, maxForwards }) => {
      seen.push(`${new TextDecoder().decode(body)} ${contentType} ${maxForwards}`);
      return seen.length === 1 ? 202 : 486;
    });
    return seen;
  }

  test("api: broadcast leaves out except, and calls back for each answer, with the header values that were given", async () => {
    const [first, second, third] = await three();
    const [seenBySecond, seenByThird] = [told(second), told(third)];
    const answers: string[] = [];
    const reports = await first.broadcast("lab", "hello", {
      except: [third.uri()],
      maxForwards: 7,
      contentType: "application/json",
      onResponse: ({ peer, outcome }) => answers.push(`${peer} ${outcome.type}`),
    });
    expect(reports.map(({ peer }) => peer)).toEqual([second.uri()]);
    expect(answers).toEqual([`${second.uri()} delivered`]);
    expect([seenBySecond, seenByThird]).toEqual([["hello application/json 7"], []]);
  });

  test("api: send calls back with the answer of the node, whichever it is", async () => {
    const [first, second] = await three();
    const seen = told(second);
    const codes: unknown[] = [];
    for (const body of ["one", "two"])
      await first.send("lab", second.uri(), body, { onResponse: ({ outcome }) => codes.push(outcome) });
    expect(codes).toMatchObject([
      { type: "delivered", code: 202, consumer: false },
      { type: "rejected", code: 486 },
    ]);
    expect(seen).toEqual(["one text/plain 1", "two text/plain 1"]);
  });
});
