import { describe, expect, test } from "bun:test";
import { isWithin, parseAllow, parseNetwork } from "../../src/core/networks.ts";

function within(ip: string, ...texts: string[]): boolean {
  return isWithin(
    ip,
    texts.flatMap((text) => {
      const rule = parseAllow(text);
      if (rule === undefined || rule === "members") throw new Error(`${text} is no set of addresses`);
      return rule;
    }),
  );
}

describe("networks", () => {
  const inside: [ip: string, text: string][] = [
    ["192.0.2.1", "192.0.2.0/24"],
    ["192.0.2.255", "192.0.2.0/24"],
    ["192.0.2.7", "192.0.2.7"],
    ["192.0.2.9", "192.0.2.8/29"],
    ["192.0.2.7", "::ffff:192.0.2.0/120"],
    ["192.0.2.7", "::ffff:192.0.2.7"],
    ["::ffff:192.0.2.7", "192.0.2.0/24"],
    ["2001:db8::1", "2001:db8::/32"],
    ["2001:db8::1", "2001:0DB8:0:0::1"],
    ["203.0.113.1", "0.0.0.0/0"],
    ["2001:db8::1", "::/0"],
    ["203.0.113.1", "any"],
    ["2001:db8::1", "any"],
    ["10.255.0.1", "private"],
    ["172.31.0.1", "private"],
    ["192.168.9.9", "private"],
    ["100.127.0.1", "private"],
    ["127.0.0.9", "private"],
    ["169.254.3.4", "private"],
    ["fd00::1", "private"],
    ["::1", "private"],
    ["fe80::1%eth0", "private"],
    ["::ffff:10.0.0.1", "private"],
  ];
  for (const [ip, text] of inside) test(`${ip} is in ${text}`, () => expect(within(ip, text)).toBe(true));

  const outside: [ip: string, text: string][] = [
    ["192.0.3.1", "192.0.2.0/24"],
    ["192.0.2.16", "192.0.2.8/29"],
    ["2001:db9::1", "2001:db8::/32"],
    ["192.0.2.1", "::/0"],
    ["2001:db8::1", "0.0.0.0/0"],
    ["172.32.0.1", "private"],
    ["100.128.0.1", "private"],
    ["11.0.0.1", "private"],
    ["fec0::1", "private"],
    ["::", "private"],
    ["2001:db8::1", "private"],
    ["no address", "any"],
  ];
  for (const [ip, text] of outside) test(`${ip} is not in ${text}`, () => expect(within(ip, text)).toBe(false));

  const broken = [
    ...[
      "",
      "10.0.0.0/33",
      "10.0.0.0/",
      "10.0.0.0/08",
      "10.0.0.0/-1",
      "10.0.0.1/8",
      "2001:db8::1/32",
      "::/129",
      "10.0.0",
    ],
    ...[
      "0x7f.0.0.1",
      "127.1",
      "010.0.0.1",
      "node.example",
      "[::1]",
      "PRIVATE",
      "private ",
      "1.2.3.4/24/8",
      "fe80::1%eth0",
    ],
  ];
  for (const text of broken)
    test(`${JSON.stringify(text)} is refused`, () => {
      expect(parseAllow(text)).toBeUndefined();
      expect(parseNetwork(text)).toBeUndefined();
    });
});
