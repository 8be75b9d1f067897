/**
 * A node that means harm. It sees every datagram of the bus, it sends what it likes from its own address, and it forges the
 * addresses of others; what it cannot do is answer from an address that is not its own: who sits on the path may do anything
 * over UDP, and only TLS helps.
 *
 * Everything it makes up lies in two networks, so that the invariants know it: 10.66 is what it mentions, 10.67 where its forged
 * announcements come from. Its messages have bodies that begin with `evil`.
 */
import { concatBytes, decodeUtf8, encodeUtf8, spanOf } from "../../src/core/bytes.ts";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { below, type Random, token } from "../../src/core/random.ts";
import type { Input } from "../../src/node/io.ts";
import type { Bus, SimNode, Transmit } from "../../src/sim/bus.ts";
import type { Witness } from "./witness.ts";

/** `silent`: it never answers. `member`: it answers like a node. `liar`: it answers, with a list of made-up nodes. */
export type Manner = "silent" | "member" | "liar";

interface Seen {
  readonly at: number;
  readonly from: SimNode;
  readonly to: Endpoint;
  readonly bytes: Uint8Array;
}

const SEEN_MAX = 256;
/** Of its own address, where it answers too, unless it is silent: more than a node takes peers there. */
const PORTS: readonly number[] = Array.from({ length: 80 }, (_, index) => 7_000 + index);
/** A copy that overtakes its original would be the original. */
const REPLAY_AFTER_MS = 2_000;
/**
 * What it sends again from its own address belongs to a transaction that nobody waits for any more: before that, who has seen
 * the branch of a request and is faster takes its answer away, which is what sitting on the path means.
 */
const ABUSE_AFTER_MS = 40_000;

export class Hostile {
  readonly stranger = { name: "mallory", ip: "10.0.250.9", port: 5060 };
  manner: Manner = "silent";
  isThere = false;
  /** Octets that it has sent to each node. */
  private readonly sent = new Map<SimNode, number>();
  /** Who knows it as a node may believe it more. */
  private readonly trusting = new Set<SimNode>();
  private readonly bus: Bus;
  private readonly random: Random;
  private readonly witness: Witness;
  private readonly channel: string;
  private readonly seen: Seen[] = [];
  private madeUp = 0;

  constructor(bus: Bus, random: Random, witness: Witness, channel: string) {
    this.bus = bus;
    this.random = random;
    this.witness = witness;
    this.channel = channel;
  }

  get uri(): string {
    return this.uriAt(this.stranger.port);
  }

  private uriAt(port: number): string {
    return `sip:${this.stranger.ip}:${port}`;
  }

  come(): void {
    if (this.isThere) return;
    this.isThere = true;
    this.manner = this.pick(["silent", "silent", "member", "liar"]);
    this.bus.trace.note(this.bus.now, this.stranger.name, `will be a ${this.manner} one`);
    for (const stranger of this.places()) this.bus.addStranger(stranger, (input) => this.take(input, stranger.port));
  }

  go(): void {
    if (this.isThere) for (const stranger of this.places()) this.bus.removeStranger(stranger);
    this.isThere = false;
  }

  private places(): { name: string; ip: string; port: number }[] {
    const ports = this.manner === "silent" ? [] : PORTS;
    return [this.stranger, ...ports.map((port) => ({ ...this.stranger, name: `${this.stranger.name}-${port}`, port }))];
  }

  /** What may be spent on its word; `undefined` where it has answered, and is no unverified source any more. */
  allowance(node: SimNode): number | undefined {
    return this.trusting.has(node) ? undefined : (this.sent.get(node) ?? 0);
  }

  /** A node sends a datagram: it has a look at it. */
  tap(from: SimNode, output: Transmit): void {
    if (output.to.transport !== "udp") return;
    this.seen.push({ at: this.bus.now, from, to: output.to, bytes: output.octets.slice(output.start, output.end) });
    if (this.seen.length > SEEN_MAX) this.seen.shift();
  }

  /** Does one thing to one node. */
  act(target: SimNode): void {
    if (!this.isThere) return;
    const acts: (() => void)[] = [
      () => this.send(target, this.octets(1 + below(this.random, 1_500))),
      () => this.mutate(target, false),
      () => this.mutate(target, true),
      () => this.sayOfOther(target),
      () => this.announceNobody(target),
      () => this.list(target, [this.line(), ...this.nobodies(20)]),
      () => this.list(target, [this.line(), `${uriOf(target)};status=disabled`]),
      () => this.list(target, [this.line(), ...this.spellings(target)]),
      () => (this.chance(0.3) ? this.huge(target) : this.list(target, this.nobodies(60), "tcp")),
      () => this.list(target, [this.line(), decodeUtf8(this.octets(80)), "sip:", ";;;", `${uriOf(target)};status=`]),
      () => this.list(target, [this.line(), ...this.names(10)]),
      () => this.list(target, [this.line()]),
      () => this.crowd(target),
      () => this.list(target, []),
      () => this.answerForOthers(),
      () => this.answerForOthers(),
      () => this.replay(target, false),
      () => this.replay(target, true),
      () => this.message(target),
      () => this.message(target),
    ];
    this.pick(acts)();
  }

  // What comes to it.

  private take(input: Input, port: number): void {
    if (input.type !== "received" || input.from.transport !== "udp" || this.manner === "silent") return;
    const text = decodeUtf8(input.bytes);
    if (!text.startsWith("KDMQ ")) return;
    const node = this.bus.nodes.find(({ ip, port }) => ip === input.from.ip && port === input.from.port);
    const isList = text.startsWith("KDMQ sip:notification_peer@");
    const body = this.manner === "liar" ? [this.line(port), ...this.nobodies(12)] : [this.line(port)];
    if (!isList) this.witness.ranElsewhere(this.uriAt(port), input.bytes, 200);
    if (node === undefined) return;
    this.trusting.add(node);
    this.send(node, answerTo(text, isList ? body : []), "udp", port);
  }

  // What it says.

  private send(target: SimNode, bytes: Uint8Array, transport: "udp" | "tcp" = "udp", port = this.stranger.port): void {
    this.count(target, bytes);
    const to: Endpoint = { transport, ip: target.ip, port: target.port };
    const { ip } = this.stranger;
    this.bus.network.transmit(ip, port, { type: "transmit", to, ...spanOf(bytes) }, this.bus.now);
  }

  private forge(source: { ip: string; port: number }, target: SimNode, bytes: Uint8Array): void {
    this.count(target, bytes);
    const from: Endpoint = { transport: "udp", ip: source.ip, port: source.port };
    const to: Endpoint = { transport: "udp", ip: target.ip, port: target.port };
    this.bus.network.forge(this.stranger.name, from, to, bytes, this.bus.now);
  }

  private count(target: SimNode, bytes: Uint8Array): void {
    this.sent.set(target, (this.sent.get(target) ?? 0) + bytes.length);
  }

  private list(target: SimNode, lines: readonly string[], transport: "udp" | "tcp" = "udp"): void {
    const body = lines.map((line) => `${line}\r\n`).join("");
    this.send(target, this.request("notification_peer", this.stranger, target, encodeUtf8(body)), transport);
  }

  /** All its ports for some minutes, in lists of as many as are asked at a time. */
  private crowd(target: SimNode): void {
    for (let index = 0; index < 60; index++) {
      const lines = [undefined, ...PORTS.slice((index % 5) * 16, (index % 5) * 16 + 16)].map((port) => this.line(port));
      this.bus.schedule(index * 5_000, () => this.isThere && this.list(target, lines));
    }
  }

  /** As many lines as a datagram, or a body on a stream, can hold. */
  private huge(target: SimNode): void {
    const isStream = this.chance(0.5);
    this.list(target, this.nobodies(isStream ? 10_000 : 1_500), isStream ? "tcp" : "udp");
  }

  private message(target: SimNode): void {
    const body = concatBytes([encodeUtf8("evil;"), this.octets(below(this.random, 300))]);
    const source = this.chance(0.5) ? this.stranger : this.someone();
    const request = this.request(this.channel, source, target, body);
    if (source === this.stranger) this.send(target, request);
    else this.forge(source, target, request);
  }

  /** In the name of another node, from its address: it leaves, or it lists nobodies. */
  private sayOfOther(target: SimNode): void {
    const other = this.someone();
    if (other === target) return;
    const status = this.pick(["disabled", "disabled", "active", "not_active", "pending"]);
    const lines = [`${uriOf(other)};status=${status}`, ...(this.chance(0.3) ? this.nobodies(5) : [])];
    const body = encodeUtf8(lines.map((line) => `${line}\r\n`).join(""));
    this.forge(other, target, this.request("notification_peer", other, target, body));
  }

  private announceNobody(target: SimNode): void {
    const source = { ip: `10.67.${below(this.random, 4)}.${1 + below(this.random, 250)}`, port: 5060 };
    const body = encodeUtf8(`sip:${source.ip}:${source.port};status=active\r\n`);
    this.forge(source, target, this.request("notification_peer", source, target, body));
  }

  /** A real message, a little changed: from its own address, or a request in the name of who sent it. */
  private mutate(target: SimNode, forged: boolean): void {
    const seen = this.recall(forged ? 0 : ABUSE_AFTER_MS);
    if (seen === undefined) return;
    if (!forged) {
      this.send(target, this.mutated(seen.bytes));
      return;
    }
    // In the name of another only requests of its own making: who could change those of others sits on the path.
    const text = decodeUtf8(seen.bytes);
    if (!text.startsWith("KDMQ ")) return;
    const channel = text.startsWith("KDMQ sip:notification_peer@") ? "notification_peer" : this.channel;
    const body = channel === this.channel ? "evil;" : text.slice(text.indexOf("\r\n\r\n") + 4);
    this.forge(seen.from, target, this.mutated(this.request(channel, seen.from, target, encodeUtf8(body))));
  }

  private mutated(original: Uint8Array): Uint8Array {
    let bytes: Uint8Array = original.slice();
    for (let i = below(this.random, 4); i >= 0; i--) {
      const at = below(this.random, bytes.length);
      const end = Math.min(bytes.length, at + below(this.random, 40));
      const kind = below(this.random, 5);
      if (kind <= 1) bytes[at] = below(this.random, 256);
      else if (kind === 2) bytes = concatBytes([bytes.subarray(0, at), bytes.subarray(end)]);
      else if (kind === 3) bytes = concatBytes([bytes.subarray(0, end), bytes.subarray(at)]);
      else bytes = concatBytes([bytes.subarray(0, at), encodeUtf8(this.pick(SPLINTERS)), bytes.subarray(at)]);
      if (bytes.length === 0) return original;
    }
    return bytes;
  }

  /** Answers a request that somebody sent to somebody else. */
  private answerForOthers(): void {
    const seen = this.recall(0);
    const text = seen === undefined ? "" : decodeUtf8(seen.bytes);
    if (seen === undefined || !text.startsWith("KDMQ ") || seen.to.ip === this.stranger.ip) return;
    const status = this.pick(["200 OK", "404 Not Found", "202 Accepted DMQ", "500 Server Error"]);
    const own = `sip:${seen.to.ip}:${seen.to.port};status=`;
    this.send(seen.from, answerTo(text, [`${own}${this.pick(["active", "disabled"])}`, ...this.nobodies(4)], status));
  }

  private replay(target: SimNode, forged: boolean): void {
    const seen = this.recall(forged ? REPLAY_AFTER_MS : ABUSE_AFTER_MS);
    if (seen === undefined) return;
    const isRequest = decodeUtf8(seen.bytes.subarray(0, 5)) === "KDMQ ";
    if (!forged) this.send(target, seen.bytes);
    else if (isRequest) {
      const receiver = this.bus.nodes.find(({ ip, port }) => ip === seen.to.ip && port === seen.to.port);
      if (receiver !== undefined) this.forge(seen.from, receiver, seen.bytes);
    }
  }

  // What it is made of.

  private request(
    channel: string,
    source: { ip: string; port: number },
    { ip, port }: SimNode,
    body: Uint8Array,
  ): Uint8Array {
    const target = `sip:${channel}@${ip}:${port}`;
    const lines = [
      `KDMQ ${target} SIP/2.0`,
      `Via: SIP/2.0/UDP ${source.ip}:${source.port};branch=z9hG4bK${token(this.random, 2)}`,
      `From: <sip:${channel}@${source.ip}:${source.port}>;tag=${token(this.random, 1)}`,
      `To: <${target}>`,
      `Call-ID: ${token(this.random, 2)}`,
      "CSeq: 10 KDMQ",
      `Max-Forwards: ${this.pick([1, 1, 2, 70])}`,
      "Content-Type: text/plain",
      `Content-Length: ${body.length}`,
      ...(this.chance(0.2) ? ["User-Agent: dmq 0.1.0"] : []),
      "",
      "",
    ];
    return concatBytes([encodeUtf8(lines.join("\r\n")), body]);
  }

  private line(port = this.stranger.port): string {
    return `${this.uriAt(port)};status=active`;
  }

  private nobodies(count: number): string[] {
    return Array.from({ length: count }, () => {
      const number = this.madeUp++;
      return `sip:10.66.${(number >> 8) & 255}.${number & 255}:5060;status=active`;
    });
  }

  private names(count: number): string[] {
    return Array.from({ length: count }, (_, i) => {
      const name = `evil${i}.test`;
      this.bus.network.setName(name, [this.pick([this.someone().ip, `10.66.9.${i}`])]);
      return `sip:${name}:5060;status=active`;
    });
  }

  /** The node that is spoken to, in other words. */
  private spellings({ ip, port }: SimNode): string[] {
    const name = "mirror.test";
    this.bus.network.setName(name, [ip]);
    const all = [`sip:${ip}`, `SIP:${ip}:${port}`, `sip:x@${ip}:${port}`, `sip:[::ffff:${ip}]:${port}`, `sip:${name}`];
    return [...all, `sip:${ip}:${port};transport=udp`, `sip:0.0.0.0:${port}`].map((uri) => `${uri};status=active`);
  }

  private octets(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => below(this.random, 256));
  }

  private recall(ageMs: number): Seen | undefined {
    const seen = this.seen.length === 0 ? undefined : this.pick(this.seen);
    return seen === undefined || seen.at > this.bus.now - ageMs ? undefined : seen;
  }

  private someone(): SimNode {
    return this.pick(this.bus.nodes);
  }

  private chance(probability: number): boolean {
    return this.random.u32() < probability * 0x1_0000_0000;
  }

  private pick<T>(from: readonly T[]): T {
    return from[below(this.random, from.length)] as T;
  }
}

const SPLINTERS = [
  "\r\n",
  "\n",
  "\0",
  ",",
  ";",
  "Via: SIP/2.0/UDP 10.66.0.1\r\n",
  "Content-Length: 99999\r\n",
  "%00",
  '"',
];

function uriOf({ ip, port, transport }: SimNode): string {
  return `sip:${ip}:${port}${transport === "udp" ? "" : `;transport=${transport}`}`;
}

/** A response to the request in `text`, as its receiver would write it. */
function answerTo(text: string, lines: readonly string[], status = "200 OK"): Uint8Array {
  const head = text.slice(0, text.indexOf("\r\n\r\n")).split("\r\n");
  const copied = head.filter((line) => /^(via|from|to|call-id|cseq):/i.test(line));
  const body = lines.map((line) => `${line}\r\n`).join("");
  const length = encodeUtf8(body).length;
  const rest = ["Server: dmq", "Content-Type: text/plain", `Content-Length: ${length}`, "", body];
  return encodeUtf8([`SIP/2.0 ${status}`, ...copied, ...rest].join("\r\n"));
}
