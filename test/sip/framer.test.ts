/**
 * The framer: whatever the chunks, the same messages come out. Goal: every split point of every stream capture, and of one
 * datagram capture, plus arrival byte by byte; what loses a stream; bounded memory.
 */
import { describe, expect, test } from "bun:test";
import { concatBytes, encodeUtf8 } from "../../src/core/bytes.ts";
import { Framer } from "../../src/sip/framer.ts";
import { LIMITS } from "../../src/sip/parse.ts";
import { CAPTURES, describeMessage, fixture, kdmq, lines } from "./octets.ts";

function drain(framer: Framer): string[] {
  const items: string[] = [];
  for (let item = framer.next(); item !== undefined; item = framer.next()) items.push(describeMessage(item));
  return items;
}

function run(...chunks: Uint8Array[]): { items: string[]; framer: Framer } {
  const framer = new Framer();
  const items: string[] = [];
  for (const chunk of chunks) {
    framer.push(chunk);
    items.push(...drain(framer));
  }
  return { items, framer };
}

function byteByByte(bytes: Uint8Array): Uint8Array[] {
  return Array.from(bytes, (octet) => Uint8Array.of(octet));
}

const STREAMS: [string, Uint8Array, number][] = CAPTURES.filter((name) => /^(08[0-3]|002|090)/.test(name)).map(
  (name) => [name, fixture("captures", name), 1],
);
STREAMS.push(["the four TCP captures in a row", concatBytes(STREAMS.slice(1, 5).map(([, bytes]) => bytes)), 4]);
STREAMS.push([
  "messages with keepalives around them",
  concatBytes([encodeUtf8("\r\n\r\n\r\n"), kdmq(), encodeUtf8("\r\n"), kdmq({}, ""), encodeUtf8("\r\n\r\n"), kdmq()]),
  7,
]);
STREAMS.push(["a fault that does not lose the stream", concatBytes([kdmq({ start: "A sip:h SIP/3.0" }), kdmq()]), 2]);
STREAMS.push(["a fault that does", concatBytes([kdmq(), kdmq({ length: "l: x" }), kdmq()]), 2]);

describe("framer: every split point gives the same messages", () => {
  test.each(STREAMS)("%s", (_, bytes, count) => {
    const whole = run(bytes).items;
    expect(whole).toHaveLength(count);
    for (let at = 1; at < bytes.length; at++)
      expect(run(bytes.subarray(0, at), bytes.subarray(at)).items).toEqual(whole);
    expect(run(...byteByByte(bytes)).items).toEqual(whole);
  });

  test("the TCP captures are among them", () => {
    expect(STREAMS.map(([name]) => name.slice(0, 3))).toEqual(expect.arrayContaining(["080", "081", "082", "083"]));
  });
});

describe("framer: keepalives", () => {
  test.each([
    ["\r\n\r\n", ["keepalive true"], 0],
    ["\r\n\r\n\r\n\r\n", ["keepalive true", "keepalive true"], 0],
    // A single one waits: it may be the first half of a ping.
    ["\r\n", [], 2],
    ["\r\n\r", [], 3],
    ["\r", [], 1],
  ])("%p", (text, items, left) => {
    const { items: got, framer } = run(encodeUtf8(text));
    expect(got).toEqual(items);
    expect(framer.buffered()).toBe(left);
    expect(framer.headerPending()).toBe(false);
  });

  test("a single line end before a message asks for nothing", () => {
    expect(run(encodeUtf8("\r\n"), kdmq()).items[0]).toBe("keepalive false");
  });
});

describe("framer: a stream is lost, and says why once", () => {
  test.each([
    ["without Content-Length", kdmq({ length: "" }), 400, true],
    ["with two of them", kdmq({ length: "l: 5\r\nl: 5" }), 400, true],
    ["with one that is no number", kdmq({ length: "l: 5x" }), 400, true],
    ["with a body over the limit", kdmq({ length: `l: ${LIMITS.bodyBytes + 1}` }), 413, true],
    ["with LF in the headers", kdmq({ extra: "a: 1\nb: 2" }), 400, true],
    ["with NUL in the headers", kdmq({ extra: "a: \u0000" }), 400, true],
    ["with 513 headers", kdmq({ extra: Array.from({ length: 513 }, (_, i) => `X-${i}: 1`).join("\r\n") }), 513, true],
    ["with a header block that does not end", kdmq({ extra: `X: ${"a".repeat(LIMITS.headerBytes)}` }), 513, true],
    ["with a start line that does not end", encodeUtf8("K".repeat(LIMITS.headerBytes)), 513, false],
    ["with something else than SIP", lines("GET / HTTP/1.1", "Content-Length: 0", "", ""), 400, false],
    ["with CR alone between messages", encodeUtf8("\rK"), 400, false],
  ])("%s", (_, bytes, status, answerable) => {
    const framer = new Framer();
    framer.push(bytes);
    const fault = framer.next();
    expect(fault?.type).toBe("malformed");
    if (fault?.type !== "malformed") return;
    expect(fault.error.statusHint).toBe(status);
    expect(fault.request !== undefined).toBe(answerable);
    expect(framer.dead()).toBe(true);
    framer.push(kdmq());
    expect([framer.next(), framer.buffered(), framer.headerPending()]).toEqual([undefined, 0, false]);
  });

  test("a limit of the owner's holds in place of ours", () => {
    const framer = new Framer(4);
    framer.push(kdmq({}, "four"));
    expect(framer.next()?.type).toBe("request");
    framer.push(kdmq({}, "fives"));
    expect(framer.next()).toMatchObject({ type: "malformed", error: { statusHint: 413 } });
  });
});

describe("framer: memory", () => {
  test("a message inside one chunk is not copied", () => {
    const chunk = concatBytes([kdmq(), kdmq()]);
    const framer = new Framer();
    framer.push(chunk);
    for (let count = 0; count < 2; count++) {
      const message = framer.next();
      if (message?.type !== "request") throw new Error("expected a request");
      expect(message.bytes.buffer).toBe(chunk.buffer);
      expect(message.bytes).toEqual(kdmq());
    }
  });

  test("messages stay whole while later chunks arrive", () => {
    const framer = new Framer();
    const kept: Uint8Array[] = [];
    for (let round = 0; round < 50; round++) {
      for (const octet of kdmq({}, `body ${round}`)) {
        framer.push(Uint8Array.of(octet));
        const message = framer.next();
        if (message?.type === "request") kept.push(message.body);
      }
    }
    expect(kept.map((body) => new TextDecoder().decode(body))).toEqual(
      Array.from({ length: 50 }, (_, i) => `body ${i}`),
    );
  });

  test("a promised length takes no memory, and the header is pending only until its empty line", () => {
    const framer = new Framer();
    const message = kdmq({ length: `l: ${LIMITS.bodyBytes}` }, "");
    framer.push(message.subarray(0, 40));
    expect(framer.next()).toBeUndefined();
    expect([framer.buffered(), framer.headerPending()]).toEqual([40, true]);
    framer.push(message.subarray(40));
    expect(framer.next()).toBeUndefined();
    expect([framer.buffered(), framer.headerPending()]).toEqual([message.length, false]);
  });

  test("a body of the greatest length passes, in small chunks", () => {
    const framer = new Framer();
    framer.push(kdmq({ length: `l: ${LIMITS.bodyBytes}` }, ""));
    const chunk = new Uint8Array(1_024).fill(7);
    let message = framer.next();
    for (let i = 0; i < LIMITS.bodyBytes / 1_024; i++) {
      expect(message).toBeUndefined();
      framer.push(chunk);
      message = framer.next();
    }
    expect(message?.type === "request" && message.body.length).toBe(LIMITS.bodyBytes);
    expect(framer.buffered()).toBe(0);
  });
});

test("framer: two requests of RFC 4475 in one stream are two", () => {
  const { items } = run(fixture("sip-torture", "rfc4475", "dblreq.dat"));
  const starts = items.map((item) => item.slice(0, 12));
  // The second Content-Length is one octet short of the body, and the LF that is left over begins no message.
  expect(starts).toEqual(['["REGISTER",', "keepalive fa", '["INVITE","s', "malformed 40"]);
});
