/**
 * A real Kamailio whose address is not in `allow`, with our node as its first contact. Goal: it is told 403, then nothing; neither
 * has the other as a node of the bus; and it comes in by a reload of `allow`, without a restart on either side.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons } from "../helpers/daemon.ts";
import { describeInterop, expectHealthy, type KamailioNode, kdmq, type Lab, startLab } from "../helpers/kamailio.ts";
import { until } from "../helpers/wait.ts";

const URI = "sip:127.0.0.61:5493";
const LAB_PORT = 5497;

/** Refusals that one address gets in a row, and one more in each 15 s (node/admission.ts). */
const REFUSALS = 4;
const REFUSAL_EVERY_MS = 15_000;

const TEST_MS = 60_000;

describeInterop("a Kamailio outside of allow", () => {
  let lab: Lab;
  let daemons: Daemons;
  let kamailio: KamailioNode;
  let daemon: Daemon;
  let config: string;

  beforeAll(async () => {
    daemons = new Daemons();
    config = join(daemons.dir, "dmq.toml");
    allow("127.0.0.99");
    daemon = await daemons.serve("door", URI, ["--config", config, "--ping-interval", "5", "--channel", "lab"]);
    lab = await startLab({ port: LAB_PORT, nodes: 1, seed: URI });
    kamailio = lab.nodes[0] as KamailioNode;
  }, TEST_MS);

  afterAll(async () => {
    await daemons?.endAll();
    await lab?.down();
  }, TEST_MS);

  function allow(network: string): void {
    writeFileSync(config, `allow = ["${network}"]\n`);
  }

  /** As Kamailio lists us. */
  async function statusThere(): Promise<string | undefined> {
    return (await kamailio.list()).find(({ host }) => host === "127.0.0.61")?.status;
  }

  async function counters(): Promise<Record<string, number>> {
    return (await daemon.status()).counters;
  }

  /** What answers KDMQ from the Kamailio's address, in the order of the requests. */
  async function askedFromThere(count: number): Promise<string[]> {
    const answers: string[] = [];
    const data = (_: unknown, octets: Buffer): void => {
      answers.push(octets.toString().split("\r\n")[0] as string);
    };
    const socket = await Bun.udpSocket({ hostname: kamailio.ip, socket: { data } });
    try {
      const before = await counters();
      const since = async (name: string): Promise<number> => ((await counters())[name] ?? 0) - (before[name] ?? 0);
      for (let sent = 0; sent < count; sent++) {
        // A refusal is never larger than what it answers.
        const headers = [`X-Room: ${"x".repeat(200)}`];
        const from = `sip:${kamailio.ip}:${LAB_PORT}`;
        const request = { channel: "notification_peer", host: "127.0.0.61:5493", from, headers };
        socket.send(kdmq(request), 5493, "127.0.0.61");
      }
      await until(async () => (await since("refusedRequests")) >= count, 5_000, "all of them are read");
      const told = await since("refusalsSent");
      await until(() => answers.length >= told, 5_000, `${told} of them are answered`);
      return answers;
    } finally {
      socket.close();
    }
  }

  test(
    "is told 403, and neither has the other as a node of the bus",
    async () => {
      await until(async () => (await kamailio.counter("4xx")) > 0, 8_000, "Kamailio counts a 4xx");
      expect((await daemon.list()).map(({ uri }) => uri)).toEqual([URI]);
      // Its own list keeps a first contact that says no, as one that has not answered yet: it broadcasts nothing there.
      expect(await statusThere()).toBe("pending");
      expect(daemon.log).toContain(`allow ${kamailio.ip}`);
    },
    TEST_MS,
  );

  test(
    "hears nothing more when it goes on, and is no worse for it",
    async () => {
      const said = await askedFromThere(3 * REFUSALS);
      expect(new Set(said)).toEqual(new Set(["SIP/2.0 403 Forbidden"]));
      expect(said.length).toBeLessThan(REFUSALS);
      const before = await counters();
      const isAgain = async (): Promise<boolean> =>
        ((await counters()).refusedRequests as number) >= (before.refusedRequests as number) + 4;
      await until(isAgain, 2 * REFUSAL_EVERY_MS, "Kamailio's own pings, 5 s apart, come in");
      const after = await counters();
      const answered = (after.refusalsSent as number) - (before.refusalsSent as number);
      expect(answered).toBeLessThan((after.refusedRequests as number) - (before.refusedRequests as number));
      expect((await daemon.list()).map(({ uri }) => uri)).toEqual([URI]);
      expect(["pending", "not_active", undefined]).toContain(await statusThere());
      await expectHealthy([kamailio]);
    },
    TEST_MS,
  );

  test(
    "comes in when allow has it",
    async () => {
      allow(`${kamailio.ip}/32`);
      expect((await daemon.run(["reload"])).code).toBe(0);
      expect((await daemon.run(["wait", `node=${kamailio.uri}`, "--timeout", "15s"])).code).toBe(0);
      await until(async () => (await statusThere()) === "active", 15_000, "Kamailio has us as active");
      expect((await daemon.send("lab", kamailio.uri, new Uint8Array(1))).outcome).toBe("delivered");
    },
    TEST_MS,
  );
});
