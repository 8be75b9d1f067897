/** The publisher over connections that are made up: what goes where and in which order, and what is said of it. */
import { afterEach, expect, test } from "bun:test";
import { EventEmitter } from "node:events";
import type { Connection, Ended, PublishOptions } from "../../src/amqp/connection.ts";
import { AmqpError } from "../../src/amqp/error.ts";
import { Publisher, type PublisherOptions } from "../../src/amqp/publisher.ts";
import { type BrokerUrl, parseBrokers } from "../../src/amqp/url.ts";
import { WINDOW } from "../../src/amqp/window.ts";
import { until } from "../helpers/wait.ts";

interface Sent {
  readonly text: string;
  readonly options: PublishOptions;
}

/** A broker's side of one connection: it notes what comes, and confirms when it is told to. */
class Wire extends EventEmitter {
  readonly sent: Sent[] = [];
  readonly broker: BrokerUrl;
  blocked: string | undefined;
  isOpen = true;
  private readonly endings: ((ended: Ended) => void)[] = [];
  private readonly blockings: (() => void)[] = [];

  constructor(number: number) {
    super();
    this.broker = parseBrokers(["amqp://a", "amqp://b", "amqp://c"])[number - 1] as BrokerUrl;
  }

  get connection(): Connection {
    return this as unknown as Connection;
  }

  confirmChannel(): Promise<this> {
    return Promise.resolve(this);
  }

  publish(_exchange: string, _key: string, body: Buffer, options: PublishOptions): boolean {
    this.sent.push({ text: body.toString(), options });
    return true;
  }

  onEnd(then: (ended: Ended) => void): void {
    this.endings.push(then);
  }

  onBlocked(then: () => void): void {
    this.blockings.push(then);
  }

  confirm(deliveryTag: number, multiple = false): void {
    this.emit("ack", { deliveryTag, multiple });
  }

  block(reason: string | undefined): void {
    this.blocked = reason;
    for (const then of this.blockings) then();
  }

  break(ended: Ended = { text: "gone", replyCode: undefined }): void {
    this.isOpen = false;
    this.emit("close");
    for (const then of this.endings) then(ended);
  }

  get texts(): string[] {
    return this.sent.map(({ text }) => text);
  }
}

const publishers: Publisher[] = [];

function make(options: Partial<PublisherOptions> = {}): Publisher {
  const whyNot = (): AmqpError => new AmqpError("amqp-unreachable", "nobody is there");
  const all = { window: WINDOW, confirmTimeoutMs: 30_000, leavesBlocked: false, whyNot, ...options };
  const publisher = new Publisher(all);
  publishers.push(publisher);
  return publisher;
}

function give(
  publisher: Publisher,
  text: string,
  pin?: number,
): Promise<{ broker: { number: number }; repeats: number }> {
  const message = { exchange: "x", routingKey: "k", body: Buffer.from(text), messageId: text };
  const promise = publisher.publish(message, pin, Number.POSITIVE_INFINITY);
  promise.catch(() => undefined);
  return promise;
}

afterEach(() => {
  for (const publisher of publishers.splice(0)) publisher.close();
});

test("after a loss: what was unconfirmed, oldest first and marked, then what is new", async () => {
  const publisher = make({ window: { messages: 3, bytes: 1_000_000 } });
  const [first, second] = [new Wire(1), new Wire(2)];
  await publisher.attach(first.connection);
  const promises = ["a", "b", "c", "d", "e"].map((text) => give(publisher, text));
  expect(first.texts).toEqual(["a", "b", "c"]);
  first.confirm(2);
  expect(first.texts).toEqual(["a", "b", "c", "d"]);
  first.break();
  promises.push(give(publisher, "f"));
  await publisher.attach(second.connection);
  expect(second.texts).toEqual(["a", "c", "d"]);
  expect(second.sent.map(({ options }) => [options.messageId, options.headers])).toEqual(
    ["a", "c", "d"].map((id) => [id, { "x-dmq-repeat": 1 }]),
  );
  second.confirm(3, true);
  expect(second.texts.slice(3)).toEqual(["e", "f"]);
  expect(second.sent[3]?.options.headers).toBeUndefined();
  second.confirm(5, true);
  const outcomes = await Promise.all(promises);
  expect(outcomes.map(({ broker, repeats }) => [broker.number, repeats])).toEqual([
    ...[
      [2, 1],
      [1, 0],
      [2, 1],
      [2, 1],
      [2, 0],
      [2, 0],
    ],
  ]);
});

test("a broker that ends the connection because of one message: that one is refused, the others arrive", async () => {
  const publisher = make();
  const promises = ["a", "bad", "c"].map((text) => give(publisher, text));
  const refused = { text: "501 FRAME_ERROR", replyCode: 501 };
  const seen: string[][] = [];
  for (let turn = 0; turn < 5; turn++) {
    const wire = new Wire(1);
    await publisher.attach(wire.connection);
    // As the broker does: it stops at the bad one, and confirms what came before it.
    for (let place = 0; place < wire.sent.length && wire.isOpen; place++) {
      if (wire.sent[place]?.text === "bad") wire.break(refused);
      else if (turn > 0) wire.confirm(place + 1);
    }
    seen.push(wire.texts);
    if (wire.isOpen) break;
  }
  expect(seen).toEqual([["a", "bad", "c"], ["a", "bad"], ["c"]]);
  expect(await Promise.allSettled(promises)).toMatchObject([
    { status: "fulfilled", value: { repeats: 1 } },
    { status: "rejected", reason: { code: "amqp-refused", replyCode: 501 } },
    { status: "fulfilled", value: { repeats: 1 } },
  ]);
});

test("stopped in good order (320): nobody is suspected", async () => {
  const publisher = make();
  const [first, second] = [new Wire(1), new Wire(2)];
  await publisher.attach(first.connection);
  const promises = ["a", "b"].map((text) => give(publisher, text));
  first.break({ text: "320 CONNECTION_FORCED", replyCode: 320 });
  await publisher.attach(second.connection);
  expect(second.texts).toEqual(["a", "b"]);
  second.confirm(2, true);
  expect((await Promise.all(promises)).length).toBe(2);
});

test("a return belongs to the message with its id, and is told at its confirm", async () => {
  const publisher = make();
  const wire = new Wire(1);
  await publisher.attach(wire.connection);
  const promises = ["a", "b", "c"].map((text) => give(publisher, text));
  const fields = { replyCode: 312, replyText: "NO_ROUTE", exchange: "x", routingKey: "k" };
  wire.emit("return", { fields, properties: { messageId: "b" }, content: Buffer.alloc(0) });
  wire.confirm(3, true);
  expect(await Promise.allSettled(promises)).toMatchObject([
    { status: "fulfilled" },
    { status: "rejected", reason: { code: "amqp-refused", replyCode: 312 } },
    { status: "fulfilled" },
  ]);
});

test("a blocked broker takes nothing; with others, the next is taken after five seconds", async () => {
  const [alone, several] = [make(), make({ leavesBlocked: true })];
  const [one, first, second] = [new Wire(1), new Wire(1), new Wire(2)];
  await alone.attach(one.connection);
  await several.attach(first.connection);
  await several.attach(second.connection);
  for (const wire of [one, first]) wire.block("low on memory");
  const kept = give(alone, "a");
  const moved = give(several, "a");
  expect([one.texts, first.texts, second.texts]).toEqual([[], [], []]);
  await until(() => second.sent.length === 1, 10_000, "the next broker is taken");
  second.confirm(1);
  expect((await moved).broker.number).toBe(2);
  expect([one.texts, first.texts]).toEqual([[], []]);
  one.block(undefined);
  one.confirm(1);
  expect((await kept).broker.number).toBe(1);
}, 20_000);

test("a number goes to that broker only, and others are not held up by it", async () => {
  const publisher = make({ leavesBlocked: true });
  const [first, second] = [new Wire(1), new Wire(2)];
  await publisher.attach(first.connection);
  const pinned = give(publisher, "pinned", 2);
  const free = give(publisher, "free");
  expect(first.texts).toEqual(["free"]);
  await publisher.attach(second.connection);
  expect(second.texts).toEqual(["pinned"]);
  first.confirm(1);
  second.confirm(1);
  expect([(await pinned).broker.number, (await free).broker.number]).toEqual([2, 1]);
});

test("what waits is bounded, and what is given up leaves room", async () => {
  const publisher = make();
  const stop = new AbortController();
  const large = { exchange: "x", routingKey: "k", body: Buffer.alloc(16 * 1024 ** 2 - 1_000) };
  const waiting = [1, 2, 3, 4].map(() => publisher.publish(large, undefined, Number.POSITIVE_INFINITY, stop.signal));
  expect(() => publisher.publish(large, undefined, Number.POSITIVE_INFINITY)).toThrow("fewer at a time");
  stop.abort();
  const outcomes = await Promise.allSettled(waiting);
  expect(outcomes.every(({ status }) => status === "rejected")).toBe(true);
  expect(publisher.status()).toMatchObject({ waiting: 0, waitingBytes: 0 });
  give(publisher, "room");
  expect(publisher.status().waiting).toBe(1);
});
