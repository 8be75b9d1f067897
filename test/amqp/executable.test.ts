// needs programs: rabbitmq-server
/**
 * The compiled executable where it is more than its source (amqp.md B12 14): the library that is loaded late, sockets and TLS of the
 * bundle. Points 2 (a broker is killed), 7 (octets) and 13 (certificates) again, with `dist/dmq` alone.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { connect as connectLibrary } from "amqplib";
import { Certificates } from "../helpers/certificates.ts";
import { type Daemon, Daemons, dmq, EXECUTABLE, jsonRows } from "../helpers/daemon.ts";
import type { Finished } from "../helpers/process.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

setDefaultTimeout(60_000);

/** So many that there are hundreds under way when it happens. */
const PENDING = 10_000;

const octets = (text: string): Uint8Array => new TextEncoder().encode(text);

describeBroker("the executable and brokers", () => {
  let brokers: Brokers;
  let daemons: Daemons;
  let daemon: Daemon;

  beforeAll(async () => {
    brokers = await startBrokers({ nodes: 2, tls: true });
    daemons = new Daemons();
    const list = `amqp://127.0.0.1:1,${brokers.url("a")},${brokers.url("b")}`;
    daemon = await daemons.serve("a", "sip:127.0.0.1:0", ["--amqp", list]);
    await until(async () => (await states()).includes("connected"), 15_000, "a broker");
  }, BROKER_START_MS);

  afterAll(async () => {
    await daemons?.endAll();
    await brokers?.down();
  }, BROKER_START_MS);

  async function states(): Promise<string[]> {
    const done = await dmq(["amqp", "status", "--json", "--socket", daemon.socket]);
    return (JSON.parse(done.stdout).brokers as { state: string }[]).map(({ state }) => state);
  }

  async function confirmedSoFar(): Promise<number> {
    const done = await dmq(["amqp", "status", "--json", "--socket", daemon.socket]);
    return JSON.parse(done.stdout).publisher.confirmed;
  }

  async function bodiesAt(url: string, queue: string): Promise<Buffer[]> {
    const model = await connectLibrary(url);
    const channel = await model.createChannel();
    const found: Buffer[] = [];
    const { messageCount } = await channel.checkQueue(queue);
    if (messageCount > 0) {
      const all = Promise.withResolvers<void>();
      const take = (message: { content: Buffer } | null): void => {
        if (message !== null) found.push(message.content);
        if (found.length >= messageCount) all.resolve();
      };
      await channel.consume(queue, take, { noAck: true });
      await all.promise;
    }
    await model.close();
    return found;
  }

  test("octets: every one, none, 5 MiB, numbers of 64 bits", async () => {
    const bodies: Uint8Array[] = [
      Uint8Array.from({ length: 256 }, (_, index) => index),
      new Uint8Array(0),
      Uint8Array.from({ length: 5 * 1024 ** 2 }, (_, index) => (index * 31) % 251),
      octets('{"id":12345678901234567890,"x":1e400,"y":0.10}'),
    ];
    for (const place of [
      ["--url", brokers.url()],
      ["--socket", daemon.socket],
    ]) {
      expect(await dmq(["amqp", "declare", "queue", "octets", ...place])).toMatchObject({ code: 0 });
      for (const body of bodies) {
        expect(await dmq(["amqp", "publish", "", "octets", ...place], { stdin: body })).toMatchObject({ code: 0 });
        const path = `${daemons.dir}/body`;
        const got = Bun.spawnSync(["sh", "-c", '"$0" "$@" >"$OUT"', EXECUTABLE, "amqp", "get", "octets", ...place], {
          env: { PATH: process.env.PATH ?? "", OUT: path },
        });
        expect(got.exitCode).toBe(0);
        expect(Buffer.compare(Buffer.from(await Bun.file(path).bytes()), Buffer.from(body))).toBe(0);
      }
    }
  });

  test("certificates: the right authority, none, another name, a client's as the login", async () => {
    const { caFile, certFile, keyFile } = brokers.tls;
    const url = brokers.tlsUrl();
    const status = (address: string, ...words: string[]): Promise<Finished> =>
      dmq(["amqp", "status", "--url", address, "--timeout", "5s", ...words]);
    expect(await status(url, "--amqp-ca", caFile)).toMatchObject({ code: 0, stderr: "" });
    const strange = await status(url);
    expect(strange).toMatchObject({ code: 4, stdout: "" });
    expect(strange.stderr).toMatch(/certificate/i);
    const named = await status(url, "--amqp-ca", caFile, "--amqp-servername", "other.example");
    expect(named).toMatchObject({ code: 4 });
    expect(await status(url, "--amqp-insecure")).toMatchObject({ code: 0 });
    const own = ["--amqp-ca", caFile, "--amqp-cert", certFile, "--amqp-key", keyFile];
    expect(await status(url, ...own)).toMatchObject({ code: 0 });
    expect(await status(url, "--amqp-ca", caFile, "--amqp-cert", certFile)).toMatchObject({ code: 9 });
    const external = `${url.replace("guest:guest@", "")}?auth=external`;
    expect(await status(external, ...own)).toMatchObject({ code: 0 });
    expect(await status(external, "--amqp-ca", caFile)).toMatchObject({ code: 4 });
    // A daemon reads the same options.
    const secure = await daemons.serve("tls", "sip:127.0.0.1:0", ["--amqp", url, "--amqp-ca", caFile]);
    const isConnected = async (): Promise<boolean> =>
      (await dmq(["amqp", "status", "--socket", secure.socket])).stdout.includes("connected");
    await until(isConnected, 10_000, "amqps");
    expect(await secure.end("SIGTERM")).toBe(0);
  });

  test("certificates: one that has expired", async () => {
    const certificates = new Certificates();
    const authority = certificates.authority("expired");
    const { cert, key } = certificates.issue(authority, "IP:127.0.0.1", { from: -20, to: -10 });
    const server = Bun.listen({
      ...{ hostname: "127.0.0.1", port: 0, tls: { cert: Bun.file(cert), key: Bun.file(key) } },
      socket: { data: () => undefined },
    });
    const url = `amqps://127.0.0.1:${server.port}`;
    const done = await dmq(["amqp", "status", "--url", url, "--timeout", "5s", "--amqp-ca", authority.cert]);
    server.stop(true);
    certificates.remove();
    expect(done).toMatchObject({ code: 4, stdout: "" });
    expect(done.stderr).toContain("expired");
  });

  test(
    "the broker in use is killed under messages: none that was confirmed is missing",
    async () => {
      for (const url of [brokers.url("a"), brokers.url("b")])
        expect(await dmq(["amqp", "declare", "queue", "pending", "--url", url])).toMatchObject({ code: 0 });
      const lines = Array.from({ length: PENDING }, (_, index) => `m${index}`);
      const words = ["amqp", "publish", "", "pending", "--lines", "--json", "--socket", daemon.socket];
      const publishing = dmq(words, { stdin: octets(lines.join("\n")) });
      const before = await confirmedSoFar();
      await until(async () => (await confirmedSoFar()) > before, 20_000, "the first of them is confirmed");
      brokers.kill("a");
      const { code, stdout } = await publishing;
      expect(code).toBe(0);
      const confirmed = jsonRows<{ line: number }>(stdout).map(({ line }) => lines[line - 1]);
      expect(confirmed.length).toBe(PENDING);
      await brokers.start("a");
      const found = new Set<string>();
      for (const url of [brokers.url("a"), brokers.url("b")])
        for (const body of await bodiesAt(url, "pending")) found.add(String(body));
      expect(confirmed.filter((line) => !found.has(line as string))).toEqual([]);
      expect(confirmed.length).toBe(PENDING);
    },
    BROKER_START_MS,
  );
});
