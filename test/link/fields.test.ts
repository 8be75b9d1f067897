/**
 * What stands where on the bus, in a queue and at a broker (the table of amqp.md B9), and that nothing of a broker gets into a SIP
 * message but where it belongs.
 */
import { describe, expect, test } from "bun:test";
import type { Delivery, HeaderValue } from "../../src/amqp/message.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import { parseLink } from "../../src/link/definition.ts";
import {
  deliveryExtras,
  deliveryFacts,
  deliveryFrom,
  deliveryMessageId,
  deliveryPath,
  deliveryType,
  itemExtras,
  keptHeaders,
  publicationOfItem,
  publicationOfMessage,
} from "../../src/link/fields.ts";
import type { Target } from "../../src/link/kinds.ts";
import { busPlace, exchangePlace, HOPS_MAX, hasBeenIn, placeId } from "../../src/link/path.ts";
import type { ChannelMessage } from "../../src/node/io.ts";
import type { Item } from "../../src/queue/operation.ts";
import type { SipRequest } from "../../src/sip/message.ts";

const NODE = "sip:127.0.0.1:5060";
const PATH = ["bus=dmq/in"];
const NOW_MS = 1_700_000_000_500;
const BYTES = Uint8Array.from({ length: 256 }, (_, value) => value);

function message(lines: Record<string, string> = {}, more: Partial<ChannelMessage> = {}): ChannelMessage {
  const all = new Map(Object.entries({ CSeq: "10 KDMQ", From: "<sip:alerts@192.0.2.7:5060>;tag=t1", ...lines }));
  const headers = { get: (name: string) => all.get(name) };
  return {
    ...{ id: 1, channel: "alerts", from: "sip:alerts@192.0.2.7:5060", peer: undefined, callId: "c1", body: BYTES },
    ...{ source: { transport: "udp", ip: "192.0.2.7", port: 5060 }, maxForwards: 1, acceptsBody: false },
    ...{ contentType: undefined, messageId: undefined, request: { headers } as unknown as SipRequest },
    ...more,
  };
}

function target(text: string): Target {
  const link = parseLink(text);
  if (link.type !== "publish" && link.type !== "forward") throw new Error("it publishes nothing");
  return link.target;
}

const PUBLISHED = target("channel:alerts -> exchange:sip/a.{from.host|enc};headers=Kind,other;priority=4;mandatory=no");
const publish = (of: ChannelMessage) => publicationOfMessage(of, PUBLISHED, { node: NODE, path: PATH, nowMs: NOW_MS });

describe("fields: from the bus to a broker", () => {
  test("a message with nothing but its body", () => {
    const published = publish(message());
    expect(published).toEqual({
      ...{ exchange: "sip", routingKey: "a.192%2E0%2E2%2E7", mandatory: false, persistent: true, appId: "dmq" },
      ...{ priority: 4, body: BYTES, contentType: "application/octet-stream", messageId: "c1;10 KDMQ;t1" },
      timestamp: 1_700_000_000,
      headers: {
        ...{ "x-dmq-from": "sip:192.0.2.7:5060", "x-dmq-node": NODE, "x-dmq-channel": "alerts", "x-dmq-path": PATH },
      },
    });
    expect(published.body).toBe(BYTES);
  });

  test("a message with all that there is", () => {
    const lines = {
      ...{ Date: "Sat, 21 Nov 2026 10:00:00 GMT", "Content-Encoding": "gzip", "X-DMQ-H-Kind": "disk" },
      ...{ "X-DMQ-Correlation-Id": "c-7", "X-DMQ-Reply-To": "back", "X-DMQ-H-unasked": "x" },
    };
    const more = { contentType: "text/plain;charset=utf-8", messageId: "m-1", peer: "sip:192.0.2.7:5060" };
    const published = publish(message(lines, more));
    expect(published).toMatchObject({
      ...{ contentType: "text/plain;charset=utf-8", contentEncoding: "gzip", messageId: "m-1" },
      ...{ correlationId: "c-7", replyTo: "back", timestamp: Date.UTC(2026, 10, 21, 10) / 1_000 },
      headers: { Kind: "disk" },
    });
    expect(Object.keys(published.headers ?? {})).not.toContain("unasked");
  });

  test("what no short string of AMQP can hold stands as a digest, or not at all", () => {
    const long = "x".repeat(256);
    const published = publish(message({ "X-DMQ-Reply-To": long, CSeq: long }, { contentType: long }));
    expect(published.messageId).toMatch(/^[0-9a-f]{64}$/);
    expect(published.contentType).toBe("application/octet-stream");
    expect(published.replyTo).toBeUndefined();
  });

  test("an item that was a message keeps what it said", () => {
    const lines = { "Content-Encoding": "gzip", "X-DMQ-Reply-To": "back", "X-DMQ-Correlation-Id": "bad\0" };
    expect(keptHeaders(message(lines, { messageId: "m-1" }))).toEqual({
      ...{ "X-DMQ-Id": "m-1", "Content-Encoding": "gzip", "X-DMQ-Reply-To": "back" },
    });
  });
});

const ITEM: Item = {
  ...{ seq: 7, id: "7-1", queue: "out", key: "a b", value: BYTES, contentType: "text/plain", path: [], tries: 1 },
  ...{ headers: {}, from: null, channel: null, addedAt: NOW_MS, dueAt: NOW_MS },
};

describe("fields: from a queue", () => {
  const forwarded = target("queue:out -> exchange:sip/out.{key|enc};headers=Kind");

  test("an item of a local writer to a broker", () => {
    const published = publicationOfItem(ITEM, forwarded, { node: NODE, path: PATH });
    expect(published).toEqual({
      ...{ exchange: "sip", routingKey: "out.a+b", mandatory: true, persistent: true, appId: "dmq" },
      ...{ body: BYTES, contentType: "text/plain", timestamp: 1_700_000_000 },
      messageId: `127.0.0.1:5060/out/7.${NOW_MS.toString(36)}`,
      headers: { "x-dmq-node": NODE, "x-dmq-path": PATH },
    });
  });

  test("an item that came from the bus, or from a broker, to a broker", () => {
    const headers = { "X-DMQ-Id": "m", "X-DMQ-H-Kind": "disk", "X-DMQ-Reply-To": "back", "Content-Encoding": "gzip" };
    const item = { ...ITEM, headers, from: "sip:192.0.2.7:5060", channel: "alerts" };
    expect(publicationOfItem(item, forwarded, { node: NODE, path: PATH })).toMatchObject({
      ...{ messageId: "m", replyTo: "back", contentEncoding: "gzip" },
      headers: { Kind: "disk", "x-dmq-from": "sip:192.0.2.7:5060", "x-dmq-channel": "alerts" },
    });
  });

  test("an item on its way to nodes takes along what the bus has a header for, and nothing else", () => {
    const headers = { "X-DMQ-Id": "m", Kind: "x", Via: "x", "X-DMQ-H-Kind": "disk", "X-DMQ-H-Bad": "a\r\nVia: b" };
    expect(itemExtras({ ...ITEM, headers })).toEqual([["X-DMQ-H-Kind", "disk"]]);
    expect(itemExtras(ITEM)).toBeUndefined();
  });
});

function delivery(more: Partial<Delivery> = {}): Delivery {
  const [broker] = parseBrokers(["amqp://127.0.0.1"]);
  if (broker === undefined) throw new Error("one URL is one broker");
  return { exchange: "sip", routingKey: "alert.disk", body: BYTES, queue: "q", redelivered: false, broker, ...more };
}

describe("fields: from a broker", () => {
  test("facts for templates: ours, and any header whatever its case", () => {
    const headers = { "x-dmq-channel": "alerts", "x-dmq-from": "sip:h:1", Count: 3, Deep: { a: 1 } };
    const facts = deliveryFacts(delivery({ headers }));
    expect(facts).toMatchObject({
      ...{ channel: "alerts", from: "sip:h:1", contentType: "application/octet-stream" },
      ...{ exchange: "sip", routingKey: "alert.disk" },
    });
    expect(["count", "Count", "deep", "none"].map(facts.header)).toEqual(["3", "3", "", ""]);
  });

  const types: [given: string | undefined, type: string][] = [
    [undefined, "application/octet-stream"],
    ["text/plain;charset=utf-8", "text/plain;charset=utf-8"],
    ["text/plain\r\nVia: x", "application/octet-stream"],
    ["", "application/octet-stream"],
  ];
  for (const [given, type] of types)
    test(`content type ${JSON.stringify(given)} is ${type}`, () =>
      expect(deliveryType(delivery(given === undefined ? {} : { contentType: given }))).toBe(type));

  const ids: [given: string | undefined, id: string | RegExp | undefined][] = [
    [undefined, undefined],
    ["", undefined],
    ["m-1", "m-1"],
    ["a b", /^[0-9a-f]{64}$/],
    ["a\r\nVia: x", /^[0-9a-f]{64}$/],
    ["\u00fc", /^[0-9a-f]{64}$/],
  ];
  for (const [given, id] of ids)
    test(`message id ${JSON.stringify(given)} is ${id}`, () => {
      const found = deliveryMessageId(delivery(given === undefined ? {} : { messageId: given }));
      if (id instanceof RegExp) expect(found).toMatch(id);
      else expect(found).toBe(id as string);
    });

  test("only headers that are asked for go along, and of these only simple ones of one line", () => {
    const headers: Record<string, HeaderValue> = {
      ...{ kind: "disk", count: 3, on: true, big: 1e21, unasked: "x", deep: { a: 1 }, list: ["a"], none: null },
      ...{ cr: "a\rVia: b", lf: "a\nVia: b", nul: "a\0", long: "x".repeat(1_025), empty: "", bytes: BYTES },
    };
    const names = Object.keys(headers).filter((name) => name !== "unasked");
    const extras = deliveryExtras(delivery({ headers, replyTo: "back", correlationId: "c\r\n" }), [...names, "absent"]);
    expect(extras).toEqual([
      ...([["X-DMQ-Reply-To", "back"]] as [string, string][]),
      ...([["X-DMQ-H-kind", "disk"]] as [string, string][]),
      ...([["X-DMQ-H-count", "3"]] as [string, string][]),
      ...([["X-DMQ-H-on", "true"]] as [string, string][]),
      ...([["X-DMQ-H-big", "1e+21"]] as [string, string][]),
    ]);
  });

  const unreadable = new Array(HOPS_MAX).fill("?");
  const paths: [name: string, header: HeaderValue | undefined, path: string[]][] = [
    ["none", undefined, []],
    ["ours", ["bus=dmq/a", "n/b"], ["bus=dmq/a", "n/b"]],
    ["a text, as Kamailio's kazoo could write it", "n/a", ["n/a"]],
    ["an id with a comma", ["n/a,n/b"], unreadable],
    ["an empty array", [], unreadable],
    ["a number", 7, unreadable],
    ["an id with a line's end", ["a\r\nVia: b"], unreadable],
    ["a table", { a: "b" }, unreadable],
  ];
  for (const [name, header, path] of paths)
    test(`path: ${name}`, () =>
      expect([...deliveryPath(delivery(header === undefined ? {} : { headers: { "x-dmq-path": header } }))]).toEqual(
        path,
      ));

  test("where it came from: the node that a link of ours names, else the exchange", () => {
    expect(deliveryFrom(delivery({ headers: { "x-dmq-from": "sip:h:1" } }))).toBe("sip:h:1");
    expect(deliveryFrom(delivery({ headers: { "x-dmq-from": "sip:h\r\n" } }))).toBe("sip");
  });
});

describe("places in paths", () => {
  test("a bus and an exchange are known by their names, whatever is in them, and whichever link took the message there", () => {
    const path = [placeId(busPlace("a/b, c"), "in"), placeId(exchangePlace("local", "x".repeat(255)), "out")];
    expect(path.every((id) => /^[\x21-\x7e]{1,200}$/.test(id) && !id.includes(","))).toBe(true);
    expect(hasBeenIn(path, busPlace("a/b, c"))).toBe(true);
    expect(hasBeenIn(path, exchangePlace("local", "x".repeat(255)))).toBe(true);
    expect(hasBeenIn(path, busPlace("a"))).toBe(false);
    expect(hasBeenIn(path, exchangePlace("local", "x".repeat(254)))).toBe(false);
    expect(hasBeenIn(path, exchangePlace("remote", "x".repeat(255)))).toBe(false);
  });
});
