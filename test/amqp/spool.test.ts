// needs programs: rabbitmq-server
/**
 * The spool of the compiled daemon (amqp.md B4, B12 4). Goal: exit 0 of `--spool` is a promise that outlives a broker that is not there
 * and a daemon that is killed at any moment; what a broker refuses is kept, and said.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { connect as connectLibrary } from "amqplib";
import { type Daemon, Daemons, dmq, jsonRows } from "../helpers/daemon.ts";
import type { Finished } from "../helpers/process.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

setDefaultTimeout(60_000);

const ROUNDS = 8;
const PUBLISHERS = 3;

const octets = (text: string): Uint8Array => new TextEncoder().encode(text);

describeBroker("the spool", () => {
  let brokers: Brokers;
  let daemons: Daemons;
  let count = 0;

  beforeAll(async () => {
    brokers = await startBrokers();
    daemons = new Daemons();
  }, BROKER_START_MS);

  afterAll(async () => {
    await daemons?.endAll();
    await brokers?.down();
  }, BROKER_START_MS);

  function serve(state: string, ...options: string[]): Promise<Daemon> {
    const url = options.includes("--amqp") ? [] : ["--amqp", brokers.url()];
    const words = ["--state-dir", `${daemons.dir}/${state}`, ...url, ...options];
    return daemons.serve(`s${++count}`, "sip:127.0.0.1:0", words);
  }

  function spool(at: Daemon, ...words: string[]): Promise<Finished> {
    return dmq(["amqp", "publish", ...words, "--spool", "--socket", at.socket]);
  }

  async function spooled(at: Daemon): Promise<{ waiting: number; dead: number; bytes: number }> {
    const done = await dmq(["amqp", "status", "--json", "--socket", at.socket]);
    return JSON.parse(done.stdout).spool;
  }

  async function empty(at: Daemon, ms = 30_000): Promise<void> {
    await until(async () => (await spooled(at)).waiting === 0, ms, "everything of the spool is published");
  }

  /** All there is in a queue: their bodies and headers, in their order. */
  async function messagesOf(queue: string): Promise<{ body: string; headers: Record<string, unknown> }[]> {
    const model = await connectLibrary(brokers.url());
    const channel = await model.createChannel();
    const found: { body: string; headers: Record<string, unknown> }[] = [];
    for (;;) {
      const message = await channel.get(queue, { noAck: true });
      if (message === false) break;
      found.push({ body: String(message.content), headers: message.properties.headers ?? {} });
    }
    await model.close();
    return found;
  }

  async function declare(queue: string): Promise<string> {
    expect(await dmq(["amqp", "declare", "queue", queue, "--url", brokers.url()])).toMatchObject({ code: 0 });
    return queue;
  }

  test(
    "what is stored while no broker is there is published when one is, in its order, with its properties",
    async () => {
      const queue = await declare("later");
      await brokers.stop("a");
      const daemon = await serve("later");
      const lines = Array.from({ length: 300 }, (_, index) => `line ${index}`).join("\n");
      const words = [
        "amqp",
        "publish",
        "",
        queue,
        "--lines",
        "--spool",
        "--header",
        "n:int=7",
        "--socket",
        daemon.socket,
      ];
      expect(await dmq(words, { stdin: octets(lines) })).toEqual({ code: 0, stdout: "", stderr: "" });
      const [row] = jsonRows<object>((await spool(daemon, "", queue, "last", "--json", "--message-id", "m")).stdout);
      expect(row).toEqual({ broker: null, repeats: 0, message_id: "m", spooled: true });
      expect((await spooled(daemon)).waiting).toBe(301);
      await brokers.start("a");
      await empty(daemon);
      const messages = await messagesOf(queue);
      expect(messages.map(({ body }) => body).join("\n")).toBe(`${lines}\nlast`);
      expect(messages[0]?.headers).toEqual({ n: 7 });
      expect(await daemon.end("SIGTERM")).toBe(0);
    },
    BROKER_START_MS,
  );

  test(
    "every exit 0 arrives at least once, whenever the daemon is killed",
    async () => {
      const queue = await declare("killed");
      const promised = new Set<string>();
      let number = 0;
      for (let round = 0; round < ROUNDS; round++) {
        const daemon = await serve("killed");
        // A machine that is busy takes its time for the first of them.
        const first = promised.size;
        const killing = until(() => promised.size > first, 20_000, "the first promise of a round")
          .then(() => Bun.sleep(Math.random() * 400))
          .then(() => daemon.end("SIGKILL"));
        let isOver = false;
        void killing.then(() => {
          isOver = true;
        });
        const publisher = async (): Promise<void> => {
          while (!isOver) {
            const body = `message ${number++}`;
            const done = await spool(daemon, "", queue, body);
            if (done.code === 0) promised.add(body);
            else expect([4, 6]).toContain(done.code);
          }
        };
        await Promise.all(Array.from({ length: PUBLISHERS }, publisher));
        expect(await killing).toBe(137);
      }
      expect(promised.size).toBeGreaterThanOrEqual(ROUNDS);
      const last = await serve("killed");
      await empty(last);
      const bodies = new Set((await messagesOf(queue)).map(({ body }) => body));
      expect([...promised].filter((body) => !bodies.has(body))).toEqual([]);
      expect((await spooled(last)).dead).toBe(0);
      await last.end("SIGTERM");
    },
    BROKER_START_MS,
  );

  test("what a broker refuses is a dead letter with the reason, and holds up nothing behind it", async () => {
    const queue = await declare("behind");
    const daemon = await serve("dead");
    expect(await spool(daemon, "", "nobody", "unroutable")).toMatchObject({ code: 0 });
    expect(await spool(daemon, "nope", "k", "no exchange")).toMatchObject({ code: 0 });
    expect(await spool(daemon, "", "nobody", "not mandatory", "--no-mandatory")).toMatchObject({ code: 0 });
    expect(await spool(daemon, "", queue, "fine")).toMatchObject({ code: 0 });
    await until(async () => (await spooled(daemon)).dead === 2, 10_000, "both are dead");
    await empty(daemon);
    expect((await messagesOf(queue)).map(({ body }) => body)).toEqual(["fine"]);
    const letters = await daemon.run(["queue", "dead", "amqp.spool", "list", "--json"]);
    const rows = jsonRows<{ reason: string; value: string; key: string }>(letters.stdout);
    expect(rows.map(({ key, value }) => [key, value])).toEqual([
      ["", "unroutable"],
      ["nope", "no exchange"],
    ]);
    expect(rows.map(({ reason }) => reason).join("\n")).toMatch(/no queue takes it[^\n]*\n[^\n]*no exchange 'nope'/);
    // Mended, they can be sent again.
    await declare("nobody");
    expect(await daemon.run(["queue", "dead", "amqp.spool", "retry", "--all"])).toMatchObject({ code: 0 });
    // Beside one whose exchange is still not there: that closes the channel, and it may be sent twice.
    const isThere = async (): Promise<boolean> =>
      (await messagesOf("nobody")).some(({ body }) => body === "unroutable");
    await until(isThere, 10_000, "the mended one is published");
    await daemon.end("SIGTERM");
  });

  test(
    "a spool that is full is exit 5, one that cannot be written is exit 9, and nothing is stored then",
    async () => {
      const full = await serve("full", "--amqp", "amqp://127.0.0.1:1", "--queue", "name=amqp.spool;size=2;full=reject");
      for (const body of ["1", "2"]) expect(await spool(full, "", "q", body)).toMatchObject({ code: 0 });
      const refused = await spool(full, "", "q", "3");
      expect(refused).toMatchObject({ code: 5, stdout: "" });
      expect(refused.stderr).toContain("full");
      expect((await spooled(full)).waiting).toBe(2);
      await full.end("SIGTERM");
      writeFileSync(`${daemons.dir}/file`, "");
      const nowhere = await serve("file/below", "--amqp", "amqp://127.0.0.1:1");
      expect(await spool(nowhere, "", "q", "x")).toMatchObject({ code: 9, stdout: "" });
      await nowhere.end("SIGTERM");
    },
    BROKER_START_MS,
  );

  test("without a daemon it is stored by the command: the next one that has brokers publishes it, in order", async () => {
    const queue = await declare("alone");
    const state = `${daemons.dir}/alone`;
    const env = { DMQ_STATE_DIR: state, DMQ_SOCKET: `${daemons.dir}/nobody.sock` };
    const words = ["amqp", "publish", "", queue, "--spool"];
    const row = await dmq([...words, "one", "--json", "--message-id", "m"], { env });
    expect(row).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(row.stdout)).toEqual({ broker: null, repeats: 0, message_id: "m", spooled: true });
    const lines = octets("two\nthree\n");
    expect(await dmq([...words, "--lines"], { env, stdin: lines })).toMatchObject({ code: 0 });
    const config = `${daemons.dir}/alone.toml`;
    writeFileSync(config, `state_dir = "${state}"\n`);
    const named = { DMQ_SOCKET: env.DMQ_SOCKET };
    expect(await dmq([...words, "four", "--config", config], { env: named })).toMatchObject({ code: 0 });
    expect(await dmq([...words, "x"], { env: { ...env, DMQ_STATE_DIR: "/proc/none" } })).toMatchObject({ code: 9 });
    const daemon = await serve("alone");
    await empty(daemon);
    expect((await messagesOf(queue)).map(({ body }) => body)).toEqual(["one", "two", "three", "four"]);
    await daemon.end("SIGTERM");
  });

  test("a daemon without a broker says so: exit 4; --spool goes with neither --url, --declare nor --no-confirm", async () => {
    const daemon = await daemons.serve("none", "sip:127.0.0.1:0", ["--state-dir", `${daemons.dir}/none`]);
    const none = await spool(daemon, "", "q", "x");
    expect(none).toMatchObject({ code: 4, stdout: "" });
    expect(none.stderr).toContain("has no brokers: start it with --amqp URL");
    for (const words of [["--declare", "topic"], ["--no-confirm"]])
      expect(await spool(daemon, "", "q", "x", ...words)).toMatchObject({ code: 2 });
    await daemon.end("SIGTERM");
  });
});
