/**
 * A wire between two nodes that loses, doubles and delays datagrams, for machines whose kernel has no netem. It stands at both of the
 * addresses that the nodes give as their own and passes on what comes to one of them from the other, so that each sees the other where
 * it says it is.
 */
import type { udp } from "bun";

export interface WireOptions {
  /** The addresses that the two nodes give as theirs. */
  said: readonly [string, string];
  /** Where they really listen. */
  real: readonly [string, string];
  port: number;
}

/** What it does to each datagram, and may be changed at any time. */
export interface Weather {
  /** Shares of 1. */
  loss: number;
  copies: number;
  /** Milliseconds; each datagram has its own. */
  delay: readonly [least: number, most: number];
}

export const CLEAR: Weather = { loss: 0, copies: 0, delay: [0, 0] };

export class Wire {
  weather: Weather = CLEAR;
  passed = 0;
  lost = 0;
  readonly #ends: udp.Socket<"buffer">[] = [];
  #seed = 1;
  #closed = false;

  static async between({ said, real, port }: WireOptions): Promise<Wire> {
    const wire = new Wire();
    for (const side of [0, 1] as const) {
      const other = side === 0 ? 1 : 0;
      // What is said to one side comes from the other, and goes on as if the other's address had sent it.
      const take = (octets: Buffer): void => wire.#pass(() => wire.#ends[other]?.send(octets, port, real[side]));
      const socket = { data: (_: unknown, octets: Buffer) => take(Buffer.from(octets)), error: () => undefined };
      wire.#ends.push(await Bun.udpSocket({ hostname: said[side], port, socket }));
    }
    return wire;
  }

  close(): void {
    this.#closed = true;
    for (const end of this.#ends) end.close();
  }

  #pass(send: () => void): void {
    const { loss, copies, delay } = this.weather;
    if (this.#chance() < loss) {
      this.lost++;
      return;
    }
    this.passed++;
    const times = this.#chance() < copies ? 2 : 1;
    for (let i = 0; i < times; i++)
      setTimeout(() => this.#closed || send(), delay[0] + this.#chance() * (delay[1] - delay[0]));
  }

  /** xorshift32: the same weather each time. */
  #chance(): number {
    this.#seed ^= this.#seed << 13;
    this.#seed ^= this.#seed >>> 17;
    this.#seed ^= this.#seed << 5;
    return (this.#seed >>> 0) / 2 ** 32;
  }
}
