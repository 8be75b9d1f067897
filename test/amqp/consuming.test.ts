/**
 * `dmq amqp consume` over a control socket whose brokers are the test's: what a command's end says to the broker, what handlers are told,
 * and each exit code. The same with a real broker: consume.test.ts.
 */
// needs programs: bash cat env false head sleep tr true
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { AmqpSurface, PublishRequest, SubscriptionListener } from "../../src/amqp/desk.ts";
import { AmqpError } from "../../src/amqp/error.ts";
import { deliveryRow } from "../../src/amqp/json.ts";
import type { Delivery } from "../../src/amqp/message.ts";
import type { Subscription } from "../../src/amqp/subscription.ts";
import type { SignalName } from "../../src/cli/context.ts";
import type { Logger } from "../../src/core/logger.ts";
import { Queues } from "../../src/daemon/queues.ts";
import { type RpcServer, serveRpc } from "../../src/rpc/server.ts";
import { type Ran, runCli, type World } from "../helpers/cli.ts";
import { until } from "../helpers/wait.ts";
import { FakeSurface } from "../rpc/fake-surface.ts";

const LOG: Logger = { error() {}, warn() {}, info() {}, debug() {}, trace() {} };
const CONFIG = { queues: [], queueSize: 0, queueAddmode: "0", storeMax: "64m", storeRepair: false };
const BROKER = {
  ...{ zone: "local", number: 2, host: "127.0.0.1", port: 5672, user: "guest", password: "", vhost: "/" },
  ...{ tls: false, external: false, heartbeatS: 10, text: "amqp://guest@127.0.0.1:5672" },
} as Delivery["broker"];

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** A broker that has these messages, and notes what is said of them. */
class FakeBroker {
  messages: Partial<Delivery>[] = [];
  refusal: Error | undefined;
  publishing: (request: PublishRequest) => void = () => undefined;
  readonly said: string[] = [];
  readonly published: PublishRequest[] = [];
  readonly subscriptions: Subscription[] = [];
  listener: SubscriptionListener | undefined;
  isOpen = false;

  readonly surface: Partial<AmqpSurface> = {
    subscribe: (subscription, listener) => {
      this.subscriptions.push(subscription);
      this.listener = listener;
      this.isOpen = true;
      queueMicrotask(() => this.begin(subscription, listener));
      return () => {
        this.isOpen = false;
      };
    },
    settle: async (ids, how) => {
      this.said.push(...ids.map((id) => `${how} ${id}`));
      return ids.length;
    },
    publish: async (request) => {
      this.publishing(request);
      this.published.push(request);
      return { broker: BROKER.text, repeats: 0, message_id: "1", spooled: false };
    },
    status: async () => ({ brokers: [], subscriptions: [], publisher: {}, spool: null }) as never,
  };

  private begin({ noAck }: Subscription, listener: SubscriptionListener): void {
    if (this.refusal !== undefined) {
      listener.error(this.refusal);
      return;
    }
    listener.connection({ state: "open", broker: BROKER.text, broker_number: 2, zone: "local" });
    listener.ready();
    for (const [index, message] of this.messages.entries()) {
      const standard = {
        exchange: "e",
        routingKey: "k",
        queue: "q",
        redelivered: false,
        body: bytes("b"),
        broker: BROKER,
      };
      listener.delivered(deliveryRow({ ...standard, ...message }, noAck ? undefined : String(index)));
    }
  }
}

let dir: string;
let broker: FakeBroker;
let queues: Queues;
let server: RpcServer;
let env: Record<string, string>;
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "ac-"));
  broker = new FakeBroker();
  queues = new Queues(CONFIG, dir, LOG);
  server = await serveRpc({ path: join(dir, "d.sock"), surface: serving() });
  env = { DMQ_SOCKET: join(dir, "d.sock"), DMQ_STATE_DIR: join(dir, "other"), XDG_CONFIG_HOME: dir };
});
afterEach(async () => {
  await server.close();
  await queues.close();
  rmSync(dir, { recursive: true, force: true });
});

function serving(): FakeSurface {
  return Object.assign(new FakeSurface(), { queues, amqp: broker.surface as AmqpSurface });
}

function consume(words: readonly string[], world: World = {}): Promise<Ran> {
  return runCli(["amqp", "consume", ...words], { ...world, env });
}

/** One message, one run of the command. */
async function handle(command: string, words: readonly string[] = []): Promise<Ran> {
  if (broker.messages.length === 0) broker.messages = [{}];
  return consume(["--queue", "q", "-n", "1", "--exec", command, ...words]);
}

describe("the end of a command", () => {
  const rows: [what: string, command: string, words: string[], said: string, code: number, err: string][] = [
    ["0: acknowledged", "true", [], "ack 0", 0, ""],
    ["65: kept, then acknowledged", "exit 65", [], "ack 0", 8, "dmq queue dead q list"],
    ["66: likewise", "exit 66", [], "ack 0", 8, "dmq queue dead q list"],
    ["100: likewise", "exit 100", [], "ack 0", 8, "dmq queue dead q list"],
    [
      "65 with a dead-letter exchange: rejected",
      "exit 65",
      ["--dead-letter", "exchange"],
      "reject 0",
      8,
      "is rejected",
    ],
    ["65 where an argument names one", "exit 65", ["--arg", "x-dead-letter-exchange=x"], "reject 0", 8, "is rejected"],
    ["75: held, and given back at the end", "exit 75", [], "", 8, "exited with 75; it is tried again"],
    ["1: likewise", "exit 1", [], "", 8, "exited with 1; it is tried again"],
    ["a signal", "kill -SEGV $$", [], "", 8, "died of SIGSEGV"],
    ["the timeout", "exec sleep 20", ["--timeout", "100ms"], "", 8, "took longer than 100 ms"],
    ["the last try", "exit 1", ["--max-tries", "1"], "ack 0", 8, "dmq queue dead q list"],
    ["75 is never the last", "exit 75", ["--max-tries", "1"], "", 8, "it is tried again"],
    ["126: the consumer ends", "exit 126", [], "", 8, "nothing more is taken"],
    ["127: likewise", "exit 127", [], "", 8, "nothing more is taken"],
  ];
  for (const [what, command, words, said, code, err] of rows)
    test(what, async () => {
      const ran = await handle(command, words);
      expect([broker.said, ran.code]).toEqual([said === "" ? [] : [said], code]);
      await until(() => !broker.isOpen, 5_000, "what is not settled goes back");
      if (err === "") expect(ran.err).toBe("");
      else expect(ran.err).toContain(err);
    });

  test("a program that is not there ends the consumer", async () => {
    broker.messages = [{}];
    const ran = await consume(["--queue", "q", "--exec", "/no/such", "--", "-x"]);
    expect([ran.code, broker.said]).toEqual([8, []]);
    expect(ran.err).toContain("could not be started (ENOENT)");
  });

  test("a dead letter has the body, where it was to go, and why; it can be put back", async () => {
    broker.messages = [{ routingKey: "alert.x", body: new Uint8Array([0, 255]), messageId: "m-1", headers: { n: 5 } }];
    await handle("echo bad >&2; exit 65");
    const [letter] = JSON.parse((await runCli(["queue", "dead", "q", "list", "--json"], { env })).out);
    expect(letter).toMatchObject({
      key: "alert.x",
      value_base64: "AP8=",
      reason: "exit 65",
      exit_code: 65,
      stderr: "bad\n",
    });
    expect(letter.headers).toMatchObject({ "amqp-exchange": "e", "amqp-key": "alert.x" });
    expect(JSON.parse(letter.headers["amqp-properties"])).toMatchObject({ message_id: "m-1", headers: { n: 5 } });
  });

  test("one that came by the default exchange, and one without a routing key, too", async () => {
    broker.messages = [{ exchange: "" }, { exchange: "f", routingKey: "" }];
    const ran = await consume(["--queue", "q", "-n", "2", "--exec", "exit 65"]);
    expect([ran.code, broker.said]).toEqual([8, ["ack 0", "ack 1"]]);
  });

  test("several that die at once are all kept, and what others put into that queue stays", async () => {
    await runCli(["queue", "define", "q"], { env });
    await runCli(["queue", "add", "q", "k", "mine"], { env });
    broker.messages = Array.from({ length: 6 }, (_, index) => ({ body: bytes(`m${index}`) }));
    const ran = await consume(["--queue", "q", "-n", "6", "--jobs", "3", "--exec", "exit 65"]);
    expect([ran.code, broker.said.toSorted()]).toEqual([8, [0, 1, 2, 3, 4, 5].map((id) => `ack ${id}`)]);
    const dead = JSON.parse((await runCli(["queue", "dead", "q", "list", "--json"], { env })).out) as {
      value: string;
    }[];
    expect(dead.map(({ value }) => value).toSorted()).toEqual(["m0", "m1", "m2", "m3", "m4", "m5"]);
    expect((await runCli(["queue", "fetch", "q"], { env })).out).toBe("k\tmine\n");
  });

  test("what fails is tried again without the broker, and acknowledged in the end", async () => {
    const file = join(dir, "tries");
    broker.messages = [{}];
    const command = `printf '%s ' "$DMQ_TRIES" >> ${file}; [ "$DMQ_TRIES" = 2 ]`;
    const ran = await consume(["--queue", "q", "-n", "2", "--exec", command]);
    expect([ran.code, readFileSync(file, "utf8"), broker.said]).toEqual([8, "1 2 ", ["ack 0"]]);
  });

  test("on receipt, or by the broker itself: nothing is left to be said", async () => {
    const receipt = await handle("exit 1", ["--ack", "receipt"]);
    expect([receipt.code, broker.said]).toEqual([8, ["ack 0"]]);
    expect(receipt.err).toContain("has forgotten it");
    broker.said.length = 0;
    const none = await handle("exit 1", ["--ack", "none"]);
    expect([none.code, broker.said]).toEqual([8, []]);
    expect(broker.subscriptions.map(({ noAck }) => noAck)).toEqual([false, true]);
  });
});

describe("a command is told", () => {
  test("the body on standard input, and what is known of it", async () => {
    broker.messages = [
      {
        ...{
          exchange: "sip",
          routingKey: "alert.a",
          queue: "q",
          body: bytes("octets\n"),
          redelivered: true,
          deliveryCount: 2,
        },
        ...{
          messageId: "m-1",
          correlationId: "c-1",
          replyTo: "r-1",
          contentType: "text/x",
          contentEncoding: "identity",
        },
        headers: { "x-a b": "v", n: 7, list: [1, "a"] },
      },
    ];
    const ran = await handle('cat; env | grep "^DMQ_" | sort');
    expect(ran.out.split("\n")).toEqual([
      "octets",
      `DMQ_ADDED=${/DMQ_ADDED=(.*)/.exec(ran.out)?.[1]}`,
      "DMQ_BROKER=amqp://guest@127.0.0.1:5672",
      "DMQ_CONTENT_ENCODING=identity",
      "DMQ_CONTENT_TYPE=text/x",
      "DMQ_CORRELATION_ID=c-1",
      "DMQ_EXCHANGE=sip",
      "DMQ_FROM=sip",
      "DMQ_HANDLER=",
      'DMQ_HEADER_LIST=[1,"a"]',
      "DMQ_HEADER_N=7",
      "DMQ_HEADER_X_A_B=v",
      "DMQ_ID=1",
      "DMQ_KEY=alert.a",
      "DMQ_MESSAGE_ID=m-1",
      "DMQ_QUEUE=q",
      "DMQ_REDELIVERED=1",
      "DMQ_REPLY_TO=r-1",
      "DMQ_ROUTING_KEY=alert.a",
      `DMQ_SOCKET=${join(dir, "d.sock")}`,
      "DMQ_TRIES=3",
      "DMQ_ZONE=local",
      "",
    ]);
  });

  test("--decode: a packed body as it was; what is not packed as it says is dead", async () => {
    broker.messages = [{ body: gzipSync("plain"), contentEncoding: "gzip" }];
    expect((await handle("cat", ["--decode"])).out).toBe("plain");
    expect((await handle("cat | head -c 2 | od -An -tx1")).out).toBe(" 1f 8b\n");
    broker.messages = [{ body: bytes("not packed"), contentEncoding: "gzip" }];
    expect((await handle("cat", ["--decode"])).err).toContain("not packed as its content encoding says");
    // A bomb: 65 MiB in 65 KiB.
    broker.messages = [{ body: gzipSync(new Uint8Array(65 * 1024 * 1024)), contentEncoding: "gzip" }];
    expect((await handle("cat", ["--decode"])).code).toBe(8);
  });

  test("--kazoo: where it came in, and how to answer through the same broker; 64 bits survive", async () => {
    broker.messages = [{ body: bytes('{"id":12345678901234567890,"Server-ID":"s-1"}') }];
    const ran = await handle("cat", ["--kazoo"]);
    expect(ran.out).toMatch(
      /^\{"id":12345678901234567890,"Server-ID":"consumer:\/\/2\/s-1","AMQP-Broker-Zone":"local","AMQP-Received":\d{10}\}$/,
    );
    expect((await handle("cat")).out).toBe('{"id":12345678901234567890,"Server-ID":"s-1"}');
  });
});

describe("which command", () => {
  const EVENT = bytes('{"Event-Category":"presence","Event-Name":"update"}');
  let handlers: string;
  beforeEach(() => {
    handlers = join(dir, "handlers");
    mkdirSync(handlers);
    broker.messages = [{ body: EVENT }];
  });

  function script(name: string, text = `echo ${name}`): void {
    writeFileSync(join(handlers, name), `#!/bin/sh\n${text}\n`);
    chmodSync(join(handlers, name), 0o755);
  }

  const one = (...words: string[]): Promise<Ran> => consume(["--queue", "q", "-n", "1", ...words]);

  test("the most significant file that there is", async () => {
    for (const name of ["consumer-event", "consumer-event-presence", "consumer-event-presence-update"]) {
      script(name);
      expect((await one("--handlers", handlers)).out).toBe(`${name}\n`);
    }
  });

  test("--on, which may have kazoo's prefix, comes before a file of the same name and after a more significant one", async () => {
    script("consumer-event-presence");
    expect((await one("--handlers", handlers, "--on", "kazoo:consumer-event-presence=echo on")).out).toBe("on\n");
    script("consumer-event-presence-update");
    expect((await one("--handlers", handlers, "--on", "presence=echo on")).out).toBe(
      "consumer-event-presence-update\n",
    );
  });

  test("by other fields, also deep ones", async () => {
    broker.messages = [{ body: bytes('{"event":{"kind":"Call_Up"},"Sub":"x"}') }];
    const ran = await one("--event-key", ".event.kind", "--event-subkey", "Sub", "--on", "call-up-x=echo $DMQ_HANDLER");
    expect(ran.out).toBe("consumer-event-call-up-x\n");
  });

  const rows: [mode: string[], code: number, said: string[]][] = [
    [[], 8, ["ack 0"]],
    [["--unmatched", "dead"], 8, ["ack 0"]],
    [["--unmatched", "ack"], 0, ["ack 0"]],
    [["--unmatched", "stop"], 8, []],
  ];
  for (const [mode, code, said] of rows)
    test(`without a match: ${mode[1] ?? "dead by default"}`, async () => {
      const ran = await one("--on", "other=true", ...mode);
      expect([ran.code, broker.said]).toEqual([code, said]);
      if (code === 8) expect(ran.err).toContain("is missing: there is none of consumer-event-presence-update, ");
      const dead = await runCli(["queue", "dead", "q", "list"], { env });
      expect(dead.out === "").toBe(mode[1] === "ack" || mode[1] === "stop");
    });

  test("a file that leads out of the directory is not run, whatever a sender names", async () => {
    writeFileSync(join(dir, "evil"), "#!/bin/sh\necho evil\n", { mode: 0o755 });
    symlinkSync(join(dir, "evil"), join(handlers, "consumer-event-presence-update"));
    const ran = await one("--handlers", handlers);
    expect([ran.code, ran.out]).toEqual([8, ""]);
    expect(ran.err).toContain("leads out of the directory");
  });

  test("mod-init runs once, before anything is consumed; where it fails, nothing is", async () => {
    script("mod-init", "echo init");
    script("consumer-event", "echo message");
    broker.messages = [{}, {}];
    expect((await consume(["--queue", "q", "-n", "2", "--handlers", handlers])).out).toBe("init\nmessage\nmessage\n");
    const failed = await consume(["--queue", "q", "-n", "1", "--on", "mod-init=exit 3", "--on", "consumer-event=true"]);
    expect([failed.code, failed.err]).toEqual([8, "dmq: the handler mod-init exited with 3\n"]);
    expect(broker.subscriptions).toHaveLength(1);
  });

  test("a connection runs its handler, and no other one", async () => {
    const log = join(dir, "log");
    const on = ["--on", `connection-open=cat >> ${log}`, "--on", "consumer-event=true"];
    const words = ["--queue", "q", "-n", "1", ...on];
    expect((await consume(words)).code).toBe(0);
    await until(() => Bun.file(log).size > 0, 5_000, "the connection is told");
    expect(JSON.parse(readFileSync(log, "utf8"))).toEqual({
      ...{ "Event-Category": "connection", "Event-Name": "open", host: BROKER.text, zone: "local" },
    });
    await consume(["--queue", "q", "-n", "1", "--on", "consumer-event=cat"]).then(({ out }) =>
      expect(out).not.toContain("connection"),
    );
  });

  test("kazoo's own subscription: its defaults, its names, its fields", async () => {
    const json = '{"exchange":"whapps","type":"topic","queue":"","routing":["a.#","b.#"],"event_key":"Kind"}';
    writeFileSync(join(dir, "subscription.json"), json);
    broker.messages = [{ body: bytes('{"Kind":"Presence"}') }];
    const words = ["--subscribe", `@${join(dir, "s.json")}`, "--on", "presence=echo it is"];
    const ran = await consume(["-n", "1", ...words], { files: { [join(dir, "s.json")]: bytes(json) } });
    expect([ran.code, ran.out, broker.said]).toEqual([0, "it is\n", []]);
    expect(broker.subscriptions[0]).toMatchObject({
      exchange: { name: "whapps", type: "topic", durable: false },
      queue: { name: "", durable: false, autoDelete: true, exclusive: false },
      ...{ routing: ["a.#", "b.#"], noAck: true },
    });
  });
});

describe("--reply", () => {
  const ASKED = { replyTo: "amq.rabbitmq.reply-to.x", correlationId: "c-1" };

  test("what the command prints goes to reply_to, and the question is acknowledged after that", async () => {
    broker.messages = [{ ...ASKED, body: bytes("2+2") }];
    broker.publishing = () => broker.said.push("published");
    expect((await handle("echo '{\"answer\":4}'", ["--reply"])).out).toBe("");
    expect(broker.said).toEqual(["published", "ack 0"]);
    expect(broker.published).toMatchObject([
      { broker: 2, exchange: "", routing_key: ASKED.replyTo, correlation_id: "c-1", content_type: "application/json" },
    ]);
    expect(new TextDecoder().decode(broker.published[0]?.body)).toBe('{"answer":4}\n');
    await handle("true", ["--reply", "--reply-type", "text/x"]);
    expect(broker.published[1]).toMatchObject({ content_type: "text/x", body: new Uint8Array(0) });
  });

  test("a command that fails gives no answer", async () => {
    broker.messages = [ASKED];
    const ran = await handle("echo no; exit 1", ["--reply"]);
    expect([ran.code, broker.published, broker.said]).toEqual([8, [], []]);
  });

  test("who asks for no answer gets none; who does not wait any longer is no failure", async () => {
    const quiet = await handle("echo x", ["--reply"]);
    expect([quiet.code, broker.published, broker.said]).toEqual([0, [], ["ack 0"]]);
    expect(quiet.err).toContain("it asks for no answer");
    broker.messages = [ASKED];
    broker.publishing = () => {
      throw new AmqpError("amqp-refused", "nobody takes it", { replyCode: 312 });
    };
    const late = await handle("echo x", ["--reply"]);
    expect([late.code, broker.said]).toEqual([0, ["ack 0", "ack 0"]]);
    expect(late.err).toContain("nobody takes it");
  });

  test("an answer that nobody confirmed is a failure: it is made again", async () => {
    broker.messages = [ASKED];
    broker.publishing = () => {
      throw new AmqpError("amqp-timeout", "no confirm in time");
    };
    const ran = await handle("echo x", ["--reply"]);
    expect([ran.code, broker.said]).toEqual([8, []]);
    expect(ran.err).toContain("no confirm in time; it is tried again");
  });

  test("a Kazoo application is answered at its Server-ID, with its Msg-ID", async () => {
    broker.messages = [{ body: bytes('{"Server-ID":"s-1","Msg-ID":"7"}') }];
    await handle("echo '{\"a\":1}'", ["--reply", "--kazoo"]);
    expect(broker.published).toMatchObject([{ exchange: "targeted", routing_key: "s-1", correlation_id: "7" }]);
    expect(JSON.parse(new TextDecoder().decode(broker.published[0]?.body))).toMatchObject({
      ...{ a: 1, "App-Name": "dmq", "Msg-ID": "7", Node: `dmq@${hostname()}` },
    });
  });
});

describe("printed", () => {
  beforeEach(() => {
    broker.messages = [
      { routingKey: "a\tb", body: new Uint8Array([9, 10, 0, 255, 0x61]), contentType: "x/y", headers: { h: 1 } },
      { routingKey: "c", body: bytes("é") },
    ];
  });
  const print = (...words: string[]): Promise<Ran> => consume(["--queue", "q", "-n", "2", ...words]);

  test("a line each, and acknowledged when it was written", async () => {
    const ran = await print();
    expect(ran).toEqual({ code: 0, out: "a\\tb\t\\t\\n\\x00\\xffa\nc\té\n", err: "" });
    expect(broker.said).toEqual(["ack 0", "ack 1"]);
  });

  test("as JSON, with all that there is", async () => {
    const rows = (await print("--json")).out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(rows[0]).toMatchObject({
      routing_key: "a\tb",
      body_base64: "CQoA/2E=",
      content_type: "x/y",
      headers: { h: 1 },
    });
    expect(rows[1]).toMatchObject({ exchange: "e", queue: "q", body: "é", broker: "amqp://guest@127.0.0.1:5672" });
    expect(rows[0]).not.toHaveProperty("id");
  });

  test("the octets alone", async () => {
    expect((await print("--raw")).out).toBe("\t\n\0\ufffdaé");
  });

  test("into a pipe whose reader is gone: given back", async () => {
    const gone = new AbortController();
    broker.messages = [{}];
    const ran = consume(["--queue", "q"], { outputClosed: gone.signal });
    await until(() => broker.isOpen, 5_000, "it consumes");
    gone.abort();
    expect((await ran).code).toBe(0);
    expect(broker.said.filter((one) => one.startsWith("reject"))).toEqual([]);
  });
});

describe("it ends", () => {
  test("with 1 after --for without a message, with 0 where one came", async () => {
    expect((await consume(["--queue", "q", "--for", "50ms"])).code).toBe(1);
    broker.messages = [{}];
    expect((await consume(["--queue", "q", "--for", "200ms"])).code).toBe(0);
    expect((await consume(["--queue", "q", "-n", "5", "--for", "200ms"])).code).toBe(0);
    await until(() => !broker.isOpen, 5_000, "the subscription is closed");
  });

  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)
    test(`with ${code} at ${signal}, when what runs has ended`, async () => {
      let raise: (signal: SignalName) => void = () => undefined;
      broker.messages = [{}, {}];
      const onStart = (one: typeof raise): void => {
        raise = one;
      };
      const flag = join(dir, "runs");
      const ran = consume(["--queue", "q", "--exec", `touch ${flag}; sleep 0.3`], { onStart });
      await until(() => Bun.file(flag).exists(), 5_000, "the command runs");
      raise(signal);
      expect((await ran).code).toBe(code);
      expect(broker.said).toEqual(["ack 0"]);
    });

  const refusals: [what: string, error: Error, code: number][] = [
    ["an exchange that is not there", new AmqpError("amqp-no-such", "no exchange 'e'", { replyCode: 404 }), 3],
    ["a conflict", new AmqpError("amqp-refused", "inequivalent arg 'durable'", { replyCode: 406 }), 5],
    ["a refused login", new AmqpError("amqp-login", "ACCESS_REFUSED", { replyCode: 403 }), 4],
  ];
  for (const [what, error, code] of refusals)
    test(`with ${code}: ${what}`, async () => {
      broker.refusal = error;
      const ran = await consume(["--queue", "q"]);
      expect(ran.code).toBe(code);
      expect(ran.err).toContain(error.message);
    });

  test("with 4 when the daemon ends, and is not waited for", async () => {
    for (const words of [
      ["-n", "1"],
      ["--reconnect", "0"],
    ]) {
      const ran = consume(["--queue", "q", ...words]);
      await until(() => broker.isOpen, 5_000, "it consumes");
      await server.close();
      expect(await ran).toMatchObject({ code: 4, out: "" });
      server = await serveRpc({ path: env.DMQ_SOCKET as string, surface: serving() });
      broker.isOpen = false;
    }
  });

  test("not, where a daemon comes back: what was under way is delivered again", async () => {
    let raise: (signal: SignalName) => void = () => undefined;
    const onStart = (one: typeof raise): void => {
      raise = one;
    };
    const log = join(dir, "log");
    broker.messages = [{ messageId: "m" }];
    const command = `echo "$DMQ_TRIES" >> ${log}; [ -e ${log}.go ]`;
    const ran = consume(["--queue", "q", "--exec", command], { onStart });
    await until(() => Bun.file(log).exists(), 5_000, "it is handled");
    writeFileSync(`${log}.go`, "");
    await server.close();
    server = await serveRpc({ path: env.DMQ_SOCKET as string, surface: serving() });
    await until(() => broker.said.length > 0, 10_000, "it is handled again");
    raise("SIGTERM");
    const { code, err } = await ran;
    expect([code, broker.said, readFileSync(log, "utf8")]).toEqual([143, ["ack 0"], "1\n2\n"]);
    expect(err).toContain("a daemon is there again");
  });

  const wrong: [words: string[], err: string][] = [
    [[], "nothing to consume"],
    [["--queue", "q", "--exec", "true", "--on", "a=b"], "--exec and --on exclude each other"],
    [["--queue", "q", "--exec", "true", "--json"], "--json and --exec exclude each other"],
    [["--queue", "q", "--jobs", "2"], "--jobs goes with --exec CMD"],
    [["--queue", "q", "--ack", "later"], "expected after, receipt, none"],
    [["--queue", "q", "--exec", "true", "--order-by", "x"], "expected routing-key, or json:PATH"],
    [["--queue", "q", "--on", "../x"], "expected NAME=CMD"],
    [["--queue", "q", "--on", "../x=y"], "expected NAME=CMD"],
    [["--queue", "q", "--routing", "k"], "--routing goes with --exchange NAME"],
    [["--exchange", "", "--type", "topic"], "the default exchange"],
    [["--exchange", "e", "--passive"], "--passive goes with --queue NAME"],
    [["--queue", "q", "--queue-type", "stream"], "expected classic or quorum"],
    [["--queue", "q", "--subscribe", "{}"], "--subscribe and --queue exclude each other"],
    [["--subscribe", "[]"], "expected a JSON object"],
    [["--queue", "q", "word"], '"word" goes with --exec CMD'],
    [["--queue", "q", "-n", "1", "--reconnect", "1s"], "--reconnect goes without -n and --for"],
    [["--queue", "q", "--prefetch", "0"], "expected an integer from 1"],
    [["--queue", "q", "--exec", "true", "--reply-type", "x"], "--reply-type goes with --reply"],
  ];
  for (const [words, err] of wrong)
    test(`with 2: ${words.join(" ")}`, async () => {
      const ran = await consume(words);
      expect([ran.code, ran.out]).toEqual([2, ""]);
      expect(ran.err).toContain(err);
      expect(broker.subscriptions).toEqual([]);
    });
});

describe("in order", () => {
  const rows: [by: string, messages: Partial<Delivery>[]][] = [
    ["routing-key", ["a", "b", "a", "b"].map((key) => ({ routingKey: key }))],
    ["json:call.id", ["a", "b", "a", "b"].map((id) => ({ body: bytes(`{"call":{"id":"${id}"}}`) }))],
  ];
  for (const [by, messages] of rows)
    test(`by ${by}: messages of one are not handled side by side`, async () => {
      broker.messages = messages.map((message, index) => ({ ...message, messageId: String(index) }));
      const log = join(dir, "log");
      const command = `echo "+$DMQ_MESSAGE_ID" >> ${log}; sleep 0.2; echo "-$DMQ_MESSAGE_ID" >> ${log}`;
      const words = ["--prefetch", "9", "--jobs", "4", "--order-by", by, "--exec", command];
      expect((await consume(["--queue", "q", "-n", "4", ...words])).code).toBe(0);
      const order = readFileSync(log, "utf8").trimEnd().split("\n");
      expect(order.slice(0, 2).toSorted()).toEqual(["+0", "+1"]);
      for (const [first, second] of [
        ["-0", "+2"],
        ["-1", "+3"],
      ] as const)
        expect(order.indexOf(first)).toBeLessThan(order.indexOf(second));
    });
});
