import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConfigError, TransportError } from "../../src/core/errors.ts";
import { candidatesOf, parseDnsServer, parseResolvConf } from "../../src/transport/dns-system.ts";
import { type Lookup, type Resolution, Resolver, type ResolverOptions } from "../../src/transport/resolver.ts";
import { until } from "./recorder.ts";

/** A lookup that notes what it is asked and is answered by hand. */
function byHand(): { lookup: Lookup; asked: string[]; answer: (host: string, ...addresses: string[]) => void } {
  const asked: string[] = [];
  const open = new Map<string, (found: { address: string }[]) => void>();
  const lookup: Lookup = (host) => {
    asked.push(host);
    return new Promise((resolve) => open.set(host, resolve));
  };
  const answer = (host: string, ...addresses: string[]): void =>
    open.get(host)?.(addresses.map((address) => ({ address })));
  return { lookup, asked, answer };
}

/** A resolver without DNS and without a table of its own: only the system's lookup is left. */
function systemOnly(options: ResolverOptions = {}): Resolver {
  return new Resolver({ hostsPath: "/nowhere/hosts", resolvConfPath: "/nowhere/resolv.conf", ...options });
}

async function addressesOf(resolver: Resolver, host: string): Promise<readonly string[]> {
  return (await resolver.resolve(host)).addresses;
}

async function failureOf(resolution: Promise<Resolution>): Promise<TransportError> {
  const { addresses, cause } = await resolution;
  expect(addresses).toEqual([]);
  expect(cause).toBeInstanceOf(TransportError);
  return cause as TransportError;
}

describe("resolver", () => {
  for (const [host, expected] of [
    ["127.0.0.1", "127.0.0.1"],
    ["::1", "::1"],
    ["[2001:DB8:0:0::1]", "2001:db8::1"],
    ["::ffff:192.0.2.1", "192.0.2.1"],
  ] as const) {
    test(`resolver: the literal ${host} gives ${expected}, and nobody is asked`, async () => {
      const { lookup, asked } = byHand();
      expect(await addressesOf(systemOnly({ lookup }), host)).toEqual([expected]);
      expect(asked).toEqual([]);
    });
  }

  test("resolver: the system knows localhost", async () => {
    expect(await addressesOf(new Resolver(), "localhost")).toContain("127.0.0.1");
  });

  test("resolver: the machine's table comes first, with comments, aliases and any case", async () => {
    const dir = mkdtempSync(join(tmpdir(), "hosts-"));
    const hostsPath = join(dir, "hosts");
    writeFileSync(
      hostsPath,
      "# 192.0.2.9 a.example\n192.0.2.1\tx.example A.Example # two\n::1 a.example\nnonsense a.example\n",
    );
    const { lookup, asked } = byHand();
    expect(await addressesOf(systemOnly({ lookup, hostsPath }), "a.EXAMPLE")).toEqual(["192.0.2.1", "::1"]);
    const families = { ipv4: false, ipv6: true };
    expect(await addressesOf(systemOnly({ lookup, hostsPath, families }), "a.example.")).toEqual(["::1"]);
    expect(asked).toEqual([]);
    rmSync(dir, { recursive: true });
  });

  test("resolver: a name that does not exist is an answer that says so and names it", async () => {
    const error = await failureOf(systemOnly().resolve("no-such-host.invalid"));
    expect(error.code).toBe("transport-connect");
    expect(error.message).toStartWith('resolve "no-such-host.invalid" failed: ');
  });

  test("resolver: A comes before AAAA, in one spelling, each once", async () => {
    const { lookup, asked, answer } = byHand();
    const resolved = addressesOf(systemOnly({ lookup }), "seed.example.org");
    await until("the question", () => asked.length === 1);
    answer("seed.example.org", "2001:DB8::0:1", "192.0.2.2", "192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1");
    expect(await resolved).toEqual(["192.0.2.2", "192.0.2.1", "2001:db8::1"]);
  });

  test("resolver: addresses of a family that cannot be reached are left out", async () => {
    const lookup: Lookup = async () => [{ address: "192.0.2.1" }, { address: "2001:db8::1" }];
    const of = (ipv4: boolean, ipv6: boolean): Promise<readonly string[]> =>
      addressesOf(systemOnly({ lookup, families: { ipv4, ipv6 } }), "a.example");
    expect([await of(true, false), await of(false, true)]).toEqual([["192.0.2.1"], ["2001:db8::1"]]);
  });

  test("resolver: a name without addresses is an answer with nothing in it, and whole", async () => {
    const resolution = await systemOnly({ lookup: async () => [] }).resolve("empty.example.org");
    expect(resolution).toMatchObject({ addresses: [], services: [], complete: true });
    expect(resolution.cause?.message).toContain("the name has no address that is of use here");
  });

  for (const host of [
    "",
    "a b",
    "a..b",
    "x\r\ny",
    "é.example",
    "010.1",
    "127.1",
    "0x7f000001",
    `${"a".repeat(64)}.org`,
  ]) {
    test(`resolver: ${JSON.stringify(host.slice(0, 20))} is no host name, and nobody is asked`, async () => {
      const { lookup, asked } = byHand();
      const error = await failureOf(systemOnly({ lookup }).resolve(host));
      expect(error.message).toContain("not a host name");
      expect(asked).toEqual([]);
    });
  }

  test("resolver: a name is asked once for all who wait, and again when the answer is old", async () => {
    const { lookup, asked, answer } = byHand();
    const resolver = systemOnly({ lookup, localTtlMs: 50 });
    const both = Promise.all([addressesOf(resolver, "a.example"), addressesOf(resolver, "A.example")]);
    await until("the question", () => asked.length === 1);
    answer("a.example", "192.0.2.1");
    expect(await both).toEqual([["192.0.2.1"], ["192.0.2.1"]]);
    const again = await resolver.resolve("a.example");
    expect(again.addresses).toEqual(["192.0.2.1"]);
    expect(again.ttlMs).toBeLessThanOrEqual(50);
    expect(asked).toEqual(["a.example"]);
    await until("the second question", () => {
      void resolver.resolve("a.example");
      return asked.length === 2;
    });
    answer("a.example", "192.0.2.2");
    expect(await addressesOf(resolver, "a.example")).toEqual(["192.0.2.2"]);
  });

  test("resolver: a failure is not kept", async () => {
    const answers = [() => Promise.reject(new Error("EAI_AGAIN")), async () => [{ address: "192.0.2.1" }]];
    const resolver = systemOnly({ lookup: () => (answers.shift() as () => ReturnType<Lookup>)() });
    expect(await resolver.resolve("a.example")).toMatchObject({ addresses: [], complete: false });
    expect(await resolver.resolve("a.example")).toMatchObject({ addresses: ["192.0.2.1"], complete: true });
  });

  test("resolver: no answer in time is none, for those who wait for their turn as well", async () => {
    const { lookup, asked } = byHand();
    const resolver = systemOnly({ lookup, timeoutMs: 100 });
    const names = ["a", "b", "c", "d", "e", "f"].map((name) => `${name}.example`);
    const errors = await Promise.all(names.map((name) => failureOf(resolver.resolve(name))));
    for (const error of errors) expect(error.message).toContain("no answer in 100 ms");
    // A lookup that hangs holds a thread: there are never more than four.
    expect(asked).toHaveLength(4);
  });

  test("resolver: only so many lookups run at a time, the rest wait, and beyond a limit they fail at once", async () => {
    const { lookup, asked, answer } = byHand();
    const resolver = systemOnly({ lookup, maxWaiting: 1 });
    const names = ["a", "b", "c", "d", "e", "f"].map((name) => `${name}.example`);
    const all = names.map((name) => resolver.resolve(name));
    const refused = await Promise.race(all);
    expect(refused.cause?.message).toContain("1 questions wait already");
    expect(asked).toHaveLength(4);
    answer(asked[0] as string, "192.0.2.1");
    await until("the turn of the fifth", () => asked.length === 5);
    for (const name of asked) answer(name, "192.0.2.1");
    const found = (await Promise.all(all)).filter((each) => each !== refused);
    expect(found.map(({ addresses }) => addresses)).toEqual(new Array(5).fill(["192.0.2.1"]));
  });

  test("resolver: closing it answers all who wait", async () => {
    const { lookup, asked } = byHand();
    const resolver = systemOnly({ lookup });
    const waiting = failureOf(resolver.resolve("a.example"));
    await until("the question", () => asked.length === 1);
    resolver.close();
    expect((await waiting).message).toContain("the resolver is closed");
  });
});

describe("resolver: what the machine says", () => {
  test("resolv.conf: servers, search list and ndots; what is not understood is passed over", () => {
    const text = [
      "# nameserver 192.0.2.9",
      "domain old.example",
      "search corp.example. LAB.example",
      "nameserver 192.0.2.1 ; first",
      "nameserver fe80::1%eth0",
      "nameserver 2001:DB8::0:1",
      "options timeout:1 ndots:5 rotate",
      "sortlist 130.155.160.0",
    ].join("\n");
    const servers = ["192.0.2.1", "2001:db8::1"].map((ip) => ({ ip, port: 53 }));
    expect(parseResolvConf(text)).toEqual({ servers, search: ["corp.example", "lab.example"], ndots: 5 });
    expect(parseResolvConf("")).toEqual({ servers: [], search: [], ndots: 1 });
  });

  for (const [name, ndots, expected] of [
    ["bus", 1, ["bus.a.test", "bus.b.test", "bus"]],
    ["bus.c", 1, ["bus.c", "bus.c.a.test", "bus.c.b.test"]],
    ["bus.c", 5, ["bus.c.a.test", "bus.c.b.test", "bus.c"]],
    ["bus.", 5, ["bus"]],
  ] as const)
    test(`search list: ${name} with ndots ${ndots}`, () =>
      expect(candidatesOf(name, { servers: [], search: ["a.test", "b.test"], ndots })).toEqual([...expected]));

  for (const [text, expected] of [
    ["192.0.2.53", { ip: "192.0.2.53", port: 53 }],
    ["127.0.0.1:5353", { ip: "127.0.0.1", port: 5353 }],
    ["[2001:db8::1]:53", { ip: "2001:db8::1", port: 53 }],
    ["::1", { ip: "::1", port: 53 }],
  ] as const)
    test(`dns_server: ${text}`, () => expect(parseDnsServer(text)).toEqual(expected));

  for (const text of ["dns.example", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "", ":53"])
    test(`dns_server: ${JSON.stringify(text)} is refused`, () =>
      expect(() => parseDnsServer(text)).toThrow(ConfigError));
});
