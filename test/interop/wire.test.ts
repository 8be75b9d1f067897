/**
 * What a network does: a cable that is pulled (network namespaces), loss, copies and delay (a wire of our own), a real Kamailio that
 * stands still. Goal: each message has an outcome and one run of its handler, and all find each other again without anybody's help.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { type Daemon, Daemons, EXECUTABLE, type ListRow } from "../helpers/daemon.ts";
import { describeInterop, expectHealthy, type KamailioNode, startLab } from "../helpers/kamailio.ts";
import { Namespaces, namespaceProblem } from "../helpers/namespaces.ts";
import { describeWhere } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";
import { CLEAR, Wire } from "../helpers/wire.ts";

const SETUP_MS = 40_000;
const TEST_MS = 90_000;

const daemons = new Daemons();
afterAll(() => daemons.endAll(), SETUP_MS);

function statusIn(rows: readonly ListRow[], uri: string): string | undefined {
  return rows.find((row) => row.uri === uri)?.status;
}

describeWhere(namespaceProblem(), "a cable that is pulled", () => {
  const hosts = { a: "10.66.0.1", b: "10.66.0.2", c: "10.66.0.3" };
  type Host = keyof typeof hosts;
  const names = Object.keys(hosts) as Host[];
  const uriOf = (host: Host): string => `sip:${hosts[host]}:5060`;
  const socketOf = (host: Host): string => join(daemons.dir, `${host}.sock`);
  let net: Namespaces;
  beforeAll(() => {
    net = new Namespaces();
    for (const name of names) net.add(name, hosts[name]);
  });
  afterAll(() => net.end(), SETUP_MS);

  const run = (host: Host, ...args: string[]) => {
    const [command, ...rest] = args as [string, ...string[]];
    return net.run(host, [EXECUTABLE, command, "-s", socketOf(host), ...rest]);
  };
  const list = async (host: Host): Promise<ListRow[]> => JSON.parse((await run(host, "list", "--json")).stdout);
  const knows = async (host: Host, other: Host): Promise<boolean> =>
    statusIn(await list(host), uriOf(other)) === "active";
  const all = async (hosts: readonly Host[]): Promise<boolean> => {
    for (const host of hosts)
      for (const other of hosts) if (host !== other && !(await knows(host, other))) return false;
    return true;
  };

  test(
    "wire: a node that is cut off and comes back is known to all again, and what was sent meanwhile has an outcome",
    async () => {
      for (const name of names) {
        const options = ["--ping-interval", "1s", "--request-timeout", "2s", "--channel", "lab", "--no-snapshot"];
        const seed = name === "a" ? [] : ["--notification-address", uriOf("a")];
        net.spawn(name, [
          EXECUTABLE,
          "serve",
          "--server-address",
          uriOf(name),
          "-s",
          socketOf(name),
          ...options,
          ...seed,
        ]);
      }
      await until(() => all(names), 15_000, "all three have each other");
      net.plug("c", false);
      const cut = await run("a", "bcast", "--json", "lab", "x");
      const rows = cut.stdout
        .trim()
        .split("\n")
        .flatMap((line) => JSON.parse(line) as { node: string; outcome: string }[]);
      expect(rows.find(({ node }) => node === uriOf("b"))?.outcome).toBe("delivered");
      expect(["timeout", "unreachable"]).toContain(rows.find(({ node }) => node === uriOf("c"))?.outcome as string);
      await until(async () => !(await knows("a", "c")) && !(await knows("b", "c")), 15_000, "it is given up");
      await until(async () => !(await knows("c", "a")), 15_000, "it has given up the others");
      expect(await all(["a", "b"])).toBe(true);
      net.plug("c", true);
      await until(() => all(names), 20_000, "all three have each other again");
      expect((await run("c", "bcast", "lab", "x")).code).toBe(0);
      expect((await run("b", "send", "lab", uriOf("c"), "x")).code).toBe(0);
    },
    TEST_MS,
  );
});

test(
  "wire: with a third of the datagrams lost, copies and delay, each message has an outcome and one run of its handler",
  async () => {
    const port = 5597;
    const [said, real] = [["127.0.0.51", "127.0.0.52"] as const, ["127.0.0.61", "127.0.0.62"] as const];
    const wire = await Wire.between({ said, real, port });
    const options = ["--ping-interval", "1s", "--request-timeout", "8s", "--log-level", "error"];
    const start = (side: 0 | 1, ...more: string[]): Promise<Daemon> => {
      const where = ["--server-socket", `udp:${real[side]}:${port}`, ...options, ...more];
      return daemons.serve(`w${side}`, `sip:${said[side]}:${port}`, where);
    };
    const receiver = await start(0);
    const listener = await receiver.listen("jobs");
    const sender = await start(1, "--notification-address", receiver.uri);
    const meets = async (): Promise<boolean> => statusIn(await sender.list(), receiver.uri) === "active";
    await until(meets, 8_000, "the two know each other");
    wire.weather = { loss: 0.33, copies: 0.1, delay: [20, 150] };
    const bodies = Array.from({ length: 60 }, (_, i) => `message ${i}`);
    // By one batch at the control socket: so many commands at a time would be a load of their own.
    const params = { channel: "jobs", node: receiver.uri };
    const calls = bodies.map((body, id) => ({ jsonrpc: "2.0", id, method: "dmq.send", params: { ...params, body } }));
    const response = await fetch("http://dmq/rpc", {
      method: "POST",
      body: JSON.stringify(calls),
      unix: sender.socket,
    });
    const answers = (await response.json()) as { id: number; result?: { outcome: string } }[];
    const rows = bodies.map((_, at) => ({ outcome: answers.find(({ id }) => id === at)?.result?.outcome }));
    wire.weather = CLEAR;
    const delivered = bodies.filter((_, i) => rows[i]?.outcome === "delivered");
    expect(rows.filter(({ outcome }) => outcome !== "delivered" && outcome !== "timeout")).toEqual([]);
    expect(wire.lost).toBeGreaterThan(20);
    expect(delivered.length).toBeGreaterThan(45);
    const ran = (): (string | null)[] => listener.messages.map(({ body }) => body);
    await until(() => delivered.every((body) => ran().includes(body)), 5_000, "what was delivered was handled");
    expect(new Set(ran()).size).toBe(ran().length);
    await until(meets, 8_000, "the two still know each other");
    expect(await listener.end()).toBe(130);
    wire.close();
  },
  TEST_MS,
);

describeInterop("a Kamailio that stands still", () => {
  test(
    "wire: it is given up after a ping, its messages time out, and it is active again when it goes on (SIGSTOP, SIGCONT)",
    async () => {
      const lab = await startLab({ port: 5595, nodes: 1 });
      try {
        const kamailio = lab.nodes[0] as KamailioNode;
        const options = ["--notification-address", kamailio.uri, "--ping-interval", "1s", "--request-timeout", "2s"];
        const node = await daemons.serve("k", "sip:127.0.0.7:5595", [...options, "--channel", "lab"]);
        const status = async (): Promise<string | undefined> => statusIn(await node.list(), kamailio.uri);
        const itHasUs = (): Promise<boolean> => kamailio.hasActive("127.0.0.7");
        await until(async () => (await status()) === "active" && (await itHasUs()), 12_000, "the two know each other");
        const group = await kamailio.group();
        process.kill(-group, "SIGSTOP");
        try {
          const sent = await node.send("lab", kamailio.uri, new TextEncoder().encode("x"));
          expect(sent.outcome).toBe("timeout");
          await until(async () => (await status()) === "not_active", 12_000, "it is given up");
        } finally {
          process.kill(-group, "SIGCONT");
        }
        await until(
          async () => (await status()) === "active" && (await itHasUs()),
          15_000,
          "the two know each other again",
        );
        expect((await node.send("lab", kamailio.uri, new TextEncoder().encode("y"))).outcome).toBe("delivered");
        expect(await kamailio.send("lab", node.uri, new TextEncoder().encode("z"))).toBe(200);
        await expectHealthy([kamailio]);
      } finally {
        await lab.down();
      }
    },
    TEST_MS,
  );
});
