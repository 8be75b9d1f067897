/** Nodes of ours over TLS in one process: they meet, talk and survive a reload; what is refused has its reason on both sides. */
import { afterAll, afterEach, expect, test } from "bun:test";
import { copyFileSync, writeFileSync } from "node:fs";
import { ConfigError } from "../../src/core/errors.ts";
import { type CreateNodeOptions, createNode, type RunningNode } from "../../src/daemon/driver.ts";
import type { TlsOptions } from "../../src/transport/tls.ts";
import { Certificates, describeTls, type Pair } from "../helpers/certificates.ts";
import { until } from "../helpers/wait.ts";

const nodes: RunningNode[] = [];

async function node(options: CreateNodeOptions): Promise<RunningNode & { warned: string[] }> {
  const warned: string[] = [];
  const made = await createNode({ pingIntervalMs: 2_000, ...options }, (fresh) => {
    fresh.on("warning", ({ code, text }) => {
      if (code === "tls-refused") warned.push(text);
    });
  });
  nodes.push(made);
  return Object.assign(made, { warned });
}

afterEach(async () => {
  await Promise.all(nodes.splice(0).map((each) => each.close({ announce: false })));
});

async function knows(observer: RunningNode, peer: RunningNode): Promise<void> {
  const isActive = (): boolean => observer.nodes().some(({ uri, status }) => uri === peer.uri() && status === "active");
  await until(isActive, 5_000, `${observer.uri()} knows ${peer.uri()}`);
}

function text(body: Uint8Array): string {
  return new TextDecoder().decode(body);
}

describeTls("nodes over TLS", () => {
  const made = new Certificates();
  afterAll(() => made.remove());
  const authority = made.authority("authority");
  const stranger = made.authority("stranger");
  const ca = authority.cert;
  const everywhere = "IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3,IP:::1,DNS:localhost";
  const here: TlsOptions = { ...made.issue(authority, everywhere), ca };
  const mutual: TlsOptions = { ...here, requireClientCert: true };

  const pairs: [what: string, first: CreateNodeOptions, second: CreateNodeOptions, seed?: (uri: string) => string][] = [
    ["TLS", at("sips:127.0.0.1:0", here), at("sip:127.0.0.2:0;transport=tls", here)],
    ["mutual TLS", at("sips:127.0.0.1:0", mutual), at("sips:127.0.0.2:0", mutual)],
    ["mutual TLS and IPv6", at("sips:[::1]:0", mutual), at("sips:[::1]:0", mutual)],
    [
      "a name",
      at("sips:127.0.0.1:0", mutual),
      at("sips:127.0.0.2:0", mutual),
      (uri) => uri.replace("127.0.0.1", "localhost"),
    ],
  ];
  for (const [what, first, second, seed = (uri: string) => uri] of pairs)
    test(`tls: two nodes over ${what} find each other and talk both ways`, async () => {
      const a = await node(first);
      const b = await node({ ...second, notificationAddresses: [seed(a.uri())] });
      await Promise.all([
        knows(a, b),
        until(() => b.nodes().some(({ status }) => status === "active"), 5_000, "b has a"),
      ]);
      expect([a.uri(), b.uri()].every((uri) => uri.endsWith(";transport=tls"))).toBe(true);
      expect(a.sockets().map(({ transport }) => transport)).toEqual(["tls"]);
      const heard: string[] = [];
      a.channel("lab", ({ body }) => void heard.push(text(body)));
      b.channel("lab", ({ body }) => void heard.push(text(body)));
      const reports = [await a.send("lab", b.uri(), "to b"), ...(await b.broadcast("lab", "to a"))];
      expect(reports.map(({ outcome }) => outcome.type)).toEqual(["delivered", "delivered"]);
      expect(heard).toEqual(["to b", "to a"]);
      const large = await a.send("lab", b.uri(), new Uint8Array(1_000_000));
      expect([large.outcome.type, heard[2]?.length]).toEqual(["delivered", 1_000_000]);
      expect([...a.warned, ...b.warned]).toEqual([]);
    });

  test("tls: with multi_notify a certificate for the name of the notification address is good for its addresses", async () => {
    const named: TlsOptions = { ...made.issue(authority, "DNS:localhost"), ca };
    const a = await node(at("sips:127.0.0.1:0", named));
    const uri = a.uri().replace("127.0.0.1", "localhost");
    const b = await node({ ...at("sips:127.0.0.2:0", here), multiNotify: true, notificationAddresses: [uri] });
    await knows(b, a);
    expect((await b.send("notification_peer", a.uri(), "")).outcome.type).not.toBe("unreachable");
    const c = await node({ ...at("sips:127.0.0.3:0", here), notificationAddresses: [a.uri()] });
    await until(
      () => c.warned.length > 0,
      5_000,
      "a certificate without the IP is refused where nothing but the IP is known",
    );
    expect(c.warned[0]).toContain("is not for 127.0.0.1, but for DNS:localhost");
  });

  function at(serverAddress: string, tls: TlsOptions): CreateNodeOptions {
    return { serverAddress, tls };
  }

  test("tls: a node speaks UDP, TCP and TLS beside one another, and flows of one are not those of the other", async () => {
    const a = await node({
      serverAddress: "sips:127.0.0.1:0",
      tls: here,
      serverSockets: ["tls:127.0.0.1:0", "tcp:127.0.0.1:0"],
    });
    const tcp = a.sockets().find(({ transport }) => transport === "tcp")?.port;
    const b = await node({ serverAddress: "sips:127.0.0.2:0", tls: here, notificationAddresses: [a.uri()] });
    const c = await node({
      serverAddress: "sip:127.0.0.3:0;transport=tcp",
      notificationAddresses: [`sip:127.0.0.1:${tcp};transport=tcp`],
      tls: { ca },
    });
    await Promise.all([knows(a, b), knows(a, c), knows(c, b)]);
    const heard: string[] = [];
    a.channel("lab", ({ body }) => void heard.push(text(body)));
    const sends = Array.from({ length: 50 }, (_, i) => [
      b.broadcast("lab", `b${i}`),
      c.broadcast("lab", `c${i}`),
    ]).flat();
    // Who knows a node by two addresses sends to both: what counts is that every one arrives whole, by either way.
    const outcomes = (await Promise.all(sends)).flat().filter(({ peer }) => peer.startsWith("sip:127.0.0.1:"));
    expect(outcomes.length).toBeGreaterThanOrEqual(100);
    expect(outcomes.filter(({ outcome }) => outcome.type !== "delivered")).toEqual([]);
    expect([...new Set(heard)].sort()).toEqual(
      Array.from({ length: 50 }, (_, i) => [`b${i}`, `c${i}`])
        .flat()
        .sort(),
    );
  });

  test("tls: a node on TLS alone says what it lacks for a peer on UDP", async () => {
    const a = await node(at("sips:127.0.0.1:0", here));
    a.add("sip:127.0.0.2:5999", "active");
    const { outcome } = await a.send("lab", "sip:127.0.0.2:5999", "x");
    expect(outcome.type === "unreachable" ? outcome.reason : outcome.type).toContain("this node has no udp socket");
  });

  const refused: [what: string, server: TlsOptions, client: TlsOptions, there: RegExp, here: RegExp][] = [
    [
      "a certificate for another address",
      { ...made.issue(authority, "IP:127.0.0.9"), ca },
      here,
      /certificate is not for 127\.0\.0\.1/,
      /ended/,
    ],
    [
      "an expired certificate",
      { ...made.issue(authority, everywhere, { from: -9, to: -2 }), ca },
      here,
      /expired on/,
      /ended/,
    ],
    ["a client without a certificate", mutual, { ca }, /alert 116 certificate_required/, /gave no client certificate/],
    [
      "a client of another authority",
      mutual,
      { ca, ...made.issue(stranger, everywhere) },
      /without a word: it may not accept our certificate/,
      /unknown authority, stranger/,
    ],
  ];
  for (const [what, server, client, there, hereSays] of refused)
    test(`tls: ${what} is refused at once, with a reason in the outcome and in both logs`, async () => {
      const a = await node(at("sips:127.0.0.1:0", server));
      const b = await node({ serverAddress: "sip:127.0.0.2:0", tls: client });
      b.add(a.uri(), "active");
      const report = await b.send("lab", a.uri(), "x");
      expect(report.outcome.type).toBe("unreachable");
      expect(report.outcome.type === "unreachable" ? report.outcome.reason : "").toMatch(there);
      expect(report.elapsedMs).toBeLessThan(3_000);
      expect(b.warned[0]).toMatch(there);
      await until(() => a.warned.length > 0, 3_000, "the other side says so");
      expect(a.warned[0]).toMatch(hereSays);
      expect(a.nodes()).toEqual([]);
    });

  function replace(files: Pair, by: Pair): void {
    copyFileSync(by.cert, files.cert);
    copyFileSync(by.key, files.key);
  }

  test("tls: a reload under traffic loses no message, and bad files change nothing", async () => {
    const files = { cert: made.path("live.pem"), key: made.path("live.key") };
    replace(files, made.issue(authority, everywhere));
    const a = await node(at("sips:127.0.0.1:0", { ...files, ca, requireClientCert: true }));
    const b = await node({ ...at("sips:127.0.0.2:0", mutual), notificationAddresses: [a.uri()] });
    await Promise.all([knows(a, b), knows(b, a)]);
    const heard = new Set<string>();
    a.channel("lab", ({ body }) => void heard.add(text(body)));
    const outcomes: string[] = [];
    const renewed = [
      made.issue(authority, everywhere),
      made.issue(authority, everywhere),
      made.issue(authority, everywhere),
    ];
    for (let i = 0; i < 300; i++) {
      const fresh = i % 100 === 50 ? renewed.pop() : undefined;
      if (fresh !== undefined) {
        replace(files, fresh);
        const reloaded = a.reloadTls();
        outcomes.push((await b.send("lab", a.uri(), `${i}`)).outcome.type);
        expect(await reloaded).toBe(true);
      } else {
        outcomes.push((await b.send("lab", a.uri(), `${i}`)).outcome.type);
      }
    }
    expect([outcomes.filter((type) => type === "delivered").length, heard.size]).toEqual([300, 300]);
    expect(renewed).toEqual([]);
    writeFileSync(files.cert, "no certificate");
    const failure = await a.reloadTls().catch((cause: unknown) => cause);
    expect(failure).toBeInstanceOf(ConfigError);
    expect((failure as ConfigError).message).toContain("tls_cert: got");
    // Whoever comes now still meets the certificate that was good.
    const c = await node({ ...at("sips:127.0.0.3:0", mutual), notificationAddresses: [a.uri()] });
    await knows(c, a);
    expect([...a.warned, ...b.warned, ...c.warned]).toEqual([]);
  }, 20_000);

  const wrong: [
    what: string,
    options: Omit<CreateNodeOptions, "serverAddress"> & { serverAddress?: string },
    says: string,
  ][] = [
    ["a TLS address without a certificate", { serverAddress: "sips:127.0.0.1:0" }, "got no tls_cert"],
    ["a TLS socket without a certificate", { serverSockets: ["tls:127.0.0.1:0"] }, "got no tls_cert"],
    [
      "required certificates without authorities",
      { tls: { requireClientCert: true } },
      "tls_require_client_cert without tls_ca",
    ],
    ["a file that is not there", { tls: { ca: "/nonexistent.pem" } }, "/nonexistent.pem (ENOENT)"],
    ["sips with another transport", { serverAddress: "sips:127.0.0.1:0;transport=tcp" }, "server_address"],
  ];
  for (const [what, options, says] of wrong)
    test(`tls: ${what} ends a start with a ConfigError`, async () => {
      const failure = await createNode({ serverAddress: "sip:127.0.0.1:0", ...options }).catch(
        (cause: unknown) => cause,
      );
      expect(failure).toBeInstanceOf(ConfigError);
      expect((failure as ConfigError).message).toContain(says);
    });

  test("tls: without files there is nothing to read again", async () => {
    expect(await (await node({ serverAddress: "sip:127.0.0.1:0" })).reloadTls()).toBe(false);
  });
});
