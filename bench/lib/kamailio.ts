/** Real Kamailio nodes for a benchmark, with the configuration beside this folder (bench/kamailio.cfg). */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { workDirectory } from "./compile.ts";
import { ROOT } from "./machine.ts";
import { type Address, exchange, freeAddress } from "./ports.ts";
import { Program } from "./process.ts";
import type { Certificate } from "./tls.ts";

/** Memory managers: `qm` is what Debian's package uses, `tlsf` the fastest there is. */
export type Allocator = "qm" | "tlsf";

export interface KamailioOptions {
  readonly transport?: "udp" | "tcp" | "tls";
  readonly certificate?: Certificate;
  /** Shared memory, only reserved: a broadcast at full speed takes more than a gigabyte. */
  readonly sharedMiB?: number;
}

export interface Kamailio {
  readonly program: Program;
  readonly address: Address;
  /** Path of the socket for kamcmd. */
  readonly ctl: string;
}

const READY_MS_MAX = 10_000;

/** What a channel of load.c is called: its name and four digits. */
export const CHANNEL = "bench0000";

/** @returns why there is no Kamailio to compare with, `undefined` if there is */
export function kamailioProblem(): string | undefined {
  const missing = ["kamailio", "kamcmd"].filter((tool) => Bun.which(tool) === null);
  return missing.length === 0 ? undefined : `not installed: ${missing.join(", ")}`;
}

let started = 0;

/** Starts a node and waits until it answers and knows the channel. */
export async function startKamailio(allocator: Allocator, options: KamailioOptions = {}): Promise<Kamailio> {
  const { transport = "udp", certificate, sharedMiB = 256 } = options;
  const address = await freeAddress();
  const plain = transport === "tls" ? await freeAddress() : address;
  const folder = join(workDirectory(), `k${++started}`);
  mkdirSync(folder);
  const ctl = join(folder, "ctl");
  const defines = [
    `BENCH_ADDRESS="sip:${address.text}${transport === "udp" ? "" : `;transport=${transport}`}"`,
    `BENCH_CTL="unix:${ctl}"`,
    `BENCH_CHANNEL="${CHANNEL}"`,
    ...(certificate === undefined ? [] : [`BENCH_TLS="${tlsConfig(folder, certificate)}"`]),
  ];
  const program = new Program(
    `kamailio ${allocator}`,
    [
      ...["kamailio", "-DD", "-E", "-f", join(ROOT, "bench", "kamailio.cfg"), "-x", allocator],
      ...["-Y", folder, "-w", folder, "-P", join(folder, "pid"), "-m", String(sharedMiB), "-M", "16"],
      // Its UDP socket is also there where the messages come over a stream: the MESSAGE below uses it.
      ...["-l", `udp:${plain.text}`, ...(transport === "udp" ? ["-T"] : ["-l", `${transport}:${address.text}`])],
      ...defines.flatMap((define) => ["-A", define]),
    ],
    "server",
  );
  await untilReady(program, plain);
  return { program, address, ctl };
}

function tlsConfig(folder: string, { cert, key }: Certificate): string {
  const path = join(folder, "tls.cfg");
  const lines = ["method = TLSv1.2+", "verify_certificate = no", "require_certificate = no"];
  const both = [...lines, `private_key = ${key}`, `certificate = ${cert}`].join("\n");
  writeFileSync(path, `[server:default]\n${both}\n\n[client:default]\n${both}\n`);
  return path;
}

/** The answer to the MESSAGE says that the script runs, and its broadcast made the channel known. */
async function untilReady(program: Program, address: Address): Promise<void> {
  const end = performance.now() + READY_MS_MAX;
  while (performance.now() < end && !program.hasExited) {
    const answer = await exchange(address, (own) => messageTo(address, own), 200).catch(() => "");
    if (answer.startsWith("SIP/2.0 200")) return;
  }
  throw new Error(`${program.name} at ${address.text} did not start: ${program.errors.slice(-1_000)}`);
}

function messageTo(to: Address, own: Address): string {
  const id = crypto.randomUUID();
  return [
    `MESSAGE sip:bcast@${to.text} SIP/2.0`,
    `Via: SIP/2.0/UDP ${own.text};branch=z9hG4bK${id}`,
    `To: <sip:bcast@${to.text}>`,
    `From: <sip:bench@${own.text}>;tag=1`,
    "CSeq: 1 MESSAGE",
    `Call-ID: ${id}`,
    "Content-Type: text/plain",
    "Content-Length: 1",
    "",
    "x",
  ].join("\r\n");
}

/** A method by kamcmd, its output as text. */
export function kamcmd({ ctl }: Kamailio, ...words: string[]): string {
  return Bun.spawnSync(["kamcmd", "-s", `unix:${ctl}`, ...words], { stderr: "ignore" }).stdout.toString();
}
