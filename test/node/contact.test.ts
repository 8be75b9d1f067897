/** First contact: who is there to synchronise with, and when (dmq.md 7.1). */
import { describe, expect, test } from "bun:test";
import { FirstContact } from "../../src/node/contact.ts";
import { Harness, line, response, type Sent, udp } from "./harness.ts";

const SEED = "sip:127.0.0.2:5060";

/** The seed answers with its list; `take` then has the probes of those that it named. */
function joined(options = {}): { harness: Harness; probes: Sent[] } {
  const harness = new Harness({ notificationAddresses: [SEED], pingIntervalMs: 600_000, ...options });
  harness.start();
  const [join] = harness.take() as [Sent];
  const list = line("127.0.0.3:5060") + line("127.0.0.4:5060") + line("127.0.0.2:5060");
  harness.receive(response(join, "200 OK", list), udp("127.0.0.2"));
  return { harness, probes: harness.take() };
}

function told(harness: Harness): string[][] {
  return harness.ofType("joined").map(({ nodes }) => nodes);
}

describe("joined", () => {
  test("joined: says all that answered, once everybody who was named has", () => {
    const { harness, probes } = joined();
    expect(told(harness)).toEqual([]);
    for (const probe of probes) {
      const ip = probe.to.split(":")[0] as string;
      harness.receive(response(probe, "200 OK", line(probe.to)), udp(ip));
    }
    expect(told(harness)).toEqual([[SEED, "sip:127.0.0.3:5060", "sip:127.0.0.4:5060"]]);
  });

  test("joined: the contacts that are greeted with the first one count too", () => {
    const harness = new Harness({ notificationAddresses: [SEED, "sip:127.0.0.3:5060"] });
    harness.start();
    const joins = harness.take();
    for (const join of joins) {
      expect(told(harness)).toEqual([]);
      const ip = join.to.split(":")[0] as string;
      harness.receive(response(join, "200 OK", line(join.to)), udp(ip));
    }
    expect(told(harness)).toEqual([[SEED, "sip:127.0.0.3:5060"]]);
  });

  test("joined: waits two seconds at most for those who do not answer", () => {
    const { harness, probes } = joined();
    harness.receive(response(probes[0] as Sent, "200 OK", line("127.0.0.3:5060")), udp("127.0.0.3"));
    harness.runUntil(1_999);
    expect(told(harness)).toEqual([]);
    harness.runUntil(2_000);
    expect(told(harness)).toEqual([[SEED, "sip:127.0.0.3:5060"]]);
  });

  test("joined: with init_with_single it is the first that answered, at once", () => {
    const { harness } = joined({ initWithSingle: true });
    expect(told(harness)).toEqual([[SEED]]);
  });

  test("joined: a name that turns out to be the only peer is no second contact", () => {
    const harness = new Harness({ notificationAddresses: [SEED, "sip:seed.test:5060"] });
    harness.start();
    const [join] = harness.take() as [Sent];
    harness.receive(response(join, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    harness.resolve("seed.test", ["127.0.0.2"]);
    const [greeting] = harness.take() as [Sent];
    harness.receive(response(greeting, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    expect(harness.node.nodes().map(({ uri, status }) => [uri, status])).toEqual([["sip:seed.test:5060", "active"]]);
    expect(told(harness)).toEqual([[SEED]]);
  });

  test("joined: comes once, and again only after everybody was lost", () => {
    const { harness } = joined({ initWithSingle: true, pingIntervalMs: 5_000, requestTimeoutMs: 2_000 });
    harness.runUntil(30_000);
    expect(harness.node.nodes().filter(({ status }) => status === "active")).toEqual([]);
    harness.take();
    for (let at = 30_100; harness.sent.length === 0 && at < 60_000; at += 100) harness.runUntil(at);
    const [join] = harness.take() as [Sent];
    harness.receive(response(join, "200 OK", line("127.0.0.2:5060")), udp("127.0.0.2"));
    expect(told(harness)).toEqual([[SEED], [SEED]]);
  });
});

describe("first contact", () => {
  test("contact: losing everybody while others are awaited says nothing", () => {
    const contact = new FirstContact(false);
    contact.answered(SEED, 0);
    expect(contact.nextTimeout()).toBe(2_000);
    contact.lost();
    expect(contact.nextTimeout()).toBeUndefined();
    expect(contact.check(false, () => [SEED], 5_000)).toBeUndefined();
  });
});
