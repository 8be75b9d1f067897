/** An operator's ping: what the peer gets is an ordinary one, and what comes of it changes nothing here. */
import { describe, expect, test } from "bun:test";
import { bodyOf, Harness, kdmq, line, response, type Sent, udp } from "./harness.ts";

const PEER = "sip:127.0.0.2:5060";
const PING_MS = 60_000;

function withPeer(): Harness {
  const harness = new Harness({ notificationAddresses: [PEER], pingIntervalMs: PING_MS });
  harness.start();
  const [join] = harness.take();
  harness.receive(response(join as Sent, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
  harness.take();
  return harness;
}

/** Everything of a request but what must differ: branch, tag, Call-ID, CSeq. */
function shape(sent: Sent | undefined): string {
  return (sent?.text ?? "").replaceAll(/(branch=|tag=|Call-ID: |CSeq: )[^\r\n;]*/g, "$1");
}

describe("ping", () => {
  test("ping: sends what an ordinary ping is", () => {
    const harness = withPeer();
    harness.runUntil(PING_MS * 1.2);
    const [ordinary] = harness.take();
    expect(ordinary?.text).toContain("Max-Forwards: 1\r\n");
    harness.receive(response(ordinary as Sent, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    harness.do((node, now) => node.ping([PEER], {}, now));
    const [asked] = harness.take();
    expect(shape(asked)).toBe(shape(ordinary));
    expect(bodyOf(asked)).toBe(bodyOf(ordinary));
  });

  test("ping: an answer is delivered with its code and time, and its node list is not read", () => {
    const harness = withPeer();
    const [addressed] = harness.do((node, now) => node.ping(["sip:127.0.0.2"], {}, now));
    expect(addressed?.peer).toBe(PEER);
    harness.now += 25;
    const [sent] = harness.take();
    harness.receive(
      response(sent as Sent, "200 OK", line("127.0.0.2:5060") + line("127.0.0.9:5060")),
      udp("127.0.0.2"),
    );
    const [event] = harness.ofType("outcome");
    expect(event?.report).toMatchObject({ peer: PEER, elapsedMs: 25, outcome: { type: "delivered", code: 200 } });
    expect(harness.take()).toEqual([]);
  });

  test("ping: silence is a timeout at its own deadline, and neither fail count nor status changes", () => {
    const harness = withPeer();
    harness.do((node, now) => node.ping(undefined, { timeoutMs: 700 }, now));
    harness.runUntil(harness.now + 1_000);
    expect(harness.ofType("outcome").map(({ report }) => report.outcome.type)).toEqual(["timeout"]);
    expect(harness.node.nodes()).toMatchObject([{ status: "active", failCount: 0, inFlight: 0 }]);
    // The first one and its copy after T1; nothing was asked besides.
    expect(harness.take().length).toBe(2);
  });

  test("ping: an answer that is none does not revive a peer, and an open one does not keep it from its own ping", () => {
    const harness = withPeer();
    harness.do((node, now) => node.setStatus(PEER, "disabled", now));
    harness.do((node, now) => node.ping([PEER], { timeoutMs: 200_000 }, now));
    const [echo] = harness.take();
    const before = harness.node.counters.notificationsSent;
    harness.runUntil(PING_MS * 1.2);
    expect(harness.node.counters.notificationsSent).toBe(before + 1);
    harness.receive(response(echo as Sent, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    expect(harness.ofType("outcome").length).toBe(1);
    expect(harness.node.nodes()[0]?.status).toBe("disabled");
  });

  test("ping: one that is not known, and then nobody is asked", () => {
    const harness = withPeer();
    harness.receive(kdmq({ from: "127.0.0.3:5060", body: line("127.0.0.3:5060") }), udp("127.0.0.3"));
    const probe = harness.take().find(({ text }) => text.startsWith("KDMQ")) as Sent;
    harness.receive(response(probe, "200 OK", line("127.0.0.3:5060")), udp("127.0.0.3"));
    expect(() => harness.do((node, now) => node.ping([PEER, "sip:127.0.0.9:5060"], {}, now))).toThrow("is not known");
    expect(harness.take()).toEqual([]);
    expect(harness.do((node, now) => node.ping(undefined, {}, now)).map(({ peer }) => peer)).toEqual([
      "sip:127.0.0.3:5060",
      PEER,
    ]);
  });
});
