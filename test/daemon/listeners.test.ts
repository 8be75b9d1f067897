/**
 * Listeners of channels on the control surface of a running node, with a sender on real sockets. Goal: each message has one
 * answer, by the answering listener if there is one, in time, whatever becomes of it.
 */
import { afterEach, describe, expect, test } from "bun:test";
import { Control } from "../../src/daemon/control.ts";
import { createNode, type RunningNode } from "../../src/daemon/driver.ts";
import { Journal } from "../../src/daemon/journal.ts";
import type { OutcomeReport } from "../../src/node/io.ts";
import { type EventRecord, type MessageEvent, RpcFault } from "../../src/rpc/surface.ts";
import { until } from "../helpers/wait.ts";

const endings: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

interface Pair {
  control: Control;
  node: RunningNode;
  sender: RunningNode;
}

async function pair(handlerTimeoutMs = 2_000): Promise<Pair> {
  const node = await createNode({ serverAddress: "sip:127.0.0.1:0", handlerTimeoutMs });
  endings.push(() => node.close({ announce: false }));
  const sender = await createNode({ serverAddress: "sip:127.0.0.2:0", notificationAddresses: [node.uri()] });
  endings.push(() => sender.close({ announce: false }));
  await until(() => sender.nodes().some(({ status }) => status === "active"), 5_000, "the sender knows the node");
  const control = new Control({
    node,
    handlerTimeoutMs,
    journal: new Journal({ level: "info" }),
    notificationChannel: "notification_peer",
    socketPath: "",
    stateDir: undefined,
    reload: async () => ({ changed: [], needs_restart: [] }),
    end: (how) => node.close(how),
  });
  return { control, node, sender };
}

/** Listens and keeps what comes. */
function listenTo(control: Control, channels: string[], answer: boolean): { heard: MessageEvent[]; end: () => void } {
  const heard: MessageEvent[] = [];
  return { heard, end: control.listen(channels, (message) => void heard.push(message), { answer }) };
}

async function heardBy(listener: { heard: MessageEvent[] }, count = 1): Promise<MessageEvent> {
  await until(() => listener.heard.length >= count, 5_000, `${count} messages`);
  return listener.heard.at(-1) as MessageEvent;
}

function statusOf({ outcome }: OutcomeReport): string {
  return outcome.type === "delivered" || outcome.type === "rejected"
    ? `${outcome.code} ${outcome.reason}`
    : outcome.type;
}

function faultOf(call: () => unknown): RpcFault {
  try {
    call();
  } catch (cause) {
    if (cause instanceof RpcFault) return cause;
    throw cause;
  }
  throw new Error("it was accepted");
}

const TEXT = { contentType: "text/plain", body: new TextEncoder().encode("pong") };

describe("an answering listener", () => {
  test("gives the answer: code, reason, and a body to who accepts one", async () => {
    const { control, node, sender } = await pair();
    const listener = listenTo(control, ["lab"], true);
    const asking = sender.send("lab", node.uri(), "ping", { accept: "text/plain" });
    const message = await heardBy(listener);
    expect(message).toMatchObject({ channel: "lab", body: "ping", accepts_body: true, answer_within_ms: 2_000 });
    control.answer({ replyId: message.reply_id as string, code: 200, reason: "Fine", ...TEXT });
    const { outcome } = await asking;
    expect(outcome).toMatchObject({ type: "delivered", code: 200, reason: "Fine", contentType: "text/plain" });
    expect(outcome.type === "delivered" && new TextDecoder().decode(outcome.body)).toBe("pong");
  });

  test("gives no body to who accepts none, and nothing is warned of", async () => {
    const { control, node, sender } = await pair();
    const warned: string[] = [];
    node.on("warning", ({ code }) => void warned.push(code));
    const listener = listenTo(control, ["lab"], true);
    const asking = sender.send("lab", node.uri(), "ping");
    const message = await heardBy(listener);
    expect(message.accepts_body).toBe(false);
    control.answer({ replyId: message.reply_id as string, code: 200, ...TEXT });
    expect((await asking).outcome).toEqual({ type: "delivered", code: 200, reason: "OK", consumer: true });
    expect(warned).toEqual([]);
  });

  test("is answered for with 503 in time, and its own answer is too late then", async () => {
    const { control, node, sender } = await pair(150);
    const listener = listenTo(control, ["lab"], true);
    const asking = sender.send("lab", node.uri(), "ping");
    const message = await heardBy(listener);
    expect(statusOf(await asking)).toBe("503 Handler Too Late");
    const fault = faultOf(() => control.answer({ replyId: message.reply_id as string, code: 200, ...TEXT }));
    expect(fault).toMatchObject({ code: 404, data: { exit: 3 } });
    expect(fault.message).toContain("too late");
  });

  test("that goes away leaves 503 at once to all it had open, and the channel as it was", async () => {
    const { control, node, sender } = await pair(30_000);
    const listener = listenTo(control, ["lab"], true);
    const asking = [sender.send("lab", node.uri(), "1"), sender.send("lab", node.uri(), "2")];
    await heardBy(listener, 2);
    listener.end();
    expect((await Promise.all(asking)).map(statusOf)).toEqual(["503 Listener Gone", "503 Listener Gone"]);
    expect(statusOf(await sender.send("lab", node.uri(), "3"))).toBe("404 Not Found Peer ID");
  });

  test("is one of a channel; plain ones beside it get copies without a reply_id", async () => {
    const { control, node, sender } = await pair();
    const plain = listenTo(control, ["lab"], false);
    const answering = listenTo(control, ["lab", "lab"], true);
    const fault = faultOf(() => listenTo(control, ["other", "lab"], true));
    expect(fault).toMatchObject({ code: 409, data: { exit: 1 } });
    expect(fault.message).toBe("channel lab is answered by another listener already: a channel has one answer");
    expect(control.status().channels.map(({ name, consumers }) => [name, consumers])).toEqual([["lab", 2]]);
    const asking = sender.send("lab", node.uri(), "x");
    const message = await heardBy(answering);
    expect(plain.heard.map(({ body, reply_id }) => [body, reply_id])).toEqual([["x", undefined]]);
    control.answer({ replyId: message.reply_id as string, code: 603, ...TEXT });
    expect(statusOf(await asking)).toBe("603 Decline");
    answering.end();
    expect(statusOf(await sender.send("lab", node.uri(), "y"))).toBe("200 OK");
    expect(plain.heard.length).toBe(2);
  });

  test("cannot have the channel of a command, nor answer what is no answer, and may answer once", async () => {
    const { control, node, sender } = await pair();
    node.channel("taken", () => 200);
    expect(faultOf(() => listenTo(control, ["free", "taken"], true))).toMatchObject({ code: 409 });
    expect(node.channels().map(({ name, consumed }) => [name, consumed])).toEqual([["taken", true]]);
    const listener = listenTo(control, ["lab"], true);
    const asking = sender.send("lab", node.uri(), "x");
    const replyId = (await heardBy(listener)).reply_id as string;
    expect(() => control.answer({ replyId, code: 408, ...TEXT })).toThrow("cannot be answered with 408");
    control.answer({ replyId, code: 503, ...TEXT });
    expect(faultOf(() => control.answer({ replyId, code: 200, ...TEXT }))).toMatchObject({ code: 404 });
    expect((await asking).outcome).toMatchObject({ type: "rejected", code: 503, retryAfterSeconds: 2 });
  });
});

describe("what changes", () => {
  test("is told: a channel gains and loses listeners", async () => {
    const { control } = await pair();
    const events: EventRecord[] = [];
    const unsubscribe = control.subscribe((event) => void events.push(event));
    const first = listenTo(control, ["lab"], false);
    const second = listenTo(control, ["lab"], true);
    first.end();
    second.end();
    second.end();
    unsubscribe();
    listenTo(control, ["lab"], false).end();
    const told = events.filter(({ type }) => type === "consumers");
    expect(told.map(({ channel, consumers }) => `${channel} ${consumers}`)).toEqual([
      ...["lab 1", "lab 2", "lab 1", "lab 0"],
    ]);
  });
});

describe("ping", () => {
  test("gives a row for each node, and a fault for one that is not known", async () => {
    const { control, sender } = await pair();
    const rows = await control.ping({});
    expect(rows).toEqual([
      { node: sender.uri(), outcome: "delivered", code: 200, reason: "OK", ms: expect.any(Number), attempts: 1 },
    ]);
    const fault = await control.ping({ nodes: ["sip:127.0.0.9:5060"] }).catch((cause: unknown) => cause);
    expect(fault).toMatchObject({ code: 404, data: { exit: 3 } });
  });
});
