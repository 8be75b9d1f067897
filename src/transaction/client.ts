/**
 * The non-INVITE client machine (RFC 3261 §17.1.2, Figure 6), and nothing but the machine: state and input in, state and
 * action out. It holds no clock and no message; clients.ts does what it says. One function for each state, in the order of
 * the figure; one case for each arrow.
 *
 *            request ─▶ trying ──1xx──▶ proceeding
 *                         │  ╲              │  ╲
 *            2xx–6xx      ▼   ╲ F, error    ▼   ╲ F, error
 *                     completed ──K──▶ terminated
 */
import { isReliable, type Transport } from "../core/endpoint.ts";

export type ClientState = "trying" | "proceeding" | "completed" | "terminated";

export type ClientInput =
  /** A 1xx. */
  | "provisional"
  /** A 2xx to 6xx. */
  | "final"
  /** Time to send again. */
  | "timer-e"
  /** The transaction's life is over. */
  | "timer-f"
  /** No repeated response is to be expected any more. */
  | "timer-k"
  /** The octets did not go out, or an ICMP error came back. */
  | "transport-error";

export type ClientAction =
  | "none"
  /** Send the request again and restart Timer E. */
  | "resend"
  /** Pass the response to the transaction user. */
  | "report"
  /** Swallow the response: the transaction user has had one. */
  | "absorb"
  /** Tell the transaction user that there will be no response. */
  | "give-up";

export interface ClientStep {
  readonly state: ClientState;
  readonly action: ClientAction;
}

const TRYING_NONE: ClientStep = { state: "trying", action: "none" };
const TRYING_RESEND: ClientStep = { state: "trying", action: "resend" };
const PROCEEDING_NONE: ClientStep = { state: "proceeding", action: "none" };
const PROCEEDING_RESEND: ClientStep = { state: "proceeding", action: "resend" };
const PROCEEDING_REPORT: ClientStep = { state: "proceeding", action: "report" };
const COMPLETED_NONE: ClientStep = { state: "completed", action: "none" };
const COMPLETED_REPORT: ClientStep = { state: "completed", action: "report" };
const COMPLETED_ABSORB: ClientStep = { state: "completed", action: "absorb" };
const TERMINATED_NONE: ClientStep = { state: "terminated", action: "none" };
const TERMINATED_REPORT: ClientStep = { state: "terminated", action: "report" };
const TERMINATED_GIVE_UP: ClientStep = { state: "terminated", action: "give-up" };

/**
 * What an input does to a client transaction (RFC 3261 §17.1.2.2). Pure; steps are shared constants, nothing is allocated.
 *
 * @param transport  decides whether Timer E runs and whether Timer K is 0
 * @returns          the next state and what to do; the same state with "none" where the figure has no arrow
 */
export function clientStep(state: ClientState, input: ClientInput, transport: Transport): ClientStep {
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

function trying(input: ClientInput, transport: Transport): ClientStep {
  switch (input) {
    case "timer-e":
      return isReliable(transport) ? TRYING_NONE : TRYING_RESEND;
    case "provisional":
      return PROCEEDING_REPORT;
    case "final":
      return final(transport);
    case "timer-f":
    case "transport-error":
      return TERMINATED_GIVE_UP;
    case "timer-k":
      return TRYING_NONE;
  }
}

function proceeding(input: ClientInput, transport: Transport): ClientStep {
  switch (input) {
    case "timer-e":
      return isReliable(transport) ? PROCEEDING_NONE : PROCEEDING_RESEND;
    case "provisional":
      return PROCEEDING_REPORT;
    case "final":
      return final(transport);
    case "timer-f":
    case "transport-error":
      return TERMINATED_GIVE_UP;
    case "timer-k":
      return PROCEEDING_NONE;
  }
}

function completed(input: ClientInput): ClientStep {
  switch (input) {
    case "provisional":
    case "final":
      return COMPLETED_ABSORB;
    case "timer-k":
      return TERMINATED_NONE;
    case "timer-e":
    case "timer-f":
    case "transport-error":
      return COMPLETED_NONE;
  }
}

/** Timer K is 0 on reliable transports: "completed" is over in the moment it begins. */
function final(transport: Transport): ClientStep {
  return isReliable(transport) ? TERMINATED_REPORT : COMPLETED_REPORT;
}
