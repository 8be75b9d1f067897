/**
 * The server side of the node: requests that came in, what was answered, and those that still wait for an answer.
 *
 * It absorbs retransmissions (RFC 3261 §17.2.2), holds a request while a handler or a route thinks about it, and builds the
 * answer from the request's own octets. What a request means is not its business.
 */
import { DeadlineQueue } from "../core/deadline-queue.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { ProtocolError, UsageError } from "../core/errors.ts";
import { type Random, token } from "../core/random.ts";
import type { Instant } from "../core/time.ts";
import { isToken } from "../sip/grammar.ts";
import type { SipRequest } from "../sip/message.ts";
import { isHeaderSafe, ResponseWriter, reasonPhrase } from "../sip/serialize.ts";
import { responseDestination, topVia } from "../sip/via.ts";
import { hasMagicCookie, serverKey } from "../transaction/key.ts";
import { isAnswerStatus } from "../transaction/server.ts";
import { ServerTransactions } from "../transaction/table.ts";
import type { Answer, Flow, NodeCounters } from "./io.ts";
import type { ResolvedOptions } from "./options.ts";
import type { Outbox } from "./outbox.ts";
import type { Warnings } from "./warnings.ts";

/** Server transactions that are remembered; beyond, the oldest completed one is forgotten. */
const SERVER_TRANSACTIONS_MAX = 65_536;
/** Leaves room for the headers that an answer copies from an ordinary request. */
const ANSWER_BODY_BYTES_MAX = 60_000;
/** Reason, content type and added headers of an answer, in characters; beside the largest body they still fit a datagram. */
const ANSWER_TEXT_MAX = 4_096;
/** A request over UDP is repeated for 64·T1: what has no answer by then needs none. */
const PENDING_MS = 32_000;
/** What an answer copies from its request, or what is written for it (RFC 3261 §8.2.6). */
const OWN_HEADERS = new Set(
  ["via", "from", "to", "call-id", "cseq", "content-length", "content-type", "server", "retry-after"].concat(
    // Compact forms of the same (RFC 3261 §7.3.3).
    ["v", "f", "t", "i", "l", "c"],
  ),
);

/** A request that was admitted and has no answer yet. */
export interface Pending {
  readonly request: SipRequest;
  readonly source: Endpoint;
  readonly flow: Flow;
  /** Number of its server transaction, and the handle for its answer. */
  readonly transaction: number;
}

export interface ServingContext {
  options: ResolvedOptions;
  outbox: Outbox;
  random: Random;
  warnings: Warnings;
  counters: NodeCounters;
}

export class Serving {
  private readonly servers = new ServerTransactions(SERVER_TRANSACTIONS_MAX);
  private readonly writer = new ResponseWriter();
  private readonly held = new Map<number, Pending>();
  private readonly heldUntil = new DeadlineQueue<number>();
  private readonly context: ServingContext;
  private readonly toTag: string;

  constructor(context: ServingContext) {
    this.context = context;
    this.toTag = token(context.random, 2);
  }

  /** The server transaction of a request; `undefined` for a retransmission, which is answered as before. */
  admit(request: SipRequest, source: Endpoint, flow: Flow, now: Instant): Pending | undefined {
    const via = topVia(request);
    if (via === undefined || via instanceof ProtocolError) return undefined;
    const seen = this.servers.receive(transactionKey(request, via), source, flow, now);
    if (seen.verdict === "new") return { request, source, flow, transaction: seen.id };
    this.context.counters.retransmissionsReceived++;
    if (seen.answer !== undefined) this.context.outbox.push({ type: "transmit", ...seen.answer });
    return undefined;
  }

  /** Requests that wait for a handler or a route. */
  get waiting(): number {
    return this.held.size;
  }

  /** Keeps a request until its answer comes, 32 s at most. */
  hold(pending: Pending, now: Instant): void {
    this.held.set(pending.transaction, pending);
    this.heldUntil.set(pending.transaction, now + PENDING_MS);
  }

  /** Takes a request that waits; `undefined` if it has been answered, or waited too long. */
  take(id: number): Pending | undefined {
    const pending = this.held.get(id);
    this.held.delete(id);
    this.heldUntil.delete(id);
    return pending;
  }

  handleTimeout(now: Instant): void {
    this.servers.handleTimeout(now);
    for (let id = this.heldUntil.take(now); id !== undefined; id = this.heldUntil.take(now)) this.held.delete(id);
  }

  nextTimeout(): Instant | undefined {
    const servers = this.servers.nextTimeout();
    const held = this.heldUntil.next();
    if (servers === undefined || held === undefined) return servers ?? held;
    return Math.min(servers, held);
  }

  /**
   * Answers a request that waits; a second answer, or one after 32 s, is ignored.
   *
   * @throws UsageError for a status that is not final, or 408, which RFC 4320 forbids, and for text that breaks its line
   */
  answer(id: number, answer: Answer, now: Instant): void {
    const fault = answerFault(answer);
    if (fault !== undefined) throw new UsageError(fault);
    const pending = this.take(id);
    if (pending === undefined) return;
    const { body, ...bare } = answer;
    const wanted = body !== undefined && mayHaveBody(pending.request);
    if (body !== undefined && body.length > 0 && !wanted) {
      this.context.counters.guardsHit++;
      const text = "the answer's body was left out: the request has no Accept header";
      this.context.warnings.warn("body-dropped", text, now);
    }
    const isTooLarge = wanted && pending.source.transport === "udp" && body.length > ANSWER_BODY_BYTES_MAX;
    if (isTooLarge) this.respond(pending, { status: 500, reason: "Answer Too Large For A Datagram" }, now);
    else this.respond(pending, wanted ? answer : bare, now);
  }

  /** Sends the answer to an admitted request, and keeps it for retransmissions. */
  respond(to: Pending, answer: Answer, now: Instant): void {
    const via = topVia(to.request);
    if (via === undefined || via instanceof ProtocolError) return;
    const { options, outbox } = this.context;
    const headers: [string, string][] = (answer.headers ?? []).map(([name, value]) => [name, value]);
    headers.push(["Server", options.userAgent]);
    if (answer.retryAfterSeconds !== undefined) headers.push(["Retry-After", String(answer.retryAfterSeconds)]);
    // The buffer is used again only while nobody waits for what stands in it.
    const writer = outbox.isEmpty() ? this.writer : new ResponseWriter();
    const octets = writer.write(to.request, to.source, {
      status: answer.status,
      reason: answer.reason ?? reasonPhrase(answer.status),
      toTag: this.toTag,
      headers,
      ...(answer.body === undefined || answer.body.length === 0
        ? {}
        : { body: answer.body, contentType: answer.contentType ?? "text/plain" }),
    });
    const destination = responseDestination(via, to.source);
    const kept = this.servers.respond(to.transaction, answer.status, octets, destination, to.flow, now);
    if (kept) outbox.push({ type: "transmit", to: destination, flow: to.flow, bytes: octets });
  }
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
