/**
 * Hostile peers on the TCP socket of a running node, all at once and in real time, while a good peer goes on talking. Goal: each
 * of them loses its own connection in its time, and nobody else notices. Method: raw sockets, each from an address of its own.
 */
import { afterEach, expect, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { createNode, type RunningNode } from "../../src/daemon/driver.ts";
import { until } from "../helpers/wait.ts";
import { kdmq } from "../sip/octets.ts";

const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

class Peer {
  readonly socket: Socket;
  heard = "";
  over = false;
  endedAt = 0;

  constructor(port: number, localAddress: string) {
    this.socket = connect({ port, host: "127.0.0.1", localAddress, allowHalfOpen: true });
    this.socket.on("data", (chunk) => (this.heard += chunk.toString("latin1")));
    for (const event of ["end", "error", "close"]) this.socket.on(event, () => this.end());
    cleanups.push(() => this.socket.destroy());
  }

  /** Status lines that came. */
  answers(): string[] {
    return [...this.heard.matchAll(/SIP\/2\.0 (\d{3})/g)].map(([, status]) => status as string);
  }

  private end(): void {
    if (!this.over) this.endedAt = performance.now();
    this.over = true;
  }
}

let branches = 0;

function message(changes: Record<string, string> = {}, body = "hello"): Uint8Array {
  const via = `Via: SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bKstream${++branches}`;
  return kdmq({ via, ...changes }, body);
}

async function node(): Promise<{ node: RunningNode; port: number }> {
  const made = await createNode({ serverAddress: "sip:127.0.0.1:0;transport=tcp", handlerTimeoutMs: 1_000 });
  cleanups.push(() => made.close({ announce: false }));
  return { node: made, port: made.sockets()[0]!.port };
}

test("streams: slow, half-open, reset, deaf, smuggling and pipelining peers leave the others their connection and their time", async () => {
  const { node: dmq, port } = await node();
  const warnings: string[] = [];
  dmq.on("warning", ({ code }) => warnings.push(code));
  dmq.channel("lab", () => 200);
  const started = performance.now();

  const slow = new Peer(port, "127.0.0.2");
  const head = decodeUtf8(message()).slice(0, 60);
  let sent = 0;
  const drip = setInterval(() => slow.socket.write(head.charAt(sent++ % head.length)), 80);
  cleanups.push(() => clearInterval(drip));

  const halfOpen = new Peer(port, "127.0.0.3");
  halfOpen.socket.end(message());

  const cut = new Peer(port, "127.0.0.4");
  cut.socket.write(message().subarray(0, 100), () => cut.socket.resetAndDestroy());

  const deaf = new Peer(port, "127.0.0.5");
  deaf.socket.pause();
  const pings = Buffer.concat(
    Array.from({ length: 200 }, () => message({ start: "OPTIONS sip:127.0.0.1 SIP/2.0", cseq: "CSeq: 1 OPTIONS" }, "")),
  );
  const flood = setInterval(() => !deaf.over && deaf.socket.writableLength < 1_000_000 && deaf.socket.write(pings), 5);
  cleanups.push(() => clearInterval(flood));

  const smuggler = new Peer(port, "127.0.0.6");
  smuggler.socket.write(message({ x: "Content-Length: 0" }, decodeUtf8(message())));

  const pipeline = new Peer(port, "127.0.0.7");
  pipeline.socket.write(
    Buffer.concat(
      ["\r\n\r\n", ...Array.from({ length: 500 }, () => message())].map((part) =>
        typeof part === "string" ? encodeUtf8(part) : part,
      ),
    ),
  );

  const good = new Peer(port, "127.0.0.8");
  const waits: number[] = [];
  for (let i = 1; performance.now() - started < 6_500; i++) {
    const before = performance.now();
    good.socket.write(message());
    await until(() => good.answers().length === i, 5_000, `answer ${i} to the good peer`);
    waits.push(performance.now() - before);
  }

  await until(() => slow.over, 3_000, "the end of the slow one");
  expect(slow.endedAt - started).toBeGreaterThan(4_900);
  expect(warnings).toContain("slow-stream");
  expect([halfOpen.answers(), halfOpen.over]).toEqual([["200"], true]);
  expect(smuggler.answers()).toEqual(["400"]);
  expect(smuggler.over).toBe(true);
  expect(pipeline.heard.startsWith("\r\nSIP/2.0 200")).toBe(true);
  expect(new Set(pipeline.answers())).toEqual(new Set(["200"]));
  expect(pipeline.answers().length).toBe(500);
  expect(new Set(good.answers())).toEqual(new Set(["200"]));
  // `until` looks every 50 ms; a peer that was kept waiting by the others would wait for whole seconds.
  expect(Math.max(...waits)).toBeLessThan(2_000);
  expect([pipeline.over, good.over]).toEqual([false, false]);
}, 30_000);

test("streams: a handler that never ends is answered for with 503, and another channel stays quick", async () => {
  const { node: dmq, port } = await node();
  const quick: number[] = [];
  dmq.channel("lab", () => new Promise(() => {}));
  dmq.channel("quick", async () => {
    quick.push(performance.now());
  });
  const hung = new Peer(port, "127.0.0.2");
  for (let i = 0; i < 200; i++) hung.socket.write(message({ from: `From: <sip:lab@127.0.0.${i % 250}:5060>;tag=a` }));
  const good = new Peer(port, "127.0.0.3");
  const before = performance.now();
  for (let i = 0; i < 20; i++) good.socket.write(message({ start: "KDMQ sip:quick@127.0.0.2:5060 SIP/2.0" }));
  await until(() => good.answers().length === 20, 5_000, "all answers of the quick channel");
  expect([new Set(good.answers()), quick.length, hung.answers().length]).toEqual([new Set(["200"]), 20, 0]);
  expect((quick.at(-1) as number) - before).toBeLessThan(900);
  await until(() => hung.answers().length === 200, 5_000, "answers for the one that hangs");
  expect(new Set(hung.answers())).toEqual(new Set(["503"]));
  expect(hung.heard).toContain("Retry-After: 2\r\n");
});
