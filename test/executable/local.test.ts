/**
 * Who else is on the machine: other users at the control socket, whoever looks at the list of processes, commands that a handler runs.
 * Goal: the socket is its owner's or its group's, a private key is nowhere but in its file, and a command gets what it is to get.
 */
import { afterAll, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Certificates, describeTls } from "../helpers/certificates.ts";
import { type Daemon, Daemons, EXECUTABLE } from "../helpers/daemon.ts";
import { describeWhere, missingPrograms, type Refused } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const SETUP_MS = 30_000;

/** Nobody's: no account of the machine has them. */
const [STRANGER, GROUP] = [47_110, 47_111];

const daemons = new Daemons();
const open = mkdtempSync(join(tmpdir(), "dl-"));
chmodSync(open, 0o711);
afterAll(async () => {
  await daemons.endAll();
  rmSync(open, { recursive: true, force: true });
}, SETUP_MS);

async function freeAddress(transport: "udp" | "tls" = "udp"): Promise<string> {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return `${transport === "tls" ? "sips" : "sip"}:127.0.0.1:${port}`;
}

function otherUsers(): string | Refused | undefined {
  const missing = missingPrograms("setpriv");
  if (missing !== undefined) return missing;
  return process.getuid?.() === 0 ? undefined : { refused: "becoming another user needs root" };
}

/** Runs a command as a user of no account, in these groups. */
function as(groups: readonly number[], ...command: string[]): { code: number; stdout: string; stderr: string } {
  const who = ["setpriv", "--reuid", String(STRANGER), "--regid", String(STRANGER)];
  const which = groups.length === 0 ? ["--clear-groups"] : ["--groups", groups.join(",")];
  const done = Bun.spawnSync([...who, ...which, "--", ...command], { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  return { code: done.exitCode, stdout: done.stdout.toString(), stderr: done.stderr.toString() };
}

describeWhere(otherUsers(), "other users of the machine", () => {
  test(
    "local: the control socket is closed to them, and open to a group that is named",
    async () => {
      const socket = join(open, "new", "g.sock");
      const uri = await freeAddress();
      // The executable may lie where only its owner looks.
      const program = join(open, "dmq");
      expect(Bun.spawnSync(["cp", EXECUTABLE, program]).success).toBe(true);
      const serve = async (...options: string[]): Promise<() => Promise<number>> => {
        const running = daemons.start([
          "serve",
          "--server-address",
          uri,
          "--socket",
          socket,
          "--no-snapshot",
          ...options,
        ]);
        await until(() => existsSync(socket), 10_000, `dmq serve: ${running.stderr}`);
        return () => running.end("SIGTERM");
      };
      const list = ["-s", socket, "list", "--json"];
      const end = await serve();
      expect(statSync(socket).mode & 0o777).toBe(0o600);
      chmodSync(join(open, "new"), 0o711);
      expect(as([GROUP], program, ...list)).toMatchObject({ code: 4, stdout: "" });
      expect(await end()).toBe(0);
      rmSync(join(open, "new"), { recursive: true });
      const endOther = await serve("--rpc-group", String(GROUP));
      expect(as([], program, ...list)).toMatchObject({ code: 4, stdout: "" });
      expect(as([GROUP], program, ...list)).toMatchObject({ code: 0, stderr: "" });
      expect(await endOther()).toBe(0);
    },
    SETUP_MS,
  );

  test("local: a group that the daemon's user is not in is refused at the start, and nothing is left", () => {
    const folder = mkdtempSync(join(open, "own-"));
    Bun.spawnSync(["chown", String(STRANGER), folder]);
    const program = join(open, "dmq");
    const socket = join(folder, "new", "x.sock");
    const args = ["serve", "--server-address", "sip:127.0.0.1:0", "--socket", socket, "--no-snapshot"];
    const done = as([], program, ...args, "--rpc-group", String(GROUP));
    expect(done.code).toBe(4);
    expect(done.stderr).toContain(`group ${GROUP} cannot have it, because this process is not in that group`);
    expect(existsSync(join(folder, "new"))).toBe(false);
  });
});

function pidOf(daemon: Daemon): Promise<number> {
  return daemon.status().then(({ pid }) => pid);
}

describeTls("a private key", () => {
  test(
    "local: it is in no list of processes, environment, log, status or configuration that is shown",
    async () => {
      const made = new Certificates();
      const { cert, key } = made.issue(made.authority("local"), "IP:127.0.0.1");
      const env = { DMQ_TLS_CERT: cert, DMQ_TLS_KEY: key };
      const uri = await freeAddress("tls");
      const shown = ["--on", "facts=env", "--log-level", "trace"];
      const node = await daemons.serve("tls", uri, shown, env);
      const sender = await daemons.serve("plain", await freeAddress(), ["--notification-address", uri], {
        DMQ_TLS_CA: made.path("local.pem"),
      });
      const active = async (): Promise<string | undefined> =>
        (await sender.list()).find(({ local, status }) => local === 0 && status === "active")?.uri;
      const known = await until(active, 10_000, "the two know each other");
      const told = await sender.run(["req", "facts", known]);
      expect(told.stdout).toContain("DMQ_CHANNEL=facts");
      await node.run(["reload"]);
      const pid = await pidOf(node);
      const places = [
        readFileSync(`/proc/${pid}/cmdline`, "utf8"),
        readFileSync(`/proc/${pid}/environ`, "utf8"),
        told.stdout,
        node.log,
        (await node.run(["logs"])).stdout,
        (await node.run(["status", "--json"])).stdout,
        (await node.run(["rpc", "dmq.status"])).stdout,
      ];
      const lines = readFileSync(key, "utf8")
        .split("\n")
        .filter((line) => line !== "" && !line.startsWith("-"));
      expect(lines.length).toBeGreaterThan(1);
      for (const place of places) for (const line of lines) expect(place).not.toContain(line);
      // The command of a handler does not even learn where the key lies.
      expect(told.stdout).not.toContain("DMQ_TLS");
      expect(told.stdout).not.toContain(key);
      made.remove();
    },
    SETUP_MS,
  );
});

let pairs = 0;

describeWhere(missingPrograms("prlimit", "setpriv", "sh", "sleep"), "limits in front of a command", () => {
  const limited = ["prlimit", "--as=200000000", "--nofile=16", "--cpu=1", "--fsize=1000", "--"];

  async function pair(...options: string[]): Promise<[Daemon, Daemon]> {
    const name = `n${++pairs}`;
    const node = await daemons.serve(name, await freeAddress(), options);
    const sender = await daemons.serve(`${name}s`, await freeAddress(), ["--notification-address", node.uri]);
    const isActive = async (): Promise<boolean> =>
      (await sender.list()).some((row) => row.uri === node.uri && row.status === "active");
    await until(isActive, 8_000, "the sender has the node");
    return [node, sender];
  }

  test(
    "limits: prlimit(1) in front of a handler's command bounds its memory, files and processor",
    async () => {
      const show = `${limited.join(" ")} sh -c 'ulimit -v; ulimit -n; ulimit -t'`;
      const spin = `${limited.join(" ")} sh -c 'while :; do :; done'`;
      const [node, sender] = await pair("--on", `show=${show}`, "--on", `spin=${spin}`, "--handler-timeout", "10s");
      const shown = await sender.run(["req", "show", "--all"]);
      expect(shown.stdout.match(/\d+/g)).toContain("16");
      expect(shown.stdout).toContain("195312");
      const spun = await sender.run(["send", "--json", "spin", node.uri]);
      expect(spun.stdout).toMatch(/Handler Died Of SIG(XCPU|KILL)/);
    },
    SETUP_MS,
  );

  test(
    "limits: setpriv(1) in front of a handler's command ends it with a daemon that is killed",
    async () => {
      const file = join(daemons.dir, "pid");
      const command = `setpriv --pdeathsig KILL -- sh -c 'echo $$ >${file}; exec sleep 60'`;
      const [node, sender] = await pair("--on", `jobs=${command}`, "--handler-timeout", "30s");
      const sending = sender.run(["send", "--timeout", "2s", "jobs", node.uri, "x"]);
      const pid = await until(() => existsSync(file) && Number(readFileSync(file, "utf8")), 8_000, "the command runs");
      await node.end("SIGKILL");
      await until(
        () => !existsSync(`/proc/${pid}`) || /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8")),
        5_000,
        "it is gone",
      );
      await sending;
    },
    SETUP_MS,
  );
});
