/**
 * Commands as handlers of the compiled executable, as an operator and a sender see them: what `dmq send` prints and exits
 * with, what the log says, and that nothing is left of any command.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createNode, type RunningNode } from "../../src/index.ts";
import { type Daemon, Daemons, dmq, EXECUTABLE } from "../helpers/daemon.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const PROBLEM = missingPrograms("sh", "cat", "sleep", "true", "false", "env", "yes", "sort", "wc", "setsid");

const SETUP_MS = 30_000;

const daemons = new Daemons();
afterAll(() => daemons.endAll(), SETUP_MS);

/** A port that was free a moment ago: the executable wants a server address that others can be told. */
async function freeAddress(ip: string): Promise<string> {
  const socket = await Bun.udpSocket({ hostname: ip, port: 0 });
  const port = socket.port;
  socket.close();
  return `sip:${ip}:${port}`;
}

let files = 0;

function newFile(): string {
  return join(daemons.dir, `f${++files}`);
}

function linesOf(file: string): string[] {
  return existsSync(file) ? readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

function on(name: string, command: string): string[] {
  return ["--on", `${name}=${command}`];
}

function shell(name: string, script: string): string[] {
  return on(name, `sh -c '${script.replaceAll("'", `'\\''`)}'`);
}

async function knowEachOther(sender: Daemon, receiver: Daemon): Promise<void> {
  const isActive = async (): Promise<boolean> =>
    (await sender.list()).some((row) => row.uri === receiver.uri && row.status === "active");
  await until(isActive, 8_000, `${sender.uri} has ${receiver.uri} as active`);
}

describeWhere(PROBLEM, "serve --on", () => {
  let sender: Daemon;
  let receiver: Daemon;
  let asker: RunningNode;
  const body = newFile();
  const env = newFile();
  const pids = newFile();
  const gone = newFile();

  beforeAll(async () => {
    writeFileSync(gone, "#!/bin/sh\n");
    chmodSync(gone, 0o755);
    const options = [
      "--ping-interval",
      "5",
      "--request-timeout",
      "5s",
      "--handler-timeout",
      "1s",
      "--num-workers",
      "4",
    ];
    receiver = await daemons.serve("receiver", await freeAddress("127.0.0.1"), [
      ...options,
      ...shell("body", `cat >${body}; env >${env}`),
      ...on("fine", "true"),
      ...shell("busy", "exit 75"),
      ...shell("bad", "echo what went wrong >&2; exit 3"),
      ...shell("dies", "kill -SEGV $$"),
      ...on("floods", "yes"),
      ...shell("hangs", `echo $$ >>${pids}; sleep 100 & echo $! >>${pids}; sleep 100`),
      ...shell(
        "daemon",
        `setsid sh -c "echo \\$\\$ >>${pids}; exec sleep 20" & until [ "$(wc -l <${pids})" -ge 3 ]; do sleep 0.01; done`,
      ),
      ...on("deleted", gone),
      ...on("echo", "cat"),
      ...shell("calls", `"${EXECUTABLE}" status --json >/dev/null && exit 0; exit 1`),
    ]);
    rmSync(gone);
    sender = await daemons.serve("sender", await freeAddress("127.0.0.2"), [
      ...options,
      "--notification-address",
      receiver.uri,
    ]);
    asker = await createNode({ serverAddress: "sip:127.0.0.3:0", notificationAddresses: [receiver.uri] });
    await knowEachOther(sender, receiver);
  }, SETUP_MS);

  afterAll(() => asker?.close({ announce: false }));

  test("the command gets every octet of the body and the facts", async () => {
    const octets = Uint8Array.from({ length: 30_000 }, (_, i) => (i * 11 + (i >> 8)) & 255);
    const row = await sender.send("body", receiver.uri, octets, ["--content-type", "application/x-lab"]);
    expect([row.outcome, row.code, row.consumer]).toEqual(["delivered", 200, true]);
    expect(Bun.deepEquals(new Uint8Array(readFileSync(body)), octets)).toBe(true);
    const facts = linesOf(env);
    for (const fact of [
      ...["DMQ_CHANNEL=body", `DMQ_NODE=${sender.uri}`, "DMQ_CONTENT_TYPE=application/x-lab", "DMQ_SIZE=30000"],
      ...["DMQ_ACCEPT=", `DMQ_URI=${receiver.uri}`, `DMQ_SOCKET=${receiver.socket}`, "DMQ_MAX_FORWARDS=1"],
    ])
      expect(facts).toContain(fact);
  });

  const ends: [channel: string, code: number, prints: string, exit: number][] = [
    ["fine", 200, "OK", 0],
    ["busy", 503, "Handler Busy", 5],
    ["bad", 500, "Handler Exited With 3", 5],
    ["dies", 500, "Handler Died Of SIGSEGV", 5],
    ["floods", 500, "Handler Printed Too Much", 5],
    ["hangs", 503, "Handler Too Late", 5],
    ["daemon", 200, "OK", 0],
    ["deleted", 500, "Handler Not Started", 5],
    ["calls", 200, "OK", 0],
  ];
  for (const [channel, code, prints, exit] of ends) {
    test(`${channel}: dmq send prints ${code} ${prints} and exits ${exit}`, async () => {
      const done = await sender.run(["send", channel, receiver.uri, "x"]);
      const [node, status, ...reason] = done.stdout.trim().split("\t");
      expect([node, status, reason[0], done.code]).toEqual([receiver.uri, String(code), prints, exit]);
    }, 10_000);
  }

  test("what hung is gone with its children, and what left the group lives on", async () => {
    const [leader, child, escaped] = linesOf(pids).map(Number) as [number, number, number];
    for (const pid of [leader, child]) await until(() => !isAlive(pid), 2_000, `${pid} is gone`);
    expect(isAlive(escaped)).toBe(true);
    process.kill(escaped, "SIGKILL");
  });

  test("stdout is the body of the answer for who asks, and for nobody else", async () => {
    const ask = await asker.send("echo", receiver.uri, "ping", { accept: "*/*" });
    expect(ask.outcome).toMatchObject({ type: "delivered", code: 200, contentType: "text/plain" });
    expect(ask.outcome.type === "delivered" && new TextDecoder().decode(ask.outcome.body)).toBe("ping");
    const tell = await asker.send("echo", receiver.uri, "ping");
    expect(tell.outcome.type === "delivered" && (tell.outcome.body ?? new Uint8Array(0)).length).toBe(0);
  });

  test("the log says what went wrong, and what the commands wrote to stderr", async () => {
    for (const text of [
      "what went wrong",
      "exited with 3",
      "died of SIGSEGV",
      "printed too much on stdout",
      "handler_timeout (1000 ms)",
      `${gone} could not be started (ENOENT)`,
    ])
      await until(() => receiver.log.includes(text), 2_000, `the log says: ${text}`);
    expect(receiver.log).not.toContain("body-dropped");
  });

  test("200 messages later there is no zombie, and no descriptor more", async () => {
    const { pid } = await receiver.status();
    const descriptors = (): number => readdirSync(`/proc/${pid}/fd`).length;
    const before = descriptors();
    for (let i = 0; i < 200; i++) {
      const { outcome } = await asker.send(
        ["fine", "echo", "bad", "dies"][i % 4] as string,
        receiver.uri,
        "x".repeat(5_000),
      );
      expect(["delivered", "rejected"]).toContain(outcome.type);
    }
    await until(() => descriptors() <= before + 2, 3_000, `descriptors come back to ${before}, now ${descriptors()}`);
    const children = (): string => readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    await until(() => children() === "", 2_000, `no child of ${pid} is left`);
  }, 20_000);

  test("somebody who listens on such a channel is refused, and the daemon goes on", async () => {
    const done = await receiver.run(["listen", "fine", "-n", "1", "-W", "2s"]);
    expect(done.code).not.toBe(0);
    expect((await sender.send("fine", receiver.uri, new Uint8Array(1))).code).toBe(200);
  });
});

describeWhere(PROBLEM, "serve --on, from its start to its end", () => {
  const wrong: [what: string, value: string, says: string][] = [
    ["an open quote", `alerts=sh -c "x`, `the quote " at character 7`],
    ["a program that is nowhere", "alerts=no-such-program", "PATH "],
    ["no command", "alerts=", "CHANNEL=CMD"],
    ["the channel of the node itself", "notification_peer=true", "notification_channel"],
  ];
  for (const [what, value, says] of wrong) {
    test(`${what}: exit 9, one line, nothing left behind`, async () => {
      const socket = join(daemons.dir, "wrong.sock");
      const args = ["serve", "--server-address", await freeAddress("127.0.0.1"), "--socket", socket, "--no-snapshot"];
      const done = await dmq([...args, "--on", value, "--log-level", "error"], { timeoutMs: 5_000 });
      expect([done.code, done.stdout]).toEqual([9, ""]);
      expect(done.stderr).toContain(says);
      expect(done.stderr.trim().split("\n").length).toBe(1);
      expect(existsSync(socket)).toBe(false);
    });
  }

  test("commands for peers run, from a file or from the variable", async () => {
    const file = newFile();
    const toml = newFile();
    writeFileSync(toml, `on = ["peer-up=sh -c 'echo toml $DMQ_EVENT $DMQ_NODE >>${file}'"]\n`);
    const first = await daemons.serve("toml", await freeAddress("127.0.0.1"), ["--config", toml]);
    const socket = join(daemons.dir, "variable.sock");
    const address = await freeAddress("127.0.0.2");
    daemons.start(
      ["serve", "--server-address", address, "--notification-address", first.uri, "--socket", socket, "--no-snapshot"],
      {
        DMQ_ON: `peer-up=sh -c 'echo variable, $DMQ_EVENT $DMQ_NODE >>${file}'\npeer-down=true`,
      },
    );
    await until(() => linesOf(file).length === 2, 8_000, "both commands ran");
    expect(linesOf(file).sort()).toEqual([`toml peer-up ${address}`, `variable, peer-up ${first.uri}`]);
  }, 15_000);

  for (const [how, signals, code] of [
    ["SIGTERM", ["SIGTERM"], 0],
    ["a second SIGTERM at once", ["SIGTERM", "SIGTERM"], 143],
  ] as const) {
    test(`${how} ends a command that hangs with the daemon`, async () => {
      const file = newFile();
      const script = `trap "" TERM; echo $$ >>${file}; sleep 100 & echo $! >>${file}; wait; sleep 100`;
      const options = ["--handler-timeout", "20s", ...shell("peer-up", script)];
      const daemon = await daemons.serve(`stops-${code}`, await freeAddress("127.0.0.1"), options);
      const peer = await createNode({ serverAddress: "sip:127.0.0.3:0", notificationAddresses: [daemon.uri] });
      await until(() => linesOf(file).length === 2, 8_000, "the command runs");
      const { pid } = await daemon.status();
      const at = performance.now();
      for (const signal of signals) {
        process.kill(pid, signal);
        await Bun.sleep(50);
      }
      expect(await daemon.exited).toBe(code);
      expect(performance.now() - at).toBeLessThan(2_500);
      for (const one of linesOf(file)) await until(() => !isAlive(Number(one)), 1_000, `${one} is gone`);
      await peer.close({ announce: false });
    }, 20_000);
  }
});
