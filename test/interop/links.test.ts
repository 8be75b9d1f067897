/**
 * Links and the outbox with real Kamailio nodes. Goal: a Kamailio's 200 means that the item is stored; what is in a queue is with every
 * Kamailio, in order, whatever the others answer; a circle over a Kamailio ends; who was down has it once it is back (queue.md B12).
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { type Daemon, Daemons } from "../helpers/daemon.ts";
import { describeInterop, expectHealthy, type KamailioNode, type Lab, startLab } from "../helpers/kamailio.ts";
import { until } from "../helpers/wait.ts";

const HOST = "127.0.0.33";
const URI = `sip:${HOST}:5562`;
const TEST_MS = 60_000;
/** How long a Kamailio is down; `DMQ_DOWN_MS=65000` plays the long form, in which it is forgotten meanwhile. */
const DOWN_MS = Number(process.env.DMQ_DOWN_MS ?? 0);

interface Sizes {
  ready: number;
  delayed: number;
  leased: number;
  dead: number;
}

const octets = (text: string): Uint8Array => new TextEncoder().encode(text);
const md5 = (text: string): string => createHash("md5").update(text).digest("hex");

describeInterop("links: between queues and Kamailio nodes", () => {
  let lab: Lab;
  let daemons: Daemons;
  let one: KamailioNode;
  let two: KamailioNode;
  let daemon: Daemon;

  beforeAll(async () => {
    daemons = new Daemons();
    lab = await startLab({ port: 5572 });
    [one, two] = lab.nodes as [KamailioNode, KamailioNode];
    daemon = await daemons.serve("links", URI, [
      ...["--ping-interval", "5", "--request-timeout", "2s", "--log-level", "warn"],
      ...["--notification-address", one.uri, "--state-dir", join(daemons.dir, "state")],
      ...["--queue", "name=full;size=1;full=reject", "--queue", "name=busy;retry=100ms"],
      ...["--link", "channel:alerts -> queue:alert", "--link", "channel:full -> queue:full"],
      ...["--link", "queue:out -> channel:lab", "--link", "queue:busy -> channel:lab-code-503;max-tries=2"],
      ...["--link", "queue:mixed -> channel:known", "--link", "channel:back -> queue:round"],
      ...["--link", "queue:round -> channel:lab-round;name=round"],
    ]);
    for (const node of lab.nodes) await until(() => node.hasActive(HOST), 12_000, `${node.uri} has ${URI} as active`);
    const hasBoth = async (): Promise<boolean> => (await daemon.status()).peers.active === 2;
    await until(hasBoth, 12_000, "we have both as active");
  }, TEST_MS);

  afterAll(async () => {
    await daemons?.endAll();
    await lab?.down();
  }, TEST_MS);

  async function rpc<T>(method: string, params: unknown): Promise<T> {
    const { code, stdout, stderr } = await daemon.run(["rpc", method, JSON.stringify(params)]);
    if (code !== 0) throw new Error(`${method}: exit ${code}, ${stderr}`);
    return JSON.parse(stdout) as T;
  }

  const sizes = (queue: string): Promise<Sizes> => rpc<Sizes>("queue.sizes", { queue });

  async function isThrough(queue: string): Promise<boolean> {
    const { ready, delayed, leased } = await sizes(queue);
    return ready + delayed + leased === 0;
  }

  function add(queue: string, values: readonly string[]): Promise<unknown> {
    return rpc("queue.add", { queue, items: values.map((value) => ({ key: "", value })) });
  }

  /** The bodies of `values` that a node has of a channel, in the order of their arrival; a copy shows twice. */
  function arrived(node: KamailioNode, channel: string, values: readonly string[]): string[] {
    const known = new Map(values.map((value) => [md5(value), value]));
    return node.arrivals(channel).flatMap((one) => known.get(one.md5) ?? []);
  }

  test(
    "a Kamailio's broadcast is an item with its node as key, and it is well",
    async () => {
      expect(await one.bcast("alerts", octets("disk full"))).toBe(200);
      const stored = async (): Promise<{ key: string; value: string }[] | false> => {
        const items = await rpc<{ key: string; value: string }[]>("queue.peek", { queue: "alert", count: 9 });
        return items.length > 0 && items;
      };
      const items = await until(stored, 5_000, "it is stored");
      expect(items).toMatchObject([{ key: one.uri.slice("sip:".length), value: "disk full" }]);
      await expectHealthy(lab.nodes);
    },
    TEST_MS,
  );

  test(
    "B12.6: a full queue is 503, and we stay on the Kamailio's list",
    async () => {
      const before = await one.counter("5xx");
      for (const body of ["a", "b", "c"]) expect(await one.bcast("full", octets(body))).toBe(200);
      await until(async () => (await one.counter("5xx")) === before + 2, 6_000, "two were 503");
      expect((await sizes("full")).ready).toBe(1);
      await expectHealthy(lab.nodes);
      expect(await one.hasActive(HOST)).toBe(true);
    },
    TEST_MS,
  );

  test(
    "B12.7: a queue to both, in order; 5xx of both is a dead letter that names them; 202 and 404 are no failure",
    async () => {
      const values = Array.from({ length: 25 }, (_, index) => `item ${index}`);
      await add("out", values);
      await until(() => isThrough("out"), 15_000, "all is sent");
      for (const node of lab.nodes) expect(arrived(node, "lab", values)).toEqual(values);
      await add("busy", ["x"]);
      await until(async () => (await sizes("busy")).dead === 1, 8_000, "it is dead");
      const [dead] = await rpc<{ reason: string }[]>("queue.dead", { queue: "busy", count: 9 });
      for (const node of lab.nodes) expect(dead?.reason).toContain(`${node.uri}: 50`);
      // A Kamailio knows the channels that it sends on itself, and says 202; the other one says 404.
      await one.bcast("known", octets("so that it is known"));
      await add("mixed", ["y"]);
      await until(() => isThrough("mixed"), 8_000, "it is done");
      expect((await sizes("mixed")).dead).toBe(0);
    },
    TEST_MS,
  );

  test(
    "B12.8: a circle over a Kamailio that sends everything back pauses, and is counted",
    async () => {
      let repeated = 0;
      const repeat = async (): Promise<boolean> => {
        const count = one.arrivals("lab-round").length;
        while (repeated < count) {
          repeated++;
          await one.bcast("back", octets("round"));
        }
        const { links } = (await daemon.status()) as unknown as { links: { name: string; held_back: number }[] };
        return links.some(({ name, held_back: held }) => name === "round" && held > 0);
      };
      await add("round", ["round"]);
      await until(repeat, 20_000, "it pauses");
      expect(one.arrivals("lab-round")).toHaveLength(6);
      expect(daemon.log).toContain("comes back again and again");
      await rpc("queue.clear", { queue: "round" });
      await expectHealthy(lab.nodes);
    },
    TEST_MS,
  );

  test(
    "a Kamailio that is down has it when it is back: --spool, in order, once; the other one is held up by nothing",
    async () => {
      await two.kill9();
      const values = Array.from({ length: 5 }, (_, index) => `spooled ${index}`);
      for (const value of values) {
        const done = await daemon.run(["bcast", "--spool=10m", "--timeout", "3s", "lab", value]);
        expect([done.code, done.stdout]).toEqual([75, expect.stringContaining(two.uri)]);
      }
      await add("out", ["beside it"]);
      await until(() => arrived(one, "lab", ["beside it"]).length === 1, 8_000, "the other one has it");
      expect(arrived(one, "lab", values)).toEqual(values);
      expect((await sizes("outbox")).ready + (await sizes("outbox")).delayed).toBe(5);
      await Bun.sleep(DOWN_MS);
      await two.start();
      await until(() => isThrough("outbox"), 25_000, "all is delivered");
      expect(arrived(two, "lab", values)).toEqual(values);
      expect((await sizes("outbox")).dead).toBe(0);
      await expectHealthy(lab.nodes);
    },
    TEST_MS + DOWN_MS,
  );
});
