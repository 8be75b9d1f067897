/**
 * Commands as handlers of a running node, on real sockets. Goal: each message is answered by what its command did, in time,
 * and nothing that a command does reaches beyond its one answer.
 */
import { afterAll, afterEach, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConfigError } from "../../src/core/errors.ts";
import type { LogFields, Logger } from "../../src/core/logger.ts";
import { type CreateNodeOptions, createNode, type RunningNode } from "../../src/daemon/driver.ts";
import { Handlers } from "../../src/daemon/handlers.ts";
import type { OutcomeReport } from "../../src/node/io.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const PROBLEM = missingPrograms("sh", "cat", "sleep", "true", "false", "env", "yes", "seq", "tr", "wc", "touch");

const FOLDER = mkdtempSync(join(tmpdir(), "dmq-handlers-"));
afterAll(() => rmSync(FOLDER, { recursive: true }));

const endings: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

interface LogLine {
  level: string;
  text: string;
  fields: LogFields;
}

class Log implements Logger {
  readonly lines: LogLine[] = [];
  error = this.at("error");
  warn = this.at("warn");
  info = this.at("info");
  debug = this.at("debug");
  trace = this.at("trace");

  private at(level: string): Logger["info"] {
    return (text, fields = {}) => void this.lines.push({ level, text, fields });
  }

  texts(level: string): string[] {
    return this.lines.filter((line) => line.level === level).map(({ text }) => text);
  }
}

interface Served {
  node: RunningNode;
  log: Log;
  close(): Promise<void>;
}

interface Settings {
  numWorkers?: number;
  workerSleepMs?: number;
  handlerTimeoutMs?: number;
}

function make(on: readonly string[], settings: Settings = {}, log = new Log()): Handlers {
  const { numWorkers = 2, handlerTimeoutMs = 5_000 } = settings;
  const config = { handlers: [...on], numWorkers, handlerTimeoutMs, notificationChannel: "notification_peer" };
  return new Handlers({ config, socketPath: "/run/dmq.sock", log });
}

/** A node with `--on` of each of `on`. */
async function serve(on: readonly string[], settings: Settings = {}): Promise<Served> {
  const log = new Log();
  const handlers = make(on, settings, log);
  const options: CreateNodeOptions = { serverAddress: "sip:127.0.0.1:0", handlerTimeoutMs: 5_000, ...settings };
  const node = await createNode(options, (fresh) => handlers.bind(fresh));
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closing ??= handlers.close(node.close({ announce: false }));
    return closing;
  };
  endings.push(close);
  return { node, log, close };
}

/** A node that sends to `served`, once both know each other. */
async function senderTo(served: Served, address = "sip:127.0.0.2:0", pingIntervalMs = 2_000): Promise<RunningNode> {
  const sender = await createNode({
    serverAddress: address,
    notificationAddresses: [served.node.uri()],
    pingIntervalMs,
  });
  endings.push(() => sender.close({ announce: false }));
  const isActive = (): boolean => sender.nodes().some(({ status }) => status === "active");
  await until(isActive, 5_000, "the sender knows the node");
  return sender;
}

/** `CHANNEL=sh -c SCRIPT` with the script's quotes as they must be. */
function shell(channel: string, script: string): string {
  return `${channel}=sh -c '${script.replaceAll("'", `'\\''`)}'`;
}

function statusOf({ outcome }: OutcomeReport): string {
  switch (outcome.type) {
    case "delivered":
      return `${outcome.code} ${outcome.reason}`;
    case "rejected":
      return `${outcome.code} ${outcome.reason}${outcome.retryAfterSeconds === undefined ? "" : ` after ${outcome.retryAfterSeconds}`}`;
    default:
      return outcome.type;
  }
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

function linesOf(file: string): string[] {
  return existsSync(file) ? readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
}

let files = 0;

function newFile(): string {
  return join(FOLDER, `file-${++files}`);
}

describeWhere(PROBLEM, "handlers: the option", () => {
  function refused(...on: string[]): ConfigError {
    try {
      make(on);
    } catch (cause) {
      if (cause instanceof ConfigError) return cause;
      throw cause;
    }
    throw new Error("it was accepted");
  }

  test("an open quote is named with its place", () => {
    const error = refused("alerts=sh -c 'x");
    expect(error.code).toBe("config-invalid-value");
    expect(error.message).toContain(`on: got "alerts=sh -c 'x"`);
    expect(error.message).toContain("the quote ' at character 7 of the command is not closed");
  });

  test("a program that is nowhere is named with the places", () => {
    const error = refused("alerts=no-such-program --flag");
    expect(error.code).toBe("config-invalid-value");
    expect(error.message).toContain('on alerts: got the program "no-such-program"');
    expect(error.message).toContain(`PATH ${process.env.PATH?.split(":")[0]}`);
  });

  test("a program that may not be executed", () => {
    const file = newFile();
    writeFileSync(file, "#!/bin/sh\n");
    expect(refused(`peer-up=${file}`).message).toContain("may not be executed");
  });

  test("two commands for one channel, or one for the node's own, contradict", () => {
    const twice = refused("alerts=true", "other=true", "alerts=false");
    expect([twice.code, twice.message.includes("two commands for channel alerts")]).toEqual([
      ...["config-contradiction", true],
    ] as [typeof twice.code, boolean]);
    expect(refused("notification_peer=true").code).toBe("config-contradiction");
  });

  test("several commands for one event are fine", () =>
    expect(() => make(["peer-up=true", "peer-up=false"])).not.toThrow());
});

describeWhere(PROBLEM, "handlers: what a command gets", () => {
  test("the body, octet for octet, and facts in variables", async () => {
    const [body, env] = [newFile(), newFile()];
    const served = await serve([shell("alerts", `cat >${body}; env >${env}`)]);
    const sender = await senderTo(served);
    const octets = Uint8Array.from({ length: 20_000 }, (_, i) => (i * 13) & 255);
    const report = await sender.send("alerts", served.node.uri(), octets, {
      contentType: "application/x-lab",
      messageId: "backup-2026-11-21",
    });
    expect(statusOf(report)).toBe("200 OK");
    expect(Bun.deepEquals(new Uint8Array(readFileSync(body)), octets)).toBe(true);
    const facts = new Map(linesOf(env).map((line) => line.split(/=(.*)/s).slice(0, 2) as [string, string]));
    expect(Object.fromEntries([...facts].filter(([name]) => name.startsWith("DMQ_")))).toEqual({
      DMQ_CHANNEL: "alerts",
      DMQ_FROM: expect.stringMatching(/^sip:alerts@127\.0\.0\.2:\d+$/),
      DMQ_NODE: sender.uri(),
      DMQ_SOURCE: sender.uri().replace("sip:", "udp:"),
      DMQ_CALL_ID: expect.stringMatching(/.{8}/),
      DMQ_MESSAGE_ID: "backup-2026-11-21",
      DMQ_CONTENT_TYPE: "application/x-lab",
      DMQ_MAX_FORWARDS: "1",
      DMQ_SIZE: "20000",
      DMQ_ACCEPT: "",
      DMQ_URI: served.node.uri(),
      DMQ_SOCKET: "/run/dmq.sock",
    });
    expect(facts.has("PATH")).toBe(true);
    expect(served.node.channels()).toContainEqual({ name: "alerts", declared: true, consumed: true });
  });

  test("nothing of a message on its command line", async () => {
    const file = newFile();
    const served = await serve([shell("alerts", `tr "\\0" "\\n" </proc/$$/cmdline >${file}`)]);
    const sender = await senderTo(served);
    await sender.send("alerts", served.node.uri(), "$(touch /tmp/x); `id`");
    expect(linesOf(file).join("\n")).not.toContain("touch");
    expect(linesOf(file).slice(0, 2)).toEqual([expect.stringMatching(/\/sh$/), "-c"]);
  });
});

describeWhere(PROBLEM, "handlers: what an end means", () => {
  const gone = join(FOLDER, "gone");
  writeFileSync(gone, "#!/bin/sh\n");
  chmodSync(gone, 0o755);

  const scripts: [channel: string, command: string, status: string, logs: string | undefined][] = [
    ["fine", "true", "200 OK", undefined],
    ["busy", "sh -c 'exit 75'", "503 Handler Busy after 2", "exited with 75"],
    ["bad", "false", "500 Handler Exited With 1", "exited with 1"],
    ["worse", "sh -c 'exit 255'", "500 Handler Exited With 255", "exited with 255"],
    ["dies", "sh -c 'kill -SEGV $$'", "500 Handler Died Of SIGSEGV", "died of SIGSEGV"],
    ["floods", "yes", "500 Handler Printed Too Much", "printed too much on stdout"],
    ["shouts", "sh -c 'yes >&2'", "500 Handler Printed Too Much", "printed too much on stderr"],
    ["deleted", gone, "500 Handler Not Started", `${gone} could not be started (ENOENT)`],
    ["deaf", "sh -c 'exec <&-; exit 0'", "200 OK", undefined],
    ["forks", "sh -c 'sleep 100 & sleep 100 & exit 0'", "200 OK", undefined],
  ];

  test("each is answered with its status, and said in the log", async () => {
    const served = await serve(scripts.map(([channel, command]) => `${channel}=${command}`));
    rmSync(gone);
    const sender = await senderTo(served);
    for (const [channel, , status, logs] of scripts) {
      const report = await sender.send(channel, served.node.uri(), new Uint8Array(10_000));
      expect([channel, statusOf(report)]).toEqual([channel, status]);
      const line = served.log.lines.find(({ level, fields }) => level === "warn" && fields.handler === channel);
      expect([channel, line?.text]).toEqual([channel, logs === undefined ? undefined : expect.stringContaining(logs)]);
    }
  }, 15_000);

  const answers: [
    what: string,
    script: string,
    accept: string | undefined,
    body: string | undefined,
    type: string | undefined,
  ][] = [
    ["text", "printf 'grüße\\n'", "*/*", "grüße\n", "text/plain"],
    ["octets that are no UTF-8", "printf '\\377\\000x'", "*/*", "\ufffd\0x", "application/octet-stream"],
    ["nothing", "true", "*/*", undefined, undefined],
    ["text that nobody asked for", "echo hello", undefined, undefined, undefined],
  ];
  for (const [what, script, accept, body, type] of answers) {
    test(`stdout is the answer's body where the request has Accept: ${what}`, async () => {
      const served = await serve([shell("ask", script)]);
      const sender = await senderTo(served);
      const warnings: string[] = [];
      served.node.on("warning", ({ code }) => warnings.push(code));
      const { outcome } = await sender.send("ask", served.node.uri(), "", accept === undefined ? {} : { accept });
      expect(outcome.type).toBe("delivered");
      if (outcome.type !== "delivered") return;
      const text = outcome.body === undefined ? undefined : new TextDecoder().decode(outcome.body);
      expect([text || undefined, text ? outcome.contentType : undefined]).toEqual([body, type]);
      expect(warnings).toEqual([]);
    });
  }

  test("stderr is in the log, and one command cannot fill it", async () => {
    const served = await serve([shell("alerts", "seq 1 500 >&2")]);
    const sender = await senderTo(served);
    await sender.send("alerts", served.node.uri(), "");
    await sender.send("alerts", served.node.uri(), "");
    const lines = served.log.lines.filter(({ level, fields }) => level === "info" && fields.handler === "alerts");
    expect(lines.length).toBe(100);
    expect(lines[0]?.text).toBe("1");
    expect(lines[99]?.text).toBe("100");
  });
});

describeWhere(PROBLEM, "handlers: a command that hangs", () => {
  test("is answered 503 in time, and its whole group is gone", async () => {
    const file = newFile();
    const script = `sleep 100 & echo $! >>${file}; (sleep 100 & echo $! >>${file}; wait) & echo $$ >>${file}; wait`;
    const served = await serve([shell("hang", script)], { handlerTimeoutMs: 400 });
    const sender = await senderTo(served);
    const report = await sender.send("hang", served.node.uri(), "");
    expect(statusOf(report)).toBe("503 Handler Too Late after 2");
    expect(report.elapsedMs).toBeGreaterThanOrEqual(395);
    expect(report.elapsedMs).toBeLessThan(1_000);
    expect(linesOf(file).length).toBe(3);
    for (const pid of linesOf(file)) await until(() => !isAlive(Number(pid)), 1_000, `${pid} is gone`);
    const told = (): boolean => served.log.texts("warn").some((text) => text.includes("handler_timeout (400 ms)"));
    await until(told, 1_000, "the log says so");
  });

  test("that ignores SIGTERM keeps its worker until it is gone, and no longer", async () => {
    const file = newFile();
    const served = await serve(
      [shell("hang", `[ -s ${file} ] && exit 0; trap "" TERM; echo $$ >>${file}; while :; do sleep 1; done`)],
      {
        numWorkers: 1,
        handlerTimeoutMs: 600,
      },
    );
    const sender = await senderTo(served);
    const hanging = sender.send("hang", served.node.uri(), "");
    await until(() => linesOf(file).length === 1, 2_000, "the command runs");
    expect(statusOf(await hanging)).toStartWith("503");
    // SIGTERM did nothing: for 250 ms more the one worker of this channel is taken.
    const at = performance.now();
    const quick = await sender.send("hang", served.node.uri(), "");
    expect(statusOf(quick)).toBe("200 OK");
    expect(performance.now() - at).toBeGreaterThan(50);
    expect(isAlive(Number(linesOf(file)[0]))).toBe(false);
  });

  test("costs the other channels nothing", async () => {
    const served = await serve(["hang=sleep 100", "quick=true"], { numWorkers: 2, handlerTimeoutMs: 1_000 });
    const sender = await senderTo(served);
    const hanging = sender.send("hang", served.node.uri(), "");
    for (let i = 0; i < 10; i++) expect(statusOf(await sender.send("quick", served.node.uri(), ""))).toBe("200 OK");
    expect(statusOf(await hanging)).toStartWith("503");
  });
});

describeWhere(PROBLEM, "handlers: workers", () => {
  /** Each run writes when it begins and ends; `hold` is what it does between. */
  function traced(file: string, hold: string): string {
    return `read name; echo "+ $name" >>${file}; ${hold}; echo "- $name" >>${file}`;
  }

  /** The highest number of runs at a time in a trace of `+` and `-`. */
  function most(lines: readonly string[]): number {
    let [running, highest] = [0, 0];
    for (const line of lines) {
      running += line.startsWith("+") ? 1 : -1;
      highest = Math.max(highest, running);
    }
    return highest;
  }

  test("messages of one sender are handled one by one, in order", async () => {
    const file = newFile();
    const served = await serve([shell("line", traced(file, "sleep 0.02"))], { numWorkers: 4 });
    const sender = await senderTo(served);
    const names = Array.from({ length: 10 }, (_, i) => `m${i}`);
    await Promise.all(names.map((name) => sender.send("line", served.node.uri(), `${name}\n`)));
    expect(linesOf(file)).toEqual(names.flatMap((name) => [`+ ${name}`, `- ${name}`]));
  });

  for (const numWorkers of [1, 2, 3]) {
    test(`num_workers ${numWorkers}: that many commands run at a time, of messages from many senders, and never more`, async () => {
      const file = newFile();
      const served = await serve([shell("work", traced(file, "sleep 0.1"))], { numWorkers });
      const senders = await Promise.all([2, 3, 4, 5].map((last) => senderTo(served, `sip:127.0.0.${last}:0`)));
      const sent = senders.flatMap((sender, s) =>
        [0, 1].map((i) => sender.send("work", served.node.uri(), `s${s}-${i}\n`)),
      );
      for (const report of await Promise.all(sent)) expect(statusOf(report)).toBe("200 OK");
      expect(linesOf(file).length).toBe(16);
      expect(most(linesOf(file))).toBe(numWorkers);
    });
  }

  test("worker_usleep: idle workers begin at multiples of the interval", async () => {
    const interval = 300;
    const node = await createNode({ serverAddress: "sip:127.0.0.1:0", workerSleepMs: interval, numWorkers: 2 });
    endings.push(() => node.close({ announce: false }));
    const served: Served = { node, log: new Log(), close: async () => undefined };
    const sender = await senderTo(served);
    const starts: { at: number; waited: number }[] = [];
    node.channel("tick", ({ body }) => {
      const at = performance.now();
      starts.push({ at, waited: at - Number(new TextDecoder().decode(body)) });
    });
    // Arrivals fall all over the interval; starts do not.
    for (const pause of [0, 57, 131, 180, 85, 243]) {
      await Bun.sleep(pause);
      await sender.send("tick", node.uri(), String(performance.now()));
    }
    expect(starts.length).toBe(6);
    const first = starts[0]?.at ?? 0;
    for (const { at, waited } of starts) {
      const off = (((at - first + interval / 2) % interval) + interval) % interval;
      expect(Math.abs(off - interval / 2)).toBeLessThan(interval / 4);
      expect(waited).toBeLessThan((interval * 5) / 4);
    }
    expect(Math.max(...starts.map(({ waited }) => waited))).toBeGreaterThan(40);
  });
});

describeWhere(PROBLEM, "handlers: events of peers", () => {
  test("peer-up, peer-down and peer-disabled run their commands, in order for one peer", async () => {
    const file = newFile();
    const command = `sh -c 'echo "$1 $DMQ_EVENT $DMQ_NODE $DMQ_STATUS $DMQ_URI $(cat | wc -c)" >>${file}' x`;
    const on = ["peer-up", "peer-down", "peer-disabled"].map((event) => `${event}=${command} a`);
    const served = await serve([...on, `peer-up=${command} b`], { numWorkers: 4 });
    const sender = await senderTo(served);
    const [own, other] = [served.node.uri(), sender.uri()];
    await until(() => linesOf(file).length === 2, 5_000, "peer-up ran twice");
    served.node.setStatus(other, "not_active");
    served.node.setStatus(other, "disabled");
    served.node.setStatus(other, "active");
    await until(() => linesOf(file).length === 6, 5_000, "the others ran");
    expect(linesOf(file)).toEqual([
      `a peer-up ${other} active ${own} 0`,
      `b peer-up ${other} active ${own} 0`,
      `a peer-down ${other} not_active ${own} 0`,
      `a peer-disabled ${other} disabled ${own} 0`,
      `a peer-up ${other} active ${own} 0`,
      `b peer-up ${other} active ${own} 0`,
    ]);
  });

  test("a command of an event that hangs is ended at handler_timeout", async () => {
    const file = newFile();
    const served = await serve([shell("peer-up", `echo $$ >>${file}; exec sleep 100`)], { handlerTimeoutMs: 300 });
    await senderTo(served);
    await until(() => linesOf(file).length === 1, 5_000, "it runs");
    await until(() => !isAlive(Number(linesOf(file)[0])), 2_000, "it is ended");
    await until(() => served.log.texts("warn").length === 1, 1_000, "the log says so");
    expect(served.log.texts("warn")[0]).toContain("handler_timeout (300 ms)");
  });
});

describeWhere(PROBLEM, "handlers: a node that stops", () => {
  test("gives a command time to finish, and its sender the answer", async () => {
    const file = newFile();
    const served = await serve([shell("slow", `echo $$ >>${file}; sleep 0.5; echo done >>${file}`)]);
    const sender = await senderTo(served);
    const sent = sender.send("slow", served.node.uri(), "");
    await until(() => linesOf(file).length === 1, 2_000, "it runs");
    await served.close();
    expect(linesOf(file)[1]).toBe("done");
    expect(statusOf(await sent)).toBe("200 OK");
  });

  test("is not kept by a command that nobody can end", async () => {
    const log = new Log();
    let begun = 0;
    const config = { handlers: ["peer-up=true"], numWorkers: 1, handlerTimeoutMs: 100, notificationChannel: "n" };
    const handlers = new Handlers({
      config,
      socketPath: "/run/dmq.sock",
      log,
      run: () => {
        begun++;
        return new Promise(() => {});
      },
    });
    const node = await createNode({ serverAddress: "sip:127.0.0.1:0" }, (fresh) => handlers.bind(fresh));
    node.add("sip:127.0.0.9:9", "active");
    await until(() => begun === 1, 2_000, "it runs");
    const at = performance.now();
    await handlers.close(node.close({ announce: false }));
    expect(performance.now() - at).toBeLessThan(4_000);
    expect(log.texts("warn")).toEqual(["commands of handlers that could not be ended: 1"]);
  });

  test("ends commands that take longer, of messages and of events, within two seconds", async () => {
    const file = newFile();
    const on = [shell("hang", `echo $$ >>${file}; sleep 100`), shell("peer-up", `echo $$ >>${file}; sleep 100`)];
    const served = await serve(on, { handlerTimeoutMs: 20_000 });
    const sender = await senderTo(served);
    const hanging = sender.send("hang", served.node.uri(), "", { timeoutMs: 1_000 });
    await until(() => linesOf(file).length === 2, 2_000, "both run");
    const at = performance.now();
    await served.close();
    expect(performance.now() - at).toBeLessThan(2_000);
    for (const pid of linesOf(file)) expect(isAlive(Number(pid))).toBe(false);
    await hanging;
  });
});
