/** Who stands against whom: each contender is a process on the server's core that answers KDMQ requests. */
import { join } from "node:path";
import { program, server } from "./compile.ts";
import { type KamailioOptions, kamailioProblem, startKamailio } from "./kamailio.ts";
import { ROOT } from "./machine.ts";
import { isWanted } from "./options.ts";
import { type Address, freeAddress } from "./ports.ts";
import { Program } from "./process.ts";
import type { Certificate } from "./tls.ts";

export type Transport = "udp" | "tcp" | "tls";

export interface Contender {
  readonly name: string;
  readonly program: Program;
  readonly address: Address;
  readonly transport: Transport;
}

export type ContenderName =
  | "dmq"
  | "dmq inline"
  | "kamailio tlsf"
  | "kamailio qm"
  | "npm sip"
  | "bun canned"
  | "c echo";

export interface StartOptions {
  readonly transport?: Transport;
  readonly certificate?: Certificate;
  /** Channels of the node, default 1. */
  readonly channels?: number;
}

/** @returns the URI of a node there */
export function uriOf({ text }: Address, transport: Transport): string {
  return `sip:${text}${transport === "udp" ? "" : `;transport=${transport}`}`;
}

/** Starts one; it answers when this resolves. */
export async function startContender(name: ContenderName, options: StartOptions = {}): Promise<Contender> {
  const { transport = "udp" } = options;
  if (name === "kamailio tlsf" || name === "kamailio qm") return startReal(name, options);
  const address = await freeAddress();
  const started = new Program(name, commandOf(name, address, options), "server");
  const first = await started.line();
  if (first !== "ready") throw new Error(`${name} says ${JSON.stringify(first)} instead of ready`);
  return { name, program: started, address, transport };
}

async function startReal(name: "kamailio tlsf" | "kamailio qm", options: KamailioOptions): Promise<Contender> {
  const { program: started, address } = await startKamailio(name === "kamailio qm" ? "qm" : "tlsf", options);
  return { name, program: started, address, transport: options.transport ?? "udp" };
}

function commandOf(name: ContenderName, address: Address, options: StartOptions): string[] {
  const { transport = "udp", certificate, channels = 1 } = options;
  const { ip, port, text } = address;
  const files = certificate === undefined ? [] : [certificate.cert, certificate.key];
  switch (name) {
    case "c echo":
      return [program("echo"), "--listen", text, "--transport", transport];
    case "bun canned":
      return [server("canned"), ip, String(port)];
    case "npm sip":
      // Not compiled: the package is CommonJS that looks for its own files.
      return [process.execPath, join(ROOT, "bench", "servers", "npm-sip.ts"), ip, String(port), transport];
    default: {
      const mode = name === "dmq inline" ? "inline" : "queued";
      return [server("node"), uriOf(address, transport), mode, String(channels), ...files];
    }
  }
}

/** Starts those of the names that can be had here and that are wanted; says on stderr who is left out, and why. */
export async function startContenders(
  names: readonly ContenderName[],
  only: readonly string[],
  options: StartOptions = {},
): Promise<Contender[]> {
  const problem = kamailioProblem();
  const started: Contender[] = [];
  for (const name of names) {
    if (!isWanted(name, only)) continue;
    if (name.startsWith("kamailio") && problem !== undefined) console.error(`${name} is left out: ${problem}`);
    else started.push(await startContender(name, options));
  }
  return started;
}
