/**
 * TLS streams against each other and against foreign TLS stacks (Node's client, OpenSSL's server): what is verified, what is
 * refused, with which words, and that nobody else notices.
 */
import { afterAll, afterEach, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { ConfigError, type TransportError } from "../../src/core/errors.ts";
import { readTls } from "../../src/transport/certificates.ts";
import { openStreams, type StreamOptions, type StreamTransport } from "../../src/transport/stream.ts";
import { isNamed, type TlsOptions } from "../../src/transport/tls.ts";
import { Certificates, describeTls, type Pair } from "../helpers/certificates.ts";
import { pattern, Recorder, until } from "./recorder.ts";

const cleanups: (() => void)[] = [];

afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

interface Opened {
  transport: StreamTransport;
  sink: Recorder;
  endpoint: Endpoint;
}

const FAST: Partial<StreamOptions> = { halfOpenMs: 100, handshakeTimeoutMs: 300 };

async function streams(tls: TlsOptions, ip: string | undefined = "127.0.0.1", options = FAST): Promise<Opened> {
  const sink = new Recorder();
  const listen = ip === undefined ? undefined : { ip, port: 0 };
  const transport = await openStreams(listen, sink, options, readTls(tls));
  cleanups.push(() => transport.shutdown());
  return { transport, sink, endpoint: { transport: "tls", ip: ip ?? "", port: transport.listener.port } };
}

/** Sends one message and waits for its loss. @returns the reason */
async function refusal(client: Opened, to: Endpoint): Promise<string> {
  client.transport.send(to, undefined, Buffer.from("x"));
  await until("the refusal", () => client.sink.ends.length === 1);
  expect(client.sink.calls).toEqual([`unsent tls ${to.port}`, "closed 1"]);
  expect(client.sink.refusals.length).toBe(1);
  expect((client.sink.losses[0]!.cause as TransportError).code).toBe("tls-refused");
  return client.sink.losses[0]?.cause.message ?? "";
}

describeTls("tls", () => {
  const made = new Certificates();
  afterAll(() => made.remove());
  const authority = made.authority("authority");
  const stranger = made.authority("stranger");
  const ca = authority.cert;
  const here = made.issue(authority, "IP:127.0.0.1,IP:127.0.0.2,IP:::1,DNS:node1.example,URI:sip:bus.example");
  const foreign = made.issue(stranger, "IP:127.0.0.1");
  const good: TlsOptions = { ...here, ca };
  const mutual: TlsOptions = { ...good, requireClientCert: true };

  for (const [fromIp, toIp] of [
    ["127.0.0.1", "127.0.0.2"],
    ["::1", "::1"],
  ] as const)
    test(`tls: tiny and huge messages from ${fromIp} arrive at ${toIp} as they were, in order, on one connection`, async () => {
      const a = await streams(mutual, fromIp);
      const b = await streams(mutual, toIp);
      const sent = [1, 0, 2, 100, 65_536, 3_000_000, 1, 700].map(pattern);
      for (const bytes of sent) a.transport.send(b.endpoint, undefined, bytes);
      const whole = Buffer.concat(sent);
      await until("all octets", () => b.sink.octets().length >= whole.length);
      expect(b.sink.octets().equals(whole)).toBe(true);
      expect(new Set(b.sink.arrivals.map((one) => one.flow))).toEqual(new Set([1]));
      expect(b.sink.arrivals[0]?.from).toMatchObject({ transport: "tls", ip: fromIp });
      b.transport.send(b.sink.arrivals[0]?.from as Endpoint, 1, pattern(2_000_000));
      await until("the answer", () => a.sink.octets().length === 2_000_000);
      expect(a.sink.octets().equals(Buffer.from(pattern(2_000_000)))).toBe(true);
      expect([a.transport.connections(), b.transport.connections()]).toEqual([1, 1]);
    });

  test("tls: requests of ours never go over a connection that somebody else opened", async () => {
    const a = await streams(good);
    const b = await streams(good);
    a.transport.send(b.endpoint, undefined, Buffer.from("question"));
    await until("the question", () => b.sink.arrivals.length === 1);
    b.transport.send(b.sink.arrivals[0]?.from as Endpoint, undefined, Buffer.from("unasked"));
    await until("the failure of a connection to a client's port", () => b.sink.losses.length === 1);
    expect(a.sink.arrivals).toEqual([]);
  });

  test("tls: close ends a connection after the octets, and the address is free after shutdown", async () => {
    const a = await streams(good);
    const b = await streams(good);
    a.transport.send(b.endpoint, undefined, pattern(2_000_000), true);
    await until("the end", () => a.sink.ends.length === 1 && b.sink.ends.length === 1);
    expect(b.sink.octets().equals(Buffer.from(pattern(2_000_000)))).toBe(true);
    expect([a.transport.connections(), b.transport.connections()]).toEqual([0, 0]);
    expect([...a.sink.losses, ...a.sink.refusals, ...b.sink.refusals]).toEqual([]);
    b.transport.shutdown();
    const again = await openStreams({ ip: "127.0.0.1", port: b.endpoint.port }, new Recorder(), FAST, readTls(good));
    again.shutdown();
  });

  test("tls: tls_cert carries its chain, in both roles, and without it nobody knows the authority in between", async () => {
    const between = made.intermediate(authority, "between");
    const leaf = made.issue(between, "IP:127.0.0.1");
    const chain = made.path("chain.pem");
    writeFileSync(chain, readFileSync(leaf.cert, "utf8") + readFileSync(between.cert, "utf8"));
    const a = await streams({ cert: chain, key: leaf.key, ca, requireClientCert: true });
    const b = await streams({ cert: chain, key: leaf.key, ca, requireClientCert: true });
    a.transport.send(b.endpoint, undefined, Buffer.from("x"));
    await until("the octet", () => b.sink.octets().length === 1);
    const bare = await streams({ ...leaf, ca });
    expect(await refusal(await streams(good, undefined), bare.endpoint)).toContain(
      "from an unknown authority, between",
    );
  });

  test("tls: a self-signed certificate is good where tls_ca has it", async () => {
    const self = made.selfSigned("IP:127.0.0.1");
    const a = await streams({ ...self, ca: self.cert, requireClientCert: true });
    const b = await streams({ ...self, ca: self.cert, requireClientCert: true });
    a.transport.send(b.endpoint, undefined, Buffer.from("x"));
    await until("the octet", () => b.sink.octets().length === 1);
  });

  test("tls: a name is sent as server name and held against the certificate; one connection a name", async () => {
    const a = await streams(good);
    const b = await streams(good);
    for (const name of ["node1.example", "NODE1.example", "bus.example"])
      a.transport.send({ ...b.endpoint, name }, undefined, Buffer.from("x"));
    a.transport.send(b.endpoint, undefined, Buffer.from("x"));
    await until("all four", () => b.sink.octets().length === 4);
    expect(a.transport.connections()).toBe(3);
  });

  test("tls: where a domain led to an IP, a certificate for either is good, and one for neither is not", async () => {
    const client = await streams(good, undefined);
    for (const names of ["DNS:bus.example", "IP:127.0.0.1"]) {
      const server = await streams(made.issue(authority, names));
      client.transport.send({ ...server.endpoint, domain: "bus.example" }, undefined, Buffer.from("x"));
      await until("the octet", () => server.sink.octets().length === 1);
    }
    const other = await streams(made.issue(authority, "DNS:other.example"));
    const why = await refusal(await streams(good, undefined), { ...other.endpoint, domain: "bus.example" });
    expect(why).toContain("is not for 127.0.0.1 or bus.example, but for DNS:other.example");
  });

  test("tls: a connection for a domain is none for the bare IP", async () => {
    const server = await streams(made.issue(authority, "DNS:bus.example"));
    const client = await streams(good, undefined);
    client.transport.send({ ...server.endpoint, domain: "bus.example" }, undefined, Buffer.from("x"));
    await until("the octet", () => server.sink.octets().length === 1);
    client.transport.send(server.endpoint, undefined, Buffer.from("y"));
    await until("the refusal", () => client.sink.refusals.length === 1);
    expect(server.sink.octets().toString()).toBe("x");
  });

  test("tls: the dot at the end of a name is DNS's, not the certificate's", async () => {
    const server = await streams(good);
    const client = await streams(good, undefined);
    client.transport.send({ ...server.endpoint, name: "node1.example." }, undefined, Buffer.from("x"));
    await until("the octet", () => server.sink.octets().length === 1);
  });

  const servers: [what: string, options: () => Pair, name: string | undefined, reason: RegExp][] = [
    [
      "an expired certificate",
      () => made.issue(authority, "IP:127.0.0.1", { from: -9, to: -2 }),
      undefined,
      /its certificate expired on .* GMT$/,
    ],
    [
      "one that is not valid yet",
      () => made.issue(authority, "IP:127.0.0.1", { from: 5, to: 9 }),
      undefined,
      /not valid before .* GMT$/,
    ],
    ["an unknown authority", () => foreign, undefined, /from an unknown authority, stranger, which is not in tls_ca$/],
    ["a self-signed certificate", () => made.selfSigned("IP:127.0.0.1"), undefined, /self-signed and not in tls_ca/],
    [
      "a certificate for another address",
      () => made.issue(authority, "IP:127.0.0.9"),
      undefined,
      /is not for 127\.0\.0\.1, but for IP Address:127\.0\.0\.9$/,
    ],
    [
      "a certificate for another name",
      () => here,
      "node2.example",
      /is not for node2\.example, but for .*DNS:node1\.example/,
    ],
    [
      "a wildcard",
      () => made.issue(authority, "DNS:*.example"),
      "node1.example",
      /is not for node1\.example, but for DNS:\*\.example$/,
    ],
    [
      "a common name alone",
      () => made.issue(authority, "email:node1@example"),
      "node1.example",
      /is not for node1\.example, but for email/,
    ],
  ];
  for (const [what, pair, name, reason] of servers)
    test(`tls: ${what} is refused before an octet goes out, and tls_verify none takes it`, async () => {
      const server = await streams(pair());
      const to = { ...server.endpoint, ...(name !== undefined && { name }) };
      expect(await refusal(await streams(good, undefined), to)).toMatch(reason);
      await until("the end there", () => server.transport.connections() === 0);
      expect(server.sink.arrivals).toEqual([]);
      const careless = await streams({ verify: "none" }, undefined);
      careless.transport.send(to, undefined, Buffer.from("x"));
      await until("the octet", () => server.sink.octets().length === 1);
    });

  const clients: [what: string, options: TlsOptions, there: RegExp, here: RegExp][] = [
    [
      "no certificate",
      { ca },
      /alert 116 certificate_required/,
      /tls handshake from tls:127\.0\.0\.1:\d+ failed: it gave no client certificate/,
    ],
    [
      "one of another authority",
      { ca, ...foreign },
      /hung up right after it, without a word: it may not accept our certificate/,
      /from an unknown authority, stranger, which is not in tls_ca/,
    ],
    [
      "an expired one",
      { ca, ...made.issue(authority, "IP:127.0.0.1", { from: -9, to: -2 }) },
      /hung up right after it/,
      /its certificate expired on/,
    ],
  ];
  for (const [what, options, there, here] of clients)
    test(`tls: a client with ${what} is refused where one is required: unsent there, a reason here, others unharmed`, async () => {
      const server = await streams(mutual);
      const welcome = await streams(mutual);
      welcome.transport.send(server.endpoint, undefined, Buffer.from("a"));
      await until("the octet", () => server.sink.octets().length === 1);
      expect(await refusal(await streams(options, undefined), server.endpoint)).toMatch(there);
      await until("the reason", () => server.sink.refusals.length === 1);
      expect(server.sink.refusals[0]?.cause.message).toMatch(here);
      welcome.transport.send(server.endpoint, undefined, Buffer.from("b"));
      await until("the octet", () => server.sink.octets().length === 2);
      expect(server.sink.octets().toString()).toBe("ab");
    });

  test("tls: a certificate of many names does not fill the log", async () => {
    const names = Array.from({ length: 2_000 }, (_, index) => `DNS:node${index}.example`);
    const server = await streams(made.issue(authority, names.join(",")));
    const why = await refusal(await streams(good, undefined), server.endpoint);
    expect(why).toContain("but for DNS:node0.example, ");
    expect(why.length).toBeLessThan(400);
  });

  test("tls: what does not speak TLS is said to be so, on both sides", async () => {
    const web = createServer((socket) => {
      socket.on("error", () => {});
      socket.on("data", () => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
    });
    await new Promise<void>((resolve) => web.listen(0, "127.0.0.1", resolve));
    cleanups.push(() => web.close());
    const to: Endpoint = { transport: "tls", ip: "127.0.0.1", port: (web.address() as AddressInfo).port };
    expect(await refusal(await streams(good, undefined), to)).toContain("is no TLS");
    const server = await streams(good);
    const plain = connect(server.endpoint.port, "127.0.0.1");
    cleanups.push(() => plain.destroy());
    plain.on("error", () => {});
    plain.write("OPTIONS sip:x SIP/2.0\r\n\r\n");
    await until("the reason", () => server.sink.refusals.length === 1);
    expect(server.sink.refusals[0]?.cause.message).toContain("is no TLS");
    expect(server.sink.arrivals).toEqual([]);
  });

  test("tls: a server that says nothing, and one that hangs up, are refusals with their reason", async () => {
    const held: Socket[] = [];
    const mute = createServer((socket) => {
      held.push(socket);
      socket.on("error", () => {});
    });
    await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
    cleanups.push(
      () => mute.close(),
      () => held.map((one) => one.destroy()),
    );
    const to: Endpoint = { transport: "tls", ip: "127.0.0.1", port: (mute.address() as AddressInfo).port };
    expect(await refusal(await streams(good, undefined), to)).toContain("not through after 300 ms");
    const second = await streams(good, undefined);
    mute.on("connection", (socket) => socket.once("data", () => socket.resetAndDestroy()));
    expect(await refusal(second, to)).toContain("ended");
  });

  test("tls: the other side's alert about our certificate is named, also where OpenSSL sends it in clear text", async () => {
    const server = await streams(good);
    for (const version of ["-tls1_2", "-tls1_3"]) {
      const before = server.sink.refusals.length;
      const at = `127.0.0.1:${server.endpoint.port}`;
      const args = ["s_client", version, "-connect", at, "-CAfile", stranger.cert, "-verify_return_error"];
      const client = Bun.spawn(["openssl", ...args], { stdin: "ignore", stdout: "ignore", stderr: "ignore" });
      await client.exited;
      await until("the reason", () => server.sink.refusals.length > before);
      expect(server.sink.refusals.at(-1)?.cause.message).toContain("alert 48 unknown_ca");
    }
  });

  test("tls: handshakes that stall are ended in time, are bounded, and keep nobody out", async () => {
    const server = await streams(good, "127.0.0.1", { ...FAST, maxHandshakes: 3 });
    const stalled: Socket[] = [];
    let over = 0;
    for (let i = 0; i < 6; i++) {
      const socket = connect(server.endpoint.port, "127.0.0.1");
      socket.on("error", () => {});
      socket.on("close", () => over++);
      socket.write(Buffer.from([22, 3, 1]));
      stalled.push(socket);
      await until("it is in", () => server.transport.connections() === Math.min(i + 1, 3));
    }
    cleanups.push(() => stalled.map((one) => one.destroy()));
    await until("three gave way", () => over === 3);
    const client = await streams(good, undefined);
    client.transport.send(server.endpoint, undefined, Buffer.from("through"));
    await until("the octets", () => server.sink.octets().toString() === "through");
    await until("the others", () => over === 6 && server.transport.connections() === 1);
    const reasons = server.sink.refusals.map(({ cause }) => cause.message);
    expect(reasons.some((reason) => reason.includes("younger handshakes wait"))).toBe(true);
    expect(reasons.some((reason) => reason.includes("not through after 300 ms"))).toBe(true);
  });

  for (const who of ["that moves nothing", "that is ended by us", "at a shutdown"])
    test(`tls: a connection ${who} is gone in time, also where the other side neither answers nor hangs up`, async () => {
      const server = await streams(good, "127.0.0.1", { ...FAST, headerTimeoutMs: 300, idleMs: 300, lingerMs: 100 });
      // A relay that lets the client's octets through until the first message is there: no close_notify of it comes after.
      let toServer: Socket | undefined;
      let isOver = false;
      const relay = createServer({ allowHalfOpen: true }, (fromClient) => {
        const onward = connect({ port: server.endpoint.port, host: "127.0.0.1", allowHalfOpen: true });
        toServer = onward;
        onward.on("error", () => {});
        fromClient.on("error", () => {});
        fromClient.on("data", (chunk) => server.sink.arrivals.length === 0 && onward.write(chunk));
        onward.on("data", (chunk) => server.sink.arrivals.length === 0 && fromClient.write(chunk));
        for (const sign of ["end", "close"]) onward.on(sign, () => (isOver = true));
      });
      await new Promise<void>((resolve) => relay.listen(0, "127.0.0.1", resolve));
      cleanups.push(
        () => relay.close(),
        () => toServer?.destroy(),
      );
      const client = await streams(good, undefined);
      const to: Endpoint = { transport: "tls", ip: "127.0.0.1", port: (relay.address() as AddressInfo).port };
      client.transport.send(to, undefined, Buffer.from("x"));
      await until("the octet", () => server.sink.octets().length === 1);
      if (who === "that is ended by us") server.transport.close(1);
      if (who === "at a shutdown") server.transport.shutdown();
      await until("it is off the books", () => server.transport.connections() === 0);
      await until("the end of the socket", () => isOver, 2_000);
    });

  test("tls: a port scan is no refusal", async () => {
    const server = await streams(good);
    const scan = connect(server.endpoint.port, "127.0.0.1", () => scan.end());
    await until("the end", () => server.sink.ends.length === 1);
    expect(server.sink.refusals).toEqual([]);
  });

  test("tls: a peer that asked and ended its side still gets its answer, and a last answer is read", async () => {
    const server = await streams(good);
    const asked = connectTls({
      host: "127.0.0.1",
      port: server.endpoint.port,
      ca: readFileSync(ca),
      allowHalfOpen: true,
    } as object);
    let text = "";
    asked.on("data", (chunk) => {
      text += chunk.toString();
    });
    cleanups.push(() => asked.destroy());
    await new Promise<void>((resolve) => asked.once("secureConnect", () => resolve()));
    asked.end("question");
    await until("the question", () => server.sink.octets().toString() === "question");
    server.transport.send(server.sink.arrivals[0]?.from as Endpoint, 1, Buffer.from("answer"));
    await until("the answer", () => text === "answer");
    await until("the end", () => server.transport.connections() === 0);
    expect(server.sink.losses).toEqual([]);
  });

  test("tls: a reload changes what new handshakes see, refuses none, and leaves the connections that are up alone", async () => {
    const server = await streams(good);
    const old = await streams(good, undefined);
    old.transport.send(server.endpoint, undefined, Buffer.from("1"));
    await until("the octet", () => server.sink.octets().length === 1);
    const serials = new Set<string>();
    let failures = 0;
    let done = false;
    const knocker = (async () => {
      while (!done) {
        const socket = await new Promise<TLSSocket>((resolve) => {
          const made = connectTls({ host: "127.0.0.1", port: server.endpoint.port, ca: readFileSync(ca) }, () =>
            resolve(made),
          );
          made.on("error", () => {
            failures++;
            resolve(made);
          });
        });
        serials.add(socket.getPeerCertificate()?.serialNumber ?? "none");
        socket.end();
      }
    })();
    for (let i = 0; i < 3; i++) {
      await until("the knocker saw it", () => serials.size === i + 1);
      server.transport.renew(readTls({ ...made.issue(authority, "IP:127.0.0.1"), ca }));
    }
    await until("the last one is seen", () => serials.size === 4);
    done = true;
    await knocker;
    old.transport.send(server.endpoint, undefined, Buffer.from("2"));
    await until("the octet", () => server.sink.octets().toString() === "12");
    expect([failures, old.sink.ends.length, server.sink.refusals.length]).toEqual([0, 0, 0]);
  });

  function cutOff(): string {
    const path = made.path("cut-off.pem");
    writeFileSync(path, readFileSync(stranger.cert, "utf8") + readFileSync(ca, "utf8").slice(0, 200));
    return path;
  }

  const wrong: [what: string, options: TlsOptions, code: string, says: string][] = [
    ["a certificate without its key", { cert: here.cert }, "config-contradiction", "tls_cert without tls_key"],
    ["a key without its certificate", { key: here.key }, "config-contradiction", "tls_key without tls_cert"],
    ["the key of another", { cert: here.cert, key: foreign.key }, "config-contradiction", "tls_key with tls_cert"],
    [
      "a file that is not there",
      { cert: "/nonexistent.pem", key: here.key },
      "config-unreadable",
      "/nonexistent.pem (ENOENT)",
    ],
    [
      "a key where the certificate belongs",
      { cert: here.key, key: here.key },
      "config-invalid-value",
      "in which there is none",
    ],
    [
      "a certificate where the key belongs",
      { cert: here.cert, key: here.cert },
      "config-invalid-value",
      "tls_key: got",
    ],
    ["authorities that are none", { ca: here.key }, "config-invalid-value", "tls_ca: got"],
    ["authorities that were cut off", { ca: cutOff() }, "config-invalid-value", "in which one has no end"],
    [
      "required certificates without authorities",
      { ...here, requireClientCert: true },
      "config-contradiction",
      "tls_ca with the authorities",
    ],
  ];
  for (const [what, options, code, says] of wrong)
    test(`tls: ${what} is refused by name`, () => {
      let error: unknown;
      try {
        readTls(options);
      } catch (cause) {
        error = cause;
      }
      expect(error).toBeInstanceOf(ConfigError);
      expect((error as ConfigError).code).toBe(code as ConfigError["code"]);
      expect((error as ConfigError).message).toContain(says);
    });
});

const names: [altNames: string | undefined, host: string, matches: boolean][] = [
  ["DNS:a.example", "a.example", true],
  ["DNS:A.Example", "a.example", true],
  ["DNS:a.example", "b.example", false],
  ["DNS:*.example", "a.example", false],
  ["DNS:127.0.0.1", "127.0.0.1", false],
  ["IP Address:127.0.0.1", "127.0.0.1", true],
  ["IP Address:0:0:0:0:0:0:0:1", "::1", true],
  ["IP Address:127.0.0.1", "127.0.0.2", false],
  ["URI:sip:a.example", "a.example", true],
  ["URI:SIP:A.EXAMPLE", "a.example", true],
  ["URI:sip:a.example:5061", "a.example", true],
  ["URI:sip:user@a.example", "a.example", false],
  ["URI:https://a.example", "a.example", false],
  ["URI:sip:192.0.2.1", "192.0.2.1", true],
  ["URI:sip:[2001:db8::1]", "2001:db8::1", true],
  ['DNS:"x.example\\u002c URI:sip:a.example"', "a.example", false],
  ['DNS:"x.example\\u002c DNS:a.example", DNS:b.example', "b.example", true],
  ["email:a.example", "a.example", false],
  ["", "a.example", false],
  [undefined, "a.example", false],
];
for (const [altNames, host, matches] of names)
  test(`tls: a certificate for ${altNames} ${matches ? "is" : "is not"} one for ${host}`, () => {
    expect(isNamed(altNames, host)).toBe(matches);
  });
