import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { contentTypeOf } from "../../src/amqp/content.ts";
import { consumerKey, incoming, memberOf, outgoing, parseConsumerKey } from "../../src/amqp/kazoo.ts";
import { decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { anyText } from "../helpers/texts.ts";

const IDENTITY = { appName: "dmq", appVersion: "1.2.3", node: "dmq@host" };
const MESSAGE = { messageId: "m-1", key: "dmq@host-7-targeted-1" };
const ADDED =
  '"App-Name":"dmq","App-Version":"1.2.3","Node":"dmq@host","Msg-ID":"m-1","Server-ID":"dmq@host-7-targeted-1"';
const RECEIPT = { zone: "local", broker: 2, receivedS: 1_700_000_000 };
const RECEIVED = '"AMQP-Broker-Zone":"local","AMQP-Received":1700000000';

describe("outgoing", () => {
  const cases: [what: string, body: string, sent: string][] = [
    ["an empty object", "{}", `{${ADDED}}`],
    ["an empty object with space in it", " { }\n", ` {${ADDED} }\n`],
    [
      "what was there stays as it was written",
      '{"id":18446744073709551615, "x" : 1e400 }',
      `{"id":18446744073709551615, "x" : 1e400,${ADDED} }`,
    ],
    ["members of objects inside do not count", '{"a":{"Msg-ID":"x"}}', `{"a":{"Msg-ID":"x"},${ADDED}}`],
    ["a brace in a string is none", '{"a":"}\\"}"}', `{"a":"}\\"}",${ADDED}}`],
    ["an own Msg-ID stays", '{"Msg-ID":"y"}', `{"Msg-ID":"y",${ADDED.replace('"Msg-ID":"m-1",', "")}}`],
    [
      "a name in escapes is the same name",
      '{"\\u004dsg-ID":"y"}',
      `{"\\u004dsg-ID":"y",${ADDED.replace('"Msg-ID":"m-1",', "")}}`,
    ],
  ];
  for (const [what, body, sent] of cases)
    test(what, () => expect(decodeUtf8(outgoing(encodeUtf8(body), IDENTITY, MESSAGE) as Uint8Array)).toBe(sent));

  test("a body that has all of them is the same body", () => {
    const body = encodeUtf8(`{${ADDED}}`);
    expect(outgoing(body, IDENTITY, MESSAGE)).toBe(body);
  });

  const none = ["", "[]", "1", '"{}"', "{", "{}{}", "\ufeff{}", "null"];
  for (const body of none)
    test(`no object: ${JSON.stringify(body)}`, () =>
      expect(outgoing(encodeUtf8(body), IDENTITY, MESSAGE)).toBeUndefined());

  test("octets that are no UTF-8 are no object", () =>
    expect(outgoing(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d), IDENTITY, MESSAGE)).toBeUndefined());
});

describe("incoming", () => {
  const cases: [what: string, body: string, handled: string][] = [
    ["zone and time are added", '{"a":1}', `{"a":1,${RECEIVED}}`],
    ["what the sender says of them is not believed", '{"AMQP-Broker-Zone":"x","AMQP-Received":null}', `{${RECEIVED}}`],
    [
      "also where it says it twice",
      '{"AMQP-Received":1,"AMQP-Received" : 2}',
      '{"AMQP-Received":1700000000,"AMQP-Received" : 1700000000,"AMQP-Broker-Zone":"local"}',
    ],
    [
      "Server-ID leads back",
      '{"Server-ID" : "kz@h-1" , "b":2}',
      `{"Server-ID" : "consumer://2/kz@h-1" , "b":2,${RECEIVED}}`,
    ],
    [
      "one that leads on already leads on behind that",
      '{"Server-ID":"consumer://1/k"}',
      `{"Server-ID":"consumer://2/consumer://1/k",${RECEIVED}}`,
    ],
    ["an empty one stays", '{"Server-ID":""}', `{"Server-ID":"",${RECEIVED}}`],
    ["an object is no key", '{"Server-ID":{}}', `{"Server-ID":{},${RECEIVED}}`],
  ];
  for (const [what, body, handled] of cases)
    test(what, () => expect(decodeUtf8(incoming(encodeUtf8(body), RECEIPT))).toBe(handled));

  test("what is no object is the same body", () => {
    for (const body of [encodeUtf8("[1]"), Uint8Array.of(0xff, 0), new Uint8Array(0)])
      expect(incoming(body, RECEIPT)).toBe(body);
  });
});

test("memberOf: texts, numbers as they are written, and nothing else", () => {
  const body = encodeUtf8('{"Msg-ID":"a\\n","n":12345678901234567890,"t":true,"z":null,"o":{},"l":[1]}');
  const found = ["Msg-ID", "n", "t", "z", "o", "l", "none"].map((name) => memberOf(body, name));
  expect(found).toEqual(["a\n", "12345678901234567890", "true", undefined, undefined, undefined, undefined]);
});

describe("consumer://", () => {
  const cases: [key: string, parsed: { broker: number; key: string } | undefined][] = [
    ["consumer://1/a.b", { broker: 1, key: "a.b" }],
    ["consumer://12/consumer://1/a", { broker: 12, key: "consumer://1/a" }],
    ["consumer://0/", { broker: 0, key: "" }],
    ["consumer://1", undefined],
    ["consumer:///a", undefined],
    ["consumer://-1/a", undefined],
    ["consumer://1234567890/a", undefined],
    ["Consumer://1/a", undefined],
    ["xconsumer://1/a", undefined],
    ["a.b", undefined],
  ];
  for (const [key, parsed] of cases)
    test(key, () => expect(parseConsumerKey(key)).toEqual(parsed as { broker: number; key: string }));

  test("what is made reads back", () => {
    fc.assert(
      fc.property(fc.nat({ max: 999_999_999 }), anyText(), (broker, key) => {
        expect(parseConsumerKey(consumerKey(broker, key))).toEqual({ broker, key });
      }),
    );
  });
});

test("any object comes out with all that was in it, as the text that it was, and with what was missing", () => {
  const names = fc.oneof(fc.string(), fc.constantFrom("Msg-ID", "Server-ID", "Node", "AMQP-Received"));
  const objects = fc.dictionary(names, fc.jsonValue(), { noNullPrototype: true });
  fc.assert(
    fc.property(objects, fc.constantFrom(undefined, 1, "\t"), (object, indent) => {
      const text = JSON.stringify(object, null, indent);
      const sent = decodeUtf8(outgoing(encodeUtf8(text), IDENTITY, MESSAGE) as Uint8Array);
      // All of it is there, and it ends as it ended.
      expect(sent.startsWith(text.replace(/\s*\}$/, ""))).toBeTrue();
      const own = {
        "App-Name": "dmq",
        "App-Version": "1.2.3",
        Node: "dmq@host",
        "Msg-ID": "m-1",
        "Server-ID": MESSAGE.key,
      };
      expect(JSON.parse(sent)).toEqual({ ...own, ...(JSON.parse(text) as object) });
      const handled = JSON.parse(decodeUtf8(incoming(encodeUtf8(text), RECEIPT))) as Record<string, unknown>;
      expect(handled["AMQP-Received"]).toBe(RECEIPT.receivedS);
      for (const [name, value] of Object.entries(JSON.parse(text) as Record<string, unknown>))
        if (!name.startsWith("AMQP-") && name !== "Server-ID") expect(handled[name]).toEqual(value);
    }),
  );
});

const types: [what: string, body: Uint8Array, type: string][] = [
  ["an object", encodeUtf8('{"a":1}'), "application/json"],
  ["a number", encodeUtf8(" 5\n"), "application/json"],
  ["text", encodeUtf8("{a:1}"), "text/plain"],
  ["nothing", new Uint8Array(0), "text/plain"],
  ["a byte order mark in front", encodeUtf8("\ufeff{}"), "text/plain"],
  ["octets", Uint8Array.of(0xff, 0xfe), "application/octet-stream"],
];
for (const [what, body, type] of types)
  test(`content type of ${what}: ${type}`, () => expect(contentTypeOf(body)).toBe(type));
