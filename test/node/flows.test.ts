/**
 * Streams into a node that has no sockets: what a slow, a greedy and a broken sender lose, and that nobody else loses anything.
 * Goal: RFC 3261 §18.3 and the limits of ARCHITECTURE.md, with the clock in the test's hand.
 */
import { describe, expect, test } from "bun:test";
import { concatBytes, decodeUtf8, encodeUtf8, viewOf } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { Flows } from "../../src/node/flows.ts";
import type { Output } from "../../src/node/io.ts";
import { kdmq as message } from "../sip/octets.ts";
import { Harness } from "./harness.ts";

const FIRST: Endpoint = { transport: "tcp", ip: "127.0.0.2", port: 40_000 };
const SECOND: Endpoint = { transport: "tcp", ip: "127.0.0.3", port: 40_000 };

/** A harness that keeps what happens to flows. */
class Streams extends Harness {
  readonly closed: number[] = [];
  readonly answers: string[] = [];

  give(octets: Uint8Array | string, from = FIRST, flow = 1): void {
    const bytes = typeof octets === "string" ? encodeUtf8(octets) : octets;
    this.node.handle({ type: "received", from, flow, bytes }, this.now);
    this.collect();
  }

  /** Runs the clock, firing what is due on the way. */
  wait(ms: number): void {
    const end = this.now + ms;
    for (let next = this.node.nextTimeout(); next !== undefined && next <= end; next = this.node.nextTimeout()) {
      this.now = Math.max(this.now, next);
      this.node.handleTimeout(this.now);
      this.collect();
    }
    this.now = end;
  }

  taken(): number {
    return this.ofType("message").length;
  }

  warnings(): string[] {
    return this.ofType("warning").map(({ code }) => code);
  }

  private collect(): void {
    for (let output = this.node.poll(); output !== undefined; output = this.node.poll()) this.keep(output);
  }

  private keep(output: Output): void {
    if (output.type === "close") this.closed.push(output.flow);
    if (output.type === "event") this.events.push(output.event);
    if (output.type === "transmit") this.answers.push(decodeUtf8(viewOf(output)).split("\r\n")[0] as string);
  }
}

let branches = 0;

/** A message that was not sent before, to a channel that waits for its handler. */
function fresh(changes: Record<string, string> = {}, body = "hello"): Uint8Array {
  const via = `Via: SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bKflow${++branches}`;
  return message({ via, ...changes }, body);
}

const whole = fresh();
const head = whole.subarray(0, 40);

describe("slow streams", () => {
  test("flows: a header block that drips in is closed after five seconds, however often an octet comes", () => {
    const node = new Streams();
    for (let i = 0; i < 49; i++) {
      node.give(whole.subarray(i, i + 1));
      node.wait(100);
    }
    expect(node.closed).toEqual([]);
    node.wait(200);
    expect([node.closed, node.warnings(), node.answers]).toEqual([[1], ["slow-stream"], []]);
  });

  test("flows: a body has thirty seconds from the end of its headers", () => {
    const node = new Streams();
    node.give(whole.subarray(0, whole.length - 1));
    node.wait(29_999);
    expect(node.closed).toEqual([]);
    node.wait(2);
    expect(node.closed).toEqual([1]);
    expect(node.node.nextTimeout()).toBeUndefined();
  });

  test("flows: each message of a pipeline has its own time", () => {
    const node = new Streams();
    node.give(head);
    for (let i = 0; i < 5; i++) {
      node.wait(4_000);
      node.give(concatBytes([fresh().subarray(head.length), head]));
    }
    expect([node.closed, node.taken()]).toEqual([[], 5]);
    node.wait(5_000);
    expect(node.closed).toEqual([1]);
  });

  test("flows: nothing on its way, or half a keep-alive, is no slow message", () => {
    const node = new Streams();
    node.give(fresh());
    node.give("\r\n\r\n\r");
    node.wait(60_000);
    expect([node.closed, node.warnings()]).toEqual([[], []]);
    node.give("\n");
    node.give(fresh());
    expect([node.taken(), node.answers]).toEqual([2, [""]]);
  });

  test("flows: what comes after the end is not read, and the next connection is a new one", () => {
    const node = new Streams();
    node.give(head);
    node.wait(5_000);
    node.give(fresh());
    expect(node.taken()).toBe(0);
    node.do((core, now) => core.handle({ type: "closed", flow: 1 }, now));
    node.give(fresh(), FIRST, 2);
    expect(node.taken()).toBe(1);
  });

  test("flows: one that ends by itself leaves no deadline", () => {
    const node = new Streams();
    node.give(head);
    node.do((core, now) => core.handle({ type: "closed", flow: 1 }, now));
    expect(node.node.nextTimeout()).toBeUndefined();
  });
});

describe("greedy streams", () => {
  test("flows: beyond the limit of all unfinished messages the address that holds most loses its largest", () => {
    const flows = new Flows(1_000);
    const give = (flow: number, from: Endpoint, bytes: number): unknown => {
      flows.framer(flow, from).push(new Uint8Array(bytes).fill(0x41));
      flows.framer(flow, from).next();
      return flows.settle(flow, false, 0);
    };
    expect(give(1, SECOND, 400)).toBeUndefined();
    expect(give(2, FIRST, 300)).toBeUndefined();
    expect(give(3, FIRST, 250)).toBeUndefined();
    expect(give(4, FIRST, 100)).toMatchObject({ flow: 2, source: FIRST });
    expect([flows.framer(2, FIRST).dead(), flows.framer(1, SECOND).buffered()]).toEqual([true, 400]);
    expect(give(4, FIRST, 200)).toBeUndefined();
    expect(give(4, FIRST, 100)).toMatchObject({ flow: 4 });
  });

  test("flows: a hundred connections of one address with a megabyte each stay below the limit, and cost nobody else theirs", () => {
    const node = new Streams();
    const large = fresh({ length: "Content-Length: 1000000" }, "");
    node.give(concatBytes([large, new Uint8Array(1_000)]), SECOND, 1);
    for (let flow = 2; flow < 102; flow++) node.give(concatBytes([large, new Uint8Array(999_000)]), FIRST, flow);
    expect(node.closed.length).toBeGreaterThan(30);
    expect(node.closed).not.toContain(1);
    node.give(new Uint8Array(999_000), SECOND, 1);
    expect(node.taken()).toBe(1);
  });
});

/** RFC 3261 §18.3, §20.14 and RFC 4475 §3.1.2.4, §3.1.2.7: what two readers might cut differently ends the stream. */
describe("request smuggling", () => {
  const inner = decodeUtf8(message({ via: "Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKinner" }));
  const cases: [name: string, octets: Uint8Array | string, answer: string][] = [
    ["two Content-Lengths", message({ x: "Content-Length: 5" }, inner), "400 Bad Request"],
    ["two that differ", message({ x: "Content-Length: 0" }, inner), "400 Bad Request"],
    ["one of them compact", message({ x: "l: 0" }, inner), "400 Bad Request"],
    ["two in one line", message({ length: "Content-Length: 0, 5" }, inner), "400 Bad Request"],
    ["a negative one", message({ length: "Content-Length: -1" }, inner), "400 Bad Request"],
    ["one with a sign", message({ length: "Content-Length: +5" }, inner), "400 Bad Request"],
    ["one in hexadecimal", message({ length: "Content-Length: 0x5" }, inner), "400 Bad Request"],
    ["an empty one", message({ length: "Content-Length:" }, inner), "400 Bad Request"],
    ["one of ten digits", message({ length: "Content-Length: 0000000005" }, inner), "400 Bad Request"],
    ["none", message({ length: "" }, inner), "400 Bad Request"],
    ["one beyond the limit", message({ length: "Content-Length: 1048577" }, inner), "413 Request Entity Too Large"],
    ["LF for CRLF between headers", message({ x: "X: a\nContent-Length: 0" }, inner), "400 Bad Request"],
    ["CR alone between headers", message({ x: "X: a\rContent-Length: 0" }, inner), "400 Bad Request"],
    ["NUL in a header", message({ x: "X: a\0b" }, inner), "400 Bad Request"],
    ["a space before the colon of the second", message({ x: "Content-Length : 0" }, inner), "400 Bad Request"],
    ["headers without an end", `${decodeUtf8(head)}${"X: a\r\n".repeat(11_000)}`, ""],
  ];
  for (const [name, octets, answer] of cases)
    test(`stream: ${name} is ${answer === "" ? "the end of it" : answer} and close, and nothing inside is read`, () => {
      const node = new Streams();
      node.give(octets);
      node.give(message());
      expect(node.answers).toEqual(answer === "" ? [] : [`SIP/2.0 ${answer}`]);
      expect(node.closed).toEqual([1]);
      expect([node.taken(), node.node.counters.messagesReceived]).toEqual([0, 0]);
    });

  test("stream: a message with LF for CRLF throughout never begins, and is closed for its time", () => {
    const node = new Streams();
    node.give(decodeUtf8(message()).replaceAll("\r\n", "\n"));
    node.wait(5_000);
    expect([node.answers, node.closed]).toEqual([[], [1]]);
  });
});

/** The limits of the codec, over the node: each with its answer. */
describe("limits of a message", () => {
  const long = (length: number): string => "a".repeat(length);
  const cases: [name: string, octets: Uint8Array, answer: string, closed: boolean][] = [
    [
      "a URI of 8,193 characters",
      message({ start: `KDMQ sip:lab@${long(8_185)} SIP/2.0` }),
      "414 Request-URI Too Long",
      false,
    ],
    ["65 headers of one name", message({ x: Array(65).fill("X: a").join("\r\n") }), "513 Message Too Large", false],
    [
      "513 headers",
      message({ x: Array.from({ length: 512 }, (_, i) => `X${i}: a`).join("\r\n") }),
      "513 Message Too Large",
      true,
    ],
    ["a body of 1,048,577 octets", message({}, long(1_048_577)), "413 Request Entity Too Large", true],
    ["a header block of 64 KiB and more", message({ x: `X: ${long(65_536)}` }), "513 Message Too Large", true],
  ];
  for (const [name, octets, answer, closed] of cases)
    test(`stream: ${name} is ${answer}`, () => {
      const node = new Streams();
      node.give(octets);
      expect(node.answers).toEqual([`SIP/2.0 ${answer}`]);
      expect(node.closed).toEqual(closed ? [1] : []);
    });

  test("stream: at its limits a message is served", () => {
    const node = new Streams();
    node.give(fresh({}, long(1_048_576)));
    node.give(fresh({ x: Array(64).fill("X: a").join("\r\n") }));
    node.give(fresh({ start: `KDMQ sip:lab@127.0.0.1;a=${long(8_000)} SIP/2.0` }));
    expect([node.taken(), node.answers, node.closed]).toEqual([3, [], []]);
  });
});
