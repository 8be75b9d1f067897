/**
 * The non-INVITE server machine (RFC 3261 §17.2.2, Figure 8, as amended by RFC 4320), and nothing but the machine: state
 * and input in, state and action out. servers.ts keeps the answers and the clock. One function for each state, in the order
 * of the figure; one case for each arrow.
 *
 *            request ─▶ trying ──100──▶ proceeding
 *                         │                 │  ╲
 *            2xx–6xx      ▼                 ▼   ╲ error
 *                     completed ──J, error──▶ terminated
 */
import { isReliable, type Transport } from "../core/endpoint.ts";
import type { Duration } from "../core/time.ts";
import { type TimerSettings, tryingDelay } from "./timers.ts";

export type ServerState = "trying" | "proceeding" | "completed" | "terminated";

export type ServerInput =
  /** The same request once more. */
  | "request"
  /** The transaction user answers 100. */
  | "provisional"
  /** The transaction user answers 2xx to 6xx. */
  | "final"
  /** Retransmissions of the request are not to be expected any more. */
  | "timer-j"
  /** An answer did not go out. */
  | "transport-error";

export type ServerAction =
  /** Nothing to do; a retransmission is dropped, a second final answer of the transaction user too. */
  | "none"
  /** Send this answer and keep it for retransmissions. */
  | "send"
  /** Send the answer given last once more. */
  | "resend"
  /** Tell the transaction user that its answer did not go out. */
  | "inform";

export interface ServerStep {
  readonly state: ServerState;
  readonly action: ServerAction;
}

const TRYING_NONE: ServerStep = { state: "trying", action: "none" };
const PROCEEDING_NONE: ServerStep = { state: "proceeding", action: "none" };
const PROCEEDING_SEND: ServerStep = { state: "proceeding", action: "send" };
const PROCEEDING_RESEND: ServerStep = { state: "proceeding", action: "resend" };
const COMPLETED_NONE: ServerStep = { state: "completed", action: "none" };
const COMPLETED_SEND: ServerStep = { state: "completed", action: "send" };
const COMPLETED_RESEND: ServerStep = { state: "completed", action: "resend" };
const TERMINATED_NONE: ServerStep = { state: "terminated", action: "none" };
const TERMINATED_SEND: ServerStep = { state: "terminated", action: "send" };
const TERMINATED_INFORM: ServerStep = { state: "terminated", action: "inform" };

/**
 * What an input does to a server transaction (RFC 3261 §17.2.2). Pure; steps are shared constants, nothing is allocated.
 *
 * @param transport  that the request came over; on reliable ones Timer J is 0
 * @returns          the next state and what to do; the same state with "none" where the figure has no arrow
 */
export function serverStep(state: ServerState, input: ServerInput, transport: Transport): ServerStep {
  switch (state) {
    case "trying":
      return trying(input, transport);
    case "proceeding":
      return proceeding(input, transport);
    case "completed":
      return completed(input);
    case "terminated":
      return TERMINATED_NONE;
  }
}

function trying(input: ServerInput, transport: Transport): ServerStep {
  switch (input) {
    case "provisional":
      return PROCEEDING_SEND;
    case "final":
      return final(transport);
    case "request":
    case "timer-j":
    case "transport-error":
      return TRYING_NONE;
  }
}

function proceeding(input: ServerInput, transport: Transport): ServerStep {
  switch (input) {
    case "request":
      return PROCEEDING_RESEND;
    case "provisional":
      return PROCEEDING_SEND;
    case "final":
      return final(transport);
    case "transport-error":
      return TERMINATED_INFORM;
    case "timer-j":
      return PROCEEDING_NONE;
  }
}

function completed(input: ServerInput): ServerStep {
  switch (input) {
    case "request":
      return COMPLETED_RESEND;
    case "timer-j":
      return TERMINATED_NONE;
    case "transport-error":
      return TERMINATED_INFORM;
    case "provisional":
    case "final":
      return COMPLETED_NONE;
  }
}

/** Timer J is 0 on reliable transports: "completed" is over in the moment it begins. */
function final(transport: Transport): ServerStep {
  return isReliable(transport) ? TERMINATED_SEND : COMPLETED_SEND;
}

/**
 * Whether a status may answer a non-INVITE request at all (RFC 4320 §4.1, §4.2): no 408, because it would always come too
 * late, and no provisional response other than 100.
 */
export function isAnswerStatus(status: number): boolean {
  return Number.isInteger(status) && (status === 100 || (status >= 200 && status <= 699 && status !== 408));
}

/** Whether a 100 would be too early for a request of this age (RFC 4320 §4.1). */
export function isEarlyTrying(settings: TimerSettings, transport: Transport, ageMs: Duration): boolean {
  return ageMs < tryingDelay(settings, transport);
}
