import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  canonicalIp,
  defaultPort,
  type Endpoint,
  endpointKey,
  formatHost,
  isIpv6,
  isReliable,
  sameEndpoint,
} from "../../src/core/endpoint.ts";

describe("canonical IP", () => {
  test.each([
    ["127.0.0.1", "127.0.0.1"],
    ["0.0.0.0", "0.0.0.0"],
    ["255.255.255.255", "255.255.255.255"],
    ["[127.0.0.1]", "127.0.0.1"],
    ["::", "::"],
    ["::1", "::1"],
    ["[::1]", "::1"],
    ["1::", "1::"],
    ["0:0:0:0:0:0:0:0", "::"],
    ["0:0:0:0:0:0:0:1", "::1"],
    ["0000:0000:0000:0000:0000:0000:0000:0001", "::1"],
    ["2001:DB8::00A", "2001:db8::a"],
    ["2001:db8:0:0:0:0:2:1", "2001:db8::2:1"],
    // RFC 5952 §4.2.2: one zero group is not shortened, not even when it was written so.
    ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    ["2001:db8::1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    // RFC 5952 §4.2.3: the longest run, and of equal runs the first.
    ["2001:0:0:1:0:0:0:1", "2001:0:0:1::1"],
    ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
    ["::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"],
    ["1:2:3:4:5:6:7.8.9.10", "1:2:3:4:5:6:708:90a"],
    ["fe80::1", "fe80::1"],
    // What a dual-stack socket means by an IPv4-mapped address is the IPv4 address.
    ["::ffff:192.0.2.1", "192.0.2.1"],
    ["[::FFFF:c000:0201]", "192.0.2.1"],
    ["0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1"],
    ["::ffff:255.255.255.255", "255.255.255.255"],
    // Only mapped addresses are: these are IPv6.
    ["::192.0.2.1", "::c000:201"],
    ["::ffff:0:192.0.2.1", "::ffff:0:c000:201"],
    ["64:ff9b::192.0.2.1", "64:ff9b::c000:201"],
  ])("%s is %s", (text, canonical) => {
    expect(canonicalIp(text)).toBe(canonical);
  });

  test.each([
    "",
    "localhost",
    "1",
    "1.2.3",
    "1.2.3.4.5",
    "1.2.3.",
    ".1.2.3",
    "1..2.3",
    "256.0.0.1",
    "1.2.3.1000",
    "01.2.3.4",
    "127.0.0.00",
    "0x7f.0.0.1",
    "1.2.3.4 ",
    " 1.2.3.4",
    "+1.2.3.4",
    "1.2.3.-4",
    "1e1.2.3.4",
    "١.2.3.4",
    "1.2.3.4:5060",
    "[1.2.3.4",
    "[]",
    ":",
    ":::",
    "1::2::3",
    ":1",
    "1:",
    ":1::",
    "::1:",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4::5:6:7:8",
    "12345::",
    "g::",
    "::-1",
    "::+1",
    "::1 ",
    "::1%lo",
    "fe80::1%eth0",
    "[::1]:5060",
    "[::1",
    "::1]",
    "[[::1]]",
    "::1.2.3",
    "::256.1.1.1",
    "1.2.3.4::",
    "::1.2.3.4:5",
    "1:2:3:4:5:6:7:1.2.3.4",
  ])("%p is no IP literal", (text) => {
    expect(canonicalIp(text)).toBeUndefined();
  });

  test("however long the text is, it costs nothing much and is refused", () => {
    for (const part of ["1", ":", "::", "0:", "1.", "f"]) expect(canonicalIp(part.repeat(100_000))).toBeUndefined();
  });

  // Goal: equal means equal as text. Method: random groups in a random spelling, against the plain one.
  test("every spelling of an IPv6 address gives the same text, which is its own canonical form", () => {
    const group = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff }));
    const spelling = fc.record({
      groups: fc.array(group, { minLength: 8, maxLength: 8 }),
      upper: fc.boolean(),
      width: fc.constantFrom(1, 4),
      brackets: fc.boolean(),
      quad: fc.boolean(),
      gap: fc.integer({ min: 0, max: 7 }),
    });
    fc.assert(
      fc.property(spelling, ({ groups, upper, width, brackets, quad, gap }) => {
        const plain = canonicalIp(groups.map((value) => value.toString(16)).join(":"));
        expect(plain).toBeDefined();
        expect(canonicalIp(plain as string)).toBe(plain as string);
        let text = spell(groups, width, quad, gap);
        if (upper) text = text.toUpperCase();
        expect(canonicalIp(brackets ? `[${text}]` : text)).toBe(plain as string);
      }),
      { seed: 2, numRuns: 500 },
    );
  });

  test("any text gives an address or nothing, and never throws", () => {
    const text = fc.string({ unit: fc.constantFrom(..."0123456789abcdefF:.[]% g") });
    fc.assert(
      fc.property(text, (any) => {
        const ip = canonicalIp(any);
        if (ip !== undefined) expect(canonicalIp(ip)).toBe(ip);
      }),
      { seed: 2, numRuns: 2_000 },
    );
  });
});

/** Writes groups as somebody might: the run of zeros that holds `gap` (if there is one) as `::`, the tail as a quad. */
function spell(groups: number[], width: number, quad: boolean, gap: number): string {
  const word = (value: number): string => value.toString(16).padStart(width, "0");
  const [high, low] = [groups[6] as number, groups[7] as number];
  const tail = quad ? `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}` : `${word(high)}:${word(low)}`;
  if (gap >= 6 || groups[gap] !== 0) return [...groups.slice(0, 6).map(word), tail].join(":");
  let end = gap;
  while (end < 6 && groups[end] === 0) end++;
  const left = groups.slice(0, gap).map(word).join(":");
  return `${left}::${[...groups.slice(end, 6).map(word), tail].join(":")}`;
}

describe("endpoint", () => {
  const V4: Endpoint = { transport: "udp", ip: "127.0.0.1", port: 5060 };
  const V6: Endpoint = { transport: "tcp", ip: "::1", port: 5062 };

  test("its key is readable, with brackets around IPv6", () => {
    expect(endpointKey(V4)).toBe("udp:127.0.0.1:5060");
    expect(endpointKey(V6)).toBe("tcp:[::1]:5062");
  });

  test.each<[Partial<Endpoint>]>([[{ transport: "tcp" }], [{ ip: "127.0.0.2" }], [{ port: 5061 }]])(
    "with %j it is another one",
    (change) => {
      expect(sameEndpoint(V4, { ...V4 })).toBe(true);
      expect(sameEndpoint(V4, { ...V4, ...change })).toBe(false);
      expect(endpointKey({ ...V4, ...change })).not.toBe(endpointKey(V4));
    },
  );

  test("hosts are written as SIP writes them", () => {
    expect(["127.0.0.1", "node.example", "::1", "[::1]"].map(formatHost)).toEqual([
      "127.0.0.1",
      "node.example",
      "[::1]",
      "[::1]",
    ]);
    expect([isIpv6("::1"), isIpv6("127.0.0.1")]).toEqual([true, false]);
  });

  test("streams are reliable, and only TLS has a port of its own", () => {
    expect([isReliable("udp"), isReliable("tcp"), isReliable("tls")]).toEqual([false, true, true]);
    expect([defaultPort("udp"), defaultPort("tcp"), defaultPort("tls")]).toEqual([5060, 5060, 5061]);
  });
});
