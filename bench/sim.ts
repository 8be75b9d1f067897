/**
 * How many hours of a node's life the simulator plays in a second: a bus of nodes that joined, ping each other and broadcast
 * now and then, under the virtual clock.
 */

import { Bus } from "../src/sim/bus.ts";
import { column, figure } from "./lib/figures.ts";
import { parseOptions } from "./lib/options.ts";
import { cell, runBench } from "./lib/report.ts";

const SIZES = [3, 10, 30];

/** Each node broadcasts so often in virtual time. */
const BROADCAST_MS = 60_000;

const STEP_MS = 60_000;

const HOUR_MS = 3_600_000;

interface Turn {
  readonly nodeHours: number;
  readonly messages: number;
}

function makeBus(size: number, seed: number): Bus {
  const bus = new Bus({ seed });
  const first = bus.startNode();
  const seeds = [first.running.uri()];
  for (let i = 1; i < size; i++) bus.startNode({ notificationAddresses: seeds });
  if (!bus.runUntil(() => bus.disagreements().length === 0, 120_000))
    throw new Error(`${size} nodes did not agree: ${bus.disagreements()[0]}`);
  return bus;
}

/** Plays for so long in real time. @returns what one second of it was worth */
function turnOf(size: number, seed: number, seconds: number): Turn {
  const bus = makeBus(size, seed);
  const body = new Uint8Array(100);
  const start = performance.now();
  const begun = bus.now;
  let messages = 0;
  let next = bus.now + BROADCAST_MS;
  while (performance.now() - start < seconds * 1_000) {
    bus.runFor(STEP_MS);
    for (; next <= bus.now; next += BROADCAST_MS)
      for (const node of bus.nodes) messages += bus.broadcast(node, "bench0000", body).length;
    // Events are kept for tests to look at, for ever: here nobody does.
    for (const node of bus.nodes) node.events.length = 0;
  }
  const passed = (performance.now() - start) / 1_000;
  return { nodeHours: ((bus.now - begun) / HOUR_MS) * (size / passed), messages: messages / passed };
}

const options = parseOptions(process.argv.slice(2));

await runBench("sim", options, async (report) => {
  const rows = SIZES.map((size) => {
    const turns = Array.from({ length: options.turns }, (_, i) => turnOf(size, i + 1, options.seconds));
    return {
      name: `${size} nodes`,
      cells: {
        "node-hours/s": cell(figure(column(turns, ({ nodeHours }) => nodeHours)), 1),
        "messages/s": cell(figure(column(turns, ({ messages }) => messages))),
      },
    };
  });
  report.table("virtual time", rows);
});
