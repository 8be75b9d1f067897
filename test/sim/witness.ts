/**
 * Watches the requests of a simulated bus: each has exactly one outcome, that outcome is true, no handler runs twice for one
 * transaction, and the messages of one sender are handled in order. The first thing that is otherwise ends the story.
 */
import { decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { below, type Random } from "../../src/core/random.ts";
import type { ChannelMessage, NodeEvent, OutcomeReport } from "../../src/node/io.ts";
import type { Bus, SimNode } from "../../src/sim/bus.ts";
import { summarize } from "../../src/sim/trace.ts";

/** Something did not hold. */
export class Violation extends Error {}

/** An answered request is remembered for as long as copies of it may come: 64·T1 and T4 (RFC 3261 §17.2.2). */
export const REMEMBERED_MS = 37_000;

interface OpenRequest {
  readonly what: string;
  readonly body: string;
}

/** One run of a handler: where, and the status that it will answer with. */
interface Run {
  readonly uri: string;
  readonly status: number;
}

export class Witness {
  requests = 0;
  /** Requests that ended as unreachable although a handler had run. */
  doubtful = 0;
  readonly outcomes = new Map<string, number>();
  private readonly open = new Map<string, OpenRequest>();
  private readonly closed = new Set<string>();
  /** Outcomes that came out of the very call that sends, before anybody knew the request's number. */
  private readonly early = new Map<string, OutcomeReport>();
  /** When a handler ran for what, in each life of a node. */
  private readonly handled = new Map<string, number>();
  /** First arrivals of channel messages, by life and branch, in order. */
  private readonly arrived = new Map<string, number>();
  private arrivals = 0;
  /** Arrivals that a handler ran for. */
  private readonly taken = new Set<string>();
  private readonly lastHandled = new Map<string, number>();
  private readonly runs = new Map<string, Run[]>();
  private nextBody = 1;

  /** A body that no other request has: its number, then up to `maxBytes` of anything. */
  body(random: Random, maxBytes: number): Uint8Array {
    const head = encodeUtf8(`${this.nextBody++};`);
    const body = new Uint8Array(head.length + below(random, maxBytes + 1));
    for (let i = head.length; i < body.length; i++) body[i] = (i * 31) & 0xff;
    body.set(head);
    return body;
  }

  sent(node: SimNode, body: Uint8Array, requests: readonly { request: number; peer: string }[]): void {
    for (const { request, peer } of requests) {
      this.requests++;
      const key = requestKey(node, request, peer);
      if (this.open.has(key)) throw new Violation(`request ${key} was numbered twice`);
      this.open.set(key, { what: `request ${request} of ${node.name} to ${peer}`, body: bodyNumber(body) });
      const report = this.early.get(key);
      if (report === undefined) continue;
      this.early.delete(key);
      this.settle(key, report);
    }
  }

  /** A channel message came in as a datagram: what comes first is handled first. */
  came(node: SimNode, branch: string): void {
    const key = `${lifeOf(node)} ${branch}`;
    // A copy that comes when all is forgotten is another message.
    if (!this.arrived.has(key) || this.taken.has(key)) this.arrived.set(key, this.arrivals++);
  }

  /** A handler took a message and will answer with `status`. `isHonest`: it came from the node that it names. */
  ran(node: SimNode, message: ChannelMessage, status: number, isHonest: boolean, now: number): void {
    const body = bodyNumber(message.body);
    const { cseq, branch } = summarize(message.request.bytes);
    const life = lifeOf(node);
    this.once(`${life} ${message.source.ip} ${message.callId} ${cseq} ${branch}`, now);
    if (isHonest && /^\d+$/.test(body)) this.once(`${life} body ${body}`, now);
    if (message.source.transport === "udp") this.inOrder(`${life} ${message.channel} ${message.from}`, life, branch);
    this.addRun(body, { uri: node.running.uri(), status });
  }

  /** Somebody who is no node of ours answered a message. */
  ranElsewhere(uri: string, request: Uint8Array, status: number): void {
    const text = decodeUtf8(request);
    const body = text.slice(text.indexOf("\r\n\r\n") + 4);
    this.addRun(body.slice(0, body.indexOf(";")), { uri, status });
  }

  /** The memory of a node is gone before its time: its clock ran ahead. */
  forgot(node: SimNode): void {
    const prefix = `${lifeOf(node)} `;
    for (const known of [this.handled, this.arrived])
      for (const key of known.keys()) if (key.startsWith(prefix)) known.delete(key);
  }

  private once(key: string, now: number): void {
    const before = this.handled.get(key);
    if (before !== undefined && now - before < REMEMBERED_MS) throw new Violation(`a handler ran twice: ${key}`);
    this.handled.set(key, now);
  }

  private inOrder(line: string, life: string, branch: string): void {
    const turn = this.arrived.get(`${life} ${branch}`);
    if (turn === undefined) return;
    this.taken.add(`${life} ${branch}`);
    if (turn < (this.lastHandled.get(line) ?? -1))
      throw new Violation(`message ${branch} was handled after a later one: ${line}`);
    this.lastHandled.set(line, turn);
  }

  private addRun(body: string, run: Run): void {
    const runs = this.runs.get(body);
    if (runs === undefined) this.runs.set(body, [run]);
    else runs.push(run);
  }

  event(node: SimNode, event: NodeEvent): void {
    if (event.type === "outcome") this.outcome(node, event.report);
    if (event.type === "left") this.missing(`${node.name} has left`, `${lifeOf(node)} `);
  }

  /** The node died: nobody is owed what it had asked. */
  died(node: SimNode): void {
    const prefix = `${lifeOf(node)} `;
    for (const key of this.open.keys()) if (key.startsWith(prefix)) this.open.delete(key);
  }

  /** Complains of every request that has no outcome yet. */
  missing(why: string, prefix = ""): void {
    for (const [key, { what }] of this.open) {
      if (key.startsWith(prefix)) throw new Violation(`${what} has no outcome: ${why}`);
    }
    for (const key of this.early.keys()) throw new Violation(`an outcome for ${key}, which nobody asked`);
  }

  /** Complains where nodes disagree about who is there. */
  agreement(bus: Bus, when: string): void {
    const wrong = bus.disagreements();
    if (wrong.length === 0) return;
    throw new Violation(`${when} ${wrong.length} do not agree: ${wrong.slice(0, 5).join("; ")}`);
  }

  private outcome(node: SimNode, report: OutcomeReport): void {
    const key = requestKey(node, report.request, report.peer);
    const { type } = report.outcome;
    this.outcomes.set(type, (this.outcomes.get(type) ?? 0) + 1);
    if (this.closed.has(key) || this.early.has(key)) throw new Violation(`two outcomes for ${key}: ${type} is one`);
    if (this.open.has(key)) this.settle(key, report);
    else this.early.set(key, report);
  }

  private settle(key: string, report: OutcomeReport): void {
    const request = this.open.get(key) as OpenRequest;
    const { outcome } = report;
    this.open.delete(key);
    this.closed.add(key);
    const runs = (this.runs.get(request.body) ?? []).filter((run) => mayBe(run.uri, report.peer));
    if (outcome.type === "delivered" && !runs.some((run) => run.status === outcome.code)) {
      throw new Violation(`${request.what} is delivered with ${outcome.code}, but no handler said so`);
    }
    if (outcome.type === "overloaded" && runs.length > 0) {
      throw new Violation(`${request.what} is overloaded, but its handler ran`);
    }
    // No violation: an `unsent` names an endpoint and no request, so what arrived there before it died may be among them.
    if (outcome.type === "unreachable" && runs.length > 0) this.doubtful++;
  }
}

/** A peer known by a name may be any node, and one that a name led to may call itself by another transport. */
function mayBe(uri: string, peer: string): boolean {
  return withoutTransport(uri) === withoutTransport(peer) || peer.includes(".test:");
}

function withoutTransport(uri: string): string {
  const end = uri.indexOf(";");
  return end === -1 ? uri : uri.slice(0, end);
}

function requestKey(node: SimNode, request: number, peer: string): string {
  return `${lifeOf(node)} ${request} ${peer}`;
}

export function lifeOf({ name, life }: SimNode): string {
  return `${name}.${life}`;
}

function bodyNumber(body: Uint8Array): string {
  const text = decodeUtf8(body.subarray(0, 16));
  return text.slice(0, text.indexOf(";"));
}
