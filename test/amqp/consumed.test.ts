// needs programs: rabbitmq-server bash cat env false head sleep tr true
/**
 * `dmq amqp consume` as an operator has it: the compiled executable, on connections of its own and through a daemon, each exit code that
 * takes a broker, and what is left when it is killed.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { AmqpClient } from "../../src/amqp/client.ts";
import type { Properties } from "../../src/amqp/message.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import { type Daemon, Daemons, dmq } from "../helpers/daemon.ts";
import type { Finished } from "../helpers/process.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

const WAIT_MS = 20_000;
const TEST_MS = 60_000;

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describeBroker("dmq amqp consume, compiled", () => {
  let brokers: Brokers;
  let client: AmqpClient;
  let all: Daemons;
  let daemon: Daemon;
  let count = 0;

  beforeAll(async () => {
    brokers = await startBrokers({ nodes: 2 });
    client = new AmqpClient({ brokers: parseBrokers([brokers.url()]) });
    client.start();
    await client.ready(WAIT_MS);
    all = new Daemons();
    const state = ["--state-dir", join(all.dir, "state")];
    const both = ["--amqp", `${brokers.url("a")},${brokers.url("b")}`, "--amqp-mode", "all"];
    daemon = await all.serve("amqp", "sip:127.0.0.83:5983", [...both, ...state]);
    const status = async (): Promise<string> => (await daemon.run(["amqp", "status", "--json"])).stdout;
    await until(async () => (await status()).match(/"connected"/g)?.length === 2, WAIT_MS, "connected to both");
  }, BROKER_START_MS);

  afterAll(async () => {
    await client?.close();
    await all?.endAll();
    await brokers?.down();
  }, BROKER_START_MS);

  async function queue(): Promise<string> {
    const name = `c${++count}`;
    await client.topology([{ do: "declare-queue", name, durable: true }]);
    return name;
  }

  async function publish(to: string, body: string | Uint8Array, more: Properties = {}): Promise<void> {
    const octets = typeof body === "string" ? bytes(body) : body;
    await client.publish({ exchange: "", routingKey: to, body: octets, ...more });
  }

  async function size(name: string): Promise<{ messages: number | undefined; consumers: number | undefined }> {
    const [reply] = await client.topology([{ do: "declare-queue", name, passive: true }]);
    return { messages: reply?.messages, consumers: reply?.consumers };
  }

  async function isEmpty(name: string): Promise<boolean> {
    const { messages, consumers } = await size(name);
    return messages === 0 && consumers === 0;
  }

  test(
    "a question of the second broker is answered there, where the first one is published to",
    async () => {
      const other = new AmqpClient({ brokers: parseBrokers([brokers.url("b")]) });
      other.start();
      await other.ready(WAIT_MS);
      try {
        const name = await queue();
        await other.topology([{ do: "declare-queue", name, durable: true }]);
        const command = 'tr a-z A-Z; echo "$DMQ_BROKER" >&2';
        const words = ["--socket", daemon.socket, "--queue", name, "-n", "1", "--reply", "--exec", command];
        const answering = dmq(["amqp", "consume", ...words]);
        const message = { exchange: "", routingKey: name, body: bytes("hello") };
        const [answer] = await other.query(message, { timeoutMs: WAIT_MS });
        expect(new TextDecoder().decode(answer?.body)).toBe("HELLO");
        expect((await answering).stderr).toContain(new URL(brokers.url("b")).port);
      } finally {
        await other.close();
      }
    },
    TEST_MS,
  );

  for (const way of ["own connections", "a daemon"] as const)
    describe(`by ${way}`, () => {
      const where = (): string[] => (way === "a daemon" ? ["--socket", daemon.socket] : ["--url", brokers.url()]);
      const consume = (...words: string[]): Promise<Finished> =>
        dmq(["amqp", "consume", ...where(), ...words], {
          env:
            way === "a daemon" ? {} : { DMQ_STATE_DIR: join(all.dir, "own"), DMQ_SOCKET: join(all.dir, "none.sock") },
        });

      test(
        "dmq amqp consume: exit 0, with what came; dmq amqp consume: exit 1, where nothing did",
        async () => {
          const name = await queue();
          await publish(name, "a\tb\n");
          expect(await consume("--queue", name, "-n", "1", "--for", "10s")).toEqual({
            ...{ code: 0, stderr: "" },
            stdout: `${name}\ta\\tb\\n\n`,
          });
          expect(await consume("--queue", name, "--for", "200ms")).toEqual({ code: 1, stderr: "", stdout: "" });
          await until(() => isEmpty(name), WAIT_MS, "nothing is left, and nobody consumes");
        },
        TEST_MS,
      );

      test(
        "dmq amqp consume: exit 3, where there is no such queue",
        async () => {
          const ran = await consume("--queue", "no-such", "--passive");
          expect([ran.code, ran.stdout]).toEqual([3, ""]);
          expect(ran.stderr).toContain("no-such");
        },
        TEST_MS,
      );

      test(
        "dmq amqp consume: exit 5, where it was declared otherwise",
        async () => {
          const ran = await consume("--queue", await queue(), "--arg", "x-max-length:int=5");
          expect([ran.code, ran.stdout]).toEqual([5, ""]);
          expect(ran.stderr).toContain("x-max-length");
        },
        TEST_MS,
      );

      test(
        "dmq amqp consume: exit 8, where the command fails; it is a dead letter of ours",
        async () => {
          const name = await queue();
          await publish(name, "bad");
          const ran = await consume("--queue", name, "-n", "1", "--exec", "echo why >&2; exit 65");
          expect([ran.code, ran.stderr.split("\n")[0]]).toEqual([8, "why"]);
          const state = way === "a daemon" ? ["--socket", daemon.socket] : ["--state-dir", join(all.dir, "own")];
          const dead = await dmq(["queue", "dead", name, "list", "--json", ...state]);
          expect(JSON.parse(dead.stdout)).toMatchObject([{ value: "bad", stderr: "why\n", exit_code: 65 }]);
        },
        TEST_MS,
      );

      for (const [title, signal, code] of [
        ["dmq amqp consume: exit 130 at SIGINT", "SIGINT", 130],
        ["dmq amqp consume: exit 143 at SIGTERM", "SIGTERM", 143],
      ] as const)
        test(
          `${title}, when what runs has ended`,
          async () => {
            const name = await queue();
            await publish(name, "m");
            await publish(name, "n");
            const flag = join(all.dir, `flag-${name}`);
            const command = `touch ${flag}; sleep 0.5; touch ${flag}.done`;
            const running = all.start(["amqp", "consume", ...where(), "--queue", name, "--exec", command]);
            await until(() => existsSync(flag), WAIT_MS, "the command runs");
            expect(await running.end(signal)).toBe(code);
            expect(existsSync(`${flag}.done`)).toBe(true);
            await until(async () => (await size(name)).messages === 1, WAIT_MS, "the second one is back");
          },
          TEST_MS,
        );

      test(
        "killed in the middle of a command: the message is there again, and not lost",
        async () => {
          const name = await queue();
          await publish(name, "m", { messageId: "id" });
          const flag = join(all.dir, `killed-${name}`);
          const words = ["--queue", name, "--exec", `echo $$ > ${flag}; sleep 30`];
          const running = all.start(["amqp", "consume", ...where(), ...words]);
          await until(() => existsSync(flag) && readFileSync(flag, "utf8").endsWith("\n"), WAIT_MS, "the command runs");
          await running.end("SIGKILL");
          process.kill(-Number(readFileSync(flag, "utf8")), "SIGKILL");
          const again = await consume("--queue", name, "-n", "1", "--exec", 'echo "$DMQ_MESSAGE_ID $DMQ_TRIES"');
          expect(again).toEqual({ code: 0, stderr: "", stdout: "id 2\n" });
        },
        TEST_MS,
      );

      test(
        "bytes: 0 to 255, none, 5 MiB and 64-bit numbers, published, come out as they went in",
        async () => {
          const name = await queue();
          const bodies = [
            Uint8Array.from({ length: 256 }, (_, octet) => octet),
            new Uint8Array(0),
            Uint8Array.from({ length: 5 * 1024 * 1024 }, (_, index) => (index * 7919) >> 5),
            bytes('{"id":12345678901234567890}'),
          ];
          for (const stdin of bodies) {
            const sent = await dmq(["amqp", "publish", ...where(), "", name, "-"], { stdin });
            expect(sent).toEqual({ code: 0, stdout: "", stderr: "" });
          }
          const ran = await consume("--queue", name, "-n", String(bodies.length), "--exec", "sha256sum");
          const hashes = bodies.map((body) => `${new Bun.CryptoHasher("sha256").update(body).digest("hex")}  -`);
          expect(ran.stdout.trimEnd().split("\n")).toEqual(hashes);
        },
        TEST_MS,
      );

      test(
        "a question is answered by what a command prints",
        async () => {
          const name = await queue();
          const answering = consume("--queue", name, "-n", "1", "--reply", "--exec", "tr a-z A-Z");
          const message = { exchange: "", routingKey: name, body: bytes("hello") };
          const [answer] = await client.query(message, { timeoutMs: WAIT_MS });
          expect(new TextDecoder().decode(answer?.body)).toBe("HELLO");
          expect((await answering).code).toBe(0);
        },
        TEST_MS,
      );

      test(
        "--kazoo: a question with its address in the body is answered, and both know the other's Node",
        async () => {
          const name = await queue();
          const command = `cat >&2; echo '{"Id":98765432109876543210}'`;
          const answering = consume("--queue", name, "-n", "1", "--kazoo", "--reply", "--exec", command);
          const question = ["", name, '{"Number":12345678901234567890}', "--kazoo", "--timeout", "20s"];
          const asked = await dmq(["amqp", "query", ...where(), ...question]);
          expect(asked.code).toBe(0);
          expect(asked.stdout).toMatch(/^\{"Id":98765432109876543210,"App-Name":"dmq",.*"Node":"dmq@/);
          const { code, stderr } = await answering;
          expect(code).toBe(0);
          expect(stderr).toMatch(
            /"Number":12345678901234567890.*"Server-ID":"consumer:\/\/1\/dmq@.*"AMQP-Broker-Zone":"local"/,
          );
        },
        TEST_MS,
      );

      test(
        "a thousand messages, a command for each of the first ten, the others printed: none twice",
        async () => {
          const name = await queue();
          const bodies = Array.from({ length: 1_000 }, (_, index) => `m${index}`);
          await Promise.all(bodies.map((body) => publish(name, body)));
          const handled = await consume("--queue", name, "-n", "10", "--jobs", "3", "--exec", 'echo "$(cat)"');
          const printed = await consume("--queue", name, "-n", "990", "--raw");
          const seen = [...handled.stdout.trimEnd().split("\n"), ...(printed.stdout.match(/m\d+/g) ?? [])];
          expect(seen).toHaveLength(1_000);
          expect(new Set(seen).size).toBe(1_000);
          await until(() => isEmpty(name), WAIT_MS, "nothing is left, and nobody consumes");
        },
        TEST_MS,
      );
    });
});
