/** A node without a world: datagrams go in by hand, and everything that comes out is kept. */
import { concatBytes, decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { NodeEvent, ResolvedName } from "../../src/node/io.ts";
import { DmqNode, type NodeOptions } from "../../src/node/node.ts";

export interface Sent {
  to: string;
  text: string;
}

export function udp(ip: string, port = 5060): Endpoint {
  return { transport: "udp", ip, port };
}

export class Harness {
  now = 0;
  readonly node: DmqNode;
  sent: Sent[] = [];
  events: NodeEvent[] = [];
  asked: string[] = [];

  constructor(options: Partial<NodeOptions> = {}) {
    const address = { transport: "udp", host: "127.0.0.1", port: 5060 } as const;
    this.node = new DmqNode({ address, ...options }, seededRandom(1));
  }

  start(): void {
    this.node.start(this.now);
    this.drain();
  }

  /** The datagram stands in the midst of copies of it, and its memory is used again: nobody is to read what is another one's. */
  receive(text: string, from: Endpoint): void {
    const one = encodeUtf8(text);
    const bytes = concatBytes([one, one, one]);
    this.node.handle({ type: "received", from, flow: 0, bytes, start: one.length, end: 2 * one.length }, this.now);
    this.drain();
    bytes.fill(0x2e);
  }

  /** Calls the node, and keeps what comes of it. */
  do<T>(call: (node: DmqNode, now: number) => T): T {
    const result = call(this.node, this.now);
    this.drain();
    return result;
  }

  /** Answers the question for a name; `more` as DNS would say it. */
  resolve(host: string, addresses: string[], more: Partial<ResolvedName> = {}): void {
    const answer = { type: "resolved" as const, host, addresses, complete: true, ttlMs: 60_000, ...more };
    this.do((node, now) => node.handle(answer, now));
  }

  /** Runs the clock to `at`, firing every timeout on the way. */
  runUntil(at: number): void {
    for (let steps = 0; steps < 100_000; steps++) {
      const next = this.node.nextTimeout();
      if (next === undefined || next > at) break;
      this.now = Math.max(this.now, next);
      this.node.handleTimeout(this.now);
      this.drain();
    }
    this.now = at;
  }

  /** What was sent since the last call, and forgets it. */
  take(): Sent[] {
    const sent = this.sent;
    this.sent = [];
    return sent;
  }

  ofType<K extends NodeEvent["type"]>(type: K): Extract<NodeEvent, { type: K }>[] {
    return this.events.filter((event): event is Extract<NodeEvent, { type: K }> => event.type === type);
  }

  private drain(): void {
    for (let output = this.node.poll(); output !== undefined; output = this.node.poll()) {
      if (output.type === "transmit")
        this.sent.push({
          to: `${output.to.ip}:${output.to.port}`,
          text: decodeUtf8(output.octets, output.start, output.end),
        });
      else if (output.type === "event") this.events.push(output.event);
      else if (output.type === "resolve") this.asked.push(output.services ? `${output.host} SRV` : output.host);
    }
  }
}

export interface KdmqText {
  channel?: string;
  from?: string;
  maxForwards?: number;
  body?: string;
  branch?: string;
  method?: string;
  extra?: string;
}

let requests = 0;

/** A request as a Kamailio at `from` writes it. */
export function kdmq({
  channel = "notification_peer",
  from = "127.0.0.2:5060",
  maxForwards = 1,
  body = "",
  branch,
  method = "KDMQ",
  extra = "",
}: KdmqText): string {
  const user = channel === "" ? "" : `${channel}@`;
  return (
    `${method} sip:${user}127.0.0.1:5060 SIP/2.0\r\n` +
    `Via: SIP/2.0/UDP ${from};branch=z9hG4bK${branch ?? `test${++requests}`}\r\n` +
    `To: <sip:${user}127.0.0.1:5060>\r\nFrom: <sip:${user}${from}>;tag=1\r\nCSeq: 10 ${method}\r\n` +
    `Call-ID: ${branch ?? requests}@test\r\nContent-Length: ${encodeUtf8(body).length}\r\n` +
    `User-Agent: kamailio (5.6.3)\r\nMax-Forwards: ${maxForwards}\r\n${extra}` +
    `Content-Type: text/plain\r\n\r\n${body}`
  );
}

/** The response that answers a request that was sent. */
export function response(request: Sent, status: string, body = ""): string {
  const lines = request.text.split("\r\n\r\n")[0]?.split("\r\n") ?? [];
  const copied = lines.filter((line) => /^(Via|To|From|Call-ID|CSeq):/.test(line));
  return `SIP/2.0 ${status}\r\n${copied.join("\r\n")}\r\nContent-Length: ${encodeUtf8(body).length}\r\n\r\n${body}`;
}

export function line(address: string, status = "active"): string {
  return `sip:${address};status=${status}\r\n`;
}

export function bodyOf(message: Sent | undefined): string {
  return message?.text.slice(message.text.indexOf("\r\n\r\n") + 4) ?? "";
}
