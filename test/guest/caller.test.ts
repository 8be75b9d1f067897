/** A visitor on real sockets among nodes of ours: what it delivers, and that nobody knows it afterwards. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { RpcError } from "../../src/core/errors.ts";
import { type CreateNodeOptions, createNode, type RunningNode } from "../../src/daemon/driver.ts";
import { GuestCaller, type GuestOptions } from "../../src/guest/caller.ts";
import type { Answer, ChannelMessage } from "../../src/node/io.ts";
import type { DeliveryResult, NodeRow } from "../../src/rpc/surface.ts";
import { openUdp } from "../../src/transport/udp.ts";
import { Certificates, describeTls } from "../helpers/certificates.ts";
import { runCli } from "../helpers/cli.ts";
import { until } from "../helpers/wait.ts";

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()));
});

async function node(options: CreateNodeOptions): Promise<RunningNode> {
  const made = await createNode({ pingIntervalMs: 60_000, ...options });
  closers.push(() => made.close({ announce: false }));
  return made;
}

function guest(via: string[], options: Partial<GuestOptions> = {}): GuestCaller {
  const made = new GuestCaller({ via, notificationChannel: "notification_peer", tls: {}, ...options });
  closers.push(() => made.close());
  return made;
}

/** Nodes that know one another. */
async function bus(addresses: string[], options: Partial<CreateNodeOptions> = {}): Promise<RunningNode[]> {
  const made: RunningNode[] = [];
  for (const serverAddress of addresses) {
    const notificationAddresses = made.slice(0, 1).map((first) => first.uri());
    made.push(await node({ ...options, serverAddress, notificationAddresses }));
  }
  const others = made.length - 1;
  const isFull = (one: RunningNode): boolean =>
    one.nodes().filter(({ status }) => status === "active").length === others;
  await until(() => made.every(isFull), 5_000, "everybody knows everybody");
  return made;
}

const SINK = { received() {}, closed() {}, unsent() {}, refused() {} };

/** A datagram socket that nobody answers from: as good as a dead node whose machine is up. */
async function silent(): Promise<string> {
  const socket = await openUdp({ ip: "127.0.0.1", port: 0 }, SINK);
  closers.push(async () => socket.close());
  return `sip:127.0.0.1:${socket.listener.port}`;
}

/**
 * Nodes that answer notifications and nothing else, on one port of an address each; `first` has proved them all.
 *
 * @param addresses  of 127.0.0.0/8
 */
async function crowd(first: RunningNode, addresses: readonly string[]): Promise<void> {
  for (const ip of addresses) {
    const socket = await Bun.udpSocket({
      hostname: ip,
      port: 0,
      binaryType: "buffer",
      socket: {
        data(own, bytes, port, from) {
          const text = bytes.toString();
          if (text.startsWith("KDMQ sip:notification_peer@")) own.send(accepted(text), port, from);
        },
        error() {},
      },
    });
    closers.push(async () => socket.close());
    first.add(`sip:${ip}:${socket.port}`);
  }
  const isProved = (): boolean => first.nodes().every(({ verified }) => verified);
  await until(isProved, 20_000, "everybody has answered");
}

/** A 200 without a list. */
function accepted(request: string): string {
  const lines = request.split("\r\n").filter((line) => /^(?:Via|To|From|Call-ID|CSeq):/.test(line));
  return ["SIP/2.0 200 OK", ...lines, "Content-Length: 0", "", ""].join("\r\n");
}

async function fault(call: Promise<unknown>): Promise<{ text: string; exit: unknown }> {
  const error = await call.then(
    () => new Error("it did not fail"),
    (cause: unknown) => cause,
  );
  if (!(error instanceof RpcError)) throw error;
  return { text: error.message, exit: (error.data as { exit?: unknown } | undefined)?.exit };
}

const REFUSED = "ECONNREFUSED, nothing listens there, or it cannot be reached";

describe("a guest", () => {
  test("guest: a broadcast reaches every node, and nobody knows the guest afterwards", async () => {
    const nodes = await bus(["sip:127.0.0.1:0", "sip:127.0.0.2:0", "sip:127.0.0.3:0"]);
    const heard: ChannelMessage[] = [];
    for (const one of nodes) one.channel("lab", (message) => void heard.push(message));
    const before = nodes.map((one) => one.nodes().map(({ uri, status }) => [uri, status]));
    const caller = guest([nodes[0]?.uri() as string]);
    const params = { channel: "lab", body: "hello", message_id: "m1" };
    const results = await caller.call<DeliveryResult[]>("dmq.bcast", params);
    expect(results.map(({ node: uri, code }) => `${uri} ${code}`).sort()).toEqual(
      nodes.map((one) => `${one.uri()} 200`).sort(),
    );
    expect(heard.map(({ body, peer, messageId }) => [decodeUtf8(body), peer, messageId])).toEqual(
      nodes.map(() => ["hello", undefined, "m1"]),
    );
    await caller.close();
    expect(nodes.map((one) => one.nodes().map(({ uri, status }) => [uri, status]))).toEqual(before);
  });

  for (const transport of ["udp", "tcp"])
    test(`guest: the list has the words of a daemon's, over ${transport}`, async () => {
      const suffix = transport === "udp" ? "" : ";transport=tcp";
      const [first, second] = await bus([`sip:127.0.0.1:0${suffix}`, `sip:127.0.0.2:0${suffix}`]);
      const rows = await guest([first?.uri() as string]).call<NodeRow[]>("dmq.list_nodes");
      expect(
        rows.map(({ uri, status, local, source, user_agent }) => [uri, status, local, source, user_agent]),
      ).toEqual([
        [first?.uri() as string, "active", 0, "via", "dmq"],
        [second?.uri() as string, "active", 0, "mentioned", null],
      ]);
    });

  test("guest: over IPv6", async () => {
    const [first] = await bus(["sip:[::1]:0", "sip:[::1]:0"]);
    const results = await guest([first?.uri() as string]).call<DeliveryResult[]>("dmq.bcast", { channel: "lab" });
    expect(results.map(({ code }) => code)).toEqual([404, 404]);
  });

  test("guest: the next one is asked where nothing listens, and where nobody answers", async () => {
    const [first] = await bus(["sip:127.0.0.1:0"]);
    const via = ["sip:127.0.0.1:1", "sip:127.0.0.1:1;transport=tcp", await silent(), first?.uri() as string];
    const params = { channel: "lab", timeout_ms: 2_000 };
    const [result] = await guest(via).call<DeliveryResult[]>("dmq.bcast", params);
    expect(result?.code).toBe(404);
  });

  test("guest: where nobody answers, every URI has its reason, and the exit code is 4", async () => {
    const quiet = await silent();
    const via = ["sip:127.0.0.1:1", quiet, "sip:127.0.0.1:1;transport=tcp"];
    const { text, exit } = await fault(guest(via).call("dmq.bcast", { channel: "lab", timeout_ms: 300 }));
    expect({ text: text.replace(/answer in 1[0-5]\d ms/, "answer in 150 ms"), exit }).toEqual({
      text: `no node list from --via: sip:127.0.0.1:1: ${REFUSED}; ${quiet}: no answer in 150 ms; sip:127.0.0.1:1;transport=tcp: connect to tcp:127.0.0.1:1 failed: ${REFUSED}`,
      exit: 4,
    });
  });

  test("guest: a node that has another notification channel refuses, which is exit code 5", async () => {
    const [first] = await bus(["sip:127.0.0.1:0"], { notificationChannel: "peers" });
    const uri = first?.uri() as string;
    const text = `no node list from --via: ${uri}: answered 404 Not Found Peer ID`;
    expect(await fault(guest([uri]).call("dmq.list_nodes"))).toEqual({ text, exit: 5 });
    expect(await guest([uri], { notificationChannel: "peers" }).call<NodeRow[]>("dmq.list_nodes")).toHaveLength(1);
  });

  test("guest: --from-address is where packets come from", async () => {
    const [first] = await bus(["sip:127.0.0.1:0"]);
    const sources: string[] = [];
    first?.channel("lab", ({ source, from }) => void sources.push(`${source.ip}:${source.port} ${from}`));
    const free = await openUdp({ ip: "127.0.0.9", port: 0 }, SINK);
    const { port } = free.listener;
    free.close();
    const params = { channel: "lab", node: first?.uri() };
    await guest([first?.uri() as string], { fromAddress: `sip:127.0.0.9:${port}` }).call("dmq.send", params);
    expect(sources).toEqual([`127.0.0.9:${port} sip:lab@127.0.0.9:${port}`]);
    const [streamed] = await bus(["sip:127.0.0.1:0;transport=tcp"]);
    streamed?.channel("lab", ({ source }) => void sources.push(source.ip));
    const there = { channel: "lab", node: streamed?.uri() };
    await guest([streamed?.uri() as string], { fromAddress: "sip:127.0.0.8" }).call("dmq.send", there);
    expect(sources[1]).toBe("127.0.0.8");
  });

  test("guest: an address that is not ours cannot be sent from, and one of the other family leads nowhere", async () => {
    const [first] = await bus(["sip:127.0.0.1:0"]);
    const uri = first?.uri() as string;
    const foreign = await fault(guest([uri], { fromAddress: "sip:192.0.2.250" }).call("dmq.list_nodes"));
    expect(foreign).toMatchObject({ exit: 4 });
    expect(foreign.text).toContain("bind udp:192.0.2.250:0 failed: EADDRNOTAVAIL");
    const other = await fault(guest([uri], { fromAddress: "sip:[::1]" }).call("dmq.list_nodes"));
    expect(other.text).toContain("one is IPv4, the other IPv6");
  });

  test("guest: faults are a daemon's", async () => {
    const [first] = await bus(["sip:127.0.0.1:0"]);
    const caller = guest([first?.uri() as string]);
    const send = (params: object): Promise<unknown> => caller.call("dmq.send", params);
    const unknown = send({ channel: "lab", node: "sip:127.0.0.77:5060" });
    expect(await fault(unknown)).toEqual({ text: "Node Not Found", exit: 3 });
    expect((await fault(send({ channel: "lab" }))).exit).toBe(2);
    expect((await fault(send({ channel: "l b", node: first?.uri() }))).exit).toBe(2);
    expect((await fault(send({ channel: "htable", node: first?.uri() }))).text).toContain("--force");
    expect(await fault(caller.call("dmq.nonsense"))).toEqual({ text: "Method Not Found", exit: 2 });
    for (const method of ["dmq.status", "dmq.leave", "dmq.stop", "dmq.reload", "core.uptime"])
      expect(await fault(caller.call(method))).toMatchObject({
        text: "this needs a daemon, and --via goes without one; start one with: dmq serve",
        exit: 4,
      });
    expect((await fault(caller.call("dmq.add", { uri: "sip:127.0.0.7:5060" }))).exit).toBe(4);
  });

  test("guest: repeats carry the same id, and enough answers are enough", async () => {
    const nodes = await bus(["sip:127.0.0.1:0", "sip:127.0.0.2:0"]);
    const ids: (string | undefined)[] = [];
    nodes[0]?.channel("lab", ({ messageId }) => {
      ids.push(messageId);
      return ids.length === 1 ? 503 : 200;
    });
    const caller = guest([nodes[0]?.uri() as string]);
    const params = { channel: "lab", node: nodes[0]?.uri(), retry: 2 };
    const result = await caller.call<DeliveryResult>("dmq.send", params);
    expect(result).toMatchObject({ outcome: "delivered", tries: 2, message_id: ids[0] as string });
    expect(new Set(ids).size).toBe(1);
    nodes[1]?.channel("lab", () => new Promise(() => undefined));
    const results = await caller.call<DeliveryResult[]>("dmq.bcast", { channel: "lab", replies: 1 });
    expect(results.map(({ outcome }) => outcome).sort()).toEqual(["cancelled", "delivered"]);
  });

  test("guest: a ping measures, and changes nothing", async () => {
    const nodes = await bus(["sip:127.0.0.1:0", "sip:127.0.0.2:0"]);
    const caller = guest([nodes[0]?.uri() as string]);
    const all = await caller.call<DeliveryResult[]>("dmq.ping");
    expect(all.map(({ outcome }) => outcome)).toEqual(["delivered", "delivered"]);
    expect(nodes.map((one) => one.nodes().length)).toEqual([1, 1]);
  });

  test("guest: the whole list of a bus that does not fit one", async () => {
    const first = await node({ serverAddress: "sip:127.0.0.1:0" });
    await crowd(
      first,
      Array.from({ length: 60 }, (_, i) => `127.0.1.${i + 1}`),
    );
    const rows = await guest([first.uri()]).call<NodeRow[]>("dmq.list_nodes");
    expect(rows).toHaveLength(61);
  });

  test("guest: hundreds of nodes that are all silent have an outcome each, in time", async () => {
    const first = await node({ serverAddress: "sip:127.0.0.1:0" });
    await crowd(
      first,
      Array.from({ length: 400 }, (_, i) => `127.0.${1 + (i >> 7)}.${1 + (i & 127)}`),
    );
    const startedAt = performance.now();
    const params = { channel: "lab", except: [first.uri()], timeout_ms: 2_500 };
    const results = await guest([first.uri()]).call<DeliveryResult[]>("dmq.bcast", params);
    expect(results).toHaveLength(400);
    expect(results.every(({ outcome }) => outcome === "timeout")).toBe(true);
    expect(performance.now() - startedAt).toBeLessThan(5_000);
  });

  test("guest: a call ends with its signal, with its time, and with the guest", async () => {
    const quiet = await silent();
    const caller = guest([quiet]);
    const aborter = new AbortController();
    const aborted = caller.call("dmq.list_nodes", undefined, { signal: aborter.signal });
    aborter.abort(new Error("enough"));
    await expect(aborted).rejects.toThrow("enough");
    await expect(caller.call("dmq.list_nodes", undefined, { timeoutMs: 20 })).rejects.toThrow("in 20 ms");
    const open = fault(caller.call("dmq.list_nodes"));
    await caller.close();
    await caller.close();
    expect((await open).text).toContain("given up");
  });

  for (const [what, options, text] of [
    ["no URI", { via: ["nonsense"] }, "--via"],
    ["a multicast address", { via: ["sip:224.0.0.1"] }, "no node's address"],
    ["ten URIs", { via: new Array<string>(10).fill("sip:127.0.0.1") }, "at most 9"],
    ["a name to send from", { via: ["sip:127.0.0.1"], fromAddress: "sip:localhost" }, "--from-address"],
    ["a stream to send from", { via: ["sip:127.0.0.1"], fromAddress: "sip:127.0.0.1;transport=tcp" }, "--from-address"],
    ["a wildcard to send from", { via: ["sip:127.0.0.1"], fromAddress: "sip:0.0.0.0" }, "--from-address"],
  ] as const)
    test(`guest: ${what} is a usage error`, () => {
      const { via, ...more } = options;
      expect(() => guest([...via], more)).toThrow(text);
    });
});

describeTls("a guest over TLS", () => {
  const made = new Certificates();
  afterAll(() => made.remove());
  const authority = made.authority("authority");
  const server = made.issue(authority, "IP:127.0.0.1,DNS:localhost");

  test("guest: a node's certificate is proved, and ours shown", async () => {
    const tls = { ...server, ca: authority.cert };
    const [first] = await bus(["sips:127.0.0.1:0"], { tls: { ...tls, requireClientCert: true } });
    const uri = first?.uri() as string;
    const params = { channel: "lab", node: uri };
    expect((await guest([uri], { tls }).call<DeliveryResult>("dmq.send", params)).code).toBe(404);
    const named = uri.replace("127.0.0.1", "localhost");
    expect((await guest([named], { tls }).call<DeliveryResult>("dmq.send", { ...params, node: named })).code).toBe(404);
    const strange = await fault(guest([uri]).call("dmq.list_nodes"));
    expect(strange).toMatchObject({ exit: 4 });
    expect(strange.text).toContain("unknown authority");
  });
});

describe("dmq --via", () => {
  const list = (words: string[], env: Record<string, string> = {}): ReturnType<typeof runCli> =>
    runCli(["list", ...words], { env });

  test("via: the option, then a named daemon, then DMQ_VIA", async () => {
    const [first] = await bus(["sip:127.0.0.1:0"]);
    const uri = first?.uri() as string;
    const nowhere = "/nonexistent/dmq.sock";
    expect((await list(["--via", uri])).out).toStartWith(`${uri}\tactive\t0\t127.0.0.1\t`);
    expect((await list(["--via", uri], { DMQ_SOCKET: nowhere, DMQ_VIA: "sip:127.0.0.1:1" })).code).toBe(0);
    expect((await list([], { DMQ_VIA: ` sip:127.0.0.1:1\n${uri} ` })).code).toBe(0);
    expect((await list([], { DMQ_VIA: uri, DMQ_SOCKET: nowhere })).err).toContain(`no daemon on ${nowhere}`);
    expect((await list(["-s", nowhere], { DMQ_VIA: uri })).err).toContain(`no daemon on ${nowhere}`);
    expect(await list(["--via", uri, "-s", nowhere])).toMatchObject({ code: 2 });
    expect(await list(["--from-address", "sip:127.0.0.1"])).toMatchObject({ code: 2 });
    expect((await list(["--via", uri], { DMQ_TLS_VERIFY: "maybe" })).code).toBe(9);
    expect((await list(["--via", "sips:127.0.0.1:1"], { DMQ_TLS_CA: "/nonexistent" })).code).toBe(9);
    expect((await list(["--via", uri], { DMQ_TLS_CA: "/nonexistent" })).code).toBe(0);
  });

  test("via: each command that takes it prints what it prints with a daemon", async () => {
    const [first, second] = await bus(["sip:127.0.0.1:0", "sip:127.0.0.2:0"]);
    const answers = (text: string): Answer => ({ status: 200, contentType: "text/plain", body: encodeUtf8(text) });
    first?.channel("lab", ({ body }) => answers(`1 ${decodeUtf8(body)}`));
    second?.channel("lab", () => answers("2"));
    const [a, b] = [first?.uri() as string, second?.uri() as string];
    const env = { DMQ_VIA: a };
    const run = async (...words: string[]): Promise<[number, string, string]> => {
      const { code, out, err } = await runCli(words, { env, stdin: encodeUtf8("one\ntwo\n") });
      return [code, out.replace(/\t[\d.]+$/gm, "\tMS"), err];
    };
    expect(await run("send", "lab", b, "x")).toEqual([0, `${b}\t200\tOK\tMS\n`, ""]);
    expect(await run("bcast", "lab", "x")).toEqual([0, `${a}\t200\tOK\tMS\n${b}\t200\tOK\tMS\n`, ""]);
    expect(await run("bcast", "--except", b, "lab", "x")).toEqual([0, `${a}\t200\tOK\tMS\n`, ""]);
    expect(await run("send", "-l", "lab", a)).toEqual([0, `1\t${a}\t200\tOK\tMS\n2\t${a}\t200\tOK\tMS\n`, ""]);
    expect(await run("req", "lab", a, "x")).toEqual([0, "1 x", ""]);
    expect((await run("ping", b))[0]).toBe(0);
    expect((await run("list"))[1].split("\n").map((line) => line.split("\t")[0])).toEqual([a, b, ""]);
    expect(await run("send", "lab", "sip:127.0.0.99:5060", "x")).toEqual([3, "", "dmq: Node Not Found\n"]);
  });

  test("via: without anybody to ask, no line of an input is read", async () => {
    const stdinStream = (): AsyncIterable<Uint8Array> => {
      throw new Error("it was read");
    };
    const ran = await runCli(["send", "-l", "--via", "sip:127.0.0.1:1", "lab", "sip:127.0.0.2:5060"], { stdinStream });
    expect([ran.code, ran.out]).toEqual([4, ""]);
  });

  test("via: nobody there is exit 4, a text that is no URI exit 2", async () => {
    const gone = await list(["--via", "sip:127.0.0.1:1"]);
    expect(gone).toEqual({ code: 4, out: "", err: `dmq: no node list from --via: sip:127.0.0.1:1: ${REFUSED}\n` });
    expect((await list(["--via", "127.0.0.1"])).code).toBe(2);
  });
});
