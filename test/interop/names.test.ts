/**
 * A bus that is found by one DNS name, as the module's manual has it: two real Kamailio nodes, an address where nobody is,
 * and our node with `--multi-notify` and a DNS server of the test's own. Then SRV records, an address that changes while
 * everything runs, and a DNS server that dies. Kamailio goes by addresses: its resolver reads the machine's own resolv.conf.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type Daemon, Daemons, type ListRow } from "../helpers/daemon.ts";
import { DnsServer, describeDns, type Zone } from "../helpers/dns.ts";
import { describeInterop, expectHealthy, type KamailioNode, type Lab, startLab } from "../helpers/kamailio.ts";
import { until } from "../helpers/wait.ts";

const NAME = "dmq.example.test";
const PORT = 5670;
const [FIRST, SECOND, DEAD, LATER] = ["127.0.0.11", "127.0.0.12", "127.0.0.99", "127.0.0.34"];
const OTHER_PORT = 5699;
const TTL_SECONDS = 2;
const PING_SECONDS = 5;
/** What a change may take: the TTL, a ping interval with its tenth of jitter, and a moment. */
const FOLLOW_MS = (TTL_SECONDS + PING_SECONDS * 1.1 + 2) * 1_000;
const TEST_MS = 60_000;

const HOSTS: Zone["hosts"] = {
  [NAME]: [FIRST, SECOND, DEAD],
  "k1.example.test": [FIRST],
  "k2.example.test": [SECOND],
};
const SERVICES: NonNullable<Zone["services"]> = {
  [`_sip._udp.${NAME}`]: [
    { target: "k1.example.test", port: PORT },
    { target: "k2.example.test", port: PORT },
    { target: "k1.example.test", port: OTHER_PORT },
  ],
};

let registrations = 0;

/** A registration at `from` shows at `to`. */
async function expectReplication(from: KamailioNode, to: KamailioNode): Promise<void> {
  const user = `user${++registrations}`;
  expect(await from.register(user)).toBe("SIP/2.0 200 OK");
  const shows = async (): Promise<boolean> => new RegExp(`\\b${user}\\b`).test(await to.cmd("ul.dump"));
  await until(shows, 3_000, `${user}, registered at ${from.uri}, shows at ${to.uri}`);
}

async function statusOf(daemon: Daemon, uri: string): Promise<string | undefined> {
  return (await daemon.list()).find((row) => row.uri === uri)?.status;
}

async function expectStatus(daemon: Daemon, uri: string, status: string | undefined, ms = FOLLOW_MS): Promise<void> {
  const is = async (): Promise<boolean> => (await statusOf(daemon, uri)) === status;
  await until(is, ms, `${daemon.uri} has ${uri} ${status ?? "no more"}; it wrote: ${daemon.log}`);
}

async function contactsOf(daemon: Daemon): Promise<string[]> {
  const isContact = (row: ListRow): boolean => row.source === "notification_address";
  return (await daemon.list())
    .filter(isContact)
    .map(({ uri }) => uri)
    .sort();
}

describeDns("names", () => describeInterop("a bus that is found by a name", suite));

function suite(): void {
  let daemons: Daemons;
  let lab: Lab;
  let later: Lab | undefined;
  let third: KamailioNode;
  let dns: DnsServer;
  let ours: Daemon;
  let first: KamailioNode;
  let second: KamailioNode;

  function serve(name: string, ip: string, contact: string): Promise<Daemon> {
    const options = ["--notification-address", contact, "--multi-notify", "--dns-server", dns.address];
    return daemons.serve(name, `sip:${ip}:${PORT}`, [...options, "--ping-interval", String(PING_SECONDS)]);
  }

  beforeAll(async () => {
    daemons = new Daemons();
    dns = await DnsServer.start({ hosts: HOSTS, services: SERVICES }, TTL_SECONDS);
    lab = await startLab({ port: PORT });
    [first, second] = lab.nodes as [KamailioNode, KamailioNode];
    ours = await serve("n1", "127.0.0.31", `sip:${NAME}:${PORT}`);
  }, TEST_MS);

  afterAll(async () => {
    await daemons?.endAll();
    await later?.down();
    await lab?.down();
    await dns?.end();
  }, TEST_MS);

  test(
    "three addresses, one of them dead: all but that one are active, and registrations replicate",
    async () => {
      for (const node of lab.nodes) await expectStatus(ours, node.uri, "active");
      expect(await contactsOf(ours)).toEqual([FIRST, SECOND, DEAD].map((ip) => `sip:${ip}:${PORT}`).sort());
      expect(await statusOf(ours, `sip:${DEAD}:${PORT}`)).toBe("not_active");
      for (const node of lab.nodes) {
        await until(() => node.hasActive("127.0.0.31"), FOLLOW_MS, `${node.uri} lists our node as active`);
        expect((await node.list()).map(({ host }) => host)).not.toContain(DEAD);
      }
      await expectReplication(first, second);
      await expectReplication(second, first);
    },
    TEST_MS,
  );

  test(
    "SRV records: without a port in the address all of them count, with one only those with that port",
    async () => {
      const all = await serve("n2", "127.0.0.32", `sip:_sip._udp.${NAME}`);
      const some = await serve("n3", "127.0.0.33", `sip:_sip._udp.${NAME}:${PORT}`);
      const both = lab.nodes.map(({ uri }) => uri);
      for (const daemon of [all, some]) for (const uri of both) await expectStatus(daemon, uri, "active");
      expect(await contactsOf(all)).toEqual([...both, `sip:${FIRST}:${OTHER_PORT}`].sort());
      expect(await contactsOf(some)).toEqual([...both].sort());
      expect(await statusOf(all, `sip:${FIRST}:${OTHER_PORT}`)).toBe("not_active");
      for (const daemon of [all, some]) expect((await daemon.run(["leave"])).code).toBe(0);
      await Promise.all([all.exited, some.exited]);
      await expectReplication(first, second);
    },
    TEST_MS,
  );

  test(
    "an address changes in DNS while everything runs: the bus follows",
    async () => {
      await second.kill9();
      later = await startLab({ nodes: 1, ip: LATER, port: PORT });
      third = later.nodes[0] as KamailioNode;
      dns.setHosts({ ...HOSTS, [NAME]: [FIRST, LATER, DEAD] });
      await expectStatus(ours, third.uri, "active");
      expect(await contactsOf(ours)).toEqual([FIRST, LATER, DEAD].map((ip) => `sip:${ip}:${PORT}`).sort());
      // It is no contact any more, so two missed pings are the end of it.
      await expectStatus(ours, `sip:${SECOND}:${PORT}`, undefined, 30_000);
      expect(await statusOf(ours, `sip:${DEAD}:${PORT}`)).toBe("not_active");
      await until(() => third.hasActive(FIRST), FOLLOW_MS, `${third.uri} knows ${first.uri} by our node`);
      await expectReplication(first, third);
      await expectReplication(third, first);
    },
    TEST_MS,
  );

  test(
    "the DNS server dies and comes back: nothing changes, and a change after that is followed",
    async () => {
      const before = await ours.list();
      await dns.stop();
      const warnings = (): number => ours.log.split(`${NAME} does not resolve`).length - 1;
      const known = warnings();
      await until(() => warnings() > known + 1, 40_000, "two warnings that the name does not resolve");
      const seen = (rows: ListRow[]): string[] => rows.map(({ uri, status, source }) => `${uri} ${status} ${source}`);
      expect(seen(await ours.list())).toEqual(seen(before));
      expect((await ours.bcast("lab", new Uint8Array(1))).map(({ code }) => code)).toEqual([200, 200]);
      await expectReplication(first, third);

      await dns.start();
      dns.setHosts({ ...HOSTS, [NAME]: [FIRST, LATER] });
      const isFollowed = async (): Promise<boolean> => (await contactsOf(ours)).length === 2;
      await until(isFollowed, 20_000, "our node asks again and lets go of the dead address");
      await expectReplication(third, first);
      await expectHealthy([first, third]);
    },
    TEST_MS + 20_000,
  );
}
