import { describe, expect, test } from "bun:test";
import { encodeUtf8, spanOf } from "../../src/core/bytes.ts";
import { type Endpoint, endpointKey, type Transport } from "../../src/core/endpoint.ts";
import { below, seededRandom } from "../../src/core/random.ts";
import { type ClientMatch, ClientTransactions } from "../../src/transaction/clients.ts";
import { branchKey } from "../../src/transaction/key.ts";

const REQUEST = encodeUtf8("KDMQ sip:channel1@127.0.0.2:5060 SIP/2.0\r\n\r\n");
const REFUSED = new Error("connection refused");

function peer(transport: Transport = "udp", port = 5060, ip = "127.0.0.2"): Endpoint {
  return { transport, ip, port };
}

function started(table: ClientTransactions, id: number, to: Endpoint = peer(), now = 0, timeoutMs?: number): void {
  const request = {
    id,
    ...branchKey(`z9hG4bK${id}`),
    method: "KDMQ",
    to,
    toKey: endpointKey(to),
    once: false,
    ...spanOf(REQUEST),
  };
  table.start(timeoutMs === undefined ? request : { ...request, deadline: now + timeoutMs }, now);
}

function response(id: number, status: number, from: Endpoint = peer()) {
  return { branch: `z9hG4bK${id}`, method: "KDMQ", status, from };
}

/** The table uses its result again: what is looked at later is a copy. */
function receive(table: ClientTransactions, what: ReturnType<typeof response>, now: number): ClientMatch | undefined {
  const match = table.receive(branchKey(what.branch), what.method, what.status, what.from, now);
  return match === undefined ? undefined : { ...match };
}

function transmissions(table: ClientTransactions): number[] {
  const ids: number[] = [];
  for (let next = table.pollTransmit(); next !== undefined; next = table.pollTransmit()) ids.push(next.id);
  return ids;
}

function endings(table: ClientTransactions): number[] {
  const ids: number[] = [];
  for (let next = table.pollEnded(); next !== undefined; next = table.pollEnded()) ids.push(next.id);
  return ids;
}

/** Drives a table by its own deadlines as the driver does, and writes down what happened when. */
function run(table: ClientTransactions, from: number, to: number): { sentAt: number[]; endedAt: number[] } {
  const sentAt = transmissions(table).map(() => from);
  const endedAt: number[] = [];
  for (let steps = 0; steps < 1_000; steps++) {
    const now = table.nextTimeout();
    if (now === undefined || now > to) return { sentAt, endedAt };
    table.handleTimeout(now);
    for (const _ of transmissions(table)) sentAt.push(now);
    for (const _ of endings(table)) endedAt.push(now);
  }
  throw new Error("the table never came to rest");
}

describe("client: sending", () => {
  test("the first transmission is queued by the start, with the octets and where they go", () => {
    const table = new ClientTransactions();
    started(table, 7);
    expect(table.attempts(7)).toBe(0);
    expect(table.pollTransmit()).toEqual({ id: 7, to: peer(), ...spanOf(REQUEST), retransmission: false });
    expect(table.pollTransmit()).toBeUndefined();
    expect(table.attempts(7)).toBe(1);
    expect(table.startedAt(7)).toBe(0);
  });

  test("over UDP it resends after 500 ms, 1, 2, 4, 4 … s and ends at 32 s", () => {
    const table = new ClientTransactions();
    started(table, 1);
    const { sentAt, endedAt } = run(table, 0, 100_000);
    expect(sentAt).toEqual([0, 500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    expect(endedAt).toEqual([32_000]);
    expect(table.attempts(1)).toBe(11);
    expect(table.size()).toBe(0);
    expect(table.nextTimeout()).toBeUndefined();
  });

  test.each<[Transport]>([["tcp"], ["tls"]])("over %s it sends once and ends at 32 s", (transport) => {
    const table = new ClientTransactions();
    started(table, 1, peer(transport));
    expect(run(table, 0, 100_000)).toEqual({ sentAt: [0], endedAt: [32_000] });
    expect(table.attempts(1)).toBe(1);
  });

  test("keeps resending every T2 after a 100, and still ends at 32 s", () => {
    const table = new ClientTransactions();
    started(table, 1);
    transmissions(table);
    expect(receive(table, response(1, 100), 100)).toEqual({ id: 1, verdict: "provisional" });
    const { sentAt, endedAt } = run(table, 100, 100_000);
    expect(sentAt).toEqual([500, 4_500, 8_500, 12_500, 16_500, 20_500, 24_500, 28_500]);
    expect(endedAt).toEqual([32_000]);
  });

  test("a retransmission is the same octets and says that it is one", () => {
    const table = new ClientTransactions();
    started(table, 1);
    transmissions(table);
    table.handleTimeout(500);
    expect(table.pollTransmit()).toEqual({ id: 1, to: peer(), ...spanOf(REQUEST), retransmission: true });
  });

  test("a life of its own replaces 64·T1", () => {
    const table = new ClientTransactions();
    started(table, 1, peer(), 1_000, 1_200);
    expect(run(table, 1_000, 100_000)).toEqual({ sentAt: [1_000, 1_500], endedAt: [2_200] });
  });

  test.each([0, -5])("what has %d ms left is not sent and ends with the next timeout", (left) => {
    const table = new ClientTransactions();
    started(table, 1, peer(), 1_000, left);
    expect(transmissions(table)).toEqual([]);
    expect(endings(table)).toEqual([]);
    table.handleTimeout(1_000);
    expect(endings(table)).toEqual([1]);
    expect(table.attempts(1)).toBe(0);
  });

  test("other base timers scale everything", () => {
    const table = new ClientTransactions({ t1Ms: 10, t2Ms: 20 });
    started(table, 1, peer(), 0, 75);
    expect(run(table, 0, 1_000)).toEqual({ sentAt: [0, 10, 30, 50, 70], endedAt: [75] });
    started(table, 2, peer("tcp"), 1_000);
    expect(run(table, 1_000, 9_000).endedAt).toEqual([1_640]);
  });

  test("early and repeated timeouts do nothing", () => {
    const table = new ClientTransactions();
    started(table, 1);
    transmissions(table);
    for (const now of [0, 1, 250, 499.9]) table.handleTimeout(now);
    expect(transmissions(table)).toEqual([]);
    for (let i = 0; i < 3; i++) table.handleTimeout(500);
    expect(transmissions(table)).toEqual([1]);
    expect(table.nextTimeout()).toBe(1_500);
    table.handleTimeout(32_000);
    table.handleTimeout(32_000);
    expect(endings(table)).toEqual([1]);
  });

  test("a late timeout sends once, not once for each interval that was missed", () => {
    const table = new ClientTransactions();
    started(table, 1);
    transmissions(table);
    table.handleTimeout(10_000);
    expect(transmissions(table)).toEqual([1]);
    expect(table.nextTimeout()).toBe(11_000);
  });

  test("a transmission that nobody polled is not queued twice", () => {
    const table = new ClientTransactions();
    started(table, 1);
    table.handleTimeout(500);
    table.handleTimeout(1_000);
    expect(transmissions(table)).toEqual([1]);
    expect(table.attempts(1)).toBe(1);
  });

  test("transactions that are due together are sent and ended in the order of their start", () => {
    const table = new ClientTransactions();
    for (const id of [5, 3, 9, 1]) started(table, id);
    expect(transmissions(table)).toEqual([5, 3, 9, 1]);
    table.handleTimeout(500);
    expect(transmissions(table)).toEqual([5, 3, 9, 1]);
    table.handleTimeout(32_000);
    expect(endings(table)).toEqual([5, 3, 9, 1]);
  });
});

describe("client: receiving", () => {
  test("a final response ends the resending; the number's facts can be asked for until the next input", () => {
    const table = new ClientTransactions();
    started(table, 1, peer("tcp"), 40);
    transmissions(table);
    expect(receive(table, response(1, 200, peer("tcp")), 90)).toEqual({ id: 1, verdict: "final" });
    expect(table.size()).toBe(0);
    expect(table.attempts(1)).toBe(1);
    expect(table.startedAt(1)).toBe(40);
    table.handleTimeout(91);
    expect(table.attempts(1)).toBe(0);
    expect(table.startedAt(1)).toBeUndefined();
  });

  test.each([200, 202, 302, 404, 503, 699])("%d is final", (status) => {
    const table = new ClientTransactions();
    started(table, 1);
    transmissions(table);
    expect(receive(table, response(1, status), 10)?.verdict).toBe("final");
    expect(run(table, 10, 100_000)).toEqual({ sentAt: [], endedAt: [] });
  });

  test("every provisional response is reported, the final one after it too", () => {
    const table = new ClientTransactions();
    started(table, 1);
    const verdicts = [100, 180, 200].map((status) => receive(table, response(1, status), 10)?.verdict);
    expect(verdicts).toEqual(["provisional", "provisional", "final"]);
  });

  test("over UDP repeated responses are absorbed for T4, then they are stray", () => {
    const table = new ClientTransactions();
    started(table, 1);
    receive(table, response(1, 200), 1_000);
    expect(table.size()).toBe(1);
    expect(table.nextTimeout()).toBe(6_000);
    for (const status of [200, 100, 404]) {
      expect(receive(table, response(1, status), 5_999)).toEqual({ id: 1, verdict: "absorbed" });
    }
    table.handleTimeout(6_000);
    expect(table.size()).toBe(0);
    expect(receive(table, response(1, 200), 6_001)).toBeUndefined();
    expect(endings(table)).toEqual([]);
  });

  test.each<[Transport]>([["tcp"], ["tls"]])("over %s a second final response is stray at once", (transport) => {
    const table = new ClientTransactions();
    started(table, 1, peer(transport));
    expect(receive(table, response(1, 200, peer(transport)), 10)?.verdict).toBe("final");
    expect(receive(table, response(1, 200, peer(transport)), 10)).toBeUndefined();
    expect(table.nextTimeout()).toBeUndefined();
  });

  test("a request that was answered before it was polled is not sent", () => {
    const table = new ClientTransactions();
    started(table, 1);
    receive(table, response(1, 200), 0);
    expect(transmissions(table)).toEqual([]);
  });

  const STRAY: [string, Endpoint, Partial<ReturnType<typeof response>>][] = [
    ["an unknown branch", peer(), { branch: "z9hG4bK2" }],
    ["our branch in other letter case", peer(), { branch: "Z9HG4BK1" }],
    ["another CSeq method", peer(), { method: "OPTIONS" }],
    ["another address over UDP", peer(), { from: peer("udp", 5060, "127.0.0.3") }],
    ["another port over UDP", peer(), { from: peer("udp", 5061) }],
    ["a stream instead of UDP", peer(), { from: peer("tcp") }],
    ["another address over TCP", peer("tcp"), { from: peer("tcp", 5060, "127.0.0.3") }],
    ["UDP instead of TCP", peer("tcp"), { from: peer("udp") }],
    ["TCP instead of TLS", peer("tls"), { from: peer("tcp") }],
  ];
  test.each(STRAY)("a response with %s is stray and leaves the transaction as it was", (_name, to, change) => {
    const table = new ClientTransactions();
    started(table, 1, to);
    transmissions(table);
    const before = table.nextTimeout();
    expect(receive(table, { ...response(1, 200, to), ...change }, 100)).toBeUndefined();
    expect(table.nextTimeout()).toBe(before as number);
    expect(receive(table, response(1, 200, to), 101)?.verdict).toBe("final");
  });

  test("over a stream the peer's port is its own business", () => {
    const table = new ClientTransactions();
    started(table, 1, peer("tcp"));
    expect(receive(table, response(1, 200, peer("tcp", 41_234)), 10)?.verdict).toBe("final");
  });
});

describe("client: ends without a response", () => {
  test("a transport error ends what waits for that endpoint, in the order of start, and nothing else", () => {
    const table = new ClientTransactions();
    for (const id of [4, 2, 8]) started(table, id);
    started(table, 5, peer("udp", 5061));
    started(table, 6, peer("tcp"));
    transmissions(table);
    receive(table, response(2, 100), 10);
    receive(table, response(8, 200), 10);
    expect(table.unsent(peer(), REFUSED, 20)).toEqual([4, 2]);
    expect(table.attempts(4)).toBe(1);
    expect(table.unsent(peer(), REFUSED, 21)).toEqual([]);
    expect(receive(table, response(4, 200), 30)).toBeUndefined();
    expect(receive(table, response(8, 200), 30)?.verdict).toBe("absorbed");
    expect(run(table, 30, 100_000).endedAt).toEqual([32_000, 32_000]);
  });

  test("a cancelled request is neither sent nor resent nor reported, and its response is stray", () => {
    const table = new ClientTransactions();
    started(table, 1);
    expect(table.cancel(1)).toBe(true);
    expect(table.cancel(1)).toBe(false);
    expect(table.size()).toBe(0);
    expect(receive(table, response(1, 200), 10)).toBeUndefined();
    expect(run(table, 0, 100_000)).toEqual({ sentAt: [], endedAt: [] });
  });

  test("what has its final response cannot be cancelled, nor what never was", () => {
    const table = new ClientTransactions();
    started(table, 1);
    receive(table, response(1, 200), 10);
    expect(table.cancel(1)).toBe(false);
    expect(table.cancel(2)).toBe(false);
    expect(receive(table, response(1, 200), 20)?.verdict).toBe("absorbed");
  });

  test("a number or a branch in use is the caller's bug", () => {
    const table = new ClientTransactions();
    started(table, 1);
    expect(() => started(table, 1)).toThrow("number is used once");
    const same = {
      id: 2,
      ...branchKey("z9hG4bK1"),
      method: "KDMQ",
      to: peer(),
      toKey: "",
      once: false,
      ...spanOf(REQUEST),
    };
    expect(() => table.start(same, 0)).toThrow("branch is used once");
  });

  // Goal: the same inputs give the same outputs, and nothing is left behind. Method: a seeded storm, twice.
  test("a storm of requests, answers, errors and timeouts replays exactly and leaves nothing", () => {
    expect(storm(11)).toEqual(storm(11));
    expect(storm(11)).not.toEqual(storm(12));
  });
});

function storm(seed: number): string[] {
  const random = seededRandom(seed);
  const table = new ClientTransactions();
  const trace: string[] = [];
  const ends = new Map<number, number>();
  const end = (id: number, what: string): void => {
    trace.push(`${what} ${id} after ${table.attempts(id)}`);
    ends.set(id, (ends.get(id) ?? 0) + 1);
  };
  const drain = (): void => {
    for (const id of transmissions(table)) trace.push(`send ${id}`);
    for (let over = table.pollEnded(); over !== undefined; over = table.pollEnded()) end(over.id, over.why);
  };
  let now = 0;
  for (let id = 1; id <= 500; id++) {
    now += below(random, 200);
    const to = peer(below(random, 2) === 0 ? "udp" : "tcp", 5060 + below(random, 5));
    started(table, id, to, now);
    const answered = 1 + below(random, id);
    const from = peer(below(random, 2) === 0 ? "udp" : "tcp", 5060 + below(random, 5));
    const result = receive(table, response(answered, below(random, 4) === 0 ? 100 : 200, from), now);
    if (result?.verdict === "final") end(result.id, "final");
    if (below(random, 20) === 0) for (const gone of table.unsent(from, REFUSED, now)) end(gone, "unsent");
    if (below(random, 3) === 0) table.handleTimeout(now);
    drain();
  }
  for (let next = table.nextTimeout(); next !== undefined; next = table.nextTimeout()) {
    table.handleTimeout(next);
    drain();
  }
  expect(table.size()).toBe(0);
  expect([...ends.values()].every((count) => count === 1)).toBe(true);
  expect(ends.size).toBe(500);
  return trace;
}
