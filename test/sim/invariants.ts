/**
 * What must hold after every step of every node, whatever happens on the bus; ARCHITECTURE.md has the list. Nothing here
 * knows how the core does it: only its public surface and its octets are looked at.
 */
import { viewOf } from "../../src/core/bytes.ts";
import type { Input } from "../../src/node/io.ts";
import type { SimNode, Transmit } from "../../src/sim/bus.ts";
import { lifeOf, REMEMBERED_MS, Violation, type Witness } from "./witness.ts";

const PEERS_MAX = 1_000;
/** At one IP address. */
const ADDRESS_PEERS_MAX = 64;
const UNVERIFIED_MAX = 16;
const LIST_BYTES_MAX = 1_023;
/** Times that a node may ask to be called at once again before that is a loop without an end. */
const CALLS_AT_ONCE_MAX = 1_000;
/** What leaves a node because of an unverified source, as a multiple of what came from there (design.md 8). */
const AMPLIFICATION_MAX = 5;
/** Of a datagram: the headers of an ordinary request, and more. */
const HEAD_BYTES = 800;
/** What its rightful owner may have saved up for an address: who forges that spends it. */
const SAVED_MAX = 16_384;

/** What an independent reader accepts as a line of ours: an IP literal, a port, a status that we may write. */
const LINE =
  /^sip:((?:\d{1,3}\.){3}\d{1,3}|\[[0-9a-f:.]+\]):([1-9]\d{0,4})(;transport=(?:tcp|tls))?;status=(active|disabled)$/;

/** What is known of one life of a node from outside. */
interface Life {
  /** IP addresses that octets came from. */
  readonly heard: Set<string>;
  /** Bodies that were looked at, and were right: who was heard once stays so. */
  readonly lists: Set<string>;
  /** What answered which request, and when. */
  readonly answers: Map<string, { at: number; text: string }>;
  /** How requests in datagrams began; `undefined` where something else came under the same branch: that is no copy. */
  readonly requests: Map<string, string | undefined>;
  calls: number;
}

export interface Surroundings {
  now(): number;
  /** Octets that the hostile node has sent to a node; `undefined` where it may have been verified. */
  allowance(node: SimNode): number | undefined;
  /** The address of the hostile node. */
  hostileIp: string;
}

export class Invariants {
  private readonly lives = new Map<string, Life>();
  /** Octets to nodes that do not exist and that only the hostile one has named. */
  private readonly wasted = new Map<SimNode, number>();
  /** Octets that came from each address other than the hostile one. */
  private readonly owned = new Map<SimNode, Map<string, number>>();
  private readonly witness: Witness;
  private readonly around: Surroundings;

  constructor(witness: Witness, around: Surroundings) {
    this.witness = witness;
    this.around = around;
  }

  /** A node is given an input. */
  arrival(node: SimNode, input: Input): void {
    if (input.type !== "received") return;
    this.life(node).heard.add(input.from.ip);
    this.own(node, input.from.ip, input.bytes.length);
    if (input.from.transport !== "udp") return;
    const text = latin1(input.bytes, HEAD_BYTES);
    if (text.startsWith("KDMQ ")) this.copy(node, `${input.from.ip} ${branchIn(text)}`, text);
    if (text.startsWith("KDMQ sip:explore@")) this.witness.came(node, branchIn(text));
  }

  /** A node sends octets. */
  transmit(node: SimNode, output: Transmit): void {
    const { to } = output;
    const bytes = viewOf(output);
    const life = this.life(node);
    const text = latin1(bytes, bytes.length);
    const isAnswer = text.startsWith("SIP/2.0 ");
    if (isAnswer) this.oneAnswer(node, life, to.ip, text);
    if (isAnswer || text.startsWith("KDMQ sip:notification_peer@")) this.list(node, life, text, isAnswer);
    if (to.ip.startsWith("10.66.")) this.waste(node, bytes.length);
  }

  /** A node was called, and all that came of it has been taken. */
  step(node: SimNode, now: number): void {
    const { core } = node;
    if (core === undefined) return;
    const life = this.life(node);
    const next = core.nextTimeout();
    life.calls = next !== undefined && next <= now ? life.calls + 1 : 0;
    if (life.calls > CALLS_AT_ONCE_MAX) throw new Violation(`${node.name} asks to be called at ${next} for ever`);
    const { peers, unverified } = core.usage();
    if (peers > PEERS_MAX) throw new Violation(`${node.name} has ${peers} peers, expected at most ${PEERS_MAX}`);
    if (unverified > UNVERIFIED_MAX)
      throw new Violation(`${node.name} has ${unverified} unverified names, expected at most ${UNVERIFIED_MAX}`);
  }

  /** As `step`, one peer after the other: it costs more. */
  peers(node: SimNode): void {
    const { core, options, ip, port } = node;
    if (core === undefined) return;
    const { window = 256, queueMessages = 10_000 } = options;
    const crowds = new Map<string, number>();
    for (const peer of core.nodes()) {
      // A name is counted nowhere: it may lead elsewhere than it did.
      const there = (crowds.get(peer.host) ?? 0) + 1;
      crowds.set(peer.host, there);
      if (there > ADDRESS_PEERS_MAX && peer.host === peer.resolvedIp)
        throw new Violation(`${node.name} has ${there} peers at ${peer.host}, limit ${ADDRESS_PEERS_MAX}`);
      if (peer.resolvedIp === ip && peer.port === port)
        throw new Violation(`${node.name} has itself in its registry, as ${peer.uri}`);
      if (peer.inFlight > window)
        throw new Violation(`${node.name} has ${peer.inFlight} requests on the way to ${peer.uri}, window ${window}`);
      if (peer.queued > queueMessages)
        throw new Violation(`${node.name} has ${peer.queued} messages queued for ${peer.uri}, limit ${queueMessages}`);
      // Who is active has answered, and who has answered was heard. A name may have led elsewhere then.
      const isLiteral = peer.host === peer.resolvedIp;
      if (isLiteral && peer.status === "active" && !this.life(node).heard.has(peer.resolvedIp))
        throw new Violation(`${node.name} has ${peer.uri} active, of whom it has heard nothing`);
    }
  }

  /** The memory of a node is gone before its time: its clock ran ahead. */
  forgot(node: SimNode): void {
    this.life(node).answers.clear();
    this.life(node).requests.clear();
    this.witness.forgot(node);
  }

  private life(node: SimNode): Life {
    const key = lifeOf(node);
    let life = this.lives.get(key);
    if (life === undefined) {
      life = { heard: new Set(), lists: new Set(), answers: new Map(), requests: new Map(), calls: 0 };
      this.lives.set(key, life);
    }
    return life;
  }

  /** Whoever asks again gets the same answer again, for as long as the node remembers. */
  private oneAnswer(node: SimNode, life: Life, ip: string, text: string): void {
    // Its requests have the branches of others.
    if (ip === this.around.hostileIp) return;
    const key = `${ip} ${branchIn(text)}`;
    if (life.requests.has(key) && life.requests.get(key) === undefined) return;
    const at = this.around.now();
    const before = life.answers.get(key);
    // The same late is the old one still: a node that was frozen has its timers behind.
    if (before?.text === text) return;
    if (before === undefined || at - before.at >= REMEMBERED_MS) life.answers.set(key, { at, text });
    else {
      const [first, second] = [before.text, text].map((one) => one.slice(0, one.indexOf("\r\n")));
      throw new Violation(`${node.name} answers ${key} with ${first}, then otherwise with ${second}`);
    }
  }

  private copy(node: SimNode, key: string, text: string): void {
    const { requests } = this.life(node);
    if (!requests.has(key)) requests.set(key, text);
    else if (requests.get(key) !== text) requests.set(key, undefined);
  }

  /** A node list names proven nodes, in lines that everybody can read. */
  private list(node: SimNode, life: Life, text: string, isAnswer: boolean): void {
    const body = text.slice(text.indexOf("\r\n\r\n") + 4);
    if (body === "" || life.lists.has(body)) return;
    if (isAnswer && !body.startsWith("sip:")) throw new Violation(`${node.name} answers with a body that is no list`);
    if (body.length > LIST_BYTES_MAX) throw new Violation(`${node.name} writes a list of ${body.length} octets`);
    const lines = body.split("\r\n");
    if (lines.pop() !== "") throw new Violation(`${node.name} writes a list without CRLF at its end`);
    if (new Set(lines).size !== lines.length) throw new Violation(`${node.name} writes a line twice`);
    for (const [index, line] of lines.entries()) this.line(node, life, line, index === 0);
    life.lists.add(body);
  }

  private line(node: SimNode, life: Life, line: string, isFirst: boolean): void {
    const [, ip, port, transport = "", status] = LINE.exec(line) ?? [];
    if (ip === undefined) throw new Violation(`${node.name} writes a line that nobody should: ${line}`);
    const isOwn = ip === node.ip && Number(port) === node.port && transport === suffixOf(node);
    if (isOwn !== isFirst) throw new Violation(`${node.name} writes its own line not first, or twice: ${line}`);
    if (isOwn && (status === "active" || node.leaving)) return;
    if (isOwn) throw new Violation(`${node.name} says that it is disabled, and does not leave`);
    if (status !== "active") throw new Violation(`${node.name} says of another that it is ${status}: ${line}`);
    if (!life.heard.has(ip)) throw new Violation(`${node.name} lists a node of which it has heard nothing: ${line}`);
  }

  /** All that came counts: what is no announcement earns nothing, which makes this generous by that. */
  private own(node: SimNode, ip: string, octets: number): void {
    if (ip === this.around.hostileIp) return;
    const owned = this.owned.get(node) ?? new Map<string, number>();
    owned.set(ip, (owned.get(ip) ?? 0) + octets);
    this.owned.set(node, owned);
  }

  private saved(node: SimNode): number {
    let sum = 0;
    for (const octets of this.owned.get(node)?.values() ?? []) sum += Math.min(SAVED_MAX, AMPLIFICATION_MAX * octets);
    return sum;
  }

  private waste(node: SimNode, octets: number): void {
    const sent = this.around.allowance(node);
    const wasted = (this.wasted.get(node) ?? 0) + octets;
    this.wasted.set(node, wasted);
    if (sent === undefined || wasted <= AMPLIFICATION_MAX * sent + this.saved(node)) return;
    throw new Violation(`${node.name} sends ${wasted} octets to nobodies that an unverified source of ${sent} named`);
  }
}

function suffixOf({ transport }: SimNode): string {
  return transport === "udp" ? "" : `;transport=${transport}`;
}

function latin1(bytes: Uint8Array, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(length, bytes.length)).toString("latin1");
}

/** Of the topmost Via; `""` where there is none. */
function branchIn(text: string): string {
  const start = text.indexOf(";branch=");
  if (start === -1) return "";
  let end = start + 8;
  while (end < text.length && text[end] !== ";" && text[end] !== "\r" && text[end] !== ",") end++;
  return text.slice(start + 8, end);
}
