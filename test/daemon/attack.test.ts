/**
 * Attackers with real sockets (issue 6, must-show 5): the registry, the answers to the rightful peers and the memory stay as
 * they were. What exactly the core makes of each octet is in test/node/forged.test.ts and admission.test.ts.
 */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type CreateNodeOptions, createNode, type RunningNode } from "../../src/daemon/driver.ts";
import { describeWhere, missingPrograms, type Refused } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";
import { kdmq, line } from "../node/harness.ts";

// A busy machine is slow, above all where another process has to start.
setDefaultTimeout(30_000);

const nodes: RunningNode[] = [];
const sockets: { close(): void }[] = [];

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.close();
  await Promise.all(nodes.splice(0).map((each) => each.close({ announce: false })));
});

async function node(options: CreateNodeOptions): Promise<RunningNode> {
  const made = await createNode({ pingIntervalMs: 60_000, ...options });
  nodes.push(made);
  return made;
}

/** Two nodes that know each other; `b` answers messages on the channel lab. */
async function pair(options: Partial<CreateNodeOptions> = {}): Promise<[RunningNode, RunningNode]> {
  const a = await node({ serverAddress: "sip:127.0.0.1:0", ...options });
  const b = await node({ serverAddress: "sip:127.0.0.2:0", notificationAddresses: [a.uri()] });
  b.channel("lab", () => undefined);
  const isActive = (of: RunningNode): boolean => of.nodes().some(({ status }) => status === "active");
  await until(() => isActive(a) && isActive(b), 5_000, "they know each other");
  return [a, b];
}

interface Caller {
  readonly port: number;
  readonly heard: string[];
  say(text: string, port: number, ip?: string): void;
}

async function at(hostname: string): Promise<Caller> {
  const heard: string[] = [];
  const socket = await Bun.udpSocket({
    hostname,
    socket: { data: (_socket, bytes) => void heard.push(bytes.toString()), error: () => undefined },
  });
  sockets.push(socket);
  return { port: socket.port, heard, say: (text, port, ip = "127.0.0.1") => void socket.send(text, port, ip) };
}

function portOf(one: RunningNode): number {
  return Number(/:(\d+)/.exec(one.uri().slice(5))?.[1]);
}

function registry(of: RunningNode): unknown {
  return of.nodes().map(({ uri, status, verified, failCount }) => ({ uri, status, verified, failCount }));
}

async function delivered(from: RunningNode, to: RunningNode): Promise<void> {
  expect((await from.send("lab", to.uri(), "x")).outcome.type).toBe("delivered");
}

describe("an address that is not allowed", () => {
  test("attack: a stranger over UDP gets four times 403, and nothing changes", async () => {
    const [a, b] = await pair({ allow: ["127.0.0.2"] });
    const before = registry(a);
    const stranger = await at("127.0.0.66");
    const address = `127.0.0.66:${stranger.port}`;
    for (let i = 0; i < 500; i++) stranger.say(kdmq({ from: address, body: line(address) }), portOf(a));
    await until(() => a.counters().refusedRequests === 500, 5_000, "all have come in");
    await delivered(a, b);
    expect(stranger.heard.map((text) => text.slice(0, 11))).toEqual(new Array(4).fill("SIP/2.0 403"));
    expect(registry(a)).toEqual(before);
  });

  test("attack: a stranger's connection is closed with nothing read, those of others are not", async () => {
    const [a, b] = await pair({ allow: ["127.0.0.2"] });
    const ends: string[] = [];
    for (let i = 0; i < 50; i++)
      Bun.connect({
        ...{ hostname: "127.0.0.1", port: portOf(a), localAddress: "127.0.0.66" },
        socket: {
          open: (socket) => void socket.write(kdmq({ channel: "lab" }).replace("/UDP", "/TCP")),
          data: (_socket, bytes) => void ends.push(bytes.toString()),
          close: () => void ends.push("closed"),
        },
      }).catch(() => ends.push("closed"));
    await until(() => ends.length === 50, 5_000, "every one is closed");
    expect(new Set(ends)).toEqual(new Set(["closed"]));
    expect(a.counters()).toMatchObject({ refusedConnections: 50, refusedRequests: 0, messagesReceived: 0 });
    await delivered(a, b);
  });

  test("attack: who may send other requests only is heard over TCP, and its KDMQ is refused", async () => {
    const [a] = await pair({ allow: ["127.0.0.2"], allowRequests: ["127.0.0.66"] });
    const heard: string[] = [];
    const socket = await Bun.connect({
      ...{ hostname: "127.0.0.1", port: portOf(a), localAddress: "127.0.0.66" },
      socket: { data: (_socket, bytes) => void heard.push(bytes.toString()) },
    });
    sockets.push({ close: () => socket.end() });
    socket.write(kdmq({ method: "OPTIONS" }).replace("/UDP", "/TCP"));
    socket.write(kdmq({ channel: "lab" }).replace("/UDP", "/TCP"));
    await until(() => heard.join("").includes("403 Forbidden"), 5_000, "it has both answers");
    expect(heard.join("")).toStartWith("SIP/2.0 200 OK\r\n");
  });
});

describe("an allowed address", () => {
  test("attack: lists of ten thousand lines leave the registry, the rightful peer and the memory as they were", async () => {
    const [a, b] = await pair();
    const before = registry(a);
    const list = (start: number): string =>
      Array.from({ length: 10_000 }, (_, i) => line(`127.${start}.${i >> 8}.${i & 255}:9`)).join("");
    const connection = await Bun.connect({
      ...{ hostname: "127.0.0.1", port: portOf(a), localAddress: "127.0.0.66" },
      socket: { data: () => undefined },
    });
    sockets.push({ close: () => connection.end() });
    let lists = 0;
    const flood = async (rounds: number, from: number): Promise<number> => {
      for (let i = 0; i < rounds; i++) {
        let rest = Buffer.from(kdmq({ from: "127.0.0.66:5060", body: list(from + i) }).replace("/UDP", "/TCP"));
        while (rest.length > 0) {
          rest = rest.subarray(connection.write(rest));
          await Bun.sleep(1);
        }
      }
      lists += rounds;
      await until(() => a.counters().badLines === lists, 20_000, "all lists have come in");
      Bun.gc(true);
      return process.memoryUsage().rss;
    };
    const settled = await flood(10, 1);
    const after = await flood(20, 11);
    expect(after - settled).toBeLessThan(32 * 1024 * 1024);
    expect(registry(a)).toEqual(before);
    await delivered(a, b);
    const { heldNames, notificationsSent } = a.counters();
    expect(heldNames).toBeGreaterThan(20_000);
    expect(notificationsSent).toBeLessThan(100);
  }, 60_000);

  test("attack: who answers for another node, knowing the branch, is not believed; the node itself is", async () => {
    const a = await node({ serverAddress: "sip:127.0.0.1:0" });
    const [peer, liar] = [await at("127.0.0.3"), await at("127.0.0.66")];
    const uri = `sip:127.0.0.3:${peer.port}`;
    a.add(uri, "active");
    await until(() => peer.heard.length === 1, 5_000, "it is pinged");
    const report = a.send("lab", uri, "x");
    await until(() => peer.heard.some((text) => text.includes("sip:lab@")), 5_000, "the message has arrived");
    const answer = (request: string, status: string, body: string): string => {
      const copied = request.split("\r\n").filter((text) => /^(Via|To|From|Call-ID|CSeq):/.test(text));
      return `SIP/2.0 ${status}\r\n${copied.join("\r\n")}\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    };
    const [ping, message] = peer.heard as [string, string];
    const before = registry(a);
    for (const request of [ping, message])
      liar.say(answer(request, "200 OK", line(`127.0.0.66:${liar.port}`)), portOf(a));
    await until(() => a.counters().strayResponses === 2, 5_000, "the lies have arrived");
    expect(registry(a)).toEqual(before);
    peer.say(answer(message, "404 Not Found Peer ID", ""), portOf(a));
    expect((await report).outcome).toMatchObject({ type: "rejected", code: 404 });
  });
});

function rawProblem(): string | Refused | undefined {
  const missing = missingPrograms("python3");
  if (missing !== undefined) return missing;
  const probe = Bun.spawnSync(["python3", "-c", "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)"]);
  return probe.success ? undefined : { refused: "raw sockets need root (CAP_NET_RAW)" };
}

/** Reads `source-ip source-port target-port` and a length on a line each, then so many octets; sends them as a datagram. */
const SPOOFER = `
import socket, struct, sys
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
read = sys.stdin.buffer
while True:
    head = read.readline().split()
    if not head: break
    ip, sport, dport, size = head[0].decode(), int(head[1]), int(head[2]), int(head[3])
    body = read.read(size)
    udp = struct.pack("!HHHH", sport, dport, 8 + size, 0) + body
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(ip), socket.inet_aton("127.0.0.1"))
    raw.sendto(header + udp, ("127.0.0.1", 0))
`;

describeWhere(rawProblem(), "a forged source over UDP", () => {
  test("attack: datagrams in a peer's name neither switch it off nor bring anybody in", async () => {
    const [a, b] = await pair();
    const before = registry(a);
    const fallen: string[] = [];
    for (const type of ["peer-disabled", "peer-down", "peer-removed", "peer-up"] as const)
      a.on(type, ({ peer }) => void fallen.push(`${type} ${peer.uri}`));
    const spoofer = Bun.spawn(["python3", "-c", SPOOFER], { stdin: "pipe", stdout: "ignore", stderr: "inherit" });
    const forge = (text: string, ip: string, port: number): void => {
      const octets = Buffer.from(text);
      spoofer.stdin.write(`${ip} ${port} ${portOf(a)} ${octets.length}\n`);
      spoofer.stdin.write(octets);
    };
    const start = a.counters().notificationsReceived;
    const mine = `127.0.0.2:${portOf(b)}`;
    for (let i = 0; i < 40; i++) {
      forge(kdmq({ from: mine, body: line(mine, "disabled") }), "127.0.0.2", portOf(b));
      forge(kdmq({ from: mine, body: line(mine) + line("127.0.0.77:9") }), "127.0.0.2", portOf(b));
      const made = `127.0.0.${100 + i}:9`;
      forge(kdmq({ from: made, body: line(made), maxForwards: 2 }), `127.0.0.${100 + i}`, 9);
    }
    spoofer.stdin.end();
    expect(await spoofer.exited).toBe(0);
    await until(() => a.counters().notificationsReceived >= start + 120, 5_000, "all have come in");
    await until(() => a.counters().falseLeaves > 0, 5_000, "the peer was asked, and is still there");
    await delivered(a, b);
    expect(registry(a)).toEqual(before);
    expect(fallen).toEqual([]);
    expect(a.counters()).toMatchObject({ relays: 0 });
    // What b knows came from a's lists: nobody that a has not proved.
    expect(b.nodes().map(({ uri }) => uri)).toEqual([a.uri()]);
  });
});
