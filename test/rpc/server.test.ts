/** The server and the client against each other, and the server against raw octets, on real unix sockets. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConfigError, RpcError, TransportError } from "../../src/core/errors.ts";
import { RpcClient } from "../../src/rpc/client.ts";
import { type RpcServer, STREAMS_MAX, serveRpc } from "../../src/rpc/server.ts";
import { REQUEST_BYTES_MAX } from "../../src/rpc/surface.ts";
import { delivered, FakeSurface, messageOf, PEER_URI } from "./fake-surface.ts";

const SOURCE = join(import.meta.dir, "../../src");

let directory: string;
let path: string;
let surface: FakeSurface;
let servers: RpcServer[];
let children: Bun.Subprocess[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "dmq-rpc-"));
  path = join(directory, "dmq.sock");
  surface = new FakeSurface();
  servers = [];
  children = [];
});

afterEach(async () => {
  await Promise.all(servers.map((server) => server.close()));
  for (const child of children) child.kill(9);
  await Promise.all(children.map((child) => child.exited));
  rmSync(directory, { recursive: true, force: true });
});

async function serve(options: { path?: string; surface?: FakeSurface; group?: number } = {}): Promise<RpcServer> {
  const server = await serveRpc({ path, surface, ...options });
  servers.push(server);
  return server;
}

/** One exchange in octets as they are; the connection is closed by the server or after the first answer. */
function exchange(octets: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let received = "";
    const socket = connect({ path });
    socket.on("data", (chunk) => {
      received += chunk;
      socket.end();
    });
    socket.on("close", () => resolve(received));
    socket.on("error", reject);
    socket.write(octets);
  });
}

async function caught(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    (value) => expect.unreachable(`resolved with ${JSON.stringify(value)}`),
    (error) => error,
  );
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 4_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`never came true: ${condition}`);
    await Bun.sleep(2);
  }
}

/** A daemon in a process of its own, up when this resolves. */
async function spawnDaemon(body = ""): Promise<Bun.Subprocess<"ignore", "pipe", "inherit">> {
  const script = `
    const { serveRpc } = await import(${JSON.stringify(join(SOURCE, "rpc/server.ts"))});
    const { FakeSurface } = await import(${JSON.stringify(join(import.meta.dir, "fake-surface.ts"))});
    const surface = new FakeSurface();
    ${body}
    await serveRpc({ path: ${JSON.stringify(path)}, surface });
    console.log("up");`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stdin: "ignore", stderr: "inherit" });
  children.push(child);
  const reader = child.stdout.getReader();
  expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe("up\n");
  return child;
}

describe("socket file", () => {
  test("is for the owner alone, and nothing else stays in the directory", async () => {
    await serve();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(path).uid).toBe(process.getuid?.() ?? -1);
    expect(readdirSync(directory)).toEqual(["dmq.sock"]);
  });

  test("is for a group, too, if one is named", async () => {
    const group = process.getgid?.() ?? -1;
    await serve({ group });
    expect(statSync(path).mode & 0o777).toBe(0o660);
    expect(statSync(path).gid).toBe(group);
  });

  test("does not change what other files are made with", async () => {
    const before = process.umask();
    await serve();
    expect(process.umask()).toBe(before);
  });

  test("gets a directory of its own if the last one is missing, but not a tree", async () => {
    await serve({ path: join(directory, "new/dmq.sock") });
    expect(statSync(join(directory, "new")).mode & 0o777).toBe(0o700);
    const error = await caught(serve({ path: join(directory, "a/b/dmq.sock") }));
    expect(error).toBeInstanceOf(TransportError);
    expect((error as Error).message).toContain(`no such directory: ${directory}/a`);
    expect(existsSync(join(directory, "a"))).toBe(false);
  });

  test("is gone after close, and can be made again", async () => {
    await (await serve()).close();
    expect(readdirSync(directory)).toEqual([]);
    await serve();
    expect(await new RpcClient(path).call<string>("core.version")).toBe("dmq 0.1.0");
  });

  test("of another one stays after close", async () => {
    const first = await serve();
    renameSync(path, join(directory, "elsewhere"));
    const other = new FakeSurface();
    other.version = () => "other";
    await serve({ surface: other });
    await first.close();
    expect(await new RpcClient(path).call<string>("core.version")).toBe("other");
  });

  test("of a living daemon is left alone", async () => {
    await serve();
    const inode = statSync(path).ino;
    const error = await caught(serve());
    expect(error).toBeInstanceOf(TransportError);
    expect(error).toMatchObject({
      code: "transport-bind",
      message: expect.stringContaining("another daemon answers on"),
    });
    expect(statSync(path).ino).toBe(inode);
    expect(readdirSync(directory)).toEqual(["dmq.sock"]);
    expect(await new RpcClient(path).call<string>("core.version")).toBe("dmq 0.1.0");
  });

  test("of a daemon that was killed is taken over", async () => {
    const child = await spawnDaemon();
    child.kill(9);
    await child.exited;
    expect(existsSync(path)).toBe(true);
    await serve();
    expect(await new RpcClient(path).call<string>("core.version")).toBe("dmq 0.1.0");
    expect(readdirSync(directory)).toEqual(["dmq.sock"]);
  });

  test("of a dead daemon goes to one of several that start at once", async () => {
    const child = await spawnDaemon();
    child.kill(9);
    await child.exited;
    const results = await Promise.allSettled([serve(), serve(), serve(), serve()]);
    const refused = results.filter((result) => result.status === "rejected").map((result) => result.reason);
    expect(refused).toHaveLength(3);
    for (const error of refused) expect(error).toMatchObject({ code: "transport-bind" });
    expect(await new RpcClient(path).call<string>("core.version")).toBe("dmq 0.1.0");
    expect(readdirSync(directory)).toEqual(["dmq.sock"]);
  });

  const OCCUPANTS: [string, (path: string) => void][] = [
    ["a file", (at) => writeFileSync(at, "precious")],
    ["a link to nowhere", (at) => symlinkSync("nowhere", at)],
  ];
  test.each(OCCUPANTS)("takes the place of no other thing: %s", async (_name, occupy) => {
    occupy(path);
    const error = await caught(serve());
    expect(error).toMatchObject({ code: "transport-bind", message: expect.stringContaining("is not a socket") });
    expect(readdirSync(directory)).toEqual(["dmq.sock"]);
  });

  test("cannot be below a file", async () => {
    writeFileSync(join(directory, "file"), "");
    expect(await caught(serve({ path: join(directory, "file/dmq.sock") }))).toMatchObject({ code: "transport-bind" });
  });

  test("cannot have a name that is too long", async () => {
    expect(await caught(serve({ path: join(directory, "x".repeat(108)) }))).toBeInstanceOf(ConfigError);
    expect(readdirSync(directory)).toEqual([]);
  });
});

/** What another user sees. Changing the user takes a superuser; others lock themselves out of a directory instead. */
describe("permission", () => {
  const asNobody = async (script: string): Promise<string> => {
    const imports = `
      const { serveRpc } = await import(${JSON.stringify(join(SOURCE, "rpc/server.ts"))});
      const { RpcClient } = await import(${JSON.stringify(join(SOURCE, "rpc/client.ts"))});
      if (process.getuid() === 0) { process.setgid(65534); process.setuid(65534); }
      const path = ${JSON.stringify(path)};`;
    const child = Bun.spawn([process.execPath, "-e", `${imports}${script}`], { stdout: "pipe", stderr: "pipe" });
    children.push(child);
    return `${await new Response(child.stdout).text()}${await new Response(child.stderr).text()}`;
  };
  const CALL =
    'await new RpcClient(path).call("core.version").catch((error) => console.log(error.code, error.message));';
  const SERVE = "await serveRpc({ path, surface: {} }).catch((error) => console.log(error.code, error.message));";

  test("client: says so, and what to do", async () => {
    await serve();
    if (process.getuid?.() === 0) chmodSync(directory, 0o755);
    else chmodSync(path, 0);
    expect(await asNobody(CALL)).toStartWith(`rpc-unreachable no permission for ${path}: use the account`);
  });

  test("server: says so where it may not write", async () => {
    chmodSync(directory, process.getuid?.() === 0 ? 0o755 : 0o500);
    expect(await asNobody(SERVE)).toStartWith(`transport-bind listen on ${path} failed: no permission for ${path}`);
    expect(readdirSync(directory)).toEqual([]);
    chmodSync(directory, 0o700);
  });

  test("server: does not take over a stranger's socket", async () => {
    if (process.getuid?.() !== 0) return console.warn("skipped: only a superuser can play two users");
    await serve();
    chmodSync(directory, 0o777);
    expect(await asNobody(SERVE)).toContain("it belongs to another user");
    expect(await new RpcClient(path).call<string>("core.version")).toBe("dmq 0.1.0");
  });

  test("client: does not trust a stranger's socket in a directory for everybody", async () => {
    if (process.getuid?.() !== 0) return console.warn("skipped: only a superuser can play two users");
    chmodSync(directory, 0o1777);
    const pending = asNobody(`${SERVE} process.kill(process.pid, 9);`);
    await pending;
    const error = await caught(new RpcClient(path).call("core.version"));
    expect(error).toMatchObject({ code: "rpc-unreachable", message: expect.stringContaining("belongs to user 65534") });
  });
});

describe("HTTP", () => {
  const get = (target: string, init: BunFetchRequestInit = {}): Promise<Response> =>
    fetch(`http://dmq${target}`, { ...init, unix: path });

  test("/livez and /readyz say what the surface says", async () => {
    await serve();
    const ask = async (): Promise<unknown[]> => {
      const answers = [await get("/livez"), await get("/readyz")];
      return Promise.all(answers.map(async (answer) => [answer.status, await answer.text()]));
    };
    expect(await ask()).toEqual([
      [200, "ok\n"],
      [200, "ok\n"],
    ]);
    surface.isReady = false;
    expect(await ask()).toEqual([
      [200, "ok\n"],
      [503, "not ready\n"],
    ]);
    surface.isLive = false;
    expect(await ask()).toEqual([
      [503, "not live\n"],
      [503, "not ready\n"],
    ]);
  });

  const STATUSES: [string, string, number, string | null][] = [
    ["GET", "/", 404, null],
    ["POST", "/rpc/", 404, null],
    ["GET", "/RPC", 404, null],
    ["GET", "/rpc", 405, "POST"],
    ["PUT", "/rpc", 405, "POST"],
    ["POST", "/events", 405, "GET"],
    ["POST", "/listen?channel=a", 405, "GET"],
    ["DELETE", "/livez", 405, "GET"],
    ["GET", "/listen", 400, null],
    ["GET", "/listen?channel=", 400, null],
    ["GET", "/listen?channel=a%0d%0ab", 400, null],
    ["GET", "/listen?channel=closed", 404, null],
  ];
  test.each(STATUSES)("%s %s is %d", async (method, target, status, allow) => {
    await serve();
    const response = await get(target, { method });
    expect([response.status, response.headers.get("allow")]).toEqual([status, allow]);
    expect(surface.listeners.size).toBe(0);
  });

  test("a notification is 204, a call is JSON", async () => {
    await serve();
    const post = (body: string): Promise<Response> => get("/rpc", { method: "POST", body });
    expect((await post('{"jsonrpc":"2.0","method":"core.version"}')).status).toBe(204);
    const response = await post('{"jsonrpc":"2.0","method":"core.version","id":1}');
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "application/json"]);
    expect(await response.json()).toEqual({ jsonrpc: "2.0", result: "dmq 0.1.0", id: 1 });
  });

  test("octets that are no UTF-8 and no JSON are a parse error", async () => {
    await serve();
    const response = await get("/rpc", { method: "POST", body: new Uint8Array([0xff, 0x00, 0xfe]) });
    expect(await response.json()).toMatchObject({ error: { code: -32700 }, id: null });
  });

  const GARBAGE: [string, string, RegExp][] = [
    ["a word", "garbage\r\n\r\n", /^HTTP\/1.1 400 /],
    ["binary", "\x00\xff\xfe\r\n\r\n", /^HTTP\/1.1 400 /],
    ["no host", "GET / HTTP/1.1\r\n\r\n", /^HTTP\/1.1 400 /],
    [
      "a huge length",
      "POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
      /^HTTP\/1.1 4(00|13) /,
    ],
    ["a negative length", "POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", /^HTTP\/1.1 400 /],
    [
      "too large",
      `POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Length: ${REQUEST_BYTES_MAX + 1}\r\n\r\n`,
      /^HTTP\/1.1 413 /,
    ],
    ["bad chunks", "POST /rpc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", /^HTTP\/1.1 400 /],
    ["a target that is no URL", "GET //[/ HTTP/1.1\r\nHost: x\r\n\r\n", /^HTTP\/1.1 40[04] /],
    ["a long target", `GET /${"a".repeat(40_000)} HTTP/1.1\r\nHost: x\r\n\r\n`, /^HTTP\/1.1 4\d\d /],
    ["SIP", "KDMQ sip:notification_peer@127.0.0.1 SIP/2.0\r\n\r\n", /^HTTP\/1.1 (400|505) /],
  ];
  test.each(GARBAGE)("%s harms nothing", async (_name, octets, expected) => {
    await serve();
    expect(await exchange(octets)).toMatch(expected);
    expect(await new RpcClient(path).call<string>("core.version")).toBe("dmq 0.1.0");
  });

  test("a body without a length that grows too large is 413", async () => {
    await serve();
    let chunks = 34;
    const body = new ReadableStream({
      pull: (controller) => (chunks-- > 0 ? controller.enqueue(new Uint8Array(1 << 20)) : controller.close()),
    });
    expect((await get("/rpc", { method: "POST", body })).status).toBe(413);
  });
});

describe("calls", () => {
  test("a body of ten megabytes arrives as it was", async () => {
    await serve();
    const body = "ü€".repeat(2 << 20);
    await new RpcClient(path).call("dmq.send", { channel: "c", node: PEER_URI, body });
    const [request] = surface.calls as { body: Uint8Array }[];
    expect(Buffer.from(request?.body ?? []).equals(Buffer.from(body))).toBe(true);
  });

  test("what is too large is said before it is sent", async () => {
    await serve();
    const params = { channel: "c", node: PEER_URI, body: "x".repeat(REQUEST_BYTES_MAX) };
    const error = await caught(new RpcClient(path).call("dmq.send", params));
    expect(error).toMatchObject({ code: "rpc-fault", fault: 413, data: { exit: 2 } });
    expect(surface.calls).toEqual([]);
  });

  test("many at once are all answered, each with its own answer", async () => {
    await serve();
    const client = new RpcClient(path);
    const nodes = Array.from({ length: 200 }, (_, index) => `sip:127.0.0.1:${index + 1}`);
    const results = await Promise.all(nodes.map((node) => client.call("dmq.send", ["c", node])));
    expect(results).toEqual(nodes.map((node) => delivered(node)));
  });

  test("callEach: one batch, an end for each in its order, a fault among the results", async () => {
    await serve();
    const client = new RpcClient(path);
    const params = [["c", "sip:a"], ["c"], ["c", "sip:b"]];
    const [first, second, third] = await client.callEach("dmq.send", params);
    expect([first, third]).toEqual([delivered("sip:a"), delivered("sip:b")]);
    expect(second).toBeInstanceOf(RpcError);
    expect(second).toMatchObject({ code: "rpc-fault", fault: -32602, data: { exit: 2 } });
    const whole = await caught(client.callEach("dmq.send", Array(1_001).fill(["c", "sip:a"])));
    expect(whole).toMatchObject({ code: "rpc-protocol" });
  });

  test("callEach: who goes away takes nothing back, every call of the batch is made", async () => {
    await serve();
    const aborter = new AbortController();
    const bodies: string[] = [];
    surface.onSend = async ({ node, body }) => {
      bodies.push(new TextDecoder().decode(body));
      if (bodies.length === 10) aborter.abort(new Error("gone"));
      // So long that a batch does not fit one turn of the loop, and the server hears of the end in the middle of it.
      const end = performance.now() + 0.5;
      while (performance.now() < end);
      await Bun.sleep(1);
      return delivered(node);
    };
    const params = Array.from({ length: 200 }, (_, i) => ["c", "sip:a", `${i}`]);
    const gone = await caught(new RpcClient(path).callEach("dmq.send", params, { signal: aborter.signal }));
    expect(gone).toEqual(new Error("gone"));
    expect(bodies.length).toBeLessThan(200);
    await until(() => bodies.length === 200);
    expect(bodies).toEqual(params.map(([, , body]) => body as string));
  });

  test("a fault is an error with its code, text and data", async () => {
    await serve();
    const error = await caught(new RpcClient(path).call("dmq.remove", { uri: "sip:9.9.9.9", strict: true }));
    expect(error).toBeInstanceOf(RpcError);
    expect(error).toMatchObject({
      code: "rpc-fault",
      fault: 404,
      data: { exit: 3 },
      message: "Node Not Found",
      method: "dmq.remove",
      socketPath: path,
    });
  });

  test("no socket, a socket of the dead, a file: unreachable, with what to do", async () => {
    const client = new RpcClient(path);
    const message = async (): Promise<string> => {
      const error = await caught(client.call("core.version"));
      expect(error).toMatchObject({ code: "rpc-unreachable" });
      return (error as Error).message;
    };
    expect(await message()).toBe(`no daemon on ${path}: there is no such socket; start one with: dmq serve`);
    const server = createServer().listen(path);
    await until(() => existsSync(path));
    linkSync(path, `${path}.kept`);
    await new Promise((resolve) => server.close(resolve));
    if (!existsSync(path)) renameSync(`${path}.kept`, path);
    expect(await message()).toBe(
      `no daemon on ${path}: the one that made this socket is gone; start one with: dmq serve`,
    );
    unlinkSync(path);
    writeFileSync(path, "");
    expect(await message()).toContain(`no daemon on ${path}`);
  });

  test("a daemon that is killed in the middle is unreachable, and the call is not made again", async () => {
    const child = await spawnDaemon(
      "surface.onSend = () => { process.kill(process.pid, 9); return new Promise(() => {}); };",
    );
    const error = await caught(new RpcClient(path).call("dmq.send", ["c", PEER_URI]));
    expect(error).toMatchObject({ code: "rpc-unreachable" });
    await child.exited;
  });

  test("a connection that is closed without an answer is tried once", async () => {
    let connections = 0;
    const server = createServer((socket) => {
      connections++;
      socket.on("error", () => {});
      socket.once("data", () => socket.destroy());
    }).listen(path);
    await until(() => existsSync(path));
    const error = await caught(new RpcClient(path).call("dmq.send", ["c", PEER_URI]));
    // The second connection is the question whether anybody listens; it says nothing.
    expect(error).toMatchObject({ code: "rpc-unreachable", message: expect.stringContaining("closed the connection") });
    expect(connections).toBe(2);
    server.close();
  });

  const STRANGERS: [string, string][] = [
    ["no JSON", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"],
    ["other JSON", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull"],
    ["an answer with neither result nor error", 'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"jsonrpc":"2.0"}'],
    ["another server", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"],
  ];
  test.each(STRANGERS)("%s is a protocol error", async (_name, response) => {
    const server = createServer((socket) => void socket.once("data", () => socket.end(response))).listen(path);
    await until(() => existsSync(path));
    expect(await caught(new RpcClient(path).call("core.version"))).toMatchObject({ code: "rpc-protocol" });
    server.close();
  });

  test("a time limit and a signal end a call", async () => {
    await serve();
    surface.onSend = () => new Promise(() => {});
    const client = new RpcClient(path);
    const late = await caught(client.call("dmq.send", ["c", PEER_URI], { timeoutMs: 20 }));
    expect(late).toMatchObject({ code: "rpc-unreachable", message: "no answer to dmq.send in 20 ms" });
    const reason = new Error("enough");
    expect(await caught(client.call("dmq.send", ["c", PEER_URI], { signal: AbortSignal.abort(reason) }))).toBe(reason);
  });

  test("dmq.stop is answered although it closes the server", async () => {
    const server = await serve();
    surface.onStop = async () => {
      setImmediate(() => server.close());
    };
    expect(await new RpcClient(path).call<string>("dmq.stop")).toBe("Ok. DMQ node stopped.");
    await until(() => !existsSync(path));
  });

  test("close lets a running call finish", async () => {
    const server = await serve();
    const held = Promise.withResolvers<ReturnType<typeof delivered>>();
    surface.onSend = () => held.promise;
    const call = new RpcClient(path).call("dmq.send", ["c", PEER_URI]);
    await until(() => surface.calls.length === 1);
    const closed = server.close();
    expect(existsSync(path)).toBe(false);
    held.resolve(delivered(PEER_URI));
    expect(await call).toEqual(delivered(PEER_URI));
    await closed;
  });

  test("close does not wait for a call that never ends", async () => {
    const server = await serve();
    surface.onSend = () => new Promise(() => {});
    const call = caught(new RpcClient(path).call("dmq.send", ["c", PEER_URI]));
    await until(() => surface.calls.length === 1);
    await server.close();
    expect(await call).toMatchObject({ code: "rpc-unreachable" });
  });
});

describe("streams", () => {
  /** Reads a stream from the moment when nothing is missed any more. */
  async function open(
    target: string,
    signal?: AbortSignal,
  ): Promise<AsyncIterator<unknown> & { first: Promise<unknown> }> {
    const opened = Promise.withResolvers<void>();
    const lines = new RpcClient(path).stream(target, signal, opened.resolve);
    const first = lines.next();
    first.catch(() => {});
    await Promise.race([opened.promise, first]);
    return Object.assign(lines, { first });
  }

  test("/listen gives the messages of its channels, in order, whole", async () => {
    await serve();
    const lines = await open("/listen?channel=a&channel=b");
    expect([...surface.listeners.values()]).toEqual([["a", "b"]]);
    const large = "ü\n".repeat(300_000);
    surface.deliver("c", "not this one");
    surface.deliver("a", "1");
    surface.deliver("b", large);
    surface.deliver("a", "3");
    expect(await lines.first).toEqual({ done: false, value: messageOf("a", "1") });
    expect((await lines.next()).value).toEqual(messageOf("b", large));
    expect((await lines.next()).value).toEqual(messageOf("a", "3"));
    await lines.return?.();
    await until(() => surface.listeners.size === 0);
  });

  test("/events gives what happens, to everybody who reads", async () => {
    await serve();
    const readers = [await open("/events"), await open("/events")];
    const event = { type: "peer-up" as const, time: "2026-01-01T00:00:00.000Z", node: PEER_URI };
    surface.emit(event);
    for (const lines of readers) expect((await lines.first) as object).toEqual({ done: false, value: event });
    for (const lines of readers) await lines.return?.();
    await until(() => surface.subscribers.size === 0);
  });

  test("/listen hands on that a listener answers, and nothing but 0 and 1", async () => {
    await serve();
    const over = new AbortController();
    const reading = new RpcClient(path).stream("/listen?channel=a&channel=b&answer=1", over.signal);
    const ended = reading.next();
    await until(() => surface.listeners.size === 1);
    expect(surface.calls).toEqual(["answering a b"]);
    over.abort();
    await ended;
    await until(() => surface.listeners.size === 0);
    const wrong = await fetch("http://dmq/listen?channel=a&answer=yes", { unix: path });
    expect([wrong.status, await wrong.text()]).toEqual([400, "answer is 0 or 1\n"]);
  });

  test("/logs gives the lines that are kept and ends; with follow it goes on", async () => {
    await serve();
    const line = { time: "2026-01-01T00:00:00.000Z", level: "warn", text: "a\nb", fields: { code: 1 } } as const;
    surface.logLines.push(line);
    const once = await fetch("http://dmq/logs?level=warn&count=5", { unix: path });
    expect([once.headers.get("content-type"), await once.text()]).toEqual([
      "application/x-ndjson",
      `${JSON.stringify(line)}\n`,
    ]);
    const lines: unknown[] = [];
    const reading = (async () => {
      for await (const one of new RpcClient(path).stream("/logs?follow=1&level=debug"))
        if (lines.push(one) === 2) break;
    })();
    await until(() => surface.followers.size === 1);
    for (const follower of surface.followers) follower({ ...line, text: "next" });
    await reading;
    expect(lines).toEqual([line, { ...line, text: "next" }]);
    await until(() => surface.followers.size === 0);
    expect(surface.calls).toEqual([{ level: "warn", count: 5 }, { level: "debug" }, "follow debug"]);
    for (const [query, text] of [
      ["follow=2", "follow is 0 or 1"],
      ["level=loud", "level is one of error, warn, info, debug, trace"],
      ["count=-1", "count is a number of lines"],
    ]) {
      const wrong = await fetch(`http://dmq/logs?${query}`, { unix: path });
      expect([wrong.status, await wrong.text()]).toEqual([400, `${text}\n`]);
    }
  });

  test("a signal ends the reading without an error, and the subscription", async () => {
    await serve();
    const aborter = new AbortController();
    const lines = await open("/events", aborter.signal);
    aborter.abort();
    expect(await lines.first).toEqual({ done: true, value: undefined });
    await until(() => surface.subscribers.size === 0);
    expect(await (await open("/events", AbortSignal.abort())).first).toEqual({ done: true, value: undefined });
  });

  test("a daemon that closes ends its streams in good order", async () => {
    const server = await serve();
    const lines = await open("/events");
    await server.close();
    expect(await lines.first).toEqual({ done: true, value: undefined });
    expect(surface.subscribers.size).toBe(0);
  });

  test("a daemon that is killed is unreachable", async () => {
    const child = await spawnDaemon();
    const lines = await open("/events");
    child.kill(9);
    expect(await caught(lines.first)).toMatchObject({ code: "rpc-unreachable" });
  });

  test("a fault of the subscription is the caller's error", async () => {
    await serve();
    const lines = await open("/listen?channel=closed").catch((error) => error);
    expect(lines).toMatchObject({ code: "rpc-fault", fault: 404, data: { exit: 3 } });
  });

  test("a reader that sleeps is dropped, told so, and does not fill the memory", async () => {
    await serve();
    const socket = connect({ path });
    await new Promise((resolve) => socket.on("connect", resolve));
    socket.pause();
    socket.write("GET /listen?channel=a HTTP/1.1\r\nHost: x\r\n\r\n");
    await until(() => surface.listeners.size === 1);
    const body = "x".repeat(256 * 1024);
    let delivered = 0;
    for (; surface.listeners.size > 0 && delivered < 200; delivered++) {
      surface.deliver("a", body);
      await Bun.sleep(0);
    }
    expect(delivered).toBeLessThan(60);
    let tail = "";
    socket.on("data", (chunk) => {
      tail = (tail + chunk).slice(-100);
    });
    socket.resume();
    await until(() => tail.includes('{"type":"overflow"}\n'));
    socket.destroy();
  });

  test("the client hears that it was too slow as a fault", async () => {
    await serve();
    const lines = await open("/listen?channel=a");
    surface.deliver("a", "x".repeat(5 * 1024 * 1024));
    expect(await caught(lines.first)).toMatchObject({ code: "rpc-fault", fault: 503 });
  });

  test("there is a limit to their number, and it recovers", async () => {
    await serve();
    const aborter = new AbortController();
    const opened = await Promise.all(Array.from({ length: STREAMS_MAX }, () => open("/events", aborter.signal)));
    const refused = await open("/events").catch((error) => error);
    expect(refused).toMatchObject({ code: "rpc-fault", fault: 503 });
    aborter.abort();
    await Promise.all(opened.map((lines) => lines.first));
    await until(() => surface.subscribers.size === 0);
    await (await open("/events", AbortSignal.timeout(20))).first;
  });
});
