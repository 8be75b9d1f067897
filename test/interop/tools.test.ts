/**
 * Kamailio's own tools, as Debian ships them, against a node of ours and against a Kamailio on the same bus: the same
 * commands, the outputs compared field by field. What a Kamailio 5.6.3 does not have yet (`fail_count`, `dmq.add`,
 * `dmq.change_status`) is compared with what a newer one printed, or with its texts.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, lstatSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, dmq } from "../helpers/daemon.ts";
import { describeInterop, expectHealthy, type KamailioNode, type Lab, startLab } from "../helpers/kamailio.ts";
import { finished } from "../helpers/process.ts";
import { until } from "../helpers/wait.ts";

const CAPTURES = join(import.meta.dir, "../fixtures/captures/rpc");
const URI = "sip:127.0.0.27:5960";
const SETUP_MS = 40_000;
const TEST_MS = 30_000;
const TOOL_MS = 10_000;

/** What both tools need: where the socket and the FIFO are. */
interface Place {
  ctl: string;
  fifo: string;
}

interface Printed {
  out: string;
  code: number;
}

async function run(command: string[], env: Record<string, string> = {}, stdin?: string): Promise<Printed> {
  const child = Bun.spawn(command, {
    stdin: stdin === undefined ? "ignore" : Buffer.from(stdin),
    stdout: "pipe",
    stderr: "pipe",
    env: { PATH: process.env.PATH ?? "", HOME: "/nonexistent", TZ: process.env.TZ ?? "UTC", ...env },
    timeout: TOOL_MS,
    killSignal: "SIGKILL",
  });
  const { stdout, stderr, code } = await finished(child);
  return { out: stdout + stderr, code };
}

function kamcmd(place: Place, ...args: string[]): Promise<Printed> {
  return run(["kamcmd", "-s", `unixs:${place.ctl}`, ...args]);
}

/** The process id of kamctl is in its id, and differs from run to run. */
async function kamctl(place: Place, ...args: string[]): Promise<Printed> {
  const { out, code } = await run(["kamctl", "rpc", ...args], { RPCFIFOPATH: place.fifo });
  return { out: out.replace(/"id": \d+/, '"id": N'), code };
}

/** The structs that kamcmd prints: names and values in their order. */
function structs(out: string): [string, string][][] {
  const blocks = out.match(/^\{\n(?:\t[^\n]*\n)*\}\n/gm) ?? [];
  // Nothing but structs: what does not match is not dropped unseen.
  expect(blocks.join("")).toBe(out);
  return blocks.map((block) =>
    [...block.matchAll(/^\t(\w+): (.*)$/gm)].map((line): [string, string] => [line[1] as string, line[2] as string]),
  );
}

type Row = Record<string, unknown>;

function resultOf(printed: Printed): unknown {
  return (JSON.parse(printed.out.replace('"id": N', '"id": 0')) as { result: unknown }).result;
}

function byPlace(rows: Row[]): Map<string, Row> {
  return new Map(rows.map((row) => [`${row.host}:${row.port}`, row]));
}

function hostPort(uri: string): string {
  return uri.replace(/^sip:/, "");
}

/** Compares two lists of the same bus: same nodes, same fields in the same order, same values where both look from outside. */
function expectSameList(ours: Row[], theirs: Row[], here: string, there: string): void {
  const [mine, others] = [byPlace(ours), byPlace(theirs)];
  expect([...mine.keys()].sort()).toEqual([...others.keys()].sort());
  for (const [place, { fail_count, ...row }] of mine) {
    const other = others.get(place) as Row;
    expect(Object.keys(row)).toEqual(Object.keys(other));
    // Each of the two is local to itself only.
    const { local, ...rest } = row;
    const { local: otherLocal, ...otherRest } = other;
    expect([place, rest]).toEqual([place, otherRest]);
    expect([place, Number(local), Number(otherLocal)]).toEqual([
      place,
      Number(place === here),
      Number(place === there),
    ]);
    expect(Number(fail_count)).toBe(0);
  }
}

/** What is the same text on both sides, whoever answers. */
const SAME: [tool: "kamcmd" | "kamctl", ...args: string[]][] = [
  ["kamcmd", "nosuch.method"],
  ["kamcmd", "dmq.remove"],
  ["kamcmd", "dmq.remove", "nonsense"],
  ["kamcmd", "dmq.remove", "5"],
  ["kamcmd", "dmq.remove", "s:"],
  ["kamcmd", "dmq.remove", "sip:127.0.0.99:5060"],
  ["kamcmd", "dmq.remove", "sip:127.0.0.99:5060;transport=tcp;status=active"],
  ["kamcmd", "dmq.remove", "sip:127.0.0.99:5060", "surplus"],
  ["kamcmd", "system.methodHelp"],
  ["kamcmd", "system.methodHelp", "nosuch.method"],
  ["kamctl", "nosuch.method"],
  ["kamctl", "dmq.remove"],
  ["kamctl", "dmq.remove", "nonsense"],
  ["kamctl", "dmq.remove", "5"],
  ["kamctl", "dmq.remove", "sip:127.0.0.99:5060"],
  ["kamctl", "dmq.remove", "sip:127.0.0.99:5060", "surplus"],
];

describeInterop("Kamailio's tools", () => {
  let lab: Lab;
  let daemons: Daemons;
  let daemon: Daemon;
  let first: KamailioNode;
  let second: KamailioNode;
  let ours: Place;

  function serveOptions(): string[] {
    return [
      ...["--ctl", ours.ctl, "--rpc-fifo", ours.fifo],
      "--notification-address",
      first.uri,
      "--ping-interval",
      "5",
    ];
  }

  async function expectMesh(): Promise<void> {
    for (const place of [ours, first]) {
      const isFull = async (): Promise<boolean> =>
        ((await kamcmd(place, "dmq.list_nodes")).out.match(/status: active/g) ?? []).length === 3;
      await until(isFull, 15_000, `three active nodes at ${place.ctl}`);
    }
  }

  beforeAll(async () => {
    daemons = new Daemons();
    ours = { ctl: join(daemons.dir, "ctl"), fifo: join(daemons.dir, "fifo") };
    lab = await startLab({ port: 5970 });
    [first, second] = lab.nodes as [KamailioNode, KamailioNode];
    daemon = await daemons.serve("n", URI, serveOptions());
    await expectMesh();
  }, SETUP_MS);

  afterAll(async () => {
    await daemons.endAll();
    await lab?.down();
  }, SETUP_MS);

  test("kamcmd dmq.list_nodes prints the same fields and values", async () => {
    const [mine, theirs] = await Promise.all([kamcmd(ours, "dmq.list_nodes"), kamcmd(first, "dmq.list_nodes")]);
    const rows = [mine, theirs].map(({ out }) => structs(out).map((fields): Row => Object.fromEntries(fields)));
    expectSameList(rows[0] as Row[], rows[1] as Row[], hostPort(URI), hostPort(first.uri));
    expect([mine.code, rows[0]?.at(-1)?.local]).toEqual([0, "1"]);
    const newer = /\$.*\n([\s\S]*)\(exit/.exec(
      readFileSync(join(CAPTURES, "kamcmd-list-nodes-newer.txt"), "utf8"),
    )?.[1];
    const names = structs(newer as string)[0]?.map(([name]) => name);
    expect(structs(mine.out).map((fields) => fields.map(([name]) => name))).toEqual([
      names,
      names,
      names,
    ] as string[][]);
  });

  test("kamctl rpc dmq.list_nodes prints the same fields and values", async () => {
    const [mine, theirs] = await Promise.all([kamctl(ours, "dmq.list_nodes"), kamctl(first, "dmq.list_nodes")]);
    expectSameList(resultOf(mine) as Row[], resultOf(theirs) as Row[], hostPort(URI), hostPort(first.uri));
    // The lines are the same, too, but for their order, what only a newer one has, and two that 5.6 writes in one.
    const lines = ({ out }: Printed): string[] =>
      out
        .replaceAll("}, {", "},\n    {")
        .split("\n")
        .filter((line) => !line.includes('"fail_count"'))
        .map((line) => line.replace(/,$/, ""))
        .sort();
    expect(lines(mine)).toEqual(lines(theirs));
  });

  test.each(SAME)("%s %s %s %s prints the same", async (tool, ...args) => {
    const call = tool === "kamcmd" ? kamcmd : kamctl;
    const [mine, theirs] = [await call(ours, ...args), await call(first, ...args)];
    expect(mine).toEqual(theirs);
    expect(mine.out.length).toBeGreaterThan(0);
  });

  test("core.version is one line with name and version", async () => {
    const [mine, theirs] = [await kamcmd(ours, "core.version"), await kamcmd(first, "core.version")];
    expect(mine.out).toMatch(/^dmq \d+\.\d+\.\d+\S*\n$/);
    expect(theirs.out).toMatch(/^kamailio \d+\.\d+\.\d+.*\n$/);
    const both = await Promise.all([kamctl(ours, "core.version"), kamctl(first, "core.version")]);
    const shape = (printed: Printed): string => printed.out.replace(/"result": ".*"/, '"result": TEXT');
    expect(shape(both[0])).toBe(shape(both[1]));
    expect(resultOf(both[0])).toBe(mine.out.trim());
  });

  test("core.uptime has the same fields, and times of the same form", async () => {
    const shape = (text: string): string =>
      text
        .replace(/[A-Z][a-z]{2} [A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d \d{4}/g, "TIME")
        .replace(/(uptime"?: )\d+/g, "$1N");
    const [mine, theirs] = [await kamcmd(ours, "core.uptime"), await kamcmd(first, "core.uptime")];
    expect(shape(mine.out)).toBe("{\n\tnow: TIME\n\tup_since: TIME\n\tuptime: N\n}\n");
    expect(shape(theirs.out)).toBe(shape(mine.out));
    const [now, upSince, uptime] = (structs(mine.out)[0] ?? []).map(([, value]) => value);
    expect(Date.parse(now as string) - Date.parse(upSince as string)).toBe(Number(uptime) * 1_000);
    // Kamailio reads the same clock in the same time zone.
    const other = Date.parse(structs(theirs.out)[0]?.[0]?.[1] as string);
    expect(Math.abs(Date.parse(now as string) - other)).toBeLessThanOrEqual(5_000);
    const both = await Promise.all([kamctl(ours, "core.uptime"), kamctl(first, "core.uptime")]);
    expect(shape(both[0].out)).toBe(shape(both[1].out));
  });

  test("system.listMethods prints a name a line, Kamailio's among them", async () => {
    const [mine, theirs] = [await kamcmd(ours, "system.listMethods"), await kamcmd(first, "system.listMethods")];
    const names = mine.out.trimEnd().split("\n");
    expect(names.filter((name) => !/^[a-z]+\.\w+$/.test(name))).toEqual([]);
    const same = [
      "core.uptime",
      "core.version",
      "dmq.list_nodes",
      "dmq.remove",
      "system.listMethods",
      "system.methodHelp",
    ];
    for (const name of same) {
      expect(names).toContain(name);
      expect(theirs.out.split("\n")).toContain(name);
    }
    for (const name of ["dmq.add", "dmq.change_status", "dmq.send", "dmq.bcast", "dmq.status"])
      expect(names).toContain(name);
    expect(resultOf(await kamctl(ours, "system.listMethods"))).toEqual(names);
    for (const name of names) expect((await kamcmd(ours, "system.methodHelp", name)).out).toMatch(/^[A-Z].*\.\n$/);
  });

  test("kamcmd's prompt works", async () => {
    const input = "ver\nhelp nosuch.method\nnosuch.method\ndmq.remove nonsense\nquit\n";
    const [mine, theirs] = await Promise.all(
      [ours, first].map(({ ctl }) => run(["kamcmd", "-s", `unixs:${ctl}`], {}, input)),
    );
    const shape = (printed: Printed | undefined): string =>
      (printed?.out ?? "").replace(/^(dmq|kamailio) .*$/m, "VERSION");
    expect(shape(mine)).toContain("VERSION");
    expect(shape(mine)).toContain("error: 500 - command nosuch.method not found");
    expect(shape(mine)).toBe(shape(theirs));
  });

  test("dmq.add and dmq.change_status answer in a newer Kamailio's words", async () => {
    const uri = "sip:127.0.0.98:5060";
    const dialogue: [args: string[], out: string][] = [
      [["dmq.add", uri], "Ok. DMQ node added.\n"],
      [["dmq.add", uri], "error: 500 - Node is already added\n"],
      [["dmq.add", "nonsense"], "error: 500 - Failure\n"],
      [["dmq.add"], "error: 500 - Invalid Parameters\n"],
      [["dmq.change_status", uri, "disabled"], "Ok. DMQ node status changed.\n"],
      [["dmq.change_status", uri, "disabled"], "Ok. DMQ node status is already disabled.\n"],
      [["dmq.change_status", uri, "up"], "error: 500 - Invalid Status - use: active, not_active, disabled\n"],
      [["dmq.change_status", uri], "error: 500 - Invalid Parameters\n"],
      [["dmq.change_status", "sip:127.0.0.97:5060", "active"], "error: 500 - Node Not Found\n"],
      [["dmq.change_status", URI, "disabled"], "error: 500 - Node is local\n"],
      [["dmq.remove", uri], "Ok. DMQ node removed.\n"],
    ];
    for (const [args, out] of dialogue) expect([args, (await kamcmd(ours, ...args)).out]).toEqual([args, out]);
    expect((await kamcmd(ours, "dmq.list_nodes")).out).not.toContain("127.0.0.98");
  });

  test("methods that Kamailio has not work through its tools, too", async () => {
    const sent = structs((await kamcmd(ours, "dmq.send", "lab", second.uri, "by kamcmd")).out)[0] as [string, string][];
    expect(new Map(sent).get("outcome")).toBe("delivered");
    expect(second.hasReceived("lab", Buffer.from("by kamcmd"))).toBe(true);
    const rows = resultOf(await kamctl(ours, "dmq.bcast", "lab", "s:12345")) as Row[];
    expect(rows.map(({ outcome, code }) => [outcome, code])).toEqual([
      ["delivered", 200],
      ["delivered", 200],
    ]);
    for (const node of lab.nodes) expect(node.hasReceived("lab", Buffer.from("12345"))).toBe(true);
    const status = (await kamcmd(ours, "dmq.status")).out;
    expect(status).toContain(`\turi: ${URI}\n`);
    expect(status).toMatch(/\n\tlisteners: \{\n(?:\t\t\w+:127\.0\.0\.27:5960\n)+\t\}\n/);
  });

  test("a node that kamcmd and kamctl remove is gone, and comes back with the next ping, on both sides", async () => {
    const removals: [Place, string, string][] = [
      [ours, "kamcmd", second.uri],
      [first, "kamcmd", URI],
      [ours, "kamctl", second.uri],
    ];
    for (const [place, tool, uri] of removals) {
      const printed = tool === "kamcmd" ? (await kamcmd(place, "dmq.remove", uri)).out : undefined;
      if (printed !== undefined) expect(printed).toBe("Ok. DMQ node removed.\n");
      else expect(resultOf(await kamctl(place, "dmq.remove", uri))).toBe("Ok. DMQ node removed.");
      await expectMesh();
    }
  }, 60_000);

  test("twenty tools at a time are all answered", async () => {
    const lists = Array.from({ length: 10 }, () => [
      kamcmd(ours, "dmq.list_nodes"),
      kamctl(ours, "dmq.list_nodes"),
    ]).flat();
    for (const printed of await Promise.all(lists)) expect(printed.out.match(/\bport"?: /g)?.length).toBe(3);
  });

  test("garbage on both leaves the node as it was", async () => {
    const noise = crypto.getRandomValues(new Uint8Array(20_000));
    const flood = 'exec 3<>"$0"; cat >&3';
    expect(await Bun.spawn(["sh", "-c", flood, ours.fifo], { stdin: noise }).exited).toBe(0);
    const socket = await Bun.connect({ unix: ours.ctl, socket: { data: () => undefined, error: () => undefined } });
    socket.write(noise);
    socket.end();
    writeFileSync(ours.fifo, "\n");
    expect((await kamctl(ours, "core.version")).out).toContain("dmq ");
    expect((await kamcmd(ours, "core.version")).out).toStartWith("dmq ");
  });

  test(
    "a second daemon leaves both files alone and ends with 4; a file of another kind, too",
    async () => {
      const other = [
        "serve",
        "--no-snapshot",
        "--server-address",
        "sip:127.0.0.28:5960",
        "--socket",
        join(daemons.dir, "o"),
      ];
      const plain = join(daemons.dir, "plain");
      writeFileSync(plain, "mine");
      const wrong: [option: string, path: string, text: RegExp][] = [
        ["--ctl", ours.ctl, /another daemon answers/],
        ["--rpc-fifo", ours.fifo, /another daemon answers/],
        ["--ctl", plain, /exists and is not a socket/],
        ["--rpc-fifo", plain, /exists and is not a FIFO/],
      ];
      for (const [option, path, text] of wrong) {
        const { code, stderr } = await dmq([...other, option, path], { timeoutMs: TOOL_MS });
        expect([option, path, code]).toEqual([option, path, 4]);
        expect(stderr).toMatch(text);
      }
      expect(readFileSync(plain, "utf8")).toBe("mine");
      expect(existsSync(join(daemons.dir, "o"))).toBe(false);
      expect((await kamcmd(ours, "core.version")).out).toStartWith("dmq ");
    },
    TEST_MS,
  );

  test(
    "a daemon takes over what one that was killed has left, and dmq.stop by kamcmd ends it and removes both",
    async () => {
      await daemon.end("SIGKILL");
      expect([lstatSync(ours.ctl).isSocket(), lstatSync(ours.fifo).isFIFO()]).toEqual([true, true]);
      daemon = await daemons.serve("n", URI, serveOptions());
      expect((await kamctl(ours, "core.version")).out).toContain("dmq ");
      expect((await kamcmd(ours, "dmq.stop")).out).toBe("Ok. DMQ node stopped.\n");
      expect(await daemon.exited).toBe(0);
      expect([existsSync(ours.ctl), existsSync(ours.fifo)]).toEqual([false, false]);
    },
    TEST_MS,
  );

  test("both Kamailio are healthy in the end", () => expectHealthy(lab.nodes), TEST_MS);
});
