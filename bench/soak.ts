/**
 * A node at work for a long time: `npm run soak -- --minutes 10`. It is loaded with half of what it managed in a first short phase
 * (an inline handler), and beside that everything it can do is done to it: a handler that is a command, a listener at the control
 * socket, broadcasts, a peer that dies and comes back, a real Kamailio where there is one.
 *
 * Wanted: resident memory at the end within a tenth of what it was after a fifth of the time, an outcome for each message, and an event
 * loop that stays awake. What is lost between generator and node is told; wrong counts end it with exit code 1.
 */
import { readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { createNode, type OutcomeReport, type RunningNode } from "../src/index.ts";
import { executable, server, workDirectory } from "./lib/compile.ts";
import { kamailioProblem, startKamailio } from "./lib/kamailio.ts";
import { faultOf, type LoadResult, load } from "./lib/load.ts";
import { pinned } from "./lib/machine.ts";
import { type Address, freeAddress } from "./lib/ports.ts";
import { Program, residentOf } from "./lib/process.ts";
import { plain, type Report, runBench } from "./lib/report.ts";

const USAGE = "npm run soak -- [--minutes N] [--json]";

/** How long the maximum is measured, after as long again that only warms up. */
const MEASURE_SECONDS = 6;

/** Share of the maximum that the node is loaded with. */
const SHARE = 0.5;

/** Messages a second beside the load. */
const RATES = { commands: 5, listened: 100, broadcasts: 20 };

/** What the flapping peer does in turn: up for so long, then this signal, then gone for so long. */
const FLAPS = { upMs: 7_000, downMs: 3_000, signals: ["SIGKILL", "SIGTERM", "SIGINT"] } as const;

/** The two windows that are compared, as shares of the whole time: about minute two of ten, and the end. */
const EARLY = [0.19, 0.23] as const;
const LATE = [0.96, 1] as const;

const SAMPLE_MS = 1_000;

/** Longer than any request of ours may take. */
const LAST_OUTCOMES_MS = 10_000;

const CHANNELS = { inline: "bench", command: "command", listened: "listened", broadcast: "news" };

interface Delay {
  count: number;
  p50: number;
  p99: number;
  p999: number;
  max: number;
}

interface Stats {
  handled: number;
  /** Requests of its own without an outcome. */
  open: number;
  active: number;
  peers: number;
  counters: Record<string, number>;
}

/** Messages of one kind, and what became of them. */
class Tally {
  readonly name: string;
  readonly outcomes = new Map<string, number>();
  sent = 0;
  private readonly under = new Set<Promise<void>>();

  constructor(name: string) {
    this.name = name;
  }

  /** Counts what a call comes to: a word for each message. */
  follow(messages: number | undefined, call: Promise<readonly string[]>): void {
    this.sent += messages ?? 0;
    const followed = call
      .catch((cause: unknown) => [`failed: ${String(cause)}`])
      .then((words) => {
        if (messages === undefined) this.sent += words.length;
        for (const word of words) this.outcomes.set(word, (this.outcomes.get(word) ?? 0) + 1);
      })
      .finally(() => this.under.delete(followed));
    this.under.add(followed);
  }

  /** Waits for what is under way. */
  async settled(): Promise<void> {
    await Promise.race([Promise.all(this.under), Bun.sleep(LAST_OUTCOMES_MS)]);
  }

  get ended(): number {
    return [...this.outcomes.values()].reduce((sum, one) => sum + one, 0);
  }

  of(word: string): number {
    return this.outcomes.get(word) ?? 0;
  }

  text(): string {
    const words = [...this.outcomes].map(([word, count]) => `${word} ${count}`);
    return `${this.name}: ${this.sent} sent, ${words.join(", ")}`;
  }
}

function wordOf({ outcome }: OutcomeReport): string {
  return outcome.type === "rejected" ? `rejected ${outcome.code}` : outcome.type;
}

/** Calls `action` so many times a second until it is stopped. */
function every(perSecond: number, action: () => void): () => void {
  const timer = setInterval(action, 1_000 / perSecond);
  return () => clearInterval(timer);
}

/** The node that is soaked. */
class Soaked {
  readonly program: Program;
  readonly address: Address;
  readonly socket: string;

  private constructor(program: Program, address: Address, socket: string) {
    this.program = program;
    this.address = address;
    this.socket = socket;
  }

  static async start(seed: Address | undefined): Promise<Soaked> {
    const address = await freeAddress("127.0.0.1");
    const socket = join(workDirectory(), "soak.sock");
    const words = [
      ...["--server-address", `sip:${address.text}`, "--socket", socket, "--no-snapshot", "1"],
      ...["--ping-interval", "5", "--request-timeout", "3s", "--channel", CHANNELS.listened],
      ...["--on", `${CHANNELS.command}=wc -c`, "--on", "peer-up=true", "--on", "peer-down=true"],
      ...(seed === undefined ? [] : ["--notification-address", `sip:${seed.text}`]),
    ];
    const program = new Program("the node", [server("soak"), ...words], "server");
    const first = await program.line();
    if (first !== "ready") throw new Error(`the node says ${JSON.stringify(first)} instead of ready`);
    return new Soaked(program, address, socket);
  }

  get uri(): string {
    return `sip:${this.address.text}`;
  }

  stats(): Promise<Stats> {
    return this.program.ask<Stats>("stats");
  }

  delay(): Promise<Delay> {
    return this.program.ask<Delay>("delay");
  }

  residentMiB(): number {
    return residentOf(this.program.pid) / 1_024;
  }

  /** `dmq.bcast` at its control socket. */
  async broadcast(): Promise<string[]> {
    const params = { channel: CHANNELS.broadcast, body: "x".repeat(200) };
    const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "dmq.bcast", params });
    const response = await fetch("http://dmq/rpc", { method: "POST", body, unix: this.socket });
    const { result } = (await response.json()) as { result: { outcome: string; code: number }[] };
    return result.map(({ outcome, code }) => (outcome === "rejected" ? `rejected ${code}` : outcome));
  }
}

/** `dmq listen`, whose lines are counted. */
class Listening {
  heard = 0;
  private readonly child: Bun.Subprocess<"ignore", "pipe", "inherit">;

  constructor(socket: string) {
    this.child = Bun.spawn(pinned("other", [executable(), "listen", "-s", socket, "--json", CHANNELS.listened]), {
      stdio: ["ignore", "pipe", "inherit"],
    });
    process.on("exit", () => this.child.kill("SIGKILL"));
    this.count();
  }

  private async count(): Promise<void> {
    for await (const chunk of this.child.stdout) for (const octet of chunk) if (octet === 0x0a) this.heard++;
  }

  async end(): Promise<void> {
    this.child.kill("SIGINT");
    await this.child.exited;
  }
}

/** A node of the executable that comes and goes until it is told to end. */
class Flapping {
  turns = 0;
  private ends = false;
  private readonly over: Promise<void>;

  constructor(soaked: Soaked, address: Address) {
    this.over = this.flap(soaked, address);
  }

  async end(): Promise<void> {
    this.ends = true;
    await this.over;
  }

  private async flap(soaked: Soaked, address: Address): Promise<void> {
    const socket = join(workDirectory(), "flap.sock");
    const words = ["--server-address", `sip:${address.text}`, "--notification-address", soaked.uri, "--socket", socket];
    const state = [
      "--state-dir",
      join(workDirectory(), "flap"),
      "--channel",
      CHANNELS.broadcast,
      "--log-level",
      "error",
    ];
    for (; !this.ends; this.turns++) {
      const command = pinned("other", [executable(), "serve", ...words, ...state]);
      const child = Bun.spawn(command, { stdio: ["ignore", "ignore", "inherit"] });
      await Promise.race([Bun.sleep(FLAPS.upMs), child.exited]);
      if (child.exitCode !== null) throw new Error(`the flapping peer ended with ${child.exitCode}`);
      child.kill(FLAPS.signals[this.turns % FLAPS.signals.length] as NodeJS.Signals);
      await child.exited;
      if (!this.ends) await Bun.sleep(FLAPS.downMs);
    }
  }
}

/** Of all processes of this network namespace: RcvbufErrors of /proc/net/snmp. */
function droppedDatagrams(): number {
  const [names = [], values = []] = readFileSync("/proc/net/snmp", "utf8")
    .split("\n")
    .filter((line) => line.startsWith("Udp:"))
    .map((line) => line.split(" "));
  return Number(values[names.indexOf("RcvbufErrors")] ?? 0);
}

interface Sample {
  /** Share of the whole time. */
  at: number;
  mib: number;
}

function medianMiB(samples: readonly Sample[], [from, to]: readonly [number, number]): number {
  const sorted = samples
    .filter(({ at }) => at >= from && at <= to)
    .map(({ mib }) => mib)
    .sort((a, b) => a - b);
  return sorted[sorted.length >> 1] as number;
}

/** Half of it is the load; with everything else going on, as it will. */
async function maximumOf(soaked: Soaked): Promise<number> {
  await load({ to: soaked.address, seconds: MEASURE_SECONDS });
  return (await load({ to: soaked.address, seconds: MEASURE_SECONDS })).rate;
}

interface Watched {
  samples: Sample[];
  delays: Delay[];
}

/** Looks at the node once a second, and tells each minute how it is. */
async function watch(soaked: Soaked, seconds: number, report: Report): Promise<Watched> {
  const watched: Watched = { samples: [], delays: [] };
  const start = performance.now();
  let handled = (await soaked.stats()).handled;
  await soaked.delay();
  const minute = Math.min(60, seconds / 5);
  for (let next = minute; next <= seconds + 0.5; next += minute) {
    while (performance.now() - start < next * 1_000 - SAMPLE_MS / 2) {
      await Bun.sleep(SAMPLE_MS);
      watched.samples.push({ at: (performance.now() - start) / 1_000 / seconds, mib: soaked.residentMiB() });
    }
    const [stats, delay] = [await soaked.stats(), await soaked.delay()];
    watched.delays.push(delay);
    const busy = loadavg()[0] as number;
    const words = [
      `${Math.round(next)} s: ${soaked.residentMiB().toFixed(1)} MiB`,
      `${Math.round((stats.handled - handled) / minute)} messages/s`,
      `event loop late by p50 ${delay.p50.toFixed(2)}, p99 ${delay.p99.toFixed(1)}, p99.9 ${delay.p999.toFixed(1)}, at most ${delay.max.toFixed(1)} ms`,
      `${stats.active} of ${stats.peers} peers active, load of the machine ${busy.toFixed(1)}`,
    ];
    report.note(words.join("; "));
    handled = stats.handled;
  }
  return watched;
}

function judge(report: Report, tallies: readonly Tally[], heard: number, handled: number, result: LoadResult): void {
  for (const tally of tallies) {
    report.note(tally.text());
    if (tally.ended !== tally.sent) report.fault(`${tally.name}: ${tally.sent - tally.ended} messages have no outcome`);
    if (tally.of("delivered") === 0) report.fault(`${tally.name}: nothing was delivered`);
  }
  const listened = tallies.find(({ name }) => name === CHANNELS.listened)?.of("delivered");
  if (heard !== listened) report.fault(`${listened} messages were delivered to a listener that heard ${heard}`);
  // What came after the generator had given it up is lost for it, and belongs to nothing.
  const fault = faultOf({ ...result, stray: Math.max(0, result.stray - result.lost) });
  if (fault !== undefined) report.fault(fault);
  if (handled < result.answered || handled > result.sent)
    report.fault(`${handled} messages were handled, ${result.sent} sent and ${result.answered} answered`);
}

async function soak(report: Report, minutes: number): Promise<void> {
  const seconds = minutes * 60;
  const problem = kamailioProblem();
  const kamailio = problem === undefined ? await startKamailio("tlsf") : undefined;
  if (problem !== undefined) report.note(`without a Kamailio: ${problem}`);
  const soaked = await Soaked.start(kamailio?.address);
  const [own, flapping] = [await freeAddress("127.0.0.3"), await freeAddress("127.0.0.4")];
  const peer: RunningNode = await createNode({
    serverAddress: `sip:${own.text}`,
    notificationAddresses: [soaked.uri],
    requestTimeoutMs: 5_000,
  });
  peer.channel(CHANNELS.broadcast, () => undefined);
  const listening = new Listening(soaked.socket);
  const flaps = new Flapping(soaked, flapping);
  await Bun.sleep(3_000);

  const tallies = [CHANNELS.command, CHANNELS.listened, CHANNELS.broadcast].map((name) => new Tally(name));
  const [commands, listened, broadcasts] = tallies as [Tally, Tally, Tally];
  const send = (channel: string): Promise<string[]> =>
    peer.send(channel, soaked.uri, "x".repeat(100)).then((one) => [wordOf(one)]);
  const stops = [
    every(RATES.commands, () => commands.follow(1, send(CHANNELS.command))),
    every(RATES.listened, () => listened.follow(1, send(CHANNELS.listened))),
    every(RATES.broadcasts, () => broadcasts.follow(undefined, soaked.broadcast())),
  ];
  const maximum = await maximumOf(soaked);
  const rate = Math.round(maximum * SHARE);
  report.note(`maximum ${Math.round(maximum)} messages/s; ${rate} messages/s for ${seconds} s`);
  const before = (await soaked.stats()).handled;
  const dropped = droppedDatagrams();
  const [result, watched] = await Promise.all([
    load({ to: soaked.address, seconds, rate }),
    watch(soaked, seconds, report),
  ]);
  for (const stop of stops) stop();
  await flaps.end();
  await Promise.all(tallies.map((tally) => tally.settled()));
  const after = await soaked.stats();
  await listening.end();

  report.note(`datagrams that the kernel dropped because a socket was full: ${droppedDatagrams() - dropped}`);
  report.note(`the peer that flaps came and went ${flaps.turns} times; open in the node at the end: ${after.open}`);
  judge(report, tallies, listening.heard, after.handled - before, result);
  if (after.open > 0) report.fault(`${after.open} requests of the node have no outcome`);
  const [early, late] = [medianMiB(watched.samples, EARLY), medianMiB(watched.samples, LATE)];
  report.table("soak", [
    {
      name: "load",
      cells: {
        sent: plain(result.sent),
        answered: plain(result.answered),
        lost: plain(result.lost),
        "of these late": plain(Math.min(result.lost, result.stray)),
        handled: plain(after.handled - before),
        "p50 µs": plain(result.p50),
        "p99 µs": plain(result.p99),
        "p99.9 µs": plain(result.p999),
        "max µs": plain(result.max),
      },
    },
  ]);
  report.goal({
    name: "resident memory, the end over minute two of ten",
    measured: late / early,
    unit: "×",
    atMost: 1.1,
  });
  report.goal({ name: "messages of the load without an answer", measured: result.lost, unit: "", atMost: 0 });
  const worst = Math.max(...watched.delays.map(({ p999 }) => p999));
  report.note(`event loop late, p99.9 of the worst minute: ${worst.toFixed(1)} ms`);
  report.note(`resident: ${early.toFixed(1)} MiB after a fifth of the time, ${late.toFixed(1)} MiB at the end`);
  await peer.close({ announce: true });
}

function minutesOf(argv: readonly string[]): number {
  const at = argv.indexOf("--minutes");
  const minutes = at === -1 ? 10 : Number(argv[at + 1]);
  const known = argv.every((word, i) => word === "--json" || word === "--minutes" || (i > 0 && i === at + 1));
  if (known && minutes > 0 && minutes <= 10_000) return minutes;
  console.error(`usage: ${USAGE}`);
  process.exit(2);
}

const argv = process.argv.slice(2);
const minutes = minutesOf(argv);
const options = { quick: false, json: argv.includes("--json"), turns: 1, seconds: minutes * 60, only: [] };
await runBench("soak", options, (report) => soak(report, minutes));
