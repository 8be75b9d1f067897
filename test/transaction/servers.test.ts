import { describe, expect, test } from "bun:test";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import type { Endpoint, Transport } from "../../src/core/endpoint.ts";
import { UsageError } from "../../src/core/errors.ts";
import { OctetStore } from "../../src/core/octet-store.ts";
import { below, seededRandom } from "../../src/core/random.ts";
import { Fingerprinter } from "../../src/transaction/key.ts";
import { ServerTransactions, type StoredAnswer } from "../../src/transaction/servers.ts";
import type { TimerSettings } from "../../src/transaction/timers.ts";

const ANSWER = encodeUtf8("SIP/2.0 200 OK\r\n\r\n");

function peer(transport: Transport = "udp", port = 5060, ip = "127.0.0.2"): Endpoint {
  return { transport, ip, port };
}

type Verdict = { verdict: "new"; id: number } | { verdict: "retransmission"; answer?: StoredAnswer };

const fingerprints = new Fingerprinter(1, 2);

/** The table by texts for keys, with the order of arrival for numbers, as a story tells it. */
class Table {
  readonly store = new OctetStore();
  readonly table: ServerTransactions<string>;
  private readonly ids: number[] = [];

  constructor(limit: number, timers: Partial<TimerSettings> = {}, answerBytesMax?: number) {
    this.table = new ServerTransactions(limit, this.store, timers, answerBytesMax);
  }

  receive(key: string, from: Endpoint, now: number): Verdict {
    const id = this.table.receive(fingerprints.ofText(key), from.transport, now);
    if (id > 0) return { verdict: "new", id: this.ids.push(id) };
    const answer = this.table.repeated;
    return answer === undefined ? { verdict: "retransmission" } : { verdict: "retransmission", answer };
  }

  respond(id: number, status: number, bytes: Uint8Array, to: Endpoint, flow: number, now: number): boolean {
    const start = this.store.reserve(bytes.length);
    this.store.octets.set(bytes, start);
    const place = this.store.commit(start + bytes.length);
    return this.table.respond(this.ids[id - 1] ?? 999_999_999, status, place, bytes.length, to, flow, now);
  }

  /** The table's own number of the request that came as the `id`th. */
  idOf(id: number): number {
    return this.ids[id - 1] as number;
  }

  handleTimeout(now: number): void {
    this.table.handleTimeout(now);
  }

  nextTimeout(): number | undefined {
    return this.table.nextTimeout();
  }

  size(): number {
    return this.table.size();
  }
}

describe("server: one request, one handling", () => {
  test("a request is new once, and a retransmission while it is handled is dropped", () => {
    const table = new Table(10);
    expect(table.receive("a", peer(), 0)).toEqual({ verdict: "new", id: 1 });
    expect(table.receive("a", peer(), 500)).toEqual({ verdict: "retransmission" });
    expect(table.receive("b", peer(), 500)).toEqual({ verdict: "new", id: 2 });
    expect(table.size()).toBe(2);
    expect(table.nextTimeout()).toBe(37_000);
  });

  test("what nobody answers is forgotten when no copy can come any more", () => {
    const table = new Table(10);
    table.receive("a", peer(), 0);
    table.receive("b", peer("tcp"), 1_000);
    table.handleTimeout(36_999);
    expect([table.size(), table.receive("a", peer(), 36_999).verdict]).toEqual([2, "retransmission"]);
    table.handleTimeout(37_000);
    expect([table.size(), table.respond(1, 200, ANSWER, peer(), 0, 37_000)]).toEqual([1, false]);
    table.handleTimeout(38_000);
    expect([table.size(), table.nextTimeout()]).toEqual([0, undefined]);
  });

  test("a note is kept while a request waits, and given once", () => {
    const table = new Table(10);
    for (const key of ["a", "b", "c"]) table.receive(key, peer(), 0);
    for (const id of [1, 2, 3]) table.table.note(table.idOf(id), `note ${id}`);
    expect([table.table.takeNote(table.idOf(1)), table.table.takeNote(table.idOf(1))]).toEqual(["note 1", undefined]);
    table.respond(2, 200, ANSWER, peer(), 0, 1);
    expect(table.table.takeNote(table.idOf(2))).toBeUndefined();
    table.handleTimeout(37_000);
    expect(table.table.takeNote(table.idOf(3))).toBeUndefined();
    table.table.note(table.idOf(3), "too late");
    table.receive("d", peer(), 40_000);
    expect(table.table.takeNote(table.idOf(4))).toBeUndefined();
    expect(table.table.noted).toBe(0);
  });

  test("of an answer that can be written anew its form is kept, where it went, and no octets", () => {
    const { store, table } = new Table(10);
    const [start, key] = [store.reserve(1), fingerprints.ofText("a")];
    const id = table.receive(key, "udp", 0);
    expect(table.respond(id, 200, 0, 0, peer(), 3, 100, 7)).toBe(true);
    expect(table.respond(id, 200, 0, 0, peer(), 3, 101, 7)).toBe(false);
    expect(table.receive(fingerprints.ofText("a"), "udp", 200)).toBe(0);
    expect(table.repeated).toEqual({ to: peer(), flow: 3, bytes: new Uint8Array(0), form: 7 });
    expect(store.reserve(1)).toBe(start);
    table.handleTimeout(37_100);
    expect(table.size()).toBe(0);
  });

  test("over UDP the final answer is repeated for 64·T1 and T4, then the request would be new", () => {
    const table = new Table(10);
    table.receive("a", peer(), 0);
    expect(table.respond(1, 200, ANSWER, peer(), 0, 100)).toBe(true);
    expect(table.nextTimeout()).toBe(37_100);
    table.handleTimeout(37_099);
    expect(table.receive("a", peer(), 37_099)).toEqual({
      verdict: "retransmission",
      answer: { to: peer(), flow: 0, bytes: ANSWER, form: 0 },
    });
    table.handleTimeout(37_100);
    table.handleTimeout(37_100);
    expect(table.size()).toBe(0);
    expect(table.receive("a", peer(), 37_100)).toEqual({ verdict: "new", id: 2 });
  });

  test("the answer goes again to where it went, wherever the retransmission comes from", () => {
    const table = new Table(10);
    table.receive("a", peer(), 0);
    table.respond(1, 200, ANSWER, peer("udp", 5070), 0, 0);
    const again = table.receive("a", peer("udp", 9, "127.0.0.66"), 10);
    expect(again.verdict === "retransmission" && again.answer?.to).toEqual(peer("udp", 5070));
  });

  test("an answer that nobody waits for is given back to the store, and so is one that is forgotten", () => {
    const table = new Table(10);
    table.receive("a", peer(), 0);
    for (const id of [1, 1, 7]) table.respond(id, 200, ANSWER, peer(), 0, 0);
    table.handleTimeout(37_000);
    // Releasing what is not kept would fail an assertion; what is still kept would keep its piece.
    const before = table.store.octets;
    table.store.reserve(before.length);
    expect(table.store.octets === before).toBe(false);
    table.store.reserve(before.length);
    table.store.commit(before.length);
    table.store.reserve(1);
    expect(table.store.octets === before).toBe(true);
  });

  test.each<[Transport]>([["tcp"], ["tls"]])("over %s the transaction ends with its final answer", (transport) => {
    const table = new Table(10);
    table.receive("a", peer(transport), 0);
    expect(table.receive("a", peer(transport), 10)).toEqual({ verdict: "retransmission" });
    expect(table.respond(1, 200, ANSWER, peer(transport), 3, 20)).toBe(true);
    expect(table.size()).toBe(0);
    expect(table.nextTimeout()).toBeUndefined();
    expect(table.respond(1, 200, ANSWER, peer(transport), 3, 20)).toBe(false);
  });

  test("a 100 is repeated until the final answer is there", () => {
    const table = new Table(10);
    const trying = encodeUtf8("SIP/2.0 100 Trying\r\n\r\n");
    table.receive("a", peer("tcp"), 0);
    expect(table.respond(1, 100, trying, peer("tcp"), 5, 0)).toBe(true);
    expect(table.receive("a", peer("tcp"), 1)).toMatchObject({ answer: { flow: 5, bytes: trying } });
    expect(table.respond(1, 100, trying, peer("tcp"), 5, 2)).toBe(true);
    expect(table.respond(1, 404, ANSWER, peer("tcp"), 5, 3)).toBe(true);
    expect(table.size()).toBe(0);
  });

  test("over UDP a 100 is refused before 3.5 s and repeated after it (RFC 4320)", () => {
    const table = new Table(10);
    table.receive("a", peer(), 0);
    expect(table.respond(1, 100, ANSWER, peer(), 0, 3_499)).toBe(false);
    expect(table.receive("a", peer(), 3_499)).toEqual({ verdict: "retransmission" });
    expect(table.respond(1, 100, ANSWER, peer(), 0, 3_500)).toBe(true);
    expect(table.receive("a", peer(), 7_500)).toMatchObject({ answer: { bytes: ANSWER } });
    expect(table.respond(1, 200, ANSWER, peer(), 0, 8_000)).toBe(true);
    expect(table.nextTimeout()).toBe(45_000);
  });

  test("a second final answer and an answer to nobody are refused", () => {
    const table = new Table(10);
    table.receive("a", peer(), 0);
    expect(table.respond(1, 200, ANSWER, peer(), 0, 1)).toBe(true);
    expect(table.respond(1, 404, encodeUtf8("other"), peer(), 0, 2)).toBe(false);
    expect(table.respond(77, 200, ANSWER, peer(), 0, 2)).toBe(false);
    expect(table.receive("a", peer(), 3)).toMatchObject({ answer: { bytes: ANSWER } });
    expect(table.nextTimeout()).toBe(37_001);
  });

  test.each([408, 180, 199, 99, 700])(
    "a %d is the caller's mistake, and the request can still be answered",
    (status) => {
      const table = new Table(10);
      table.receive("a", peer(), 0);
      expect(() => table.respond(1, status, ANSWER, peer(), 0, 1)).toThrow(UsageError);
      expect(table.respond(1, 503, ANSWER, peer(), 0, 2)).toBe(true);
    },
  );
});

describe("server: bounds", () => {
  test("above the limit the oldest completed transaction goes first, in the order of completion", () => {
    const table = new Table(3);
    for (const key of ["a", "b", "c"]) table.receive(key, peer(), 0);
    table.respond(2, 200, ANSWER, peer(), 0, 1);
    table.respond(1, 200, ANSWER, peer(), 0, 2);
    expect(table.receive("d", peer(), 3)).toEqual({ verdict: "new", id: 4 });
    expect(table.receive("a", peer(), 4).verdict).toBe("retransmission");
    expect(table.receive("c", peer(), 4).verdict).toBe("retransmission");
    expect(table.receive("b", peer(), 5)).toEqual({ verdict: "new", id: 5 });
    expect(table.size()).toBe(3);
  });

  test("with none completed the oldest goes, and its answer comes too late", () => {
    const table = new Table(2);
    for (const key of ["a", "b", "c"]) table.receive(key, peer(), 0);
    expect(table.size()).toBe(2);
    expect(table.respond(1, 200, ANSWER, peer(), 0, 1)).toBe(false);
    expect(table.respond(3, 200, ANSWER, peer(), 0, 1)).toBe(true);
    expect(table.respond(2, 200, ANSWER, peer(), 0, 1)).toBe(true);
  });

  test("a transaction answered in the middle leaves the order of the others", () => {
    const table = new Table(4);
    for (const key of ["a", "b", "c", "d"]) table.receive(key, peer("tcp"), 0);
    table.respond(2, 200, ANSWER, peer("tcp"), 1, 1);
    table.respond(4, 200, ANSWER, peer("tcp"), 1, 1);
    for (const key of ["e", "f", "g", "h"]) table.receive(key, peer("tcp"), 2);
    expect([1, 3, 5, 6, 7, 8].map((id) => table.respond(id, 200, ANSWER, peer("tcp"), 1, 3))).toEqual([
      false,
      false,
      true,
      true,
      true,
      true,
    ]);
  });

  test("a flood keeps the table at its limit and its deadlines in step", () => {
    const table = new Table(100);
    for (let i = 0; i < 5_000; i++) {
      const seen = table.receive(`k${i}`, peer(), i);
      if (i % 7 !== 0 && seen.verdict === "new") table.respond(seen.id, 200, ANSWER, peer(), 0, i);
      expect(table.size()).toBeLessThanOrEqual(100);
    }
    table.handleTimeout(5_000 + 32_000 + 5_000);
    expect(table.nextTimeout()).toBeUndefined();
    expect(table.receive("k4999", peer(), 37_000).verdict).toBe("new");
  });

  test("above the limit of octets the oldest completed ones go", () => {
    const table = new Table(100, {}, 3 * ANSWER.length);
    for (const [index, key] of ["a", "b", "c", "d", "e"].entries()) {
      table.receive(key, peer(), 0);
      table.respond(index + 1, 200, ANSWER, peer(), 0, 0);
    }
    expect(table.size()).toBe(3);
    expect(table.receive("c", peer(), 1).verdict).toBe("retransmission");
    expect(table.receive("b", peer(), 1).verdict).toBe("new");
  });

  test.each([0, -1, Number.NaN])("a limit of %d is refused", (limit) => {
    expect(() => new ServerTransactions(limit, new OctetStore())).toThrow(UsageError);
  });
});

describe("server: the table beside a plain one", () => {
  interface Entry {
    id: number;
    startedAt: number;
    answeredAt: number | undefined;
  }

  test("a long life of many keys agrees with a Map of texts", () => {
    const random = seededRandom(7);
    const table = new Table(1_000);
    const plain = new Map<string, Entry>();
    let last = 0;
    for (let step = 0; step < 20_000; step++) {
      const now = step * 20;
      const key = `k${below(random, 900)}`;
      const seen = table.receive(key, peer(), now);
      const known = plain.get(key);
      expect(seen.verdict).toBe(known === undefined ? "new" : "retransmission");
      const entry = known ?? { id: ++last, startedAt: now, answeredAt: undefined };
      plain.set(key, entry);
      if (seen.verdict === "retransmission") expect(seen.answer !== undefined).toBe(entry.answeredAt !== undefined);
      if (entry.answeredAt === undefined && below(random, 3) === 0) {
        expect(table.respond(entry.id, 200, ANSWER, peer(), 0, now)).toBe(true);
        entry.answeredAt = now;
      }
      table.handleTimeout(now);
      for (const [name, { startedAt, answeredAt }] of plain)
        if ((answeredAt ?? startedAt) + 37_000 <= now) plain.delete(name);
      expect(table.size()).toBe(plain.size);
    }
  });
});
