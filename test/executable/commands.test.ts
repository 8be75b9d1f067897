/**
 * The compiled executable, one smoke test per subcommand: output, exit code, and which of the two streams. What a command
 * does in every case is tested in test/cli; here it is the file that an operator gets.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import {
  type Daemon,
  Daemons,
  type DeliveryRow,
  dmq,
  type ListRow,
  type MessageRow,
  type StatusRow,
} from "../helpers/daemon.ts";
import { until } from "../helpers/wait.ts";

const SETUP_MS = 30_000;
const VERSION = (await import("../../package.json")).version;

/** A port that was free a moment ago: the executable wants a server address that others can be told. */
async function freeAddress(): Promise<string> {
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0 });
  const port = socket.port;
  socket.close();
  return `sip:127.0.0.1:${port}`;
}

const OPTIONS = ["--channel", "declared", "--request-timeout", "2s", "--log-level", "warn"];

describe("commands without a daemon", () => {
  test("version prints one line, or JSON", async () => {
    const plain = await dmq(["version"]);
    expect(plain.stdout).toMatch(/^dmq \d+\.\d+\.\d+( \([0-9a-f]+\))?\n$/);
    expect(plain.stdout).toStartWith(`dmq ${VERSION}`);
    expect([plain.code, plain.stderr]).toEqual([0, ""]);
    expect(JSON.parse((await dmq(["version", "--json"])).stdout)).toMatchObject({ version: VERSION });
  });

  test("--help names every command, and each command has examples first", async () => {
    const overview = await dmq(["--help"]);
    expect(overview.code).toBe(0);
    const commands =
      overview.stdout
        .split("commands:\n")[1]
        ?.match(/^ {2}[a-z]+/gm)
        ?.map((name) => name.trim()) ?? [];
    const described = JSON.parse((await dmq(["help", "--json"])).stdout) as { commands: { name: string }[] };
    expect(commands).toEqual(described.commands.map(({ name }) => name));
    for (const name of ["serve", "send", "list", "config", "completion", "help"]) expect(commands).toContain(name);
    for (const command of commands) {
      const help = await dmq([command, "--help"]);
      expect([command, help.code, help.stderr]).toEqual([command, 0, ""]);
      expect(help.stdout.split("\n")[2]).toBe("examples:");
    }
  });

  const wrong: [what: string, args: string[], says: string][] = [
    ["nothing at all", [], "usage"],
    ["an unknown command", ["sned"], "did you mean send?"],
    ["an unknown option", ["list", "--jsno"], "did you mean --json?"],
    ["a missing argument", ["send", "channel1"], "missing argument NODE"],
    ["an argument too many", ["list", "everything"], "unexpected argument"],
    ["a node that is no URI", ["send", "channel1", "somewhere", "x"], "somewhere"],
    ["a line break in a channel", ["bcast", "a\r\nX: y", "x"], ""],
  ];
  for (const [what, args, says] of wrong) {
    test(`${what}: exit 2, the reason on stderr, nothing on stdout`, async () => {
      const done = await dmq(args);
      expect([done.code, done.stdout]).toEqual([2, ""]);
      expect(done.stderr).toContain(says);
      expect(done.stderr).not.toBe("");
    });
  }

  const wantDaemon: string[][] = [
    ["list"],
    ["status"],
    ["send", "c", "sip:127.0.0.1:5060", "x"],
    ["bcast", "c", "x"],
    ["listen", "c"],
    ["add", "sip:127.0.0.1:5060"],
    ["remove", "sip:127.0.0.1:5060"],
    ["set", "sip:127.0.0.1:5060", "active"],
    ["join", "sip:127.0.0.1:5060"],
    ["leave"],
    ["reload"],
    ["stop"],
    ["rpc", "dmq.list_nodes"],
  ];
  test(
    "no daemon: exit 4 and one clear line, for each command that wants one",
    async () => {
      for (const [command, ...rest] of wantDaemon as [string, ...string[]][]) {
        const done = await dmq([command, "--socket", "/nonexistent/dmq.sock", ...rest]);
        expect([command, done.code, done.stdout]).toEqual([command, 4, ""]);
        expect(done.stderr).toMatch(/^[^\n]*\/nonexistent\/dmq\.sock[^\n]*\n$/);
      }
    },
    SETUP_MS,
  );

  test("demo plays its scene and ends well, within twenty seconds", async () => {
    const done = await dmq(["demo"], { timeoutMs: 20_000 });
    expect([done.code, done.stderr]).toEqual([0, ""]);
    expect(done.stdout).not.toBe("");
  }, 25_000);
});

describe("serve", () => {
  const daemons = new Daemons();
  afterAll(() => daemons.endAll(), SETUP_MS);

  const wrong: [what: string, args: string[], says: string][] = [
    ["an unknown option", ["--ping-intervall", "5"], "--ping-interval"],
    ["a value out of bounds", ["--ping-interval", "0"], "ping"],
    ["an address that is none", ["--server-address", "127.0.0.1"], "server"],
    ["an address that nobody can reach", ["--server-address", "sip:0.0.0.0:5060"], "server"],
  ];
  for (const [what, args, says] of wrong) {
    test(`${what}: exit 2 or 9, and the option is named`, async () => {
      const socket = join(daemons.dir, "wrong.sock");
      const done = await dmq(["serve", "--socket", socket, "--no-snapshot", ...args], { timeoutMs: 5_000 });
      expect([2, 9]).toContain(done.code);
      expect(done.stderr).toContain(says);
      expect(done.stdout).toBe("");
    });
  }

  test(
    "an address in use: exit 4 or 9, one line, and no socket left behind",
    async () => {
      const uri = await freeAddress();
      const first = await daemons.serve("in-use", uri, OPTIONS);
      const socket = join(daemons.dir, "second.sock");
      const done = await dmq(["serve", "--server-address", uri, "--socket", socket, "--no-snapshot"], {
        timeoutMs: 5_000,
      });
      expect([4, 9]).toContain(done.code);
      expect(done.stderr).toContain(uri.slice("sip:".length));
      expect(await Bun.file(socket).exists()).toBe(false);
      expect((await first.list()).length).toBe(1);
    },
    SETUP_MS,
  );

  test(
    "a second daemon on one socket: exit 4 or 9, and the first goes on",
    async () => {
      const first = await daemons.serve("shared", await freeAddress(), OPTIONS);
      const args = ["serve", "--server-address", await freeAddress(), "--socket", first.socket, "--no-snapshot"];
      const done = await dmq(args, { timeoutMs: 5_000 });
      expect([4, 9]).toContain(done.code);
      expect(done.stderr).toContain(first.socket);
      expect((await first.status()).uri).toBe(first.uri);
    },
    SETUP_MS,
  );

  test(
    "a socket that nobody may make: exit 4 or 9, one line",
    async () => {
      const file = join(daemons.dir, "file");
      await Bun.write(file, "");
      const args = [
        "serve",
        "--server-address",
        await freeAddress(),
        "--no-snapshot",
        "--socket",
        join(file, "x.sock"),
      ];
      const done = await dmq(args, { timeoutMs: 5_000 });
      expect([4, 9]).toContain(done.code);
      expect(done.stderr).toContain(file);
    },
    SETUP_MS,
  );

  test(
    "the socket file of a daemon killed with -9 is taken over",
    async () => {
      const uri = await freeAddress();
      const dead = await daemons.serve("stale", uri, OPTIONS);
      await dead.end("SIGKILL");
      expect((await dmq(["list", "--socket", dead.socket])).code).toBe(4);
      const heir = await daemons.serve("stale", uri, OPTIONS);
      expect((await heir.status()).uri).toBe(uri);
      expect(heir.socket).toBe(dead.socket);
    },
    SETUP_MS,
  );

  test(
    "SIGINT leaves with exit code 0 and takes the socket away",
    async () => {
      const daemon = await daemons.serve("interrupted", await freeAddress(), OPTIONS);
      expect(await daemon.end("SIGINT")).toBe(0);
      expect((await dmq(["list", "--socket", daemon.socket])).code).toBe(4);
    },
    SETUP_MS,
  );

  test(
    "SIGTERM ends with exit code 0",
    async () => {
      const daemon = await daemons.serve("terminated", await freeAddress(), OPTIONS);
      expect(await daemon.end("SIGTERM")).toBe(0);
    },
    SETUP_MS,
  );

  test(
    "options come from the environment and from a file too, and the flag wins",
    async () => {
      const folder = join(daemons.dir, "config");
      mkdirSync(folder);
      const [fromFile, fromFlag] = [await freeAddress(), await freeAddress()];
      await Bun.write(
        join(folder, "dmq.toml"),
        `server_address = "${fromFile}"\nno_snapshot = true\nchannel = ["declared"]\n`,
      );
      const socket = join(daemons.dir, "layers.sock");
      const config = ["--config", join(folder, "dmq.toml")];
      for (const [flags, uri] of [
        [[], fromFile],
        [["--server-address", fromFlag], fromFlag],
      ] as [string[], string][]) {
        daemons.start(["serve", ...config, ...flags], { DMQ_SOCKET: socket, DMQ_LOG_LEVEL: "error" });
        const status = async (): Promise<StatusRow> => {
          const { stdout } = await dmq(["status", "--json"], { env: { DMQ_SOCKET: socket } });
          return JSON.parse(stdout) as StatusRow;
        };
        const found = await until(status, 10_000, "the daemon answers");
        expect(found.uri).toBe(uri);
        expect(found.channels.map((channel) => channel.name)).toContain("declared");
        expect((await dmq(["stop"], { env: { DMQ_SOCKET: socket } })).code).toBe(0);
      }
    },
    SETUP_MS,
  );
});

describe("commands with a daemon", () => {
  let daemons: Daemons;
  let first: Daemon;
  let second: Daemon;

  beforeAll(async () => {
    daemons = new Daemons();
    first = await daemons.serve("a", await freeAddress(), OPTIONS);
    second = await daemons.serve("b", await freeAddress(), [...OPTIONS, "--notification-address", first.uri]);
    const isFull = async (daemon: Daemon): Promise<boolean> =>
      (await daemon.list()).filter((row) => row.status === "active").length === 2;
    await until(async () => (await isFull(first)) && (await isFull(second)), 5_000, "two nodes know each other");
  }, SETUP_MS);

  afterAll(() => daemons.endAll(), SETUP_MS);

  test("list: tab-separated in a pipe, JSON with Kamailio's fields", async () => {
    const plain = await first.run(["list"]);
    expect([plain.code, plain.stderr]).toEqual([0, ""]);
    const lines = plain.stdout.trimEnd().split("\n");
    expect(lines.map((line) => line.split("\t").slice(0, 3))).toEqual([
      [second.uri, "active", "0"],
      [first.uri, "active", "1"],
    ]);
    const rows = JSON.parse((await first.run(["list", "--json"])).stdout) as ListRow[];
    const [host, port] = second.uri.slice("sip:".length).split(":");
    expect(rows[0]).toMatchObject({
      host,
      port,
      proto: "*",
      resolved_ip: host,
      status: "active",
      local: 0,
      uri: second.uri,
    });
    expect(rows[1]).toMatchObject({ uri: first.uri, local: 1, fail_count: 0 });
  });

  test("status: who it is, and what it counts", async () => {
    expect((await first.run(["status"])).stdout).toContain(`uri\t${first.uri}\n`);
    const status = await first.status();
    expect(status).toMatchObject({ uri: first.uri, peers: { active: 1, not_active: 0, disabled: 0 } });
    expect(status.counters.notificationsSent).toBeNumber();
  });

  test("send: NODE CODE REASON MS, and the exit code is the answer's", async () => {
    const declared = await first.run(["send", "declared", second.uri, "hello"]);
    expect(declared.stdout).toMatch(new RegExp(`^${second.uri.replaceAll(".", "\\.")}\t202\t[^\t]+\t[0-9]+\n$`));
    expect([declared.code, declared.stderr]).toEqual([0, ""]);
    const unknown = await first.run(["send", "--json", "nowhere", second.uri, "hello"]);
    expect(JSON.parse(unknown.stdout) as DeliveryRow).toMatchObject({
      node: second.uri,
      outcome: "rejected",
      code: 404,
    });
    expect(unknown.code).toBe(3);
    expect((await first.run(["send", "declared", "sip:127.0.0.1:1", "hello"])).code).toBe(3);
  });

  test("send: a channel of Kamailio's modules is closed without --force", async () => {
    const refused = await first.run(["send", "htable", second.uri, "{}"]);
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toContain("htable");
    expect((await first.run(["send", "--force", "htable", second.uri, "{}"])).code).toBe(3);
  });

  test("listen and bcast: what one says, the other prints, and the answer is 200", async () => {
    const listener = await second.listen("news");
    const body = Uint8Array.of(0, 13, 10, 255, 128, 65);
    const rows = await first.bcast("news", body, ["--content-type", "application/octet-stream"]);
    expect(rows).toMatchObject([{ node: second.uri, outcome: "delivered", code: 200, consumer: true }]);
    await until(() => listener.messages.length === 1, 2_000, "one message");
    expect(listener.messages[0] as MessageRow).toMatchObject({
      channel: "news",
      node: first.uri,
      content_type: "application/octet-stream",
      size: 6,
      body: null,
      body_base64: Buffer.from(body).toString("base64"),
    });
    expect(await listener.end()).toBe(130);
  });

  test("listen -n 1 ends with 0 after its message, -W without one with 6", async () => {
    const heard = second.run(["listen", "-n", "1", "-W", "10s", "once"]);
    const hasConsumer = async (): Promise<boolean> =>
      (await second.status()).channels.some((channel) => channel.name === "once" && channel.consumers > 0);
    await until(hasConsumer, 5_000, "the listener is there");
    expect((await first.run(["bcast", "once", "hello"])).code).toBe(0);
    const done = await heard;
    expect([done.code, done.stderr]).toEqual([0, ""]);
    expect(done.stdout).toMatch(/\tonce\t.*\ttext\/plain\thello\n$/);
    expect((await second.run(["listen", "-n", "1", "-W", "1s", "once"])).code).toBe(6);
  });

  test("bcast: 3 with nobody to address, and the line says so on stderr", async () => {
    const done = await first.run(["bcast", "--except", second.uri, "declared", "hello"]);
    expect([done.code, done.stdout]).toEqual([3, ""]);
    expect(done.stderr).toContain("no active node");
  });

  test("set, add, remove: silent on success, and list shows it", async () => {
    const ghost = "sip:127.0.0.1:9";
    const silent = { code: 0, stdout: "", stderr: "" };
    expect(await first.run(["add", ghost])).toEqual(silent);
    expect((await first.run(["add", ghost])).code).toBe(1);
    expect((await first.list()).map((row) => row.uri)).toContain(ghost);
    expect(await first.run(["remove", ghost])).toEqual(silent);
    expect((await first.list()).map((row) => row.uri)).not.toContain(ghost);
    expect((await first.run(["remove", ghost])).code).toBe(3);
    expect(await first.run(["set", second.uri, "disabled"])).toEqual(silent);
    expect((await first.list()).find((row) => row.uri === second.uri)?.status).toBe("disabled");
    expect(await first.run(["set", second.uri, "active"])).toEqual(silent);
    expect((await first.run(["set", "sip:127.0.0.1:9", "active"])).code).toBe(3);
    expect((await first.run(["set", second.uri, "actve"])).stderr).toContain("did you mean active?");
  });

  test("rpc: Kamailio's methods and faults", async () => {
    const rows = JSON.parse((await first.run(["rpc", "dmq.list_nodes"])).stdout) as ListRow[];
    expect(rows.map((row) => row.uri)).toEqual([second.uri, first.uri]);
    const removed = await first.run(["rpc", "dmq.remove", '["sip:127.0.0.1:9"]']);
    expect([removed.code, removed.stdout]).toEqual([0, '"Ok. DMQ node removed."\n']);
    const unknown = await first.run(["rpc", "dmq.nothing"]);
    expect([unknown.code, unknown.stdout]).toEqual([2, ""]);
  });

  test(
    "join: a third node that knows nobody is met at the second",
    async () => {
      const third = await daemons.serve("c", await freeAddress(), OPTIONS);
      expect((await third.list()).length).toBe(1);
      expect((await third.run(["join", second.uri])).code).toBe(0);
      const isKnown = async (): Promise<boolean> =>
        (await first.list()).some((row) => row.uri === third.uri && row.status === "active");
      await until(isKnown, 5_000, "the first node knows the third");
      expect((await third.run(["leave"])).code).toBe(0);
      expect(await third.exited).toBe(0);
    },
    SETUP_MS,
  );

  test(
    "stop ends the daemon with exit code 0, and its socket is gone",
    async () => {
      expect((await second.run(["stop"])).code).toBe(0);
      expect(await second.exited).toBe(0);
      expect((await second.run(["list"])).code).toBe(4);
    },
    SETUP_MS,
  );
});
