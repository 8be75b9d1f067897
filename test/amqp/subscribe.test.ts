/** The JSON of kazoo_subscribe (amqp.md A2): every name, every default, and what is refused. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type KazooSubscription, parseSubscription } from "../../src/amqp/subscribe.ts";
import { UsageError } from "../../src/core/errors.ts";

const EXCHANGE = { name: "e", type: "topic", durable: false, autoDelete: false, internal: false, passive: false };
const QUEUE = { name: "q", durable: false, autoDelete: true, exclusive: false, passive: false };

function parsed(members: object): KazooSubscription {
  return parseSubscription(JSON.stringify({ exchange: "e", type: "topic", queue: "q", ...members }));
}

test("kazoo's defaults", () => {
  expect(parsed({})).toEqual({
    subscription: {
      ...{ exchange: EXCHANGE, exchangeBindings: [], queue: QUEUE, routing: [""] },
      ...{ noAck: true, prefetch: 0, federate: false },
    },
    ...{ ack: "none", eventKey: undefined, eventSubkey: undefined, order: undefined },
  });
});

describe("each name", () => {
  const cases: [members: object, path: string, value: unknown][] = [
    [{ routing: "a.#" }, "subscription.routing", ["a.#"]],
    [{ routing: ["a", "b"] }, "subscription.routing", ["a", "b"]],
    [{ routing: [] }, "subscription.routing", [""]],
    [{ auto_delete: 0 }, "subscription.queue.autoDelete", false],
    [{ auto_delete: 1 }, "subscription.exchange.autoDelete", true],
    [{ durable: 1 }, "subscription.queue.durable", true],
    [{ durable: 1 }, "subscription.exchange.durable", true],
    [{ passive: true }, "subscription.queue.passive", true],
    [{ passive: true }, "subscription.exchange.passive", true],
    [{ exclusive: "1" }, "subscription.queue.exclusive", true],
    [{ internal: 1 }, "subscription.exchange.internal", true],
    [
      { "queue-def": { durable: 1, auto_delete: 0, exclusive: 1, passive: 0 } },
      "subscription.queue",
      { ...QUEUE, durable: true, autoDelete: false, exclusive: true },
    ],
    [{ durable: 1, "queue-def": {} }, "subscription.queue.durable", false],
    [{ durable: 1, "queue-def": {} }, "subscription.exchange.durable", true],
    [
      { "queue-def": { arguments: { "x-expires": 1800000 } } },
      "subscription.queue.arguments",
      { "x-expires": 1800000 },
    ],
    [
      { "exchange-def": { type: "fanout", durable: 1, internal: 1 } },
      "subscription.exchange",
      { ...EXCHANGE, type: "fanout", durable: true, internal: true },
    ],
    [{ "exchange-def": { durable: 1 } }, "subscription.exchange.type", "topic"],
    [{ durable: 1, "exchange-def": {} }, "subscription.exchange.durable", false],
    [
      { "exchange-bindings": { src: { type: "topic", routing: ["x", "y"], durable: 1 }, none: { type: "fanout" } } },
      "subscription.exchangeBindings",
      [{ source: "src", type: "topic", routing: ["x", "y"], durable: true, autoDelete: false, passive: false }],
    ],
    [{ federate: 1 }, "subscription.federate", true],
    [{ no_ack: 0 }, "subscription.noAck", false],
    [{ no_ack: 0 }, "ack", "after"],
    [{ no_ack: 0, wait_for_consumer_ack: 0 }, "ack", "receipt"],
    [{ no_ack: 1, wait_for_consumer_ack: 1 }, "ack", "none"],
    [{ event_key: "Kind", event_subkey: "" }, "eventKey", "Kind"],
    [{ event_key: "Kind", event_subkey: "" }, "eventSubkey", undefined],
    [{ "consistent-worker": 1 }, "order", { member: undefined }],
    [{ "consistent-worker": 1, "consistent-worker-key": "Call-ID" }, "order", { member: "Call-ID" }],
    [{ "consistent-worker-key": "Call-ID" }, "order", undefined],
    [{ prefetch: 7 }, "subscription.prefetch", 7],
    [{ queue: null, durable: null }, "subscription.queue", { ...QUEUE, name: "" }],
  ];
  for (const [members, path, value] of cases)
    test(`${JSON.stringify(members)}: ${path}`, () => {
      const found = path
        .split(".")
        .reduce<unknown>((at, name) => (at as Record<string, unknown>)[name], parsed(members));
      expect(found).toEqual(value);
    });

  test("a queue alone is not bound to anything", () => {
    const { subscription } = parseSubscription('{"queue":"q","passive":1}', 20);
    expect(subscription.exchange).toBeUndefined();
    expect([subscription.queue.passive, subscription.prefetch]).toEqual([true, 20]);
  });
});

describe("refused", () => {
  const cases: [text: string, says: string][] = [
    ["", "expected a JSON object"],
    ["[]", "expected a JSON object"],
    ['{"exchange":"e"}', "direct, topic, fanout, headers"],
    ['{"exchnage":"e"}', "did you mean exchange?"],
    [
      '{"exchange":"e","type":"topic","queue-def":{"durabel":1}}',
      'unknown name "queue-def.durabel"; did you mean durable?',
    ],
    ['{"exchange":"e","type":"topic","durable":2}', '"durable" is "2", expected 0 or 1'],
    ['{"exchange":"e","type":"topic","durable":{}}', "expected 0 or 1"],
    ['{"exchange":"e","type":"topic","routing":1}', "expected string or array"],
    ['{"exchange":"e","type":"topic","routing":["a",1]}', "array of at most"],
    [`{"exchange":"e","type":"topic","routing":"${"x".repeat(256)}"}`, "255 octets"],
    [`{"exchange":"${"é".repeat(128)}","type":"topic"}`, "255 octets"],
    ['{"exchange":7,"type":"topic"}', '"exchange" is "7", expected string'],
    ['{"queue":"q","routing":"a"}', "the name of an exchange, for routing"],
    ['{"queue":"q","exchange-bindings":{"s":{"type":"topic","routing":"a"}}}', "the name of an exchange"],
    ['{"exchange":"e","type":"topic","exchange-bindings":{"s":7}}', "SOURCE"],
    [
      '{"exchange":"e","type":"topic","exchange-bindings":{"s":{"routing":"a"}}}',
      '"exchange-bindings.s.type" is nothing',
    ],
    ['{"exchange":"e","type":"topic","prefetch":-1}', "a whole number"],
    ['{"exchange":"e","type":"topic","queue-def":{"arguments":{"!":"x"}}}', "what an argument of the broker can hold"],
    [`{"exchange":"e","type":"topic","routing":[${'"a",'.repeat(2_000)}"a"]}`, "at most 1024"],
  ];
  for (const [text, says] of cases)
    test(text.slice(0, 80), () => {
      expect(() => parseSubscription(text)).toThrow(UsageError);
      expect(() => parseSubscription(text)).toThrow(says);
    });
});

test("any JSON is a subscription or a UsageError on one line of bounded length", () => {
  const names = fc.constantFrom(
    "exchange",
    "type",
    "queue",
    "routing",
    "durable",
    "no_ack",
    "queue-def",
    "exchange-def",
    "exchange-bindings",
    "x\n",
  );
  const values = fc.oneof(
    fc.constantFrom<unknown>("e", "topic", 0, 1, null, ["a"], {}, { s: { type: "t", routing: "r" } }),
    fc.jsonValue(),
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.dictionary(names, values).map((object) => JSON.stringify(object)),
        fc.json(),
        fc.string(),
      ),
      (text) => {
        try {
          parseSubscription(text);
        } catch (error) {
          expect(error).toBeInstanceOf(UsageError);
          expect((error as Error).message).toMatch(/^[^\r\n]{1,800}$/);
        }
      },
    ),
  );
});
