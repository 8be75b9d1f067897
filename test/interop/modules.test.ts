/**
 * Kamailio's own modules go on replicating while nodes of ours are members: htable, usrloc and dialog data reach the
 * other Kamailio, and our 404 comes before Kamailio would repeat its request (T1, 500 ms).
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type Daemon, Daemons } from "../helpers/daemon.ts";
import {
  askUdp,
  describeInterop,
  expectHealthy,
  type KamailioNode,
  kdmq,
  type Lab,
  startLab,
} from "../helpers/kamailio.ts";
import { until } from "../helpers/wait.ts";

const URIS = ["sip:127.0.0.21:5360", "sip:127.0.0.22:5360"];
const TEST_MS = 40_000;

describeInterop("modules: Kamailio's replication with our nodes among the targets", () => {
  let lab: Lab;
  let daemons: Daemons;
  let first: KamailioNode;
  let second: KamailioNode;
  const ours: Daemon[] = [];

  beforeAll(async () => {
    daemons = new Daemons();
    lab = await startLab({ port: 5370 });
    [first, second] = lab.nodes as [KamailioNode, KamailioNode];
    for (const [index, uri] of URIS.entries()) {
      const options = ["--ping-interval", "5", "--notification-address", first.uri, "--log-level", "warn"];
      ours.push(await daemons.serve(`n${index}`, uri, options));
    }
    for (const node of lab.nodes) {
      const isFull = async (): Promise<boolean> =>
        (await node.list()).filter((row) => row.status === "active").length === 4;
      await until(isFull, 12_000, `${node.uri} lists four active nodes`);
    }
  }, TEST_MS);

  afterAll(async () => {
    await daemons.endAll();
    await lab?.down();
  }, TEST_MS);

  /** Requests that Kamailio repeated because our answer did not come in time. */
  async function repeated(): Promise<number> {
    let sum = 0;
    for (const daemon of ours) sum += (await daemon.status()).counters.retransmissionsReceived as number;
    return sum;
  }

  /** Runs `action` and expects that each of our nodes answered at least `messages` requests of `node` with 404. */
  async function expectRefusals(node: KamailioNode, messages: number, action: () => Promise<unknown>): Promise<void> {
    const before = await node.counter("4xx");
    await action();
    const wanted = before + messages * ours.length;
    await until(async () => (await node.counter("4xx")) >= wanted, 3_000, `${wanted} answers 4xx at ${node.uri}`);
    expect(await repeated()).toBe(0);
  }

  test("a module's message to us is answered 404 before it would be repeated", async () => {
    for (const channel of ["htable", "usrloc", "dialog", "presence"]) {
      const body = '{"action":1}';
      const request = kdmq({ channel, host: "127.0.0.21:5360", from: `sip:${channel}@127.0.0.11:5370`, body });
      expect(await askUdp("127.0.0.21", 5360, request, 500)).toStartWith("SIP/2.0 404 ");
    }
  });

  test(
    "htable cells reach the other Kamailio, in both directions",
    async () => {
      for (const [from, to, name] of [
        [first, second, "there"],
        [second, first, "back"],
      ] as const) {
        await expectRefusals(from, 1, () => from.cmd("htable.sets", "h", name, `value-${name}`));
        const isThere = async (): Promise<boolean> => (await to.cmd("htable.get", "h", name)).includes(`value-${name}`);
        await until(isThere, 2_000, `${name} in the table of ${to.uri}`);
      }
      await expectRefusals(first, 1, () => first.cmd("htable.delete", "h", "there"));
      const isGone = async (): Promise<boolean> => !(await second.cmd("htable.dump", "h")).includes("value-there");
      await until(isGone, 2_000, "the cell is deleted at the other Kamailio");
    },
    TEST_MS,
  );

  test(
    "registered contacts reach the other Kamailio",
    async () => {
      await expectRefusals(first, 1, async () => expect(await first.register("carol")).toBe("SIP/2.0 200 OK"));
      const isThere = async (): Promise<boolean> => (await second.cmd("ul.dump")).includes("sip:carol@127.0.0.1:5099");
      await until(isThere, 2_000, "the contact at the other Kamailio");
    },
    TEST_MS,
  );

  test(
    "a REGISTER that Kamailio replicates is answered by us with a final code, and is not repeated",
    async () => {
      // One transaction with a branch for each node: the answers are counted one by one, its end only once.
      const before = await first.counter("rpl_received");
      expect(await first.register("dave", ["X-Replicate: yes"])).toStartWith("SIP/2.0 200");
      const wanted = before + ours.length + 1;
      await until(async () => (await first.counter("rpl_received")) >= wanted, 3_000, "an answer of every node");
      await until(() => second.log.includes("LAB register from-node"), 2_000, "the copy at the other Kamailio");
      expect(await repeated()).toBe(0);
    },
    TEST_MS,
  );

  test(
    "calls complete, and their dialogs are known at the other Kamailio",
    async () => {
      await expectRefusals(first, 2, async () => {
        const call = lab.call(first, 2);
        const isThere = async (): Promise<boolean> => (await second.cmd("dlg.list")).includes("sip:alice@127.0.0.1");
        await until(isThere, 2_000, "the dialog at the other Kamailio");
        await call;
      });
    },
    TEST_MS,
  );

  test(
    "all four are still active, and both Kamailio healthy",
    async () => {
      for (const node of lab.nodes) {
        expect((await node.list()).filter((row) => row.status === "active").length).toBe(4);
      }
      await expectHealthy(lab.nodes);
    },
    TEST_MS,
  );
});
