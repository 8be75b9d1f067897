import { describe, expect, test } from "bun:test";
import type { Transport } from "../../src/core/endpoint.ts";
import { type ClientAction, type ClientInput, type ClientState, clientStep } from "../../src/transaction/client.ts";

type Arrow = [name: string, ClientState, ClientInput, Transport, ClientState, ClientAction];

/** RFC 3261 Figure 6, every arrow; Timer K is 0 on streams, so that its arrow is taken together with the final one. */
const FIGURE_6: Arrow[] = [
  ["trying: Timer E / send request", "trying", "timer-e", "udp", "trying", "resend"],
  ["trying: Timer F / inform TU", "trying", "timer-f", "udp", "terminated", "give-up"],
  ["trying: Timer F on a stream / inform TU", "trying", "timer-f", "tcp", "terminated", "give-up"],
  ["trying: transport error / inform TU", "trying", "transport-error", "udp", "terminated", "give-up"],
  ["trying: 200-699 / response to TU", "trying", "final", "udp", "completed", "report"],
  ["trying: 200-699 on a stream, Timer K 0 / response to TU", "trying", "final", "tls", "terminated", "report"],
  ["trying: 1xx / response to TU", "trying", "provisional", "udp", "proceeding", "report"],
  ["proceeding: Timer E / send request", "proceeding", "timer-e", "udp", "proceeding", "resend"],
  ["proceeding: 1xx / response to TU", "proceeding", "provisional", "udp", "proceeding", "report"],
  ["proceeding: 200-699 / response to TU", "proceeding", "final", "udp", "completed", "report"],
  ["proceeding: 200-699 on a stream, Timer K 0 / response to TU", "proceeding", "final", "tcp", "terminated", "report"],
  ["proceeding: Timer F / inform TU", "proceeding", "timer-f", "udp", "terminated", "give-up"],
  ["proceeding: transport error / inform TU", "proceeding", "transport-error", "udp", "terminated", "give-up"],
  ["completed: Timer K / –", "completed", "timer-k", "udp", "terminated", "none"],
];

/** What the figure has no arrow for. */
const ELSE: Arrow[] = [
  ["trying: no Timer E on streams", "trying", "timer-e", "tcp", "trying", "none"],
  ["trying: Timer K is nothing to it", "trying", "timer-k", "udp", "trying", "none"],
  ["proceeding: no Timer E on streams", "proceeding", "timer-e", "tls", "proceeding", "none"],
  ["proceeding: Timer K is nothing to it", "proceeding", "timer-k", "udp", "proceeding", "none"],
  ["completed: absorbs a repeated final response", "completed", "final", "udp", "completed", "absorb"],
  ["completed: absorbs a late provisional response", "completed", "provisional", "udp", "completed", "absorb"],
  ["completed: sends nothing on Timer E", "completed", "timer-e", "udp", "completed", "none"],
  ["completed: has its response when Timer F comes", "completed", "timer-f", "udp", "completed", "none"],
  ["completed: a transport error comes too late", "completed", "transport-error", "udp", "completed", "none"],
];

describe("client machine, RFC 3261 Figure 6", () => {
  test.each([...FIGURE_6, ...ELSE])("%s", (_name, state, input, transport, next, action) => {
    expect(clientStep(state, input, transport)).toEqual({ state: next, action });
  });

  test.each<[ClientInput]>([["provisional"], ["final"], ["timer-e"], ["timer-f"], ["timer-k"], ["transport-error"]])(
    "terminated: %s changes nothing",
    (input) => {
      expect(clientStep("terminated", input, "udp")).toEqual({ state: "terminated", action: "none" });
    },
  );
});
