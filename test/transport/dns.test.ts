/**
 * Questions to DNS servers: a real one (dnsmasq), and ones that are silent, wrong or hostile. The machine's own table and
 * servers play no part.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type Answer, decode, encode } from "dns-packet";
import { type Resolution, Resolver, type ResolverOptions } from "../../src/transport/resolver.ts";
import { DnsServer, describeDns, type OddAnswer, type OddDns, oddDns } from "../helpers/dns.ts";
import { until } from "../helpers/wait.ts";

function resolverAt(servers: readonly string[], options: ResolverOptions = {}): Resolver {
  return new Resolver({ servers, hostsPath: "/nowhere/hosts", ...options });
}

describeDns("dns: a real server", () => {
  const services = {
    "_sip._udp.bus.test": [
      { target: "b.bus.test", port: 5091 },
      { target: "a.bus.test", port: 5090 },
      { target: "gone.bus.test", port: 5092 },
    ],
  };
  const many = Array.from({ length: 200 }, (_, i) => `127.1.0.${i + 1}`);
  const hosts = {
    "a.bus.test": ["127.0.0.1", "::1"],
    "b.bus.test": ["127.0.0.2"],
    "bus.test": ["127.0.0.1", "127.0.0.2", "127.0.0.3"],
    "many.test": many,
  };
  let dns: DnsServer;

  beforeAll(async () => {
    dns = await DnsServer.start({ hosts, services, aliases: { "alias.test": "bus.test" } }, 7);
  });

  afterAll(() => dns.end());

  test("dns: A and AAAA with their TTL, IPv4 first", async () => {
    const { addresses, complete, ttlMs } = await resolverAt([dns.address]).resolve("A.bus.test");
    expect({ addresses, complete }).toEqual({ addresses: ["127.0.0.1", "::1"], complete: true });
    expect(ttlMs).toBe(7_000);
  });

  test("dns: all addresses of a name, also by an alias", async () => {
    const resolver = resolverAt([dns.address]);
    for (const name of ["bus.test", "alias.test", "bus.test."])
      expect([...(await resolver.resolve(name)).addresses].sort()).toEqual(hosts["bus.test"]);
  });

  test("dns: 200 addresses do not fit a datagram and come over TCP", async () => {
    const { addresses, complete } = await resolverAt([dns.address]).resolve("many.test");
    expect([...addresses].sort()).toEqual([...many].sort());
    expect(complete).toBe(true);
  });

  test("dns: SRV records of exactly the name, each target's addresses with its port", async () => {
    const resolver = resolverAt([dns.address]);
    const found = await resolver.resolve("_sip._udp.bus.test", true);
    expect(found).toMatchObject({ addresses: [], complete: true, ttlMs: expect.any(Number) });
    const inOrder = found.services.map(({ ip, port }) => `${ip} ${port}`).sort();
    expect(inOrder).toEqual(["127.0.0.1 5090", "127.0.0.2 5091", "::1 5090"]);
    expect((await resolver.resolve("bus.test", true)).services).toEqual([]);
  });

  test("dns: without IPv6 nobody asks for AAAA", async () => {
    const families = { ipv4: true, ipv6: false };
    await dns.setZone({ hosts, services });
    const found = await resolverAt([dns.address], { families }).resolve("_sip._udp.bus.test", true);
    expect(found.services.map(({ ip }) => ip).sort()).toEqual(["127.0.0.1", "127.0.0.2"]);
    expect([dns.asked("A a.bus.test"), dns.asked("AAAA a.bus.test")]).toEqual([1, 0]);
  });

  test("dns: a name that is not there is a whole answer, and so is one without addresses", async () => {
    for (const name of ["nobody.bus.test", "_sip._udp.bus.test"]) {
      const found = await resolverAt([dns.address]).resolve(name);
      expect(found).toMatchObject({ addresses: [], complete: true });
      expect(found.cause?.message).toContain(`resolve ${JSON.stringify(name)} failed`);
    }
  });

  test("dns: nobody is asked again while the answer holds, and what is given again holds shorter", async () => {
    await dns.setZone({ hosts, services });
    const resolver = resolverAt([dns.address]);
    const first = await resolver.resolve("b.bus.test", true);
    for (let i = 0; i < 5; i++) await resolver.resolve("b.bus.test", true);
    const again = await resolver.resolve("b.bus.test");
    expect(again.addresses).toEqual(["127.0.0.2"]);
    expect(again.ttlMs).toBeLessThan(first.ttlMs);
    expect(["A", "AAAA", "SRV"].map((type) => dns.asked(`${type} b.bus.test`))).toEqual([1, 1, 1]);
  });

  test("dns: when the TTL is over the new addresses come", async () => {
    const moving = await DnsServer.start({ hosts: { "moving.test": ["127.0.0.1"] } }, 1);
    try {
      const resolver = resolverAt([moving.address]);
      expect((await resolver.resolve("moving.test")).addresses).toEqual(["127.0.0.1"]);
      moving.setHosts({ "moving.test": ["127.0.0.9"] });
      const has = async (): Promise<boolean> => (await resolver.resolve("moving.test")).addresses[0] === "127.0.0.9";
      await until(has, 4_000, "the new address");
      expect(moving.asked("A moving.test")).toBeLessThanOrEqual(5);
    } finally {
      await moving.end();
    }
  });

  test("dns: a dead server is passed over for a live one, and then asked last", async () => {
    const resolver = resolverAt(["127.0.0.1:1", dns.address]);
    expect((await resolver.resolve("b.bus.test")).addresses).toEqual(["127.0.0.2"]);
    const silent = await oddDns(() => []);
    const slow = resolverAt([silent.address, dns.address]);
    expect((await slow.resolve("b.bus.test")).addresses).toEqual(["127.0.0.2"]);
    const asked = silent.asked.length;
    expect((await slow.resolve("a.bus.test")).addresses).toEqual(["127.0.0.1", "::1"]);
    expect([asked, silent.asked.length]).toEqual([2, 2]);
    silent.close();
  });
});

const NAME = "odd.test";

/** The octets of a response to `question`, as a server would write them. */
function reply(
  question: Uint8Array,
  answers: Answer[],
  more: { flags?: number; id?: number; name?: string; authorities?: Answer[] } = {},
): Buffer {
  const { id, questions } = decode(Buffer.from(question));
  const asked = (questions ?? []).map((each) => ({ ...each, name: more.name ?? each.name }));
  const { flags = 0, authorities = [] } = more;
  return encode({ type: "response", id: more.id ?? id ?? 0, flags, questions: asked, answers, authorities });
}

function a(ip: string, name = NAME, ttl = 60): Answer {
  return { type: "A", name, ttl, data: ip };
}

function aaaa(ip: string, name: string): Answer {
  return { type: "AAAA", name, ttl: 60, data: ip };
}

function cname(name: string, data: string, ttl = 60): Answer {
  return { type: "CNAME", name, ttl, data };
}

/** @returns why nothing can listen there, `undefined` if it can */
function portProblem(place: { hostname: string; port: number }): string | undefined {
  try {
    Bun.listen({ ...place, socket: { data() {} } }).stop(true);
    return undefined;
  } catch (cause) {
    return `${place.hostname}:${place.port} cannot be listened at (${(cause as { code?: string }).code})`;
  }
}

function nameIn(question: Uint8Array): string {
  return decode(Buffer.from(question)).questions?.[0]?.name ?? "";
}

const TRUNCATED = 1 << 9;
const NXDOMAIN = 3;
const SERVFAIL = 2;

describe("dns: servers that are odd", () => {
  const open: OddDns[] = [];

  async function ask(answer: OddAnswer, options: ResolverOptions & { name?: string } = {}): Promise<Resolution> {
    const server = await oddDns(answer);
    open.push(server);
    const families = { ipv4: true, ipv6: false };
    return resolverAt([server.address], { timeoutMs: 400, families, ...options }).resolve(options.name ?? NAME);
  }

  afterEach(() => {
    for (const server of open.splice(0)) server.close();
  });

  test("dns: an ordinary answer is taken, with the smallest TTL in it", async () => {
    const found = await ask((question) => [reply(question, [a("192.0.2.1"), a("192.0.2.2", "ODD.test", 20)])]);
    expect(found).toMatchObject({ addresses: ["192.0.2.1", "192.0.2.2"], complete: true, ttlMs: 20_000 });
  });

  const silence: [what: string, answer: OddAnswer][] = [
    ["silence", () => []],
    ["garbage", () => [Uint8Array.from({ length: 60 }, (_, i) => (i * 97) & 255)]],
    ["nothing but its id", (question) => [question.subarray(0, 2)]],
    ["the question itself", (question) => [question]],
    ["another id", (question) => [reply(question, [a("192.0.2.66")], { id: 1 + decode(question).id! })]],
    ["another name", (question) => [reply(question, [a("192.0.2.66")], { name: "other.test" })]],
    ["an answer cut off in the middle", (question) => [reply(question, [a("192.0.2.66")]).subarray(0, -6)]],
    ["a name that points at itself", (question) => [pointingAtItself(question)]],
    ["a flood of it", (question) => new Array<Uint8Array>(40).fill(question)],
  ];
  for (const [what, answer] of silence)
    test(`dns: ${what} is no answer, and the name is not known to be gone`, async () => {
      const found = await ask(answer);
      expect(found).toMatchObject({ addresses: [], complete: false });
      expect(found.ttlMs).toBeLessThanOrEqual(1_000);
      expect(found.cause?.message).toStartWith(`resolve "${NAME}" failed: `);
    });

  test("dns: what is wrong is passed over, and the right answer behind it is taken", async () => {
    const found = await ask((question) => [
      Uint8Array.of(1, 2, 3),
      reply(question, [a("192.0.2.66")], { id: 1 + decode(question).id! }),
      reply(question, [a("192.0.2.1")]),
    ]);
    expect(found.addresses).toEqual(["192.0.2.1"]);
  });

  test("dns: an answer from another port than was asked is not even seen", async () => {
    const errors: unknown[] = [];
    const error = (...args: unknown[]): void => void errors.push(args.at(-1));
    const liar = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0, socket: { error } });
    const asker = Promise.withResolvers<number>();
    const server = await Bun.udpSocket({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        error,
        data(_socket, question, port) {
          liar.send(reply(question, [a("192.0.2.66")]), port, "127.0.0.1");
          asker.resolve(port);
        },
      },
    });
    const families = { ipv4: true, ipv6: false };
    const options = { timeoutMs: 400, families };
    const found = await resolverAt([`127.0.0.1:${server.port}`], options).resolve(NAME);
    expect(await asker.promise).toBeGreaterThan(0);
    // The kernel told the liar that nobody is there for it.
    expect(errors.length).toBeGreaterThan(0);
    expect(found).toMatchObject({ addresses: [], complete: false });
    liar.close();
    server.close();
  });

  test("dns: a server that will not say is no answer", async () => {
    const found = await ask((question) => [reply(question, [], { flags: SERVFAIL })]);
    expect(found).toMatchObject({ addresses: [], complete: false });
    expect(found.cause?.message).toContain("answered SERVFAIL");
  });

  test("dns: NXDOMAIN is an answer, and holds as long as its SOA record says", async () => {
    const data = { mname: "m.test", rname: "r.test", serial: 1, refresh: 1, retry: 1, expire: 1, minimum: 9 };
    const soa: Answer = { type: "SOA", name: "test", ttl: 30, data };
    const found = await ask((question) => [reply(question, [], { flags: NXDOMAIN, authorities: [soa] })]);
    expect(found).toMatchObject({ addresses: [], complete: true, ttlMs: 9_000 });
  });

  describe("dns: the search list of the system", () => {
    /** resolv.conf(5) knows no ports. */
    const place = { hostname: "127.0.0.53", port: 53 };
    const resolvConfPath = join(mkdtempSync(join(tmpdir(), "dmq-dns-")), "resolv.conf");
    afterAll(() => rmSync(dirname(resolvConfPath), { recursive: true }));

    async function search(conf: string, answer: OddAnswer): Promise<Resolution> {
      open.push(await oddDns(answer, place));
      writeFileSync(resolvConfPath, `nameserver ${place.hostname}\n${conf}\n`);
      const lookup = async (): Promise<never[]> => [];
      return new Resolver({ hostsPath: "/nowhere/hosts", resolvConfPath, lookup }).resolve(NAME);
    }

    function typeIn(question: Uint8Array): string {
      return decode(Buffer.from(question)).questions?.[0]?.type ?? "";
    }

    const problem = portProblem(place);
    if (problem !== undefined) console.log(`skipped: dns: the search list of the system: ${problem}`);

    test.skipIf(problem !== undefined)("dns: a name that is there is not looked for in the search list", async () => {
      const found = await search("search wild.test", (question) => {
        if (nameIn(question) !== NAME) return [reply(question, [aaaa("::bad", nameIn(question))])];
        return [reply(question, typeIn(question) === "A" ? [a("192.0.2.1")] : [])];
      });
      expect(found).toMatchObject({ addresses: ["192.0.2.1"], complete: true });
    });

    test.skipIf(problem !== undefined)("dns: a dead domain of the search list hides no name behind it", async () => {
      const found = await search("search dead.test\noptions ndots:5", (question) => {
        if (nameIn(question) !== NAME) return [reply(question, [], { flags: SERVFAIL })];
        return [reply(question, typeIn(question) === "A" ? [a("192.0.2.1")] : [])];
      });
      expect(found).toMatchObject({ addresses: ["192.0.2.1"], complete: true });
    });

    test.skipIf(problem !== undefined)(
      "dns: where it has no answer for all candidates, nothing is certain",
      async () => {
        const found = await search("search dead.test\noptions ndots:5", (question) => [
          reply(question, [], { flags: nameIn(question) === NAME ? NXDOMAIN : SERVFAIL }),
        ]);
        expect(found).toMatchObject({ addresses: [], complete: false });
      },
    );
  });

  test("dns: an alias in the answer is followed, and one that leads out of it is asked for", async () => {
    const inside = (question: Buffer): Uint8Array[] => [
      reply(question, [a("192.0.2.1", "end.test", 50), cname("mid.test", "end.test", 40), cname(NAME, "mid.test")]),
    ];
    expect(await ask(inside)).toMatchObject({ addresses: ["192.0.2.1"], ttlMs: 40_000 });
    const outside = (question: Buffer): Uint8Array[] =>
      nameIn(question) === NAME
        ? [reply(question, [cname(NAME, "end.test", 30)])]
        : [reply(question, [a("192.0.2.2", "end.test")])];
    expect(await ask(outside)).toMatchObject({ addresses: ["192.0.2.2"], ttlMs: 30_000 });
  });

  test("dns: aliases in a circle, in one answer or over many, come to an end", async () => {
    const circle = [cname(NAME, "b.test"), cname("b.test", NAME)];
    const inside = await ask((question) => [reply(question, circle)]);
    expect(inside).toMatchObject({ addresses: [], complete: false });
    const outside = await ask((question) => [reply(question, [cname(nameIn(question), `x.${nameIn(question)}`)])]);
    expect(outside).toMatchObject({ addresses: [], complete: false });
    expect(outside.cause?.message).toContain("from alias to alias");
    expect(open.at(-1)?.asked.length).toBe(5);
  });

  test("dns: a truncated answer is asked for over TCP", async () => {
    const found = await ask((question, transport) =>
      transport === "udp"
        ? [reply(question, [a("192.0.2.66")], { flags: TRUNCATED })]
        : [reply(question, [a("192.0.2.1")])],
    );
    expect(found.addresses).toEqual(["192.0.2.1"]);
  });

  test("dns: over TCP garbage, truncation and 64 KiB are no answers either", async () => {
    const cut = (question: Buffer): Buffer => reply(question, [], { flags: TRUNCATED });
    const huge = (question: Buffer): Buffer => {
      const answers = Array.from({ length: 3_000 }, (_, i) => a(`10.0.${i >> 8}.${i & 255}`));
      return reply(question, answers);
    };
    for (const bad of [cut, huge, () => Buffer.alloc(100, 7), () => Buffer.alloc(0)]) {
      const found = await ask((question, transport) => [transport === "udp" ? cut(question) : bad(question)]);
      expect(found).toMatchObject({ addresses: [], complete: false });
    }
  });

  test("dns: odd records and targets are left out", async () => {
    const srv = (target: string, port: number): Answer => ({
      type: "SRV",
      name: NAME,
      ttl: 60,
      data: { target, port, priority: 1, weight: 1 },
    });
    const server = await oddDns((question) => {
      const isSrv = decode(question).questions?.[0]?.type === "SRV";
      const targets = [srv(".", 5060), srv("a.test", 0), srv("a b.test", 1), srv("10.1", 2), srv("A.test", 5090)];
      return [reply(question, isSrv ? targets : [a("192.0.2.1", nameIn(question))])];
    });
    open.push(server);
    const families = { ipv4: true, ipv6: false };
    const found = await resolverAt([server.address], { families }).resolve(NAME, true);
    expect(found.services).toEqual([{ ip: "192.0.2.1", port: 5090 }]);
    expect(found.addresses).toEqual(["192.0.2.1"]);
  });

  test("dns: half an answer says that it is only half", async () => {
    const found = await ask(
      (question) => (decode(question).questions?.[0]?.type === "A" ? [reply(question, [a("192.0.2.1")])] : []),
      { families: { ipv4: true, ipv6: true } },
    );
    expect(found).toMatchObject({ addresses: ["192.0.2.1"], complete: false });
    expect(found.ttlMs).toBeLessThanOrEqual(1_000);
  });

  test("dns: hundreds of names at a silent server: few questions at a time, and all are answered in time", async () => {
    const server = await oddDns(() => []);
    open.push(server);
    const families = { ipv4: true, ipv6: false };
    const resolver = resolverAt([server.address], { timeoutMs: 900, maxConcurrent: 8, families });
    const start = performance.now();
    let [longest, last] = [0, start];
    const beat = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 5);
    const asking = Promise.all(Array.from({ length: 300 }, (_, i) => resolver.resolve(`n${i}.test`)));
    await until(() => server.asked.length >= 8, 800, "the first questions");
    expect(server.asked).toHaveLength(8);
    const all = await asking;
    clearInterval(beat);
    expect(all.every(({ complete }) => !complete)).toBe(true);
    expect(performance.now() - start).toBeLessThan(3_000);
    expect(longest).toBeLessThan(1_000);
  });
});

/** A response whose answer's name is a pointer to its own place (RFC 1035 §4.1.4). */
function pointingAtItself(question: Uint8Array): Uint8Array {
  const bytes = reply(question, [a("192.0.2.66")]);
  const at = question.length;
  bytes.writeUInt16BE(0xc000 | at, at);
  return bytes;
}
