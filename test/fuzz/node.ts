/**
 * Invariant: any octets into a node, from anybody, over datagrams and streams, cut anywhere, end no call with a throw; whatever
 * leaves it is a message that reads back; what one input sets off is bounded, and so is what the node remembers of all of them.
 */
import fc from "fast-check";
import { decodeUtf8, encodeUtf8, viewOf } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { Answer, Output } from "../../src/node/io.ts";
import { DmqNode } from "../../src/node/node.ts";
import { checkRequest, checkResponse, parseMessage } from "../../src/sip/parse.ts";
import { describeMessage } from "../sip/octets.ts";
import { mutated, SIP_PIECES, sipRequest } from "./octets.ts";
import { must, type Target } from "./target.ts";

interface Step {
  octets: Uint8Array;
  transport: "udp" | "tcp";
  flow: number;
  ip: number;
  afterMs: number;
  /** What becomes of the flow, or of the last question to DNS, besides. */
  next: "nothing" | "closed" | "unsent" | "resolved" | "reply";
}

interface Trial {
  steps: Step[];
  answer: number;
}

/** Beside the answer: pings of hints and peers, relays to all of them. */
const OUTPUTS_MAX = 5_000;
const PEERS_MAX = 1_000;
const TIMEOUTS_MAX = 20_000;
const ANSWERS: readonly Answer[] = [
  { status: 200 },
  { status: 503, retryAfterSeconds: 2 },
  { status: 200, body: encodeUtf8("body"), contentType: "text/plain" },
  { status: 404, reason: "ж" },
];

function isRefusal(bytes: Uint8Array): boolean {
  const start = decodeUtf8(bytes.subarray(0, 9));
  return start === "SIP/2.0 4" || start === "SIP/2.0 5";
}

function newNode(seed: number): DmqNode {
  const address = { transport: "udp", host: "127.0.0.1", port: 5060 } as const;
  const listening = [{ transport: "tcp", host: "127.0.0.1", port: 5060 } as const];
  const notificationAddresses = ["sip:127.0.0.2:5060", "sip:node1.example:5060"];
  return new DmqNode({ address, listening, notificationAddresses, pingIntervalMs: 5_000 }, seededRandom(seed));
}

/** A node, the time, and what it said last. */
class World {
  readonly node: DmqNode;
  readonly words = new Set<string>();
  now = 0;
  private lastSent: Uint8Array | undefined;
  private asked: string | undefined;

  constructor(seed: number) {
    this.node = newNode(seed);
    this.node.start(this.now);
    this.drain(200);
  }

  step(step: Step, answer: number): void {
    this.advance(step.afterMs);
    const from: Endpoint = { transport: step.transport, ip: `127.0.0.${2 + (step.ip % 8)}`, port: 5_060 };
    const flow = step.transport === "udp" ? 0 : 1 + (step.flow % 4);
    this.node.handle({ type: "received", from, flow, bytes: step.octets.slice() }, this.now);
    this.drain(answer);
    if (step.next === "closed" && flow > 0) this.node.handle({ type: "closed", flow }, this.now);
    if (step.next === "unsent") this.node.handle({ type: "unsent", to: from, cause: new Error("refused") }, this.now);
    if (step.next === "reply") this.reply(from, flow);
    if (step.next === "resolved" && this.asked !== undefined) {
      const addresses = [`127.0.0.${2 + (step.flow % 8)}`];
      this.node.handle({ type: "resolved", host: this.asked, addresses, complete: true, ttlMs: 5_000 }, this.now);
    }
    this.drain(answer);
    must(this.node.nodes().length <= PEERS_MAX, `${this.node.nodes().length} peers`);
  }

  /** What the node has sent last comes back as a 200 with its own octets for headers. */
  private reply(from: Endpoint, flow: number): void {
    const sent = this.lastSent === undefined ? undefined : parseMessage(this.lastSent, "datagram");
    if (sent?.type !== "request") return;
    const kept = ["Via", "To", "From", "Call-ID", "CSeq"].map((name) => `${name}: ${sent.headers.get(name) ?? ""}`);
    const bytes = encodeUtf8(`SIP/2.0 200 OK\r\n${kept.join("\r\n")}\r\nContent-Length: 0\r\n\r\n`);
    this.node.handle({ type: "received", from, flow, bytes }, this.now);
  }

  private advance(ms: number): void {
    const end = this.now + ms;
    for (let fired = 0; ; fired++) {
      const next = this.node.nextTimeout();
      if (next === undefined || next > end) break;
      must(fired < TIMEOUTS_MAX, "a deadline that does not go away");
      this.now = Math.max(this.now, next);
      this.node.handleTimeout(this.now);
      this.drain(200);
    }
    this.now = end;
  }

  private drain(answer: number): void {
    let outputs = 0;
    for (let output = this.node.poll(); output !== undefined; output = this.node.poll()) {
      must(++outputs <= OUTPUTS_MAX, `more than ${OUTPUTS_MAX} outputs of one input`);
      this.take(output, answer);
    }
  }

  private take(output: Output, answer: number): void {
    if (output.type === "resolve") this.asked = output.host;
    if (output.type === "close") this.words.add("close");
    if (output.type === "transmit") this.sent(viewOf(output));
    if (output.type !== "event") return;
    const { event } = output;
    this.words.add(event.type === "warning" ? `warning ${event.code}` : event.type);
    if (event.type === "message") this.node.answer(event.message.id, ANSWERS[answer % ANSWERS.length]!, this.now);
  }

  private sent(bytes: Uint8Array): void {
    if (bytes.length === 2) {
      this.words.add("pong");
      return;
    }
    const message = parseMessage(bytes, "stream");
    // All Vias go back (RFC 3261 §8.2.6.2), also where they are more than we would read ourselves.
    if (message.type === "malformed" && message.error.statusHint === 513 && isRefusal(bytes)) return;
    if (message.type === "malformed") throw new Error(`it sent ${describeMessage(message)}`);
    if (message.type === "response") {
      this.words.add(`sent ${message.status}`);
      const error = checkResponse(message);
      // A request without a readable CSeq or with doubled headers is answered with what it had (RFC 3261 §8.2.6.2).
      if (error !== undefined && message.status < 400) throw new Error(`it sent a ${message.status}: ${error.message}`);
      return;
    }
    const error = checkRequest(message);
    if (error !== undefined) throw new Error(`it sent a request: ${error.message}`);
    this.words.add(`sent ${message.method}`);
    this.lastSent = bytes.slice();
  }
}

/** It has seen all inputs: what it keeps of them is what the heap of the run shows. */
let old = new World(1);

function run({ steps, answer }: Trial): string[] {
  const young = new World(2);
  for (const step of steps) young.step(step, answer);
  try {
    for (const step of steps) old.step(step, answer);
  } catch (cause) {
    // What an old node trips over is in its past: the next input gets a new one.
    old = new World(1);
    throw cause;
  }
  return [...young.words];
}

const list = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 254 }), fc.constantFrom("active", "disabled", "not_active")), {
    maxLength: 20,
  })
  .map((nodes) => encodeUtf8(nodes.map(([n, status]) => `sip:127.0.0.${n}:5060;status=${status}\r\n`).join("")));
const names = fc
  .array(fc.stringMatching(/^[a-z]{1,8}$/), { maxLength: 10 })
  .map((hosts) => encodeUtf8(hosts.map((host) => `sip:${host}.example;status=active\r\n`).join("")));
const body = fc.oneof(list, names, fc.uint8Array({ maxLength: 80 }));
/** A ping as a Kamailio at one of the addresses writes it: what leads deep. */
const ping = fc
  .tuple(fc.integer({ min: 2, max: 9 }), fc.nat(), fc.oneof(list, names), fc.nat({ max: 2 }))
  .map(([n, id, nodes, hops]) => {
    const from = `127.0.0.${n}`;
    const own = `sip:${from}:5060;status=active\r\n`;
    const text = new TextDecoder().decode(nodes);
    return encodeUtf8(
      `KDMQ sip:notification_peer@127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP ${from};branch=z9hG4bK${id}\r\n` +
        `To: <sip:notification_peer@127.0.0.1:5060>\r\nFrom: <sip:notification_peer@${from}:5060>;tag=1\r\nCSeq: 10 KDMQ\r\n` +
        `Call-ID: ${id}\r\nContent-Length: ${own.length + text.length}\r\nUser-Agent: kamailio (5.6.3)\r\n` +
        `Max-Forwards: ${hops}\r\nContent-Type: text/plain\r\n\r\n${own}${text}`,
    );
  });

export const node: Target<Trial> = {
  name: "node",
  inputs: (pool) => {
    const octets = fc.oneof(mutated(SIP_PIECES, pool, 4), sipRequest(body), ping);
    const step = fc.record({
      octets,
      transport: fc.constantFrom("udp", "udp", "tcp"),
      flow: fc.nat({ max: 7 }),
      ip: fc.nat({ max: 7 }),
      afterMs: fc.oneof(
        { weight: 5, arbitrary: fc.nat({ max: 20 }) },
        { weight: 1, arbitrary: fc.nat({ max: 40_000 }) },
      ),
      next: fc.constantFrom("nothing", "nothing", "closed", "unsent", "resolved", "reply"),
    }) as fc.Arbitrary<Step>;
    return fc.record({ steps: fc.array(step, { minLength: 1, maxLength: 12 }), answer: fc.nat({ max: 3 }) });
  },
  run,
  seedOf: ({ steps }) => steps.at(-1)?.octets ?? new Uint8Array(),
  // Both nodes see each step, and the clock of both runs on.
  messages: ({ steps }) => 2 * steps.length,
};
