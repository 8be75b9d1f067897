import { describe, expect, test } from "bun:test";
import type { Transport } from "../../src/core/endpoint.ts";
import {
  isAnswerStatus,
  isEarlyTrying,
  type ServerAction,
  type ServerInput,
  type ServerState,
  serverStep,
} from "../../src/transaction/server.ts";
import { DEFAULT_TIMERS } from "../../src/transaction/timers.ts";

type Arrow = [name: string, ServerState, ServerInput, Transport, ServerState, ServerAction];

/** RFC 3261 Figure 8, every arrow; Timer J is 0 on streams, so that its arrow is taken together with the final one. */
const FIGURE_8: Arrow[] = [
  ["trying: 1xx from TU / send response", "trying", "provisional", "udp", "proceeding", "send"],
  ["trying: 200-699 from TU / send response", "trying", "final", "udp", "completed", "send"],
  ["trying: 200-699 from TU on a stream, Timer J 0 / send response", "trying", "final", "tcp", "terminated", "send"],
  ["proceeding: request / send response", "proceeding", "request", "udp", "proceeding", "resend"],
  ["proceeding: 1xx from TU / send response", "proceeding", "provisional", "udp", "proceeding", "send"],
  ["proceeding: 200-699 from TU / send response", "proceeding", "final", "udp", "completed", "send"],
  ["proceeding: 200-699 on a stream, Timer J 0 / send response", "proceeding", "final", "tls", "terminated", "send"],
  ["proceeding: transport error / inform TU", "proceeding", "transport-error", "udp", "terminated", "inform"],
  ["completed: request / send response", "completed", "request", "udp", "completed", "resend"],
  ["completed: Timer J / –", "completed", "timer-j", "udp", "terminated", "none"],
  ["completed: transport error / inform TU", "completed", "transport-error", "udp", "terminated", "inform"],
];

/** What the figure has no arrow for. */
const ELSE: Arrow[] = [
  ["trying: drops a retransmission of the request", "trying", "request", "udp", "trying", "none"],
  ["trying: Timer J is nothing to it", "trying", "timer-j", "udp", "trying", "none"],
  ["trying: nothing was sent that could fail", "trying", "transport-error", "udp", "trying", "none"],
  ["proceeding: Timer J is nothing to it", "proceeding", "timer-j", "udp", "proceeding", "none"],
  ["completed: drops a second final answer", "completed", "final", "udp", "completed", "none"],
  ["completed: drops a late provisional answer", "completed", "provisional", "udp", "completed", "none"],
];

describe("server machine, RFC 3261 Figure 8", () => {
  test.each([...FIGURE_8, ...ELSE])("%s", (_name, state, input, transport, next, action) => {
    expect(serverStep(state, input, transport)).toEqual({ state: next, action });
  });

  test.each<[ServerInput]>([["request"], ["provisional"], ["final"], ["timer-j"], ["transport-error"]])(
    "terminated: %s changes nothing",
    (input) => {
      expect(serverStep("terminated", input, "udp")).toEqual({ state: "terminated", action: "none" });
    },
  );
});

describe("answers that RFC 4320 allows", () => {
  test.each([100, 200, 202, 302, 404, 405, 407, 409, 503, 699])("%d is one", (status) => {
    expect(isAnswerStatus(status)).toBe(true);
  });

  test.each([0, 99, 101, 180, 183, 199, 408, 700, 200.5, Number.NaN])("%d is none", (status) => {
    expect(isAnswerStatus(status)).toBe(false);
  });

  test("100 waits until the client's Timer E has reached T2, on UDP only", () => {
    expect(isEarlyTrying(DEFAULT_TIMERS, "udp", 3_499)).toBe(true);
    expect(isEarlyTrying(DEFAULT_TIMERS, "udp", 3_500)).toBe(false);
    expect(isEarlyTrying(DEFAULT_TIMERS, "tcp", 0)).toBe(false);
  });
});
