/** Messages through the control surface and real sockets to peers that answer, refuse, stay silent or come round. */
import { afterEach, describe, expect, test } from "bun:test";
import { Control } from "../../src/daemon/control.ts";
import { createNode, type RunningNode } from "../../src/daemon/driver.ts";
import { Journal } from "../../src/daemon/journal.ts";
import type { DeliveryResult, MessageEvent } from "../../src/rpc/surface.ts";

const CHANNEL = "lab";
const MESSAGE = { channel: CHANNEL, body: new TextEncoder().encode("x"), contentType: "text/plain" };
const TIMEOUT_MS = 1_000;
/** Of a time limit, what may come on top of it. */
const LATE = 1.1;

const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function nodeAt(address: string): Promise<RunningNode> {
  const node = await createNode({ serverAddress: address });
  closing.push(() => node.close({ announce: false }));
  return node;
}

async function control(): Promise<{ surface: Control; node: RunningNode }> {
  const node = await nodeAt("sip:127.0.0.1:0");
  const surface = new Control({
    node,
    notificationChannel: "notification_peer",
    handlerTimeoutMs: 1_500,
    journal: new Journal({ level: "info" }),
    socketPath: "",
    stateDir: undefined,
    reload: async () => ({ changed: [], needs_restart: [] }),
    end: (how) => node.close(how),
  });
  return { surface, node };
}

/** A peer that is no node: what it is sent is kept, and answered only with what the test says. */
async function puppet(answer: (request: string, count: number) => string | undefined): Promise<[string, string[]]> {
  const seen: string[] = [];
  const socket = await Bun.udpSocket({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      data(self, data, port, address) {
        const text = new TextDecoder().decode(data);
        if (text.startsWith(`KDMQ sip:${CHANNEL}@`)) seen.push(text);
        const status = answer(text, seen.length);
        if (status !== undefined) self.send(responseTo(text, status), port, address);
      },
    },
  });
  closing.push(() => socket.close());
  return [`sip:127.0.0.1:${socket.port}`, seen];
}

function responseTo(request: string, status: string): string {
  const copied = request.split("\r\n").filter((line) => /^(Via|To|From|Call-ID|CSeq):/.test(line));
  return `SIP/2.0 ${status}\r\n${copied.join("\r\n")}\r\nContent-Length: 0\r\n\r\n`;
}

function frozen(): Promise<[string, string[]]> {
  return puppet(() => undefined);
}

function header(request: string | undefined, name: string): string | undefined {
  return request?.match(new RegExp(`^${name}: (.*)\r$`, "m"))?.[1];
}

async function timed<T>(call: Promise<T>): Promise<[T, number]> {
  const at = performance.now();
  const result = await call;
  return [result, performance.now() - at];
}

function outcomes(results: readonly DeliveryResult[]): Map<string, string> {
  return new Map(results.map(({ node, outcome }) => [node, outcome]));
}

describe("a broadcast to a node that answers, one that refuses, and one that is frozen", () => {
  async function bus(): Promise<{ surface: Control; answering: RunningNode; refusing: string; silent: string }> {
    const { surface } = await control();
    const answering = await nodeAt("sip:127.0.0.2:0");
    answering.channel(CHANNEL, () => ({ status: 200, body: new TextEncoder().encode("pong") }));
    const refusing = (await nodeAt("sip:127.0.0.3:0")).uri();
    const [silent] = await frozen();
    for (const uri of [answering.uri(), refusing, silent]) surface.add(uri);
    return { surface, answering, refusing, silent };
  }

  test("delivery: each has its line, within the time and a tenth of it", async () => {
    const { surface, answering, refusing, silent } = await bus();
    const call = surface.broadcast({ ...MESSAGE, except: [], timeoutMs: TIMEOUT_MS });
    const [results, ms] = await timed(call);
    const found = Object.fromEntries(results.map(({ node, ...rest }) => [node, rest]));
    expect(found).toMatchObject({
      [answering.uri()]: { outcome: "delivered", code: 200, consumer: true, tries: 1, message_id: null },
      [refusing]: { outcome: "rejected", code: 404, reason: "Not Found Peer ID", tries: 1 },
      [silent]: { outcome: "timeout", code: null, reason: expect.stringContaining("may or may not"), tries: 1 },
    });
    expect(ms).toBeGreaterThanOrEqual(TIMEOUT_MS - 1);
    expect(ms).toBeLessThan(TIMEOUT_MS * LATE);
  });

  test("delivery: repeats stay within the same time, and are made where they are right", async () => {
    const { surface, answering, refusing, silent } = await bus();
    const limit = { ...MESSAGE, except: [], timeoutMs: 2_500, retry: 3 };
    const [results, ms] = await timed(surface.broadcast(limit));
    const tries = new Map(results.map((one) => [one.node, one.tries]));
    expect([...tries].sort()).toEqual(
      [[answering.uri(), 1] as const, [refusing, 1] as const, [silent, 2] as const].sort() as [string, number][],
    );
    expect(ms).toBeLessThan(2_500 * LATE);
  });

  test("delivery: with enough answers nobody is waited for", async () => {
    const { surface, answering, refusing, silent } = await bus();
    const call = surface.broadcast({ ...MESSAGE, except: [], accept: "*/*", replies: 1, timeoutMs: 30_000 });
    const [results, ms] = await timed(call);
    expect(ms).toBeLessThan(5_000);
    const answered = results.find(({ node }) => node === answering.uri());
    expect(answered?.body_base64).toBe(btoa("pong"));
    expect(outcomes(results).get(silent)).toBe("cancelled");
    expect(results.find(({ node }) => node === silent)?.reason).toBe("not waited for: enough nodes have answered");
    // It has answered or not by then: it is on the same machine.
    expect(["rejected", "cancelled"]).toContain(outcomes(results).get(refusing) ?? "");
    expect(
      surface
        .listNodes()
        .map(({ in_flight }) => in_flight)
        .reduce((a, b) => a + b),
    ).toBeLessThan(3);
  });
});

describe("a message that is sent again", () => {
  test("delivery: is a new request under the same id", async () => {
    const { surface } = await control();
    const [uri, seen] = await puppet((_request, count) => (count < 2 ? "503 Busy" : "200 OK"));
    surface.add(uri);
    const result = await surface.send({ ...MESSAGE, node: uri, retry: 2, messageId: "backup-1" });
    expect(result).toMatchObject({ outcome: "delivered", code: 200, tries: 2, attempts: 2, message_id: "backup-1" });
    expect(result.ms).toBeGreaterThanOrEqual(250);
    expect(seen.map((request) => header(request, "X-DMQ-Id"))).toEqual(["backup-1", "backup-1"]);
    for (const name of ["Via", "Call-ID"]) expect(header(seen[0], name)).not.toBe(header(seen[1], name) as string);
  });

  test("delivery: over TCP, to a node that comes up meanwhile, arrives", async () => {
    const { surface } = await control();
    const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const uri = `sip:127.0.0.1:${probe.port};transport=tcp`;
    probe.stop(true);
    surface.add(uri);
    expect(await surface.send({ ...MESSAGE, node: uri })).toMatchObject({ outcome: "unreachable", tries: 1 });
    const call = surface.send({ ...MESSAGE, node: uri, retry: 10, timeoutMs: 10_000 });
    const late = await nodeAt(uri);
    late.channel(CHANNEL, () => 200);
    const result = await call;
    expect(result).toMatchObject({ outcome: "delivered", code: 200 });
    expect(result.tries).toBeGreaterThan(1);
  });

  test("delivery: a stop ends the pause before it", async () => {
    const { surface, node } = await control();
    const [uri] = await puppet(() => "503 Busy\r\nRetry-After: 20");
    surface.add(uri);
    const first = Promise.withResolvers<void>();
    node.on("outcome", () => first.resolve());
    const call = surface.send({ ...MESSAGE, node: uri, retry: 10 });
    await first.promise;
    const [result, ms] = await timed(Promise.all([call, surface.stop()]).then(([one]) => one));
    expect(result).toMatchObject({ outcome: "cancelled" });
    expect(ms).toBeLessThan(2_000);
  });
});

test("delivery: an id that was made up is in the result, and at the listener", async () => {
  const { surface } = await control();
  const { surface: other, node: receiver } = await control();
  const heard: MessageEvent[] = [];
  const unlisten = other.listen([CHANNEL], (message) => heard.push(message));
  surface.add(receiver.uri());
  const named = await surface.send({ ...MESSAGE, node: receiver.uri(), retry: 1 });
  await surface.send({ ...MESSAGE, node: receiver.uri() });
  unlisten();
  expect(named.message_id).toMatch(/^[\w-]{36}$/);
  expect(heard.map(({ message_id }) => message_id)).toEqual([named.message_id, null]);
});
