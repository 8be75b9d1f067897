/** A sink that writes down what a transport says, for the tests of the transports. */
import { copyOf } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import type { TransportSink } from "../../src/transport/transport.ts";

export interface Arrival {
  from: Endpoint;
  flow: number;
  bytes: Uint8Array;
}

export class Recorder implements TransportSink {
  readonly arrivals: Arrival[] = [];
  readonly ends: { flow: number; cause: Error | undefined }[] = [];
  readonly losses: { to: Endpoint; cause: Error }[] = [];
  readonly refusals: { remote: Endpoint; cause: Error }[] = [];
  /** The order of the calls, for example `received 1`, `unsent tcp 5060`, `closed 1`. */
  readonly calls: string[] = [];
  /** What to do with octets besides noting them: an echo, a flood. */
  onReceived: ((arrival: Arrival) => void) | undefined;

  received(from: Endpoint, flow: number, octets: Uint8Array, start: number, end: number, size: number): void {
    let at = start;
    do {
      const arrival = { from, flow, bytes: copyOf(octets, at, Math.min(at + size, end)) };
      this.arrivals.push(arrival);
      this.calls.push(`received ${flow}`);
      this.onReceived?.(arrival);
      at += size;
    } while (at < end);
  }

  closed(flow: number, cause: Error | undefined): void {
    this.ends.push({ flow, cause });
    this.calls.push(`closed ${flow}`);
  }

  unsent(to: Endpoint, cause: Error): void {
    this.losses.push({ to, cause });
    this.calls.push(`unsent ${to.transport} ${to.port}`);
  }

  refused(remote: Endpoint, cause: Error): void {
    this.refusals.push({ remote, cause });
  }

  /** All octets so far, one chunk after the other. */
  octets(): Buffer {
    return Buffer.concat(this.arrivals.map((one) => one.bytes));
  }
}

/** Waits for a condition, for 5 seconds at most; the error says what was waited for. */
export async function until(what: string, condition: () => boolean, deadlineMs = 5_000): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`still waiting for: ${what}`);
    await Bun.sleep(1);
  }
}

/** Octets with a pattern that changes with place and length. */
export function pattern(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + (i >> 8) * 7 + length) & 255;
  return bytes;
}
