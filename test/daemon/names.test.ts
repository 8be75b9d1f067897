/** Names in a node with real sockets: which answers it can use, what leads back to itself, and that nothing is held up. */
import { afterEach, describe, expect, test } from "bun:test";
import { ConfigError } from "../../src/core/errors.ts";
import { type CreateNodeOptions, createNode, type RunningNode } from "../../src/daemon/driver.ts";
import { families, ownAddresses } from "../../src/daemon/reach.ts";
import { DnsServer, describeDns, oddDns } from "../helpers/dns.ts";
import { until } from "../helpers/wait.ts";

const nodes: RunningNode[] = [];

async function node(options: CreateNodeOptions): Promise<RunningNode> {
  const made = await createNode({ pingIntervalMs: 2_000, ...options });
  nodes.push(made);
  return made;
}

afterEach(async () => {
  await Promise.all(nodes.splice(0).map((each) => each.close({ announce: false })));
});

function statusOf(observer: RunningNode, uri: string): string | undefined {
  return observer.nodes().find((peer) => peer.uri === uri)?.status;
}

describe("reach: what open sockets mean for names", () => {
  const udp = (ip: string): { transport: "udp"; ip: string; port: number } => ({ transport: "udp", ip, port: 5060 });
  const cases: [ips: string[], ipv4: boolean, ipv6: boolean][] = [
    [["127.0.0.1"], true, false],
    [["0.0.0.0"], true, false],
    [["::1"], false, true],
    [["::"], true, true],
    [["127.0.0.1", "::1"], true, true],
  ];
  for (const [ips, ipv4, ipv6] of cases)
    test(`reach: sockets at ${ips.join(" and ")}`, () => expect(families(ips.map(udp))).toEqual({ ipv4, ipv6 }));

  test("reach: a wildcard stands for every address of the machine, of its kind", () => {
    expect(ownAddresses([udp("127.0.0.9")])).toEqual([{ transport: "udp", host: "127.0.0.9", port: 5060 }]);
    const all = ownAddresses([udp("0.0.0.0")]).map(({ host }) => host);
    expect(all).toContain("127.0.0.1");
    expect(all.filter((host) => host.includes(":"))).toEqual([]);
  });
});

describeDns("driver: names", () => {
  let dns: DnsServer;

  async function withNames(hosts: Record<string, string[]>, body: () => Promise<void>): Promise<void> {
    dns = await DnsServer.start({ hosts }, 1);
    try {
      await body();
    } finally {
      await dns.end();
    }
  }

  test("driver: an IPv4 node meets the IPv4 addresses of a name and never asks for the others", async () => {
    await withNames({ "bus.test": ["127.0.0.2", "::1"] }, async () => {
      const seed = await node({ serverAddress: "sip:127.0.0.2:0" });
      const { port } = seed.sockets()[0] as { port: number };
      const contact = [`sip:bus.test:${port}`];
      const options = { notificationAddresses: contact, multiNotify: true, dnsServers: [dns.address] };
      const own = await node({ serverAddress: "sip:127.0.0.1:0", ...options });
      await until(() => statusOf(own, seed.uri()) === "active", 5_000, "the seed is active");
      expect(own.nodes().map(({ uri }) => uri)).toEqual([seed.uri()]);
      expect([dns.asked("A bus.test") > 0, dns.asked("AAAA bus.test")]).toEqual([true, 0]);
    });
  });

  test("driver: an IPv6 node meets the IPv6 addresses of a name", async () => {
    await withNames({ "bus.test": ["127.0.0.2", "::1"] }, async () => {
      const seed = await node({ serverAddress: "sip:[::1]:0" });
      const { port } = seed.sockets()[0] as { port: number };
      const options = { notificationAddresses: [`sip:bus.test:${port}`], dnsServers: [dns.address] };
      const own = await node({ serverAddress: "sip:[::1]:0", multiNotify: true, ...options });
      await until(() => statusOf(own, seed.uri()) === "active", 5_000, "the seed is active");
      expect(own.nodes().map(({ uri }) => uri)).toEqual([seed.uri()]);
    });
  });

  test("driver: a node that listens everywhere does not meet itself by another of its addresses", async () => {
    await withNames({ "bus.test": ["127.0.0.1", "127.0.0.2"] }, async () => {
      const free = await Bun.udpSocket({ hostname: "0.0.0.0", port: 0 });
      const { port } = free;
      free.close();
      const own = await node({
        serverAddress: `sip:127.0.0.3:${port}`,
        serverSockets: [`udp:0.0.0.0:${port}`],
        notificationAddresses: [`sip:bus.test:${port}`],
        multiNotify: true,
        dnsServers: [dns.address],
      });
      await until(() => own.nodes().length > 0, 5_000, "the other address is a contact");
      expect(own.nodes().map(({ host }) => host)).toEqual(["127.0.0.2"]);
    });
  });
});

test("driver: a contact of a family that the node does not speak disturbs nobody", async () => {
  const peer = await node({ serverAddress: "sip:127.0.0.2:0" });
  const contacts = ["sip:[::1]:5999", peer.uri()];
  const own = await node({ serverAddress: "sip:127.0.0.1:0", notificationAddresses: contacts });
  await until(() => statusOf(own, peer.uri()) === "active", 5_000, "the peer is active");
  peer.channel("lab", () => 200);
  for (let i = 0; i < 50; i++) expect((await own.send("lab", peer.uri(), "x")).outcome.type).toBe("delivered");
  await until(() => (own.nodes().find(({ host }) => host === "::1")?.failCount ?? 0) > 1, 10_000, "the other fails");
  expect([statusOf(own, "sip:[::1]:5999"), statusOf(own, peer.uri())]).toEqual(["not_active", "active"]);
});

test("driver: a silent DNS server holds nobody up, neither messages nor the end", async () => {
  const silent = await oddDns(() => []);
  const peer = await node({ serverAddress: "sip:127.0.0.2:0" });
  const own = await node({
    serverAddress: "sip:127.0.0.1:0",
    notificationAddresses: ["sip:a.test", "sip:b.test", peer.uri()],
    dnsServers: [silent.address],
  });
  await until(() => silent.asked.length > 0, 5_000, "the server is asked");
  await until(() => statusOf(own, peer.uri()) === "active", 1_000, "the peer is active");
  const { outcome, elapsedMs } = await own.send("lab", peer.uri(), "x");
  expect([outcome.type, elapsedMs < 1_000]).toEqual(["rejected", true]);
  expect(own.nodes().filter(({ resolvedIp }) => resolvedIp === "")).toHaveLength(2);
  const start = performance.now();
  await own.close({ announce: false });
  expect(performance.now() - start).toBeLessThan(2_000);
  silent.close();
});

test("driver: a DNS server that is no address is refused, and no socket is left open", async () => {
  const bind = (port: number): Promise<Bun.udp.Socket<"buffer">> => Bun.udpSocket({ hostname: "127.0.0.1", port });
  const free = await bind(0);
  const { port } = free;
  free.close();
  const options = { serverAddress: `sip:127.0.0.1:${port}`, dnsServers: ["dns.example"] };
  await expect(createNode(options)).rejects.toBeInstanceOf(ConfigError);
  const again = await bind(port);
  expect(again.port).toBe(port);
  again.close();
});
