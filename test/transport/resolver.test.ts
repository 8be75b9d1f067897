import { describe, expect, test } from "bun:test";
import { TransportError } from "../../src/core/errors.ts";
import { type Lookup, Resolver } from "../../src/transport/resolver.ts";
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

async function failureOf(promise: Promise<unknown>): Promise<TransportError> {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(TransportError);
  return error as TransportError;
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
      expect(await new Resolver({ lookup }).resolve(host)).toEqual([expected]);
      expect(asked).toEqual([]);
    });
  }

  test("resolver: the system knows localhost", async () => {
    expect(await new Resolver().resolve("localhost")).toContain("127.0.0.1");
  });

  test("resolver: a name that does not exist is an error that names it", async () => {
    const error = await failureOf(new Resolver().resolve("no-such-host.invalid"));
    expect(error.code).toBe("transport-connect");
    expect(error.message).toStartWith('resolve "no-such-host.invalid" failed: ');
  });

  test("resolver: A comes before AAAA, in one spelling, each once", async () => {
    const { lookup, answer } = byHand();
    const resolved = new Resolver({ lookup }).resolve("seed.example.org");
    answer("seed.example.org", "2001:DB8::0:1", "192.0.2.2", "192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1");
    expect(await resolved).toEqual(["192.0.2.2", "192.0.2.1", "2001:db8::1"]);
  });

  test("resolver: a name without addresses is an error", async () => {
    const { lookup, answer } = byHand();
    const resolved = failureOf(new Resolver({ lookup }).resolve("empty.example.org"));
    answer("empty.example.org");
    expect((await resolved).message).toContain("the name has no address");
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
      const error = await failureOf(new Resolver({ lookup }).resolve(host));
      expect(error.message).toContain("not a host name");
      expect(asked).toEqual([]);
    });
  }

  test("resolver: a name is asked once for all who wait, and again when the answer is old", async () => {
    const { lookup, asked, answer } = byHand();
    const resolver = new Resolver({ lookup, cacheMs: 50 });
    const both = Promise.all([resolver.resolve("a.example"), resolver.resolve("A.example")]);
    answer("a.example", "192.0.2.1");
    expect(await both).toEqual([["192.0.2.1"], ["192.0.2.1"]]);
    expect(await resolver.resolve("a.example")).toEqual(["192.0.2.1"]);
    expect(asked).toEqual(["a.example"]);
    await until("the second question", () => {
      void resolver.resolve("a.example");
      return asked.length === 2;
    });
    answer("a.example", "192.0.2.2");
    expect(await resolver.resolve("a.example")).toEqual(["192.0.2.2"]);
  });

  test("resolver: what one caller does to its answer, the next does not see", async () => {
    const resolver = new Resolver({ lookup: async () => [{ address: "192.0.2.1" }] });
    (await resolver.resolve("a.example")).push("mine");
    expect(await resolver.resolve("a.example")).toEqual(["192.0.2.1"]);
  });

  test("resolver: a failure is not kept", async () => {
    const answers = [[], [{ address: "192.0.2.1" }]];
    const resolver = new Resolver({ lookup: async () => answers.shift() ?? [] });
    await failureOf(resolver.resolve("a.example"));
    expect(await resolver.resolve("a.example")).toEqual(["192.0.2.1"]);
  });

  test("resolver: no answer in time is an error, for those who wait for their turn as well", async () => {
    const { lookup, asked } = byHand();
    const resolver = new Resolver({ lookup, timeoutMs: 30, maxConcurrent: 1 });
    const errors = await Promise.all([
      failureOf(resolver.resolve("a.example")),
      failureOf(resolver.resolve("b.example")),
    ]);
    for (const error of errors) expect(error.message).toContain("no answer in 30 ms");
    expect(asked).toEqual(["a.example"]);
  });

  test("resolver: only so many lookups run at a time, the rest wait, and beyond a limit they fail at once", async () => {
    const { lookup, asked, answer } = byHand();
    const resolver = new Resolver({ lookup, maxConcurrent: 2, maxWaiting: 1 });
    const first = resolver.resolve("a.example");
    const rest = [resolver.resolve("b.example"), resolver.resolve("c.example")];
    expect((await failureOf(resolver.resolve("d.example"))).message).toContain("1 names wait already");
    expect(asked).toEqual(["a.example", "b.example"]);
    answer("a.example", "192.0.2.1");
    expect(await first).toEqual(["192.0.2.1"]);
    await until("the turn of the third", () => asked.length === 3);
    answer("b.example", "192.0.2.2");
    answer("c.example", "192.0.2.3");
    expect(await Promise.all(rest)).toEqual([["192.0.2.2"], ["192.0.2.3"]]);
  });
});
