/** `dmq serve` as an operator starts it, for benchmarks of commands, of the control sockets and of memory. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { executable, workDirectory } from "./compile.ts";
import { type Address, freeAddress } from "./ports.ts";
import { Program } from "./process.ts";

export interface Daemon {
  readonly program: Program;
  readonly address: Address;
  readonly uri: string;
  /** Path of the control socket. */
  readonly socket: string;
  /** Path of the socket for kamcmd. */
  readonly ctl: string;
}

const READY_MS_MAX = 10_000;

let started = 0;

/** @param options  further options of `dmq serve` */
export async function startDaemon(options: readonly string[] = []): Promise<Daemon> {
  const address = await freeAddress();
  const uri = `sip:${address.text}`;
  const number = ++started;
  const [socket, ctl] = [`d${number}.sock`, `d${number}.ctl`].map((name) => join(workDirectory(), name)) as [
    string,
    string,
  ];
  const words = ["--server-address", uri, "--socket", socket, "--ctl", ctl, "--no-snapshot", ...options];
  const program = new Program("dmq serve", [executable(), "serve", ...words], "server");
  const end = performance.now() + READY_MS_MAX;
  while (!(existsSync(socket) && existsSync(ctl))) {
    if (program.hasExited || performance.now() > end) throw new Error(`dmq serve did not start: ${program.errors}`);
    await Bun.sleep(10);
  }
  return { program, address, uri, socket, ctl };
}

interface Row {
  readonly uri: string;
  readonly local: number;
  readonly status: string;
}

async function rowsOf({ socket }: Daemon): Promise<Row[]> {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "dmq.list_nodes" });
  const response = await fetch("http://dmq/rpc", { method: "POST", body, unix: socket });
  return ((await response.json()) as { result: Row[] }).result;
}

/** Peers that it has active. */
export async function activePeers(daemon: Daemon): Promise<number> {
  return (await rowsOf(daemon)).filter(({ local, status }) => local === 0 && status === "active").length;
}

/** URIs of its peers. */
export async function nodesOf(daemon: Daemon): Promise<string[]> {
  return (await rowsOf(daemon)).flatMap(({ uri, local }) => (local === 0 ? [uri] : []));
}
