/**
 * What a command that answers messages is told and what its end means, whoever runs it: `dmq serve --on` in the daemon, or
 * `dmq listen --exec` beside it. docs/CLI.md is the operator's view.
 */
import type { Duration } from "../core/time.ts";
import type { RunEnd } from "./run.ts";

/** EX_TEMPFAIL of sysexits.h: try again later. */
const EXIT_TEMPORARY = 75;

const RETRY_AFTER_SECONDS = 2;

/** A variable that is longer is left out: a part of a Call-ID would be another Call-ID. */
const VARIABLE_CHARACTERS_MAX = 4_096;

export type Variables = Record<string, string>;

/** What is known of a message; `null` is nothing. */
export interface MessageFacts {
  channel: string;
  /** From URI as written. */
  from: string;
  /** URI of the peer that it is from. */
  node: string | null;
  /** `udp:192.0.2.2:5060`. */
  source: string;
  callId: string;
  /** Header `X-DMQ-Id`: the same for a message that was sent again. */
  messageId: string | null;
  contentType: string | null;
  maxForwards: number | null;
  /** Octets of the body. */
  size: number;
  /** The request has an Accept header. */
  acceptsBody: boolean;
  /** Of this node. */
  uri: string;
}

/** @returns the `DMQ_*` variables of a message */
export function messageVariables(facts: MessageFacts): Variables {
  return {
    DMQ_CHANNEL: facts.channel,
    DMQ_FROM: facts.from,
    DMQ_NODE: facts.node ?? "",
    DMQ_SOURCE: facts.source,
    DMQ_CALL_ID: facts.callId,
    DMQ_MESSAGE_ID: facts.messageId ?? "",
    DMQ_CONTENT_TYPE: facts.contentType ?? "",
    DMQ_MAX_FORWARDS: facts.maxForwards === null ? "" : String(facts.maxForwards),
    DMQ_SIZE: String(facts.size),
    DMQ_ACCEPT: facts.acceptsBody ? "1" : "",
    DMQ_URI: facts.uri,
  };
}

/** Leaves out what is too long for a variable. */
export function bounded(variables: Variables): Variables {
  return Object.fromEntries(Object.entries(variables).filter(([, value]) => value.length <= VARIABLE_CHARACTERS_MAX));
}

// --- what comes of its end -------------------------------------------------------------------------------------------

/** Status line of an answer, without its body. */
export interface Verdict {
  status: number;
  reason?: string;
  retryAfterSeconds?: number;
}

/** What the system says where it has no room now, but may have later. */
const FULL: readonly string[] = ["EAGAIN", "EMFILE", "ENFILE", "ENOMEM"];

/** @returns 200 for exit 0, 503 for exit 75 and for what may go better later, else 500 */
export function verdictOf(end: RunEnd): Verdict {
  switch (end.type) {
    case "exited":
      if (end.code === 0) return { status: 200 };
      return end.code === EXIT_TEMPORARY ? later("Handler Busy") : failed(`Handler Exited With ${end.code}`);
    case "signalled":
      return failed(`Handler Died Of ${end.name}`);
    case "flooded":
      return failed("Handler Printed Too Much");
    case "not-started":
      return FULL.includes(end.code) ? later("Handler Not Started") : failed("Handler Not Started");
    case "aborted":
      return later("Handler Too Late");
  }
}

function later(reason: string): Verdict {
  return { status: 503, reason, retryAfterSeconds: RETRY_AFTER_SECONDS };
}

function failed(reason: string): Verdict {
  return { status: 500, reason };
}

const STRICT_UTF8 = new TextDecoder("utf-8", { fatal: true });

/** What a command printed, as a body: `text/plain`, or `application/octet-stream` if it is no UTF-8. */
export function bodyOf(stdout: Uint8Array): { body: Uint8Array; contentType: string } {
  try {
    STRICT_UTF8.decode(stdout);
    return { body: stdout, contentType: "text/plain" };
  } catch {
    return { body: stdout, contentType: "application/octet-stream" };
  }
}

/** The end of a run in words that complete "the command …". */
export function endText(end: RunEnd, program: string, timeoutMs: Duration): string {
  switch (end.type) {
    case "exited":
      return `exited with ${end.code}`;
    case "signalled":
      return `died of ${end.name}`;
    case "flooded":
      return `printed too much on ${end.stream} and was ended`;
    case "not-started":
      return `${program} could not be started (${end.code})`;
    case "aborted":
      return `was ended: it took longer than handler_timeout (${timeoutMs} ms), or the node stopped`;
  }
}
