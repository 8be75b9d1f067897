/**
 * A real Kamailio broadcasts to a node whose channels are served by commands. Goal: each command gets the octets, and
 * whatever a command does, hang, flood or print, the Kamailio gets an answer that does it no harm, before it would repeat
 * itself into a timeout and drop the node.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons } from "../helpers/daemon.ts";
import { describeInterop, expectHealthy, type KamailioNode, type Lab, startLab } from "../helpers/kamailio.ts";
import { until } from "../helpers/wait.ts";

const HOST = "127.0.0.31";
const URI = `sip:${HOST}:5560`;
const TEST_MS = 40_000;

describeInterop("handlers: a Kamailio's broadcast runs commands", () => {
  let lab: Lab;
  let daemons: Daemons;
  let kamailio: KamailioNode;
  let daemon: Daemon;
  let heard: string;
  let runs: string;

  beforeAll(async () => {
    daemons = new Daemons();
    lab = await startLab({ port: 5570 });
    kamailio = lab.nodes[0] as KamailioNode;
    heard = join(daemons.dir, "heard");
    runs = join(daemons.dir, "runs");
    const count = `sh -c 'echo $DMQ_CHANNEL $DMQ_NODE >>${runs}`;
    daemon = await daemons.serve("handlers", URI, [
      ...["--ping-interval", "5", "--notification-address", kamailio.uri, "--log-level", "warn"],
      ...["--on", `alerts=${count}; cat >${heard}'`],
      ...["--on", `prints=${count}; echo sip:127.0.0.99:5060;status=active'`],
      ...["--on", `floods=${count}; exec yes'`],
      ...["--on", `hangs=${count}; exec sleep 100'`],
      ...["--on", `fails=${count}; exit 1'`],
      ...["--on", `peer-up=sh -c 'echo $DMQ_EVENT $DMQ_NODE >>${runs}'`],
    ]);
    for (const node of lab.nodes) await until(() => node.hasActive(HOST), 12_000, `${node.uri} has ${URI} as active`);
  }, TEST_MS);

  afterAll(async () => {
    await daemons?.endAll();
    await lab?.down();
  }, TEST_MS);

  /** Runs of the command of a channel. */
  function runsOf(channel: string): string[] {
    const lines = existsSync(runs) ? readFileSync(runs, "utf8").split("\n") : [];
    return lines.filter((line) => line.startsWith(`${channel} `));
  }

  test("peer-up runs for each Kamailio", async () => {
    await until(() => runsOf("peer-up").length === 2, 8_000, "both are up");
    expect(runsOf("peer-up").sort()).toEqual(lab.nodes.map(({ uri }) => `peer-up ${uri}`).sort());
  });

  test("the command gets every octet of dmq_bcast_message, once, and who sent it", async () => {
    const body = Uint8Array.from({ length: 8_000 }, (_, i) => (i + (i >> 8)) & 255);
    expect(await kamailio.bcast("alerts", body, "application/octet-stream")).toBe(200);
    const isThere = (): boolean => existsSync(heard) && readFileSync(heard).length === body.length;
    await until(isThere, 5_000, "the body is there");
    expect(Bun.deepEquals(new Uint8Array(readFileSync(heard)), body)).toBe(true);
    expect(runsOf("alerts")).toEqual([`alerts ${kamailio.uri}`]);
  });

  for (const [channel, counter] of [
    ["prints", "2xx"],
    ["fails", "5xx"],
    ["floods", "5xx"],
    ["hangs", "5xx"],
  ] as const) {
    test(
      `after a command that ${channel}, the Kamailio is well and we are active for it`,
      async () => {
        const before = await kamailio.counter(counter);
        expect(await kamailio.bcast(channel, new TextEncoder().encode("x"))).toBe(200);
        await until(async () => (await kamailio.counter(counter)) > before, 5_000, `a ${counter} came`);
        expect(runsOf(channel).length).toBe(1);
        await expectHealthy(lab.nodes);
        expect(await kamailio.hasActive(HOST)).toBe(true);
        expect((await kamailio.list()).length).toBe(3);
      },
      TEST_MS,
    );
  }

  test(
    "a burst that hangs and floods disturbs neither the bus nor a channel that works",
    async () => {
      const body = new TextEncoder().encode("x");
      for (let i = 0; i < 3; i++) for (const channel of ["hangs", "floods"]) await kamailio.bcast(channel, body);
      // num_workers commands at a time: the ones that hang are ended, and then it is this one's turn.
      const calm = async (): Promise<boolean> => {
        const row = await daemon.status();
        return (await daemon.send("lab", kamailio.uri, body)).code === 200 && row.peers.active === 2;
      };
      await until(calm, 8_000, "we can send as before");
      const before = runsOf("alerts").length;
      const works = async (): Promise<boolean> => {
        await kamailio.bcast("alerts", body);
        return runsOf("alerts").length > before;
      };
      await until(works, 8_000, "the command of alerts runs again");
      await expectHealthy(lab.nodes);
      for (const node of lab.nodes) expect(await node.hasActive(HOST)).toBe(true);
    },
    TEST_MS,
  );
});
