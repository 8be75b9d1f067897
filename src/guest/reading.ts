/**
 * How a visitor learns who is on the bus: whom it asks, in which order, for how long, and what it believes. A value machine
 * without requests of its own; visit.ts sends what `step` wants.
 *
 * One node is asked after the other until one answers with a list. A Kamailio writes all of its list or none (dmq.md 11.3),
 * a node of ours what fits 1,023 octets and another part each time: where an answer is that full, it is asked again until
 * nothing new comes.
 */
import type { Endpoint } from "../core/endpoint.ts";
import { endpointKey } from "../core/endpoint.ts";
import type { Duration, Instant } from "../core/time.ts";
import { BODY_BYTES_MAX, type NodeLine, parseNodeList } from "../membership/notification.ts";
import { addressKey, isLiteral, type PeerAddress } from "../membership/peer.ts";

/** A node that the visit was told to ask. */
export interface Contact {
  readonly address: PeerAddress;
  /** As the operator wrote it. */
  readonly text: string;
}

/** Where an address is, and as whom we send there. */
export interface Place {
  readonly to: Endpoint;
  readonly from: PeerAddress;
}

/** The answer of a node, or why there is none. */
export type Reply =
  | { type: "answer"; status: number; reason: string; body: Uint8Array; userAgent: string | undefined; rttMs: Duration }
  | { type: "failure"; why: string };

export interface Asked {
  readonly userAgent: string | undefined;
  readonly rttMs: Duration;
  readonly at: Instant;
  readonly contact: string;
}

export interface VisitedNode extends NodeLine {
  readonly key: string;
  /** Of the node that gave the list: what its answer told, and the key of the contact that led to it. */
  readonly asked?: Asked;
}

export type ReadingStep =
  /** Find out where this is; answered by `placed`. */
  | { type: "place"; address: PeerAddress }
  /** Send an empty notification there; answered by `replied`. */
  | { type: "ask"; address: PeerAddress; place: Place; deadline: Instant }
  | { type: "found"; nodes: VisitedNode[]; badLines: number }
  /** Nobody gave a list. `refused`: all of them answered, and none with one. */
  | { type: "nobody"; failures: { contact: string; why: string }[]; refused: boolean };

/** What one node has for its answer: over UDP three transmissions, at 0, 0.5 and 1.5 s. */
export const ANSWER_MS_MAX: Duration = 3_000;
/** A line with IPv6 and transport is shorter: a list that lacks less than that to the limit may have been cut. */
const LINE_BYTES_MAX = 80;
/** Nodes on a list, as many as a node of ours takes into its registry; what comes after them is left out. */
const NODES_MAX = 1_000;
/** Questions to one node of a large bus: a node of ours shows 13 further lines each time. */
const ROUNDS_MAX = 80;

export class Reading {
  readonly deadline: Instant;
  private readonly contacts: readonly Contact[];
  private next = 0;
  private contact: Contact | undefined;
  private places: Place[] = [];
  private place: Place | undefined;
  /** Without a `placed` by then, the contact has none. */
  placingUntil: Instant | undefined;
  private rounds = 0;
  private badLines = 0;
  private readonly nodes = new Map<string, VisitedNode>();
  private readonly failures: { contact: string; why: string }[] = [];
  private answers = 0;

  /** @param deadline  what has not answered by then does not count */
  constructor(contacts: readonly Contact[], deadline: Instant) {
    this.contacts = contacts;
    this.deadline = deadline;
  }

  /** What comes first. */
  start(now: Instant): ReadingStep {
    return this.toNextContact(now);
  }

  /** @param places  empty where the address leads nowhere */
  placed(places: readonly Place[], why: string, now: Instant): ReadingStep {
    this.placingUntil = undefined;
    this.places = [...places];
    return places.length === 0 ? this.failed(why, now) : this.toNextPlace(now);
  }

  replied(reply: Reply, now: Instant): ReadingStep {
    // It has shown a part of its list already: that is better than none.
    if (this.nodes.size > 0 && (reply.type === "failure" || reply.status !== 200)) return this.found();
    if (reply.type === "failure") return this.failed(reply.why, now);
    this.answers++;
    if (reply.status !== 200) return this.failed(`answered ${reply.status} ${reply.reason}`, now);
    const fresh = this.take(reply, now);
    if (this.nodes.size === 0) return this.failed("answered without a node list", now);
    const room = BODY_BYTES_MAX - reply.body.length;
    const mayBeCut = room >= 0 && room < LINE_BYTES_MAX;
    return mayBeCut && fresh > 0 && ++this.rounds < ROUNDS_MAX ? this.ask(now) : this.found();
  }

  /** Whether it waits for `placed` of this address. */
  isPlacing(address: PeerAddress): boolean {
    return this.placingUntil !== undefined && this.isContact(address);
  }

  private isContact(address: PeerAddress): boolean {
    return this.contact !== undefined && addressKey(this.contact.address) === addressKey(address);
  }

  /** Where the question went that has no answer yet. */
  get askedAt(): Endpoint | undefined {
    return this.place?.to;
  }

  private toNextContact(now: Instant): ReadingStep {
    this.place = undefined;
    this.contact = this.contacts[this.next++];
    if (this.contact === undefined)
      return { type: "nobody", failures: this.failures, refused: this.answers === this.contacts.length };
    if (now >= this.deadline) return this.failed("no time was left for it", now);
    this.placingUntil = now + this.share(now);
    return { type: "place", address: this.contact.address };
  }

  /** A name may have several addresses: one that is silent says nothing of the others. */
  private toNextPlace(now: Instant): ReadingStep {
    this.place = this.places.shift();
    return this.ask(now);
  }

  private ask(now: Instant): ReadingStep {
    const { address } = this.contact as Contact;
    return { type: "ask", address, place: this.place as Place, deadline: now + this.share(now) };
  }

  /** What is left of the time is for all that may still be asked. */
  private share(now: Instant): Duration {
    const others = this.contacts.length - this.next + this.places.length;
    return Math.min(ANSWER_MS_MAX, Math.max(0, this.deadline - now) / (others + 1));
  }

  private failed(why: string, now: Instant): ReadingStep {
    const { text, address } = this.contact as Contact;
    const at = this.place === undefined || isLiteral(address) ? "" : `${endpointKey(this.place.to)} `;
    this.failures.push({ contact: text, why: at + why });
    return this.places.length > 0 && now < this.deadline ? this.toNextPlace(now) : this.toNextContact(now);
  }

  private found(): ReadingStep {
    return { type: "found", nodes: [...this.nodes.values()], badLines: this.badLines };
  }

  /** @returns how many nodes were new in this part of the list */
  private take({ body, userAgent, rttMs }: Extract<Reply, { type: "answer" }>, now: Instant): number {
    const { to } = this.place as Place;
    const list = parseNodeList(body, to.ip);
    this.badLines += list.badLines;
    let fresh = 0;
    for (const { address, status } of list.lines) {
      const key = addressKey(address);
      if (this.nodes.has(key)) continue;
      if (this.nodes.size >= NODES_MAX) break;
      fresh++;
      const contact = addressKey((this.contact as Contact).address);
      const isAsked = key === contact || (address.host === to.ip && address.port === to.port);
      this.nodes.set(key, { key, address, status, ...(isAsked && { asked: { userAgent, rttMs, at: now, contact } }) });
    }
    return fresh;
  }
}
