import { describe, expect, test } from "bun:test";
import { KnownAddresses } from "../../src/transport/datagram.ts";

interface Known {
  readonly ip: string;
  readonly port: number;
  readonly what?: number;
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
