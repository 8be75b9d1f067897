/**
 * Whether a message costs the same whatever the node already has to keep in mind: 10, 100 and 1,000 peers, channels and open
 * transactions. Each is a node of its own that is filled and then left so; the cost is the CPU time of its process for one
 * message, received and handled, or sent and answered.
 */
import { checkAnswers, type Turn, turnOf } from "./lib/answering.ts";
import { type Contender, startContender } from "./lib/contenders.ts";
import { column, figure, ratio, takeTurns } from "./lib/figures.ts";
import { load } from "./lib/load.ts";
import { isWanted, parseOptions } from "./lib/options.ts";
import { join, type Peers, startCSender, startPeers } from "./lib/peers.ts";
import { endAll } from "./lib/process.ts";
import { cell, type Report, runBench } from "./lib/report.ts";

const SIZES = [10, 100, 1_000];

/** Peers that messages go to where the number of peers is not what grows: enough windows for 1,000 open requests. */
const SOME_PEERS = 10;

const IN_FLIGHT = 32;

/**
 * Under way at a time where the number of peers grows: each goes to another peer, however many there are. With more than that those to one
 * of ten peers would go down in one piece and come back in one, which no thousand peers can have, whoever sends (docs/PERFORMANCE.md).
 */
const IN_FLIGHT_APART = SIZES[0] as number;

/** What only sends needs no more. */
type Sender = Pick<Contender, "program">;

interface Grown<T = Contender> {
  readonly size: number;
  readonly contender: T;
}

interface Dimension<T extends Sender = Contender> {
  readonly name: string;
  /** Makes a node that has `size` of them. */
  grow(size: number): Promise<T>;
  /** Once more before each turn, for what does not last. */
  refill?(grown: Grown<T>): Promise<void>;
  turn(grown: Grown<T>, report: Report): Promise<{ cpuUs: number }>;
}

async function withPeers(count: number): Promise<{ contender: Contender; peers: Peers }> {
  const contender = await startContender("dmq");
  const peers = await startPeers(count);
  const active = async () => (await contender.program.ask<{ active: number }>("peers")).active;
  await join(peers, contender.address, active);
  return { contender, peers };
}

async function receive({ contender, size }: Grown, report: Report, channels = 1): Promise<Turn> {
  const turn = await turnOf(contender, { seconds: report.options.seconds, channels });
  checkAnswers(report, { ...contender, name: `${contender.name} with ${size}` }, [turn]);
  return turn;
}

async function send({ contender }: Grown<Sender>, report: Report, inFlight = IN_FLIGHT): Promise<{ cpuUs: number }> {
  const before = contender.program.usage();
  const sent = await contender.program.ask<{ delivered: number; failed: number }>(
    `send ${report.options.seconds} ${inFlight} 100`,
  );
  const after = contender.program.usage();
  if (sent.failed > 0) report.fault(`${sent.failed} of the messages sent were not delivered`);
  return { cpuUs: ((after.cpuMs - before.cpuMs) * 1_000) / sent.delivered };
}

/** Requests whose handler never ends: a node gives them up after 32 s, so each turn begins with fresh ones. */
async function hold({ contender, size }: Grown): Promise<void> {
  const result = await load({ to: contender.address, seconds: 0.5, channel: "hold", count: size, outstanding: size });
  if (result.answered > 0) throw new Error(`${result.answered} requests were answered that should stay open`);
}

const DIMENSIONS: readonly Dimension[] = [
  { name: "peers, receive", grow: async (size) => (await withPeers(size)).contender, turn: receive },
  {
    name: "peers, send",
    grow: async (size) => (await withPeers(size)).contender,
    turn: (grown, report) => send(grown, report, IN_FLIGHT_APART),
  },
  {
    name: "channels, receive",
    grow: (channels) => startContender("dmq", { channels }),
    turn: (grown, report) => receive(grown, report, grown.size),
  },
  {
    name: "requests that wait for a handler, receive",
    grow: () => startContender("dmq"),
    refill: hold,
    turn: receive,
  },
  {
    name: "requests without an answer, send",
    grow: async (size) => {
      const { contender } = await withPeers(SOME_PEERS);
      await contender.program.ask(`open ${size}`);
      return contender;
    },
    turn: (grown, report) => send(grown, report),
  },
];

/** What any program takes more for many peers than for few is the kernel's. */
const C_SENDS = [IN_FLIGHT_APART, IN_FLIGHT].map(
  (inFlight): Dimension<Sender> => ({
    name: `peers, send, ${inFlight} under way, the C program`,
    grow: async (size) => ({ program: await startCSender(await startPeers(size)) }),
    turn: (grown, report) => send(grown, report, inFlight),
  }),
);

/** Shown, and no goal. */
const ASIDE: readonly Dimension<Sender>[] = [
  {
    name: `peers, send, ${IN_FLIGHT} under way`,
    grow: async (size) => (await withPeers(size)).contender,
    turn: (grown, report) => send(grown, report),
  },
  ...C_SENDS,
];

/** @returns the ratio of the largest to the smallest, turn by turn */
async function measure<T extends Sender>(report: Report, dimension: Dimension<T>): Promise<number> {
  const grown: Grown<T>[] = [];
  for (const size of SIZES) grown.push({ size, contender: await dimension.grow(size) });
  const turn = async (one: Grown<T>) => {
    await dimension.refill?.(one);
    return dimension.turn(one, report);
  };
  for (const one of grown) await turn(one);
  const results = await takeTurns(grown, report.options.turns, turn);
  const costs = [...results].map(([{ size }, all]) => ({ size, costs: column(all, ({ cpuUs }) => cpuUs) }));
  report.table(
    dimension.name,
    costs.map(({ size, costs: all }) => ({ name: String(size), cells: { "CPU µs a message": cell(figure(all), 2) } })),
  );
  await endAll();
  const [first, last] = [costs[0]?.costs ?? [], costs.at(-1)?.costs ?? []];
  return ratio(last, first).median;
}

const options = parseOptions(process.argv.slice(2));

await runBench("growth", options, async (report) => {
  const { only } = options;
  for (const dimension of DIMENSIONS.filter(({ name }) => isWanted(name, only))) {
    const measured = await measure(report, dimension);
    report.goal({ name: `growth, ${dimension.name}, 1,000 over 10`, measured, unit: "×", atMost: 1.3 });
  }
  for (const dimension of ASIDE.filter(({ name }) => isWanted(name, only))) {
    const measured = await measure(report, dimension);
    report.note(`growth, ${dimension.name}, 1,000 over 10: ${measured.toFixed(2)} ×`);
  }
});
