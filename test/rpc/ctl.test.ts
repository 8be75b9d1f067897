/** The socket for kamcmd on a real unix socket: what it answers, and what clients that misbehave cannot do to it. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, lstatSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConfigError, TransportError } from "../../src/core/errors.ts";
import {
  type BinrpcValue,
  BODY_BYTES_MAX,
  type Packet,
  PacketReader,
  readValues,
  writePacket,
  writeValues,
} from "../../src/rpc/binrpc.ts";
import { type CtlLimits, type CtlServer, serveCtl } from "../../src/rpc/ctl.ts";
import { ctime } from "../../src/rpc/kamailio-shape.ts";
import { until } from "../helpers/wait.ts";
import { delivered, FakeSurface, LOCAL_URI, PEER_URI, rowOf } from "./fake-surface.ts";

const CAPTURES = join(import.meta.dir, "../fixtures/captures/rpc");
const COOKIE = Uint8Array.of(1, 2, 3, 4);

let directory: string;
let path: string;
let surface: FakeSurface;
let servers: CtlServer[];
let clients: Client[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "dmq-ctl-"));
  path = join(directory, "ctl");
  surface = new FakeSurface();
  servers = [];
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.socket.destroy();
  await Promise.all(servers.map((server) => server.close()));
  rmSync(directory, { recursive: true, force: true });
});

async function serve(limits: Partial<CtlLimits> = {}): Promise<CtlServer> {
  const server = await serveCtl({ path, surface, limits });
  servers.push(server);
  return server;
}

/** A connection that keeps what comes. */
class Client {
  readonly socket: Socket;
  readonly packets: Packet[] = [];
  readonly closed: Promise<void>;
  isClosed = false;
  readonly #reader = new PacketReader(4 * 1024 * 1024);

  constructor() {
    this.socket = connect({ path, allowHalfOpen: true });
    this.socket.on("data", (chunk: Buffer) => {
      this.#reader.push(chunk);
      for (let packet = this.#reader.next(); packet !== undefined; packet = this.#reader.next()) {
        this.packets.push(packet);
      }
    });
    // A reset is a way of closing, too.
    this.socket.on("error", () => undefined);
    this.socket.on("end", () => this.socket.end());
    this.closed = new Promise((resolve) => {
      this.socket.on("close", () => {
        this.isClosed = true;
        resolve();
      });
    });
    clients.push(this);
  }

  send(octets: Uint8Array): void {
    this.socket.write(octets);
  }

  async answers(count: number): Promise<unknown[][]> {
    await until(() => this.packets.length >= count, 5_000, `${count} answers, ${this.packets.length} came`);
    expect(this.packets.length).toBe(count);
    return this.packets.map((packet) => [packet.kind, ...readValues(packet.body, 100_000)]);
  }
}

function request(method: string, ...params: BinrpcValue[]): Uint8Array {
  return writePacket("request", COOKIE, writeValues([method, ...params]));
}

/** One request on a connection of its own. */
async function ask(method: string, ...params: BinrpcValue[]): Promise<unknown[]> {
  const client = new Client();
  client.send(request(method, ...params));
  const [answer] = await client.answers(1);
  client.socket.destroy();
  return answer as unknown[];
}

function capture(name: string): Uint8Array {
  return new Uint8Array(readFileSync(join(CAPTURES, name)));
}

function fields(struct: unknown): [string | undefined, unknown][] {
  return (struct as { members: { name: string | undefined; value: unknown }[] }).members.map(({ name, value }) => [
    name,
    value,
  ]);
}

describe("answers", () => {
  const same = ["remove-malformed", "remove-no-param", "int-param", "no-such-method", "remove-ok"];
  test.each(same.flatMap((name) => [name, `${name}-newer`]))("%s is Kamailio's, octet for octet", async (name) => {
    await serve();
    const client = new Client();
    client.send(capture(`binrpc-${name}.request.bin`));
    await client.answers(1);
    const { kind, cookie, body } = client.packets[0] as Packet;
    expect(writePacket(kind, cookie, body)).toEqual(capture(`binrpc-${name}.reply.bin`));
  });

  test("the list of a newer Kamailio with the same nodes is the same, octet for octet", async () => {
    const row = (host: string, port: string, local: 0 | 1 = 0) => ({
      ...rowOf(`sip:${host}:${port}`, "active", local),
    });
    const tls = { ...row("127.0.0.2", "5061"), proto: "tls", status: "disabled" } as const;
    surface.rows.splice(0, 9, tls, row("127.0.0.1", "5080"), row("127.0.0.11", "5070", 1));
    await serve();
    const client = new Client();
    client.send(capture("binrpc-list-nodes-newer.request.bin"));
    await client.answers(1);
    const { kind, cookie, body } = client.packets[0] as Packet;
    expect(writePacket(kind, cookie, body)).toEqual(capture("binrpc-list-nodes-newer.reply.bin"));
  });

  test("core.uptime has Kamailio's three fields, and the times fit", async () => {
    await serve();
    const [kind, struct] = await ask("core.uptime");
    const [now, upSince, uptime] = fields(struct);
    expect([kind, now?.[0], upSince?.[0], uptime?.[0]]).toEqual(["reply", "now", "up_since", "uptime"]);
    for (const time of [now?.[1], upSince?.[1]]) {
      expect(time).toMatch(/^[A-Z][a-z]{2} [A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d \d{4}$/);
    }
    expect(Date.parse(String(now?.[1])) - Date.parse(String(upSince?.[1]))).toBe(Number(uptime?.[1]) * 1_000);
    expect(Math.abs(Date.parse(String(now?.[1])) - Date.now())).toBeLessThan(10_000);
    expect(Number(uptime?.[1])).toBeGreaterThanOrEqual(90);
  });

  test("ctime pads the day with a space", () => {
    expect(ctime(new Date(2026, 0, 2, 3, 4, 5).getTime() / 1_000)).toBe("Fri Jan  2 03:04:05 2026");
    expect(ctime(new Date(2026, 10, 21, 16, 6, 19).getTime() / 1_000)).toBe("Sat Nov 21 16:06:19 2026");
  });

  test("core.version is one text, system.listMethods one a method", async () => {
    await serve();
    expect(await ask("core.version")).toEqual(["reply", "dmq 0.1.0"]);
    const [kind, ...names] = await ask("system.listMethods");
    expect(kind).toBe("reply");
    for (const name of [
      "core.uptime",
      "core.version",
      "dmq.add",
      "dmq.list_nodes",
      "dmq.remove",
      "dmq.change_status",
    ]) {
      expect(names).toContain(name);
    }
  });

  const cases: [method: string, params: BinrpcValue[], answer: unknown[]][] = [
    ["dmq.remove", [PEER_URI, "surplus", 1], ["reply", "Ok. DMQ node removed."]],
    ["dmq.remove", [LOCAL_URI], ["reply", "Ok. DMQ node removed."]],
    ["dmq.remove", [""], ["fault", 500, "Failure"]],
    ["dmq.remove", [{ members: [] }], ["fault", 500, "Invalid Parameters"]],
    ["dmq.add", ["sip:127.0.0.9:5060"], ["reply", "Ok. DMQ node added."]],
    ["dmq.add", [PEER_URI], ["fault", 500, "Node is already added"]],
    ["dmq.add", [], ["fault", 500, "Invalid Parameters"]],
    ["dmq.change_status", [PEER_URI, "disabled"], ["reply", "Ok. DMQ node status changed."]],
    ["dmq.change_status", [PEER_URI, "active"], ["reply", "Ok. DMQ node status is already active."]],
    ["dmq.change_status", [PEER_URI], ["fault", 500, "Invalid Parameters"]],
    ["dmq.change_status", [PEER_URI, "up"], ["fault", 500, "Invalid Status - use: active, not_active, disabled"]],
    ["dmq.change_status", ["nonsense", "active"], ["fault", 500, "Node Not Found"]],
    ["dmq.change_status", [LOCAL_URI, "active"], ["fault", 500, "Node is local"]],
    ["system.methodHelp", ["dmq.remove"], ["reply", "Forgets a peer; with strict, an unknown one is a fault."]],
    ["system.methodHelp", ["nosuch"], ["fault", 400, "command not found"]],
    ["system.methodHelp", [], ["fault", 400, "Method Name Expected"]],
    ["dmq.send", [], ["fault", 400, "Invalid params: channel is missing"]],
    ["dmq.stop", [], ["reply", "Ok. DMQ node stopped."]],
  ];
  test.each(cases)("%s %j is %j", async (method, params, answer) => {
    await serve();
    expect(await ask(method, ...params)).toEqual(answer);
  });

  test("a status is structs in one another, lists without names, no truth value and no null", async () => {
    surface.onStatus = () => ({ ...new FakeSurface().status(), state_dir: null, counters: { large: 2 ** 40 } });
    await serve();
    const [, struct] = await ask("dmq.status");
    const status = new Map(fields(struct));
    expect(status.get("uptime_s")).toBe(90.5);
    expect(status.get("state_dir")).toBe("<null string>");
    expect(fields(status.get("listeners"))).toEqual([[undefined, "udp:127.0.0.1:5060"]]);
    expect(fields(status.get("counters"))).toEqual([["large", String(2 ** 40)]]);
    const [[, channel]] = fields(status.get("channels")) as [[undefined, unknown]];
    expect(fields(channel)).toEqual([
      ["name", "channel1"],
      ["consumers", 1],
      ["declared", 1],
    ]);
  });

  test("numbers and flags find their types by position, an empty text leaves a parameter out", async () => {
    await serve();
    const [kind, delivery] = await ask("dmq.send", "ch", PEER_URI, 5, "", 70, "500", 1);
    expect([kind, fields(delivery)[0]]).toEqual(["reply", ["node", PEER_URI]]);
    expect(surface.calls).toEqual([
      {
        channel: "ch",
        node: PEER_URI,
        body: new TextEncoder().encode("5"),
        contentType: "text/plain",
        maxForwards: 70,
        timeoutMs: 500,
        force: true,
      },
    ]);
  });
});

describe("connections", () => {
  test("several requests in one chunk are answered in their order, also while one takes long", async () => {
    const release = Promise.withResolvers<void>();
    surface.onSend = async (sent) => {
      await release.promise;
      return delivered(sent.node);
    };
    await serve();
    const client = new Client();
    client.send(Buffer.concat([request("dmq.send", "ch", PEER_URI), request("core.version"), request("nosuch")]));
    await until(() => surface.calls.length === 1, 5_000, "the first has begun");
    client.send(request("system.methodHelp", "dmq.add"));
    expect(await ask("core.version")).toEqual(["reply", "dmq 0.1.0"]);
    expect(client.packets).toEqual([]);
    release.resolve();
    const answers = await client.answers(4);
    expect(answers.map(([kind]) => kind)).toEqual(["reply", "reply", "fault", "reply"]);
    expect(answers[1]).toEqual(["reply", "dmq 0.1.0"]);
  });

  test("a thousand requests in a row do not keep the others waiting", async () => {
    await serve();
    const flood = new Client();
    flood.send(Buffer.concat(Array.from({ length: 1_000 }, () => request("dmq.list_nodes"))));
    await until(() => flood.packets.length > 0, 5_000, "the first answer");
    expect(await ask("core.version")).toEqual(["reply", "dmq 0.1.0"]);
    expect((await flood.answers(1_000)).every(([kind, ...nodes]) => kind === "reply" && nodes.length === 2)).toBe(true);
  });

  test("a request octet by octet is answered", async () => {
    await serve();
    const client = new Client();
    client.socket.setNoDelay(true);
    for (const octet of request("core.version")) {
      client.send(Uint8Array.of(octet));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await client.answers(1)).toEqual([["reply", "dmq 0.1.0"]]);
  });

  test("a client that ends its side gets its answers, then the end", async () => {
    await serve();
    const client = new Client();
    client.socket.end(Buffer.concat([request("core.version"), request("core.version")]));
    await client.closed;
    expect(client.packets.length).toBe(2);
  });

  test("a body that makes no sense is a fault, and the connection goes on", async () => {
    await serve();
    const client = new Client();
    client.send(writePacket("request", COOKIE, Uint8Array.of(0x91)));
    client.send(writePacket("request", COOKIE, new Uint8Array(0)));
    client.send(writePacket("reply", COOKIE, writeValues(["core.version"])));
    client.send(request("core.version"));
    const answers = await client.answers(4);
    expect(answers.map(([kind, code]) => [kind, code])).toEqual([
      ["fault", 400],
      ["fault", 400],
      ["fault", 400],
      ["reply", "dmq 0.1.0"],
    ]);
    expect(answers[2]?.[2]).toBe("a reply came, expected a request");
    expect(client.packets.every((packet) => Buffer.compare(packet.cookie, COOKIE) === 0)).toBe(true);
  });

  test("octets that are no packet end the connection, not the others", async () => {
    await serve();
    const other = new Client();
    other.send(request("core.version"));
    await other.answers(1);
    const client = new Client();
    client.send(Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    await client.closed;
    expect(client.packets).toEqual([]);
    other.send(request("core.version"));
    expect((await other.answers(2))[1]).toEqual(["reply", "dmq 0.1.0"]);
  });

  test("too large a request is told so before it has come, and the connection ends", async () => {
    await serve();
    const client = new Client();
    client.send(writePacket("request", COOKIE, new Uint8Array(BODY_BYTES_MAX + 1)).subarray(0, 100));
    await client.closed;
    const [packet] = client.packets;
    expect(readValues((packet as Packet).body)).toEqual([400, "packet of 65537 octets, expected at most 65536"]);
  });

  test("a request that does not go on is given up", async () => {
    await serve({ stallMs: 100 });
    const client = new Client();
    client.send(request("core.version").subarray(0, 9));
    const start = performance.now();
    await client.closed;
    expect(performance.now() - start).toBeLessThan(3_000);
  });

  test("one octet now and then does not keep a place", async () => {
    await serve({ stallMs: 200 });
    const client = new Client();
    const octets = request("system.methodHelp", "x".repeat(2_000));
    const drip = setInterval(() => client.send(octets.subarray(client.socket.bytesWritten).subarray(0, 1)), 20);
    await client.closed;
    clearInterval(drip);
    expect(client.packets).toEqual([]);
  });

  test("who asks nothing is closed after a while, who waits for an answer is not", async () => {
    const release = Promise.withResolvers<void>();
    surface.onSend = async (sent) => {
      await release.promise;
      return delivered(sent.node);
    };
    await serve({ idleMs: 150, stallMs: 150 });
    const [idle, waiting] = [new Client(), new Client()];
    waiting.send(request("dmq.send", "ch", PEER_URI));
    await idle.closed;
    await new Client().closed;
    expect(waiting.isClosed).toBe(false);
    release.resolve();
    expect((await waiting.answers(1))[0]?.[0]).toBe("reply");
    await waiting.closed;
  });

  test("a client that does not read its answers is cut off, and holds little until then", async () => {
    surface.rows.splice(
      0,
      9,
      ...Array.from({ length: 1_000 }, (_, i) => rowOf(`sip:10.0.${i >> 8}.${i & 255}:5060`, "active")),
    );
    await serve({ stallMs: 300 });
    let calls = 0;
    const list = surface.listNodes.bind(surface);
    surface.listNodes = () => {
      calls++;
      return list();
    };
    const client = new Client();
    client.socket.pause();
    client.send(Buffer.concat(Array.from({ length: 500 }, () => request("dmq.list_nodes"))));
    await until(() => calls > 0, 5_000, "the first has begun");
    // Nothing of ours says that it was cut off, so a write has to fail.
    await until(
      () => {
        client.send(request("core.version"));
        return client.isClosed || client.socket.destroyed;
      },
      5_000,
      "the client is cut off",
    );
    expect(calls).toBeLessThan(20);
  });

  test("a client that reads slowly gets all of a large answer", async () => {
    surface.rows.splice(
      0,
      9,
      ...Array.from({ length: 1_000 }, (_, i) => rowOf(`sip:10.0.${i >> 8}.${i & 255}:5060`, "active")),
    );
    await serve();
    const client = new Client();
    client.socket.pause();
    client.send(Buffer.concat([request("dmq.list_nodes"), request("dmq.list_nodes"), request("dmq.list_nodes")]));
    await until(async () => (await ask("core.version")).length > 0, 5_000, "the server goes on");
    client.socket.resume();
    expect((await client.answers(3)).map((answer) => answer.length)).toEqual([1_001, 1_001, 1_001]);
  });

  test("one connection too many is closed, and there is room again when one goes", async () => {
    await serve({ connectionsMax: 2 });
    const [first, second] = [new Client(), new Client()];
    for (const client of [first, second]) {
      client.send(request("core.version"));
      await client.answers(1);
    }
    const third = new Client();
    await third.closed;
    first.socket.destroy();
    await until(
      async () => {
        const client = new Client();
        client.send(request("core.version"));
        await Promise.race([client.closed, until(() => client.packets.length > 0, 1_000, "an answer")]);
        return client.packets.length === 1;
      },
      5_000,
      "there is room",
    );
  });
});

describe("the file", () => {
  test("is for its owner only, and goes with the server", async () => {
    const server = await serve();
    expect(lstatSync(path).mode & 0o777).toBe(0o600);
    expect(lstatSync(path).isSocket()).toBe(true);
    await server.close();
    expect(existsSync(path)).toBe(false);
  });

  test("the socket of a dead daemon is taken over", async () => {
    const code = `require("node:net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 9))`;
    await Bun.spawn([process.execPath, "-e", code]).exited;
    expect(lstatSync(path).isSocket()).toBe(true);
    await serve();
    expect(await ask("core.version")).toEqual(["reply", "dmq 0.1.0"]);
  });

  test("one that answers is left alone", async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(path, resolve));
    await expect(serveCtl({ path, surface })).rejects.toThrow(/another daemon answers/);
    await expect(serveCtl({ path, surface })).rejects.toBeInstanceOf(TransportError);
    expect(existsSync(path)).toBe(true);
    await new Promise((resolve) => other.close(resolve));
  });

  test("another file is left alone", async () => {
    writeFileSync(path, "mine");
    chmodSync(path, 0o600);
    await expect(serveCtl({ path, surface })).rejects.toThrow(/it exists and is not a socket/);
    expect(readFileSync(path, "utf8")).toBe("mine");
  });

  test("a path that no socket can have is the operator's mistake", async () => {
    await expect(serveCtl({ path: join(directory, "x".repeat(200)), surface })).rejects.toBeInstanceOf(ConfigError);
  });

  test("a call that runs when the server closes is answered", async () => {
    const release = Promise.withResolvers<void>();
    surface.onStop = () => release.promise;
    const server = await serve();
    const client = new Client();
    client.send(Buffer.concat([request("dmq.stop"), request("core.version")]));
    await until(() => surface.calls.length === 1, 5_000, "the call has begun");
    const closing = server.close();
    release.resolve();
    await closing;
    await client.closed;
    // What had not begun is not begun any more.
    expect(client.packets.map((packet) => readValues(packet.body))).toEqual([["Ok. DMQ node stopped."]]);
  });

  test("a call that does not end keeps nobody from closing", async () => {
    surface.onStop = () => new Promise(() => undefined);
    const server = await serve({ closeGraceMs: 50 });
    const client = new Client();
    client.send(request("dmq.stop"));
    await until(() => surface.calls.length === 1, 5_000, "the call has begun");
    await server.close();
    await client.closed;
    expect(client.packets).toEqual([]);
  });
});
