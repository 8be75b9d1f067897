// needs programs: rabbitmq-server
/**
 * `dmq amqp` against real brokers: each exit code of each command that takes a broker, with connections of the command's own and through
 * a daemon that has them (amqp.md B12 1, 10). The executable is what runs: nothing here imports the product.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect as connectLibrary } from "amqplib";
import { type Daemon, Daemons, dmq, jsonRows } from "../helpers/daemon.ts";
import type { Finished } from "../helpers/process.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";
import { until } from "../helpers/wait.ts";

/** Longer than the patience of the runner, which ends the daemons of the whole file with a test that is late. */
setDefaultTimeout(60_000);

interface Row {
  exchange: string;
  routing_key: string;
  queue: string;
  body?: string;
  body_base64?: string;
  content_type?: string;
  headers?: Record<string, unknown>;
  persistent?: boolean;
  priority?: number;
  correlation_id?: string;
  reply_to?: string;
  expiration_ms?: number;
  message_id?: string;
  type?: string;
  app_id?: string;
  broker: string;
}

interface Options {
  stdin?: Uint8Array | string;
  env?: Record<string, string>;
}

/** Each command that asks a broker for something. */
const ALL_WORDS: readonly string[][] = [
  ["publish", "", "q", "x"],
  ["query", "", "q", "x"],
  ["get", "q"],
  ["declare", "queue", "q"],
  ["bind", "queue", "q", "amq.topic"],
  ["unbind", "queue", "q", "amq.topic"],
  ["delete", "queue", "q"],
  ["purge", "q"],
];

const octets = (text: string): Uint8Array => new TextEncoder().encode(text);

describeBroker("dmq amqp", () => {
  let brokers: Brokers;
  let daemons: Daemons;
  let daemon: Daemon;

  beforeAll(async () => {
    brokers = await startBrokers({ nodes: 2 });
    daemons = new Daemons();
    const state = ["--state-dir", `${daemons.dir}/state`];
    daemon = await daemons.serve("a", "sip:127.0.0.1:0", ["--node-name", "edge1", ...state], {
      DMQ_AMQP_URL: brokers.url(),
    });
    await until(async () => (await status(daemon)).brokers[0]?.state === "connected", 15_000, "the daemon's broker");
  }, BROKER_START_MS);

  afterAll(async () => {
    await daemons?.endAll();
    await brokers?.down();
  }, BROKER_START_MS);

  /** Over a connection of its own, to broker a unless the words say another. */
  function own(...words: string[]): Promise<Finished> {
    const url = words.includes("--url") ? [] : ["--url", brokers.url()];
    return dmq(["amqp", ...words, ...url]);
  }

  function piped(words: readonly string[], { stdin = "", env = {} }: Options): Promise<Finished> {
    return dmq(["amqp", ...words], { stdin: typeof stdin === "string" ? octets(stdin) : stdin, env });
  }

  function through(...words: string[]): Promise<Finished> {
    return dmq(["amqp", ...words, "--socket", daemon.socket]);
  }

  async function status(of: Daemon): Promise<{
    brokers: { state: string; blocked?: string }[];
    publisher: Record<string, number>;
    spool: { waiting: number; dead: number } | null;
  }> {
    const done = await dmq(["amqp", "status", "--json", "--socket", of.socket]);
    expect(done).toMatchObject({ code: 0, stderr: "" });
    return JSON.parse(done.stdout);
  }

  /** What is in a queue, taken off it. */
  async function taken(queue: string): Promise<Row[]> {
    const rows: Row[] = [];
    for (;;) {
      const done = await own("get", queue, "--json");
      if (done.code === 1) return rows;
      expect(done).toMatchObject({ code: 0, stderr: "" });
      rows.push(...jsonRows<Row>(done.stdout));
    }
  }

  async function made(name: string, ...more: string[]): Promise<string> {
    expect(await own("declare", "queue", name, ...more)).toEqual({ code: 0, stdout: "", stderr: "" });
    return name;
  }

  const ways: [string, (...words: string[]) => Promise<Finished>][] = [
    ["its own connection", own],
    ["through the daemon", through],
  ];

  for (const [index, [way, run]] of ways.entries()) {
    describe(way, () => {
      const id = (name: string): string => `${name}-${index}`;

      test("dmq amqp publish: exit 0 after the confirm, with every property and each octet", async () => {
        const queue = await made(id("all"));
        const words = ["--content-type", "x/y", "--header", "n:int=5", "--header", "t=a=b", "--headers", "k=v;k2=v2"];
        const more = ["--message-id", "m1", "--correlation-id", "c1", "--reply-to", "r1", "--expires", "1m"];
        const last = ["--priority", "3", "--type", "t1", "--app-id", "a1", "--transient", "--content-encoding", "gzip"];
        expect(await run("publish", "", queue, "hellö", ...words, ...more, ...last)).toMatchObject({
          code: 0,
          stdout: "",
        });
        expect(await taken(queue)).toEqual([
          expect.objectContaining({
            ...{
              exchange: "",
              routing_key: queue,
              queue,
              body: "hellö",
              content_type: "x/y",
              content_encoding: "gzip",
            },
            ...{
              headers: { n: 5, t: "a=b", k: "v", k2: "v2" },
              message_id: "m1",
              correlation_id: "c1",
              reply_to: "r1",
            },
            ...{ expiration_ms: 60_000, priority: 3, type: "t1", app_id: "a1", persistent: false },
          }),
        ]);
      });

      test("a body is told apart: JSON, text, octets; and a message is persistent with an id unless somebody says otherwise", async () => {
        const queue = await made(id("types"));
        for (const body of ['{"id":12345678901234567890}', "text", ""]) await run("publish", "", queue, body);
        const rows = await taken(queue);
        expect(rows.map(({ body, content_type }) => [body, content_type])).toEqual([
          ['{"id":12345678901234567890}', "application/json"],
          ["text", "text/plain"],
          ["", "text/plain"],
        ]);
        expect(rows.every(({ persistent, message_id }) => persistent === true && message_id?.length === 36)).toBe(true);
      });

      test("dmq amqp publish: exit 3 without the exchange, exit 5 without a queue that takes it; --no-mandatory minds neither queue", async () => {
        expect(await run("publish", "nope", "k", "x")).toMatchObject({
          code: 3,
          stdout: "",
          stderr: expect.stringContaining("no exchange 'nope'"),
        });
        const unroutable = await run("publish", "amq.direct", "nobody", "x");
        expect(unroutable).toMatchObject({ code: 5, stdout: "" });
        expect(unroutable.stderr).toMatch(/no queue takes it .*312/);
        expect(await run("publish", "amq.direct", "nobody", "x", "--no-mandatory")).toMatchObject({
          code: 0,
          stderr: "",
        });
        expect(await run("publish", "amq.direct", "nobody", "x", "--no-confirm", "--no-mandatory")).toMatchObject({
          code: 0,
        });
      });

      test("--declare makes an exchange that is missing; one of another type is exit 5", async () => {
        const exchange = id("made");
        const words = ["publish", exchange, "k", "x", "--no-mandatory", "--declare"];
        expect(await run(...words, "topic")).toEqual({ code: 0, stdout: "", stderr: "" });
        expect(await own("declare", "exchange", exchange, "--passive")).toMatchObject({ code: 0 });
        const conflict = await run(...words, "fanout");
        expect(conflict).toMatchObject({ code: 5 });
        expect(conflict.stderr).toContain("406");
        expect(await run(...words, "nonsense")).toMatchObject({ code: 2 });
        expect(await run("publish", exchange, "k", "x", "--no-mandatory")).toMatchObject({ code: 0 });
      });

      test("dmq amqp get: exit 1 for an empty queue, exit 3 for none", async () => {
        const queue = await made(id("empty"));
        expect(await run("get", queue)).toEqual({ code: 1, stdout: "", stderr: "" });
        expect(await run("get", "nope")).toMatchObject({ code: 3, stdout: "" });
      });

      test("dmq amqp get: exit 0 takes the message off, also with --ack receipt", async () => {
        const queue = await made(id("two"));
        await own("publish", "", queue, "one");
        await own("publish", "", queue, "two");
        expect(await run("get", queue)).toEqual({ code: 0, stdout: "one", stderr: "" });
        expect(await run("get", queue, "--ack", "receipt")).toEqual({ code: 0, stdout: "two", stderr: "" });
        expect(await run("get", queue)).toMatchObject({ code: 1 });
      });

      test("dmq amqp declare: exit 0 and what is there; exit 3, exit 5 for what is there otherwise", async () => {
        const queue = await made(id("decl"), "--queue-type", "quorum");
        await own("publish", "", queue, "x");
        await until(
          async () => (await run("declare", "queue", queue, "--passive")).stdout === `${queue}\t1\t0\n`,
          5_000,
          "the queue has its message",
        );
        expect(await run("declare", "queue", queue)).toMatchObject({ code: 5, stderr: expect.stringContaining("406") });
        expect(await run("declare", "queue", "nope", "--passive")).toMatchObject({ code: 3 });
        expect(await run("declare", "exchange", "nope", "--passive")).toMatchObject({ code: 3 });
      });

      test("dmq amqp bind: exit 0, exit 3; dmq amqp unbind: exit 0; topics reach whom they are bound to", async () => {
        const [queue, sip, all] = [await made(id("bound")), id("sip"), id("all-ex")];
        for (const name of [sip, all]) expect(await run("declare", "exchange", name)).toMatchObject({ code: 0 });
        expect(await run("bind", "exchange", all, sip, "#")).toMatchObject({ code: 0 });
        expect(await run("bind", "queue", queue, all, "a.*", "b.#")).toEqual({ code: 0, stdout: "", stderr: "" });
        for (const key of ["a.1", "b.1.2"]) expect(await run("publish", sip, key, key)).toMatchObject({ code: 0 });
        expect(await run("publish", sip, "c", "c")).toMatchObject({ code: 5 });
        expect(await run("unbind", "queue", queue, all, "b.#")).toMatchObject({ code: 0 });
        expect(await run("publish", sip, "b.1", "x")).toMatchObject({ code: 5 });
        expect((await taken(queue)).map(({ body }) => body)).toEqual(["a.1", "b.1.2"]);
        expect(await run("bind", "queue", "nope", sip)).toMatchObject({ code: 3 });
        expect(await run("bind", "queue", queue, "nope")).toMatchObject({ code: 3 });
      });

      test("dmq amqp purge: exit 0 and how many, exit 3; dmq amqp delete: exit 0, exit 5 for what is still needed", async () => {
        const queue = await made(id("purge"));
        for (const body of ["1", "2", "3"]) await own("publish", "", queue, body);
        expect(await run("delete", "queue", queue, "--if-empty")).toMatchObject({ code: 5 });
        expect(await run("purge", queue)).toEqual({ code: 0, stdout: "3\n", stderr: "" });
        expect(await run("delete", "queue", queue, "--if-empty", "--json")).toMatchObject({ code: 0 });
        expect(await run("purge", queue)).toMatchObject({ code: 3 });
        expect(await run("delete", "exchange", "amq.topic")).toMatchObject({ code: 5 });
      });

      test("what is another's alone is exit 5: dmq amqp get: exit 5, dmq amqp bind: exit 5, dmq amqp purge: exit 5, dmq amqp delete: exit 5, dmq amqp declare: exit 5", async () => {
        const queue = id("alone");
        const client = new Exclusive(brokers.url(), queue);
        await client.ready();
        for (const words of [
          ["get", queue],
          ["bind", "queue", queue, "amq.topic"],
          ["purge", queue],
          ["delete", "queue", queue],
          ["declare", "queue", queue],
        ]) {
          const done = await run(...words);
          expect([words[0], done.code]).toEqual([words[0], 5]);
          expect(done.stderr).toContain("405");
        }
        await client.close();
      });

      test("dmq amqp query: exit 5 at once where nobody listens, exit 3 without the exchange", async () => {
        const began = performance.now();
        const nobody = await run("query", "", id("nobody"), "x", "--timeout", "20s");
        expect(nobody).toMatchObject({ code: 5, stdout: "" });
        expect(nobody.stderr).toContain("nobody listens");
        expect(performance.now() - began).toBeLessThan(8_000);
        expect(await run("query", "nope", "k", "x")).toMatchObject({ code: 3, stdout: "" });
      });

      test("dmq amqp query: exit 6 without an answer in time, and the request is gone with it", async () => {
        const queue = await made(id("mute"));
        const late = await run("query", "", queue, "x", "--timeout", "300ms");
        expect(late).toMatchObject({ code: 6, stdout: "" });
        expect(late.stderr).toContain("no answer within 300 ms");
        expect(await run("query", "", queue, "x", "--timeout", "300ms", "--on-timeout", "echo none")).toMatchObject({
          ...{ code: 6, stdout: "none\n" },
        });
        await until(async () => (await taken(queue)).length === 0, 5_000, "requests expire with their askers");
      });

      test("--kazoo puts in what is missing and leaves the rest; no JSON object is exit 2; consumer:// names a broker, exit 3 if there is none", async () => {
        const queue = await made(id("kazoo"));
        const body = '{ "Msg-ID": "m",  "big": 12345678901234567890 }';
        expect(await run("publish", "", queue, body, "--kazoo", "--node-name", "edge1")).toMatchObject(
          run === own ? { code: 0 } : { code: 2 },
        );
        if (run !== own) expect(await run("publish", "", queue, body, "--kazoo")).toMatchObject({ code: 0 });
        const [row] = await taken(queue);
        expect(row?.body).toStartWith('{ "Msg-ID": "m",  "big": 12345678901234567890');
        expect(JSON.parse(row?.body ?? "")).toMatchObject({ "App-Name": "dmq", Node: "dmq@edge1", "Msg-ID": "m" });
        expect(JSON.parse(row?.body ?? "")["Server-ID"]).toMatch(/^dmq@edge1-\d+-targeted-\d+$/);
        expect(await run("publish", "", queue, "text", "--kazoo")).toMatchObject({ code: 2 });
        expect(await run("publish", "", `consumer://1/${queue}`, "{}", "--kazoo")).toMatchObject({ code: 0 });
        expect(await taken(queue)).toHaveLength(1);
        expect(await run("publish", "", `consumer://9/${queue}`, "{}", "--kazoo")).toMatchObject({ code: 3 });
      });

      test("dmq amqp status: exit 0", async () => {
        const done = await run("status", "--json");
        expect(done).toMatchObject({ code: 0, stderr: "" });
        const report = JSON.parse(done.stdout);
        expect(report.brokers).toEqual([
          expect.objectContaining({ number: 1, zone: "local", state: "connected", address: "127.0.0.1" }),
        ]);
        expect(done.stdout).not.toContain("guest:");
        expect((await run("status")).stdout).toMatch(
          /^broker 1\tamqp:\/\/guest@127\.0\.0\.1:\d+, zone local: connected\n/,
        );
      });
    });
  }

  test("--lines: each line is a message, in their order; dmq amqp publish: exit 7 where some failed, dmq amqp publish: exit 5 where all did", async () => {
    const queue = await made("lines");
    const count = 1_200;
    const text = Array.from({ length: count }, (_, index) => `line ${index}`).join("\n");
    for (const place of [
      ["--url", brokers.url()],
      ["--socket", daemon.socket],
    ]) {
      const words = ["publish", "", queue, "--lines", "--message-id", "m", ...place];
      expect(await piped(words, { stdin: text })).toEqual({ code: 0, stdout: "", stderr: "" });
      expect((await own("declare", "queue", queue, "--passive")).stdout).toBe(`${queue}\t${count}\t0\n`);
      for (const number of [0, 1, 2])
        expect((await own("get", queue, "--json")).stdout).toContain(`"message_id":"m-${number + 1}"`);
      expect(await own("purge", queue)).toMatchObject({ stdout: `${count - 3}\n` });
    }
    const large = Buffer.concat([octets("a\n"), Buffer.alloc(16 * 1024 ** 2 + 1, 0x62), octets("\nc")]);
    const words = ["publish", "", queue, "--lines", "--json", "--url", brokers.url()];
    const some = await piped(words, { stdin: large });
    expect(some.code).toBe(7);
    const ends = jsonRows<{ line: number; exit?: number }>(some.stdout);
    expect(ends.map(({ line, exit }) => [line, exit])).toEqual([
      [1, undefined],
      [2, 5],
      [3, undefined],
    ]);
    expect(some.stderr).toBe("dmq: line 2: it is longer than 16777216 octets\n");
    expect(await piped(["publish", "", "nowhere", "--lines", "--url", brokers.url()], { stdin: "a\nb" })).toMatchObject(
      {
        code: 5,
      },
    );
  });

  test("every octet goes through, from standard input and from a file", async () => {
    const queue = await made("octets");
    const all = Uint8Array.from({ length: 256 }, (_, index) => index);
    for (const place of [
      ["--url", brokers.url()],
      ["--socket", daemon.socket],
    ]) {
      expect(await piped(["publish", "", queue, ...place], { stdin: all })).toMatchObject({ code: 0 });
      const got = await dmq(["amqp", "get", queue, "--json", ...place]);
      const [row] = jsonRows<Row>(got.stdout);
      expect([...Buffer.from(row?.body_base64 ?? "", "base64")]).toEqual([...all]);
      expect(row?.content_type).toBe("application/octet-stream");
    }
  });

  test("dmq amqp query: exit 0 with the answer; a late one, and one with another correlation, is nobody's", async () => {
    const queue = await made("echo");
    const answerer = new Answerer(brokers.url(), queue);
    await answerer.ready();
    for (const place of [
      ["--url", brokers.url()],
      ["--socket", daemon.socket],
    ]) {
      const ask = (...words: string[]): Promise<Finished> => dmq(["amqp", "query", "", queue, ...words, ...place]);
      expect(await ask("hello")).toEqual({ code: 0, stdout: "answer to hello", stderr: "" });
      expect(await ask("hello", "--queue")).toMatchObject({ code: 0, stdout: "answer to hello" });
      expect(await ask("hello", "--exec", 'cat; echo " $DMQ_CONTENT_TYPE"')).toMatchObject({
        code: 0,
        stdout: "answer to hello x/y\n",
      });
      expect(await ask("hello", "--exec", "exit 3")).toMatchObject({ code: 8 });
      expect(await ask("twice", "--many", "2")).toMatchObject({
        code: 0,
        stdout: "answer to twice\nanswer to twice\n",
      });
      expect(await ask("twice", "--many", "3", "--timeout", "1s")).toMatchObject({
        code: 0,
        stdout: "answer to twice\nanswer to twice\n",
      });
      expect(await ask("wrong", "--timeout", "700ms")).toMatchObject({ code: 6, stdout: "" });
      expect(await ask("late", "--timeout", "300ms")).toMatchObject({ code: 6, stdout: "" });
      // The late one comes while this one waits.
      expect(await ask("slow", "--timeout", "5s")).toMatchObject({ code: 0, stdout: "answer to slow" });
      const [row] = jsonRows<Row>((await ask("hello", "--json")).stdout);
      expect(row).toMatchObject({ body: "answer to hello", content_type: "x/y" });
    }
    await answerer.close();
  });

  test("dmq amqp query: exit 8 where the command of --exec failed", async () => {
    const queue = await made("echo8");
    const answerer = new Answerer(brokers.url(), queue);
    await answerer.ready();
    expect(await own("query", "", queue, "x", "--exec", "exit 1")).toMatchObject({ code: 8 });
    await answerer.close();
  });

  test("a missing virtual host is dmq amqp status: exit 3, dmq amqp publish: exit 3, dmq amqp query: exit 3, dmq amqp get: exit 3, dmq amqp declare: exit 3, dmq amqp bind: exit 3, dmq amqp unbind: exit 3, dmq amqp delete: exit 3, dmq amqp purge: exit 3", async () => {
    const url = `${brokers.url()}/nope`;
    const words = [["status"], ...ALL_WORDS];
    for (const one of words) {
      const done = await own(...one, "--url", url);
      expect([one[0], done.code]).toEqual([one[0], 3]);
      expect(done.stderr).toContain('no virtual host "nope"');
    }
  });

  test("no right is dmq amqp unbind: exit 5, as it is of the others", async () => {
    await brokers.ctl("a", "add_user", "weak", "weak");
    await brokers.ctl("a", "set_permissions", "weak", "", "", "");
    const url = brokers.url().replace("guest:guest", "weak:weak");
    const queue = await made("strong");
    for (const words of [
      ["unbind", "queue", queue, "amq.topic"],
      ["publish", "amq.topic", "k", "x", "--no-mandatory"],
      ["query", "amq.topic", "k", "x"],
      ["get", queue],
    ]) {
      const done = await own(...words, "--url", url);
      expect([words[0], done.code]).toEqual([words[0], 5]);
      expect(done.stderr).toContain("403");
    }
  });

  test("a refused login is exit 4, and no password is said", async () => {
    const url = brokers.url().replace("guest:guest", "guest:secret");
    const done = await own("publish", "", "q", "x", "--url", url);
    expect(done).toMatchObject({ code: 4, stdout: "" });
    expect(done.stderr).toContain("ACCESS_REFUSED");
    expect(done.stderr).not.toContain("secret");
  });

  test("where nobody listens exit 4 comes at once; with --timeout it is tried for so long", async () => {
    const words = ["publish", "", "q", "x", "--url", "amqp://127.0.0.1:1,amqp://127.0.0.1:2"];
    const begin = performance.now();
    const done = await own(...words);
    expect(done).toMatchObject({ code: 4, stdout: "" });
    expect(done.stderr).toContain("127.0.0.1:2: connect ECONNREFUSED");
    expect(performance.now() - begin).toBeLessThan(5_000);
    const again = performance.now();
    expect(await own(...words, "--timeout", "6s")).toMatchObject({ code: 4 });
    expect(performance.now() - again).toBeGreaterThan(6_000);
  });

  test("the next broker of the list is taken where the first is not there; a password comes from a variable or a file", async () => {
    const queue = await made("next");
    const list = `amqp://127.0.0.1:1,${brokers.url()}`;
    expect(await own("publish", "", queue, "x", "--url", list)).toMatchObject({ code: 0 });
    expect(await piped(["publish", "", queue, "x"], { env: { DMQ_AMQP_URL: brokers.url() } })).toMatchObject({
      code: 0,
    });
    const path = `${daemons.dir}/password`;
    await Bun.write(path, "guest\n");
    const bare = brokers.url().replace("guest:guest", "guest");
    expect(await own("publish", "", queue, "x", "--url", bare, "--amqp-password-file", path)).toMatchObject({
      code: 0,
    });
    expect(await taken(queue)).toHaveLength(3);
  });

  test("nothing that the daemon says has a password in it", async () => {
    const said = [
      (await dmq(["status", "--json", "--socket", daemon.socket])).stdout,
      (await dmq(["logs", "--socket", daemon.socket])).stdout,
      daemon.log,
    ].join("\n");
    expect(said).toContain("guest@127.0.0.1");
    expect(said).not.toContain("guest:guest");
    const hidden = Bun.spawnSync(["ps", "-eo", "args"]).stdout.toString();
    expect(hidden.split("\n").filter((line) => line.includes(daemon.socket) && line.includes("guest:guest"))).toEqual(
      [],
    );
  });

  test("a broker that blocks: publishing waits, the status says so, and it goes on when it is over", async () => {
    const queue = await made("blocked");
    await brokers.block("a", true);
    try {
      // A broker says it to those who publish.
      await through("publish", "", queue, "first", "--timeout", "500ms");
      await until(async () => (await status(daemon)).brokers[0]?.blocked !== undefined, 10_000, "blocked");
      expect(await through("publish", "", queue, "waits", "--timeout", "500ms")).toMatchObject({
        code: expect.any(Number),
      });
      const waiting = through("publish", "", queue, "goes on", "--timeout", "30s");
      await brokers.block("a", false);
      expect(await waiting).toMatchObject({ code: 0 });
    } finally {
      await brokers.block("a", false);
    }
  });

  test("a frozen broker: dmq amqp publish: exit 6, dmq amqp query: exit 6, dmq amqp get: exit 6, dmq amqp declare: exit 6, dmq amqp bind: exit 6, dmq amqp unbind: exit 6, dmq amqp delete: exit 6, dmq amqp purge: exit 6", async () => {
    const frozen = await daemons.serve("frozen", "sip:127.0.0.1:0", ["--amqp", brokers.url("b")]);
    await until(async () => (await status(frozen)).brokers[0]?.state === "connected", 15_000, "the daemon's broker");
    brokers.freeze("b");
    try {
      const words = ALL_WORDS;
      const ends = await Promise.all(
        words.map((one) => dmq(["amqp", ...one, "--socket", frozen.socket, "--timeout", "1s"])),
      );
      expect(ends.map(({ code }, index) => [words[index]?.[0], code])).toEqual(
        words.map(([name]) => [name as string, 6]),
      );
      // Nobody answers the handshake.
      const silent = await own("publish", "", "q", "x", "--url", brokers.url("b"), "--timeout", "2s");
      expect(silent.code).toBe(4);
    } finally {
      brokers.thaw("b");
      await frozen.end("SIGTERM");
    }
  });

  test(
    "a broker that is killed while a question waits is exit 6, and the question is not asked again",
    async () => {
      const mortal = await daemons.serve("mortal", "sip:127.0.0.1:0", ["--amqp", brokers.url("b")]);
      await until(async () => (await status(mortal)).brokers[0]?.state === "connected", 15_000, "the daemon's broker");
      const place = ["--socket", mortal.socket];
      expect(await dmq(["amqp", "declare", "queue", "asked", ...place])).toMatchObject({ code: 0 });
      const asking = [place, ["--url", brokers.url("b")]].map((one) =>
        dmq(["amqp", "query", "", "asked", "x", "--timeout", "20s", ...one]),
      );
      const asked = async (): Promise<string> =>
        (await dmq(["amqp", "declare", "queue", "asked", "--passive", ...place])).stdout;
      await until(async () => (await asked()) === "asked\t2\t0\n", 10_000, "both questions are in the queue");
      const began = performance.now();
      brokers.kill("b");
      for (const one of await Promise.all(asking)) {
        expect(one).toMatchObject({ code: 6, stdout: "" });
        expect(one.stderr).toContain("may have been carried out");
      }
      expect(performance.now() - began).toBeLessThan(10_000);
      await brokers.start("b");
      await until(
        async () => (await asked()) === "asked\t0\t0\n",
        30_000,
        "transient questions are gone, and none came after",
      );
      await mortal.end("SIGTERM");
    },
    BROKER_START_MS,
  );
});

// --- others at the broker, who are no part of the product --------------------------------------------------------------

type Model = Awaited<ReturnType<typeof connectLibrary>>;

class Other {
  protected readonly model: Promise<Model>;

  constructor(url: string) {
    this.model = connectLibrary(url).then((model) => {
      // The broker of a test that failed goes first.
      model.on("error", () => undefined);
      return model;
    });
  }

  async close(): Promise<void> {
    await (await this.model).close();
  }
}

/** Has a queue for itself. */
class Exclusive extends Other {
  private readonly queue: string;

  constructor(url: string, queue: string) {
    super(url);
    this.queue = queue;
  }

  async ready(): Promise<void> {
    const channel = await (await this.model).createChannel();
    await channel.assertQueue(this.queue, { exclusive: true });
  }
}

/** Answers what the body of a request says. */
class Answerer extends Other {
  private readonly queue: string;

  constructor(url: string, queue: string) {
    super(url);
    this.queue = queue;
  }

  async ready(): Promise<void> {
    const channel = await (await this.model).createChannel();
    await channel.consume(
      this.queue,
      (message) => {
        const body = String(message?.content);
        const { replyTo, correlationId } = message?.properties ?? {};
        const say = (id: string): void => {
          const options = { correlationId: id, contentType: "x/y" };
          channel.sendToQueue(replyTo as string, Buffer.from(`answer to ${body}`), options);
        };
        if (body === "late") setTimeout(() => say(correlationId as string), 500);
        else if (body === "slow") setTimeout(() => say(correlationId as string), 900);
        else if (body === "wrong") say("another");
        else for (let count = body === "twice" ? 2 : 1; count > 0; count--) say(correlationId as string);
      },
      { noAck: true },
    );
  }
}
