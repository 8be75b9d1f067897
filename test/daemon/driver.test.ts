/** Nodes with real sockets in one process: what the core decides has to survive the kernel. */
import { afterEach, expect, test } from "bun:test";
import { type CreateNodeOptions, createNode, type RunningNode } from "../../src/daemon/driver.ts";

const nodes: RunningNode[] = [];

async function node(options: CreateNodeOptions): Promise<RunningNode> {
  const made = await createNode({ pingIntervalMs: 2_000, ...options });
  nodes.push(made);
  return made;
}

afterEach(async () => {
  await Promise.all(nodes.splice(0).map((each) => each.close({ announce: false })));
});

async function knows(observer: RunningNode, peer: RunningNode): Promise<void> {
  const isActive = (): boolean => observer.nodes().some(({ uri, status }) => uri === peer.uri() && status === "active");
  if (isActive()) return;
  await new Promise<void>((resolve) => {
    const end = observer.on("peer-up", () => {
      if (!isActive()) return;
      end();
      resolve();
    });
  });
}

async function pair(first: string, second: string): Promise<[RunningNode, RunningNode]> {
  const a = await node({ serverAddress: first });
  const b = await node({ serverAddress: second, notificationAddresses: [a.uri()] });
  await Promise.all([knows(a, b), knows(b, a)]);
  return [a, b];
}

const places: [name: string, first: string, second: string][] = [
  ["UDP", "sip:127.0.0.1:0", "sip:127.0.0.2:0"],
  ["TCP", "sip:127.0.0.1:0;transport=tcp", "sip:127.0.0.2:0;transport=tcp"],
  ["UDP and TCP", "sip:127.0.0.1:0", "sip:127.0.0.2:0;transport=tcp"],
  ["IPv6", "sip:[::1]:0", "sip:[::1]:0"],
  ["IPv6 over TCP", "sip:[::1]:0;transport=tcp", "sip:[::1]:0;transport=tcp"],
];
for (const [name, first, second] of places)
  test(`driver: two nodes over ${name} find each other and talk both ways`, async () => {
    const [a, b] = await pair(first, second);
    const heard: string[] = [];
    a.channel("lab", ({ body }) => void heard.push(new TextDecoder().decode(body)));
    b.channel("lab", ({ body }) => void heard.push(new TextDecoder().decode(body)));
    const reports = [await a.send("lab", b.uri(), "to b"), ...(await b.broadcast("lab", "to a"))];
    expect(reports.map(({ outcome }) => outcome.type)).toEqual(["delivered", "delivered"]);
    expect(heard).toEqual(["to b", "to a"]);
  });

test("driver: bodies of any octets and sizes arrive byte for byte", async () => {
  const [a, b] = await pair("sip:127.0.0.1:0", "sip:127.0.0.2:0");
  const heard: string[] = [];
  b.channel("lab", ({ body }) => void heard.push(Bun.hash(body).toString()));
  const sizes = [0, 1, 1_000, 60_000];
  for (const size of sizes) {
    const body = Uint8Array.from({ length: size }, (_, i) => (i * 7) & 255);
    const { outcome } = await a.send("lab", b.uri(), body);
    expect(outcome.type).toBe("delivered");
    expect(heard.pop()).toBe(Bun.hash(body).toString());
  }
});

test("driver: over TCP a body of a mebibyte less its headers arrives", async () => {
  const [a, b] = await pair("sip:127.0.0.1:0;transport=tcp", "sip:127.0.0.2:0;transport=tcp");
  let size = 0;
  b.channel("lab", ({ body }) => {
    size = body.length;
  });
  const { outcome } = await a.send("lab", b.uri(), new Uint8Array(1_000_000));
  expect([outcome.type, size]).toEqual(["delivered", 1_000_000]);
});

test("driver: a handler that is slow is answered for in time", async () => {
  const a = await node({ serverAddress: "sip:127.0.0.1:0" });
  const b = await node({ serverAddress: "sip:127.0.0.2:0", notificationAddresses: [a.uri()], handlerTimeoutMs: 100 });
  await knows(a, b);
  b.channel("lab", () => new Promise<void>(() => {}));
  const { outcome } = await a.send("lab", b.uri(), "x");
  expect(outcome).toMatchObject({ type: "rejected", code: 503, retryAfterSeconds: 2 });
});

test("driver: the answer's body comes back to who accepts one", async () => {
  const [a, b] = await pair("sip:127.0.0.1:0", "sip:127.0.0.2:0");
  b.channel("lab", () => ({ status: 200, contentType: "text/plain", body: new TextEncoder().encode("pong") }));
  const { outcome } = await a.send("lab", b.uri(), "ping", { accept: "*/*" });
  expect(outcome.type === "delivered" && new TextDecoder().decode(outcome.body)).toBe("pong");
});

test("driver: a dead peer costs the live ones nothing", async () => {
  const [a, b] = await pair("sip:127.0.0.1:0", "sip:127.0.0.2:0");
  // A closed port of this machine: the kernel answers every datagram with an ICMP error.
  a.add("sip:127.0.0.3:9", "active");
  let heard = 0;
  b.channel("lab", () => void heard++);
  const rounds = 200;
  const live: string[] = [];
  const dead: Promise<unknown>[] = [];
  for (let round = 0; round < rounds; round++) {
    const outcomes = await new Promise<string[]>((resolve) => {
      const seen: string[] = [];
      dead.push(
        a.broadcast("lab", `round ${round}`, {
          timeoutMs: 500,
          onResponse: ({ peer, outcome }) => {
            if (peer === b.uri()) resolve([...seen, outcome.type]);
          },
        }),
      );
    });
    live.push(...outcomes);
  }
  await Promise.all(dead);
  expect(live.filter((outcome) => outcome === "delivered").length).toBe(rounds);
  expect(heard).toBe(rounds);
});

test("driver: a peer that needs a transport which is not open is unreachable, and the node lives on", async () => {
  const [a, b] = await pair("sip:127.0.0.1:0", "sip:127.0.0.2:0");
  b.channel("lab", () => 200);
  a.add("sip:127.0.0.9:5061;transport=tls", "active");
  const { outcome } = await a.send("lab", "sip:127.0.0.9:5061;transport=tls", "x");
  expect(outcome.type).toBe("unreachable");
  expect((await a.send("lab", b.uri(), "x")).outcome.type).toBe("delivered");
});

test("driver: a closed node sets no timer again, whatever answers late", async () => {
  const program = `
    import { createNode } from "./src/index.ts";
    const node = await createNode({ serverAddress: "sip:127.0.0.1:0", notificationAddresses: ["sip:localhost:5999"] });
    await node.close({ announce: false });`;
  const child = Bun.spawn([process.execPath, "-e", program], { cwd: `${import.meta.dir}/../..`, stdout: "ignore" });
  const timer = setTimeout(() => child.kill(), 10_000);
  expect(await child.exited).toBe(0);
  clearTimeout(timer);
}, 15_000);

test("driver: a number with which nothing, or everything at once, would happen is refused", async () => {
  const wrong: Partial<CreateNodeOptions>[] = [
    { pingIntervalMs: 0 },
    { pingIntervalMs: Number.NaN },
    { pingIntervalMs: 2 ** 31 },
    { requestTimeoutMs: -1 },
    { window: 0 },
    { queueMessages: 1.5 },
    { numWorkers: 0 },
    { workerSleepMs: -1 },
    { handlerTimeoutMs: Number.POSITIVE_INFINITY },
  ];
  for (const options of wrong) {
    const [[option, value]] = Object.entries(options) as [[string, unknown]];
    const making = createNode({ serverAddress: "sip:127.0.0.1:0", ...options });
    await expect(making).rejects.toThrow(`${option}: got ${value}`);
  }
});

test("driver: what is sent after the end is cancelled, and nobody waits for ever", async () => {
  const [a, b] = await pair("sip:127.0.0.1:0", "sip:127.0.0.2:0");
  await a.close({ announce: false });
  const [single, [one]] = await Promise.all([a.send("lab", b.uri(), "x"), a.broadcast("lab", "x")]);
  expect(single.outcome.type).toBe("cancelled");
  expect(one?.outcome.type).toBe("cancelled");
});

test("driver: a leave is seen at once", async () => {
  const [a, b] = await pair("sip:127.0.0.1:0", "sip:127.0.0.2:0");
  const seen = new Promise<void>((resolve) => void a.on("peer-disabled", () => resolve()));
  await b.close({ announce: true });
  await seen;
  expect(a.nodes().map(({ status }) => status)).toEqual(["disabled"]);
});

test("driver: an address in use is a clear error and leaves nothing behind", async () => {
  const a = await node({ serverAddress: "sip:127.0.0.1:0" });
  const refused = createNode({ serverAddress: a.uri() });
  expect(refused).rejects.toThrow("EADDRINUSE");
  await refused.catch(() => undefined);
});
