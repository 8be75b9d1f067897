/** A node whose options change while it runs, and the reasons that it gives for what becomes of its peers. */
import { describe, expect, test } from "bun:test";
import { Harness, response, udp } from "./harness.ts";

const SEED = "127.0.0.2:5060";

/** A node that met its notification address, with nothing on its way. */
function met(options: ConstructorParameters<typeof Harness>[0] = {}): Harness {
  const harness = new Harness({ notificationAddresses: [`sip:${SEED}`], pingIntervalMs: 60_000, ...options });
  harness.start();
  answer(harness);
  harness.runUntil(3_000);
  return harness;
}

function answer(harness: Harness): void {
  for (const sent of harness.take()) harness.receive(response(sent, "200 OK"), udp("127.0.0.2"));
}

describe("configure", () => {
  test("a shorter ping interval counts at once, for peers that were to be pinged much later", () => {
    const harness = met();
    harness.do((node, now) => node.configure({ pingIntervalMs: 2_000 }, now));
    harness.runUntil(harness.now + 2_200);
    expect(harness.take().filter(({ to }) => to === SEED)).not.toEqual([]);
  });

  test("the rules of failure count for the next one", () => {
    const harness = met({ pingIntervalMs: 2_000 });
    harness.do((node, now) =>
      node.configure({ failCountEnabled: true, failCountThresholdNotActive: 1, requestTimeoutMs: 2_000 }, now),
    );
    harness.runUntil(harness.now + 9_000);
    expect(harness.ofType("peer-down").map(({ peer }) => peer.failCount)).toEqual([2]);
  });

  test("window and queue count for the next message", () => {
    const harness = met();
    harness.do((node, now) => node.configure({ window: 1, queueMessages: 0 }, now));
    for (let count = 0; count < 2; count++)
      harness.do((node, now) => node.send("news", `sip:${SEED}`, new Uint8Array(1), {}, now));
    expect(harness.ofType("outcome").map(({ report }) => report.outcome.type)).toEqual(["overloaded"]);
  });

  test("a value that makes no sense is refused, and nothing is changed", () => {
    const harness = met();
    const change = (): void => harness.do((node, now) => node.configure({ window: 1, pingIntervalMs: 0 }, now));
    expect(change).toThrow("pingIntervalMs");
    harness.do((node, now) => node.send("news", `sip:${SEED}`, new Uint8Array(1), {}, now));
    harness.do((node, now) => node.send("news", `sip:${SEED}`, new Uint8Array(1), {}, now));
    expect(harness.take()).toHaveLength(2);
  });
});

describe("the reason for a status", () => {
  test("an answer, silence, and an operator's word", () => {
    const harness = met({ pingIntervalMs: 2_000 });
    harness.runUntil(harness.now + 6_000);
    harness.do((node, now) => node.setStatus(`sip:${SEED}`, "disabled", now));
    harness.do((node, now) => node.remove(`sip:${SEED}`, now));
    const told = harness.events.flatMap((event) => ("reason" in event ? [[event.type, event.reason]] : []));
    expect(told).toEqual([
      ["peer-up", "it answered"],
      ["peer-down", "no answer to a ping in time"],
      ["peer-disabled", "by hand"],
      ["peer-removed", "by hand"],
    ]);
  });

  test("an error of the network in its own words", () => {
    const harness = met();
    const cause = new Error("connection refused");
    for (let step = 0; step < 1_000 && harness.sent.length === 0; step++) harness.runUntil(harness.now + 100);
    harness.do((node, now) => node.handle({ type: "unsent", to: udp("127.0.0.2"), cause }, now));
    const reasons = harness.ofType("peer-down").map(({ reason }) => reason);
    expect(reasons).toEqual(["it is unreachable: connection refused"]);
  });
});
