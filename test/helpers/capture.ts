/**
 * What really went over the loopback: tcpdump writes, we count. Needs root or the capability to capture, which CI has; where
 * it cannot be had the tests that count are skipped with the reason.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { missingPrograms, type Refused } from "./needs.ts";
import { until } from "./wait.ts";

/** @returns what is missing for a capture, `undefined` if nothing is */
export function captureProblem(): string | Refused | undefined {
  const missing = missingPrograms("tcpdump");
  if (missing !== undefined) return missing;
  // It ends at once where it may not capture, else it waits for a packet.
  const probe = Bun.spawnSync(["tcpdump", "-i", "lo", "-c", "1", "-w", "/dev/null"], { timeout: 300, stdin: "ignore" });
  const isRefused = probe.exitedDueToTimeout !== true && !probe.success;
  return isRefused ? { refused: `nothing can be captured: ${probe.stderr.toString().trim()}` } : undefined;
}

/** A datagram: where from, where to, and its text. */
export interface Datagram {
  from: string;
  to: string;
  text: string;
}

const PCAP_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;
const ETHERNET_BYTES = 14;
const UDP_HEADER_BYTES = 8;

/** A running capture of UDP over IPv4 on the loopback. */
export class Capture {
  readonly #dir: string;
  readonly #file: string;
  readonly #child: Bun.Subprocess<"ignore", "ignore", "pipe">;

  private constructor(dir: string, file: string, child: Bun.Subprocess<"ignore", "ignore", "pipe">) {
    this.#dir = dir;
    this.#file = file;
    this.#child = child;
  }

  /** @param ports  UDP ports, source or destination. Resolves when everything from now on is captured */
  static async start(ports: readonly number[]): Promise<Capture> {
    const dir = mkdtempSync(join(tmpdir(), "cap-"));
    const file = join(dir, "lo.pcap");
    const filter = ports.map((port) => `udp port ${port}`).join(" or ");
    // -U: each packet is written at once. -Z: it keeps its user, or it could not write into our directory.
    const args = ["-i", "lo", "-U", "-B", "16384", "-s", "0", "-Z", "root", "-w", file, filter];
    const child = Bun.spawn(["tcpdump", ...args], { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    const capture = new Capture(dir, file, child);
    await until(() => existsSync(file) && readFileSync(file).length >= PCAP_HEADER_BYTES, 5_000, "tcpdump captures");
    return capture;
  }

  /** The datagrams so far, in order. */
  datagrams(): Datagram[] {
    const pcap = readFileSync(this.#file);
    const found: Datagram[] = [];
    let at = PCAP_HEADER_BYTES;
    while (at + RECORD_HEADER_BYTES <= pcap.length) {
      const length = pcap.readUInt32LE(at + 8);
      const packet = pcap.subarray(at + RECORD_HEADER_BYTES + ETHERNET_BYTES, at + RECORD_HEADER_BYTES + length);
      at += RECORD_HEADER_BYTES + length;
      if (at > pcap.length) break;
      found.push(...datagramOf(packet));
    }
    return found;
  }

  async stop(): Promise<void> {
    this.#child.kill("SIGINT");
    await this.#child.exited;
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/** IPv4 and UDP (RFC 791 §3.1, RFC 768); nothing for anything else, and for all but the first fragment. */
function datagramOf(packet: Buffer): Datagram[] {
  const isUdp4 = packet.length > 28 && packet.readUInt8(0) >> 4 === 4 && packet.readUInt8(9) === 17;
  if (!isUdp4 || (packet.readUInt16BE(6) & 0x1fff) !== 0) return [];
  const start = (packet.readUInt8(0) & 0x0f) * 4;
  const address = (offset: number): string => [...packet.subarray(offset, offset + 4)].join(".");
  return [
    {
      from: `${address(12)}:${packet.readUInt16BE(start)}`,
      to: `${address(16)}:${packet.readUInt16BE(start + 2)}`,
      text: packet.subarray(start + UDP_HEADER_BYTES).toString("latin1"),
    },
  ];
}
