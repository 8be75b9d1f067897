/**
 * A node that is killed (SIGKILL) in every phase of its life, again and again, beside a real Kamailio and another node of ours. Goal:
 * it starts again at once, nothing that it left is in the way, and both see it again. The long form: DMQ_KILL_ROUNDS=100.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons } from "../helpers/daemon.ts";
import { describeInterop, type KamailioNode, type Lab, startLab } from "../helpers/kamailio.ts";
import { until } from "../helpers/wait.ts";

const ROUNDS = Number(process.env.DMQ_KILL_ROUNDS ?? 8);

const PORT = 5590;
const VICTIM = `sip:127.0.0.7:${PORT}`;
const WITNESS = `sip:127.0.0.8:${PORT}`;
const CHANNEL = "jobs";

/** From the start of the process to its first answer. A machine that tests share may take seconds for what takes 0.1 s. */
const START_MS = 5_000;

/**
 * A Kamailio takes a node that had said good-bye for active after that one has answered its next ping: 5 s, and some for a busy
 * machine.
 */
const SEEN_MS = 12_000;

const SETUP_MS = 40_000;
const ROUND_MS = 30_000;

/** Requests that are under way at a time while the victim is under load. */
const IN_FLIGHT = 16;

type Phase = "start" | "join" | "load" | "leave";
const PHASES: readonly Phase[] = ["start", "join", "load", "leave"];

interface Row {
  uri: string;
  status: string;
}

let daemons: Daemons;
let lab: Lab;
let kamailio: KamailioNode;
let witness: Daemon;
let socket: string;
let state: string;

async function ask<T>(at: string, method: string, params: object = {}): Promise<T> {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const response = await fetch("http://dmq/rpc", { method: "POST", body, unix: at, keepalive: false });
  const { result, error } = (await response.json()) as { result: T; error?: { message: string } };
  if (error !== undefined) throw new Error(`${method}: ${error.message}`);
  return result;
}

type Process = ReturnType<Daemons["start"]>;

function start(): Process {
  const peers = ["--notification-address", kamailio.uri, "--ping-interval", "5", "--request-timeout", "2s"];
  const own = ["--socket", socket, "--state-dir", state, "--channel", "lab", "--on", `${CHANNEL}=cat`];
  return daemons.start(["serve", "--server-address", VICTIM, ...peers, ...own]);
}

/** Until it answers at its control socket. */
async function up(victim: Process): Promise<void> {
  const answers = async (): Promise<boolean> => {
    if (victim.hasExited) throw new Error(`it ended with ${victim.child.exitCode}: ${victim.stderr}`);
    return (await ask<{ uri: string }>(socket, "dmq.status")).uri === VICTIM;
  };
  await until(answers, START_MS, "the node answers after its start");
}

function activeIn(rows: readonly Row[], ...uris: string[]): boolean {
  return uris.every((uri) => rows.some((row) => row.uri === uri && row.status === "active"));
}

/** Its list is of this life, so whoever is active there has answered it; the lists of the others may be older. */
async function seen(): Promise<void> {
  const all = async (): Promise<boolean> =>
    activeIn(await ask<Row[]>(socket, "dmq.list_nodes"), kamailio.uri, WITNESS) &&
    activeIn(await ask<Row[]>(witness.socket, "dmq.list_nodes"), VICTIM) &&
    (await kamailio.hasActive("127.0.0.7"));
  await until(all, SEEN_MS, "all three have each other as active");
  const sent = await ask<{ outcome: string }>(witness.socket, "dmq.send", {
    channel: CHANNEL,
    node: VICTIM,
    body: "x",
  });
  expect(sent.outcome).toBe("delivered");
  expect(await kamailio.send("lab", VICTIM, new TextEncoder().encode("x"))).toBe(200);
}

/** Messages to the node and from it, each awaited, until `over`. @returns how many came to an end */
async function load(over: () => boolean): Promise<number> {
  let ended = 0;
  const lane = async (at: string, method: string, params: object): Promise<void> => {
    while (!over()) {
      // What the node itself was asked breaks off when it dies; what the witness was asked always has an outcome.
      const outcome = await ask(at, method, params).catch((cause: unknown) => {
        if (at === witness.socket) throw cause;
      });
      if (outcome !== undefined) ended++;
    }
  };
  const message = { channel: CHANNEL, body: "x".repeat(500), timeout_ms: 1_000 };
  await Promise.all([
    ...Array.from({ length: IN_FLIGHT }, () => lane(witness.socket, "dmq.send", { ...message, node: VICTIM })),
    ...Array.from({ length: IN_FLIGHT }, () => lane(socket, "dmq.bcast", { ...message, channel: "lab" })),
  ]);
  return ended;
}

/** Brings the node into a phase, and kills it there, each round at another moment. */
async function kill(phase: Phase, round: number): Promise<void> {
  const moment = (round * 13) % 120;
  const victim = start();
  if (phase === "start") {
    await Bun.sleep(moment);
    await victim.end("SIGKILL");
    return;
  }
  await up(victim);
  if (phase === "join") {
    await Bun.sleep(moment % 20);
    await victim.end("SIGKILL");
    return;
  }
  await seen();
  if (phase === "load") {
    let dead = false;
    const loading = load(() => dead);
    await Bun.sleep(200 + moment);
    await victim.end("SIGKILL");
    dead = true;
    expect(await loading).toBeGreaterThan(0);
    return;
  }
  const leaving = ask(socket, "dmq.leave").catch(() => undefined);
  await Bun.sleep(moment % 30);
  await victim.end("SIGKILL");
  await leaving;
}

/** A start of a socket and of the snapshot, cut off in the middle, may leave its hidden file; nothing else. */
function leftovers(): string[] {
  const known = /^(v\.sock|w\.sock|state|\.[0-9a-z]{5})$/;
  return readdirSync(daemons.dir).filter((name) => !known.test(name));
}

describeInterop(`kill -9, ${ROUNDS} times`, () => {
  beforeAll(async () => {
    daemons = new Daemons();
    [socket, state] = [join(daemons.dir, "v.sock"), join(daemons.dir, "state")];
    lab = await startLab({ port: PORT, nodes: 1 });
    kamailio = lab.nodes[0] as KamailioNode;
    const options = ["--notification-address", kamailio.uri, "--ping-interval", "5", "--request-timeout", "2s"];
    witness = await daemons.serve("w", WITNESS, options);
  }, SETUP_MS);

  afterAll(async () => {
    await daemons.endAll();
    await lab?.down();
  }, SETUP_MS);

  const starts: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const phase = PHASES[round % PHASES.length] as Phase;
    test(
      `${round + 1}: killed in phase ${phase}, it starts again at once, and all see it`,
      async () => {
        await kill(phase, round);
        const at = performance.now();
        const victim = start();
        await up(victim);
        starts.push(performance.now() - at);
        await seen();
        expect(victim.stderr).not.toContain("is not used");
        expect(leftovers()).toEqual([]);
        // Killed as well, so that the next round begins with what this one left.
        await victim.end("SIGKILL");
      },
      ROUND_MS,
    );
  }

  test("what it left is small: one snapshot, and no log of a failure at the one that lives", () => {
    const snapshots = existsSync(state) ? readdirSync(state) : [];
    expect(snapshots.filter((name) => name.endsWith(".json"))).toHaveLength(1);
    expect(snapshots.length).toBeLessThanOrEqual(2);
    expect(JSON.parse(readFileSync(join(state, snapshots[0] as string), "utf8"))).toMatchObject({ format: 1 });
    const sorted = [...starts].sort((a, b) => a - b);
    console.log(
      `starts after kill -9: ${starts.length}, median ${sorted[sorted.length >> 1]?.toFixed(0)} ms, longest ${sorted.at(-1)?.toFixed(0)} ms`,
    );
    const hidden = readdirSync(daemons.dir).filter((name) => name.startsWith("."));
    console.log(`hidden files left behind: ${hidden.length}`);
  });
});
