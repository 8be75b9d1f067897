/**
 * What the machine runs out of: file descriptors, room on the disk, its own time (SIGSTOP), the right time. Goal: the node does what
 * it still can, says so, takes no core for nothing, and is as before when it is over.
 */
import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { type Daemon, Daemons, dmq, EXECUTABLE, type ListRow } from "../helpers/daemon.ts";
import { diskProblem } from "../helpers/disk.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const SETUP_MS = 30_000;
const TEST_MS = 40_000;

const daemons = new Daemons();
const children: Bun.Subprocess[] = [];
afterAll(async () => {
  for (const child of children) child.kill("SIGKILL");
  await daemons.endAll();
}, SETUP_MS);

async function freePort(ip: string): Promise<number> {
  const socket = await Bun.udpSocket({ hostname: ip, port: 0 });
  const { port } = socket;
  socket.close();
  return port;
}

interface Started {
  socket: string;
  child: Bun.Subprocess;
}

/** `dmq serve` behind a command that ends with becoming it, for limits and places of its own. */
async function serve(name: string, prefix: readonly string[], ...args: string[]): Promise<Started> {
  const socket = join(daemons.dir, `${name}.sock`);
  const child = Bun.spawn([...prefix, EXECUTABLE, "serve", "--socket", socket, ...args], {
    stdio: ["ignore", "ignore", "ignore"],
    env: { PATH: process.env.PATH ?? "", HOME: daemons.dir },
  });
  children.push(child);
  await until(() => child.exitCode !== null || existsSync(socket), 10_000, `${name} is up`);
  expect(child.exitCode).toBeNull();
  return { socket, child };
}

async function end({ child }: Started): Promise<void> {
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
}

async function listed(socket: string): Promise<ListRow[]> {
  const { stdout } = await dmq(["list", "-s", socket, "--json"]);
  return JSON.parse(stdout) as ListRow[];
}

function isActive(rows: readonly ListRow[], uri: string): boolean {
  return rows.some((row) => row.uri === uri && row.status === "active");
}

/** User and system time of a process, in milliseconds (proc(5): 14th and 15th field, 10 ms each). */
function processorMs(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

describeWhere(missingPrograms("sh", "cat"), "file descriptors", () => {
  test(
    "exhausted: with 32 descriptors and 60 connections the node serves datagrams, commands and its socket, and does not spin",
    async () => {
      const port = await freePort("127.0.0.1");
      const uri = `sip:127.0.0.1:${port}`;
      const quiet = ["--no-snapshot", "--ping-interval", "3600", "--on", "jobs=cat"];
      const node = await serve("fd", ["sh", "-c", 'ulimit -n 32; exec "$@"', "sh"], "--server-address", uri, ...quiet);
      const peer = await daemons.serve("fdp", `sip:127.0.0.2:${port}`, ["--notification-address", uri]);
      await until(async () => isActive(await peer.list(), uri), 8_000, "the peer has the node");
      const open: Socket[] = [];
      let closed = 0;
      for (let i = 0; i < 60; i++) {
        const socket = connect(port, "127.0.0.1");
        socket.on("error", () => undefined);
        socket.on("close", () => closed++);
        open.push(socket);
      }
      await until(() => closed >= 40, 5_000, "what is too many is closed");
      const [before, at] = [processorMs(node.child.pid), performance.now()];
      for (let i = 0; i < 5; i++) {
        const row = await peer.send("jobs", uri, new TextEncoder().encode("x"));
        expect([row.outcome, row.code]).toEqual(["delivered", 200]);
        expect(isActive(await listed(node.socket), peer.uri)).toBe(true);
      }
      await Bun.sleep(1_000);
      // Without the bound it is nearly all of the time.
      expect((processorMs(node.child.pid) - before) / (performance.now() - at)).toBeLessThan(0.6);
      for (const socket of open) socket.destroy();
      await end(node);
    },
    TEST_MS,
  );
});

/** A file system of 64 KiB, in a mount namespace of its own. */
function smallDisk(folder: string): string {
  mkdirSync(folder);
  const log = join(folder, "log");
  return `mount --make-rprivate / && mount -t tmpfs -o size=64k none ${folder} && exec "$@" 2>>${log}`;
}

describeWhere(diskProblem(), "the disk", () => {
  test(
    "exhausted: with a full disk the node works, keeps its old snapshot, and goes on with log and snapshot when there is room",
    async () => {
      const port = await freePort("127.0.0.1");
      const [uri, first, second] = [1, 2, 3].map((i) => `sip:127.0.0.${i}:${port}`) as [string, string, string];
      const folder = join(daemons.dir, "disk");
      const prefix = ["unshare", "-m", "sh", "-c", smallDisk(folder), "sh"];
      const options = ["--notification-address", first, "--state-dir", join(folder, "state"), "--ping-interval", "1s"];
      const other = await daemons.serve("df1", first);
      const node = await serve("df", prefix, "--server-address", uri, ...options);
      const inside = (command: string): string =>
        Bun.spawnSync(["nsenter", "-t", String(node.child.pid), "-m", "sh", "-c", command]).stdout.toString();
      const snapshot = (): string => inside(`cat ${folder}/state/*.json`);
      const logSize = (): number => Number(inside(`wc -c <${folder}/log`));
      await until(() => snapshot().includes(first), 8_000, "the first snapshot");
      const old = snapshot();
      inside(`dd if=/dev/zero of=${folder}/fill bs=1k count=200`);
      const third: Daemon = await daemons.serve("df2", second, ["--notification-address", uri]);
      await until(async () => isActive(await listed(node.socket), second), 8_000, "it meets another one meanwhile");
      // Each one that is added and does not answer is two lines of log: more than the page that the log has left.
      for (let i = 0; i < 50; i++) await dmq(["add", "-s", node.socket, `sip:127.0.0.9:${1_000 + i}`]);
      expect((await third.send("nothing", uri, new Uint8Array(1))).code).toBe(404);
      expect(snapshot()).toBe(old);
      const full = logSize();
      inside(`rm ${folder}/fill`);
      await third.end("SIGINT");
      await daemons.serve("df2", second, ["--notification-address", uri]);
      await until(() => snapshot().includes(second), 10_000, "the snapshot has both");
      await until(() => logSize() > full, 5_000, "the log goes on");
      expect(inside(`ls ${folder}/state`).trim().split("\n")).toHaveLength(1);
      await end(node);
      expect(await other.end("SIGTERM")).toBe(0);
    },
    TEST_MS,
  );
});

describeWhere(missingPrograms("sh"), "time", () => {
  test(
    "exhausted: a node that was stopped (SIGSTOP) beyond a ping is given up by its peer, and both have each other again after SIGCONT",
    async () => {
      const port = await freePort("127.0.0.1");
      const options = ["--ping-interval", "1s", "--request-timeout", "1s", "--channel", "lab"];
      const seed = await daemons.serve("st1", `sip:127.0.0.1:${port}`, options);
      const known = [...options, "--notification-address", seed.uri];
      const node = await daemons.serve("st2", `sip:127.0.0.2:${port}`, known);
      const both = async (): Promise<boolean> =>
        isActive(await seed.list(), node.uri) && isActive(await node.list(), seed.uri);
      await until(both, 8_000, "the two know each other");
      const { pid } = await node.status();
      process.kill(pid, "SIGSTOP");
      try {
        await until(async () => !isActive(await seed.list(), node.uri), 10_000, "it is given up");
      } finally {
        process.kill(pid, "SIGCONT");
      }
      await until(both, 10_000, "the two know each other again");
      expect((await seed.send("lab", node.uri, new Uint8Array(1))).outcome).toBe("delivered");
      expect((await node.send("lab", seed.uri, new Uint8Array(1))).outcome).toBe("delivered");
    },
    TEST_MS,
  );

  test(
    "exhausted: a wall clock that jumps a year back and forth under a running node changes nothing but what it prints",
    async () => {
      // The clock of the machine is not the test's to set, so the node's own one is turned: Date is all that it has of it.
      const script = `
        import { createNode } from ${JSON.stringify(join(import.meta.dir, "..", "..", "src", "index.ts"))};
        const year = 365 * 86_400_000;
        const [at, real] = [Date.now(), Date.now];
        let turns = 0;
        Date.now = () => at + (++turns % 2 === 0 ? year : -year);
        const common = { pingIntervalMs: 1_000, requestTimeoutMs: 1_000 };
        const a = await createNode({ ...common, serverAddress: "sip:127.0.0.1:0" });
        const b = await createNode({ ...common, serverAddress: "sip:127.0.0.2:0", notificationAddresses: [a.uri()] });
        a.channel("lab", () => undefined);
        let lost = 0;
        for (const node of [a, b]) for (const type of ["peer-down", "peer-disabled", "peer-removed"]) node.on(type, () => lost++);
        while (!b.nodes().some(({ status }) => status === "active")) await Bun.sleep(20);
        const pings = a.counters().notificationsReceived;
        const outcomes = [];
        for (let i = 0; i < 35; i++) {
          outcomes.push((await b.send("lab", a.uri(), "x")).outcome.type);
          await Bun.sleep(100);
        }
        const pinged = a.counters().notificationsReceived - pings;
        console.log(JSON.stringify({ lost, pinged, delivered: outcomes.filter((type) => type === "delivered").length }));
        process.exit(0);`;
      const file = join(daemons.dir, "clock.ts");
      writeFileSync(file, script);
      const child = Bun.spawn([process.execPath, file], { stdout: "pipe", stderr: "pipe", timeout: TEST_MS });
      const [stdout, stderr] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      expect(stderr).toBe("");
      const { lost, pinged, delivered } = JSON.parse(stdout) as Record<string, number>;
      expect([lost, delivered]).toEqual([0, 35]);
      // 3.5 s with a ping a second.
      expect(pinged).toBeGreaterThanOrEqual(2);
      expect(pinged).toBeLessThanOrEqual(8);
    },
    TEST_MS,
  );
});
