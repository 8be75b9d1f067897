/**
 * The server side of the node: requests that came in, what was answered, and those that still wait for an answer.
 *
 * It absorbs retransmissions (RFC 3261 §17.2.2), holds a request while a handler or a route thinks about it, and builds the
 * answer from the request's own octets. What a request means is not its business.
 */
import { assert } from "../core/assert.ts";
import { copyBytes, EMPTY, encodeUtf8, spanOf } from "../core/bytes.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { ProtocolError, UsageError } from "../core/errors.ts";
import { OctetStore } from "../core/octet-store.ts";
import { type Random, token } from "../core/random.ts";
import type { Instant } from "../core/time.ts";
import { isToken } from "../sip/grammar.ts";
import type { SipRequest } from "../sip/message.ts";
import { writeAnswer } from "../sip/ordinary.ts";
import { MessageScan } from "../sip/scan.ts";
import { isHeaderSafe, ResponseWriter, reasonPhrase } from "../sip/serialize.ts";
import { responseDestination, topVia } from "../sip/via.ts";
import { Fingerprinter, hasMagicCookie, serverKey } from "../transaction/key.ts";
import { isAnswerStatus } from "../transaction/server.ts";
import { ServerTransactions } from "../transaction/servers.ts";
import type { Answer, Flow, NodeCounters, Pending } from "./io.ts";
import type { ResolvedOptions } from "./options.ts";
import { type Kept, OrdinaryMessage, type PeerLookup } from "./ordinary-message.ts";
import type { Outbox } from "./outbox.ts";
import { Shares } from "./shares.ts";
import { Slab } from "./slab.ts";
import type { Warnings } from "./warnings.ts";

/** Server transactions that are remembered; beyond, the oldest completed one is forgotten. */
const SERVER_TRANSACTIONS_MAX = 65_536;
/** Leaves room for the headers that an answer copies from an ordinary request. */
const ANSWER_BODY_BYTES_MAX = 60_000;
/** Reason, content type and added headers of an answer, in characters; beside the largest body they still fit a datagram. */
const ANSWER_TEXT_MAX = 4_096;
/** What an answer copies from its request, or what is written for it (RFC 3261 §8.2.6). */
const OWN_HEADERS = new Set(
  ["via", "from", "to", "call-id", "cseq", "content-length", "content-type", "server", "retry-after"].concat(
    // Compact forms of the same (RFC 3261 §7.3.3).
    ["v", "f", "t", "i", "l", "c"],
  ),
);

/** Status lines that have a number: what ServerTransactions can note in an octet. */
const HEADS_MAX = 255;

interface Head {
  readonly status: number;
  readonly reason: string;
  readonly octets: Uint8Array;
}

const FORBIDDEN = 403;

export interface ServingContext {
  options: ResolvedOptions;
  outbox: Outbox;
  random: Random;
  warnings: Warnings;
  counters: NodeCounters;
}

export class Serving {
  private readonly answers = new OctetStore();
  private readonly servers = new ServerTransactions<Pending>(SERVER_TRANSACTIONS_MAX, this.answers);
  private readonly fingerprints: Fingerprinter;
  private readonly shares = new Shares();
  private readonly writer = new ResponseWriter();
  private readonly scan = new MessageScan();
  /** The request that `scan` speaks of, and the message that was made of it; both are forgotten when all outputs were polled. */
  private scanned: Uint8Array | undefined;
  private scannedFrom = 0;
  private scannedMessage: OrdinaryMessage | undefined;
  /** Reads messages again whose answer comes later. */
  private readonly lateScan = new MessageScan();
  private readonly slab = new Slab();
  private readonly kept: Kept = { octets: EMPTY, start: 0, end: 0, origin: 0 };
  /** The message that was held last, until it is taken. */
  private latest: OrdinaryMessage | undefined;
  /**
   * Status lines, each with the number under which it is known; those of the same code are few. An answer of a status line and
   * what is in its request is not kept: the copy of the request that asks for it again brings the rest.
   */
  private readonly heads: Head[] = [{ status: 0, reason: "", octets: EMPTY }];
  /** The number of the last one of each code. */
  private readonly headOf = new Map<number, number>();
  private readonly context: ServingContext;
  private readonly toTag: string;
  private readonly tag: Uint8Array;
  private readonly tail: Uint8Array;
  constructor(context: ServingContext) {
    this.context = context;
    this.servers.onLost = (pending) => this.release(pending);
    this.toTag = token(context.random, 2);
    this.tag = encodeUtf8(`;tag=${this.toTag}`);
    this.tail = encodeUtf8(`Server: ${context.options.userAgent}\r\nContent-Length: 0\r\n\r\n`);
    this.fingerprints = new Fingerprinter(context.random.u32(), context.random.u32());
  }

  /** The server transaction of a request; `undefined` for a retransmission, which is answered as before. */
  admit(request: SipRequest, source: Endpoint, flow: Flow, now: Instant): Pending | undefined {
    const via = topVia(request);
    if (via === undefined || via instanceof ProtocolError) return undefined;
    const id = this.servers.receive(this.fingerprints.ofText(transactionKey(request, via)), source.transport, now);
    return id === 0 ? this.repeatRequested(request, source) : { request, source, flow, transaction: id };
  }

  /**
   * Reads an ordinary request, the short way.
   *
   * @param start     where the request begins
   * @param end       where the datagram ends, or what there is of a stream
   * @returns         what the scan found; `undefined` where it is not ordinary, none, or not there as a whole, and parse.ts has
   *                  to decide
   */
  readOrdinary(bytes: Uint8Array, start: number, end: number, isStream: boolean): MessageScan | undefined {
    this.scannedMessage = undefined;
    this.scanned = this.scan.read(bytes, isStream, start, end) ? bytes : undefined;
    this.scannedFrom = start;
    return this.scanned === undefined ? undefined : this.scan;
  }

  /** As `readOrdinary`, of the response in a datagram. */
  readOrdinaryResponse(bytes: Uint8Array, start: number, end: number): MessageScan | undefined {
    this.forgetScan();
    return this.scan.readResponse(bytes, false, start, end) ? this.scan : undefined;
  }

  /**
   * As `admit`, of the request that `readOrdinary` has just read.
   *
   * @returns its message on this channel; `undefined` for a retransmission
   */
  admitOrdinary(
    channel: string,
    source: Endpoint,
    flow: Flow,
    peers: PeerLookup,
    now: Instant,
  ): OrdinaryMessage | undefined {
    const { scan, scanned } = this;
    assert(scanned !== undefined, "an ordinary request is admitted after it was read");
    const { viaHost, viaHostEnd, viaPort, branch, branchEnd } = scan;
    const hostPortEnd = viaPort === 0 ? viaHostEnd : branch - BRANCH_PARAMETER_BYTES;
    const { fingerprints } = this;
    const key = fingerprints.ofParts("KDMQ", scanned, viaHost, hostPortEnd, viaPort !== 0, branch, branchEnd);
    const id = this.servers.receive(key, source.transport, now);
    if (id === 0) return this.repeatOrdinary(scanned, source);
    const message = new OrdinaryMessage(this.keep(scanned, flow), scan, id, channel, source, flow, peers);
    this.scannedMessage = message;
    return message;
  }

  /** Where the octets of an admitted message are to stay: a datagram's are copied, and those of a stream are ours. */
  private keep(scanned: Uint8Array, flow: Flow): Kept {
    const { kept, scannedFrom } = this;
    const { bodyEnd } = this.scan;
    const isCopied = flow === 0;
    // Without what a datagram has behind the body (RFC 3261 §18.3): it is not counted in what waits.
    kept.start = isCopied ? this.slab.put(scanned, scannedFrom, bodyEnd) : scannedFrom;
    kept.octets = isCopied ? this.slab.octets : scanned;
    kept.end = kept.start + bodyEnd - scannedFrom;
    kept.origin = scannedFrom;
    return kept;
  }

  /** The memory that the scan speaks of is used again. */
  forgetScan(): void {
    this.scanned = undefined;
    this.scannedMessage = undefined;
  }

  private repeatRequested(request: SipRequest, source: Endpoint): undefined {
    this.repeat(source, ({ status, reason }) => this.writeRequested(request, source, { status, reason }));
  }

  private repeatOrdinary(scanned: Uint8Array, source: Endpoint): undefined {
    this.repeat(source, ({ octets }) => writeAnswer(this.scan, scanned, octets, this.tag, this.tail, this.answers));
  }

  /** @param write  writes the answer with this status line to the copy that came in. @returns its end in the store */
  private repeat(source: Endpoint, write: (head: Head) => number): void {
    this.context.counters.retransmissionsReceived++;
    const answer = this.servers.repeated;
    // From elsewhere it is somebody who has seen the branch: the peer would get words of his.
    if (answer === undefined || answer.to.ip !== source.ip) return;
    const { to, flow, form } = answer;
    if (form !== 0) this.pass(to, flow, write(this.heads[form] as Head));
    else this.context.outbox.push({ type: "transmit", to, flow, ...spanOf(answer.bytes) });
  }

  /** Sends what stands in the store up to `end`, in this wake-up: nothing of it is kept. */
  private pass(to: Endpoint, flow: Flow, end: number): void {
    const { answers } = this;
    const start = answers.reserve(0);
    const { octets } = answers;
    answers.release(answers.commit(end));
    this.context.outbox.push({ type: "transmit", to, flow, octets, start, end });
  }

  /** Requests that wait for a handler or a route. */
  get waiting(): number {
    return this.servers.noted;
  }

  /** Requests that wait for this channel, or to be routed. */
  waitingFor(what: string): number {
    return this.shares.waitingFor(what);
  }

  /**
   * Keeps a request until its answer comes, for as long as copies of it may come (37 s).
   *
   * @param what  its channel, or what waits for the route
   * @returns     false where so much waits already that it is to be answered at once
   */
  hold(pending: Pending, what: string): boolean {
    pending.share = this.shares.enter(what, sizeOf(pending), this.context.options.pendingMessages);
    if (pending.share === undefined) return false;
    this.servers.note(pending.transaction, pending);
    // What still waits when the next one comes may wait for long: it must not keep its neighbours.
    this.latest?.own();
    this.latest = pending instanceof OrdinaryMessage ? pending : undefined;
    return true;
  }

  /** Takes a request that waits; `undefined` if it has been answered, or waited too long. */
  take(id: number): Pending | undefined {
    const pending = this.servers.takeNote(id);
    if (pending !== undefined) this.release(pending);
    if (pending === this.latest) this.latest = undefined;
    return pending;
  }

  private release(pending: Pending): void {
    if (pending.share !== undefined) this.shares.leave(pending.share, sizeOf(pending));
    pending.share = undefined;
  }

  handleTimeout(now: Instant): void {
    this.servers.handleTimeout(now);
  }

  nextTimeout(): Instant | undefined {
    return this.servers.nextTimeout();
  }

  /**
   * Answers a request that waits; a second answer, or one that comes too late for any copy, is ignored.
   *
   * @throws UsageError for a status that is not final, or 408, which RFC 4320 forbids, and for text that breaks its line
   */
  answer(id: number, answer: Answer, now: Instant): void {
    const fault = answerFault(answer);
    if (fault !== undefined) throw new UsageError(fault);
    const pending = this.take(id);
    if (pending === undefined) return;
    const { body } = answer;
    if (body === undefined) {
      this.respond(pending, answer, now);
      return;
    }
    const wanted = mayHaveBody(pending.request);
    if (body.length > 0 && !wanted) {
      this.context.counters.guardsHit++;
      const text = "the answer's body was left out: the request has no Accept header";
      this.context.warnings.warn("body-dropped", text, now);
    }
    const isTooLarge = wanted && pending.source.transport === "udp" && body.length > ANSWER_BODY_BYTES_MAX;
    if (isTooLarge) this.respond(pending, { status: 500, reason: "Answer Too Large For A Datagram" }, now);
    else this.respond(pending, wanted ? answer : withoutBody(answer), now);
  }

  /** Sends the answer to an admitted request, and keeps it for retransmissions. */
  respond(to: Pending, answer: Answer, now: Instant): void {
    if (to instanceof OrdinaryMessage && isBare(answer) && this.respondOrdinary(to, answer, now)) return;
    const via = topVia(to.request);
    if (via === undefined || via instanceof ProtocolError) return;
    const end = this.writeRequested(to.request, to.source, answer);
    this.send(to, answer.status, this.answers.reserve(0), end, responseDestination(via, to.source), now);
  }

  /** Writes an answer, of whatever kind, into the store. @returns its end */
  private writeRequested(request: SipRequest, source: Endpoint, answer: Answer): number {
    const { options } = this.context;
    const headers: [string, string][] = (answer.headers ?? []).map(([name, value]) => [name, value]);
    headers.push(["Server", options.userAgent]);
    if (answer.retryAfterSeconds !== undefined) headers.push(["Retry-After", String(answer.retryAfterSeconds)]);
    const written = this.writer.write(request, source, {
      status: answer.status,
      reason: answer.reason ?? reasonPhrase(answer.status),
      toTag: this.toTag,
      headers,
      ...(answer.body === undefined || answer.body.length === 0
        ? {}
        : { body: answer.body, contentType: answer.contentType ?? "text/plain" }),
    });
    const start = this.answers.reserve(written.length);
    copyBytes(written, 0, written.length, this.answers.octets, start);
    return start + written.length;
  }

  /**
   * Answers 403 to a stranger, with nothing that it has not sent, and remembers nothing of it.
   *
   * @param size  octets of the request
   * @returns     false where the answer to a datagram would be larger, and none is sent
   */
  refuse(request: SipRequest, source: Endpoint, flow: Flow, size: number): boolean {
    const via = topVia(request);
    if (via === undefined || via instanceof ProtocolError) return false;
    return this.turnDown(request, source, flow, size, FORBIDDEN, responseDestination(via, source));
  }

  /**
   * Answers a request whose topmost Via makes no sense (RFC 4475 §3.1.2.1): that goes back as it came, to where it came from, and
   * nothing of it is remembered.
   *
   * @returns false where a header that every answer has is missing, or the answer to a datagram would be larger than it
   */
  refuseUnread(request: SipRequest, source: Endpoint, flow: Flow, status: number): boolean {
    const { headers } = request;
    if (!["Via", "From", "To", "Call-ID", "CSeq"].every((name) => headers.get(name))) return false;
    return this.turnDown(request, source, flow, request.bytes.length, status, source);
  }

  private turnDown(
    request: SipRequest,
    source: Endpoint,
    flow: Flow,
    size: number,
    status: number,
    to: Endpoint,
  ): boolean {
    const reason = reasonPhrase(status);
    const written = this.writer.write(request, source, { status, reason, toTag: this.toTag });
    if (source.transport === "udp" && written.length > size) return false;
    this.context.outbox.push({ type: "transmit", to, flow, ...spanOf(new Uint8Array(written)) });
    return true;
  }

  /** @returns false where the topmost Via has to be told where the request came from */
  private respondOrdinary(to: OrdinaryMessage, answer: Answer, now: Instant): boolean {
    // An answer that comes later finds the scan with another request: reading it again costs less than keeping offsets.
    const isRead = this.scannedMessage === to && this.scanned !== undefined;
    const scan = isRead ? this.scan : this.lateScan;
    const bytes = isRead ? (this.scanned as Uint8Array) : to.octets;
    if (!isRead && !scan.read(bytes, false, to.start, to.end)) return false;
    if (!standsAt(bytes, scan.viaHost, scan.viaHostEnd, to.source.ip)) return false;
    const { status, reason = reasonPhrase(status) } = answer;
    const form = this.formOf(status, reason);
    const head = form === 0 ? encodeUtf8(statusLine(status, reason)) : (this.heads[form] as Head).octets;
    const end = writeAnswer(scan, bytes, head, this.tag, this.tail, this.answers);
    const destination = answerEndpoint(to.source, scan.viaPort);
    if (form === 0) this.send(to, status, this.answers.reserve(0), end, destination, now);
    else if (this.servers.respond(to.transaction, status, 0, 0, destination, to.flow, now, form))
      this.pass(destination, to.flow, end);
    return true;
  }

  /** Sends what stands in the store from `start` to `end`, and keeps it for retransmissions. */
  private send(to: Pending, status: number, start: number, end: number, destination: Endpoint, now: Instant): void {
    const { octets } = this.answers;
    const place = this.answers.commit(end);
    if (!this.servers.respond(to.transaction, status, place, end - start, destination, to.flow, now)) return;
    this.context.outbox.push({ type: "transmit", to: destination, flow: to.flow, octets, start, end });
  }

  /** @returns the number of a status line; 0 where there are too many already */
  private formOf(status: number, reason: string): number {
    const last = this.headOf.get(status);
    if (last !== undefined && this.heads[last]?.reason === reason) return last;
    let form = this.heads.findIndex((head) => head.status === status && head.reason === reason);
    if (form === -1) {
      if (this.heads.length > HEADS_MAX) return 0;
      form = this.heads.push({ status, reason, octets: encodeUtf8(statusLine(status, reason)) }) - 1;
    }
    this.headOf.set(status, form);
    return form;
  }
}

function statusLine(status: number, reason: string): string {
  return `SIP/2.0 ${status} ${reason}\r\n`;
}

/** `;branch=` stands between the sent-by and the branch. */
const BRANCH_PARAMETER_BYTES = 8;

/** An answer of a status line and the headers that every answer has. */
function isBare({ headers, body, retryAfterSeconds }: Answer): boolean {
  return headers === undefined && retryAfterSeconds === undefined && (body === undefined || body.length === 0);
}

function sizeOf(pending: Pending): number {
  return pending instanceof OrdinaryMessage ? pending.size : pending.request.bytes.length;
}

function withoutBody({ body, ...rest }: Answer): Answer {
  return rest;
}

function standsAt(b: Uint8Array, start: number, end: number, text: string): boolean {
  if (end - start !== text.length) return false;
  for (let i = 0; i < text.length; i++) if (b[start + i] !== text.charCodeAt(i)) return false;
  return true;
}

/** `responseDestination` of a Via without rport, made anew only where it is not the source itself. */
function answerEndpoint(source: Endpoint, viaPort: number): Endpoint {
  const port = viaPort === 0 ? 5060 : viaPort;
  if (source.transport !== "udp" || port === source.port) return source;
  return { transport: "udp", ip: source.ip, port };
}

/** A Kamailio reads the body of a 200 to a KDMQ as a node list (dmq.md 11.2): only who asks for one gets one. */
function mayHaveBody(request: SipRequest): boolean {
  return request.method !== "KDMQ" || request.headers.has("Accept");
}

/**
 * @returns what forbids to send this answer, `undefined` if nothing does: a status that is not final, or 408 (RFC 4320
 *          §4.1); text that would break out of its line; a header that every answer has already; headers that would not
 *          fit a datagram. A handler in JavaScript knows no types, so they are looked at, too
 */
export function answerFault(answer: Answer): string | undefined {
  // What nearly all answers are.
  if (answer.status === 200 && answer.reason === undefined && answer.contentType === undefined)
    if (answer.body === undefined && isBare(answer)) return undefined;
  const { status, reason = "", contentType = "", headers = [], body, retryAfterSeconds = 0 } = answer;
  if (status < 200 || !isAnswerStatus(status))
    return `a request cannot be answered with ${status}: expected 200 to 699, and not 408`;
  if (!isHeaderText(reason) || !isHeaderText(contentType))
    return "the reason or content type of an answer is no text, or holds control characters";
  if (body !== undefined && !(body instanceof Uint8Array)) return "the body of an answer is no Uint8Array";
  if (!Number.isInteger(retryAfterSeconds) || retryAfterSeconds < 0)
    return `Retry-After ${retryAfterSeconds} is no whole number of seconds`;
  if (!Array.isArray(headers)) return "the headers of an answer are no array";
  const fault = headers.map(headerFault).find((one) => one !== undefined);
  if (fault !== undefined) return fault;
  const size = [reason, contentType, ...headers.flat()].reduce((sum: number, { length }: string) => sum + length, 0);
  if (size <= ANSWER_TEXT_MAX) return undefined;
  return `the headers of an answer have ${size} characters, expected at most ${ANSWER_TEXT_MAX}`;
}

function headerFault(header: unknown): string | undefined {
  const [name, value] = Array.isArray(header) ? header : [];
  if (typeof name !== "string" || !isToken(name) || OWN_HEADERS.has(name.toLowerCase()))
    return `header ${JSON.stringify(name)} cannot be added to an answer`;
  return isHeaderText(value) ? undefined : `the value of header ${name} is no text, or holds control characters`;
}

function isHeaderText(text: unknown): boolean {
  return typeof text === "string" && isHeaderSafe(text);
}

function transactionKey(
  request: SipRequest,
  via: { branch: string | undefined; host: string; port: number | undefined },
): string {
  const { headers, method, uri } = request;
  const { branch, host, port } = via;
  if (hasMagicCookie(branch)) return serverKey({ branch, host, port, method });
  return serverKey({
    branch,
    host,
    port,
    method,
    requestUri: uri,
    toTag: headers.get("To"),
    fromTag: headers.get("From"),
    callId: headers.get("Call-ID"),
    cseq: headers.get("CSeq"),
    topVia: headers.get("Via"),
  });
}
