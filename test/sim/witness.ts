/**
 * Watches a simulated bus and says what broke: a handler that ran twice for one request, a request without an outcome or
 * with two, an outcome that is not true. What it says is a text; an empty list means that all held.
 */
import { decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { below, type Random } from "../../src/core/random.ts";
import type { ChannelMessage, NodeEvent, OutcomeReport } from "../../src/node/io.ts";
import type { Bus, SimNode } from "../../src/sim/bus.ts";
import { summarize } from "../../src/sim/trace.ts";

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
  readonly violations: string[] = [];
  requests = 0;
  /** Requests that ended as unreachable although a handler had run. */
  doubtful = 0;
  readonly outcomes = new Map<string, number>();
  private readonly open = new Map<string, OpenRequest>();
  private readonly closed = new Set<string>();
  /** Outcomes that came out of the very call that sends, before anybody knew the request's number. */
  private readonly early = new Map<string, OutcomeReport>();
  private readonly handled = new Set<string>();
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
      if (this.open.has(key)) this.violations.push(`request ${key} was numbered twice`);
      this.open.set(key, { what: `request ${request} of ${node.name} to ${peer}`, body: bodyNumber(body) });
      const report = this.early.get(key);
      if (report === undefined) continue;
      this.early.delete(key);
      this.settle(key, report);
    }
  }

  /** A handler took a message and will answer with `status`. */
  ran(node: SimNode, message: ChannelMessage, status: number): void {
    const body = bodyNumber(message.body);
    const { cseq, branch } = summarize(message.request.bytes);
    const life = `${node.name}.${node.life}`;
    for (const key of [`${life} body ${body}`, `${life} ${message.callId} ${cseq} ${branch}`]) {
      if (this.handled.has(key)) this.violations.push(`a handler ran twice: ${key}`);
      this.handled.add(key);
    }
    const runs = this.runs.get(body) ?? [];
    this.runs.set(body, [...runs, { uri: node.running.uri(), status }]);
  }

  event(node: SimNode, event: NodeEvent): void {
    if (event.type === "outcome") this.outcome(node, event.report);
    if (event.type === "left") this.missing(`${node.name} has left`, `${node.name}.${node.life} `);
  }

  /** The node died: nobody is owed what it had asked. */
  died(node: SimNode): void {
    const prefix = `${node.name}.${node.life} `;
    for (const key of this.open.keys()) if (key.startsWith(prefix)) this.open.delete(key);
  }

  /** Complains of every request that has no outcome yet. */
  missing(why: string, prefix = ""): void {
    for (const [key, { what }] of this.open) {
      if (key.startsWith(prefix)) this.violations.push(`${what} has no outcome: ${why}`);
    }
    for (const key of this.early.keys()) this.violations.push(`an outcome for ${key}, which nobody asked`);
  }

  /** Complains where nodes disagree about who is there. */
  agreement(bus: Bus, when: string): void {
    const wrong = bus.disagreements();
    if (wrong.length === 0) return;
    this.violations.push(`${when} ${wrong.length} do not agree: ${wrong.slice(0, 5).join("; ")}`);
  }

  private outcome(node: SimNode, report: OutcomeReport): void {
    const key = requestKey(node, report.request, report.peer);
    const { type } = report.outcome;
    this.outcomes.set(type, (this.outcomes.get(type) ?? 0) + 1);
    if (this.closed.has(key) || this.early.has(key)) this.violations.push(`two outcomes for ${key}: ${type} is one`);
    else if (this.open.has(key)) this.settle(key, report);
    else this.early.set(key, report);
  }

  private settle(key: string, report: OutcomeReport): void {
    const request = this.open.get(key) as OpenRequest;
    const { outcome } = report;
    this.open.delete(key);
    this.closed.add(key);
    const runs = (this.runs.get(request.body) ?? []).filter((run) => mayBe(run.uri, report.peer));
    if (outcome.type === "delivered" && !runs.some((run) => run.status === outcome.code)) {
      this.violations.push(`${request.what} is delivered with ${outcome.code}, but no handler said so`);
    }
    if (outcome.type === "overloaded" && runs.length > 0) {
      this.violations.push(`${request.what} is overloaded, but its handler ran`);
    }
    // No violation: an `unsent` names an endpoint and no request, so what arrived there before it died may be among them.
    if (outcome.type === "unreachable" && runs.length > 0) this.doubtful++;
  }
}

/** A peer known by a name may be any node. */
function mayBe(uri: string, peer: string): boolean {
  return uri === peer || peer.includes(".test:");
}

function requestKey(node: SimNode, request: number, peer: string): string {
  return `${node.name}.${node.life} ${request} ${peer}`;
}

function bodyNumber(body: Uint8Array): string {
  const text = decodeUtf8(body.subarray(0, 16));
  return text.slice(0, text.indexOf(";"));
}
