/**
 * How many calls a second the control surface answers: Kamailio's binary RPC, which both speak, on a unix socket with one call
 * after the other and a connection for each, as kamcmd does it; and our JSON-RPC over HTTP on a connection that is kept, with
 * one call and with sixteen at a time.
 */
import { type Daemon, startDaemon } from "./lib/daemon.ts";
import { column, figure, takeTurns } from "./lib/figures.ts";
import { kamailioProblem, startKamailio } from "./lib/kamailio.ts";
import { parseOptions } from "./lib/options.ts";
import type { Program } from "./lib/process.ts";
import { cell, runBench } from "./lib/report.ts";

interface Turn {
  readonly rate: number;
  readonly p50: number;
  readonly p99: number;
  readonly cpuUs: number;
}

interface Surface {
  readonly name: string;
  readonly program: Program;
  readonly atATime: number;
  /** One call; throws where the answer is not one. */
  call(): Promise<void>;
}

/** A binary RPC packet: magic and version, lengths of one and four octets, cookie, the method as a string with a NUL. */
function packet(method: string): Uint8Array {
  const name = Buffer.from(`${method}\0`);
  const record = name.length < 8 ? [(name.length << 4) | 1] : [0x91, name.length];
  return Buffer.concat([Buffer.from([0xa1, 0x03, record.length + name.length, 1, 2, 3, 4, ...record]), name]);
}

async function binary(path: string, request: Uint8Array): Promise<void> {
  const answered = Promise.withResolvers<void>();
  const socket = await Bun.connect({
    unix: path,
    socket: {
      data(_, data) {
        // The high nibble of the second octet is 1 in a reply and 3 in a fault.
        if (data[0] === 0xa1 && (data[1] as number) >> 4 === 1) answered.resolve();
        else answered.reject(new Error("the answer is no reply"));
      },
      close: () => answered.reject(new Error("closed without an answer")),
    },
  });
  socket.write(request);
  await answered.promise;
  socket.end();
}

async function json(path: string, method: string): Promise<void> {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method });
  const response = await fetch("http://dmq/rpc", { method: "POST", body, unix: path });
  const answer = (await response.json()) as { result?: unknown };
  if (answer.result === undefined) throw new Error(`${method} gave no result`);
}

function ours({ program, ctl, socket }: Daemon): Surface[] {
  const request = packet("dmq.list_nodes");
  return [
    { name: "dmq, binary", program, atATime: 1, call: () => binary(ctl, request) },
    { name: "dmq, JSON-RPC", program, atATime: 1, call: () => json(socket, "dmq.list_nodes") },
    { name: "dmq, JSON-RPC, 16 at a time", program, atATime: 16, call: () => json(socket, "dmq.list_nodes") },
  ];
}

async function turnOf({ program, atATime, call }: Surface, seconds: number): Promise<Turn> {
  const times: number[] = [];
  const before = program.usage();
  const start = performance.now();
  const end = start + seconds * 1_000;
  const lane = async (): Promise<void> => {
    while (performance.now() < end) {
      const begun = performance.now();
      await call();
      times.push(performance.now() - begun);
    }
  };
  await Promise.all(Array.from({ length: atATime }, lane));
  const passed = (performance.now() - start) / 1_000;
  const after = program.usage();
  times.sort((a, b) => a - b);
  const at = (share: number): number => (times[Math.floor(share * times.length)] as number) * 1_000;
  const cpuUs = ((after.cpuMs - before.cpuMs) * 1_000) / times.length;
  return { rate: times.length / passed, p50: at(0.5), p99: at(0.99), cpuUs };
}

const options = parseOptions(process.argv.slice(2));

await runBench("rpc", options, async (report) => {
  const surfaces = ours(await startDaemon());
  const problem = kamailioProblem();
  if (problem !== undefined) {
    report.note(`kamailio is left out: ${problem}`);
  } else {
    const { program, ctl } = await startKamailio("tlsf");
    const request = packet("dmq.list_nodes");
    surfaces.push({ name: "kamailio tlsf, binary", program, atATime: 1, call: () => binary(ctl, request) });
  }
  for (const surface of surfaces) await turnOf(surface, options.quick ? 0.5 : 1);
  const results = await takeTurns(surfaces, options.turns, (surface) => turnOf(surface, options.seconds));
  report.table(
    "dmq.list_nodes",
    [...results].map(([{ name }, all]) => ({
      name,
      cells: {
        "calls/s": cell(figure(column(all, ({ rate }) => rate))),
        "p50 µs": cell(figure(column(all, ({ p50 }) => p50))),
        "p99 µs": cell(figure(column(all, ({ p99 }) => p99))),
        "CPU µs": cell(figure(column(all, ({ cpuUs }) => cpuUs))),
      },
    })),
  );
});
