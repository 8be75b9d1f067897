import { describe, expect, test } from "bun:test";
import { Senders } from "../../src/transport/batch.ts";
import { KnownAddresses } from "../../src/transport/datagram.ts";

interface Known {
  readonly ip: string;
  readonly port: number;
  readonly what?: number;
}

/** struct sockaddr_in with port 5060, as words in the room that a sockaddr_in6 takes. */
function socketAddress(ip: string): Uint32Array {
  const octets = new Uint8Array(32);
  octets.set([2, 0, 5060 >> 8, 5060 & 255, ...ip.split(".").map(Number)]);
  return new Uint32Array(octets.buffer);
}

describe("known addresses", () => {
  for (const prefix of ["10.0.0.", "2001:db8::"]) {
    test(`datagram: two hundred neighbours ${prefix}N with one port are nearly all known at a time`, () => {
      const known = new KnownAddresses<Known>();
      const all = Array.from({ length: 200 }, (_, i) => ({ ip: `${prefix}${i + 1}`, port: 5060 }));
      for (const one of all) known.keep(one);
      const found = all.filter((one) => known.find(one.ip, one.port) === one);
      expect(found.length).toBeGreaterThan(190);
    });
  }

  test("datagram: of a full registry nearly all are known at a time, to who sends and to who reads", () => {
    const known = new KnownAddresses<Known>();
    const all = Array.from({ length: 1_000 }, (_, i) => ({ ip: `127.0.${1 + (i >> 8)}.${i & 255}`, port: 5060 }));
    for (const one of all) known.keep(one);
    expect(all.filter((one) => known.find(one.ip, one.port) === one).length).toBeGreaterThan(985);

    const senders = new Senders();
    const endpoints = all.map(({ ip }) => senders.endpoint(socketAddress(ip), 0));
    expect(endpoints.map(({ ip, port }) => ({ ip, port }))).toEqual(all);
    const again = all.filter(({ ip }, i) => senders.endpoint(socketAddress(ip), 0) === endpoints[i]);
    expect(again.length).toBeGreaterThan(985);
  });

  test("datagram: two hundred ports of one address are nearly all known at a time, and none for another", () => {
    const known = new KnownAddresses<Known>();
    const all = Array.from({ length: 200 }, (_, i) => ({ ip: "127.0.0.1", port: 40_000 + 7 * i }));
    for (const one of all) known.keep(one);
    expect(all.filter((one) => known.find(one.ip, one.port) === one).length).toBeGreaterThan(190);
    expect(all.some((one) => known.find("127.0.0.2", one.port) !== undefined)).toBe(false);
  });

  test("datagram: whatever comes in between, the one kept last is known, and nothing false is", () => {
    const known = new KnownAddresses<Known>();
    for (let i = 0; i < 20_000; i++) {
      const one = { ip: `10.${i >> 12}.${(i >> 6) & 63}.${i & 63}`, port: 1_024 + ((i * 31) % 60_000), what: i };
      known.keep(one);
      expect(known.find(one.ip, one.port)).toBe(one);
      const other = known.find(`10.0.0.${i & 63}`, 5_060);
      expect(other === undefined || (other.ip === `10.0.0.${i & 63}` && other.port === 5_060)).toBe(true);
    }
  });
});
