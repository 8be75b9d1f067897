/**
 * How many deliveries a second a node makes when it broadcasts to 1, 5, 20 and 100 peers and follows the outcome of each:
 * what the peers received, once each, and what the sender counted as answered.
 *
 * Our node is a program that keeps some broadcasts under way and awaits all outcomes. Kamailio broadcasts from its script each
 * time a MESSAGE comes; the peers keep some of those under way. Either has a turn with few requests on the wire and one with
 * many; the goal compares the better one of each.
 */
import { type Contender, type ContenderName, startContender } from "./lib/contenders.ts";
import { column, figure, ratio, takeTurns } from "./lib/figures.ts";
import { type Kamailio, kamailioProblem, kamcmd, startKamailio } from "./lib/kamailio.ts";
import { isWanted, parseOptions } from "./lib/options.ts";
import { countsOf, join, type Peers, startPeers } from "./lib/peers.ts";
import type { Address } from "./lib/ports.ts";
import type { Program } from "./lib/process.ts";
import { cell, plain, type Report, runBench } from "./lib/report.ts";

const PEER_COUNTS = [1, 5, 20, 100];

/** Requests on the wire at a time, about: no more than Kamailio's receive buffer holds answers to, more or less. */
const ON_THE_WIRE = [80, 320];

const BODY = 100;

/** The first turn, which does not count: after two seconds half of our code was not compiled to the end. */
const WARM_SECONDS = 5;

/** A Kamailio keeps each transaction for five seconds after its end. */
const SHARED_MIB = 8_192;

/** Until then its timer takes them down, on the processor of whoever has the next turn: that one waits. */
const REST_MS_MAX = 20_000;
const REST_LOOK_MS = 500;
/** CPU time of a look that counts as rest: its steps are of 10 ms. */
const REST_CPU_MS = 10;

interface Sender {
  readonly name: string;
  readonly program: Program;
  readonly address: Address;
  /** Peers that it has active. */
  active(): Promise<number>;
  /** Broadcasts for so long, with so many calls under way. */
  run(peers: Peers, seconds: number, inFlight: number): Promise<void>;
  /** Requests that it counts as answered 2xx since its start. */
  answered(): Promise<number>;
}

/** Who has a turn, and with how many requests on the wire. */
interface Entry {
  readonly sender: Sender;
  readonly wire: number;
}

interface Turn {
  readonly deliveries: number;
  readonly answered: number;
  readonly repeated: number;
  readonly rate: number;
  readonly cpuUs: number;
  readonly residentMiB: number;
  readonly idle: number;
}

function ourSender({ name, program, address }: Contender): Sender {
  let delivered = 0;
  return {
    name,
    program,
    address,
    active: async () => (await program.ask<{ active: number }>("peers")).active,
    run: async (_peers, seconds, inFlight) => {
      const sent = await program.ask<{ delivered: number }>(`broadcast ${seconds} ${inFlight} ${BODY}`);
      delivered += sent.delivered;
    },
    answered: async () => delivered,
  };
}

function realSender(name: string, kamailio: Kamailio): Sender {
  const { program, address } = kamailio;
  return {
    name,
    program,
    address,
    active: async () => [...kamcmd(kamailio, "dmq.list_nodes").matchAll(/status: active/g)].length - 1,
    run: async (peers, seconds, inFlight) => {
      peers.program.tell(`trigger ${address.text} ${inFlight} ${BODY}`);
      await Bun.sleep(seconds * 1_000);
      peers.program.tell("stop");
      // What is on the way belongs to this turn.
      await Bun.sleep(50);
    },
    answered: async () => Number(/^\s*2xx: (\d+)/m.exec(kamcmd(kamailio, "tm.stats"))?.[1] ?? 0),
  };
}

async function start(only: readonly string[]): Promise<Sender[]> {
  const senders: Sender[] = isWanted("dmq", only) ? [ourSender(await startContender("dmq"))] : [];
  const problem = kamailioProblem();
  for (const allocator of ["tlsf", "qm"] as const) {
    const name: ContenderName = `kamailio ${allocator}`;
    if (!isWanted(name, only)) continue;
    if (problem !== undefined) console.error(`${name} is left out: ${problem}`);
    else senders.push(realSender(name, await startKamailio(allocator, { sharedMiB: SHARED_MIB })));
  }
  return senders;
}

async function turnOf({ sender, wire }: Entry, peers: Peers, seconds: number): Promise<Turn> {
  const [before, answeredBefore] = [await countsOf(peers), await sender.answered()];
  const usage = sender.program.usage();
  const start = performance.now();
  await sender.run(peers, seconds, Math.max(2, Math.round(wire / peers.count)));
  const passed = (performance.now() - start) / 1_000;
  const after = sender.program.usage();
  const [counts, answered] = [await countsOf(peers), await sender.answered()];
  const deliveries = counts.received - before.received;
  return {
    deliveries,
    answered: answered - answeredBefore,
    repeated: counts.repeated - before.repeated,
    rate: deliveries / passed,
    cpuUs: ((after.cpuMs - usage.cpuMs) * 1_000) / deliveries,
    residentMiB: after.residentKiB / 1_024,
    idle: counts.idle,
  };
}

/** Waits until the others do nothing any more. */
async function rest(report: Report, others: readonly Sender[]): Promise<void> {
  const end = performance.now() + REST_MS_MAX;
  const used = (): number => others.reduce((sum, { program }) => sum + program.usage().cpuMs, 0);
  for (let before = used(); ; ) {
    await Bun.sleep(REST_LOOK_MS);
    const after = used();
    if (after - before <= REST_CPU_MS) return;
    if (performance.now() > end) {
      report.note(`others used ${after - before} ms of the last ${REST_LOOK_MS} before a turn`);
      return;
    }
    before = after;
  }
}

/** At either end: each delivery is one answer, within what is on the way when a turn ends. */
function check(report: Report, { sender: { name }, wire }: Entry, { deliveries, answered }: Turn): void {
  if (deliveries === 0) report.fault(`${name}: nothing was delivered`);
  if (Math.abs(deliveries - answered) > Math.max(2 * wire, 0.02 * deliveries))
    report.fault(`${name}: ${deliveries} deliveries, ${answered} answers counted by the sender`);
}

async function measure(report: Report, count: number): Promise<void> {
  const { seconds, turns, only, quick } = report.options;
  const peers = await startPeers(count);
  const senders: Sender[] = [];
  for (const sender of await start(only)) {
    try {
      await join(peers, sender.address, sender.active);
      senders.push(sender);
    } catch (cause) {
      report.note(`${sender.name} is left out: ${(cause as Error).message}`);
    }
  }
  const entries = senders.flatMap((sender) => ON_THE_WIRE.map((wire) => ({ sender, wire })));
  for (const entry of entries) await turnOf(entry, peers, quick ? 0.7 : WARM_SECONDS);
  const results = await takeTurns(entries, turns, async (entry) => {
    await rest(
      report,
      senders.filter((sender) => sender !== entry.sender),
    );
    return turnOf(entry, peers, seconds);
  });
  for (const [entry, all] of results) for (const turn of all) check(report, entry, turn);
  for (const wire of ON_THE_WIRE) {
    const rows = [...results].filter(([entry]) => entry.wire === wire);
    report.table(
      `${count} peers, ${wire} on the wire`,
      rows.map(([{ sender }, all]) => rowOf(sender.name, all)),
    );
  }
  goals(report, count, results);
  for (const sender of senders) await sender.program.end();
  await peers.program.end();
}

function rowOf(name: string, all: Turn[]) {
  return {
    name,
    cells: {
      "deliveries/s": cell(figure(column(all, ({ rate }) => rate))),
      "CPU µs": cell(figure(column(all, ({ cpuUs }) => cpuUs)), 2),
      "MiB at most": plain(Math.max(...column(all, ({ residentMiB }) => residentMiB))),
      repeated: plain(column(all, ({ repeated }) => repeated).reduce((sum, one) => sum + one, 0)),
      "peers idle": plain(figure(column(all, ({ idle }) => idle)).median * 100, 0, " %"),
    },
  };
}

/** Turns of a contender with as many requests on the wire as suit it best. */
function best(results: ReadonlyMap<Entry, Turn[]>, name: string): number[] | undefined {
  const rates = [...results]
    .filter(([{ sender }]) => sender.name === name)
    .map(([, all]) => column(all, ({ rate }) => rate))
    .sort((a, b) => figure(b).median - figure(a).median);
  return rates[0];
}

function goals(report: Report, count: number, results: ReadonlyMap<Entry, Turn[]>): void {
  const ours = [...results].filter(([{ sender }]) => sender.name === "dmq").flatMap(([, all]) => all);
  if (ours.length === 0) return;
  const memory = Math.max(...column(ours, ({ residentMiB }) => residentMiB));
  report.goal({ name: `broadcast to ${count}, resident`, measured: memory, unit: "MiB", atMost: 100 });
  const [rate, theirs] = [best(results, "dmq"), best(results, "kamailio tlsf")];
  if (rate === undefined || theirs === undefined || (count !== 5 && count !== 20)) return;
  const measured = ratio(rate, theirs).median;
  report.goal({ name: `broadcast to ${count}, dmq over kamailio tlsf`, measured, unit: "×", atLeast: 4 });
}

const options = parseOptions(process.argv.slice(2));

await runBench("broadcast", options, async (report) => {
  for (const count of PEER_COUNTS) await measure(report, count);
});
