/**
 * A real Kamailio sends with dmq_send_message and dmq_bcast_message to channels that `dmq listen` answers, and is pinged.
 * Goal: it gets the answer of the command and is well afterwards, and who asks for a body gets the right one.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, jsonRows } from "../helpers/daemon.ts";
import { describeInterop, expectHealthy, type KamailioNode, type Lab, startLab } from "../helpers/kamailio.ts";
import { until } from "../helpers/wait.ts";

const URI = "sip:127.0.0.32:5590";
const ASKER = "sip:127.0.0.33:5590";
const TEST_MS = 40_000;

describeInterop("a Kamailio and the commands that answer, ping and wait", () => {
  let lab: Lab;
  let daemons: Daemons;
  let kamailio: KamailioNode;
  let daemon: Daemon;
  let asker: Daemon;
  let heard: string;

  beforeAll(async () => {
    daemons = new Daemons();
    lab = await startLab({ port: 5580 });
    kamailio = lab.nodes[0] as KamailioNode;
    heard = join(daemons.dir, "heard");
    const options = ["--ping-interval", "5", "--notification-address", kamailio.uri, "--log-level", "warn"];
    daemon = await daemons.serve("answers", URI, options);
    asker = await daemons.serve("asks", ASKER, options);
    for (const one of [daemon, asker])
      expect((await one.run(["wait", "members=4", `node=${kamailio.uri}`, "--timeout", "20s"])).code).toBe(0);
    for (const node of lab.nodes)
      await until(() => node.hasActive("127.0.0.32", "127.0.0.33"), 12_000, `${node.uri} has both as active`);
  }, TEST_MS);

  afterAll(async () => {
    await daemons?.endAll();
    await lab?.down();
  }, TEST_MS);

  async function listening(channel: string, command: string): Promise<ReturnType<Daemons["start"]>> {
    const running = daemons.start(["listen", "--socket", daemon.socket, "--exec", command, channel]);
    const { code, stderr } = await daemon.run(["wait", `channel=${channel}`, "--timeout", "8s"]);
    if (code !== 0) throw new Error(`${stderr}; dmq listen wrote: ${running.stderr}`);
    return running;
  }

  test(
    "listen --exec answers dmq_send_message and dmq_bcast_message, with every octet and without a body",
    async () => {
      const listener = await listening("alerts", `sh -c 'cat >>${heard}; echo sip:127.0.0.99:5060;status=active'`);
      const body = Uint8Array.from({ length: 4_000 }, (_, i) => (i + (i >> 8)) & 255);
      const before = await kamailio.counter("2xx");
      expect(await kamailio.send("alerts", URI, body, "application/octet-stream")).toBe(200);
      const isThere = (size: number) => (): boolean => existsSync(heard) && readFileSync(heard).length === size;
      await until(isThere(4_000), 5_000, "the first body is there");
      expect(await kamailio.bcast("alerts", body, "application/octet-stream")).toBe(200);
      await until(isThere(8_000), 5_000, "the second body is there");
      const octets = new Uint8Array(readFileSync(heard));
      expect(Bun.deepEquals(octets, Uint8Array.of(...body, ...body))).toBe(true);
      await until(async () => (await kamailio.counter("2xx")) >= before + 2, 5_000, "both were answered 2xx");
      expect([await listener.end("SIGINT"), listener.stderr]).toEqual([130, ""]);
      // A body in the answer would have been a node list for it.
      await expectHealthy(lab.nodes);
      expect((await kamailio.list()).map(({ host }) => host)).not.toContain("127.0.0.99");
    },
    TEST_MS,
  );

  test(
    "a command that fails or hangs, and a listener that is killed, do it no harm",
    async () => {
      for (const command of ["false", "sleep 3"]) {
        const listener = await listening("bad", command);
        const before = await kamailio.counter("5xx");
        expect(await kamailio.send("bad", URI, new TextEncoder().encode("x"))).toBe(200);
        if (command !== "false") await Bun.sleep(200);
        if (command === "false") await until(() => listener.stderr.includes("exited with 1"), 5_000, "it failed");
        await listener.end("SIGKILL");
        await until(async () => (await kamailio.counter("5xx")) > before, 5_000, "a 5xx came");
      }
      await expectHealthy(lab.nodes);
      for (const node of lab.nodes) expect(await node.hasActive("127.0.0.32", "127.0.0.33")).toBe(true);
    },
    TEST_MS,
  );

  test(
    "who asks for a body on the same bus gets the command's output",
    async () => {
      const listener = await listening("uptime", `sh -c 'read word; echo "$word of $DMQ_NODE for $DMQ_ACCEPT"'`);
      const { code, stdout } = await asker.run(["req", "uptime", URI, "hello"]);
      expect([code, stdout]).toEqual([0, `hello of ${ASKER} for 1\n`]);
      const raw = await asker.run(["rpc", "dmq.send", JSON.stringify(["uptime", URI, "again"])]);
      const [row] = jsonRows<{ code: number; body_base64?: string }>(raw.stdout);
      expect([row?.code, row?.body_base64]).toEqual([200, undefined]);
      expect(await listener.end("SIGINT")).toBe(130);
    },
    TEST_MS,
  );

  test(
    "ping: each Kamailio answers 200 as it is, and no list changes",
    async () => {
      const lists = async (): Promise<unknown> => Promise.all(lab.nodes.map((node) => node.list()));
      const before = await lists();
      const { code, stdout, stderr } = await daemon.run([
        "ping",
        "-c",
        "3",
        "-i",
        "100ms",
        ...lab.nodes.map(({ uri }) => uri),
      ]);
      const rows = stdout
        .trim()
        .split("\n")
        .map((line) => line.split("\t").slice(0, 2));
      const each = lab.nodes.map(({ uri }) => [uri, "200"]);
      expect([code, stderr, rows]).toEqual([0, "", [...each, ...each, ...each]]);
      expect(await lists()).toEqual(before);
      await expectHealthy(lab.nodes);
    },
    TEST_MS,
  );
});
